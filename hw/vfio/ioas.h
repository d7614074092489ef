/*
 * Address-space side of VFIO over iommufd: IOAS, HWPTs, memory listener
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * There is one VFIOIOAS per pair of AddressSpace and iommufd object.  All
 * devices of the pair share its mappings.  This side knows guest memory and
 * the iommufd; it does not know PCI, sysfs or KVM.  The device side (cdev.c)
 * calls it; it calls back only who waits in VFIOIOAS.ready, a device that logs
 * its own writes (VFIOWriter.log), and migration, whether a sync matters to it
 * (VFIOWriter.later).
 *
 *   ioas.c           the kernel's IOAS and HWPTs, IOVA ranges, life cycle
 *   ioas-base.c      memory that one IOAS pins and others copy
 *   ioas-listener.c  the MemoryListener: sections come and go
 *   ioas-apply.c     RAM: plan and apply, now or in the background
 *   ioas-early.c     RAM: filled while the machine is made
 *   ioas-fail.c      what cannot be mapped: words and consequences
 *   ioas-bar.c       BARs of assigned devices, for DMA of the others
 *   ioas-dynamic.c   sections whose content comes and goes piece by piece;
 *                    RamDiscardManager (virtio-mem)
 *   ioas-giommu.c    the same for guest IOMMUs
 *   ioas-peer.c      what guests map of BARs by those
 *   ioas-dirty.c     which memory devices have written, for migration
 *   ioas-query.c     what query-iommufd tells of it
 */

#ifndef HW_VFIO_IOAS_H
#define HW_VFIO_IOAS_H

#include "exec/memory.h"
#include "exec/ramlist.h"
#include "qemu/queue.h"
#include "qemu/units.h"
#include "sysemu/iommufd.h"
#include "sysemu/runstate.h"
#include "qemu/notify.h"
#include "map-planner.h"
#include "prefault.h"

typedef struct VFIOIOAS VFIOIOAS;
typedef struct VFIODirty VFIODirty;     /* ioas-dirty.c */

/* For query-iommufd: guest memory that could not be mapped */
typedef struct VFIOFailedMap {
    char *region;
    uint64_t iova;
    uint64_t last;
    int ret;                    /* -errno */
} VFIOFailedMap;

#define VFIO_FAILED_MAPS 8

/*
 * Bytes, of RAM that threads fill before it is mapped: above what firmware
 * switches (map-planner.c), below what takes long
 */
#define VFIO_IOAS_BIG (32 * MiB)

/* A hardware page table over the IOAS, shared by devices that can */
typedef struct VFIOHWPT {
    uint32_t id;
    bool dirty_tracking;        /* allocated so that it can log DMA writes */
    bool tracking;              /* it does so now */
    GArray *devids;             /* of the devices attached to it */
    QLIST_ENTRY(VFIOHWPT) next;
} VFIOHWPT;

/* Who tells which guest memory a device has written */
typedef enum VFIODirtyBy {
    VFIO_DIRTY_BY_NONE,         /* nobody: all that it can write is dirty */
    VFIO_DIRTY_BY_IOMMU,        /* its page table logs writes */
    VFIO_DIRTY_BY_DEVICE,       /* it logs its own writes */
} VFIODirtyBy;

typedef struct VFIOWriter VFIOWriter;

/* What a device that logs its own writes can do */
typedef struct VFIODirtyLogOps {
    /*
     * Begin, in @ranges (GArray of IOMMUFDRange, ascending, page-aligned).
     * Returns 0 or -errno; perhaps fewer ranges do.
     */
    int (*start)(VFIOWriter *writer, const GArray *ranges);
    /*
     * Set the bits of the host pages in @size bytes from @iova that were
     * written since the last report.  Returns 0 or -errno.
     */
    int (*report)(VFIOWriter *writer, uint64_t iova, uint64_t size,
                  unsigned long *bits);
    void (*stop)(VFIOWriter *writer);
} VFIODirtyLogOps;

/* An attached device, as the IOAS sees it: it may write to what is mapped */
struct VFIOWriter {
    const char *name;
    const VFIODirtyLogOps *log; /* NULL: it does not log its writes */
    VFIOHWPT *hwpt;             /* NULL: attached to the IOAS itself */
    GArray *logged;             /* of IOMMUFDRange: where it logs, or NULL */
    bool leaves;                /* migration has the guest give it away first */
    /*
     * If nobody tracks: may a sync leave out what it writes, as another comes
     * when it was stopped?  NULL: no.  Migration sets it (mig.h).
     */
    bool (*later)(void);
    QLIST_ENTRY(VFIOWriter) next;
};

