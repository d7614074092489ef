/*
 * Tests of the VFIO map planner
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two ways.  By table: a row says what is mapped and what is wanted, and the
 * plan must be the row's, range by range.  By property: random changes of a
 * guest's memory map are planned one after the other, the plan is applied to
 * a list as strict as the kernel (an unmap that cuts a mapping and a map that
 * overlaps one are failures), and every guarantee of map-planner.h is checked
 * against a naive model, an array with one entry for each page of a small
 * address space.  The pages are chosen such that all stable boundaries, 4 GiB
 * and the last byte of the address space lie among them.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "../../hw/vfio/map-planner.h"

#define AT(array, i)    g_array_index(array, VFIOMapRange, i)
#define MAX_RANGES      8

/* Memory at host address @va; 0 ends a list */
#define RW(iova, last, va)  { iova, last, va, false }
#define RO(iova, last, va)  { iova, last, va, true }

#define V   0x7f0000000000ULL       /* where the guest's RAM is */
#define W   0x7e0000000000ULL       /* where other memory is */

/* 512 MiB of RAM, as a first plan maps it */
#define RAM_0       RW(0x0, 0x9ffff, V)
#define RAM_VGA     RW(0xa0000, 0xbffff, V + 0xa0000)
#define RAM_PAM     RW(0xc0000, 0xfffff, V + 0xc0000)
#define RAM_1M      RW(0x100000, 0x1effffff, V + 0x100000)
#define RAM_TSEG    RW(0x1f000000, 0x1fffffff, V + 0x1f000000)
#define RAM         RW(0x0, 0x1fffffff, V)

typedef struct PlanRow {
    const char *name;
    VFIOMapRange mapped[MAX_RANGES];
    VFIOMapRange wanted[MAX_RANGES];
    VFIOMapRange unmaps[MAX_RANGES];    /* iova and last count */
    VFIOMapRange maps[MAX_RANGES];
} PlanRow;

#define GONE(iova, last)    RW(iova, last, 1)

