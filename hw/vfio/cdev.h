/*
 * Device side of VFIO over iommufd: the VFIO character device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   cdev.c           open, tell KVM, bind, attach, and back; system reset
 *   cdev-early.c     bind before the machine is made
 *   cdev-identify.c  which node belongs to a device, and why there is none
 *   cdev-dirty.c     who tracks what the device writes
 *   cdev-gate.c      PCI: no DMA before the guest enables bus mastering
 *   cdev-intx.c      PCI: INTx by KVM, in few calls (cdev-intx.h)
 *   cdev-power.c     PCI: BARs that the kernel revokes behind the memory map
 *   cdev-reset.c     PCI hot reset by devid (declared in pci.h)
 *   cdev-query.c     what query-iommufd tells of a device
 *
 * The device side knows the VFIO device, sysfs and KVM.  It does not know
 * memory or IOVAs: that is ioas.h, which it calls.
 */

#ifndef HW_VFIO_CDEV_H
#define HW_VFIO_CDEV_H

#include "hw/qdev-properties.h"
#include "hw/vfio/vfio-common.h"
#include "ioas.h"

typedef struct VFIOHeldWrite VFIOHeldWrite;

/*
 * One device attached through its cdev.  Exists from a successful
 * vfio_cdev_attach() to vfio_cdev_detach(); VFIODevice.cdev points to it
 * meanwhile, and VFIODevice.fd is the descriptor it owns.
 */
typedef struct VFIOCdev {
    VFIODevice *vbasedev;
    char *name;                 /* VFIODevice.name is freed before us */
    dev_t rdev;                 /* of the node: what the device is known by */
    IOMMUFDBackend *be;
    IOMMUFDUser user;
    int fd;
    bool in_kvm;                /* KVM's VFIO device holds the descriptor */
    uint32_t devid;             /* in @be; valid while bound */
    bool mdev;                  /* emulated: no IOMMU of its own */
    VFIOIOAS *ioas;
    VFIOHWPT *hwpt;             /* NULL: attached to the IOAS itself */
    VFIOWriter writer;          /* listed in @ioas while @attached */
    bool attached;
    bool fresh;                 /* the kernel has reset it, and nothing since */
    bool open;                  /* it can reach memory: counts in the IOAS */
    QLIST_HEAD(, VFIOHeldWrite) held;   /* to be made when RAM is ready */
    bool discard_disabled;      /* we count in ram_block_discard_disable */
    bool passed;                /* the descriptor came by fd= */
    char *node;
    char *sysfsdev;
    IOMMUFDReport report;
    QLIST_ENTRY(VFIOCdev) next;
} VFIOCdev;

typedef QLIST_HEAD(VFIOCdevList, VFIOCdev) VFIOCdevList;

/* All attached cdevs of this QEMU, whatever their iommufd object */
extern VFIOCdevList vfio_cdevs;

/**
 * vfio_cdev_attach - make @vbasedev usable through its cdev
 * @vbasedev: with sysfsdev, name, dev, ops, type and iommufd set, and what
 *            vfio_cdev_take_fd() left there
 * @as: the address space that its DMA goes through
 *
 * Opens the node unless a descriptor was passed, tells KVM, binds to the
 * iommufd, attaches to the IOAS of @as and maps the guest's memory there if
 * nobody did.  On success fd, num_regions, num_irqs, flags, reset_works and
 * cdev of @vbasedev are set.
 *
 * On failure returns false with one line in @errp that says what is wrong and
 * what to do; everything is undone, and fd and cdev of @vbasedev are unset.
 */
bool vfio_cdev_attach(VFIODevice *vbasedev, AddressSpace *as, Error **errp);

/**
 * vfio_cdev_realize - the same for devices that are not PCI
 * @vbasedev: as above; name is set from sysfsdev if it is unset
 *
 * Takes the descriptor that fd= names, if any, checks sysfsdev and attaches to
 * system memory.  On failure messages begin with "vfio NAME: " and nothing is
 * left, name included.
 */
bool vfio_cdev_realize(VFIODevice *vbasedev, Error **errp);

/**
 * vfio_cdev_detach - the reverse; cannot fail, and does nothing when
 * @vbasedev has no cdev (realize may fail before the attach)
 */
void vfio_cdev_detach(VFIODevice *vbasedev);

/**
 * vfio_cdev_fresh - can the reset that is due be left out?
 *
 * True until the first reset of a device that is not an mdev is over: at BIND
 * the kernel resets a device that says VFIO_DEVICE_FLAGS_RESET (vfio-pci does
 * so whenever a device is opened), a function level reset takes 100 ms, and the
 * first reset of the machine, or of a device that was plugged, comes before
 * any guest could reach it.
 */
bool vfio_cdev_fresh(VFIODevice *vbasedev);

/**
 * vfio_cdev_was_reset - the device has been reset, in whatever way
 */
void vfio_cdev_was_reset(VFIODevice *vbasedev);

/**
 * vfio_cdev_region_room - how many bytes of capabilities to ask for at once
 *
 * With VFIO_DEVICE_GET_REGION_INFO.
 *
 * 0 without a cdev, and for an mdev, whose driver may refuse what is too large.
 */
