/*
 * Tests of VFIO devices over iommufd: the real binary on a fake kernel
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU runs with the fake of fake-iommufd.h preloaded, so these tests need
 * neither an IOMMU nor privileges.  They talk to QEMU as a manager does, by
 * command line and QMP, and to the guest's chipset as firmware does; what
 * QEMU did with the kernel is read from the fake's log.  After each failure
 * and each unplug the log must show that everything was given back.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qjson.h"
#include "qapi/qmp/qlist.h"
#include "fake-iommufd-env.h"
#include "fake-iommufd.h"

#define RAM         (512 * MiB)
#define BDF0        "0000:65:00.0"
#define BDF1        "0000:65:00.1"
#define OBJECT      "-object iommufd,id=iommufd0,map-background=off "
#define PC          "-machine pc -m 512 -nodefaults "
#define Q35         "-machine q35 -m 512 -nodefaults "
#define VFIO0       "vfio " BDF0 ": "
#define GONE_CDEV0  "gone /dev/vfio/devices/vfio0 mapped=0\n"
#define GONE_IOMMU  "gone /dev/iommu bound=0 ioas=0 hwpts=0 areas=0\n"

/* QMP */

static void qmp_ok(QTestState *qts, QDict *rsp)
{
    if (!qdict_haskey(rsp, "return")) {
        g_autoptr(GString) s = qobject_to_json(QOBJECT(rsp));

        g_test_message("%s", s->str);
    }
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

/* The description of an error, for g_free(); NULL for success */
static char *qmp_error(QDict *rsp)
{
    char *desc = NULL;

    if (qdict_haskey(rsp, "error")) {
        desc = g_strdup(qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"));
        g_test_message("error: %s", desc);
    }
    qobject_unref(rsp);
    return desc;
}

static char *object_add(QTestState *qts, const char *id)
{
    return qmp_error(qtest_qmp(qts, "{'execute': 'object-add', 'arguments': "
                               "{'qom-type': 'iommufd', 'id': %s, "
                               "'map-background': false}}", id));
}

static char *object_del(QTestState *qts, const char *id)
{
    return qmp_error(qtest_qmp(qts, "{'execute': 'object-del', 'arguments': "
                               "{'id': %s}}", id));
}

static char *device_add(QTestState *qts, const char *id, const char *bdf)
{
    return qmp_error(qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                               "{'driver': 'vfio-pci', 'id': %s, 'host': %s, "
                               "'iommufd': 'iommufd0'}}", id, bdf));
}

/* The guest does not run, so a reset is what carries an unplug out */
static void device_del(QTestState *qts, const char *id)
{
    QDict *event = NULL;
    const char *deleted = NULL;

    qtest_qmp_device_del_send(qts, id);
    qmp_ok(qts, qtest_qmp(qts, "{'execute': 'system_reset'}"));
    while (g_strcmp0(deleted, id)) {
        qobject_unref(event);
        event = qtest_qmp_eventwait_ref(qts, "DEVICE_DELETED");
        deleted = qdict_get_try_str(qdict_get_qdict(event, "data"), "device");
    }
    qobject_unref(event);
}

static char *run_state(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-status'}");
    char *state = g_strdup(qdict_get_str(qdict_get_qdict(rsp, "return"),
                                         "status"));

    qobject_unref(rsp);
    return state;
}

static void assert_no_error(char *desc)
{
    g_assert_cmpstr(desc, ==, NULL);
}

static void assert_error(char *desc, const char *expected)
{
    g_assert_cmpstr(desc, ==, expected);
    g_free(desc);
}

/* In what the log has now */
static void assert_logged(FakeEnv *env, const char *what)
{
    g_autofree char *log = fake_env_take_log(env);

    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, what));
}

/* Line by line, without the program's name; for QEMUs that are heard */
static void assert_said(FakeEnv *env, const char *expected)
{
    g_autofree char *said = fake_env_said(env);
    g_auto(GStrv) lines = g_strsplit(said, "\n", -1);
    g_autoptr(GString) got = g_string_new("");
    int i;

    for (i = 0; lines[i] && lines[i][0]; i++) {
        bool named = g_str_has_prefix(lines[i], "qemu-system-");

        g_string_append_printf(got, "%s\n", named ?
                               strstr(lines[i], ": ") + 2 : lines[i]);
    }
    g_assert_cmpstr(got->str, ==, expected);
}

static void quit(FakeEnv *env, QTestState *qts)
{
    qtest_quit(qts);
    fake_env_free(env);
}

/* The object */

typedef struct ObjectForm {
    const char *name, *args;
} ObjectForm;

static const ObjectForm object_forms[] = {
    { "none", "-machine none -object iommufd,id=iommufd0" },
    { "keyval", PC "-object iommufd,id=iommufd0" },
    { "json", PC "-object '{\"qom-type\":\"iommufd\",\"id\":\"iommufd0\"}'" },
};

static void test_object(const void *data)
{
    const ObjectForm *form = data;
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, form->args);

    assert_logged(env, "open /dev/iommu = ");
    assert_no_error(object_del(qts, "iommufd0"));
    assert_logged(env, GONE_IOMMU);
    assert_no_error(object_add(qts, "iommufd0"));
    assert_logged(env, "open /dev/iommu = ");
    assert_error(object_add(qts, "iommufd0"),
                 "attempt to add duplicate property 'iommufd0' to object "
                 "(type 'container')");
    assert_no_error(object_del(qts, "iommufd0"));
    quit(env, qts);
}

static void test_object_fd(void)
{
    FakeEnv *env = fake_env_new();
    int fd = memfd_create(FAKE_IOMMU_MEMFD, 0);
    g_autofree char *args =
        g_strdup_printf(PC "-object iommufd,id=iommufd0,fd=%d", fd);
    QTestState *qts = fake_env_start(env, args);

    close(fd);
    assert_logged(env, "IOMMU_OPTION = 0\n");
    assert_no_error(device_add(qts, "hd0", BDF0));
    device_del(qts, "hd0");
    assert_no_error(object_del(qts, "iommufd0"));
    assert_logged(env, GONE_IOMMU);
    quit(env, qts);
}

/* The type is there without /dev/iommu, for managers that probe */
static void test_object_type(void)
{
    FakeEnv *env = fake_env_new();
    bool found = false;
    const QListEntry *e;
    QTestState *qts;
    QDict *rsp;

    fake_env_control(env, "open /dev/iommu 2");
    qts = fake_env_start(env, "-machine none");
    rsp = qtest_qmp(qts, "{'execute': 'qom-list-types', 'arguments': "
                    "{'implements': 'user-creatable'}}");
    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        found |= g_str_equal(qdict_get_str(qobject_to(QDict,
                                                      qlist_entry_obj(e)),
                                           "name"), "iommufd");
    }
    g_assert_true(found);
    qobject_unref(rsp);
    quit(env, qts);
}

typedef struct ObjectError {
    const char *name, *control, *props, *message;
} ObjectError;

