/*
 * A fake of the kernel's iommufd and VFIO interfaces: what devices have written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model of dirty tracking in drivers/iommu/iommufd (io_pagetable.c) with
 * Intel's page tables, and of DMA logging in drivers/vfio/vfio_main.c, of
 * Linux 6.12.  An entry of a page table is 2 MiB where a mapping holds and
 * aligns one.
 *
 * What a caller should not do but the kernel does not refuse is logged with
 * the word "MISTAKE": a range that is not wholly mapped, one that cuts an
 * entry, a page table that does not track.
 */

#include "qemu/osdep.h"
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "fake-iommufd.h"

#define PAGE    4096ULL
#define HUGE    (2 * 1024 * 1024ULL)

/* An entry of a page table whose dirty bit is set */
typedef struct FakeEntry {
    uint64_t start, last;
    bool told;                  /* reported, and not written since */
} FakeEntry;

struct FakeDmaLog {
    GArray *ranges;             /* of FakeRange */
    GArray *pages;              /* uint64_t each */
};

static void set_bits(uint64_t bitmap, uint64_t from, uint64_t bits)
{
    uint64_t *words = (void *)(uintptr_t)bitmap;

    for (; bits--; from++) {
        words[from / 64] |= 1ULL << (from % 64);
    }
}

/* IOMMU */

static FakeEntry *entry_in(const FakeObject *hwpt, guint i)
{
    return &g_array_index(hwpt->written, FakeEntry, i);
}

static FakeEntry entry_at(const FakeObject *ioas, const FakeArea *area,
                          uint64_t iova)
{
    uint64_t huge = iova & -HUGE;

    if (!ioas->no_huge_pages && huge >= area->iova &&
        huge + HUGE - 1 <= area->last && !((area->va - area->iova) % HUGE)) {
        return (FakeEntry) { huge, huge + HUGE - 1 };
    }
    return (FakeEntry) { iova & -PAGE, iova | (PAGE - 1) };
}

void fake_dirty_write(FakeObject *hwpt, const FakeObject *ioas, uint64_t iova,
                      uint64_t length)
{
    uint64_t end = iova + length;

    while (iova < end) {
        const FakeArea *area = fake_ioas_area(ioas, iova);
        FakeEntry entry;
        guint i;

        if (!area || !area->writable) {
            fake_log("DMA write to 0x%" PRIx64 " faults", iova);
            iova = (iova | (PAGE - 1)) + 1;
            continue;
        }
        entry = entry_at(ioas, area, iova);
        for (i = 0; i < hwpt->written->len &&
             entry_in(hwpt, i)->start != entry.start; i++) {
            /* next */
        }
        if (i < hwpt->written->len) {
            entry_in(hwpt, i)->told = false;
        } else if (hwpt->tracking) {
            g_array_append_val(hwpt->written, entry);
        }
        iova = entry.last + 1;
    }
}

void fake_dirty_init(FakeObject *hwpt, bool can_track)
{
    hwpt->can_track = can_track;
    hwpt->written = g_array_new(false, false, sizeof(FakeEntry));
}

/* A mapping goes: what its entries knew and nobody has asked for is lost */
void fake_dirty_unmap(FakeObject *hwpt, uint64_t iova, uint64_t last)
{
    guint i;

    for (i = hwpt->written->len; i--; ) {
        const FakeEntry *e = entry_in(hwpt, i);

        if (e->start <= last && iova <= e->last) {
            if (!e->told) {
                fake_log("lost 0x%" PRIx64, e->start);
            }
            g_array_remove_index_fast(hwpt->written, i);
        }
    }
}

int fake_dirty_set(FakeObject *hwpt, struct iommu_hwpt_set_dirty_tracking *cmd)
{
    if (cmd->flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE) {
        return -EOPNOTSUPP;
    }
    if (!hwpt) {
        return -ENOENT;
    }
    if (!hwpt->can_track) {
        return -EOPNOTSUPP;
    }
    hwpt->tracking = cmd->flags;
    if (hwpt->tracking) {
        g_array_set_size(hwpt->written, 0);
    }
    return 0;
}

int fake_dirty_get(FakeObject *hwpt, const FakeObject *ioas,
                   struct iommu_hwpt_get_dirty_bitmap *cmd)
{
    uint64_t last = cmd->iova + cmd->length - 1, at;
    guint i;

    if ((cmd->flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) ||
        cmd->__reserved) {
        return -EOPNOTSUPP;
    }
    if (!hwpt) {
        return -ENOENT;
    }
    if (!cmd->length) {
        return -EINVAL;
    }
    if (last < cmd->iova) {
        return -EOVERFLOW;
    }
    if ((cmd->iova | (last + 1)) % PAGE || !cmd->page_size ||
        (cmd->iova | (last + 1)) & (cmd->page_size - 1)) {
        return -EINVAL;
    }
    if (!hwpt->can_track) {
        return -EOPNOTSUPP;
    }

    /* From here on the kernel says no more */
    if (!hwpt->tracking) {
        fake_log("MISTAKE: page table does not track");
        return 0;
    }
    for (at = cmd->iova; at <= last; ) {
        const FakeArea *area = fake_ioas_area(ioas, at);

        if (!area) {
            fake_log("MISTAKE: 0x%" PRIx64 " is not mapped", at);
            break;
        }
        at = area->last + 1;
    }
    for (i = hwpt->written->len; i--; ) {
        FakeEntry *e = entry_in(hwpt, i);

        if (e->last < cmd->iova || last < e->start || e->start >= at) {
            continue;
        }
        if (e->start < cmd->iova || last < e->last) {
            fake_log("MISTAKE: entry at 0x%" PRIx64 " is cut", e->start);
            continue;
        }
        set_bits(cmd->data, (e->start - cmd->iova) / cmd->page_size,
                 MAX((e->last - e->start + 1) / cmd->page_size, 1));
        e->told = true;
        if (!cmd->flags) {
            g_array_remove_index_fast(hwpt->written, i);
        }
    }
    return 0;
}

