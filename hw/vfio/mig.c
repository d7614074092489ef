/*
 * Migration of VFIO devices, protocol v2: which devices migrate, and how
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the list of devices that migrate by v2, why others do not, and what
 * QEMU's migration calls for each of them (SaveVMHandlers).
 *
 * Who calls:  save_setup, save_live_pending, save_live_iterate: the migration
 * thread, without the BQL; the VM may stop and start meanwhile.  All others:
 * with the BQL.  `savevm` calls everything with the VM stopped.
 *
 * What the source sends is a copy: until the device is told to run again it
 * stays stopped with its state, and runs on if the migration fails.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>

#include "mig.h"
#include "cdev.h"
#include "feature.h"
#include "hw/qdev-core.h"
#include "hw/vmstate-if.h"
#include "migration/blocker.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/stats64.h"
#include "sysemu/runstate.h"
#include "trace.h"

#define ASK_MS 100              /* the least time between two useless answers */
#define TURN_MS 1000            /* a device that may not send waits so long */

/* What enable-migration=on accepts */
#define UNKNOWN_WRITES \
    ": to migrate it (enable-migration=on), all memory is sent while the " \
    "VM is stopped, for which downtime-limit has to allow"

VFIOMigList vfio_migs = QLIST_HEAD_INITIALIZER(vfio_migs);

static Stat64 bytes_sent;
static unsigned saving_devices;     /* since save_setup: the first one begins */
static Error *p2p_blocker;

uint64_t vfio_mig_v2_bytes(void)
{
    return stat64_get(&bytes_sent);
}

/* --- The source --- */

/* Takes @err.  The migration ends and its error-desc tells why */
static int save_fails(VFIOMig *m, QEMUFile *f, int ret, Error *err)
{
    error_prepend(&err, "vfio %s: ", m->name);
    m->save_failed = true;
    qemu_file_set_error(f, ret);
    if (runstate_check(RUN_STATE_SAVE_VM)) {
        error_report_err(err);
    } else {
        migrate_set_error(migrate_get_current(), err);
        error_free(err);
    }
    return ret;
}

static const char *unfit_capability(void)
{
    return runstate_check(RUN_STATE_SAVE_VM) ? NULL :
           migrate_postcopy_ram() ? "postcopy-ram" :
           migrate_background_snapshot() ? "background-snapshot" :
           migrate_colo_enabled() ? "x-colo" : NULL;
}

static int save_setup(QEMUFile *f, void *opaque)
{
    VFIOMig *m = opaque;
    const char *capability = unfit_capability();
    Error *err = NULL;
    int ret = 0;

    if (!qatomic_fetch_inc(&saving_devices)) {
        stat64_init(&bytes_sent, 0);
    }
    vfio_mig_put_header(m, f);
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        m->saving = true;
        m->save_failed = false;
        m->turn_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        m->announced = m->session;
        m->stop_copy_bytes = 0;
        m->buf = m->buf ?: g_malloc(VFIO_MIG_CHUNK);
        vfio_mig_show_v1(m);
        if (capability) {
            error_setg(&err, "migration capability %s does not go with an "
                       "assigned device", capability);
            ret = -ENOTSUP;
        } else if (m->not_stopped) {
            /* RAM will be read once more: it may stop until then */
            ret = vfio_mig_event(m, VFIO_MIG_STOP, &err);
        }
        if (!ret) {
            ret = vfio_mig_event(m, VFIO_MIG_SAVE, &err);
        }
    }
    vfio_mig_put_end(f);
    return ret ? save_fails(m, f, ret, err) : qemu_file_get_error(f);
}

static void mig_free(void *opaque)
{
    VFIOMig *m = opaque;

    unregister_savevm(NULL, m->id, m);
    g_free(m->buf);
    error_free(m->not_stopped);
    qemu_mutex_destroy(&m->lock);
    g_free(m->name);
    g_free(m->id);
    g_free(m);
}

static void save_cleanup(void *opaque)
{
    VFIOMig *m = opaque;
    Error *err = NULL;
    int ret = 0;

    vfio_mig_writes_reset();
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        if (m->saving) {
            m->saving = false;      /* type1 is shown it */
            qatomic_dec(&saving_devices);
            if (!m->gone) {
                ret = vfio_mig_event(m, VFIO_MIG_UNSAVE, &err);
                vfio_mig_show_v1(m);
            }
        }
        g_free(m->buf);
        m->buf = NULL;
    }
    if (m->gone) {              /* not now: it is in a list that is walked */
        aio_bh_schedule_oneshot(qemu_get_aio_context(), mig_free, m);
    } else if (ret && runstate_check(RUN_STATE_SAVE_VM)) {
        error_reportf_err(err, "vfio %s: ", m->name);   /* `cont` resets it */
    } else if (ret && !m->failed) {
        vfio_mig_cannot_run(m, err);
    } else {
        error_free(err);
    }
}

