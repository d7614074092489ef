/*
 * A fake of the kernel's iommufd interface: mappings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model of io_pagetable.c and ioas.c of Linux 6.12 (for files: of 6.13),
 * with the same order of checks.  Memory is checked and accounted while an
 * IOAS has a page table, as the kernel pins only then: once, however many areas
 * share its pages.  Accounting is per user, so that all iommufds of the process
 * share one limit.
 */

#include "qemu/osdep.h"
#include <sys/vfs.h>
#include <linux/iommufd.h>
#include <linux/magic.h>

#include "../../backends/iommufd-uapi.h"
#include "fake-iommufd.h"

#define PAGE            4096ULL

static GPtrArray *ioases;               /* of all iommufds of the process */
static unsigned last_pages;

static FakeArea *area_at(const FakeObject *ioas, guint i)
{
    return &g_array_index(ioas->areas, FakeArea, i);
}

/* Index of the first area that ends at or behind @iova */
static guint area_behind(const FakeObject *ioas, uint64_t iova)
{
    guint i = 0;

    while (i < ioas->areas->len && area_at(ioas, i)->last < iova) {
        i++;
    }
    return i;
}

bool fake_ioas_overlaps(const FakeObject *ioas, uint64_t iova, uint64_t last)
{
    guint i = area_behind(ioas, iova);

    return i < ioas->areas->len && area_at(ioas, i)->iova <= last;
}

const FakeArea *fake_ioas_area(const FakeObject *ioas, uint64_t iova)
{
    guint i = area_behind(ioas, iova);

    return i < ioas->areas->len && area_at(ioas, i)->iova <= iova ?
           area_at(ioas, i) : NULL;
}

uint64_t fake_ioas_bytes(const FakeObject *ioas)
{
    uint64_t sum = 0;
    guint i;

    for (i = 0; i < ioas->areas->len; i++) {
        sum += area_at(ioas, i)->last - area_at(ioas, i)->iova + 1;
    }
    return sum;
}

/*
 * Could the kernel pin this?  A device's BAR (VM_PFNMAP) it cannot, nor what
 * is not mapped in the process or not accessible enough.
 */
static int check_memory(const FakeArea *area)
{
    uint64_t next = area->va, end = area->va + (area->last - area->iova) + 1;
    g_autofree char *maps = NULL;
    char *line;

    if (area->dmabuf) {
        return 0;
    }
    if (area->file) {
        return area->pinnable ? 0 : -EINVAL;
    }
    if (!g_file_get_contents("/proc/self/maps", &maps, NULL, NULL)) {
        return -EFAULT;
    }
    for (line = maps; line && *line && next < end;) {
        char *eol = strchr(line, '\n');
        uint64_t from, to;
        char perms[5];

        *eol = 0;
        if (sscanf(line, "%" PRIx64 "-%" PRIx64 " %4s", &from, &to,
                   perms) == 3 && from <= next && next < to) {
            if (perms[0] != 'r' || (area->writable && perms[1] != 'w') ||
                strstr(line, "/memfd:" FAKE_CDEV_MEMFD)) {
                return -EFAULT;
            }
            next = to;
        }
        line = eol + 1;
    }
    return next < end ? -EFAULT : 0;
}

static gint by_memory(gconstpointer a, gconstpointer b)
{
    const FakeArea *x = a, *y = b;

    if (x->pages != y->pages) {
        return x->pages < y->pages ? -1 : 1;
    }
    return x->va < y->va ? -1 : x->va > y->va;
}

uint64_t fake_ioas_pinned(void)
{
    g_autoptr(GArray) all = g_array_new(false, false, sizeof(FakeArea));
    uint64_t sum = 0, end = 0;
    unsigned pages = 0;
    guint i;

    for (i = 0; ioases && i < ioases->len; i++) {
        const FakeObject *ioas = g_ptr_array_index(ioases, i);

        if (ioas->domains) {
            g_array_append_vals(all, ioas->areas->data, ioas->areas->len);
        }
    }
    g_array_sort(all, by_memory);
    for (i = 0; i < all->len; i++) {
        const FakeArea *a = &g_array_index(all, FakeArea, i);
        uint64_t from = a->pages == pages ? MAX(end, a->va) : a->va;
        uint64_t to = a->va + (a->last - a->iova) + 1;

        if (a->dmabuf) {
            continue;                   /* a BAR is not pinned */
        }
        sum += to > from ? to - from : 0;
        end = MAX(from, to);
        pages = a->pages;
    }
    return sum;
}

static int check_pinned(void)
{
    return fake_control.memlock && fake_ioas_pinned() > fake_control.memlock ?
           -ENOMEM : 0;
}

void fake_ioas_init(FakeObject *ioas)
{
    ioas->areas = g_array_new(false, false, sizeof(FakeArea));
    if (!ioases) {
        ioases = g_ptr_array_new();
    }
    g_ptr_array_add(ioases, ioas);
}

void fake_ioas_free(FakeObject *ioas)
{
    g_ptr_array_remove_fast(ioases, ioas);
    g_array_free(ioas->areas, true);
}

