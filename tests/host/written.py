# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dma-test device writes into a guest's memory, and whether it is there.

Each write has a number and a place that follows from it, so each place has to hold
the last number that belongs to it. The guest can look (it stops its device for
that); or, while the VM is paused, the test looks itself, which also sees what the
device would soon have written anew.
"""
import re

from labtest import check
from labvfio import DmaTest

DEVICE = f'$(pci {DmaTest.ID})'
# 2 x 2 MiB, a place in each page, 8 of them each millisecond: all in 128 ms
PROGRAM, HUGE = '2 4096 1000000 8', 2 << 20
HUGE_PAGES = 'hugepages=4'      # for the guest's kernel


class Written:
    """vm is a Guest that also has hmp() and memory()."""

    def __init__(self, vm):
        self.pages = [int(p, 0) for p in vm.run(
            'mkdir /huge; mount -t hugetlbfs none /huge; '
            f'dma-guest start {DEVICE} /huge/file {PROGRAM}').split()]
        self.bar = int(vm.run(f'head -n 1 {DEVICE}/resource').split()[0], 0)
        self.number = 0
        self.check(vm)

    def later(self, number):
        check(number > self.number, f'{number} writes after {self.number}')
        self.number = number

    def check(self, vm):
        """The guest looks. The device has written since the last time."""
        out = vm.run(f'dma-guest check {DEVICE} /huge/file')
        found = re.fullmatch(r'sequence (\d+) errors 0', out)
        check(found, out)
        self.later(int(found[1]))

    def check_paused(self, vm):
        """We look."""
        out = vm.hmp(f'xp /1gx {self.bar + DmaTest.SEQUENCE:#x}')
        number = int(out.split()[1], 0)
        check(number >= self.number, f'{number} writes after {self.number}')
        self.number = number
        data = b''.join(vm.memory(p, HUGE) for p in self.pages)
        count = len(data) // 4096
        wrong = [n for n in range(max(number - count, 0), number)
                 if data[n % count * 4096:][:64] != DmaTest.pattern(n)]
        check(number > count and not wrong, f'{len(wrong)} of the last {count} writes '
              f'before {number} are missing: {wrong[:4]}')
