/*
 * Address-space side of VFIO over iommufd: from sections to mappings of RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the list of what is mapped for sections of RAM, the list of what is
 * pending, and the prefault of it.  Borrows: the sections.
 *
 * Each change of the memory map is planned from what is mapped and what is
 * wanted (map-planner.c).  What is not wanted any more is unmapped at once.
 * What is missing is mapped at once if a device can reach memory ("open"), and
 * else is pending.  What could not be mapped is simply still missing, so the
 * next plan has it again.
 *
 * Pending.  Until a device is open nothing can tell whether RAM is mapped, so
 * the machine starts meanwhile.  What is big is filled by threads (prefault.c)
 * and mapped in the main loop as it is ready, one mapping at a time; the small
 * rest, around the windows that firmware switches, waits until a device opens,
 * so that switching them makes no ioctl.  The hazards:
 *
 *   the map changes      the plan is made anew; threads are stopped before the
 *                        reference on a region that went away is dropped
 *   a device opens       vfio_ioas_open() returns with everything mapped, or
 *                        the VM stopped; the device side makes a guest wait for
 *                        vfio_ioas_ready() instead of blocking the main loop
 *   it cannot be mapped  what can be known is checked when it becomes pending
 *                        (IOVA ranges, RLIMIT_MEMLOCK); what comes out later
 *                        follows the failure policy (ioas-fail.c)
 *   quit, unplug         vfio_ioas_unlisten() stops the threads, within the
 *                        time that filling some megabytes takes
 *   kill                 the kernel ends the threads and frees it all
 *   migration, snapshot  RAM is written beside the threads as by any vCPU; a
 *                        loaded device opens before it runs
 *
 * All of it is called with the BQL held, but for the prefault threads, which
 * touch guest memory and schedule a bottom half, and nothing else.
 */

#include "qemu/osdep.h"

#include "ioas.h"
#include "exec/cpu-common.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "hw/core/cpu.h"
#include "sysemu/runstate.h"
#include "sysemu/sysemu.h"
#include "trace.h"

#define RANGE(array, i) g_array_index(array, VFIOMapRange, i)

/* What is wanted */

const char *vfio_ioas_region_name(VFIOIOAS *ioas, uint64_t iova)
{
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (!s->gone && s->range.iova <= iova && iova <= s->range.last) {
            return memory_region_name(s->mr);
        }
    }
    return "?";
}

static gint vfio_map_range_cmp(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const VFIOMapRange *)a)->iova;
    uint64_t y = ((const VFIOMapRange *)b)->iova;

    return x < y ? -1 : x > y;
}

GArray *vfio_ioas_wanted(VFIOIOAS *ioas)
{
    GArray *wanted = g_array_new(false, false, sizeof(VFIOMapRange));
    guint i;

    for (i = 0; i < ioas->sections->len; i++) {
        VFIOIOASSection *s = g_ptr_array_index(ioas->sections, i);

        if (!s->gone && s->kind == VFIO_SECTION_RAM) {
            g_array_append_val(wanted, s->range);
        }
    }
    g_array_sort(wanted, vfio_map_range_cmp);
    return wanted;
}

static bool vfio_ioas_apply_unmap(VFIOIOAS *ioas, const VFIOMapRange *r)
{
    guint mappings = vfio_map_count(ioas->mapped, r->iova, r->last);
    int ret;

    vfio_ioas_dirty_unmap(ioas, ioas->mapped, r->iova, r->last);
    ret = vfio_ioas_unmap(ioas, r->iova, r->last, mappings);
    if (ret) {
        /* Keep it in the list: a mapping may be live, so do not map over it */
        error_report("vfio: IOMMU_IOAS_UNMAP of [0x%" PRIx64 ", 0x%" PRIx64
                     "] failed: %s", r->iova, r->last, strerror(-ret));
        return false;
    }
    vfio_map_remove(ioas->mapped, r->iova, r->last);
    vfio_base_changed(ioas);
    return true;
}

