/*
 * VFIO_DEVICE_FEATURE
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_FEATURE_H
#define HW_VFIO_FEATURE_H

#include <sys/ioctl.h>
#include <linux/vfio.h>

/**
 * vfio_device_feature - ask a device for a feature, or set one
 * @fd: of the device, from a group or a cdev
 * @flags: the feature and GET, SET or PROBE
 * @data: @size bytes, both ways; NULL if there are none
 *
 * VFIO_DEVICE_FEATURE, Linux 5.7.  Returns 0; -ENOTTY if the device, or the
 * kernel, does not have the feature; or another -errno, as the feature has it.
 */
static inline int vfio_device_feature(int fd, uint32_t flags, void *data,
                                      size_t size)
{
    g_autofree struct vfio_device_feature *feature =
        g_malloc0(sizeof(*feature) + size);
    int ret;

    feature->argsz = sizeof(*feature) + size;
    feature->flags = flags;
    if (size) {
        memcpy(feature->data, data, size);
    }
    ret = ioctl(fd, VFIO_DEVICE_FEATURE, feature) ? -errno : 0;
    if (size) {
        memcpy(data, feature->data, size);
    }
    return ret;
}

#endif
