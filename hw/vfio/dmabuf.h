/*
 * A dma-buf of what a MemoryRegion shows of a VFIO device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_DMABUF_H
#define HW_VFIO_DMABUF_H

#include "exec/memory.h"

/**
 * vfio_dmabuf_get - make a dma-buf of a part of a VFIO device's region
 * @mr: what QEMU made of a part that can be mmapped (VFIOMmap.mem)
 * @offset, @size: in @mr, bytes, multiples of the host's page size
 *
 * VFIO_DEVICE_FEATURE_DMA_BUF, Linux 6.19.  Returns a descriptor, which the
 * caller closes; what was mapped by it stays.  Or -errno:
 *   -EOPNOTSUPP  the kernel, the device's driver or @mr has no such thing
 *   -EINVAL      not of this part: a BAR smaller than a page, for example
 *   -ENODEV      the host has given the BAR no address
 *   -EMFILE, -ENOMEM
 */
int vfio_dmabuf_get(MemoryRegion *mr, hwaddr offset, uint64_t size);

#endif