static void vfio_ioas_apply_map(VFIOIOAS *ioas, const VFIOMapRange *r)
{
    int ret = vfio_ioas_map(ioas, r->iova, r->last, r->vaddr, r->readonly);

    if (ret) {
        vfio_ioas_map_failed(ioas, vfio_ioas_region_name(ioas, r->iova),
                             r->iova, r->last, ret);
        return;
    }
    vfio_map_insert(ioas->mapped, r);
    vfio_base_changed(ioas);
}

/* Pending */

static uint64_t vfio_range_bytes(const VFIOMapRange *r)
{
    return r->last - r->iova + 1;
}

/*
 * Is it filled by the threads before it is mapped?  Not for devices without an
 * IOMMU, which pin what they need.  With a base, that one has it filled.
 */
static bool vfio_ioas_is_big(VFIOIOAS *ioas, const VFIOMapRange *r)
{
    return (ioas->pinning || ioas->base) && !r->readonly &&
           r->last - r->iova >= VFIO_IOAS_BIG - 1;
}

/* The first of @pending that is big, or NULL */
static const VFIOMapRange *vfio_ioas_first_big(VFIOIOAS *ioas)
{
    guint i;

    for (i = 0; i < ioas->pending->len; i++) {
        if (vfio_ioas_is_big(ioas, &RANGE(ioas->pending, i))) {
            return &RANGE(ioas->pending, i);
        }
    }
    return NULL;
}

static void vfio_ioas_stop_prefault(VFIOIOAS *ioas)
{
    if (ioas->prefault) {
        vfio_prefault_stop(ioas->prefault);
        ioas->prefault = NULL;
    }
    ioas->taken = 0;
    ioas->taken_bytes = 0;
}

/* Called in a thread */
static void vfio_ioas_filled_more(void *opaque)
{
    VFIOIOAS *ioas = opaque;

    qemu_bh_schedule(ioas->filled);
}

VFIOPrefaultRange vfio_ioas_fill_range(uint64_t vaddr, uint64_t size, bool cold)
{
    ram_addr_t offset;
    RAMBlock *rb = qemu_ram_block_from_host((void *)(uintptr_t)vaddr, false,
                                            &offset);

    return (VFIOPrefaultRange) {
        .vaddr = vaddr,
        .size = size,
        .page_size = rb ? qemu_ram_pagesize(rb) : 1,
        .anonymous = cold && rb && qemu_ram_is_migratable(rb) &&
                     qemu_ram_get_fd(rb) < 0 && !qemu_ram_is_shared(rb),
    };
}

/*
 * Let the threads fill what is big of @pending, and nothing else: go on, or
 * stop and, if @start, begin.
 */
static void vfio_ioas_prefault(VFIOIOAS *ioas, bool start)
{
    g_autoptr(GArray) big = g_array_new(false, true, sizeof(VFIOPrefaultRange));
    guint i;

    for (i = 0; i < ioas->pending->len && !ioas->base; i++) {
        const VFIOMapRange *r = &RANGE(ioas->pending, i);

        if (vfio_ioas_is_big(ioas, r)) {
            VFIOPrefaultRange fill = vfio_ioas_fill_range(
                r->vaddr, vfio_range_bytes(r), ioas->cold);

            g_array_append_val(big, fill);
        }
    }

    if (ioas->prefault &&
        vfio_prefault_matches(ioas->prefault, big, ioas->taken)) {
        return;
    }
    vfio_ioas_stop_prefault(ioas);
    if (big->len && start) {
        unsigned threads = ioas->be->map_threads ?:
                           vfio_prefault_threads();

        trace_vfio_ioas_prefault(ioas->id, big->len, threads);
        ioas->prefault = vfio_prefault_start(big, threads,
                                             vfio_ioas_filled_more, ioas);
        if (autostart || runstate_is_running()) {
            vfio_prefault_leave_cpu(ioas->prefault);
        }
        if (ioas->awaited) {
            vfio_prefault_hurry(ioas->prefault);
        }
    }
}

