/*
 * Address-space side of VFIO over iommufd: sections filled piece by piece
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Some sections of an address space are not mapped as a whole: what a guest
 * IOMMU translates and which parts of a virtio-mem device are plugged changes
 * at run time, announced by an IOMMUNotifier (ioas-giommu.c) or a
 * RamDiscardListener.
 *
 * Owns: the registration with the latter and, per section, the tree of the
 * pieces that are mapped (one entry per kernel mapping).  What a guest maps of
 * BARs is not among them, see ioas-peer.c.
 * Borrows: the section, whose MemoryRegion the listener references.
 *
 * Invariants: entries of the tree and the kernel's mappings in the section's
 * range are the same set.  An unmap therefore never asks for a range without
 * mappings, and one that would cut a mapping (guests may unmap less than they
 * mapped, Linux does not: IOMMU_IOAS_UNMAP answers ENOENT and the mapping
 * stays live) replaces the mapping by what is left of it.  A piece whose memory
 * is no more, or is not what is mapped, has no permission (IOMMU_NONE): it
 * equals nothing and is not put back.
 *
 * Called with the BQL held.
 */

#include "qemu/osdep.h"

#include "ioas-dynamic.h"
#include "qemu/error-report.h"
#include "trace.h"

gint vfio_piece_cmp(gconstpointer a, gconstpointer b, gpointer unused)
{
    const DMAMap *x = a, *y = b;

    return x->iova > y->iova + y->size ? 1 :
           x->iova + x->size < y->iova ? -1 : 0;
}

/* A mapping in [@iova, @last], or NULL */
static const DMAMap *vfio_piece_find(VFIOIOASSection *s, hwaddr iova,
                                     hwaddr last)
{
    DMAMap range = { .iova = iova, .size = last - iova };

    return g_tree_lookup(s->pieces, &range);
}

int vfio_piece_map(VFIOIOASSection *s, const DMAMap *piece)
{
    const DMAMap *have = g_tree_lookup(s->pieces, piece);
    DMAMap *new;
    int ret;

    if (have && have->iova == piece->iova && have->size == piece->size &&
        have->translated_addr == piece->translated_addr &&
        have->perm == piece->perm) {
        return 0;               /* a replay repeats what is there */
    }
    if (have) {
        return -EEXIST;
    }
    ret = vfio_ioas_map(s->ioas, piece->iova, piece->iova + piece->size,
                        piece->translated_addr, piece->perm == IOMMU_RO);
    if (!ret) {
        new = g_new(DMAMap, 1);
        *new = *piece;
        g_tree_insert(s->pieces, new, new);
    }
    return ret;
}

typedef struct VFIOPiecesWanted {
    hwaddr first, last;
    GArray *pieces;
} VFIOPiecesWanted;

static gboolean vfio_piece_collect(gpointer key, gpointer value, gpointer data)
{
    const DMAMap *piece = value;
    VFIOPiecesWanted *wanted = data;
    VFIOMapRange range = {
        .iova = piece->iova,
        .last = piece->iova + piece->size,
        .vaddr = piece->translated_addr,
        .readonly = piece->perm != IOMMU_RW,
    };

    if (range.iova <= wanted->last && wanted->first <= range.last) {
        g_array_append_val(wanted->pieces, range);
    }
    return range.iova > wanted->last;
}

GArray *vfio_ioas_pieces(VFIOIOASSection *s, uint64_t first, uint64_t last)
{
    VFIOPiecesWanted wanted = {
        .first = first,
        .last = last,
        .pieces = g_array_new(false, false, sizeof(VFIOMapRange)),
    };
    const DMAMap *one = vfio_piece_find(s, first, last);

    if (one && one->iova == first && one->size == last - first) {
        vfio_piece_collect(NULL, (gpointer)one, &wanted);
    } else if (one) {
        g_tree_foreach(s->pieces, vfio_piece_collect, &wanted);
    }
    return wanted.pieces;
}

