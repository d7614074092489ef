/*
 * Device side of VFIO over iommufd: who tracks what a device writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Some devices log their own writes to memory (VFIO_DEVICE_FEATURE DMA_LOGGING,
 * Linux 6.1).  Here is how they are asked to; when and for which memory the
 * address-space side decides (ioas-dirty.c).
 *
 * Owns nothing; whether a device logs is kept in VFIOWriter.
 *
 * Kernel facts: a device logs from START to STOP, and a second START is
 * refused; ranges that do not fit into a page are refused with E2BIG; REPORT
 * sets bits, clears none, and forgets what it has reported.
 */

#include "qemu/osdep.h"

#include "cdev.h"
#include "feature.h"
#include "hw/pci/pci.h"
#include "trace.h"

static int vfio_cdev_log_start(VFIOWriter *writer, const GArray *ranges)
{
    VFIOCdev *cdev = container_of(writer, VFIOCdev, writer);
    g_autofree struct vfio_device_feature_dma_logging_range *out =
        g_new(struct vfio_device_feature_dma_logging_range, ranges->len);
    struct vfio_device_feature_dma_logging_control control = {
        .page_size = qemu_real_host_page_size(),
        .num_ranges = ranges->len,
        .ranges = (uintptr_t)out,
    };
    guint i;
    int ret;

    for (i = 0; i < ranges->len; i++) {
        const IOMMUFDRange *r = &g_array_index(ranges, IOMMUFDRange, i);

        out[i].iova = r->start;
        out[i].length = r->last - r->start + 1;
    }
    ret = vfio_device_feature(cdev->fd, VFIO_DEVICE_FEATURE_SET |
                              VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
                              &control, sizeof(control));
    trace_vfio_cdev_log_start(cdev->name, ranges->len, ret);
    return ret;
}

static int vfio_cdev_log_report(VFIOWriter *writer, uint64_t iova,
                                uint64_t size, unsigned long *bits)
{
    VFIOCdev *cdev = container_of(writer, VFIOCdev, writer);
    struct vfio_device_feature_dma_logging_report report = {
        .iova = iova,
        .length = size,
        .page_size = qemu_real_host_page_size(),
        .bitmap = (uintptr_t)bits,
    };
    int ret = vfio_device_feature(cdev->fd, VFIO_DEVICE_FEATURE_GET |
                                  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
                                  &report, sizeof(report));

    trace_vfio_cdev_log_report(cdev->name, iova, size, ret);
    return ret;
}

static void vfio_cdev_log_stop(VFIOWriter *writer)
{
    VFIOCdev *cdev = container_of(writer, VFIOCdev, writer);
    int ret = vfio_device_feature(cdev->fd, VFIO_DEVICE_FEATURE_SET |
                                  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL,
                                  0);

    trace_vfio_cdev_log_stop(cdev->name, ret);
}

static const VFIODirtyLogOps vfio_cdev_log_ops = {
    .start = vfio_cdev_log_start,
    .report = vfio_cdev_log_report,
    .stop = vfio_cdev_log_stop,
};

void vfio_cdev_add_writer(VFIOCdev *cdev)
{
    Object *pdev = object_dynamic_cast(OBJECT(cdev->vbasedev->dev),
                                       TYPE_PCI_DEVICE);
    bool logs = cdev->vbasedev->device_dirty_page_tracking != ON_OFF_AUTO_OFF &&
                !vfio_device_feature(cdev->fd, VFIO_DEVICE_FEATURE_PROBE |
                                     VFIO_DEVICE_FEATURE_SET |
                                     VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
                                     NULL, 0);

    cdev->writer.name = cdev->name;
    cdev->writer.log = logs ? &vfio_cdev_log_ops : NULL;
    cdev->writer.hwpt = cdev->hwpt;
    cdev->writer.leaves = pdev && PCI_DEVICE(pdev)->failover_pair_id;
    vfio_ioas_add_writer(cdev->ioas, &cdev->writer);
    trace_vfio_cdev_dirty_by(cdev->name, vfio_cdev_dirty_by(cdev));
}

VFIODirtyBy vfio_cdev_dirty_by(const VFIOCdev *cdev)
{
    return vfio_ioas_dirty_by(&cdev->writer);
}
