/*
 * QTest testcase for vfio-platform, vfio-ccw and their like over iommufd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The options of the devices that are not PCI, on the fake kernel of
 * fake-iommufd.h: on aarch64 vfio-platform and its children, on s390x vfio-ccw.
 * Of vfio-ap only the properties: its bus needs a CPU feature that exists with
 * KVM on s390x only.  What QEMU opened is closed after each failure, and at the
 * end.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#include "fake-iommufd-env.h"
#include "fake-iommufd.h"

#define OBJECT      "-object iommufd,id=iommufd0 "
#define GONE        "gone /dev/vfio/devices/vfio0 mapped=0\n"
#define GONE_AT_EXIT "gone /dev/vfio/devices/vfio0 "
#define IN_IOMMUFD  ",iommufd=iommufd0"

typedef struct Kind {
    const char *driver, *machine;
    const char *sysfs;          /* makes the device in the fake sysfs */
    const char *path;           /* below it */
    const char *control;
    const char *attached;       /* to what, in the log */
    const char *prefix;         /* of messages about it */
    const char *end;            /* how QEMU ends without a real one, or NULL */
    const char *nothing;        /* what it says to no device at all */
    const char *group;          /* and if it has no IOMMU group */
    const char *regions;        /* and if its regions cannot be asked for */
} Kind;

#define PLATFORM_DIR "devices/platform/fff51000.ethernet"
#define PLATFORM_SYSFS \
    "d=" PLATFORM_DIR "; mkdir -p $d/of_node bus/platform;" \
    "printf 'calxeda,hb-xgmac\\0' >$d/of_node/compatible;" \
    "ln -s $PWD/drivers/vfio-platform $d/driver;" \
    "ln -s $PWD/bus/platform $d/subsystem;"
#define PLATFORM(name, how_it_ends) { \
        .driver = name, .machine = "-M virt -m 128 -nodefaults " OBJECT, \
        .sysfs = PLATFORM_SYSFS, .path = PLATFORM_DIR, \
        .control = "platform 0", \
        .attached = "VFIO_DEVICE_ATTACH_IOMMUFD_PT 3 = 0\n", \
        .prefix = "vfio fff51000.ethernet: ", \
        .end = how_it_ends, \
        .nothing = "vfio error: wrong host device name", \
        .group = "vfio fff51000.ethernet: no iommu_group found: No such file " \
                 "or directory", \
        .regions = "failed to get region 0 info", \
    }

/* Both children and parent want the host's device tree, but for the xgmac */
static const Kind aarch64_kinds[] = {
    PLATFORM("vfio-calxeda-xgmac", NULL),
    PLATFORM("vfio-amd-xgbe", "read_fstree cannot open /proc/device-tree"),
    PLATFORM("vfio-platform", "Device vfio-platform can not be dynamically "
             "instantiated"),
    { NULL }
};

#define UUID        "9b6f4c1e-0000-4000-8000-000000000001"
#define CSS         "devices/css0/0.0.013f"

static const Kind s390x_kinds[] = {
    {
        .driver = "vfio-ccw",
        .machine = "-M s390-ccw-virtio -m 128 -nodefaults " OBJECT,
        .sysfs = "c=" CSS " d=" CSS "/" UUID "; mkdir -p $d bus/css/devices;"
                 "ln -s ../../../$c bus/css/devices/0.0.013f;"
                 "echo 0 0 0 0 0 0 0 0 >$c/chpids; echo 80 80 ff >$c/pimpampom;"
                 "ln -s $PWD/drivers/vfio_ccw_mdev $d/driver;"
                 "ln -s $PWD/bus/mdev $d/subsystem;",
        .path = CSS "/" UUID, .control = "ccw 0\nmdev 0",
        .attached = "VFIO_DEVICE_ATTACH_IOMMUFD_PT 2 = 0\n",
        .prefix = "vfio " UUID ": ",
        .nothing = "No host device provided",
        .group = "vfio: no iommu_group found",
        .regions = "vfio: Error getting config info",
    },
    { NULL }
};

typedef struct Row {
    const char *name;
    const char *options;        /* @: sysfs path; #: descriptor */
    const char *memfd;          /* of that; else it is /dev/null */
    const char *control;
    const char *error;          /* @, #, as above; !: that of its regions */
    bool named;                 /* the error begins with the device's name */
} Row;

