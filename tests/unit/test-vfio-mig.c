/*
 * Tests of VFIO migration v2: states of a device, and the stream
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The table of states by what has to hold for all of it, and by story.  The
 * stream: a good one comes out as it went in, bad ones by table with their
 * message, and a hundred thousand damaged at random: each is refused or leads
 * to a device that has a whole state; none crashes, none writes more to the
 * device than it has.  The kernel is a stub of ioctl() below; the descriptor
 * of a session is a memfd.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/ioctl.h>

#include "../../hw/vfio/cdev.h"
#include "../../hw/vfio/ioas.h"
#include "../../hw/vfio/mig.h"
#include "hw/qdev-core.h"
#include "io/channel-buffer.h"
#include "migration/qemu-file.h"
#include "qapi/error.h"
#include "qapi/qapi-events-vfio.h"
#include "qemu/module.h"
#include "qom/object.h"

#define S(x)    VFIO_DEVICE_STATE_##x
#define CONFIG  64

void qapi_event_send_vfio_migration(const char *id, const char *path,
                                    VfioMigrationState state)
{
    g_assert_not_reached();     /* migration-events is off */
}

void vfio_ioas_revoke_bars(Object *owner)
{
}

bool vfio_cdev_loaded(VFIODevice *vbasedev)
{
    return true;
}

void vfio_ioas_refresh_bars(Object *owner)
{
}

void memory_region_transaction_begin(void)
{
}

void memory_region_transaction_commit(void)
{
}

/* --- The kernel --- */

static unsigned state;
static bool reset_fails, load_fails, no_descriptor;

int ioctl(int fd, unsigned long request, ...)
{
    struct vfio_device_feature *feature;
    struct vfio_device_feature_mig_state *s;
    va_list ap;

    g_assert_cmpint(fd, ==, 4711);
    if (request == VFIO_DEVICE_RESET) {
        if (reset_fails) {
            errno = EINVAL;
            return -1;
        }
        state = S(RUNNING);
        return 0;
    }
    g_assert_cmpint(request, ==, VFIO_DEVICE_FEATURE);
    va_start(ap, request);
    feature = va_arg(ap, struct vfio_device_feature *);
    va_end(ap);
    g_assert_cmpint(feature->flags & VFIO_DEVICE_FEATURE_MASK, ==,
                    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE);
    s = (void *)feature->data;
    if (feature->flags & VFIO_DEVICE_FEATURE_GET) {
        s->device_state = state;
    } else {
        if (state == S(RESUMING) && load_fails) {
            state = S(ERROR);
            errno = EINVAL;
            return -1;
        }
        state = s->device_state;
        if (state == S(RESUMING) && !no_descriptor) {
            s->data_fd = memfd_create("session", 0);
        }
    }
    return 0;
}

/* --- States --- */

static bool offered(int s, uint64_t flags)
{
    return !((s == S(RUNNING_P2P) || s == S(PRE_COPY_P2P)) &&
             !(flags & VFIO_MIGRATION_P2P)) &&
           !((s == S(PRE_COPY) || s == S(PRE_COPY_P2P)) &&
             !(flags & VFIO_MIGRATION_PRE_COPY));
}

static int follow(int s, uint64_t flags, VFIOMigEvent event)
{
    int target = vfio_mig_target(s, flags, event);

    g_assert_cmpint(target, !=, S(ERROR));
    if (target >= 0) {
        g_assert_true(offered(target, flags));
        g_assert_cmpint(target, !=, s);
    }
    return target < 0 ? s : target;
}

static bool peer_to_peer(int s)
{
    return s == S(RUNNING) || s == S(PRE_COPY);
}

