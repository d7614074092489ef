/*
 * Map planner: from what an IOAS maps to what it should map
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing and knows neither QEMU's memory API nor the kernel: it takes
 * two sorted arrays and fills two others.  That makes it testable alone
 * (tests/unit/test-vfio-map-planner.c).
 *
 * A guest's memory map changes in places that have nothing to do with most of
 * its RAM: firmware switches the PAM and SMRAM windows of the chipset, and
 * QEMU's memory core answers by removing the section of RAM around the window
 * and adding what is left of it.  Unmapping and mapping that literally would
 * unpin and pin gigabytes, and DMA in flight would fault meanwhile.  So the
 * planner compares bytes, not sections.
 *
 * The kernel unmaps whole mappings only (IOMMU_IOAS_UNMAP, Linux 6.2), hence
 * the stable boundaries: new mappings are cut where a chipset is known to cut
 * later,
 *   - 640 KiB, 768 KiB and 1 MiB: the legacy video window (SMRAM) and the PAM
 *     segments are the 384 KiB in between;
 *   - 16 MiB below the end of RAM that ends below 4 GiB: TSEG, the SMRAM at
 *     the top of low RAM, is at most that large by default;
 *   - every GiB, the largest page of an IOMMU: one call is then short enough
 *     to be made between two others of the main loop.  Runs of more than
 *     MAX_SLICES GiB are cut into as many.
 * A window that opens elsewhere costs one re-mapping of the mapping it lies
 * in; the pieces are then cut at its edges and stay so.
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "map-planner.h"

#define TSEG_ROOM (16 * 1024 * 1024ULL)
#define FOUR_GIB  (1ULL << 32)
#define ONE_GIB   (1ULL << 30)
#define MAX_SLICES 4096

static const uint64_t stable_cuts[] = { 0xa0000, 0xc0000, 0x100000 };

#define RANGE(array, i) g_array_index(array, VFIOMapRange, i)

/* Do @b's bytes continue @a's: next IOVA, next byte of memory, same access? */
static bool continues(const VFIOMapRange *a, const VFIOMapRange *b)
{
    return a->last != UINT64_MAX && a->last + 1 == b->iova &&
           a->readonly == b->readonly &&
           b->vaddr - a->vaddr == b->iova - a->iova;
}

/* Does @outer want all of @inner just as it is? */
static bool covers(const VFIOMapRange *outer, const VFIOMapRange *inner)
{
    return outer->iova <= inner->iova && inner->last <= outer->last &&
           outer->readonly == inner->readonly &&
           inner->vaddr - outer->vaddr == inner->iova - outer->iova;
}

/* Merge what continues: sections may be split where memory is not */
static GArray *merge_runs(const GArray *wanted)
{
    GArray *runs = g_array_sized_new(false, false, sizeof(VFIOMapRange),
                                     wanted->len);
    guint i;

    for (i = 0; i < wanted->len; i++) {
        VFIOMapRange *prev = runs->len ? &RANGE(runs, runs->len - 1) : NULL;

        if (prev && continues(prev, &RANGE(wanted, i))) {
            prev->last = RANGE(wanted, i).last;
        } else {
            g_array_append_val(runs, RANGE(wanted, i));
        }
    }
    return runs;
}

/* The last byte of the mapping at @iova, in a gap of the run up to @last */
static uint64_t cut(uint64_t iova, uint64_t last, const VFIOMapRange *run)
{
    uint64_t slice = pow2ceil((run->last - run->iova) / MAX_SLICES);
    uint64_t tail;
    size_t i;

    last = MIN(last, iova | (MAX(slice, ONE_GIB) - 1));
    for (i = 0; i < ARRAY_SIZE(stable_cuts); i++) {
        if (iova < stable_cuts[i] && stable_cuts[i] <= last) {
            return stable_cuts[i] - 1;
        }
    }

    if (run->last < FOUR_GIB && run->last >= 2 * TSEG_ROOM) {
        tail = run->last - TSEG_ROOM + 1;
        if (iova < tail && tail <= last) {
            return tail - 1;
        }
    }
    return last;
}

static void map_gap(GArray *maps, const VFIOMapRange *run,
                    uint64_t iova, uint64_t last)
{
    VFIOMapRange piece = *run;

    for (;;) {
        piece.iova = iova;
        piece.last = cut(iova, last, run);
        piece.vaddr = run->vaddr + (iova - run->iova);
        g_array_append_val(maps, piece);
        if (piece.last == last) {
            return;
        }
        iova = piece.last + 1;
    }
}

static void unmap_one(GArray *unmaps, const VFIOMapRange *m)
{
    VFIOMapRange *prev = unmaps->len ? &RANGE(unmaps, unmaps->len - 1) : NULL;

    if (prev && prev->last + 1 == m->iova) {
        prev->last = m->last;
    } else {
        g_array_append_val(unmaps, *m);
    }
}

void vfio_map_plan(const GArray *mapped, const GArray *wanted,
                   GArray *unmaps, GArray *maps)
{
    g_autoptr(GArray) runs = merge_runs(wanted);
    guint m = 0, r;

    g_array_set_size(unmaps, 0);
    g_array_set_size(maps, 0);

    for (r = 0; r < runs->len; r++) {
        const VFIOMapRange *run = &RANGE(runs, r);
        uint64_t next = run->iova;
        bool done = false;

        /* The mappings that start before the end of this run */
        for (; m < mapped->len && RANGE(mapped, m).iova <= run->last; m++) {
            const VFIOMapRange *have = &RANGE(mapped, m);

            if (!covers(run, have)) {
                unmap_one(unmaps, have);
                continue;
            }
            if (next < have->iova) {
                map_gap(maps, run, next, have->iova - 1);
            }
            done = have->last == run->last;
            next = have->last + 1;
        }
        if (!done) {
            map_gap(maps, run, next, run->last);
        }
    }
    for (; m < mapped->len; m++) {
        unmap_one(unmaps, &RANGE(mapped, m));
    }
}

/* Index of the first mapping that ends at or behind @iova */
static guint first_behind(const GArray *mapped, uint64_t iova)
{
    guint lo = 0, hi = mapped->len;

    while (lo < hi) {
        guint mid = lo + (hi - lo) / 2;

        if (RANGE(mapped, mid).last < iova) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

void vfio_map_insert(GArray *mapped, const VFIOMapRange *range)
{
    g_array_insert_val(mapped, first_behind(mapped, range->iova), *range);
}

guint vfio_map_count(const GArray *mapped, uint64_t iova, uint64_t last)
{
    guint first = first_behind(mapped, iova), end = first;

    while (end < mapped->len && RANGE(mapped, end).last <= last) {
        end++;
    }
    return end - first;
}

void vfio_map_remove(GArray *mapped, uint64_t iova, uint64_t last)
{
    guint count = vfio_map_count(mapped, iova, last);

    if (count) {
        g_array_remove_range(mapped, first_behind(mapped, iova), count);
    }
}

uint64_t vfio_map_bytes(const GArray *ranges)
{
    uint64_t sum = 0;
    guint i;

    for (i = 0; i < ranges->len; i++) {
        sum += RANGE(ranges, i).last - RANGE(ranges, i).iova + 1;
    }
    return sum;
}