/* Devices that log by themselves */

void fake_dma_log_free(FakeDmaLog *log)
{
    if (log) {
        g_array_unref(log->ranges);
        g_array_unref(log->pages);
        g_free(log);
    }
}

void fake_dma_log_write(FakeDmaLog *log, uint64_t iova, uint64_t length)
{
    uint64_t page = iova & -PAGE;
    guint i;

    for (; log && page < iova + length; page += PAGE) {
        for (i = 0; i < log->ranges->len; i++) {
            const FakeRange *r = &g_array_index(log->ranges, FakeRange, i);

            if (r->start <= page && page <= r->last) {
                g_array_append_val(log->pages, page);
            }
        }
    }
}

static int log_start(FakeDmaLog **log, unsigned max,
                     struct vfio_device_feature_dma_logging_control *control)
{
    struct vfio_device_feature_dma_logging_range *in =
        (void *)(uintptr_t)control->ranges;
    g_autoptr(GArray) ranges = g_array_new(false, false, sizeof(FakeRange));
    uint32_t i, j;

    if (!control->num_ranges) {
        return -EINVAL;
    }
    if (control->num_ranges > max) {
        return -E2BIG;
    }
    for (i = 0; i < control->num_ranges; i++) {
        FakeRange r = { in[i].iova, in[i].iova + in[i].length - 1 };

        if ((in[i].iova | in[i].length) & (control->page_size - 1)) {
            return -EINVAL;
        }
        if (in[i].iova + in[i].length < in[i].iova) {
            return -EOVERFLOW;
        }
        for (j = 0; j < i; j++) {
            const FakeRange *o = &g_array_index(ranges, FakeRange, j);

            if (o->start <= r.last && r.start <= o->last) {
                return -EINVAL;
            }
        }
        g_array_append_val(ranges, r);
    }
    if (*log) {
        return -EINVAL;
    }
    for (i = 0; i < ranges->len; i++) {
        const FakeRange *r = &g_array_index(ranges, FakeRange, i);

        fake_log("DMA log [0x%" PRIx64 ", 0x%" PRIx64 "]", r->start, r->last);
    }
    *log = g_new0(FakeDmaLog, 1);
    (*log)->ranges = g_steal_pointer(&ranges);
    (*log)->pages = g_array_new(false, false, sizeof(uint64_t));
    return 0;
}

/* A driver may answer so to what it was not told to log */
static bool is_logged(const FakeDmaLog *log, uint64_t iova, uint64_t last)
{
    guint i;

    for (i = 0; i < log->ranges->len; i++) {
        const FakeRange *r = &g_array_index(log->ranges, FakeRange, i);

        if (r->start <= iova && last <= r->last) {
            return true;
        }
    }
    return false;
}

static int log_report(FakeDmaLog *log,
                      struct vfio_device_feature_dma_logging_report *report)
{
    uint64_t last = report->iova + report->length - 1;
    guint i;

    if (report->page_size < PAGE ||
        report->page_size & (report->page_size - 1)) {
        return -EINVAL;
    }
    if (last < report->iova) {
        return -EOVERFLOW;
    }
    if (!log || !is_logged(log, report->iova, last)) {
        return -EINVAL;
    }
    for (i = log->pages->len; i--; ) {
        uint64_t page = g_array_index(log->pages, uint64_t, i);

        if (report->iova <= page && page <= last) {
            set_bits(report->bitmap,
                     (page - report->iova) / report->page_size, 1);
            g_array_remove_index_fast(log->pages, i);
        }
    }
    return 0;
}

int fake_dma_log_feature(FakeDmaLog **log, const FakeDeviceControl *d,
                         struct vfio_device_feature *feature)
{
    uint32_t what = feature->flags & VFIO_DEVICE_FEATURE_MASK;
    uint32_t ops = what == VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT ?
                   VFIO_DEVICE_FEATURE_GET : VFIO_DEVICE_FEATURE_SET;
    size_t size = what == VFIO_DEVICE_FEATURE_DMA_LOGGING_START ?
        sizeof(struct vfio_device_feature_dma_logging_control) :
        what == VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT ?
        sizeof(struct vfio_device_feature_dma_logging_report) : 0;

    if (!d->dma_log) {
        return -ENOTTY;
    }
    if (feature->flags & (VFIO_DEVICE_FEATURE_GET |
                          VFIO_DEVICE_FEATURE_SET) & ~ops) {
        return -EINVAL;
    }
    if (feature->flags & VFIO_DEVICE_FEATURE_PROBE) {
        return 0;
    }
    if (feature->argsz - sizeof(*feature) < size) {
        return -EINVAL;
    }
    if (d->dma_log_error && what == d->dma_log_fails) {
        return -d->dma_log_error;
    }
    switch (what) {
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
        return log_start(log, d->dma_log, (void *)feature->data);
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
        return log_report(*log, (void *)feature->data);
    default:
        if (!*log) {
            fake_log("MISTAKE: DMA log is not on");
        }
        g_clear_pointer(log, fake_dma_log_free);
        return 0;
    }
}
