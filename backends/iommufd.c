/*
 * The iommufd object: QEMU's handle on /dev/iommu
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the iommufd descriptor, from completion of the object to its
 * finalization.  Without fd= it opens /dev/iommu; with fd= it takes over the
 * descriptor: a name that QMP getfd gave (monitor_fd_param() then drops the
 * name) or the number of one that QEMU inherited.  Other processes may hold
 * duplicates, so nothing here assumes to be the last holder, re-opens by path,
 * or changes options that the manager may have set.
 * Borrows: nothing.  Knows nothing of VFIO, guest memory or KVM.
 *
 * Invariants: fd >= 0 exactly while the object is complete; every user holds a
 * reference, so finalization happens without users; kernel objects are freed
 * by whoever allocated them, and by the kernel when the descriptor's last
 * holder is gone.  An object needs the kernel's help; the type needs neither
 * /dev/iommu nor privileges (-machine none).
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <linux/magic.h>

#include "sysemu/iommufd.h"
#include "iommufd-uapi.h"
#include "qapi/error.h"
#include "qapi/qmp/qnum.h"
#include "qapi/qmp/qstring.h"
#include "qapi/visitor-impl.h"
#include "qemu/ctype.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qom/object_interfaces.h"
#include "monitor/monitor.h"
#include "trace.h"

#define IOMMUFD_NODE "/dev/iommu"

/* Enough for what IOMMUs have: a hole for MSIs, one or two more */
#define IOVA_RANGES_GUESS 16

#define MAP_THREADS_MAX 256

void iommufd_backend_get(IOMMUFDBackend *be, IOMMUFDUser *user,
                         const char *name)
{
    object_ref(OBJECT(be));
    user->name = g_strdup(name);
    QLIST_INSERT_HEAD(&be->users, user, next);
    trace_iommufd_backend_get(be->fd, name);
}

void iommufd_backend_put(IOMMUFDBackend *be, IOMMUFDUser *user)
{
    trace_iommufd_backend_put(be->fd, user->name);
    QLIST_REMOVE(user, next);
    g_free(user->name);
    object_unref(OBJECT(be));
}

void iommufd_backend_add_report(IOMMUFDBackend *be, IOMMUFDReport *report)
{
    QLIST_INSERT_HEAD(&be->reports, report, next);
}

/* ENOTTY: the kernel has no such ioctl.  Any other answer: it has. */
static OnOffAuto iommufd_has_ioctl(int ret)
{
    return ret == -ENOTTY ? ON_OFF_AUTO_OFF : ON_OFF_AUTO_ON;
}

static int iommufd_accounting(int fd, bool *per_process)
{
    struct iommu_option option = {
        .size = sizeof(option),
        .option_id = IOMMU_OPTION_RLIMIT_MODE,
        .op = IOMMU_OPTION_OP_GET,
    };
    int ret = ioctl(fd, IOMMU_OPTION, &option) ? -errno : 0;

    *per_process = option.val64;
    return ret;
}

int iommufd_backend_accounting(IOMMUFDBackend *be, bool *per_process)
{
    return iommufd_accounting(be->fd, per_process);
}

void iommufd_backend_destroy_id(IOMMUFDBackend *be, uint32_t id)
{
    struct iommu_destroy destroy = {
        .size = sizeof(destroy),
        .id = id,
    };
    int ret = ioctl(be->fd, IOMMU_DESTROY, &destroy) ? -errno : 0;

    trace_iommufd_backend_destroy_id(be->fd, id, ret);
    if (ret) {
        warn_report("iommufd: IOMMU_DESTROY of object %" PRIu32 " failed: %s; "
                    "it stays until the descriptor is closed",
                    id, strerror(-ret));
    }
}

int iommufd_backend_alloc_ioas(IOMMUFDBackend *be, uint32_t *ioas_id)
{
    struct iommu_ioas_alloc alloc = {
        .size = sizeof(alloc),
    };
    int ret = ioctl(be->fd, IOMMU_IOAS_ALLOC, &alloc) ? -errno : 0;

    *ioas_id = alloc.out_ioas_id;
    trace_iommufd_backend_alloc_ioas(be->fd, *ioas_id, ret);
    return ret;
}

