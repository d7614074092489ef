/*
 * A fake of the kernel's iommufd interface: objects and page tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model of drivers/iommu/iommufd of Linux 6.12 (main.c, hw_pagetable.c,
 * device.c; for mappings see fake-ioas.c), with the same order of checks,
 * because a test that expects an errno should expect it for the kernel's
 * reason.
 *
 * An iommufd owns its objects; ids are the lowest free ones from 1.  An object
 * has users besides its creator: page tables use their IOAS, attached devices
 * their page table, and the VFIO side each device object.  The descriptor and
 * every bound device hold the iommufd itself.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/iommufd.h>

#include "../../backends/iommufd-uapi.h"
#include "fake-iommufd.h"

#define MAX_OBJECTS     64
#define MSI_HOLE        0xfee00000ULL
#define MSI_HOLE_LAST   0xfeefffffULL

struct FakeIommufd {
    unsigned refs;
    uint64_t rlimit_mode;
    FakeObject object[MAX_OBJECTS];     /* [0] is no object; do not move */
};

/* The object with this id; FAKE_FREE finds any kind */
static FakeObject *find(FakeIommufd *ictx, uint32_t id, FakeKind kind)
{
    FakeObject *o = id > 0 && id < MAX_OBJECTS ? &ictx->object[id] : NULL;

    if (!o || o->kind == FAKE_FREE) {
        return NULL;
    }
    return kind == FAKE_FREE || o->kind == kind ? o : NULL;
}

static FakeObject *new_object(FakeIommufd *ictx, FakeKind kind, uint32_t *id)
{
    for (*id = 1; *id < MAX_OBJECTS; ++*id) {
        if (ictx->object[*id].kind == FAKE_FREE) {
            ictx->object[*id] = (FakeObject) { .kind = kind };
            return &ictx->object[*id];
        }
    }
    return NULL;
}

/* Page tables */

static int new_hwpt(FakeIommufd *ictx, uint32_t ioas_id, bool automatic,
                    bool can_track, unsigned maker, uint32_t *id)
{
    FakeObject *ioas = find(ictx, ioas_id, FAKE_IOAS);
    int ret = fake_ioas_add_domain(ioas);
    FakeObject *hwpt;

    if (ret) {
        return ret;
    }
    hwpt = new_object(ictx, FAKE_HWPT, id);
    g_assert_nonnull(hwpt);
    hwpt->ioas = ioas_id;
    hwpt->automatic = automatic;
    hwpt->maker = maker;
    fake_dirty_init(hwpt, can_track);
    ioas->users++;
    return 0;
}

static void free_object(FakeIommufd *ictx, FakeObject *o)
{
    if (o->kind == FAKE_HWPT) {
        FakeObject *ioas = find(ictx, o->ioas, FAKE_IOAS);

        ioas->users--;
        fake_ioas_del_domain(ioas);
        fake_dirty_unmap(o, 0, UINT64_MAX);
        g_array_unref(o->written);
    } else if (o->kind == FAKE_IOAS) {
        fake_ioas_free(o);
    }
    o->kind = FAKE_FREE;
}

static int attach_hwpt(FakeIommufd *ictx, FakeObject *device, uint32_t hwpt_id)
{
    FakeObject *hwpt = find(ictx, hwpt_id, FAKE_HWPT);
    FakeObject *ioas = find(ictx, hwpt->ioas, FAKE_IOAS);
    const FakeDeviceControl *d = &fake_control.device[device->index];
    unsigned i;

    if (hwpt->maker != device->index &&
        (d->alone || fake_control.device[hwpt->maker].alone)) {
        return -EINVAL;
    }
    if (fake_ioas_overlaps(ioas, MSI_HOLE, MSI_HOLE_LAST)) {
        return -EADDRINUSE;
    }
    for (i = 0; i < d->holes; i++) {
        if (fake_ioas_overlaps(ioas, d->hole[i].start, d->hole[i].last)) {
            return -EADDRINUSE;
        }
    }
    hwpt->users++;
    return 0;
}

static void leave(FakeIommufd *ictx, FakeObject *device)
{
    FakeObject *pt = find(ictx, device->attached, FAKE_FREE);

    device->attached = 0;
    if (pt && !--pt->users && pt->kind == FAKE_HWPT && pt->automatic) {
        free_object(ictx, pt);
    }
}

