/*
 * QTest: BARs of assigned devices are mapped for the DMA of others
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two devices with a BAR of 1 MiB against the fake kernel as of Linux 6.19,
 * which revokes what is mapped of a BAR while its device has no memory.  What
 * is mapped is read from the fake's log after each step: nothing may be missing
 * and nothing may be there that is revoked.  Then the same behind a guest
 * IOMMU, whose page tables are written from here.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qdict.h"
#include "fake-iommufd-env.h"

#define PC      "-machine pc -m 64 -nodefaults "
#define Q35     "-machine q35 -m 64 -nodefaults "
#define OBJECT  "-object iommufd,id=iommufd0,map-background=off "
#define COMMAND 0x04
#define BAR0    0x10
#define PMCSR   0x64
#define AF_CTRL 0x74

/* intel-iommu, and its tables in guest memory */
#define VTD(reg) (0xfed90000 + (reg))
#define ROOT    0x100000
#define CONTEXT 0x101000
#define LEVEL3  0x102000
#define LEVEL2  0x103000
#define LEVEL1  0x104000
#define SMALL   0x105000

typedef struct Area {
    unsigned ioas, device, flags;
    uint64_t iova, length, offset;      /* the latter in the BAR */
    bool revoked;
} Area;

typedef struct P2P {
    FakeEnv *env;
    QTestState *qts;
    GArray *areas;              /* live now, of BARs */
    GArray *ioases;             /* their ids, see number() */
    unsigned asked;             /* dma-bufs, since the last look */
    unsigned only;              /* in this IOAS, or 0 */
    unsigned maps;              /* there, since the last look */
    uint64_t offset;            /* of the last dma-buf */
} P2P;

static void start(P2P *p, const char *control, const char *args)
{
    p->env = fake_env_new();
    fake_env_control(p->env, control);
    p->qts = fake_env_start_heard(p->env, args);
    p->areas = g_array_new(false, false, sizeof(Area));
    p->ioases = g_array_new(false, false, sizeof(unsigned));
}

static void quit(P2P *p)
{
    qtest_quit(p->qts);
    fake_env_free(p->env);
    g_array_free(p->areas, true);
    g_array_free(p->ioases, true);
}

static void select_config(P2P *p, unsigned slot, uint8_t reg)
{
    qtest_outl(p->qts, 0xcf8, 0x80000000 | slot << 11 | (reg & ~3));
}

static void write_config(P2P *p, unsigned slot, uint8_t reg, uint32_t value)
{
    select_config(p, slot, reg);
    qtest_outl(p->qts, 0xcfc, value);
}

static void write_config_byte(P2P *p, unsigned slot, uint8_t reg, uint8_t value)
{
    select_config(p, slot, reg);
    qtest_outb(p->qts, 0xcfc + (reg & 3), value);
}

static void place(P2P *p, unsigned slot, uint32_t bar)
{
    write_config(p, slot, COMMAND, 0);
    write_config(p, slot, BAR0, bar);
    write_config(p, slot, COMMAND, 2);
}

static void drop(GArray *areas, unsigned ioas, uint64_t iova, uint64_t length)
{
    guint i;

    for (i = 0; i < areas->len; i++) {
        Area *a = &g_array_index(areas, Area, i);

        if (a->ioas == ioas && iova <= a->iova && a->iova < iova + length) {
            g_array_remove_index(areas, i--);
        }
    }
}

/*
 * IOASes by the order in which they are seen first, from 2 on: their ids depend
 * on how many devices are bound by then.
 */
static unsigned number(P2P *p, unsigned ioas)
{
    guint i;

    for (i = 0; i < p->ioases->len; i++) {
        if (g_array_index(p->ioases, unsigned, i) == ioas) {
            return i + 2;
        }
    }
    g_array_append_val(p->ioases, ioas);
    return i + 2;
}

