/* SPDX-License-Identifier: GPL-2.0 */
/* dma-test-vfio: see main.c. The device: docs/devel/dma-test.rst. */
#ifndef DMA_TEST_VFIO_H
#define DMA_TEST_VFIO_H

#include <linux/io.h>
#include <linux/vfio_pci_core.h>
#include "dma-test.h"

/* What goes wrong on request, and what can be chosen: files in debugfs */
struct dt_knobs {
	u32 fail_state;		/* the next step to this state fails; then 0 */
	bool fail_to_error;	/* ... and leaves the device in ERROR */
	bool fail_read;		/* the next read of migration data */
	bool fail_write;	/* the next write of migration data */
	bool fail_log;		/* the next report of the log */
	bool combine;		/* merge ranges if there are too many, or refuse */
	u32 ballast;		/* bytes that go in front of the state */
	u64 data_size;		/* what MIG_DATA_SIZE says, if not 0 */
};

struct dt_file;

struct dt_device {
	struct vfio_pci_core_device core;	/* first */
	void __iomem *host;
	struct mutex lock;		/* all below, and the host registers */
	enum vfio_device_mig_state state;
	struct dt_file *saving, *resuming;
	u64 log_granule;		/* 0: off */
	spinlock_t reset_lock;
	bool reset_pending;
	u16 command;			/* of PCI, before dt_begin() */
	struct dentry *debugfs;
	struct dt_knobs knobs;
};

static inline struct dt_device *to_dt(struct vfio_device *vdev)
{
	return container_of(vdev, struct dt_device, core.vdev);
}

void dt_lock(struct dt_device *dt);
void dt_unlock(struct dt_device *dt);
/* Around host registers: they answer though the guest disabled its BARs. */
void dt_begin(struct dt_device *dt);
void dt_end(struct dt_device *dt);

static inline u64 dt_get(struct dt_device *dt, unsigned int reg)
{
	return readq(dt->host + reg);
}

static inline void dt_put(struct dt_device *dt, unsigned int reg, u64 val)
{
	writeq(val, dt->host + reg);
}

/* Give a command; 0, or -EINVAL when the device refuses. */
static inline int dt_command(struct dt_device *dt, unsigned int reg, u64 val)
{
	dt_put(dt, reg, val);
	return dt_get(dt, DMA_TEST_H_RESULT) == DMA_TEST_OK ? 0 : -EINVAL;
}

extern const struct vfio_migration_ops dt_migration_ops;
void dt_disable_files(struct dt_device *dt);

extern const struct vfio_log_ops dt_log_ops;
int dt_log_stop(struct vfio_device *vdev);

#endif
