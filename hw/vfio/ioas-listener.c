/*
 * Address-space side of VFIO over iommufd: the memory listener
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the list of sections that make up the address space, with a reference
 * on each one's MemoryRegion.  Borrows: the IOAS.
 *
 * region_add and region_del only keep the list of sections; commit applies what
 * changed (ioas-apply.c).  A removed section keeps its reference until the
 * commit that unmapped it.
 *
 * Within a commit: removed dynamic sections and BARs are unmapped, RAM is
 * unmapped, RAM is mapped, new dynamic sections and BARs are mapped, removed
 * sections are forgotten.  Nothing overlaps at any step because the sections of
 * a map never do.
 *
 * Called with the BQL held, from the main loop or a vCPU thread.
 */

#include "qemu/osdep.h"

#include "ioas.h"
#include "ioas-dynamic.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "sysemu/tpm.h"
#include "trace.h"

static void vfio_ioas_section_free(gpointer p)
{
    VFIOIOASSection *s = p;

    if (s->pieces) {
        g_tree_unref(s->pieces);
    }
    if (s->peers) {
        g_tree_unref(s->peers);
    }
    memory_region_unref(s->mr);
    g_free(s);
}

static void vfio_ioas_start_section(VFIOIOASSection *s)
{
    if (s->kind == VFIO_SECTION_BAR) {
        vfio_ioas_map_bar(s);
    } else {
        vfio_ioas_start_dynamic(s);
    }
}

static void vfio_ioas_stop_section(VFIOIOASSection *s)
{
    if (s->kind == VFIO_SECTION_BAR) {
        vfio_ioas_unmap_bar(s);
    } else {
        vfio_ioas_stop_dynamic(s);
    }
}

static void vfio_ioas_apply(VFIOIOAS *ioas)
{
    g_autoptr(GPtrArray) gone =
        g_ptr_array_new_with_free_func(vfio_ioas_section_free);
    bool unmapped = true;
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (s->gone && s->active) {
            vfio_ioas_stop_section(s);
        }
    }

    if (!ioas->dying) {
        unmapped = vfio_ioas_apply_ram(ioas);
    }

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (s->gone && unmapped) {
            g_ptr_array_add(gone, s);
            g_ptr_array_remove_index_fast(ioas->sections, i--);
        } else if (s->gone) {
            continue;           /* keep its memory: it may be mapped still */
        } else if (s->kind != VFIO_SECTION_RAM && !s->active) {
            vfio_ioas_start_section(s);
        }
    }
    /* @gone drops the references last: an owner may go away with them */
}

static void vfio_ioas_listener_commit(MemoryListener *listener)
{
    VFIOIOAS *ioas = container_of(listener, VFIOIOAS, listener);

    vfio_ioas_dirty_commit(ioas);
    if (ioas->changed) {
        ioas->changed = false;
        vfio_ioas_apply(ioas);
    }
}

static void vfio_ioas_vm_state_changed(void *opaque, bool running,
                                       RunState state)
{
    VFIOIOAS *ioas = opaque;
    bool incomplete = ioas->incomplete;

    if (!running) {
        return;
    }
    if (ioas->prefault) {
        vfio_prefault_leave_cpu(ioas->prefault);
    }
    if (incomplete) {
        ioas->incomplete = false;
        vfio_ioas_apply_ram(ioas);
    }
    vfio_ioas_retry_failed(ioas);
    if (incomplete) {
        trace_vfio_ioas_retried(ioas->id, ioas->incomplete);
    }
}

/* Sections come and go */

bool vfio_ioas_ignores(const MemoryRegionSection *section)
{
    return (!memory_region_is_ram(section->mr) &&
            !memory_region_is_iommu(section->mr)) ||
           memory_region_is_protected(section->mr) ||
           /* A 64-bit BAR that is being sized, which nobody means to reach */
           section->offset_within_address_space >> 63;
}

VFIOSectionKind vfio_ioas_section_kind(MemoryRegion *mr)
{
    if (memory_region_is_iommu(mr)) {
        return VFIO_SECTION_IOMMU;
    }
    if (memory_region_is_ram_device(mr)) {
        return VFIO_SECTION_BAR;
    }
    return memory_region_has_ram_discard_manager(mr) ? VFIO_SECTION_DISCARD
                                                     : VFIO_SECTION_RAM;
}

/* The host-page aligned inside of the section; false if there is none */
static bool vfio_ioas_inner_range(const MemoryRegionSection *section,
                                  VFIOMapRange *range)
{
    hwaddr start = section->offset_within_address_space;
    Int128 end = int128_add(int128_make64(start), section->size);
    Int128 iova = int128_add(int128_make64(start),
                             int128_make64(qemu_real_host_page_size() - 1));

    iova = int128_and(iova, int128_exts64(qemu_real_host_page_mask()));
    end = int128_and(end, int128_exts64(qemu_real_host_page_mask()));
    if (int128_ge(iova, end)) {
        return false;
    }
    range->iova = int128_get64(iova);
    range->last = int128_get64(int128_sub(end, int128_one()));
    range->readonly = section->readonly;
    range->vaddr = 0;
    return true;
}

