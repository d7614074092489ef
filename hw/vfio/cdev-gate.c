/*
 * Device side of VFIO over iommufd: the gate at Bus Master Enable
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: for each cdev whether the device can reach memory (VFIOCdev.open), and
 * the writes of the guest that wait for guest RAM to be mapped.
 * Borrows: the vCPUs that made them, which it holds meanwhile.
 *
 * A PCI device makes no DMA, and so no MSI either, before Bus Master Enable is
 * set in its command register.  The kernel clears it when the device is opened
 * (vfio_pci_core_enable()) and every write of it comes through QEMU, those of
 * a guest by a mirror in a BAR too (pci-quirks.c), those of a reset
 * (vfio_pci_pre_reset()) and of an incoming migration as well.  (A mirror that
 * no quirk knows lets a guest set it unseen: DMA then faults in the IOMMU until
 * RAM is mapped.)  So a device opens with the first such write, and closes with
 * one that clears the bit.  After a reset that QEMU does not see (FLR by the
 * guest) the kernel restores the command register: the device stays open.
 *
 * Devices that are not PCI, and emulated ones (mdev), are open all the time.
 *
 * If RAM is not ready when a vCPU opens a device, the write is kept and that
 * vCPU does not run before the write was made, as if the access took long.
 * Nobody blocks: the vCPU sleeps in its own loop, and is seen as stopped by who
 * stops them all.  Under KVM the vCPU has left the guest at the very
 * instruction; TCG could run on to the end of its block, so there, and for
 * writes that come from no vCPU, the write waits for RAM itself.
 *
 *   other vCPUs run on; one that opens the device too is held as well, and
 *   the writes are made in any order
 *   a write that clears the bit, a reset and the unplug drop what is kept
 *   `stop`, `cont`: a vCPU that `cont` lets run is held again before it does
 *   the failure policy stopped the VM: after `cont` the vCPU waits on
 *   the VM is saved or migrated meanwhile: config space is saved as if the
 *   write was made; where it is loaded the device opens before the VM runs
 *   the wait was long: the guest is told (KVM_KVMCLOCK_CTRL), so that no
 *   watchdog in it barks
 */

#include "qemu/osdep.h"
#include <linux/kvm.h>

#include "cdev.h"
#include "hw/core/cpu.h"
#include "hw/pci/pci.h"
#include "qemu/main-loop.h"
#include "qemu/range.h"
#include "sysemu/kvm.h"
#include "trace.h"

/* A write of the command register that waits */
struct VFIOHeldWrite {
    VFIOCdev *cdev;
    PCIDevice *pdev;
    CPUState *cpu;
    uint32_t addr;
    uint32_t val;
    int len;
    Notifier ready;
    VMChangeStateEntry *vm_state;
    QLIST_ENTRY(VFIOHeldWrite) next;
};

static bool vfio_gate_holds(CPUState *cpu)
{
    VFIOCdev *cdev;
    VFIOHeldWrite *w;

    QLIST_FOREACH(cdev, &vfio_cdevs, next) {
        QLIST_FOREACH(w, &cdev->held, next) {
            if (w->cpu == cpu) {
                return true;
            }
        }
    }
    return false;
}

/* In the vCPU's thread, with the BQL: it has left the guest */
static void vfio_gate_hold(CPUState *cpu)
{
    cpu->stopped = true;
    cpu_exit(cpu);
}

static void vfio_gate_hold_again(CPUState *cpu, run_on_cpu_data data)
{
    if (vfio_gate_holds(cpu)) {
        vfio_gate_hold(cpu);
    }
}

/*
 * Bottom half, since a system reset, which drops writes, keeps all vCPUs
 * stopped and resumes them itself.  A vCPU that somebody resumed meanwhile is
 * left alone: the ioctl would wait until it leaves KVM_RUN, with the BQL held.
 */
static void vfio_gate_let_go(void *opaque)
{
    CPUState *cpu = opaque;

    if (runstate_is_running() && cpu->stopped && !cpu->unplug &&
        !vfio_gate_holds(cpu)) {
#ifdef CONFIG_KVM
        kvm_vcpu_ioctl(cpu, KVM_KVMCLOCK_CTRL, 0);
#endif
        cpu->stopped = false;   /* cpu->stop, if somebody set it, holds */
        qemu_cpu_kick(cpu);
    }
    object_unref(OBJECT(cpu));
}

static void vfio_gate_free(VFIOHeldWrite *w)
{
    QLIST_REMOVE(w, next);
    notifier_remove(&w->ready);
    qemu_del_vm_change_state_handler(w->vm_state);
    /* Not in a nested aio_poll(), which a reset may be in */
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), vfio_gate_let_go,
                            w->cpu);
    g_free(w);
}

static void vfio_cdev_drop_held(VFIOCdev *cdev)
{
    VFIOHeldWrite *w, *tmp;

    QLIST_FOREACH_SAFE(w, &cdev->held, next, tmp) {
        trace_vfio_cdev_held_dropped(cdev->name, w->cpu->cpu_index);
        vfio_gate_free(w);
    }
}