/* A guest may remove the device, a user may ask for postcopy, at any moment */
static bool can_go_on(VFIOMig *m, Error **errp)
{
    if (m->gone) {
        error_setg(errp, "the guest has removed the device");
        return false;
    }
    if (qatomic_read(&migrate_get_current()->start_postcopy)) {
        error_setg(errp, "postcopy does not go with an assigned device");
        return false;
    }
    return true;
}

/* What is left to send while the VM is stopped, as the driver estimates */
static void ask_stop_copy(VFIOMig *m)
{
    struct vfio_device_feature_mig_data_size size = {};

    if (!vfio_device_feature(m->vbasedev->fd, VFIO_DEVICE_FEATURE_GET |
                             VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
                             &size, sizeof(size))) {
        m->stop_copy_bytes = MIN(size.stop_copy_length, INT64_MAX / 1024);
    }
}

static void save_live_pending(QEMUFile *f, void *opaque, uint64_t threshold,
                              uint64_t *precopy_only, uint64_t *compatible,
                              uint64_t *postcopy_only)
{
    VFIOMig *m = opaque;
    struct vfio_precopy_info info = { .argsz = sizeof(info) };
    Error *err = NULL;
    uint64_t left, rest;
    int64_t now;

    QEMU_LOCK_GUARD(&m->lock);
    if (!m->save_failed && !can_go_on(m, &err)) {
        save_fails(m, f, -ENOTSUP, err);
    }
    if (m->save_failed) {
        *precopy_only += threshold + 1;     /* do not stop the VM for this */
        return;
    }
    /*
     * The question may be expensive: only if the answer can end precopy, and
     * not all the time if the last one was that it cannot
     */
    rest = *precopy_only + *compatible + *postcopy_only;
    now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    if (rest <= threshold && (rest + m->stop_copy_bytes <= threshold ||
                              now - m->asked_ms >= ASK_MS)) {
        ask_stop_copy(m);
        m->asked_ms = now;
    }
    if (rest > threshold) {
        m->turn_ms = now;       /* all wait for RAM */
    }
    left = m->stop_copy_bytes;
    if (vfio_mig_in_session(m) && m->state == VFIO_DEVICE_STATE_STOP_COPY) {
        left = m->eof ? 0 : left - MIN(left, m->session_bytes);
    } else if (vfio_mig_in_session(m) &&
               !ioctl(m->data_fd, VFIO_MIG_GET_PRECOPY_INFO, &info)) {
        left = MAX(left, MIN(info.dirty_bytes, INT64_MAX / 1024));
        if (info.initial_bytes && !m->drained) {
            left += MIN(info.initial_bytes, INT64_MAX / 1024);
            left += vfio_mig_writes_unknown() || now - m->turn_ms >= TURN_MS ?
                    0 : threshold;
        }
    }
    trace_vfio_mig_pending(m->name, left, m->stop_copy_bytes,
                           info.initial_bytes, info.dirty_bytes);
    *precopy_only += left;
}

/*
 * One piece at a time, so that no device starves the others.  A session that
 * was ended, by the guest's reset or by `stop` and `cont`, is begun again.
 */
static int save_live_iterate(QEMUFile *f, void *opaque)
{
    VFIOMig *m = opaque;
    Error *err = NULL;
    ssize_t ret = 0;

    WITH_QEMU_LOCK_GUARD(&m->lock) {
        m->turn_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        if (!can_go_on(m, &err)) {
            ret = -ENOTSUP;
        } else if (!vfio_mig_in_session(m)) {
            ret = vfio_mig_event(m, VFIO_MIG_SAVE, &err);
        }
    }
    if (!ret) {
        ret = vfio_mig_put_data(m, f, &err);
    }
    vfio_mig_put_end(f);
    if (ret < 0) {
        return save_fails(m, f, ret, err);
    }
    stat64_add(&bytes_sent, ret);
    return 1;
}

/*
 * The BQL is held for as long as this takes: other threads of QEMU that need
 * it, the monitor for one, wait for it as they do for the rest of the state.
 */
static int save_live_complete_precopy(QEMUFile *f, void *opaque)
{
    VFIOMig *m = opaque;
    Error *err = NULL;
    ssize_t ret;

    WITH_QEMU_LOCK_GUARD(&m->lock) {
        if (!can_go_on(m, &err)) {
            ret = -ENOTSUP;
        } else if (m->not_stopped) {
            err = error_copy(m->not_stopped);
            ret = -EIO;
        } else {
            /* not if it is; after a reset, when it is quiet */
            ret = vfio_mig_event(m, VFIO_MIG_STOP, &err);
        }
        if (!ret) {
            ret = vfio_mig_event(m, VFIO_MIG_SAVE, &err);
        }
    }
    while (!ret && (ret = vfio_mig_put_data(m, f, &err)) > 0) {
        stat64_add(&bytes_sent, ret);
        ret = qemu_file_get_error(f);
    }
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        if (!ret && m->eof) {
            vfio_mig_put_data_end(m, f);
        } else if (!ret) {
            error_setg(&err, "the device was reset while it was saved");
            ret = -EIO;
        }
    }
    vfio_mig_put_end(f);
    return err ? save_fails(m, f, ret, err) : ret;
}

