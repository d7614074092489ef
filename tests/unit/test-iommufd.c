/*
 * Tests of the iommufd object and its wrappers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * backends/iommufd.c is linked against the fake kernel of tests/qtest.  The
 * wrappers by table: a row says what is there, what is called, the return
 * value, what is mapped afterwards, and the line that the ioctl leaves in the
 * fake's log, so the bytes that the kernel was given.  The object by story:
 * what it opens, adopts, refuses and closes.  After each test nothing may be
 * left in the fake kernel, nor a descriptor more than before in the process.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "sysemu/iommufd.h"
#include "../../backends/iommufd-uapi.h"
#include "qapi/error.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qom/object_interfaces.h"
#include "monitor/monitor.h"
#include "../qtest/fake-iommufd.h"

#define PAGE    4096ULL
#define MEMORY  (1 * MiB)

static char *log_path;
static char *memory;            /* what the tests map */
static char *memory_ro;         /* the same, not writable */
static char *memory_file;       /* the same, shared with file_fd from PAGE on */
static int file_fd;             /* a memfd */

/* What QMP getfd would have stored, for the stub of the monitor */
static int named_fd = -1;

int monitor_fd_param(Monitor *mon, const char *fdname, Error **errp)
{
    int fd = -1;

    if (qemu_isdigit(fdname[0])) {
        fd = qemu_parse_fd(fdname);
        if (fd < 0) {
            error_setg(errp, "Invalid file descriptor number '%s'", fdname);
        }
    } else if (named_fd >= 0) {
        fd = named_fd;
        named_fd = -1;
    } else {
        error_setg(errp, "File descriptor named '%s' has not been found",
                   fdname);
    }
    return fd;
}

