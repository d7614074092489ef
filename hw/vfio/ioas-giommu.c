/*
 * Address-space side of VFIO over iommufd: behind a guest IOMMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a guest IOMMU translates is a section of the device's address space, and
 * what the guest maps there are its pieces: of RAM (ioas-dynamic.c), and of
 * BARs of assigned devices (ioas-peer.c).
 *
 * Owns: the registration with the guest IOMMU.  Borrows: the section.
 *
 * Called with the BQL held; the notifier also takes RCU.
 */

#include "qemu/osdep.h"

#include "ioas-dynamic.h"
#include "exec/address-spaces.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio-iommu.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"
#include "sysemu/runstate.h"
#include "trace.h"

/*
 * virtio-iommu offers a guest 64 bits, from the top of which Linux takes
 * addresses when there are none left below 4 GiB.  It has no property for it,
 * but the guest's driver reads the range when it starts.
 */
static void vfio_giommu_narrow(VirtIOIOMMU *viommu, hwaddr last)
{
    if (viommu->config.input_range.end <= last) {
        return;
    }
    viommu->config.input_range.end = last;
    if (phase_check(PHASE_MACHINE_READY)) {
        warn_report("vfio: guest IOMMU '%s' offered the guest more addresses "
                    "than the %d bits of the host's: until the guest starts "
                    "anew DMA may fail", TYPE_VIRTIO_IOMMU, 64 - clz64(last));
    }
}

/*
 * The root of a device's address space belongs to the guest IOMMU, whose
 * properties say what the guest will be told of it.
 */
bool vfio_giommu_suits(VFIOIOAS *ioas, Error **errp)
{
    Object *giommu = memory_region_owner(ioas->as->root);
    hwaddr last = ioas->nr_ranges ? ioas->ranges[ioas->nr_ranges - 1].last : 0;
    int bits = 0, host = last ? 64 - clz64(last) : 0;

    if (!ioas->base || !giommu) {
        return true;
    }
    if (object_property_find(giommu, "caching-mode") &&
        !object_property_get_bool(giommu, "caching-mode", NULL)) {
        error_setg(errp, "guest IOMMU '%s' does not tell what the guest maps: "
                   "give it caching-mode=on", object_get_typename(giommu));
        return false;
    }
    if (object_property_find(giommu, "aw-bits")) {
        bits = object_property_get_uint(giommu, "aw-bits", NULL);
    }
    if (bits > host) {
        error_setg(errp, "guest IOMMU '%s' translates %d bits, the IOMMU of "
                   "the host %d: give it a lower aw-bits",
                   object_get_typename(giommu), bits, host);
        return false;
    }
    if (last && object_dynamic_cast(giommu, TYPE_VIRTIO_IOMMU)) {
        vfio_giommu_narrow(VIRTIO_IOMMU(giommu), last);
    }
    return true;
}

/* The part of @piece that lies in the section; false if there is none */
static bool vfio_giommu_clip(VFIOIOASSection *s, DMAMap *piece)
{
    hwaddr iova = MAX(piece->iova, s->range.iova);
    hwaddr last = MIN(piece->iova + piece->size, s->range.last);

    if (iova > last) {
        return false;
    }
    piece->translated_addr += iova - piece->iova;
    piece->iova = iova;
    piece->size = last - iova;
    return true;
}

/*
 * What the host's IOMMU has no entry for.  It is the guest that asks for it,
 * and may be a process of the guest's: no reason to stop the VM, and trying
 * again does not help.
 */
static void vfio_giommu_refuse(VFIOIOASSection *s, const DMAMap *piece)
{
    hwaddr last = piece->iova + piece->size;

    vfio_piece_unmap_or_report(s, piece->iova, last);   /* what was there */
    trace_vfio_ioas_map_failed(s->ioas->id, memory_region_name(s->mr),
                               piece->iova, last, -ERANGE);
    if (!s->refused) {
        s->refused = true;
        warn_report("vfio: a guest IOMMU maps [0x%" HWADDR_PRIx ", 0x%"
                    HWADDR_PRIx "] ('%s') to what the IOMMU of the host cannot "
                    "translate: DMA there fails", piece->iova, last,
                    memory_region_name(s->mr));
    }
}