static const PlanRow rows[] = {
    {
        .name = "nothing",
    }, {
        .name = "first",
        .wanted = { RAM },
        .maps = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
    }, {
        .name = "no-change",
        .mapped = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RAM },
    }, {
        .name = "no-change-in-other-sections",
        .mapped = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0xfff, V), RW(0x1000, 0xbffff, V + 0x1000),
                    RW(0xc0000, 0x1fffffff, V + 0xc0000) },
    }, {
        .name = "all-gone",
        .mapped = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
        .unmaps = { GONE(0, 0x1fffffff) },
    }, {
        .name = "smram-opens",
        .mapped = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0x9ffff, V),
                    RW(0xc0000, 0x1fffffff, V + 0xc0000) },
        .unmaps = { GONE(0xa0000, 0xbffff) },
    }, {
        .name = "smram-closes",
        .mapped = { RAM_0, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RAM },
        .maps = { RAM_VGA },
    }, {
        .name = "pam-segment-to-rom",
        .mapped = { RAM_0, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0x9ffff, V), RW(0xc0000, 0xeffff, V + 0xc0000),
                    RO(0xf0000, 0xfffff, W),
                    RW(0x100000, 0x1fffffff, V + 0x100000) },
        .unmaps = { GONE(0xc0000, 0xfffff) },
        .maps = { RW(0xc0000, 0xeffff, V + 0xc0000),
                  RO(0xf0000, 0xfffff, W) },
    }, {
        .name = "pam-segment-back-to-ram",
        .mapped = { RAM_0, RW(0xc0000, 0xeffff, V + 0xc0000),
                    RO(0xf0000, 0xfffff, W), RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0x9ffff, V),
                    RW(0xc0000, 0x1fffffff, V + 0xc0000) },
        .unmaps = { GONE(0xf0000, 0xfffff) },
        .maps = { RW(0xf0000, 0xfffff, V + 0xf0000) },
    }, {
        .name = "pam-segment-second-toggle-costs-itself",
        .mapped = { RAM_0, RW(0xc0000, 0xeffff, V + 0xc0000),
                    RW(0xf0000, 0xfffff, V + 0xf0000), RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0x9ffff, V), RW(0xc0000, 0xeffff, V + 0xc0000),
                    RO(0xf0000, 0xfffff, V + 0xf0000),
                    RW(0x100000, 0x1fffffff, V + 0x100000) },
        .unmaps = { GONE(0xf0000, 0xfffff) },
        .maps = { RO(0xf0000, 0xfffff, V + 0xf0000) },
    }, {
        .name = "pam-every-segment-read-only",
        .mapped = { RAM_0, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0x9ffff, V), RO(0xc0000, 0xfffff, V + 0xc0000),
                    RW(0x100000, 0x1fffffff, V + 0x100000) },
        .unmaps = { GONE(0xc0000, 0xfffff) },
        .maps = { RO(0xc0000, 0xfffff, V + 0xc0000) },
    }, {
        .name = "tseg-16m-opens",
        .mapped = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0x1effffff, V) },
        .unmaps = { GONE(0x1f000000, 0x1fffffff) },
    }, {
        .name = "tseg-8m-opens",
        .mapped = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
        .wanted = { RW(0, 0x1f7fffff, V) },
        .unmaps = { GONE(0x1f000000, 0x1fffffff) },
        .maps = { RW(0x1f000000, 0x1f7fffff, V + 0x1f000000) },
    }, {
        .name = "tseg-8m-closes",
        .mapped = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M,
                    RW(0x1f000000, 0x1f7fffff, V + 0x1f000000) },
        .wanted = { RAM },
        .maps = { RW(0x1f800000, 0x1fffffff, V + 0x1f800000) },
    }, {
        .name = "tseg-only-below-4g",
        .wanted = { RW(0x100000000, 0x13fffffff, V) },
        .maps = { RW(0x100000000, 0x13fffffff, V) },
    }, {
        .name = "a-slice-ends-at-each-gib",
        .wanted = { RW(0x13ff00000, 0x1bfffffff, V) },
        .maps = { RW(0x13ff00000, 0x13fffffff, V),
                  RW(0x140000000, 0x17fffffff, V + 0x100000),
                  RW(0x180000000, 0x1bfffffff, V + 0x40100000) },
    }, {
        .name = "a-slice-that-is-mapped-stays",
        .mapped = { RW(0x140000000, 0x17fffffff, V) },
        .wanted = { RW(0x140000000, 0x1bfffffff, V) },
        .maps = { RW(0x180000000, 0x1bfffffff, V + 0x40000000) },
    }, {
        .name = "tseg-not-in-small-ram",
        .wanted = { RW(0x100000, 0x1ffffff, V) },
        .maps = { RW(0x100000, 0x1ffffff, V) },
    }, {
        .name = "tseg-in-larger-ram",
        .wanted = { RW(0x100000, 0x20fffff, V) },
        .maps = { RW(0x100000, 0x10fffff, V),
                  RW(0x1100000, 0x20fffff, V + 0x1000000) },
    }, {
        .name = "tseg-when-ram-ends-at-4g",
        .wanted = { RW(0xc0000000, 0xffffffff, V) },
        .maps = { RW(0xc0000000, 0xfeffffff, V),
                  RW(0xff000000, 0xffffffff, V + 0x3f000000) },
    }, {
        .name = "run-starts-in-tseg-room",
        .wanted = { RW(0x1f800000, 0x1fffffff, V) },
        .maps = { RW(0x1f800000, 0x1fffffff, V) },
    }, {
        .name = "run-starts-at-a-cut",
        .wanted = { RW(0xc0000, 0x1fffff, V) },
        .maps = { RW(0xc0000, 0xfffff, V),
                  RW(0x100000, 0x1fffff, V + 0x40000) },
    }, {
        .name = "run-ends-before-a-cut",
        .wanted = { RW(0xb0000, 0xbffff, V) },
        .maps = { RW(0xb0000, 0xbffff, V) },
    }, {
        .name = "one-page-across-a-cut",
        .wanted = { RW(0x9f000, 0xa0fff, V) },
        .maps = { RW(0x9f000, 0x9ffff, V), RW(0xa0000, 0xa0fff, V + 0x1000) },
    }, {
        .name = "one-byte-across-a-cut",
        .wanted = { RW(0x9f000, 0xa0000, V) },
        .maps = { RW(0x9f000, 0x9ffff, V), RW(0xa0000, 0xa0000, V + 0x1000) },
    }, {
        .name = "one-byte-mapping-at-the-end",
        .mapped = { RW(0x2fffff, 0x2fffff, V + 0xfffff) },
        .wanted = { RW(0x200000, 0x2fffff, V) },
        .maps = { RW(0x200000, 0x2ffffe, V) },
    }, {
        .name = "read-only-from-writable",
        .mapped = { RW(0x200000, 0x2fffff, V) },
        .wanted = { RO(0x200000, 0x2fffff, V) },
        .unmaps = { GONE(0x200000, 0x2fffff) },
        .maps = { RO(0x200000, 0x2fffff, V) },
    }, {
        .name = "writable-from-read-only",
        .mapped = { RO(0x200000, 0x2fffff, V) },
        .wanted = { RW(0x200000, 0x2fffff, V) },
        .unmaps = { GONE(0x200000, 0x2fffff) },
        .maps = { RW(0x200000, 0x2fffff, V) },
    }, {
        .name = "same-memory-moved",
        .mapped = { RW(0x200000, 0x2fffff, V) },
        .wanted = { RW(0x400000, 0x4fffff, V) },
        .unmaps = { GONE(0x200000, 0x2fffff) },
        .maps = { RW(0x400000, 0x4fffff, V) },
    }, {
        .name = "same-memory-moved-by-a-page",
        .mapped = { RW(0x200000, 0x2fffff, V) },
        .wanted = { RW(0x201000, 0x300fff, V) },
        .unmaps = { GONE(0x200000, 0x2fffff) },
        .maps = { RW(0x201000, 0x300fff, V) },
    }, {
        .name = "other-memory-at-the-same-place",
        .mapped = { RW(0x200000, 0x2fffff, V) },
        .wanted = { RW(0x200000, 0x2fffff, W) },
        .unmaps = { GONE(0x200000, 0x2fffff) },
        .maps = { RW(0x200000, 0x2fffff, W) },
    }, {
        .name = "hole-in-a-mapping",
        .mapped = { RW(0x200000, 0x2fffff, V) },
        .wanted = { RW(0x200000, 0x23ffff, V),
                    RW(0x250000, 0x2fffff, V + 0x50000) },
        .unmaps = { GONE(0x200000, 0x2fffff) },
        .maps = { RW(0x200000, 0x23ffff, V),
                  RW(0x250000, 0x2fffff, V + 0x50000) },
    }, {
        .name = "hole-filled",
        .mapped = { RW(0x200000, 0x23ffff, V),
                    RW(0x250000, 0x2fffff, V + 0x50000) },
        .wanted = { RW(0x200000, 0x2fffff, V) },
        .maps = { RW(0x240000, 0x24ffff, V + 0x40000) },
    }, {
        .name = "gap-between-stays-a-gap",
        .wanted = { RW(0x200000, 0x2fffff, V),
                    RW(0x400000, 0x4fffff, V + 0x200000) },
        .maps = { RW(0x200000, 0x2fffff, V),
                  RW(0x400000, 0x4fffff, V + 0x200000) },
    }, {
        .name = "grows-at-both-ends",
        .mapped = { RW(0x300000, 0x3fffff, V + 0x100000) },
        .wanted = { RW(0x200000, 0x4fffff, V) },
        .maps = { RW(0x200000, 0x2fffff, V),
                  RW(0x400000, 0x4fffff, V + 0x200000) },
    }, {
        .name = "shrinks",
        .mapped = { RW(0x200000, 0x4fffff, V) },
        .wanted = { RW(0x200000, 0x3fffff, V) },
        .unmaps = { GONE(0x200000, 0x4fffff) },
        .maps = { RW(0x200000, 0x3fffff, V) },
    }, {
        .name = "sections-merge",
        .wanted = { RW(0x200000, 0x2fffff, V),
                    RW(0x300000, 0x3fffff, V + 0x100000) },
        .maps = { RW(0x200000, 0x3fffff, V) },
    }, {
        .name = "other-memory-does-not-merge",
        .wanted = { RW(0x200000, 0x2fffff, V),
                    RW(0x300000, 0x3fffff, W + 0x100000) },
        .maps = { RW(0x200000, 0x2fffff, V),
                  RW(0x300000, 0x3fffff, W + 0x100000) },
    }, {
        .name = "other-permission-does-not-merge",
        .wanted = { RW(0x200000, 0x2fffff, V),
                    RO(0x300000, 0x3fffff, V + 0x100000) },
        .maps = { RW(0x200000, 0x2fffff, V),
                  RO(0x300000, 0x3fffff, V + 0x100000) },
    }, {
        .name = "mapping-across-two-runs",
        .mapped = { RW(0x200000, 0x3fffff, V) },
        .wanted = { RW(0x200000, 0x2fffff, V),
                    RW(0x300000, 0x3fffff, W) },
        .unmaps = { GONE(0x200000, 0x3fffff) },
        .maps = { RW(0x200000, 0x2fffff, V), RW(0x300000, 0x3fffff, W) },
    }, {
        .name = "adjacent-unmaps-join",
        .mapped = { RW(0x200000, 0x2fffff, V), RW(0x300000, 0x3fffff, W),
                    RW(0x500000, 0x5fffff, V), RW(0x600000, 0x6fffff, V) },
        .wanted = { RW(0x600000, 0x6fffff, V) },
        .unmaps = { GONE(0x200000, 0x3fffff), GONE(0x500000, 0x5fffff) },
    }, {
        .name = "unmaps-never-span-a-gap",
        .mapped = { RW(0x200000, 0x2fffff, V), RW(0x400000, 0x4fffff, W) },
        .unmaps = { GONE(0x200000, 0x2fffff), GONE(0x400000, 0x4fffff) },
    }, {
        .name = "ends-at-the-top",
        .wanted = { RW(UINT64_MAX - 0xfff, UINT64_MAX, V) },
        .maps = { RW(UINT64_MAX - 0xfff, UINT64_MAX, V) },
    }, {
        .name = "stays-at-the-top",
        .mapped = { RW(0x200000, 0x2fffff, V),
                    RW(UINT64_MAX - 0xfff, UINT64_MAX, V) },
        .wanted = { RW(UINT64_MAX - 0xfff, UINT64_MAX, V) },
        .unmaps = { GONE(0x200000, 0x2fffff) },
    }, {
        .name = "grows-to-the-top",
        .mapped = { RW(UINT64_MAX - 0x1fff, UINT64_MAX - 0x1000, V) },
        .wanted = { RW(UINT64_MAX - 0x1fff, UINT64_MAX, V) },
        .maps = { RW(UINT64_MAX - 0xfff, UINT64_MAX, V + 0x1000) },
    }, {
        .name = "goes-from-the-top",
        .mapped = { RW(UINT64_MAX - 0xfff, UINT64_MAX, V) },
        .unmaps = { GONE(UINT64_MAX - 0xfff, UINT64_MAX) },
    }, {
        .name = "top-and-bottom-are-not-adjacent",
        .mapped = { RW(0, 0xfff, V), RW(UINT64_MAX - 0xfff, UINT64_MAX, W) },
        .unmaps = { GONE(0, 0xfff), GONE(UINT64_MAX - 0xfff, UINT64_MAX) },
    }, {
        .name = "whole-address-space-goes",
        .mapped = { RW(0, UINT64_MAX, V) },
        .unmaps = { GONE(0, UINT64_MAX) },
    }, {
        .name = "whole-address-space-stays",
        .mapped = { RW(0, UINT64_MAX, V) },
        .wanted = { RW(0, UINT64_MAX, V) },
    },
};