static unsigned count_fds(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

/* The lines of the log since the last call */
static char *take_log(void)
{
    char *text = NULL;

    if (!g_file_get_contents(log_path, &text, NULL, NULL)) {
        return g_strdup("");
    }
    g_assert_cmpint(truncate(log_path, 0), ==, 0);
    return text;
}

static void assert_nothing_left(void)
{
    FakeCounts counts = fake_kernel_counts();

    g_assert_cmpuint(counts.iommufds, ==, 0);
    g_assert_cmpuint(counts.cdevs, ==, 0);
    g_assert_cmpuint(counts.pinned, ==, 0);
}

/* The wrappers */

typedef enum Op {
    ALLOC_IOAS, IOVA_RANGES, MAP, MAP_SHARED_FILE, UNMAP, HW_INFO, ALLOC_HWPT,
} Op;

typedef struct Range {
    uint64_t iova, size;        /* size 0: none */
} Range;

typedef struct Call {
    const char *name;
    const char *control;
    bool attach;                /* device 0 is attached to the IOAS */
    Range there[3];             /* what is mapped before */
    Op op;
    bool wrong_id;
    Range range;                /* MAP..., UNMAP: what to */
    const char *file;           /* MAP_SHARED_FILE: a path; default: a memfd */
    OnOffAuto map_file;         /* what the object knows afterwards */
    bool readonly, ro_memory, not_memory, misaligned;
    uint32_t flags;             /* ALLOC_HWPT */
    int expect;
    uint64_t mapped_after;      /* bytes */
    uint64_t out;               /* id, number of ranges, or capabilities */
    const char *log;            /* of the ioctl, without arguments that vary */
} Call;

#define P(first, pages) { (first) * PAGE, (pages) * PAGE }

/* More than anybody would make room for: 20 pages, one in 16 */
#define HOLE(n)         "hole 0 0x" #n "0000 0x" #n "0fff\n"
#define MANY_HOLES      HOLE(1) HOLE(2) HOLE(3) HOLE(4) HOLE(5) HOLE(6) \
                        HOLE(7) HOLE(8) HOLE(9) HOLE(10) HOLE(11) HOLE(12) \
                        HOLE(13) HOLE(14) HOLE(15) HOLE(16) HOLE(17) HOLE(18) \
                        HOLE(19) HOLE(20)

static const Call calls[] = {
    { .name = "alloc-ioas", .op = ALLOC_IOAS, .out = 3,
      .log = "IOMMU_IOAS_ALLOC 3 = 0\n" },
    { .name = "alloc-ioas-enomem", .op = ALLOC_IOAS, .expect = -ENOMEM,
      .control = "fail IOMMU_IOAS_ALLOC 2 12",
      .log = "IOMMU_IOAS_ALLOC 0 = -12 injected\n" },

    /* Without a device, an IOAS has no limits */
    { .name = "ranges-no-device", .op = IOVA_RANGES, .out = 1,
      .log = "IOMMU_IOAS_IOVA_RANGES = 0\n" },
    { .name = "ranges-device", .op = IOVA_RANGES, .attach = true, .out = 2,
      .log = "IOMMU_IOAS_IOVA_RANGES = 0\n" },
    { .name = "ranges-more-holes", .op = IOVA_RANGES, .attach = true, .out = 3,
      .control = "hole 0 0x10000 0x1ffff",
      .log = "IOMMU_IOAS_IOVA_RANGES = 0\n" },
    { .name = "ranges-wrong-id", .op = IOVA_RANGES, .wrong_id = true,
      .expect = -ENOENT, .log = "IOMMU_IOAS_IOVA_RANGES = -2\n" },
    { .name = "ranges-many", .op = IOVA_RANGES, .attach = true, .out = 22,
      .control = MANY_HOLES,
      .log = "IOMMU_IOAS_IOVA_RANGES = -90\nIOMMU_IOAS_IOVA_RANGES = 0\n" },
    { .name = "ranges-fail-late", .op = IOVA_RANGES, .attach = true,
      .expect = -ENOMEM,
      .control = MANY_HOLES "fail IOMMU_IOAS_IOVA_RANGES 2 12",
      .log = "IOMMU_IOAS_IOVA_RANGES = -90\nIOMMU_IOAS_IOVA_RANGES = -12 "
             "injected\n" },

    { .name = "map", .op = MAP, .attach = true, .range = P(16, 4),
      .mapped_after = 4 * PAGE,
      .log = "IOMMU_IOAS_MAP ioas=2 iova=0x10000 length=0x4000 va=@ "
             "flags=0x7 = 0\n" },
    { .name = "map-readonly", .op = MAP, .attach = true, .range = P(16, 4),
      .readonly = true, .ro_memory = true, .mapped_after = 4 * PAGE,
      .log = "IOMMU_IOAS_MAP ioas=2 iova=0x10000 length=0x4000 va=@ "
             "flags=0x5 = 0\n" },
    { .name = "map-at-0", .op = MAP, .attach = true, .range = P(0, 1),
      .mapped_after = PAGE },
    { .name = "map-second", .op = MAP, .attach = true, .there = { P(0, 1) },
      .range = P(1, 1), .mapped_after = 2 * PAGE },
    { .name = "map-wrong-id", .op = MAP, .wrong_id = true, .range = P(0, 1),
      .expect = -ENOENT },
    { .name = "map-misaligned", .op = MAP, .attach = true,
      .range = { 0x10800, PAGE }, .expect = -EINVAL },
    { .name = "map-misaligned-size", .op = MAP, .attach = true,
      .range = { 0x10000, 0x800 }, .expect = -EINVAL },
    { .name = "map-misaligned-vaddr", .op = MAP, .attach = true,
      .misaligned = true, .range = P(16, 1), .expect = -EINVAL },
    { .name = "map-nothing", .op = MAP, .attach = true, .range = P(16, 0),
      .expect = -EINVAL },
    { .name = "map-reserved", .op = MAP, .attach = true,
      .range = { 0xfee00000, PAGE }, .expect = -EINVAL },
    { .name = "map-into-reserved", .op = MAP, .attach = true,
      .range = { 0xfee00000 - PAGE, 2 * PAGE }, .expect = -EINVAL },
    { .name = "map-behind-aperture", .op = MAP, .attach = true,
      .range = { 1ULL << 48, PAGE }, .expect = -EINVAL },
    { .name = "map-exists", .op = MAP, .attach = true, .there = { P(16, 4) },
      .range = P(19, 2), .expect = -EEXIST, .mapped_after = 4 * PAGE },
    { .name = "map-wraps", .op = MAP, .attach = true,
      .range = { UINT64_MAX - PAGE + 1, 2 * PAGE }, .expect = -EOVERFLOW },
    { .name = "map-no-memory-there", .op = MAP, .attach = true,
      .not_memory = true, .range = P(16, 1), .expect = -EFAULT },
    { .name = "map-writable-of-readonly", .op = MAP, .attach = true,
      .ro_memory = true, .range = P(16, 1), .expect = -EFAULT },
    { .name = "map-memlock", .op = MAP, .attach = true,
      .control = "memlock 8192", .range = P(16, 3), .expect = -ENOMEM },
    { .name = "map-memlock-just-fits", .op = MAP, .attach = true,
      .control = "memlock 8192", .range = P(16, 2),
      .mapped_after = 2 * PAGE },

    /* By file, and what the object then knows; MAP where that cannot be */
    { .name = "file", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1", .range = P(16, 4), .mapped_after = 4 * PAGE,
      .map_file = ON_OFF_AUTO_ON,
      .log = "IOMMU_IOAS_MAP_FILE ioas=2 iova=0x10000 length=0x4000 "
             "start=0x1000 flags=0x7 = 0\n" },
    { .name = "file-readonly", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1", .range = P(16, 4), .readonly = true,
      .mapped_after = 4 * PAGE, .map_file = ON_OFF_AUTO_ON,
      .log = "IOMMU_IOAS_MAP_FILE ioas=2 iova=0x10000 length=0x4000 "
             "start=0x1000 flags=0x5 = 0\n" },
    { .name = "file-old-kernel", .op = MAP_SHARED_FILE, .attach = true,
      .range = P(16, 4), .mapped_after = 4 * PAGE, .map_file = ON_OFF_AUTO_OFF,
      .log = "IOMMU_IOAS_MAP_FILE ioas=2 iova=0x10000 length=0x4000 "
             "start=0x1000 flags=0x7 = -25\n"
             "IOMMU_IOAS_MAP ioas=2 iova=0x10000 length=0x4000 va=@ "
             "flags=0x7 = 0\n" },
    { .name = "file-refused", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1\nfail IOMMU_IOAS_MAP_FILE 1 22",
      .range = P(16, 4), .mapped_after = 4 * PAGE, .map_file = ON_OFF_AUTO_OFF,
      .log = "IOMMU_IOAS_MAP_FILE ioas=2 iova=0x10000 length=0x4000 "
             "start=0x1000 flags=0x7 = -22 injected\n"
             "IOMMU_IOAS_MAP ioas=2 iova=0x10000 length=0x4000 va=@ "
             "flags=0x7 = 0\n" },
    /* Files that the kernel would not pin are not tried */
    { .name = "file-of-another-kind", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1", .file = "/proc/self/maps", .range = P(16, 4),
      .mapped_after = 4 * PAGE, .map_file = ON_OFF_AUTO_AUTO,
      .log = "IOMMU_IOAS_MAP ioas=2 iova=0x10000 length=0x4000 va=@ "
             "flags=0x7 = 0\n" },
    { .name = "file-of-a-device", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1", .file = "/dev/zero", .range = P(16, 4),
      .mapped_after = 4 * PAGE, .map_file = ON_OFF_AUTO_AUTO,
      .log = "IOMMU_IOAS_MAP ioas=2 iova=0x10000 length=0x4000 va=@ "
             "flags=0x7 = 0\n" },
    /* What is wrong either way is no fault of the file's */
    { .name = "file-reserved", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1", .range = { 0xfee00000, PAGE },
      .expect = -EINVAL, .map_file = ON_OFF_AUTO_ON },
    { .name = "file-exists", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1", .there = { P(16, 4) }, .range = P(19, 2),
      .expect = -EEXIST, .mapped_after = 4 * PAGE,
      .map_file = ON_OFF_AUTO_ON },
    { .name = "file-memlock", .op = MAP_SHARED_FILE, .attach = true,
      .control = "map-file 1\nmemlock 8192", .range = P(16, 3),
      .expect = -ENOMEM, .map_file = ON_OFF_AUTO_ON,
      .log = "IOMMU_IOAS_MAP_FILE ioas=2 iova=0x10000 length=0x3000 "
             "start=0x1000 flags=0x7 = -12\n" },

    { .name = "unmap", .op = UNMAP, .attach = true, .there = { P(16, 4) },
      .range = P(16, 4),
      .log = "IOMMU_IOAS_UNMAP ioas=2 iova=0x10000 length=0x4000 = 0\n" },
    { .name = "unmap-two", .op = UNMAP, .attach = true,
      .there = { P(16, 4), P(20, 1), P(30, 1) }, .range = P(16, 5),
      .mapped_after = PAGE },
    { .name = "unmap-wider", .op = UNMAP, .attach = true,
      .there = { P(16, 4) }, .range = P(8, 32) },
    { .name = "unmap-all", .op = UNMAP, .attach = true,
      .there = { P(0, 4), P(20, 1), P(30, 1) },
      .range = { 0, UINT64_MAX },
      .log = "IOMMU_IOAS_UNMAP ioas=2 iova=0x0 length=0xffffffffffffffff = 0\n"
    },
    { .name = "unmap-all-of-nothing", .op = UNMAP, .range = { 0, UINT64_MAX } },
    { .name = "unmap-nothing-there", .op = UNMAP, .attach = true,
      .there = { P(16, 4) }, .range = P(40, 4), .expect = -ENOENT,
      .mapped_after = 4 * PAGE },
    { .name = "unmap-cuts-head", .op = UNMAP, .attach = true,
      .there = { P(16, 4) }, .range = P(16, 2), .expect = -ENOENT,
      .mapped_after = 4 * PAGE },
    { .name = "unmap-cuts-tail", .op = UNMAP, .attach = true,
      .there = { P(16, 4) }, .range = P(18, 2), .expect = -ENOENT,
      .mapped_after = 4 * PAGE },
    { .name = "unmap-wrong-id", .op = UNMAP, .wrong_id = true,
      .range = P(0, 1), .expect = -ENOENT },

    { .name = "hw-info", .op = HW_INFO, .log = "IOMMU_GET_HW_INFO = 0\n" },
    { .name = "hw-info-dirty", .op = HW_INFO, .control = "dirty 1",
      .out = IOMMU_HW_CAP_DIRTY_TRACKING },
    { .name = "hw-info-old-kernel", .op = HW_INFO, .expect = -ENOTTY,
      .control = "no IOMMU_GET_HW_INFO" },
    { .name = "hw-info-mdev", .op = HW_INFO, .control = "mdev 0",
      .expect = -ENOENT },
    { .name = "hw-info-wrong-id", .op = HW_INFO, .wrong_id = true,
      .expect = -ENOENT },
    { .name = "hw-info-refused", .op = HW_INFO, .expect = -EOPNOTSUPP,
      .control = "fail IOMMU_GET_HW_INFO 1 95" },

    { .name = "hwpt", .op = ALLOC_HWPT, .there = { P(0, 4) },
      .mapped_after = 4 * PAGE, .out = 3,
      .log = "IOMMU_HWPT_ALLOC dev=1 pt=2 flags=0x0 hwpt=3 = 0\n" },
    { .name = "hwpt-dirty", .op = ALLOC_HWPT, .control = "dirty 1",
      .flags = IOMMU_HWPT_ALLOC_DIRTY_TRACKING, .out = 3,
      .log = "IOMMU_HWPT_ALLOC dev=1 pt=2 flags=0x2 hwpt=3 = 0\n" },
    { .name = "hwpt-dirty-refused", .op = ALLOC_HWPT, .expect = -EOPNOTSUPP,
      .flags = IOMMU_HWPT_ALLOC_DIRTY_TRACKING },
    { .name = "hwpt-old-kernel", .op = ALLOC_HWPT, .expect = -ENOTTY,
      .control = "no IOMMU_HWPT_ALLOC" },
    { .name = "hwpt-wrong-ioas", .op = ALLOC_HWPT, .wrong_id = true,
      .expect = -EINVAL },
    { .name = "hwpt-mdev", .op = ALLOC_HWPT, .control = "mdev 0",
      .expect = -ENOENT },
    { .name = "hwpt-memlock", .op = ALLOC_HWPT, .there = { P(0, 4) },
      .control = "memlock 8192", .expect = -ENOMEM,
      .mapped_after = 4 * PAGE },
};

static IOMMUFDBackend *new_object(Error **errp, const char *fd)
{
    return (IOMMUFDBackend *)
        (fd ? object_new_with_props(TYPE_IOMMUFD_BACKEND,
                                    object_get_objects_root(), "be", errp,
                                    "fd", fd, NULL)
            : object_new_with_props(TYPE_IOMMUFD_BACKEND,
                                    object_get_objects_root(), "be", errp,
                                    NULL));
}

static int bind_device(IOMMUFDBackend *be, uint32_t *devid)
{
    int cdev = open(FAKE_CDEV_PATH "0", O_RDWR | O_CLOEXEC);
    struct vfio_device_bind_iommufd bind = {
        .argsz = sizeof(bind),
        .iommufd = be->fd,
    };

    g_assert_cmpint(cdev, >=, 0);
    g_assert_cmpint(ioctl(cdev, VFIO_DEVICE_BIND_IOMMUFD, &bind), ==, 0);
    *devid = bind.out_devid;
    return cdev;
}

static void attach_device(int cdev, uint32_t pt_id)
{
    struct vfio_device_attach_iommufd_pt attach = {
        .argsz = sizeof(attach),
        .pt_id = pt_id,
    };

    g_assert_cmpint(ioctl(cdev, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach), ==, 0);
}

static void check_ranges(const Call *c, const IOMMUFDRange *r, uint32_t nr,
                         uint64_t alignment)
{
    static const IOMMUFDRange expected[4][3] = {
        [1] = { { 0, UINT64_MAX } },
        [2] = { { 0, 0xfedfffff }, { 0xfef00000, (1ULL << 48) - 1 } },
        [3] = { { 0, 0xffff }, { 0x20000, 0xfedfffff },
                { 0xfef00000, (1ULL << 48) - 1 } },
    };
    uint32_t i;

    g_assert_cmpuint(nr, ==, c->out);
    g_assert_cmpuint(alignment, ==, c->attach ? PAGE : 1);
    for (i = 0; i < nr; i++) {
        if (nr < ARRAY_SIZE(expected)) {
            g_assert_cmphex(r[i].start, ==, expected[nr][i].start);
            g_assert_cmphex(r[i].last, ==, expected[nr][i].last);
        }
        g_assert_cmphex(r[i].start, <=, r[i].last);
        g_assert_true(!i || r[i - 1].last < r[i].start);
    }
}

static int do_call(IOMMUFDBackend *be, const Call *c, uint32_t devid,
                   uint32_t ioas, void *va, uint64_t *out)
{
    g_autofree IOMMUFDRange *ranges = NULL;
    uint64_t alignment;
    uint32_t id = 0;
    int ret = 0;

    switch (c->op) {
    case ALLOC_IOAS:
        ret = iommufd_backend_alloc_ioas(be, &id);
        *out = id;
        break;
    case IOVA_RANGES:
        ret = iommufd_backend_iova_ranges(be, ioas, &ranges, &id, &alignment);
        if (!ret) {
            check_ranges(c, ranges, id, alignment);
        }
        *out = id;
        break;
    case MAP:
        ret = iommufd_backend_map_dma(be, ioas, c->range.iova, c->range.size,
                                      va, c->readonly);
        break;
    case MAP_SHARED_FILE:
        if (c->file) {
            id = open(c->file, O_RDONLY);
        }
        ret = iommufd_backend_map_shared(be, ioas, c->range.iova,
                                         c->range.size, va,
                                         c->file ? id : file_fd, PAGE,
                                         c->readonly);
        if (c->file) {
            close(id);
        }
        break;
    case UNMAP:
        ret = iommufd_backend_unmap_dma(be, ioas, c->range.iova,
                                        c->range.size == UINT64_MAX ?
                                        UINT64_MAX :
                                        c->range.iova + c->range.size - 1,
                                        out);
        break;
    case HW_INFO:
        ret = iommufd_backend_get_hw_info(be, devid, out);
        break;
    case ALLOC_HWPT:
        ret = iommufd_backend_alloc_hwpt(be, devid, ioas, c->flags, &id);
        *out = id;
        break;
    }
    return ret;
}

static void test_call(const void *data)
{
    const Call *c = data;
    unsigned fds = count_fds();
    g_autofree char *log = NULL;
    g_autofree char *expected_log = NULL;
    void *va = c->ro_memory ? memory_ro :
               c->op == MAP_SHARED_FILE ? memory_file : memory;
    uint32_t devid, ioas, i;
    uint64_t out = 0, mapped;
    IOMMUFDBackend *be;
    int cdev;

    fake_kernel_control(c->control ?: "");
    be = new_object(&error_abort, NULL);
    cdev = bind_device(be, &devid);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    g_assert_cmpuint(ioas, ==, 2);
    for (i = 0; i < ARRAY_SIZE(c->there) && c->there[i].size; i++) {
        g_assert_cmpint(iommufd_backend_map_dma(be, ioas, c->there[i].iova,
                                                c->there[i].size, memory,
                                                false), ==, 0);
    }
    if (c->attach) {
        attach_device(cdev, ioas);
    }
    if (c->misaligned) {
        va = memory + 0x800;
    } else if (c->not_memory) {
        va = memory + MEMORY;           /* the guard behind it */
    }
    g_free(take_log());
    mapped = fake_kernel_counts().mapped;

    g_assert_cmpint(do_call(be, c, c->op == HW_INFO && c->wrong_id ? 9 : devid,
                            c->wrong_id ? 9 : ioas, va, &out),
                    ==, c->expect);
    log = take_log();
    g_assert_cmphex(fake_kernel_counts().mapped, ==, c->mapped_after);
    g_assert_cmpint(be->map_file, ==, c->map_file);
    if (!c->expect) {
        g_assert_cmpuint(out, ==, c->op == UNMAP ? mapped - c->mapped_after :
                                                   c->out);
    }
    if (c->log) {
        g_auto(GStrv) parts = g_strsplit(c->log, "@", 2);
        g_autofree char *hex = g_strdup_printf("0x%" PRIxPTR, (uintptr_t)va);

        expected_log = g_strjoinv(hex, parts);
        g_assert_cmpstr(log, ==, expected_log);
    }

    close(cdev);
    object_unparent(OBJECT(be));
    assert_nothing_left();
    g_assert_cmpuint(count_fds(), ==, fds);
}

/* An IOAS goes only when nothing uses it; the wrapper says so, and goes on */
static void test_destroy_busy(void)
{
    if (g_test_subprocess()) {
        IOMMUFDBackend *be = new_object(&error_abort, NULL);
        uint32_t devid, ioas;
        int cdev = bind_device(be, &devid);

        g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
        attach_device(cdev, ioas);
        iommufd_backend_destroy_id(be, ioas);
        g_assert_cmpuint(fake_kernel_counts().ioas, ==, 1);
        close(cdev);
        iommufd_backend_destroy_id(be, ioas);
        g_assert_cmpuint(fake_kernel_counts().ioas, ==, 0);
        object_unparent(OBJECT(be));
        assert_nothing_left();
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*warning: iommufd: IOMMU_DESTROY of object 2 "
                              "failed: Device or resource busy; it stays until "
                              "the descriptor is closed\n");
}

/* The object */

typedef struct Refusal {
    const char *name;
    const char *control;
    const char *path;           /* what fd= is a descriptor of, if anything */
    const char *fd;             /* or what it says */
    bool named;                 /* the descriptor came by name */
    const char *error;          /* "@" stands for the number */
} Refusal;

static const Refusal refusals[] = {
    { .name = "no-node", .control = "open /dev/iommu 2",
      .error = "iommufd: cannot open /dev/iommu: No such file or directory: "
               "this needs a kernel with CONFIG_IOMMUFD (load module iommufd), "
               "and the node in QEMU's /dev" },
    { .name = "no-device", .control = "open /dev/iommu 19",
      .error = "iommufd: cannot open /dev/iommu: No such device: "
               "this needs a kernel with CONFIG_IOMMUFD (load module iommufd), "
               "and the node in QEMU's /dev" },
    { .name = "no-permission", .control = "open /dev/iommu 13",
      .error = "iommufd: cannot open /dev/iommu: Permission denied: give "
               "QEMU's user read and write access to it, or pass a descriptor "
               "by fd=" },
    { .name = "anything-else", .control = "open /dev/iommu 24",
      .error = "iommufd: cannot open /dev/iommu: Too many open files" },
    { .name = "fd-of-null", .path = "/dev/null",
      .error = "iommufd: fd '@' is /dev/null, not an iommufd: pass a "
               "descriptor of /dev/iommu" },
    { .name = "fd-of-cdev", .path = FAKE_CDEV_PATH "0",
      .error = "iommufd: fd '@' is /dev/vfio/devices/vfio0, not an iommufd: "
               "pass a descriptor of /dev/iommu" },
    { .name = "fd-by-name-of-null", .path = "/dev/null", .named = true,
      .fd = "passed",
      .error = "iommufd: fd 'passed' is /dev/null, not an iommufd: pass a "
               "descriptor of /dev/iommu" },
    { .name = "fd-not-open", .fd = "987",
      .error = "iommufd: fd '987' is not open, not an iommufd: pass a "
               "descriptor of /dev/iommu" },
    { .name = "fd-no-such-name", .fd = "passed",
      .error = "iommufd: File descriptor named 'passed' has not been found" },
    { .name = "fd-no-number", .fd = "12x",
      .error = "iommufd: Invalid file descriptor number '12x'" },
    { .name = "fd-empty", .fd = "",
      .error = "iommufd: File descriptor named '' has not been found" },
};

static void test_refusal(const void *data)
{
    const Refusal *row = data;
    unsigned fds = count_fds();
    g_autofree char *number = NULL;
    g_autofree char *expected = NULL;
    g_auto(GStrv) parts = NULL;
    Error *err = NULL;
    int fd = -1;

    fake_kernel_control(row->control ?: "");
    if (row->path) {
        fd = open(row->path, O_RDWR);
        g_assert_cmpint(fd, >=, 0);
        number = g_strdup_printf("%d", fd);
        named_fd = row->named ? fd : -1;
    }
    g_assert_null(new_object(&err, row->fd ?: number));

    parts = g_strsplit(row->error, "@", 2);
    expected = g_strjoinv(number, parts);
    g_test_message("error: %s", error_get_pretty(err));
    g_assert_cmpstr(error_get_pretty(err), ==, expected);
    error_free(err);

    /* A number is the caller's still; a name is not */
    if (fd >= 0) {
        g_assert_cmpint(fcntl(fd, F_GETFD) >= 0, ==, !row->named);
        if (!row->named) {
            close(fd);
        }
    }
    assert_nothing_left();
    g_assert_cmpuint(count_fds(), ==, fds);
}

static void test_open(void)
{
    unsigned fds = count_fds();
    IOMMUFDBackend *be;

    fake_kernel_control("");
    be = new_object(&error_abort, NULL);
    g_assert_cmpuint(count_fds(), ==, fds + 1);
    g_assert_cmpint(fcntl(be->fd, F_GETFD), ==, FD_CLOEXEC);
    g_assert_cmpuint(fake_kernel_ioctls(), ==, 0);
    object_unparent(OBJECT(be));
    assert_nothing_left();
    g_assert_cmpuint(count_fds(), ==, fds);
}

/* By number and by name; the object then owns the descriptor */
static void test_adopt(const void *data)
{
    bool named = data;
    unsigned fds = count_fds();
    g_autofree char *number = NULL;
    g_autofree char *fd_property = NULL;
    Error *err = NULL;
    IOMMUFDBackend *be;
    uint32_t ioas;
    int fd;

    fake_kernel_control("");
    fd = open(FAKE_IOMMU_PATH, O_RDWR | O_CLOEXEC);
    number = g_strdup_printf("%d", fd);
    named_fd = named ? fd : -1;
    be = new_object(&error_abort, named ? "passed" : number);
    g_assert_cmpint(be->fd, ==, fd);
    g_assert_cmpuint(fake_kernel_counts().iommufds, ==, 1);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);

    fd_property = object_property_get_str(OBJECT(be), "fd", &error_abort);
    g_assert_cmpstr(fd_property, ==, named ? "passed" : number);
    g_assert_false(object_property_set_str(OBJECT(be), "fd", "0", &err));
    g_test_message("error: %s", error_get_pretty(err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "fd cannot be changed once the object exists");
    error_free(err);
    g_assert_cmpint(be->fd, ==, fd);

    object_unparent(OBJECT(be));
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, -1);
    assert_nothing_left();
    g_assert_cmpuint(count_fds(), ==, fds);
}