int fake_ioas_add_domain(FakeObject *ioas)
{
    guint i;
    int ret;

    for (i = 0; i < ioas->areas->len; i++) {
        FakeArea *a = area_at(ioas, i);

        if ((a->iova | (a->last + 1) | a->va) % PAGE ||
            a->last > fake_control.aperture_last) {
            return -EADDRINUSE;
        }
    }
    if (!ioas->domains) {
        for (i = 0; i < ioas->areas->len; i++) {
            ret = check_memory(area_at(ioas, i));
            if (ret) {
                return ret;
            }
        }
    }
    ioas->domains++;
    ret = check_pinned();
    if (ret) {
        ioas->domains--;
    }
    return ret;
}

void fake_ioas_del_domain(FakeObject *ioas)
{
    ioas->domains--;
}

/* The ioctls; @r are the @n reserved ranges */

int fake_ioas_ranges(const FakeObject *ioas, const FakeRange *r, unsigned n,
                     struct iommu_ioas_iova_ranges *cmd)
{
    struct iommu_iova_range *out = (void *)(uintptr_t)cmd->allowed_iovas;
    uint64_t next = 0;
    uint32_t room = cmd->num_iovas;
    unsigned i;

    if (cmd->__reserved) {
        return -EOPNOTSUPP;
    }
    if (!ioas) {
        return -ENOENT;
    }
    cmd->num_iovas = 0;
    cmd->out_iova_alignment = ioas->domains ? PAGE : 1;
    for (i = 0; i <= n; i++) {
        uint64_t last = i < n ? r[i].start - 1 : UINT64_MAX;

        if (i == n || next < r[i].start) {
            if (cmd->num_iovas < room) {
                out[cmd->num_iovas] = (struct iommu_iova_range) { next, last };
            }
            cmd->num_iovas++;
        }
        if (i < n && r[i].last == UINT64_MAX) {
            break;
        }
        next = i < n ? MAX(next, r[i].last + 1) : 0;
    }
    return cmd->num_iovas > room ? -EMSGSIZE : 0;
}

static int check_flags(const FakeObject *ioas, uint32_t flags, uint64_t iova,
                       uint64_t length)
{
    if (flags & ~(IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
                  IOMMU_IOAS_MAP_READABLE)) {
        return -EOPNOTSUPP;
    }
    if (iova == UINT64_MAX || length == UINT64_MAX) {
        return -EOVERFLOW;
    }
    if (!(flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE))) {
        return -EINVAL;
    }
    if (!ioas) {
        return -ENOENT;
    }
    return length ? 0 : -EINVAL;
}

/* iopt_check_iova() */
static int check_iova(const FakeObject *ioas, const FakeRange *r, unsigned n,
                      uint32_t flags, uint64_t iova, uint64_t length)
{
    uint64_t last = iova + length - 1;

    if (!(flags & IOMMU_IOAS_MAP_FIXED_IOVA)) {
        return -EOPNOTSUPP;             /* not modelled */
    }
    if (ioas->domains && (iova | length) % PAGE) {
        return -EINVAL;
    }
    if (last < iova) {
        return -EOVERFLOW;
    }
    while (n-- > 0) {
        if (r[n].start <= last && iova <= r[n].last) {
            return -EINVAL;
        }
    }
    return fake_ioas_overlaps(ioas, iova, last) ? -EEXIST : 0;
}

/* Fill the page tables */
static int insert_area(FakeObject *ioas, FakeArea area)
{
    guint i = area_behind(ioas, area.iova);
    int ret = ioas->domains ? check_memory(&area) : 0;

    if (ret) {
        return ret;
    }
    g_array_insert_val(ioas->areas, i, area);
    ret = check_pinned();
    if (ret) {
        g_array_remove_index(ioas->areas, i);
    }
    return ret;
}

/* @va is that of the memory, or where it starts in the file */
static int map_area(FakeObject *ioas, const FakeRange *r, unsigned n,
                    uint32_t flags, FakeArea area)
{
    uint64_t length = area.last - area.iova + 1;
    int ret;

    area.writable = flags & IOMMU_IOAS_MAP_WRITEABLE;
    area.pages = ++last_pages;
    if (area.va + length < area.va) {
        return -EOVERFLOW;
    }
    ret = check_iova(ioas, r, n, flags, area.iova, length);
    if (!ret && ioas->domains && area.va % PAGE) {
        ret = -EINVAL;
    }
    return ret ?: insert_area(ioas, area);
}

int fake_ioas_map(FakeObject *ioas, const FakeRange *r, unsigned n,
                  struct iommu_ioas_map *cmd)
{
    int ret = cmd->__reserved ? -EOPNOTSUPP :
              check_flags(ioas, cmd->flags, cmd->iova, cmd->length);

    return ret ?: map_area(ioas, r, n, cmd->flags, (FakeArea) {
        .iova = cmd->iova,
        .last = cmd->iova + cmd->length - 1,
        .va = cmd->user_va,
    });
}

