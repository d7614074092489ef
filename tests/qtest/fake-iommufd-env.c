/*
 * A host for QEMU with the fake iommufd kernel preloaded
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the temporary directory.  The preloaded object lies next to the test's
 * own binary, or where FAKE_IOMMUFD_SO says.
 */

#include "qemu/osdep.h"
#include <sys/wait.h>

#include "qapi/qmp/qdict.h"
#include "qemu/units.h"
#include "fake-iommufd-env.h"
#include "fake-iommufd.h"

static void run(const char *cwd, const char *commands)
{
    g_autofree char *line = g_strdup_printf("set -e; cd '%s'; %s", cwd,
                                            commands);
    const char *argv[] = { "/bin/sh", "-c", line, NULL };
    int status = -1;

    g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL, NULL, &status,
                 NULL);
    g_assert_cmpint(status, ==, 0);
}

FakeEnv *fake_env_new(void)
{
    FakeEnv *env = g_new0(FakeEnv, 1);

    env->dir = g_dir_make_tmp("vfio-iommufd-XXXXXX", NULL);
    g_assert_nonnull(env->dir);
    env->control = g_build_filename(env->dir, "control", NULL);
    env->log = g_build_filename(env->dir, "log", NULL);
    env->messages = g_build_filename(env->dir, "messages", NULL);
    env->sysfs = g_build_filename(env->dir, "bus/pci/devices", NULL);
    run(env->dir,
        "mkdir -p drivers/vfio-pci drivers/e1000e bus/pci bus/mdev dev/char"
        " groups/7/devices groups/8/devices;"
        "for n in 0 1; do"
        "  d=bus/pci/devices/0000:65:00.$n;"
        "  mkdir -p $d/vfio-dev/vfio$n;"
        "  echo 511:$n > $d/vfio-dev/vfio$n/dev;"
        "  ln -s ../../$d/vfio-dev/vfio$n dev/char/511:$n;"
        "  ln -s $PWD/drivers/vfio-pci $d/driver;"
        "  ln -s $PWD/groups/$((7 + n)) $d/iommu_group;"
        "  ln -s $PWD/bus/pci $d/subsystem;"
        "done");
    fake_env_control(env, "");
    return env;
}

void fake_env_free(FakeEnv *env)
{
    const char *argv[] = { "rm", "-rf", env->dir, NULL };

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL,
                 NULL, NULL, NULL, NULL);
    g_free(env->dir);
    g_free(env->control);
    g_free(env->log);
    g_free(env->messages);
    g_free(env->sysfs);
    g_free(env);
}

void fake_env_control(FakeEnv *env, const char *text)
{
    static unsigned serial;
    g_autofree char *unique = g_strdup_printf("%s\nserial %u", text, ++serial);

    /* Also the same text again is new, and starts the counters again */
    g_assert_true(g_file_set_contents(env->control, unique, -1, NULL));
}

void fake_env_sysfs(FakeEnv *env, const char *bdf, const char *commands)
{
    g_autofree char *path = g_build_filename(env->sysfs, bdf, NULL);

    run(path, commands);
}

char *fake_env_take_log(FakeEnv *env)
{
    char *text = NULL;

    if (!g_file_get_contents(env->log, &text, NULL, NULL)) {
        return g_strdup("");
    }
    g_assert_cmpint(truncate(env->log, 0), ==, 0);
    return text;
}

int64_t fake_env_dirty_rate(QTestState *qts)
{
    int64_t rate;
    QDict *rsp;

    do {
        g_usleep(10000);
        rsp = qtest_qmp(qts, "{'execute': 'query-dirty-rate'}");
        rate = qdict_get_try_int(qdict_get_qdict(rsp, "return"), "dirty-rate",
                                 -1);
        qobject_unref(rsp);
    } while (rate < 0);
    return rate;
}

FakeMaps fake_env_maps(const char *log)
{
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    FakeMaps m = { .lowest = UINT64_MAX };
    int i;

    for (i = 0; lines[i]; i++) {
        unsigned long long iova, length;
        unsigned flags;
        int ret;

        if (sscanf(lines[i], "IOMMU_IOAS_MAP ioas=%*u iova=%llx length=%llx "
                   "va=%*x flags=%x = %d", &iova, &length, &flags,
                   &ret) == 4) {
            m.maps++;
            if (!ret && (flags & 2)) {
                m.mapped_rw += length;
            } else if (!ret) {
                m.mapped_ro += length;
            }
        } else if (sscanf(lines[i], "IOMMU_IOAS_UNMAP ioas=%*u iova=%llx "
                          "length=%llx = %d", &iova, &length, &ret) == 3) {
            m.unmaps++;
            m.unmapped += ret ? 0 : length;
        } else if (sscanf(lines[i], "IOMMU_IOAS_COPY ioas=%*u iova=%*x length="
                          "%llx from=%*u at=%*x flags=%*x = %d", &length,
                          &ret) == 2) {
            m.failed += ret != 0;
            m.copied += ret ? 0 : length;
            continue;
        } else {
            continue;
        }
        m.failed += ret != 0;
        if (!ret && iova < 2 * GiB) {
            m.live_low += lines[i][strlen("IOMMU_IOAS_")] == 'M' ? length
                                                                : -length;
        }
        m.lowest = MIN(m.lowest, iova);
        m.highest = MAX(m.highest, iova + length - 1);
    }
    return m;
}

