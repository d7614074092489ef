/*
 * Device side of VFIO over iommufd: PCI hot reset of devices that share a bus
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing.  A PCI hot reset hits every function behind the bridge.  For a
 * cdev the kernel (Linux 6.6) lists them with their devid in the caller's
 * iommufd: positive, a device bound to it; 0, not bound but in an IOMMU group
 * that is; -1, somebody else's.  The reset is allowed when none is somebody
 * else's, and needs no descriptors (count 0).
 *
 * Ids are looked up in the caller's iommufd only, and what the kernel says is
 * checked, never asserted.  Which resets are tried when is decided as on the
 * group path (see the comment above vfio_pci_hot_reset_one() in pci.c).
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/vfio.h>

#include "pci.h"
#include "cdev.h"
#include "qemu/error-report.h"
#include "trace.h"

/* The VM's device behind an entry of the list, NULL if it is none */
static VFIOPCIDevice *
vfio_cdev_dependent(VFIOCdev *cdev, const struct vfio_pci_dependent_device *dep)
{
    VFIOCdev *other = (int32_t)dep->devid > 0 ?
                      vfio_cdev_find(cdev->be, dep->devid) : NULL;

    if (!other || other == cdev || !other->vbasedev->dev->realized ||
        other->vbasedev->type != VFIO_DEVICE_TYPE_PCI) {
        return NULL;
    }
    return container_of(other->vbasedev, VFIOPCIDevice, vbasedev);
}

/* Say which one stands in the way */
static void vfio_cdev_report_foreign(VFIOPCIDevice *vdev,
                                     const struct vfio_pci_hot_reset_info *info)
{
    uint32_t i;

    for (i = 0; i < info->count; i++) {
        const struct vfio_pci_dependent_device *dep = &info->devices[i];

        if ((int32_t)dep->devid < 0) {
            error_report("vfio %s: cannot be reset: %04x:%02x:%02x.%x shares "
                         "its bus and does not belong to this VM's iommufd: "
                         "assign it with the same iommufd= or, if it is in the "
                         "same IOMMU group, bind it to vfio-pci",
                         vdev->vbasedev.name, dep->segment, dep->bus,
                         PCI_SLOT(dep->devfn), PCI_FUNC(dep->devfn));
            return;
        }
    }
}

static int vfio_cdev_do_hot_reset(VFIOCdev *cdev)
{
    struct vfio_pci_hot_reset reset = { .argsz = sizeof(reset) };
    int ret = ioctl(cdev->fd, VFIO_DEVICE_PCI_HOT_RESET, &reset) ? -errno : 0;

    trace_vfio_pci_hot_reset_result(cdev->name,
                                    ret ? strerror(-ret) : "Success");
    return ret;
}

int vfio_pci_cdev_hot_reset(VFIOPCIDevice *vdev, bool single)
{
    VFIOCdev *cdev = vdev->vbasedev.cdev;
    g_autofree struct vfio_pci_hot_reset_info *info = NULL;
    g_autoptr(GPtrArray) dependents = g_ptr_array_new();
    uint32_t i;
    int ret;

    trace_vfio_pci_hot_reset(vdev->vbasedev.name, single ? "one" : "multi");
    vdev->vbasedev.needs_reset = false;

    /* The machine's reset tries both ways: being told by one is enough */
    info = vfio_cdev_hot_reset_info(cdev, &ret);
    if (!info) {
        if (single && !vdev->has_pm_reset) {
            error_report("vfio %s: no reset is available for the device (%s)",
                         vdev->vbasedev.name, strerror(-ret));
        }
        return ret;
    }
    if (!(info->flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED)) {
        if (single && !vdev->has_pm_reset) {
            vfio_cdev_report_foreign(vdev, info);
        }
        return -EPERM;
    }
    for (i = 0; i < info->count; i++) {
        VFIOPCIDevice *dep = vfio_cdev_dependent(cdev, &info->devices[i]);

        if (dep) {
            g_ptr_array_add(dependents, dep);
        }
    }
    /* Alone from the device's own reset, together from the machine's */
    if (single != (dependents->len == 0)) {
        return -EINVAL;
    }

    if (!single) {
        vfio_pci_pre_reset(vdev);
    }
    for (i = 0; i < dependents->len; i++) {
        VFIOPCIDevice *dep = g_ptr_array_index(dependents, i);

        vfio_cdev_was_reset(&dep->vbasedev);    /* will be; INTx goes */
        vfio_pci_pre_reset(dep);
        dep->vbasedev.needs_reset = false;
    }
    ret = vfio_cdev_do_hot_reset(cdev);
    for (i = 0; i < dependents->len; i++) {
        vfio_pci_post_reset(g_ptr_array_index(dependents, i));
    }
    if (!single) {
        vfio_pci_post_reset(vdev);
    }
    return ret;
}
