/*
 * Device side of VFIO over iommufd: who tracks what a device writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing yet.
 */

#include "qemu/osdep.h"

#include "cdev.h"

VFIODirtyBy vfio_cdev_dirty_by(const VFIOCdev *cdev)
{
    return cdev->hwpt && cdev->hwpt->dirty_tracking ? VFIO_DIRTY_BY_IOMMU
                                                    : VFIO_DIRTY_BY_NONE;
}