static void save_state(QEMUFile *f, void *opaque)
{
    VFIOMig *m = opaque;
    uint16_t command;

    if (!m->gone) {             /* with the BQL it stays so */
        command = vfio_cdev_show_held(m->vbasedev);
        vfio_mig_put_config(m, f);
        vfio_cdev_hide_held(m->vbasedev, command);
    }
    vfio_mig_put_end(f);
}

/* --- The destination --- */

static int load_fails(VFIOMig *m, int ret, Error *err)
{
    error_reportf_err(err, "vfio %s: ", m->vbasedev->name);
    return ret;
}

static int load_setup(QEMUFile *f, void *opaque)
{
    VFIOMig *m = opaque;
    Error *err = NULL;
    int ret;

    m->loading = true;
    m->not_loaded = false;
    m->header_seen = m->data_complete = m->config_loaded = false;
    m->load_session = 0;
    m->load_bytes = 0;
    qemu_mutex_lock(&m->lock);
    ret = vfio_mig_event(m, VFIO_MIG_LOAD, &err);
    qemu_mutex_unlock(&m->lock);
    return ret ? load_fails(m, ret, err) : 0;
}

/* Half a state never runs: the device is as after a reset, and stopped */
static int load_cleanup(void *opaque)
{
    VFIOMig *m = opaque;
    Error *err = NULL;

    if (m->loading && !m->config_loaded) {
        qemu_mutex_lock(&m->lock);
        if (!vfio_mig_reset(m, &err)) {
            vfio_mig_event(m, VFIO_MIG_STOP, &err);
        }
        qemu_mutex_unlock(&m->lock);
        m->not_loaded = true;
        if (err) {
            load_fails(m, 0, err);
        }
    }
    m->loading = false;
    return 0;
}

static int load_state(QEMUFile *f, void *opaque, int version_id)
{
    VFIOMig *m = opaque;
    Error *err = NULL;
    int ret;

    if (version_id != VFIO_MIG_VERSION) {
        error_setg(&err, "the stream is of version %d of VFIO's migration "
                   "protocol, the device has %d", version_id, VFIO_MIG_VERSION);
        ret = -EINVAL;
    } else {
        ret = vfio_mig_get(m, f, &err);
    }
    return ret ? load_fails(m, ret, err) : 0;
}

static const SaveVMHandlers handlers = {
    .save_setup = save_setup,
    .save_cleanup = save_cleanup,
    .save_live_pending = save_live_pending,
    .save_live_iterate = save_live_iterate,
    .save_live_complete_precopy = save_live_complete_precopy,
    .save_state = save_state,
    .load_setup = load_setup,
    .load_cleanup = load_cleanup,
    .load_state = load_state,
};

/* --- Which devices --- */

/* Groups: does the container say that memory was written?  Since Linux 5.8 */
static bool writes_are_reported(VFIODevice *vbasedev)
{
    return !vbasedev->group ||
           vbasedev->group->container->dirty_pages_supported;
}

/*
 * Does anything tell which memory the device has written?  Groups: type1 knows
 * what the driver of a mdev pins; with an IOMMU, all that is mapped counts as
 * written (vfio_iova_dirty_bitmap() of Linux 6.12).
 */
static bool writes_are_known(VFIODevice *vbasedev)
{
    return vbasedev->group ? writes_are_reported(vbasedev) &&
                             vfio_cdev_is_mdev(vbasedev->sysfsdev)
                           : vfio_cdev_dirty_by(vbasedev->cdev) !=
                             VFIO_DIRTY_BY_NONE;
}

/* With several devices each has to leave peer-to-peer DMA before one stops */
static bool update_p2p_blocker(Error **errp)
{
    VFIOMig *m, *lacks = NULL;
    unsigned n = 0;

    QLIST_FOREACH(m, &vfio_migs, next) {
        n++;
        if (!(m->flags & VFIO_MIGRATION_P2P)) {
            lacks = m;
        }
    }
    if (p2p_blocker) {
        migrate_del_blocker(p2p_blocker);
        error_free(p2p_blocker);
        p2p_blocker = NULL;
    }
    if (n < 2 || !lacks) {
        return true;
    }
    error_setg(&p2p_blocker, "vfio %s: the driver cannot keep the device from "
               "peer-to-peer DMA (VFIO_MIGRATION_P2P), so it cannot migrate "
               "beside other devices", lacks->vbasedev->name);
    if (migrate_add_blocker(p2p_blocker, errp)) {
        error_free(p2p_blocker);
        p2p_blocker = NULL;
        return false;
    }
    return true;
}