static void vfio_giommu_map_ram(VFIOIOASSection *s, const DMAMap *piece)
{
    hwaddr last = piece->iova + piece->size;
    hwaddr edges = piece->iova | (last + 1) | piece->translated_addr;
    int ret = edges & (s->ioas->alignment - 1) ? -ERANGE
                                               : vfio_piece_map(s, piece);

    if (ret == -ERANGE) {
        vfio_giommu_refuse(s, piece);
        return;
    }
    if (ret == -EEXIST) {
        /* Mapped differently before: the guest's last word counts */
        vfio_piece_unmap_or_report(s, piece->iova, last);
        ret = vfio_piece_map(s, piece);
    }
    if (ret) {
        s->failed = true;
        vfio_ioas_map_failed(s->ioas, memory_region_name(s->mr), piece->iova,
                             last, ret);
    }
}

/* @piece is memory of @mr from @offset on; RAM, perhaps of a device */
static void vfio_giommu_map_part(VFIOIOASSection *s, MemoryRegion *mr,
                                 hwaddr offset, DMAMap piece)
{
    if (memory_region_is_ram_device(mr)) {
        piece.translated_addr = offset;
        if (vfio_giommu_clip(s, &piece)) {
            vfio_peer_map(s, &piece, mr);
        }
        return;
    }
    piece.translated_addr = (uintptr_t)memory_region_get_ram_ptr(mr) + offset;
    if (vfio_giommu_clip(s, &piece)) {
        if (s->peers) {
            vfio_peer_unmap(s, piece.iova, piece.iova + piece.size);
        }
        vfio_giommu_map_ram(s, &piece);
    }
}

static IOMMUAccessFlags vfio_giommu_perm(const IOMMUTLBEntry *iotlb,
                                         bool readonly)
{
    return iotlb->perm & IOMMU_WO && !readonly ? IOMMU_RW : IOMMU_RO;
}

/*
 * A large page of the guest may show more than one thing: a BAR and what is
 * beside it, the page of an MSI-X table within it, a window of the firmware in
 * RAM.  Each part that is whole pages of memory is mapped; false if there is
 * none.  Blocks of virtio-mem are aligned to more than that and left out.
 */
static bool vfio_giommu_map_parts(VFIOIOASSection *s,
                                  const IOMMUTLBEntry *iotlb,
                                  const DMAMap *whole)
{
    hwaddr at = iotlb->translated_addr, last = at + iotlb->addr_mask;
    hwaddr page = qemu_real_host_page_size();
    bool found = false;

    do {
        MemoryRegionSection sec = memory_region_find(
            address_space_memory.root, at, last - at + 1);
        hwaddr first = sec.offset_within_address_space;
        hwaddr start = ROUND_UP(first, page), end;
        hwaddr offset = sec.offset_within_region + (start - first);

        if (!sec.mr) {
            break;
        }
        at = first + int128_get64(sec.size);
        end = QEMU_ALIGN_DOWN(at, page);
        if (start < end && offset % page == 0 &&
            memory_region_is_ram(sec.mr) &&
            !memory_region_has_ram_discard_manager(sec.mr)) {
            DMAMap part = {
                .iova = whole->iova + (start - iotlb->translated_addr),
                .size = end - start - 1,
                .perm = vfio_giommu_perm(iotlb, sec.readonly),
            };

            vfio_giommu_map_part(s, sec.mr, offset, part);
            found = true;
        }
        memory_region_unref(sec.mr);
    } while (at && at <= last);
    return found;
}

