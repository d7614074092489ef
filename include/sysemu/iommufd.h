/*
 * The iommufd object: QEMU's handle on /dev/iommu
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One object owns one iommufd descriptor, whether it opened /dev/iommu
 * itself or was given a descriptor (fd=).  Everything else in QEMU borrows
 * it: VFIO devices bind to it and address spaces allocate IOASes in it.
 * All ioctls on the descriptor are issued by backends/iommufd.c and
 * iommufd-dirty.c, through the wrappers declared here; nobody else calls
 * ioctl() on it.
 *
 * Wrappers are silent: they return 0 or -errno, trace what happened and leave
 * reporting to the caller, who knows which device or which range it was about.
 * Only the one that frees, where no caller can do anything, warns itself.
 *
 * Source of all semantics: include/uapi/linux/iommufd.h and
 * Documentation/userspace-api/iommufd.rst of Linux 6.12.
 */

#ifndef SYSEMU_IOMMUFD_H
#define SYSEMU_IOMMUFD_H

#include "qapi/qapi-types-common.h"
#include "qapi/qapi-types-iommufd.h"
#include "qom/object.h"
#include "qemu/queue.h"

#define TYPE_IOMMUFD_BACKEND "iommufd"
OBJECT_DECLARE_SIMPLE_TYPE(IOMMUFDBackend, IOMMUFD_BACKEND)

/*
 * Who uses the object.  Embedded in the user; the object lists it from
 * iommufd_backend_get() to iommufd_backend_put().
 */
typedef struct IOMMUFDUser {
    char *name;                         /* as in "device 'hostdev0'" */
    QLIST_ENTRY(IOMMUFDUser) next;
} IOMMUFDUser;

/*
 * Who has something to say in query-iommufd.  Embedded in the reporter, who
 * lists and unlists it.  @fill adds to the lists of @info; it cannot fail.
 */
typedef struct IOMMUFDReport {
    void (*fill)(struct IOMMUFDReport *report, IommufdInfo *info);
    QLIST_ENTRY(IOMMUFDReport) next;
} IOMMUFDReport;

struct IOMMUFDBackend {
    Object parent_obj;

    char *fd_param;                     /* fd= as given, NULL if none */
    int fd;                             /* -1 until the object is complete */
    bool map_background;                /* map-background= */
    uint32_t map_threads;               /* map-threads=, 0: by the host */
    bool huge_pages;                    /* huge-pages= */
    OnOffAuto hw_info;                  /* has the kernel IOMMU_GET_HW_INFO? */
    OnOffAuto hwpt_alloc;               /* and IOMMU_HWPT_ALLOC? */
    OnOffAuto map_file;                 /* and IOMMU_IOAS_MAP_FILE? */
    QLIST_HEAD(, IOMMUFDUser) users;
    QLIST_HEAD(, IOMMUFDReport) reports;
};

/* An IOVA range that the IOMMU can translate; @last is inclusive. */
typedef struct IOMMUFDRange {
    uint64_t start;
    uint64_t last;
} IOMMUFDRange;

/**
 * iommufd_backend_get - start using the object
 * @name: who uses it, in words; copied
 *
 * Takes a reference on @be, so that it outlives the link property of the
 * device that named it, and enters @user in its list: while the list is not
 * empty object-del is refused and names one of them.
 */
void iommufd_backend_get(IOMMUFDBackend *be, IOMMUFDUser *user,
                         const char *name);

/**
 * iommufd_backend_put - the reverse of iommufd_backend_get(); cannot fail
 */
void iommufd_backend_put(IOMMUFDBackend *be, IOMMUFDUser *user);

/**
 * iommufd_visit_fd - visit the value of an fd= property
 * @fd: a string; on input replaced by a new one, and the old one freed
 *
 * On input a JSON number is taken as well as a string: people write both.
 */
bool iommufd_visit_fd(Visitor *v, const char *name, char **fd, Error **errp);

/**
 * iommufd_fd_name - what a descriptor is, in a message about a wrong one
 *
 * Returns the path behind it, or "not open"; for g_free().
 */
char *iommufd_fd_name(int fd);

/**
 * iommufd_backend_add_report - take part in query-iommufd; reversed by
 * QLIST_REMOVE(@report, next) before the reporter lets go of the object
 */
void iommufd_backend_add_report(IOMMUFDBackend *be, IOMMUFDReport *report);

/**
 * iommufd_backend_accounting - is locked memory counted per process?
 * @per_process: false means per user, the kernel's default
 *
 * IOMMU_OPTION_RLIMIT_MODE, Linux 6.2.  Changes nothing; only an iommufd
 * answers it.  Returns 0; -ENOTTY or another error for other descriptors.
 */
