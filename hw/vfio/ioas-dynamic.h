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
 * vfio_piece_cmp - for a GTree of DMAMaps, or what begins with one
 *
 * What overlaps is equal.  (iova-tree.c, without detours.)
 */
gint vfio_piece_cmp(gconstpointer a, gconstpointer b, gpointer unused);

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
 * vfio_piece_report - say that it failed
 *
 * RAM and BARs.  Of a piece that crosses an edge the rest stays mapped.
 */
void vfio_piece_unmap_or_report(VFIOIOASSection *s, hwaddr iova, hwaddr last);
void vfio_piece_report(VFIOIOASSection *s, hwaddr iova, hwaddr last, int ret);

/**
 * vfio_piece_lose_block - a RAMBlock goes away, before its memory does
 *
 * What is mapped of it stays mapped, and pinned, until the guest unmaps it, but
 * is never mapped by its address again: something else may be there by then.
 */
void vfio_piece_lose_block(VFIOIOASSection *s, const void *host, size_t size);

/**
 * vfio_peer_map - map a piece of a BAR, inside of the section
 * @piece: translated_addr is the offset in @bar
 *
 * What was mapped there goes.  If the kernel cannot map it nothing happens but
 * what vfio_ioas_try_bar() does; if it cannot now, vfio_peer_refresh() will.
 */
void vfio_peer_map(VFIOIOASSection *s, const DMAMap *piece, MemoryRegion *bar);

/**
 * vfio_peer_unmap - unmap the pieces of BARs in [@iova, @last]
 *
 * Of a piece that crosses an edge the rest is mapped anew.  Returns 0, or as
 * vfio_ioas_unmap(): then something stays.
 */
int vfio_peer_unmap(VFIOIOASSection *s, hwaddr iova, hwaddr last);

/**
 * vfio_peer_revoke - pieces of the BARs of @owner have to be mapped anew
 * vfio_peer_refresh - as far as the kernel can now, map them
 * vfio_peer_forget - the device goes away, and its pieces
 */
void vfio_peer_revoke(VFIOIOASSection *s, Object *owner);
void vfio_peer_refresh(VFIOIOASSection *s, Object *owner);
void vfio_peer_forget(VFIOIOASSection *s, Object *owner);

/**
 * vfio_giommu_start - listen to the guest IOMMU, and map what it maps now
 * vfio_giommu_stop - the reverse, but for the pieces
 * vfio_giommu_replay - map what it maps and we do not, unmap what it does not
 */
void vfio_giommu_start(VFIOIOASSection *s);
void vfio_giommu_stop(VFIOIOASSection *s);
void vfio_giommu_replay(VFIOIOASSection *s);

#endif