/* Another holder of a duplicate keeps what the object allocated */
static void test_adopt_duplicate(void)
{
    g_autofree char *number = NULL;
    IOMMUFDBackend *be;
    uint32_t ioas;
    int fd, copy;

    fake_kernel_control("");
    fd = open(FAKE_IOMMU_PATH, O_RDWR | O_CLOEXEC);
    copy = dup(fd);
    number = g_strdup_printf("%d", fd);
    be = new_object(&error_abort, number);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    object_unparent(OBJECT(be));
    g_assert_cmpuint(fake_kernel_counts().ioas, ==, 1);
    close(copy);
    assert_nothing_left();
}

/* An old kernel is asked once; only a page table finds out what a file is */
static void test_map_file(void)
{
    IOMMUFDBackend *be;
    uint32_t devid, ioas, i;
    g_autofree char *log = NULL;
    struct iommu_ioas_map_file map = {
        .size = sizeof(map),
        .flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE,
        .length = PAGE,
    };
    struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
    int cdev;

    fake_kernel_control("");
    be = new_object(&error_abort, NULL);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    g_free(take_log());
    for (i = 0; i < 2; i++) {
        g_assert_cmpint(iommufd_backend_map_shared(be, ioas, i * PAGE, PAGE,
                                                   memory_file, file_fd, PAGE,
                                                   false), ==, 0);
    }
    log = take_log();
    g_assert_nonnull(strstr(log, "MAP_FILE"));
    g_assert_null(strstr(strstr(log, "MAP_FILE") + 1, "MAP_FILE"));
    object_unparent(OBJECT(be));

    fake_kernel_control("map-file 1");
    be = new_object(&error_abort, NULL);
    cdev = bind_device(be, &devid);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    map.ioas_id = attach.pt_id = ioas;
    map.fd = open("/proc/self/maps", O_RDONLY);
    g_assert_cmpint(ioctl(be->fd, IOMMU_IOAS_MAP_FILE, &map), ==, 0);
    close(map.fd);
    g_assert_cmpint(ioctl(cdev, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach), ==,
                    -1);
    g_assert_cmpint(errno, ==, EINVAL);
    close(cdev);
    object_unparent(OBJECT(be));
    assert_nothing_left();
}