/* Map the first big range of @pending if it is filled, or mapped by the base */
static bool vfio_ioas_take(VFIOIOAS *ioas)
{
    const VFIOMapRange *first = vfio_ioas_first_big(ioas);
    VFIOMapRange r;

    if (!first || (!ioas->base &&
                   (!ioas->prefault ||
                    ioas->taken >= vfio_prefault_filled(ioas->prefault)))) {
        return false;
    }
    r = *first;
    g_array_remove_index(ioas->pending, first - &RANGE(ioas->pending, 0));
    ioas->taken++;
    ioas->taken_bytes += vfio_range_bytes(&r);
    vfio_ioas_apply_map(ioas, &r);
    trace_vfio_ioas_pending(ioas->id, vfio_map_bytes(ioas->pending));
    return true;
}

/* Bottom half: one mapping at a time, so that the monitor has its turn */
static void vfio_ioas_take_filled(void *opaque)
{
    VFIOIOAS *ioas = opaque;

    if (ioas->base &&
        (ioas->base->prefault || vfio_ioas_first_big(ioas->base))) {
        return;                 /* comes again when the base is filled */
    }
    if (!ioas->prefault) {
        vfio_ioas_prefault(ioas, true);
    }
    if (vfio_ioas_take(ioas)) {
        qemu_bh_schedule(ioas->filled);
        return;
    }
    /* Nothing is big any more if mapping one of them dropped the keeper */
    if (ioas->prefault && (vfio_prefault_finished(ioas->prefault) ||
                           !vfio_ioas_first_big(ioas))) {
        vfio_ioas_stop_prefault(ioas);
    }
    if (!ioas->prefault) {
        ioas->cold = false;
        notifier_list_notify(&ioas->ready, ioas);
    }
}

/* Map all that is pending, and wait for the threads where they are at it */
static void vfio_ioas_map_pending(VFIOIOAS *ioas)
{
    g_autoptr(GArray) pending = ioas->pending;
    guint i;

    vfio_ioas_prefault(ioas, true);
    ioas->pending = g_array_new(false, false, sizeof(VFIOMapRange));
    for (i = 0; i < pending->len && !ioas->setup_error; i++) {
        if (ioas->prefault && vfio_ioas_is_big(ioas, &RANGE(pending, i))) {
            vfio_prefault_wait(ioas->prefault, ++ioas->taken);
        }
        vfio_ioas_apply_map(ioas, &RANGE(pending, i));
    }
    vfio_ioas_stop_prefault(ioas);
    ioas->cold = false;
}

/* What is pending and will fail for sure fails now */
static void vfio_ioas_foresee(VFIOIOAS *ioas, const GArray *wanted)
{
    const VFIOMapRange *r = vfio_ioas_unreachable(ioas, ioas->pending);
    int ret = -ERANGE;

    if (ioas->pending->len && r != &RANGE(ioas->pending, 0) && ioas->pinning &&
        vfio_ioas_exceeds_memlock(vfio_map_bytes(wanted)) &&
        !vfio_base_relax(ioas)) {
        r = &RANGE(ioas->pending, 0);
        ret = -ENOMEM;
    }
    if (r) {
        vfio_ioas_map_failed(ioas, vfio_ioas_region_name(ioas, r->iova),
                             r->iova, r->last, ret);
    }
}

bool vfio_ioas_ready(VFIOIOAS *ioas)
{
    if (ioas->prefault) {
        vfio_prefault_hurry(ioas->prefault);
    }
    if (ioas->incomplete || ioas->prefault ||
        (ioas->base && !vfio_ioas_ready(ioas->base)) ||
        vfio_ioas_first_big(ioas)) {
        ioas->awaited = true;
        return false;           /* the bottom half will begin with it */
    }
    vfio_ioas_map_pending(ioas);
    return !ioas->incomplete;
}

void vfio_ioas_open(VFIOIOAS *ioas)
{
    if (ioas->base) {
        vfio_ioas_open(ioas->base);
    }
    ioas->awaited = false;
    ioas->open++;
    if (ioas->pending) {
        vfio_ioas_map_pending(ioas);
        qemu_bh_schedule(ioas->filled);         /* others may wait for it */
    }
}

