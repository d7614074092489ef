/*
 * Address-space side of VFIO over iommufd: IOASes and HWPTs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the kernel's IOAS and HWPT ids, the list of VFIOIOAS, the copy of the
 * IOVA ranges.  Borrows: the iommufd object, referenced by every attached
 * device, and an IOAS exists only while one is (or is about to be), to it or to
 * one that copies from it (ioas-base.c).
 *
 * Invariants: one IOAS per (AddressSpace, iommufd object); an HWPT is listed
 * from its allocation to its IOMMU_DESTROY, and has at least one user or is the
 * keeper; the memory listener is registered exactly while a device is attached,
 * so RAM is pinned only for devices.
 *
 * Kernel facts: IOVA ranges may change with every attach and detach (6.2); a
 * mapping that already exists in a range makes an attach fail that would take
 * the range away; GET_HW_INFO and HWPT_ALLOC came with 6.6, dirty tracking
 * with 6.7, and each driver may refuse: attaching to the IOAS always works
 * where attaching works at all.
 */

#include "qemu/osdep.h"
#include <linux/iommufd.h>

#include "ioas.h"
#include "exec/cpu-common.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "trace.h"

VFIOIOASList vfio_ioases = QLIST_HEAD_INITIALIZER(vfio_ioases);

int vfio_ioas_read_ranges(VFIOIOAS *ioas)
{
    IOMMUFDRange *ranges;
    uint64_t alignment;
    uint32_t nr;
    int ret;

    ret = iommufd_backend_iova_ranges(ioas->be, ioas->id, &ranges, &nr,
                                      &alignment);
    if (ret) {
        return ret;
    }
    g_free(ioas->ranges);
    ioas->ranges = ranges;
    ioas->nr_ranges = nr;
    ioas->alignment = alignment;
    return 0;
}

VFIOIOAS *vfio_ioas_get(IOMMUFDBackend *be, AddressSpace *as, Object *owner,
                        Error **errp)
{
    VFIOIOAS *ioas;
    uint32_t id;
    int ret;

    QLIST_FOREACH(ioas, &vfio_ioases, next) {
        if (ioas->be == be && ioas->as == as) {
            if (!vfio_base_get(ioas, owner, errp)) {
                return NULL;
            }
            ioas->users++;
            ioas->alone = NULL;
            return ioas;
        }
    }

    ret = iommufd_backend_alloc_ioas(be, &id);
    if (ret) {
        error_setg_errno(errp, -ret, "IOMMU_IOAS_ALLOC failed");
        return NULL;
    }
    ret = be->huge_pages ? 0 : iommufd_backend_disable_huge_pages(be, id);
    if (ret) {
        error_setg_errno(errp, -ret, "huge-pages=off: IOMMU_OPTION_HUGE_PAGES "
                         "failed");
        iommufd_backend_destroy_id(be, id);
        return NULL;
    }

    ioas = g_new0(VFIOIOAS, 1);
    ioas->be = be;
    ioas->as = as;
    ioas->id = id;
    ioas->cold = !phase_check(PHASE_MACHINE_READY);
    ioas->users = 1;
    ioas->alone = owner;
    if (!vfio_base_get(ioas, owner, errp)) {
        iommufd_backend_destroy_id(be, id);
        g_free(ioas);
        return NULL;
    }
    QLIST_INIT(&ioas->hwpts);
    QLIST_INIT(&ioas->writers);
    g_queue_init(&ioas->failed);
    notifier_list_init(&ioas->ready);
    ioas->report.fill = vfio_ioas_fill_report;
    iommufd_backend_add_report(be, &ioas->report);
    QLIST_INSERT_HEAD(&vfio_ioases, ioas, next);
    return ioas;
}

