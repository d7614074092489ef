/*
 * Address-space side of VFIO over iommufd: what query-iommufd tells of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the short memory of failed maps.  Everything else is read from the
 * IOAS at the moment of the query; no ioctl is issued.  Which devices are
 * attached to a HWPT is the device side's to tell (cdev-query.c).
 */

#include "qemu/osdep.h"

#include "ioas.h"
#include "qapi/util.h"

static void vfio_failed_map_free(VFIOFailedMap *f)
{
    g_free(f->region);
    g_free(f);
}

void vfio_ioas_note_failed(VFIOIOAS *ioas, const char *region,
                           uint64_t iova, uint64_t last, int ret)
{
    VFIOFailedMap *f = g_queue_peek_head(&ioas->failed);

    if (f && f->iova == iova && f->last == last && f->ret == ret) {
        return;                 /* tried again */
    }
    f = g_new(VFIOFailedMap, 1);
    f->region = g_strdup(region);
    f->iova = iova;
    f->last = last;
    f->ret = ret;
    g_queue_push_head(&ioas->failed, f);
    if (g_queue_get_length(&ioas->failed) > VFIO_FAILED_MAPS) {
        vfio_failed_map_free(g_queue_pop_tail(&ioas->failed));
    }
}

void vfio_ioas_forget_failed(VFIOIOAS *ioas)
{
    VFIOFailedMap *f;

    while ((f = g_queue_pop_head(&ioas->failed))) {
        vfio_failed_map_free(f);
    }
}

static IommufdFailedMap *vfio_failed_map_info(const VFIOFailedMap *f)
{
    IommufdFailedMap *info = g_new0(IommufdFailedMap, 1);

    info->start = f->iova;
    info->last = f->last;
    info->region = g_strdup(f->region);
    info->q_errno = -f->ret;
    info->error = g_strdup(strerror(-f->ret));
    return info;
}

void vfio_ioas_fill_report(IOMMUFDReport *report, IommufdInfo *info)
{
    VFIOIOAS *ioas = container_of(report, VFIOIOAS, report);
    IommufdIoas *out = g_new0(IommufdIoas, 1);
    VFIOHWPT *hwpt;
    GList *f;
    uint32_t i;

    out->id = ioas->id;
    out->address_space = g_strdup(ioas->as->name ?: "");
    for (i = ioas->nr_ranges; i--; ) {
        IommufdRange *range = g_new0(IommufdRange, 1);

        range->start = ioas->ranges[i].start;
        range->last = ioas->ranges[i].last;
        QAPI_LIST_PREPEND(out->ranges, range);
    }
    out->alignment = ioas->alignment;
    out->complete = !ioas->incomplete;
    out->mapped_bytes = ioas->mapped_bytes;
    vfio_ioas_report_pending(ioas, &out->pending_bytes, &out->filled_bytes);
    out->mappings = ioas->mappings;
    out->maps = ioas->maps;
    out->unmaps = ioas->unmaps;
    if (ioas->base) {
        out->has_copies = out->has_copies_from = true;
        out->copies = ioas->copies;
        out->copies_from = ioas->base->id;
    }
    out->dirty_tracking = ioas->dirty;
    out->written_bytes = ioas->written;
    for (f = ioas->failed.tail; f; f = f->prev) {
        QAPI_LIST_PREPEND(out->failed_maps, vfio_failed_map_info(f->data));
    }
    QLIST_FOREACH(hwpt, &ioas->hwpts, next) {
        IommufdHwpt *h = g_new0(IommufdHwpt, 1);

        h->id = hwpt->id;
        h->dirty_tracking_possible = hwpt->dirty_tracking;
        h->dirty_tracking = hwpt->tracking;
        for (i = hwpt->devids->len; i--; ) {
            QAPI_LIST_PREPEND(h->devices,
                              g_array_index(hwpt->devids, uint32_t, i));
        }
        QAPI_LIST_PREPEND(out->hwpts, h);
    }
    QAPI_LIST_PREPEND(info->ioases, out);
}