static const ObjectError object_errors[] = {
    { "no-node", "open /dev/iommu 2", "",
      "iommufd: cannot open /dev/iommu: No such file or directory: this needs "
      "a kernel with CONFIG_IOMMUFD (load module iommufd), and the node in "
      "QEMU's /dev" },
    { "no-permission", "open /dev/iommu 13", "",
      "iommufd: cannot open /dev/iommu: Permission denied: give QEMU's user "
      "read and write access to it, or pass a descriptor by fd=" },
    { "anything-else", "open /dev/iommu 24", "",
      "iommufd: cannot open /dev/iommu: Too many open files" },
    { "fd-of-pipe", "", ",fd=0",
      "iommufd: fd '0' is /dev/null, not an iommufd: pass a descriptor of "
      "/dev/iommu" },
    { "fd-not-open", "", ",fd=99",
      "iommufd: fd '99' is not open, not an iommufd: pass a descriptor of "
      "/dev/iommu" },
    { "fd-no-number", "", ",fd=passed",
      "iommufd: Invalid file descriptor number 'passed'" },
};

static void test_object_error(const void *data)
{
    const ObjectError *row = data;
    FakeEnv *env = fake_env_new();
    g_autofree char *args = g_strdup_printf(PC "-object iommufd,id=iommufd0%s "
                                            "</dev/null", row->props);
    g_autofree char *message = NULL;
    g_autofree char *expected = g_strdup_printf(": %s\n", row->message);

    fake_env_control(env, row->control);
    message = fake_env_start_fails(env, args);
    g_test_message("%s", message);
    g_assert_nonnull(strchr(message, ':'));
    g_assert_cmpstr(strchr(message, ':'), ==, expected);
    fake_env_free(env);
}

/* And the same over QMP leaves a VM that can try again */
static void test_object_add_error(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC);

    fake_env_control(env, "open /dev/iommu 13");
    assert_error(object_add(qts, "iommufd0"), object_errors[1].message);
    fake_env_control(env, "");
    assert_no_error(object_add(qts, "iommufd0"));
    assert_no_error(device_add(qts, "hd0", BDF0));
    quit(env, qts);
}

/* The device */

typedef struct Attach {
    const char *name, *control, *args;
    const char *sysfs;
    const char *pt;             /* what it attached to, in the log */
    const char *not_tried;
} Attach;

#define HOST        "vfio-pci,id=hd0,iommufd=iommufd0,host=" BDF0
#define ATTACHED(n) "VFIO_DEVICE_ATTACH_IOMMUFD_PT " #n " = 0\n"

static const Attach attaches[] = {
    { "q35", "", Q35 OBJECT "-device " HOST, NULL, ATTACHED(3) },
    { "pc", "", PC OBJECT "-device " HOST, NULL, ATTACHED(3) },
    { "root-port", "", Q35 OBJECT "-device pcie-root-port,id=rp "
      "-device " HOST ",bus=rp", NULL, ATTACHED(3) },
    { "json", "", PC OBJECT "-device '{\"driver\":\"vfio-pci\",\"id\":\"hd0\","
      "\"host\":\"" BDF0 "\",\"iommufd\":\"iommufd0\"}'", NULL, ATTACHED(3) },
    { "dirty-tracking", "dirty 1", PC OBJECT "-device " HOST, NULL,
      "IOMMU_HWPT_ALLOC dev=1 pt=2 flags=0x2 hwpt=3 = 0\n" ATTACHED(3) },
    { "dirty-tracking-refused", "dirty 1\nfail IOMMU_HWPT_ALLOC 1 95",
      PC OBJECT "-device " HOST, NULL,
      "IOMMU_HWPT_ALLOC dev=1 pt=2 flags=0x0 hwpt=3 = 0\n" ATTACHED(3) },
    /* The kernel chooses the page table, and its id is the next one */
    { "no-hw-info", "no IOMMU_GET_HW_INFO", PC OBJECT "-device " HOST, NULL,
      ATTACHED(3) },
    { "no-hwpt-alloc", "no IOMMU_HWPT_ALLOC", PC OBJECT "-device " HOST, NULL,
      ATTACHED(3) },
    { "hwpt-not-for-it", "fail VFIO_DEVICE_ATTACH_IOMMUFD_PT 1 22",
      PC OBJECT "-device " HOST, NULL, "IOMMU_DESTROY id=3 = 0\n"
      ATTACHED(3) },
    { "mdev", "mdev 0", PC OBJECT "-device " HOST,
      "rm subsystem; ln -s ../../../mdev subsystem", ATTACHED(2),
      "IOMMU_GET_HW_INFO" },
};

/* Every byte of RAM is mapped once, and given back at unplug */
static void test_attach(const void *data)
{
    const Attach *row = data;
    FakeEnv *env = fake_env_new();
    g_autofree char *log = NULL;
    QTestState *qts;
    FakeMaps m;

    fake_env_control(env, row->control);
    if (row->sysfs) {
        fake_env_sysfs(env, BDF0, row->sysfs);
    }
    qts = fake_env_start(env, row->args);
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, row->pt));
    g_assert_false(row->not_tried && strstr(log, row->not_tried));
    m = fake_env_maps(log);
    /* In the PAM window, ROM may be in place of RAM from the beginning */
    g_assert_cmpuint(m.live_low, ==, RAM);
    g_assert_cmpuint(m.mapped_rw, <=, RAM);
    g_assert_cmpuint(m.mapped_ro, <=, 1 * MiB);
    g_assert_cmpuint(m.unmapped, <=, 256 * KiB);
    g_assert_cmpuint(m.failed, ==, 0);

    assert_error(object_del(qts, "iommufd0"),
                 "object 'iommufd0' is in use by device 'hd0', can not be "
                 "deleted");
    quit(env, qts);
}

static void test_sysfsdev(void)
{
    FakeEnv *env = fake_env_new();
    g_autofree char *args =
        g_strdup_printf(PC OBJECT "-device vfio-pci,id=hd0,iommufd=iommufd0,"
                        "sysfsdev=%s/" BDF1, env->sysfs);
    QTestState *qts = fake_env_start(env, args);

    assert_logged(env, "open /dev/vfio/devices/vfio1 = ");
    quit(env, qts);
}

/* The descriptor came from the manager: inherited, or by getfd */

static int inherited(const char *memfd)
{
    int fd = memfd_create(memfd, 0);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void getfd(QTestState *qts, const char *name, int fd)
{
    qmp_ok(qts, qtest_qmp_fds(qts, &fd, 1, "{'execute': 'getfd', 'arguments': "
                              "{'fdname': %s}}", name));
    close(fd);
}

static char *device_add_fd(QTestState *qts, const char *id, const char *fd)
{
    return qmp_error(qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                               "{'driver': 'vfio-pci', 'id': %s, 'fd': %s, "
                               "'iommufd': 'iommufd0'}}", id, fd));
}

static void test_fd_inherited(void)
{
    FakeEnv *env = fake_env_new();
    int iommu = inherited(FAKE_IOMMU_MEMFD), cdev = inherited("fake-vfio0");
    g_autofree char *args =
        g_strdup_printf(PC "-object iommufd,id=iommufd0,fd=%d,"
                        "map-background=off "
                        "-device vfio-pci,id=hd0,iommufd=iommufd0,fd=%d",
                        iommu, cdev);
    g_autofree char *log = NULL;
    QTestState *qts;

    /* QEMU may open nothing */
    fake_env_control(env, "open /dev/iommu 13\n"
                     "open /dev/vfio/devices/vfio0 13");
    qts = fake_env_start(env, args);
    close(iommu);
    close(cdev);
    log = fake_env_take_log(env);
    g_assert_cmpuint(fake_env_maps(log).live_low, ==, RAM);
    device_del(qts, "hd0");
    assert_no_error(object_del(qts, "iommufd0"));
    g_free(log);
    log = fake_env_take_log(env);
    g_assert_nonnull(strstr(log, GONE_CDEV0));
    g_assert_nonnull(strstr(log, GONE_IOMMU));
    quit(env, qts);
}

