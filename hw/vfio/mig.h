/*
 * Migration of VFIO devices, protocol v2
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   mig-device.c  the states of one device, as the kernel keeps them
 *   mig-vm.c      what they have to be while the VM runs, stops and starts
 *   mig-stream.c  what is written to and read from the migration stream
 *   mig-writes.c  when nobody tracks what the devices write
 *   mig.c         which devices can migrate; SaveVMHandlers
 *
 * Protocol v1 is in migration.c and is only offered by kernels before 5.18.
 * A device has one or the other or none; this is decided when it is realized.
 */

#ifndef HW_VFIO_MIG_H
#define HW_VFIO_MIG_H

#include <linux/vfio.h>

#include "hw/vfio/vfio-common.h"
#include "qemu/thread.h"

typedef enum vfio_device_mig_state VFIOMigState;

/*
 * One device that migrates by v2.  Exists from vfio_mig_realize() to
 * vfio_mig_unrealize(); VFIODevice.migration points to @v1 meanwhile.  If the
 * guest removes the device while it is saved, until save_cleanup: the migration
 * thread may be anywhere in here.  It is @gone then, and @vbasedev no more.
 *
 * @lock is for everything from @state on.  It is taken with and without the
 * BQL, and nobody who holds it waits for the BQL or for another @lock.
 */
typedef struct VFIOMig {
    VFIOMigration v1;           /* what dirty tracking of groups looks at */
    VFIODevice *vbasedev;
    char *name, *id;            /* the device's; of its section */
    uint64_t flags;             /* VFIO_MIGRATION_* of the driver */
    VMChangeStateEntry *vm_early, *vm_late;
    QLIST_ENTRY(VFIOMig) next;
    bool untracked;             /* nobody tells what it writes, as of start */

    /* while a VM is loaded, in its coroutine */
    bool loading;
    bool header_seen, data_complete, config_loaded;
    uint32_t load_session;      /* 0: none yet */
    uint64_t load_bytes;

    /* of the VM, with the BQL */
    bool failed;                /* it could not run: `cont` may reset it */
    bool not_loaded;            /* an incoming stream left it out */

    QemuMutex lock;
    VFIOMigState state;         /* as last heard of the kernel */
    Error *not_stopped;         /* why it may write while the VM is stopped */
    bool gone;
    int data_fd;                /* of the session, or -1 */
    bool saving;                /* between save_setup and save_cleanup */
    int64_t asked_ms;           /* when @stop_copy_bytes was */
    int64_t turn_ms;            /* when it was last asked to send, or RAM was */
    bool save_failed;
    bool drained;               /* PRE_COPY: nothing to read at the moment */
    bool eof;                   /* STOP_COPY: everything was read */
    uint32_t session;           /* how many there were while saving */
    uint32_t announced;         /* the last that the stream knows of */
    uint64_t session_bytes;
    uint64_t stop_copy_bytes;   /* the driver's estimate, as last asked */
    uint8_t *buf;               /* VFIO_MIG_CHUNK, while saving */
} VFIOMig;

typedef QLIST_HEAD(VFIOMigList, VFIOMig) VFIOMigList;

extern VFIOMigList vfio_migs;

/* mig.c */

/**
 * vfio_mig_realize - decide whether and how a PCI device migrates
 *
 * Afterwards @vbasedev has a migration, or a migration_blocker that says why
 * not, or neither: then it is protocol v1's to decide.  Returns false with
 * @errp set if the user asked for more than is possible, and nothing is left.
 */
bool vfio_mig_realize(VFIODevice *vbasedev, Error **errp);

/**
 * vfio_mig_unrealize - the reverse; does nothing for others.  The blocker, if
 * there is one, is removed by vfio_migration_finalize().
 */
void vfio_mig_unrealize(VFIODevice *vbasedev);

/**
 * vfio_mig_v2_bytes - sent since the last migration began, by all devices
 */
uint64_t vfio_mig_v2_bytes(void);

/* mig-device.c */