static GArray *new_ranges(void)
{
    return g_array_new(false, false, sizeof(VFIOMapRange));
}

static GArray *from_row(const VFIOMapRange *list)
{
    GArray *array = new_ranges();
    int i;

    for (i = 0; i < MAX_RANGES && list[i].vaddr; i++) {
        g_array_append_val(array, list[i]);
    }
    return array;
}

static void check_list(const char *what, const GArray *got,
                       const VFIOMapRange *list, bool whole)
{
    g_autoptr(GArray) want = from_row(list);
    guint i;

    for (i = 0; i < MIN(got->len, want->len); i++) {
        g_test_message("%s[%u]: 0x%" PRIx64 "-0x%" PRIx64, what, i,
                       AT(got, i).iova, AT(got, i).last);
        g_assert_cmphex(AT(got, i).iova, ==, AT(want, i).iova);
        g_assert_cmphex(AT(got, i).last, ==, AT(want, i).last);
        if (whole) {
            g_assert_cmphex(AT(got, i).vaddr, ==, AT(want, i).vaddr);
            g_assert_cmpint(AT(got, i).readonly, ==, AT(want, i).readonly);
        }
    }
    g_assert_cmpuint(got->len, ==, want->len);
}

static void test_row(const void *data)
{
    const PlanRow *row = data;
    g_autoptr(GArray) mapped = from_row(row->mapped);
    g_autoptr(GArray) wanted = from_row(row->wanted);
    g_autoptr(GArray) unmaps = new_ranges();
    g_autoptr(GArray) maps = new_ranges();

    vfio_map_plan(mapped, wanted, unmaps, maps);
    check_list("unmaps", unmaps, row->unmaps, false);
    check_list("maps", maps, row->maps, true);

    /* What the caller passed is not the planner's to change */
    check_list("mapped", mapped, row->mapped, true);
    check_list("wanted", wanted, row->wanted, true);
}