/* Attach to an IOAS: a page table that the kernel keeps, or a new one */
static int attach_auto(FakeIommufd *ictx, FakeObject *device, uint32_t *pt_id)
{
    uint32_t id;
    int ret;

    for (id = 1; id < MAX_OBJECTS; id++) {
        FakeObject *o = find(ictx, id, FAKE_HWPT);

        if (o && o->automatic && o->ioas == *pt_id) {
            ret = attach_hwpt(ictx, device, id);
            if (ret != -EINVAL) {
                *pt_id = ret ? *pt_id : id;
                return ret;
            }
        }
    }
    ret = new_hwpt(ictx, *pt_id, true, false, device->index, &id);
    if (ret) {
        return ret;
    }
    ret = attach_hwpt(ictx, device, id);
    if (ret) {
        free_object(ictx, find(ictx, id, FAKE_HWPT));
        return ret;
    }
    *pt_id = id;
    return 0;
}

int fake_iommufd_attach(FakeIommufd *ictx, uint32_t devid, uint32_t *pt_id)
{
    FakeObject *device = find(ictx, devid, FAKE_FREE);
    FakeObject *pt = find(ictx, *pt_id,
                          device->kind == FAKE_ACCESS ? FAKE_IOAS : FAKE_FREE);
    FakeObject before = *device;
    int ret = 0;

    if (!pt) {
        return -ENOENT;
    }
    if (device->kind == FAKE_ACCESS) {
        pt->users++;
    } else if (pt->kind == FAKE_HWPT) {
        ret = attach_hwpt(ictx, device, *pt_id);
    } else if (pt->kind == FAKE_IOAS) {
        ret = attach_auto(ictx, device, pt_id);
    } else {
        return -EINVAL;
    }
    if (!ret) {
        leave(ictx, &before);
        device->attached = *pt_id;
    }
    return ret;
}

void fake_iommufd_detach(FakeIommufd *ictx, uint32_t devid)
{
    leave(ictx, find(ictx, devid, FAKE_FREE));
}

int fake_iommufd_bind(FakeIommufd *ictx, unsigned index, uint32_t *devid)
{
    FakeKind kind = fake_control.device[index].mdev ? FAKE_ACCESS : FAKE_DEVICE;
    FakeObject *o;

    if (kind == FAKE_DEVICE && fake_control.device[index].unsafe) {
        return -EPERM;
    }
    o = new_object(ictx, kind, devid);
    if (!o) {
        return -ENOSPC;
    }
    o->index = index;
    o->users = 1;
    fake_iommufd_get(ictx);
    return 0;
}

void fake_iommufd_unbind(FakeIommufd *ictx, uint32_t devid)
{
    leave(ictx, find(ictx, devid, FAKE_FREE));
    find(ictx, devid, FAKE_FREE)->kind = FAKE_FREE;
    fake_iommufd_put(ictx);
}

/* The ioctls, in the order of their numbers */

static int do_destroy(FakeIommufd *ictx, void *arg)
{
    struct iommu_destroy *cmd = arg;
    FakeObject *o = find(ictx, cmd->id, FAKE_FREE);

    if (!o) {
        return -ENOENT;
    }
    if (o->users) {
        return -EBUSY;
    }
    free_object(ictx, o);
    return 0;
}

static int do_ioas_alloc(FakeIommufd *ictx, void *arg)
{
    struct iommu_ioas_alloc *cmd = arg;
    FakeObject *o;

    if (cmd->flags) {
        return -EOPNOTSUPP;
    }
    o = new_object(ictx, FAKE_IOAS, &cmd->out_ioas_id);
    if (!o) {
        return -ENOSPC;
    }
    fake_ioas_init(o);
    return 0;
}

/*
 * Reserved ranges of an IOAS in ascending order: what the attached devices
 * reserve, and what is behind the end of the IOMMU's page tables
 */