typedef enum VFIOMigEvent {
    VFIO_MIG_QUIESCE,           /* the VM stops: no more peer-to-peer DMA */
    VFIO_MIG_STOP,              /* the VM stops */
    VFIO_MIG_PREPARE,           /* the VM starts: no peer-to-peer DMA yet */
    VFIO_MIG_RUN,               /* the VM starts */
    VFIO_MIG_SAVE,              /* begin a session, as the state allows */
    VFIO_MIG_UNSAVE,            /* end it */
    VFIO_MIG_LOAD,              /* begin a session that takes a state */
    VFIO_MIG_LOADED,            /* end it: the device checks what it got */
    VFIO_MIG_EVENT__MAX,
} VFIOMigEvent;

#define VFIO_MIG_STAY   (-1)    /* nothing is to be done */
#define VFIO_MIG_REFUSE (-2)    /* not possible from this state */

/**
 * vfio_mig_target - the state to ask for, or one of the two above
 * @flags: VFIO_MIGRATION_* of the driver
 */
int vfio_mig_target(VFIOMigState state, uint64_t flags, VFIOMigEvent event);

/**
 * vfio_mig_event - bring the device to the state that fits; @lock is held
 *
 * Asks the kernel where the device is first: a reset by the guest, of which
 * QEMU need not know, makes it RUNNING and ends its session.
 * Returns 0, or -errno with @errp set; the device may be in any state then.  If
 * it could not stop, @not_stopped says why until it does or the VM starts.
 */
int vfio_mig_event(VFIOMig *m, VFIOMigEvent event, Error **errp);

/**
 * vfio_mig_refresh - ask the kernel for the state; ERROR if it does not answer
 */
void vfio_mig_refresh(VFIOMig *m);

/**
 * vfio_mig_reset - VFIO_DEVICE_RESET: from any state to RUNNING
 */
int vfio_mig_reset(VFIOMig *m, Error **errp);

/* Is there a session that sends? */
bool vfio_mig_in_session(const VFIOMig *m);
const char *vfio_mig_state_str(VFIOMigState state);

/* @saving or @state has changed: tell dirty tracking of groups */
void vfio_mig_show_v1(VFIOMig *m);

/* mig-vm.c */

void vfio_mig_vm_init(VFIOMig *m);
void vfio_mig_vm_exit(VFIOMig *m);

/**
 * vfio_mig_cannot_run - the device is not what a running VM needs; stop it
 * Takes @err, with one line for the user.
 */
void vfio_mig_cannot_run(VFIOMig *m, Error *err);

/* mig-stream.c; docs/devel/vfio-migration-v2.rst describes the format */

#define VFIO_MIG_VERSION    2   /* of the section; 1 is protocol v1's */
#define VFIO_MIG_FORMAT     1   /* of what is in it */
#define VFIO_MIG_CHUNK      (1024 * 1024)

void vfio_mig_put_header(VFIOMig *m, QEMUFile *f);
void vfio_mig_put_end(QEMUFile *f);
void vfio_mig_put_data_end(VFIOMig *m, QEMUFile *f);
void vfio_mig_put_config(VFIOMig *m, QEMUFile *f);

/**
 * vfio_mig_put_data - read what the device has and send it
 *
 * Takes @lock to read; sending may take long, and the main loop wants @lock.
 * Returns how many bytes, 0 if there is nothing now (@drained or @eof is set)
 * or no session, which a reset ends; -errno with @errp set.
 */
ssize_t vfio_mig_put_data(VFIOMig *m, QEMUFile *f, Error **errp);

/**
 * vfio_mig_get - take one section's records, up to its end
 */
int vfio_mig_get(VFIOMig *m, QEMUFile *f, Error **errp);

/* mig-writes.c */

/**
 * vfio_mig_writes_later - may this sync leave out what devices write?
 *
 * For a sync in which all memory would count as written because nobody tracks,
 * with the BQL.  True only if another sync will come after the devices were
 * stopped, for which this is false; and, while the VM runs, if downtime-limit
 * allows for sending all memory then.
 */
bool vfio_mig_writes_later(void);

/* The same for a container; false unless it has such a device */
bool vfio_mig_container_writes_later(const VFIOContainer *container);

/* Was it asked, in this migration?  Also without the BQL */
bool vfio_mig_writes_unknown(void);

/* A migration has ended */
void vfio_mig_writes_reset(void);

#endif
