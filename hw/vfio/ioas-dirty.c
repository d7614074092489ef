/*
 * Address-space side of VFIO over iommufd: which memory devices have written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: VFIODirty, which exists while RAM's dirty log is on (migration,
 * calc-dirty-rate), and whether page tables and devices log meanwhile.
 * Borrows: what is mapped, the page tables, the writers.
 *
 * A writer is an attached device.  It logs its own writes, or its page table
 * does, or nobody: then all that is mapped for writing counts as written at
 * each sync ("all").  So it is when anything fails.  The rule for everything
 * here: a page that was written may be reported too often, but never not at
 * all.
 *
 * A sync is asked for section by section, in ascending order; what is adjacent
 * in the IOAS is asked of the kernel once, in one run, when the first section
 * of it comes.  A request for a section alone (a display's memory) reads its
 * run.
 *
 * Nothing is lost when a mapping or a device goes: both are read before.  What
 * is mapped anew is tracked from its first write by the page table; a device
 * logs in ranges that were given when it began, and what is mapped outside of
 * them counts as written.
 *
 * Kernel facts: see backends/iommufd-dirty.c; a run is cut where a mapping
 * ends and nowhere else.  A log that a device fails to report is not to be
 * trusted for what it reported before (include/uapi/linux/vfio.h). QEMU 7.2:
 * memory_global_dirty_log_start() commits a transaction after it has called
 * log_global_start, and a listener that is registered while the log is on gets
 * both as well.  So tracking begins in that commit, with all sections known
 * and nothing mapped for a device that was just attached.
 */

#include "qemu/osdep.h"

#include "ioas.h"
#include "exec/ram_addr.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "trace.h"

/* The bitmap of so much is what the kernel pins at a time (2 MiB) */
#define RUN_MAX (64 * GiB)

#define LOGGED(array, i) g_array_index(array, IOMMUFDRange, i)

struct VFIODirty {
    bool started;
    bool all;                   /* nobody knows what was written */
    bool said;                  /* that a page table could not be read */
    bool syncing;               /* a section of this sync came: */
    hwaddr told;                /*   the last one, */
    bool synced;                /*   and a run of RAM was read: */
    uint64_t synced_last;       /*   the last byte of the last one */
    uint64_t room;              /* of the bitmaps, in pages */
    unsigned long *run;         /* what was written in a run, */
    unsigned long *part;        /* and in a part of it */
};

static uint64_t vfio_dirty_page(void)
{
    return qemu_real_host_page_size();
}

/* Hand over what was written */

/* One part of a run to RAM's dirty log; its first page is bit @at of the run */
static void vfio_dirty_log(VFIOIOAS *ioas, const VFIOMapRange *r, uint64_t at)
{
    VFIODirty *d = ioas->dirty;
    uint64_t vaddr = r->vaddr, left = r->last - r->iova + 1;

    RCU_READ_LOCK_GUARD();
    while (left) {
        ram_addr_t offset;
        RAMBlock *rb = qemu_ram_block_from_host((void *)(uintptr_t)vaddr, false,
                                                &offset);
        uint64_t size = rb ? MIN(left, qemu_ram_get_max_length(rb) - offset)
                           : left;
        uint64_t pages = DIV_ROUND_UP(size, vfio_dirty_page());

        if (rb && find_next_bit(d->run, at + pages, at) < at + pages) {
            uint64_t first, written;

            bitmap_copy_with_src_offset(d->part, d->run, at, pages);
            /* Whole words are copied and taken; the rest is of what follows */
            bitmap_clear(d->part, pages, -pages & (BITS_PER_LONG - 1));
            first = find_first_bit(d->part, pages) * vfio_dirty_page();
            written = bitmap_count_one(d->part, pages);
            bitmap_to_le(d->part, d->part, pages);
            cpu_physical_memory_set_dirty_lebitmap(
                d->part, qemu_ram_get_offset(rb) + offset, pages);
            ioas->written += written * vfio_dirty_page();
            trace_vfio_ioas_written(ioas->id, qemu_ram_get_idstr(rb), written,
                                    offset + first);
        }
        vaddr += size;
        left -= size;
        at += pages;
    }
}