static void test_leftovers(void)
{
    static const VFIOMapRange junk = RW(0x1000, 0x1fff, W);
    g_autoptr(GArray) none = new_ranges();
    g_autoptr(GArray) unmaps = new_ranges();
    g_autoptr(GArray) maps = new_ranges();

    g_array_append_val(unmaps, junk);
    g_array_append_val(maps, junk);
    vfio_map_plan(none, none, unmaps, maps);
    g_assert_cmpuint(unmaps->len, ==, 0);
    g_assert_cmpuint(maps->len, ==, 0);
}

/* All of 2^64 in a bounded number of slices, without a gap */
static void test_whole_address_space(void)
{
    const VFIOMapRange all = RW(0, UINT64_MAX, V);
    g_autoptr(GArray) mapped = new_ranges();
    g_autoptr(GArray) wanted = new_ranges();
    g_autoptr(GArray) unmaps = new_ranges();
    g_autoptr(GArray) maps = new_ranges();
    guint i;

    g_array_append_val(wanted, all);
    vfio_map_plan(mapped, wanted, unmaps, maps);
    g_assert_cmpuint(unmaps->len, ==, 0);
    g_assert_cmpuint(maps->len, >, 4000);
    g_assert_cmpuint(maps->len, <, 4200);
    for (i = 0; i < maps->len; i++) {
        const VFIOMapRange *m = &g_array_index(maps, VFIOMapRange, i);

        g_assert_cmphex(m->iova, ==, i ? (m - 1)->last + 1 : 0);
        g_assert_cmphex(m->vaddr - V, ==, m->iova);
    }
    g_assert_cmphex(g_array_index(maps, VFIOMapRange, i - 1).last, ==,
                    UINT64_MAX);
}