/* With and without id=, host=, sysfsdev=; # is the descriptor, @ the sysfs */
static const ObjectForm fd_forms[] = {
    { "alone", "vfio-pci,fd=#,iommufd=iommufd0" },
    { "iommufd-first", "vfio-pci,iommufd=iommufd0,fd=#" },
    { "and-host", "vfio-pci,host=" BDF0 ",fd=#,iommufd=iommufd0" },
    { "and-sysfsdev", "vfio-pci,sysfsdev=@/" BDF0 ",fd=#,iommufd=iommufd0" },
};

static void test_fd_form(const void *data)
{
    const ObjectForm *form = data;
    FakeEnv *env = fake_env_new();
    int cdev = inherited("fake-vfio0");
    g_autofree char *number = g_strdup_printf("%d", cdev);
    g_auto(GStrv) a = g_strsplit(form->args, "#", 2);
    g_autofree char *filled = g_strjoinv(number, a);
    g_auto(GStrv) b = g_strsplit(filled, "@", 2);
    g_autofree char *device = g_strjoinv(env->sysfs, b);
    g_autofree char *args = g_strdup_printf(PC OBJECT "-device %s", device);
    QTestState *qts = fake_env_start(env, args);

    close(cdev);
    assert_logged(env, ATTACHED(3));
    assert_error(object_del(qts, "iommufd0"), "object 'iommufd0' is in use by "
                 "device '" BDF0 "', can not be deleted");
    quit(env, qts);
}

static void test_fd_by_name(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC);
    g_autofree char *log = NULL;
    int i;

    fake_env_control(env, "open /dev/iommu 13\n"
                     "open /dev/vfio/devices/vfio0 13");
    for (i = 0; i < 2; i++) {
        getfd(qts, "iommu", inherited(FAKE_IOMMU_MEMFD));
        qmp_ok(qts, qtest_qmp(qts, "{'execute': 'object-add', 'arguments': "
                              "{'qom-type': 'iommufd', 'id': 'iommufd0', "
                              "'fd': 'iommu'}}"));
        getfd(qts, "cdev", inherited("fake-vfio0"));
        g_free(fake_env_take_log(env));
        assert_no_error(device_add_fd(qts, "hd0", "cdev"));
        device_del(qts, "hd0");
        assert_no_error(object_del(qts, "iommufd0"));
        g_free(log);
        log = fake_env_take_log(env);
        g_assert_nonnull(strstr(log, GONE_CDEV0));
        g_assert_nonnull(strstr(log, GONE_IOMMU));
    }
    quit(env, qts);
}

static void test_fd_errors(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC OBJECT);
    int cdev;

    assert_error(device_add_fd(qts, "hd0", "passed"),
                 "File descriptor named 'passed' has not been found");
    getfd(qts, "passed", open("/dev/null", O_RDWR));
    assert_error(device_add_fd(qts, "hd0", "passed"),
                 "fd 'passed' is /dev/null, not a VFIO device: pass a "
                 "descriptor of /dev/vfio/devices/vfioN");

    /* A failure after the kernel has bound it: the name is gone, so close it */
    cdev = inherited("fake-vfio0");
    getfd(qts, "passed", cdev);
    fake_env_control(env, "fail IOMMU_IOAS_ALLOC 1 12");
    g_free(fake_env_take_log(env));
    assert_error(device_add_fd(qts, "hd0", "passed"),
                 VFIO0 "IOMMU_IOAS_ALLOC failed: Cannot allocate memory");
    assert_logged(env, GONE_CDEV0);
    assert_no_error(device_add(qts, "hd0", BDF0));
    quit(env, qts);
}

typedef struct DeviceError {
    const char *name, *control, *bdf, *sysfs, *message;
} DeviceError;

