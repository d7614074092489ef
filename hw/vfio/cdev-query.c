/*
 * Device side of VFIO over iommufd: what query-iommufd tells of a device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing.  Reads the device's state, its sysfs and the kernel's list of
 * functions that a hot reset affects, at the moment of the query.
 */

#include "qemu/osdep.h"
#include <linux/vfio.h>

#include "cdev.h"
#include "hw/pci/pci.h"
#include "hw/qdev-core.h"
#include "qapi/util.h"

/* "flr bus", from sysfs; NULL if the host does not say */
static char *vfio_cdev_reset_method(const VFIOCdev *cdev)
{
    g_autofree char *path = g_build_filename(cdev->sysfsdev, "reset_method",
                                             NULL);
    char *method = NULL;

    if (!g_file_get_contents(path, &method, NULL, NULL)) {
        return NULL;
    }
    return g_strchomp(method);
}

static IommufdDependentList *vfio_cdev_dependents(VFIOCdev *cdev)
{
    g_autofree struct vfio_pci_hot_reset_info *info = NULL;
    IommufdDependentList *list = NULL;
    uint32_t i;
    int ret;

    info = vfio_cdev_hot_reset_info(cdev, &ret);
    for (i = info ? info->count : 0; i--; ) {
        const struct vfio_pci_dependent_device *dep = &info->devices[i];
        IommufdDependent *d = g_new0(IommufdDependent, 1);

        d->address = g_strdup_printf("%04x:%02x:%02x.%x", dep->segment,
                                     dep->bus, PCI_SLOT(dep->devfn),
                                     PCI_FUNC(dep->devfn));
        d->owned = (int32_t)dep->devid >= 0;
        QAPI_LIST_PREPEND(list, d);
    }
    return list;
}

void vfio_cdev_fill_report(IOMMUFDReport *report, IommufdInfo *info)
{
    VFIOCdev *cdev = container_of(report, VFIOCdev, report);
    const char *id = cdev->vbasedev->dev->id;
    IommufdDevice *out = g_new0(IommufdDevice, 1);

    out->name = g_strdup(cdev->name);
    out->has_qdev_id = id;
    out->qdev_id = g_strdup(id);
    out->sysfs = g_strdup(cdev->sysfsdev);
    out->node = g_strdup(cdev->node);
    out->passed = cdev->passed;
    out->devid = cdev->devid;
    out->ioas = cdev->ioas->id;
    out->has_hwpt = cdev->hwpt;
    out->hwpt = cdev->hwpt ? cdev->hwpt->id : 0;
    out->mdev = cdev->mdev;
    out->reset_method = vfio_cdev_reset_method(cdev);
    out->has_reset_method = out->reset_method;
    out->hot_reset = vfio_cdev_dependents(cdev);
    out->has_hot_reset = out->hot_reset;
    QAPI_LIST_PREPEND(info->devices, out);
}
