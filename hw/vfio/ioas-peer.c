/*
 * Address-space side of VFIO over iommufd: BARs behind a guest IOMMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a guest maps by its IOMMU may be memory of an assigned device, for the
 * DMA of another, or of the device itself.  A piece of it is mapped as a BAR is
 * (ioas-bar.c), by a dma-buf, if the kernel can.
 *
 * Owns: per section, the tree of such pieces.  They are not among those of RAM
 * (ioas-dynamic.c): no dirty bits are read of them, no failure stops the VM,
 * and who maps RAM for each I/O does not meet them.
 * Borrows: the section.  A piece references neither BAR nor device: a device
 * that is unplugged goes although a guest has it mapped still, and takes its
 * pieces along (vfio_peer_forget()).
 *
 * Invariants: no two pieces overlap, nor does one overlap what is mapped of
 * RAM.  A piece is mapped, or waits for its device to have memory.
 *
 * What a piece is, is decided when the guest maps it.  It stays the same memory
 * of the device until the guest unmaps it, whatever the guest's memory map says
 * later, as with RAM and by the group interface.  So a BAR that moves costs
 * nothing.  When its device has had no memory for a time, and the kernel has
 * revoked the mapping, the piece is mapped anew: hardware would not have
 * forgotten the translation either.
 *
 * IOMMU_IOAS_COPY from the base is not used: of a mapping that is revoked it
 * makes another that leads nowhere, without an error (up to Linux 7.3), where a
 * new map answers ENODEV.
 */

#include "qemu/osdep.h"

#include "ioas-dynamic.h"

typedef struct VFIOPeerPiece {
    DMAMap map;                 /* translated_addr: offset in @bar */
    MemoryRegion *bar;          /* to be used while @owner is not forgotten */
    Object *owner;
    bool mapped;
} VFIOPeerPiece;

static hwaddr vfio_peer_last(const VFIOPeerPiece *p)
{
    return p->map.iova + p->map.size;
}

/* One with bytes in [@iova, @last], or NULL */
static VFIOPeerPiece *vfio_peer_find(VFIOIOASSection *s, hwaddr iova,
                                     hwaddr last)
{
    DMAMap range = { .iova = iova, .size = last - iova };

    return s->peers ? g_tree_lookup(s->peers, &range) : NULL;
}

typedef struct VFIOPeersWanted {
    hwaddr first, last;
    Object *owner;              /* NULL: of anybody */
    GPtrArray *pieces;
} VFIOPeersWanted;

static gboolean vfio_peer_collect(gpointer key, gpointer value, gpointer data)
{
    VFIOPeerPiece *p = value;
    VFIOPeersWanted *wanted = data;

    if (p->map.iova <= wanted->last && wanted->first <= vfio_peer_last(p) &&
        (!wanted->owner || p->owner == wanted->owner)) {
        g_ptr_array_add(wanted->pieces, p);
    }
    return p->map.iova > wanted->last;
}

/* Those with bytes in [@first, @last], in order; for g_ptr_array_unref() */
static GPtrArray *vfio_peers(VFIOIOASSection *s, hwaddr first, hwaddr last,
                             Object *owner)
{
    VFIOPeersWanted wanted = { first, last, owner, g_ptr_array_new() };
    VFIOPeerPiece *one = vfio_peer_find(s, first, last);

    if (one && one->map.iova <= first && last <= vfio_peer_last(one)) {
        vfio_peer_collect(NULL, one, &wanted);
    } else if (one) {
        g_tree_foreach(s->peers, vfio_peer_collect, &wanted);
    }
    return wanted.pieces;
}

static int vfio_peer_try(VFIOIOASSection *s, VFIOPeerPiece *p)
{
    VFIOMapRange range = {
        .iova = p->map.iova,
        .last = vfio_peer_last(p),
        .readonly = p->map.perm == IOMMU_RO,
    };
    int ret = vfio_ioas_try_bar(s->ioas, p->bar, p->map.translated_addr,
                                &range);

    p->mapped = !ret;
    return ret;
}

