# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's side of a VFIO device without a QEMU: cdev and iommufd, by ioctl.

  Iommufd   an open /dev/iommu; its methods are its ioctls
  Memory    anonymous memory of this process, of pages of 4 KiB or 2 MiB
  Device    a bound cdev; its registers are read and written through its regions
  Migration, DmaLog   features of a Device
  DmaTest   the Device that QEMU's dma-test is; DmaProgram, for another way to it

An ioctl that fails is an OSError. Structs are those of Linux's
include/uapi/linux/iommufd.h and vfio.h, written with struct.pack.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import struct
import subprocess

from labtest import HOST_KERNEL, ROOT, cdev

PAGE, HUGE_PAGE = 4096, 2 << 20

MODULE = 'dma-test-vfio.ko'
LIBC = ctypes.CDLL(None, use_errno=True)


def prepare_driver(out):
    """Outside: the driver of dma-test, for the kernel of the lab host."""
    path = subprocess.check_output([ROOT + '/scripts/module'] + HOST_KERNEL.split(),
                                   text=True).strip()
    shutil.copyfile(path, f'{out}/{MODULE}')
    return []


def ioctl(fd, letter, nr, data):
    """_IO(letter, nr) on a struct that the kernel may write to; the struct."""
    buf = bytearray(data)
    fcntl.ioctl(fd, ord(letter) << 8 | nr, buf, True)
    return bytes(buf)


class Descriptor:
    """Of /dev/iommu or of a cdev, whose ioctls are of one kind."""

    def close(self):
        os.close(self.fd)

    def call(self, nr, fmt, *args):
        """struct.calcsize(fmt) comes first in each struct."""
        fmt = '=' + fmt
        return struct.unpack(fmt, ioctl(self.fd, ';', nr, struct.pack(
            fmt, struct.calcsize(fmt), *args)))


