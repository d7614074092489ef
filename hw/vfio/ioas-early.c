/*
 * Address-space side of VFIO over iommufd: fill RAM while the machine is made
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first IOAS comes with the first device, when the rest of the machine is
 * there, but RAM is there long before, and one CPU makes the machine.  Where a
 * device of the command line will have all of RAM mapped, the others fill it
 * meanwhile; the map of it then finds that done (ioas-apply.c).
 *
 * Owns: a listener on system memory and the threads; both go when the first
 * IOAS listens, or when the machine is complete.  Borrows: the memory, with a
 * reference on each MemoryRegion.
 *
 * RAM is taken when the board puts it into system memory: its backend has given
 * it its policy (NUMA, huge pages, prealloc) by then.  That the board moves it
 * later, as it does with the holes below 1 MiB, is nothing to the threads.
 *
 * Called with the BQL held, from the main loop, or from what comes before it.
 */

#include "qemu/osdep.h"

#include "ioas.h"
#include "exec/address-spaces.h"
#include "trace.h"

static struct {
    IOMMUFDBackend *be;         /* NULL: not begun, or ended */
    MemoryListener listener;
    GPtrArray *regions;         /* of MemoryRegion, referenced */
    GArray *ranges;             /* of VFIOPrefaultRange */
    bool grown;                 /* since the last commit */
    VFIOPrefault *prefault;
} early;

static bool vfio_ioas_early_wants(const MemoryRegionSection *section)
{
    return !vfio_ioas_ignores(section) &&
           vfio_ioas_section_kind(section->mr) == VFIO_SECTION_RAM &&
           !section->readonly &&
           int128_ge(section->size, int128_make64(VFIO_IOAS_BIG));
}

/* Of what was there before, less or more may be told as the board goes on */
static bool vfio_ioas_early_has(const VFIOPrefaultRange *r)
{
    guint i;

    for (i = 0; i < early.ranges->len; i++) {
        const VFIOPrefaultRange *o = &g_array_index(early.ranges,
                                                    VFIOPrefaultRange, i);

        if (r->vaddr < o->vaddr + o->size && o->vaddr < r->vaddr + r->size) {
            return true;
        }
    }
    return false;
}

static void vfio_ioas_early_add(MemoryListener *listener,
                                MemoryRegionSection *section)
{
    VFIOPrefaultRange r;

    if (!vfio_ioas_early_wants(section)) {
        return;
    }
    r = vfio_ioas_fill_range(
        (uintptr_t)memory_region_get_ram_ptr(section->mr) +
        section->offset_within_region, int128_get64(section->size), true);
    /* A page of 1 GiB is not left halfway, and the first IOAS would wait */
    if (r.page_size <= VFIO_IOAS_BIG && !vfio_ioas_early_has(&r)) {
        memory_region_ref(section->mr);
        g_ptr_array_add(early.regions, section->mr);
        g_array_append_val(early.ranges, r);
        early.grown = true;
    }
}

static void vfio_ioas_early_stop(void)
{
    if (early.prefault) {
        trace_vfio_ioas_early(early.ranges->len,
                              vfio_prefault_bytes(early.prefault));
        vfio_prefault_stop(early.prefault);
        early.prefault = NULL;
    }
}

static void vfio_ioas_early_commit(MemoryListener *listener)
{
    uint64_t bytes = 0;
    guint i;

    if (!early.grown) {
        return;
    }
    early.grown = false;
    vfio_ioas_early_stop();     /* what is filled is passed over quickly */
    for (i = 0; i < early.ranges->len; i++) {
        bytes += g_array_index(early.ranges, VFIOPrefaultRange, i).size;
    }
    /* It will not be pinned: the start fails, or a guest IOMMU maps less */
    if (!vfio_ioas_exceeds_memlock(bytes)) {
        early.prefault = vfio_prefault_start(
            early.ranges, early.be->map_threads ?: vfio_prefault_threads(),
            NULL, NULL);
        vfio_prefault_leave_cpu(early.prefault);
    }
}

void vfio_ioas_fill_early(IOMMUFDBackend *be)
{
    if (early.be || !be->map_background) {
        return;
    }
    early.be = be;
    early.regions = g_ptr_array_new_with_free_func(
        (GDestroyNotify)memory_region_unref);
    early.ranges = g_array_new(false, false, sizeof(VFIOPrefaultRange));
    early.listener = (MemoryListener) {
        .name = "vfio-ioas-early",
        .region_add = vfio_ioas_early_add,
        .commit = vfio_ioas_early_commit,
    };
    memory_listener_register(&early.listener, &address_space_memory);
}

void vfio_ioas_end_early(void)
{
    if (early.be) {
        memory_listener_unregister(&early.listener);
        vfio_ioas_early_stop();
        g_array_free(early.ranges, true);
        g_ptr_array_free(early.regions, true);
        early.be = NULL;
    }
}