/* What an IOAS does with a section of the memory map */
typedef enum VFIOSectionKind {
    VFIO_SECTION_RAM,           /* mapped as a whole, see the planner */
    VFIO_SECTION_BAR,           /* the same, by a dma-buf of its own */
    VFIO_SECTION_IOMMU,         /* a guest IOMMU says what is mapped */
    VFIO_SECTION_DISCARD,       /* a RamDiscardManager says what is there */
} VFIOSectionKind;

/*
 * One section that the listener was told of and that concerns the IOMMU.
 * References its MemoryRegion until the commit that unmaps it.
 */
typedef struct VFIOIOASSection {
    VFIOIOAS *ioas;
    VFIOSectionKind kind;
    MemoryRegion *mr;
    hwaddr offset_within_region;
    VFIOMapRange range;         /* host-page aligned inside of the section */
    hwaddr told_iova;           /* as told by the listener, perhaps unaligned */
    Int128 told_size;
    bool active;                /* registered with the source; BAR: mapped */
    bool failed;                /* dynamic kinds: something is not mapped */
    bool refused;               /* BAR: it cannot be mapped; IOMMU: was said */
    bool gone;                  /* region_del was seen, commit was not */
    GTree *pieces;              /* dynamic kinds: DMAMaps of what is mapped */
    GTree *peers;               /* VFIO_SECTION_IOMMU: BARs, or NULL */
    GTree *replayed;            /* the same, in a replay: the guest's DMAMaps */
    bool replay_heard;          /* of one through this section's notifier */
    bool early;                 /* told of what was not there; the VM stood */
    IOMMUNotifier notifier;             /* VFIO_SECTION_IOMMU */
    RamDiscardListener discard;         /* VFIO_SECTION_DISCARD */
    uint64_t granularity;               /* VFIO_SECTION_DISCARD, bytes */
} VFIOIOASSection;

struct VFIOIOAS {
    IOMMUFDBackend *be;         /* held by the attached devices */
    AddressSpace *as;
    uint32_t id;
    unsigned users;
    Object *alone;              /* the device, while there never was another */
    QLIST_ENTRY(VFIOIOAS) next;

    VFIOIOAS *base;             /* what we copy from; NULL: system memory */
    Notifier base_filled;       /* by its @ready */
    unsigned copiers;           /* of @users: those of IOASes with this base */
    VFIOHWPT *keeper;           /* in @hwpts, keeps RAM pinned for @copiers */
    bool relaxed;               /* no keeper: so much may not be locked */
    GArray *by_vaddr;           /* @mapped, in that order; NULL: to be made */
    uint64_t copies;            /* of @maps */

    QLIST_HEAD(, VFIOHWPT) hwpts;
    QLIST_HEAD(, VFIOWriter) writers;
    VFIODirty *dirty;           /* RAM's dirty log is on, else NULL */
    IOMMUFDRange *ranges;       /* read again after each attach and detach */
    uint32_t nr_ranges;
    uint64_t alignment;

    MemoryListener listener;
    RAMBlockNotifier blocks;
    bool listening;             /* registered: failures come late from now */
    bool dying;                 /* mappings go away with the kernel's IOAS */
    bool cold;                  /* until RAM is mapped: none is poisoned */
    bool changed;               /* sections came or went since the commit */
    bool incomplete;            /* guest RAM is missing: the VM is stopped */
    Error *setup_error;         /* first failure before @listening */
    GPtrArray *sections;        /* of VFIOIOASSection */
    GArray *mapped;             /* of VFIOMapRange: RAM sections, in order */
    GArray *pending;            /* the same: missing, no device is open */
    unsigned open;              /* devices that can reach memory now */
    unsigned pinning;           /* attached devices with an IOMMU, keeper */
    VFIOPrefault *prefault;     /* fills what is big of @pending */
    bool awaited;               /* somebody waits for that */
    guint taken;                /* of its ranges: mapped, so not pending */
    uint64_t taken_bytes;
    QEMUBH *filled;             /* there is more to take */
    NotifierList ready;         /* vfio_ioas_ready() may say yes now */
    GHashTable *bars;           /* owner -> VFIOBarNote, see ioas-bar.c */
    VMChangeStateEntry *vm_state;