/* @piece is a part of what @like is of */
static void vfio_peer_add(VFIOIOASSection *s, const VFIOPeerPiece *like,
                          hwaddr iova, hwaddr last)
{
    VFIOPeerPiece *p;

    if (iova > last) {
        return;
    }
    p = g_memdup2(like, sizeof(*like));
    p->map.translated_addr += iova - p->map.iova;
    p->map.iova = iova;
    p->map.size = last - iova;
    if (vfio_peer_try(s, p) == -EOPNOTSUPP) {
        g_free(p);              /* never: perhaps no VFIO device's at all */
        return;
    }
    if (!s->peers) {
        s->peers = g_tree_new_full(vfio_piece_cmp, NULL, NULL, g_free);
    }
    g_tree_insert(s->peers, p, p);
}

void vfio_peer_map(VFIOIOASSection *s, const DMAMap *piece, MemoryRegion *bar)
{
    VFIOPeerPiece new = { *piece, bar, bar->owner };
    hwaddr last = piece->iova + piece->size;
    VFIOPeerPiece *have = vfio_peer_find(s, piece->iova, last);

    if (have && have->bar == bar && !memcmp(&have->map, piece,
                                            sizeof(*piece))) {
        if (!have->mapped) {
            vfio_peer_try(s, have);
        }
        return;                 /* a replay repeats what is there */
    }
    /* The guest's last word counts, but over what cannot be unmapped */
    vfio_piece_unmap_or_report(s, piece->iova, last);
    if (!vfio_peer_find(s, piece->iova, last)) {
        vfio_peer_add(s, &new, piece->iova, last);
    }
}

/* Unmap these, which are adjacent, and of which one is mapped or none */
static int vfio_peer_unmap_run(VFIOIOASSection *s, VFIOPeerPiece **p, guint n)
{
    guint i;
    int ret;

    if (!p[0]->mapped) {
        return 0;
    }
    ret = vfio_ioas_unmap(s->ioas, p[0]->map.iova, vfio_peer_last(p[n - 1]), n);
    for (i = 0; i < n; i++) {
        p[i]->mapped = ret;
    }
    return ret;
}

/* Not asked for by the guest IOMMU */
static void vfio_peer_drop(VFIOIOASSection *s, VFIOPeerPiece *p)
{
    int ret = vfio_peer_unmap_run(s, &p, 1);

    if (ret) {
        vfio_piece_report(s, p->map.iova, vfio_peer_last(p), ret);
    }
}

int vfio_peer_unmap(VFIOIOASSection *s, hwaddr iova, hwaddr last)
{
    g_autoptr(GPtrArray) all = vfio_peers(s, iova, last, NULL);
    VFIOPeerPiece **p = (VFIOPeerPiece **)all->pdata;
    guint i, end;
    int failed = 0, ret;

    for (i = 0; i < all->len; i = end) {
        end = i + 1;
        while (end < all->len && p[end - 1]->mapped && p[end]->mapped &&
               p[end]->map.iova - 1 == vfio_peer_last(p[end - 1])) {
            end++;
        }
        ret = vfio_peer_unmap_run(s, p + i, end - i);
        if (ret) {
            failed = ret;
            continue;
        }
        for (; i < end; i++) {
            VFIOPeerPiece gone = *p[i];

            g_tree_remove(s->peers, p[i]);
            if (gone.map.iova < iova) {
                vfio_peer_add(s, &gone, gone.map.iova, iova - 1);
            }
            if (last < vfio_peer_last(&gone)) {
                vfio_peer_add(s, &gone, last + 1, vfio_peer_last(&gone));
            }
        }
    }
    return failed;
}

void vfio_peer_revoke(VFIOIOASSection *s, Object *owner)
{
    g_autoptr(GPtrArray) all = vfio_peers(s, 0, UINT64_MAX, owner);
    guint i;

    for (i = 0; i < all->len; i++) {
        vfio_peer_drop(s, g_ptr_array_index(all, i));
    }
}

void vfio_peer_refresh(VFIOIOASSection *s, Object *owner)
{
    g_autoptr(GPtrArray) all = vfio_peers(s, 0, UINT64_MAX, owner);
    guint i;

    for (i = 0; i < all->len; i++) {
        VFIOPeerPiece *p = g_ptr_array_index(all, i);

        if (!p->mapped) {
            vfio_peer_try(s, p);
        }
    }
}

void vfio_peer_forget(VFIOIOASSection *s, Object *owner)
{
    g_autoptr(GPtrArray) all = vfio_peers(s, 0, UINT64_MAX, owner);
    guint i;

    for (i = 0; i < all->len; i++) {
        vfio_peer_drop(s, g_ptr_array_index(all, i));
        g_tree_remove(s->peers, g_ptr_array_index(all, i));
    }
}
