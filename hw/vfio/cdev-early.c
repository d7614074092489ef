/*
 * Device side of VFIO over iommufd: bind before the machine is made
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernel resets a PCI device when it is bound, which takes 100 ms and more
 * for each, in one ioctl.  Nothing of it depends on the machine.  So for each
 * -device vfio-pci,iommufd= the cdev is opened, told to KVM and bound in a
 * thread of its own as soon as there are accelerators and objects; the devices
 * are reset side by side, while the machine is made, and realize finds them
 * bound (vfio_early_take()).
 *
 * Owns: the descriptors and threads of devices that are not realized yet, and
 * the names of groups.  What nobody has taken when all devices of the command
 * line are there is closed.
 *
 * It is done for what is plain: one of host=, sysfsdev= and fd= by number, in
 * an IOMMU group that no device before it uses as a group, and no -global that
 * could say more of it (a descriptor is bound once, with the token or without).
 * With anything else, or if a step before BIND fails, realize does it all and
 * says what is wrong.  If BIND fails, realize is given the errno.
 *
 * A thread makes one ioctl and touches nothing else; the rest has the BQL.
 *
 * Kernel facts (Linux 6.6 on): BIND waits for the reset with a lock that only
 * devices share which cannot be reset one by one (a slot or bus), so others go
 * on at the same time.  While a device with ATS is reset, newer kernels (seen:
 * 7.3) refuse to attach any device of its IOMMU group, with EBUSY.
 */

#include "qemu/osdep.h"

#include "cdev.h"
#include "hw/qdev-early.h"
#include "prefault.h"
#include "qapi/qmp/qnum.h"
#include "qapi/qmp/qstring.h"
#include "qemu/config-file.h"
#include "qemu/cutils.h"
#include "qemu/option.h"
#include "sysemu/sysemu.h"
#include "trace.h"

typedef struct VFIOEarly {
    IOMMUFDBackend *be;
    IOMMUFDUser user;
    dev_t rdev;
    char *group;                /* the IOMMU group's number, or NULL */
    int fd;
    bool passed;                /* by fd=: its owner's until it is bound */
    bool in_kvm;
    GThread *thread;            /* makes the ioctl; NULL: it was made */
    uint32_t devid;
    int ret;                    /* of BIND */
    QLIST_ENTRY(VFIOEarly) next;
} VFIOEarly;

static QLIST_HEAD(, VFIOEarly) vfio_early =
    QLIST_HEAD_INITIALIZER(vfio_early);

/* IOMMU groups that devices without iommufd= will open, by number */
static GHashTable *vfio_early_groups;

static gpointer vfio_early_bind(gpointer opaque)
{
    VFIOEarly *e = opaque;

    e->ret = vfio_cdev_bind_fd(e->fd, e->be, NULL, &e->devid);
    return NULL;
}

static void vfio_early_wait(VFIOEarly *e)
{
    if (e->thread) {
        g_thread_join(e->thread);
        e->thread = NULL;
    }
}

/* Wait for the thread, and let go of all but the descriptor */
static void vfio_early_end(VFIOEarly *e)
{
    vfio_early_wait(e);
    trace_vfio_cdev_early(e->fd, e->devid, e->ret);
    QLIST_REMOVE(e, next);
    iommufd_backend_put(e->be, &e->user);
    g_free(e->group);
}

static void vfio_early_drop(VFIOEarly *e)
{
    vfio_early_end(e);
    if (e->in_kvm) {
        vfio_kvm_device_del_fd(e->fd);
    }
    if (!e->passed || !e->ret) {
        close(e->fd);
    }
    g_free(e);
}

/* All devices of the command line are there */
static void vfio_early_machine_done(Notifier *n, void *opaque)
{
    VFIOEarly *e, *tmp;

    QLIST_FOREACH_SAFE(e, &vfio_early, next, tmp) {
        vfio_early_drop(e);
    }
    vfio_ioas_end_early();
}

static Notifier vfio_early_notifier = { .notify = vfio_early_machine_done };

static VFIOEarly *vfio_early_find(dev_t rdev)
{
    VFIOEarly *e;

    QLIST_FOREACH(e, &vfio_early, next) {
        if (e->rdev == rdev) {
            return e;
        }
    }
    return NULL;
}

bool vfio_early_take(VFIOCdev *cdev, int *ret)
{
    VFIOEarly *e = vfio_early_find(cdev->rdev);

    if (!e) {
        return false;
    }
    vfio_early_end(e);
    cdev->fd = e->fd;
    cdev->in_kvm = e->in_kvm;
    cdev->devid = e->devid;
    *ret = e->ret;
    g_free(e);
    return true;
}

void vfio_early_settle(const char *sysfsdev)
{
    g_autofree char *group = vfio_cdev_link(sysfsdev, "iommu_group");
    VFIOEarly *e;

    QLIST_FOREACH(e, &vfio_early, next) {
        if (group && !g_strcmp0(e->group, group)) {
            vfio_early_wait(e);
        }
    }
}