static void test_states(void)
{
    uint64_t flags;
    int s, e, t;

    for (flags = 1; flags < 8; flags += 2) {
        for (e = 0; e < VFIO_MIG_EVENT__MAX; e++) {
            g_assert_cmpint(vfio_mig_target(S(ERROR), flags, e), ==,
                            VFIO_MIG_REFUSE);
            g_assert_cmpint(vfio_mig_target(VFIO_DEVICE_STATE_NR, flags, e),
                            ==, VFIO_MIG_REFUSE);
        }
        for (s = S(STOP); s < VFIO_DEVICE_STATE_NR; s++) {
            if (!offered(s, flags)) {
                continue;
            }
            for (e = 0; e < VFIO_MIG_EVENT__MAX; e++) {
                follow(s, flags, e);
            }
            t = follow(s, flags, VFIO_MIG_QUIESCE);
            if (flags & VFIO_MIGRATION_P2P) {
                g_assert_false(peer_to_peer(t));
            }
            /* A VM that stops stops the device, and keeps its session */
            t = follow(t, flags, VFIO_MIG_STOP);
            g_assert_true(t == S(STOP) || t == S(STOP_COPY) ||
                          t == S(RESUMING));
            if (s == S(PRE_COPY) || s == S(PRE_COPY_P2P)) {
                g_assert_cmpint(t, ==, S(STOP_COPY));
            }
            /* One that starts starts it, in two steps if that is offered */
            if (s == S(RESUMING)) {
                g_assert_cmpint(vfio_mig_target(s, flags, VFIO_MIG_RUN), ==,
                                VFIO_MIG_REFUSE);
                continue;
            }
            t = follow(t, flags, VFIO_MIG_PREPARE);
            if (flags & VFIO_MIGRATION_P2P) {
                g_assert_cmpint(t, ==, S(RUNNING_P2P));
            }
            t = follow(t, flags, VFIO_MIG_RUN);
            g_assert_cmpint(t, ==, S(RUNNING));
            /* Without a session nothing saves */
            t = follow(s, flags, VFIO_MIG_UNSAVE);
            g_assert_true(t == S(STOP) || t == S(RUNNING) ||
                          t == S(RUNNING_P2P));
        }
    }
}

/* What the kernel does not permit: STOP_COPY to PRE_COPY */
static void test_states_again(void)
{
    int s = follow(S(RUNNING), 7, VFIO_MIG_SAVE);

    g_assert_cmpint(s, ==, S(PRE_COPY));
    s = follow(s, 7, VFIO_MIG_STOP);
    g_assert_cmpint(s, ==, S(STOP_COPY));
    s = follow(s, 7, VFIO_MIG_PREPARE);
    /* the migration thread is quick */
    s = follow(s, 7, VFIO_MIG_SAVE);
    g_assert_cmpint(s, ==, S(PRE_COPY_P2P));
    s = follow(s, 7, VFIO_MIG_RUN);
    g_assert_cmpint(s, ==, S(PRE_COPY));
    g_assert_cmpint(vfio_mig_target(S(STOP), 7, VFIO_MIG_LOADED), ==,
                    VFIO_MIG_REFUSE);
    g_assert_cmpint(vfio_mig_target(S(STOP_COPY), 7, VFIO_MIG_LOAD), ==,
                    VFIO_MIG_REFUSE);
    g_assert_cmpint(follow(S(RUNNING), 1, VFIO_MIG_SAVE), ==, S(RUNNING));
}

/* --- The stream --- */

static void save_config(VFIODevice *vbasedev, QEMUFile *f)
{
    int i;

    for (i = 0; i < CONFIG; i++) {
        qemu_put_byte(f, i);
    }
}

static int load_config(VFIODevice *vbasedev, QEMUFile *f)
{
    int i;

    for (i = 0; i < CONFIG; i++) {
        if (qemu_get_byte(f) != i) {
            return -EINVAL;
        }
    }
    qemu_peek_byte(f, 0);       /* as vmstate_subsection_load() */
    return qemu_file_get_error(f);
}

static VFIODeviceOps ops = {
    .vfio_save_config = save_config,
    .vfio_load_config = load_config,
};
static VFIODevice device = { .name = (char *)"test", .fd = 4711, .ops = &ops };

static void init(VFIOMig *m)
{
    *m = (VFIOMig) { .vbasedev = &device, .data_fd = -1, .flags = 7 };
    qemu_mutex_init(&m->lock);
}

