/*
 * Count and time every ioctl on /dev/iommu and VFIO descriptors (LD_PRELOAD),
 * and those that tell KVM of the latter.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The log is a file, $IOCTL_LOG, mapped shared: it can be read at any moment
 * and outlives a SIGKILL. No signal is used, since QEMU owns SIGUSR1. Both
 * interfaces use ioctl type ';', and no other does, so descriptors need no
 * tracking; VFIO numbers start at 100, iommufd's at 0x80. KVM's, of type 0xae,
 * are 0xe0 and 0xe1. A call is passed on untouched, with errno kept, unless the
 * reader of the log wants it to fail.
 *
 * labtest.py (IoctlLog) reads the layout below; all fields are native u64.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
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
    uint64_t nr, err, iova, bytes, id, start_ns, ns, fd;
};

struct log {
    uint64_t fail_nr, fail_iova, fail_errno;        /* set by the reader */
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
        { 119, 4, 0 },              /* VFIO_DEVICE_ATTACH_IOMMUFD_PT: id << 32 */
        { 113, 16, 24 },            /* VFIO_IOMMU_MAP_DMA */
        { 114, 8, 16 },             /* VFIO_IOMMU_UNMAP_DMA */
        { 117, 0, 0 },              /* VFIO_DEVICE_FEATURE, of a container
                                       VFIO_IOMMU_DIRTY_PAGES: flags << 32 */
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

/* where there is an id: of a device, an IOAS, a HWPT; of maps, flags */
static uint32_t id(unsigned nr, const void *arg)
{
    static const struct {
        uint8_t nr, id;
    } at[] = {
        { 113, 4 },                 /* VFIO_IOMMU_MAP_DMA */
        { 118, 12 },                /* VFIO_DEVICE_BIND_IOMMUFD */
        { 119, 8 },                 /* VFIO_DEVICE_ATTACH_IOMMUFD_PT */
        { 0x81, 8 },                /* IOMMU_IOAS_ALLOC */
        { 0x85, 4 },                /* IOMMU_IOAS_MAP */
        { 0x8f, 4 },                /* IOMMU_IOAS_MAP_FILE */
        { 0x83, 8 },                /* IOMMU_IOAS_COPY: to there */
        { 0x86, 4 },                /* IOMMU_IOAS_UNMAP */
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

/*
 * Is it about KVM's VFIO device?  Then what (create, add, del), and with whom.
 * QEMU hands ioctl numbers on as int, and gets them back with their sign.
 */
static int of_kvm_vfio(int fd, uint32_t request, const void *arg,
                       struct call *c)
{
    const struct kvm_create_device *create = arg;
    const struct kvm_device_attr *attr = arg;
    char path[32], link[32] = "";

    if (request == KVM_CREATE_DEVICE && create->type == KVM_DEV_TYPE_VFIO) {
        c->iova = create->type;
        return 1;
    }
    if (request != KVM_SET_DEVICE_ATTR) {
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (readlink(path, link, sizeof(link) - 1) < 0 ||
        strcmp(link, "anon_inode:kvm-vfio")) {
        return 0;
    }
    c->iova = attr->attr;
    c->fd = *(int32_t *)(uintptr_t)attr->addr;
    return 1;
}

int ioctl(int fd, unsigned long request, ...)
{
    unsigned nr = _IOC_NR(request);
    struct call c = { .nr = nr, .fd = fd };
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
    if (!plog || (_IOC_TYPE(request) != ';' &&
                  (_IOC_TYPE(request) != KVMIO ||
                   !of_kvm_vfio(fd, request, arg, &c)))) {
        return next(fd, request, arg);
    }

    range(nr, arg, &c);
    c.start_ns = now();
    if (plog->fail_errno && plog->fail_nr == nr && plog->fail_iova == c.iova) {
        errno = plog->fail_errno;
        ret = -1;
    } else {
        ret = next(fd, request, arg);
    }
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
