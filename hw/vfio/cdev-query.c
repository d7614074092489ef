/*
 * Device side of VFIO over iommufd: what query-iommufd tells of a device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * And the properties of a device: fd=, and how it is attached.
 *
 * Owns nothing.  Reads the device's state, its sysfs and the kernel's list of
 * functions that a hot reset affects, at the moment of the query.
 */

#include "qemu/osdep.h"
#include <linux/vfio.h>

#include "cdev.h"
#include "hw/pci/pci.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qapi/visitor.h"

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
    static const IommufdDirtyBy dirty_by[] = {
        [VFIO_DIRTY_BY_NONE] = IOMMUFD_DIRTY_BY_NONE,
        [VFIO_DIRTY_BY_IOMMU] = IOMMUFD_DIRTY_BY_IOMMU,
        [VFIO_DIRTY_BY_DEVICE] = IOMMUFD_DIRTY_BY_DEVICE,
    };

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
    out->dma = cdev->open;
    out->waiting = !QLIST_EMPTY(&cdev->held);
    out->mdev = cdev->mdev;
    out->dirty_tracked_by = dirty_by[vfio_cdev_dirty_by(cdev)];
    out->reset_method = vfio_cdev_reset_method(cdev);
    out->has_reset_method = out->reset_method;
    out->hot_reset = vfio_cdev_dependents(cdev);
    out->has_hot_reset = out->hot_reset;
    QAPI_LIST_PREPEND(info->devices, out);
}

/* Properties */

static void vfio_cdev_visit_fd(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    iommufd_visit_fd(v, name, object_field_prop_ptr(obj, opaque), errp);
}

static void vfio_cdev_release_fd(Object *obj, const char *name, void *opaque)
{
    g_free(*(char **)object_field_prop_ptr(obj, opaque));
}

const PropertyInfo vfio_cdev_prop_fd = {
    .name = "str",
    .description = "an open /dev/vfio/devices/vfioN: the number of an "
                   "inherited descriptor or a name given by getfd",
    .get = vfio_cdev_visit_fd,
    .set = vfio_cdev_visit_fd,
    .release = vfio_cdev_release_fd,
};

static VFIOCdev *vfio_cdev_of(Object *obj)
{
    VFIOCdev *cdev;

    QLIST_FOREACH(cdev, &vfio_cdevs, next) {
        if (OBJECT(cdev->vbasedev->dev) == obj) {
            return cdev;
        }
    }
    return NULL;
}

static void vfio_cdev_get_devid(Object *obj, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    VFIOCdev *cdev = vfio_cdev_of(obj);
    uint32_t devid = cdev ? cdev->devid : 0;

    visit_type_uint32(v, name, &devid, errp);
}

static void vfio_cdev_get_ioas(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    VFIOCdev *cdev = vfio_cdev_of(obj);
    uint32_t ioas = cdev ? cdev->ioas->id : 0;

    visit_type_uint32(v, name, &ioas, errp);
}

static char *vfio_cdev_get_origin(Object *obj, Error **errp)
{
    VFIOCdev *cdev = vfio_cdev_of(obj);

    return g_strdup(!cdev ? "none" : cdev->passed ? "passed" : cdev->node);
}

void vfio_cdev_class_init(ObjectClass *klass)
{
    object_class_property_add(klass, "iommufd-devid", "uint32",
                              vfio_cdev_get_devid, NULL, NULL, NULL);
    object_class_property_set_description(klass, "iommufd-devid",
        "id of the device in its iommufd; 0 if it is not attached there");
    object_class_property_add(klass, "iommufd-ioas", "uint32",
                              vfio_cdev_get_ioas, NULL, NULL, NULL);
    object_class_property_set_description(klass, "iommufd-ioas",
        "id of the IOAS that the device is attached to; 0 if none");
    object_class_property_add_str(klass, "iommufd-origin",
                                  vfio_cdev_get_origin, NULL);
    object_class_property_set_description(klass, "iommufd-origin",
        "where the descriptor is from: \"passed\", the node's path, or "
        "\"none\"");
}
