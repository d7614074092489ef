/*
 * query-iommufd and info iommufd: what the iommufd objects are used for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing.  Walks the iommufd objects and lets everybody who registered
 * a report with one (iommufd_backend_add_report()) fill in what only he knows:
 * this file, like the object, knows neither VFIO nor guest memory.
 */

#include "qemu/osdep.h"

#include "sysemu/iommufd.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-iommufd.h"
#include "qapi/qmp/qdict.h"
#include "qom/object_interfaces.h"

static IommufdInfo *iommufd_query_one(IOMMUFDBackend *be)
{
    IommufdInfo *info = g_new0(IommufdInfo, 1);
    bool per_process;
    IOMMUFDReport *report;
    IOMMUFDUser *user;

    info->id = g_strdup(object_get_canonical_path_component(OBJECT(be)));
    info->passed = be->fd_param;
    QLIST_FOREACH(user, &be->users, next) {
        QAPI_LIST_PREPEND(info->users, g_strdup(user->name));
    }

    info->kernel = g_new0(IommufdKernel, 1);
    info->kernel->has_hw_info = be->hw_info != ON_OFF_AUTO_AUTO;
    info->kernel->hw_info = be->hw_info == ON_OFF_AUTO_ON;
    info->kernel->has_hwpt_alloc = be->hwpt_alloc != ON_OFF_AUTO_AUTO;
    info->kernel->hwpt_alloc = be->hwpt_alloc == ON_OFF_AUTO_ON;
    info->kernel->has_map_file = be->map_file != ON_OFF_AUTO_AUTO;
    info->kernel->map_file = be->map_file == ON_OFF_AUTO_ON;
    info->kernel->has_per_process_accounting =
        !iommufd_backend_accounting(be, &per_process);
    info->kernel->per_process_accounting = per_process;

    QLIST_FOREACH(report, &be->reports, next) {
        report->fill(report, info);
    }
    return info;
}

static int iommufd_query_child(Object *child, void *opaque)
{
    IommufdInfoList **list = opaque;

    if (object_dynamic_cast(child, TYPE_IOMMUFD_BACKEND)) {
        QAPI_LIST_PREPEND(*list, iommufd_query_one(IOMMUFD_BACKEND(child)));
    }
    return 0;
}

IommufdInfoList *qmp_query_iommufd(Error **errp)
{
    IommufdInfoList *list = NULL;

    object_child_foreach(object_get_objects_root(), iommufd_query_child, &list);
    return list;
}

static const char *hmp_yes_no(bool has, bool value)
{
    return !has ? "not known yet" : value ? "yes" : "no";
}

static void hmp_print_ioas(Monitor *mon, const IommufdIoas *ioas)
{
    IommufdRangeList *r;
    IommufdFailedMapList *f;
    IommufdHwptList *h;
    uint32List *d;

    monitor_printf(mon, "  IOAS %u of '%s': %" PRIu64 " KiB in %" PRIu64
                   " mappings%s, %" PRIu64 " maps and %" PRIu64
                   " unmaps so far\n", ioas->id, ioas->address_space,
                   ioas->mapped_bytes / 1024, ioas->mappings,
                   ioas->complete ? "" : " (incomplete)", ioas->maps,
                   ioas->unmaps);
    if (ioas->pending_bytes) {
        monitor_printf(mon, "    %" PRIu64 " KiB to be mapped when a device "
                       "can reach them, %" PRIu64 " KiB of them filled\n",
                       ioas->pending_bytes / 1024, ioas->filled_bytes / 1024);
    }
    if (ioas->dirty_tracking || ioas->written_bytes) {
        monitor_printf(mon, "    writes are %stracked, %" PRIu64
                       " KiB reported so far\n",
                       ioas->dirty_tracking ? "" : "not ",
                       ioas->written_bytes / 1024);
    }
    for (r = ioas->ranges; r; r = r->next) {
        monitor_printf(mon, "    IOVAs [0x%" PRIx64 ", 0x%" PRIx64 "]\n",
                       r->value->start, r->value->last);
    }
    if (ioas->has_copies) {
        monitor_printf(mon, "    shares memory with IOAS %u: %" PRIu64
                       " of these maps\n", ioas->copies_from, ioas->copies);
    }
    for (f = ioas->failed_maps; f; f = f->next) {
        monitor_printf(mon, "    failed [0x%" PRIx64 ", 0x%" PRIx64
                       "] ('%s'): %s\n", f->value->start, f->value->last,
                       f->value->region, f->value->error);
    }
    for (h = ioas->hwpts; h; h = h->next) {
        monitor_printf(mon, "    HWPT %u, dirty tracking %s%s, devices",
                       h->value->id,
                       h->value->dirty_tracking_possible ? "possible" :
                       "impossible", h->value->dirty_tracking ? ", on" : "");
        for (d = h->value->devices; d; d = d->next) {
            monitor_printf(mon, " %u", d->value);
        }
        monitor_printf(mon, "\n");
    }
}

static void hmp_print_device(Monitor *mon, const IommufdDevice *dev)
{
    IommufdDependentList *d;

    monitor_printf(mon, "  device %u: %s%s%s%s, %s%s, IOAS %u", dev->devid,
                   dev->name, dev->has_qdev_id ? " ('" : "",
                   dev->has_qdev_id ? dev->qdev_id : "",
                   dev->has_qdev_id ? "')" : "", dev->node,
                   dev->passed ? " (passed)" : "", dev->ioas);
    if (dev->has_hwpt) {
        monitor_printf(mon, ", HWPT %u", dev->hwpt);
    }
    monitor_printf(mon, "%s, dirty tracking by %s%s\n",
                   dev->mdev ? ", mdev" : "",
                   dev->dirty_tracked_by == IOMMUFD_DIRTY_BY_NONE ? "nobody" :
                   IommufdDirtyBy_str(dev->dirty_tracked_by),
                   dev->waiting ? ", the guest waits for it" :
                   dev->dma ? "" : ", no DMA");
    if (dev->has_reset_method) {
        monitor_printf(mon, "    reset: %s\n", dev->reset_method);
    }
    for (d = dev->has_hot_reset ? dev->hot_reset : NULL; d; d = d->next) {
        monitor_printf(mon, "    hot reset affects %s%s\n", d->value->address,
                       d->value->owned ? "" : " (not owned)");
    }
}

void hmp_info_iommufd(Monitor *mon, const QDict *qdict)
{
    g_autoptr(IommufdInfoList) list = qmp_query_iommufd(&error_abort);
    IommufdInfoList *i;
    IommufdIoasList *a;
    IommufdDeviceList *d;
    strList *u;

    for (i = list; i; i = i->next) {
        const IommufdKernel *k = i->value->kernel;

        monitor_printf(mon, "%s: %s\n", i->value->id,
                       i->value->passed ? "passed" : "opened");
        for (u = i->value->users; u; u = u->next) {
            monitor_printf(mon, "  used by %s\n", u->value);
        }
        monitor_printf(mon, "  kernel: GET_HW_INFO %s, HWPT_ALLOC %s, "
                       "MAP_FILE %s, per-process accounting %s\n",
                       hmp_yes_no(k->has_hw_info, k->hw_info),
                       hmp_yes_no(k->has_hwpt_alloc, k->hwpt_alloc),
                       hmp_yes_no(k->has_map_file, k->map_file),
                       hmp_yes_no(k->has_per_process_accounting,
                                  k->per_process_accounting));
        for (a = i->value->ioases; a; a = a->next) {
            hmp_print_ioas(mon, a->value);
        }
        for (d = i->value->devices; d; d = d->next) {
            hmp_print_device(mon, d->value);
        }
    }
}