    IOMMUFDReport report;       /* and what it tells: */
    uint64_t maps;              /* made so far */
    uint64_t unmaps;            /* calls so far */
    uint64_t mappings;          /* now */
    uint64_t mapped_bytes;      /* now */
    uint64_t written;           /* bytes reported by syncs so far */
    GQueue failed;              /* of VFIOFailedMap, last one first */
};

/**
 * vfio_ioas_get - the IOAS of @as in @be, allocated if there is none yet
 * @owner: the device, as its MemoryRegions know it
 *
 * Takes a reference, dropped by vfio_ioas_put().  Returns NULL with @errp set
 * when the kernel gives none.
 */
VFIOIOAS *vfio_ioas_get(IOMMUFDBackend *be, AddressSpace *as, Object *owner,
                        Error **errp);

/**
 * vfio_ioas_put - drop a reference, after the device was detached
 *
 * With the last one everything is unmapped and the kernel's IOAS is freed;
 * before that, the IOVA ranges are read again.
 */
void vfio_ioas_put(VFIOIOAS *ioas);

/**
 * vfio_ioas_alloc_hwpt - allocate a HWPT that suits the device @devid
 *
 * With dirty tracking where the IOMMU has it.  Enters the device.  Returns
 * NULL when kernel or driver have no such thing: attach to the IOAS itself
 * then, and let the kernel choose a domain.
 */
VFIOHWPT *vfio_ioas_alloc_hwpt(VFIOIOAS *ioas, uint32_t devid);

/**
 * vfio_ioas_join_hwpt - another device was attached to the HWPT
 * vfio_ioas_put_hwpt - a device left the HWPT; the last one frees it
 */
void vfio_ioas_join_hwpt(VFIOHWPT *hwpt, uint32_t devid);
void vfio_ioas_put_hwpt(VFIOIOAS *ioas, VFIOHWPT *hwpt, uint32_t devid);

/**
 * vfio_ioas_keep_pinned - behind a guest IOMMU, let all RAM stay pinned
 * @devid: a device whose IOMMU can hold it, attached to @ioas
 *
 * From then on what the guest maps is pinned already.  Before
 * vfio_ioas_attached().  Without a guest IOMMU, or if the kernel does not have
 * it, nothing happens.
 */
void vfio_ioas_keep_pinned(VFIOIOAS *ioas, uint32_t devid);

/**
 * vfio_ioas_check_ranges - a device was attached: can it reach all RAM?
 *
 * Reads the IOVA ranges again; a device that joins may narrow them for all.  On
 * failure returns false with @errp naming range and remedy; see below.
 */
bool vfio_ioas_check_ranges(VFIOIOAS *ioas, Error **errp);

/**
 * vfio_ioas_attached - make the memory map good for a device that was attached
 *
 * For the first device, maps all RAM of the address space, or makes it pending.
 * On failure (RAM outside the ranges, memlock, ...) returns false with @errp
 * naming range, reason and remedy; the caller detaches the device and puts the
 * IOAS, which undoes the rest.
 */
bool vfio_ioas_attached(VFIOIOAS *ioas, Error **errp);

/**
 * vfio_ioas_open - a device is about to reach memory
 * vfio_ioas_close - it cannot reach memory any more
 *
 * A device is open while DMA or an MSI can leave it.  vfio_ioas_open() returns
 * when all RAM that is to be mapped is, or the failure policy was applied; it
 * waits for it with the BQL held, unless vfio_ioas_ready() said true before.
 * To be called before vfio_ioas_attached() for a device that is open from the
 * start; every open device closes before vfio_ioas_put().
 */
void vfio_ioas_open(VFIOIOAS *ioas);
void vfio_ioas_close(VFIOIOAS *ioas);

/**
 * vfio_ioas_ready - could a device open without waiting?
 *
 * Maps what is quick to map.  False while threads fill RAM, and while RAM is
 * missing and the VM stopped for that.  Whoever is in @ready of the IOAS is
 * notified when it is worth to ask again, and asks again at `cont`.
 */
bool vfio_ioas_ready(VFIOIOAS *ioas);

/**
 * vfio_ioas_revoke_bars - the kernel has dropped what was mapped of a device
 * vfio_ioas_refresh_bars - it may map the device's BARs again
 * @owner: the device, as its MemoryRegions know it
 *
 * The kernel revokes a dma-buf for the time in which the device has no memory,
 * and what was mapped must be mapped anew.  In all IOASes.
 */
void vfio_ioas_revoke_bars(Object *owner);
void vfio_ioas_refresh_bars(Object *owner);