void vfio_ioas_close(VFIOIOAS *ioas)
{
    ioas->open--;
    if (ioas->base) {
        vfio_ioas_close(ioas->base);
    }
}

bool vfio_ioas_apply_ram(VFIOIOAS *ioas)
{
    g_autoptr(GArray) wanted = vfio_ioas_wanted(ioas);
    g_autoptr(GArray) unmaps = g_array_new(false, false, sizeof(VFIOMapRange));
    bool unmapped = true;
    guint i;

    vfio_map_plan(ioas->mapped, wanted, unmaps, ioas->pending);
    trace_vfio_ioas_apply(ioas->id, vfio_map_bytes(unmaps),
                          vfio_map_bytes(ioas->pending), ioas->open);
    for (i = 0; i < unmaps->len; i++) {
        unmapped &= vfio_ioas_apply_unmap(ioas, &RANGE(unmaps, i));
    }
    for (i = 0; i < ioas->pending->len && unmaps->len && ioas->open; i++) {
        const VFIOMapRange *r = &RANGE(ioas->pending, i);

        vfio_ioas_dirty_remapped(ioas, r->vaddr, vfio_range_bytes(r),
                                 r->readonly);
    }
    vfio_ioas_foresee(ioas, wanted);
    if (ioas->setup_error) {
        return unmapped;
    }
    if (ioas->open || !ioas->be->map_background) {
        vfio_ioas_map_pending(ioas);
    } else {
        /* Threads inherit where they may run: not that of a vCPU's thread */
        vfio_ioas_prefault(ioas, !current_cpu);
    }
    /* To begin, and for whoever waits for what is not pending any more */
    qemu_bh_schedule(ioas->filled);
    return unmapped;
}

bool vfio_ioas_map_missing(VFIOIOAS *ioas, Error **errp)
{
    if (!ioas->copiers) {
        return true;
    }
    ioas->listening = false;
    vfio_ioas_apply_ram(ioas);
    vfio_ioas_retry_failed(ioas);
    ioas->listening = true;
    if (ioas->setup_error) {
        error_propagate(errp, ioas->setup_error);
        ioas->setup_error = NULL;
        return false;
    }
    return true;
}

static void vfio_ioas_base_filled(Notifier *n, void *opaque)
{
    qemu_bh_schedule(container_of(n, VFIOIOAS, base_filled)->filled);
}

void vfio_ioas_report_pending(VFIOIOAS *ioas, uint64_t *pending,
                              uint64_t *filled)
{
    *pending = ioas->pending ? vfio_map_bytes(ioas->pending) : 0;
    *filled = ioas->prefault ?
              vfio_prefault_bytes(ioas->prefault) - ioas->taken_bytes : 0;
}

void vfio_ioas_start_ram(VFIOIOAS *ioas)
{
    ioas->mapped = g_array_new(false, false, sizeof(VFIOMapRange));
    ioas->pending = g_array_new(false, false, sizeof(VFIOMapRange));
    /* Not in a nested aio_poll(): it writes to devices and resumes vCPUs */
    ioas->filled = aio_bh_new(iohandler_get_aio_context(),
                              vfio_ioas_take_filled, ioas);
    if (ioas->base) {
        ioas->base_filled.notify = vfio_ioas_base_filled;
        notifier_list_add(&ioas->base->ready, &ioas->base_filled);
    }
}

void vfio_ioas_stop_ram(VFIOIOAS *ioas)
{
    if (ioas->base) {
        notifier_remove(&ioas->base_filled);
    }
    vfio_ioas_stop_prefault(ioas);
    qemu_bh_delete(ioas->filled);
    vfio_base_changed(ioas);
    g_array_free(ioas->pending, true);
    g_array_free(ioas->mapped, true);
    ioas->pending = NULL;
    ioas->mapped = NULL;
}
