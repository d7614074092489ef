/*
 * A fake of the kernel's iommufd and VFIO cdev interfaces: descriptors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Behind each fake descriptor is a memfd whose name says what it is.  That
 * makes duplicates, inheritance over exec and SCM_RIGHTS work as they do in
 * the kernel, with no book keeping: what a descriptor is, is read from /proc,
 * which open file it belongs to, from the inode, and a file is gone when no
 * descriptor of the process has its inode any more.  A test can make a
 * descriptor to pass in the same way, with memfd_create(FAKE_IOMMU_MEMFD).
 *
 * Calls arrive from fake-libc.c, one at a time.  In here nothing may be called
 * on a fake descriptor that fake-libc.c takes: it would arrive again.
 */

#include "qemu/osdep.h"
#include <dirent.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "../../backends/iommufd-uapi.h"
#include "fake-iommufd.h"

#define MAX_FILES       64
#define MAX_FAILS       16

typedef struct FakeFile {
    ino_t ino;                  /* 0: unused */
    FakeIommufd *ictx;          /* exactly one of these two */
    FakeCdev *cdev;
    unsigned index;
    int number;                 /* the descriptor it was first seen as */
} FakeFile;

typedef struct FakeFail {
    char name[48];              /* of an ioctl, "*", or a path */
    unsigned long nth;          /* 0: always */
    int error;
} FakeFail;

FakeControl fake_control;

static FakeFile files[MAX_FILES];
static FakeFail fails[MAX_FAILS];
static unsigned long counter[MAX_FAILS], ioctls;
static char absent[8][48];
static char *control_text;

static const struct {
    unsigned long request;
    const char *name;
} names[] = {
#define NAME(x) { x, #x }
    NAME(IOMMU_DESTROY), NAME(IOMMU_IOAS_ALLOC), NAME(IOMMU_IOAS_ALLOW_IOVAS),
    NAME(IOMMU_IOAS_COPY), NAME(IOMMU_IOAS_IOVA_RANGES), NAME(IOMMU_IOAS_MAP),
    NAME(IOMMU_IOAS_UNMAP), NAME(IOMMU_OPTION), NAME(IOMMU_VFIO_IOAS),
    NAME(IOMMU_HWPT_ALLOC), NAME(IOMMU_GET_HW_INFO),
    NAME(IOMMU_HWPT_SET_DIRTY_TRACKING), NAME(IOMMU_HWPT_GET_DIRTY_BITMAP),
    NAME(IOMMU_IOAS_MAP_FILE),
    NAME(VFIO_DEVICE_GET_INFO), NAME(VFIO_DEVICE_GET_REGION_INFO),
    NAME(VFIO_DEVICE_GET_IRQ_INFO), NAME(VFIO_DEVICE_SET_IRQS),
    NAME(VFIO_DEVICE_RESET), NAME(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO),
    NAME(VFIO_DEVICE_PCI_HOT_RESET), NAME(VFIO_DEVICE_FEATURE),
    NAME(VFIO_DEVICE_IOEVENTFD), NAME(VFIO_DEVICE_BIND_IOMMUFD),
    NAME(VFIO_DEVICE_ATTACH_IOMMUFD_PT), NAME(VFIO_DEVICE_DETACH_IOMMUFD_PT),
};

const char *fake_kernel_ioctl_name(unsigned long request)
{
    size_t i;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        if (names[i].request == request) {
            return names[i].name;
        }
    }
    return "?";
}

/* Log */

void fake_log(const char *fmt, ...)
{
    const char *path = getenv("FAKE_KERNEL_LOG");
    char line[512];
    va_list ap;
    int fd, len;

    if (!path) {
        return;
    }
    va_start(ap, fmt);
    len = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    line[len++] = '\n';
    fd = syscall(SYS_openat, AT_FDCWD, path,
                 O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (syscall(SYS_write, fd, line, len) != len) {
            abort();
        }
        syscall(SYS_close, fd);
    }
}

/* Control */