static void test_bytes(void)
{
    static const struct {
        VFIOMapRange list[MAX_RANGES];
        uint64_t bytes;
    } sums[] = {
        { .bytes = 0 },
        { .list = { RW(0, 0, V) }, .bytes = 1 },
        { .list = { RAM_0, RAM_VGA, RAM_PAM, RAM_1M, RAM_TSEG },
          .bytes = 512 * MiB },
        { .list = { RAM_0, RW(UINT64_MAX - 0xfff, UINT64_MAX, V) },
          .bytes = 644 * KiB },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(sums); i++) {
        g_autoptr(GArray) array = from_row(sums[i].list);

        g_assert_cmphex(vfio_map_bytes(array), ==, sums[i].bytes);
    }
}

/*
 * The model: @page_start[i] to @page_start[i + 1] - 1 is page i, and what the
 * guest has there is a kind of memory or nothing: in the largest page always
 * nothing, it would be thousands of slices.
 */
#define MAX_PAGES   128
#define KINDS       3

typedef struct Page {
    uint8_t kind;           /* 0: nothing; else memory at kind * 2^48 */
    bool readonly;
} Page;

typedef struct Model {
    uint64_t page_start[MAX_PAGES];
    Page page[MAX_PAGES];
    unsigned pages;
    GArray *mapped;         /* as the planner's helpers keep it */
    GList *kernel;          /* the same, kept naively */
} Model;

