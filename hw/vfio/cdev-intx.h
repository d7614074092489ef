/*
 * INTx of a PCI device with a cdev: what pci.c asks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For any VFIO PCI device; those without a cdev get what pci.c always did.
 */

#ifndef HW_VFIO_CDEV_INTX_H
#define HW_VFIO_CDEV_INTX_H

#include "pci.h"

/**
 * vfio_cdev_intx_mask, vfio_cdev_intx_unmask - around KVM's taking INTx over,
 * or giving it back
 *
 * A cdev is not masked, since nothing can be lost, and unmasked only if its
 * INTx is in use: not while it is set up (vdev->interrupt is not VFIO_INT_INTx
 * yet) or torn down (not any more).
 */
void vfio_cdev_intx_mask(VFIOPCIDevice *vdev);
void vfio_cdev_intx_unmask(VFIOPCIDevice *vdev);

/**
 * vfio_cdev_intx_move - KVM is to raise INTx of a cdev at another GSI
 *
 * One call instead of five.  Returns false, with all as it was, if the device
 * has no cdev, if not KVM raises INTx before and after, or if KVM fails:
 * the caller takes the way through QEMU.
 */
bool vfio_cdev_intx_move(VFIOPCIDevice *vdev, const PCIINTxRoute *route);

/**
 * vfio_cdev_intx_stays - does the reset that is due leave INTx as realize has
 * made it?
 *
 * Of a fresh device (vfio_cdev_fresh()) whose reset is the one left out.
 */
bool vfio_cdev_intx_stays(VFIOPCIDevice *vdev);

#endif