static void control_line(const char *line)
{
    unsigned long long a, b;
    char word[48], name[48];
    unsigned n, what, error;
    size_t i;

    if (sscanf(line, "devices %u", &fake_control.devices) == 1 ||
        sscanf(line, "memlock %llu", &a) == 1) {
        if (line[0] == 'm') {
            fake_control.memlock = a;
        }
    } else if (sscanf(line, "aperture-last %lli", (long long *)&a) == 1) {
        fake_control.aperture_last = a;
    } else if (sscanf(line, "dirty %u", &n) == 1) {
        fake_control.dirty = n;
    } else if (sscanf(line, "dma-log %u %u", &n, &what) == 2) {
        fake_control.device[n].dma_log = what;
    } else if (sscanf(line, "dma-log-fails %u %u %u", &n, &what,
                      &error) == 3) {
        fake_control.device[n].dma_log_fails = what;
        fake_control.device[n].dma_log_error = error;
    } else if (sscanf(line, "write %u %lli %lli", &n, (long long *)&a,
                      (long long *)&b) == 3) {
        fake_cdev_dma_write(n, a, b);
    } else if (sscanf(line, "map-file %u", &n) == 1) {
        fake_control.map_file = n;
    } else if (sscanf(line, "dma-buf %u", &n) == 1) {
        fake_control.dma_buf = fake_control.map_file = n;
    } else if (sscanf(line, "hole %u %lli %lli", &n, (long long *)&a,
                      (long long *)&b) == 3) {
        FakeDeviceControl *d = &fake_control.device[n];

        d->hole[d->holes++] = (FakeRange) { a, b };
    } else if (sscanf(line, "migration %u %llu", &n, &a) == 2) {
        fake_control.device[n].migration = a;
    } else if (sscanf(line, "read-error %u %llu", &n, &a) == 2) {
        fake_control.device[n].read_error = a;
    } else if (sscanf(line, "arc %u ", &n) == 1) {
        FakeDeviceControl *d = &fake_control.device[n];

        d->arc_times = UINT_MAX;
        if (sscanf(line, "arc %*u %u %u %d %u %u", &d->arc_from, &d->arc_to,
                   &d->arc_error, &d->arc_end, &d->arc_times) < 4) {
            abort();
        }
    } else if (sscanf(line, "shared-bus %u %lli", &n, (long long *)&a) == 2) {
        fake_control.device[n].shared_bus = a;
    } else if (sscanf(line, "vf-token %u %32s", &n, name) == 2) {
        g_strlcpy(fake_control.device[n].vf_token, name, 33);
    } else if (sscanf(line, "fail %47s %llu %u", name, &a, &n) == 3 ||
               sscanf(line, "open %47s %u", name, &n) == 2) {
        for (i = 0; i < MAX_FAILS - 1 && fails[i].error; i++) {
            /* find the end */
        }
        fails[i].nth = line[0] == 'f' ? a : 0;
        fails[i].error = n;
        g_strlcpy(fails[i].name, name, sizeof(name));
    } else if (g_str_has_prefix(line, "no ") &&
               sscanf(line, "no %47s", name) == 1) {
        for (i = 0; i < ARRAY_SIZE(absent) - 1 && absent[i][0]; i++) {
            /* find the end */
        }
        g_strlcpy(absent[i], name, sizeof(name));
    } else if (sscanf(line, "%47s %u", word, &n) == 2 &&
               n < FAKE_MAX_DEVICES) {
        FakeDeviceControl *d = &fake_control.device[n];

        d->mdev |= g_str_equal(word, "mdev");
        d->platform |= g_str_equal(word, "platform");
        d->ccw |= g_str_equal(word, "ccw");
        d->alone |= g_str_equal(word, "alone");
        d->group_open |= g_str_equal(word, "group-open");
        d->unsafe |= g_str_equal(word, "unsafe");
        d->no_reset |= g_str_equal(word, "no-reset");
        d->power |= g_str_equal(word, "power");
        d->slow |= g_str_equal(word, "slow");
        d->ethernet |= g_str_equal(word, "ethernet");
    } else if (line[0] && !g_str_has_prefix(line, "serial ")) {
        fprintf(stderr, "fake kernel: cannot understand '%s'\n", line);
        abort();
    }
}

void fake_kernel_control(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    int i;

    fake_control = (FakeControl) {
        .devices = 2,
        .aperture_last = (1ULL << 48) - 1,
    };
    memset(fails, 0, sizeof(fails));
    memset(counter, 0, sizeof(counter));
    memset(absent, 0, sizeof(absent));
    ioctls = 0;
    for (i = 0; lines[i]; i++) {
        control_line(lines[i]);
    }
}

