/*
 * dma-test: a PCI device whose DMA, interrupts and state can be predicted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The device to test assignment and migration with: docs/devel/dma-test.rst has
 * the registers. Operation number S writes 64 bytes that follow from S to a
 * place that follows from S, so S and the program are the whole state, and
 * memory can be checked against it.
 *
 * It owns the state below; its DMA goes through pci_dma_*(), each operation
 * translated anew. All of it runs under the BQL: a host that sees a bit of the
 * log sees the bytes as well, and after FREEZE no write is on its way.
 *
 * A guest may write anything to either BAR: a program is checked when it is
 * started or loaded, and nothing is allocated without a limit.
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "hw/misc/dma-test.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "qom/object.h"
#include "dma-test-log.h"

#define TYPE_DMA_TEST "dma-test"
OBJECT_DECLARE_SIMPLE_TYPE(DMATestState, DMA_TEST)

#define REG(r)      ((r) / 8)
#define MIN_INTERVAL 1000
#define MAX_BURST   4096

struct DMATestState {
    PCIDevice parent_obj;
    MemoryRegion bar, msix_bar, host_bar;
    MemoryRegion before, behind;                /* the MSI-X table, or unused */
    QEMUTimer *timer;

    uint64_t reg[DMA_TEST_BAR_SIZE / 8];        /* as the guest wrote them */
    uint64_t units[DMA_TEST_MAX_RANGES];        /* while it runs */
    uint64_t units_sum;
    bool irq_pending;

    uint64_t host_reg[DMA_TEST_H_WINDOW / 8];
    uint8_t window[DMA_TEST_H_WINDOW_SIZE];
    DMATestLog *log;                            /* NULL: off */
    uint32_t log_ranges;                        /* property: how many at most */
    bool flr, acs, memory;                      /* properties */
};

/* --- the engine --- */

static bool dma_test_runs(DMATestState *s)
{
    return (s->reg[REG(DMA_TEST_CONTROL)] & DMA_TEST_RUN) &&
           s->host_reg[REG(DMA_TEST_H_FREEZE)] == DMA_TEST_RUNNING;
}

static void dma_test_deliver(DMATestState *s)
{
    PCIDevice *dev = PCI_DEVICE(s);

    if (s->irq_pending && msix_enabled(dev) &&
        s->host_reg[REG(DMA_TEST_H_FREEZE)] == DMA_TEST_RUNNING) {
        s->irq_pending = false;
        msix_notify(dev, 0);
    }
}

static void dma_test_irq(DMATestState *s)
{
    s->irq_pending = true;
    dma_test_deliver(s);
}

/* Returns false if the DMA was refused. */
static bool dma_test_operation(DMATestState *s)
{
    PCIDevice *dev = PCI_DEVICE(s);
    uint64_t number = s->reg[REG(DMA_TEST_SEQUENCE)];
    uint64_t unit = number % s->units_sum, data[DMA_TEST_UNIT / 8], *range;
    unsigned i = 0;

    while (unit >= s->units[i]) {
        unit -= s->units[i++];
    }
    range = &s->reg[REG(DMA_TEST_RANGE(i))];
    unit *= range[REG(DMA_TEST_STRIDE)];
    if (s->reg[REG(DMA_TEST_CONTROL)] & DMA_TEST_COPY) {
        if (pci_dma_read(dev, range[REG(DMA_TEST_SRC)] + unit, data,
                         sizeof(data))) {
            return false;
        }
    } else {
        for (i = 0; i < ARRAY_SIZE(data); i++) {
            data[i] = cpu_to_le64(number << 3 | i);
        }
    }
    if (pci_dma_write(dev, range[REG(DMA_TEST_DST)] + unit, data,
                      sizeof(data))) {
        return false;
    }
    if (s->log) {
        s->host_reg[REG(DMA_TEST_H_LOG_MISSED)] +=
            dma_test_log_write(s->log, range[REG(DMA_TEST_DST)] + unit,
                               sizeof(data));
    }
    return true;
}

static void dma_test_stop(DMATestState *s, uint64_t status)
{
    s->reg[REG(DMA_TEST_CONTROL)] &= ~DMA_TEST_RUN;
    s->reg[REG(DMA_TEST_STATUS)] |= status;
    dma_test_irq(s);
}

static void dma_test_schedule(DMATestState *s)
{
    if (dma_test_runs(s)) {
        timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) +
                  s->reg[REG(DMA_TEST_INTERVAL)]);
    } else {
        timer_del(s->timer);
    }
}