/* Any file will do until a page table wants it pinned: memfd_pin_folios() */
int fake_ioas_map_file(FakeObject *ioas, const FakeRange *r, unsigned n,
                       struct iommu_ioas_map_file *cmd)
{
    int ret = check_flags(ioas, cmd->flags, cmd->iova, cmd->length);
    int device = fake_dmabuf_device(cmd->fd);
    struct statfs fs;
    struct stat st;

    if (!ret && (fstat(cmd->fd, &st) || fstatfs(cmd->fd, &fs))) {
        ret = -EBADF;
    }
    if (!ret && device >= 0) {
        ret = st.st_size <= cmd->start + cmd->length - 1 ? -EINVAL :
              !fake_cdev_has_memory(device) ? -ENODEV : 0;
    }
    return ret ?: map_area(ioas, r, n, cmd->flags, (FakeArea) {
        .iova = cmd->iova,
        .last = cmd->iova + cmd->length - 1,
        .va = cmd->start,
        .file = true,
        .dmabuf = device + 1,
        .pinnable = S_ISREG(st.st_mode) &&
                    (fs.f_type == TMPFS_MAGIC ||
                     fs.f_type == HUGETLBFS_MAGIC) &&
                    cmd->start + cmd->length <= st.st_size,
    });
}

unsigned fake_ioas_revoke(FakeObject *ioas, unsigned index)
{
    unsigned n = 0;
    guint i;

    for (i = 0; i < ioas->areas->len; i++) {
        FakeArea *a = area_at(ioas, i);

        if (a->dmabuf == index + 1 && !a->revoked) {
            a->revoked = true;
            n++;
        }
    }
    return n;
}

/* Adjacent areas of the source, the first and last perhaps in part */
int fake_ioas_copy(FakeObject *ioas, const FakeObject *src, const FakeRange *r,
                   unsigned n, struct iommu_ioas_copy *cmd)
{
    uint64_t from = cmd->src_iova, last = from + cmd->length - 1, to;
    int ret = cmd->src_iova == UINT64_MAX ? -EOVERFLOW :
              check_flags(src, cmd->flags, cmd->dst_iova, cmd->length);
    g_autoptr(GArray) new = g_array_new(false, false, sizeof(FakeArea));
    guint i;

    if (ret) {
        return ret;
    }
    if (last < from) {
        return -EOVERFLOW;
    }
    for (i = area_behind(src, from); from <= last; from = to + 1, i++) {
        FakeArea a = i < src->areas->len ? *area_at(src, i)
                                         : (FakeArea) { .iova = UINT64_MAX };

        if (a.iova > from) {
            return -ENOENT;             /* a hole */
        }
        to = MIN(a.last, last);
        a.va += from - a.iova;
        a.iova = cmd->dst_iova + (from - cmd->src_iova);
        a.last = a.iova + (to - from);
        g_array_append_val(new, a);
    }
    if (!ioas) {
        return -ENOENT;
    }
    ret = check_iova(ioas, r, n, cmd->flags, cmd->dst_iova, cmd->length);
    for (i = 0; !ret && i < new->len; i++) {
        const FakeArea *a = &g_array_index(new, FakeArea, i);

        if ((cmd->flags & IOMMU_IOAS_MAP_WRITEABLE) && !a->writable) {
            ret = -EPERM;
        } else if (ioas->domains && a->va % PAGE) {
            ret = -EINVAL;
        }
    }
    for (i = 0; !ret && i < new->len; i++) {
        ret = insert_area(ioas, g_array_index(new, FakeArea, i));
    }
    while (ret && i-- > 1) {            /* the one before failed */
        uint64_t iova = g_array_index(new, FakeArea, i - 1).iova;
        guint at = area_behind(ioas, iova);

        if (at < ioas->areas->len && area_at(ioas, at)->iova == iova) {
            g_array_remove_index(ioas->areas, at);
        }
    }
    return ret;
}

/* Areas go one by one from the first; one that would be cut ends it */
int fake_ioas_unmap(FakeObject *ioas, struct iommu_ioas_unmap *cmd)
{
    bool all = cmd->iova == 0 && cmd->length == UINT64_MAX;
    uint64_t last = all ? UINT64_MAX : cmd->iova + cmd->length - 1, bytes = 0;
    guint i;

    if (!ioas) {
        return -ENOENT;
    }
    if (!all && (cmd->iova == UINT64_MAX || cmd->length == UINT64_MAX)) {
        return -EOVERFLOW;
    }
    if (!cmd->length) {
        return -EINVAL;
    }
    if (last < cmd->iova) {
        return -EOVERFLOW;
    }
    for (i = area_behind(ioas, cmd->iova);
         i < ioas->areas->len && area_at(ioas, i)->iova <= last;) {
        FakeArea a = *area_at(ioas, i);
        uint64_t size = a.last - a.iova + 1;

        if (a.iova < cmd->iova || a.last > last) {
            return -ENOENT;
        }
        g_array_remove_index(ioas->areas, i);
        bytes += size;
    }
    cmd->length = bytes;
    return bytes || all ? 0 : -ENOENT;
}