static void vfio_dirty_make_room(VFIODirty *d, uint64_t pages)
{
    if (d->room < pages) {
        /* Whole pages: what the kernel sets beside a run hits nothing else */
        uint64_t size = ROUND_UP(BITS_TO_LONGS(pages) * sizeof(unsigned long),
                                 vfio_dirty_page());

        qemu_vfree(d->run);
        qemu_vfree(d->part);
        d->room = pages;
        d->run = qemu_memalign(vfio_dirty_page(), size);
        d->part = qemu_memalign(vfio_dirty_page(), size);
    }
    bitmap_zero(d->run, pages);
}

/* Is all of it where the device was told to log? */
static bool vfio_dirty_is_logged(const VFIOWriter *w, uint64_t iova,
                                 uint64_t last)
{
    guint i;

    for (i = 0; i < w->logged->len; i++) {
        const IOMMUFDRange *r = &LOGGED(w->logged, i);

        if (r->start <= iova && last <= r->last) {
            return true;
        }
    }
    return false;
}

static void vfio_dirty_give_up(VFIOIOAS *ioas, const char *reason);

/* What was written in a run, into its bitmap */
static void vfio_dirty_read(VFIOIOAS *ioas, uint64_t iova, uint64_t last,
                            bool clear)
{
    VFIODirty *d = ioas->dirty;
    uint64_t size = last - iova + 1, pages = size / vfio_dirty_page();
    bool known = !d->all;
    VFIOHWPT *hwpt;
    VFIOWriter *w;
    int ret;

    vfio_dirty_make_room(d, pages);
    QLIST_FOREACH(hwpt, &ioas->hwpts, next) {
        if (!known || !hwpt->tracking) {
            continue;
        }
        ret = iommufd_backend_get_dirty_bitmap(ioas->be, hwpt->id, iova, size,
                                               vfio_dirty_page(), d->run,
                                               clear);
        if (ret && !d->said) {
            error_report("vfio: IOMMU_HWPT_GET_DIRTY_BITMAP of [0x%" PRIx64
                         ", 0x%" PRIx64 "] failed: %s: all of it counts as "
                         "written", iova, last, strerror(-ret));
            d->said = true;
        }
        known = !ret;
    }
    QLIST_FOREACH(w, &ioas->writers, next) {
        if (!known || !w->logged) {
            continue;
        }
        known = vfio_dirty_is_logged(w, iova, last);
        ret = known ? w->log->report(w, iova, size, d->run) : 0;
        if (ret) {
            g_autofree char *reason = g_strdup_printf(
                "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT of %s: %s", w->name,
                strerror(-ret));

            vfio_dirty_give_up(ioas, reason);
            known = false;
            break;              /* no writer logs any more */
        }
    }
    if (!known) {
        vfio_dirty_make_room(d, pages);
        bitmap_set(d->run, 0, pages);
    }
}

/*
 * Sync the runs of these @n mappings, which are in ascending order, that have
 * bytes in [@first, @last].  Returns the last run's last mapping, or NULL.
 */
static const VFIOMapRange *vfio_dirty_sync_runs(VFIOIOAS *ioas,
                                                const VFIOMapRange *map,
                                                guint n, uint64_t first,
                                                uint64_t last, bool clear)
{
    const VFIOMapRange *synced = NULL;
    guint i, end;

    if (QLIST_EMPTY(&ioas->writers)) {
        return NULL;            /* others copy from it (ioas-base.c) */
    }
    for (i = 0; i < n; i = end) {
        uint64_t start = map[i].iova, at = 0;

        end = i + 1;
        if (map[i].readonly) {
            continue;
        }
        while (end < n && !map[end].readonly &&
               map[end].iova - 1 == map[end - 1].last &&
               map[end].last - start < RUN_MAX) {
            end++;
        }
        if (map[end - 1].last < first || last < start) {
            continue;
        }

        vfio_dirty_read(ioas, start, map[end - 1].last, clear);
        trace_vfio_ioas_dirty_run(ioas->id, start, map[end - 1].last, end - i,
                                  clear, ioas->dirty->all);
        for (; i < end; i++) {
            vfio_dirty_log(ioas, &map[i], at);
            at += (map[i].last - map[i].iova + 1) / vfio_dirty_page();
        }
        synced = &map[end - 1];
    }
    return synced;
}

