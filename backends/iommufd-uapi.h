/*
 * iommufd's user interface beyond the headers the build uses (Linux 6.12)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What newer kernels offer is declared here and probed at run time.  Source:
 * include/uapi/linux/iommufd.h of the kernel named with each.
 */

#ifndef BACKENDS_IOMMUFD_UAPI_H
#define BACKENDS_IOMMUFD_UAPI_H

#include <linux/types.h>
#include <linux/iommufd.h>

/* Linux 6.13: IOMMU_IOAS_MAP of bytes of a file instead of an address */
#ifndef IOMMU_IOAS_MAP_FILE
struct iommu_ioas_map_file {
    __u32 size;
    __u32 flags;                /* enum iommufd_ioas_map_flags */
    __u32 ioas_id;
    __s32 fd;
    __aligned_u64 start;        /* in the file */
    __aligned_u64 length;
    __aligned_u64 iova;
};
#define IOMMU_IOAS_MAP_FILE _IO(IOMMUFD_TYPE, 0x8f)
#endif

#endif
