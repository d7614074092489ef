/*
 * A fake of the kernel's iommufd and VFIO cdev interfaces, for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   fake-iommufd.c   what an iommufd does: objects and page tables
 *   fake-ioas.c      what is mapped in an IOAS
 *   fake-dmabuf.c    dma-bufs of a cdev's BAR
 *   fake-dirty.c     what devices have written
 *   fake-vfio-pci.c  what a VFIO cdev does, with a small PCI function behind
 *   fake-vfio-other.c  the same with a platform device or a subchannel behind
 *   fake-vfio-mig.c  migration protocol v2 of a device
 *   fake-kernel.c    descriptors; control, log, leak report
 *   fake-libc.c      the calls of the process that all this is linked to, or
 *                    preloaded into
 *
 * It is strict where the kernel is: sizes, flags, reserved fields, alignment,
 * overlap, splits, kinds of ids and lifetimes are those of Linux 6.12.  What
 * it does not model (allowed IOVAs, nesting, faults)
 * answers ENOTTY like an unknown ioctl; it never pretends.
 *
 * Control: lines of text, from the file named by FAKE_KERNEL_CONTROL (read
 * again whenever it changes) or from fake_kernel_control().  Each time all of
 * it is replaced and all counters start again.
 *
 *   devices N            vfio0 to vfioN-1 have a node (default 2)
 *   memlock BYTES        limit of pinned memory; 0 is none
 *   aperture-last IOVA   the last IOVA that the IOMMU translates
 *   hole N IOVA LAST     reserved, too, while device N is attached; may repeat
 *   no NAME              the ioctl does not exist (ENOTTY)
 *   dirty 0|1            the IOMMU can track writes
 *   map-file 1           Linux 6.13: IOMMU_IOAS_MAP_FILE exists
 *   dma-buf 1            Linux 6.19: a BAR can be mapped, by a dma-buf of it
 *   mdev N               device N is emulated
 *   platform N, ccw N    device N is no PCI device
 *   alone N              device N cannot use another device's page table
 *   group-open N         the VFIO group of device N is open
 *   unsafe N             no interrupt isolation for device N
 *   no-reset N           device N has no reset of its own
 *   ethernet N           device N is of that class
 *   slow N               BIND of device N takes 300 ms
 *   power N              device N has D3hot, and FLR by the AF capability
 *   vf-token N HEX       Linux 6.17, and device N wants this token (32 digits)
 *   shared-bus N DEVID   a hot reset of device N hits another function, too
 *   dma-log N MAX        device N logs its writes, in at most MAX ranges
 *   dma-log-fails N FEATURE ERRNO   the one of VFIO_DEVICE_FEATURE_DMA_LOGGING_
 *   write N IOVA LENGTH  once: device N writes to memory
 *   migration N FLAGS    device N migrates by protocol v2 (VFIO_MIGRATION_*)
 *   arc N FROM TO ERRNO END [TIMES]  setting state TO in FROM fails, and leaves
 *                        it in END; these are numbers; TIMES: not for ever
 *   read-error N ERRNO   the state of device N cannot be read in STOP_COPY;
 *                        with ENODEV it is reset, too
 *   open PATH ERRNO      open of PATH fails
 *   fail NAME NTH ERRNO  the NTH ioctl called NAME (* for any) fails
 *   serial TEXT          nothing; makes the same control a new one
 *
 * Log: the file named by FAKE_KERNEL_LOG; one line per ioctl, and one for each
 * descriptor that is opened or gone, the latter with what it left behind.  A
 * failure that the control asked for is marked "injected".
 */

#ifndef TESTS_QTEST_FAKE_IOMMUFD_H
#define TESTS_QTEST_FAKE_IOMMUFD_H

#define FAKE_MAX_DEVICES    8
#define FAKE_MAX_HOLES      24
#define FAKE_MAX_RESERVED   (FAKE_MAX_DEVICES * FAKE_MAX_HOLES + 2)
#define FAKE_IOMMU_PATH     "/dev/iommu"
#define FAKE_CDEV_PATH      "/dev/vfio/devices/vfio"
#define FAKE_IOMMU_MAJOR    10
#define FAKE_IOMMU_MINOR    127
#define FAKE_CDEV_MAJOR     511

/* Names of the files that stand behind the descriptors; see fake-kernel.c */
#define FAKE_IOMMU_MEMFD    "fake-iommu"
#define FAKE_CDEV_MEMFD     "fake-vfio"

typedef struct FakeIommufd FakeIommufd;
typedef struct FakeCdev FakeCdev;
typedef struct FakeMig FakeMig;

