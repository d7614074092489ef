/*
 * QTest: RAM is pending until a device can reach memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The default of the iommufd object (map-background=on) against the fake
 * kernel: what is mapped when.  There is no guest code, so no vCPU is held at
 * the gate; that is for the lab (tests/host/start).
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#include "fake-iommufd-env.h"

#define RAM     (512 * MiB)
#define Q35     "-machine q35 -m 512,slots=2,maxmem=2G -nodefaults "
#define OBJECT  "-object iommufd,id=iommufd0"
#define DEVICES " -device vfio-pci,host=0000:65:00.0,iommufd=iommufd0,id=hd0," \
                "addr=5 -device vfio-pci,host=0000:65:00.1,iommufd=iommufd0," \
                "id=hd1,addr=6"
#define COMMAND 4
#define MASTER  4

static void config_write(QTestState *qts, int slot, int reg, uint16_t value)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | slot << 11 | reg);
    qtest_outw(qts, 0xcfc, value);
}

static void config_write_byte(QTestState *qts, int slot, int reg, uint8_t value)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | slot << 11 | (reg & ~3));
    qtest_outb(qts, 0xcfc + (reg & 3), value);
}

/* Of the first iommufd: its first @list, of that the first with @id or none */
static QDict *query(QTestState *qts, const char *list, const char *id)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-iommufd'}"), *found = NULL;
    QDict *info = qobject_to(QDict,
                             qlist_peek(qdict_get_qlist(rsp, "return")));
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(info, list), e) {
        QDict *d = qobject_to(QDict, qlist_entry_obj(e));

        if (!id || g_str_equal(qdict_get_str(d, "qdev-id"), id)) {
            found = qobject_ref(d);
            break;
        }
    }
    qobject_unref(rsp);
    g_assert_nonnull(found);
    return found;
}

static bool dma(QTestState *qts, const char *id)
{
    QDict *d = query(qts, "devices", id);
    bool value = qdict_get_bool(d, "dma");

    g_assert_false(qdict_get_bool(d, "waiting"));
    qobject_unref(d);
    return value;
}

static uint64_t pending(QTestState *qts)
{
    QDict *d = query(qts, "ioases", NULL);
    uint64_t value = qdict_get_int(d, "pending-bytes");

    g_assert_cmpuint(qdict_get_int(d, "filled-bytes"), <=, value);
    qobject_unref(d);
    return value;
}

/* The threads are through with the big part; the small one stays */
static uint64_t wait_filled(QTestState *qts)
{
    int i;

    for (i = 0; i < 1000 && pending(qts) > 32 * MiB; i++) {
        g_usleep(10 * 1000);
    }
    return pending(qts);
}

/* What was mapped since the last call */
static FakeMaps take_maps(FakeEnv *env)
{
    g_autofree char *log = fake_env_take_log(env);

    return fake_env_maps(log);
}

static void quit(FakeEnv *env, QTestState *qts)
{
    qtest_quit(qts);
    fake_env_free(env);
}

/* Small pieces wait for the first device; the second one maps nothing */
static void test_pending(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, Q35 OBJECT DEVICES);
    uint64_t small = wait_filled(qts);
    FakeMaps m = take_maps(env);

    g_assert_cmpuint(small, >, 16 * MiB);
    g_assert_cmpuint(small, <, 32 * MiB);
    g_assert_cmpuint(m.maps, ==, 1);
    g_assert_false(dma(qts, "hd0") || dma(qts, "hd1"));

    /* memory decode alone is not it, nor the upper byte, nor the status */
    config_write(qts, 5, COMMAND, 2);
    config_write_byte(qts, 5, COMMAND + 1, MASTER);
    g_assert_false(dma(qts, "hd0"));
    g_assert_cmpuint(pending(qts), ==, small);

    config_write(qts, 5, COMMAND, 2 | MASTER);
    g_assert_true(dma(qts, "hd0"));
    g_assert_false(dma(qts, "hd1"));
    g_assert_cmpuint(pending(qts), ==, 0);
    m = take_maps(env);
    g_assert_cmpuint(m.mapped_rw + m.mapped_ro, ==, small);

    config_write_byte(qts, 6, COMMAND, MASTER);
    g_assert_true(dma(qts, "hd1"));
    m = take_maps(env);
    g_assert_cmpuint(m.maps + m.unmaps, ==, 0);
    quit(env, qts);
}

