/*
 * A fake of the kernel's iommufd and VFIO cdev interfaces: dma-bufs of BARs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model of vfio_pci_dmabuf.c of Linux 6.19.  Behind a dma-buf is a memfd,
 * too, whose name has the device.  While the device has no memory, what was
 * mapped by it is gone from the page tables, and it cannot be mapped; the log
 * has "revoked device=N areas=N".
 */

#include "qemu/osdep.h"
#include <dirent.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/vfio.h>

#include "../../hw/vfio/cdev-uapi.h"
#include "fake-iommufd.h"

#define MEMFD   "fake-dmabuf"
#define PAGE    4096ULL

int fake_dmabuf_device(int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    char target[64] = "";
    unsigned index;

    if (syscall(SYS_readlink, path, target, sizeof(target) - 1) < 0 ||
        sscanf(target, "/memfd:" MEMFD "%u", &index) != 1) {
        return -1;
    }
    return index;
}

static unsigned count_open(void)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    unsigned n = 0;

    while (dir && (entry = readdir(dir))) {
        n += fake_dmabuf_device(atoi(entry->d_name)) >= 0;
    }
    if (dir) {
        closedir(dir);
    }
    return n;
}

int fake_dmabuf_new(unsigned index, uint64_t bar_size, void *arg)
{
    struct vfio_region_dma_buf *get = arg;
    g_autofree char *name = g_strdup_printf(MEMFD "%u", index);
    int fd;

    if (!fake_control.dma_buf) {
        return -ENOTTY;
    }
    if (get->argsz < sizeof(*get) || get->nr_ranges != 1 || get->flags ||
        get->feature != (VFIO_DEVICE_FEATURE_GET |
                         VFIO_DEVICE_FEATURE_DMA_BUF)) {
        return -EINVAL;
    }
    if (get->region_index != VFIO_PCI_BAR0_REGION_INDEX) {
        return -ENODEV;
    }
    if (!get->length || (get->offset | get->length) % PAGE ||
        get->offset > bar_size || get->length > bar_size - get->offset) {
        return -EINVAL;
    }
    fd = syscall(SYS_memfd_create, name,
                 get->open_flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
    if (fd >= 0 && ftruncate(fd, get->length)) {
        abort();
    }
    /* To be closed when it is mapped: how many are there? */
    fake_log("dma-buf device=%u offset=0x%llx length=0x%llx open=%u", index,
             get->offset, get->length, count_open());
    return fd;
}
