# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests with mediated devices share.

  mdev()       makes one of the kernel's samples
  properties() of a vfio-pci device that is one
  echo()       uses a port of mtty, whose output comes back as input
  Qtest        a QEMU without a guest
"""
import contextlib
import os
import re
import subprocess
import tempfile

from labtest import BUILD, QEMU, check, connect, equal, told, write
from manager import inherited


@contextlib.contextmanager
def mdev(parent, kind, n=1):
    """An mdev; its path in sysfs, without links."""
    uuid = f'9b6f4c1e-0000-4000-8000-{n:012d}'
    parent = f'/sys/devices/virtual/{parent}/{parent}'
    write(f'{parent}/mdev_supported_types/{kind}/create', uuid)
    path = f'{parent}/{uuid}'
    try:
        yield path
    finally:
        write(path + '/remove', '1')
        check(not os.path.exists(path), 'the mdev cannot be removed')


def node(path):
    return '/dev/vfio/devices/' + os.listdir(path + '/vfio-dev')[0]


def properties(variant, path, fds):
    """The device's properties; what is to be inherited is appended to fds."""
    if variant == 'fd':
        fds.append(inherited(os.open(node(path), os.O_RDWR)))
        return f'vfio-pci,id=mdev0,iommufd=iommufd0,fd={fds[-1]}'
    return f'vfio-pci,id=mdev0,sysfsdev={path}' + \
        (',iommufd=iommufd0' if variant == 'iommufd' else '')


def unexpected(messages):
    """Without what the base says of a device that has neither reset nor AER, and
    whose INTx KVM cannot unmask."""
    return [s for s in messages.splitlines()
            if not re.search('no available reset|no reset is available|'
                             'Could not enable error recovery|'
                             'Failed to set up UNMASK eventfd', s)]


def serial_ports(g):
    """The guest's ttyS of the card's two ports."""
    found = g.run('for t in /sys/class/tty/ttyS*; do '
                  'case $(readlink -f $t/device) in */pci*) basename $t;; esac; done')
    return found.split()


def echo(g, tty, text):
    """What is typed comes back, by interrupts: typed, since the sample forgets
    an interrupt that it would raise while the last one is being served."""
    g.run(f'stty -F /dev/{tty} raw -echo -crtscts clocal 115200')
    # the interrupt is there as long as the port is open
    out = g.run(f'exec 4</dev/{tty}; '
                f'(timeout 20 dd bs=1 count={len(text)} <&4 >/tmp/{tty} 2>/dev/null) & '
                f'for c in {" ".join(text)}; do sleep 0.1; printf $c >/dev/{tty}; done; '
                f'wait; irqs {tty}; exec 4<&-; cat /tmp/{tty}').splitlines()
    equal(out[1:], [text], f'what came back on {tty}')
    kind, count = out[0].split()
    check(kind == 'IO-APIC' and int(count) >= len(text), f'interrupts: {out[0]}')


class Qtest:
    """QEMU without a guest: I/O ports and memory are accessed from here."""

    def __init__(self, args, fds):
        self.tmp = tempfile.TemporaryDirectory()
        path = self.tmp.name
        env = dict(os.environ, IOCTL_LOG=path + '/log',
                   LD_PRELOAD=BUILD + '/guest/ioctl-log.so')
        self.proc = subprocess.Popen(
            [QEMU, '-nodefaults', '-no-user-config', '-display', 'none', '-machine',
             'pc', '-accel', 'qtest', '-m', '64M', '-qtest-log', '/dev/null',
             '-qtest', f'unix:{path}/qtest,server=on,wait=off',
             '-qmp', f'unix:{path}/qmp,server=on,wait=off', *args], env=env,
            pass_fds=fds, stderr=subprocess.PIPE, text=True)
        for fd in fds:
            os.close(fd)
        try:
            self.qmp, self.sock = connect(self.proc, path)
        except BaseException:
            self.proc.kill()
            told(self.proc.communicate()[1])
            self.tmp.cleanup()
            raise
        self.stream = self.sock.makefile('r')
        self.log = path + '/log'

    def cmd(self, text):
        self.sock.sendall(text.encode() + b'\n')
        answer = self.stream.readline().split()
        check(answer and answer[0] == 'OK', f'{text}: {answer}')
        return int(answer[1], 0) if len(answer) > 1 else None

    def config(self, slot, offset, value=None):
        self.cmd(f'outl 0xcf8 {1 << 31 | slot << 11 | offset:#x}')
        return self.cmd('inl 0xcfc') if value is None else \
            self.cmd(f'outl 0xcfc {value:#x}')

    def end(self):
        self.qmp.cmd('quit')
        said = self.proc.communicate(timeout=30)[1]
        equal(self.proc.returncode, 0, said)
        return said