int iommufd_backend_iova_ranges(IOMMUFDBackend *be, uint32_t ioas_id,
                                IOMMUFDRange **ranges, uint32_t *nr,
                                uint64_t *alignment)
{
    g_autofree struct iommu_iova_range *buf = NULL;
    struct iommu_ioas_iova_ranges query = {
        .size = sizeof(query),
        .ioas_id = ioas_id,
        .num_iovas = IOVA_RANGES_GUESS,
    };
    uint32_t i, room;
    int ret;

    do {
        /* The kernel says how many there are if the array is too small */
        room = query.num_iovas;
        buf = g_renew(struct iommu_iova_range, buf, room);
        query.allowed_iovas = (uintptr_t)buf;
        ret = ioctl(be->fd, IOMMU_IOAS_IOVA_RANGES, &query) ? -errno : 0;
    } while (ret == -EMSGSIZE && query.num_iovas > room);

    trace_iommufd_backend_iova_ranges(be->fd, ioas_id, query.num_iovas,
                                      query.out_iova_alignment, ret);
    if (ret) {
        return ret;
    }

    *ranges = g_new(IOMMUFDRange, query.num_iovas);
    *nr = query.num_iovas;
    *alignment = query.out_iova_alignment;
    for (i = 0; i < *nr; i++) {
        (*ranges)[i] = (IOMMUFDRange) { buf[i].start, buf[i].last };
    }
    return 0;
}

int iommufd_backend_map_dma(IOMMUFDBackend *be, uint32_t ioas_id,
                            uint64_t iova, uint64_t size, void *vaddr,
                            bool readonly)
{
    struct iommu_ioas_map map = {
        .size = sizeof(map),
        .flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
                 (readonly ? 0 : IOMMU_IOAS_MAP_WRITEABLE),
        .ioas_id = ioas_id,
        .user_va = (uintptr_t)vaddr,
        .length = size,
        .iova = iova,
    };
    int ret = ioctl(be->fd, IOMMU_IOAS_MAP, &map) ? -errno : 0;

    trace_iommufd_backend_map_dma(be->fd, ioas_id, iova, size, vaddr, readonly,
                                  ret);
    return ret;
}

/* memfd_pin_folios(): "a memfd is either backed by shmem or hugetlb" */
static bool iommufd_pins_file(int fd)
{
    struct statfs fs;
    struct stat st;

    return !fstat(fd, &st) && S_ISREG(st.st_mode) && !fstatfs(fd, &fs) &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC);
}

int iommufd_backend_map_file(IOMMUFDBackend *be, uint32_t ioas_id,
                             uint64_t iova, uint64_t size, int fd,
                             uint64_t offset, bool readonly)
{
    struct iommu_ioas_map_file map = {
        .size = sizeof(map),
        .flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
                 (readonly ? 0 : IOMMU_IOAS_MAP_WRITEABLE),
        .ioas_id = ioas_id,
        .fd = fd,
        .start = offset,
        .length = size,
        .iova = iova,
    };
    int ret = ioctl(be->fd, IOMMU_IOAS_MAP_FILE, &map) ? -errno : 0;

    trace_iommufd_backend_map_file(be->fd, ioas_id, iova, size, fd, offset,
                                   readonly, ret);
    return ret;
}

int iommufd_backend_map_shared(IOMMUFDBackend *be, uint32_t ioas_id,
                               uint64_t iova, uint64_t size, void *vaddr,
                               int fd, uint64_t offset, bool readonly)
{
    int refused = 0, ret;

    if (be->map_file != ON_OFF_AUTO_OFF && iommufd_pins_file(fd)) {
        refused = iommufd_backend_map_file(be, ioas_id, iova, size, fd, offset,
                                           readonly);
        be->map_file = iommufd_has_ioctl(refused);
        if (refused != -ENOTTY && refused != -EINVAL) {
            return refused;
        }
    }

    ret = iommufd_backend_map_dma(be, ioas_id, iova, size, vaddr, readonly);
    if (refused && !ret) {
        be->map_file = ON_OFF_AUTO_OFF; /* so it was the file */
    }
    return ret;
}