static unsigned reserved(FakeIommufd *ictx, uint32_t ioas_id, FakeRange *r)
{
    FakeObject *ioas = find(ictx, ioas_id, FAKE_IOAS);
    bool attached = false;
    unsigned n = 0, i, j;

    for (i = 1; i < MAX_OBJECTS; i++) {
        FakeObject *d = find(ictx, i, FAKE_DEVICE);
        FakeObject *hwpt = d ? find(ictx, d->attached, FAKE_HWPT) : NULL;

        if (hwpt && hwpt->ioas == ioas_id) {
            const FakeDeviceControl *c = &fake_control.device[d->index];

            attached = true;
            for (j = 0; j < c->holes; j++) {
                r[n++] = c->hole[j];
            }
        }
    }
    if (attached) {
        r[n++] = (FakeRange) { MSI_HOLE, MSI_HOLE_LAST };
    }
    if (ioas && ioas->domains && fake_control.aperture_last != UINT64_MAX) {
        r[n++] = (FakeRange) { fake_control.aperture_last + 1, UINT64_MAX };
    }
    for (i = 1; i < n; i++) {
        for (j = i; j > 0 && r[j].start < r[j - 1].start; j--) {
            FakeRange tmp = r[j];

            r[j] = r[j - 1];
            r[j - 1] = tmp;
        }
    }
    return n;
}

static int do_iova_ranges(FakeIommufd *ictx, void *arg)
{
    struct iommu_ioas_iova_ranges *cmd = arg;
    FakeRange r[FAKE_MAX_RESERVED];
    unsigned n = reserved(ictx, cmd->ioas_id, r);

    return fake_ioas_ranges(find(ictx, cmd->ioas_id, FAKE_IOAS), r, n, cmd);
}

static int do_map(FakeIommufd *ictx, void *arg)
{
    struct iommu_ioas_map *cmd = arg;
    FakeRange r[FAKE_MAX_RESERVED];
    unsigned n = reserved(ictx, cmd->ioas_id, r);

    return fake_ioas_map(find(ictx, cmd->ioas_id, FAKE_IOAS), r, n, cmd);
}

static int do_map_file(FakeIommufd *ictx, void *arg)
{
    struct iommu_ioas_map_file *cmd = arg;
    FakeRange r[FAKE_MAX_RESERVED];
    unsigned n = reserved(ictx, cmd->ioas_id, r);

    return fake_ioas_map_file(find(ictx, cmd->ioas_id, FAKE_IOAS), r, n, cmd);
}

static int do_copy(FakeIommufd *ictx, void *arg)
{
    struct iommu_ioas_copy *cmd = arg;
    FakeRange r[FAKE_MAX_RESERVED];
    unsigned n = reserved(ictx, cmd->dst_ioas_id, r);

    return fake_ioas_copy(find(ictx, cmd->dst_ioas_id, FAKE_IOAS),
                          find(ictx, cmd->src_ioas_id, FAKE_IOAS), r, n, cmd);
}

static int do_unmap(FakeIommufd *ictx, void *arg)
{
    struct iommu_ioas_unmap *cmd = arg;
    uint64_t length = cmd->length;
    uint32_t id;
    int ret = fake_ioas_unmap(find(ictx, cmd->ioas_id, FAKE_IOAS), cmd);

    for (id = 1; id < MAX_OBJECTS && !ret; id++) {
        FakeObject *hwpt = find(ictx, id, FAKE_HWPT);

        if (hwpt && hwpt->ioas == cmd->ioas_id) {
            fake_dirty_unmap(hwpt, cmd->iova, cmd->iova + length - 1);
        }
    }
    return ret;
}

static int do_option(FakeIommufd *ictx, void *arg)
{
    struct iommu_option *cmd = arg;
    bool set = cmd->op == IOMMU_OPTION_OP_SET;
    FakeObject *ioas;
    uint32_t id;

    if (cmd->__reserved) {
        return -EOPNOTSUPP;
    }
    switch (cmd->option_id) {
    case IOMMU_OPTION_RLIMIT_MODE:
        if (cmd->object_id || cmd->op > IOMMU_OPTION_OP_GET) {
            return -EOPNOTSUPP;
        }
        if (!set) {
            cmd->val64 = ictx->rlimit_mode;
            return 0;
        }
        for (id = 1; id < MAX_OBJECTS; id++) {
            if (find(ictx, id, FAKE_FREE)) {
                return -EBUSY;
            }
        }
        if (cmd->val64 > 1) {
            return -EINVAL;
        }
        ictx->rlimit_mode = cmd->val64;
        return 0;
    case IOMMU_OPTION_HUGE_PAGES:
        ioas = find(ictx, cmd->object_id, FAKE_IOAS);
        if (!ioas) {
            return -ENOENT;
        }
        if (cmd->op > IOMMU_OPTION_OP_GET) {
            return -EOPNOTSUPP;
        }
        if (!set) {
            cmd->val64 = !ioas->no_huge_pages;
            return 0;
        }
        if (cmd->val64 > 1 ||
            (!cmd->val64 && ioas->domains && ioas->areas->len)) {
            return -EINVAL;
        }
        ioas->no_huge_pages = !cmd->val64;
        return 0;
    default:
        return -EOPNOTSUPP;
    }
}

