/*
 * QTest testcase for dirty tracking of devices through iommufd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Devices of the fake kernel (fake-iommufd.h) write to guest memory while
 * calc-dirty-rate has RAM's dirty log on.  What QEMU enters there is told by
 * trace events, which name the RAM block; what it asks of the kernel, by the
 * fake's log, where "lost" is what was written and never asked for, and
 * "MISTAKE" what the kernel would not have refused but not have answered
 * either.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#include "fake-iommufd-env.h"

#define TRACE       " -trace vfio_ioas_dirty_* -trace vfio_ioas_written "
#define MACHINE     "-machine q35 -nodefaults -m 256,slots=2,maxmem=1G " TRACE
#define OBJECT      "-object iommufd,id=iommufd0,map-background=off"
#define DEV0        " -device vfio-pci,id=hd0,iommufd=iommufd0," \
                    "host=0000:65:00.0"
#define DEV1        " -device vfio-pci,id=hd1,iommufd=iommufd0," \
                    "host=0000:65:00.1"
#define AT          "0x2345000"
#define WRITE       "\nwrite 0 " AT " 8\n"

/* What the trace says of a write to AT: the page, or the huge page around it */
#define HUGE        "pc.ram 512 pages from 0x2200000\n"
#define PAGE        "pc.ram 1 pages from 0x2345000\n"

static FakeEnv *env;
static QTestState *qts;

static void start(const char *control, const char *args)
{
    env = fake_env_new();
    fake_env_control(env, control);
    qts = fake_env_start_heard(env, args);
    g_free(fake_env_take_log(env));
}

static bool is_said(const char *what)
{
    g_autofree char *said = fake_env_said(env);

    return strstr(said, what);
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;

    while ((text = strstr(text, what))) {
        text++;
        n++;
    }
    return n;
}

static void wait_said(const char *what)
{
    int i;

    for (i = 0; i < 1000 && !is_said(what); i++) {
        g_usleep(10000);
    }
    g_assert_cmpint(i, <, 1000);
}

static void fence(void)
{
    qtest_qmp_assert_success(qts, "{'execute': 'query-status'}");
}

/* Returns when the dirty log is on and was synced once */
static void log_on(int seconds)
{
    qtest_qmp_assert_success(qts, "{'execute': 'calc-dirty-rate', 'arguments': "
                             "{'calc-time': %d, 'mode': 'dirty-bitmap'}}",
                             seconds);
    wait_said("vfio_ioas_dirty_start");
    fence();
}

/* Returns, in MiB/s, what was written until then */
static int64_t log_off(void)
{
    wait_said("vfio_ioas_dirty_stop");
    return fake_env_dirty_rate(qts);
}

/* All in one: @control, with writes, holds from the first sync to the second */
static int64_t measure(const char *control)
{
    log_on(1);
    fake_env_control(env, control);
    return log_off();
}

/* The log since the last call; nobody was asked wrongly and nothing was lost */
static char *take_log(void)
{
    char *log = fake_env_take_log(env);

    g_test_message("log: %s", log);
    g_assert_null(strstr(log, "MISTAKE"));
    g_assert_null(strstr(log, "lost"));
    g_assert_null(strstr(log, "faults"));
    return log;
}

static void end(void)
{
    qtest_quit(qts);
    g_free(take_log());
    fake_env_free(env);
}

static QDict *query(QDict **answer, const char *list)
{
    QDict *info;

    *answer = qtest_qmp(qts, "{'execute': 'query-iommufd'}");
    info = qobject_to(QDict, qlist_peek(qdict_get_qlist(*answer, "return")));
    return qobject_to(QDict, qlist_peek(qdict_get_qlist(info, list)));
}

static void expect_dirty_by(const char *by)
{
    QDict *answer, *device = query(&answer, "devices");

    g_assert_cmpstr(qdict_get_str(device, "dirty-tracked-by"), ==, by);
    qobject_unref(answer);
}