static void follow(P2P *p, const char *line)
{
    unsigned long long length, iova, offset;
    unsigned device, open, i;
    Area a = {};
    int ret;

    if (sscanf(line, "IOMMU_IOAS_MAP_FILE ioas=%u iova=%llx length=%llx "
               "start=0x0 flags=%x dmabuf=%u = %d", &a.ioas, &iova, &length,
               &a.flags, &a.device, &ret) == 6 && !ret) {
        a.iova = iova;
        a.length = length;
        a.offset = p->offset;
        g_array_append_val(p->areas, a);
        p->maps += a.ioas == p->only;
    } else if (sscanf(line, "IOMMU_IOAS_UNMAP ioas=%u iova=%llx length=%llx = "
                      "%d", &a.ioas, &iova, &length, &ret) == 4 && !ret) {
        drop(p->areas, a.ioas, iova, length);
    } else if (sscanf(line, "revoked device=%u", &device) == 1) {
        for (i = 0; i < p->areas->len; i++) {
            g_array_index(p->areas, Area, i).revoked |=
                g_array_index(p->areas, Area, i).device == device;
        }
    } else if (sscanf(line, "dma-buf device=%u offset=%llx length=%*x open=%u",
                      &device, &offset, &open) == 3) {
        g_assert_cmpuint(open, ==, 1);      /* those before are closed */
        p->offset = offset;
    }
    p->asked += g_str_has_prefix(line, "VFIO_DEVICE_FEATURE flags=0x1000b ");
}

/*
 * "IOAS:device@iova" of what is mapped, in the order it was, or ""; of only one
 * IOAS: "device+offset@iova"
 */
static void expect(P2P *p, const char *expected)
{
    g_autofree char *log = fake_env_take_log(p->env);
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    g_autoptr(GString) live = g_string_new("");
    guint i;

    g_test_message("log: %s", log);
    for (i = 0; lines[i]; i++) {
        follow(p, lines[i]);
    }
    for (i = 0; i < p->areas->len; i++) {
        Area *a = &g_array_index(p->areas, Area, i);

        if (p->only && a->ioas != p->only) {
            continue;
        }
        g_string_append(live, live->len ? " " : "");
        if (p->only) {
            g_string_append_printf(live, "%u+%" PRIx64, a->device, a->offset);
        } else {
            g_string_append_printf(live, "%u:%u", number(p, a->ioas),
                                   a->device);
        }
        g_string_append_printf(live, "@%" PRIx64 "%s%s", a->iova,
                               a->flags & 2 ? "" : " (read-only)",
                               a->revoked ? " (revoked)" : "");
    }
    g_assert_cmpstr(live->str, ==, expected);
}

static void expect_said(P2P *p, const char *expected)
{
    g_autofree char *said = fake_env_said(p->env);

    g_assert_cmpstr(said[0] ? strstr(said, ": ") + 2 : said, ==, expected);
}

static void plug(P2P *p, const char *id, const char *host, const char *object)
{
    qtest_qmp_assert_success(p->qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'vfio-pci', 'id': %s, 'host': %s, "
                             "'iommufd': %s, 'addr': '8'}}", id, host, object);
}

