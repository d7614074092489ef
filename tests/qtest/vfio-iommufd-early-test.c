/*
 * QTest testcase for devices that are bound before the machine is made
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * By the log of the fake kernel (fake-iommufd.h): what was opened and bound
 * when, and what was let go.  That real devices are reset side by side is
 * shown by tests/host/mixed.
 */

#include "qemu/osdep.h"
#include "fake-iommufd-env.h"

#define BDF0    "0000:65:00.0"
#define BDF1    "0000:65:00.1"
#define PC      "-machine pc -m 64 -nodefaults -object iommufd,id=iommufd0 "
#define DEVICE  "-device vfio-pci,iommufd=iommufd0,"
#define DEVICE0 " -object iommufd,id=iommufd0 " DEVICE "host=" BDF0
#define OPEN0   "open /dev/vfio/devices/vfio0 = "
#define OPEN1   "open /dev/vfio/devices/vfio1 = "
#define GONE0   "gone /dev/vfio/devices/vfio0 mapped=0\n"
#define BIND    "VFIO_DEVICE_BIND_IOMMUFD "
#define ATTACH  "VFIO_DEVICE_ATTACH_IOMMUFD_PT "
#define TOKEN   "2ab74924-c335-45f4-9b16-8569e5b08258"

static int at(const char *log, const char *what)
{
    const char *found = strstr(log, what);

    return found ? found - log : -1;
}

typedef struct Row {
    const char *name, *control, *args;
    bool early;                 /* every cdev is open before the first IOAS */
    unsigned open0, open1, bind, gone0;
} Row;

static const Row rows[] = {
    { "one", "", DEVICE "host=" BDF0, true, 1, 0, 1, 0 },
    { "short-address", "", DEVICE "host=65:00.0", true, 1, 0, 1, 0 },
    { "two", "", DEVICE "host=" BDF0 " " DEVICE "host=" BDF1, true, 1, 1, 2 },
    { "two-json", "", "-device '{\"driver\":\"vfio-pci\",\"host\":\"" BDF0
      "\",\"iommufd\":\"iommufd0\"}' -device '{\"driver\":\"vfio-pci\",\"host\":"
      "\"" BDF1 "\",\"iommufd\":\"iommufd0\"}'", true, 1, 1, 2 },
    { "nohotplug", "", DEVICE "host=" BDF0 " -device vfio-pci-nohotplug,"
      "iommufd=iommufd0,host=" BDF1, true, 1, 1, 2 },
    { "token-is-not-plain", "vf-token 1 2ab74924c33545f49b168569e5b08258",
      DEVICE "host=" BDF0 " " DEVICE "vf-token=" TOKEN ",host=" BDF1, false,
      1, 1, 2 },
    /* Nor is what a -global may say more of */
    { "global-token", "vf-token 0 2ab74924c33545f49b168569e5b08258",
      "-global vfio-pci.vf-token=" TOKEN " " DEVICE "host=" BDF0, true,
      1, 0, 1, 0 },
    { "global-token-of-nohotplug",
      "vf-token 0 2ab74924c33545f49b168569e5b08258",
      "-global driver=vfio-pci,property=vf-token,value=" TOKEN " "
      "-device vfio-pci-nohotplug,iommufd=iommufd0,host=" BDF0, true,
      1, 0, 1, 0 },
    { "global-device", "", "-global vfio-pci.sysfsdev=/sys/bus/pci/devices/"
      BDF1 " " DEVICE "host=" BDF0, true, 0, 1, 1, 0 },
    { "global-other", "", "-global vfio-pci.x-no-kvm-intx=on "
      DEVICE "host=" BDF0 " " DEVICE "host=" BDF1, true, 1, 1, 2 },
};

