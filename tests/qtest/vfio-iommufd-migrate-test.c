/*
 * QTest: migration of VFIO devices, protocol v2
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two QEMUs, each with a device of the fake kernel (fake-vfio-mig.c), which
 * tells in its log through which states a device went, and which is told what
 * shall fail.  The state of the device is the beginning of its BAR 0.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#include "qapi/qmp/qstring.h"
#include "libqos/pci-pc.h"
#include "hw/pci/pci_regs.h"
#include "fake-iommufd-env.h"

#define MACHINE "-machine q35 -m 16 -nodefaults -object iommufd,id=iommufd0 "
#define DEVICE(n) " -device vfio-pci,host=0000:65:00." #n ",iommufd=iommufd0," \
                  "id=hd" #n ",addr=5,enable-migration=on"
#define INCOMING " -incoming defer"
#define BAR     0xe0000000ULL
#define FULL    "migration 0 7\nmigration 1 7\n"

static char *channel;

static void switch_on(QTestState *qts, int slot, uint64_t bar)
{
    qtest_outl(qts, 0xcf8, 0x80000010 | slot << 11);
    qtest_outl(qts, 0xcfc, bar);
    qtest_outl(qts, 0xcf8, 0x80000004 | slot << 11);
    qtest_outw(qts, 0xcfc, 6);
}

static void fill(QTestState *qts, uint64_t bar, uint32_t seed)
{
    int i;

    for (i = 0; i < 64; i++) {
        qtest_writel(qts, bar + i * 0x3f30, seed + i);
    }
}

static void check_filled(QTestState *qts, uint64_t bar, uint32_t seed)
{
    int i;

    for (i = 0; i < 64; i++) {
        g_assert_cmphex(qtest_readl(qts, bar + i * 0x3f30), ==, seed + i);
    }
}

static void set_downtime_limit(QTestState *qts, int ms)
{
    qtest_qmp_assert_success(qts, "{'execute': 'migrate-set-parameters', "
                             "'arguments': {'downtime-limit': %d}}", ms);
}

static void migrate_with_limit(QTestState *qts, const char *uri, int ms)
{
    set_downtime_limit(qts, ms);
    qtest_qmp_assert_success(qts, "{'execute': 'migrate', 'arguments': "
                             "{'uri': %s}}", uri);
}

/* Nobody tracks what the device writes, so downtime has to allow for all RAM */
static void migrate(QTestState *qts, const char *uri)
{
    migrate_with_limit(qts, uri, 2000000);
}

static void wait_at_channel(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'migrate-incoming', "
                             "'arguments': {'uri': %s}}", channel);
}

static QDict *query(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-migrate'}");
    QDict *info = qobject_ref(qdict_get_qdict(rsp, "return"));

    qobject_unref(rsp);
    return info;
}

/* Leaves it in the log */
static void wait_logged(FakeEnv *env, const char *what)
{
    int i;

    for (i = 0; i < 6000; i++) {
        g_autofree char *log = NULL;

        if (g_file_get_contents(env->log, &log, NULL, NULL) &&
            strstr(log, what)) {
            return;
        }
        g_usleep(5 * 1000);
    }
    g_error("not logged: %s", what);
}

/* Waits for the end; error-desc or "" */
static char *ends(QTestState *qts, const char *status)
{
    char *why;
    QDict *d;
    int i;

    for (i = 0; i < 6000; i++) {
        const char *now;

        d = query(qts);
        now = qdict_get_str(d, "status");
        if (g_str_equal(now, "completed") || g_str_equal(now, "failed") ||
            g_str_equal(now, "cancelled")) {
            break;
        }
        qobject_unref(d);
        g_usleep(5 * 1000);
    }
    g_assert_cmpint(i, <, 6000);
    g_assert_cmpstr(qdict_get_str(d, "status"), ==, status);
    why = g_strdup(qdict_get_try_str(d, "error-desc") ?: "");
    qobject_unref(d);
    while (fake_env_has_status(qts, "finish-migrate")) {
        g_usleep(5 * 1000);                     /* until then cont is refused */
    }
    return why;
}

/* "RUNNING PRE_COPY ...": what device @n went through, a failed one with ! */
static char *states(const char *log, int n)
{
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    GString *s = g_string_new("");
    int i;

    for (i = 0; lines[i]; i++) {
        char to[32];
        int index, ret;

        g_assert_null(strstr(lines[i], "the last is open"));
        if (sscanf(lines[i], "mig %d %*s -> %31s = %d", &index, to,
                   &ret) == 3 && index == n) {
            g_string_append_printf(s, "%s%s%s", s->len ? " " : "", to,
                                   ret ? "!" : "");
        }
    }
    return g_string_free(s, false);
}

static void check_states(const char *log, int n, const char *want)
{
    g_autofree char *s = states(log, n);

    g_assert_cmpstr(s, ==, want);
}

static void heard(FakeEnv *env, const char *text)
{
    g_autofree char *said = fake_env_said(env);

    g_assert_nonnull(strstr(said, text));
}

static FakeEnv *new_env(const char *control)
{
    FakeEnv *env = fake_env_new();

    channel = g_strdup_printf("unix:%s/channel", env->dir);
    fake_env_control(env, control);
    return env;
}

