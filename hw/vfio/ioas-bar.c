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
 * kernel was told to decode it.  What revokes it without a change of the memory
 * map, the device side tells: vfio_ioas_refresh_bars().
 *
 * A device that is alone has no peers: its BARs are not mapped.
 */

#include "qemu/osdep.h"

#include "ioas.h"
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

/*
 * Only when there are others: most guests never do peer-to-peer.  Behind a
 * guest IOMMU the base says it, which knows all devices of the VM.
 */
static void vfio_ioas_tell_bars(VFIOIOAS *ioas)
{
    GHashTableIter iter;
    gpointer p;

    if (ioas->users < 2 || ioas->base) {
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

static void vfio_ioas_note_bar(VFIOIOASSection *s, int ret)
{
    VFIOBarNote *note = g_hash_table_lookup(s->ioas->bars, s->mr->owner);
    const char *name = memory_region_name(s->mr);

    s->refused = true;
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
    g_hash_table_insert(s->ioas->bars, s->mr->owner, note);
}

void vfio_ioas_map_bar(VFIOIOASSection *s)
{
    VFIOIOAS *ioas = s->ioas;
    VFIOBarNote *note = g_hash_table_lookup(ioas->bars, s->mr->owner);
    int fd, ret;

    if (s->refused || s->mr->owner == ioas->alone || (note && note->cannot)) {
        return;
    }
    fd = ret = vfio_dmabuf_get(s->mr, s->offset_within_region +
                               (s->range.iova - s->told_iova),
                               s->range.last - s->range.iova + 1);
    if (fd < 0) {
        vfio_ioas_note_bar(s, ret);
    } else {
        ret = vfio_ioas_map_dmabuf(ioas, &s->range, fd);
        close(fd);
        s->active = !ret;
        if (ret && ret != -ENODEV) {
            vfio_ioas_note_bar(s, ret);
        }
    }
    trace_vfio_ioas_bar(ioas->id, memory_region_name(s->mr), s->range.iova,
                        s->range.last, ret < 0 ? ret : 0);
    vfio_ioas_tell_bars(ioas);
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

static void vfio_ioas_refresh(VFIOIOAS *ioas, Object *owner, bool revoked)
{
    guint i;

    for (i = 0; ioas->sections && i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (s->kind != VFIO_SECTION_BAR || s->gone ||
            (owner && s->mr->owner != owner)) {
            continue;
        }
        if (s->active && revoked) {
            vfio_ioas_unmap_bar(s);
        }
        if (!s->active) {
            vfio_ioas_map_bar(s);
        }
    }
}

void vfio_ioas_map_bars(VFIOIOAS *ioas)
{
    vfio_ioas_refresh(ioas, NULL, false);
    vfio_ioas_tell_bars(ioas);
}

void vfio_ioas_refresh_bars(Object *owner, bool revoked)
{
    VFIOIOAS *ioas;

    QLIST_FOREACH(ioas, &vfio_ioases, next) {
        vfio_ioas_refresh(ioas, owner, revoked);
    }
}

void vfio_ioas_forget_bars(Object *owner)
{
    VFIOIOAS *ioas;

    QLIST_FOREACH(ioas, &vfio_ioases, next) {
        if (ioas->bars) {
            g_hash_table_remove(ioas->bars, owner);
        }
    }
}