/* DMA can reach the device's own registers, so each operation looks anew */
static void dma_test_tick(void *opaque)
{
    DMATestState *s = opaque;
    uint64_t i, every, limit, burst = s->reg[REG(DMA_TEST_BURST)];

    for (i = 0; i < burst && dma_test_runs(s); i++) {
        if (!dma_test_operation(s)) {
            dma_test_stop(s, DMA_TEST_FAULT);
            break;
        }
        s->reg[REG(DMA_TEST_SEQUENCE)]++;
        limit = s->reg[REG(DMA_TEST_LIMIT)];
        every = s->reg[REG(DMA_TEST_IRQ_EVERY)];
        if (s->reg[REG(DMA_TEST_SEQUENCE)] == limit) {
            dma_test_stop(s, DMA_TEST_DONE);
        } else if (every && s->reg[REG(DMA_TEST_SEQUENCE)] % every == 0) {
            dma_test_irq(s);
        }
    }
    dma_test_schedule(s);
}

/* Can these registers be run? Then @units is how many places each range has. */
static bool dma_test_program(const uint64_t *reg, uint64_t *units,
                             uint64_t *units_sum)
{
    uint64_t n = reg[REG(DMA_TEST_NRANGES)], sum = 0;

    if (!n || n > DMA_TEST_MAX_RANGES ||
        reg[REG(DMA_TEST_INTERVAL)] < MIN_INTERVAL ||
        reg[REG(DMA_TEST_INTERVAL)] > NANOSECONDS_PER_SECOND ||
        !reg[REG(DMA_TEST_BURST)] || reg[REG(DMA_TEST_BURST)] > MAX_BURST) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        const uint64_t *r = &reg[REG(DMA_TEST_RANGE(i))];
        uint64_t size = r[REG(DMA_TEST_SIZE)];
        uint64_t stride = r[REG(DMA_TEST_STRIDE)];

        if (stride < DMA_TEST_UNIT || size < stride || size > 1 * TiB ||
            r[REG(DMA_TEST_DST)] + size < size ||
            r[REG(DMA_TEST_SRC)] + size < size) {
            return false;
        }
        units[i] = size / stride;
        sum += units[i];
    }
    *units_sum = sum;
    return true;
}

/* --- the guest's registers --- */

/* what a write of @size bytes at @addr makes of a register of 64 bits */
static uint64_t merge(uint64_t old, hwaddr addr, uint64_t val, unsigned size)
{
    return size == 8 ? val : deposit64(old, (addr & 4) * 8, 32, val);
}

static uint64_t extract(uint64_t reg, hwaddr addr, unsigned size)
{
    return size == 8 ? reg : extract64(reg, (addr & 4) * 8, 32);
}

static uint64_t dma_test_read(void *opaque, hwaddr addr, unsigned size)
{
    DMATestState *s = opaque;
    uint64_t reg = s->reg[REG(addr)];

    switch (addr & ~7) {
    case DMA_TEST_ID:
        reg = DMA_TEST_ID_VALUE;
        break;
    case DMA_TEST_STATUS:
        reg |= dma_test_runs(s) ? DMA_TEST_BUSY : 0;
        break;
    }
    return extract(reg, addr, size);
}

static void dma_test_write(void *opaque, hwaddr addr, uint64_t val,
                           unsigned size)
{
    DMATestState *s = opaque;
    uint64_t *reg = &s->reg[REG(addr)];

    if (s->host_reg[REG(DMA_TEST_H_FREEZE)] == DMA_TEST_STOPPED) {
        s->host_reg[REG(DMA_TEST_H_VIOLATIONS)]++;
        return;
    }
    switch (addr & ~7) {
    case DMA_TEST_ID:
        break;
    case DMA_TEST_CONTROL:
        *reg = merge(*reg, addr, val, size) & (DMA_TEST_RUN | DMA_TEST_COPY);
        if ((*reg & DMA_TEST_RUN) &&
            !dma_test_program(s->reg, s->units, &s->units_sum)) {
            dma_test_stop(s, DMA_TEST_FAULT);
        }
        dma_test_schedule(s);
        break;
    case DMA_TEST_STATUS:
        *reg &= ~merge(0, addr, val, size);
        break;
    case DMA_TEST_RAISE:
        dma_test_irq(s);
        break;
    default:
        if (!(s->reg[REG(DMA_TEST_CONTROL)] & DMA_TEST_RUN)) {
            *reg = merge(*reg, addr, val, size);
        }
        break;
    }
}