/* Unmap [@iova, @last], of which the tree says that no mapping crosses it */
static int vfio_piece_unmap_whole(VFIOIOASSection *s, hwaddr iova, hwaddr last)
{
    DMAMap range = { .iova = iova, .size = last - iova };
    int ret;

    if (!vfio_piece_find(s, iova, last)) {
        return 0;
    }
    if (s->ioas->dirty) {
        g_autoptr(GArray) pieces = vfio_ioas_pieces(s, iova, last);

        vfio_ioas_dirty_unmap(s->ioas, pieces, iova, last);
    }
    ret = vfio_ioas_unmap(s->ioas, iova, last, 0);
    while (!ret && g_tree_remove(s->pieces, &range)) {
        s->ioas->mappings--;
    }
    return ret;
}

typedef struct VFIOPiecesLost {
    uint64_t first, last;
    bool host;                  /* addresses in this process, not IOVAs */
} VFIOPiecesLost;

static gboolean vfio_piece_lose(gpointer key, gpointer value, gpointer data)
{
    const VFIOPiecesLost *lost = data;
    DMAMap *piece = value;
    uint64_t first = lost->host ? piece->translated_addr : piece->iova;

    if (first <= lost->last && lost->first <= first + piece->size) {
        piece->perm = IOMMU_NONE;
    }
    return FALSE;
}

void vfio_piece_lose_block(VFIOIOASSection *s, const void *host, size_t size)
{
    VFIOPiecesLost lost = {
        .first = (uintptr_t)host,
        .last = (uintptr_t)host + size - 1,
        .host = true,
    };

    g_tree_foreach(s->pieces, vfio_piece_lose, &lost);
}

/* What was unmapped along with something else; the guest has it mapped still */
static void vfio_piece_put_back(VFIOIOASSection *s, const DMAMap *piece)
{
    int ret;

    if (piece->perm == IOMMU_NONE) {
        return;
    }
    ret = vfio_piece_map(s, piece);
    if (ret) {
        s->failed = true;
        vfio_ioas_map_failed(s->ioas, memory_region_name(s->mr), piece->iova,
                             piece->iova + piece->size, ret);
    }
    vfio_ioas_dirty_remapped(s->ioas, piece->translated_addr, piece->size + 1,
                             piece->perm == IOMMU_RO);
}

/*
 * Let no mapping have bytes on both sides of the edge below @iova.  Fails if it
 * cannot be unmapped.
 */
static int vfio_piece_split(VFIOIOASSection *s, hwaddr iova)
{
    const DMAMap *have = vfio_piece_find(s, iova, iova);
    DMAMap head, tail;
    int ret;

    if (!have || have->iova == iova) {
        return 0;
    }

    head = tail = *have;
    head.size = iova - head.iova - 1;
    tail.iova = iova;
    tail.translated_addr += iova - head.iova;
    tail.size -= iova - head.iova;
    trace_vfio_ioas_split(s->ioas->id, head.iova, iova);

    ret = vfio_piece_unmap_whole(s, head.iova, have->iova + have->size);
    if (!ret) {
        vfio_piece_put_back(s, &head);
        vfio_piece_put_back(s, &tail);
    }
    return ret;
}

static int vfio_piece_unmap(VFIOIOASSection *s, hwaddr iova, hwaddr last)
{
    const DMAMap *have;
    int ret, peers = 0;

    iova = MAX(iova, s->range.iova);
    last = MIN(last, s->range.last);
    if (iova > last) {
        return 0;
    }
    if (s->peers) {
        peers = vfio_peer_unmap(s, iova, last);
    }

    have = vfio_piece_find(s, iova, iova);
    if (have && have->iova == iova && have->size == last - iova &&
        !s->ioas->dirty) {
        ret = vfio_ioas_unmap(s->ioas, iova, last, 1);  /* as it was mapped */
        if (!ret) {
            g_tree_remove(s->pieces, have);
        }
        return ret ?: peers;
    }

    ret = vfio_piece_split(s, iova);
    if (!ret && last != UINT64_MAX) {
        ret = vfio_piece_split(s, last + 1);
    }
    ret = ret ?: vfio_piece_unmap_whole(s, iova, last);
    return ret ?: peers;
}

