/*
 * Migration of VFIO devices, protocol v2: when the VM stops and starts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device must not reach into another one that is stopped already, nor into
 * one that is not started yet.  So all devices leave peer-to-peer DMA before
 * the first is stopped, and all are prepared before the first may do it again.
 * Handlers of the VM's state are called by rising priority when it starts and
 * by falling priority when it stops; each device has two:
 *
 *                  priority            starts            stops
 *   vm_early       depth in the tree   first: PREPARE    then: STOP
 *   vm_late        beyond all depths   then: RUN         first: QUIESCE
 *
 * The handlers cannot fail.  A device that cannot stop makes the migration or
 * the snapshot fail: what it has written since RAM was read for the last time
 * would be lost, even if it could stop later.  One that cannot run stops
 * the VM, with a line; `cont` tries again, and resets a device in ERROR.
 */

#include "qemu/osdep.h"

#include "mig.h"
#include "cdev.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "sysemu/runstate.h"
#include "trace.h"

#define LATE (1 << 20)

static void stop_vm(void)
{
    if (runstate_is_running()) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(RUN_STATE_IO_ERROR);
    }
}

void vfio_mig_cannot_run(VFIOMig *m, Error *err)
{
    m->failed = true;
    error_reportf_err(err, "vfio %s: %s'cont' %s: ", m->vbasedev->name,
                      runstate_is_running() ? "VM stopped, " : "",
                      m->state == VFIO_DEVICE_STATE_ERROR ||
                      m->state == VFIO_DEVICE_STATE_RESUMING ?
                      "resets the device" : "tries again");
    stop_vm();
}

/* `cont` after vfio_mig_cannot_run() */
static int recover(VFIOMig *m, Error **errp)
{
    int ret = 0;

    vfio_mig_refresh(m);
    if (m->state == VFIO_DEVICE_STATE_ERROR ||
        m->state == VFIO_DEVICE_STATE_RESUMING) {
        ret = vfio_mig_reset(m, errp);
        if (!ret) {
            warn_report("vfio %s: the device was reset, the guest's driver "
                        "has to start it anew", m->vbasedev->name);
        }
    }
    return ret;
}

static void vm_starts(VFIOMig *m, VFIOMigEvent event)
{
    Error *err = NULL;
    int ret = 0;

    if (event == VFIO_MIG_RUN && m->failed) {
        return;                 /* PREPARE has said why */
    }
    if (m->not_loaded) {
        m->not_loaded = false;
        error_setg(&err, "the stream had no state for the device");
        vfio_mig_cannot_run(m, err);
        return;
    }
    if (!vfio_cdev_reaches_ram(m->vbasedev)) {
        return;                 /* the VM is being stopped; cont comes again */
    }
    qemu_mutex_lock(&m->lock);
    if (m->failed) {
        ret = recover(m, &err);
    }
    m->failed = false;
    if (!ret) {
        ret = vfio_mig_event(m, event, &err);
    }
    qemu_mutex_unlock(&m->lock);
    if (ret) {
        vfio_mig_cannot_run(m, err);
    }
}

static void vm_stops(VFIOMig *m, VFIOMigEvent event, RunState state)
{
    Error *err = NULL;
    int ret;

    qemu_mutex_lock(&m->lock);
    ret = vfio_mig_event(m, event, &err);
    qemu_mutex_unlock(&m->lock);
    if (!ret) {
        return;
    }
    /* STOP follows QUIESCE, and who saves finds out by himself */
    if (event == VFIO_MIG_QUIESCE || state == RUN_STATE_FINISH_MIGRATE ||
        state == RUN_STATE_SAVE_VM || m->failed) {
        error_free(err);
    } else {
        error_reportf_err(err, "vfio %s: ", m->vbasedev->name);
    }
}

static void vm_early(void *opaque, bool running, RunState state)
{
    trace_vfio_mig_vm(((VFIOMig *)opaque)->vbasedev->name, running,
                      RunState_str(state));
    if (running) {
        vm_starts(opaque, VFIO_MIG_PREPARE);
    } else {
        vm_stops(opaque, VFIO_MIG_STOP, state);
    }
}

static void vm_late(void *opaque, bool running, RunState state)
{
    if (running) {
        vm_starts(opaque, VFIO_MIG_RUN);
    } else {
        vm_stops(opaque, VFIO_MIG_QUIESCE, state);
    }
}

void vfio_mig_vm_init(VFIOMig *m)
{
    m->vm_early = qdev_add_vm_change_state_handler(m->vbasedev->dev, vm_early,
                                                   m);
    m->vm_late = qemu_add_vm_change_state_handler_prio(vm_late, m, LATE);
}

void vfio_mig_vm_exit(VFIOMig *m)
{
    qemu_del_vm_change_state_handler(m->vm_late);
    qemu_del_vm_change_state_handler(m->vm_early);
}
