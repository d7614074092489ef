// SPDX-License-Identifier: GPL-2.0
/*
 * dma-test-vfio: vfio-pci for QEMU's dma-test, with migration and a dirty log
 *
 * A variant driver as those of real devices are, on vfio_pci_core, so that a
 * user of VFIO meets each state and each feature on a real kernel. What is done
 * to the device goes through BAR 4, which user space never sees. Linux 6.12, 7.3.
 *
 * dt->lock serialises all that touches state and host registers. A reset comes
 * with locks of vfio_pci_core held and cannot wait for it: as in the drivers of
 * the kernel, who holds the lock does the reset's work when he lets go.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include "dma-test-vfio.h"

static struct dentry *dt_debugfs;

void dt_lock(struct dt_device *dt)
{
	mutex_lock(&dt->lock);
}

/* The device has been reset: it runs, its log is off, files end. */
static void dt_was_reset(struct dt_device *dt)
{
	dt->state = VFIO_DEVICE_STATE_RUNNING;
	dt->log_granule = 0;
	dt_disable_files(dt);
}

void dt_unlock(struct dt_device *dt)
{
again:
	spin_lock(&dt->reset_lock);
	if (dt->reset_pending) {
		dt->reset_pending = false;
		spin_unlock(&dt->reset_lock);
		dt_was_reset(dt);
		goto again;
	}
	mutex_unlock(&dt->lock);
	spin_unlock(&dt->reset_lock);
}

static void dt_reset_done(struct pci_dev *pdev)
{
	struct dt_device *dt = dev_get_drvdata(&pdev->dev);

	spin_lock(&dt->reset_lock);
	dt->reset_pending = true;
	if (!mutex_trylock(&dt->lock)) {
		spin_unlock(&dt->reset_lock);
		return;
	}
	spin_unlock(&dt->reset_lock);
	dt_unlock(dt);
}

void dt_begin(struct dt_device *dt)
{
	down_write(&dt->core.memory_lock);
	pci_read_config_word(dt->core.pdev, PCI_COMMAND, &dt->command);
	if (!(dt->command & PCI_COMMAND_MEMORY))
		pci_write_config_word(dt->core.pdev, PCI_COMMAND,
				      dt->command | PCI_COMMAND_MEMORY);
}

void dt_end(struct dt_device *dt)
{
	if (!(dt->command & PCI_COMMAND_MEMORY))
		pci_write_config_word(dt->core.pdev, PCI_COMMAND, dt->command);
	up_write(&dt->core.memory_lock);
}

/* --- what user space sees of the device: all but BAR 4 --- */

static bool dt_hidden(u64 offset)
{
	u64 index = offset >> VFIO_PCI_OFFSET_SHIFT;

	return index == DMA_TEST_HOST_BAR || index == DMA_TEST_HOST_BAR + 1;
}

static ssize_t dt_read(struct vfio_device *vdev, char __user *buf, size_t count,
		       loff_t *ppos)
{
	const u64 bar = VFIO_PCI_INDEX_TO_OFFSET(VFIO_PCI_CONFIG_REGION_INDEX) +
			PCI_BASE_ADDRESS_4;
	u64 from = *ppos, first, end;
	ssize_t done;

	if (dt_hidden(from))
		return -EINVAL;
	done = vfio_pci_core_read(vdev, buf, count, ppos);
	if (done > 0) {
		first = max(from, bar);
		end = min(from + done, bar + 8);
		if (first < end && clear_user(buf + (first - from), end - first))
			return -EFAULT;
	}
	return done;
}

static ssize_t dt_write(struct vfio_device *vdev, const char __user *buf,
			size_t count, loff_t *ppos)
{
	return dt_hidden(*ppos) ? -EINVAL :
		vfio_pci_core_write(vdev, buf, count, ppos);
}

static int dt_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	return dt_hidden((u64)vma->vm_pgoff << PAGE_SHIFT) ? -EINVAL :
		vfio_pci_core_mmap(vdev, vma);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