static const Row rows[] = {
    { "sysfsdev", IN_IOMMUFD ",sysfsdev=@" },
    { "fd", IN_IOMMUFD ",fd=#", "fake-vfio0" },
    { "fd-and-sysfsdev", IN_IOMMUFD ",fd=#,sysfsdev=@", "fake-vfio0" },
    { "fd-without-object", ",fd=#", "fake-vfio0", NULL,
      "fd= needs iommufd=: name the iommufd object that the device shall use" },
    { "fd-contradicts", IN_IOMMUFD ",fd=#,sysfsdev=@", "fake-vfio1", NULL,
      "fd '#' is %/bus/pci/devices/0000:65:00.1, but host= or sysfsdev= says @: "
      "give only one of them, or the right one", true },
    { "fd-of-null", IN_IOMMUFD ",fd=#", NULL, NULL,
      "fd '#' is /dev/null, not a VFIO device: pass a descriptor of "
      "/dev/vfio/devices/vfioN" },
    { "bind-fails", IN_IOMMUFD ",sysfsdev=@", NULL,
      "fail VFIO_DEVICE_BIND_IOMMUFD 1 19",
      "VFIO_DEVICE_BIND_IOMMUFD failed: No such device: the device is going "
      "away, or has no IOMMU", true },
    { "after-bind", IN_IOMMUFD ",fd=#", "fake-vfio0",
      "fail IOMMU_IOAS_ALLOC 1 12",
      "IOMMU_IOAS_ALLOC failed: Cannot allocate memory", true },
    { "after-attach", IN_IOMMUFD ",sysfsdev=@", NULL,
      "fail VFIO_DEVICE_GET_REGION_INFO 1 5", "!: Input/output error" },
};

typedef struct Case {
    const Kind *kind;
    const Row *row;
} Case;

static FakeEnv *new_env(const Kind *kind, const char *control)
{
    FakeEnv *env = fake_env_new();
    g_autofree char *commands = g_strdup_printf(
        "cd ../../..; mkdir -p drivers/vfio-platform drivers/vfio_ccw_mdev;"
        "%s mkdir -p $d/vfio-dev/vfio0; echo 511:0 >$d/vfio-dev/vfio0/dev;"
        "rm dev/char/511:0; ln -s ../../$d/vfio-dev/vfio0 dev/char/511:0;",
        kind->sysfs);
    g_autofree char *text = g_strdup_printf("%s\n%s", kind->control,
                                            control ?: "");

    fake_env_sysfs(env, ".", commands);
    fake_env_control(env, text);
    return env;
}

static char *replace(const char *text, const char *what, const char *with)
{
    g_auto(GStrv) parts = g_strsplit(text, what, -1);

    return g_strjoinv(with, parts);
}

static char *fill_in(const FakeEnv *env, const Kind *kind, const char *text,
                     int fd)
{
    g_autofree char *number = g_strdup_printf("%d", fd);
    g_autofree char *path = g_build_filename(env->dir, kind->path, NULL);
    g_autofree char *a = replace(text, "#", number);
    g_autofree char *b = replace(a, "@", path);
    g_autofree char *c = replace(b, "!", kind->regions);

    return replace(c, "%", env->dir);
}

static int descriptor(const char *memfd)
{
    return memfd ? memfd_create(memfd, 0) : open("/dev/null", O_RDWR);
}

static void test_row(const void *data)
{
    const Case *c = data;
    const Row *row = c->row;
    FakeEnv *env = new_env(c->kind, row->control);
    int fd = descriptor(row->memfd);
    g_autofree char *options = fill_in(env, c->kind, row->options, fd);
    g_autofree char *args = g_strdup_printf("%s-device %s%s", c->kind->machine,
                                            c->kind->driver, options);
    g_autofree char *said = NULL;
    g_autofree char *expected = NULL;
    g_autofree char *log = NULL;

    if (row->error || c->kind->end) {
        said = fake_env_start_fails(env, args);
    } else {
        qtest_quit(fake_env_start(env, args));
    }
    close(fd);
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    if (row->error) {
        g_autofree char *error = fill_in(env, c->kind, row->error, fd);

        expected = g_strdup_printf(": %s%s", row->named ? c->kind->prefix : "",
                                   error);
        g_assert_cmpint(g_strrstr(said, "\n") - said, ==, strlen(said) - 1);
        g_assert_nonnull(strstr(said, expected));
    } else {
        g_assert_nonnull(strstr(log, c->kind->attached));
        g_assert_true(!said || strstr(said, c->kind->end));
    }
    /* At the end of QEMU its memory may be there longer than the descriptor */
    g_assert_true(!strstr(log, "open /dev/vfio/devices/vfio0") ||
                  strstr(log, row->error ? GONE : GONE_AT_EXIT));
    fake_env_free(env);
}

/* Without iommufd= it is the group that is looked for, as ever */
static void test_unchanged(const void *data)
{
    const Kind *kind = data;
    FakeEnv *env = new_env(kind, NULL);
    g_autofree char *group = g_strdup_printf("%s-device %s,sysfsdev=%s/%s",
                                             kind->machine, kind->driver,
                                             env->dir, kind->path);
    g_autofree char *none = g_strdup_printf("%s-device %s" IN_IOMMUFD,
                                            kind->machine, kind->driver);
    g_autofree char *said = fake_env_start_fails(env, group);
    g_autofree char *log = fake_env_take_log(env);

    g_assert_nonnull(strstr(said, kind->group));
    g_assert_null(strstr(log, "/dev/vfio"));
    g_free(said);
    said = fake_env_start_fails(env, none);
    g_assert_nonnull(strstr(said, kind->nothing));
    fake_env_free(env);
}

