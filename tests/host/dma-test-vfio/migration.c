// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO migration v2 of dma-test: STOP_COPY, P2P, PRE_COPY
 *
 * The data are records, each a type and a length (32 bits, little-endian) and
 * so many bytes. BALLAST comes once and first: byte i of it is i & 0xff. STATE
 * is what the device saves; of several the last one counts. During PRE_COPY,
 * VFIO_MIG_GET_PRECOPY_INFO takes a new STATE when everything was read and the
 * device has run on; it is the "dirty" data then.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/uaccess.h>
#include "dma-test-vfio.h"

#define RECORD_BALLAST	1
#define RECORD_STATE	2
#define MAX_BALLAST	(64u << 20)
#define STATE_BYTES	(DMA_TEST_STATE_WORDS * 8)

struct dt_record {
	__le32 type, length;
};
#define STATE_RECORD	(sizeof(struct dt_record) + STATE_BYTES)

/* Alive as long as it is open, with a reference on its device, whose lock guards it. */
struct dt_file {
	struct dt_device *dt;
	struct file *filp;
	bool disabled;
	/* saving: buf[pos, len) is to be read */
	bool complete;
	u8 *buf;
	size_t len, pos, initial;
	/* resuming: the record that comes in, and the last STATE */
	struct dt_record head;
	size_t got;		/* of head and what follows it */
	__le64 part[DMA_TEST_STATE_WORDS], state[DMA_TEST_STATE_WORDS];
	bool have_state, bad;
};

static void dt_disable(struct dt_file **f)
{
	struct file *filp;

	if (!*f)
		return;
	filp = (*f)->filp;
	(*f)->disabled = true;
	*f = NULL;
	fput(filp);
}

void dt_disable_files(struct dt_device *dt)
{
	dt_disable(&dt->saving);
	dt_disable(&dt->resuming);
}

static int dt_release(struct inode *inode, struct file *filp)
{
	struct dt_file *f = filp->private_data;

	vfio_put_device(&f->dt->core.vdev);
	kvfree(f->buf);
	kvfree(f);
	return 0;
}

/* --- saving --- */

static void dt_fetch(struct dt_device *dt, __le64 *state)
{
	dt_begin(dt);
	dt_command(dt, DMA_TEST_H_STATE, DMA_TEST_SAVE);
	for (unsigned int i = 0; i < DMA_TEST_STATE_WORDS; i++)
		state[i] = cpu_to_le64(dt_get(dt, DMA_TEST_H_WINDOW + i * 8));
	dt_end(dt);
}

static void dt_append_state(struct dt_file *f, const __le64 *state)
{
	struct dt_record head = { cpu_to_le32(RECORD_STATE), cpu_to_le32(STATE_BYTES) };

	memmove(f->buf, f->buf + f->pos, f->len - f->pos);
	f->len -= f->pos;
	f->pos = 0;
	memcpy(f->buf + f->len, &head, sizeof(head));
	memcpy(f->buf + f->len + sizeof(head), state, STATE_BYTES);
	memcpy(f->state, state, STATE_BYTES);
	f->len += STATE_RECORD;
}

static ssize_t dt_save_read(struct file *filp, char __user *buf, size_t count,
			    loff_t *pos)
{
	struct dt_file *f = filp->private_data;
	struct dt_device *dt = f->dt;
	ssize_t ret;

	if (pos)
		return -ESPIPE;
	dt_lock(dt);
	if (f->disabled) {
		ret = -ENODEV;
	} else if (dt->knobs.fail_read) {
		dt->knobs.fail_read = false;
		ret = -EIO;
	} else if (f->pos == f->len) {
		ret = f->complete ? 0 : -ENOMSG;
	} else {
		count = min(count, f->len - f->pos);
		ret = -EFAULT;
		if (!copy_to_user(buf, f->buf + f->pos, count)) {
			f->pos += count;
			f->initial -= min(f->initial, count);
			ret = count;
		}
	}
	dt_unlock(dt);
	return ret;
}

static long dt_save_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct dt_file *f = filp->private_data;
	struct dt_device *dt = f->dt;
	size_t size = offsetofend(struct vfio_precopy_info, dirty_bytes);
	struct vfio_precopy_info info;
	__le64 state[DMA_TEST_STATE_WORDS];
	int ret = 0;

	if (cmd != VFIO_MIG_GET_PRECOPY_INFO)
		return -ENOTTY;
	if (copy_from_user(&info, (void __user *)arg, size))
		return -EFAULT;
	if (info.argsz < size)
		return -EINVAL;
	dt_lock(dt);
	if (f->disabled) {
		ret = -ENODEV;
	} else if (dt->state != VFIO_DEVICE_STATE_PRE_COPY &&
		   dt->state != VFIO_DEVICE_STATE_PRE_COPY_P2P) {
		ret = -EINVAL;
	} else {
		if (f->pos == f->len) {
			dt_fetch(dt, state);
			if (memcmp(state, f->state, STATE_BYTES))
				dt_append_state(f, state);
		}
		info.flags = 0;
		info.initial_bytes = f->initial;
		info.dirty_bytes = f->len - f->pos - f->initial;
	}
	dt_unlock(dt);
	if (!ret && copy_to_user((void __user *)arg, &info, size))
		ret = -EFAULT;
	return ret;
}