static uint64_t page_last(const Model *m, unsigned i)
{
    return i + 1 < m->pages ? m->page_start[i + 1] - 1 : UINT64_MAX;
}

static void model_init(Model *m)
{
    uint64_t at;

    memset(m, 0, sizeof(*m));
    for (at = 0; at < 1 * MiB; at += 64 * KiB) {
        m->page_start[m->pages++] = at;
    }
    for (at = 1 * MiB; at < 48 * MiB; at += 1 * MiB) {
        m->page_start[m->pages++] = at;
    }
    for (at = 4 * GiB - 20 * MiB; at < 4 * GiB + 8 * MiB; at += 2 * MiB) {
        m->page_start[m->pages++] = at;
    }
    m->page_start[m->pages++] = 5 * GiB;
    m->page_start[m->pages++] = 7 * GiB;
    m->page_start[m->pages++] = UINT64_MAX - 0x1fff;
    m->page_start[m->pages++] = UINT64_MAX - 0xfff;
    g_assert_cmpuint(m->pages, <=, MAX_PAGES);
    m->mapped = new_ranges();
}

static void model_free(Model *m)
{
    g_array_free(m->mapped, true);
    g_list_free_full(m->kernel, g_free);
}

/* What the page that holds @addr wants there; .vaddr is 0 for nothing */
static VFIOMapRange model_at(const Model *m, uint64_t addr)
{
    unsigned i = 0;

    while (page_last(m, i) < addr) {
        i++;
    }
    return (VFIOMapRange) {
        .iova = m->page_start[i],
        .last = page_last(m, i),
        .vaddr = m->page[i].kind && page_last(m, i) - m->page_start[i] < TiB ?
                 ((uint64_t)m->page[i].kind << 48) + addr : 0,
        .readonly = m->page[i].readonly,
    };
}

static const VFIOMapRange *kernel_at(const Model *m, uint64_t addr)
{
    GList *l;

    for (l = m->kernel; l; l = l->next) {
        const VFIOMapRange *r = l->data;

        if (r->iova <= addr && addr <= r->last) {
            return r;
        }
    }
    return NULL;
}

/* Is every byte of @r what the guest has there now? */
static bool model_wants_all_of(const Model *m, const VFIOMapRange *r)
{
    unsigned i;

    for (i = 0; i < m->pages; i++) {
        uint64_t addr = MAX(r->iova, m->page_start[i]);
        VFIOMapRange want = model_at(m, addr);

        if (page_last(m, i) < r->iova || m->page_start[i] > r->last) {
            continue;
        }
        if (!want.vaddr || want.readonly != r->readonly ||
            want.vaddr - r->vaddr != addr - r->iova) {
            return false;
        }
    }
    return true;
}

static void model_change(Model *m)
{
    unsigned first = g_test_rand_int_range(0, m->pages);
    unsigned count = g_test_rand_int_range(1, 1 + m->pages - first);
    Page to = { .kind = g_test_rand_int_range(0, KINDS),
                .readonly = g_test_rand_int_range(0, 4) == 0 };
    unsigned i;

    switch (g_test_rand_int_range(0, 8)) {
    case 0:                             /* any range */
        break;
    case 1:                             /* back to plain RAM, all of it */
        first = 0;
        count = m->pages;
        to = (Page) { .kind = 1 };
        break;
    case 2:                             /* all gone */
        first = 0;
        count = m->pages;
        to = (Page) { .kind = 0 };
        break;
    case 3:                             /* the window below 1 MiB */
    case 4:
        first = g_test_rand_int_range(10, 16);
        count = g_test_rand_int_range(1, 17 - first);
        break;
    default:                            /* a few pages */
        count = MIN(count, 3);
    }
    for (i = first; i < first + count; i++) {
        m->page[i] = to;
    }
}

