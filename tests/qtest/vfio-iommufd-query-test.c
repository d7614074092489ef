/*
 * QTest testcase for what query-iommufd tells when things are not well
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On a real kernel tests/host/query compares it with the ioctls that were made.
 * Here the fake one (fake-iommufd.h) makes maps fail and devices share a bus.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#include "fake-iommufd-env.h"

#define DEVICE      "-object iommufd,id=iommufd0,map-background=off " \
                    "-device vfio-pci,id=hd0,host=0000:65:00.0,iommufd=iommufd0 "
#define MACHINE     "-machine q35 -m 512,slots=2,maxmem=2G -nodefaults " DEVICE

static QDict *nth(QDict *dict, const char *list, unsigned n)
{
    const QListEntry *e = qlist_first(qdict_get_qlist(dict, list));

    while (n--) {
        e = qlist_next(e);
    }
    return qobject_to(QDict, qlist_entry_obj(e));
}

/* The answer for the one object; *answer is to be unreferenced */
static QDict *query(QTestState *qts, QDict **answer)
{
    *answer = qtest_qmp(qts, "{'execute': 'query-iommufd'}");
    return nth(*answer, "return", 0);
}

static void plug_dimm(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': "
                             "{'qom-type': 'memory-backend-ram', 'id': 'mem1', "
                             "'size': 134217728}}");
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'pc-dimm', 'id': 'dimm1', "
                             "'memdev': 'mem1'}}");
}

/* Range, region and errno of a map that failed; and when it is made up for */
static void test_failed_map(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start_heard(env, MACHINE);
    g_autofree char *hmp = NULL;
    QDict *answer, *ioas, *map;
    int64_t before;

    ioas = nth(query(qts, &answer), "ioases", 0);
    before = qdict_get_int(ioas, "mapped-bytes");
    g_assert_cmphex(before, >=, 512 * MiB);
    qobject_unref(answer);

    fake_env_control(env, "fail IOMMU_IOAS_MAP 1 12");
    plug_dimm(qts);
    qtest_qmp_eventwait(qts, "STOP");
    ioas = nth(query(qts, &answer), "ioases", 0);
    g_assert_false(qdict_get_bool(ioas, "complete"));
    g_assert_cmpuint(qlist_size(qdict_get_qlist(ioas, "failed-maps")), ==, 1);
    map = nth(ioas, "failed-maps", 0);
    g_assert_cmphex(qdict_get_int(map, "start"), ==, 4 * GiB);
    g_assert_cmphex(qdict_get_int(map, "last"), ==, 4 * GiB + 128 * MiB - 1);
    g_assert_cmpstr(qdict_get_str(map, "region"), ==, "mem1");
    g_assert_cmpint(qdict_get_int(map, "errno"), ==, ENOMEM);
    g_assert_cmpstr(qdict_get_str(map, "error"), ==, strerror(ENOMEM));
    qobject_unref(answer);
    hmp = qtest_hmp(qts, "info iommufd");
    g_assert_nonnull(strstr(hmp, "[0x100000000, 0x107ffffff]"));
    g_assert_nonnull(strstr(hmp, strerror(ENOMEM)));

    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(qts, "RESUME");
    ioas = nth(query(qts, &answer), "ioases", 0);
    g_assert_true(qdict_get_bool(ioas, "complete"));
    g_assert_cmphex(qdict_get_int(ioas, "mapped-bytes"), ==,
                    before + 128 * MiB);
    qobject_unref(answer);
    qtest_quit(qts);
    fake_env_free(env);
}

/* What a hot reset would affect, and whether it is the VM's */
static void test_hot_reset(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts;
    QDict *answer, *device;

    fake_env_control(env, "shared-bus 0 -1");
    qts = fake_env_start(env, MACHINE);
    device = nth(query(qts, &answer), "devices", 0);
    g_assert_cmpuint(qlist_size(qdict_get_qlist(device, "hot-reset")), ==, 2);
    g_assert_cmpstr(qdict_get_str(nth(device, "hot-reset", 0), "address"), ==,
                    "0000:00:00.0");
    g_assert_true(qdict_get_bool(nth(device, "hot-reset", 0), "owned"));
    g_assert_cmpstr(qdict_get_str(nth(device, "hot-reset", 1), "address"), ==,
                    "0000:00:00.1");
    g_assert_false(qdict_get_bool(nth(device, "hot-reset", 1), "owned"));
    qobject_unref(answer);
    qtest_quit(qts);
    fake_env_free(env);
}

static int64_t property(QTestState *qts, const char *name)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'qom-get', 'arguments': "
                           "{'path': '/machine/peripheral/hd0', "
                           "'property': %s}}", name);
    int64_t value = qdict_get_int(rsp, "return");

    qobject_unref(rsp);
    return value;
}

/* The same ids as properties, which cannot be set */
static void test_properties(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, MACHINE);
    QDict *answer, *device = nth(query(qts, &answer), "devices", 0), *rsp;

    g_assert_cmpint(qdict_get_int(device, "devid"), ==, 1);
    g_assert_cmpint(property(qts, "iommufd-devid"), ==, 1);
    g_assert_cmpint(property(qts, "iommufd-ioas"), ==,
                    qdict_get_int(device, "ioas"));
    qobject_unref(answer);
    rsp = qtest_qmp(qts, "{'execute': 'qom-set', 'arguments': "
                    "{'path': '/machine/peripheral/hd0', "
                    "'property': 'iommufd-devid', 'value': 7}}");
    g_assert_true(qdict_haskey(rsp, "error"));
    qobject_unref(rsp);
    g_assert_cmpint(property(qts, "iommufd-devid"), ==, 1);
    qtest_quit(qts);
    fake_env_free(env);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("vfio-iommufd-query/failed-map", test_failed_map);
    qtest_add_func("vfio-iommufd-query/hot-reset", test_hot_reset);
    qtest_add_func("vfio-iommufd-query/properties", test_properties);
    return g_test_run();
}
