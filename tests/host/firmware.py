# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU without a guest: the test is the firmware, by the protocol of qtest.

It starts within a second, on every kernel, and places devices where it likes.

  Machine   a pc or q35 with assigned devices, each in a slot of its first bus
  Edu       drives an edu device in it: DMA from anywhere to anywhere
"""
import os
import subprocess
import tempfile

from labtest import BUILD, QEMU, IoctlLog, check, connect, equal, read, told, wait

COMMAND, MEMORY, MASTER = 4, 2, 4
RAM = 0x100000                  # some of it that nobody uses
EJECT = 0xae08                  # ACPI's PCI hotplug of pc: a bit for each slot


class Machine:
    """devices are (slot, bdf) or (slot, bdf, id of the iommufd object)"""
    bus = 0                     # on which config() looks for a slot

    def __init__(self, variant, devices=(), args=(), log_ioctls=False, fail=None,
                 iommufd='', qemu=QEMU, mem='64M', accel='qtest', machine='pc'):
        self.variant = variant
        self.dir = tempfile.TemporaryDirectory()
        path = self.dir.name
        self.ioctl_log = path + '/ioctls'
        env = dict(os.environ)
        if log_ioctls or fail:
            env.update(LD_PRELOAD=BUILD + '/guest/ioctl-log.so', IOCTL_LOG=self.ioctl_log)
        if fail:
            IoctlLog.fail(self.ioctl_log, *fail)
        if variant != 'group':
            args = ['-object', 'iommufd,id=iommufd0' + iommufd, *args]
        words = [qemu, '-nodefaults', '-no-user-config', '-display', 'none', '-machine',
                 machine, '-m', mem, '-accel', accel, '-qtest-log', 'none',
                 '-qtest', f'unix:{path}/qtest,server=on,wait=off',
                 '-qmp', f'unix:{path}/qmp,server=on,wait=off', *args]
        for d in devices:
            words += ['-device', ','.join(f'{k}={v}' for k, v in self.device(*d).items())]
        with open(path + '/log', 'w') as log:
            self.proc = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=log,
                                         stderr=log)

    def device(self, slot, bdf, iommufd='iommufd0'):
        props = {'driver': 'vfio-pci', 'id': f'dev{slot}', 'addr': f'{slot:x}', 'host': bdf}
        if self.variant != 'group':
            props['iommufd'] = iommufd
        return props

    def __enter__(self):
        try:
            self.qmp, self.sock = connect(self.proc, self.dir.name)
        except BaseException:
            self.__exit__()
            raise
        self.stream = self.sock.makefile('r')
        return self

    def __exit__(self, *exc):
        self.proc.kill()
        self.proc.wait()
        told(self.said())
        self.dir.cleanup()

    def said(self):
        """Without QEMU's name, and what it says of edu at every reset."""
        lines = read(self.dir.name + '/log').splitlines()
        return '\n'.join(s.split(': ', 1)[-1] for s in lines
                         if 'no reset is available' not in s and
                         'no available reset mechanism' not in s)

    def ask(self, line):
        self.sock.sendall(line.encode() + b'\n')
        answer = ['IRQ']
        while answer[:1] == ['IRQ']:
            answer = self.stream.readline().split()
        check(answer[:1] == ['OK'], line, answer)
        return int(answer[1], 0) if len(answer) > 1 else None

    def config(self, slot, reg, value=None, size='l'):
        self.ask(f'outl 0xcf8 {0x80000000 | self.bus << 16 | slot << 11 | reg & ~3:#x}')
        if value is None:
            return self.ask(f'in{size} {0xcfc + (reg & 3):#x}')
        self.ask(f'out{size} {0xcfc + (reg & 3):#x} {value:#x}')

    def capability(self, slot, wanted):
        at = self.config(slot, 0x34, size='b')
        while at and self.config(slot, at, size='b') != wanted:
            at = self.config(slot, at + 1, size='b')
        check(at, f'slot {slot} has no capability {wanted}')
        return at

    def place(self, slot, bars, command):
        """bars are (number, address); the device is off meanwhile."""
        self.config(slot, COMMAND, 0, size='w')
        for bar, address in bars:
            self.config(slot, 0x10 + bar * 4, address)
        self.config(slot, COMMAND, command, size='w')

    def plug(self, slot, bdf, **more):
        self.qmp.cmd('device_add', **self.device(slot, bdf, **more))

    def unplug(self, slot):
        """As a guest does: it ejects when it is asked to."""
        self.qmp.cmd('device_del', id=f'dev{slot}')
        self.ask(f'outl {EJECT:#x} {1 << slot:#x}')
        self.qmp.event('DEVICE_DELETED', device=f'dev{slot}')

    def reset(self):
        self.qmp.cmd('system_reset')
        self.qmp.event('RESET')

    def info(self, object=0):
        return self.qmp.cmd('query-iommufd')[object]

    def ioctls(self):
        return IoctlLog(self.ioctl_log)


class Edu:
    """edu in that slot; its registers are wherever nobody else is"""
    BUFFER, SOURCE, TARGET, COUNT, RUN = 0x40000, 0x80, 0x88, 0x90, 0x98
    seed = 0x1234

    def __init__(self, machine, slot):
        self.machine, self.slot, self.bar = machine, slot, 0xe0000000 + (slot << 20)

    def enable(self):
        self.machine.place(self.slot, [(0, self.bar)], MEMORY | MASTER)
        return self

    def start(self, source, target, size, run):
        for reg, value in ((self.SOURCE, source), (self.TARGET, target), (self.COUNT, size),
                           (self.RUN, run)):
            self.machine.ask(f'writeq {self.bar + reg:#x} {value:#x}')

    def wait(self):
        wait(lambda: not self.machine.ask(f'readq {self.bar + self.RUN:#x}') & 1, 5,
             'DMA of edu')

    def copy(self, source, to, size):
        """By DMA, through its buffer."""
        for src, dst, run in ((source, self.BUFFER, 1), (self.BUFFER, to, 3)):
            self.start(src, dst, size, run)
            self.wait()

    def copies(self, there=RAM + 0x2000, size=4, iova=None):
        """RAM to there by DMA, where the CPU sees it; and back by DMA."""
        iova = there if iova is None else iova
        ask = self.machine.ask
        Edu.seed = Edu.seed * 5 + 1 & 0xffff
        want = [self.seed + i for i in range(0, size, 4)]
        for i, value in enumerate(want):
            ask(f'writel {RAM + 4 * i:#x} {value:#x}')
            ask(f'writel {RAM + 0x1000 + 4 * i:#x} 0')
        self.copy(RAM, iova, size)
        equal([ask(f'readl {there + 4 * i:#x}') for i in range(len(want))], want,
              'what the CPU sees')
        self.copy(iova, RAM + 0x1000, size)
        equal([ask(f'readl {RAM + 0x1000 + 4 * i:#x}') for i in range(len(want))], want,
              'what came back')
