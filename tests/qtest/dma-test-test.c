/*
 * QTest testcase for the DMA test device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What tests of migration rely on: its sequence, that nothing happens while it
 * is frozen, its state, its log. docs/devel/dma-test.rst has the registers.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "libqos/pci-pc.h"
#include "hw/misc/dma-test.h"
#include "hw/pci/pci_regs.h"

#define DST     0x1000000ull
#define HIGH    (4 * GiB + 16 * MiB)
#define PLACES  (8 + 4)

static QTestState *qts;
static QPCIBus *bus;
static QPCIDevice *dev;
static QPCIBar bar, host;

static void start(void)
{
    /* memory above 4 GiB, of which next to nothing is touched */
    qts = qtest_init("-machine q35 -nodefaults -m 3G -device dma-test,addr=5");
    bus = qpci_new_pc(qts, NULL);
    dev = qpci_device_find(bus, QPCI_DEVFN(5, 0));
    g_assert_nonnull(dev);
    qpci_device_enable(dev);
    bar = qpci_iomap(dev, DMA_TEST_BAR, NULL);
    host = qpci_iomap(dev, DMA_TEST_HOST_BAR, NULL);
}

static void end(void)
{
    g_free(dev);
    qpci_free_pc(bus);
    qtest_quit(qts);
}

/* by the function's own means; the BARs stay where they were */
static void reset(void)
{
    uint8_t exp = qpci_find_capability(dev, PCI_CAP_ID_EXP, 0);
    uint32_t bars[6];

    for (int i = 0; i < 6; i++) {
        bars[i] = qpci_config_readl(dev, PCI_BASE_ADDRESS_0 + i * 4);
    }
    qpci_config_writew(dev, exp + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR);
    for (int i = 0; i < 6; i++) {
        qpci_config_writel(dev, PCI_BASE_ADDRESS_0 + i * 4, bars[i]);
    }
    qpci_device_enable(dev);
}

static uint64_t get(unsigned reg)
{
    return qpci_io_readq(dev, bar, reg);
}

static void put(unsigned reg, uint64_t val)
{
    qpci_io_writeq(dev, bar, reg, val);
}

static uint64_t hget(unsigned reg)
{
    return qpci_io_readq(dev, host, reg);
}

static void hput(unsigned reg, uint64_t val)
{
    qpci_io_writeq(dev, host, reg, val);
}

static uint64_t command(unsigned reg, uint64_t val)
{
    hput(reg, val);
    return hget(DMA_TEST_H_RESULT);
}

static void range(int i, uint64_t dst, uint64_t size, uint64_t stride)
{
    put(DMA_TEST_RANGE(i) + DMA_TEST_DST, dst);
    put(DMA_TEST_RANGE(i) + DMA_TEST_SIZE, size);
    put(DMA_TEST_RANGE(i) + DMA_TEST_STRIDE, stride);
}

/* eight places of a page, four high up; two operations in each microsecond */
static void program(uint64_t limit)
{
    put(DMA_TEST_INTERVAL, 1000);
    put(DMA_TEST_BURST, 2);
    put(DMA_TEST_LIMIT, limit);
    put(DMA_TEST_NRANGES, 2);
    range(0, DST, 8 * 4096, 4096);
    range(1, HIGH, 4 * 64 + 63, 64);
}

static void run(uint64_t limit)
{
    program(limit);
    put(DMA_TEST_CONTROL, DMA_TEST_RUN);
}

static uint64_t place(unsigned n)
{
    return n < 8 ? DST + n * 4096 : HIGH + (n - 8) * 64;
}

static void check_memory(uint64_t sequence)
{
    for (unsigned n = 0; n < PLACES; n++) {
        uint64_t last = sequence - 1 - (sequence - 1 - n) % PLACES;

        for (int i = 0; i < 8; i++) {
            g_assert_cmphex(qtest_readq(qts, place(n) + i * 8), ==,
                            n < sequence ? last << 3 | i : 0);
        }
    }
}

static void test_pattern(void)
{
    start();
    g_assert_cmphex(get(DMA_TEST_ID), ==, DMA_TEST_ID_VALUE);
    run(5);
    g_assert_cmphex(get(DMA_TEST_STATUS), ==, DMA_TEST_BUSY);
    qtest_clock_step(qts, 1000);
    g_assert_cmpint(get(DMA_TEST_SEQUENCE), ==, 2);
    check_memory(2);
    put(DMA_TEST_SEQUENCE, 77);                 /* not while it runs */
    qtest_clock_step(qts, 10000);
    g_assert_cmphex(get(DMA_TEST_STATUS), ==, DMA_TEST_DONE);
    check_memory(5);
    put(DMA_TEST_STATUS, DMA_TEST_DONE);
    g_assert_cmphex(get(DMA_TEST_STATUS), ==, 0);
    run(30);
    qtest_clock_step(qts, 100000);
    g_assert_cmpint(get(DMA_TEST_SEQUENCE), ==, 30);
    check_memory(30);

    /* what place 0 has, elsewhere */
    put(DMA_TEST_RANGE(0) + DMA_TEST_SRC, DST);
    range(0, DST + 1 * MiB, 64, 64);
    put(DMA_TEST_NRANGES, 1);
    put(DMA_TEST_LIMIT, 31);
    put(DMA_TEST_CONTROL, DMA_TEST_RUN | DMA_TEST_COPY);
    qtest_clock_step(qts, 100000);
    g_assert_cmphex(qtest_readq(qts, DST + 1 * MiB), ==, 24 << 3);
    end();
}

