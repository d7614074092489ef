/*
 * Address-space side of VFIO over iommufd: BARs of assigned devices
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * To QEMU the BARs of an assigned device are RAM (ram_device).  Other assigned
 * devices reach them by DMA (peer-to-peer) if the kernel can map them; if not,
 * everything else works, and one line for each device says so.
 *
 * Owns: the mappings of such sections, and the notes of what was said.
 * Borrows: the sections, and for the time of a call the dma-buf that stands for
 * one (dmabuf.c): the mapping keeps it, so no descriptor is left.
 *
 * Kernel facts: IOMMU_IOAS_MAP answers EFAULT for a BAR (VM_PFNMAP) for good;
 * IOMMU_IOAS_MAP_FILE takes a dma-buf of it (Linux 6.19), and counts no locked
 * memory.  While a device does not decode memory, is in D3hot or being reset,
 * its dma-bufs are revoked: what was mapped is gone from the page tables, but
 * not from the IOAS, and a new map answers ENODEV.
 *
 * So a BAR is mapped when it appears in the memory map, which is after the
 * kernel was told to decode it.  What revokes it, and when that is over, the
 * device side tells, vfio_ioas_revoke_bars() and vfio_ioas_refresh_bars(): for
 * what does not change the memory map, and for what guests map by their IOMMU
 * (ioas-peer.c).
 *
 * A device that is alone has no peers: its BARs are not mapped.
 */

#include "qemu/osdep.h"

#include "ioas-dynamic.h"
#include "dmabuf.h"
#include "qemu/error-report.h"
#include "trace.h"

/* What is to be said of a device's BARs */
typedef struct VFIOBarNote {
    char *line;                 /* NULL when it was said */
    bool cannot;                /* no BAR of this device can be mapped */
} VFIOBarNote;

static void vfio_bar_note_free(gpointer p)
{
    VFIOBarNote *note = p;

    g_free(note->line);
    g_free(note);
}

void vfio_ioas_start_bars(VFIOIOAS *ioas)
{
    ioas->bars = g_hash_table_new_full(NULL, NULL, NULL, vfio_bar_note_free);
}

void vfio_ioas_stop_bars(VFIOIOAS *ioas)
{
    g_hash_table_unref(ioas->bars);
    ioas->bars = NULL;
}

/* Whose notes?  Behind a guest IOMMU the base knows all devices of the VM */
static VFIOIOAS *vfio_ioas_of_notes(VFIOIOAS *ioas)
{
    return ioas->base ?: ioas;
}

/* Only when there are others: most guests never do peer-to-peer */
static void vfio_ioas_tell_bars(VFIOIOAS *ioas)
{
    GHashTableIter iter;
    gpointer p;

    ioas = vfio_ioas_of_notes(ioas);
    if (ioas->users < 2) {
        return;
    }
    g_hash_table_iter_init(&iter, ioas->bars);
    while (g_hash_table_iter_next(&iter, NULL, &p)) {
        VFIOBarNote *note = p;

        if (note->line) {
            info_report("vfio: %s", note->line);
            g_clear_pointer(&note->line, g_free);
        }
    }
}

static void vfio_ioas_note_bar(VFIOIOAS *ioas, const MemoryRegion *mr, int ret)
{
    GHashTable *bars = vfio_ioas_of_notes(ioas)->bars;
    VFIOBarNote *note = g_hash_table_lookup(bars, mr->owner);
    const char *name = memory_region_name(mr);

    if (note) {
        return;
    }
    note = g_new0(VFIOBarNote, 1);
    note->cannot = ret == -EOPNOTSUPP;
    if (note->cannot) {
        note->line = g_strdup_printf(
            "'%s': this kernel cannot map it for DMA, so other assigned "
            "devices cannot reach this device (peer-to-peer); everything else "
            "works", name);
    } else {
        note->line = g_strdup_printf(
            "'%s': cannot be mapped for DMA (%s), so other assigned devices "
            "cannot reach it (peer-to-peer); everything else works", name,
            strerror(-ret));
    }
    g_hash_table_insert(bars, mr->owner, note);
}