static const struct file_operations dt_save_fops = {
	.owner = THIS_MODULE,
	.read = dt_save_read,
	.unlocked_ioctl = dt_save_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = dt_release,
};

/* --- resuming --- */

/* Take in @count bytes at @buf; anything wrong shows when the file is loaded. */
static void dt_take(struct dt_file *f, const u8 *buf, size_t count)
{
	while (count && !f->bad) {
		size_t length, at, n;

		if (f->got < sizeof(f->head)) {
			((u8 *)&f->head)[f->got++] = *buf++;
			count--;
			continue;
		}
		length = le32_to_cpu(f->head.length);
		at = f->got - sizeof(f->head);
		n = min(count, length - at);
		if (f->head.type == cpu_to_le32(RECORD_STATE) &&
		    length == STATE_BYTES) {
			memcpy((u8 *)f->part + at, buf, n);
		} else if (f->head.type == cpu_to_le32(RECORD_BALLAST) &&
			   length <= MAX_BALLAST && !f->have_state) {
			for (size_t i = 0; i < n; i++)
				f->bad |= buf[i] != (u8)(at + i);
		} else {
			f->bad = true;
		}
		f->got += n;
		buf += n;
		count -= n;
		if (at + n == length) {
			if (f->head.type == cpu_to_le32(RECORD_STATE)) {
				memcpy(f->state, f->part, STATE_BYTES);
				f->have_state = true;
			}
			f->got = 0;
		}
	}
}

static ssize_t dt_resume_write(struct file *filp, const char __user *buf,
			       size_t count, loff_t *pos)
{
	struct dt_file *f = filp->private_data;
	struct dt_device *dt = f->dt;
	ssize_t ret;
	u8 *data;

	if (pos)
		return -ESPIPE;
	count = min(count, (size_t)SZ_64K);
	data = memdup_user(buf, count);
	if (IS_ERR(data))
		return PTR_ERR(data);
	dt_lock(dt);
	if (f->disabled) {
		ret = -ENODEV;
	} else if (dt->knobs.fail_write) {
		dt->knobs.fail_write = false;
		ret = -EIO;
	} else {
		dt_take(f, data, count);
		ret = count;
	}
	dt_unlock(dt);
	kfree(data);
	return ret;
}

static const struct file_operations dt_resume_fops = {
	.owner = THIS_MODULE,
	.write = dt_resume_write,
	.release = dt_release,
};

static int dt_load(struct dt_device *dt, struct dt_file *f)
{
	int ret;

	if (f->bad || f->got || !f->have_state)
		return -EINVAL;
	dt_begin(dt);
	for (unsigned int i = 0; i < DMA_TEST_STATE_WORDS; i++)
		dt_put(dt, DMA_TEST_H_WINDOW + i * 8, le64_to_cpu(f->state[i]));
	ret = dt_command(dt, DMA_TEST_H_STATE, DMA_TEST_LOAD);
	dt_end(dt);
	return ret;
}

/* --- states --- */

static struct file *dt_open_file(struct dt_device *dt, struct dt_file **where,
				 const struct file_operations *fops, int flags)
{
	struct dt_file *f = kvzalloc(sizeof(*f), GFP_KERNEL);
	struct file *filp;

	if (!f)
		return ERR_PTR(-ENOMEM);
	filp = anon_inode_getfile("dma-test-mig", fops, f, flags);
	if (IS_ERR(filp)) {
		kvfree(f);
		return filp;
	}
	stream_open(filp->f_inode, filp);
	get_device(&dt->core.vdev.device);
	f->dt = dt;
	f->filp = filp;
	*where = f;
	return get_file(filp);	/* ours until dt_disable(), and the user's */
}

/* the ballast, and a first state; it is the last if the device is stopped */
static struct file *dt_open_saving(struct dt_device *dt, bool stopped)
{
	size_t ballast = min(dt->knobs.ballast, MAX_BALLAST);
	/* of two states one is unread at most, when another comes */
	size_t size = sizeof(struct dt_record) + ballast + 2 * STATE_RECORD;
	struct dt_record head = { cpu_to_le32(RECORD_BALLAST), cpu_to_le32(ballast) };
	u8 *buf = kvmalloc(size, GFP_KERNEL);
	__le64 state[DMA_TEST_STATE_WORDS];
	struct file *filp;
	struct dt_file *f;

	if (!buf)
		return ERR_PTR(-ENOMEM);
	filp = dt_open_file(dt, &dt->saving, &dt_save_fops, O_RDONLY);
	if (IS_ERR(filp)) {
		kvfree(buf);
		return filp;
	}
	f = dt->saving;
	f->buf = buf;
	if (ballast) {
		memcpy(buf, &head, sizeof(head));
		for (size_t i = 0; i < ballast; i++)
			buf[sizeof(head) + i] = i;
		f->len = sizeof(head) + ballast;
	}
	dt_fetch(dt, state);
	dt_append_state(f, state);
	f->initial = stopped ? 0 : f->len;
	f->complete = stopped;
	return filp;
}

