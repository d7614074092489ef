/*
 * QTest testcase for libvirt's dialogue about iommufd and passed cdevs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The lines are libvirt's, byte for byte: one JSON object each, ending with CR
 * LF, ids libvirt-N, a descriptor by SCM_RIGHTS in the same sendmsg() as the
 * getfd that names it, on a monitor of libvirt's own.  A dialogue is a table of
 * what is said and what has to be in the answer; one loop speaks it.  The
 * kernel is the fake one (fake-iommufd.h), where only passed descriptors can be
 * had: QEMU may open nothing.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "qapi/qmp/qdict.h"
#include "fake-iommufd-env.h"
#include "fake-iommufd.h"

#define MACHINE "-machine q35 -m 256 -nodefaults -device " \
    "pcie-root-port,id=pci.3,chassis=3,slot=3 -device " \
    "pcie-root-port,id=pci.4,chassis=4,slot=4 "

/* Which descriptor goes along */
enum { NONE, IOMMU, CDEV0, CDEV1, NULL_DEVICE };

typedef struct Line {
    const char *say;            /* after "execute":" up to the id */
    const char *answer;         /* is in it */
    int fd;
    const char *unplug;         /* afterwards the guest lets go of this one */
} Line;

#define OK      "{\"return\": {}"
#define GETFD(name, fd) \
    { "getfd\",\"arguments\":{\"fdname\":\"" name "\"}", OK, fd }
#define OBJECT_ADD \
    { "object-add\",\"arguments\":{\"qom-type\":\"iommufd\"," \
      "\"id\":\"iommufd0\",\"fd\":\"iommufd\"}", OK }
#define DEVICE_ADD(n, bus, answer) \
    { "device_add\",\"arguments\":{\"driver\":\"vfio-pci\",\"id\":\"hostdev" n \
      "\",\"iommufd\":\"iommufd0\",\"fd\":\"hostdev-hostdev" n "-fd\"," \
      "\"bus\":\"" bus "\",\"addr\":\"0x0\"}", answer }
#define DEVICE_DEL(n) \
    { "device_del\",\"arguments\":{\"id\":\"hostdev" n "\"}", OK, \
      .unplug = "hostdev" n }
#define OBJECT_DEL(answer) \
    { "object-del\",\"arguments\":{\"id\":\"iommufd0\"}", answer }
#define CLOSEFD(name, answer) \
    { "closefd\",\"arguments\":{\"fdname\":\"" name "\"}", answer }

/* The object first, a device, another one; then all away, and again */
static const Line plug_unplug[] = {
    GETFD("iommufd", IOMMU), OBJECT_ADD,
    GETFD("hostdev-hostdev0-fd", CDEV0), DEVICE_ADD("0", "pci.3", OK),
    GETFD("hostdev-hostdev1-fd", CDEV1), DEVICE_ADD("1", "pci.4", OK),
    DEVICE_DEL("0"),
    OBJECT_DEL("in use by device 'hostdev1', can not be deleted"),
    DEVICE_DEL("1"), OBJECT_DEL(OK),
    GETFD("iommufd", IOMMU), OBJECT_ADD,
    GETFD("hostdev-hostdev0-fd", CDEV0), DEVICE_ADD("0", "pci.3", OK),
    DEVICE_DEL("0"), OBJECT_DEL(OK),
    { NULL }
};

/* Both descriptors before the object */
static const Line both_first[] = {
    GETFD("iommufd", IOMMU), GETFD("hostdev-hostdev0-fd", CDEV0),
    OBJECT_ADD, DEVICE_ADD("0", "pci.3", OK),
    DEVICE_DEL("0"), OBJECT_DEL(OK),
    { NULL }
};

/* device_add fails: libvirt takes everything back, and may try again */
static const Line rollback[] = {
    GETFD("iommufd", IOMMU), OBJECT_ADD,
    GETFD("hostdev-hostdev0-fd", NULL_DEVICE),
    DEVICE_ADD("0", "pci.3", "fd 'hostdev-hostdev0-fd' is /dev/null, not a "
               "VFIO device"),
    CLOSEFD("hostdev-hostdev0-fd",
            "File descriptor named 'hostdev-hostdev0-fd' not found"),
    OBJECT_DEL(OK),
    GETFD("iommufd", IOMMU), OBJECT_ADD,
    GETFD("hostdev-hostdev0-fd", CDEV0), DEVICE_ADD("0", "pci.3", OK),
    DEVICE_DEL("0"), OBJECT_DEL(OK),
    { NULL }
};