static int filled(size_t size)
{
    g_autofree uint8_t *data = g_malloc(size);
    int fd = memfd_create("state", 0);
    size_t i;

    for (i = 0; i < size; i++) {
        data[i] = i * 7 + (i >> 8);
    }
    g_assert_cmpint(write(fd, data, size), ==, size);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

/* The four sections of a device with @size bytes of state, @sessions times */
static GByteArray *make_stream(size_t size, int sessions)
{
    QIOChannelBuffer *bioc = qio_channel_buffer_new(4096);
    QEMUFile *f = qemu_file_new_output(QIO_CHANNEL(bioc));
    GByteArray *stream = g_byte_array_new();
    VFIOMig m;

    init(&m);
    m.buf = g_malloc(VFIO_MIG_CHUNK);
    vfio_mig_put_header(&m, f);
    vfio_mig_put_end(f);
    while (sessions--) {
        m.data_fd = filled(size);
        m.state = S(STOP_COPY);
        m.session++;
        m.session_bytes = 0;
        m.eof = false;
        while (!m.eof) {
            g_assert_cmpint(vfio_mig_put_data(&m, f, &error_abort), >=, 0);
        }
        close(m.data_fd);
    }
    vfio_mig_put_data_end(&m, f);
    vfio_mig_put_end(f);
    vfio_mig_put_config(&m, f);
    vfio_mig_put_end(f);
    qemu_fflush(f);
    g_byte_array_append(stream, bioc->data, bioc->usage);
    qemu_fclose(f);
    object_unref(OBJECT(bioc));
    g_free(m.buf);
    qemu_mutex_destroy(&m.lock);
    return stream;
}

/* How it ends; the bytes that the device got, if it has a whole state */
static char *load(const GByteArray *stream, size_t *got)
{
    QIOChannelBuffer *bioc = qio_channel_buffer_new(stream->len + 1);
    QEMUFile *f;
    Error *err = NULL;
    char *text = NULL;
    VFIOMig m;
    int i, ret = 0;

    memcpy(bioc->data, stream->data, stream->len);
    bioc->usage = stream->len;
    f = qemu_file_new_input(QIO_CHANNEL(bioc));
    init(&m);
    state = S(RUNNING);
    qemu_mutex_lock(&m.lock);
    g_assert_cmpint(vfio_mig_event(&m, VFIO_MIG_LOAD, &error_abort), ==, 0);
    qemu_mutex_unlock(&m.lock);
    for (i = 0; i < 3 && !ret; i++) {
        ret = vfio_mig_get(&m, f, &err);
    }
    g_assert_true(!ret == !err);
    g_assert_cmpuint(m.load_bytes, <=, stream->len);
    if (err) {
        text = g_strdup(error_get_pretty(err));
        error_free(err);
        g_assert_cmpint(ret, <, 0);
    }
    /* a session is open while the device takes a state, and only then */
    g_assert_true((m.state == S(RESUMING)) == (m.data_fd >= 0));
    if (m.config_loaded) {
        g_assert_true(m.data_complete);
        g_assert_cmpint(state, ==, S(STOP));
    }
    if (!text && !m.config_loaded) {
        text = g_strdup("left out");
    }
    if (got) {
        *got = m.load_bytes;
    }
    if (m.data_fd >= 0) {
        close(m.data_fd);
    }
    qemu_fclose(f);
    object_unref(OBJECT(bioc));
    qemu_mutex_destroy(&m.lock);
    return text;
}

static void test_stream(void)
{
    static const size_t sizes[] = { 0, 1, 96, VFIO_MIG_CHUNK,
                                    2 * VFIO_MIG_CHUNK + 5 };
    size_t i, got;
    int sessions;

    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (sessions = 1; sessions <= 2; sessions++) {
            g_autoptr(GByteArray) stream = make_stream(sizes[i], sessions);

            g_assert_null(load(stream, &got));
            g_assert_cmpuint(got, ==, sizes[i]);
        }
    }
}

static void expect(const GByteArray *stream, const char *text)
{
    g_autofree char *said = load(stream, NULL);

    g_test_message("said: %s", said);
    g_assert_cmpstr(said, ==, text);
}