static void test_users(void)
{
    UserCreatableClass *ucc;
    IOMMUFDUser a, b;
    IOMMUFDBackend *be;
    char name[] = "device 'a'";

    fake_kernel_control("");
    be = new_object(&error_abort, NULL);
    ucc = USER_CREATABLE_GET_CLASS(be);
    g_assert_true(ucc->can_be_deleted(USER_CREATABLE(be)));

    iommufd_backend_get(be, &a, name);
    name[8] = 'x';                      /* it was copied */
    g_assert_false(ucc->can_be_deleted(USER_CREATABLE(be)));
    g_assert_cmpstr(ucc->in_use_by(USER_CREATABLE(be)), ==, "device 'a'");
    iommufd_backend_get(be, &b, "device 'b'");
    iommufd_backend_put(be, &a);
    g_assert_false(ucc->can_be_deleted(USER_CREATABLE(be)));
    g_assert_cmpstr(ucc->in_use_by(USER_CREATABLE(be)), ==, "device 'b'");

    /* A user keeps the object, and its descriptor, beyond its name */
    object_unparent(OBJECT(be));
    g_assert_cmpuint(fake_kernel_counts().iommufds, ==, 1);
    iommufd_backend_put(be, &b);
    assert_nothing_left();
}

static void test_object_del(void)
{
    Error *err = NULL;
    IOMMUFDUser user;
    IOMMUFDBackend *be;

    fake_kernel_control("");
    be = new_object(&error_abort, NULL);
    iommufd_backend_get(be, &user, "device 'hostdev0'");
    g_assert_false(user_creatable_del("be", &err));
    g_test_message("error: %s", error_get_pretty(err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "object 'be' is in use by device 'hostdev0', can not be "
                    "deleted");
    error_free(err);
    iommufd_backend_put(be, &user);
    g_assert_true(user_creatable_del("be", &error_abort));
    assert_nothing_left();
}

/* What an IOAS copies from another one */

typedef struct Copy {
    const char *name;
    const char *control;
    Range source[2];            /* mappings there */
    Range there;                /* in the IOAS that shall have a copy */
    bool source_ro, readonly, wrong_id;
    Range from;
    uint64_t to;
    int expect;
    const char *log;
} Copy;

static const Copy copies[] = {
    { .name = "whole", .source = { P(16, 4) }, .from = P(16, 4), .to = 0,
      .log = "IOMMU_IOAS_COPY ioas=2 iova=0x0 length=0x4000 from=3 at=0x10000 "
             "flags=0x7 = 0\n" },
    { .name = "part", .source = { P(16, 4) }, .from = P(17, 2), .to = PAGE },
    { .name = "readonly", .source = { P(16, 4) }, .from = P(16, 4),
      .readonly = true,
      .log = "IOMMU_IOAS_COPY ioas=2 iova=0x0 length=0x4000 from=3 at=0x10000 "
             "flags=0x5 = 0\n" },
    { .name = "two-mappings", .source = { P(16, 4), P(20, 4) },
      .from = P(18, 4) },
    { .name = "hole", .source = { P(16, 4), P(21, 4) }, .from = P(18, 4),
      .expect = -ENOENT },
    { .name = "beyond", .source = { P(16, 4) }, .from = P(18, 4),
      .expect = -ENOENT },
    { .name = "before", .source = { P(16, 4) }, .from = P(15, 4),
      .expect = -ENOENT },
    { .name = "empty", .from = P(16, 4), .expect = -ENOENT },
    { .name = "wrong-id", .source = { P(16, 4) }, .from = P(16, 4),
      .wrong_id = true, .expect = -ENOENT },
    { .name = "writable-of-readonly", .source = { P(16, 4) },
      .source_ro = true, .from = P(16, 4), .expect = -EPERM },
    { .name = "readonly-of-readonly", .source = { P(16, 4) },
      .source_ro = true, .readonly = true, .from = P(16, 4) },
    { .name = "exists", .source = { P(16, 4) }, .there = P(3, 1),
      .from = P(16, 4), .expect = -EEXIST },
    { .name = "reserved", .source = { P(16, 4) }, .from = P(16, 1),
      .to = 0xfee00000, .expect = -EINVAL },
    { .name = "misaligned", .source = { P(16, 4) },
      .from = { 0x10800, PAGE }, .expect = -EINVAL },
    /* What is pinned already costs nothing more */
    { .name = "memlock", .source = { P(16, 4) }, .control = "memlock 16384",
      .from = P(16, 4) },
};

static void test_copy(const void *data)
{
    const Copy *c = data;
    void *va = c->source_ro ? memory_ro : memory;
    uint32_t devid, ioas, source, hwpt, i;
    g_autofree char *log = NULL;
    uint64_t pinned, bytes;
    IOMMUFDBackend *be;
    int cdev;

    fake_kernel_control(c->control ?: "");
    be = new_object(&error_abort, NULL);
    cdev = bind_device(be, &devid);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &source), ==, 0);
    attach_device(cdev, ioas);
    g_assert_cmpint(iommufd_backend_alloc_hwpt(be, devid, source, 0, &hwpt),
                    ==, 0);
    for (i = 0; i < ARRAY_SIZE(c->source) && c->source[i].size; i++) {
        g_assert_cmpint(iommufd_backend_map_dma(be, source, c->source[i].iova,
                                                c->source[i].size, va,
                                                c->source_ro), ==, 0);
    }
    if (c->there.size) {
        g_assert_cmpint(iommufd_backend_map_dma(be, ioas, c->there.iova,
                                                c->there.size, va, false),
                        ==, 0);
    }
    pinned = fake_kernel_counts().pinned;
    g_free(take_log());

    g_assert_cmpint(iommufd_backend_copy_dma(be, ioas, c->to, c->from.size,
                                             c->wrong_id ? 9 : source,
                                             c->from.iova, c->readonly),
                    ==, c->expect);
    log = take_log();
    if (c->log) {
        g_assert_cmpstr(log, ==, c->log);
    }
    /* Pinned once; and the copy outlives its source, which is unpinned */
    g_assert_cmphex(fake_kernel_counts().pinned, ==, pinned);
    iommufd_backend_destroy_id(be, hwpt);
    iommufd_backend_destroy_id(be, source);
    if (!c->expect) {
        g_assert_cmphex(fake_kernel_counts().pinned, ==, c->from.size);
        g_assert_cmpint(iommufd_backend_unmap_dma(be, ioas, c->to, c->to +
                                                  c->from.size - 1, &bytes),
                        ==, 0);
        g_assert_cmphex(bytes, ==, c->from.size);
    }
    g_assert_cmphex(fake_kernel_counts().pinned, ==, c->there.size);

    close(cdev);
    object_unparent(OBJECT(be));
    assert_nothing_left();
}

