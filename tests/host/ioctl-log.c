/*
 * Count and time every ioctl on /dev/iommu and VFIO descriptors (LD_PRELOAD).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The log is a file, $IOCTL_LOG, mapped shared: it can be read at any moment
 * and outlives a SIGKILL. No signal is used, since QEMU owns SIGUSR1. Both
 * interfaces use ioctl type ';', and no other does, so descriptors need no
 * tracking; VFIO numbers start at 100, iommufd's at 0x80. A call is passed on
 * untouched, with errno kept.
 *
 * labtest.py (IoctlLog) reads the layout below; all fields are native u64.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CALLS 65536

struct total {
    uint64_t count, failed, bytes, ns;
};

struct call {
    uint64_t nr, err, iova, bytes, id, start_ns, ns;
};

struct log {
    uint64_t calls;                 /* may exceed CALLS: the rest is lost */
    struct total total[256];        /* by ioctl number */
    struct call call[CALLS];
};

static struct log *plog;
static int (*next)(int fd, unsigned long request, void *arg);

__attribute__((constructor)) static void init(void)
{
    const char *path = getenv("IOCTL_LOG");
    int fd;

    next = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
    if (!path) {
        return;
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(*plog))) {
        abort();
    }
    plog = mmap(NULL, sizeof(*plog), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (plog == MAP_FAILED) {
        abort();
    }
    close(fd);
}

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t u64_at(const void *arg, unsigned offset)
{
    uint64_t v;

    memcpy(&v, (const char *)arg + offset, 8);
    return v;
}

/* where the calls that move memory keep address and length; 0: no length */
static void range(unsigned nr, const void *arg, struct call *c)
{
    static const struct {
        uint8_t nr, iova, bytes;
    } at[] = {
        { 110, 4, 0 },              /* VFIO_DEVICE_SET_IRQS: index << 32 | flags */
        { 113, 16, 24 },            /* VFIO_IOMMU_MAP_DMA */
        { 114, 8, 16 },             /* VFIO_IOMMU_UNMAP_DMA */
        { 0x85, 32, 24 },           /* IOMMU_IOAS_MAP */
        { 0x86, 8, 16 },            /* IOMMU_IOAS_UNMAP */
        { 0x8f, 32, 24 },           /* IOMMU_IOAS_MAP_FILE */
        { 0x83, 24, 16 },           /* IOMMU_IOAS_COPY */
    };

    for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        if (at[i].nr == nr) {
            c->iova = u64_at(arg, at[i].iova);
            c->bytes = at[i].bytes ? u64_at(arg, at[i].bytes) : 0;
        }
    }
}

/* where the kernel returns an id: of a device, an IOAS, a HWPT */
static uint32_t id(unsigned nr, const void *arg)
{
    static const struct {
        uint8_t nr, id;
    } at[] = {
        { 118, 12 },                /* VFIO_DEVICE_BIND_IOMMUFD */
        { 119, 8 },                 /* VFIO_DEVICE_ATTACH_IOMMUFD_PT */
        { 0x81, 8 },                /* IOMMU_IOAS_ALLOC */
        { 0x89, 16 },               /* IOMMU_HWPT_ALLOC */
    };
    uint32_t v = 0;

    for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        if (at[i].nr == nr) {
            memcpy(&v, (const char *)arg + at[i].id, 4);
        }
    }
    return v;
}

int ioctl(int fd, unsigned long request, ...)
{
    unsigned nr = _IOC_NR(request);
    struct call c = { .nr = nr };
    struct total *t;
    uint64_t slot;
    va_list ap;
    void *arg;
    int ret;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (!next) {
        init();
    }
    if (!plog || _IOC_TYPE(request) != ';') {
        return next(fd, request, arg);
    }

    range(nr, arg, &c);
    c.start_ns = now();
    ret = next(fd, request, arg);
    c.err = ret < 0 ? errno : 0;
    c.ns = now() - c.start_ns;
    c.id = c.err ? 0 : id(nr, arg);

    t = &plog->total[nr];
    __atomic_fetch_add(&t->count, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->ns, c.ns, __ATOMIC_RELAXED);
    __atomic_fetch_add(c.err ? &t->failed : &t->bytes, c.err ? 1 : c.bytes,
                       __ATOMIC_RELAXED);
    slot = __atomic_fetch_add(&plog->calls, 1, __ATOMIC_RELAXED);
    if (slot < CALLS) {
        plog->call[slot] = c;
    }
    if (ret < 0) {
        errno = c.err;
    }
    return ret;
}
