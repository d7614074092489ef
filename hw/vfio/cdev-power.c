/*
 * Device side of VFIO over iommufd: when a device's memory is taken away
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing.  The kernel (Linux 6.19) revokes what was mapped of a device's
 * BARs for the DMA of others whenever the device has no memory.  Mostly the
 * guest's memory map says so, too: the command register, a BAR that moves, a
 * reset by QEMU, which clears both first.  Two things leave the memory map as
 * it is, and both are writes of the guest to config space that the kernel
 * carries out at once: a function level reset and the power state D3hot.
 */

#include "qemu/osdep.h"

#include "cdev.h"
#include "hw/pci/pci.h"
#include "qemu/range.h"

/* Is this byte of a capability written, and what to it? */
static bool vfio_cdev_written(PCIDevice *pdev, uint8_t cap, uint8_t offset,
                              uint32_t addr, uint32_t val, int len,
                              uint8_t *byte)
{
    uint8_t at = pci_find_capability(pdev, cap);

    if (!at || !range_covers_byte(addr, len, at + offset)) {
        return false;
    }
    *byte = val >> ((at + offset - addr) * 8);
    return true;
}

void vfio_cdev_config_written(PCIDevice *pdev, uint32_t addr, uint32_t val,
                              int len)
{
    uint8_t byte;

    if (vfio_cdev_written(pdev, PCI_CAP_ID_PM, PCI_PM_CTRL, addr, val, len,
                          &byte)) {
        vfio_ioas_refresh_bars(OBJECT(pdev),
                               (byte & PCI_PM_CTRL_STATE_MASK) == 3);
    }
    if ((vfio_cdev_written(pdev, PCI_CAP_ID_EXP, PCI_EXP_DEVCTL + 1, addr, val,
                           len, &byte) &&
         byte & (PCI_EXP_DEVCTL_BCR_FLR >> 8)) ||
        (vfio_cdev_written(pdev, PCI_CAP_ID_AF, PCI_AF_CTRL, addr, val, len,
                           &byte) &&
         byte & PCI_AF_CTRL_FLR)) {
        vfio_ioas_refresh_bars(OBJECT(pdev), true);
    }
}