/* All but the page of the MSI-X table, as a driver of a device may have it */
static int dt_add_areas(struct vfio_info_cap *caps)
{
	const u64 behind = DMA_TEST_MEMORY_HOLE + SZ_4K;
	DEFINE_RAW_FLEX(struct vfio_region_info_cap_sparse_mmap, sparse, areas, 2);

	sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	sparse->header.version = 1;
	sparse->nr_areas = 2;
	sparse->areas[0].size = DMA_TEST_MEMORY_HOLE;
	sparse->areas[1].offset = behind;
	sparse->areas[1].size = DMA_TEST_MEMORY_SIZE - behind;
	return vfio_info_add_capability(caps, &sparse->header,
					struct_size(sparse, areas, 2));
}

static int dt_region_info(struct vfio_device *vdev, struct vfio_region_info *info,
			  struct vfio_info_cap *caps)
{
	int ret = vfio_pci_ioctl_get_region_info(vdev, info, caps);

	if (!ret && info->index == DMA_TEST_HOST_BAR)
		info->size = info->flags = 0;
	if (!ret && info->index == DMA_TEST_MSIX_BAR &&
	    info->size == DMA_TEST_MEMORY_SIZE)
		ret = dt_add_areas(caps);
	return ret;
}

static const struct vfio_pci_device_ops dt_pci_ops = {
	.get_dmabuf_phys = vfio_pci_core_get_dmabuf_phys,
};
#endif

static long dt_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;

	if (cmd == VFIO_DEVICE_GET_REGION_INFO) {	/* not here since 7.0 */
		struct vfio_region_info info;
		size_t size = offsetofend(struct vfio_region_info, offset);

		if (copy_from_user(&info, user, size))
			return -EFAULT;
		if (info.argsz < size)
			return -EINVAL;
		if (info.index == DMA_TEST_HOST_BAR) {
			info.offset = VFIO_PCI_INDEX_TO_OFFSET(info.index);
			info.size = 0;
			info.flags = 0;
			return copy_to_user(user, &info, size) ? -EFAULT : 0;
		}
	} else if (cmd == VFIO_DEVICE_IOEVENTFD) {
		struct vfio_device_ioeventfd event;

		if (copy_from_user(&event, user,
				   offsetofend(struct vfio_device_ioeventfd, fd)))
			return -EFAULT;
		if (dt_hidden(event.offset))
			return -EINVAL;
	}
	return vfio_pci_core_ioctl(vdev, cmd, arg);
}

/* --- its life --- */

static int dt_open(struct vfio_device *vdev)
{
	struct dt_device *dt = to_dt(vdev);
	void __iomem *host;
	int ret;

	ret = vfio_pci_core_enable(&dt->core);
	if (ret)
		return ret;
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
	ret = vfio_pci_core_setup_barmap(&dt->core, DMA_TEST_HOST_BAR);
	host = ret ? IOMEM_ERR_PTR(ret) : dt->core.barmap[DMA_TEST_HOST_BAR];
#else
	host = vfio_pci_core_get_iomap(&dt->core, DMA_TEST_HOST_BAR);
#endif
	if (IS_ERR(host)) {
		vfio_pci_core_disable(&dt->core);
		return PTR_ERR(host);
	}
	dt_lock(dt);
	dt->host = host;
	dt_was_reset(dt);
	dt_unlock(dt);
	vfio_pci_core_finish_enable(&dt->core);
	return 0;
}

static void dt_close(struct vfio_device *vdev)
{
	struct dt_device *dt = to_dt(vdev);

	dt_log_stop(vdev);
	dt_lock(dt);
	dt_disable_files(dt);
	dt->host = NULL;
	dt_unlock(dt);
	vfio_pci_core_close_device(vdev);
}

static int dt_init(struct vfio_device *vdev)
{
	struct dt_device *dt = to_dt(vdev);

	mutex_init(&dt->lock);
	spin_lock_init(&dt->reset_lock);
	dt->state = VFIO_DEVICE_STATE_RUNNING;
	dt->knobs.combine = true;
	dt->knobs.ballast = 4096;
	vdev->migration_flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P |
				VFIO_MIGRATION_PRE_COPY;
	vdev->mig_ops = &dt_migration_ops;
	vdev->log_ops = &dt_log_ops;
	return vfio_pci_core_init_dev(vdev);
}