static void free_env(FakeEnv *env)
{
    g_free(channel);
    fake_env_free(env);
}

/* What the driver offers decides which states are seen */
static void test_moves(void)
{
    static const struct {
        const char *flags, *source, *destination;
    } rows[] = {
        { "7", "PRE_COPY PRE_COPY_P2P STOP_COPY STOP",
          "RESUMING STOP RUNNING_P2P RUNNING" },
        { "5", "PRE_COPY STOP_COPY STOP", "RESUMING STOP RUNNING" },
        { "3", "RUNNING_P2P STOP STOP_COPY STOP",
          "RESUMING STOP RUNNING_P2P RUNNING" },
        { "1", "STOP STOP_COPY STOP", "RESUMING STOP RUNNING" },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *control = g_strdup_printf("migration 0 %s\n"
                                                   "migration 1 %s",
                                                   rows[i].flags,
                                                   rows[i].flags);
        FakeEnv *env = new_env(control);
        QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
        QTestState *b = fake_env_start(env, MACHINE DEVICE(1) INCOMING);
        g_autofree char *log = NULL, *why = NULL;
        QDict *d;

        switch_on(a, 5, BAR);
        fill(a, BAR, 0x1000);
        wait_at_channel(b);
        migrate(a, channel);
        why = ends(a, "completed");
        qtest_qmp_eventwait(b, "RESUME");
        check_filled(b, BAR, 0x1000);
        d = query(a);
        g_assert_cmpint(qdict_get_int(qdict_get_qdict(d, "vfio"),
                                      "transferred"), ==,
                        255 * 4096 + 24);
        qobject_unref(d);
        log = fake_env_take_log(env);
        check_states(log, 0, rows[i].source);
        check_states(log, 1, rows[i].destination);
        qtest_quit(a);
        qtest_quit(b);
        free_env(env);
    }
}

/*
 * Each step of the source fails in turn, and leaves the device where it was or
 * in ERROR.  The migration fails, but for the steps it can do without; the VM
 * goes on, perhaps after `cont`, and the next migration succeeds.
 */
static void test_source_fails(void)
{
    static const struct {
        const char *arc, *status, *why;
        bool stops;
    } rows[] = {
        { "2 6 5 2", "failed", "vfio 0000:65:00.0: the device cannot go from "
          "RUNNING to PRE_COPY: Input/output error; it is in RUNNING now" },
        { "2 6 5 0", "failed", "vfio 0000:65:00.0: the device cannot go from "
          "RUNNING to PRE_COPY: Input/output error; it is in ERROR now", true },
        { "6 7 5 6", "completed", "" },
        { "6 7 5 0", "failed", "vfio 0000:65:00.0: the device is in ERROR, "
          "from where it cannot go on", true },
        { "7 3 5 7", "failed", "vfio 0000:65:00.0: the device cannot go from "
          "PRE_COPY_P2P to STOP_COPY: Input/output error; it is in "
          "PRE_COPY_P2P now" },
        { "7 3 5 1", "completed", "" },
        { "7 3 5 0", "failed", "vfio 0000:65:00.0: the device cannot go from "
          "PRE_COPY_P2P to STOP_COPY: Input/output error; it is in ERROR now",
          true },
        /* it stops when asked again, but has written since RAM was read */
        { "7 3 16 7 1", "failed", "vfio 0000:65:00.0: the device cannot go "
          "from PRE_COPY_P2P to STOP_COPY: Device or resource busy; it is in "
          "PRE_COPY_P2P now" },
        { "3 1 5 3", "completed", "" },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *control = g_strdup_printf(FULL "arc 0 %s",
                                                   rows[i].arc);
        FakeEnv *env = new_env(FULL);
        QTestState *a = fake_env_start_heard(env, MACHINE DEVICE(0));
        g_autofree char *why = NULL, *again = NULL;

        g_test_message("%s", rows[i].arc);
        switch_on(a, 5, BAR);
        fill(a, BAR, 0x2000);
        fake_env_control(env, control);
        migrate(a, "exec:cat >/dev/null");
        why = ends(a, rows[i].status);
        g_assert_cmpstr(why, ==, rows[i].why);
        fake_env_control(env, FULL);
        if (rows[i].stops) {
            fake_env_wait_status(a, "io-error");
            heard(env, "VM stopped, 'cont' resets the device: the device");
        }
        if (rows[i].stops || g_str_equal(rows[i].status, "completed")) {
            qtest_qmp_assert_success(a, "{'execute': 'cont'}");
        }
        fake_env_wait_status(a, "running");
        if (rows[i].stops) {
            heard(env, "the device was reset, the guest's driver has to start "
                  "it anew");
        }
        check_filled(a, BAR, 0x2000);
        migrate(a, "exec:cat >/dev/null");
        again = ends(a, "completed");
        qtest_quit(a);
        free_env(env);
    }
}