/* The pieces of all dynamic sections in [@first, @last] */
static void vfio_dirty_sync_pieces(VFIOIOAS *ioas, uint64_t first,
                                   uint64_t last)
{
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (s->pieces && s->range.iova <= last && first <= s->range.last) {
            g_autoptr(GArray) pieces = vfio_ioas_pieces(s, first, last);

            vfio_dirty_sync_runs(ioas, (VFIOMapRange *)pieces->data,
                                 pieces->len, 0, UINT64_MAX, true);
        }
    }
}

static void vfio_dirty_sync_all(VFIOIOAS *ioas)
{
    if (ioas->sections) {
        vfio_dirty_sync_runs(ioas, (VFIOMapRange *)ioas->mapped->data,
                             ioas->mapped->len, 0, UINT64_MAX, true);
        vfio_dirty_sync_pieces(ioas, 0, UINT64_MAX);
    }
}

/* Begin and end */

static void vfio_dirty_stop_all(VFIOIOAS *ioas)
{
    VFIOHWPT *hwpt;
    VFIOWriter *w;

    QLIST_FOREACH(hwpt, &ioas->hwpts, next) {
        if (hwpt->tracking) {
            iommufd_backend_set_dirty_tracking(ioas->be, hwpt->id, false);
            hwpt->tracking = false;
        }
    }
    QLIST_FOREACH(w, &ioas->writers, next) {
        if (w->logged) {
            w->log->stop(w);
            g_clear_pointer(&w->logged, g_array_unref);
        }
    }
}

/*
 * From now on nobody tracks.  Writes that were logged and not reported yet are
 * reported with all else, at once.
 */
static void vfio_dirty_give_up(VFIOIOAS *ioas, const char *reason)
{
    ioas->dirty->all = true;
    vfio_dirty_stop_all(ioas);
    warn_report("vfio: writes of devices to memory cannot be tracked (%s): all "
                "%" PRIu64 " KiB that they can reach count as written, at each "
                "sync", reason, ioas->mapped_bytes / KiB);
    vfio_dirty_sync_all(ioas);
}

static gint vfio_dirty_range_cmp(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const IOMMUFDRange *)a)->start;
    uint64_t y = ((const IOMMUFDRange *)b)->start;

    return x < y ? -1 : x > y;
}

/* The part of [@start, @last] that the IOMMU can translate */
static void vfio_dirty_add_reachable(VFIOIOAS *ioas, GArray *ranges,
                                     uint64_t start, uint64_t last)
{
    uint32_t i;

    for (i = 0; i < ioas->nr_ranges; i++) {
        IOMMUFDRange r = {
            .start = MAX(start, ioas->ranges[i].start),
            .last = MIN(last, ioas->ranges[i].last),
        };

        /* The kernel wants to be able to say where it ends */
        r.last = MIN(r.last, UINT64_MAX - vfio_dirty_page());
        if (r.start < r.last) {
            g_array_append_val(ranges, r);
        }
    }
}

/*
 * Where a device is to log: wherever memory is or can come in the sections
 * that are there, adjacent ones as one
 */