/* --- the host's registers --- */

/* the order of the registers in the state */
static const uint16_t state_regs[] = {
    DMA_TEST_CONTROL, DMA_TEST_STATUS, DMA_TEST_INTERVAL, DMA_TEST_BURST,
    DMA_TEST_LIMIT, DMA_TEST_SEQUENCE, DMA_TEST_IRQ_EVERY, DMA_TEST_NRANGES,
};

static void dma_test_save(DMATestState *s)
{
    uint64_t word[DMA_TEST_STATE_WORDS] = {
        DMA_TEST_ID_VALUE, DMA_TEST_STATE_VERSION, sizeof(word), s->irq_pending,
    };
    unsigned n = 4;

    for (unsigned i = 0; i < ARRAY_SIZE(state_regs); i++) {
        word[n++] = s->reg[REG(state_regs[i])];
    }
    for (unsigned i = 0; i < 4 * DMA_TEST_MAX_RANGES; i++) {
        word[n++] = s->reg[REG(DMA_TEST_RANGE(0)) + i];
    }
    for (unsigned i = 0; i < n; i++) {
        stq_le_p(s->window + 8 * i, word[i]);
    }
}

static int dma_test_load(DMATestState *s)
{
    uint64_t word[DMA_TEST_STATE_WORDS], units[DMA_TEST_MAX_RANGES], sum = 0;
    uint64_t reg[DMA_TEST_BAR_SIZE / 8] = {};
    unsigned n = 4;

    if (s->host_reg[REG(DMA_TEST_H_FREEZE)] != DMA_TEST_STOPPED) {
        return DMA_TEST_REFUSED;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(word); i++) {
        word[i] = ldq_le_p(s->window + 8 * i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(state_regs); i++) {
        reg[REG(state_regs[i])] = word[n++];
    }
    for (unsigned i = 0; i < 4 * DMA_TEST_MAX_RANGES; i++) {
        reg[REG(DMA_TEST_RANGE(0)) + i] = word[n++];
    }
    if (word[0] != DMA_TEST_ID_VALUE || word[1] != DMA_TEST_STATE_VERSION ||
        word[2] != sizeof(word) || word[3] > 1 ||
        (reg[REG(DMA_TEST_CONTROL)] & ~(DMA_TEST_RUN | DMA_TEST_COPY)) ||
        (reg[REG(DMA_TEST_STATUS)] & ~(DMA_TEST_FAULT | DMA_TEST_DONE)) ||
        ((reg[REG(DMA_TEST_CONTROL)] & DMA_TEST_RUN) &&
         !dma_test_program(reg, units, &sum))) {
        return DMA_TEST_MALFORMED;
    }
    memcpy(s->reg, reg, sizeof(reg));
    if (sum) {
        memcpy(s->units, units, sizeof(units));
    }
    s->units_sum = sum;
    s->irq_pending = word[3];
    return DMA_TEST_OK;
}

static void dma_test_log_stop(DMATestState *s)
{
    g_clear_pointer(&s->log, dma_test_log_free);
}

static int dma_test_log_start(DMATestState *s)
{
    uint64_t n = s->host_reg[REG(DMA_TEST_H_LOG_NRANGES)];

    if (s->log || n > s->log_ranges) {
        return DMA_TEST_REFUSED;
    }
    s->log = dma_test_log_new(s->host_reg[REG(DMA_TEST_H_LOG_GRANULE)],
                              &s->host_reg[REG(DMA_TEST_H_LOG_RANGE(0))], n);
    if (!s->log) {
        return DMA_TEST_REFUSED;
    }
    s->host_reg[REG(DMA_TEST_H_LOG_MISSED)] = 0;
    return DMA_TEST_OK;
}

/* move bits to the window */
static int dma_test_report(DMATestState *s)
{
    uint64_t pages = s->host_reg[REG(DMA_TEST_H_LOG_PAGES)];

    return s->log && pages <= sizeof(s->window) * 8 &&
           dma_test_log_report(s->log, s->host_reg[REG(DMA_TEST_H_LOG_IOVA)],
                               pages, s->window) ?
           DMA_TEST_OK : DMA_TEST_REFUSED;
}

static uint64_t dma_test_host_read(void *opaque, hwaddr addr, unsigned size)
{
    DMATestState *s = opaque;
    uint64_t reg;

    if (addr >= DMA_TEST_H_WINDOW) {
        return ldn_le_p(s->window + addr - DMA_TEST_H_WINDOW, size);
    }
    switch (addr & ~7) {
    case DMA_TEST_H_ID:
        reg = DMA_TEST_ID_VALUE;
        break;
    case DMA_TEST_H_STATE_SIZE:
        reg = DMA_TEST_STATE_WORDS * 8;
        break;
    case DMA_TEST_H_LOG_STATUS:
        reg = s->log != NULL;
        break;
    case DMA_TEST_H_LOG_MAX:
        reg = s->log_ranges;
        break;
    default:
        reg = s->host_reg[REG(addr)];
        break;
    }
    return extract(reg, addr, size);
}

static void dma_test_host_write(void *opaque, hwaddr addr, uint64_t val,
                                unsigned size)
{
    DMATestState *s = opaque;
    uint64_t *reg = &s->host_reg[REG(addr)];
    uint64_t *result = &s->host_reg[REG(DMA_TEST_H_RESULT)];

    if (addr >= DMA_TEST_H_WINDOW) {
        stn_le_p(s->window + addr - DMA_TEST_H_WINDOW, size, val);
        return;
    }
    switch (addr & ~7) {
    case DMA_TEST_H_FREEZE:
        *result = val > DMA_TEST_STOPPED ? DMA_TEST_REFUSED : DMA_TEST_OK;
        if (*result == DMA_TEST_OK) {
            *reg = val;
            dma_test_schedule(s);
            dma_test_deliver(s);
        }
        break;
    case DMA_TEST_H_STATE:
        if (val == DMA_TEST_SAVE) {
            dma_test_save(s);
            *result = DMA_TEST_OK;
        } else {
            *result = val == DMA_TEST_LOAD ? dma_test_load(s) :
                                             DMA_TEST_REFUSED;
        }
        break;
    case DMA_TEST_H_LOG:
        *result = DMA_TEST_OK;
        if (val == DMA_TEST_LOG_STOP) {
            dma_test_log_stop(s);
        } else if (val == DMA_TEST_LOG_START) {
            *result = dma_test_log_start(s);
        } else {
            *result = val == DMA_TEST_LOG_REPORT ? dma_test_report(s) :
                                                   DMA_TEST_REFUSED;
        }
        break;
    case DMA_TEST_H_LOG_GRANULE:
        if (s->log) {
            break;
        }
        /* fall through */
    default:
        *reg = merge(*reg, addr, val, size);
        break;
    }
}

static const MemoryRegionOps dma_test_ops = {
    .read = dma_test_read,
    .write = dma_test_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 8 },
    .impl = { .min_access_size = 4, .max_access_size = 8 },
};