/* The gate is open and RAM is mapped before the VM runs */
static void test_gate(void)
{
    FakeEnv *env = new_env(FULL);
    QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
    QTestState *b = fake_env_start(env, MACHINE DEVICE(1) " -S" INCOMING);
    g_autofree char *why = NULL, *log = NULL;
    QDict *rsp, *info, *d;

    switch_on(a, 5, BAR);
    fill(a, BAR, 0x3000);
    wait_at_channel(b);
    migrate(a, channel);
    why = ends(a, "completed");
    why = (g_free(why), ends(b, "completed"));
    rsp = qtest_qmp(b, "{'execute': 'query-iommufd'}");
    info = qobject_to(QDict, qlist_peek(qdict_get_qlist(rsp, "return")));
    d = qobject_to(QDict, qlist_peek(qdict_get_qlist(info, "devices")));
    g_assert_true(qdict_get_bool(d, "dma"));
    d = qobject_to(QDict, qlist_peek(qdict_get_qlist(info, "ioases")));
    g_assert_cmpint(qdict_get_int(d, "pending-bytes"), ==, 0);
    qobject_unref(rsp);
    log = fake_env_take_log(env);
    check_states(log, 1, "RESUMING STOP");
    check_filled(b, BAR, 0x3000);
    qtest_quit(a);
    qtest_quit(b);
    free_env(env);
}

/* No device stops while another may reach into it */
static void test_two(void)
{
    FakeEnv *env = new_env(FULL);
    QTestState *a = fake_env_start(env, MACHINE DEVICE(0)
                                   " -device vfio-pci,host=0000:65:00.1,"
                                   "iommufd=iommufd0,id=hd1,addr=6,"
                                   "enable-migration=on");
    g_autofree char *why = NULL, *log = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned p2p = 0, stopped = 0, prepared = 0, running = 0;
    int i;

    why = (migrate(a, "exec:cat >/dev/null"), ends(a, "completed"));
    qtest_qmp_assert_success(a, "{'execute': 'cont'}");
    log = fake_env_take_log(env);
    lines = g_strsplit(log, "\n", -1);
    for (i = 0; lines[i]; i++) {
        p2p += strstr(lines[i], "-> PRE_COPY_P2P = 0") != NULL;
        if (strstr(lines[i], "-> STOP_COPY = 0")) {
            g_assert_cmpuint(p2p, ==, 2);
            stopped++;
        }
        prepared += strstr(lines[i], "-> RUNNING_P2P = 0") != NULL;
        if (strstr(lines[i], "-> RUNNING = 0")) {
            g_assert_cmpuint(prepared, ==, 2);
            running++;
        }
    }
    g_assert_cmpuint(stopped, ==, 2);
    g_assert_cmpuint(running, ==, 2);
    qtest_quit(a);
    free_env(env);
}

/* The reasons that query-migrate gives, separated by newlines */
static char *blocked(QTestState *qts)
{
    QDict *d = query(qts);
    GString *s = g_string_new("");
    QListEntry *e;

    if (qdict_haskey(d, "blocked-reasons")) {
        QLIST_FOREACH_ENTRY(qdict_get_qlist(d, "blocked-reasons"), e) {
            g_string_append_printf(s, "%s%s", s->len ? "\n" : "",
                                   qstring_get_str(qobject_to(QString,
                                                   qlist_entry_obj(e))));
        }
    }
    qobject_unref(d);
    g_test_message("blocked: %s", s->str);
    return g_string_free(s, false);
}

static void plug(QTestState *qts, int n, const char *migrate)
{
    g_autofree char *host = g_strdup_printf("0000:65:00.%d", n);
    g_autofree char *id = g_strdup_printf("hd%d", n);
    g_autofree char *bus = g_strdup_printf("rp%d", n);

    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'vfio-pci', 'id': %s, 'host': %s, "
                             "'iommufd': 'iommufd0', 'bus': %s, "
                             "'enable-migration': %s}}", id, host, bus,
                             migrate);
}