static GArray *vfio_dirty_ranges(VFIOIOAS *ioas)
{
    GArray *ranges = g_array_new(false, false, sizeof(IOMMUFDRange));
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (!s->gone && s->kind != VFIO_SECTION_BAR) {
            vfio_dirty_add_reachable(ioas, ranges, s->range.iova,
                                     s->range.last);
        }
    }
    g_array_sort(ranges, vfio_dirty_range_cmp);
    for (i = 1; i < ranges->len; ) {
        if (LOGGED(ranges, i).start - 1 == LOGGED(ranges, i - 1).last) {
            LOGGED(ranges, i - 1).last = LOGGED(ranges, i).last;
            g_array_remove_index(ranges, i);
        } else {
            i++;
        }
    }
    return ranges;
}

/* Make two ranges one: the two with the smallest gap between them */
static void vfio_dirty_merge_two(GArray *ranges)
{
    uint64_t smallest = UINT64_MAX;
    guint i, at = 1;

    for (i = 1; i < ranges->len; i++) {
        uint64_t gap = LOGGED(ranges, i).start - LOGGED(ranges, i - 1).last;

        if (gap < smallest) {
            smallest = gap;
            at = i;
        }
    }
    LOGGED(ranges, at - 1).last = LOGGED(ranges, at).last;
    g_array_remove_index(ranges, at);
}

static int vfio_dirty_start_log(VFIOIOAS *ioas, VFIOWriter *w)
{
    g_autoptr(GArray) ranges = vfio_dirty_ranges(ioas);
    int ret = -ENOENT;

    while (ranges->len) {
        ret = w->log->start(w, ranges);
        if (!ret || ranges->len == 1) {
            break;
        }
        /* Too many?  Drivers say so in different ways */
        vfio_dirty_merge_two(ranges);
    }
    if (!ret) {
        w->logged = g_steal_pointer(&ranges);
    }
    return ret;
}

static int vfio_dirty_start_hwpt(VFIOIOAS *ioas, VFIOHWPT *hwpt)
{
    int ret = hwpt->tracking ? 0 :
              iommufd_backend_set_dirty_tracking(ioas->be, hwpt->id, true);

    hwpt->tracking = !ret;
    return ret;
}

VFIODirtyBy vfio_ioas_dirty_by(const VFIOWriter *w)
{
    return w->log ? VFIO_DIRTY_BY_DEVICE :
           w->hwpt && w->hwpt->dirty_tracking ? VFIO_DIRTY_BY_IOMMU :
           VFIO_DIRTY_BY_NONE;
}

/* False if everything was stopped because of this one */
static bool vfio_dirty_start_writer(VFIOIOAS *ioas, VFIOWriter *w)
{
    bool iommu = w->hwpt && w->hwpt->dirty_tracking;
    g_autofree char *reason = NULL;
    int ret;

    if (w->leaves) {
        return true;
    }
    if (w->log) {
        ret = vfio_dirty_start_log(ioas, w);
        if (!ret) {
            return true;
        }
        reason = g_strdup_printf("VFIO_DEVICE_FEATURE_DMA_LOGGING_START of %s: "
                                 "%s", w->name, strerror(-ret));
        if (iommu) {
            warn_report("vfio: %s; the IOMMU tracks what it writes", reason);
        }
    }
    if (iommu) {
        ret = vfio_dirty_start_hwpt(ioas, w->hwpt);
        if (!ret) {
            return true;
        }
        g_free(reason);
        reason = g_strdup_printf("IOMMU_HWPT_SET_DIRTY_TRACKING: %s",
                                 strerror(-ret));
    }
    if (!reason) {
        reason = g_strdup_printf("neither %s nor an IOMMU can", w->name);
    }
    vfio_dirty_give_up(ioas, reason);
    return false;
}

static void vfio_dirty_start_all(VFIOIOAS *ioas)
{
    VFIOWriter *w;

    ioas->dirty->started = true;
    QLIST_FOREACH(w, &ioas->writers, next) {
        if (!vfio_dirty_start_writer(ioas, w)) {
            break;
        }
    }
    trace_vfio_ioas_dirty_start(ioas->id, ioas->dirty->all);
}

void vfio_ioas_dirty_start(VFIOIOAS *ioas)
{
    ioas->dirty = ioas->dirty ?: g_new0(VFIODirty, 1);
}

