/*
 * QTest testcase for second-stage accessed and dirty bits of intel-iommu
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The test is the guest: it writes the tables of scalable mode for an edu
 * device (root, context, PASID directory, PASID table, three levels of
 * translation), lets the device read and write one page of 4 KiB or 2 MiB, and
 * looks at bit 8 (accessed) and bit 9 (dirty) of the entries. edu moves its
 * data through address_space_rw(), as most devices do.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"

#define SLOT        5
#define MACHINE     "-machine q35 -nodefaults -m 256 "
#define IOMMU       "-device intel-iommu,x-scalable-mode=on"
#define EDU         " -device edu,addr=5,dma_mask=0xffffffffffffffff"

#define VTD(reg)    (0xfed90000 + (reg))
#define ECAP_SMTS   (1ull << 43)
#define ECAP_SSADS  (1ull << 45)
#define ECAP_SMPWC  (1ull << 48)

#define PASID_SLT   (1 | 1 << 2 | 2 << 6)       /* present, 39 bits */
#define PASID_SSADE (1 << 9)

#define READ        (1 << 0)
#define WRITE       (1 << 1)
#define HUGE        (1 << 7)
#define ACCESSED    (1 << 8)
#define DIRTY       (1 << 9)
#define AD          (ACCESSED | DIRTY)

/* the second half of a pair of 2 MiB pages, and of 4 KiB pages, too */
#define IOVA        0x601000ull

typedef struct Guest {
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QPCIDevice *dev;
    QPCIBar bar;
    uint64_t pasid, level3, level2;
    uint64_t leaf;              /* the entry of IOVA */
    uint64_t page;              /* what IOVA is, in the guest's memory */
} Guest;

static uint64_t table(Guest *g)
{
    uint64_t addr = guest_alloc(&g->alloc, 4096);

    qtest_memset(g->qts, addr, 0, 4096);
    return addr;
}

static void invalidate(Guest *g)
{
    qtest_writeq(g->qts, VTD(0xf8), 1ull << 63 | 1ull << 60);
}

/* turn tracking on or off as the VT-d specification asks for */
static void track(Guest *g, bool on)
{
    qtest_writeq(g->qts, g->pasid,
                 g->level3 | PASID_SLT | (on ? PASID_SSADE : 0));
    invalidate(g);
}

static void start(Guest *g, const char *args, bool huge, int access)
{
    uint64_t root, context, dir, level1, pages = 4 * MiB;

    g->qts = qtest_initf(MACHINE "%s" EDU, args);
    pc_alloc_init(&g->alloc, g->qts, ALLOC_NO_FLAGS);
    g->bus = qpci_new_pc(g->qts, NULL);
    g->dev = qpci_device_find(g->bus, QPCI_DEVFN(SLOT, 0));
    g_assert_nonnull(g->dev);
    qpci_device_enable(g->dev);
    g->bar = qpci_iomap(g->dev, 0, NULL);

    root = table(g);
    context = table(g);
    dir = table(g);
    g->pasid = table(g);
    g->level3 = table(g);
    g->level2 = table(g);
    level1 = table(g);
    qtest_writeq(g->qts, root, context | 1);
    qtest_writeq(g->qts, context + (SLOT << 3) * 32, dir | 1);
    qtest_writeq(g->qts, dir, g->pasid | 1);
    qtest_writeq(g->qts, g->pasid + 8, 1);      /* domain 1 */
    qtest_writeq(g->qts, g->level3, g->level2 | READ | WRITE);
    if (huge) {
        for (int i = 2; i < 4; i++) {
            qtest_writeq(g->qts, g->level2 + i * 8,
                         (16 * MiB + i * 2 * MiB) | HUGE | access);
        }
        g->leaf = g->level2 + 3 * 8;
        g->page = 16 * MiB + IOVA;
    } else {
        qtest_writeq(g->qts, g->level2 + 3 * 8, level1 | READ | WRITE);
        for (int i = 0; i < 2; i++) {
            qtest_writeq(g->qts, level1 + i * 8, (pages + i * 4096) | access);
        }
        g->leaf = level1 + 8;
        g->page = pages + 4096;
    }
    track(g, false);
    qtest_writeq(g->qts, VTD(0x20), root | 1 << 10);
    qtest_writel(g->qts, VTD(0x18), 1u << 30);
    qtest_writel(g->qts, VTD(0x18), 1u << 31);
}

static void end(Guest *g)
{
    g_free(g->dev);
    qpci_free_pc(g->bus);
    alloc_destroy(&g->alloc);
    qtest_quit(g->qts);
}

static void edu_dma(Guest *g, uint64_t src, uint64_t dst, int command)
{
    qpci_io_writeq(g->dev, g->bar, 0x80, src);
    qpci_io_writeq(g->dev, g->bar, 0x88, dst);
    qpci_io_writeq(g->dev, g->bar, 0x90, 8);
    qpci_io_writeq(g->dev, g->bar, 0x98, 1 | command);
    qtest_clock_step(g->qts, 100 * 1000000);
    g_assert_cmphex(qpci_io_readq(g->dev, g->bar, 0x98) & 1, ==, 0);
}

/* the device takes 8 bytes at IOVA */
static void dma_read(Guest *g)
{
    edu_dma(g, IOVA, 0x40000, 0);
}

/* the device writes 8 bytes at IOVA, or not */
static void dma_write_expect(Guest *g, bool done)
{
    static uint64_t value;

    /* what it writes, it has read elsewhere: from the page, with a number */
    qtest_writeq(g->qts, g->page, ++value);
    dma_read(g);
    qtest_writeq(g->qts, g->page, 0);
    edu_dma(g, 0x40000, IOVA, 2);
    g_assert_cmphex(qtest_readq(g->qts, g->page), ==, done ? value : 0);
}