/**
 * vfio_ioas_forget_bars - a device of whatever kind goes away: what was said of
 * its BARs, and what is mapped of them behind guest IOMMUs
 *
 * Its MemoryRegions may be gone already.
 */
void vfio_ioas_forget_bars(Object *owner);

/**
 * vfio_ioas_add_writer - a device was attached that may write to the IOAS
 * vfio_ioas_del_writer - it was detached, so that it writes no more
 *
 * @writer is the caller's, with name, log and hwpt set; so it may be asked for
 * its log until it is deleted.  Add it before it is opened and delete it before
 * its page table and its descriptor go: what it wrote is read then.
 */
void vfio_ioas_add_writer(VFIOIOAS *ioas, VFIOWriter *writer);
void vfio_ioas_del_writer(VFIOIOAS *ioas, VFIOWriter *writer);

/**
 * vfio_ioas_dirty_by - who will track what @writer writes, if nothing fails
 */
VFIODirtyBy vfio_ioas_dirty_by(const VFIOWriter *writer);

/**
 * vfio_ioas_fill_early - a device will be attached when the machine is there
 * @be: to this one, which says by how many threads, or not to do it at all
 *
 * From now on RAM that is put into system memory is filled: a head start that
 * maps and reports nothing, and leaves one CPU of several alone.  Its end is
 * when the first IOAS listens, or vfio_ioas_end_early(), which may be called
 * twice.
 */
void vfio_ioas_fill_early(IOMMUFDBackend *be);
void vfio_ioas_end_early(void);

/* Among the parts of the address-space side */

/* All there are */
typedef QLIST_HEAD(VFIOIOASList, VFIOIOAS) VFIOIOASList;
extern VFIOIOASList vfio_ioases;

/**
 * vfio_base_get - see that @ioas has a base, unless it is of system memory
 * vfio_base_put - the reverse, with what was in VFIOIOAS.base; may be NULL
 */
bool vfio_base_get(VFIOIOAS *ioas, Object *owner, Error **errp);
void vfio_base_put(VFIOIOAS *base);

/**
 * vfio_base_only - is @ioas there for others to copy from, and no more?
 */
bool vfio_base_only(const VFIOIOAS *ioas);

/**
 * vfio_base_finds - does the base of @ioas map all of this memory?
 * @iova: where
 *
 * What is plugged of a virtio-mem device only the kernel knows: it counts.
 */
bool vfio_base_finds(VFIOIOAS *ioas, uint64_t vaddr, uint64_t size,
                     bool readonly, uint64_t *iova);

/**
 * vfio_base_copy - map what the base of @ioas maps of this memory
 *
 * Returns 0; -ENOENT if there is no base, or it does not map all of it; or as
 * iommufd_backend_copy_dma().
 */
int vfio_base_copy(VFIOIOAS *ioas, uint64_t iova, uint64_t size,
                   uint64_t vaddr, bool readonly);

/**
 * vfio_base_changed - VFIOIOAS.mapped did
 */
void vfio_base_changed(VFIOIOAS *ioas);

/**
 * vfio_base_relax - too much is locked: let what nobody can reach be unpinned
 *
 * Returns true if there is hope that this helped.
 */
bool vfio_base_relax(VFIOIOAS *ioas);

/**
 * vfio_base_drop_keeper - the reverse of vfio_ioas_keep_pinned(), for the base
 */
void vfio_base_drop_keeper(VFIOIOAS *ioas);

/**
 * vfio_ioas_read_ranges - ask for the IOVA ranges again; 0 or -errno
 */
int vfio_ioas_read_ranges(VFIOIOAS *ioas);

/**
 * vfio_ioas_free_hwpt - free a HWPT if no device is attached to it
 */
void vfio_ioas_free_hwpt(VFIOIOAS *ioas, VFIOHWPT *hwpt);

/**
 * vfio_ioas_unreachable - the first of the VFIOMapRanges that the IOMMU cannot
 * translate whole, or NULL
 */
const VFIOMapRange *vfio_ioas_unreachable(VFIOIOAS *ioas, const GArray *ranges);

/**
 * vfio_ioas_map - make one mapping of [@iova, @last]
 * @vaddr: in guest RAM; by its file, if it has one and the kernel can
 *
 * Returns 0; -ERANGE, without asking the kernel, if the IOMMU cannot translate
 * all of it; or as iommufd_backend_map_dma().
 */
int vfio_ioas_map(VFIOIOAS *ioas, uint64_t iova, uint64_t last,
                  uint64_t vaddr, bool readonly);