static void test_row(const void *data)
{
    const Row *row = data;
    FakeEnv *env = fake_env_new();
    g_autofree char *args = g_strconcat(PC, row->args, NULL);
    g_autofree char *log = NULL;
    QTestState *qts;
    int ioas;

    fake_env_control(env, row->control);
    qts = fake_env_start(env, args);
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    ioas = at(log, "IOMMU_IOAS_ALLOC ");
    g_assert_cmpint(ioas, >, 0);
    g_assert_cmpint(at(log, OPEN0) < ioas && at(log, OPEN1) < ioas, ==,
                    row->early);
    g_assert_cmpuint(fake_env_count(log, OPEN0), ==, row->open0);
    g_assert_cmpuint(fake_env_count(log, OPEN1), ==, row->open1);
    g_assert_cmpuint(fake_env_count(log, BIND), ==, row->bind);
    g_assert_cmpuint(fake_env_count(log, GONE0), ==, row->gone0);
    qtest_quit(qts);
    fake_env_free(env);
}

/* A passed descriptor can be bound once: not without the token */
static void test_global_token_passed(void)
{
    FakeEnv *env = fake_env_new();
    int fd = memfd_create("fake-vfio0", 0);
    g_autofree char *args =
        g_strdup_printf(PC "-global vfio-pci.vf-token=" TOKEN " "
                        DEVICE "fd=%d", fd);
    g_autofree char *log = NULL;
    QTestState *qts;

    fake_env_control(env, "vf-token 0 2ab74924c33545f49b168569e5b08258");
    qts = fake_env_start(env, args);
    close(fd);
    log = fake_env_take_log(env);
    g_assert_cmpuint(fake_env_count(log, BIND), ==, 1);
    qtest_quit(qts);
    fake_env_free(env);
}

/* It is tried once, and what is said is the same as if it had not been early */
static void test_fails(void)
{
    FakeEnv *env = fake_env_new();
    g_autofree char *error = NULL;
    g_autofree char *log = NULL;

    fake_env_control(env, "fail VFIO_DEVICE_BIND_IOMMUFD 1 19");
    error = fake_env_start_fails(env, PC DEVICE "host=" BDF0);
    g_assert_nonnull(strstr(error, "vfio " BDF0 ": VFIO_DEVICE_BIND_IOMMUFD "
                            "failed: No such device: the device is going away, "
                            "or has no IOMMU"));
    log = fake_env_take_log(env);
    g_assert_cmpuint(fake_env_count(log, BIND), ==, 1);
    fake_env_free(env);
}

/* Twice the same: bound once, and refused as always */
static void test_same(void)
{
    FakeEnv *env = fake_env_new();
    g_autofree char *error =
        fake_env_start_fails(env, PC DEVICE "host=" BDF0 " "
                             DEVICE "host=" BDF0);
    g_autofree char *log = fake_env_take_log(env);

    g_assert_nonnull(strstr(error, "vfio " BDF0 ": device is already "
                            "attached"));
    g_assert_cmpuint(fake_env_count(log, BIND), ==, 1);
    fake_env_free(env);
}

/* A group's devices are attached when none of them is being reset any more */
static void test_group(void)
{
    const char *same = "ln -sfn $(readlink ../" BDF0 "/iommu_group) "
                       "iommu_group";
    int i;

    for (i = 0; i < 2; i++) {
        FakeEnv *env = fake_env_new();
        g_autofree char *log = NULL;
        QTestState *qts;

        if (i) {
            fake_env_sysfs(env, BDF1, same);
        }
        fake_env_control(env, "slow 1");
        qts = fake_env_start(env, PC DEVICE "host=" BDF0 " "
                             DEVICE "host=" BDF1);
        log = fake_env_take_log(env);
        g_test_message("log: %s", log);
        g_assert_cmpuint(fake_env_count(log, BIND), ==, 2);
        g_assert_cmpint(at(log, ATTACH) > g_strrstr(log, BIND) - log, ==, i);
        qtest_quit(qts);
        fake_env_free(env);
    }
}