size_t vfio_cdev_region_room(VFIODevice *vbasedev);

/* A property fd= of a device, as char * */
extern const PropertyInfo vfio_cdev_prop_fd;

/* iommufd= and fd= of a device that has a VFIODevice as @_f */
#define VFIO_CDEV_PROP_IOMMUFD(_s, _f) \
    DEFINE_PROP_LINK("iommufd", _s, _f.iommufd, TYPE_IOMMUFD_BACKEND, \
                     IOMMUFDBackend *)
#define VFIO_CDEV_PROP_FD(_s, _f) \
    DEFINE_PROP("fd", _s, _f.fd_param, vfio_cdev_prop_fd, char *)

/**
 * vfio_cdev_class_init - add the read-only properties that say how a device is
 * attached: iommufd-devid, iommufd-ioas, iommufd-origin
 */
void vfio_cdev_class_init(ObjectClass *klass);

/**
 * vfio_cdev_find - the attached cdev with this devid in this iommufd, or NULL
 */
VFIOCdev *vfio_cdev_find(IOMMUFDBackend *be, uint32_t devid);

/**
 * vfio_cdev_hot_reset_info - which functions a hot reset of the device affects
 * @ret: 0 or -errno
 *
 * VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, with devids (Linux 6.6).  Returns the
 * kernel's list for g_free(), or NULL if there is no hot reset.
 */
struct vfio_pci_hot_reset_info *vfio_cdev_hot_reset_info(VFIOCdev *cdev,
                                                         int *ret);

/**
 * vfio_cdev_fill_report - what query-iommufd tells of a device (cdev-query.c)
 */
void vfio_cdev_fill_report(IOMMUFDReport *report, IommufdInfo *info);

/* cdev-dirty.c */

/**
 * vfio_cdev_dirty_by - who will tell which guest memory the device has written
 *
 * Known when the device is attached, and the same until it is detached.  With
 * VFIO_DIRTY_BY_NONE tracking works, but nobody knows: all memory that the
 * device can write counts as written at each sync of RAM's dirty log, so it is
 * sent again and again until the device is stopped.
 */
VFIODirtyBy vfio_cdev_dirty_by(const VFIOCdev *cdev);

/**
 * vfio_cdev_add_writer - the device was attached: have its writes tracked
 */
void vfio_cdev_add_writer(VFIOCdev *cdev);

/**
 * vfio_cdev_bind_fd - VFIO_DEVICE_BIND_IOMMUFD
 * @token: of a VF, or NULL
 * @devid: what the device is called in @be from then on
 *
 * Returns 0 or -errno, which vfio_cdev_attach() puts into words.  The kernel
 * resets a PCI device meanwhile: 100 ms and more.  Without the BQL, too.
 */
int vfio_cdev_bind_fd(int fd, IOMMUFDBackend *be, const QemuUUID *token,
                      uint32_t *devid);

/* cdev-early.c */

/**
 * vfio_early_take - was the device bound early?
 * @cdev: with rdev, be and vbasedev set
 * @ret: 0 or -errno of BIND
 *
 * If so waits for that, if need be, sets fd, in_kvm and devid of @cdev, which
 * owns them from then on, and returns true.
 */
bool vfio_early_take(VFIOCdev *cdev, int *ret);

/**
 * vfio_early_settle - wait until no device of its IOMMU group is being bound
 *
 * Before it is attached.
 */
void vfio_early_settle(const char *sysfsdev);

/* cdev-gate.c */

/**
 * vfio_cdev_gate - a write to the config space of a PCI device is to be made
 *
 * Returns true if it is to be made now.  False if it was kept, because it lets
 * the device reach memory that is not mapped yet: it is made later, through
 * pdev->config_write, and the vCPU it came from does not run before.
 */
bool vfio_cdev_gate(PCIDevice *pdev, VFIODevice *vbasedev,
                    uint32_t addr, uint32_t val, int len);

/**
 * vfio_cdev_reaches_ram - has no map of guest RAM failed?
 * vfio_cdev_loaded - the same of a device that was loaded, behind an IOMMU that
 * was loaded: what that one maps is mapped first
 *
 * False: the device must not run.  The VM is stopped, or is being, or has not
 * started yet; `cont` tries again.  True of a device that has no cdev.
 */
bool vfio_cdev_reaches_ram(VFIODevice *vbasedev);
bool vfio_cdev_loaded(VFIODevice *vbasedev);

/**
 * vfio_cdev_show_held - let config space have what is kept of its command
 *
 * For who saves it: the vCPU is behind the instruction already, and nobody
 * makes the write where the state is loaded.  Returns what the register had,
 * for vfio_cdev_hide_held(); nothing may look at the device in between.
 */
uint16_t vfio_cdev_show_held(VFIODevice *vbasedev);
void vfio_cdev_hide_held(VFIODevice *vbasedev, uint16_t command);

/**
 * vfio_cdev_unrealize - the PCI device is being taken apart
 *
 * Writes that wait are dropped: config_write is not to be called any more.  The
 * device itself is detached later, when it is finalized.
 */