/* As memory_get_xlat_addr(), which says it if there is nothing to map */
static void vfio_giommu_map(VFIOIOASSection *s, IOMMUTLBEntry *iotlb,
                            DMAMap *piece)
{
    hwaddr len = iotlb->addr_mask + 1, offset;
    bool discards = false, whole, missing;
    MemoryRegion *mr = address_space_translate(&address_space_memory,
                                               iotlb->translated_addr, &offset,
                                               &len, iotlb->perm & IOMMU_WO,
                                               MEMTXATTRS_UNSPECIFIED);

    whole = memory_region_is_ram(mr) && len == iotlb->addr_mask + 1;
    if (whole) {
        discards = memory_region_has_ram_discard_manager(mr);
    } else {
        /* A BAR of a device that is yet to be loaded: asked for at the start */
        s->early |= !runstate_is_running();
        if (vfio_giommu_map_parts(s, iotlb, piece)) {
            return;
        }
    }
    missing = !whole && s->early;
    if (!missing && (!whole || discards)) {
        missing = !memory_get_xlat_addr(iotlb, NULL, NULL, NULL, &discards);
    }
    if (missing) {
        /* In a replay it may be what other memory was mapped at */
        vfio_piece_unmap_or_report(s, piece->iova, piece->iova + piece->size);
        return;
    }
    if (discards) {
        warn_report_once("vfio: with a guest IOMMU the guest can pin more "
                         "memory of a virtio-mem device than is plugged; "
                         "RLIMIT_MEMLOCK bounds it");
    }
    piece->perm = vfio_giommu_perm(iotlb, mr->readonly);
    vfio_giommu_map_part(s, mr, offset, *piece);
}

static void vfio_giommu_tell(VFIOIOASSection *s, IOMMUTLBEntry *iotlb)
{
    DMAMap piece = {
        .iova = iotlb->iova + s->told_iova - s->offset_within_region,
        .size = iotlb->addr_mask,
    };

    if (piece.iova > s->range.last ||
        piece.iova + piece.size < s->range.iova) {
        return;
    }
    if ((iotlb->perm & IOMMU_RW) == IOMMU_NONE) {
        if (s->replayed) {
            return;             /* intel-iommu begins by unmapping everything */
        }
        vfio_piece_unmap_or_report(s, piece.iova, piece.iova + piece.size);
        return;
    }

    if (s->replayed) {
        DMAMap *part = g_memdup2(&piece, sizeof(piece));

        vfio_giommu_clip(s, part);
        g_tree_replace(s->replayed, part, part);
    }
    if (iotlb->target_as != &address_space_memory) {
        error_report("vfio: guest IOMMU maps to address space '%s', only "
                     "system memory can be mapped",
                     iotlb->target_as->name ?: "none");
        return;
    }

    if (iotlb->addr_mask == HWADDR_MAX) {
        vfio_giommu_refuse(s, &piece);          /* its size is no number */
        return;
    }

    RCU_READ_LOCK_GUARD();
    vfio_giommu_map(s, iotlb, &piece);
}

static bool vfio_giommu_is_told_with(const VFIOIOASSection *s,
                                     const VFIOIOASSection *other)
{
    return other->kind == VFIO_SECTION_IOMMU && other->active &&
           other->mr == s->mr;
}

static void vfio_giommu_notify(IOMMUNotifier *n, IOMMUTLBEntry *iotlb)
{
    VFIOIOASSection *s = container_of(n, VFIOIOASSection, notifier);
    guint i;

    if (!s->replayed) {
        vfio_giommu_tell(s, iotlb);
        return;
    }
    s->replay_heard = true;
    for (i = 0; i < s->ioas->sections->len; i++) {
        VFIOIOASSection *other = g_ptr_array_index(s->ioas->sections, i);

        if (vfio_giommu_is_told_with(s, other)) {
            vfio_giommu_tell(other, iotlb);
        }
    }
}