static void unplug(QTestState *qts, const char *id)
{
    qtest_qmp_assert_success(qts, "{'execute': 'device_del', 'arguments': "
                             "{'id': %s}}", id);
    qtest_qmp_assert_success(qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
}

#define OFF "vfio 0000:65:00.0: migration is switched off " \
            "(enable-migration=off)"
#define NO_DRIVER "vfio 0000:65:00.1: the host's driver cannot migrate the " \
                  "device (VFIO_DEVICE_FEATURE_MIGRATION: Inappropriate " \
                  "ioctl for device)"
#define NO_LOG "nothing reports which memory the device writes: to migrate " \
               "it (enable-migration=on), all memory is sent while the VM " \
               "is stopped, for which downtime-limit has to allow"
#define NO_P2P "vfio 0000:65:00.1: the driver cannot keep the device from " \
               "peer-to-peer DMA (VFIO_MIGRATION_P2P), so it cannot migrate " \
               "beside other devices"
#define PORTS  " -device pcie-root-port,id=rp0,chassis=1,slot=1" \
               " -device pcie-root-port,id=rp1,chassis=2,slot=2"

/* What blocks comes and goes with the devices */
static void test_blockers(void)
{
    static const struct {
        const char *control, *first, *second, *text;
    } rows[] = {
        { FULL, "off", "on", OFF },
        { "migration 0 7", "on", "auto", NO_DRIVER },
        { "migration 0 7", "off", "auto", OFF "\n" NO_DRIVER },
        { FULL, "on", "auto", "vfio 0000:65:00.1: " NO_LOG },
        { "migration 0 7\nmigration 1 5", "on", "on", NO_P2P },
        { FULL, "on", "on", "" },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        FakeEnv *env = new_env(rows[i].control);
        QTestState *qts = fake_env_start(env, MACHINE PORTS);
        g_autofree char *both = NULL, *none = NULL;

        plug(qts, 0, rows[i].first);
        plug(qts, 1, rows[i].second);
        both = blocked(qts);
        g_assert_cmpstr(both, ==, rows[i].text);
        unplug(qts, "hd1");
        if (g_str_equal(rows[i].first, "off")) {
            unplug(qts, "hd0");
        }
        none = blocked(qts);
        g_assert_cmpstr(none, ==, "");
        qtest_quit(qts);
        free_env(env);
    }
}

/* What cannot be had is an error, and what can be had but is dear, a warning */
static void test_wanted(void)
{
    static const struct {
        const char *control, *args, *text;
    } rows[] = {
        { "", MACHINE DEVICE(1), NO_DRIVER },
        { FULL, MACHINE "-only-migratable" DEVICE(0) ",enable-migration=off",
          OFF },
        { "", MACHINE "-only-migratable -device vfio-pci,host=0000:65:00.1,"
          "iommufd=iommufd0", NO_DRIVER },
    };
    g_autofree char *log = NULL;
    FakeEnv *env;
    QTestState *qts;
    QDict *rsp;
    size_t i;

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *said = NULL;

        env = new_env(rows[i].control);
        said = fake_env_start_fails(env, rows[i].args);
        g_assert_nonnull(strstr(said, rows[i].text));
        free_env(env);
    }

    /* Plugged and refused, it is free again */
    env = new_env("");
    qts = fake_env_start(env, MACHINE PORTS);
    rsp = qtest_qmp(qts, "{'execute': 'device_add', 'arguments': {'driver': "
                    "'vfio-pci', 'id': 'hd1', 'host': '0000:65:00.1', "
                    "'iommufd': 'iommufd0', 'bus': 'rp1', "
                    "'enable-migration': 'on'}}");
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"), ==,
                    NO_DRIVER);
    qobject_unref(rsp);
    log = fake_env_take_log(env);
    g_assert_nonnull(strstr(log, "gone /dev/vfio/devices/vfio1 mapped=0"));
    plug(qts, 1, "auto");
    qtest_quit(qts);
    free_env(env);
    env = new_env(FULL);
    qts = fake_env_start_heard(env, MACHINE DEVICE(0));
    heard(env, "warning: vfio 0000:65:00.0: " NO_LOG);
    qtest_quit(qts);
    free_env(env);
}

/* RAM that cannot be pinned there is seen before the source gives the VM up */
static void test_destination_full(void)
{
    FakeEnv *env = new_env(FULL);
    QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
    QTestState *b = fake_env_start_heard(env, MACHINE DEVICE(1) INCOMING);

    switch_on(a, 5, BAR);
    fill(a, BAR, 0x4000);
    wait_at_channel(b);
    fake_env_control(env, FULL "fail IOMMU_IOAS_MAP 1 12");
    qtest_set_expected_status(b, 1);
    migrate(a, channel);
    while (qtest_probe_child(b)) {
        g_usleep(5 * 1000);
    }
    heard(env, "for DMA: the host is out of memory");
    heard(env, "vfio 0000:65:00.1: its config space cannot be loaded: Cannot "
          "allocate memory");
    qtest_quit(b);
    qtest_quit(a);
    free_env(env);
}

/* Each step of the destination fails in turn */
static void test_destination_fails(void)
{
    static const struct {
        const char *arc, *text;
        bool loaded;
    } rows[] = {
        { "2 4 5 2", "vfio 0000:65:00.1: the device cannot go from RUNNING to "
          "RESUMING: Input/output error; it is in RUNNING now" },
        { "4 1 22 0", "vfio 0000:65:00.1: the device cannot go from RESUMING "
          "to STOP: Invalid argument; it is in ERROR now" },
        { "1 5 5 1", "vfio 0000:65:00.1: VM stopped, 'cont' tries again: the "
          "device cannot go from STOP to RUNNING_P2P: Input/output error; it "
          "is in STOP now", true },
        { "5 2 5 5", "vfio 0000:65:00.1: VM stopped, 'cont' tries again: the "
          "device cannot go from RUNNING_P2P to RUNNING: Input/output error; "
          "it is in RUNNING_P2P now", true },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *control = g_strdup_printf(FULL "arc 1 %s",
                                                   rows[i].arc);
        FakeEnv *env = new_env(control);
        QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
        QTestState *b = fake_env_start_heard(env, MACHINE DEVICE(1) INCOMING);
        QDict *d;

        switch_on(a, 5, BAR);
        fill(a, BAR, 0x4000);
        wait_at_channel(b);
        if (rows[i].loaded) {
            migrate(a, channel);
            fake_env_wait_status(b, "io-error");
            heard(env, rows[i].text);
            fake_env_control(env, FULL);
            qtest_qmp_assert_success(b, "{'execute': 'cont'}");
            fake_env_wait_status(b, "running");
            check_filled(b, BAR, 0x4000);
            qtest_quit(b);
        } else {
            qtest_set_expected_status(b, 1);
            migrate(a, channel);
            while (qtest_probe_child(b)) {
                g_usleep(5 * 1000);
            }
            heard(env, rows[i].text);
            qtest_quit(b);
            do {                /* it may have sent everything by then */
                d = query(a);
                control = (g_free(control),
                           g_strdup(qdict_get_str(d, "status")));
                qobject_unref(d);
            } while (!g_str_equal(control, "completed") &&
                     !g_str_equal(control, "failed"));
            qtest_qmp_assert_success(a, "{'execute': 'cont'}");
            check_filled(a, BAR, 0x4000);
        }
        qtest_quit(a);
        free_env(env);
    }
}

