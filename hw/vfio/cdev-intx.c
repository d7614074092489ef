/*
 * Device side of VFIO over iommufd: INTx by KVM, in few calls
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns nothing: the eventfds of INTx are pci.c's.  What is here is for devices
 * with a cdev; by its group a device makes the calls that it always made.
 *
 * Why it is sound: the BQL is held, so QEMU takes no interrupt out of the
 * eventfd meanwhile, and who listens next asks for what came before: QEMU and
 * KVM when they begin to listen, the kernel's VFIO when it gets the eventfd
 * that unmasks.  The device signals once and is masked by VFIO until it is
 * unmasked; so an interrupt that is lost with KVM's irqfd, or that QEMU has
 * taken note of, comes again with one unmask, as long as it is asserted.
 */

#include "qemu/osdep.h"

#include "cdev.h"
#include "cdev-intx.h"
#include "trace.h"

void vfio_cdev_intx_mask(VFIOPCIDevice *vdev)
{
    if (!vdev->vbasedev.cdev) {
        vfio_mask_single_irqindex(&vdev->vbasedev, VFIO_PCI_INTX_IRQ_INDEX);
    }
}

void vfio_cdev_intx_unmask(VFIOPCIDevice *vdev)
{
    if (!vdev->vbasedev.cdev || vdev->interrupt == VFIO_INT_INTx) {
        vfio_unmask_single_irqindex(&vdev->vbasedev, VFIO_PCI_INTX_IRQ_INDEX);
    }
}

bool vfio_cdev_intx_move(VFIOPCIDevice *vdev, const PCIINTxRoute *route)
{
#ifdef CONFIG_KVM
    EventNotifier *interrupt = &vdev->intx.interrupt;
    EventNotifier *unmask = &vdev->intx.unmask;
    int from = vdev->intx.route.irq;

    if (!vdev->vbasedev.cdev || !vdev->intx.kvm_accel ||
        route->mode != PCI_INTX_ENABLED ||
        kvm_irqchip_remove_irqfd_notifier_gsi(kvm_state, interrupt, from)) {
        return false;
    }
    if (kvm_irqchip_add_irqfd_notifier_gsi(kvm_state, interrupt, unmask,
                                           route->irq)) {
        /* As it was: the long way finds out, and says, what is wrong */
        kvm_irqchip_add_irqfd_notifier_gsi(kvm_state, interrupt, unmask, from);
        return false;
    }
    vdev->intx.route = *route;
    vfio_unmask_single_irqindex(&vdev->vbasedev, VFIO_PCI_INTX_IRQ_INDEX);
    trace_vfio_cdev_intx_move(vdev->vbasedev.name, from, route->irq);
    return true;
#else
    return false;
#endif
}

bool vfio_cdev_intx_stays(VFIOPCIDevice *vdev)
{
    return vfio_cdev_fresh(&vdev->vbasedev) && !vdev->resetfn &&
           (vdev->has_flr || !vdev->has_pm_reset);
}
