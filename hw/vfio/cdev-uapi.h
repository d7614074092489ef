/*
 * VFIO's user interface beyond the headers the build uses (Linux 6.12)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What newer kernels offer is declared here and probed at run time.  Source:
 * include/uapi/linux/vfio.h of the kernel named with each.
 */

#ifndef HW_VFIO_CDEV_UAPI_H
#define HW_VFIO_CDEV_UAPI_H

#include <linux/types.h>
#include <linux/vfio.h>

/*
 * VFIO_DEVICE_BIND_IOMMUFD with a VF token, Linux 6.17: a longer structure and
 * a flag.  Older kernels answer EINVAL to any flag.
 */
#ifndef VFIO_DEVICE_BIND_FLAG_TOKEN
#define VFIO_DEVICE_BIND_FLAG_TOKEN (1 << 0)
#endif

struct vfio_cdev_bind {
    struct vfio_device_bind_iommufd v1;
    __aligned_u64 token_uuid_ptr;       /* 16 bytes, if the flag is set */
};

/*
 * VFIO_DEVICE_FEATURE with VFIO_DEVICE_FEATURE_DMA_BUF, Linux 6.19: a struct
 * vfio_device_feature, a struct vfio_device_feature_dma_buf, and one range of
 * the region.  GET returns a descriptor.
 */
#ifndef VFIO_DEVICE_FEATURE_DMA_BUF
#define VFIO_DEVICE_FEATURE_DMA_BUF 11
#endif

struct vfio_region_dma_buf {
    __u32 argsz;
    __u32 feature;
    __u32 region_index;
    __u32 open_flags;
    __u32 flags;
    __u32 nr_ranges;
    __aligned_u64 offset;
    __aligned_u64 length;
};

#endif