static void dma_write(Guest *g)
{
    dma_write_expect(g, true);
}

static int bits(Guest *g)
{
    return qtest_readq(g->qts, g->leaf) & AD;
}

static void clear(Guest *g, uint64_t flags)
{
    qtest_writeq(g->qts, g->leaf, qtest_readq(g->qts, g->leaf) & ~flags);
}

static void test_track(const void *data)
{
    bool huge = GPOINTER_TO_INT(data);
    Guest g;

    start(&g, IOMMU ",x-ssads=on", huge, READ | WRITE);

    /* off: nothing is set; both directions are in the IOTLB afterwards */
    dma_write(&g);
    g_assert_cmphex(bits(&g), ==, 0);
    g_assert_cmphex(qtest_readq(g.qts, g.level3) & AD, ==, 0);

    /* on: a read is an access, on each level */
    track(&g, true);
    dma_read(&g);
    g_assert_cmphex(bits(&g), ==, ACCESSED);
    g_assert_cmphex(qtest_readq(g.qts, g.level3) & AD, ==, ACCESSED);
    g_assert_cmphex(qtest_readq(g.qts, g.level2 + 3 * 8) & ACCESSED, !=, 0);

    /* a write sets the bit although the IOTLB knows the page by a read */
    edu_dma(&g, 0x40000, IOVA, 2);
    g_assert_cmphex(bits(&g), ==, AD);
    g_assert_cmphex(qtest_readq(g.qts, g.level3) & AD, ==, ACCESSED);

    /* cleared, and written again at once, and after an invalidation */
    clear(&g, DIRTY);
    edu_dma(&g, 0x40000, IOVA, 2);
    g_assert_cmphex(bits(&g), ==, AD);
    clear(&g, DIRTY);
    invalidate(&g);
    g_assert_cmphex(bits(&g), ==, ACCESSED);
    dma_read(&g);
    g_assert_cmphex(bits(&g), ==, ACCESSED);
    edu_dma(&g, 0x40000, IOVA, 2);
    g_assert_cmphex(bits(&g), ==, AD);

    /* off, and on again */
    track(&g, false);
    clear(&g, AD);
    dma_write(&g);
    g_assert_cmphex(bits(&g), ==, 0);
    track(&g, true);
    dma_write(&g);
    g_assert_cmphex(bits(&g), ==, AD);

    /* the page before was not touched */
    g_assert_cmphex(qtest_readq(g.qts, g.leaf - 8) & AD, ==, 0);
    end(&g);
}

static void test_read_only(void)
{
    Guest g;

    start(&g, IOMMU ",x-ssads=on", false, READ);
    track(&g, true);
    dma_write_expect(&g, false);
    g_assert_cmphex(bits(&g), ==, ACCESSED);
    /* a primary fault is pending */
    g_assert_cmphex(qtest_readl(g.qts, VTD(0x34)) & 2, !=, 0);
    end(&g);
}

/* An entry in no memory cannot be marked: a fault, and nothing else */
static void test_no_memory(void)
{
    uint64_t cap;
    Guest g;

    start(&g, IOMMU ",x-ssads=on", false, READ | WRITE);
    /* as if the IOMMU's own capability register were a table's entry */
    cap = qtest_readq(g.qts, VTD(0x8));
    g_assert_cmphex(cap & (WRITE | ACCESSED), ==, WRITE);
    g.level3 = VTD(0);
    track(&g, true);
    edu_dma(&g, 0x40000, (1ull << 30) | IOVA, 2);
    g_assert_cmphex(qtest_readl(g.qts, VTD(0x34)) & 2, !=, 0);
    g_assert_cmphex(qtest_readq(g.qts, VTD(0x8)), ==, cap);
    end(&g);
}

static void test_default(void)
{
    Guest g;

    start(&g, IOMMU, false, READ | WRITE);
    g_assert_cmphex(qtest_readq(g.qts, VTD(0x10)) &
                    (ECAP_SMTS | ECAP_SSADS | ECAP_SMPWC), ==, ECAP_SMTS);
    track(&g, true);
    dma_write(&g);
    g_assert_cmphex(bits(&g), ==, 0);
    end(&g);

    start(&g, IOMMU ",x-ssads=on", false, READ | WRITE);
    g_assert_cmphex(~qtest_readq(g.qts, VTD(0x10)) &
                    (ECAP_SMTS | ECAP_SSADS | ECAP_SMPWC), ==, 0);
    end(&g);
}

static void test_legacy_mode(void)
{
    g_autofree char *said = NULL;
    const char *args[] = {
        getenv("QTEST_QEMU_BINARY"), "-machine", "q35", "-nodefaults",
        "-display", "none", "-device", "intel-iommu,x-ssads=on", NULL
    };
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)args, NULL, 0, NULL, NULL, NULL,
                               &said, &status, NULL));
    g_test_message("said: %s", said);
    g_assert_cmpint(status, !=, 0);
    g_assert_nonnull(strstr(said, "x-ssads=on needs x-scalable-mode=on"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("intel-iommu-ssads/track-4k", GINT_TO_POINTER(false),
                        test_track);
    qtest_add_data_func("intel-iommu-ssads/track-2m", GINT_TO_POINTER(true),
                        test_track);
    qtest_add_func("intel-iommu-ssads/read-only", test_read_only);
    qtest_add_func("intel-iommu-ssads/no-memory", test_no_memory);
    qtest_add_func("intel-iommu-ssads/default", test_default);
    qtest_add_func("intel-iommu-ssads/legacy-mode", test_legacy_mode);
    return g_test_run();
}
