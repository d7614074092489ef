/*
 * Migration of VFIO devices, protocol v2: the migration stream
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the format, which docs/devel/vfio-migration-v2.rst describes.  In
 * short: each section of QEMU's stream is a list of records; a record has a
 * type, a length, and that many bytes; END closes the section.
 *
 *   header [session data*]* data-end config
 *
 * A reader trusts nothing but the frame that QEMU has made around the section:
 * lengths are bounded, records come in this order or not at all, and the bytes
 * of a session are counted.  What the bytes mean only the driver knows, which
 * checks them when the session ends.
 *
 * Kernel facts: read() in PRE_COPY answers ENOMSG when there is nothing at the
 * moment; samples/vfio-mdev/mtty.c of Linux 6.12 answers 0 instead.  In
 * STOP_COPY 0 is the end.  write() in RESUMING may take less than was given.
 */

#include "qemu/osdep.h"

#include "mig.h"
#include "cdev.h"
#include "exec/memory.h"
#include "io/channel-buffer.h"
#include "migration/qemu-file.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "trace.h"

#define MAGIC       0x56464d00  /* "VFM", and the type */
#define MAX_CONFIG  VFIO_MIG_CHUNK

enum {
    END = 0,
    HEADER = 1,
    SESSION = 2,
    DATA = 3,
    DATA_END = 4,
    CONFIG = 5,
};

/* Out */

static void put_record(QEMUFile *f, uint32_t type, uint32_t length)
{
    qemu_put_be32(f, MAGIC | type);
    qemu_put_be32(f, length);
}

void vfio_mig_put_end(QEMUFile *f)
{
    put_record(f, END, 0);
}

void vfio_mig_put_header(VFIOMig *m, QEMUFile *f)
{
    put_record(f, HEADER, 8);
    qemu_put_be32(f, VFIO_MIG_FORMAT);
    qemu_put_be32(f, 0);        /* flags; none is known */
}

static ssize_t read_data(VFIOMig *m, Error **errp)
{
    ssize_t len;

    do {
        len = read(m->data_fd, m->buf, VFIO_MIG_CHUNK);
    } while (len < 0 && errno == EINTR);
    if (len < 0 &&
        !(errno == ENOMSG && m->state != VFIO_DEVICE_STATE_STOP_COPY)) {
        int ret = -errno;

        vfio_mig_refresh(m);
        if (!vfio_mig_in_session(m)) {
            return 0;           /* reset by the guest */
        }
        error_setg(errp, "reading the state of the device failed: %s",
                   strerror(-ret));
        return ret;
    }
    if (len <= 0) {
        m->drained = true;
        m->eof = m->state == VFIO_DEVICE_STATE_STOP_COPY;
        return 0;
    }
    return len;
}

ssize_t vfio_mig_put_data(VFIOMig *m, QEMUFile *f, Error **errp)
{
    uint32_t session;
    uint64_t at;
    bool announce;
    ssize_t len;

    WITH_QEMU_LOCK_GUARD(&m->lock) {
        if (!vfio_mig_in_session(m) || m->eof) {
            return 0;
        }
        len = read_data(m, errp);
        if (len <= 0) {
            return len;
        }
        session = m->session;
        announce = m->announced != session;
        m->announced = session;
        at = m->session_bytes;
        m->session_bytes += len;
    }
    if (announce) {
        put_record(f, SESSION, 4);
        qemu_put_be32(f, session);
    }
    put_record(f, DATA, 8 + len);
    qemu_put_be64(f, at);
    qemu_put_buffer(f, m->buf, len);
    trace_vfio_mig_put_data(m->name, session, at, len);
    return len;
}

void vfio_mig_put_data_end(VFIOMig *m, QEMUFile *f)
{
    put_record(f, DATA_END, 8);
    qemu_put_be64(f, m->session_bytes);
}

void vfio_mig_put_config(VFIOMig *m, QEMUFile *f)
{
    QIOChannelBuffer *bioc = qio_channel_buffer_new(8192);
    QEMUFile *config = qemu_file_new_output(QIO_CHANNEL(bioc));

    /*
     * It has no length of its own, and its reader looks one byte ahead
     * (vmstate_subsection_load())
     */
    m->vbasedev->ops->vfio_save_config(m->vbasedev, config);
    qemu_put_be32(config, MAGIC | CONFIG);
    qemu_fflush(config);
    put_record(f, CONFIG, bioc->usage);
    qemu_put_buffer(f, bioc->data, bioc->usage);
    qemu_fclose(config);
    object_unref(OBJECT(bioc));
}

/* In */

static int bad(Error **errp, const char *what)
{
    error_setg(errp, "the stream is damaged: %s", what);
    return -EINVAL;
}

static int get_header(VFIOMig *m, QEMUFile *f, uint32_t length, Error **errp)
{
    uint32_t format, flags;

    if (m->header_seen || length != 8) {
        return bad(errp, "header");
    }
    format = qemu_get_be32(f);
    flags = qemu_get_be32(f);
    if (format != VFIO_MIG_FORMAT || flags) {
        error_setg(errp, "the stream has format %u (flags %u), known is format "
                   "%u without flags", format, flags, VFIO_MIG_FORMAT);
        return -EINVAL;
    }
    m->header_seen = true;
    return 0;
}