void vfio_ioas_put(VFIOIOAS *ioas)
{
    VFIOIOAS *base = ioas->base;

    if (--ioas->users) {
        /* Wider, perhaps.  On failure the narrower ranges stay: safe. */
        vfio_ioas_read_ranges(ioas);
        vfio_base_put(base);
        return;
    }

    vfio_ioas_unlisten(ioas);
    vfio_base_drop_keeper(ioas);
    QLIST_REMOVE(ioas, next);
    QLIST_REMOVE(&ioas->report, next);
    vfio_ioas_forget_failed(ioas);
    /* Frees whatever is still mapped with it */
    iommufd_backend_destroy_id(ioas->be, ioas->id);
    g_free(ioas->ranges);
    g_free(ioas);
    vfio_base_put(base);
}

VFIOHWPT *vfio_ioas_alloc_hwpt(VFIOIOAS *ioas, uint32_t devid)
{
    uint32_t flags = 0, id;
    uint64_t caps = 0;
    VFIOHWPT *hwpt;
    int ret;

    ret = iommufd_backend_get_hw_info(ioas->be, devid, &caps);
    if (ret) {
        trace_vfio_ioas_no_hwpt(ioas->id, devid, "GET_HW_INFO", ret);
        return NULL;
    }
    if (caps & IOMMU_HW_CAP_DIRTY_TRACKING) {
        flags = IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
    }

    ret = iommufd_backend_alloc_hwpt(ioas->be, devid, ioas->id, flags, &id);
    if (ret && flags) {
        trace_vfio_ioas_no_hwpt(ioas->id, devid, "DIRTY_TRACKING", ret);
        flags = 0;
        ret = iommufd_backend_alloc_hwpt(ioas->be, devid, ioas->id, flags, &id);
    }
    if (ret) {
        trace_vfio_ioas_no_hwpt(ioas->id, devid, "HWPT_ALLOC", ret);
        return NULL;
    }

    hwpt = g_new0(VFIOHWPT, 1);
    hwpt->id = id;
    hwpt->dirty_tracking = flags;
    hwpt->devids = g_array_new(false, false, sizeof(devid));
    vfio_ioas_join_hwpt(hwpt, devid);
    QLIST_INSERT_HEAD(&ioas->hwpts, hwpt, next);
    return hwpt;
}

void vfio_ioas_join_hwpt(VFIOHWPT *hwpt, uint32_t devid)
{
    g_array_append_val(hwpt->devids, devid);
}

void vfio_ioas_put_hwpt(VFIOIOAS *ioas, VFIOHWPT *hwpt, uint32_t devid)
{
    guint i = 0;

    while (g_array_index(hwpt->devids, uint32_t, i) != devid) {
        i++;
    }
    g_array_remove_index(hwpt->devids, i);
    if (hwpt != ioas->keeper) {
        vfio_ioas_free_hwpt(ioas, hwpt);
    }
}

void vfio_ioas_free_hwpt(VFIOIOAS *ioas, VFIOHWPT *hwpt)
{
    if (hwpt->devids->len) {
        return;
    }
    g_array_free(hwpt->devids, true);
    QLIST_REMOVE(hwpt, next);
    iommufd_backend_destroy_id(ioas->be, hwpt->id);
    g_free(hwpt);
}

bool vfio_ioas_check_ranges(VFIOIOAS *ioas, Error **errp)
{
    g_autoptr(GArray) wanted = NULL;
    int ret = vfio_ioas_read_ranges(ioas);
    const VFIOMapRange *r;

    if (ret) {
        error_setg_errno(errp, -ret, "IOMMU_IOAS_IOVA_RANGES of IOAS %" PRIu32
                         " failed", ioas->id);
        return false;
    }
    if (!vfio_giommu_suits(ioas, errp)) {
        return false;
    }
    if (!ioas->listening) {
        return true;            /* checked with what the listener is told */
    }

    wanted = vfio_ioas_wanted(ioas);
    r = vfio_ioas_unreachable(ioas, wanted);
    if (r) {
        error_propagate(errp, vfio_ioas_map_error(
            ioas, vfio_ioas_region_name(ioas, r->iova), r->iova, r->last,
            -ERANGE));
    }
    return !r;
}

