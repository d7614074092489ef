/*
 * A fake of the kernel's VFIO cdev interface, with a PCI function behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model of drivers/vfio/device_cdev.c and vfio_pci_core.c of Linux 6.12.
 * A cdev answers EINVAL to everything until it is bound; a device can be bound
 * through one descriptor at a time; the end of the descriptor detaches and
 * unbinds.
 *
 * The function is like QEMU's edu device: 1234:11e8, BAR 0 with 1 MiB of
 * memory that can be mapped, INTx, one MSI vector.  BAR 0 is backed by the
 * file behind the descriptor, so that a mapping of it looks to the process as
 * one of the device does.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/vfio.h>
#include <linux/pci_regs.h>

#include "qemu/host-utils.h"
#include "../../hw/vfio/cdev-uapi.h"
#include "fake-iommufd.h"

#define BAR0_SIZE       (1024 * 1024)
#define CONFIG_SIZE     256
#define INDEX_SHIFT     40
#define MSI_CAP         0x40
#define PM_CAP          0x60            /* the control has "power" */
#define AF_CAP          0x70
#define NO_IRQ          UINT32_MAX

struct FakeCdev {
    unsigned index;
    int backing;                /* borrowed */
    FakeIommufd *ictx;          /* NULL until bound */
    uint32_t devid;
    bool attached;
    FakeDmaLog *log;            /* NULL: off */
    uint32_t irq_type;          /* what delivers interrupts now, or NO_IRQ */
    FakeMig *mig;
    uint8_t config[CONFIG_SIZE];
};

static FakeCdev *bound[FAKE_MAX_DEVICES];

static const struct {
    uint64_t size;
    uint32_t flags;
} regions[VFIO_PCI_NUM_REGIONS] = {
    [VFIO_PCI_BAR0_REGION_INDEX] = {
        BAR0_SIZE, VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
                   VFIO_REGION_INFO_FLAG_MMAP
    },
    [VFIO_PCI_CONFIG_REGION_INDEX] = {
        CONFIG_SIZE, VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
    },
};

static const struct {
    uint32_t count, flags;
} irqs[VFIO_PCI_NUM_IRQS] = {
    [VFIO_PCI_INTX_IRQ_INDEX] = {
        1, VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE |
           VFIO_IRQ_INFO_AUTOMASKED
    },
    [VFIO_PCI_MSI_IRQ_INDEX] = {
        1, VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE
    },
    [VFIO_PCI_MSIX_IRQ_INDEX] = {
        0, VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE
    },
    [VFIO_PCI_REQ_IRQ_INDEX] = {
        1, VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE
    },
};

static void put_le(uint8_t *at, unsigned bytes, uint32_t value)
{
    for (; bytes--; value >>= 8) {
        *at++ = value;
    }
}