static bool block(VFIODevice *vbasedev, Error *why, Error **errp)
{
    error_prepend(&why, "vfio %s: ", vbasedev->name);
    if (migrate_add_blocker(why, errp)) {
        error_free(why);
        return false;
    }
    vbasedev->migration_blocker = why;
    return true;
}

static bool start(VFIODevice *vbasedev, uint64_t flags, bool untracked,
                  Error **errp)
{
    VFIOMig *m = g_new0(VFIOMig, 1);
    g_autofree char *oid = NULL;

    m->vbasedev = m->v1.vbasedev = vbasedev;
    m->flags = flags;
    m->untracked = untracked;
    m->data_fd = -1;
    m->state = VFIO_DEVICE_STATE_RUNNING;
    qemu_mutex_init(&m->lock);
    vfio_mig_refresh(m);
    vfio_mig_show_v1(m);
    QLIST_INSERT_HEAD(&vfio_migs, m, next);
    if (!update_p2p_blocker(errp)) {
        QLIST_REMOVE(m, next);
        update_p2p_blocker(NULL);
        qemu_mutex_destroy(&m->lock);
        g_free(m);
        return false;
    }
    vfio_mig_vm_init(m);
    /* By its place in the guest: what it is on the host may differ */
    oid = vmstate_if_get_id(VMSTATE_IF(vbasedev->dev));
    m->id = oid ? g_strdup_printf("%s/vfio", oid) : g_strdup("vfio");
    m->name = g_strdup(vbasedev->name);
    register_savevm_live(m->id, VMSTATE_INSTANCE_ID_ANY, VFIO_MIG_VERSION,
                         &handlers, m);
    vbasedev->migration = &m->v1;
    if (vbasedev->cdev) {
        vbasedev->cdev->writer.later = vfio_mig_writes_later;
    }
    trace_vfio_mig_realize(vbasedev->name, flags);
    return true;
}

bool vfio_mig_realize(VFIODevice *vbasedev, Error **errp)
{
    struct vfio_device_feature_migration offer = {};
    Error *why = NULL;
    bool untracked = false;
    int ret;

    if (vbasedev->migratable == ON_OFF_AUTO_OFF) {
        error_setg(&why, "migration is switched off (enable-migration=off)");
        return block(vbasedev, why, errp);
    }
    ret = vfio_device_feature(vbasedev->fd, VFIO_DEVICE_FEATURE_GET |
                              VFIO_DEVICE_FEATURE_MIGRATION, &offer,
                              sizeof(offer));
    if (!ret && !(offer.flags & VFIO_MIGRATION_STOP_COPY)) {
        ret = -EOPNOTSUPP;
    }
    if (ret) {
        if (vbasedev->group && vbasedev->migratable != ON_OFF_AUTO_ON) {
            return true;        /* protocol v1 or none */
        }
        error_setg(&why, "the host's driver cannot migrate the device "
                   "(VFIO_DEVICE_FEATURE_MIGRATION: %s)", strerror(-ret));
    } else if (!writes_are_known(vbasedev)) {
        untracked = writes_are_reported(vbasedev);
        error_setg(&why, "nothing reports which memory the device writes%s",
                   untracked ? UNKNOWN_WRITES : "");
        if (untracked && vbasedev->migratable == ON_OFF_AUTO_ON) {
            warn_reportf_err(why, "vfio %s: ", vbasedev->name);
            why = NULL;
        }
    }
    if (!why) {
        return start(vbasedev, offer.flags, untracked, errp);
    }
    if (vbasedev->migratable == ON_OFF_AUTO_ON) {
        error_propagate(errp, why);
        return false;
    }
    return block(vbasedev, why, errp);
}

void vfio_mig_unrealize(VFIODevice *vbasedev)
{
    VFIOMig *m;

    QLIST_FOREACH(m, &vfio_migs, next) {
        if (m->vbasedev == vbasedev) {
            break;
        }
    }
    if (!m) {
        return;
    }
    vbasedev->migration = NULL;
    if (vbasedev->cdev) {
        vbasedev->cdev->writer.later = NULL;
    }
    vfio_mig_vm_exit(m);
    QLIST_REMOVE(m, next);
    update_p2p_blocker(NULL);
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        if (m->data_fd >= 0) {
            close(m->data_fd);
            m->data_fd = -1;
        }
        m->gone = m->saving;
    }
    if (!m->gone) {
        mig_free(m);
    }
}