typedef struct FakeRange {
    uint64_t start, last;
} FakeRange;

typedef struct FakeDeviceControl {
    bool mdev, alone, group_open, unsafe, no_reset, power, slow, ethernet;
    bool platform, ccw;                 /* neither: PCI */
    unsigned dma_log;                   /* ranges; 0: it does not */
    uint32_t dma_log_fails, dma_log_error;
    char vf_token[33];                  /* wanted, in hex; "": Linux 6.12 */
    uint32_t migration;                 /* VFIO_MIGRATION_*; 0: none */
    unsigned arc_from, arc_to, arc_end, arc_times;
    int arc_error, read_error;
    int32_t shared_bus;                 /* devid of the other function, or 0 */
    unsigned holes;
    FakeRange hole[FAKE_MAX_HOLES];
} FakeDeviceControl;

typedef struct FakeControl {
    unsigned devices;
    uint64_t memlock;
    uint64_t aperture_last;
    bool dirty, map_file, dma_buf;
    FakeDeviceControl device[FAKE_MAX_DEVICES];
} FakeControl;

/* What the kernel holds for the process */
typedef struct FakeCounts {
    unsigned iommufds, cdevs, bound, ioas, hwpts, areas;
    uint64_t mapped, pinned;            /* bytes */
} FakeCounts;

