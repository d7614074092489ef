/*
 * A fake of the kernel's VFIO cdev interface: devices that are not PCI
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What drivers/vfio/platform and drivers/s390/cio/vfio_ccw_ops.c of Linux 6.12
 * say of a device with one region, told apart from PCI by "platform N" and
 * "ccw N" in the control.  Bind and attach are those of fake-vfio-pci.c, and
 * region 0 is backed as BAR 0 is there.
 */

#include "qemu/osdep.h"
#include <linux/vfio.h>
#include <linux/vfio_ccw.h>

#include "fake-iommufd.h"

#define PLATFORM_SIZE   (1024 * 1024)
#define PLATFORM_IRQS   1

static int get_info(bool ccw, struct vfio_device_info *info)
{
    if (info->argsz < offsetof(struct vfio_device_info, cap_offset)) {
        return -EINVAL;
    }
    info->flags = VFIO_DEVICE_FLAGS_RESET | (ccw ? VFIO_DEVICE_FLAGS_CCW
                                                 : VFIO_DEVICE_FLAGS_PLATFORM);
    info->num_regions = 1;
    info->num_irqs = ccw ? VFIO_CCW_NUM_IRQS : PLATFORM_IRQS;
    return 0;
}

static int get_region_info(bool ccw, struct vfio_region_info *info)
{
    if (info->argsz < sizeof(*info) || info->index) {
        return -EINVAL;
    }
    info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
                  (ccw ? 0 : VFIO_REGION_INFO_FLAG_MMAP);
    info->size = ccw ? sizeof(struct ccw_io_region) : PLATFORM_SIZE;
    info->offset = 0;
    info->cap_offset = 0;
    return 0;
}

static int get_irq_info(bool ccw, struct vfio_irq_info *info)
{
    if (info->argsz < sizeof(*info) ||
        info->index >= (ccw ? VFIO_CCW_NUM_IRQS : PLATFORM_IRQS)) {
        return -EINVAL;
    }
    info->count = 1;
    info->flags = VFIO_IRQ_INFO_EVENTFD |
                  (ccw ? 0 : VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED);
    return 0;
}

static int set_irqs(bool ccw, const struct vfio_irq_set *set)
{
    if (set->argsz < sizeof(*set) || set->start || set->count > 1 ||
        set->index >= (ccw ? VFIO_CCW_NUM_IRQS : PLATFORM_IRQS) ||
        (ccw && !(set->flags & VFIO_IRQ_SET_ACTION_TRIGGER))) {
        return -EINVAL;
    }
    return 0;
}

int fake_other_ioctl(bool ccw, unsigned long request, void *arg)
{
    switch (request) {
    case VFIO_DEVICE_GET_INFO:
        return get_info(ccw, arg);
    case VFIO_DEVICE_GET_REGION_INFO:
        return get_region_info(ccw, arg);
    case VFIO_DEVICE_GET_IRQ_INFO:
        return get_irq_info(ccw, arg);
    case VFIO_DEVICE_SET_IRQS:
        return set_irqs(ccw, arg);
    case VFIO_DEVICE_RESET:
        return 0;
    }
    return -ENOTTY;
}