static bool set_capability(QTestState *qts, const char *name, bool on)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'migrate-set-capabilities', "
                           "'arguments': {'capabilities': [{'capability': %s, "
                           "'state': %i}]}}", name, on);
    bool done = !qdict_haskey(rsp, "error");

    qobject_unref(rsp);
    return done;
}

/*
 * What ends a migration that goes on: postcopy, which the core allows for block
 * bitmaps alone, and the guest, which switches off the slot of the device
 */
static void test_interrupted(void)
{
    static const char *const why[] = {
        "vfio 0000:65:00.0: postcopy does not go with an assigned device",
        "vfio 0000:65:00.0: the guest has removed the device",
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(why); i++) {
        FakeEnv *env = new_env(FULL);
        QTestState *a = fake_env_start(env, MACHINE
                                       "-global ICH9-LPC.acpi-pci-hotplug-with-"
                                       "bridge-support=off "
                                       "-device pcie-root-port,id=rp,addr=6 "
                                       "-device vfio-pci,host=0000:65:00.0,"
                                       "iommufd=iommufd0,id=hd0,bus=rp,"
                                       "enable-migration=on");
        g_autofree char *said = NULL, *again = NULL;

        g_assert_true(set_capability(a, "dirty-bitmaps", true));
        migrate_with_limit(a, "exec:cat >/dev/null", 0);
        wait_logged(env, "RUNNING -> PRE_COPY = 0");
        if (i == 0) {
            qtest_qmp_assert_success(a, "{'execute': "
                                     "'migrate-start-postcopy'}");
        } else {
            QPCIBus *bus = qpci_new_pc(a, NULL);
            QPCIDevice *port = qpci_device_find(bus, QPCI_DEVFN(6, 0));
            uint8_t cap = qpci_find_capability(port, PCI_CAP_ID_EXP, 0);

            qpci_config_writew(port, cap + PCI_EXP_SLTCTL, PCI_EXP_SLTCTL_PCC |
                               PCI_EXP_SLTCTL_PWR_IND_OFF);
            qtest_qmp_eventwait(a, "DEVICE_DELETED");
            g_free(port);
            qpci_free_pc(bus);
        }
        said = ends(a, "failed");
        g_assert_cmpstr(said, ==, why[i]);
        fake_env_wait_status(a, "running");
        migrate(a, "exec:cat >/dev/null");
        again = ends(a, "completed");
        qtest_quit(a);
        free_env(env);
    }
}

/*
 * The source cannot: nothing has happened to it afterwards.  Returns false if
 * there is no such capability.
 */
static bool refused(const char *capability, const char *control,
                    const char *want)
{
    FakeEnv *env = new_env(control);
    QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
    g_autofree char *why = NULL, *again = NULL;
    bool can = !capability || set_capability(a, capability, true);

    if (can) {
        migrate(a, "exec:cat >/dev/null");
        why = ends(a, "failed");
        g_assert_cmpstr(why, ==, want);
        fake_env_wait_status(a, "running");
        if (capability) {
            g_autofree char *log = fake_env_take_log(env);

            check_states(log, 0, "");
            g_assert_true(set_capability(a, capability, false));
        }
        fake_env_control(env, FULL);
        migrate(a, "exec:cat >/dev/null");
        again = ends(a, "completed");
    }
    qtest_quit(a);
    free_env(env);
    return can;
}

static void test_refused(void)
{
    g_assert_true(refused("postcopy-ram", FULL, "vfio 0000:65:00.0: "
                          "migration capability postcopy-ram does not go with "
                          "an assigned device"));
    refused(NULL, FULL "read-error 0 5", "vfio 0000:65:00.0: reading the state "
            "of the device failed: Input/output error");
    refused(NULL, FULL "read-error 0 19", "vfio 0000:65:00.0: the device was "
            "reset while it was saved");
}

static void test_background_snapshot(void)
{
    if (!refused("background-snapshot", FULL, "vfio 0000:65:00.0: migration "
                 "capability background-snapshot does not go with an assigned "
                 "device")) {
        g_test_skip("the kernel cannot protect memory by userfaultfd");
    }
}