/* The memory core may split sections wherever it likes */
static GArray *model_wanted(const Model *m)
{
    GArray *wanted = new_ranges();
    unsigned i;

    for (i = 0; i < m->pages; i++) {
        VFIOMapRange r = model_at(m, m->page_start[i]);
        VFIOMapRange *prev = wanted->len ? &AT(wanted, wanted->len - 1) : NULL;

        if (!r.vaddr) {
            continue;
        }
        if (prev && prev->last + 1 == r.iova &&
            prev->readonly == r.readonly &&
            r.vaddr - prev->vaddr == r.iova - prev->iova &&
            g_test_rand_bit()) {
            prev->last = r.last;
        } else {
            g_array_append_val(wanted, r);
        }
    }
    return wanted;
}

static void check_sorted(const GArray *array)
{
    guint i;

    for (i = 0; i < array->len; i++) {
        g_assert_cmphex(AT(array, i).iova, <=, AT(array, i).last);
        if (i) {
            g_assert_cmphex(AT(array, i - 1).last, <, AT(array, i).iova);
        }
    }
}

/* Unmap as the kernel does: whole mappings, and every byte of the range */
static void kernel_unmap(Model *m, uint64_t iova, uint64_t last)
{
    uint64_t bytes = 0;
    GList *l, *next;

    for (l = m->kernel; l; l = next) {
        VFIOMapRange *r = l->data;

        next = l->next;
        if (r->last < iova || r->iova > last) {
            continue;
        }
        g_assert_cmphex(iova, <=, r->iova);
        g_assert_cmphex(r->last, <=, last);
        g_assert_false(model_wants_all_of(m, r));
        bytes += r->last - r->iova + 1;
        m->kernel = g_list_delete_link(m->kernel, l);
        g_free(r);
    }
    g_assert_cmphex(bytes, ==, last - iova + 1);
}

static void kernel_map(Model *m, const VFIOMapRange *range)
{
    GList *l;

    for (l = m->kernel; l; l = l->next) {
        const VFIOMapRange *r = l->data;

        g_assert_true(r->last < range->iova || range->last < r->iova);
    }
    m->kernel = g_list_prepend(m->kernel, g_memdup2(range, sizeof(*range)));
}

/* Where the run of wanted memory that holds @addr ends */
static uint64_t run_last(const Model *m, uint64_t addr)
{
    VFIOMapRange first = model_at(m, addr);
    uint64_t last = first.last;

    while (last != UINT64_MAX) {
        VFIOMapRange next = model_at(m, last + 1);

        if (!next.vaddr || next.readonly != first.readonly ||
            next.vaddr - first.vaddr != last + 1 - addr) {
            break;
        }
        last = next.last;
    }
    return last;
}

static bool is_cut(uint64_t iova, uint64_t end_of_run)
{
    return iova == 640 * KiB || iova == 768 * KiB || iova == 1 * MiB ||
           QEMU_IS_ALIGNED(iova, GiB) ||
           (end_of_run < 4 * GiB && end_of_run >= 32 * MiB &&
            iova == end_of_run - 16 * MiB + 1);
}

/* A new mapping ends at a cut, at kept memory or with its run, at once */
static void check_cuts(const Model *m, const VFIOMapRange *map)
{
    uint64_t end_of_run = run_last(m, map->iova);
    static const uint64_t low[] = { 640 * KiB, 768 * KiB, 1 * MiB };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(low); i++) {
        g_assert_false(map->iova < low[i] && low[i] <= map->last);
    }
    if (end_of_run < 4 * GiB && end_of_run >= 32 * MiB) {
        uint64_t tail = end_of_run - 16 * MiB + 1;

        g_assert_false(map->iova < tail && tail <= map->last);
    }
    g_assert_cmphex(map->iova / GiB, ==, map->last / GiB);
    g_assert_true(map->last == end_of_run ||
                  is_cut(map->last + 1, end_of_run) ||
                  kernel_at(m, map->last + 1));
}