/* Without a name it is a device of its group, as for QOM */
static void test_empty(void)
{
    FakeEnv *env = fake_env_new();
    g_autofree char *error =
        fake_env_start_fails(env, PC "-device vfio-pci,iommufd=,host=" BDF0);
    g_autofree char *log = fake_env_take_log(env);

    g_assert_nonnull(strstr(error, "vfio " BDF0 ": "));
    g_assert_nonnull(strstr(error, "/dev/vfio/7"));
    g_assert_cmpint(at(log, OPEN0), ==, -1);
    fake_env_free(env);
}

typedef struct FillRow {
    const char *name, *control, *args;
    unsigned ranges;            /* of RAM that is filled early */
    const char *sysfs;
} FillRow;

static const FillRow fill_rows[] = {
    { "one", "", "-machine pc -m 64" DEVICE0, 1 },
    { "split", "", "-machine pc,max-ram-below-4g=64M -m 128" DEVICE0, 2 },
    { "numa", "", "-machine pc -m 128 "
      "-object memory-backend-ram,id=m0,size=64M -numa node,memdev=m0 "
      "-object memory-backend-memfd,id=m1,size=64M -numa node,memdev=m1"
      DEVICE0, 2 },
    { "dimm", "", "-machine pc -m 64,slots=1,maxmem=256M "
      "-object memory-backend-ram,id=m0,size=64M "
      "-device pc-dimm,memdev=m0" DEVICE0, 2 },
    { "virtio-mem", "", "-machine pc -m 64,maxmem=256M "
      "-object memory-backend-ram,id=m0,size=128M "
      "-device virtio-mem-pci,memdev=m0" DEVICE0, 1 },
    { "small", "", "-machine pc -m 31" DEVICE0, 0 },
    { "off", "", "-machine pc -m 64 -object iommufd,id=iommufd0,"
      "map-background=off " DEVICE "host=" BDF0, 0 },
    { "mdev", "mdev 0", "-machine pc -m 64" DEVICE0, 0,
      "rm subsystem; ln -s ../../../mdev subsystem" },
};

/* RAM is filled while the machine is made, where it will all be pinned */
static void test_fill(const void *data)
{
    const FillRow *row = data;
    FakeEnv *env = fake_env_new();
    g_autofree char *args = g_strconcat(
        "-nodefaults -trace vfio_ioas_early ", row->args, NULL);
    g_autofree char *want = g_strdup_printf("vfio_ioas_early ranges=%u filled=",
                                            row->ranges);
    g_autofree char *control = g_strconcat("slow 0\n", row->control, NULL);
    g_autofree char *said = NULL;
    const char *last;
    QTestState *qts;

    fake_env_control(env, control);
    if (row->sysfs) {
        fake_env_sysfs(env, BDF0, row->sysfs);
    }
    qts = fake_env_start_heard(env, args);
    said = fake_env_said(env);
    g_test_message("said: %s", said);
    last = g_strrstr(said, "vfio_ioas_early ");
    g_assert_cmpint(!!last, ==, !!row->ranges);
    if (last) {
        g_assert_true(g_str_has_prefix(last, want));
        /* Of the last ranges perhaps nothing, if the machine is slow */
        g_assert_true(g_regex_match_simple("filled=0x[1-9a-f]", said, 0, 0));
    }
    qtest_quit(qts);
    fake_env_free(env);
}

int main(int argc, char **argv)
{
    unsigned i;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autofree char *path = g_strdup_printf("vfio-iommufd/early/%s",
                                                rows[i].name);

        qtest_add_data_func(path, &rows[i], test_row);
    }
    for (i = 0; i < ARRAY_SIZE(fill_rows); i++) {
        g_autofree char *path = g_strdup_printf("vfio-iommufd/early/fill/%s",
                                                fill_rows[i].name);

        qtest_add_data_func(path, &fill_rows[i], test_fill);
    }
    qtest_add_func("vfio-iommufd/early/global-token-passed",
                   test_global_token_passed);
    qtest_add_func("vfio-iommufd/early/fails", test_fails);
    qtest_add_func("vfio-iommufd/early/same", test_same);
    qtest_add_func("vfio-iommufd/early/group", test_group);
    qtest_add_func("vfio-iommufd/early/empty", test_empty);
    return g_test_run();
}