static void test_bad_program(void)
{
    static const struct {
        unsigned reg;
        uint64_t val;
    } bad[] = {
        { DMA_TEST_INTERVAL, 999 },
        { DMA_TEST_INTERVAL, UINT64_MAX },
        { DMA_TEST_BURST, 0 },
        { DMA_TEST_BURST, 4097 },
        { DMA_TEST_NRANGES, 0 },
        { DMA_TEST_NRANGES, 17 },
        { DMA_TEST_NRANGES, 3 },
        { DMA_TEST_RANGE(0) + DMA_TEST_STRIDE, 0 },
        { DMA_TEST_RANGE(0) + DMA_TEST_STRIDE, 63 },
        { DMA_TEST_RANGE(1) + DMA_TEST_SIZE, 63 },
        { DMA_TEST_RANGE(1) + DMA_TEST_SIZE, UINT64_MAX },
        { DMA_TEST_RANGE(0) + DMA_TEST_DST, -4096ull },
        { DMA_TEST_RANGE(0) + DMA_TEST_SRC, -4096ull },
    };

    start();
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        uint64_t good;

        program(0);
        good = get(bad[i].reg);
        put(bad[i].reg, bad[i].val);
        put(DMA_TEST_CONTROL, DMA_TEST_RUN);
        g_assert_cmphex(get(DMA_TEST_STATUS), ==, DMA_TEST_FAULT);
        g_assert_cmphex(get(DMA_TEST_CONTROL), ==, 0);
        put(DMA_TEST_STATUS, DMA_TEST_FAULT);
        put(bad[i].reg, good);
    }
    run(0);
    g_assert_cmphex(get(DMA_TEST_STATUS), ==, DMA_TEST_BUSY);
    end();
}