/* The source started anew: so does the driver here, which only a reset does */
static int get_session(VFIOMig *m, QEMUFile *f, uint32_t length, Error **errp)
{
    uint32_t number;
    int ret = 0;

    if (!m->header_seen || m->data_complete || length != 4) {
        return bad(errp, "session");
    }
    number = qemu_get_be32(f);
    if (!number || (m->load_session && number == m->load_session)) {
        return bad(errp, "session number");
    }
    if (m->load_bytes) {
        qemu_mutex_lock(&m->lock);
        ret = vfio_mig_reset(m, errp);
        if (!ret) {
            ret = vfio_mig_event(m, VFIO_MIG_LOAD, errp);
        }
        qemu_mutex_unlock(&m->lock);
    }
    m->load_session = number;
    m->load_bytes = 0;
    return ret;
}

static int write_all(VFIOMig *m, const uint8_t *buf, size_t size, Error **errp)
{
    while (size) {
        ssize_t len = write(m->data_fd, buf, size);

        if (len < 0 && errno == EINTR) {
            continue;
        }
        if (len <= 0) {
            int ret = len ? -errno : -EIO;

            error_setg(errp, "the device does not take its state: %s",
                       strerror(-ret));
            return ret;
        }
        buf += len;
        size -= len;
    }
    return 0;
}

static int get_data(VFIOMig *m, QEMUFile *f, uint32_t length, Error **errp)
{
    g_autofree uint8_t *buf = NULL;
    uint64_t at;
    int ret;

    if (!m->load_session || m->data_complete || length <= 8 ||
        length - 8 > VFIO_MIG_CHUNK) {
        return bad(errp, "data");
    }
    at = qemu_get_be64(f);
    length -= 8;
    if (at != m->load_bytes) {
        return bad(errp, "data is missing");
    }
    buf = g_malloc(length);
    if (qemu_get_buffer(f, buf, length) != length) {
        return bad(errp, "it ends early");
    }
    ret = write_all(m, buf, length, errp);
    if (!ret) {
        m->load_bytes += length;
        trace_vfio_mig_get_data(m->vbasedev->name, at, length);
    }
    return ret;
}

static int get_data_end(VFIOMig *m, QEMUFile *f, uint32_t length, Error **errp)
{
    int ret;

    if (!m->header_seen || m->data_complete || length != 8 ||
        qemu_get_be64(f) != m->load_bytes) {
        return bad(errp, "end of data");
    }
    ret = qemu_file_get_error(f);
    if (!ret) {
        qemu_mutex_lock(&m->lock);
        ret = vfio_mig_event(m, VFIO_MIG_LOADED, errp);
        qemu_mutex_unlock(&m->lock);
        m->data_complete = !ret;
    }
    return ret;
}

static int get_config(VFIOMig *m, QEMUFile *f, uint32_t length, Error **errp)
{
    QIOChannelBuffer *bioc;
    QEMUFile *config;
    int ret;

    if (!m->data_complete || m->config_loaded || !length ||
        length > MAX_CONFIG) {
        return bad(errp, "config space");
    }
    bioc = qio_channel_buffer_new(length);
    if (qemu_get_buffer(f, bioc->data, length) != length) {
        object_unref(OBJECT(bioc));
        return bad(errp, "it ends early");
    }
    bioc->usage = length;
    config = qemu_file_new_input(QIO_CHANNEL(bioc));
    /*
     * The device's BARs are there when its command register says so to the
     * guest; the kernel hears of that last, and maps none before
     */
    memory_region_transaction_begin();
    ret = m->vbasedev->ops->vfio_load_config(m->vbasedev, config);
    memory_region_transaction_commit();
    if (!ret) {
        ret = qemu_get_be32(config) == (MAGIC | CONFIG) ? 0 : -EINVAL;
    }
    if (!ret) {
        qemu_get_byte(config);          /* there must be none */
        ret = qemu_file_get_error(config) ? 0 : -EINVAL;
    }
    qemu_fclose(config);
    object_unref(OBJECT(bioc));
    if (!ret && !vfio_cdev_loaded(m->vbasedev)) {
        ret = -ENOMEM;                  /* before the source gives it up */
    }
    if (ret) {
        error_setg(errp, "its config space cannot be loaded: %s",
                   strerror(-ret));
    }
    m->config_loaded = !ret;
    return ret;
}

int vfio_mig_get(VFIOMig *m, QEMUFile *f, Error **errp)
{
    static int (*const get[])(VFIOMig *m, QEMUFile *f, uint32_t length,
                              Error **errp) = {
        [HEADER] = get_header,
        [SESSION] = get_session,
        [DATA] = get_data,
        [DATA_END] = get_data_end,
        [CONFIG] = get_config,
    };

    for (;;) {
        uint32_t type = qemu_get_be32(f) ^ MAGIC;
        uint32_t length = qemu_get_be32(f);
        Error *err = NULL;
        int ret = qemu_file_get_error(f);

        if (ret) {
            return bad(errp, "it ends early");
        }
        if (type == END && !length) {
            return m->header_seen ? 0 : bad(errp, "no header");
        }
        if (type >= ARRAY_SIZE(get) || !get[type]) {
            return bad(errp, "unknown record");
        }
        ret = get[type](m, f, length, &err);
        if (qemu_file_get_error(f)) {
            error_free(err);            /* of zeroes in place of the rest */
            return bad(errp, "it ends early");
        }
        if (ret) {
            error_propagate(errp, err);
            return ret;
        }
    }
}