/* By the IOMMU: one call for what is adjacent, one bit for a huge page */
static void test_iommu(void)
{
    g_autofree char *log = NULL, *said = NULL, *hmp = NULL;
    QDict *answer, *ioas;

    start("dirty 1", MACHINE OBJECT DEV0);
    expect_dirty_by("iommu");
    log_on(1);
    log = take_log();
    g_assert_cmpint(count(log, "SET_DIRTY_TRACKING hwpt=3 flags=0x1 = 0"), ==,
                    1);
    /* Below and above the legacy window, and the BIOS */
    g_assert_cmpint(count(log, "GET_DIRTY_BITMAP"), <=, 3);
    g_assert_nonnull(strstr(log, "iova=0x100000 length=0xff00000 = 0"));
    ioas = query(&answer, "ioases");
    g_assert_true(qdict_get_bool(ioas, "dirty-tracking"));
    g_assert_cmpint(qdict_get_int(ioas, "written-bytes"), ==, 0);
    qobject_unref(answer);

    fake_env_control(env, "dirty 1" WRITE "write 0 0x1000 1");
    g_assert_cmpint(log_off(), ==, 2);
    said = fake_env_said(env);
    g_assert_cmpint(count(said, "vfio_ioas_written"), ==, 2);
    g_assert_nonnull(strstr(said, HUGE));
    g_assert_nonnull(strstr(said, "pc.ram 1 pages from 0x1000\n"));
    g_free(log);
    log = take_log();
    g_assert_nonnull(strstr(log, "SET_DIRTY_TRACKING hwpt=3 flags=0x0 = 0"));

    ioas = query(&answer, "ioases");
    g_assert_false(qdict_get_bool(ioas, "dirty-tracking"));
    g_assert_cmpint(qdict_get_int(ioas, "written-bytes"), ==, 2 * MiB + 4096);
    qobject_unref(answer);
    hmp = qtest_hmp(qts, "info iommufd");
    g_assert_nonnull(strstr(hmp, "writes are not tracked, 2052 KiB reported"));
    g_assert_nonnull(strstr(hmp, "dirty tracking by iommu"));
    end();
}

/* Mapped by the smallest pages, one is what is reported */
static void test_huge_pages_off(void)
{
    g_autofree char *error = NULL;

    start("dirty 1", MACHINE OBJECT ",huge-pages=off" DEV0);
    measure("dirty 1" WRITE);
    g_assert_true(is_said(PAGE));
    end();

    env = fake_env_new();
    fake_env_control(env, "fail IOMMU_OPTION 1 22");
    error = fake_env_start_fails(env, MACHINE OBJECT ",huge-pages=off" DEV0);
    g_assert_nonnull(strstr(error, "vfio 0000:65:00.0: huge-pages=off: "
                            "IOMMU_OPTION_HUGE_PAGES failed: Invalid "
                            "argument\n"));
    fake_env_free(env);
}

/* Nobody tracks: all that is mapped, and a line that says so */
static void test_none(void)
{
    g_autofree char *log = NULL;

    start("", MACHINE OBJECT DEV0);
    expect_dirty_by("none");
    g_assert_cmpint(measure(WRITE), >=, 255);
    g_assert_true(is_said("warning: vfio: writes of devices to memory cannot "
                          "be tracked (neither 0000:65:00.0 nor an IOMMU "
                          "can): all 262"));
    g_assert_true(is_said(" KiB that they can reach count as written, at each "
                          "sync\n"));
    log = take_log();
    g_assert_null(strstr(log, "DIRTY"));
    end();
}

/* By the device; more ranges than it takes become fewer */
static void test_device(void)
{
    g_autofree char *log = NULL;

    start("dirty 1\ndma-log 0 1", MACHINE OBJECT DEV0);
    expect_dirty_by("device");
    measure("dirty 1\ndma-log 0 1" WRITE);
    g_assert_true(is_said(PAGE));
    log = take_log();
    g_assert_null(strstr(log, "DIRTY"));
    g_assert_cmpint(count(log, "DMA log ["), ==, 1);
    g_assert_nonnull(strstr(log, "DMA log [0x0, 0xffffffff]\n"));
    /* stopped by SET of STOP */
    g_assert_nonnull(strstr(log, "VFIO_DEVICE_FEATURE flags=0x20007 = 0"));
    end();

    start("dma-log 0 256", MACHINE OBJECT DEV0);
    log_on(60);
    g_free(log);
    log = take_log();
    g_assert_cmpint(count(log, "DMA log ["), >, 1);
    end();
}