void vfio_ioas_dirty_stop(VFIOIOAS *ioas)
{
    VFIODirty *d = g_steal_pointer(&ioas->dirty);

    if (!d) {
        return;
    }
    vfio_dirty_stop_all(ioas);
    trace_vfio_ioas_dirty_stop(ioas->id);
    qemu_vfree(d->run);
    qemu_vfree(d->part);
    g_free(d);
}

void vfio_ioas_dirty_commit(VFIOIOAS *ioas)
{
    if (!ioas->dirty) {
        return;
    }
    ioas->dirty->syncing = false;
    if (!ioas->dirty->started) {
        vfio_dirty_start_all(ioas);
    }
}

void vfio_ioas_add_writer(VFIOIOAS *ioas, VFIOWriter *w)
{
    QLIST_INSERT_HEAD(&ioas->writers, w, next);
    if (ioas->dirty && !ioas->dirty->all) {
        vfio_dirty_start_writer(ioas, w);
    }
}

void vfio_ioas_del_writer(VFIOIOAS *ioas, VFIOWriter *w)
{
    if (ioas->dirty) {
        vfio_dirty_sync_all(ioas);
    }
    if (w->logged) {
        w->log->stop(w);
        g_clear_pointer(&w->logged, g_array_unref);
    }
    QLIST_REMOVE(w, next);
}

/* Sync */

/*
 * Nobody tracks, so all counts as written once the devices were stopped, in
 * whatever sync that is: are those before of no use?
 */
static bool vfio_dirty_can_wait(VFIOIOAS *ioas)
{
    VFIOWriter *w;

    QLIST_FOREACH(w, &ioas->writers, next) {
        if (!w->leaves && (!w->later || !w->later())) {
            return false;
        }
    }
    return true;
}

void vfio_ioas_dirty_sync(VFIOIOAS *ioas, uint64_t first, uint64_t last)
{
    VFIODirty *d = ioas->dirty;
    const VFIOMapRange *synced;

    if (!d || (d->all && vfio_dirty_can_wait(ioas))) {
        return;
    }
    /* At or below the one before: another sync begins */
    if (!d->syncing || first <= d->told) {
        d->synced = false;
    }
    d->syncing = true;
    d->told = first;

    if (!d->synced || d->synced_last < last) {
        synced = vfio_dirty_sync_runs(ioas, (VFIOMapRange *)ioas->mapped->data,
                                      ioas->mapped->len,
                                      d->synced ? MAX(first, d->synced_last + 1)
                                                : first, last, true);
        if (synced) {
            d->synced = true;
            d->synced_last = synced->last;
        }
    }
    vfio_dirty_sync_pieces(ioas, first, last);
}

void vfio_ioas_dirty_unmap(VFIOIOAS *ioas, const GArray *mapped,
                           uint64_t iova, uint64_t last)
{
    const VFIOMapRange *map = (VFIOMapRange *)mapped->data;
    guint first = 0, end;

    if (!ioas->dirty) {
        return;
    }
    while (first < mapped->len && map[first].iova < iova) {
        first++;
    }
    for (end = first; end < mapped->len && map[end].last <= last; end++) {
        /* count */
    }
    vfio_dirty_sync_runs(ioas, map + first, end - first, iova, last, false);
}

void vfio_ioas_dirty_remapped(VFIOIOAS *ioas, uint64_t vaddr, uint64_t size,
                              bool readonly)
{
    VFIODirty *d = ioas->dirty;
    uint64_t n;

    if (!d || readonly || QLIST_EMPTY(&ioas->writers)) {
        return;
    }
    for (; size; vaddr += n, size -= n) {
        VFIOMapRange part = { .vaddr = vaddr };

        n = MIN(size, RUN_MAX);
        part.last = n - 1;
        vfio_dirty_make_room(d, n / vfio_dirty_page());
        bitmap_set(d->run, 0, n / vfio_dirty_page());
        vfio_dirty_log(ioas, &part, 0);
    }
}