/* The descriptor that fd= gives by its number, or -1 */
static int vfio_early_fd(const QDict *options)
{
    QObject *value = qdict_get(options, "fd");
    QString *string = qobject_to(QString, value);
    QNum *num = qobject_to(QNum, value);
    int64_t n = -1;
    int fd = -1;

    if (string) {
        fd = qemu_parse_fd(qstring_get_str(string));
    } else if (num && qnum_get_try_int(num, &n) && n >= 0 && n <= INT_MAX) {
        fd = n;
    }
    return fd;
}

/* The device in sysfs, if it is clear which one is meant, and @fd */
static char *vfio_early_sysfsdev(const QDict *options, int *fd)
{
    const char *host = qdict_get_try_str(options, "host");
    const char *sysfsdev = qdict_get_try_str(options, "sysfsdev");

    *fd = -1;
    if (!!host + !!sysfsdev + qdict_haskey(options, "fd") != 1) {
        return NULL;
    }
    if (host) {
        /* 65:00.0 or 0000:65:00.0 */
        return g_strdup_printf("/sys/bus/pci/devices/%s%s",
                               strchr(host, ':') == strrchr(host, ':') ?
                               "0000:" : "", host);
    }
    if (sysfsdev) {
        return g_strdup(sysfsdev);
    }
    *fd = vfio_early_fd(options);
    return *fd < 0 ? NULL : vfio_cdev_sysfsdev(*fd);
}

/* A device without iommufd=: it opens the group, and will come first */
static void vfio_early_note_group(const QDict *options)
{
    int fd;
    g_autofree char *sysfsdev = vfio_early_sysfsdev(options, &fd);
    char *group = sysfsdev ? vfio_cdev_link(sysfsdev, "iommu_group") : NULL;

    if (group) {
        g_hash_table_add(vfio_early_groups, group);
    }
}

/* For qemu_opts_foreach(): does this -global say which device, and how? */
static int vfio_early_global(void *opaque, QemuOpts *opts, Error **errp)
{
    static const char *const names[] = {
        "iommufd", "host", "sysfsdev", "fd", "vf-token", NULL
    };
    const char *property = qemu_opt_get(opts, "property");

    return property && g_strv_contains(names, property);
}

static void vfio_early_begin(const QDict *options)
{
    const char *id = qdict_get_try_str(options, "id");
    const char *iommufd = qdict_get_try_str(options, "iommufd");
    g_autofree char *sysfsdev = NULL;
    g_autofree char *group = NULL;
    g_autofree char *node = NULL;
    g_autofree char *user = NULL;
    bool in_kvm, passed;
    Object *be = NULL;
    VFIOEarly *e;
    dev_t rdev;
    int fd;

    if (!iommufd || !*iommufd) {
        vfio_early_note_group(options);
        return;
    }
    /* A primary of a failover waits for the guest to ask for it */
    if (qdict_haskey(options, "failover_pair_id") ||
        qdict_haskey(options, "vf-token") ||
        qemu_opts_foreach(qemu_find_opts("global"), vfio_early_global, NULL,
                          NULL)) {
        return;
    }
    be = object_resolve_path_type(iommufd, TYPE_IOMMUFD_BACKEND, NULL);
    sysfsdev = be ? vfio_early_sysfsdev(options, &fd) : NULL;
    if (!sysfsdev || vfio_cdev_is_mdev(sysfsdev)) {
        return;
    }
    group = vfio_cdev_link(sysfsdev, "iommu_group");
    if (group && g_hash_table_contains(vfio_early_groups, group)) {
        return;
    }
    node = vfio_cdev_node(sysfsdev, &rdev, NULL);
    if (!node || vfio_early_find(rdev)) {
        return;
    }
    passed = fd >= 0;
    if (!passed) {
        fd = vfio_cdev_open(node, rdev, NULL);
    }
    if (fd < 0 || !vfio_kvm_device_add_fd(fd, &in_kvm, NULL)) {
        if (!passed && fd >= 0) {
            close(fd);
        }
        return;
    }

    if (QLIST_EMPTY(&vfio_early)) {
        qemu_add_machine_init_done_notifier(&vfio_early_notifier);
    }
    e = g_new0(VFIOEarly, 1);
    e->be = IOMMUFD_BACKEND(be);
    e->rdev = rdev;
    e->group = g_steal_pointer(&group);
    e->fd = fd;
    e->passed = passed;
    e->in_kvm = in_kvm;
    user = g_strdup_printf("device '%s'", id ?: sysfsdev);
    iommufd_backend_get(e->be, &e->user, user);
    QLIST_INSERT_HEAD(&vfio_early, e, next);
    vfio_ioas_fill_early(e->be);
    e->thread = vfio_thread_try_new("vfio-early", vfio_early_bind, e);
    if (!e->thread) {
        vfio_early_bind(e);
    }
}

static void vfio_early_register(void)
{
    vfio_early_groups = g_hash_table_new(g_str_hash, g_str_equal);
    qdev_register_early("vfio-pci", vfio_early_begin);
    qdev_register_early("vfio-pci-nohotplug", vfio_early_begin);
}

type_init(vfio_early_register)
