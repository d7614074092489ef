// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO DMA logging by the device itself. It takes a few ranges and a limited
 * number of pages: ranges are merged (or refused, knob "combine"), and pages
 * get larger until they are few enough.
 */
#include <linux/interval_tree.h>
#include <linux/iova_bitmap.h>
#include "dma-test-vfio.h"

static int dt_log_try(struct dt_device *dt, struct rb_root_cached *ranges, u64 granule)
{
	struct interval_tree_node *node;
	unsigned int n = 0;

	for (node = interval_tree_iter_first(ranges, 0, ULONG_MAX); node;
	     node = interval_tree_iter_next(node, 0, ULONG_MAX)) {
		u64 start = ALIGN_DOWN(node->start, granule);
		u64 last = node->last | (granule - 1);

		dt_put(dt, DMA_TEST_H_LOG_RANGE(n), start);
		dt_put(dt, DMA_TEST_H_LOG_RANGE(n) + 8, last - start + 1);
		n++;
	}
	dt_put(dt, DMA_TEST_H_LOG_NRANGES, n);
	dt_put(dt, DMA_TEST_H_LOG_GRANULE, granule);
	return dt_command(dt, DMA_TEST_H_LOG, DMA_TEST_LOG_START);
}

static int dt_log_start(struct vfio_device *vdev, struct rb_root_cached *ranges,
			u32 nnodes, u64 *page_size)
{
	struct dt_device *dt = to_dt(vdev);
	u64 granule = clamp(*page_size, (u64)SZ_4K, (u64)SZ_1G);
	u64 most;
	int ret;

	dt_lock(dt);
	dt_begin(dt);
	ret = -EBUSY;
	if (dt->log_granule)
		goto out;
	most = dt_get(dt, DMA_TEST_H_LOG_MAX);
	if (nnodes > most) {
		ret = -EOPNOTSUPP;
		if (!dt->knobs.combine)
			goto out;
		vfio_combine_iova_ranges(ranges, nnodes, most);
	}
	for (; granule <= SZ_1G; granule <<= 1) {
		ret = dt_log_try(dt, ranges, granule);
		if (!ret) {
			dt->log_granule = *page_size = granule;
			break;
		}
	}
out:
	dt_end(dt);
	dt_unlock(dt);
	return ret;
}

int dt_log_stop(struct vfio_device *vdev)
{
	struct dt_device *dt = to_dt(vdev);

	dt_lock(dt);
	if (dt->log_granule) {
		dt_begin(dt);
		dt_command(dt, DMA_TEST_H_LOG, DMA_TEST_LOG_STOP);
		dt_end(dt);
		dt->log_granule = 0;
	}
	dt_unlock(dt);
	return 0;
}

/* at most a window full of pages from @iova on */
static int dt_log_chunk(struct dt_device *dt, u64 iova, u64 pages, u64 first,
			u64 last, struct iova_bitmap *dirty)
{
	u64 granule = dt->log_granule;
	int ret;

	dt_put(dt, DMA_TEST_H_LOG_IOVA, iova);
	dt_put(dt, DMA_TEST_H_LOG_PAGES, pages);
	ret = dt_command(dt, DMA_TEST_H_LOG, DMA_TEST_LOG_REPORT);
	for (u64 word = 0; !ret && word < DIV_ROUND_UP(pages, 64); word++) {
		unsigned long bits = dt_get(dt, DMA_TEST_H_WINDOW + word * 8);
		unsigned int bit;

		for_each_set_bit(bit, &bits, 64) {
			u64 from = iova + (word * 64 + bit) * granule;
			u64 to = from + granule - 1;

			from = max(from, first);
			to = min(to, last);
			iova_bitmap_set(dirty, from, to - from + 1);
		}
	}
	return ret;
}

static int dt_log_report(struct vfio_device *vdev, unsigned long iova,
			 unsigned long length, struct iova_bitmap *dirty)
{
	struct dt_device *dt = to_dt(vdev);
	u64 last = iova + length - 1, at;
	int ret = -EINVAL;

	dt_lock(dt);
	if (!dt->log_granule)
		goto out;
	if (dt->knobs.fail_log) {
		dt->knobs.fail_log = false;
		ret = -EIO;
		goto out;
	}
	dt_begin(dt);
	for (at = ALIGN_DOWN(iova, dt->log_granule); at <= last;) {
		u64 pages = min((last - at) / dt->log_granule + 1,
				DMA_TEST_H_WINDOW_SIZE * 8ull);

		ret = dt_log_chunk(dt, at, pages, iova, last, dirty);
		if (ret)
			break;
		at += pages * dt->log_granule;
	}
	dt_end(dt);
out:
	dt_unlock(dt);
	return ret;
}

const struct vfio_log_ops dt_log_ops = {
	.log_start = dt_log_start,
	.log_stop = dt_log_stop,
	.log_read_and_clear = dt_log_report,
};