static int do_hwpt_alloc(FakeIommufd *ictx, void *arg)
{
    struct iommu_hwpt_alloc *cmd = arg;
    FakeObject *device = find(ictx, cmd->dev_id, FAKE_DEVICE);
    FakeObject *pt = find(ictx, cmd->pt_id, FAKE_FREE);

    if (cmd->__reserved) {
        return -EOPNOTSUPP;
    }
    if ((cmd->data_type == IOMMU_HWPT_DATA_NONE) != !cmd->data_len) {
        return -EINVAL;
    }
    if (!device) {
        return -ENOENT;
    }
    if (!pt || (pt->kind != FAKE_IOAS && pt->kind != FAKE_HWPT)) {
        return -EINVAL;
    }
    if (pt->kind == FAKE_HWPT || cmd->data_len ||
        (cmd->flags & ~IOMMU_HWPT_ALLOC_DIRTY_TRACKING) ||
        (cmd->flags && !fake_control.dirty)) {
        return -EOPNOTSUPP;
    }
    return new_hwpt(ictx, cmd->pt_id, false, cmd->flags, device->index,
                    &cmd->out_hwpt_id);
}

static int do_set_dirty_tracking(FakeIommufd *ictx, void *arg)
{
    struct iommu_hwpt_set_dirty_tracking *cmd = arg;

    return fake_dirty_set(find(ictx, cmd->hwpt_id, FAKE_HWPT), cmd);
}

static int do_get_dirty_bitmap(FakeIommufd *ictx, void *arg)
{
    struct iommu_hwpt_get_dirty_bitmap *cmd = arg;
    FakeObject *hwpt = find(ictx, cmd->hwpt_id, FAKE_HWPT);

    return fake_dirty_get(hwpt, hwpt ? find(ictx, hwpt->ioas, FAKE_IOAS) : NULL,
                          cmd);
}

void fake_iommufd_dma_write(FakeIommufd *ictx, uint32_t devid, uint64_t iova,
                            uint64_t length)
{
    FakeObject *device = find(ictx, devid, FAKE_DEVICE);
    FakeObject *hwpt = device ? find(ictx, device->attached, FAKE_HWPT) : NULL;

    if (hwpt) {
        fake_dirty_write(hwpt, find(ictx, hwpt->ioas, FAKE_IOAS), iova, length);
    }
}

static int do_get_hw_info(FakeIommufd *ictx, void *arg)
{
    struct iommu_hw_info *cmd = arg;
    struct iommu_hw_info_vtd vtd = { .cap_reg = 0x1, .ecap_reg = 0x2 };

    if (cmd->flags || cmd->__reserved[0] || cmd->__reserved[1] ||
        cmd->__reserved[2]) {
        return -EOPNOTSUPP;
    }
    if (!find(ictx, cmd->dev_id, FAKE_DEVICE)) {
        return -ENOENT;
    }
    if (cmd->data_len) {
        char *out = (void *)(uintptr_t)cmd->data_uptr;

        memset(out, 0, cmd->data_len);
        memcpy(out, &vtd, MIN(cmd->data_len, sizeof(vtd)));
    }
    cmd->data_len = sizeof(vtd);
    cmd->out_data_type = IOMMU_HW_INFO_TYPE_INTEL_VTD;
    cmd->out_capabilities = fake_control.dirty ? IOMMU_HW_CAP_DIRTY_TRACKING
                                               : 0;
    return 0;
}

