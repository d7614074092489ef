/*
 * The iommufd object: which memory devices have written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing; the wrappers of the ioctls that concern a page table's dirty
 * bits, and of the option that says how much memory one of them stands for.
 *
 * Kernel facts (Linux 6.7 to 7.3): IOMMU_HWPT_GET_DIRTY_BITMAP answers 0 even
 * if it stopped half way, at the first page that is not mapped, or read nothing
 * because tracking is off.  It sets bits and clears none.  A bit stands for an
 * entry of the page table, so a range that begins or ends within a huge page
 * gets bits outside of the range.  The caller asks for whole mappings only.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/iommufd.h>

#include "sysemu/iommufd.h"
#include "trace.h"

int iommufd_backend_disable_huge_pages(IOMMUFDBackend *be, uint32_t ioas_id)
{
    struct iommu_option option = {
        .size = sizeof(option),
        .option_id = IOMMU_OPTION_HUGE_PAGES,
        .op = IOMMU_OPTION_OP_SET,
        .object_id = ioas_id,
        .val64 = 0,
    };
    int ret = ioctl(be->fd, IOMMU_OPTION, &option) ? -errno : 0;

    trace_iommufd_backend_disable_huge_pages(be->fd, ioas_id, ret);
    return ret;
}

int iommufd_backend_set_dirty_tracking(IOMMUFDBackend *be, uint32_t hwpt_id,
                                       bool on)
{
    struct iommu_hwpt_set_dirty_tracking set = {
        .size = sizeof(set),
        .flags = on ? IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0,
        .hwpt_id = hwpt_id,
    };
    int ret = ioctl(be->fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &set) ? -errno : 0;

    trace_iommufd_backend_set_dirty_tracking(be->fd, hwpt_id, on, ret);
    return ret;
}

int iommufd_backend_get_dirty_bitmap(IOMMUFDBackend *be, uint32_t hwpt_id,
                                     uint64_t iova, uint64_t size,
                                     uint64_t page_size, unsigned long *bits,
                                     bool clear)
{
    struct iommu_hwpt_get_dirty_bitmap get = {
        .size = sizeof(get),
        .hwpt_id = hwpt_id,
        .flags = clear ? 0 : IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
        .iova = iova,
        .length = size,
        .page_size = page_size,
        .data = (uintptr_t)bits,
    };
    int ret = ioctl(be->fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &get) ? -errno : 0;

    trace_iommufd_backend_get_dirty_bitmap(be->fd, hwpt_id, iova, size, clear,
                                           ret);
    return ret;
}
