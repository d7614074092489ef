# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with intel-iommu and no guest: its page tables are written from here.

QEMU's qtest protocol does what a guest's driver would: memory, registers of the
IOMMU, configuration space, edu's registers.
"""
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from firmware import Machine
from labtest import QEMU, IoctlLog, check, read, stuck, told, wait

MIB = 1 << 20
COPY, MAP, UNMAP, GROUP_MAP, GROUP_UNMAP = 0x83, 0x85, 0x86, 113, 114
VTD, BAR = 0xfed90000, 0xfe000000
SIZE = 2048             # of a transfer; edu takes no whole page


def pinned(pid):
    """MiB of this process that devices have pinned."""
    return int(re.search(r'VmPin:\s+(\d+)', read(f'/proc/{pid}/status'))[1]) / 1024


class Tables:
    """Page tables of intel-iommu, for a machine that has cmd()."""
    ROOT, CONTEXT, L3, L2, L1, LARGE = (4 * MIB + i * 4096 for i in range(6))

    def put(self, address, *quads):
        for i, value in enumerate(quads):
            self.cmd(f'writeq {address + 8 * i:#x} {value:#x}')

    def translate(self):
        """Tables with nothing in them, one domain for all slots; IOMMU on."""
        self.cmd(f'memset {self.ROOT:#x} {6 * 4096} 0')
        self.put(self.ROOT, self.CONTEXT | 1)
        for slot in self.slots:
            self.put(self.CONTEXT + slot * 128, self.L3 | 1, 1 << 8 | 1)
        self.put(self.L3, self.L2 | 3)
        self.put(self.L2, self.L1 | 3)
        self.put(VTD + 0x20, self.ROOT)
        self.cmd(f'writel {VTD + 0x18:#x} {1 << 30:#x}')
        self.cmd(f'writel {VTD + 0x18:#x} {1 << 31:#x}')

    def flush(self):
        self.put(VTD + 0xf8, 1 << 63 | 1 << 60)

    def flush_context(self):
        self.put(VTD + 0x28, 1 << 63 | 1 << 61)


class Translating(Tables, Machine):
    """A machine of firmware.py with it"""
    def __init__(self, variant, devices, args=()):
        super().__init__(variant, devices, ['-device', 'intel-iommu,caching-mode=on', *args],
                         machine='q35')

    def cmd(self, line):
        return self.ask(line)

    def map(self, page, target):
        self.put(self.L1 + page // 512, target)
        self.flush()


class Bare(Tables):
    """A machine with intel-iommu and no guest; edu is device 5."""
    IOMMU = 'intel-iommu'

    def __init__(self, variant, devices, iommu='caching-mode=on', mem='256M', qemu=QEMU,
                 iommufd='iommufd,id=iommufd0', limit=None):
        self.dir = tempfile.mkdtemp()
        self.log, path = self.dir + '/log', self.dir + '/qtest'
        self.ours, self.slots = variant != 'group', range(5, 5 + len(devices))
        self.cmdline = [qemu, '-nodefaults', '-display', 'none', '-machine', 'q35', '-m',
                        mem, '-accel', 'tcg', '-S', '-qtest',
                        f'unix:{path},server=on,wait=off', '-qtest-log', 'none']
        if iommu is not None:
            self.cmdline += ['-device', f'{self.IOMMU},{iommu}']
        if self.ours:
            self.cmdline += ['-object', iommufd]
        for slot, bdf in enumerate(devices, 5):
            self.cmdline += ['-device', f'vfio-pci,host={bdf},addr={slot}' +
                             ',iommufd=iommufd0' * self.ours]
        self.start = time.monotonic()
        self.proc = subprocess.Popen(
            self.cmdline, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=limit, env=dict(
                os.environ, IOCTL_LOG=self.log,
                LD_PRELOAD=os.environ['QI_BUILD'] + '/guest/ioctl-log.so'))
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.answers = self.sock.makefile('r')
        try:
            wait(lambda: self.proc.poll() is not None or not self.sock.connect_ex(path), 30,
                 'qtest')
            with contextlib.suppress(ConnectionError):
                if self.proc.poll() is None:    # else it refused to start
                    self.sock.sendall(b'readb 0\n')
                    self.answers.readline()
        except BaseException:
            self.__exit__()
            raise
        self.seconds = time.monotonic() - self.start

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.proc.terminate()
        try:
            self.said = self.proc.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            stuck(self.proc.pid)
            self.proc.kill()
            self.said = self.proc.communicate()[0]
            raise
        finally:
            told(self.said)
            shutil.rmtree(self.dir)

    def cmd(self, line):
        self.sock.sendall(line.encode() + b'\n')
        answer = self.answers.readline().split()
        check(answer and answer[0] == 'OK', line[:60], answer)
        return answer[1] if len(answer) > 1 else ''

    def load(self, address, data):
        self.cmd(f'write {address:#x} {len(data)} 0x{data.hex()}')

    def fetch(self, address, size):
        return bytes.fromhex(self.cmd(f'read {address:#x} {size}')[2:])

    def config(self, slot, reg, value=None, size='l'):
        self.cmd(f'outl 0xcf8 {0x80000000 | slot << 11 | reg & ~3:#x}')
        if value is None:
            return int(self.cmd(f'in{size} {0xcfc + (reg & 3):#x}'), 16)
        self.cmd(f'out{size} {0xcfc + (reg & 3):#x} {value:#x}')

    def start_edu(self):
        self.config(5, 0x10, BAR)
        self.config(5, 4, 6)

    def dma(self, iova, to_ram):
        """One transfer between SIZE bytes at iova and edu's buffer."""
        inside = 0x40000
        self.put(BAR + 0x80, *((inside, iova) if to_ram else (iova, inside)), SIZE,
                 1 | 2 * to_ram)
        wait(lambda: not int(self.cmd(f'readq {BAR + 0x98:#x}'), 16) & 1, 10, 'DMA')

    def live(self):
        """Bytes of the copies that are there."""
        live = {}
        for c in self.calls(COPY, UNMAP):
            if c['nr'] == COPY:
                live[c['id'], c['iova']] = c['bytes']
            else:
                live = {k: v for k, v in live.items() if k[0] != c['id'] or
                        not c['iova'] <= k[1] < c['iova'] + c['bytes']}
        return sum(live.values())

    def kinds(self, whole=True):
        """The calls by which this side maps, and unmaps, what the guest does."""
        if not self.ours:
            return GROUP_MAP, GROUP_UNMAP
        return COPY if IoctlLog(self.log, whole).sum([COPY], 'count') else MAP, UNMAP

    def calls(self, *numbers):
        return [c for c in IoctlLog(self.log).calls if c['nr'] in numbers]


def speed(b, rounds=8):
    """Microseconds for a map and an unmap of a page, 512 pages of the guest at a time:
    median of the ioctls; and all of it, invalidation to invalidation, at its best,
    for other load on the machine is no part of it."""
    b.translate()
    full = b''.join((32 * MIB + i * 4096 | 3).to_bytes(8, 'little') for i in range(512))
    took = []
    for _ in range(rounds):
        start = time.monotonic()
        b.load(b.L1, full)
        b.flush()
        b.cmd(f'memset {b.L1:#x} 4096 0')
        b.flush()
        took.append((time.monotonic() - start) / 512 * 1e6)
    calls = [b.calls(n)[-512 * (rounds - 1):] for n in b.kinds()]
    return (sum(statistics.median(c['ns'] for c in kind) for kind in calls) / 1000,
            min(took))