/*
 * A subchannel can be plugged, here by a name from getfd, also when it failed
 * before: at each step, and nothing is left in a QEMU that goes on
 */
static void test_ccw_hotplug(void)
{
    static const char *const controls[] = {
        "", "fail VFIO_DEVICE_BIND_IOMMUFD 1 5", "fail IOMMU_IOAS_ALLOC 1 12",
        "fail VFIO_DEVICE_ATTACH_IOMMUFD_PT 1 22", "fail IOMMU_IOAS_MAP 2 14",
        "fail VFIO_DEVICE_GET_REGION_INFO 1 5",
        "fail VFIO_DEVICE_GET_IRQ_INFO 1 5", "",
    };
    const Kind *kind = s390x_kinds;
    FakeEnv *env = new_env(kind, "");
    QTestState *qts = fake_env_start(env, kind->machine);
    size_t i;

    for (i = 0; i < ARRAY_SIZE(controls); i++) {
        g_autofree char *control =
            g_strdup_printf("%s\n%s\nopen /dev/vfio/devices/vfio0 13",
                            kind->control, controls[i]);
        int fd = descriptor("fake-vfio0");
        g_autofree char *log = NULL;
        QDict *rsp;

        fake_env_control(env, control);
        qobject_unref(qtest_qmp_fds(qts, &fd, 1, "{'execute': 'getfd', "
                                    "'arguments': {'fdname': 'cdev'}}"));
        close(fd);
        rsp = qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                        "{'driver': 'vfio-ccw', 'id': 'ccw0', "
                        "'iommufd': 'iommufd0', 'fd': 'cdev'}}");
        g_assert_true(qdict_haskey(rsp, "error") == !!controls[i][0]);
        qobject_unref(rsp);
        if (!controls[i][0]) {
            qtest_qmp_device_del(qts, "ccw0");
        }
        log = fake_env_take_log(env);
        g_test_message("log: %s", log);
        g_assert_nonnull(strstr(log, GONE));
    }
    qtest_qmp_assert_success(qts, "{'execute': 'object-del', 'arguments': "
                             "{'id': 'iommufd0'}}");
    g_free(fake_env_take_log(env));
    qtest_quit(qts);
    fake_env_free(env);
}

/* What a manager can know of vfio-ap, and why there is no more to be tried */
static void test_ap(void)
{
    FakeEnv *env = fake_env_new();
    QTestState *qts = fake_env_start(env, s390x_kinds[0].machine);
    QDict *rsp = qtest_qmp(qts, "{'execute': 'device-list-properties', "
                           "'arguments': {'typename': 'vfio-ap'}}");
    g_autofree char *said = NULL;
    const QListEntry *e;
    unsigned found = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *property = qobject_to(QDict, qlist_entry_obj(e));
        const char *name = qdict_get_str(property, "name");
        const char *type = qdict_get_str(property, "type");

        found += g_str_equal(name, "iommufd") &&
                 g_str_equal(type, "link<iommufd>");
        found += g_str_equal(name, "fd") && g_str_equal(type, "str");
    }
    g_assert_cmpuint(found, ==, 2);
    qobject_unref(rsp);
    qtest_quit(qts);

    said = fake_env_start_fails(env, "-M s390-ccw-virtio -cpu qemu,ap=on");
    g_assert_nonnull(strstr(said, "not available in the configuration: ap"));
    fake_env_free(env);
}

int main(int argc, char **argv)
{
    bool s390x = g_str_equal(qtest_get_arch(), "s390x");
    const Kind *kind = s390x ? s390x_kinds : aarch64_kinds;
    size_t i;

    g_test_init(&argc, &argv, NULL);
    for (; kind->driver; kind++) {
        g_autofree char *unchanged =
            g_strdup_printf("vfio-iommufd-other/%s/group", kind->driver);

        qtest_add_data_func(unchanged, kind, test_unchanged);
        for (i = 0; i < ARRAY_SIZE(rows); i++) {
            g_autofree char *path =
                g_strdup_printf("vfio-iommufd-other/%s/%s", kind->driver,
                                rows[i].name);
            Case *c = g_new(Case, 1);

            *c = (Case) { kind, &rows[i] };
            qtest_add_data_func_full(path, c, test_row, g_free);
        }
    }
    if (s390x) {
        qtest_add_func("vfio-iommufd-other/ccw-hotplug", test_ccw_hotplug);
        qtest_add_func("vfio-iommufd-other/ap", test_ap);
    }
    return g_test_run();
}