static const DeviceError device_errors[] = {
    { "absent", "", "0000:66:00.0", NULL,
      "vfio /sys/bus/pci/devices/0000:66:00.0: no such host device: No such "
      "file or directory" },
    { "no-driver", "", BDF0, "rm -r driver vfio-dev",
      VFIO0 "no driver is bound to the device: bind it to vfio-pci (driverctl "
      "set-override, or driver_override in sysfs)" },
    { "other-driver", "", BDF0,
      "rm -r driver vfio-dev; ln -s ../../../../drivers/e1000e driver",
      VFIO0 "the device is bound to driver 'e1000e', which is not a vfio "
      "driver: bind it to vfio-pci" },
    { "no-iommu", "", BDF0, "rm -r iommu_group vfio-dev",
      VFIO0 "the device has no IOMMU: turn the IOMMU on in the host's firmware "
      "and kernel" },
    { "noiommu-mode", "", BDF0,
      "rm -r vfio-dev/vfio0/dev; echo vfio-noiommu > iommu_group/name",
      VFIO0 "the device is in noiommu mode, which exists for groups only and "
      "which QEMU cannot use: turn the IOMMU on in the host's firmware and "
      "kernel" },
    { "kernel-without-cdev", "", BDF0, "rm vfio-dev/vfio0/dev",
      VFIO0 "the host's kernel offers no VFIO cdev for the device: this needs "
      "Linux 6.6 or later with CONFIG_VFIO_DEVICE_CDEV; without iommufd= the "
      "VFIO group is used" },
    { "old-kernel", "", BDF0, "rm -r vfio-dev",
      VFIO0 "the host's kernel offers no VFIO cdev for the device: this needs "
      "Linux 6.6 or later with CONFIG_VFIO_DEVICE_CDEV; without iommufd= the "
      "VFIO group is used" },
    { "node-missing", "devices 0", BDF0, NULL,
      VFIO0 "/dev/vfio/devices/vfio0 is missing although the kernel has the "
      "device: make the node (major 511, minor 0) available in QEMU's /dev, or "
      "pass a descriptor" },
    { "no-permission", "open /dev/vfio/devices/vfio0 13", BDF0, NULL,
      VFIO0 "no permission to open /dev/vfio/devices/vfio0: give QEMU's user "
      "read and write access to it" },
    { "open-fails", "open /dev/vfio/devices/vfio0 24", BDF0, NULL,
      VFIO0 "cannot open /dev/vfio/devices/vfio0: Too many open files" },
    { "wrong-node", "", BDF0, "echo 511:5 > vfio-dev/vfio0/dev",
      VFIO0 "/dev/vfio/devices/vfio0 is not the node of this device: sysfs "
      "says major 511, minor 5" },
    { "group-open", "group-open 0", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Device or resource busy: its "
      "VFIO group is open, in this VM (a device without iommufd=) or another" },
    { "partner-busy", "group-open 0", BDF0,
      "d=iommu_group/devices/0000:65:00.7; mkdir $d; "
      "ln -s ../../../../drivers/e1000e $d/driver",
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Device or resource busy: "
      "0000:65:00.7 in the same IOMMU group is used by host driver 'e1000e': "
      "bind it to vfio-pci too" },
    { "not-bindable", "fail VFIO_DEVICE_BIND_IOMMUFD 1 22", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Invalid argument: it is open "
      "elsewhere, or its IOMMU is not cache coherent" },
    { "unsafe-interrupts", "unsafe 0", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Operation not permitted: "
      "interrupts cannot be isolated on this host: enable interrupt remapping, "
      "or accept the risk with iommufd.allow_unsafe_interrupts=1" },
    { "group-or-interrupts", "unsafe 0", BDF0,
      "d=iommu_group/devices/0000:65:00.7/vfio-dev/vfio9; mkdir -p $d; "
      "echo 511:9 > $d/dev",
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Operation not permitted: its "
      "IOMMU group is used through another iommufd, or interrupts cannot be "
      "isolated on this host: enable interrupt remapping, or accept the risk "
      "with iommufd.allow_unsafe_interrupts=1" },
    { "needs-token", "fail VFIO_DEVICE_BIND_IOMMUFD 1 13", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Permission denied: its PF driver "
      "wants a VF token: give the right one as vf-token=" },
    { "going-away", "fail VFIO_DEVICE_BIND_IOMMUFD 1 19", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: No such device: the device is "
      "going away, or has no IOMMU" },
    { "bind-fails", "fail VFIO_DEVICE_BIND_IOMMUFD 1 5", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Input/output error: see the "
      "host's kernel log" },
    { "info-fails", "fail VFIO_DEVICE_GET_INFO 1 5", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_GET_INFO failed: Input/output error" },
    { "attach-memlock", "fail VFIO_DEVICE_ATTACH_IOMMUFD_PT 1 12\n"
      "fail VFIO_DEVICE_ATTACH_IOMMUFD_PT 2 12", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_ATTACH_IOMMUFD_PT failed: Cannot allocate memory: "
      "raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=) or free memory" },
    { "no-ranges", "fail IOMMU_IOAS_IOVA_RANGES 1 12", BDF0, NULL,
      VFIO0 "IOMMU_IOAS_IOVA_RANGES of IOAS 2 failed: Cannot allocate "
      "memory" },
    { "out-of-memory", "fail IOMMU_IOAS_MAP 1 12", BDF0, NULL,
      VFIO0 "cannot map guest memory [0x0, 0x9ffff] ('pc.ram') for DMA: the "
      "host is out of memory" },
    { "attach-refused", "fail VFIO_DEVICE_ATTACH_IOMMUFD_PT 1 22\n"
      "fail VFIO_DEVICE_ATTACH_IOMMUFD_PT 2 22", BDF0, NULL,
      VFIO0 "VFIO_DEVICE_ATTACH_IOMMUFD_PT failed: Invalid argument: the IOMMU "
      "cannot give the device the guest's memory map; see the host's kernel "
      "log" },
    { "no-ioas", "fail IOMMU_IOAS_ALLOC 1 12", BDF0, NULL,
      VFIO0 "IOMMU_IOAS_ALLOC failed: Cannot allocate memory" },
    { "memlock", "memlock 268435456", BDF0, NULL,
      VFIO0 "cannot map guest memory [0x100000, 0x1effffff] ('pc.ram') for "
      "DMA: 524544 KiB of locked memory are needed, the limit is 262144 KiB: "
      "raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)" },
    { "small-iommu", "aperture-last 0xfffffff", BDF0, NULL,
      VFIO0 "cannot map guest memory [0x100000, 0x1effffff] ('pc.ram') for "
      "DMA: the IOMMU translates only [0x0, 0xfffffff]: give the guest less "
      "memory or move it" },
    { "hole-in-ram", "hole 0 0x8000000 0x8ffffff", BDF0, NULL,
      VFIO0 "cannot map guest memory [0x100000, 0x1effffff] ('pc.ram') for "
      "DMA: the IOMMU translates only [0x0, 0x7ffffff] [0x9000000, 0xfedfffff] "
      "[0xfef00000, 0xffffffffffff]: give the guest less memory or move it" },
    { "map-fails", "fail IOMMU_IOAS_MAP 2 14", BDF0, NULL,
      VFIO0 "cannot map guest memory [0xa0000, 0xbffff] ('pc.ram') for DMA: "
      "IOMMU_IOAS_MAP: Bad address" },
};

/* One line that says what to do, nothing left, and the VM works on */
static void test_device_error(const void *data)
{
    const DeviceError *row = data;
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC OBJECT);
    g_autofree char *log = NULL;

    fake_env_control(env, row->control);
    if (row->sysfs) {
        fake_env_sysfs(env, row->bdf, row->sysfs);
    }
    g_free(fake_env_take_log(env));
    assert_error(device_add(qts, "hd0", row->bdf), row->message);
    log = fake_env_take_log(env);
    if (strstr(log, "open /dev/vfio/devices/vfio0 = ") &&
        !strstr(log, "open /dev/vfio/devices/vfio0 = -")) {
        g_assert_nonnull(strstr(log, GONE_CDEV0));
    }

    /* The other device is fine, under the same name */
    fake_env_control(env, "");
    assert_no_error(device_add(qts, "hd0", BDF1));
    device_del(qts, "hd0");
    assert_no_error(object_del(qts, "iommufd0"));
    assert_logged(env, GONE_IOMMU);
    quit(env, qts);
}

/* Another process, this one, has the cdev open: QEMU says which it is */
static void test_device_held(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC OBJECT);
    int held = memfd_create("fake-vfio0", MFD_CLOEXEC);
    g_autofree char *comm = NULL;
    g_autofree char *expected = NULL;

    g_assert_true(g_file_get_contents("/proc/self/comm", &comm, NULL, NULL));
    expected = g_strdup_printf(VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Invalid "
                               "argument: process %d (%s) has the device open",
                               getpid(), g_strstrip(comm));
    fake_env_control(env, "fail VFIO_DEVICE_BIND_IOMMUFD 1 22");
    assert_error(device_add(qts, "hd0", BDF0), expected);
    close(held);
    fake_env_control(env, "");
    assert_no_error(device_add(qts, "hd0", BDF0));
    quit(env, qts);
}

#define TOKEN "2ab74924-c335-45f4-9b16-8569e5b08258"

static char *device_add_token(QTestState *qts, const char *token)
{
    return qmp_error(qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                               "{'driver': 'vfio-pci', 'id': 'hd0', "
                               "'host': %s, 'iommufd': 'iommufd0', "
                               "'vf-token': %s}}", BDF0, token));
}

static void test_vf_token(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC OBJECT);

    /* A kernel that knows no token: an error, never silence */
    assert_error(device_add_token(qts, TOKEN),
                 VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Invalid argument: a "
                 "kernel before Linux 6.17 takes no VF token, or the device is "
                 "open elsewhere");

    fake_env_control(env, "vf-token 0 2ab74924c33545f49b168569e5b08258");
    assert_error(device_add(qts, "hd0", BDF0),
                 VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Permission denied: "
                 "its PF driver wants a VF token: give the right one as "
                 "vf-token=");
    assert_error(device_add_token(qts, "2ab74924-c335-45f4-9b16-8569e5b08259"),
                 VFIO0 "VFIO_DEVICE_BIND_IOMMUFD failed: Permission denied: "
                 "its PF driver wants a VF token: give the right one as "
                 "vf-token=");
    assert_no_error(device_add_token(qts, TOKEN));
    quit(env, qts);
}