typedef struct VFIOGiommuStale {
    GTree *replayed;
    GArray *pieces;             /* of DMAMap: what is mapped and not in it */
} VFIOGiommuStale;

static gboolean vfio_giommu_find_stale(gpointer key, gpointer value,
                                       gpointer data)
{
    VFIOGiommuStale *stale = data;

    if (!g_tree_lookup(stale->replayed, key)) {
        g_array_append_vals(stale->pieces, key, 1);
    }
    return FALSE;
}

/* Unmap what the guest does not map any more */
static void vfio_giommu_sweep(VFIOIOASSection *s)
{
    g_autoptr(GArray) pieces = g_array_new(false, false, sizeof(DMAMap));
    VFIOGiommuStale stale = { s->replayed, pieces };
    guint i;

    g_tree_foreach(s->pieces, vfio_giommu_find_stale, &stale);
    if (s->peers) {
        g_tree_foreach(s->peers, vfio_giommu_find_stale, &stale);
    }
    g_clear_pointer(&s->replayed, g_tree_unref);
    for (i = 0; i < pieces->len; i++) {
        const DMAMap *piece = &g_array_index(pieces, DMAMap, i);

        vfio_piece_unmap_or_report(s, piece->iova, piece->iova + piece->size);
    }
}

void vfio_giommu_start(VFIOIOASSection *s)
{
    IOMMUMemoryRegion *iommu_mr = IOMMU_MEMORY_REGION(s->mr);
    Error *err = NULL;
    int idx = memory_region_iommu_attrs_to_index(iommu_mr,
                                                 MEMTXATTRS_UNSPECIFIED);

    /*
     * Of everything, and clipped here: a guest can map a large page across the
     * edge of a section, which memory.c takes for a bug.
     */
    iommu_notifier_init(&s->notifier, vfio_giommu_notify,
                        IOMMU_NOTIFIER_IOTLB_EVENTS, 0, HWADDR_MAX, idx);
    if (memory_region_iommu_set_page_size_mask(iommu_mr,
                                               -s->ioas->alignment, &err) ||
        memory_region_register_iommu_notifier(s->mr, &s->notifier, &err)) {
        error_prepend(&err, "cannot follow the guest IOMMU '%s': ",
                      memory_region_name(s->mr));
        vfio_ioas_fail(s->ioas, err);
        s->failed = true;
        return;
    }
    s->active = true;
    vfio_giommu_replay(s);
}

void vfio_giommu_stop(VFIOIOASSection *s)
{
    memory_region_unregister_iommu_notifier(s->mr, &s->notifier);
}

/*
 * A guest's other vCPUs may have changed entries and not said so yet.  Since
 * intel-iommu has told what it walked over, it tells nothing when they do: so
 * one walk is for all sections, and what it does not come across goes.  Devices
 * may be at work, so the rest stays as it is.
 */
void vfio_giommu_replay(VFIOIOASSection *s)
{
    GPtrArray *sections = s->ioas->sections;
    guint i;

    for (i = 0; i < sections->len; i++) {
        VFIOIOASSection *other = g_ptr_array_index(sections, i);

        if (vfio_giommu_is_told_with(s, other)) {
            other->failed = other->early = false;
            other->replayed = g_tree_new_full(vfio_piece_cmp, NULL, NULL,
                                              g_free);
        }
    }
    s->replay_heard = false;
    memory_region_iommu_replay(IOMMU_MEMORY_REGION(s->mr), &s->notifier);
    for (i = 0; i < sections->len; i++) {
        VFIOIOASSection *other = g_ptr_array_index(sections, i);

        if (!vfio_giommu_is_told_with(s, other)) {
            continue;
        }
        if (s->replay_heard) {
            vfio_giommu_sweep(other);
        } else {                /* s390x has no replay, others no mapping */
            g_clear_pointer(&other->replayed, g_tree_unref);
        }
    }
}