static void reset_config(FakeCdev *cdev)
{
    uint8_t *c = cdev->config;

    memset(c, 0, CONFIG_SIZE);
    put_le(c + PCI_VENDOR_ID, 2, 0x1234);
    put_le(c + PCI_DEVICE_ID, 2, 0x11e8);
    put_le(c + PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
    put_le(c + PCI_CLASS_REVISION, 4,
           fake_control.device[cdev->index].ethernet ? 0x02000010
                                                     : 0x00ff0010);
    c[PCI_CAPABILITY_LIST] = MSI_CAP;
    c[PCI_INTERRUPT_PIN] = 1;
    put_le(c + PCI_BASE_ADDRESS_0, 4, 0xfea00000);
    c[MSI_CAP] = PCI_CAP_ID_MSI;
    put_le(c + MSI_CAP + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_64BIT);
    if (fake_control.device[cdev->index].power) {
        c[MSI_CAP + PCI_CAP_LIST_NEXT] = PM_CAP;
        c[PM_CAP] = PCI_CAP_ID_PM;
        c[PM_CAP + PCI_CAP_LIST_NEXT] = AF_CAP;
        put_le(c + PM_CAP + PCI_PM_CTRL, 2, PCI_PM_CTRL_NO_SOFT_RESET);
        c[AF_CAP] = PCI_CAP_ID_AF;
        c[AF_CAP + 2] = 6;
        c[AF_CAP + PCI_AF_CAP] = PCI_AF_CAP_TP | PCI_AF_CAP_FLR;
    }
}

/* Does it decode memory, awake? */
static bool has_memory(const FakeCdev *cdev)
{
    return cdev->config[PCI_COMMAND] & PCI_COMMAND_MEMORY &&
           !(fake_control.device[cdev->index].power &&
             (cdev->config[PM_CAP + PCI_PM_CTRL] &
              PCI_PM_CTRL_STATE_MASK) == 3);
}

bool fake_cdev_has_memory(unsigned index)
{
    return bound[index] && has_memory(bound[index]);
}

/* The kernel restores what the device had */
static void reset_device(FakeCdev *cdev)
{
    uint8_t header[PCI_STD_HEADER_SIZEOF];

    fake_kernel_revoke(cdev->index);
    memcpy(header, cdev->config, sizeof(header));
    reset_config(cdev);
    memcpy(cdev->config, header, sizeof(header));
}

FakeCdev *fake_cdev_new(unsigned index, int backing)
{
    FakeCdev *cdev = g_new0(FakeCdev, 1);

    cdev->index = index;
    cdev->backing = backing;
    cdev->irq_type = NO_IRQ;
    cdev->mig = fake_mig_new(index, backing);
    reset_config(cdev);
    return cdev;
}

bool fake_cdev_bound(const FakeCdev *cdev)
{
    return cdev->ictx;
}

void fake_cdev_free(FakeCdev *cdev)
{
    if (cdev->ictx) {
        bound[cdev->index] = NULL;
        fake_kernel_revoke(cdev->index);
        fake_iommufd_unbind(cdev->ictx, cdev->devid);
    }
    fake_dma_log_free(cdev->log);
    fake_mig_free(cdev->mig);
    g_free(cdev);
}

/* Bind, attach, detach */

/* As Linux 6.17: a flag, a longer structure, 16 bytes at a pointer in it */
static int check_token(const char *wanted,
                       const struct vfio_device_bind_iommufd *bind)
{
    char given[33] = "";
    uint64_t at;
    size_t i;

    if (bind->flags) {
        if (bind->argsz < sizeof(*bind) + sizeof(at)) {
            return -EINVAL;
        }
        memcpy(&at, bind + 1, sizeof(at));
        for (i = 0; i < 16; i++) {
            snprintf(given + 2 * i, 3, "%02x", ((uint8_t *)(uintptr_t)at)[i]);
        }
    }
    return strcmp(given, wanted) ? -EACCES : 0;
}

static int do_bind(FakeCdev *cdev, void *arg)
{
    const char *token = fake_control.device[cdev->index].vf_token;
    struct vfio_device_bind_iommufd *bind = arg;
    FakeIommufd *ictx;
    int ret;

    if (bind->argsz < sizeof(*bind) || bind->flags & ~(token[0] ? 1u : 0u) ||
        bind->iommufd < 0) {
        return -EINVAL;
    }
    ret = token[0] ? check_token(token, bind) : 0;
    if (ret) {
        return ret;
    }
    if (fake_control.device[cdev->index].group_open) {
        return -EBUSY;
    }
    if (cdev->ictx) {
        return -EINVAL;
    }
    if (fcntl(bind->iommufd, F_GETFD) < 0) {
        return -EBADF;
    }
    ictx = fake_kernel_iommufd(bind->iommufd);
    if (!ictx) {
        return -EBADFD;
    }
    if (bound[cdev->index]) {
        return -EINVAL;
    }
    ret = fake_iommufd_bind(ictx, cdev->index, &cdev->devid);
    if (ret) {
        return ret;
    }
    cdev->ictx = ictx;
    bound[cdev->index] = cdev;
    bind->out_devid = cdev->devid;
    return 0;
}

static int do_attach(FakeCdev *cdev, void *arg)
{
    struct vfio_device_attach_iommufd_pt *attach = arg;
    int ret;

    if (attach->argsz < sizeof(*attach) || attach->flags) {
        return -EINVAL;
    }
    ret = fake_iommufd_attach(cdev->ictx, cdev->devid, &attach->pt_id);
    cdev->attached |= !ret;
    return ret;
}

static int do_detach(FakeCdev *cdev, void *arg)
{
    struct vfio_device_detach_iommufd_pt *detach = arg;

    if (detach->argsz < sizeof(*detach) || detach->flags) {
        return -EINVAL;
    }
    if (cdev->attached) {
        cdev->attached = false;
        fake_iommufd_detach(cdev->ictx, cdev->devid);
    }
    return 0;
}

/* What the device is */

static int do_get_info(FakeCdev *cdev, void *arg)
{
    struct vfio_device_info *info = arg;

    if (info->argsz < offsetof(struct vfio_device_info, cap_offset)) {
        return -EINVAL;
    }
    info->flags = VFIO_DEVICE_FLAGS_PCI;
    if (!fake_control.device[cdev->index].no_reset) {
        info->flags |= VFIO_DEVICE_FLAGS_RESET;
    }
    info->num_regions = VFIO_PCI_NUM_REGIONS;
    info->num_irqs = VFIO_PCI_NUM_IRQS;
    return 0;
}

static int do_get_region_info(FakeCdev *cdev, void *arg)
{
    struct vfio_region_info *info = arg;

    if (info->argsz < sizeof(*info) || info->index >= VFIO_PCI_NUM_REGIONS ||
        info->index == VFIO_PCI_VGA_REGION_INDEX) {
        return -EINVAL;
    }
    info->flags = regions[info->index].flags;
    info->size = regions[info->index].size;
    info->offset = (uint64_t)info->index << INDEX_SHIFT;
    info->cap_offset = 0;
    return 0;
}

static int do_get_irq_info(FakeCdev *cdev, void *arg)
{
    struct vfio_irq_info *info = arg;

    if (info->argsz < sizeof(*info) || info->index >= VFIO_PCI_NUM_IRQS ||
        info->index == VFIO_PCI_ERR_IRQ_INDEX) {
        return -EINVAL;
    }
    info->flags = irqs[info->index].flags;
    info->count = irqs[info->index].count;
    return 0;
}

/* Interrupts: nothing ever fires, but the state is as strict as the kernel's */

static int check_irq_set(const struct vfio_irq_set *set)
{
    uint32_t type = set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
    uint32_t action = set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
    uint64_t unit = type == VFIO_IRQ_SET_DATA_EVENTFD ? sizeof(int32_t) :
                    type == VFIO_IRQ_SET_DATA_BOOL ? 1 : 0;
    uint32_t count = set->index < VFIO_PCI_NUM_IRQS ? irqs[set->index].count
                                                    : 0;

    if (set->argsz < sizeof(*set) || set->index >= VFIO_PCI_NUM_IRQS ||
        (set->flags & ~(VFIO_IRQ_SET_DATA_TYPE_MASK |
                        VFIO_IRQ_SET_ACTION_TYPE_MASK)) ||
        set->start >= count || set->count > count - set->start ||
        !is_power_of_2(type) || !is_power_of_2(action) ||
        set->argsz - sizeof(*set) < set->count * unit) {
        return -EINVAL;
    }
    return 0;
}

static int check_eventfds(const struct vfio_irq_set *set)
{
    uint32_t i;
    int32_t fd;

    for (i = 0; i < set->count; i++) {
        memcpy(&fd, set->data + i * sizeof(fd), sizeof(fd));
        if (fd != -1 && fcntl(fd, F_GETFD) < 0) {
            return -EBADF;
        }
    }
    return 0;
}

static int do_set_irqs(FakeCdev *cdev, void *arg)
{
    struct vfio_irq_set *set = arg;
    uint32_t type = set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
    int ret = check_irq_set(set);

    if (!ret && type == VFIO_IRQ_SET_DATA_EVENTFD) {
        ret = check_eventfds(set);
    }
    if (ret || set->index == VFIO_PCI_REQ_IRQ_INDEX) {
        return ret;
    }
    if (!(set->flags & VFIO_IRQ_SET_ACTION_TRIGGER)) {
        /* Mask and unmask are for INTx in use */
        return cdev->irq_type == VFIO_PCI_INTX_IRQ_INDEX &&
               set->index == VFIO_PCI_INTX_IRQ_INDEX ? 0 : -EINVAL;
    }
    if (cdev->irq_type == set->index && !set->count &&
        type == VFIO_IRQ_SET_DATA_NONE) {
        cdev->irq_type = NO_IRQ;
        return 0;
    }
    if (cdev->irq_type != set->index && cdev->irq_type != NO_IRQ) {
        return -EINVAL;
    }
    if (set->index == VFIO_PCI_INTX_IRQ_INDEX && set->count != 1) {
        return -EINVAL;
    }
    if (type == VFIO_IRQ_SET_DATA_EVENTFD) {
        cdev->irq_type = set->index;
        return 0;
    }
    return cdev->irq_type == set->index ? 0 : -EINVAL;
}

/* Reset */

static int do_reset(FakeCdev *cdev, void *arg)
{
    if (fake_control.device[cdev->index].no_reset) {
        return -EINVAL;
    }
    reset_device(cdev);
    fake_mig_reset(cdev->mig);
    return 0;
}

static int do_hot_reset_info(FakeCdev *cdev, void *arg)
{
    struct vfio_pci_hot_reset_info *info = arg;
    int32_t other = fake_control.device[cdev->index].shared_bus;
    uint32_t count = other ? 2 : 1;

    if (info->argsz < sizeof(*info)) {
        return -EINVAL;
    }
    info->flags = 0;
    if ((info->argsz - sizeof(*info)) / sizeof(info->devices[0]) < count) {
        info->count = count;
        return -ENOSPC;
    }
    info->count = count;
    info->flags = VFIO_PCI_HOT_RESET_FLAG_DEV_ID;
    if (other >= 0) {
        info->flags |= VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
    }
    info->devices[0] = (struct vfio_pci_dependent_device) {
        .devid = cdev->devid,
        .devfn = cdev->index << 3,
    };
    if (other) {
        info->devices[1] = (struct vfio_pci_dependent_device) {
            .devid = other,
            .devfn = (cdev->index << 3) + 1,
        };
    }
    return 0;
}

static int do_hot_reset(FakeCdev *cdev, void *arg)
{
    struct vfio_pci_hot_reset *reset = arg;

    /* A cdev passes no descriptors */
    if (reset->argsz < sizeof(*reset) || reset->flags || reset->count) {
        return -EINVAL;
    }
    if (fake_control.device[cdev->index].shared_bus < 0) {
        return -EINVAL;
    }
    reset_device(cdev);
    return 0;
}

static int do_feature(FakeCdev *cdev, void *arg)
{
    struct vfio_device_feature *feature = arg;

    if (feature->argsz < sizeof(*feature)) {
        return -EINVAL;
    }
    switch (feature->flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
        return fake_dma_log_feature(&cdev->log,
                                    &fake_control.device[cdev->index], feature);
    case VFIO_DEVICE_FEATURE_DMA_BUF:
        return fake_dmabuf_new(cdev->index, BAR0_SIZE, arg);
    default:
        return fake_mig_feature(cdev->mig, feature);
    }
}

void fake_cdev_dma_write(unsigned index, uint64_t iova, uint64_t length)
{
    FakeCdev *cdev = bound[index];

    if (cdev && cdev->attached) {
        fake_iommufd_dma_write(cdev->ictx, cdev->devid, iova, length);
        fake_dma_log_write(cdev->log, iova, length);
    }
}

int fake_cdev_ioctl(FakeCdev *cdev, unsigned long request, void *arg)
{
    static const struct {
        unsigned long request;
        int (*execute)(FakeCdev *cdev, void *arg);
    } ops[] = {
        { VFIO_DEVICE_GET_INFO, do_get_info },
        { VFIO_DEVICE_GET_REGION_INFO, do_get_region_info },
        { VFIO_DEVICE_GET_IRQ_INFO, do_get_irq_info },
        { VFIO_DEVICE_SET_IRQS, do_set_irqs },
        { VFIO_DEVICE_RESET, do_reset },
        { VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, do_hot_reset_info },
        { VFIO_DEVICE_PCI_HOT_RESET, do_hot_reset },
        { VFIO_DEVICE_FEATURE, do_feature },
        { VFIO_DEVICE_ATTACH_IOMMUFD_PT, do_attach },
        { VFIO_DEVICE_DETACH_IOMMUFD_PT, do_detach },
    };
    const FakeDeviceControl *d = &fake_control.device[cdev->index];
    size_t i;

    if (request == VFIO_DEVICE_BIND_IOMMUFD) {
        return do_bind(cdev, arg);
    }
    if (!cdev->ictx) {
        return -EINVAL;
    }
    if ((d->platform || d->ccw) && request != VFIO_DEVICE_ATTACH_IOMMUFD_PT &&
        request != VFIO_DEVICE_DETACH_IOMMUFD_PT) {
        return fake_other_ioctl(d->ccw, request, arg);
    }
    for (i = 0; i < ARRAY_SIZE(ops); i++) {
        if (ops[i].request == request) {
            return ops[i].execute(cdev, arg);
        }
    }
    return -ENOTTY;
}

/* Regions */

/* Identity and capability heads are read-only, as in vfio_pci_config.c */
static void write_config(FakeCdev *cdev, uint64_t at, const uint8_t *buf,
                         size_t size)
{
    for (; size; at++, size--, buf++) {
        if (at == PCI_COMMAND || at == PCI_COMMAND + 1 ||
            at == PCI_CACHE_LINE_SIZE || at == PCI_INTERRUPT_LINE ||
            (at >= PCI_BASE_ADDRESS_0 && at < PCI_CARDBUS_CIS) ||
            (at >= MSI_CAP + PCI_MSI_FLAGS && at < PM_CAP) ||
            at == PM_CAP + PCI_PM_CTRL) {
            cdev->config[at] = *buf;
        }
        if (fake_control.device[cdev->index].power &&
            at == AF_CAP + PCI_AF_CTRL && *buf & PCI_AF_CTRL_FLR) {
            fake_kernel_revoke(cdev->index);
        }
    }
    if (!has_memory(cdev)) {
        fake_kernel_revoke(cdev->index);
    }
}

ssize_t fake_cdev_rw(FakeCdev *cdev, void *buf, size_t size, uint64_t offset,
                     bool write)
{
    uint64_t index = offset >> INDEX_SHIFT;
    uint64_t at = offset & ((1ULL << INDEX_SHIFT) - 1);

    if (!cdev->ictx || index >= VFIO_PCI_NUM_REGIONS) {
        return -EINVAL;
    }
    if (at >= regions[index].size) {
        return regions[index].size ? 0 : -EINVAL;
    }
    size = MIN(size, regions[index].size - at);
    if (index == VFIO_PCI_BAR0_REGION_INDEX) {
        ssize_t ret = syscall(write ? SYS_pwrite64 : SYS_pread64,
                              cdev->backing, buf, size, at);

        return ret < 0 ? -errno : ret;
    }
    if (write) {
        write_config(cdev, at, buf, size);
    } else {
        memcpy(buf, cdev->config + at, size);
    }
    return size;
}

int fake_cdev_mmap(FakeCdev *cdev, uint64_t offset, size_t size,
                   uint64_t *backing_offset)
{
    uint64_t index = offset >> INDEX_SHIFT;
    uint64_t at = offset & ((1ULL << INDEX_SHIFT) - 1);

    if (!cdev->ictx || index >= VFIO_PCI_NUM_REGIONS ||
        !(regions[index].flags & VFIO_REGION_INFO_FLAG_MMAP) ||
        at > regions[index].size || size > regions[index].size - at) {
        return -EINVAL;
    }
    *backing_offset = at;
    return 0;
}
