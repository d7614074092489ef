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
#include "fake-iommufd-env.h"

#define MACHINE "-machine q35 -m 16 -nodefaults -object iommufd,id=iommufd0 "
#define DEVICE(n) " -device vfio-pci,host=0000:65:00." #n ",iommufd=iommufd0," \
                  "id=hd" #n ",addr=5,enable-migration=on"
#define INCOMING " -incoming defer"
#define BAR     0xe0000000ULL
#define FULL    "migration 0 7\nmigration 1 7\n"
#define NR_STATES 8

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

static void migrate(QTestState *qts, const char *uri)
{
    qtest_qmp_assert_success(qts, "{'execute': 'migrate', 'arguments': "
                             "{'uri': %s}}", uri);
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
    return why;
}

static void wait_status(QTestState *qts, const char *status)
{
    int i;

    for (i = 0; i < 2000; i++) {
        QDict *rsp = qtest_qmp(qts, "{'execute': 'query-status'}");
        bool is = g_str_equal(qdict_get_str(qdict_get_qdict(rsp, "return"),
                                            "status"), status);

        qobject_unref(rsp);
        if (is) {
            return;
        }
        g_usleep(5 * 1000);
    }
    g_error("not %s", status);
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
static void test_moves(gconstpointer data)
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
static void test_source_fails(gconstpointer data)
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
        { "7 3 5 0", "failed", "vfio 0000:65:00.0: the device is in ERROR, "
          "from where it cannot go on", true },
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
            wait_status(a, "io-error");
            heard(env, "VM stopped, 'cont' resets the device: the device");
        }
        if (rows[i].stops || g_str_equal(rows[i].status, "completed")) {
            qtest_qmp_assert_success(a, "{'execute': 'cont'}");
        }
        wait_status(a, "running");
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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("vfio-iommufd-migrate/moves", NULL, test_moves);
    qtest_add_data_func("vfio-iommufd-migrate/source-fails", NULL,
                        test_source_fails);
    return g_test_run();
}