static bool vfio_ioas_misaligned(VFIOIOAS *ioas,
                                 const MemoryRegionSection *section)
{
    if (!((section->offset_within_address_space ^
           section->offset_within_region) & ~qemu_real_host_page_mask())) {
        return false;
    }

    trace_vfio_ioas_misaligned(ioas->id, memory_region_name(section->mr),
                               section->offset_within_address_space,
                               section->offset_within_region);
    /*
     * The TPM's command buffer is known to be so, and no target of DMA; of a
     * BAR that is smaller than a page, or an MSI-X table in one, nor is.
     */
    if (!TPM_IS_CRB(section->mr->owner) &&
        !memory_region_is_ram_device(section->mr)) {
        warn_report_once("vfio: '%s' at 0x%" HWADDR_PRIx " is not aligned to "
                         "host pages: assigned devices cannot reach it",
                         memory_region_name(section->mr),
                         section->offset_within_address_space);
    }
    return true;
}

static void vfio_ioas_region_add(MemoryListener *listener,
                                 MemoryRegionSection *section)
{
    VFIOIOAS *ioas = container_of(listener, VFIOIOAS, listener);
    VFIOMapRange range;
    VFIOIOASSection *s;

    if (vfio_ioas_ignores(section)) {
        return;
    }
    if (!memory_region_is_iommu(section->mr) &&
        vfio_ioas_misaligned(ioas, section)) {
        return;
    }
    if (!vfio_ioas_inner_range(section, &range)) {
        return;
    }

    s = g_new0(VFIOIOASSection, 1);
    s->ioas = ioas;
    s->mr = section->mr;
    s->offset_within_region = section->offset_within_region;
    s->told_iova = section->offset_within_address_space;
    s->told_size = section->size;
    s->range = range;
    s->kind = vfio_ioas_section_kind(s->mr);
    if (s->kind == VFIO_SECTION_RAM || s->kind == VFIO_SECTION_DISCARD) {
        s->range.vaddr = (uintptr_t)memory_region_get_ram_ptr(s->mr) +
                         s->offset_within_region +
                         (range.iova - s->told_iova);
    }

    memory_region_ref(s->mr);
    g_ptr_array_add(ioas->sections, s);
    ioas->changed = true;
    trace_vfio_ioas_region_add(ioas->id, memory_region_name(s->mr), s->kind,
                               range.iova, range.last, range.readonly);
}

static void vfio_ioas_region_del(MemoryListener *listener,
                                 MemoryRegionSection *section)
{
    VFIOIOAS *ioas = container_of(listener, VFIOIOAS, listener);
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (!s->gone && s->mr == section->mr &&
            s->told_iova == section->offset_within_address_space &&
            s->offset_within_region == section->offset_within_region &&
            int128_eq(s->told_size, section->size)) {
            s->gone = true;
            ioas->changed = true;
            trace_vfio_ioas_region_del(ioas->id, memory_region_name(s->mr),
                                       s->range.iova, s->range.last);
            return;
        }
    }
    /* One that region_add ignored */
}

/* RAM's dirty log */

static void vfio_ioas_log_global_start(MemoryListener *listener)
{
    vfio_ioas_dirty_start(container_of(listener, VFIOIOAS, listener));
}

static void vfio_ioas_log_global_stop(MemoryListener *listener)
{
    vfio_ioas_dirty_stop(container_of(listener, VFIOIOAS, listener));
}

static void vfio_ioas_log_sync(MemoryListener *listener,
                               MemoryRegionSection *section)
{
    hwaddr iova = section->offset_within_address_space;

    vfio_ioas_dirty_sync(container_of(listener, VFIOIOAS, listener), iova,
                         iova + int128_get64(int128_sub(section->size,
                                                        int128_one())));
}

static const MemoryListener vfio_ioas_listener = {
    .name = "vfio-ioas",
    .region_add = vfio_ioas_region_add,
    .region_del = vfio_ioas_region_del,
    .commit = vfio_ioas_listener_commit,
    .log_global_start = vfio_ioas_log_global_start,
    .log_global_stop = vfio_ioas_log_global_stop,
    .log_sync = vfio_ioas_log_sync,
};

/* Sections have references, what a guest maps has none */
static void vfio_ioas_block_removed(RAMBlockNotifier *n, void *host,
                                    size_t size, size_t max_size)
{
    VFIOIOAS *ioas = container_of(n, VFIOIOAS, blocks);
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (s->kind == VFIO_SECTION_IOMMU && s->pieces) {
            vfio_piece_lose_block(s, host, max_size);
        }
    }
}

bool vfio_ioas_listen(VFIOIOAS *ioas, Error **errp)
{
    vfio_ioas_end_early();
    ioas->sections = g_ptr_array_new();
    vfio_ioas_start_ram(ioas);
    vfio_ioas_start_bars(ioas);
    ioas->blocks = (RAMBlockNotifier) {
        .ram_block_removed = vfio_ioas_block_removed,
    };
    ram_block_notifier_add(&ioas->blocks);
    ioas->listener = vfio_ioas_listener;
    memory_listener_register(&ioas->listener, ioas->as);
    ioas->vm_state =
        qemu_add_vm_change_state_handler(vfio_ioas_vm_state_changed, ioas);
    if (ioas->setup_error) {
        error_propagate(errp, ioas->setup_error);
        ioas->setup_error = NULL;
        return false;
    }
    ioas->listening = true;
    return true;
}

void vfio_ioas_unlisten(VFIOIOAS *ioas)
{
    if (!ioas->sections) {
        return;
    }
    ioas->dying = true;
    vfio_ioas_dirty_stop(ioas);
    vfio_ioas_stop_ram(ioas);
    qemu_del_vm_change_state_handler(ioas->vm_state);
    memory_listener_unregister(&ioas->listener);
    ram_block_notifier_remove(&ioas->blocks);
    g_ptr_array_free(ioas->sections, true);
    vfio_ioas_stop_bars(ioas);
    ioas->sections = NULL;
}