static void unplug(P2P *p, const char *id)
{
    qtest_qmp_device_del_send(p->qts, id);
    qtest_qmp_assert_success(p->qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(p->qts, "DEVICE_DELETED");
}

#define BOTH "dma-buf 1\npower 0\npower 1", \
             PC OBJECT "-device vfio-pci,host=0000:65:00.0,iommufd=iommufd0," \
             "id=hd0,addr=5 -device vfio-pci,host=0000:65:00.1," \
             "iommufd=iommufd0,id=hd1,addr=6"

/* A device that is alone has no peer; who joins finds the BARs there */
static void test_alone(void)
{
    P2P p = {};

    start(&p, "dma-buf 1", PC OBJECT "-device vfio-pci,host=0000:65:00.0,"
          "iommufd=iommufd0,id=hd0,addr=5");
    place(&p, 5, 0xe0000000);
    expect(&p, "");
    g_assert_cmpuint(p.asked, ==, 0);
    plug(&p, "hd1", "0000:65:00.1", "iommufd0");
    expect(&p, "2:0@e0000000");
    place(&p, 8, 0xe0100000);
    expect(&p, "2:0@e0000000 2:1@e0100000");

    unplug(&p, "hd0");
    expect(&p, "");
    place(&p, 8, 0xe0200000);
    expect(&p, "2:1@e0200000");
    expect_said(&p, "");
    quit(&p);
}

/* Whatever takes a device's memory away, with the memory map or behind it */
static void test_revoked(void)
{
    P2P p = {};

    start(&p, BOTH);
    place(&p, 5, 0xe0000000);
    place(&p, 6, 0xe0100000);
    expect(&p, "2:0@e0000000 2:1@e0100000");

    /* memory decode */
    write_config_byte(&p, 5, COMMAND, 0);
    expect(&p, "2:1@e0100000");
    write_config_byte(&p, 5, COMMAND, 2);
    expect(&p, "2:1@e0100000 2:0@e0000000");

    /* a BAR that moves, while it is decoded */
    write_config(&p, 5, BAR0, 0xe0400000);
    expect(&p, "2:1@e0100000 2:0@e0400000");

    /* FLR, and bits beside it */
    write_config_byte(&p, 5, AF_CTRL, 1);
    expect(&p, "2:1@e0100000 2:0@e0400000");
    p.asked = 0;
    write_config_byte(&p, 5, AF_CTRL, 2);
    write_config_byte(&p, 5, AF_CTRL + 1, 1);
    expect(&p, "2:1@e0100000 2:0@e0400000");
    g_assert_cmpuint(p.asked, ==, 0);

    /* D3hot and back, D0 again */
    write_config_byte(&p, 6, PMCSR, 3);
    expect(&p, "2:0@e0400000");
    write_config_byte(&p, 6, PMCSR, 0);
    expect(&p, "2:0@e0400000 2:1@e0100000");
    p.asked = 0;
    write_config_byte(&p, 6, PMCSR, 0);
    expect(&p, "2:0@e0400000 2:1@e0100000");
    g_assert_cmpuint(p.asked, ==, 0);

    /* asleep when it begins to decode */
    write_config_byte(&p, 6, PMCSR, 3);
    write_config_byte(&p, 6, COMMAND, 0);
    write_config_byte(&p, 6, COMMAND, 2);
    expect(&p, "2:0@e0400000");
    write_config_byte(&p, 6, PMCSR, 0);
    expect(&p, "2:0@e0400000 2:1@e0100000");

    /* the machine's reset */
    qtest_qmp_assert_success(p.qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(p.qts, "RESET");
    expect(&p, "");
    place(&p, 6, 0xe0300000);
    expect(&p, "2:1@e0300000");
    expect_said(&p, "");
    quit(&p);
}

/* `cont` resets a device in ERROR, which the guest does not see */
static void test_error_reset(void)
{
    const char *control = "dma-buf 1\nmigration 0 7\nmigration 1 7\n";
    g_autofree char *fails = g_strconcat(control, "arc 0 2 5 5 0", NULL);
    P2P p = {};

    start(&p, fails, PC OBJECT "-device vfio-pci,host=0000:65:00.0,"
          "iommufd=iommufd0,id=hd0,addr=5,enable-migration=on "
          "-device vfio-pci,host=0000:65:00.1,iommufd=iommufd0,id=hd1,addr=6,"
          "enable-migration=on");
    place(&p, 5, 0xe0000000);
    place(&p, 6, 0xe0100000);
    expect(&p, "2:0@e0000000 2:1@e0100000");
    qtest_qmp_assert_success(p.qts, "{'execute': 'stop'}");
    qtest_qmp_assert_success(p.qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(p.qts, "STOP");
    qtest_qmp_eventwait(p.qts, "STOP");
    fake_env_control(p.env, control);
    p.asked = 0;
    qtest_qmp_assert_success(p.qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(p.qts, "RESUME");
    expect(&p, "2:1@e0100000 2:0@e0000000");
    g_assert_cmpuint(p.asked, >, 0);
    quit(&p);
}

/* Two objects: each device's BAR is in the other's IOAS, not in its own */
static void test_objects(void)
{
    P2P p = {};

    start(&p, "dma-buf 1", PC OBJECT "-object iommufd,id=iommufd1 "
          "-device vfio-pci,host=0000:65:00.0,iommufd=iommufd0,id=hd0,addr=5 "
          "-device vfio-pci,host=0000:65:00.1,iommufd=iommufd1,id=hd1,addr=6");
    place(&p, 5, 0xe0000000);
    expect(&p, "2:0@e0000000");
    place(&p, 6, 0xe0100000);
    /* the fake numbers objects in each iommufd */
    expect(&p, "2:0@e0000000 2:1@e0100000");
    unplug(&p, "hd0");
    expect(&p, "");
    expect_said(&p, "");
    quit(&p);
}

#define NAME(n) "'0000:65:00." #n " BAR 0 mmaps[0]': "
#define CANNOT(n) \
    "info: vfio: " NAME(n) "this kernel cannot map it for DMA, so other " \
    "assigned devices cannot reach this device (peer-to-peer); everything " \
    "else works\n"
#define REFUSED(n, why) \
    "info: vfio: " NAME(n) "cannot be mapped for DMA (" why "), so other " \
    "assigned devices cannot reach it (peer-to-peer); everything else works\n"

typedef struct Failure {
    const char *name, *control, *live, *said;
    const char *later;          /* what is mapped when the BAR comes again */
} Failure;

static const Failure failures[] = {
    { "no-feature", "no VFIO_DEVICE_FEATURE", "", CANNOT(0) },
    { "driver-cannot", "fail VFIO_DEVICE_FEATURE 1 95", "", CANNOT(0) },
    { "sub-page", "fail VFIO_DEVICE_FEATURE 1 22", "",
      REFUSED(0, "Invalid argument"), "2:0@e0000000" },
    { "no-descriptors", "fail VFIO_DEVICE_FEATURE 1 24", "",
      REFUSED(0, "Too many open files"), "2:0@e0000000" },
    { "dma-buf-not-for-iommufd", "fail IOMMU_IOAS_MAP_FILE 1 95", "",
      CANNOT(0) },
    { "out-of-memory", "fail IOMMU_IOAS_MAP_FILE 1 12", "",
      REFUSED(0, "Cannot allocate memory"), "2:0@e0000000" },
    { "reserved-by-the-iommu", "hole 1 0xe0000000 0xe0ffffff", "",
      REFUSED(0, "Numerical result out of range") },
    /* just revoked: nothing to be said */
    { "revoked", "fail IOMMU_IOAS_MAP_FILE 1 19", "", "", "2:0@e0000000" },
};

/* The guest runs on, with one line, however often the BAR comes and goes */
static void test_failure(const void *data)
{
    const Failure *row = data;
    g_autofree char *control = g_strdup_printf("dma-buf 1\n%s", row->control);
    P2P p = {};

    start(&p, strstr(control, "fail") ? "dma-buf 1" : control,
          PC OBJECT "-device vfio-pci,host=0000:65:00.0,"
          "iommufd=iommufd0,id=hd0,addr=5 -device vfio-pci,host=0000:65:00.1,"
          "iommufd=iommufd0,id=hd1,addr=6");
    fake_env_control(p.env, control);       /* other features are not meant */
    place(&p, 5, 0xe0000000);
    expect(&p, row->live);
    write_config_byte(&p, 5, COMMAND, 0);
    write_config_byte(&p, 5, COMMAND, 2);
    expect(&p, row->later ?: "");
    if (!row->later && g_str_equal(row->said, CANNOT(0))) {
        g_assert_cmpuint(p.asked, ==, 1);
    }
    expect_said(&p, row->said);
    quit(&p);
}

/* An unmap that fails is told, and is not the end */
static void test_unmap_fails(void)
{
    P2P p = {};

    start(&p, BOTH);
    place(&p, 5, 0xe0000000);
    fake_env_control(p.env, "dma-buf 1\npower 0\npower 1\n"
                     "fail IOMMU_IOAS_UNMAP 1 14");
    write_config_byte(&p, 5, COMMAND, 0);
    place(&p, 6, 0xe0100000);
    expect(&p, "2:0@e0000000 (revoked) 2:1@e0100000");
    expect_said(&p, "vfio: unmapping [0xe0000000, 0xe00fffff] ("
                "'0000:65:00.0 BAR 0 mmaps[0]') failed: Bad address\n");
    quit(&p);
}

/* Behind a guest IOMMU: device 5 has page tables, device 6 none */

static void translate(P2P *p)
{
    qtest_memset(p->qts, ROOT, 0, 6 * 4096);
    qtest_writeq(p->qts, ROOT, CONTEXT | 1);
    qtest_writeq(p->qts, CONTEXT + 5 * 128, LEVEL3 | 1);
    qtest_writeq(p->qts, CONTEXT + 5 * 128 + 8, 1 << 8 | 1);
    qtest_writeq(p->qts, LEVEL3, LEVEL2 | 3);
    qtest_writeq(p->qts, LEVEL2, LEVEL1 | 3);
    qtest_writeq(p->qts, VTD(0x20), ROOT);
    qtest_writel(p->qts, VTD(0x18), 1u << 30);
    qtest_writel(p->qts, VTD(0x18), 1u << 31);
}

static void set_entry(P2P *p, uint64_t at, uint64_t entry)
{
    qtest_writeq(p->qts, at, entry);
    qtest_writeq(p->qts, VTD(0xf8), 1ull << 63 | 1ull << 60);
}

static void set_context(P2P *p, uint64_t entry)
{
    qtest_writeq(p->qts, CONTEXT + 5 * 128, entry);
    qtest_writeq(p->qts, VTD(0x28), 1ull << 63 | 1ull << 61);
}

static void flush_page(P2P *p, uint64_t iova)
{
    qtest_writeq(p->qts, VTD(0xf0), iova);
    qtest_writeq(p->qts, VTD(0xf8), 1ull << 63 | 3ull << 60 | 1ull << 32);
}

static void map(P2P *p, unsigned page, uint64_t entry)
{
    set_entry(p, LEVEL1 + page * 8, entry);
}

/* The IOAS that the first page table was made for: of the first device */
static unsigned first_ioas(P2P *p)
{
    g_autofree char *log = fake_env_take_log(p->env);
    const char *at = strstr(log, "IOMMU_HWPT_ALLOC ");
    unsigned ioas = 0;

    g_assert_nonnull(at);
    g_assert_cmpint(sscanf(strstr(at, "pt="), "pt=%u", &ioas), ==, 1);
    return ioas;
}

static void expect_copy(P2P *p, const char *log, const char *where,
                        const char *source)
{
    g_autofree char *line = g_strdup_printf("IOMMU_IOAS_COPY ioas=%u %s from=",
                                            p->only, where);
    const char *at = strstr(log, line);

    g_assert_nonnull(at);
    g_assert_true(g_str_has_prefix(strstr(at, "at="), source));
}

#define BEHIND(more) Q35 "-device intel-iommu,caching-mode=on " OBJECT \
    "-device vfio-pci,host=0000:65:00.0,iommufd=iommufd0,id=hd0,addr=5" more \
    " -device vfio-pci,host=0000:65:00.1,iommufd=iommufd0,id=hd1,addr=6" more

static void start_behind(P2P *p, const char *control)
{
    start(p, "dma-buf 1\npower 0\npower 1", BEHIND(""));
    fake_env_control(p->env, control);
    p->only = first_ioas(p);
    translate(p);
}

static void test_behind(void)
{
    P2P p = {};

    start_behind(&p, "dma-buf 1\npower 0\npower 1");
    place(&p, 5, 0xe0000000);
    place(&p, 6, 0xe0100000);
    expect(&p, "");
    map(&p, 5, 0xe0101000 | 3);
    expect(&p, "1+1000@5000");

    /* its own, and not for writing; nothing twice */
    map(&p, 6, 0xe0000000 | 1);
    expect(&p, "1+1000@5000 0+0@6000 (read-only)");
    p.maps = 0;
    map(&p, 7, 0);
    map(&p, 6, 0);
    expect(&p, "1+1000@5000");
    g_assert_cmpuint(p.maps, ==, 0);

    /* the guest's last word counts */
    map(&p, 5, 0x200000 | 3);
    expect(&p, "");
    map(&p, 5, 0xe0102000 | 3);
    expect(&p, "1+2000@5000");
    map(&p, 5, 0xe0002000 | 3);
    expect(&p, "0+2000@5000");

    /* the device loses its page tables */
    set_context(&p, 0);
    expect(&p, "");
    expect_said(&p, "");
    quit(&p);
}

/* The IOMMU is loaded before the devices, which have no BARs until then */
static void test_behind_loaded(void)
{
    static const char control[] =
        "dma-buf 1\nmigration 0 7\nmigration 1 7\npower 0\npower 1";
    static const char args[] = BEHIND(",enable-migration=on");
    g_autofree char *said = NULL;
    P2P p = {};

    start(&p, control, args);
    p.only = first_ioas(&p);
    translate(&p);
    place(&p, 5, 0xe0000000);
    place(&p, 6, 0xe0100000);
    map(&p, 5, 0x200000 | 3);
    map(&p, 6, 0xe0101000 | 3);
    map(&p, 7, 0xe0002000 | 1);
    expect(&p, "1+1000@6000 0+2000@7000 (read-only)");
    g_array_set_size(p.areas, 0);
    p.qts = fake_env_reload(p.env, p.qts, args);
    expect(&p, "0+2000@7000 (read-only) 1+1000@6000");
    said = fake_env_said(p.env);
    g_assert_null(strstr(said, "non memory"));
    quit(&p);
}

/* What was revoked comes again, if the guest maps it still */
static void test_behind_revoked(void)
{
    P2P p = {};

    start_behind(&p, "dma-buf 1\npower 0\npower 1");
    place(&p, 6, 0xe0100000);
    map(&p, 5, 0xe0103000 | 3);
    expect(&p, "1+3000@5000");

    /* FLR */
    write_config_byte(&p, 6, AF_CTRL, 1);
    expect(&p, "1+3000@5000");

    /* D3hot: mapped before, unmapped and mapped meanwhile */
    write_config_byte(&p, 6, PMCSR, 3);
    expect(&p, "");
    write_config_byte(&p, 6, PMCSR, 0);
    expect(&p, "1+3000@5000");
    write_config_byte(&p, 6, PMCSR, 3);
    map(&p, 5, 0);
    map(&p, 6, 0xe0104000 | 3);
    expect(&p, "");
    write_config_byte(&p, 6, PMCSR, 0);
    expect(&p, "1+4000@6000");
    write_config_byte(&p, 6, PMCSR, 3);
    map(&p, 6, 0x200000 | 3);
    write_config_byte(&p, 6, PMCSR, 0);
    expect(&p, "");

    /* memory decode, also when the BAR is elsewhere then */
    map(&p, 6, 0xe0104000 | 3);
    write_config_byte(&p, 6, COMMAND, 0);
    expect(&p, "");
    write_config_byte(&p, 6, COMMAND, 2);
    expect(&p, "1+4000@6000");
    place(&p, 6, 0xe0200000);
    expect(&p, "1+4000@6000");
    write_config_byte(&p, 6, COMMAND, 0);
    map(&p, 6, 0);
    write_config_byte(&p, 6, COMMAND, 2);
    expect(&p, "");

    /* a BAR that moves while it is decoded: nothing happens */
    map(&p, 6, 0xe0204000 | 3);
    expect(&p, "1+4000@6000");
    p.maps = 0;
    write_config(&p, 6, BAR0, 0xe0400000);
    expect(&p, "1+4000@6000");
    g_assert_cmpuint(p.maps, ==, 0);
    expect_said(&p, "");
    quit(&p);
}

/* A large page of the guest that shows several things */
static void test_behind_large(void)
{
    g_autofree char *log = NULL;
    P2P p = {};
    int i;

    start_behind(&p, "dma-buf 1\npower 0\npower 1");
    place(&p, 5, 0xe0000000);
    place(&p, 6, 0xe0100000);
    set_entry(&p, LEVEL2 + 8, 0xe0000000 | 1 << 7 | 3);
    expect(&p, "0+0@200000 1+0@300000");

    /* one page of it goes */
    for (i = 0; i < 512; i++) {
        qtest_writeq(p.qts, SMALL + i * 8, (0xe0000000 + i * 4096) | 3);
    }
    qtest_writeq(p.qts, SMALL + 0x101 * 8, 0);
    qtest_writeq(p.qts, LEVEL2 + 8, SMALL | 3);
    flush_page(&p, 0x301000);
    expect(&p, "0+0@200000 1+0@300000 1+2000@302000");

    /* and others come, without an unmap before: intel-iommu forgot the rest */
    write_config_byte(&p, 6, PMCSR, 3);
    expect(&p, "0+0@200000");
    qtest_writeq(p.qts, SMALL + 0x105 * 8, 0x200000 | 3);
    flush_page(&p, 0x305000);
    expect(&p, "0+0@200000");
    write_config_byte(&p, 6, PMCSR, 0);
    expect(&p, "0+0@200000 1+0@300000 1+2000@302000 1+6000@306000");
    qtest_writeq(p.qts, SMALL + 0x107 * 8, 0xe0003000 | 3);
    flush_page(&p, 0x307000);
    expect(&p, "0+0@200000 1+0@300000 1+2000@302000 1+6000@306000 "
           "1+8000@308000 0+3000@307000");

    /* all goes */
    set_context(&p, 0);
    expect(&p, "");
    qtest_writeq(p.qts, LEVEL2 + 8, 0);
    set_context(&p, LEVEL3 | 1);

    /* a BAR and nothing beside it */
    write_config_byte(&p, 6, COMMAND, 0);
    set_entry(&p, LEVEL2 + 16, 0xe0000000 | 1 << 7 | 3);
    expect(&p, "0+0@400000");

    /* RAM, and ROM in it */
    set_entry(&p, LEVEL2 + 24, 1 << 7 | 3);
    log = fake_env_take_log(p.env);
    g_test_message("log: %s", log);
    expect_copy(&p, log, "iova=0x600000 length=0xc0000",
                "at=0x0 flags=0x7 = 0\n");
    expect_copy(&p, log, "iova=0x6e0000 length=0x20000",
                "at=0xe0000 flags=0x5 = 0\n");
    expect_copy(&p, log, "iova=0x700000 length=0x100000",
                "at=0x100000 flags=0x7 = 0\n");
    expect_said(&p, "");
    quit(&p);
}

#define BUS1    (1 << 5)        /* slot 0 of the bus behind the root port */

/* A device that is unplugged takes along what the guest maps of it still */
static void test_behind_unplug(void)
{
    int i;
    P2P p = {};

    start(&p, "dma-buf 1\npower 1", Q35
          "-device intel-iommu,caching-mode=on " OBJECT
          "-device pcie-root-port,id=rp0,addr=7 "
          "-device vfio-pci,host=0000:65:00.0,iommufd=iommufd0,id=hd0,addr=5 "
          "-device vfio-pci,host=0000:65:00.1,iommufd=iommufd0,id=hd1,bus=rp0");
    p.only = first_ioas(&p);
    translate(&p);
    write_config(&p, 7, 0x18, 0x010100);        /* bus 1 */
    write_config(&p, 7, 0x20, 0xe010e010);      /* and its memory */
    write_config(&p, 7, COMMAND, 2);
    place(&p, BUS1, 0xe0100000);
    map(&p, 5, 0xe0100000 | 3);
    map(&p, 6, 0x200000 | 3);
    expect(&p, "1+0@5000");
    for (i = 0; i < 2; i++) {
        /* the second time it has no memory when it goes */
        qtest_qmp_device_del_send(p.qts, i ? "hd2" : "hd1");
        qtest_outl(p.qts, 0xcd0, 0);
        qtest_outl(p.qts, 0xcc8, 1);
        qtest_qmp_eventwait(p.qts, "DEVICE_DELETED");
        expect(&p, "");

        /* whoever comes is another */
        qtest_qmp_assert_success(p.qts, "{'execute': 'device_add', "
                                 "'arguments': {'driver': 'vfio-pci', 'id': "
                                 "%s, 'host': '0000:65:00.1', 'iommufd': "
                                 "'iommufd0', 'bus': 'rp0'}}",
                                 i ? "hd3" : "hd2");
        place(&p, BUS1, 0xe0100000);
        expect(&p, "");
        map(&p, 5, 0);
        map(&p, 5, 0xe0101000 | 1);
        expect(&p, "1+1000@5000 (read-only)");
        write_config_byte(&p, BUS1, PMCSR, 3);
        expect(&p, "");
    }
    expect_said(&p, "");
    quit(&p);
}

static const Failure behind[] = {
    { "no-feature", "no VFIO_DEVICE_FEATURE", "", CANNOT(1), "" },
    { "sub-page", "fail VFIO_DEVICE_FEATURE 2 22", "",
      REFUSED(1, "Invalid argument"), "1+0@5000" },
    { "no-descriptors", "fail VFIO_DEVICE_FEATURE 2 24", "",
      REFUSED(1, "Too many open files"), "1+0@5000" },
    { "no-address", "fail VFIO_DEVICE_FEATURE 2 19", "",
      REFUSED(1, "No such device"), "1+0@5000" },
    { "out-of-memory", "fail IOMMU_IOAS_MAP_FILE 2 12", "",
      REFUSED(1, "Cannot allocate memory"), "1+0@5000" },
    { "revoked", "fail IOMMU_IOAS_MAP_FILE 2 19", "", "", "1+0@5000" },
};

/* One line, however often the guest maps it; and the VM runs on */
static void test_behind_failure(const void *data)
{
    const Failure *row = data;
    g_autofree char *control = g_strdup_printf("dma-buf 1\n%s", row->control);
    P2P p = {};

    start_behind(&p, control);
    place(&p, 6, 0xe0100000);
    map(&p, 5, 0xe0100000 | 3);
    expect(&p, row->live);
    p.asked = 0;
    map(&p, 5, 0);
    map(&p, 5, 0xe0100000 | 3);
    map(&p, 6, 0xe0101000 | 3);
    map(&p, 6, 0);
    expect(&p, row->later);
    g_assert_cmpuint(p.asked, ==, row->later[0] ? 2 : 0);
    expect_said(&p, row->said);
    quit(&p);
}

/* An unmap that fails is told, and what the guest maps next is not */
static void test_behind_unmap_fails(void)
{
    P2P p = {};

    start_behind(&p, "dma-buf 1\npower 0\npower 1");
    place(&p, 6, 0xe0100000);
    map(&p, 5, 0xe0100000 | 3);
    fake_env_control(p.env, "dma-buf 1\npower 0\npower 1\n"
                     "fail IOMMU_IOAS_UNMAP 1 14");
    map(&p, 5, 0);
    expect(&p, "1+0@5000");
    map(&p, 5, 0x200000 | 3);
    expect(&p, "");
    expect_said(&p, "vfio: unmapping [0x5000, 0x5fff] ('vtd-05.0-dmar') "
                "failed: Bad address\n");
    quit(&p);
}

/* Another page of the BAR is mapped over one that cannot be unmapped */
static void test_behind_unmap_fails_twice(void)
{
    P2P p = {};

    start_behind(&p, "dma-buf 1\npower 0\npower 1");
    place(&p, 6, 0xe0100000);
    map(&p, 5, 0xe0100000 | 3);
    expect(&p, "1+0@5000");
    fake_env_control(p.env, "dma-buf 1\npower 0\npower 1\n"
                     "fail IOMMU_IOAS_UNMAP 1 14\nfail IOMMU_IOAS_UNMAP 2 14");
    map(&p, 5, 0xe0101000 | 3);
    expect(&p, "1+0@5000");
    fake_env_control(p.env, "dma-buf 1\npower 0\npower 1");
    map(&p, 5, 0);
    expect(&p, "");
    map(&p, 5, 0xe0101000 | 3);
    expect(&p, "1+1000@5000");
    quit(&p);
}

int main(int argc, char **argv)
{
    size_t i;

    g_test_init(&argc, &argv, NULL);
    qtest_add_func("vfio-iommufd-p2p/alone", test_alone);
    qtest_add_func("vfio-iommufd-p2p/revoked", test_revoked);
    qtest_add_func("vfio-iommufd-p2p/error-reset", test_error_reset);
    qtest_add_func("vfio-iommufd-p2p/objects", test_objects);
    qtest_add_func("vfio-iommufd-p2p/unmap-fails", test_unmap_fails);
    for (i = 0; i < ARRAY_SIZE(failures); i++) {
        g_autofree char *path = g_strdup_printf("vfio-iommufd-p2p/failure/%s",
                                                failures[i].name);

        qtest_add_data_func(path, &failures[i], test_failure);
    }
    qtest_add_func("vfio-iommufd-p2p/behind", test_behind);
    qtest_add_func("vfio-iommufd-p2p/behind/loaded", test_behind_loaded);
    qtest_add_func("vfio-iommufd-p2p/behind/revoked", test_behind_revoked);
    qtest_add_func("vfio-iommufd-p2p/behind/large", test_behind_large);
    qtest_add_func("vfio-iommufd-p2p/behind/unplug", test_behind_unplug);
    qtest_add_func("vfio-iommufd-p2p/behind/unmap-fails",
                   test_behind_unmap_fails);
    qtest_add_func("vfio-iommufd-p2p/behind/unmap-fails-twice",
                   test_behind_unmap_fails_twice);
    for (i = 0; i < ARRAY_SIZE(behind); i++) {
        g_autofree char *path = g_strdup_printf(
            "vfio-iommufd-p2p/behind/failure/%s", behind[i].name);

        qtest_add_data_func(path, &behind[i], test_behind_failure);
    }
    return g_test_run();
}
