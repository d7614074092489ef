/*
 * A fake of the kernel's iommufd and VFIO cdev interfaces: libc's calls
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Stands between a process and libc: linked into a unit test, or preloaded
 * into the real binary.  It takes the calls that concern /dev/iommu,
 * /dev/vfio/devices/vfioN and their descriptors, and passes on all others.
 * The names are those that libc's headers redirect to in a program built with
 * 64-bit file offsets, with and without _FORTIFY_SOURCE.
 *
 * FAKE_SYSFS names a directory to look into in place of /sys, for devices and
 * for what the numbers of a character device stand for.
 * The limit of pinned memory shows as RLIMIT_MEMLOCK, too.
 */

#include "qemu/osdep.h"
#include <dirent.h>
#include <dlfcn.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "../../hw/vfio/cdev-uapi.h"
#include "fake-iommufd.h"

/* They take the place of what libc has under these names */
#define AS(name)    __asm__(name) __attribute__((visibility("default")))

int fake_open64(const char *path, int flags, mode_t mode) AS("open64");
int fake_open(const char *path, int flags, mode_t mode) AS("open");
int fake_open64_2(const char *path, int flags) AS("__open64_2");
int fake_open_2(const char *path, int flags) AS("__open_2");
int fake_stat64(const char *path, struct stat *st) AS("stat64");
int fake_lstat64(const char *path, struct stat *st) AS("lstat64");
int fake_statx(int dir, const char *path, int flags, unsigned mask,
               struct statx *st) AS("statx");
int fake_access(const char *path, int mode) AS("access");
ssize_t fake_readlink(const char *path, char *buf, size_t size) AS("readlink");
ssize_t fake_readlink_chk(const char *path, char *buf, size_t size,
                          size_t room) AS("__readlink_chk");
DIR *fake_opendir(const char *path) AS("opendir");
FILE *fake_fopen64(const char *path, const char *mode) AS("fopen64");
char *fake_realpath(const char *path, char *real) AS("realpath");
char *fake_realpath_chk(const char *path, char *real,
                        size_t room) AS("__realpath_chk");
int fake_close(int fd) AS("close");
int fake_fstat64(int fd, struct stat *st) AS("fstat64");
int fake_ioctl(int fd, unsigned long request, void *arg) AS("ioctl");
ssize_t fake_read(int fd, void *buf, size_t size) AS("read");
ssize_t fake_read_chk(int fd, void *buf, size_t size,
                      size_t room) AS("__read_chk");
ssize_t fake_write(int fd, const void *buf, size_t size) AS("write");
ssize_t fake_pread64(int fd, void *buf, size_t size,
                     off_t offset) AS("pread64");
ssize_t fake_pread64_chk(int fd, void *buf, size_t size, off_t offset,
                         size_t room) AS("__pread64_chk");
ssize_t fake_pwrite64(int fd, const void *buf, size_t size,
                      off_t offset) AS("pwrite64");
void *fake_mmap64(void *addr, size_t size, int prot, int flags, int fd,
                  off_t offset) AS("mmap64");
int fake_getrlimit64(int resource, struct rlimit *limit) AS("getrlimit64");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void unlock(pthread_mutex_t **held)
{
    pthread_mutex_unlock(*held);
}

#define WITH_LOCK() \
    __attribute__((cleanup(unlock), unused)) pthread_mutex_t *held = &lock; \
    pthread_mutex_lock(held)

static bool ours(int fd)
{
    bool is_iommu;
    unsigned index;
    int saved = errno;
    bool ret = fd >= 0 && fake_kernel_owns(fd, &is_iommu, &index);

    errno = saved;
    return ret;
}

/* Paths */

static const char *redirect(const char *path, char *room)
{
    const char *root = getenv("FAKE_SYSFS");

    if (!root || (!g_str_has_prefix(path, "/sys/bus/") &&
                  !g_str_has_prefix(path, "/sys/dev/char/"))) {
        return path;
    }
    snprintf(room, PATH_MAX, "%s%s", root, path + strlen("/sys"));
    return room;
}

static int do_open(const char *path, int flags, mode_t mode)
{
    char room[PATH_MAX];
    int fd;

    if (g_str_has_prefix(path, "/dev/")) {
        WITH_LOCK();
        fd = fake_kernel_open(path, flags);
        if (fd != FAKE_NOT_OURS) {
            return fd;
        }
    }
    return openat(AT_FDCWD, redirect(path, room), flags, mode);
}