/* Streams that are not what they should be; the unit test has many more */
static void test_streams(void)
{
    static const char id[] = "0000:00:05.0/vfio";
    enum { CUT = -1, WITHOUT = -2 };
    static const struct {
        int at;                 /* from the end of the name of its section */
        uint8_t value;
        const char *text;
    } rows[] = {
        { 7, 1, "the stream is of version 1 of VFIO's migration protocol, the "
          "device has 2" },
        { 19, 9, "the stream has format 9 (flags 0), known is format 1 "
                 "without flags" },
        { 8, 0, "the stream is damaged: unknown record" },
        { CUT, 0, "the stream is damaged: it ends early" },
    };
    FakeEnv *env = new_env(FULL);
    QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
    g_autofree char *file = g_build_filename(env->dir, "stream", NULL);
    g_autofree char *uri = g_strdup_printf("exec:cat >%s", file);
    g_autofree char *args = g_strdup_printf(MACHINE DEVICE(1)
                                            " -incoming 'exec:cat %s'", file);
    g_autofree char *why = NULL, *stream = NULL;
    size_t size, i;
    char *at;

    migrate(a, uri);
    why = ends(a, "completed");
    qtest_quit(a);
    g_assert_true(g_file_get_contents(file, &stream, &size, NULL));
    at = memmem(stream, size, id, strlen(id));
    g_assert_nonnull(at);
    at += strlen(id);
    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *said = NULL;
        size_t length = size;
        char was = 0;

        if (rows[i].at == CUT) {
            length = at + 20 - stream;
        } else {
            was = at[rows[i].at];
            at[rows[i].at] = rows[i].value;
        }
        g_assert_true(g_file_set_contents(file, stream, length, NULL));
        if (rows[i].at != CUT) {
            at[rows[i].at] = was;
        }
        said = fake_env_start_fails(env, args);
        g_assert_nonnull(strstr(said, rows[i].text));
    }
    free_env(env);
}