/* Neither a number nor a name */
static void test_fd_json_list(void)
{
    FakeEnv *env = fake_env_new();
    g_autofree char *error =
        fake_env_start_fails(env, PC OBJECT "-device '{\"driver\":\"vfio-pci\","
                             "\"iommufd\":\"iommufd0\",\"fd\":[3]}'");
    QTestState *qts;

    g_assert_nonnull(strstr(error, ": Invalid parameter type for 'fd', "
                            "expected: string or number\n"));
    qts = fake_env_start(env, PC);
    assert_error(qmp_error(qtest_qmp(qts, "{'execute': 'object-add', "
                                     "'arguments': {'qom-type': 'iommufd', "
                                     "'id': 'iommufd0', 'fd': [3]}}")),
                 "Invalid parameter type for 'fd', expected: string or number");
    assert_no_error(object_add(qts, "iommufd0"));
    quit(env, qts);
}

/* People write numbers as numbers */
static void test_fd_json_number(void)
{
    FakeEnv *env = fake_env_new();
    int iommu = inherited(FAKE_IOMMU_MEMFD), cdev = inherited("fake-vfio0");
    g_autofree char *args = g_strdup_printf(PC
        "-object '{\"qom-type\":\"iommufd\",\"id\":\"iommufd0\",\"fd\":%d}' "
        "-device '{\"driver\":\"vfio-pci\",\"id\":\"hd0\","
        "\"iommufd\":\"iommufd0\",\"fd\":%d}'", iommu, cdev);
    QTestState *qts = fake_env_start(env, args);
    QDict *answer;

    close(iommu);
    close(cdev);
    answer = qtest_qmp(qts, "{'execute': 'qom-get', 'arguments': "
                       "{'path': '/machine/peripheral/hd0', "
                       "'property': 'iommufd-origin'}}");
    g_assert_cmpstr(qdict_get_str(answer, "return"), ==, "passed");
    qobject_unref(answer);
    answer = qtest_qmp(qts, "{'execute': 'qom-get', 'arguments': "
                       "{'path': '/objects/iommufd0', 'property': 'fd'}}");
    g_assert_cmpint(atoi(qdict_get_str(answer, "return")), ==, iommu);
    qobject_unref(answer);
    quit(env, qts);
}

/* As a JSON number by QMP, too, and of a device without an id */
static void test_fd_json_number_qmp(void)
{
    FakeEnv *env = fake_env_new();
    int cdev = inherited("fake-vfio0");
    QTestState *qts = fake_env_start(env, PC OBJECT);

    close(cdev);
    assert_no_error(qmp_error(qtest_qmp(qts, "{'execute': 'device_add', "
                                        "'arguments': {'driver': 'vfio-pci', "
                                        "'fd': %d, 'iommufd': 'iommufd0'}}",
                                        cdev)));
    assert_logged(env, ATTACHED(3));
    quit(env, qts);
}

static void test_device_object_error(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC
                                     "-object memory-backend-ram,id=iommufd0,"
                                     "size=1M");

    assert_error(device_add(qts, "hd0", BDF0),
                 "Invalid parameter type for 'iommufd', expected: iommufd");
    assert_no_error(object_del(qts, "iommufd0"));
    assert_error(device_add(qts, "hd0", BDF0), "Device 'iommufd0' not found");
    assert_no_error(object_add(qts, "iommufd0"));
    assert_no_error(device_add(qts, "hd0", BDF0));
    assert_error(device_add(qts, "hd1", BDF0),
                 VFIO0 "device is already attached");
    quit(env, qts);
}

typedef struct OptionError {
    const char *name, *args, *message;
} OptionError;

static const OptionError option_errors[] = {
    { "no-device", "'iommufd':'iommufd0'", "No provided host device" },
    { "token-without-object", "'host':'" BDF0 "','vf-token':'" TOKEN "'",
      "vf-token= needs iommufd=: name the iommufd object that the device shall "
      "use" },
    { "fd-without-object", "'fd':'0'", "fd= needs iommufd=: name the iommufd "
      "object that the device shall use" },
    { "fd-contradicts", "'iommufd':'iommufd0','fd':'passed','host':'" BDF1 "'",
      "fd 'passed' is @/bus/pci/devices/" BDF0 ", but host= or sysfsdev= says "
      "/sys/bus/pci/devices/" BDF1 ": give only one of them, or the right "
      "one" },
};

/* Options that make no sense, alone or together; @ is the fake sysfs */
static void test_option_error(const void *data)
{
    const OptionError *row = data;
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC OBJECT);
    g_autofree char *json = g_strdup_printf("{'driver':'vfio-pci','id':'hd0',"
                                            "%s}", row->args);
    g_auto(GStrv) parts = g_strsplit(row->message, "@", 2);
    g_autofree char *expected = g_strjoinv(env->dir, parts);
    g_autofree char *error = NULL;

    getfd(qts, "passed", inherited("fake-vfio0"));
    error = qmp_error(qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                                "%p}", qobject_from_json(json, &error_abort)));
    g_assert_true(g_str_has_suffix(error, expected));
    assert_no_error(device_add(qts, "hd0", BDF0));
    quit(env, qts);
}

/* Unplugged is gone: at DEVICE_DELETED the object and the names are free */
static void test_hotplug(const void *data)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, data);
    int i;

    for (i = 0; i < 3; i++) {
        g_autofree char *log = NULL;
        FakeMaps m;

        assert_no_error(object_add(qts, "iommufd0"));
        g_free(fake_env_take_log(env));
        if (strstr(data, "root-port")) {
            qmp_ok(qts, qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                                  "{'driver': 'vfio-pci', 'id': 'hd0', "
                                  "'host': '" BDF0 "', 'bus': 'rp', "
                                  "'iommufd': 'iommufd0'}}"));
        } else {
            assert_no_error(device_add(qts, "hd0", BDF0));
        }
        log = fake_env_take_log(env);
        m = fake_env_maps(log);
        g_assert_cmpuint(m.live_low, ==, RAM);
        g_assert_cmpuint(m.unmapped + m.failed, ==, 0);
        device_del(qts, "hd0");
        assert_no_error(object_del(qts, "iommufd0"));
        g_free(log);
        log = fake_env_take_log(env);
        g_assert_nonnull(strstr(log, GONE_CDEV0));
        g_assert_nonnull(strstr(log, GONE_IOMMU));
    }
    quit(env, qts);
}

static void test_reset(const void *data)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, data);
    g_autofree char *start = fake_env_take_log(env);
    int i;

    /* The kernel has done so at BIND: the machine's first reset need not */
    g_assert_nonnull(strstr(start, "VFIO_DEVICE_BIND_IOMMUFD "));
    g_assert_null(strstr(start, "VFIO_DEVICE_RESET"));
    for (i = 0; i < 3; i++) {
        g_autofree char *log = NULL;
        FakeMaps m;

        qmp_ok(qts, qtest_qmp(qts, "{'execute': 'system_reset'}"));
        qtest_qmp_eventwait(qts, "RESET");
        log = fake_env_take_log(env);
        m = fake_env_maps(log);
        g_assert_nonnull(strstr(log, "VFIO_DEVICE_RESET = 0\n"));
        g_assert_cmpuint(m.mapped_rw + m.mapped_ro, ==, 0);
        g_assert_cmpuint(m.unmapped + m.failed, ==, 0);
    }
    quit(env, qts);
}

typedef struct Reset {
    const char *name, *control, *log, *not_log;
    bool both;                  /* the VM has the other device, too */
    const char *said;
} Reset;

