/*
 * Device side of VFIO over iommufd: when a device's memory is taken away
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing.  The kernel (Linux 6.19) revokes what was mapped of a device's
 * BARs for the DMA of others whenever the device has no memory.  What does that
 * are writes of the guest to config space, or QEMU's at a reset, that the
 * kernel carries out at once: of the memory bit of the command register, a
 * function level reset, and the power state D3hot.  After the first the guest's
 * memory map changes, too; the other two leave it as it is.
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
    Object *owner = OBJECT(pdev);
    uint8_t byte;

    if (range_covers_byte(addr, len, PCI_COMMAND)) {
        byte = val >> ((PCI_COMMAND - addr) * 8);
        if (byte & PCI_COMMAND_MEMORY) {
            vfio_ioas_refresh_bars(owner);
        } else {
            vfio_ioas_revoke_bars(owner);
        }
    }
    if (vfio_cdev_written(pdev, PCI_CAP_ID_PM, PCI_PM_CTRL, addr, val, len,
                          &byte)) {
        if ((byte & PCI_PM_CTRL_STATE_MASK) == 3) {
            vfio_ioas_revoke_bars(owner);
        }
        vfio_ioas_refresh_bars(owner);
    }
    if ((vfio_cdev_written(pdev, PCI_CAP_ID_EXP, PCI_EXP_DEVCTL + 1, addr, val,
                           len, &byte) &&
         byte & (PCI_EXP_DEVCTL_BCR_FLR >> 8)) ||
        (vfio_cdev_written(pdev, PCI_CAP_ID_AF, PCI_AF_CTRL, addr, val, len,
                           &byte) &&
         byte & PCI_AF_CTRL_FLR)) {
        vfio_ioas_revoke_bars(owner);
        vfio_ioas_refresh_bars(owner);
    }
}
