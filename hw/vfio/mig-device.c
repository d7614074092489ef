/*
 * Migration of VFIO devices, protocol v2: the states of one device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: what is known of a device's state, and the descriptor of its session.
 *
 * Kernel facts (include/uapi/linux/vfio.h of Linux 6.12):
 *   the kernel finds the way between two states; it does not pass through
 *     states that save or load, so those are only reached when asked for
 *   PRE_COPY, PRE_COPY_P2P and STOP_COPY share one session, whose descriptor
 *     comes with the first of them; leaving the three ends it, and so does
 *     leaving RESUMING
 *   STOP_COPY does not lead back to PRE_COPY
 *   if a change fails, the device is in any state on the way or in ERROR,
 *     which only VFIO_DEVICE_RESET leaves; that leads to RUNNING from anywhere
 *   a driver may lack P2P and PRE_COPY, never the others
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>

#include "feature.h"
#include "ioas.h"
#include "mig.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qapi/qapi-events-vfio.h"
#include "trace.h"

#define S(x) VFIO_DEVICE_STATE_##x

/* 0, that is ERROR, stands for "stay"; what is not possible is below */
static const uint8_t targets[VFIO_MIG_EVENT__MAX][VFIO_DEVICE_STATE_NR] = {
    [VFIO_MIG_QUIESCE] = {
        [S(RUNNING)] = S(RUNNING_P2P),
        [S(PRE_COPY)] = S(PRE_COPY_P2P),
    },
    /* A session goes on: the VM may be stopped to be migrated */
    [VFIO_MIG_STOP] = {
        [S(RUNNING)] = S(STOP),
        [S(RUNNING_P2P)] = S(STOP),
        [S(PRE_COPY)] = S(STOP_COPY),
        [S(PRE_COPY_P2P)] = S(STOP_COPY),
    },
    [VFIO_MIG_PREPARE] = {
        [S(STOP)] = S(RUNNING_P2P),
        [S(STOP_COPY)] = S(RUNNING_P2P),
    },
    [VFIO_MIG_RUN] = {
        [S(STOP)] = S(RUNNING),
        [S(STOP_COPY)] = S(RUNNING),
        [S(RUNNING_P2P)] = S(RUNNING),
        [S(PRE_COPY_P2P)] = S(PRE_COPY),
    },
    [VFIO_MIG_SAVE] = {
        [S(RUNNING)] = S(PRE_COPY),
        [S(RUNNING_P2P)] = S(PRE_COPY_P2P),
        [S(STOP)] = S(STOP_COPY),
    },
    [VFIO_MIG_UNSAVE] = {
        [S(PRE_COPY)] = S(RUNNING),
        [S(PRE_COPY_P2P)] = S(RUNNING_P2P),
        [S(STOP_COPY)] = S(STOP),
    },
    [VFIO_MIG_LOAD] = {
        [S(RUNNING)] = S(RESUMING),
        [S(RUNNING_P2P)] = S(RESUMING),
        [S(STOP)] = S(RESUMING),
    },
    [VFIO_MIG_LOADED] = {
        [S(RESUMING)] = S(STOP),
    },
};

int vfio_mig_target(VFIOMigState state, uint64_t flags, VFIOMigEvent event)
{
    int target = state < VFIO_DEVICE_STATE_NR ? targets[event][state] : 0;

    if (state == S(ERROR) || state >= VFIO_DEVICE_STATE_NR) {
        return VFIO_MIG_REFUSE;
    }
    if (state == S(RESUMING) && event != VFIO_MIG_LOAD &&
        event != VFIO_MIG_LOADED) {
        /* Half a state: whoever stops the VM need not mind */
        return event == VFIO_MIG_PREPARE || event == VFIO_MIG_RUN ||
               event == VFIO_MIG_SAVE ? VFIO_MIG_REFUSE : VFIO_MIG_STAY;
    }
    if ((event == VFIO_MIG_LOAD && !target && state != S(RESUMING)) ||
        (event == VFIO_MIG_LOADED && !target)) {
        return VFIO_MIG_REFUSE;
    }
    if (((target == S(RUNNING_P2P) || target == S(PRE_COPY_P2P)) &&
         !(flags & VFIO_MIGRATION_P2P)) ||
        ((target == S(PRE_COPY) || target == S(PRE_COPY_P2P)) &&
         !(flags & VFIO_MIGRATION_PRE_COPY))) {
        return VFIO_MIG_STAY;
    }
    return target ?: VFIO_MIG_STAY;
}

const char *vfio_mig_state_str(VFIOMigState state)
{
    static const char *const names[VFIO_DEVICE_STATE_NR] = {
        "ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P",
        "PRE_COPY", "PRE_COPY_P2P",
    };

    return state < VFIO_DEVICE_STATE_NR ? names[state] : "an unknown state";
}

static bool state_sends(VFIOMigState state)
{
    return state == S(PRE_COPY) || state == S(PRE_COPY_P2P) ||
           state == S(STOP_COPY);
}

bool vfio_mig_in_session(const VFIOMig *m)
{
    return m->data_fd >= 0 && state_sends(m->state);
}

void vfio_mig_show_v1(VFIOMig *m)
{
    uint32_t v1;

    switch (m->state) {
    case S(STOP):
        v1 = 0;
        break;
    case S(STOP_COPY):
        v1 = VFIO_DEVICE_STATE_V1_SAVING;
        break;
    case S(RESUMING):
        v1 = VFIO_DEVICE_STATE_V1_RESUMING;
        break;
    default:
        v1 = VFIO_DEVICE_STATE_V1_RUNNING |
             (m->saving ? VFIO_DEVICE_STATE_V1_SAVING : 0);
    }
    qatomic_set(&m->v1.device_state, v1);
}