/**
 * vfio_ioas_map_dmabuf - the same by a dma-buf, from its beginning
 *
 * Returns 0, -ERANGE, or as iommufd_backend_map_file().
 */
int vfio_ioas_map_dmabuf(VFIOIOAS *ioas, const VFIOMapRange *range, int fd);

/**
 * vfio_ioas_unmap - drop the @mappings mappings inside [@iova, @last]
 *
 * Returns 0, or as iommufd_backend_unmap_dma().
 */
int vfio_ioas_unmap(VFIOIOAS *ioas, uint64_t iova, uint64_t last,
                    uint64_t mappings);

/**
 * vfio_ioas_fill_report - what query-iommufd tells of an IOAS (ioas-query.c)
 */
void vfio_ioas_fill_report(IOMMUFDReport *report, IommufdInfo *info);

/**
 * vfio_ioas_note_failed - remember a failed map for query-iommufd
 */
void vfio_ioas_note_failed(VFIOIOAS *ioas, const char *region,
                           uint64_t iova, uint64_t last, int ret);
void vfio_ioas_forget_failed(VFIOIOAS *ioas);

/**
 * vfio_ioas_ignores - is the section none of the IOMMU's business?
 * vfio_ioas_section_kind - what is done with one of @mr that is
 */
bool vfio_ioas_ignores(const MemoryRegionSection *section);
VFIOSectionKind vfio_ioas_section_kind(MemoryRegion *mr);

/**
 * vfio_ioas_listen - register the MemoryListener and map what it tells
 * vfio_ioas_unlisten - the reverse; RAM stays mapped until the IOAS is freed
 */
bool vfio_ioas_listen(VFIOIOAS *ioas, Error **errp);
void vfio_ioas_unlisten(VFIOIOAS *ioas);

/**
 * vfio_ioas_start_ram - begin to keep the mappings of RAM sections
 * vfio_ioas_stop_ram - the reverse; they stay mapped until the IOAS is freed
 * vfio_ioas_apply_ram - make them what the sections say
 *
 * Returns false if something is mapped still that should not be.
 */
void vfio_ioas_start_ram(VFIOIOAS *ioas);
void vfio_ioas_stop_ram(VFIOIOAS *ioas);
bool vfio_ioas_apply_ram(VFIOIOAS *ioas);

/**
 * vfio_ioas_fill_range - how to fill memory of a RAM block
 * @cold: it is as it was allocated, so no page of it can be poisoned
 */
VFIOPrefaultRange vfio_ioas_fill_range(uint64_t vaddr, uint64_t size,
                                       bool cold);

/**
 * vfio_ioas_map_missing - a device joins a base that may not map everything
 *
 * Now what is missing is an error, in @errp.
 */
bool vfio_ioas_map_missing(VFIOIOAS *ioas, Error **errp);

/**
 * vfio_ioas_wanted - the sections of RAM, in order; for g_array_unref()
 * vfio_ioas_region_name - which one is at @iova
 */
GArray *vfio_ioas_wanted(VFIOIOAS *ioas);
const char *vfio_ioas_region_name(VFIOIOAS *ioas, uint64_t iova);

/**
 * vfio_ioas_report_pending - how much RAM is pending, and filled of that; bytes
 */
void vfio_ioas_report_pending(VFIOIOAS *ioas, uint64_t *pending,
                              uint64_t *filled);

/**
 * vfio_ioas_exceeds_memlock - would locking so much fail for sure?
 */
bool vfio_ioas_exceeds_memlock(uint64_t bytes);

/**
 * vfio_ioas_start_bars, vfio_ioas_stop_bars - the notes of what was said
 * vfio_ioas_try_bar - map a part of a BAR, and say once if it cannot be
 * @range: where; host-page aligned, as @offset in @mr is
 *
 * Returns 0; -ENODEV: its device has no memory now; -EOPNOTSUPP: no BAR of this
 * device can be mapped; or another -errno.
 */
int vfio_ioas_try_bar(VFIOIOAS *ioas, MemoryRegion *mr, hwaddr offset,
                      const VFIOMapRange *range);

/**
 * vfio_ioas_map_bar - map a BAR for other devices, if it can be
 * vfio_ioas_unmap_bar - the reverse
 * vfio_ioas_map_bars - map those that are not, and say which ones cannot be
 */