int iommufd_backend_copy_dma(IOMMUFDBackend *be, uint32_t ioas_id,
                             uint64_t iova, uint64_t size, uint32_t src_ioas_id,
                             uint64_t src_iova, bool readonly)
{
    struct iommu_ioas_copy copy = {
        .size = sizeof(copy),
        .flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
                 (readonly ? 0 : IOMMU_IOAS_MAP_WRITEABLE),
        .dst_ioas_id = ioas_id,
        .src_ioas_id = src_ioas_id,
        .length = size,
        .dst_iova = iova,
        .src_iova = src_iova,
    };
    int ret = ioctl(be->fd, IOMMU_IOAS_COPY, &copy) ? -errno : 0;

    trace_iommufd_backend_copy_dma(be->fd, ioas_id, iova, size, src_ioas_id,
                                   src_iova, readonly, ret);
    return ret;
}

int iommufd_backend_unmap_dma(IOMMUFDBackend *be, uint32_t ioas_id,
                              uint64_t iova, uint64_t last,
                              uint64_t *unmapped)
{
    struct iommu_ioas_unmap unmap = {
        .size = sizeof(unmap),
        .ioas_id = ioas_id,
        .iova = iova,
        /* all of 2^64 is spelled UINT64_MAX */
        .length = last - iova == UINT64_MAX ? UINT64_MAX : last - iova + 1,
    };
    int ret = ioctl(be->fd, IOMMU_IOAS_UNMAP, &unmap) ? -errno : 0;

    trace_iommufd_backend_unmap_dma(be->fd, ioas_id, iova, last, ret);
    if (!ret) {
        *unmapped = unmap.length;
    }
    return ret;
}

int iommufd_backend_get_hw_info(IOMMUFDBackend *be, uint32_t devid,
                                uint64_t *caps)
{
    struct iommu_hw_info info = {
        .size = sizeof(info),
        .dev_id = devid,
    };
    int ret = ioctl(be->fd, IOMMU_GET_HW_INFO, &info) ? -errno : 0;

    *caps = info.out_capabilities;
    be->hw_info = iommufd_has_ioctl(ret);
    trace_iommufd_backend_get_hw_info(be->fd, devid, info.out_data_type, *caps,
                                      ret);
    return ret;
}

int iommufd_backend_alloc_hwpt(IOMMUFDBackend *be, uint32_t devid,
                               uint32_t ioas_id, uint32_t flags,
                               uint32_t *hwpt_id)
{
    struct iommu_hwpt_alloc alloc = {
        .size = sizeof(alloc),
        .flags = flags,
        .dev_id = devid,
        .pt_id = ioas_id,
        .data_type = IOMMU_HWPT_DATA_NONE,
    };
    int ret = ioctl(be->fd, IOMMU_HWPT_ALLOC, &alloc) ? -errno : 0;

    *hwpt_id = alloc.out_hwpt_id;
    be->hwpt_alloc = iommufd_has_ioctl(ret);
    trace_iommufd_backend_alloc_hwpt(be->fd, devid, ioas_id, flags, *hwpt_id,
                                     ret);
    return ret;
}

/* The object */

static bool iommufd_backend_open(IOMMUFDBackend *be, Error **errp)
{
    int fd = qemu_open_old(IOMMUFD_NODE, O_RDWR);

    if (fd >= 0) {
        be->fd = fd;
        return true;
    }

    switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        error_setg(errp, "cannot open " IOMMUFD_NODE ": %s: this needs a "
                   "kernel with CONFIG_IOMMUFD (load module iommufd), and the "
                   "node in QEMU's /dev", strerror(errno));
        break;
    case EACCES:
    case EPERM:
        error_setg(errp, "cannot open " IOMMUFD_NODE ": %s: give QEMU's user "
                   "read and write access to it, or pass a descriptor by fd=",
                   strerror(errno));
        break;
    default:
        error_setg_errno(errp, errno, "cannot open " IOMMUFD_NODE);
    }
    return false;
}