static const struct {
    unsigned long request;
    uint32_t size, min_size;
    int (*execute)(FakeIommufd *ictx, void *arg);
} ops[] = {
#define OP(request, type, last, fn) \
    { request, sizeof(type), \
      offsetof(type, last) + sizeof(((type *)0)->last), fn }
    OP(IOMMU_DESTROY, struct iommu_destroy, id, do_destroy),
    OP(IOMMU_IOAS_ALLOC, struct iommu_ioas_alloc, out_ioas_id, do_ioas_alloc),
    OP(IOMMU_IOAS_IOVA_RANGES, struct iommu_ioas_iova_ranges,
       out_iova_alignment, do_iova_ranges),
    OP(IOMMU_IOAS_MAP, struct iommu_ioas_map, iova, do_map),
    OP(IOMMU_IOAS_COPY, struct iommu_ioas_copy, src_iova, do_copy),
    OP(IOMMU_IOAS_UNMAP, struct iommu_ioas_unmap, length, do_unmap),
    OP(IOMMU_OPTION, struct iommu_option, val64, do_option),
    OP(IOMMU_HWPT_ALLOC, struct iommu_hwpt_alloc, __reserved, do_hwpt_alloc),
    OP(IOMMU_GET_HW_INFO, struct iommu_hw_info, __reserved, do_get_hw_info),
    OP(IOMMU_HWPT_SET_DIRTY_TRACKING, struct iommu_hwpt_set_dirty_tracking,
       __reserved, do_set_dirty_tracking),
    OP(IOMMU_HWPT_GET_DIRTY_BITMAP, struct iommu_hwpt_get_dirty_bitmap,
       data, do_get_dirty_bitmap),
    OP(IOMMU_IOAS_MAP_FILE, struct iommu_ioas_map_file, iova, do_map_file),
};

int fake_iommufd_ioctl(FakeIommufd *ictx, unsigned long request, void *arg)
{
    uint32_t user_size;
    char buf[128] = "";
    size_t i, j;
    int ret;

    for (i = 0; i < ARRAY_SIZE(ops) && ops[i].request != request; i++) {
        /* next */
    }
    if (i == ARRAY_SIZE(ops) ||
        (request == IOMMU_IOAS_MAP_FILE && !fake_control.map_file)) {
        return -ENOTTY;
    }
    memcpy(&user_size, arg, sizeof(user_size));
    if (user_size < ops[i].min_size) {
        return -EINVAL;
    }
    for (j = ops[i].size; j < user_size; j++) {
        if (((char *)arg)[j]) {
            return -E2BIG;
        }
    }
    memcpy(buf, arg, MIN(user_size, ops[i].size));
    ret = ops[i].execute(ictx, buf);
    /* The kernel answers only where it got to: on success, or EMSGSIZE */
    if (!ret || ret == -EMSGSIZE) {
        memcpy(arg, buf, MIN(user_size, ops[i].size));
    }
    return ret;
}

/* Life and counts */

FakeIommufd *fake_iommufd_new(void)
{
    FakeIommufd *ictx = g_new0(FakeIommufd, 1);

    ictx->refs = 1;
    return ictx;
}

void fake_iommufd_get(FakeIommufd *ictx)
{
    ictx->refs++;
}

void fake_iommufd_put(FakeIommufd *ictx)
{
    uint32_t id;
    int pass;

    if (--ictx->refs) {
        return;
    }
    /* No device is bound any more; page tables go before their IOAS */
    for (pass = 0; pass < 2; pass++) {
        for (id = 1; id < MAX_OBJECTS; id++) {
            FakeObject *o = find(ictx, id, pass ? FAKE_IOAS : FAKE_HWPT);

            if (o) {
                free_object(ictx, o);
            }
        }
    }
    g_free(ictx);
}

unsigned fake_iommufd_revoke(FakeIommufd *ictx, unsigned index)
{
    unsigned i, n = 0;

    for (i = 1; i < MAX_OBJECTS; i++) {
        if (ictx->object[i].kind == FAKE_IOAS) {
            n += fake_ioas_revoke(&ictx->object[i], index);
        }
    }
    return n;
}

void fake_iommufd_count(const FakeIommufd *ictx, FakeCounts *counts)
{
    uint32_t id;

    for (id = 1; id < MAX_OBJECTS; id++) {
        const FakeObject *o = &ictx->object[id];

        counts->ioas += o->kind == FAKE_IOAS;
        counts->hwpts += o->kind == FAKE_HWPT;
        counts->bound += o->kind == FAKE_DEVICE || o->kind == FAKE_ACCESS;
        if (o->kind == FAKE_IOAS) {
            counts->areas += o->areas->len;
            counts->mapped += fake_ioas_bytes(o);
        }
    }
}
