/*
 * QTest: BARs of assigned devices are mapped for the DMA of others
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two devices with a BAR of 1 MiB against the fake kernel as of Linux 6.19,
 * which revokes what is mapped of a BAR while its device has no memory.  What
 * is mapped is read from the fake's log after each step: nothing may be missing
 * and nothing may be there that is revoked.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qdict.h"
#include "fake-iommufd-env.h"

#define PC      "-machine pc -m 64 -nodefaults "
#define OBJECT  "-object iommufd,id=iommufd0,map-background=off "
#define COMMAND 0x04
#define BAR0    0x10
#define PMCSR   0x64
#define AF_CTRL 0x74

typedef struct Area {
    unsigned ioas, device;
    uint64_t iova, length;
    bool revoked;
} Area;

typedef struct P2P {
    FakeEnv *env;
    QTestState *qts;
    GArray *areas;              /* live now, of BARs */
    GArray *ioases;             /* their ids, see number() */
    unsigned asked;             /* dma-bufs, since the last look */
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

static void write_config(P2P *p, unsigned slot, uint8_t reg, uint32_t value)
{
    qtest_outl(p->qts, 0xcf8, 0x80000000 | slot << 11 | (reg & ~3));
    qtest_outl(p->qts, 0xcfc, value);
}

static void write_config_byte(P2P *p, unsigned slot, uint8_t reg, uint8_t value)
{
    qtest_outl(p->qts, 0xcf8, 0x80000000 | slot << 11 | (reg & ~3));
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
    unsigned long long length, iova;
    unsigned device, open, i;
    Area a = {};
    int ret;

    if (sscanf(line, "IOMMU_IOAS_MAP_FILE ioas=%u iova=%llx length=%llx "
               "start=0x0 flags=0x7 dmabuf=%u = %d", &a.ioas, &iova, &length,
               &a.device, &ret) == 5 && !ret) {
        a.iova = iova;
        a.length = length;
        g_array_append_val(p->areas, a);
    } else if (sscanf(line, "IOMMU_IOAS_UNMAP ioas=%u iova=%llx length=%llx = "
                      "%d", &a.ioas, &iova, &length, &ret) == 4 && !ret) {
        drop(p->areas, a.ioas, iova, length);
    } else if (sscanf(line, "revoked device=%u", &device) == 1) {
        for (i = 0; i < p->areas->len; i++) {
            g_array_index(p->areas, Area, i).revoked |=
                g_array_index(p->areas, Area, i).device == device;
        }
    } else if (sscanf(line, "dma-buf device=%u offset=%*x length=%*x open=%u",
                      &device, &open) == 2) {
        g_assert_cmpuint(open, ==, 1);      /* those before are closed */
    }
    p->asked += g_str_has_prefix(line, "VFIO_DEVICE_FEATURE flags=0x1000b ");
}

/* "IOAS:device@iova" of what is mapped, in the order it was, or "" */
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

        g_string_append_printf(live, "%s%u:%u@%" PRIx64 "%s", i ? " " : "",
                               number(p, a->ioas), a->device, a->iova,
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

int main(int argc, char **argv)
{
    size_t i;

    g_test_init(&argc, &argv, NULL);
    qtest_add_func("vfio-iommufd-p2p/alone", test_alone);
    qtest_add_func("vfio-iommufd-p2p/revoked", test_revoked);
    qtest_add_func("vfio-iommufd-p2p/objects", test_objects);
    qtest_add_func("vfio-iommufd-p2p/unmap-fails", test_unmap_fails);
    for (i = 0; i < ARRAY_SIZE(failures); i++) {
        g_autofree char *path = g_strdup_printf("vfio-iommufd-p2p/failure/%s",
                                                failures[i].name);

        qtest_add_data_func(path, &failures[i], test_failure);
    }
    return g_test_run();
}