static void read_control(void)
{
    const char *path = getenv("FAKE_KERNEL_CONTROL");
    g_autofree char *text = NULL;

    if (!path) {
        if (!control_text) {
            control_text = g_strdup("");
            if (!fake_control.devices) {
                fake_kernel_control("");
            }
        }
        return;
    }
    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        text = g_strdup("");
    }
    if (g_strcmp0(text, control_text)) {
        g_free(control_text);
        control_text = g_steal_pointer(&text);
        fake_kernel_control(control_text);
    }
}

unsigned long fake_kernel_ioctls(void)
{
    return ioctls;
}

static bool is_absent(const char *name)
{
    size_t i;

    for (i = 0; i < ARRAY_SIZE(absent); i++) {
        if (g_str_equal(absent[i], name)) {
            return true;
        }
    }
    return false;
}

/* 0, or the -errno that the control wants for this call */
static int injected(const char *name, bool is_ioctl)
{
    int error = 0;
    size_t i;

    for (i = 0; i < MAX_FAILS && fails[i].error; i++) {
        if (g_str_equal(fails[i].name, name) ||
            (is_ioctl && g_str_equal(fails[i].name, "*"))) {
            if (++counter[i] == fails[i].nth || !fails[i].nth) {
                error = fails[i].error;
            }
        }
    }
    return -error;
}

/* Descriptors */

/* Is it a fake?  -1 no, 0 an iommufd, 1 + N the cdev of device N */
static int kind_of_link(const char *path)
{
    static const char memfd[] = "/memfd:";
    char target[64] = "";
    ssize_t len;

    len = syscall(SYS_readlink, path, target, sizeof(target) - 1);
    if (len < 0 || strncmp(target, memfd, strlen(memfd))) {
        return -1;
    }
    if (g_str_has_prefix(target + strlen(memfd), FAKE_IOMMU_MEMFD)) {
        return 0;
    }
    if (g_str_has_prefix(target + strlen(memfd), FAKE_CDEV_MEMFD)) {
        return 1 + atoi(target + strlen(memfd) +
                        strlen(FAKE_CDEV_MEMFD));
    }
    return -1;
}

static int kind_of(int fd)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return kind_of_link(path);
}

static ino_t ino_of(int fd)
{
    struct stat st;

    return syscall(SYS_fstat, fd, &st) ? 0 : st.st_ino;
}

/* The open file behind a descriptor; one that was passed to us is new here */
static FakeFile *file_of(int fd)
{
    int kind = fd < 0 ? -1 : kind_of(fd), i;
    FakeFile *unused = NULL;
    ino_t ino;

    if (kind < 0) {
        return NULL;
    }
    ino = ino_of(fd);
    for (i = MAX_FILES; i-- > 0;) {
        if (files[i].ino == ino) {
            return &files[i];
        }
        if (!files[i].ino) {
            unused = &files[i];
        }
    }
    if (!unused || kind > FAKE_MAX_DEVICES) {
        abort();
    }
    *unused = (FakeFile) { .ino = ino, .number = fd };
    if (kind == 0) {
        unused->ictx = fake_iommufd_new();
    } else {
        /* A BAR can be mapped from it */
        if (ftruncate(fd, 1024 * 1024)) {
            abort();
        }
        unused->index = kind - 1;
        unused->cdev = fake_cdev_new(kind - 1, fd);
    }
    if (kind) {
        fake_log("open " FAKE_CDEV_PATH "%d = %d", kind - 1, fd);
    } else {
        fake_log("open " FAKE_IOMMU_PATH " = %d", fd);
    }
    return unused;
}

FakeIommufd *fake_kernel_iommufd(int fd)
{
    FakeFile *file = file_of(fd);

    return file ? file->ictx : NULL;
}

static bool still_open(ino_t ino)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    bool found = false;

    while (dir && (entry = readdir(dir))) {
        int fd = atoi(entry->d_name);

        found |= entry->d_name[0] != '.' && ino_of(fd) == ino &&
                 kind_of(fd) >= 0;
    }
    if (dir) {
        closedir(dir);
    }
    return found;
}

static bool still_mapped(ino_t ino)
{
    g_autofree char *maps = NULL;
    g_autofree char *needle = g_strdup_printf(" %lu ", (unsigned long)ino);
    char *at = NULL;

    if (g_file_get_contents("/proc/self/maps", &maps, NULL, NULL)) {
        while ((at = strstr(at ? at + 1 : maps, needle))) {
            if (strstr(at, "/memfd:" FAKE_CDEV_MEMFD) == at +
                strspn(at + strlen(needle), " ") + strlen(needle)) {
                return true;
            }
        }
    }
    return false;
}