class Iommufd(Descriptor):
    HWPT_DIRTY_TRACKING = 2

    def __init__(self):
        self.fd = os.open('/dev/iommu', os.O_RDWR | os.O_CLOEXEC)

    def destroy(self, ident):
        self.call(0x80, 'II', ident)

    def ioas_alloc(self):
        return self.call(0x81, 'III', 0, 0)[2]

    def ioas_map(self, ioas, memory, iova):
        """For reads and writes, at this iova."""
        self.call(0x85, 'IIIIQQQ', 7, ioas, 0, memory.addr, memory.size, iova)

    def ioas_unmap(self, ioas, iova, size):
        return self.call(0x86, 'IIQQ', ioas, iova, size)[3]

    def huge_pages(self, ioas, on):
        self.call(0x87, 'IIHHIQ', 1, 0, 0, ioas, on)

    def hwpt_alloc(self, dev, ioas, flags=0):
        return self.call(0x89, 'IIIIIIIIQII', flags, dev.devid, ioas,
                         0, 0, 0, 0, 0, 0, 0)[4]

    def tracks_writes(self, dev):
        """What IOMMU_GET_HW_INFO says."""
        return bool(self.call(0x8a, 'IIIIQIIQ', 0, dev.devid, 0, 0, 0, 0, 0)[7] & 1)

    def set_dirty_tracking(self, hwpt, on):
        self.call(0x8b, 'IIII', on, hwpt, 0)

    def dirty(self, hwpt, iova, size, clear=True):
        """The pages of 4 KiB that were written to, as numbers from iova."""
        bits = Bitmap(size // PAGE)
        self.call(0x8c, 'IIIIQQQQ', hwpt, not clear, 0, iova, size, PAGE, bits.addr)
        return bits.pages()


class Bitmap:
    def __init__(self, pages):
        self.buf = ctypes.create_string_buffer((pages + 63) // 64 * 8)
        self.addr = ctypes.addressof(self.buf)

    def pages(self):
        bits = int.from_bytes(self.buf.raw, 'little')
        return [i for i in range(bits.bit_length()) if bits >> i & 1]


class Memory:
    def __init__(self, size, huge=False):
        """huge: pages of 2 MiB, as far as the kernel has some."""
        self.size = size
        # 2 MiB more, to begin at a multiple of that
        self.map = mmap.mmap(-1, size + HUGE_PAGE,
                             mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        whole = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.addr = (whole + HUGE_PAGE - 1) & -HUGE_PAGE
        self.start = self.addr - whole
        self[0:size] = bytes(size)

    def __getitem__(self, where):
        return self.map[self.start + where.start:self.start + where.stop]

    def __setitem__(self, where, data):
        self.map[self.start + where.start:self.start + where.stop] = data


class Device(Descriptor):
    def __init__(self, bdf, iommufd):
        self.fd = os.open(cdev(bdf), os.O_RDWR | os.O_CLOEXEC)
        self.devid = self.call(118, 'IIiI', 0, iommufd.fd, 0)[3]

    def attach(self, pt):
        self.call(119, 'III', 0, pt)

    def region(self, index):
        """(size, offset, flags) of a BAR, or of configuration space (7)."""
        _, flags, _, _, size, offset = self.call(108, 'IIIIQQ', 0, index, 0, 0, 0)
        return size, offset, flags

    def enable(self):
        """Memory space and bus master."""
        offset = self.region(7)[1] + 4
        old = struct.unpack('=H', os.pread(self.fd, 2, offset))[0]
        os.pwrite(self.fd, struct.pack('=H', old | 6), offset)

    def reset(self):
        fcntl.ioctl(self.fd, ord(';') << 8 | 111)

    def rd(self, reg, fmt='=I', bar=0):
        return struct.unpack(fmt, os.pread(self.fd, struct.calcsize(fmt),
                                           self.region(bar)[1] + reg))[0]

    def wr(self, reg, value, fmt='=I', bar=0):
        os.pwrite(self.fd, struct.pack(fmt, value), self.region(bar)[1] + reg)

    def msix(self, fd):
        """Vector 0 comes as this eventfd."""
        index, event = 2, 1 << 2 | 1 << 5
        ioctl(self.fd, ';', 110, struct.pack('=IIIIIi', 24, event, index, 0, 1, fd))

    # what a feature is asked for: flags of VFIO_DEVICE_FEATURE
    GET, SET = 1 << 16, 1 << 17

    def feature(self, flags, data):
        head = struct.pack('=II', 8 + len(data), flags)
        return ioctl(self.fd, ';', 117, head + data)[8:]


class Migration:
    """VFIO migration v2 of a device."""
    STATES = ('ERROR', 'STOP', 'RUNNING', 'STOP_COPY', 'RESUMING', 'RUNNING_P2P',
              'PRE_COPY', 'PRE_COPY_P2P')
    STOP_COPY, P2P, PRE_COPY = 1, 2, 4

    def __init__(self, dev):
        self.dev = dev

    def flags(self):
        return struct.unpack('=Q', self.dev.feature(Device.GET | 1, bytes(8)))[0]

    def get(self):
        data = self.dev.feature(Device.GET | 2, bytes(8))
        return self.STATES[struct.unpack('=Ii', data)[0]]

    def set(self, state):
        """The descriptor for data, or -1."""
        data = struct.pack('=Ii', self.STATES.index(state), -1)
        return struct.unpack('=Ii', self.dev.feature(Device.SET | 2, data))[1]

    def data_size(self):
        return struct.unpack('=Q', self.dev.feature(Device.GET | 9, bytes(8)))[0]

    @staticmethod
    def precopy_info(fd):
        """(initial, dirty) bytes."""
        return struct.unpack('=IIQQ', ioctl(fd, ';', 121, struct.pack(
            '=IIQQ', 24, 0, 0, 0)))[2:]

    @staticmethod
    def read(fd):
        """All that is there; an end for now (ENOMSG) is an end, too."""
        data = b''
        while True:
            try:
                more = os.read(fd, 1 << 16)
            except OSError as e:
                if e.errno != errno.ENOMSG:
                    raise
                return data
            if not more:
                return data
            data += more


class DmaLog:
    """VFIO DMA logging of a device."""

    def __init__(self, dev):
        self.dev = dev

    def start(self, ranges, page=PAGE):
        """ranges are (iova, length); the size of a page that it is then."""
        buf = ctypes.create_string_buffer(b''.join(struct.pack('=QQ', *r)
                                                   for r in ranges))
        return struct.unpack('=QIIQ', self.dev.feature(
            Device.SET | 6, struct.pack('=QIIQ', page, len(ranges), 0,
                                        ctypes.addressof(buf))))[0]

    def stop(self):
        self.dev.feature(Device.SET | 7, b'')

    def report(self, iova, size, page=PAGE):
        """The pages that were written to, as numbers from iova; then clean."""
        bits = Bitmap(size // page)
        self.dev.feature(Device.GET | 8,
                         struct.pack('=QQQQ', iova, size, page, bits.addr))
        return bits.pages()


class DmaProgram:
    """How a dma-test is told what to write (docs/devel/dma-test.rst): for whoever
    has get() and put() of its registers."""
    RUN, COPY, BUSY, FAULT, DONE = 1, 2, 1, 2, 4
    CONTROL, STATUS, INTERVAL, BURST, LIMIT = 0x08, 0x10, 0x18, 0x20, 0x28
    SEQUENCE, IRQ_EVERY, NRANGES, RAISE, RANGES = 0x30, 0x38, 0x40, 0x48, 0x100
    UNIT = 64

    def run(self, ranges, limit=0, interval=1000000, burst=8, first=0, every=0,
            control=0):
        """ranges are (destination, size, stride[, source])."""
        self.put(self.CONTROL, 0)
        self.put(self.STATUS, self.FAULT | self.DONE)
        for reg, value in ((self.INTERVAL, interval), (self.BURST, burst),
                           (self.LIMIT, limit), (self.SEQUENCE, first),
                           (self.IRQ_EVERY, every), (self.NRANGES, len(ranges))):
            self.put(reg, value)
        for i, r in enumerate(ranges):
            for j, value in enumerate(r):
                self.put(self.RANGES + 32 * i + 8 * j, value)
        self.put(self.CONTROL, self.RUN | control)

    @staticmethod
    def places(ranges):
        """Where the device writes, in its order."""
        return [dst + i * stride for dst, size, stride, *_ in ranges
                for i in range(size // stride)]

    @classmethod
    def pattern(cls, number):
        return struct.pack('=8Q', *(number << 3 | i for i in range(cls.UNIT // 8)))


class DmaTest(DmaProgram, Device):
    """A dma-test device on the lab host."""
    ID, DRIVER = '1234:11e9', 'dma-test-vfio'

    @staticmethod
    def load_driver():
        """Insert the module that prepare_driver() left."""
        finit_module = 313
        with open(f'/run/lab/{MODULE}', 'rb') as f:
            if LIBC.syscall(finit_module, f.fileno(), b'', 0):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def get(self, reg):
        return self.rd(reg, '=Q')

    def put(self, reg, value):
        self.wr(reg, value, '=Q')