/* Each by its own, of which one was told not to; one HWPT each */
static void test_mixed(void)
{
    const char *control = "dirty 1\ndma-log 0 9\ndma-log 1 9\nalone 1";
    g_autofree char *log = NULL, *said = NULL;
    g_autofree char *writes = g_strdup_printf("%s" WRITE
                                              "write 1 0x4567000 1", control);

    start(control, MACHINE OBJECT DEV0 DEV1
          ",x-device-dirty-page-tracking=off");
    measure(writes);
    said = fake_env_said(env);
    /* 1 page and 512, in one go */
    g_assert_nonnull(strstr(said, "pc.ram 513 pages from 0x2345000\n"));
    log = take_log();
    g_assert_cmpint(count(log, "SET_DIRTY_TRACKING"), ==, 2);
    g_assert_cmpint(count(log, "DMA log ["), >, 0);
    end();
}

/* Begin fails for one: nobody tracks, all is stopped, and it is said */
static void test_start_fails(void)
{
    g_autofree char *log = NULL;

    start("dirty 1\nalone 1", MACHINE OBJECT DEV0 DEV1);
    fake_env_control(env, "dirty 1\nalone 1\n"
                     "fail IOMMU_HWPT_SET_DIRTY_TRACKING 2 5");
    g_assert_cmpint(measure("dirty 1\nalone 1\n"), >=, 255);
    g_assert_true(is_said("cannot be tracked (IOMMU_HWPT_SET_DIRTY_TRACKING: "
                          "Input/output error): all"));
    log = take_log();
    g_assert_cmpint(count(log, "flags=0x1 = 0"), ==, 1);
    g_assert_cmpint(count(log, "flags=0x0 = 0"), ==, 1);
    g_assert_null(strstr(log, "GET_DIRTY_BITMAP"));
    end();

    /* A device that does not begin has an IOMMU before it, or not */
    start("dirty 1\ndma-log 0 9\ndma-log-fails 0 6 95", MACHINE OBJECT DEV0);
    measure("dirty 1\ndma-log 0 9" WRITE);
    g_assert_true(is_said(HUGE));
    g_assert_true(is_said("warning: vfio: VFIO_DEVICE_FEATURE_DMA_LOGGING_"
                          "START of 0000:65:00.0: Operation not supported; the IOMMU "
                          "tracks what it writes\n"));
    end();
}

/* A sync fails: what was asked for is dirty; a device's log is worth naught */
static void test_sync_fails(void)
{
    g_autofree char *said = NULL;

    start("dirty 1", MACHINE OBJECT DEV0);
    g_assert_cmpint(measure("dirty 1\nfail IOMMU_HWPT_GET_DIRTY_BITMAP 0 12"),
                    >=, 255);
    said = fake_env_said(env);
    g_assert_cmpint(count(said, "vfio: IOMMU_HWPT_GET_DIRTY_BITMAP of ["), ==,
                    1);
    g_assert_nonnull(strstr(said, "failed: Cannot allocate memory: all of it "
                            "counts as written\n"));
    end();

    start("dma-log 0 9", MACHINE OBJECT DEV0);
    measure("dma-log 0 9\ndma-log-fails 0 8 5");
    g_assert_true(is_said("cannot be tracked (VFIO_DEVICE_FEATURE_DMA_LOGGING_"
                          "REPORT of 0000:65:00.0: Input/output error): all"));
    g_assert_true(is_said("pc.ram 61184 pages from 0x100000\n"));
    end();
}

/* Devices and memory come and go meanwhile */

static void plug(const char *control)
{
    fake_env_control(env, control);
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'vfio-pci', 'id': 'hd1', "
                             "'bus': 'rp1', 'host': '0000:65:00.1', "
                             "'iommufd': 'iommufd0'}}");
}