static const struct vfio_device_ops dt_ops = {
	.name = "dma-test-vfio",
	.init = dt_init,
	.release = vfio_pci_core_release_dev,
	.open_device = dt_open,
	.close_device = dt_close,
	.ioctl = dt_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = dt_read,
	.write = dt_write,
	.mmap = dt_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	.match_token_uuid = vfio_pci_core_match_token_uuid,
	.get_region_info_caps = dt_region_info,
#endif
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

/* --- debugfs: /sys/kernel/debug/dma-test/BDF --- */

static int dt_counter(struct dt_device *dt, unsigned int reg, u64 *val)
{
	int ret = 0;

	dt_lock(dt);
	if (dt->host) {
		dt_begin(dt);
		*val = dt_get(dt, reg);
		dt_end(dt);
	} else {
		ret = -ENODEV;
	}
	dt_unlock(dt);
	return ret;
}

static int dt_missed(void *data, u64 *val)
{
	return dt_counter(data, DMA_TEST_H_LOG_MISSED, val);
}
DEFINE_DEBUGFS_ATTRIBUTE(dt_missed_fops, dt_missed, NULL, "%llu\n");

static int dt_violations(void *data, u64 *val)
{
	return dt_counter(data, DMA_TEST_H_VIOLATIONS, val);
}
DEFINE_DEBUGFS_ATTRIBUTE(dt_violations_fops, dt_violations, NULL, "%llu\n");

static void dt_debugfs_add(struct dt_device *dt, const char *name)
{
	struct dt_knobs *knobs = &dt->knobs;
	struct dentry *dir = debugfs_create_dir(name, dt_debugfs);

	dt->debugfs = dir;
	debugfs_create_u32("fail_state", 0600, dir, &knobs->fail_state);
	debugfs_create_bool("fail_to_error", 0600, dir, &knobs->fail_to_error);
	debugfs_create_bool("fail_read", 0600, dir, &knobs->fail_read);
	debugfs_create_bool("fail_write", 0600, dir, &knobs->fail_write);
	debugfs_create_bool("fail_log", 0600, dir, &knobs->fail_log);
	debugfs_create_bool("combine", 0600, dir, &knobs->combine);
	debugfs_create_u32("ballast", 0600, dir, &knobs->ballast);
	debugfs_create_u64("data_size", 0600, dir, &knobs->data_size);
	debugfs_create_file_unsafe("missed", 0400, dir, dt, &dt_missed_fops);
	debugfs_create_file_unsafe("violations", 0400, dir, dt,
				   &dt_violations_fops);
}

static int dt_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct dt_device *dt;
	int ret;

	dt = vfio_alloc_device(dt_device, core.vdev, &pdev->dev, &dt_ops);
	if (IS_ERR(dt))
		return PTR_ERR(dt);
	dev_set_drvdata(&pdev->dev, &dt->core);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	dt->core.pci_ops = &dt_pci_ops;
#endif
	ret = vfio_pci_core_register_device(&dt->core);
	if (ret) {
		vfio_put_device(&dt->core.vdev);
		return ret;
	}
	dt_debugfs_add(dt, pci_name(pdev));
	return 0;
}

static void dt_remove(struct pci_dev *pdev)
{
	struct dt_device *dt = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(&dt->core);
	debugfs_remove_recursive(dt->debugfs);
	vfio_put_device(&dt->core.vdev);
}

static const struct pci_device_id dt_table[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(DMA_TEST_VENDOR_ID, DMA_TEST_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, dt_table);

static const struct pci_error_handlers dt_err_handlers = {
	.reset_done = dt_reset_done,
	.error_detected = vfio_pci_core_aer_err_detected,
};

static struct pci_driver dt_driver = {
	.name = "dma-test-vfio",
	.id_table = dt_table,
	.probe = dt_probe,
	.remove = dt_remove,
	.err_handler = &dt_err_handlers,
	.driver_managed_dma = true,
};

static int __init dt_module_init(void)
{
	dt_debugfs = debugfs_create_dir("dma-test", NULL);
	return pci_register_driver(&dt_driver);
}
module_init(dt_module_init);

static void __exit dt_module_exit(void)
{
	pci_unregister_driver(&dt_driver);
	debugfs_remove_recursive(dt_debugfs);
}
module_exit(dt_module_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("vfio-pci for QEMU's dma-test device");
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS(IOMMUFD);
#else
MODULE_IMPORT_NS("IOMMUFD");
#endif