int fake_open64(const char *path, int flags, mode_t mode)
{
    return do_open(path, flags, mode);
}

int fake_open(const char *path, int flags, mode_t mode)
{
    return do_open(path, flags, mode);
}

int fake_open64_2(const char *path, int flags)
{
    return do_open(path, flags, 0);
}

int fake_open_2(const char *path, int flags)
{
    return do_open(path, flags, 0);
}

static void make_node(struct stat *st, unsigned minor, bool is_iommu)
{
    st->st_mode = S_IFCHR | 0600;
    st->st_rdev = makedev(is_iommu ? FAKE_IOMMU_MAJOR : FAKE_CDEV_MAJOR, minor);
}

static int do_stat(const char *path, struct stat *st, int flags)
{
    char room[PATH_MAX];
    unsigned minor;
    bool is_iommu;

    /* A descriptor of this process or of another */
    if (!flags && g_str_has_prefix(path, "/proc/") && strstr(path, "/fd/") &&
        fake_kernel_owns_link(path, &is_iommu, &minor)) {
        memset(st, 0, sizeof(*st));
        make_node(st, is_iommu ? FAKE_IOMMU_MINOR : minor, is_iommu);
        return 0;
    }
    if (g_str_has_prefix(path, "/dev/")) {
        WITH_LOCK();
        if (fake_kernel_is_node(path, &minor)) {
            memset(st, 0, sizeof(*st));
            make_node(st, minor, g_str_equal(path, FAKE_IOMMU_PATH));
            return 0;
        }
    }
    return fstatat(AT_FDCWD, redirect(path, room), st, flags);
}

int fake_stat64(const char *path, struct stat *st)
{
    return do_stat(path, st, 0);
}

int fake_lstat64(const char *path, struct stat *st)
{
    return do_stat(path, st, AT_SYMLINK_NOFOLLOW);
}

int fake_statx(int dir, const char *path, int flags, unsigned mask,
               struct statx *st)
{
    struct stat node;

    if (!g_str_has_prefix(path, "/proc/")) {
        return syscall(SYS_statx, dir, path, flags, mask, st);
    }
    if (do_stat(path, &node, 0)) {
        return -1;
    }
    *st = (struct statx) {
        .stx_mode = node.st_mode,
        .stx_rdev_major = major(node.st_rdev),
        .stx_rdev_minor = minor(node.st_rdev),
    };
    return 0;
}

int fake_access(const char *path, int mode)
{
    char room[PATH_MAX];
    struct stat st;

    if (g_str_has_prefix(path, "/dev/")) {
        return do_stat(path, &st, 0);
    }
    return faccessat(AT_FDCWD, redirect(path, room), mode, 0);
}

ssize_t fake_readlink(const char *path, char *buf, size_t size)
{
    char room[PATH_MAX];
    unsigned index;
    bool is_iommu;
    int fd;

    if (sscanf(path, "/proc/self/fd/%d", &fd) == 1 &&
        fake_kernel_owns(fd, &is_iommu, &index)) {
        if (is_iommu) {
            snprintf(room, sizeof(room), FAKE_IOMMU_PATH);
        } else {
            snprintf(room, sizeof(room), FAKE_CDEV_PATH "%u", index);
        }
        size = MIN(size, strlen(room));
        memcpy(buf, room, size);
        return size;
    }
    return readlinkat(AT_FDCWD, redirect(path, room), buf, size);
}

ssize_t fake_readlink_chk(const char *path, char *buf, size_t size, size_t room)
{
    return fake_readlink(path, buf, size);
}

DIR *fake_opendir(const char *path)
{
    static DIR *(*libc_opendir)(const char *path);
    char room[PATH_MAX];

    if (!libc_opendir) {
        libc_opendir = dlsym(RTLD_NEXT, "opendir");
    }
    return libc_opendir(redirect(path, room));
}

FILE *fake_fopen64(const char *path, const char *mode)
{
    static FILE *(*libc_fopen64)(const char *path, const char *mode);
    char room[PATH_MAX];

    if (!libc_fopen64) {
        libc_fopen64 = dlsym(RTLD_NEXT, "fopen64");
    }
    return libc_fopen64(redirect(path, room), mode);
}