int iommufd_backend_accounting(IOMMUFDBackend *be, bool *per_process);

/**
 * iommufd_backend_destroy_id - free a kernel object (IOAS or HWPT)
 *
 * IOMMU_DESTROY, Linux 6.2.  Cannot fail for the caller: what the kernel
 * refuses (-EBUSY, still referenced) is reported once as a warning and stays
 * until the descriptor is closed.
 */
void iommufd_backend_destroy_id(IOMMUFDBackend *be, uint32_t id);

/**
 * iommufd_backend_alloc_ioas - allocate an IO address space
 * @ioas_id: the new object; the caller frees it with
 *           iommufd_backend_destroy_id()
 *
 * IOMMU_IOAS_ALLOC, Linux 6.2.  Returns 0, or -ENOMEM.
 */
int iommufd_backend_alloc_ioas(IOMMUFDBackend *be, uint32_t *ioas_id);

/**
 * iommufd_backend_iova_ranges - which IOVAs the IOAS can map now
 * @ranges: a newly allocated array in ascending order, for g_free()
 * @nr: how many
 * @alignment: in bytes; every map starts and ends at a multiple of it
 *
 * IOMMU_IOAS_IOVA_RANGES, Linux 6.2.  The answer changes whenever a device is
 * attached to or detached from the IOAS: ask again, store it nowhere else.
 * Returns 0; -ENOENT for a wrong id; -ENOMEM.
 */
int iommufd_backend_iova_ranges(IOMMUFDBackend *be, uint32_t ioas_id,
                                IOMMUFDRange **ranges, uint32_t *nr,
                                uint64_t *alignment);

/**
 * iommufd_backend_map_dma - map this process' memory at a fixed IOVA
 * @iova, @size: bytes, multiples of the IOAS' alignment
 * @vaddr: address in this process; the pages stay pinned until unmapped
 *
 * IOMMU_IOAS_MAP, Linux 6.2.  Returns 0, or -errno with nothing mapped:
 *   -EINVAL     misaligned, or in a range that the IOMMU reserves
 *   -EEXIST     overlaps a mapping
 *   -EOVERFLOW  wraps
 *   -EFAULT     not ordinary memory (a PCI BAR), or not accessible
 *   -ENOMEM     RLIMIT_MEMLOCK, or no memory
 */
int iommufd_backend_map_dma(IOMMUFDBackend *be, uint32_t ioas_id,
                            uint64_t iova, uint64_t size, void *vaddr,
                            bool readonly);

/**
 * iommufd_backend_map_shared - the same for memory that is a file's
 * @fd, @offset: @vaddr is a shared mapping of this file from here on
 *
 * IOMMU_IOAS_MAP_FILE, Linux 6.13, which pins the file's folios without a look
 * at the process; or iommufd_backend_map_dma() if the kernel does not have it
 * or refuses the file, both of which are remembered.  Not even tried for files
 * other than memfds and those of tmpfs and hugetlbfs: the kernel takes any,
 * but pins only these, and finds out at the attach of a device.
 * Returns as iommufd_backend_map_dma().
 */
int iommufd_backend_map_shared(IOMMUFDBackend *be, uint32_t ioas_id,
                               uint64_t iova, uint64_t size, void *vaddr,
                               int fd, uint64_t offset, bool readonly);

/**
 * iommufd_backend_map_file - map bytes of a file at a fixed IOVA
 * @fd, @offset: of a file that the kernel can pin, or of a dma-buf
 *
 * IOMMU_IOAS_MAP_FILE, Linux 6.13; dma-bufs of vfio-pci 6.19.  The mapping
 * keeps the file.  Returns as iommufd_backend_map_dma(), or
 *   -ENOTTY      an older kernel
 *   -ENODEV      the exporter of the dma-buf has revoked it
 *   -EOPNOTSUPP  not this kind of dma-buf
 */
int iommufd_backend_map_file(IOMMUFDBackend *be, uint32_t ioas_id,
                             uint64_t iova, uint64_t size, int fd,
                             uint64_t offset, bool readonly);

/**
 * iommufd_backend_copy_dma - map what another IOAS of this iommufd maps
 * @src_ioas_id, @src_iova: what is mapped there from here on, perhaps by
 *                          several adjacent mappings
 *
 * IOMMU_IOAS_COPY, Linux 6.2.  Both IOASes then share the pages: each is pinned
 * and accounted while one of them needs it, and once.  The new mappings cut
 * where those of the source do, and outlive them.  Returns 0, or -errno with
 * nothing mapped:
 *   -ENOENT     not all of the source is mapped, or a wrong id
 *   -EPERM      the source is mapped read-only, @readonly is false
 *   others      as iommufd_backend_map_dma(), about @iova
 */