void vfio_piece_report(VFIOIOASSection *s, hwaddr iova, hwaddr last, int ret)
{
    error_report("vfio: unmapping [0x%" HWADDR_PRIx ", 0x%" HWADDR_PRIx
                 "] ('%s') failed: %s", iova, last, memory_region_name(s->mr),
                 strerror(-ret));
}

void vfio_piece_unmap_or_report(VFIOIOASSection *s, hwaddr iova, hwaddr last)
{
    int ret = vfio_piece_unmap(s, iova, last);

    if (ret) {
        vfio_piece_report(s, iova, last, ret);
    }
}

/* RamDiscardManager */

/*
 * A part that shall be plugged could not be mapped.  At run time the manager
 * is told and refuses to plug it; when listening starts, nobody asks us.
 */
static void vfio_discard_undo(VFIOIOASSection *s, MemoryRegionSection *section,
                              const DMAMap *piece, int ret)
{
    hwaddr start = s->told_iova + section->offset_within_region -
                   s->offset_within_region;
    hwaddr last = piece->iova + piece->size;

    if (s->active) {
        trace_vfio_ioas_map_failed(s->ioas->id, memory_region_name(s->mr),
                                   piece->iova, last, ret);
        vfio_ioas_note_failed(s->ioas, memory_region_name(s->mr), piece->iova,
                              last, ret);
    } else {
        s->failed = true;
        vfio_ioas_map_failed(s->ioas, memory_region_name(s->mr), piece->iova,
                             last, ret);
    }
    vfio_piece_unmap_or_report(s, start, last);
}

/*
 * The same memory in the base of the section's IOAS.  Whoever hears first of a
 * block tells the base of it: the last listener, and the base was there before.
 */
static VFIOIOASSection *vfio_discard_in_base(VFIOIOASSection *s,
                                             const MemoryRegionSection *section,
                                             MemoryRegionSection *in_base)
{
    VFIOIOAS *base = s->active ? s->ioas->base : NULL;
    guint i;

    for (i = 0; base && i < base->sections->len; i++) {
        VFIOIOASSection *b = g_ptr_array_index(base->sections, i);

        if (b->kind == VFIO_SECTION_DISCARD && b->active && b->mr == s->mr &&
            b->offset_within_region == s->offset_within_region &&
            int128_eq(b->told_size, s->told_size)) {
            *in_base = *section;
            in_base->offset_within_address_space +=
                b->told_iova - s->told_iova;
            return b;
        }
    }
    return NULL;
}

static void vfio_discard_notify_discard(RamDiscardListener *rdl,
                                        MemoryRegionSection *section)
{
    VFIOIOASSection *s = container_of(rdl, VFIOIOASSection, discard);
    hwaddr iova = section->offset_within_address_space;
    MemoryRegionSection in_base;
    VFIOIOASSection *b = vfio_discard_in_base(s, section, &in_base);
    VFIOPiecesLost lost = {
        .first = iova,
        .last = iova + int128_get64(section->size) - 1,
    };

    vfio_piece_unmap_or_report(s, lost.first, lost.last);
    /* Should something be mapped still, it is no longer what is plugged next */
    if (vfio_piece_find(s, lost.first, lost.last)) {
        g_tree_foreach(s->pieces, vfio_piece_lose, &lost);
    }
    if (b) {
        vfio_discard_notify_discard(&b->discard, &in_base);
    }
}