/* How a device is reset that has no reset of its own */
static const Reset resets[] = {
    { "own", "", "VFIO_DEVICE_RESET = 0\n", "VFIO_DEVICE_PCI_HOT_RESET " },
    { "bus-alone", "no-reset 0", "VFIO_DEVICE_PCI_HOT_RESET = 0\n",
      "VFIO_DEVICE_RESET" },
    { "bus-with-unused", "no-reset 0\nshared-bus 0 0",
      "VFIO_DEVICE_PCI_HOT_RESET = 0\n", "VFIO_DEVICE_RESET" },
    /* The second device's id is 4: object 2 is the IOAS, 3 the page table */
    { "bus-of-both", "no-reset 0\nno-reset 1\nshared-bus 0 4\n"
      "shared-bus 1 1", "VFIO_DEVICE_PCI_HOT_RESET = 0\n",
      "VFIO_DEVICE_RESET", true },
    { "bus-not-ours", "no-reset 0\nshared-bus 0 -1",
      "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = 0\n",
      "VFIO_DEVICE_PCI_HOT_RESET ",
      .said = VFIO0 "cannot be reset: 0000:00:00.1 shares its bus and does not "
      "belong to this VM's iommufd: assign it with the same iommufd= or, if it "
      "is in the same IOMMU group, bind it to vfio-pci\n" },
    { "bus-query-fails", "no-reset 0\n"
      "no VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
      "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = -25\n",
      "VFIO_DEVICE_PCI_HOT_RESET ",
      .said = VFIO0 "no reset is available for the device (Inappropriate ioctl "
      "for device)\n" },
};

static void test_reset_kind(const void *data)
{
    const Reset *row = data;
    FakeEnv *env = fake_env_new();
    g_autofree char *log = NULL;
    g_autofree char *said = NULL;
    QTestState *qts;

    fake_env_control(env, row->control);
    qts = fake_env_start_heard(env, PC OBJECT "-device " HOST);
    if (row->both) {            /* later, so that its id is known */
        qmp_ok(qts, qtest_qmp(qts, "{'execute': 'device_add', 'arguments': {"
                              "'driver': 'vfio-pci', 'id': 'dev1', 'host': '"
                              BDF1 "', 'iommufd': 'iommufd0'}}"));
    }
    g_free(fake_env_take_log(env));
    qmp_ok(qts, qtest_qmp(qts, "{'execute': 'system_reset'}"));
    qtest_qmp_eventwait(qts, "RESET");
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_cmpuint(fake_env_count(log, row->log), >=, 1);
    g_assert_cmpuint(fake_env_count(log, "VFIO_DEVICE_PCI_HOT_RESET ="), <=, 1);
    said = fake_env_said(env);
    if (row->said) {
        g_assert_nonnull(strstr(said, row->said));
    } else {
        g_assert_cmpstr(said, ==, "");
    }
    g_assert_null(strstr(log, row->not_log));
    quit(env, qts);
}

/* Two devices of one object */

typedef struct Pair {
    const char *name, *control;
    unsigned hwpts;             /* that QEMU allocates */
} Pair;

static const Pair pairs[] = {
    { "share", "", 1 },
    { "cannot-share", "alone 1", 2 },
    { "kernel-chooses", "no IOMMU_HWPT_ALLOC", 0 },
};

static void test_pair(const void *data)
{
    const Pair *row = data;
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, PC OBJECT);
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    FakeMaps m;

    fake_env_control(env, row->control);
    assert_no_error(device_add(qts, "hd0", BDF0));
    first = fake_env_take_log(env);
    assert_no_error(device_add(qts, "hd1", BDF1));
    second = fake_env_take_log(env);

    m = fake_env_maps(second);
    g_assert_cmpuint(m.maps + m.unmaps, ==, 0);
    g_assert_cmpuint(fake_env_count(second, "IOMMU_IOAS_ALLOC"), ==, 0);
    g_assert_cmpuint(fake_env_count(first, " hwpt=3 = 0") +
                     fake_env_count(second, " hwpt=5 = 0"),
                     ==, row->hwpts);

    assert_error(object_del(qts, "iommufd0"),
                 "object 'iommufd0' is in use by device 'hd1', can not be "
                 "deleted");
    device_del(qts, "hd1");
    assert_error(object_del(qts, "iommufd0"),
                 "object 'iommufd0' is in use by device 'hd0', can not be "
                 "deleted");
    g_free(second);
    second = fake_env_take_log(env);
    /* The first is not disturbed, and the ranges may be wider again */
    g_assert_cmpuint(fake_env_maps(second).unmapped, ==, 0);
    g_assert_cmpuint(fake_env_count(second, "IOMMU_IOAS_IOVA_RANGES = 0"), ==,
                     1);
    device_del(qts, "hd0");
    assert_no_error(object_del(qts, "iommufd0"));
    assert_logged(env, GONE_IOMMU);
    quit(env, qts);
}

static void write_device(QTestState *qts, unsigned slot, uint8_t reg,
                         uint32_t value)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | slot << 11 | reg);
    qtest_outl(qts, 0xcfc, value);
}

static uint32_t read_device(QTestState *qts, unsigned slot, uint8_t reg)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | slot << 11 | reg);
    return qtest_inl(qts, 0xcfc);
}

/*
 * The device for the guest: identity, BAR and MSI work, and the BAR, which the
 * kernel would refuse to map for the other device's DMA, is not tried.
 */
#define NOT_FOR_PEERS(bdf) \
    "info: vfio: '" bdf " BAR 0 mmaps[0]': this kernel cannot map it for " \
    "DMA, so other assigned devices cannot reach this device " \
    "(peer-to-peer); everything else works\n"

static void test_function(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start_heard(env, PC OBJECT
                                           "-device " HOST ",addr=5 "
                                           "-device vfio-pci,host=" BDF1
                                           ",iommufd=iommufd0,addr=6");
    const uint32_t bar = 0xe0000000;
    g_autofree char *log = NULL;

    g_assert_cmphex(read_device(qts, 5, 0), ==, 0x11e81234);
    write_device(qts, 5, 0x10, UINT32_MAX);
    g_assert_cmphex(read_device(qts, 5, 0x10), ==, 0xfff00000);
    g_free(fake_env_take_log(env));

    write_device(qts, 5, 0x10, bar);
    write_device(qts, 6, 0x10, bar + 1 * MiB);
    write_device(qts, 5, 0x04, 0x6);
    write_device(qts, 6, 0x04, 0x6);
    qtest_writel(qts, bar + 0x80, 0x12345678);
    qtest_writel(qts, bar + 1 * MiB + 0x80, 0x9abcdef0);
    g_assert_cmphex(qtest_readl(qts, bar + 0x80), ==, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, bar + 1 * MiB + 0x80), ==, 0x9abcdef0);

    /* Again, for the messages: one line per device is enough */
    write_device(qts, 5, 0x04, 0x4);
    write_device(qts, 5, 0x04, 0x6);
    assert_said(env, NOT_FOR_PEERS(BDF0) NOT_FOR_PEERS(BDF1));

    /* MSI: address, data, enable; INTx makes room for it */
    write_device(qts, 5, 0x44, 0xfee00000);
    write_device(qts, 5, 0x4c, 0x4041);
    write_device(qts, 5, 0x40, 0x00010005);
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, "VFIO_DEVICE_SET_IRQS flags=0x21 index=0 "
                            "start=0 count=0 = 0\n"));
    g_assert_nonnull(strstr(log, "VFIO_DEVICE_SET_IRQS flags=0x24 index=1 "
                            "start=0 count=1 = 0\n"));
    g_assert_cmpuint(fake_env_maps(log).maps, ==, 0);

    /* Unplug with a BAR mapped and MSI on */
    device_del(qts, "hd0");
    g_free(log);
    log = fake_env_take_log(env);
    g_assert_nonnull(strstr(log, GONE_CDEV0));
    g_assert_cmphex(qtest_readl(qts, bar + 0x80), !=, 0x12345678);
    quit(env, qts);
}