static int open_fd(int which)
{
    static const char *const memfds[] = {
        [IOMMU] = FAKE_IOMMU_MEMFD,
        [CDEV0] = "fake-vfio0",
        [CDEV1] = "fake-vfio1",
    };
    int fd = which == NULL_DEVICE ? open("/dev/null", O_RDWR)
                                  : memfd_create(memfds[which], 0);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static int monitor_connect(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(sock, (struct sockaddr *)&addr, sizeof(addr)), ==,
                    0);
    return sock;
}

static void send_line(int sock, const char *text, int which)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)),
                              .cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS } };
    struct iovec iov = { (void *)text, strlen(text) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    int fd = -1;

    if (which != NONE) {
        fd = open_fd(which);
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control.space);
    }
    g_assert_cmpint(sendmsg(sock, &msg, 0), ==, strlen(text));
    if (fd >= 0) {
        close(fd);
    }
}

/* The line that answers @id; events and the greeting are passed over */
static char *answer_to(int sock, const char *id)
{
    g_autofree char *tag = g_strdup_printf("\"id\": \"%s\"", id);
    g_autoptr(GString) line = g_string_new("");
    char c;

    do {
        g_string_truncate(line, 0);
        while (read(sock, &c, 1) == 1 && c != '\n') {
            g_string_append_c(line, c);
        }
        g_assert_cmpuint(line->len, >, 0);      /* QEMU is there */
    } while (!strstr(line->str, tag));
    return g_strdup(line->str);
}

/* The guest does not run, so a reset is what carries an unplug out */
static void unplug(QTestState *qts, const char *id)
{
    const char *deleted = NULL;
    QDict *event = NULL;

    qobject_unref(qtest_qmp(qts, "{'execute': 'system_reset'}"));
    while (g_strcmp0(deleted, id)) {
        qobject_unref(event);
        event = qtest_qmp_eventwait_ref(qts, "DEVICE_DELETED");
        deleted = qdict_get_try_str(qdict_get_qdict(event, "data"), "device");
    }
    qobject_unref(event);
}

static void say(int sock, unsigned n, const char *what, int fd,
                const char *expected)
{
    g_autofree char *id = g_strdup_printf("libvirt-%u", n);
    g_autofree char *text = g_strdup_printf("{\"execute\":\"%s,\"id\":\"%s\"}"
                                            "\r\n", what, id);
    g_autofree char *answer = NULL;

    send_line(sock, text, fd);
    answer = answer_to(sock, id);
    if (!strstr(answer, expected)) {
        g_test_message("%s answered by %s", text, answer);
        g_assert_cmpstr(answer, ==, expected);
    }
}

static void test_dialogue(const void *data)
{
    FakeEnv *env = fake_env_new();
    g_autofree char *path = g_strdup_printf("%s/mon", env->dir);
    g_autofree char *args =
        g_strdup_printf(MACHINE "-chardev socket,id=mon,path=%s,server=on,"
                        "wait=off -mon chardev=mon,mode=control", path);
    g_autofree char *log = NULL;
    const Line *line;
    QTestState *qts;
    unsigned n = 1;
    int sock;

    fake_env_control(env, "open /dev/iommu 13\n"
                     "open /dev/vfio/devices/vfio0 13\n"
                     "open /dev/vfio/devices/vfio1 13");
    qts = fake_env_start(env, args);
    sock = monitor_connect(path);
    say(sock, n++, "qmp_capabilities\"", NONE, OK);
    for (line = data; line->say; line++) {
        say(sock, n++, line->say, line->fd, line->answer);
        if (line->unplug) {
            unplug(qts, line->unplug);
        }
    }

    /* The last thing that every dialogue does leaves nothing */
    log = fake_env_take_log(env);
    g_assert_true(g_str_has_suffix(log, "gone /dev/iommu bound=0 ioas=0 "
                                        "hwpts=0 areas=0\n"));
    close(sock);
    qtest_quit(qts);
    fake_env_free(env);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("vfio-iommufd-libvirt/plug-unplug", plug_unplug,
                        test_dialogue);
    qtest_add_data_func("vfio-iommufd-libvirt/both-first", both_first,
                        test_dialogue);
    qtest_add_data_func("vfio-iommufd-libvirt/rollback", rollback,
                        test_dialogue);
    return g_test_run();
}