/* fake-kernel.c; those that stand for a call set errno as it does */
#define FAKE_NOT_OURS (-2)
extern FakeControl fake_control;
void fake_kernel_control(const char *text);
FakeCounts fake_kernel_counts(void);
void fake_log(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
FakeIommufd *fake_kernel_iommufd(int fd);
void fake_kernel_revoke(unsigned index);
unsigned long fake_kernel_ioctls(void);
const char *fake_kernel_ioctl_name(unsigned long request);
bool fake_kernel_is_node(const char *path, unsigned *minor);
bool fake_kernel_owns(int fd, bool *is_iommu, unsigned *index);
bool fake_kernel_owns_link(const char *path, bool *is_iommu, unsigned *index);
int fake_kernel_open(const char *path, int flags);
int fake_kernel_close(int fd);
int fake_kernel_ioctl(int fd, unsigned long request, void *arg);
ssize_t fake_kernel_rw(int fd, void *buf, size_t size, uint64_t offset,
                       bool write);
void *fake_kernel_mmap(void *addr, size_t size, int prot, int flags, int fd,
                       uint64_t offset);

/* All of these return 0 or -errno.  fake-iommufd.c: */
FakeIommufd *fake_iommufd_new(void);
void fake_iommufd_get(FakeIommufd *ictx);
void fake_iommufd_put(FakeIommufd *ictx);
int fake_iommufd_ioctl(FakeIommufd *ictx, unsigned long request, void *arg);
int fake_iommufd_bind(FakeIommufd *ictx, unsigned index, uint32_t *devid);
void fake_iommufd_unbind(FakeIommufd *ictx, uint32_t devid);
int fake_iommufd_attach(FakeIommufd *ictx, uint32_t devid, uint32_t *pt_id);
void fake_iommufd_detach(FakeIommufd *ictx, uint32_t devid);
unsigned fake_iommufd_revoke(FakeIommufd *ictx, unsigned index);
void fake_iommufd_dma_write(FakeIommufd *ictx, uint32_t devid, uint64_t iova,
                            uint64_t length);
void fake_iommufd_count(const FakeIommufd *ictx, FakeCounts *counts);

/* Between fake-iommufd.c and fake-ioas.c */
typedef enum FakeKind {
    FAKE_FREE, FAKE_IOAS, FAKE_HWPT, FAKE_DEVICE, FAKE_ACCESS
} FakeKind;

typedef struct FakeArea {
    uint64_t iova, last, va;
    unsigned pages;             /* areas that were copied share these */
    bool writable;              /* as the pages are, not this area */
    bool file, pinnable;        /* by file: can the kernel pin it? */
    int dmabuf;                 /* 1 + the device whose BAR it is, or 0 */
    bool revoked;
} FakeArea;
typedef struct FakeObject {
    FakeKind kind;
    unsigned users;
    /* IOAS */
    GArray *areas;
    unsigned domains;
    bool no_huge_pages;
    /* HWPT */
    uint32_t ioas;
    bool automatic;
    bool can_track, tracking;
    GArray *written;            /* entries, see fake-dirty.c */
    unsigned maker;             /* the device that it was made for */
    /* DEVICE, ACCESS */
    unsigned index;
    uint32_t attached;          /* HWPT, or IOAS for ACCESS */
} FakeObject;

typedef struct FakeDmaLog FakeDmaLog;

struct iommu_hwpt_set_dirty_tracking;
struct iommu_hwpt_get_dirty_bitmap;
struct vfio_device_feature;
struct iommu_ioas_iova_ranges;
struct iommu_ioas_map;
struct iommu_ioas_map_file;
struct iommu_ioas_copy;
struct iommu_ioas_unmap;

void fake_ioas_init(FakeObject *ioas);
void fake_ioas_free(FakeObject *ioas);
uint64_t fake_ioas_bytes(const FakeObject *ioas);
const FakeArea *fake_ioas_area(const FakeObject *ioas, uint64_t iova);
bool fake_ioas_overlaps(const FakeObject *ioas, uint64_t iova, uint64_t last);
int fake_ioas_add_domain(FakeObject *ioas);
void fake_ioas_del_domain(FakeObject *ioas);
int fake_ioas_ranges(const FakeObject *ioas, const FakeRange *r, unsigned n,
                     struct iommu_ioas_iova_ranges *cmd);
int fake_ioas_map(FakeObject *ioas, const FakeRange *r, unsigned n,
                  struct iommu_ioas_map *cmd);
int fake_ioas_map_file(FakeObject *ioas, const FakeRange *r, unsigned n,
                       struct iommu_ioas_map_file *cmd);
int fake_ioas_copy(FakeObject *ioas, const FakeObject *src, const FakeRange *r,
                   unsigned n, struct iommu_ioas_copy *cmd);
uint64_t fake_ioas_pinned(void);
int fake_ioas_unmap(FakeObject *ioas, struct iommu_ioas_unmap *cmd);
unsigned fake_ioas_revoke(FakeObject *ioas, unsigned index);

/* fake-dmabuf.c: the device of a descriptor, or -1 */
int fake_dmabuf_device(int fd);
int fake_dmabuf_new(unsigned index, uint64_t bar_size, void *arg);

/* fake-dirty.c */
void fake_dirty_init(FakeObject *hwpt, bool can_track);
void fake_dirty_write(FakeObject *hwpt, const FakeObject *ioas, uint64_t iova,
                      uint64_t length);
void fake_dirty_unmap(FakeObject *hwpt, uint64_t iova, uint64_t last);
int fake_dirty_set(FakeObject *hwpt,
                   struct iommu_hwpt_set_dirty_tracking *cmd);
int fake_dirty_get(FakeObject *hwpt, const FakeObject *ioas,
                   struct iommu_hwpt_get_dirty_bitmap *cmd);
void fake_dma_log_free(FakeDmaLog *log);
void fake_dma_log_write(FakeDmaLog *log, uint64_t iova, uint64_t length);
int fake_dma_log_feature(FakeDmaLog **log, const FakeDeviceControl *d,
                         struct vfio_device_feature *feature);

/* fake-vfio-pci.c */
void fake_cdev_dma_write(unsigned index, uint64_t iova, uint64_t length);
FakeCdev *fake_cdev_new(unsigned index, int backing);
void fake_cdev_free(FakeCdev *cdev);
bool fake_cdev_bound(const FakeCdev *cdev);
bool fake_cdev_has_memory(unsigned index);
int fake_cdev_ioctl(FakeCdev *cdev, unsigned long request, void *arg);
ssize_t fake_cdev_rw(FakeCdev *cdev, void *buf, size_t size, uint64_t offset,
                     bool write);
int fake_cdev_mmap(FakeCdev *cdev, uint64_t offset, size_t size,
                   uint64_t *backing_offset);

/* fake-vfio-mig.c; those that stand for a call return -errno */
#define FAKE_MIG_PAGES  255
struct vfio_device_feature;
FakeMig *fake_mig_new(unsigned index, int backing);
void fake_mig_free(FakeMig *m);
void fake_mig_reset(FakeMig *m);
int fake_mig_feature(FakeMig *m, struct vfio_device_feature *feature);
bool fake_mig_owns(int fd);
void fake_mig_close(int fd);
ssize_t fake_mig_read(int fd, void *buf, size_t size);
ssize_t fake_mig_write(int fd, const void *buf, size_t size);
int fake_mig_ioctl(int fd, unsigned long request, void *arg);

/* fake-vfio-other.c: what a bound platform or ccw device answers */
int fake_other_ioctl(bool ccw, unsigned long request, void *arg);

#endif