static void unplug(const char *id)
{
    qtest_qmp_device_del_send(qts, id);
    qtest_qmp_assert_success(qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
}

static void test_hotplug(void)
{
    const char *control = "dirty 1\nalone 1\n";
    g_autofree char *log = NULL, *writes = NULL;

    /* The first device of all: its RAM is mapped when it tracks already */
    start(control, MACHINE OBJECT " -device pcie-root-port,id=rp1 "
          "-device bochs-display");
    qtest_qmp_assert_success(qts, "{'execute': 'calc-dirty-rate', 'arguments': "
                             "{'calc-time': 60, 'mode': 'dirty-bitmap'}}");
    g_usleep(200000);
    fence();
    plug(control);
    log = take_log();
    g_assert_nonnull(strstr(log, "SET_DIRTY_TRACKING hwpt=3 flags=0x1 = 0"));
    g_assert_cmpint(strstr(log, "SET_DIRTY") - log, <,
                    strstr(log, "IOAS_MAP") - log);

    /* What it wrote is read before its page table goes */
    writes = g_strdup_printf("%s\nwrite 1 " AT " 8", control);
    fake_env_control(env, writes);
    unplug("hd1");
    wait_said(HUGE);
    end();
}

/* A second one that logs, beside one that the IOMMU tracks; its last words */
static void test_hotplug_device_log(void)
{
    const char *control = "dirty 1\nalone 1\ndma-log 1 9";
    g_autofree char *log = NULL, *writes = NULL;

    start(control, MACHINE OBJECT DEV0 " -device pcie-root-port,id=rp1");
    log_on(60);
    plug(control);
    log = take_log();
    g_assert_nonnull(strstr(log, "DMA log ["));
    writes = g_strdup_printf("%s\nwrite 1 0x300000 8", control);
    fake_env_control(env, writes);
    unplug("hd1");
    wait_said("pc.ram 1 pages from 0x300000\n");
    end();
}

/* A DIMM that the guest ejects, written before */
static void test_memory_unplug(void)
{
    start("dirty 1", MACHINE OBJECT DEV0
          " -object memory-backend-ram,id=mem1,size=128M"
          " -device pc-dimm,id=dimm1,memdev=mem1");
    log_on(60);
    fake_env_control(env, "dirty 1\nwrite 0 0x100000000 1");
    qtest_qmp_device_del_send(qts, "dimm1");
    qtest_outl(qts, 0xa00, 0);
    qtest_outb(qts, 0xa14, 1 << 3);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
    g_assert_true(is_said("mem1 512 pages from 0x0\n"));
    end();
}

static void screendump(void)
{
    qtest_qmp_assert_success(qts, "{'execute': 'screendump', 'arguments': "
                             "{'filename': '/dev/null'}}");
}

/* A display reads its own memory's dirty log and leaves the rest alone */
static void test_section(void)
{
    const uint32_t config = 0x80000000 | 2 << 11;
    g_autofree char *log = NULL;

    start("dirty 1", MACHINE OBJECT DEV0
          " -device bochs-display,id=vga,addr=2");
    qtest_outl(qts, 0xcf8, config | 0x10);
    qtest_outl(qts, 0xcfc, 0xe0000000);
    qtest_outl(qts, 0xcf8, config | 0x18);
    qtest_outl(qts, 0xcfc, 0xe2000000);
    qtest_outl(qts, 0xcf8, config | 0x04);
    qtest_outl(qts, 0xcfc, 0x2);
    /* 640 x 480 x 32, on */
    qtest_writew(qts, 0xe2000500 + 2 * 1, 640);
    qtest_writew(qts, 0xe2000500 + 2 * 2, 480);
    qtest_writew(qts, 0xe2000500 + 2 * 3, 32);
    qtest_writew(qts, 0xe2000500 + 2 * 4, 1);
    log_on(60);
    g_free(take_log());
    fake_env_control(env, "dirty 1\nwrite 0 0xe0000000 1" WRITE);
    screendump();               /* draws all in a new mode */
    screendump();
    log = take_log();
    g_assert_cmpint(count(log, "GET_DIRTY_BITMAP"), >=, 1);
    g_assert_cmpint(count(log, "GET_DIRTY_BITMAP hwpt=3 flags=0x0 "
                          "iova=0xe0000000"), ==,
                    count(log, "GET_DIRTY_BITMAP"));
    g_assert_true(is_said("bochs-display-vram 512 pages from 0x0\n"));
    g_assert_false(is_said(HUGE));
    qtest_quit(qts);
    fake_env_free(env);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

#define TEST(name, fn) qtest_add_func("vfio-iommufd-dirty/" name, fn)
    TEST("iommu", test_iommu);
    TEST("huge-pages-off", test_huge_pages_off);
    TEST("none", test_none);
    TEST("device", test_device);
    TEST("mixed", test_mixed);
    TEST("start-fails", test_start_fails);
    TEST("sync-fails", test_sync_fails);
    TEST("hotplug", test_hotplug);
    TEST("hotplug-device-log", test_hotplug_device_log);
    TEST("memory-unplug", test_memory_unplug);
    TEST("section", test_section);
    return g_test_run();
}
