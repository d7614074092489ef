# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with virtio-iommu and no guest: its requests are made from here.

What a driver does (VIRTIO 1.2, 4.1 and 5.13), by one descriptor that the device
reads and one that it writes.
"""
import struct

from labtest import check, wait
from vtd import MIB, Bare


class VirtioIommu(Bare):
    """It is device 4, edu device 5."""
    IOMMU, SLOT, REGS = 'virtio-iommu-pci', 4, 0xfd000000
    VENDOR, COMMON, NOTIFY = 9, 1, 2            # capabilities
    ATTACH, MAP, UNMAP = 1, 3, 4
    OK, RANGE, NOENT = 0, 5, 6
    DESC, AVAIL, USED, REQUEST, ANSWER = (6 * MIB + i * 4096 for i in range(5))
    asked = 0

    def capability(self, kind):
        """Where the registers of this kind are, and what follows the capability"""
        def byte(reg):
            return self.config(self.SLOT, reg, size='b')

        at = byte(0x34)
        while at and (byte(at), byte(at + 3)) != (self.VENDOR, kind):
            at = byte(at + 1)
        check(at, f'no capability {kind}')
        return self.REGS + self.config(self.SLOT, at + 8), at + 16

    def turn_on(self):
        self.config(self.SLOT, 0x20, self.REGS)         # BAR 4
        self.config(self.SLOT, 0x24, 0)
        self.config(self.SLOT, 4, 6)
        common, _ = self.capability(self.COMMON)
        notify, multiplier = self.capability(self.NOTIFY)
        for status in (0, 3):
            self.cmd(f'writeb {common + 0x14:#x} {status}')
        for word, features in ((0, 1 << 2), (1, 1)):    # MAP_UNMAP, VERSION_1
            self.cmd(f'writel {common + 8:#x} {word}')
            self.cmd(f'writel {common + 12:#x} {features}')
        self.cmd(f'writeb {common + 0x14:#x} 11')
        self.cmd(f'memset {self.DESC:#x} {5 * 4096} 0')
        self.cmd(f'writew {common + 0x16:#x} 0')
        self.cmd(f'writew {common + 0x18:#x} 2')        # its size
        self.put(common + 0x20, self.DESC, self.AVAIL, self.USED)
        self.cmd(f'writew {common + 0x1c:#x} 1')
        offset = int(self.cmd(f'readw {common + 0x1e:#x}'), 16)
        self.bell = notify + offset * self.config(self.SLOT, multiplier)
        self.cmd(f'writeb {common + 0x14:#x} 15')

    def ask(self, kind, layout, *words):
        """Returns the status."""
        request = struct.pack('<BxxxI' + layout, kind, *words)
        self.load(self.REQUEST, request)
        self.load(self.DESC, struct.pack('<QIHHQIHH', self.REQUEST, len(request), 1, 1,
                                         self.ANSWER, 4, 2, 0))
        self.cmd(f'writel {self.ANSWER:#x} 0xff')
        self.asked += 1
        self.cmd(f'writew {self.AVAIL + 2:#x} {self.asked:#x}')
        self.cmd(f'writew {self.bell:#x} 0')
        wait(lambda: int(self.cmd(f'readw {self.USED + 2:#x}'), 16) == self.asked, 10,
             'virtio-iommu')
        return int(self.cmd(f'readl {self.ANSWER:#x}'), 16) & 0xff

    def attach(self, domain, slot):
        return self.ask(self.ATTACH, 'I8x', domain, slot << 3)

    def map(self, domain, iova, pages, to):
        return self.ask(self.MAP, 'QQQI', domain, iova, iova + pages * 4096 - 1, to, 3)

    def unmap(self, domain, iova, pages):
        return self.ask(self.UNMAP, 'QQ4x', domain, iova, iova + pages * 4096 - 1)