int iommufd_backend_copy_dma(IOMMUFDBackend *be, uint32_t ioas_id,
                             uint64_t iova, uint64_t size, uint32_t src_ioas_id,
                             uint64_t src_iova, bool readonly);

/**
 * iommufd_backend_unmap_dma - drop every mapping inside [@iova, @last]
 * @last: inclusive; 0 to UINT64_MAX drops everything in the IOAS
 * @unmapped: bytes that were mapped there; untouched on failure
 *
 * IOMMU_IOAS_UNMAP, Linux 6.2.  Returns 0, or -errno with nothing unmapped:
 *   -ENOENT  nothing is mapped there, OR a mapping crosses an edge of the
 *            range and is kept.  A caller that knows what it mapped can tell
 *            these apart; the kernel does not.
 */
int iommufd_backend_unmap_dma(IOMMUFDBackend *be, uint32_t ioas_id,
                              uint64_t iova, uint64_t last,
                              uint64_t *unmapped);

/**
 * iommufd_backend_get_hw_info - what the IOMMU behind a device can do
 * @devid: from VFIO_DEVICE_BIND_IOMMUFD
 * @caps: enum iommufd_hw_capabilities
 *
 * IOMMU_GET_HW_INFO, Linux 6.6 (capabilities 6.7; zero before).  Returns 0;
 * -ENOTTY on an older kernel; -ENOENT or -EINVAL for an emulated (mdev)
 * device, which has no IOMMU; -EOPNOTSUPP.
 */
int iommufd_backend_get_hw_info(IOMMUFDBackend *be, uint32_t devid,
                                uint64_t *caps);

/**
 * iommufd_backend_alloc_hwpt - allocate a hardware page table over an IOAS
 * @flags: enum iommufd_hwpt_alloc_flags
 * @hwpt_id: the new object; the caller frees it with
 *           iommufd_backend_destroy_id() when no device is attached
 *
 * IOMMU_HWPT_ALLOC, Linux 6.6.  Everything that the IOAS maps is pinned and
 * mapped in it at once.  Returns 0; -ENOTTY on an older kernel; -EOPNOTSUPP
 * when the IOMMU driver cannot do what @flags ask; -ENOMEM (see map).
 */
int iommufd_backend_alloc_hwpt(IOMMUFDBackend *be, uint32_t devid,
                               uint32_t ioas_id, uint32_t flags,
                               uint32_t *hwpt_id);

/* iommufd-dirty.c */

/**
 * iommufd_backend_disable_huge_pages - translate by the host's smallest page
 *
 * IOMMU_OPTION_HUGE_PAGES, Linux 6.2.  For an IOAS that has no mappings yet.
 * Returns 0; -EINVAL if it has, and a page table, too; -ENOENT.
 */
int iommufd_backend_disable_huge_pages(IOMMUFDBackend *be, uint32_t ioas_id);

/**
 * iommufd_backend_set_dirty_tracking - begin or stop to log what devices write
 * @hwpt_id: allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING
 *
 * IOMMU_HWPT_SET_DIRTY_TRACKING, Linux 6.7.  What was logged before is
 * forgotten when it begins.  Returns 0; -EOPNOTSUPP if the page table cannot;
 * -ENOENT.
 */
int iommufd_backend_set_dirty_tracking(IOMMUFDBackend *be, uint32_t hwpt_id,
                                       bool on);

/**
 * iommufd_backend_get_dirty_bitmap - what devices wrote to since the last time
 * @iova, @size: adjacent whole mappings, every byte of it mapped
 * @page_size: one bit of @bits for each; the host's page size
 * @bits: for @size; bits of what was written are set, the others kept
 * @clear: forget what is reported; false before an unmap, which does it anyway
 *
 * IOMMU_HWPT_GET_DIRTY_BITMAP, Linux 6.7.  A range that is not wholly mapped is
 * reported in part, and a page table that does not track as clean, both without
 * an error.  Returns 0; -EINVAL if misaligned; -EOVERFLOW; -ENOMEM; -ENOENT.
 */
int iommufd_backend_get_dirty_bitmap(IOMMUFDBackend *be, uint32_t hwpt_id,
                                     uint64_t iova, uint64_t size,
                                     uint64_t page_size, unsigned long *bits,
                                     bool clear);

#endif