static void check_equal_at(const Model *m, uint64_t addr)
{
    VFIOMapRange want = model_at(m, addr);
    const VFIOMapRange *have = kernel_at(m, addr);

    g_assert_true(!have == !want.vaddr);
    if (have) {
        g_assert_cmphex(have->vaddr + (addr - have->iova), ==, want.vaddr);
        g_assert_cmpint(have->readonly, ==, want.readonly);
    }
}

static void check_result(const Model *m)
{
    unsigned i;
    GList *l;

    /* Between two of these addresses neither side can change */
    for (i = 0; i < m->pages; i++) {
        check_equal_at(m, m->page_start[i]);
        check_equal_at(m, page_last(m, i));
    }
    for (l = m->kernel; l; l = l->next) {
        const VFIOMapRange *r = l->data;

        check_equal_at(m, r->iova);
        check_equal_at(m, r->last);
        if (r->last != UINT64_MAX) {
            check_equal_at(m, r->last + 1);
        }
    }

    /* The planner's own book keeping says the same */
    check_sorted(m->mapped);
    g_assert_cmpuint(m->mapped->len, ==, g_list_length(m->kernel));
    for (i = 0; i < m->mapped->len; i++) {
        const VFIOMapRange *r = kernel_at(m, AT(m->mapped, i).iova);

        g_assert_cmpmem(&AT(m->mapped, i), sizeof(*r), r, sizeof(*r));
    }
}

static void transaction(Model *m)
{
    g_autoptr(GArray) wanted = NULL;
    g_autoptr(GArray) unmaps = new_ranges();
    g_autoptr(GArray) maps = new_ranges();
    g_autoptr(GArray) unmaps2 = new_ranges();
    g_autoptr(GArray) maps2 = new_ranges();
    unsigned changes = g_test_rand_int_range(1, 4);
    guint i;

    while (changes--) {
        model_change(m);
    }
    wanted = model_wanted(m);

    vfio_map_plan(m->mapped, wanted, unmaps, maps);
    vfio_map_plan(m->mapped, wanted, unmaps2, maps2);
    g_assert_cmpmem(maps->data, maps->len * sizeof(VFIOMapRange),
                    maps2->data, maps2->len * sizeof(VFIOMapRange));
    g_assert_cmpmem(unmaps->data, unmaps->len * sizeof(VFIOMapRange),
                    unmaps2->data, unmaps2->len * sizeof(VFIOMapRange));
    check_sorted(unmaps);
    check_sorted(maps);

    for (i = 0; i < unmaps->len; i++) {
        kernel_unmap(m, AT(unmaps, i).iova, AT(unmaps, i).last);
        vfio_map_remove(m->mapped, AT(unmaps, i).iova, AT(unmaps, i).last);
    }
    /* From the top: a cut must hold with what is kept, not with what comes */
    for (i = maps->len; i-- > 0;) {
        check_cuts(m, &AT(maps, i));
        kernel_map(m, &AT(maps, i));
        vfio_map_insert(m->mapped, &AT(maps, i));
    }
    check_result(m);

    vfio_map_plan(m->mapped, wanted, unmaps, maps);
    g_assert_cmpuint(unmaps->len, ==, 0);
    g_assert_cmpuint(maps->len, ==, 0);
}

static void test_random(void)
{
    int rounds = g_test_quick() ? 200 : 5000, steps;
    Model m;

    while (rounds--) {
        model_init(&m);
        for (steps = 0; steps < 20; steps++) {
            transaction(&m);
        }
        model_free(&m);
    }
}

int main(int argc, char **argv)
{
    size_t i;

    g_test_init(&argc, &argv, NULL);

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *path = g_strdup_printf("/vfio/map-planner/row/%s",
                                                rows[i].name);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/vfio/map-planner/leftovers", test_leftovers);
    g_test_add_func("/vfio/map-planner/whole-address-space",
                    test_whole_address_space);
    g_test_add_func("/vfio/map-planner/bytes", test_bytes);
    g_test_add_func("/vfio/map-planner/random", test_random);
    return g_test_run();
}