char *fake_realpath(const char *path, char *real)
{
    static char *(*libc_realpath)(const char *path, char *real);
    char room[PATH_MAX];

    if (!libc_realpath) {
        libc_realpath = dlsym(RTLD_NEXT, "realpath");
    }
    return libc_realpath(redirect(path, room), real);
}

char *fake_realpath_chk(const char *path, char *real, size_t room)
{
    return fake_realpath(path, real);
}

/* Descriptors */

static ssize_t answer(ssize_t ret)
{
    if (ret < 0) {
        errno = -ret;
        return -1;
    }
    return ret;
}

ssize_t fake_read(int fd, void *buf, size_t size)
{
    if (fake_mig_owns(fd)) {
        WITH_LOCK();
        return answer(fake_mig_read(fd, buf, size));
    }
    return syscall(SYS_read, fd, buf, size);
}

ssize_t fake_read_chk(int fd, void *buf, size_t size, size_t room)
{
    return fake_read(fd, buf, size);
}

ssize_t fake_write(int fd, const void *buf, size_t size)
{
    if (fake_mig_owns(fd)) {
        WITH_LOCK();
        return answer(fake_mig_write(fd, buf, size));
    }
    return syscall(SYS_write, fd, buf, size);
}

int fake_close(int fd)
{
    if (fake_mig_owns(fd)) {
        WITH_LOCK();
        fake_mig_close(fd);
        return 0;
    }
    if (ours(fd)) {
        WITH_LOCK();
        return fake_kernel_close(fd);
    }
    return syscall(SYS_close, fd);
}

int fake_fstat64(int fd, struct stat *st)
{
    int ret = fstatat(fd, "", st, AT_EMPTY_PATH);
    unsigned index;
    bool is_iommu;

    /* memfds have no name, so no link */
    if (!ret && S_ISREG(st->st_mode) && !st->st_nlink &&
        fake_kernel_owns(fd, &is_iommu, &index)) {
        make_node(st, is_iommu ? FAKE_IOMMU_MINOR : index, is_iommu);
    }
    return ret;
}

static bool slow(int fd)
{
    bool is_iommu;
    unsigned index;

    return fake_kernel_owns(fd, &is_iommu, &index) && !is_iommu &&
           fake_control.device[index].slow;
}

int fake_ioctl(int fd, unsigned long request, void *arg)
{
    if (_IOC_TYPE(request) == ';' && ours(fd)) {
        if (request == VFIO_DEVICE_BIND_IOMMUFD && slow(fd)) {
            g_usleep(300000);           /* other calls go on */
        }
        WITH_LOCK();
        return fake_kernel_ioctl(fd, request, arg);
    }
    if (_IOC_TYPE(request) == ';' && fake_mig_owns(fd)) {
        WITH_LOCK();
        return answer(fake_mig_ioctl(fd, request, arg));
    }
    return syscall(SYS_ioctl, fd, request, arg);
}

ssize_t fake_pread64(int fd, void *buf, size_t size, off_t offset)
{
    if (ours(fd)) {
        WITH_LOCK();
        return fake_kernel_rw(fd, buf, size, offset, false);
    }
    return syscall(SYS_pread64, fd, buf, size, offset);
}

ssize_t fake_pread64_chk(int fd, void *buf, size_t size, off_t offset,
                         size_t room)
{
    return fake_pread64(fd, buf, size, offset);
}

ssize_t fake_pwrite64(int fd, const void *buf, size_t size, off_t offset)
{
    if (ours(fd)) {
        WITH_LOCK();
        return fake_kernel_rw(fd, (void *)buf, size, offset, true);
    }
    return syscall(SYS_pwrite64, fd, buf, size, offset);
}

void *fake_mmap64(void *addr, size_t size, int prot, int flags, int fd,
                  off_t offset)
{
    if (fd >= 0 && !(flags & MAP_ANONYMOUS) && ours(fd)) {
        WITH_LOCK();
        return fake_kernel_mmap(addr, size, prot, flags, fd, offset);
    }
    return (void *)syscall(SYS_mmap, addr, size, prot, flags, fd, offset);
}

int fake_getrlimit64(int resource, struct rlimit *limit)
{
    if (resource == RLIMIT_MEMLOCK) {
        limit->rlim_cur = limit->rlim_max = fake_control.memlock ?:
                                            RLIM_INFINITY;
        return 0;
    }
    return syscall(SYS_prlimit64, 0, resource, NULL, limit);
}