int vfio_ioas_try_bar(VFIOIOAS *ioas, MemoryRegion *mr, hwaddr offset,
                      const VFIOMapRange *range)
{
    VFIOBarNote *note = g_hash_table_lookup(vfio_ioas_of_notes(ioas)->bars,
                                            mr->owner);
    int fd, ret;

    if (note && note->cannot) {
        return -EOPNOTSUPP;
    }
    fd = ret = vfio_dmabuf_get(mr, offset, range->last - range->iova + 1);
    if (fd >= 0) {
        ret = vfio_ioas_map_dmabuf(ioas, range, fd);
        close(fd);
    }
    trace_vfio_ioas_bar(ioas->id, memory_region_name(mr), range->iova,
                        range->last, ret);
    if (ret && (fd < 0 || ret != -ENODEV)) {
        vfio_ioas_note_bar(ioas, mr, ret);
        vfio_ioas_tell_bars(ioas);
    }
    /* Of the dma-buf this means for good, of its map for now */
    return fd < 0 && ret == -ENODEV ? -ENXIO : ret;
}

void vfio_ioas_map_bar(VFIOIOASSection *s)
{
    int ret;

    if (s->refused || s->mr->owner == s->ioas->alone) {
        return;
    }
    ret = vfio_ioas_try_bar(s->ioas, s->mr, s->offset_within_region +
                            (s->range.iova - s->told_iova), &s->range);
    s->active = !ret;
    s->refused = ret && ret != -ENODEV;
}

void vfio_ioas_unmap_bar(VFIOIOASSection *s)
{
    int ret = 0;

    if (!s->ioas->dying) {
        ret = vfio_ioas_unmap(s->ioas, s->range.iova, s->range.last, 1);
    }
    if (ret) {
        error_report("vfio: unmapping [0x%" PRIx64 ", 0x%" PRIx64 "] ('%s') "
                     "failed: %s", s->range.iova, s->range.last,
                     memory_region_name(s->mr), strerror(-ret));
    }
    s->active = false;
}

static bool vfio_ioas_is_bar(const VFIOIOASSection *s, const Object *owner)
{
    return s->kind == VFIO_SECTION_BAR && !s->gone &&
           (!owner || s->mr->owner == owner);
}

void vfio_ioas_map_bars(VFIOIOAS *ioas)
{
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (vfio_ioas_is_bar(s, NULL) && !s->active) {
            vfio_ioas_map_bar(s);
        }
    }
    vfio_ioas_tell_bars(ioas);
}

void vfio_ioas_revoke_bars(Object *owner)
{
    VFIOIOAS *ioas;
    guint i;

    QLIST_FOREACH(ioas, &vfio_ioases, next) {
        for (i = 0; ioas->sections && i < ioas->sections->len; i++) {
            VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

            vfio_peer_revoke(s, owner);
            if (vfio_ioas_is_bar(s, owner) && s->active) {
                vfio_ioas_unmap_bar(s);
            }
        }
    }
}

void vfio_ioas_refresh_bars(Object *owner)
{
    VFIOIOAS *ioas;
    guint i;

    QLIST_FOREACH(ioas, &vfio_ioases, next) {
        for (i = 0; ioas->sections && i < ioas->sections->len; i++) {
            VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

            vfio_peer_refresh(s, owner);
            if (vfio_ioas_is_bar(s, owner) && !s->active) {
                vfio_ioas_map_bar(s);
            }
        }
    }
}

void vfio_ioas_forget_bars(Object *owner)
{
    VFIOIOAS *ioas;
    guint i;

    if (!owner) {
        return;                 /* it never came to be */
    }
    QLIST_FOREACH(ioas, &vfio_ioases, next) {
        for (i = 0; ioas->sections && i < ioas->sections->len; i++) {
            vfio_peer_forget(g_ptr_array_index(ioas->sections, i), owner);
        }
        if (ioas->bars) {
            g_hash_table_remove(ioas->bars, owner);
        }
    }
}