/* Make the write if it need not wait any more */
static bool vfio_gate_try(VFIOHeldWrite *w)
{
    if (!vfio_ioas_ready(w->cdev->ioas)) {
        return false;
    }
    trace_vfio_cdev_held_done(w->cdev->name, w->cpu->cpu_index);
    w->pdev->config_write(w->pdev, w->addr, w->val, w->len);
    vfio_gate_free(w);
    return true;
}

bool vfio_cdev_reaches_ram(VFIODevice *vbasedev)
{
    return !vbasedev->cdev || vfio_ioas_complete(vbasedev->cdev->ioas);
}

bool vfio_cdev_loaded(VFIODevice *vbasedev)
{
    if (vbasedev->cdev) {
        vfio_ioas_loaded(vbasedev->cdev->ioas);
    }
    return vfio_cdev_reaches_ram(vbasedev);
}

uint16_t vfio_cdev_show_held(VFIODevice *vbasedev)
{
    PCIDevice *pdev = PCI_DEVICE(vbasedev->dev);
    uint16_t command = pci_get_word(pdev->config + PCI_COMMAND);
    VFIOHeldWrite *w;
    int i;

    if (!vbasedev->cdev) {
        return command;
    }
    QLIST_FOREACH(w, &vbasedev->cdev->held, next) {
        for (i = MAX(PCI_COMMAND, w->addr);
             i < MIN(PCI_STATUS, w->addr + w->len); i++) {
            uint8_t value = w->val >> (i - w->addr) * 8;

            pdev->config[i] = (pdev->config[i] & ~pdev->wmask[i]) |
                              (value & pdev->wmask[i]);
        }
    }
    return command;
}

void vfio_cdev_hide_held(VFIODevice *vbasedev, uint16_t command)
{
    pci_set_word(PCI_DEVICE(vbasedev->dev)->config + PCI_COMMAND, command);
}

static void vfio_gate_ready(Notifier *n, void *opaque)
{
    if (runstate_is_running()) {
        vfio_gate_try(container_of(n, VFIOHeldWrite, ready));
    }
}

static void vfio_gate_vm_state_changed(void *opaque, bool running,
                                       RunState state)
{
    VFIOHeldWrite *w = opaque;
    CPUState *cpu = w->cpu;

    /* The vCPUs are resumed after this: what is queued now comes first */
    if (running && !vfio_gate_try(w) && !cpu->unplug) {
        async_run_on_cpu(cpu, vfio_gate_hold_again, RUN_ON_CPU_NULL);
    }
}

static void vfio_gate_keep(VFIOCdev *cdev, PCIDevice *pdev,
                           uint32_t addr, uint32_t val, int len)
{
    VFIOHeldWrite *w = g_new0(VFIOHeldWrite, 1);

    w->cdev = cdev;
    w->pdev = pdev;
    w->cpu = current_cpu;
    object_ref(OBJECT(w->cpu));
    w->addr = addr;
    w->val = val;
    w->len = len;
    w->ready.notify = vfio_gate_ready;
    notifier_list_add(&cdev->ioas->ready, &w->ready);
    w->vm_state = qemu_add_vm_change_state_handler(vfio_gate_vm_state_changed,
                                                   w);
    QLIST_INSERT_HEAD(&cdev->held, w, next);
    trace_vfio_cdev_held(cdev->name, w->cpu->cpu_index);
    vfio_gate_hold(w->cpu);
}

void vfio_cdev_unrealize(VFIODevice *vbasedev)
{
    if (vbasedev->cdev) {
        vfio_cdev_drop_held(vbasedev->cdev);
    }
}

void vfio_cdev_open_gate(VFIOCdev *cdev)
{
    cdev->open = true;
    vfio_ioas_open(cdev->ioas);
}

void vfio_cdev_close_gate(VFIOCdev *cdev)
{
    vfio_cdev_drop_held(cdev);
    if (cdev->open) {
        cdev->open = false;
        vfio_ioas_close(cdev->ioas);
    }
}

bool vfio_cdev_gate(PCIDevice *pdev, VFIODevice *vbasedev,
                    uint32_t addr, uint32_t val, int len)
{
    VFIOCdev *cdev = vbasedev->cdev;

    if (!cdev || cdev->mdev || !range_covers_byte(addr, len, PCI_COMMAND)) {
        return true;
    }
    if (!((val >> ((PCI_COMMAND - addr) * 8)) & PCI_COMMAND_MASTER)) {
        trace_vfio_cdev_gate(cdev->name, false);
        vfio_cdev_close_gate(cdev);
        return true;
    }
    if (cdev->open) {
        return true;
    }
    if (kvm_enabled() && current_cpu && !vfio_ioas_ready(cdev->ioas)) {
        vfio_gate_keep(cdev, pdev, addr, val, len);
        return false;
    }
    trace_vfio_cdev_gate(cdev->name, true);
    vfio_cdev_open_gate(cdev);
    return true;
}