/* The guest resets its device while it is being saved: it begins anew */
static void test_reset_meanwhile(void)
{
    FakeEnv *env = new_env(FULL);
    QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
    QTestState *b = fake_env_start(env, MACHINE DEVICE(1) INCOMING);
    g_autofree char *why = NULL, *log = NULL;
    const char *at;

    qtest_qmp_assert_success(a, "{'execute': 'migrate-set-parameters', "
                             "'arguments': {'max-bandwidth': 4096}}");
    wait_at_channel(b);
    migrate(a, channel);
    wait_logged(env, "RUNNING -> PRE_COPY = 0");
    qtest_qmp_assert_success(a, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(a, "RESET");
    switch_on(a, 5, BAR);
    fill(a, BAR, 0x5000);
    qtest_qmp_assert_success(a, "{'execute': 'migrate-set-parameters', "
                             "'arguments': {'max-bandwidth': 1073741824}}");
    why = ends(a, "completed");
    qtest_qmp_eventwait(b, "RESUME");
    check_filled(b, BAR, 0x5000);
    log = fake_env_take_log(env);
    at = strstr(log, "RUNNING -> PRE_COPY = 0");
    at = strstr(at, "VFIO_DEVICE_RESET = 0");
    g_assert_nonnull(at);
    g_assert_nonnull(strstr(at, "-> STOP_COPY = 0"));
    qtest_quit(a);
    qtest_quit(b);
    free_env(env);
}

/* How often 256 MiB were sent since the migration began, give or take one */
static int passes(QTestState *qts)
{
    QDict *d = query(qts), *ram = qdict_get_qdict(d, "ram");
    int64_t pages = ram ? qdict_get_int(ram, "normal") +
                          qdict_get_int(ram, "duplicate") : 0;

    qobject_unref(d);
    return (pages * 4096 + MiB) / (256 * MiB);
}

/*
 * Nobody tracks: all is sent again when the device was stopped.  While the VM
 * runs it is so once downtime-limit allows for that; hardly any of RAM is used,
 * so by bytes it would seem to need much more.
 */
static void test_untracked(void)
{
    FakeEnv *env = new_env(FULL);
    QTestState *a = fake_env_start(env, MACHINE "-m 256" DEVICE(0));
    g_autofree char *why = NULL;
    int i;

    switch_on(a, 5, BAR);
    migrate_with_limit(a, "exec:cat >/dev/null", 1);
    for (i = 0; i < 2000 && passes(a) < 3; i++) {
        g_usleep(5 * 1000);
    }
    i = passes(a);
    g_assert_cmpint(i, >=, 3);
    fake_env_wait_status(a, "running");
    set_downtime_limit(a, 4000);
    why = ends(a, "completed");
    g_assert_cmpint(passes(a), >, i);

    /* Stopped before; what was sent meanwhile is sent again */
    qtest_qmp_assert_success(a, "{'execute': 'cont'}");
    qtest_qmp_assert_success(a, "{'execute': 'stop'}");
    migrate_with_limit(a, "exec:cat >/dev/null", 1);
    why = (g_free(why), ends(a, "completed"));
    g_assert_cmpint(passes(a), ==, 2);
    qtest_quit(a);
    free_env(env);
}

/* blockdev-create is a job; it is through when it can be dismissed */
static void made(QTestState *qts)
{
    bool refused;

    do {
        QDict *rsp = qtest_qmp(qts, "{'execute': 'job-dismiss', 'arguments': "
                               "{'id': 'make'}}");

        refused = qdict_haskey(rsp, "error");
        qobject_unref(rsp);
        g_usleep(1000);
    } while (refused);
}

/* Nobody tracks: a VM that is stopped is saved all the same, and ends */
static void test_stopped(void)
{
    FakeEnv *env = new_env(FULL);
    QTestState *qts = fake_env_start(env, MACHINE DEVICE(0));
    g_autofree char *why = NULL;
    QDict *info, *ram;

    switch_on(qts, 5, BAR);
    qtest_qmp_assert_success(qts, "{'execute': 'stop'}");
    qtest_qmp_assert_success(qts, "{'execute': 'migrate-set-parameters', "
                             "'arguments': {'downtime-limit': 1}}");
    qtest_qmp_assert_success(qts, "{'execute': 'migrate', 'arguments': "
                             "{'uri': 'exec:cat >/dev/null'}}");
    why = ends(qts, "completed");
    g_assert_cmpstr(why, ==, "");
    info = query(qts);
    ram = qdict_get_qdict(info, "ram");
    g_assert_cmpint(qdict_get_int(ram, "normal") +
                    qdict_get_int(ram, "duplicate"), <,
                    qdict_get_int(ram, "total") / 4096 * 9 / 4);
    qobject_unref(info);
    qtest_quit(qts);
    free_env(env);
}

/*
 * RAM is never done: all of it counts as written each time, and a slow channel
 * takes a part of it at a time.  But it would all fit into downtime-limit.
 */
static void test_starved(void)
{
    FakeEnv *env = new_env(FULL);
    QTestState *qts = fake_env_start(env, MACHINE DEVICE(0));
    g_autofree char *why = NULL;

    switch_on(qts, 5, BAR);
    qtest_qmp_assert_success(qts, "{'execute': 'migrate-set-parameters', "
                             "'arguments': {'max-bandwidth': 65536}}");
    migrate(qts, "exec:cat >/dev/null");
    why = ends(qts, "completed");
    g_assert_cmpstr(why, ==, "");
    qtest_quit(qts);
    free_env(env);
}

/* Below the stacks of threads, of the only QEMU that runs */
static unsigned guard_pages(void)
{
    g_autofree char *children = g_strdup_printf("/proc/self/task/%d/children",
                                                getpid());
    g_autofree char *pids = NULL;
    g_autofree char *file = NULL;
    g_autofree char *maps = NULL;
    unsigned n;

    g_assert_true(g_file_get_contents(children, &pids, NULL, NULL));
    g_assert_null(strchr(g_strstrip(pids), ' '));
    file = g_strdup_printf("/proc/%s/maps", pids);
    g_assert_true(g_file_get_contents(file, &maps, NULL, NULL));
    n = fake_env_count(maps, " ---p ");
    g_assert_cmpuint(n, >, 3);  /* or they cannot be seen this way */
    return n;
}

/* While RAM is sent, with a return path: now and then it was a failure */
static void test_cancelled(void)
{
    FakeEnv *env = new_env(FULL "dirty 1\n");
    QTestState *a = fake_env_start(env, MACHINE DEVICE(0));
    unsigned before = guard_pages();
    int i;

    switch_on(a, 5, BAR);
    qtest_memset(a, MiB, 0x55, 14 * MiB);
    g_assert_true(set_capability(a, "return-path", true));
    for (i = 0; i < 30; i++) {
        QTestState *b = fake_env_start_heard(env, MACHINE DEVICE(1)
                                             INCOMING);
        g_autofree char *why = NULL;

        g_assert_true(set_capability(b, "return-path", true));
        wait_at_channel(b);
        migrate_with_limit(a, channel, 0);
        g_usleep((10 + i % 17 * 2) * 1000);
        qtest_qmp_assert_success(a, "{'execute': 'migrate_cancel'}");
        why = ends(a, "cancelled");
        qtest_set_expected_status(b, 1);
        while (qtest_probe_child(b)) {
            g_usleep(5 * 1000);
        }
        qtest_quit(b);
    }
    /* Nor does a thread stay, or its stack */
    g_assert_cmpuint(guard_pages(), <, before + 10);
    qtest_quit(a);
    free_env(env);
}

/* As slow, and a guest that writes the same pages all the time */
static void test_starved_hot(void)
{
    FakeEnv *env = new_env(FULL "dirty 1\n");
    QTestState *qts = fake_env_start(env, MACHINE DEVICE(0));
    bool done = false;
    int i;

    switch_on(qts, 5, BAR);
    fill(qts, BAR, 0x7000);
    qtest_qmp_assert_success(qts, "{'execute': 'migrate-set-parameters', "
                             "'arguments': {'max-bandwidth': 65536}}");
    migrate(qts, "exec:cat >/dev/null");
    for (i = 0; i < 4000 && !done; i++) {
        QDict *info = query(qts);

        done = g_str_equal(qdict_get_str(info, "status"), "completed");
        qobject_unref(info);
        qtest_memset(qts, 0x400000, i | 1, 256 * KiB);  /* never zeros */
        g_usleep(5 * 1000);
    }
    g_assert_true(done);
    qtest_quit(qts);
    free_env(env);
}

/* Where savevm can write to; nothing else uses it */
static void add_disk(QTestState *qts, const char *file)
{
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-create', 'arguments': "
                             "{'job-id': 'make', 'options': {'driver': 'file', "
                             "'filename': %s, 'size': 0}}}", file);
    made(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': "
                             "{'driver': 'file', 'node-name': 'file', "
                             "'filename': %s}}", file);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-create', 'arguments': "
                             "{'job-id': 'make', 'options': {'driver': "
                             "'qcow2', 'file': 'file', 'size': 67108864}}}");
    made(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': "
                             "{'driver': 'qcow2', 'node-name': 'disk', "
                             "'file': 'file'}}");
}