static void file_gone(FakeFile *file)
{
    FakeCounts counts = {};

    if (file->ictx) {
        fake_iommufd_count(file->ictx, &counts);
        fake_log("gone " FAKE_IOMMU_PATH " bound=%u ioas=%u hwpts=%u areas=%u",
                 counts.bound, counts.ioas, counts.hwpts, counts.areas);
        fake_iommufd_put(file->ictx);
    } else {
        fake_log("gone " FAKE_CDEV_PATH "%u mapped=%d", file->index,
                 still_mapped(file->ino));
        fake_cdev_free(file->cdev);
    }
    file->ino = 0;
}

void fake_kernel_revoke(unsigned index)
{
    unsigned n = 0;
    int i;

    for (i = 0; i < MAX_FILES; i++) {
        if (files[i].ino && files[i].ictx) {
            n += fake_iommufd_revoke(files[i].ictx, index);
        }
    }
    if (n) {
        fake_log("revoked device=%u areas=%u", index, n);
    }
}

FakeCounts fake_kernel_counts(void)
{
    FakeCounts counts = {};
    int i;

    for (i = 0; i < MAX_FILES; i++) {
        if (files[i].ino && files[i].ictx) {
            counts.iommufds++;
            fake_iommufd_count(files[i].ictx, &counts);
        } else if (files[i].ino) {
            counts.cdevs++;
        }
    }
    counts.pinned = fake_ioas_pinned();
    return counts;
}

static int fail_with(int error)
{
    errno = error;
    return -1;
}

bool fake_kernel_is_node(const char *path, unsigned *minor)
{
    char end;

    *minor = FAKE_IOMMU_MINOR;
    read_control();
    return g_str_equal(path, FAKE_IOMMU_PATH) ||
           (sscanf(path, FAKE_CDEV_PATH "%u%c", minor, &end) == 1 &&
            *minor < fake_control.devices);
}

int fake_kernel_open(const char *path, int flags)
{
    char name[32] = FAKE_IOMMU_MEMFD;
    unsigned index = 0;
    int fd, error;

    if (strcmp(path, FAKE_IOMMU_PATH)) {
        if (sscanf(path, FAKE_CDEV_PATH "%u", &index) != 1) {
            return FAKE_NOT_OURS;
        }
        snprintf(name, sizeof(name), FAKE_CDEV_MEMFD "%u", index);
    }

    read_control();
    error = -injected(path, false);
    if (!error && index >= fake_control.devices) {
        error = ENOENT;
    }
    if (error) {
        fake_log("open %s = -%d", path, error);
        return fail_with(error);
    }
    fd = syscall(SYS_memfd_create, name,
                 flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
    if (fd >= 0) {
        file_of(fd);
    }
    return fd;
}

int fake_kernel_close(int fd)
{
    FakeFile *file = file_of(fd);
    int ret = syscall(SYS_close, fd);

    if (file && !still_open(file->ino)) {
        file_gone(file);
    }
    return ret;
}

/* Other tests that run now have fakes of their own, and a session each */
static bool in_this_session(const char *path)
{
    int pid;

    return sscanf(path, "/proc/%d/", &pid) != 1 || getsid(pid) == getsid(0);
}

bool fake_kernel_owns_link(const char *path, bool *is_iommu, unsigned *index)
{
    int kind = in_this_session(path) ? kind_of_link(path) : -1;

    *is_iommu = kind == 0;
    *index = MAX(kind - 1, 0);
    return kind >= 0;
}

bool fake_kernel_owns(int fd, bool *is_iommu, unsigned *index)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return fake_kernel_owns_link(path, is_iommu, index);
}

