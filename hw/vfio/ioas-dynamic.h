/*
 * Sections filled piece by piece: between the pieces and who tells of them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What others need to know of it is in ioas.h.
 */

#ifndef HW_VFIO_IOAS_DYNAMIC_H
#define HW_VFIO_IOAS_DYNAMIC_H

#include "ioas.h"
#include "qemu/iova-tree.h"

/**
 * vfio_piece_map - map a piece of RAM, inside of the section
 * @piece: translated_addr is the address in this process
 *
 * Returns 0, also if it is mapped just so; -EEXIST, perhaps without asking the
 * kernel, if something else is mapped there; or as vfio_ioas_map().
 */
int vfio_piece_map(VFIOIOASSection *s, const DMAMap *piece);

/**
 * vfio_piece_unmap_or_report - unmap what is mapped in [@iova, @last]
 *
 * Of a piece that crosses an edge the rest stays mapped.
 */
void vfio_piece_unmap_or_report(VFIOIOASSection *s, hwaddr iova, hwaddr last);

/**
 * vfio_giommu_start - listen to the guest IOMMU, and map what it maps now
 * vfio_giommu_stop - the reverse, but for the pieces
 * vfio_giommu_replay - map what it maps and we do not
 */
void vfio_giommu_start(VFIOIOASSection *s);
void vfio_giommu_stop(VFIOIOASSection *s);
void vfio_giommu_replay(VFIOIOASSection *s);

#endif
