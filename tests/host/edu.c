/*
 * Drive QEMU's edu device from a guest's user space.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest binds edu to vfio-pci in no-IOMMU mode: that gives user space the
 * BAR, INTx and MSI. DMA addresses are then guest-physical ones, taken from
 * /proc/self/pagemap; edu reaches 28 bits unless told otherwise, so the buffer
 * is one page below that.
 *
 * Facts of edu (docs/specs/edu.txt of QEMU): register 0x00 identification,
 * 0x04 liveness (inverts), 0x24 interrupt status, 0x60 raise, 0x64
 * acknowledge, 0x80 DMA source, 0x88 destination, 0x90 count, 0x98 command
 * (bit 0 start, bit 1 from the device to RAM, bit 2 interrupt when done); its
 * 4 KiB buffer is at 0x40000 of its own address space.
 *
 *   edu GROUP BDF intx|msi [ROUNDS]     exits 0 and prints "edu ok ..."
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <stdbool.h>
#include <unistd.h>
#include <linux/vfio.h>

#define EDU_BUFFER 0x40000
#define EDU_SIZE 4096
#define LIMIT (1ull << 28)

static volatile uint8_t *bar;
static int device, event;
static struct vfio_region_info config = { .argsz = sizeof(config),
                                          .index = VFIO_PCI_CONFIG_REGION_INDEX };

static void die(const char *what)
{
    fprintf(stderr, "edu: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int check(int ret, const char *what)
{
    if (ret < 0) {
        die(what);
    }
    return ret;
}

static uint32_t rd32(unsigned reg)
{
    return *(volatile uint32_t *)(bar + reg);
}

static void wr32(unsigned reg, uint32_t val)
{
    *(volatile uint32_t *)(bar + reg) = val;
}

static void wr64(unsigned reg, uint64_t val)
{
    *(volatile uint64_t *)(bar + reg) = val;
}

static uint64_t phys(void *page)
{
    uint64_t entry = 0;
    int fd = check(open("/proc/self/pagemap", O_RDONLY), "pagemap");

    if (pread(fd, &entry, 8, (uintptr_t)page / 4096 * 8) != 8) {
        die("pagemap");
    }
    close(fd);
    return (entry & ((1ull << 55) - 1)) * 4096;
}

/* a locked page that edu can reach */
static uint8_t *low_page(uint64_t *addr)
{
    for (int i = 0; i < 100000; i++) {
        uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (page == MAP_FAILED) {
            break;
        }
        madvise(page, 4096, MADV_NOHUGEPAGE);
        page[0] = 1;
        *addr = phys(page);
        if (*addr && *addr + 4096 <= LIMIT) {
            return page;
        }
    }
    errno = ENOMEM;
    die("no page below 256 MiB");
    return NULL;
}

static void set_irq(unsigned index, uint32_t action, int fd)
{
    struct {
        struct vfio_irq_set set;
        int32_t fd;
    } arg = {
        .set = { .argsz = sizeof(arg.set), .index = index, .count = 1,
                 .flags = action | VFIO_IRQ_SET_DATA_NONE },
    };

    if (fd >= 0) {
        arg.set.flags = action | VFIO_IRQ_SET_DATA_EVENTFD;
        arg.set.argsz = sizeof(arg);
        arg.fd = fd;
    }
    check(ioctl(device, VFIO_DEVICE_SET_IRQS, &arg), "SET_IRQS");
}

/* wait for one interrupt and acknowledge it, in edu and in VFIO */
static void wait_irq(unsigned index)
{
    struct pollfd p = { .fd = event, .events = POLLIN };
    uint64_t n;
    uint32_t status;

    if (poll(&p, 1, 10000) != 1) {
        errno = ETIMEDOUT;
        die("interrupt");
    }
    if (read(event, &n, 8) != 8) {
        die("eventfd");
    }
    status = rd32(0x24);
    if (!status) {
        errno = EIO;
        die("interrupt without status");
    }
    wr32(0x64, status);
    if (index == VFIO_PCI_INTX_IRQ_INDEX) {
        set_irq(index, VFIO_IRQ_SET_ACTION_UNMASK, -1);
    }
}

static void dma(uint64_t src, uint64_t dst, uint64_t count, bool to_ram,
                unsigned index)
{
    wr64(0x80, src);
    wr64(0x88, dst);
    wr64(0x90, count);
    wr64(0x98, 1 | (to_ram ? 2 : 0) | 4);
    wait_irq(index);
    if (rd32(0x98) & 1) {
        errno = EBUSY;
        die("DMA not done at its interrupt");
    }
}

int main(int argc, char **argv)
{
    struct vfio_group_status status = { .argsz = sizeof(status) };
    struct vfio_region_info region = { .argsz = sizeof(region) };
    unsigned index, rounds = argc > 4 ? atoi(argv[4]) : 4;
    int container, group;
    uint64_t from_addr, to_addr;
    uint8_t *from, *to;
    uint16_t command;

    if (argc < 4) {
        errno = EINVAL;
        die("usage");
    }
    index = strcmp(argv[3], "msi") ? VFIO_PCI_INTX_IRQ_INDEX
                                   : VFIO_PCI_MSI_IRQ_INDEX;
    container = check(open("/dev/vfio/vfio", O_RDWR), "/dev/vfio/vfio");
    group = check(open(argv[1], O_RDWR), argv[1]);
    check(ioctl(group, VFIO_GROUP_GET_STATUS, &status), "GET_STATUS");
    check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "SET_CONTAINER");
    check(ioctl(container, VFIO_SET_IOMMU, VFIO_NOIOMMU_IOMMU), "SET_IOMMU");
    device = check(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[2]), "GET_DEVICE_FD");

    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config), "config");
    if (pread(device, &command, 2, config.offset + 4) != 2) {
        die("config read");
    }
    command |= 6;                       /* memory space, bus master */
    if (pwrite(device, &command, 2, config.offset + 4) != 2) {
        die("config write");
    }
    region.index = VFIO_PCI_BAR0_REGION_INDEX;
    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region), "BAR 0");
    bar = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device,
               region.offset);
    if (bar == MAP_FAILED) {
        die("mmap of BAR 0");
    }
    wr32(0x04, 0x12345678);
    if ((rd32(0) & 0xff) != 0xed || rd32(0x04) != ~0x12345678u) {
        errno = ENODEV;
        die("this is no edu");
    }

    event = check(eventfd(0, 0), "eventfd");
    set_irq(index, VFIO_IRQ_SET_ACTION_TRIGGER, event);
    from = low_page(&from_addr);
    to = low_page(&to_addr);
    for (unsigned round = 0; round < rounds; round++) {
        for (int i = 0; i < EDU_SIZE; i++) {
            from[i] = i * 7 + round;
            to[i] = 0;
        }
        wr32(0x60, 0x10);
        wait_irq(index);
        /* edu's range check wants less than its whole buffer */
        dma(from_addr, EDU_BUFFER, EDU_SIZE - 1, false, index);
        dma(EDU_BUFFER, to_addr, EDU_SIZE - 1, true, index);
        if (memcmp(from, to, EDU_SIZE - 1)) {
            errno = EIO;
            die("DMA brought other bytes back");
        }
    }
    printf("edu ok %s rounds %u interrupts %u\n", argv[3], rounds, rounds * 3);
    return 0;
}