/*
 * Behind a guest IOMMU each device has an address space of its own; RAM is
 * mapped and accounted once, in a third one
 */
static void test_address_spaces(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, Q35 OBJECT
                                     "-device intel-iommu,caching-mode=on "
                                     "-device " HOST " -device "
                                     "vfio-pci,id=hd1,host=" BDF1
                                     ",iommufd=iommufd0");
    g_autofree char *log = fake_env_take_log(env);
    FakeMaps m = fake_env_maps(log);

    g_assert_cmpuint(fake_env_count(log, "IOMMU_IOAS_ALLOC "), ==, 3);
    g_assert_cmpuint(m.mapped_rw, >=, RAM - MiB);
    g_assert_cmpuint(m.mapped_rw, <=, RAM + MiB);
    g_assert_cmpuint(m.copied, ==, 2 * (m.mapped_rw + m.mapped_ro));
    g_assert_cmpuint(m.failed, ==, 0);
    quit(env, qts);
}

/* The chipset's windows */

typedef struct Chipset {
    const char *name, *args;
    uint8_t pam, smram;
} Chipset;

static const Chipset chipsets[] = {
    { "pc", PC OBJECT "-device " HOST, 0x59, 0x72 },
    { "q35", Q35 OBJECT "-device " HOST, 0x90, 0x9d },
};

static void write_config(QTestState *qts, uint8_t reg, uint8_t value)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | (reg & ~3));
    qtest_outb(qts, 0xcfc + (reg & 3), value);
}

/* What one write costs: nothing outside the window, no failure */
static FakeMaps window(FakeEnv *env, QTestState *qts, uint8_t reg,
                       uint8_t value)
{
    g_autofree char *log = NULL;
    FakeMaps m;

    g_free(fake_env_take_log(env));
    write_config(qts, reg, value);
    log = fake_env_take_log(env);
    m = fake_env_maps(log);
    g_assert_cmpuint(m.failed, ==, 0);
    if (m.maps + m.unmaps) {
        g_assert_cmphex(m.lowest, >=, 0xa0000);
        g_assert_cmphex(m.highest, <=, 0xfffff);
    }
    g_assert_cmpuint(m.mapped_rw + m.mapped_ro, <=, 256 * KiB);
    g_assert_cmpuint(m.unmapped, <=, 256 * KiB);
    return m;
}

static void test_windows(const void *data)
{
    static const uint8_t pam_values[] = { 0x33, 0x11, 0x00, 0x22, 0x33, 0x00 };
    const Chipset *c = data;
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, c->args);
    uint64_t touched = 0;
    FakeMaps m;
    size_t i, v;

    for (v = 0; v < ARRAY_SIZE(pam_values); v++) {
        for (i = 0; i < 7; i++) {
            m = window(env, qts, c->pam + i, pam_values[v]);
            touched += m.mapped_rw + m.mapped_ro;
        }
    }
    /* Once cut, a segment costs itself: 13 segments of 16 or 64 KiB */
    g_assert_cmpuint(touched, >, 0);
    g_assert_cmpuint(touched, <=, ARRAY_SIZE(pam_values) * 512 * KiB);

    write_config(qts, c->smram, 0x02);
    window(env, qts, c->smram, 0x4a);
    window(env, qts, c->smram, 0x0a);
    window(env, qts, c->smram, 0x4a);
    window(env, qts, c->smram, 0x02);
    quit(env, qts);
}

/* What the kernel does not unmap it does not map anew: both are for `cont` */
static void test_unmap_fails(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start_heard(env, Q35 OBJECT "-device " HOST);
    g_autofree char *log = NULL;

    write_config(qts, 0x91, 0x33);
    fake_env_control(env, "fail IOMMU_IOAS_UNMAP 1 5");
    write_config(qts, 0x91, 0x11);
    qtest_qmp_eventwait(qts, "STOP");
    assert_said(env, "vfio: IOMMU_IOAS_UNMAP of [0xc0000, 0xc7fff] failed: "
                "Input/output error\n"
                "vfio: VM stopped, 'cont' tries again: cannot map guest memory "
                "[0xc0000, 0xc7fff] ('pc.ram') for DMA: IOMMU_IOAS_MAP: File "
                "exists\n");

    g_free(fake_env_take_log(env));
    qmp_ok(qts, qtest_qmp(qts, "{'execute': 'cont'}"));
    qtest_qmp_eventwait(qts, "RESUME");
    log = fake_env_take_log(env);
    g_assert_cmpuint(fake_env_maps(log).unmapped, ==, 0x8000);
    g_assert_cmpuint(fake_env_maps(log).mapped_ro, ==, 0x8000);
    g_assert_cmpuint(fake_env_maps(log).failed, ==, 0);
    quit(env, qts);
}

/* Memory that cannot be mapped while the VM runs */

#define LATE \
    "vfio: VM stopped, 'cont' tries again: cannot map guest memory " \
    "[0x100000000, 0x107ffffff] ('mem1') for DMA: 655616 KiB of locked " \
    "memory are needed, the limit is 546875 KiB: raise RLIMIT_MEMLOCK " \
    "(ulimit -l, LimitMEMLOCK=)\n"

static void test_late_failure(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start_heard(env, "-machine q35 "
                                           "-m 512,slots=2,maxmem=2G "
                                           "-nodefaults " OBJECT
                                           "-device " HOST);
    g_autofree char *log = NULL;
    char *state;
    FakeMaps m;

    fake_env_control(env, "memlock 560000000");
    qmp_ok(qts, qtest_qmp(qts, "{'execute': 'object-add', 'arguments': "
                          "{'qom-type': 'memory-backend-ram', 'id': 'mem1', "
                          "'size': 134217728}}"));
    g_free(fake_env_take_log(env));
    qmp_ok(qts, qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                          "{'driver': 'pc-dimm', 'id': 'dimm1', "
                          "'memdev': 'mem1'}}"));
    qtest_qmp_eventwait(qts, "STOP");
    state = run_state(qts);
    g_assert_cmpstr(state, ==, "io-error");
    g_free(state);
    log = fake_env_take_log(env);
    m = fake_env_maps(log);
    g_assert_cmpuint(m.failed, ==, 1);
    g_assert_cmpuint(m.unmapped, ==, 0);

    /* Still too little: it stops again */
    qmp_ok(qts, qtest_qmp(qts, "{'execute': 'cont'}"));
    qtest_qmp_eventwait(qts, "STOP");
    state = run_state(qts);
    g_assert_cmpstr(state, ==, "io-error");
    g_free(state);

    /* One line for each time that it stopped */
    assert_said(env, LATE LATE);

    /* Enough */
    fake_env_control(env, "memlock 700000000");
    g_free(fake_env_take_log(env));
    qmp_ok(qts, qtest_qmp(qts, "{'execute': 'cont'}"));
    qtest_qmp_eventwait(qts, "RESUME");
    state = run_state(qts);
    g_assert_cmpstr(state, ==, "running");
    g_free(state);
    g_free(log);
    log = fake_env_take_log(env);
    m = fake_env_maps(log);
    g_assert_cmpuint(m.mapped_rw, ==, 128 * MiB);
    g_assert_cmpuint(m.failed, ==, 0);
    assert_said(env, LATE LATE);
    quit(env, qts);
}