bool vfio_ioas_attached(VFIOIOAS *ioas, Error **errp)
{
    if (ioas->base && !ioas->base->listening &&
        !vfio_ioas_listen(ioas->base, errp)) {
        return false;
    }
    if (!(ioas->listening ? vfio_ioas_map_missing(ioas, errp)
                          : vfio_ioas_listen(ioas, errp))) {
        return false;
    }
    vfio_ioas_map_bars(ioas);
    if (ioas->base) {
        vfio_ioas_map_bars(ioas->base);
    }
    return true;
}

static bool vfio_ioas_reachable(VFIOIOAS *ioas, uint64_t iova, uint64_t last)
{
    uint32_t i;

    for (i = 0; i < ioas->nr_ranges; i++) {
        if (ioas->ranges[i].start <= iova && last <= ioas->ranges[i].last) {
            return true;
        }
    }
    return false;
}

const VFIOMapRange *vfio_ioas_unreachable(VFIOIOAS *ioas, const GArray *ranges)
{
    guint i;

    for (i = 0; i < ranges->len; i++) {
        const VFIOMapRange *r = &g_array_index(ranges, VFIOMapRange, i);

        if (!vfio_ioas_reachable(ioas, r->iova, r->last)) {
            return r;
        }
    }
    return NULL;
}

/* The file that this memory is a shared mapping of, and where in it; or -1 */
static int vfio_ioas_file(void *vaddr, uint64_t size, uint64_t *offset)
{
    ram_addr_t at;
    RAMBlock *rb = qemu_ram_block_from_host(vaddr, false, &at);

    if (!rb || !qemu_ram_is_shared(rb) ||
        size > qemu_ram_get_max_length(rb) - at) {
        return -1;
    }
    *offset = qemu_ram_get_fd_offset(rb) + at;
    return qemu_ram_get_fd(rb);
}

static void vfio_ioas_count_map(VFIOIOAS *ioas, uint64_t size)
{
    ioas->maps++;
    ioas->mappings++;
    ioas->mapped_bytes += size;
}

int vfio_ioas_map_dmabuf(VFIOIOAS *ioas, const VFIOMapRange *r, int fd)
{
    uint64_t size = r->last - r->iova + 1;
    int ret = -ERANGE;

    if (vfio_ioas_reachable(ioas, r->iova, r->last)) {
        ret = iommufd_backend_map_file(ioas->be, ioas->id, r->iova, size, fd,
                                       0, r->readonly);
    }
    if (!ret) {
        vfio_ioas_count_map(ioas, size);
    }
    return ret;
}

int vfio_ioas_map(VFIOIOAS *ioas, uint64_t iova, uint64_t last,
                  uint64_t vaddr, bool readonly)
{
    void *va = (void *)(uintptr_t)vaddr;
    uint64_t size = last - iova + 1, offset;
    int ret = -ERANGE, fd;

    if (!vfio_ioas_reachable(ioas, iova, last)) {
        return ret;
    }
    ret = vfio_base_copy(ioas, iova, size, vaddr, readonly);
    if (ret == -ENOENT) {
        fd = vfio_ioas_file(va, size, &offset);
        do {
            ret = fd < 0 ? iommufd_backend_map_dma(ioas->be, ioas->id, iova,
                                                   size, va, readonly)
                         : iommufd_backend_map_shared(ioas->be, ioas->id, iova,
                                                      size, va, fd, offset,
                                                      readonly);
        } while (ret == -ENOMEM && vfio_base_relax(ioas));
    }
    if (!ret) {
        vfio_ioas_count_map(ioas, size);
    }
    return ret;
}

int vfio_ioas_unmap(VFIOIOAS *ioas, uint64_t iova, uint64_t last,
                    uint64_t mappings)
{
    uint64_t bytes;
    int ret = iommufd_backend_unmap_dma(ioas->be, ioas->id, iova, last, &bytes);

    if (!ret) {
        ioas->unmaps++;
        ioas->mappings -= mappings;
        ioas->mapped_bytes -= bytes;
    }
    return ret;
}