void vfio_ioas_start_bars(VFIOIOAS *ioas);
void vfio_ioas_stop_bars(VFIOIOAS *ioas);
void vfio_ioas_map_bar(VFIOIOASSection *section);
void vfio_ioas_unmap_bar(VFIOIOASSection *section);
void vfio_ioas_map_bars(VFIOIOAS *ioas);

/**
 * vfio_ioas_map_failed - note that guest memory could not be mapped
 * @ret: -errno; -ERANGE means outside the IOVA ranges
 *
 * While a device is being attached: keeps the first failure for its error.
 * Later: says so in one line and stops the VM; `cont` tries again.
 */
void vfio_ioas_map_failed(VFIOIOAS *ioas, const char *region,
                          uint64_t iova, uint64_t last, int ret);

/**
 * vfio_ioas_map_error - the words for it, as an error
 */
Error *vfio_ioas_map_error(VFIOIOAS *ioas, const char *region,
                           uint64_t iova, uint64_t last, int ret);

/**
 * vfio_ioas_complete - is nothing missing that should be mapped by now?
 *
 * Nor in its base.  What is pending is not missing.
 */
bool vfio_ioas_complete(const VFIOIOAS *ioas);

/**
 * vfio_ioas_fail - the same for a failure that is not that of a map
 * @err: taken over
 */
void vfio_ioas_fail(VFIOIOAS *ioas, Error *err);

/**
 * vfio_giommu_suits - could the guest turn on the IOMMU in front of @ioas?
 *
 * What will not do then is an error now.  True if there is none.  virtio-iommu
 * is made to offer the guest no more addresses than the host's IOMMU has; that
 * its guest was perhaps offered more before is a warning.
 */
bool vfio_giommu_suits(VFIOIOAS *ioas, Error **errp);

/**
 * vfio_ioas_start_dynamic - listen to the source of the section, map its pieces
 * vfio_ioas_stop_dynamic - the reverse, with everything unmapped
 * vfio_ioas_retry_failed - when the VM starts: map what an earlier attempt
 * could not, and what was not there while the VM stood still
 * vfio_ioas_loaded - map what guest IOMMUs map whose state was loaded
 *
 * The last two change nothing about what is mapped: devices may use it.  A
 * guest IOMMU that was on from the start need not tell of what it maps when its
 * state is loaded (virtio-iommu, boot-bypass=off): where nothing is mapped yet
 * it is asked.
 */
void vfio_ioas_start_dynamic(VFIOIOASSection *section);
void vfio_ioas_stop_dynamic(VFIOIOASSection *section);
void vfio_ioas_retry_failed(VFIOIOAS *ioas);
void vfio_ioas_loaded(VFIOIOAS *ioas);

/**
 * vfio_ioas_pieces - the mappings of a dynamic section with bytes in
 * [@first, @last], in order; for g_array_unref()
 */
GArray *vfio_ioas_pieces(VFIOIOASSection *section, uint64_t first,
                         uint64_t last);

/**
 * vfio_ioas_dirty_start - RAM's dirty log was switched on
 * vfio_ioas_dirty_stop - it was switched off, or the IOAS goes; idempotent
 * vfio_ioas_dirty_commit - a transaction ends: tracking begins, if it has not,
 * before anything is mapped
 */
void vfio_ioas_dirty_start(VFIOIOAS *ioas);
void vfio_ioas_dirty_stop(VFIOIOAS *ioas);
void vfio_ioas_dirty_commit(VFIOIOAS *ioas);

/**
 * vfio_ioas_dirty_sync - tell RAM's dirty log what was written in a section
 *
 * And, for memory that is adjacent in the IOAS, in others.  Cannot fail: what
 * is not known counts as written.
 */
void vfio_ioas_dirty_sync(VFIOIOAS *ioas, uint64_t first, uint64_t last);

/**
 * vfio_ioas_dirty_unmap - the mappings in [@iova, @last] are about to go
 * @mapped: of VFIOMapRange, ascending, these mappings among them
 */
void vfio_ioas_dirty_unmap(VFIOIOAS *ioas, const GArray *mapped,
                           uint64_t iova, uint64_t last);

/**
 * vfio_ioas_dirty_remapped - memory was unmapped and is wanted still
 *
 * A mapping goes as a whole, also when only a part of it has to.  What a device
 * writes to the rest of it after the bits were read and before the unmap is in
 * no bitmap, so all of the rest counts as written.
 */
void vfio_ioas_dirty_remapped(VFIOIOAS *ioas, uint64_t vaddr, uint64_t size,
                              bool readonly);

#endif