void vfio_cdev_unrealize(VFIODevice *vbasedev);

/**
 * vfio_cdev_open_gate - the device can reach memory; waits until it is mapped
 * vfio_cdev_close_gate - it cannot, or is going away; drops writes that wait
 */
void vfio_cdev_open_gate(VFIOCdev *cdev);
void vfio_cdev_close_gate(VFIOCdev *cdev);

/* cdev-power.c */

/**
 * vfio_cdev_config_written - the kernel was told of a write to config space
 *
 * For any VFIO PCI device, also one that is used by its group: others may
 * reach its BARs.
 */
void vfio_cdev_config_written(PCIDevice *pdev, uint32_t addr, uint32_t val,
                              int len);

/* cdev-identify.c */

/* A descriptor given by fd= */
typedef struct VFIOPassedFD {
    int fd;
    bool ours;                  /* to be closed if nothing comes of it */
} VFIOPassedFD;

/**
 * vfio_cdev_link - the base name of what the link @sysfsdev/@link leads to
 *
 * For g_free(); NULL if there is no such link.
 */
char *vfio_cdev_link(const char *sysfsdev, const char *link);

/**
 * vfio_cdev_sysfsdev - the sysfs path of the device behind a cdev descriptor
 *
 * Returns NULL if @fd is not a VFIO cdev.  For g_free().
 */
char *vfio_cdev_sysfsdev(int fd);

/**
 * vfio_cdev_take_fd - fetch the descriptor that fd= names, if it is given
 * @named: host= is given, so that sysfsdev will be set from it
 *
 * Checks what the descriptor is and keeps it in @vbasedev until
 * vfio_cdev_attach() uses it.  If neither host= nor sysfsdev= is given,
 * sysfsdev is set from it.  A name given by getfd is used up in any case.  An
 * inherited descriptor stays its owner's, open, until it is bound; from then
 * on it is closed even if the attach fails later, since only close() unbinds.
 *
 * Returns true without fd=, or if it was fetched already; false with @errp set
 * if it is no VFIO cdev.
 */
bool vfio_cdev_take_fd(VFIODevice *vbasedev, bool named, Error **errp);

/**
 * vfio_cdev_drop_fd - let go of a descriptor that no attach has used
 */
void vfio_cdev_drop_fd(VFIODevice *vbasedev);

/**
 * vfio_cdev_node - which node drives the device at this sysfs path
 * @sysfsdev: /sys/bus/pci/devices/BDF, /sys/bus/mdev/devices/UUID, ...
 * @rdev: major and minor that sysfs has for it
 *
 * Returns the node's path, for g_free(), or NULL with @errp telling which of
 * these it is: no driver bound, not a vfio driver, no IOMMU, noiommu mode,
 * kernel without cdevs.  Source: /sys/.../vfio-dev/vfioN/dev, Linux 6.6.
 */
char *vfio_cdev_node(const char *sysfsdev, dev_t *rdev, Error **errp);

/**
 * vfio_cdev_is_mdev - is the device at this sysfs path an emulated one?
 */
bool vfio_cdev_is_mdev(const char *sysfsdev);

/**
 * vfio_cdev_open - open the node; -1 with @errp set
 */
int vfio_cdev_open(const char *node, dev_t rdev, Error **errp);

/**
 * vfio_cdev_hint_no_groups - a group's node could not be opened: add a hint if
 * this kernel has cdevs and no groups
 * @errp: what is set and may be given to a user; else nothing is done
 *
 * Without CONFIG_VFIO_GROUP there is /sys/class/vfio-dev and no
 * /sys/class/vfio.
 */
void vfio_cdev_hint_no_groups(Error **errp);

/**
 * vfio_cdev_explain_open - which other process has the cdev open
 *
 * Returns a phrase for an error message, for g_free(); NULL if there is none,
 * or none that this process may see.
 */
char *vfio_cdev_explain_open(dev_t rdev);

/**
 * vfio_cdev_explain_busy - who keeps the device's group
 *
 * Returns a phrase for an error message, for g_free(): a process that has the
 * group open, or another device of the IOMMU group that a host driver uses, or
 * what else it can be.
 */
char *vfio_cdev_explain_busy(const char *sysfsdev, dev_t rdev);

/**
 * vfio_cdev_explain_eperm - why the device must not be bound
 *
 * Returns a phrase for an error message, for g_free().  Linux 6.2 on: its IOMMU
 * group belongs to another iommufd, or the IOMMU does not isolate interrupts.
 */
char *vfio_cdev_explain_eperm(const char *sysfsdev, dev_t rdev);

/**
 * vfio_cdev_explain_attach - why the device does not go with a page table
 * @cdev: with sysfsdev, be and ioas set
 *
 * Returns a phrase for an error message, for g_free(): the devices of an IOMMU
 * group share a page table, but a guest IOMMU gave them different address
 * spaces; or nothing that could be told from here.
 */
char *vfio_cdev_explain_attach(const VFIOCdev *cdev);

#endif