/* The values are the kernel's plus nothing for ERROR, see qapi/vfio.json */
static void send_event(VFIOMig *m)
{
    static const VfioMigrationState values[VFIO_DEVICE_STATE_NR] = {
        [S(STOP)] = VFIO_MIGRATION_STATE_STOP,
        [S(RUNNING)] = VFIO_MIGRATION_STATE_RUNNING,
        [S(STOP_COPY)] = VFIO_MIGRATION_STATE_STOP_COPY,
        [S(RESUMING)] = VFIO_MIGRATION_STATE_RESUMING,
        [S(RUNNING_P2P)] = VFIO_MIGRATION_STATE_RUNNING_P2P,
        [S(PRE_COPY)] = VFIO_MIGRATION_STATE_PRE_COPY,
        [S(PRE_COPY_P2P)] = VFIO_MIGRATION_STATE_PRE_COPY_P2P,
    };
    DeviceState *dev = m->vbasedev->dev;
    g_autofree char *path = NULL;

    if (m->vbasedev->migration_events && m->state != S(ERROR)) {
        path = object_get_canonical_path(OBJECT(dev));
        qapi_event_send_vfio_migration(dev->id ?: "", path, values[m->state]);
    }
}

/* The device is in @state; @data_fd came with it, or is -1 */
static void entered(VFIOMig *m, VFIOMigState state, int data_fd)
{
    bool changed = m->state != state;

    trace_vfio_mig_state(m->vbasedev->name, vfio_mig_state_str(m->state),
                         vfio_mig_state_str(state), data_fd);
    if (m->data_fd >= 0 &&
        (data_fd >= 0 || !state_sends(state) || !state_sends(m->state))) {
        close(m->data_fd);
        m->data_fd = -1;
    }
    m->state = state;
    if (data_fd >= 0) {
        m->data_fd = data_fd;
        m->session++;
        m->session_bytes = 0;
        m->drained = m->eof = false;
    } else if (state == S(STOP_COPY)) {
        m->drained = false;
    }
    vfio_mig_show_v1(m);
    if (changed) {
        send_event(m);
    }
}

void vfio_mig_refresh(VFIOMig *m)
{
    struct vfio_device_feature_mig_state now = { .device_state = S(ERROR) };

    if (vfio_device_feature(m->vbasedev->fd, VFIO_DEVICE_FEATURE_GET |
                            VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
                            &now, sizeof(now)) ||
        now.device_state >= VFIO_DEVICE_STATE_NR) {
        now.device_state = S(ERROR);
    }
    if (now.device_state != m->state) {
        entered(m, now.device_state, -1);
    }
}

static int set_state(VFIOMig *m, VFIOMigState state, Error **errp)
{
    struct vfio_device_feature_mig_state set = {
        .device_state = state,
        .data_fd = -1,
    };
    VFIOMigState from = m->state;
    int ret;

    ret = vfio_device_feature(m->vbasedev->fd, VFIO_DEVICE_FEATURE_SET |
                              VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
                              &set, sizeof(set));
    if (!ret) {
        bool wants = (state_sends(state) && !state_sends(from)) ||
                     state == S(RESUMING);

        entered(m, state, set.data_fd);
        if (wants && m->data_fd < 0) {
            error_setg(errp, "the driver gave no descriptor with %s",
                       vfio_mig_state_str(state));
            return -EBADF;
        }
        return 0;
    }
    vfio_mig_refresh(m);
    error_setg(errp, "the device cannot go from %s to %s: %s; it is in %s now",
               vfio_mig_state_str(from), vfio_mig_state_str(state),
               strerror(-ret), vfio_mig_state_str(m->state));
    return ret;
}

static int bring(VFIOMig *m, VFIOMigEvent event, Error **errp)
{
    int target;

    vfio_mig_refresh(m);
    target = vfio_mig_target(m->state, m->flags, event);
    switch (target) {
    case VFIO_MIG_STAY:
        return 0;
    case VFIO_MIG_REFUSE:
        error_setg(errp, "the device is in %s, from where it cannot go on",
                   vfio_mig_state_str(m->state));
        return -EIO;
    default:
        return set_state(m, target, errp);
    }
}

int vfio_mig_event(VFIOMig *m, VFIOMigEvent event, Error **errp)
{
    ERRP_GUARD();
    int ret = bring(m, event, errp);

    if (event == VFIO_MIG_STOP || event == VFIO_MIG_PREPARE ||
        event == VFIO_MIG_RUN) {
        g_clear_pointer(&m->not_stopped, error_free);
    }
    if (event == VFIO_MIG_STOP && ret && m->state != S(STOP)) {
        m->not_stopped = error_copy(*errp);
    }
    return ret;
}

int vfio_mig_reset(VFIOMig *m, Error **errp)
{
    int ret = ioctl(m->vbasedev->fd, VFIO_DEVICE_RESET) ? -errno : 0;

    trace_vfio_mig_reset(m->vbasedev->name, ret);
    /* The kernel has dropped what other devices have mapped of its BARs */
    vfio_ioas_revoke_bars(OBJECT(m->vbasedev->dev));
    vfio_ioas_refresh_bars(OBJECT(m->vbasedev->dev));
    vfio_mig_refresh(m);
    if (ret) {
        error_setg(errp, "the device cannot be reset: %s", strerror(-ret));
    }
    return ret;
}