/* The fake itself: what the wrappers cannot send, it must refuse */

typedef struct Strict {
    const char *name;
    unsigned long request;
    uint32_t words[32];
    int error;
} Strict;

static const Strict stricts[] = {
    { "too-small", IOMMU_DESTROY, { 4, 1 }, EINVAL },
    { "unknown", _IO(';', 0xa0), { 8, 1 }, ENOTTY },
    { "not-modelled", IOMMU_IOAS_ALLOW_IOVAS,
      { sizeof(struct iommu_ioas_allow_iovas) }, ENOTTY },
    { "larger", IOMMU_IOAS_ALLOC, { 16 }, 0 },
    { "larger-and-used", IOMMU_IOAS_ALLOC, { 16, 0, 0, 1 }, E2BIG },
    { "alloc-flags", IOMMU_IOAS_ALLOC, { 12, 1 }, EOPNOTSUPP },
    { "destroy-0", IOMMU_DESTROY, { 8, 0 }, ENOENT },
    { "destroy-device", IOMMU_DESTROY, { 8, 1 }, EBUSY },
    { "ranges-reserved", IOMMU_IOAS_IOVA_RANGES, { 32, 2, 0, 1 },
      EOPNOTSUPP },
    { "ranges-of-device", IOMMU_IOAS_IOVA_RANGES, { 32, 1 }, ENOENT },
    { "map-flags", IOMMU_IOAS_MAP, { 40, 0xf, 2 }, EOPNOTSUPP },
    { "map-reserved", IOMMU_IOAS_MAP, { 40, 0x7, 2, 1 }, EOPNOTSUPP },
    { "map-no-access", IOMMU_IOAS_MAP, { 40, 0x1, 2, 0, 0, 0, 4096 }, EINVAL },
    { "map-file-flags", IOMMU_IOAS_MAP_FILE, { 40, 0xf, 2 }, EOPNOTSUPP },
    { "map-file-not-open", IOMMU_IOAS_MAP_FILE, { 40, 7, 2, 987, 0, 0, 4096 },
      EBADF },
    { "copy-too-small", IOMMU_IOAS_COPY, { 36, 7, 2, 2, 4096 }, EINVAL },
    { "copy-flags", IOMMU_IOAS_COPY, { 40, 0xf, 2, 2, 4096 }, EOPNOTSUPP },
    { "copy-no-access", IOMMU_IOAS_COPY, { 40, 1, 2, 2, 4096 }, EINVAL },
    { "copy-nothing", IOMMU_IOAS_COPY, { 40, 7, 2, 2, 0 }, EINVAL },
    { "copy-overflow", IOMMU_IOAS_COPY,
      { 40, 7, 2, 2, 4096, 0, 0, 0, UINT32_MAX, UINT32_MAX }, EOVERFLOW },
    { "copy-wraps", IOMMU_IOAS_COPY,
      { 40, 7, 2, 2, 4096, 0, 0, 0, -4095u, UINT32_MAX }, EOVERFLOW },
    { "unmap-overflow", IOMMU_IOAS_UNMAP,
      { 24, 2, 1, 0, UINT32_MAX, UINT32_MAX }, EOVERFLOW },
    { "unmap-nothing", IOMMU_IOAS_UNMAP, { 24, 2 }, EINVAL },
    { "option-unknown", IOMMU_OPTION, { 24, 7, 1 }, EOPNOTSUPP },
    { "option-reserved", IOMMU_OPTION, { 24, 0, 0x10001 }, EOPNOTSUPP },
    { "option-mode-late", IOMMU_OPTION, { 24, 0, 0, 0, 1 }, EBUSY },
    { "option-huge-pages-of-device", IOMMU_OPTION, { 24, 1, 1, 1 }, ENOENT },
    { "hwpt-flags", IOMMU_HWPT_ALLOC, { 48, 0x100, 1, 2 }, EOPNOTSUPP },
    { "hwpt-reserved", IOMMU_HWPT_ALLOC, { 48, 0, 1, 2, 0, 1 }, EOPNOTSUPP },
    { "hwpt-data", IOMMU_HWPT_ALLOC, { 48, 0, 1, 2, 0, 0, 0, 8 }, EINVAL },
    { "hw-info-flags", IOMMU_GET_HW_INFO, { 40, 1, 1 }, EOPNOTSUPP },
    { "hw-info-of-ioas", IOMMU_GET_HW_INFO, { 40, 0, 2 }, ENOENT },
};

