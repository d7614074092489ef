/*
 * A dma-buf of what a MemoryRegion shows of a VFIO device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing, and knows neither IOMMU nor PCI.  What can be mmapped of a VFIO
 * region is a MemoryRegion below that of the region, whose opaque is the
 * VFIORegion: so it is found without anybody keeping a list.
 *
 * Kernel facts (Linux 6.19): vfio-pci makes a dma-buf of page-aligned ranges of
 * one BAR, and IOMMU_IOAS_MAP_FILE takes one that has one range.  It works on
 * any device descriptor, a group's too.  A kernel that does not know the
 * feature answers ENOTTY.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>

#include "dmabuf.h"
#include "cdev-uapi.h"
#include "hw/vfio/vfio-common.h"
#include "trace.h"

int vfio_dmabuf_get(MemoryRegion *mr, hwaddr offset, uint64_t size)
{
    struct vfio_region_dma_buf get = {
        .argsz = sizeof(get),
        .feature = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
        .open_flags = O_RDWR | O_CLOEXEC,
        .nr_ranges = 1,
        .length = size,
    };
    MemoryRegion *parent = mr->container;
    VFIORegion *region;
    int i, ret;

    if (!parent || parent->ops != &vfio_region_ops) {
        return -EOPNOTSUPP;
    }
    region = parent->opaque;
    for (i = 0; i < region->nr_mmaps; i++) {
        if (&region->mmaps[i].mem == mr) {
            get.region_index = region->nr;
            get.offset = region->mmaps[i].offset + offset;
        }
    }
    ret = ioctl(region->vbasedev->fd, VFIO_DEVICE_FEATURE, &get);
    ret = ret < 0 ? -errno : ret;
    trace_vfio_dmabuf_get(memory_region_name(mr), get.region_index, get.offset,
                          size, ret);
    return ret == -ENOTTY ? -EOPNOTSUPP : ret;
}