/* savevm and loadvm: the device is what it was, or as after a reset */
static void test_snapshot(void)
{
    FakeEnv *env = new_env(FULL "\ndirty 1");
    g_autofree char *file = g_build_filename(env->dir, "disk", NULL);
    g_autofree char *said = NULL;
    QTestState *qts = fake_env_start_heard(env, MACHINE DEVICE(0));

    add_disk(qts, file);
    switch_on(qts, 5, BAR);
    fill(qts, BAR, 0x6000);
    said = qtest_hmp(qts, "savevm one");
    g_assert_cmpstr(said, ==, "");
    fake_env_wait_status(qts, "running");
    fill(qts, BAR, 0x7000);
    said = (g_free(said), qtest_hmp(qts, "loadvm one"));
    g_assert_cmpstr(said, ==, "");
    fake_env_wait_status(qts, "running");
    check_filled(qts, BAR, 0x6000);

    fake_env_control(env, FULL "read-error 0 5");
    said = (g_free(said), qtest_hmp(qts, "savevm two"));
    g_assert_nonnull(strstr(said, "Error while writing VM state"));
    g_assert_nonnull(strstr(said, "vfio 0000:65:00.0: reading the state of the "
                            "device failed: Input/output error"));
    fake_env_wait_status(qts, "running");

    fake_env_control(env, FULL "arc 0 1 3 5 0");
    said = (g_free(said), qtest_hmp(qts, "savevm two"));
    g_assert_nonnull(strstr(said, "it is in ERROR now"));
    g_assert_nonnull(strstr(said, "VM stopped, 'cont' resets the device"));
    fake_env_control(env, FULL);
    fake_env_wait_status(qts, "io-error");
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    fake_env_wait_status(qts, "running");

    fake_env_control(env, FULL "arc 0 4 1 22 0");
    said = (g_free(said), qtest_hmp(qts, "loadvm one"));
    g_assert_nonnull(strstr(said, "it is in ERROR now"));
    fake_env_control(env, FULL);
    said = (g_free(said), qtest_hmp(qts, "loadvm one"));
    g_assert_cmpstr(said, ==, "");
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    fake_env_wait_status(qts, "running");
    check_filled(qts, BAR, 0x6000);

    fake_env_control(env, FULL "arc 0 4 1 22 0");
    said = (g_free(said), qtest_hmp(qts, "loadvm one"));
    g_assert_nonnull(strstr(said, "it is in ERROR now"));
    fake_env_control(env, FULL);
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    fake_env_wait_status(qts, "io-error");
    heard(env, "VM stopped, 'cont' tries again: the stream had no state for "
          "the device");
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    fake_env_wait_status(qts, "running");
    qtest_quit(qts);
    free_env(env);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("vfio-iommufd-migrate/moves", test_moves);
    qtest_add_func("vfio-iommufd-migrate/gate", test_gate);
    qtest_add_func("vfio-iommufd-migrate/two", test_two);
    qtest_add_func("vfio-iommufd-migrate/blockers", test_blockers);
    qtest_add_func("vfio-iommufd-migrate/wanted", test_wanted);
    qtest_add_func("vfio-iommufd-migrate/refused", test_refused);
    qtest_add_func("vfio-iommufd-migrate/background-snapshot",
                   test_background_snapshot);
    qtest_add_func("vfio-iommufd-migrate/interrupted", test_interrupted);
    qtest_add_func("vfio-iommufd-migrate/source-fails", test_source_fails);
    qtest_add_func("vfio-iommufd-migrate/destination-fails",
                   test_destination_fails);
    qtest_add_func("vfio-iommufd-migrate/destination-full",
                   test_destination_full);
    qtest_add_func("vfio-iommufd-migrate/streams", test_streams);
    qtest_add_func("vfio-iommufd-migrate/reset-meanwhile",
                   test_reset_meanwhile);
    qtest_add_func("vfio-iommufd-migrate/untracked", test_untracked);
    qtest_add_func("vfio-iommufd-migrate/stopped", test_stopped);
    qtest_add_func("vfio-iommufd-migrate/cancelled", test_cancelled);
    qtest_add_func("vfio-iommufd-migrate/starved", test_starved);
    qtest_add_func("vfio-iommufd-migrate/starved-hot", test_starved_hot);
    qtest_add_func("vfio-iommufd-migrate/snapshot", test_snapshot);
    return g_test_run();
}