static void test_strict(const void *data)
{
    const Strict *row = data;
    uint32_t words[32], devid, ioas;
    IOMMUFDBackend *be;
    int cdev, ret;

    fake_kernel_control("map-file 1");
    be = new_object(&error_abort, NULL);
    cdev = bind_device(be, &devid);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    memcpy(words, row->words, sizeof(words));
    ret = ioctl(be->fd, row->request, words) ? errno : 0;
    g_assert_cmpint(ret, ==, row->error);
    close(cdev);
    object_unparent(OBJECT(be));
    assert_nothing_left();
}

/* The same for a cdev: what it answers before and after it is bound */
typedef struct StrictCdev {
    const char *name;
    const char *control;
    bool bound;
    unsigned long request;
    uint32_t words[8];
    int error;
} StrictCdev;

#define IOMMUFD UINT32_MAX      /* stands for the object's descriptor */

static const StrictCdev strict_cdevs[] = {
    { "unbound-info", "", false, VFIO_DEVICE_GET_INFO, { 20 }, EINVAL },
    { "unbound-attach", "", false, VFIO_DEVICE_ATTACH_IOMMUFD_PT, { 12, 0, 2 },
      EINVAL },
    { "unbound-reset", "", false, VFIO_DEVICE_RESET, { }, EINVAL },
    { "unbound-unknown", "", false, _IO(';', 0xff), { }, EINVAL },
    { "bind", "", false, VFIO_DEVICE_BIND_IOMMUFD, { 16, 0, IOMMUFD }, 0 },
    { "bind-small", "", false, VFIO_DEVICE_BIND_IOMMUFD, { 12, 0, IOMMUFD },
      EINVAL },
    { "bind-flags", "", false, VFIO_DEVICE_BIND_IOMMUFD, { 16, 1, IOMMUFD },
      EINVAL },
    { "bind-not-open", "", false, VFIO_DEVICE_BIND_IOMMUFD, { 16, 0, 987 },
      EBADF },
    { "bind-not-iommufd", "", false, VFIO_DEVICE_BIND_IOMMUFD, { 16, 0, 0 },
      EBADFD },
    { "bind-group-open", "group-open 0", false, VFIO_DEVICE_BIND_IOMMUFD,
      { 16, 0, IOMMUFD }, EBUSY },
    { "bind-unsafe", "unsafe 0", false, VFIO_DEVICE_BIND_IOMMUFD,
      { 16, 0, IOMMUFD }, EPERM },
    { "bind-twice", "", true, VFIO_DEVICE_BIND_IOMMUFD, { 16, 0, IOMMUFD },
      EINVAL },
    { "info", "", true, VFIO_DEVICE_GET_INFO, { 20 }, 0 },
    { "unknown", "", true, _IO(';', 0xff), { }, ENOTTY },
    { "attach", "", true, VFIO_DEVICE_ATTACH_IOMMUFD_PT, { 12, 0, 2 }, 0 },
    { "attach-flags", "", true, VFIO_DEVICE_ATTACH_IOMMUFD_PT, { 12, 1, 2 },
      EINVAL },
    { "attach-nothing", "", true, VFIO_DEVICE_ATTACH_IOMMUFD_PT, { 12, 0, 9 },
      ENOENT },
    { "attach-device", "", true, VFIO_DEVICE_ATTACH_IOMMUFD_PT, { 12, 0, 1 },
      EINVAL },
    { "detach-not-attached", "", true, VFIO_DEVICE_DETACH_IOMMUFD_PT, { 8 },
      0 },
    { "region-wrong", "", true, VFIO_DEVICE_GET_REGION_INFO, { 32, 0, 9 },
      EINVAL },
    { "irqs-msix", "", true, VFIO_DEVICE_SET_IRQS, { 20, 0x21, 2, 0, 0 },
      EINVAL },
    { "irqs-mask-unused", "", true, VFIO_DEVICE_SET_IRQS, { 20, 0x9, 0, 0, 1 },
      EINVAL },
    { "hot-reset-with-fds", "", true, VFIO_DEVICE_PCI_HOT_RESET, { 12, 0, 1 },
      EINVAL },
    { "hot-reset-not-ours", "shared-bus 0 -1", true, VFIO_DEVICE_PCI_HOT_RESET,
      { 12 }, EINVAL },
};

