/*
 * Migration of VFIO devices, protocol v2: when nobody tracks what they write
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: how long it takes to send all of RAM, as it turns out.
 *
 * If nobody tracks, each sync finds all of RAM written, however often it was
 * sent; it has to be sent again while the VM is stopped.  QEMU stops the VM
 * when what is left, by the bytes that were sent in the last 100 ms, fits into
 * downtime-limit.  But what is left counts in whole pages, and one of zeros is
 * a few bytes in the stream.  With memory that is hardly used the guess is
 * wrong by a factor of hundreds, and luck decides.
 *
 * Here the time is measured: as long as all of RAM took the last time, it will
 * take again.  Once downtime-limit allows for that, syncs leave out what
 * devices write.  Then only what vCPUs write is left, as in any migration, and
 * when that is little, the VM is stopped, and the devices; the sync that
 * follows leaves nothing out.  A VM that is stopped already has no downtime.
 *
 * If the VM is not stopped, because the devices' state does not seem to fit,
 * nothing more would be sent, and the bytes per second mean nothing.  So then
 * all of RAM is sent once more.
 *
 * Devices do not come to their turn while there is RAM to send, so nobody
 * waits for what they have to send first (vfio_mig_writes_unknown()).
 *
 * QEMU 7.2: migration_completion() enters RUN_STATE_FINISH_MIGRATE, from a VM
 * that is stopped, too, before ram_save_complete() syncs.  A snapshot is in
 * MIGRATION_STATUS_SETUP from beginning to end.  The first sync is made before
 * the first question for what is left.
 */

#include "qemu/osdep.h"

#include "mig.h"
#include "exec/target_page.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "migration/ram.h"
#include "qemu/timer.h"
#include "sysemu/runstate.h"
#include "trace.h"

/* So little, in pages, is nothing */
#define IDLE 128

/* Read without the BQL, too */
static bool unknown;

/* With the BQL */
static struct {
    int64_t since;              /* of this pass, in ns; 0: there was none */
    uint64_t since_pages;       /* sent until then */
    int64_t ms;                 /* that the last took; 0: there was none */
    uint64_t sync, sync_pages;  /* the last sync's number; sent until then, */
    uint64_t sync_bytes;        /* and of the devices' state */
    bool later;                 /* was left out in it */
} pass;

void vfio_mig_writes_reset(void)
{
    memset(&pass, 0, sizeof(pass));
    qatomic_set(&unknown, false);
}

bool vfio_mig_writes_unknown(void)
{
    return qatomic_read(&unknown);
}

/* A pass is over when as many pages were sent as there are */
static void measure(uint64_t sent, uint64_t all)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    if (pass.since && sent - pass.since_pages < all) {
        return;
    }
    if (pass.since) {
        double share = (double)all / (sent - pass.since_pages);

        pass.ms = 1 + (now - pass.since) * share / SCALE_MS;
    }
    pass.since = now;
    pass.since_pages = sent;
}

static void begin_sync(int64_t limit)
{
    uint64_t sent = ram_get_total_transferred_pages();
    uint64_t all = ram_bytes_total() / qemu_target_page_size();
    uint64_t bytes = vfio_mig_v2_bytes();
    bool idle = pass.later && sent - pass.sync_pages +
                (bytes - pass.sync_bytes) / qemu_target_page_size() < IDLE;

    qatomic_set(&unknown, true);
    measure(sent, all);
    pass.later = pass.ms && pass.ms <= limit && !idle;
    pass.sync = ram_counters.dirty_sync_count;
    pass.sync_pages = sent;
    pass.sync_bytes = bytes;
    trace_vfio_mig_writes(pass.sync, sent, all, pass.ms, pass.later);
}

bool vfio_mig_writes_later(void)
{
    MigrationState *ms = migrate_get_current();

    if (!migration_is_setup_or_active(ms->state)) {
        return false;
    }
    if (pass.sync != ram_counters.dirty_sync_count) {
        begin_sync(ms->parameters.downtime_limit);
    }
    return migration_is_active(ms) &&
           !runstate_check(RUN_STATE_FINISH_MIGRATE) &&
           (pass.later || !runstate_is_running());
}

bool vfio_mig_container_writes_later(const VFIOContainer *container)
{
    VFIOMig *m;

    QLIST_FOREACH(m, &vfio_migs, next) {
        if (m->untracked && m->vbasedev->group &&
            m->vbasedev->group->container == container) {
            return vfio_mig_writes_later();
        }
    }
    return false;
}