/* What a reader of the log wants to know of an ioctl */
static void describe(unsigned long request, const void *arg, char *to,
                     size_t room)
{
    const struct iommu_ioas_map *map = arg;
    const struct iommu_ioas_map_file *file = arg;
    const struct iommu_ioas_copy *copy = arg;
    const struct iommu_ioas_unmap *unmap = arg;
    const struct iommu_hwpt_alloc *hwpt = arg;
    const struct iommu_hwpt_set_dirty_tracking *set = arg;
    const struct iommu_hwpt_get_dirty_bitmap *get = arg;
    const struct vfio_irq_set *irqs = arg;
    const uint32_t *word = arg;

    *to = 0;
    switch (request) {
    case IOMMU_IOAS_MAP:
        snprintf(to, room, " ioas=%u iova=0x%llx length=0x%llx va=0x%llx "
                 "flags=0x%x", map->ioas_id, map->iova, map->length,
                 map->user_va, map->flags);
        break;
    case IOMMU_IOAS_MAP_FILE:
        snprintf(to, room, " ioas=%u iova=0x%llx length=0x%llx start=0x%llx "
                 "flags=0x%x", file->ioas_id, file->iova, file->length,
                 file->start, file->flags);
        if (fake_dmabuf_device(file->fd) >= 0) {
            snprintf(to + strlen(to), room - strlen(to), " dmabuf=%d",
                     fake_dmabuf_device(file->fd));
        }
        break;
    case IOMMU_IOAS_COPY:
        snprintf(to, room, " ioas=%u iova=0x%llx length=0x%llx from=%u "
                 "at=0x%llx flags=0x%x", copy->dst_ioas_id, copy->dst_iova,
                 copy->length, copy->src_ioas_id, copy->src_iova, copy->flags);
        break;
    case IOMMU_IOAS_UNMAP:
        snprintf(to, room, " ioas=%u iova=0x%llx length=0x%llx",
                 unmap->ioas_id, unmap->iova, unmap->length);
        break;
    case IOMMU_HWPT_ALLOC:
        snprintf(to, room, " dev=%u pt=%u flags=0x%x hwpt=%u", hwpt->dev_id,
                 hwpt->pt_id, hwpt->flags, hwpt->out_hwpt_id);
        break;
    case IOMMU_HWPT_SET_DIRTY_TRACKING:
        snprintf(to, room, " hwpt=%u flags=0x%x", set->hwpt_id, set->flags);
        break;
    case IOMMU_HWPT_GET_DIRTY_BITMAP:
        snprintf(to, room, " hwpt=%u flags=0x%x iova=0x%llx length=0x%llx",
                 get->hwpt_id, get->flags, get->iova, get->length);
        break;
    case VFIO_DEVICE_FEATURE:
        snprintf(to, room, " flags=0x%x", word[1]);
        break;
    case VFIO_DEVICE_SET_IRQS:
        snprintf(to, room, " flags=0x%x index=%u start=%u count=%u",
                 irqs->flags, irqs->index, irqs->start, irqs->count);
        break;
    case IOMMU_DESTROY:
        snprintf(to, room, " id=%u", word[1]);
        break;
    case VFIO_DEVICE_GET_REGION_INFO:
    case VFIO_DEVICE_GET_IRQ_INFO:
    case VFIO_DEVICE_ATTACH_IOMMUFD_PT:
    case IOMMU_IOAS_ALLOC:
        snprintf(to, room, " %u", word[2]);
        break;
    case VFIO_DEVICE_BIND_IOMMUFD:
        snprintf(to, room, " devid=%u", word[3]);
        break;
    }
}

int fake_kernel_ioctl(int fd, unsigned long request, void *arg)
{
    const char *name = fake_kernel_ioctl_name(request);
    FakeFile *file = file_of(fd);
    char before[128], after[128];
    int ret, asked;

    read_control();
    ioctls++;
    /* An unmap answers in the field that it was asked in */
    describe(request, arg, before, sizeof(before));
    asked = ret = injected(name, true);
    if (!ret && is_absent(name)) {
        ret = -ENOTTY;
    } else if (!ret) {
        ret = file->ictx ? fake_iommufd_ioctl(file->ictx, request, arg)
                         : fake_cdev_ioctl(file->cdev, request, arg);
    }
    describe(request, arg, after, sizeof(after));
    fake_log("%s%s = %d%s", name, request == IOMMU_IOAS_UNMAP ? before : after,
             ret, asked ? " injected" : "");
    return ret < 0 ? fail_with(-ret) : ret;
}

ssize_t fake_kernel_rw(int fd, void *buf, size_t size, uint64_t offset,
                       bool write)
{
    FakeFile *file = file_of(fd);
    ssize_t ret = file->cdev ? fake_cdev_rw(file->cdev, buf, size, offset,
                                            write) : -EINVAL;

    return ret < 0 ? fail_with(-ret) : ret;
}

void *fake_kernel_mmap(void *addr, size_t size, int prot, int flags, int fd,
                       uint64_t offset)
{
    FakeFile *file = file_of(fd);
    int ret = file->cdev ? fake_cdev_mmap(file->cdev, offset, size, &offset)
                         : -ENODEV;

    if (ret) {
        fail_with(-ret);
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, addr, size, prot, flags, fd, offset);
}