static void test_strict_cdev(const void *data)
{
    const StrictCdev *row = data;
    unsigned fds = count_fds();
    uint32_t words[32] = { }, devid, ioas = 2, config;
    IOMMUFDBackend *be;
    int cdev, ret;
    void *bar;

    fake_kernel_control(row->control);
    be = new_object(&error_abort, NULL);
    if (row->bound) {
        cdev = bind_device(be, &devid);
        g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    } else {
        cdev = open(FAKE_CDEV_PATH "0", O_RDWR | O_CLOEXEC);
    }
    memcpy(words, row->words, sizeof(row->words));
    if (words[2] == IOMMUFD) {
        words[2] = be->fd;
    }

    ret = pread(cdev, &config, sizeof(config), 7ULL << 40);
    g_assert_cmpint(ret, ==, row->bound ? sizeof(config) : -1);
    bar = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, cdev, 0);
    g_assert_true((bar != MAP_FAILED) == row->bound);
    if (row->bound) {
        g_assert_cmphex(config, ==, 0x11e81234);
        munmap(bar, PAGE);
    }

    ret = ioctl(cdev, row->request, words) ? errno : 0;
    g_assert_cmpint(ret, ==, row->error);

    close(cdev);
    object_unparent(OBJECT(be));
    assert_nothing_left();
    g_assert_cmpuint(count_fds(), ==, fds);
}