/* header 16, END 8, session 12, data 16 + 96, data-end 16, END 8, config ... */
static void test_bad(void)
{
    static const struct {
        const char *name;
        int at;                 /* this byte */
        uint8_t value;
        const char *text;
    } rows[] = {
        { "magic", 0, 'X', "the stream is damaged: unknown record" },
        { "type", 3, 9, "the stream is damaged: unknown record" },
        { "length", 7, 9, "the stream is damaged: header" },
        { "format", 11, 2, "the stream has format 2 (flags 0), known is "
                           "format 1 without flags" },
        { "flags", 15, 1, "the stream has format 1 (flags 1), known is "
                          "format 1 without flags" },
        { "second header", 27, 1, "the stream is damaged: header" },
        { "session 0", 35, 0, "the stream is damaged: session number" },
        { "huge data", 40, 0x7f, "the stream is damaged: data" },
        { "offset", 51, 1, "the stream is damaged: data is missing" },
        { "total", 163, 97, "the stream is damaged: end of data" },
        { "config space", 180, 9, "its config space cannot be loaded: "
                                  "Invalid argument" },
        { "end of it", 180 + CONFIG, 9, "its config space cannot be loaded: "
                                        "Invalid argument" },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autoptr(GByteArray) stream = make_stream(96, 1);

        g_test_message("%s", rows[i].name);
        stream->data[rows[i].at] = rows[i].value;
        expect(stream, rows[i].text);
    }
    for (i = 0; i < 180; i++) {
        g_autoptr(GByteArray) stream = make_stream(96, 1);
        g_autofree char *said = NULL;

        g_byte_array_set_size(stream, i);
        said = load(stream, NULL);
        g_assert_cmpstr(said, ==, "the stream is damaged: it ends early");
    }
}

static void test_driver_refuses(void)
{
    g_autoptr(GByteArray) stream = make_stream(96, 1);
    g_autoptr(GByteArray) twice = make_stream(96, 2);

    load_fails = true;
    expect(stream, "the device cannot go from RESUMING to STOP: Invalid "
           "argument; it is in ERROR now");
    load_fails = false;
    reset_fails = true;
    expect(twice, "the device cannot be reset: Invalid argument");
    reset_fails = false;
}

static void test_no_descriptor(void)
{
    Error *err = NULL;
    VFIOMig m;

    init(&m);
    state = S(RUNNING);
    no_descriptor = true;
    g_assert_cmpint(vfio_mig_event(&m, VFIO_MIG_LOAD, &err), ==, -EBADF);
    no_descriptor = false;
    g_test_message("said: %s", error_get_pretty(err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "the driver gave no descriptor with RESUMING");
    error_free(err);
    qemu_mutex_destroy(&m.lock);
}

static void damage(GByteArray *stream, GRand *r)
{
    guint at = g_rand_int_range(r, 0, stream->len);
    guint n = MIN(g_rand_int_range(r, 1, 64), stream->len - at);

    switch (g_rand_int_range(r, 0, 5)) {
    case 0:
        stream->data[at] ^= 1 << g_rand_int_range(r, 0, 8);
        break;
    case 1:
        stream->data[at] = g_rand_int(r);
        break;
    case 2:
        g_byte_array_remove_range(stream, at, n);
        break;
    case 3:                     /* twice */
        {
            g_autofree uint8_t *copy = g_memdup2(stream->data + at, n);

            g_byte_array_append(stream, copy, n);
        }
        break;
    case 4:
        g_byte_array_set_size(stream, at);
    }
}

static void test_fuzz(void)
{
    g_autoptr(GByteArray) good = make_stream(96, 1);
    g_autoptr(GByteArray) twice = make_stream(96, 2);
    GRand *r = g_rand_new_with_seed(g_test_rand_int());
    unsigned refused = 0, rounds = g_test_slow() ? 1000000 : 100000, i;

    for (i = 0; i < rounds; i++) {
        const GByteArray *from = i & 1 ? good : twice;
        g_autoptr(GByteArray) stream = g_byte_array_new();
        g_autofree char *said = NULL;
        int n = g_rand_int_range(r, 1, 4);

        g_byte_array_append(stream, from->data, from->len);
        while (n-- && stream->len) {
            damage(stream, r);
        }
        said = load(stream, NULL);
        refused += said != NULL;
    }
    g_test_message("%u of %u refused", refused, rounds);
    g_assert_cmpuint(refused, >, rounds / 3);
    g_rand_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    module_call_init(MODULE_INIT_QOM);
    g_test_add_func("/vfio-mig/states", test_states);
    g_test_add_func("/vfio-mig/states-again", test_states_again);
    g_test_add_func("/vfio-mig/stream", test_stream);
    g_test_add_func("/vfio-mig/bad", test_bad);
    g_test_add_func("/vfio-mig/driver-refuses", test_driver_refuses);
    g_test_add_func("/vfio-mig/no-descriptor", test_no_descriptor);
    g_test_add_func("/vfio-mig/fuzz", test_fuzz);
    return g_test_run();
}