/* What a descriptor is decides, not what the user says of it */
static bool iommufd_backend_is_iommufd(int fd)
{
    struct stat st;
    bool unused;

    return !fstat(fd, &st) && S_ISCHR(st.st_mode) &&
           !iommufd_accounting(fd, &unused);
}

char *iommufd_fd_name(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);

    return g_file_read_link(link, NULL) ?: g_strdup("not open");
}

static int iommufd_backend_has_fd(Object *child, void *fd)
{
    return object_dynamic_cast(child, TYPE_IOMMUFD_BACKEND) &&
           IOMMUFD_BACKEND(child)->fd == *(int *)fd;
}

static bool iommufd_backend_adopt(IOMMUFDBackend *be, Error **errp)
{
    bool by_number = qemu_isdigit(be->fd_param[0]);
    int fd = monitor_fd_param(monitor_cur(), be->fd_param, errp);
    g_autofree char *what = NULL;

    if (fd < 0) {
        return false;
    }
    if (object_child_foreach(object_get_objects_root(), iommufd_backend_has_fd,
                             &fd)) {
        error_setg(errp, "fd '%s' belongs to another iommufd object: each "
                   "needs a descriptor of its own", be->fd_param);
        return false;
    }
    if (iommufd_backend_is_iommufd(fd)) {
        be->fd = fd;
        return true;
    }

    what = iommufd_fd_name(fd);
    error_setg(errp, "fd '%s' is %s, not an iommufd: pass a descriptor of "
               IOMMUFD_NODE, be->fd_param, what);
    if (!by_number) {
        close(fd);              /* getfd's: its name is gone, it is ours */
    }
    return false;
}

static void iommufd_backend_complete(UserCreatable *uc, Error **errp)
{
    ERRP_GUARD();
    IOMMUFDBackend *be = IOMMUFD_BACKEND(uc);
    bool ok = be->fd_param ? iommufd_backend_adopt(be, errp)
                           : iommufd_backend_open(be, errp);

    if (!ok) {
        error_prepend(errp, "iommufd: ");
        return;
    }
    trace_iommufd_backend_complete(be->fd, be->fd_param ?: IOMMUFD_NODE);
}

static bool iommufd_backend_can_be_deleted(UserCreatable *uc)
{
    return QLIST_EMPTY(&IOMMUFD_BACKEND(uc)->users);
}

static const char *iommufd_backend_in_use_by(UserCreatable *uc)
{
    return QLIST_FIRST(&IOMMUFD_BACKEND(uc)->users)->name;
}

bool iommufd_visit_fd(Visitor *v, const char *name, char **fd, Error **errp)
{
    QObject *value = NULL;
    char *str = *fd;
    int64_t number;

    /* A visitor that knows no JSON (-global) has strings only */
    if (!(v->type & VISITOR_INPUT) || !v->type_any) {
        if (!visit_type_str(v, name, &str, errp)) {
            return false;
        }
    } else {
        if (!visit_type_any(v, name, &value, errp)) {
            return false;
        }
        if (qobject_type(value) == QTYPE_QNUM &&
            qnum_get_try_int(qobject_to(QNum, value), &number)) {
            str = g_strdup_printf("%" PRId64, number);
        } else if (qobject_type(value) == QTYPE_QSTRING) {
            str = g_strdup(qstring_get_str(qobject_to(QString, value)));
        } else {
            error_setg(errp, "Invalid parameter type for '%s', expected: "
                       "string or number", name ?: "fd");
        }
        qobject_unref(value);
        if (str == *fd) {
            return false;
        }
    }
    if (v->type & VISITOR_INPUT) {
        g_free(*fd);
        *fd = str;
    }
    return true;
}