/* Every ioctl of a plug, and of an unplug, fails once */

typedef struct FailNth {
    const char *name, *control;
    int error;
    bool unplug;
    enum { OPENED, NAMED, INHERITED } how;
} FailNth;

static const FailNth fail_nths[] = {
    { "plug-eio", "", EIO, false },
    { "plug-enomem", "dirty 1", ENOMEM, false },
    { "plug-einval", "", EINVAL, false },
    { "plug-old-kernel", "no IOMMU_GET_HW_INFO", ENOTTY, false },
    { "plug-named", "", EIO, false, NAMED },
    { "plug-inherited", "", EIO, false, INHERITED },
    { "unplug-eio", "", EIO, true },
    { "unplug-named", "", EIO, true, NAMED },
};

#define STEPS 40

/* With an inherited descriptor, of which QEMU has one for each step */
static char *device_add_how(QTestState *qts, const FailNth *row, int number)
{
    g_autofree char *fd = g_strdup_printf("%d", number);

    switch (row->how) {
    case NAMED:
        getfd(qts, "cdev", inherited("fake-vfio0"));
        return device_add_fd(qts, "hd0", "cdev");
    case INHERITED:
        return device_add_fd(qts, "hd0", fd);
    default:
        return device_add(qts, "hd0", BDF0);
    }
}

static void test_fail_nth(const void *data)
{
    const FailNth *row = data;
    FakeEnv *env = fake_env_new();
    unsigned n, refused = 0;
    bool injected = true;
    int fds[STEPS + 1];
    QTestState *qts;

    for (n = 1; row->how == INHERITED && n <= STEPS; n++) {
        fds[n] = inherited("fake-vfio0");
    }
    qts = fake_env_start(env, PC);
    for (n = 1; row->how == INHERITED && n <= STEPS; n++) {
        close(fds[n]);
    }
    for (n = 1; injected; n++) {
        g_autofree char *control = g_strdup_printf("%s\nfail * %u %d",
                                                   row->control, n,
                                                   row->error);
        g_autofree char *error = NULL;
        g_autofree char *log = NULL;
        g_autofree char *later = NULL;
        bool kept;

        g_assert_cmpuint(n, <=, STEPS);
        fake_env_control(env, row->unplug ? row->control : control);
        assert_no_error(object_add(qts, "iommufd0"));
        g_free(fake_env_take_log(env));
        error = device_add_how(qts, row, fds[n]);
        log = fake_env_take_log(env);
        /* Until it is bound, an inherited one stays its owner's, and open */
        kept = row->how == INHERITED &&
               strstr(log, "VFIO_DEVICE_BIND_IOMMUFD devid=0 = -");
        g_test_message("%u: %s", n, error ?: "no error");
        if (error) {
            refused++;
            g_assert_true(g_str_has_prefix(error, VFIO0));
            g_assert_null(strchr(error, '\n'));
            g_assert_true(!strstr(log, GONE_CDEV0) == kept);
        }
        fake_env_control(env, row->unplug ? control : row->control);
        if (kept) {
            assert_no_error(device_add_how(qts, row, fds[n]));
        }
        if (!error || kept) {
            device_del(qts, "hd0");
        }
        fake_env_control(env, "");
        assert_no_error(object_del(qts, "iommufd0"));
        later = fake_env_take_log(env);
        g_assert_nonnull(strstr(error && !kept ? log : later, GONE_CDEV0));
        g_assert_nonnull(strstr(later, "gone /dev/iommu bound=0 "));
        injected = strstr(row->unplug ? later : log, " injected\n");
        if (!row->unplug || !injected) {
            g_assert_nonnull(strstr(later, GONE_IOMMU));
        }
    }
    g_assert_cmpuint(refused, >=, row->unplug ? 0 : 5);
    assert_no_error(object_add(qts, "iommufd0"));
    assert_no_error(device_add(qts, "hd0", BDF0));
    quit(env, qts);
}

static void add(const char *group, const char *name, const void *data,
                void (*fn)(const void *))
{
    g_autofree char *path = g_strdup_printf("vfio-iommufd/%s/%s", group, name);

    qtest_add_data_func(path, data, fn);
}

#define ADD_TABLE(group, table, fn) \
    do { \
        size_t i; \
        for (i = 0; i < ARRAY_SIZE(table); i++) { \
            add(group, (table)[i].name, &(table)[i], fn); \
        } \
    } while (0)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    ADD_TABLE("object", object_forms, test_object);
    ADD_TABLE("object-error", object_errors, test_object_error);
    qtest_add_func("vfio-iommufd/object/fd", test_object_fd);
    qtest_add_func("vfio-iommufd/object/type", test_object_type);
    qtest_add_func("vfio-iommufd/object-error/qmp", test_object_add_error);
    ADD_TABLE("attach", attaches, test_attach);
    qtest_add_func("vfio-iommufd/attach/sysfsdev", test_sysfsdev);
    ADD_TABLE("device-error", device_errors, test_device_error);
    ADD_TABLE("option-error", option_errors, test_option_error);
    qtest_add_func("vfio-iommufd/device-error/held", test_device_held);
    qtest_add_func("vfio-iommufd/device-error/object",
                   test_device_object_error);
    add("hotplug", "pc", PC, test_hotplug);
    add("hotplug", "q35", Q35 "-device pcie-root-port,id=rp", test_hotplug);
    add("reset", "pc", PC OBJECT "-device " HOST, test_reset);
    add("reset", "q35", Q35 OBJECT "-device " HOST, test_reset);
    ADD_TABLE("reset-kind", resets, test_reset_kind);
    ADD_TABLE("pair", pairs, test_pair);
    qtest_add_func("vfio-iommufd/function", test_function);
    qtest_add_func("vfio-iommufd/address-spaces", test_address_spaces);
    qtest_add_func("vfio-iommufd/fd/inherited", test_fd_inherited);
    qtest_add_func("vfio-iommufd/fd/json-number", test_fd_json_number);
    qtest_add_func("vfio-iommufd/fd/json-number-qmp", test_fd_json_number_qmp);
    qtest_add_func("vfio-iommufd/fd/json-list", test_fd_json_list);
    qtest_add_func("vfio-iommufd/vf-token", test_vf_token);
    ADD_TABLE("fd/form", fd_forms, test_fd_form);
    qtest_add_func("vfio-iommufd/fd/by-name", test_fd_by_name);
    qtest_add_func("vfio-iommufd/fd/errors", test_fd_errors);
    ADD_TABLE("windows", chipsets, test_windows);
    qtest_add_func("vfio-iommufd/unmap-fails", test_unmap_fails);
    qtest_add_func("vfio-iommufd/late-failure", test_late_failure);
    ADD_TABLE("fail-nth", fail_nths, test_fail_nth);
    return g_test_run();
}
