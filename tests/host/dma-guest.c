/*
 * Have dma-test write to this guest's memory, and check what it wrote.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The memory is a file on hugetlbfs, so it stays where it is when this program
 * ends, and the device writes on. Registers are those of resource0 in sysfs;
 * docs/devel/dma-test.rst has them.
 *
 *   dma-guest start DEVICE FILE PAGES STRIDE INTERVAL BURST
 *       DEVICE is a folder in sysfs, PAGES have 2 MiB; prints where they are
 *   dma-guest check DEVICE FILE
 *       stops the device, compares, lets it go on; "sequence N errors N"
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../../include/hw/misc/dma-test.h"

#define HUGE_PAGE (2u << 20)

static volatile uint64_t *bar;
static uint8_t *memory;
static size_t size;

static void die(const char *what)
{
    fprintf(stderr, "dma-guest: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int check(int ret, const char *what)
{
    if (ret < 0) {
        die(what);
    }
    return ret;
}

static uint64_t get(unsigned reg)
{
    return bar[reg / 8];
}

static void put(unsigned reg, uint64_t val)
{
    bar[reg / 8] = val;
}

static void *map(const char *path, size_t length)
{
    int fd = check(open(path, O_RDWR | O_CREAT, 0600), path);
    void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED) {
        die(path);
    }
    close(fd);
    return p;
}

static int open_in(const char *device, const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", device, name);
    return check(open(path, O_RDWR), path);
}

static void enable(const char *device)
{
    int fd = open_in(device, "enable");
    uint16_t command;

    check(write(fd, "1", 1), "enable");
    close(fd);
    fd = open_in(device, "config");
    check(pread(fd, &command, 2, 4), "config");
    command |= 6;                       /* memory space, bus master */
    check(pwrite(fd, &command, 2, 4), "config");
    close(fd);
}

static uint64_t phys(const void *page)
{
    uint64_t entry = 0;
    int fd = check(open("/proc/self/pagemap", O_RDONLY), "pagemap");

    if (pread(fd, &entry, 8, (uintptr_t)page / 4096 * 8) != 8 || !entry) {
        die("pagemap");
    }
    close(fd);
    return (entry & ((1ull << 55) - 1)) * 4096;
}

static void start(char **arg, size_t pages)
{
    memset(memory, 0, size);
    put(DMA_TEST_INTERVAL, strtoull(arg[1], NULL, 0));
    put(DMA_TEST_BURST, strtoull(arg[2], NULL, 0));
    put(DMA_TEST_NRANGES, pages);
    for (size_t i = 0; i < pages; i++) {
        uint64_t addr = phys(memory + i * HUGE_PAGE);

        printf("%#jx\n", (uintmax_t)addr);
        put(DMA_TEST_RANGE(i) + DMA_TEST_DST, addr);
        put(DMA_TEST_RANGE(i) + DMA_TEST_SIZE, HUGE_PAGE);
        put(DMA_TEST_RANGE(i) + DMA_TEST_STRIDE, strtoull(arg[0], NULL, 0));
    }
    put(DMA_TEST_CONTROL, DMA_TEST_RUN);
    if (!(get(DMA_TEST_STATUS) & DMA_TEST_BUSY)) {
        errno = EIO;
        die("the device does not run");
    }
}

static int compare(void)
{
    uint64_t sequence, places, stride, errors = 0;

    put(DMA_TEST_CONTROL, 0);
    sequence = get(DMA_TEST_SEQUENCE);
    stride = get(DMA_TEST_RANGE(0) + DMA_TEST_STRIDE);
    places = HUGE_PAGE / stride * get(DMA_TEST_NRANGES);
    for (uint64_t n = 0; n < places; n++) {
        uint64_t last = sequence - 1 - (sequence - 1 - n) % places;
        uint64_t *word = (uint64_t *)(memory + n * stride);

        for (int i = 0; i < 8; i++) {
            uint64_t want = n < sequence ? last << 3 | i : 0;

            if (word[i] != want) {
                if (!errors++) {
                    printf("place %ju word %d: operation %ju, not %ju\n",
                           (uintmax_t)n, i, (uintmax_t)word[i] >> 3,
                           (uintmax_t)want >> 3);
                }
                break;
            }
        }
    }
    if (get(DMA_TEST_STATUS) & DMA_TEST_FAULT) {
        printf("the device had a DMA fault\n");
        errors++;
    }
    put(DMA_TEST_CONTROL, DMA_TEST_RUN);
    printf("sequence %ju errors %ju\n", (uintmax_t)sequence, (uintmax_t)errors);
    return errors != 0;
}

int main(int argc, char **argv)
{
    char resource[256];
    struct stat st;
    size_t pages = 0;
    int fd;

    if (argc != (argc > 1 && !strcmp(argv[1], "start") ? 8 : 4)) {
        errno = EINVAL;
        die("usage");
    }
    snprintf(resource, sizeof(resource), "%s/resource0", argv[2]);
    fd = check(open(argv[3], O_RDWR | O_CREAT, 0600), argv[3]);
    if (argc == 8) {
        pages = strtoul(argv[4], NULL, 0);
        check(ftruncate(fd, pages * HUGE_PAGE), "ftruncate");
        enable(argv[2]);
    }
    check(fstat(fd, &st), "fstat");
    close(fd);
    size = st.st_size;
    bar = map(resource, DMA_TEST_BAR_SIZE);
    memory = map(argv[3], size);
    if (get(DMA_TEST_ID) != DMA_TEST_ID_VALUE) {
        errno = ENODEV;
        die("this is no dma-test");
    }
    if (argc == 8) {
        start(argv + 5, pages);
        return 0;
    }
    return compare();
}