static const MemoryRegionOps dma_test_host_ops = {
    .read = dma_test_host_read,
    .write = dma_test_host_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 8 },
    .impl = { .min_access_size = 4, .max_access_size = 8 },
};

/* --- the device --- */

static void dma_test_reset(DeviceState *dev)
{
    DMATestState *s = DMA_TEST(dev);

    timer_del(s->timer);
    dma_test_log_stop(s);
    memset(s->reg, 0, sizeof(s->reg));
    memset(s->host_reg, 0, sizeof(s->host_reg));
    memset(s->window, 0, sizeof(s->window));
    s->irq_pending = false;
}

static void dma_test_write_config(PCIDevice *dev, uint32_t addr, uint32_t val,
                                  int len)
{
    pci_default_write_config(dev, addr, val, len);
    pcie_cap_flr_write_config(dev, addr, val, len);
    dma_test_deliver(DMA_TEST(dev));
}

/* A page, the page of the MSI-X table, two pages */
static bool dma_test_add_memory(DMATestState *s, Error **errp)
{
    ERRP_GUARD();
    const unsigned behind = DMA_TEST_MEMORY_HOLE + 4 * KiB;

    memory_region_init_ram_nomigrate(&s->before, OBJECT(s), "dma-test-memory",
                                     DMA_TEST_MEMORY_HOLE, errp);
    if (*errp) {
        return false;
    }
    memory_region_init_ram_nomigrate(&s->behind, OBJECT(s), "dma-test-memory",
                                     DMA_TEST_MEMORY_SIZE - behind, errp);
    if (*errp) {
        return false;
    }
    memory_region_add_subregion(&s->msix_bar, 0, &s->before);
    memory_region_add_subregion(&s->msix_bar, behind, &s->behind);
    return true;
}