/* PAM0 of the q35 host bridge: the F segment, 0x10 read, 0x30 read and write */
static void toggle_pam(QTestState *qts)
{
    int i;

    for (i = 0; i < 4; i++) {
        config_write_byte(qts, 0, 0x90, i & 1 ? 0x10 : 0x30);
    }
}

/* What firmware switches makes no call before a device is enabled */
static void test_windows(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, Q35 OBJECT DEVICES);
    FakeMaps m;

    wait_filled(qts);
    take_maps(env);
    toggle_pam(qts);
    m = take_maps(env);
    g_assert_cmpuint(m.maps + m.unmaps + m.failed, ==, 0);

    config_write(qts, 5, COMMAND, MASTER);
    take_maps(env);
    toggle_pam(qts);
    m = take_maps(env);
    g_assert_cmpuint(m.maps, >, 0);
    g_assert_cmpuint(m.failed, ==, 0);
    g_assert_cmpuint(pending(qts), ==, 0);
    quit(env, qts);
}

/* A device closes by its command register and by a reset; RAM stays mapped */
static void test_close(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, Q35 OBJECT DEVICES);
    FakeMaps m;

    config_write(qts, 5, COMMAND, MASTER);
    take_maps(env);
    config_write(qts, 5, COMMAND, 0);
    g_assert_false(dma(qts, "hd0"));
    config_write(qts, 5, COMMAND, MASTER);
    g_assert_true(dma(qts, "hd0"));
    qtest_qmp_assert_success(qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(qts, "RESET");
    g_assert_false(dma(qts, "hd0"));
    m = take_maps(env);
    g_assert_cmpuint(m.mapped_rw, <=, MiB);
    quit(env, qts);
}

/*
 * Suspend to RAM: what wakes up is a machine that was reset, with its RAM.  So
 * the device is closed, nothing is unmapped, and the guest opens it again.
 */
static void test_suspend(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, Q35 OBJECT DEVICES);
    FakeMaps m;

    config_write(qts, 5, COMMAND, 2 | MASTER);
    take_maps(env);

    /* ICH9: where PM1a control is, then sleep type 1, S3, and enable */
    qtest_outl(qts, 0xcf8, 0x8000f840);
    qtest_outl(qts, 0xcfc, 0x601);
    qtest_outl(qts, 0xcf8, 0x8000f844);
    qtest_outb(qts, 0xcfc, 0x80);
    qtest_outw(qts, 0x604, 1 << 10 | 1 << 13);
    qtest_qmp_eventwait(qts, "SUSPEND");
    g_assert_true(dma(qts, "hd0"));
    qtest_qmp_assert_success(qts, "{'execute': 'system_wakeup'}");
    qtest_qmp_eventwait(qts, "WAKEUP");
    g_assert_false(dma(qts, "hd0"));

    config_write(qts, 5, COMMAND, 2 | MASTER);
    g_assert_true(dma(qts, "hd0"));
    g_assert_cmpuint(pending(qts), ==, 0);
    m = take_maps(env);
    g_assert_cmpuint(m.failed, ==, 0);
    g_assert_cmpuint(m.unmapped, <=, MiB);
    g_assert_cmpuint(m.mapped_rw + m.mapped_ro, <=, MiB);
    quit(env, qts);
}

/* Memory that comes while no device is enabled waits, too */
static void test_memory_hotplug(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, Q35 OBJECT DEVICES);
    uint64_t small = wait_filled(qts);

    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': "
                             "{'qom-type': 'memory-backend-ram', 'id': 'mem1', "
                             "'size': 16777216}}");
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'pc-dimm', 'id': 'dimm1', "
                             "'memdev': 'mem1'}}");
    g_assert_cmpuint(pending(qts), ==, small + 16 * MiB);
    config_write(qts, 6, COMMAND, MASTER);
    g_assert_cmpuint(pending(qts), ==, 0);
    quit(env, qts);
}