static int dt_freeze(struct dt_device *dt, u64 level)
{
	int ret;

	dt_begin(dt);
	ret = dt_command(dt, DMA_TEST_H_FREEZE, level);
	dt_end(dt);
	return ret;
}

#define ARC(from, to) ((from) << 8 | (to))
#define STATE(name) VFIO_DEVICE_STATE_##name

static struct file *dt_step(struct dt_device *dt, enum vfio_device_mig_state to)
{
	__le64 state[DMA_TEST_STATE_WORDS];
	int ret;

	if (dt->knobs.fail_state == to) {
		dt->knobs.fail_state = 0;
		if (dt->knobs.fail_to_error)
			dt->state = STATE(ERROR);
		return ERR_PTR(-EIO);
	}
	switch (ARC(dt->state, to)) {
	case ARC(STATE(RUNNING), STATE(RUNNING_P2P)):
	case ARC(STATE(PRE_COPY), STATE(PRE_COPY_P2P)):
	case ARC(STATE(STOP), STATE(RUNNING_P2P)):
		return ERR_PTR(dt_freeze(dt, DMA_TEST_QUIESCED));
	case ARC(STATE(RUNNING_P2P), STATE(RUNNING)):
	case ARC(STATE(PRE_COPY_P2P), STATE(PRE_COPY)):
		return ERR_PTR(dt_freeze(dt, DMA_TEST_RUNNING));
	case ARC(STATE(RUNNING_P2P), STATE(STOP)):
		return ERR_PTR(dt_freeze(dt, DMA_TEST_STOPPED));
	case ARC(STATE(RUNNING), STATE(PRE_COPY)):
	case ARC(STATE(RUNNING_P2P), STATE(PRE_COPY_P2P)):
		return dt_open_saving(dt, false);
	case ARC(STATE(PRE_COPY), STATE(RUNNING)):
	case ARC(STATE(PRE_COPY_P2P), STATE(RUNNING_P2P)):
	case ARC(STATE(STOP_COPY), STATE(STOP)):
		dt_disable(&dt->saving);
		return NULL;
	case ARC(STATE(STOP), STATE(STOP_COPY)):
		return dt_open_saving(dt, true);
	case ARC(STATE(PRE_COPY_P2P), STATE(STOP_COPY)):
		ret = dt_freeze(dt, DMA_TEST_STOPPED);
		if (ret)
			return ERR_PTR(ret);
		dt_fetch(dt, state);
		/* a state that nobody has read yet is out of date */
		if (dt->saving->pos == dt->saving->len - STATE_RECORD)
			dt->saving->len = dt->saving->pos;
		dt_append_state(dt->saving, state);
		dt->saving->initial = 0;
		dt->saving->complete = true;
		return NULL;
	case ARC(STATE(STOP), STATE(RESUMING)):
		return dt_open_file(dt, &dt->resuming, &dt_resume_fops, O_WRONLY);
	case ARC(STATE(RESUMING), STATE(STOP)):
		ret = dt_load(dt, dt->resuming);
		if (!ret)
			dt_disable(&dt->resuming);
		return ERR_PTR(ret);
	}
	return ERR_PTR(-EINVAL);
}

static struct file *dt_set_state(struct vfio_device *vdev,
				 enum vfio_device_mig_state to)
{
	struct dt_device *dt = to_dt(vdev);
	enum vfio_device_mig_state next;
	struct file *filp = NULL;
	int ret;

	dt_lock(dt);
	while (!IS_ERR(filp) && dt->state != to) {
		ret = dt->state == STATE(ERROR) ? -EIO :
			vfio_mig_get_next_state(vdev, dt->state, to, &next);
		filp = ret ? ERR_PTR(ret) : dt_step(dt, next);
		if (!IS_ERR(filp))
			dt->state = next;
	}
	dt_unlock(dt);
	return filp;
}

static int dt_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct dt_device *dt = to_dt(vdev);

	dt_lock(dt);
	*state = dt->state;
	dt_unlock(dt);
	return 0;
}

static int dt_data_size(struct vfio_device *vdev, unsigned long *length)
{
	struct dt_device *dt = to_dt(vdev);
	size_t ballast = min(dt->knobs.ballast, MAX_BALLAST);

	dt_lock(dt);
	if (dt->knobs.data_size)
		*length = dt->knobs.data_size;
	else if (dt->saving)
		*length = dt->saving->len - dt->saving->pos +
			  (dt->saving->complete ? 0 : STATE_RECORD);
	else
		*length = STATE_RECORD +
			  (ballast ? ballast + sizeof(struct dt_record) : 0);
	dt_unlock(dt);
	return 0;
}

const struct vfio_migration_ops dt_migration_ops = {
	.migration_set_state = dt_set_state,
	.migration_get_state = dt_get_state,
	.migration_get_data_size = dt_data_size,
};
