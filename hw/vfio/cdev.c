/*
 * Device side of VFIO over iommufd: attach a device through its cdev
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the cdev's descriptor, the devid that BIND gave, the device's entry in
 * KVM's VFIO device, its reference on the iommufd object and on the IOAS.
 * Borrows: the VFIODevice; its name only up to detach, where vfio-pci has
 * freed it already.
 *
 * Attach is a ladder, detach its reverse: get the object, open, KVM, bind,
 * info, IOAS, attach to a page table, map.  vfio_cdev_free() takes a device
 * down from whatever step it had reached.
 *
 * Kernel facts (Linux 6.6 on): until BIND the descriptor answers nothing else;
 * the kernel takes the KVM pointer at BIND, so KVM must know the descriptor
 * before; there is no unbind but close; a page table that cannot serve the
 * device answers EINVAL at ATTACH.  KVM_DEV_VFIO_FILE takes device
 * descriptors since 6.6.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/vfio.h>

#include "cdev.h"
#include "cdev-uapi.h"
#include "exec/address-spaces.h"
#include "hw/pci/pci_regs.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "sysemu/reset.h"
#include "sysemu/sysemu.h"
#include "trace.h"

VFIOCdevList vfio_cdevs = QLIST_HEAD_INITIALIZER(vfio_cdevs);

VFIOCdev *vfio_cdev_find(IOMMUFDBackend *be, uint32_t devid)
{
    VFIOCdev *cdev;

    QLIST_FOREACH(cdev, &vfio_cdevs, next) {
        if (cdev->be == be && cdev->devid == devid) {
            return cdev;
        }
    }
    return NULL;
}

/* Bind */

static char *vfio_cdev_explain_bind(VFIOCdev *cdev, int ret)
{
    switch (ret) {
    case -EBUSY:
        return vfio_cdev_explain_busy(cdev->vbasedev->sysfsdev, cdev->rdev);
    case -EPERM:
        return vfio_cdev_explain_eperm(cdev->vbasedev->sysfsdev, cdev->rdev);
    case -EACCES:
        return g_strdup("its PF driver wants a VF token: give the right one "
                        "as vf-token=");
    case -EINVAL:
        if (!qemu_uuid_is_null(&cdev->vbasedev->vf_token)) {
            return g_strdup("a kernel before Linux 6.17 takes no VF token, or "
                            "the device is open elsewhere");
        }
        return vfio_cdev_explain_open(cdev->rdev) ?:
               g_strdup("it is open elsewhere, or its IOMMU is not cache "
                        "coherent");
    case -ENODEV:
        return g_strdup("the device is going away, or has no IOMMU");
    default:
        return g_strdup("see the host's kernel log");
    }
}

int vfio_cdev_bind_fd(int fd, IOMMUFDBackend *be, const QemuUUID *token,
                      uint32_t *devid)
{
    struct vfio_cdev_bind bind = {
        .v1.argsz = token ? sizeof(bind) : sizeof(bind.v1),
        .v1.flags = token ? VFIO_DEVICE_BIND_FLAG_TOKEN : 0,
        .v1.iommufd = be->fd,
        .token_uuid_ptr = (uintptr_t)token,
    };
    int ret = ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind) ? -errno : 0;

    *devid = bind.v1.out_devid;
    return ret;
}

static int vfio_cdev_bind(VFIOCdev *cdev)
{
    QemuUUID *token = &cdev->vbasedev->vf_token;

    return vfio_cdev_bind_fd(cdev->fd, cdev->be,
                             qemu_uuid_is_null(token) ? NULL : token,
                             &cdev->devid);
}

/* BIND has been made, by vfio_cdev_bind() or early */
static bool vfio_cdev_bound(VFIOCdev *cdev, int ret, Error **errp)
{
    g_autofree char *why = NULL;

    trace_vfio_cdev_bind(cdev->name, cdev->fd, cdev->be->fd, cdev->devid, ret);
    if (ret) {
        why = vfio_cdev_explain_bind(cdev, ret);
        error_setg(errp, "VFIO_DEVICE_BIND_IOMMUFD failed: %s: %s",
                   strerror(-ret), why);
        return false;
    }
    /* Only close() unbinds: from here on a passed descriptor is ours */
    g_clear_pointer(&cdev->vbasedev->passed, g_free);
    return true;
}