static int vfio_discard_notify_populate(RamDiscardListener *rdl,
                                        MemoryRegionSection *section)
{
    VFIOIOASSection *s = container_of(rdl, VFIOIOASSection, discard);
    hwaddr offset = section->offset_within_region;
    hwaddr end = offset + int128_get64(section->size), next;
    MemoryRegionSection in_base;
    VFIOIOASSection *b = vfio_discard_in_base(s, section, &in_base);
    int ret;

    if (b) {
        vfio_discard_notify_populate(&b->discard, &in_base);
    }
    /* Map what can be discarded alone as mappings of their own */
    for (; offset < end; offset = next) {
        DMAMap piece = {
            .iova = s->told_iova + offset - s->offset_within_region,
            .translated_addr = s->range.vaddr + offset -
                               s->offset_within_region,
            .perm = section->readonly ? IOMMU_RO : IOMMU_RW,
        };

        next = MIN(ROUND_UP(offset + 1, s->granularity), end);
        piece.size = next - offset - 1;
        ret = vfio_piece_map(s, &piece);
        if (ret) {
            vfio_discard_undo(s, section, &piece, ret);
            if (b) {
                vfio_discard_notify_discard(&b->discard, &in_base);
            }
            return vfio_base_only(s->ioas) ? 0 : ret;
        }
    }
    return 0;
}

static MemoryRegionSection vfio_discard_section(const VFIOIOASSection *s)
{
    return (MemoryRegionSection) {
        .mr = s->mr,
        .offset_within_region = s->offset_within_region,
        .offset_within_address_space = s->told_iova,
        .size = s->told_size,
        .readonly = s->range.readonly,
    };
}

static int vfio_discard_populated(MemoryRegionSection *section, void *opaque)
{
    VFIOIOASSection *s = opaque;

    vfio_discard_notify_populate(&s->discard, section);
    return 0;                   /* the others, too */
}

/* As when listening started: each failure is one of the section */
static void vfio_discard_replay(VFIOIOASSection *s)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(s->mr);
    MemoryRegionSection section = vfio_discard_section(s);

    s->active = false;
    ram_discard_manager_replay_populated(rdm, &section, vfio_discard_populated,
                                         s);
    s->active = true;
}

static void vfio_discard_start(VFIOIOASSection *s)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(s->mr);
    MemoryRegionSection section = vfio_discard_section(s);

    s->granularity = ram_discard_manager_get_min_granularity(rdm, s->mr);
    ram_discard_listener_init(&s->discard, vfio_discard_notify_populate,
                              vfio_discard_notify_discard, true);
    ram_discard_manager_register_listener(rdm, &s->discard, &section);
    s->active = true;
}

void vfio_ioas_start_dynamic(VFIOIOASSection *s)
{
    if (!s->pieces) {
        s->pieces = g_tree_new_full(vfio_piece_cmp, NULL, NULL, g_free);
    }
    s->failed = false;
    if (s->kind == VFIO_SECTION_IOMMU) {
        vfio_giommu_start(s);
    } else {
        vfio_discard_start(s);
    }
}

void vfio_ioas_stop_dynamic(VFIOIOASSection *s)
{
    s->active = false;
    if (s->kind == VFIO_SECTION_IOMMU) {
        vfio_giommu_stop(s);
    } else {
        /* Tells us to discard everything that is there */
        ram_discard_manager_unregister_listener(
            memory_region_get_ram_discard_manager(s->mr), &s->discard);
    }
    if (!s->ioas->dying) {
        vfio_piece_unmap_or_report(s, s->range.iova, s->range.last);
    }
}

/* Devices may be at work: what is mapped stays so */
static void vfio_ioas_retry_dynamic(VFIOIOASSection *s)
{
    if (!s->active) {
        vfio_ioas_start_dynamic(s);
        return;
    }
    s->failed = false;
    if (s->kind == VFIO_SECTION_IOMMU) {
        vfio_giommu_replay(s);
    } else {
        vfio_discard_replay(s);
    }
}

void vfio_ioas_loaded(VFIOIOAS *ioas)
{
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (s->kind == VFIO_SECTION_IOMMU && s->active && !s->gone &&
            !g_tree_nnodes(s->pieces)) {
            vfio_giommu_replay(s);
        }
    }
}

void vfio_ioas_retry_failed(VFIOIOAS *ioas)
{
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if ((s->failed || s->early) && !s->gone) {
            vfio_ioas_retry_dynamic(s);
        }
    }
}
