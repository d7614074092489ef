/*
 * Address-space side of VFIO over iommufd: RAM pinned once for all
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With a guest IOMMU every device has an address space, and so an IOAS, of its
 * own.  If each mapped guest RAM for itself, N devices would pin and account it
 * N times, and a guest that maps and unmaps a page for each I/O would have it
 * pinned and unpinned each time.  So such an IOAS has a "base", the IOAS of
 * system memory in the same iommufd, and copies (IOMMU_IOAS_COPY) what that
 * maps; what it does not map is mapped as always.
 *
 * Owns: in the base, the "keeper", a HWPT that no device is attached to, which
 * keeps pinned whatever the base maps; and the index of the base's mappings by
 * the memory they map.  Borrows: the base itself, which each device that is
 * attached to an IOAS with a base references beside that IOAS.
 *
 * Invariants: a base listens before those that copy from it do, so that at a
 * commit of the memory map it comes first, and what it does not map any more
 * cannot be copied.  A copy is made of memory that was looked for by its
 * address in this process, not by where the guest has it.  Copies outlive their
 * source.
 *
 * A base that has no device of its own (nobody bypasses the guest IOMMU) is a
 * help and no duty: what it cannot map is left out in silence, for who needs
 * the memory will try, too, and say so.  If all of RAM may not be locked, the
 * keeper goes: then each page is pinned while a device can reach it, as without
 * a base, but still once for all of them.
 *
 * Kernel facts (drivers/iommu/iommufd/pages.c): mappings that were copied share
 * their pages, which are pinned with the first page table that needs them,
 * unpinned with the last, and then found in that page table rather than by
 * get_user_pages().  IOMMU_HWPT_ALLOC fills the page table from its IOAS at
 * once, attached or not, and it outlives the device it was allocated for.
 */

#include "qemu/osdep.h"

#include "ioas.h"
#include "exec/address-spaces.h"
#include "trace.h"

#define RANGE(array, i) g_array_index(array, VFIOMapRange, i)

bool vfio_base_get(VFIOIOAS *ioas, Object *owner, Error **errp)
{
    VFIOIOAS *base;

    if (ioas->as == &address_space_memory) {
        return true;
    }
    base = vfio_ioas_get(ioas->be, &address_space_memory, owner, errp);
    if (base) {
        base->copiers++;
        ioas->base = base;
    }
    return base;
}

void vfio_base_put(VFIOIOAS *base)
{
    if (base) {
        base->copiers--;
        vfio_ioas_put(base);
    }
}

bool vfio_base_only(const VFIOIOAS *ioas)
{
    return ioas->copiers && ioas->users == ioas->copiers;
}

void vfio_ioas_keep_pinned(VFIOIOAS *ioas, uint32_t devid)
{
    VFIOIOAS *base = ioas->base;

    if (!base || base->keeper || base->relaxed) {
        return;
    }
    base->keeper = vfio_ioas_alloc_hwpt(base, devid);
    if (base->keeper) {
        g_array_set_size(base->keeper->devids, 0);
        base->pinning++;
        vfio_ioas_read_ranges(base);
        trace_vfio_base_keeper(base->id, base->keeper->id);
    }
}

void vfio_base_drop_keeper(VFIOIOAS *ioas)
{
    VFIOHWPT *keeper = ioas->keeper;

    if (keeper) {
        ioas->keeper = NULL;
        ioas->pinning--;
        vfio_ioas_free_hwpt(ioas, keeper);
    }
}

bool vfio_base_relax(VFIOIOAS *ioas)
{
    if (!ioas->keeper || !vfio_base_only(ioas)) {
        return false;
    }
    ioas->relaxed = true;
    trace_vfio_base_relax(ioas->id, ioas->mapped_bytes);
    vfio_base_drop_keeper(ioas);
    vfio_ioas_read_ranges(ioas);
    return true;
}

/* What is mapped where, by the memory */

static gint vfio_by_vaddr(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const VFIOMapRange *)a)->vaddr;
    uint64_t y = ((const VFIOMapRange *)b)->vaddr;

    return x < y ? -1 : x > y;
}

void vfio_base_changed(VFIOIOAS *ioas)
{
    g_clear_pointer(&ioas->by_vaddr, g_array_unref);
}

/* The index of the last mapping that begins at or below @vaddr, or -1 */
static int vfio_base_search(VFIOIOAS *base, uint64_t vaddr)
{
    int low = 0, high;

    if (!base->by_vaddr) {
        base->by_vaddr = g_array_new(false, false, sizeof(VFIOMapRange));
        g_array_append_vals(base->by_vaddr, base->mapped->data,
                            base->mapped->len);
        g_array_sort(base->by_vaddr, vfio_by_vaddr);
    }
    for (high = base->by_vaddr->len; low < high; ) {
        int mid = low + (high - low) / 2;

        if (RANGE(base->by_vaddr, mid).vaddr <= vaddr) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low - 1;
}

static bool vfio_base_finds_ram(VFIOIOAS *base, uint64_t vaddr, uint64_t last,
                                bool readonly, uint64_t *iova)
{
    int i = vfio_base_search(base, vaddr);
    uint64_t next;

    if (i < 0) {
        return false;
    }
    *iova = RANGE(base->by_vaddr, i).iova +
            (vaddr - RANGE(base->by_vaddr, i).vaddr);
    /* All of it, in adjacent mappings */
    for (next = vaddr; i < base->by_vaddr->len; i++) {
        const VFIOMapRange *r = &RANGE(base->by_vaddr, i);
        uint64_t end = r->vaddr + (r->last - r->iova);

        if (next > end || r->vaddr > next ||
            r->iova + (next - r->vaddr) != *iova + (next - vaddr) ||
            (r->readonly && !readonly)) {
            return false;
        }
        if (last <= end) {
            return true;
        }
        next = end + 1;
    }
    return false;
}

/* Of these the kernel knows what is there */
static bool vfio_base_finds_discard(VFIOIOAS *base, uint64_t vaddr,
                                    uint64_t last, bool readonly,
                                    uint64_t *iova)
{
    guint i;

    for (i = 0; i < base->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(base->sections, i);
        uint64_t end = s->range.vaddr + (s->range.last - s->range.iova);

        if (s->kind == VFIO_SECTION_DISCARD && s->active &&
            s->range.vaddr <= vaddr && last <= end &&
            (readonly || !s->range.readonly)) {
            *iova = s->range.iova + (vaddr - s->range.vaddr);
            return true;
        }
    }
    return false;
}

bool vfio_base_finds(VFIOIOAS *ioas, uint64_t vaddr, uint64_t size,
                     bool readonly, uint64_t *iova)
{
    uint64_t last = vaddr + (size - 1);
    VFIOIOAS *base = ioas->base;

    return base && base->mapped &&
           (vfio_base_finds_ram(base, vaddr, last, readonly, iova) ||
            vfio_base_finds_discard(base, vaddr, last, readonly, iova));
}

int vfio_base_copy(VFIOIOAS *ioas, uint64_t iova, uint64_t size,
                   uint64_t vaddr, bool readonly)
{
    uint64_t from;
    int ret;

    if (!vfio_base_finds(ioas, vaddr, size, readonly, &from)) {
        return -ENOENT;
    }
    ret = iommufd_backend_copy_dma(ioas->be, ioas->id, iova, size,
                                   ioas->base->id, from, readonly);
    ioas->copies += !ret;
    return ret;
}