static void iommufd_backend_fd(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    IOMMUFDBackend *be = IOMMUFD_BACKEND(obj);

    if ((v->type & VISITOR_INPUT) && be->fd >= 0) {
        error_setg(errp, "fd cannot be changed once the object exists");
        return;
    }
    iommufd_visit_fd(v, name, &be->fd_param, errp);
}

static bool iommufd_backend_get_map_background(Object *obj, Error **errp)
{
    return IOMMUFD_BACKEND(obj)->map_background;
}

static void iommufd_backend_set_map_background(Object *obj, bool value,
                                               Error **errp)
{
    IOMMUFD_BACKEND(obj)->map_background = value;
}

static void iommufd_backend_map_threads(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp)
{
    IOMMUFDBackend *be = IOMMUFD_BACKEND(obj);
    uint32_t threads = be->map_threads;

    if (!visit_type_uint32(v, name, &threads, errp)) {
        return;
    }
    if (threads > MAP_THREADS_MAX) {
        error_setg(errp, "map-threads must be 1 to %d, or 0 to let the number "
                   "of CPUs decide", MAP_THREADS_MAX);
        return;
    }
    be->map_threads = threads;
}

static bool iommufd_backend_get_huge_pages(Object *obj, Error **errp)
{
    return IOMMUFD_BACKEND(obj)->huge_pages;
}

static void iommufd_backend_set_huge_pages(Object *obj, bool value,
                                           Error **errp)
{
    IOMMUFD_BACKEND(obj)->huge_pages = value;
}

static void iommufd_backend_init(Object *obj)
{
    IOMMUFDBackend *be = IOMMUFD_BACKEND(obj);

    be->fd = -1;
    be->map_background = true;
    be->huge_pages = true;
    be->hw_info = ON_OFF_AUTO_AUTO;
    be->hwpt_alloc = ON_OFF_AUTO_AUTO;
    be->map_file = ON_OFF_AUTO_AUTO;
    QLIST_INIT(&be->users);
    QLIST_INIT(&be->reports);
}

static void iommufd_backend_finalize(Object *obj)
{
    IOMMUFDBackend *be = IOMMUFD_BACKEND(obj);

    if (be->fd >= 0) {
        trace_iommufd_backend_close(be->fd);
        close(be->fd);
    }
    g_free(be->fd_param);
}

static void iommufd_backend_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = iommufd_backend_complete;
    ucc->can_be_deleted = iommufd_backend_can_be_deleted;
    ucc->in_use_by = iommufd_backend_in_use_by;

    object_class_property_add(oc, "fd", "string", iommufd_backend_fd,
                              iommufd_backend_fd, NULL, NULL);
    object_class_property_set_description(oc, "fd",
        "an open " IOMMUFD_NODE ": the number of an inherited descriptor or a "
        "name given by getfd (default: open " IOMMUFD_NODE ")");
    object_class_property_add_bool(oc, "map-background",
                                   iommufd_backend_get_map_background,
                                   iommufd_backend_set_map_background);
    object_class_property_set_description(oc, "map-background",
        "map guest RAM while the machine runs already, until a device enables "
        "bus mastering (default: on)");
    object_class_property_add(oc, "map-threads", "uint32",
                              iommufd_backend_map_threads,
                              iommufd_backend_map_threads, NULL, NULL);
    object_class_property_set_description(oc, "map-threads",
        "threads that fill guest RAM before it is mapped (default: 0, the "
        "number of CPUs, at most 8 for each NUMA node)");
    object_class_property_add_bool(oc, "huge-pages",
                                   iommufd_backend_get_huge_pages,
                                   iommufd_backend_set_huge_pages);
    object_class_property_set_description(oc, "huge-pages",
        "let the IOMMU translate by huge pages; off: dirty tracking counts in "
        "the host's smallest pages (default: on)");
}

static const TypeInfo iommufd_backend_info = {
    .name = TYPE_IOMMUFD_BACKEND,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(IOMMUFDBackend),
    .instance_init = iommufd_backend_init,
    .instance_finalize = iommufd_backend_finalize,
    .class_init = iommufd_backend_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void register_types(void)
{
    type_register_static(&iommufd_backend_info);
}

type_init(register_types);