/* The leak report sees what is left behind */
static void test_leak_report(void)
{
    g_autofree char *log = NULL;
    uint32_t devid, ioas;
    IOMMUFDBackend *be;
    void *bar;
    int cdev;

    fake_kernel_control("");
    be = new_object(&error_abort, NULL);
    cdev = bind_device(be, &devid);
    g_assert_cmpint(iommufd_backend_alloc_ioas(be, &ioas), ==, 0);
    g_assert_cmpint(iommufd_backend_map_dma(be, ioas, 0, PAGE, memory, false),
                    ==, 0);
    bar = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, cdev, 0);
    attach_device(cdev, ioas);
    /* A BAR is nothing that the IOMMU may reach */
    g_assert_cmpint(iommufd_backend_map_dma(be, ioas, PAGE, PAGE, bar, true),
                    ==, -EFAULT);
    g_free(take_log());
    object_unparent(OBJECT(be));
    close(cdev);
    log = take_log();
    g_assert_cmpstr(log, ==,
                    "gone /dev/iommu bound=1 ioas=1 hwpts=1 areas=1\n"
                    "gone /dev/vfio/devices/vfio0 mapped=1\n");
    munmap(bar, PAGE);
    assert_nothing_left();
}

static void add(const char *group, const char *name, const void *data,
                GTestDataFunc fn)
{
    g_autofree char *path = g_strdup_printf("/iommufd/%s/%s", group, name);

    g_test_add_data_func(path, data, fn);
}

int main(int argc, char **argv)
{
    int fd, ret;
    size_t i;

    g_test_init(&argc, &argv, NULL);
    module_call_init(MODULE_INIT_QOM);

    fd = g_file_open_tmp("iommufd-log-XXXXXX", &log_path, NULL);
    close(fd);
    g_setenv("FAKE_KERNEL_LOG", log_path, true);
    memory = mmap(NULL, MEMORY + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    mprotect(memory, MEMORY, PROT_READ | PROT_WRITE);
    memory_ro = mmap(NULL, MEMORY, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
    file_fd = memfd_create("memory", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(file_fd, PAGE + MEMORY), ==, 0);
    memory_file = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED,
                       file_fd, PAGE);

    for (i = 0; i < ARRAY_SIZE(calls); i++) {
        add("call", calls[i].name, &calls[i], test_call);
    }
    for (i = 0; i < ARRAY_SIZE(copies); i++) {
        add("copy", copies[i].name, &copies[i], test_copy);
    }
    for (i = 0; i < ARRAY_SIZE(refusals); i++) {
        add("refusal", refusals[i].name, &refusals[i], test_refusal);
    }
    for (i = 0; i < ARRAY_SIZE(stricts); i++) {
        add("strict", stricts[i].name, &stricts[i], test_strict);
    }
    for (i = 0; i < ARRAY_SIZE(strict_cdevs); i++) {
        add("strict-cdev", strict_cdevs[i].name, &strict_cdevs[i],
            test_strict_cdev);
    }
    g_test_add_func("/iommufd/leak-report", test_leak_report);
    add("adopt", "number", NULL, test_adopt);
    add("adopt", "name", "", test_adopt);
    g_test_add_func("/iommufd/adopt/duplicate", test_adopt_duplicate);
    g_test_add_func("/iommufd/open", test_open);
    g_test_add_func("/iommufd/map-file", test_map_file);
    g_test_add_func("/iommufd/users", test_users);
    g_test_add_func("/iommufd/object-del", test_object_del);
    g_test_add_func("/iommufd/destroy-busy", test_destroy_busy);

    ret = g_test_run();
    unlink(log_path);
    g_free(log_path);
    return ret;
}