static bool vfio_cdev_get_info(VFIOCdev *cdev, Error **errp)
{
    VFIODevice *vbasedev = cdev->vbasedev;
    struct vfio_device_info info = { .argsz = sizeof(info) };

    if (ioctl(cdev->fd, VFIO_DEVICE_GET_INFO, &info)) {
        error_setg_errno(errp, errno, "VFIO_DEVICE_GET_INFO failed");
        return false;
    }
    vbasedev->num_irqs = info.num_irqs;
    vbasedev->num_regions = info.num_regions;
    vbasedev->flags = info.flags;
    vbasedev->reset_works = info.flags & VFIO_DEVICE_FLAGS_RESET;
    cdev->fresh = vbasedev->reset_works && !cdev->mdev;
    return true;
}

size_t vfio_cdev_region_room(VFIODevice *vbasedev)
{
    return vbasedev->cdev && !vbasedev->cdev->mdev ? 256 : 0;
}

/* Attach to a page table */

static int vfio_cdev_attach_pt(VFIOCdev *cdev, uint32_t pt_id)
{
    struct vfio_device_attach_iommufd_pt attach = {
        .argsz = sizeof(attach),
        .pt_id = pt_id,
    };
    int ret = ioctl(cdev->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ?
              -errno : 0;

    trace_vfio_cdev_attach_pt(cdev->name, cdev->devid, pt_id, attach.pt_id,
                              ret);
    cdev->attached = !ret;
    cdev->ioas->pinning += !ret && !cdev->mdev;
    return ret;
}

static void vfio_cdev_detach_pt(VFIOCdev *cdev)
{
    struct vfio_device_detach_iommufd_pt detach = { .argsz = sizeof(detach) };
    int ret = ioctl(cdev->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach) ?
              -errno : 0;

    trace_vfio_cdev_detach_pt(cdev->name, cdev->devid, ret);
    if (ret) {
        warn_report("vfio %s: VFIO_DEVICE_DETACH_IOMMUFD_PT failed: %s",
                    cdev->name, strerror(-ret));
    }
    cdev->attached = false;
    cdev->ioas->pinning -= !cdev->mdev;
}

/*
 * Choose the page table: one that another device uses if it suits this one
 * too, else a new one, else let the kernel choose under the IOAS.
 */
static int vfio_cdev_choose_pt(VFIOCdev *cdev)
{
    VFIOHWPT *hwpt;
    int ret;

    if (cdev->mdev) {
        return vfio_cdev_attach_pt(cdev, cdev->ioas->id);
    }

    QLIST_FOREACH(hwpt, &cdev->ioas->hwpts, next) {
        ret = vfio_cdev_attach_pt(cdev, hwpt->id);
        if (!ret) {
            vfio_ioas_join_hwpt(hwpt, cdev->devid);
            cdev->hwpt = hwpt;
        }
        if (ret != -EINVAL) {
            return ret;
        }
    }

    hwpt = vfio_ioas_alloc_hwpt(cdev->ioas, cdev->devid);
    if (hwpt) {
        ret = vfio_cdev_attach_pt(cdev, hwpt->id);
        if (!ret) {
            cdev->hwpt = hwpt;
            return 0;
        }
        vfio_ioas_put_hwpt(cdev->ioas, hwpt, cdev->devid);
    }
    return vfio_cdev_attach_pt(cdev, cdev->ioas->id);
}

static bool vfio_cdev_attach_ioas(VFIOCdev *cdev, AddressSpace *as,
                                  Error **errp)
{
    int ret;

    cdev->ioas = vfio_ioas_get(cdev->be, as, OBJECT(cdev->vbasedev->dev),
                               errp);
    if (!cdev->ioas) {
        return false;
    }

    vfio_early_settle(cdev->sysfsdev);
    ret = vfio_cdev_choose_pt(cdev);
    if (ret) {
        g_autofree char *why = ret == -ENOMEM ?
            g_strdup("raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=) or free "
                     "memory") : vfio_cdev_explain_attach(cdev);

        error_setg(errp, "VFIO_DEVICE_ATTACH_IOMMUFD_PT failed: %s: %s",
                   strerror(-ret), why);
        return false;
    }
    vfio_cdev_add_writer(cdev);
    if (!vfio_ioas_check_ranges(cdev->ioas, errp)) {
        return false;
    }
    if (cdev->mdev || cdev->vbasedev->type != VFIO_DEVICE_TYPE_PCI) {
        vfio_cdev_open_gate(cdev);
    }
    if (!cdev->mdev) {
        vfio_ioas_keep_pinned(cdev->ioas, cdev->devid);
    }
    return vfio_ioas_attached(cdev->ioas, errp);
}

/* Reset */

bool vfio_cdev_fresh(VFIODevice *vbasedev)
{
    return vbasedev->cdev && vbasedev->cdev->fresh;
}

void vfio_cdev_was_reset(VFIODevice *vbasedev)
{
    if (vfio_cdev_fresh(vbasedev)) {
        trace_vfio_cdev_fresh(vbasedev->name);
        vbasedev->cdev->fresh = false;
    }
}

struct vfio_pci_hot_reset_info *vfio_cdev_hot_reset_info(VFIOCdev *cdev,
                                                         int *ret)
{
    struct vfio_pci_hot_reset_info *info = NULL;
    uint32_t room = 0;

    do {
        size_t size = sizeof(*info) + room * sizeof(info->devices[0]);

        info = g_realloc(info, size);
        memset(info, 0, size);
        info->argsz = size;
        *ret = ioctl(cdev->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info) ?
               -errno : 0;
        if (*ret != -ENOSPC || info->count <= room) {
            break;
        }
        room = info->count;     /* more came between two calls: ask again */
    } while (true);

    if (!*ret && !(info->flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID)) {
        *ret = -EINVAL;         /* group ids: not an answer for a cdev */
    }
    if (*ret) {
        g_clear_pointer(&info, g_free);
    }
    return info;
}

/*
 * At system reset: reset the devices that can only be reset together with
 * others (the twin of vfio_reset_handler(), which sees groups only).
 */
static void vfio_cdev_reset_handler(void *opaque)
{
    VFIOCdev *cdev;

    QLIST_FOREACH(cdev, &vfio_cdevs, next) {
        if (cdev->vbasedev->dev->realized) {
            cdev->vbasedev->ops->vfio_compute_needs_reset(cdev->vbasedev);
        }
    }
    QLIST_FOREACH(cdev, &vfio_cdevs, next) {
        if (cdev->vbasedev->dev->realized && cdev->vbasedev->needs_reset) {
            cdev->vbasedev->ops->vfio_hot_reset_multi(cdev->vbasedev);
        }
    }
}

/* Discarding RAM */

/*
 * What the IOMMU maps is pinned: a page that is discarded (balloon) would
 * come back as another one.  Some mdevs pin only what the guest's driver
 * uses, and the user may say so.
 */
static bool vfio_cdev_disable_discard(VFIOCdev *cdev, Error **errp)
{
    int ret;

    if (cdev->vbasedev->ram_block_discard_allowed) {
        if (!cdev->mdev) {
            error_setg(errp, "x-balloon-allowed only potentially compatible "
                       "with mdev devices");
        }
        return cdev->mdev;
    }

    ret = ram_block_uncoordinated_discard_disable(true);
    if (ret) {
        error_setg_errno(errp, -ret, "cannot disable discarding of RAM");
        return false;
    }
    cdev->discard_disabled = true;
    return true;
}

/* The end of QEMU */

/* So that it does not run into the end of its mappings */
static void vfio_cdev_stop_dma(VFIOCdev *cdev)
{
    g_autofree struct vfio_region_info *info = NULL;
    uint16_t command;
    off_t at;

    if (!(cdev->vbasedev->flags & VFIO_DEVICE_FLAGS_PCI) ||
        vfio_get_region_info(cdev->vbasedev, VFIO_PCI_CONFIG_REGION_INDEX,
                             &info)) {
        return;
    }
    at = info->offset + PCI_COMMAND;
    if (pread(cdev->fd, &command, sizeof(command), at) == sizeof(command)) {
        command &= cpu_to_le16(~PCI_COMMAND_MASTER);
        if (pwrite(cdev->fd, &command, sizeof(command), at) < 0) {
            return;             /* close() will stop it */
        }
    }
}

/*
 * The kernel frees IOAS and HWPT, and unpins guest memory, when the last
 * descriptor of the iommufd is closed.  A manager may keep one for longer than
 * QEMU lives, so QEMU frees what it allocated.
 */
static void vfio_cdev_exit(Notifier *n, void *opaque)
{
    VFIOCdev *cdev, *tmp;

    QLIST_FOREACH_SAFE(cdev, &vfio_cdevs, next, tmp) {
        vfio_cdev_stop_dma(cdev);
        vfio_cdev_detach(cdev->vbasedev);
    }
}

static Notifier vfio_cdev_exit_notifier = { .notify = vfio_cdev_exit };

/* The ladder */

/* host= or sysfsdev= and fd= may both be given, but not contradict */
static int vfio_cdev_use_passed(VFIOCdev *cdev, Error **errp)
{
    int fd = cdev->vbasedev->passed->fd;
    g_autofree char *sysfsdev = NULL;
    struct stat st;

    if (!fstat(fd, &st) && st.st_rdev == cdev->rdev) {
        return fd;
    }
    sysfsdev = vfio_cdev_sysfsdev(fd) ?: iommufd_fd_name(fd);
    error_setg(errp, "fd '%s' is %s, but host= or sysfsdev= says %s: give only "
               "one of them, or the right one", cdev->vbasedev->fd_param,
               sysfsdev, cdev->vbasedev->sysfsdev);
    return -1;
}

static bool vfio_cdev_setup(VFIOCdev *cdev, AddressSpace *as, Error **errp)
{
    VFIODevice *vbasedev = cdev->vbasedev;
    VFIOCdev *other;
    int fd = -1, ret;

    cdev->mdev = vfio_cdev_is_mdev(vbasedev->sysfsdev);
    cdev->node = vfio_cdev_node(vbasedev->sysfsdev, &cdev->rdev, errp);
    if (!cdev->node) {
        return false;
    }
    QLIST_FOREACH(other, &vfio_cdevs, next) {
        if (other->rdev == cdev->rdev) {
            error_setg(errp, "device is already attached");
            return false;
        }
    }
    if (!vfio_cdev_disable_discard(cdev, errp)) {
        return false;
    }

    if (vbasedev->passed) {
        fd = vfio_cdev_use_passed(cdev, errp);
        if (fd < 0) {
            return false;
        }
    }
    if (!vfio_early_take(cdev, &ret)) {
        cdev->fd = vbasedev->passed ? fd : vfio_cdev_open(cdev->node,
                                                          cdev->rdev, errp);
        if (cdev->fd < 0 ||
            !vfio_kvm_device_add_fd(cdev->fd, &cdev->in_kvm, errp)) {
            return false;
        }
        ret = vfio_cdev_bind(cdev);
    }
    return vfio_cdev_bound(cdev, ret, errp) &&
           vfio_cdev_get_info(cdev, errp) &&
           vfio_cdev_attach_ioas(cdev, as, errp);
}

/* Undo what vfio_cdev_setup() reached */
static void vfio_cdev_free(VFIOCdev *cdev)
{
    if (cdev->attached) {
        vfio_cdev_detach_pt(cdev);
        vfio_ioas_del_writer(cdev->ioas, &cdev->writer);
    }
    if (cdev->in_kvm) {
        vfio_kvm_device_del_fd(cdev->fd);
    }
    if (cdev->fd >= 0 && !cdev->vbasedev->passed) {
        close(cdev->fd);
    }
    /* Closed first: even if the detach failed, nothing refers to these now */
    if (cdev->hwpt) {
        vfio_ioas_put_hwpt(cdev->ioas, cdev->hwpt, cdev->devid);
    }
    if (cdev->ioas) {
        vfio_cdev_close_gate(cdev);
        vfio_ioas_put(cdev->ioas);
    }
    if (cdev->discard_disabled) {
        ram_block_uncoordinated_discard_disable(false);
    }
    iommufd_backend_put(cdev->be, &cdev->user);
    g_free(cdev->sysfsdev);
    g_free(cdev->node);
    g_free(cdev->name);
    g_free(cdev);
}

bool vfio_cdev_attach(VFIODevice *vbasedev, AddressSpace *as, Error **errp)
{
    VFIOCdev *cdev = g_new0(VFIOCdev, 1);
    g_autofree char *user = g_strdup_printf("device '%s'",
                                            vbasedev->dev->id ?:
                                            vbasedev->name);

    cdev->vbasedev = vbasedev;
    cdev->name = g_strdup(vbasedev->name);
    cdev->sysfsdev = g_strdup(vbasedev->sysfsdev);
    cdev->passed = vbasedev->passed;
    cdev->be = vbasedev->iommufd;
    cdev->fd = -1;
    iommufd_backend_get(cdev->be, &cdev->user, user);

    if (!vfio_cdev_setup(cdev, as, errp)) {
        vfio_cdev_free(cdev);
        return false;
    }

    if (QLIST_EMPTY(&vfio_cdevs)) {
        qemu_register_reset(vfio_cdev_reset_handler, NULL);
        qemu_add_exit_notifier(&vfio_cdev_exit_notifier);
    }
    QLIST_INSERT_HEAD(&vfio_cdevs, cdev, next);
    cdev->report.fill = vfio_cdev_fill_report;
    iommufd_backend_add_report(cdev->be, &cdev->report);
    vbasedev->fd = cdev->fd;
    vbasedev->cdev = cdev;
    trace_vfio_cdev_attached(cdev->name, cdev->devid, cdev->ioas->id,
                             cdev->hwpt ? cdev->hwpt->id : 0);
    return true;
}

bool vfio_cdev_realize(VFIODevice *vbasedev, Error **errp)
{
    ERRP_GUARD();
    struct stat st;

    if (!vfio_cdev_take_fd(vbasedev, false, errp)) {
        goto fail;
    }
    if (!vbasedev->sysfsdev) {
        error_setg(errp, "vfio: which device? Give sysfsdev= or fd=");
        goto fail;
    }
    if (!vbasedev->name) {
        vbasedev->name = g_path_get_basename(vbasedev->sysfsdev);
    }
    if (stat(vbasedev->sysfsdev, &st) < 0) {
        error_setg_errno(errp, errno, "no such host device %s",
                         vbasedev->sysfsdev);
    } else if (vfio_cdev_attach(vbasedev, &address_space_memory, errp)) {
        return true;
    }
    error_prepend(errp, VFIO_MSG_PREFIX, vbasedev->name);
fail:
    vfio_cdev_drop_fd(vbasedev);
    g_clear_pointer(&vbasedev->name, g_free);
    return false;
}

void vfio_cdev_detach(VFIODevice *vbasedev)
{
    VFIOCdev *cdev = vbasedev->cdev;

    vfio_cdev_drop_fd(vbasedev);
    vfio_ioas_forget_bars(OBJECT(vbasedev->dev));   /* a group's, too */
    if (!cdev) {
        return;
    }
    trace_vfio_cdev_detach(cdev->name, cdev->devid);
    vbasedev->cdev = NULL;
    vbasedev->fd = -1;
    QLIST_REMOVE(&cdev->report, next);
    QLIST_REMOVE(cdev, next);
    if (QLIST_EMPTY(&vfio_cdevs)) {
        qemu_unregister_reset(vfio_cdev_reset_handler, NULL);
        qemu_remove_exit_notifier(&vfio_cdev_exit_notifier);
    }
    vfio_cdev_free(cdev);
}