static void test_state(void)
{
    uint64_t state[DMA_TEST_STATE_WORDS];
    int i;

    start();
    run(0);
    qtest_clock_step(qts, 10000);
    g_assert_cmpint(command(DMA_TEST_H_FREEZE, 3), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(command(DMA_TEST_H_STATE, DMA_TEST_LOAD), ==,
                    DMA_TEST_REFUSED);

    /* quiesced: no DMA, but the guest's writes are taken */
    g_assert_cmpint(command(DMA_TEST_H_FREEZE, DMA_TEST_QUIESCED), ==, 0);
    qtest_clock_step(qts, 10000);
    g_assert_cmpint(get(DMA_TEST_SEQUENCE), ==, 20);
    put(DMA_TEST_RAISE, 1);
    g_assert_cmpint(hget(DMA_TEST_H_VIOLATIONS), ==, 0);
    g_assert_cmpint(command(DMA_TEST_H_FREEZE, DMA_TEST_STOPPED), ==, 0);
    put(DMA_TEST_CONTROL, 0);
    g_assert_cmpint(hget(DMA_TEST_H_VIOLATIONS), ==, 1);
    check_memory(20);

    g_assert_cmpint(hget(DMA_TEST_H_STATE_SIZE), ==, sizeof(state));
    g_assert_cmpint(command(DMA_TEST_H_STATE, DMA_TEST_SAVE), ==, 0);
    for (i = 0; i < ARRAY_SIZE(state); i++) {
        state[i] = hget(DMA_TEST_H_WINDOW + i * 8);
    }
    g_assert_cmpint(state[3], ==, 1);           /* an interrupt waits */

    /* into a device that was reset */
    reset();
    g_assert_cmphex(hget(DMA_TEST_H_ID), ==, DMA_TEST_ID_VALUE);
    g_assert_cmpint(hget(DMA_TEST_H_FREEZE), ==, DMA_TEST_RUNNING);
    g_assert_cmpint(get(DMA_TEST_SEQUENCE), ==, 0);
    hput(DMA_TEST_H_FREEZE, DMA_TEST_STOPPED);
    for (int bad = 0; bad <= 12; bad++) {
        for (i = 0; i < ARRAY_SIZE(state); i++) {
            /* magic, version, length, pending; then the program's registers */
            hput(DMA_TEST_H_WINDOW + i * 8,
                 i == bad && i < 12 ? UINT64_MAX : state[i]);
        }
        g_assert_cmpint(command(DMA_TEST_H_STATE, DMA_TEST_LOAD), ==,
                        bad == 12 || (bad >= 8 && bad <= 10) ?
                        DMA_TEST_OK : DMA_TEST_MALFORMED);
    }
    qtest_clock_step(qts, 10000);
    g_assert_cmpint(get(DMA_TEST_SEQUENCE), ==, 20);
    hput(DMA_TEST_H_FREEZE, DMA_TEST_RUNNING);
    qtest_clock_step(qts, 10000);
    g_assert_cmpint(get(DMA_TEST_SEQUENCE), ==, 40);
    check_memory(40);
    end();
}

static uint64_t log_start(uint64_t granule, int n, const uint64_t *ranges)
{
    hput(DMA_TEST_H_LOG_GRANULE, granule);
    hput(DMA_TEST_H_LOG_NRANGES, n);
    for (int i = 0; i < 2 * n; i++) {
        hput(DMA_TEST_H_LOG_RANGE(0) + 8 * i, ranges[i]);
    }
    return command(DMA_TEST_H_LOG, DMA_TEST_LOG_START);
}

static uint64_t log_report(uint64_t iova, uint64_t pages)
{
    hput(DMA_TEST_H_LOG_IOVA, iova);
    hput(DMA_TEST_H_LOG_PAGES, pages);
    hput(DMA_TEST_H_WINDOW, UINT64_MAX);
    g_assert_cmpint(command(DMA_TEST_H_LOG, DMA_TEST_LOG_REPORT), ==, 0);
    return hget(DMA_TEST_H_WINDOW);
}

static void test_log(void)
{
    static const uint64_t two[] = { DST, 4 * 4096, HIGH, 2 * MiB };
    static const uint64_t odd[] = { DST + 1, 4096 };
    static const uint64_t much[] = { 0, 4096ull << 25 };
    static const uint64_t wraps[] = { -4096ull, 8192 };
    static const uint64_t five[10] = { DST, 4096 };

    start();
    g_assert_cmpint(log_start(4096, 1, odd), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(log_start(4096, 1, much), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(log_start(4096, 1, wraps), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(log_start(4096, 5, five), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(log_start(4096, 0, NULL), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(log_start(6000, 2, two), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(log_start(0, 2, two), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(command(DMA_TEST_H_LOG, DMA_TEST_LOG_REPORT), ==,
                    DMA_TEST_REFUSED);
    g_assert_cmpint(log_start(4096, 2, two), ==, 0);
    g_assert_cmpint(log_start(4096, 2, two), ==, DMA_TEST_REFUSED);
    g_assert_cmpint(hget(DMA_TEST_H_LOG_STATUS), ==, 1);
    hput(DMA_TEST_H_LOG_GRANULE, 0);            /* not while it is on */

    run(2);
    qtest_clock_step(qts, 10000);
    g_assert_cmphex(log_report(DST, 4), ==, 3);
    g_assert_cmphex(log_report(DST, 4), ==, 0);
    run(9);                                     /* 2 and 3, 4 to 7, and high */
    qtest_clock_step(qts, 100000);
    g_assert_cmphex(log_report(DST, 3), ==, 4); /* not what comes after it */
    g_assert_cmphex(log_report(DST, 8), ==, 8);
    g_assert_cmphex(log_report(HIGH - 4096, 64), ==, 2);
    g_assert_cmpint(hget(DMA_TEST_H_LOG_MISSED), ==, 4);

    g_assert_cmpint(command(DMA_TEST_H_LOG, DMA_TEST_LOG_STOP), ==, 0);
    g_assert_cmpint(hget(DMA_TEST_H_LOG_STATUS), ==, 0);
    end();
}

static void test_properties(void)
{
    QTestState *q = qtest_init("-machine q35 -nodefaults "
                               "-device pcie-root-port,id=rp");
    QDict *answer;

    answer = qtest_qmp(q, "{'execute': 'device_add', 'arguments': {"
                       "'driver': 'dma-test', 'bus': 'rp', 'acs': true}}");
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(answer, "error"), "desc"), ==,
                    "acs=on is for functions of a multifunction device");
    qobject_unref(answer);
    qtest_qmp_assert_success(q, "{'execute': 'device_add', 'arguments': {"
                             "'driver': 'dma-test', 'bus': 'rp', 'acs': true,"
                             " 'multifunction': true, 'flr': false}}");
    qtest_quit(q);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("dma-test/pattern", test_pattern);
    qtest_add_func("dma-test/bad-program", test_bad_program);
    qtest_add_func("dma-test/state", test_state);
    qtest_add_func("dma-test/log", test_log);
    qtest_add_func("dma-test/properties", test_properties);
    return g_test_run();
}