static void dma_test_realize(PCIDevice *dev, Error **errp)
{
    DMATestState *s = DMA_TEST(dev);
    unsigned msix;
    int ret;

    if (!s->log_ranges || s->log_ranges > DMA_TEST_MAX_RANGES) {
        error_setg(errp, "log-ranges must be 1 to %d", DMA_TEST_MAX_RANGES);
        return;
    }
    if (s->acs && !(dev->cap_present & QEMU_PCI_CAP_MULTIFUNCTION) &&
        !PCI_FUNC(dev->devfn)) {
        error_setg(errp, "acs=on is for functions of a multifunction device");
        return;
    }
    memory_region_init_io(&s->bar, OBJECT(s), &dma_test_ops, s, "dma-test",
                          DMA_TEST_BAR_SIZE);
    memory_region_init_io(&s->host_bar, OBJECT(s), &dma_test_host_ops, s,
                          "dma-test-host", DMA_TEST_HOST_BAR_SIZE);
    memory_region_init(&s->msix_bar, OBJECT(s), "dma-test-msix",
                       s->memory ? DMA_TEST_MEMORY_SIZE : 4 * KiB);
    if (s->memory && !dma_test_add_memory(s, errp)) {
        return;
    }
    pci_register_bar(dev, DMA_TEST_BAR, PCI_BASE_ADDRESS_MEM_TYPE_64, &s->bar);
    pci_register_bar(dev, DMA_TEST_MSIX_BAR, PCI_BASE_ADDRESS_MEM_TYPE_64,
                     &s->msix_bar);
    pci_register_bar(dev, DMA_TEST_HOST_BAR, PCI_BASE_ADDRESS_MEM_TYPE_64,
                     &s->host_bar);
    ret = pcie_endpoint_cap_init(dev, 0);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "no room for the PCI Express capability");
        return;
    }
    if (s->flr) {
        pcie_cap_flr_init(dev);
    }
    if (s->acs) {
        pcie_acs_init(dev, PCI_CONFIG_SPACE_SIZE);
    }
    msix = s->memory ? DMA_TEST_MEMORY_HOLE : 0;
    if (msix_init(dev, 1, &s->msix_bar, DMA_TEST_MSIX_BAR, msix, &s->msix_bar,
                  DMA_TEST_MSIX_BAR, msix + 0x800, 0, errp)) {
        pcie_cap_exit(dev);
        return;
    }
    msix_vector_use(dev, 0);
    s->timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, dma_test_tick, s);
}

static void dma_test_exit(PCIDevice *dev)
{
    DMATestState *s = DMA_TEST(dev);

    timer_free(s->timer);
    dma_test_log_stop(s);
    msix_uninit(dev, &s->msix_bar, &s->msix_bar);
    pcie_cap_exit(dev);
}

static Property dma_test_properties[] = {
    DEFINE_PROP_UINT32("log-ranges", DMATestState, log_ranges, 4),
    DEFINE_PROP_BOOL("flr", DMATestState, flr, true),
    DEFINE_PROP_BOOL("acs", DMATestState, acs, false),
    DEFINE_PROP_BOOL("memory", DMATestState, memory, false),
    DEFINE_PROP_END_OF_LIST(),
};

/* It migrates the guests of its host; the host itself stays */
static const VMStateDescription dma_test_vmstate = {
    .name = TYPE_DMA_TEST,
    .unmigratable = 1,
};

static void dma_test_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(klass);

    k->realize = dma_test_realize;
    k->exit = dma_test_exit;
    k->config_write = dma_test_write_config;
    k->vendor_id = DMA_TEST_VENDOR_ID;
    k->device_id = DMA_TEST_DEVICE_ID;
    k->class_id = PCI_CLASS_OTHERS;
    dc->desc = "DMA, state and dirty log to test assignment and migration";
    dc->reset = dma_test_reset;
    dc->vmsd = &dma_test_vmstate;
    device_class_set_props(dc, dma_test_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo dma_test_info = {
    .name = TYPE_DMA_TEST,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(DMATestState),
    .class_init = dma_test_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_PCIE_DEVICE },
        { },
    },
};

static void dma_test_register_types(void)
{
    type_register_static(&dma_test_info);
}

type_init(dma_test_register_types)
