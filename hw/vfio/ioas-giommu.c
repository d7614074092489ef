/*
 * Address-space side of VFIO over iommufd: behind a guest IOMMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a guest IOMMU translates is a section of the device's address space, and
 * what the guest maps there are its pieces (ioas-dynamic.c).
 *
 * Owns: the registration with the guest IOMMU.  Borrows: the section.
 *
 * Called with the BQL held; the notifier also takes RCU.
 */

#include "qemu/osdep.h"

#include "ioas-dynamic.h"
#include "exec/address-spaces.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"

/*
 * The root of a device's address space belongs to the guest IOMMU, whose
 * properties say what the guest will be told of it.
 */
bool vfio_giommu_suits(VFIOIOAS *ioas, Error **errp)
{
    Object *giommu = memory_region_owner(ioas->as->root);
    int bits = 0, host;

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
    host = ioas->nr_ranges ? 64 - clz64(ioas->ranges[ioas->nr_ranges - 1].last)
                           : 0;
    if (bits > host) {
        error_setg(errp, "guest IOMMU '%s' translates %d bits, the IOMMU of "
                   "the host %d: give it a lower aw-bits",
                   object_get_typename(giommu), bits, host);
        return false;
    }
    return true;
}

/* A BAR, which the kernel cannot map */
static bool vfio_giommu_to_bar(IOMMUTLBEntry *iotlb)
{
    hwaddr len = iotlb->addr_mask + 1, xlat;

    return memory_region_is_ram_device(address_space_translate(
        &address_space_memory, iotlb->translated_addr, &xlat, &len,
        iotlb->perm & IOMMU_WO, MEMTXATTRS_UNSPECIFIED));
}

/* Memory behind a translation: false if it is none, or none to map */
static bool vfio_giommu_target(VFIOIOASSection *s, IOMMUTLBEntry *iotlb,
                               DMAMap *piece)
{
    bool read_only, discards;
    uint64_t unused;
    void *vaddr;

    if (!memory_get_xlat_addr(iotlb, &vaddr, NULL, &read_only, &discards)) {
        return false;           /* said why */
    }
    /* What the base maps is no BAR: this is asked for each I/O of a guest */
    if (!vfio_base_finds(s->ioas, (uintptr_t)vaddr, iotlb->addr_mask + 1,
                         read_only, &unused) && vfio_giommu_to_bar(iotlb)) {
        return false;
    }
    if (discards) {
        warn_report_once("vfio: with a guest IOMMU the guest can pin more "
                         "memory of a virtio-mem device than is plugged; "
                         "RLIMIT_MEMLOCK bounds it");
    }
    piece->translated_addr = (uintptr_t)vaddr;
    piece->perm = read_only ? IOMMU_RO : IOMMU_RW;
    return true;
}

/* The part of @piece that lies in the section; there is one */
static void vfio_giommu_clip(VFIOIOASSection *s, DMAMap *piece)
{
    hwaddr iova = MAX(piece->iova, s->range.iova);
    hwaddr last = MIN(piece->iova + piece->size, s->range.last);

    piece->translated_addr += iova - piece->iova;
    piece->iova = iova;
    piece->size = last - iova;
}

static void vfio_giommu_notify(IOMMUNotifier *n, IOMMUTLBEntry *iotlb)
{
    VFIOIOASSection *s = container_of(n, VFIOIOASSection, notifier);
    DMAMap piece = {
        .iova = iotlb->iova + s->told_iova - s->offset_within_region,
        .size = iotlb->addr_mask,
    };
    int ret;

    if (piece.iova > s->range.last ||
        piece.iova + piece.size < s->range.iova) {
        return;
    }
    if ((iotlb->perm & IOMMU_RW) == IOMMU_NONE) {
        vfio_piece_unmap_or_report(s, piece.iova, piece.iova + piece.size);
        return;
    }

    if (iotlb->target_as != &address_space_memory) {
        error_report("vfio: guest IOMMU maps to address space '%s', only "
                     "system memory can be mapped",
                     iotlb->target_as->name ?: "none");
        return;
    }

    RCU_READ_LOCK_GUARD();
    if (!vfio_giommu_target(s, iotlb, &piece)) {
        return;
    }
    vfio_giommu_clip(s, &piece);
    ret = vfio_piece_map(s, &piece);
    if (ret == -EEXIST) {
        /* Mapped differently before: the guest's last word counts */
        vfio_piece_unmap_or_report(s, piece.iova, piece.iova + piece.size);
        ret = vfio_piece_map(s, &piece);
    }
    if (ret) {
        s->failed = true;
        vfio_ioas_map_failed(s->ioas, memory_region_name(s->mr), piece.iova,
                             piece.iova + piece.size, ret);
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

void vfio_giommu_replay(VFIOIOASSection *s)
{
    memory_region_iommu_replay(IOMMU_MEMORY_REGION(s->mr), &s->notifier);
}