/* The gate opens under the VM's feet: it stops, and cont makes it good */
static void test_failure(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start_heard(env, Q35 OBJECT DEVICES);
    char *said;
    FakeMaps m;

    wait_filled(qts);
    fake_env_control(env, "fail IOMMU_IOAS_MAP 1 12");
    config_write(qts, 5, COMMAND, MASTER);
    qtest_qmp_eventwait(qts, "STOP");
    said = fake_env_said(env);
    g_assert_nonnull(strstr(said, "VM stopped, 'cont' tries again: cannot map "
                            "guest memory"));
    g_free(said);
    fake_env_control(env, "");
    take_maps(env);
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(qts, "RESUME");
    g_assert_cmpuint(pending(qts), ==, 0);
    m = take_maps(env);
    g_assert_cmpuint(m.maps, ==, 1);
    quit(env, qts);
}

/* What will fail for sure fails before the VM runs */
static void test_foreseen(void)
{
    FakeEnv *env = fake_env_new();
    char *said;

    fake_env_control(env, "aperture-last 0xfffffff");
    said = fake_env_start_fails(env, Q35 OBJECT DEVICES);
    g_assert_nonnull(strstr(said, "cannot map guest memory"));
    g_assert_nonnull(strstr(said, "the IOMMU translates only"));
    g_free(said);
    fake_env_free(env);
}

/* Gone while threads fill RAM, twenty times: nothing is left */
static void test_unplug(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, Q35 "-device pcie-root-port,id=rp "
                                     OBJECT);
    char *log;
    int i;

    for (i = 0; i < 20; i++) {
        qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                                 "{'driver': 'vfio-pci', 'id': 'hd0', 'host': "
                                 "'0000:65:00.0', 'iommufd': 'iommufd0', "
                                 "'bus': 'rp'}}");
        qtest_qmp_assert_success(qts, "{'execute': 'device_del', 'arguments': "
                                 "{'id': 'hd0'}}");
        qtest_qmp_assert_success(qts, "{'execute': 'system_reset'}");
        qtest_qmp_eventwait(qts, "DEVICE_DELETED");
        log = fake_env_take_log(env);
        g_assert_nonnull(strstr(log, "gone /dev/vfio/devices/vfio0 mapped=0"));
        g_free(log);
    }
    qtest_qmp_assert_success(qts, "{'execute': 'object-del', 'arguments': "
                             "{'id': 'iommufd0'}}");
    log = fake_env_take_log(env);
    g_assert_nonnull(strstr(log, "gone /dev/iommu bound=0 ioas=0 hwpts=0 "
                            "areas=0\n"));
    g_free(log);
    quit(env, qts);
}

static void test_properties(void)
{
    FakeEnv *env = fake_env_new();
    char *said;
    QTestState *qts;

    said = fake_env_start_fails(env, Q35 OBJECT ",map-threads=257");
    g_assert_nonnull(strstr(said, "map-threads must be 1 to 256, or 0 to let "
                            "the number of CPUs decide"));
    g_free(said);

    qts = fake_env_start(env, Q35 OBJECT ",map-background=off,map-threads=3"
                         DEVICES);
    g_assert_cmpuint(pending(qts), ==, 0);
    g_assert_false(dma(qts, "hd0"));
    quit(env, qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("vfio-iommufd-gate/pending", test_pending);
    qtest_add_func("vfio-iommufd-gate/windows", test_windows);
    qtest_add_func("vfio-iommufd-gate/close", test_close);
    qtest_add_func("vfio-iommufd-gate/suspend", test_suspend);
    qtest_add_func("vfio-iommufd-gate/memory-hotplug", test_memory_hotplug);
    qtest_add_func("vfio-iommufd-gate/failure", test_failure);
    qtest_add_func("vfio-iommufd-gate/foreseen", test_foreseen);
    qtest_add_func("vfio-iommufd-gate/unplug", test_unplug);
    qtest_add_func("vfio-iommufd-gate/properties", test_properties);
    return g_test_run();
}
