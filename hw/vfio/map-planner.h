/*
 * Map planner: from what an IOAS maps to what it should map
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure functions over arrays of ranges; no QEMU state, no ioctl.  See
 * map-planner.c for the rules.
 */

#ifndef HW_VFIO_MAP_PLANNER_H
#define HW_VFIO_MAP_PLANNER_H

/*
 * Memory of this process at an IOVA.  @last is inclusive, so that a range may
 * end at the top of the address space; iova <= last always.
 */
typedef struct VFIOMapRange {
    uint64_t iova;
    uint64_t last;
    uint64_t vaddr;             /* of the byte at @iova */
    bool readonly;
} VFIOMapRange;

/**
 * vfio_map_plan - what to unmap and what to map
 * @mapped: what is mapped now, one entry per mapping
 * @wanted: what shall be mapped
 * @unmaps: filled with the ranges to unmap, first of all (only @iova and
 *          @last count)
 * @maps: filled with the mappings to make after that, one entry each
 *
 * All four are GArrays of VFIOMapRange in ascending order; @mapped and
 * @wanted must not overlap in themselves.  @unmaps and @maps are emptied
 * first.
 *
 * Guarantees:
 * - A mapping whose every byte is wanted at the same vaddr with the same
 *   permission is not touched.
 * - Every range in @unmaps starts and ends with a mapping and covers whole
 *   adjacent mappings only: the kernel never has to split one, and nothing
 *   that is mapped by somebody else in the same IOAS lies within.
 * - Afterwards exactly the bytes of @wanted are mapped.
 * - New mappings end at the stable boundaries (see map-planner.c), so that a
 *   later change next to one does not touch it.
 * - The same input gives the same plan, and applying a plan makes the next
 *   one empty.
 */
void vfio_map_plan(const GArray *mapped, const GArray *wanted,
                   GArray *unmaps, GArray *maps);

/**
 * vfio_map_insert - enter a mapping that was made into @mapped
 * vfio_map_remove - drop the mappings inside [@iova, @last] from @mapped
 *
 * vfio_map_count - how many that are
 *
 * They keep @mapped in order.  The caller passes what a plan contained.
 */
void vfio_map_insert(GArray *mapped, const VFIOMapRange *range);
void vfio_map_remove(GArray *mapped, uint64_t iova, uint64_t last);
guint vfio_map_count(const GArray *mapped, uint64_t iova, uint64_t last);

/**
 * vfio_map_bytes - how much memory the ranges of the array cover; below 2^64
 */
uint64_t vfio_map_bytes(const GArray *ranges);

#endif