/* QEMU's environment, on and off */
static void set_environment(FakeEnv *env, bool on)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = g_path_get_dirname(self);
    g_autofree char *next = g_build_filename(dir, "fake-iommufd.so", NULL);
    const char *library = getenv("FAKE_IOMMUFD_SO") ?: next;

    if (on) {
        g_assert_cmpint(access(library, R_OK), ==, 0);
        g_setenv("FAKE_KERNEL_CONTROL", env->control, true);
        g_setenv("FAKE_KERNEL_LOG", env->log, true);
        g_setenv("FAKE_SYSFS", env->dir, true);
        g_setenv("LD_PRELOAD", library, true);
    } else {
        g_unsetenv("LD_PRELOAD");
        g_unsetenv("FAKE_SYSFS");
        g_unsetenv("FAKE_KERNEL_LOG");
        g_unsetenv("FAKE_KERNEL_CONTROL");
    }
}

QTestState *fake_env_start(FakeEnv *env, const char *args)
{
    QTestState *qts;

    set_environment(env, true);
    qts = qtest_init(args);
    set_environment(env, false);
    return qts;
}

QTestState *fake_env_start_heard(FakeEnv *env, const char *args)
{
    g_autofree char *line = g_strdup_printf("%s 2>%s", args, env->messages);

    return fake_env_start(env, line);
}

char *fake_env_said(FakeEnv *env)
{
    char *text = NULL;

    g_assert_true(g_file_get_contents(env->messages, &text, NULL, NULL));
    g_test_message("said: %s", text);
    return text;
}

char *fake_env_start_fails(FakeEnv *env, const char *args)
{
    g_autofree char *line = g_strdup_printf("exec %s -display none -accel qtest"
                                            " %s", getenv("QTEST_QEMU_BINARY"),
                                            args);
    const char *argv[] = { "/bin/sh", "-c", line, NULL };
    char *error = NULL;
    int status = 0;

    set_environment(env, true);
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_LEAVE_DESCRIPTORS_OPEN,
                 NULL, NULL, NULL, &error, &status, NULL);
    set_environment(env, false);
    g_test_message("said: %s", error);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    return error;
}

unsigned fake_env_count(const char *log, const char *what)
{
    unsigned n = 0;

    while ((log = strstr(log, what))) {
        log += strlen(what);
        n++;
    }
    return n;
}

bool fake_env_has_status(QTestState *qts, const char *status)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-status'}");
    bool has = g_str_equal(qdict_get_str(qdict_get_qdict(rsp, "return"),
                                         "status"), status);

    qobject_unref(rsp);
    return has;
}

void fake_env_wait_status(QTestState *qts, const char *status)
{
    int i;

    for (i = 0; i < 2000; i++) {
        if (fake_env_has_status(qts, status)) {
            return;
        }
        g_usleep(5 * 1000);
    }
    g_error("not %s", status);
}

QTestState *fake_env_reload(FakeEnv *env, QTestState *qts, const char *args)
{
    g_autofree char *file = NULL, *save = NULL, *load = NULL, *all = NULL;
    int fd = g_file_open_tmp("reload-XXXXXX", &file, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    save = g_strdup_printf("exec:cat > %s", file);
    load = g_strdup_printf("exec:cat < %s", file);
    /* nobody may track what devices write: then downtime is for all RAM */
    qtest_qmp_assert_success(qts, "{'execute': 'migrate-set-parameters', "
                             "'arguments': {'downtime-limit': 2000000}}");
    qtest_qmp_assert_success(qts, "{'execute': 'migrate', 'arguments': "
                             "{'uri': %s}}", save);
    fake_env_wait_status(qts, "postmigrate");
    qtest_quit(qts);

    all = g_strconcat(args, " -incoming defer", NULL);
    qts = fake_env_start_heard(env, all);
    qtest_qmp_assert_success(qts, "{'execute': 'migrate-incoming', "
                             "'arguments': {'uri': %s}}", load);
    fake_env_wait_status(qts, "running");
    unlink(file);
    return qts;
}
