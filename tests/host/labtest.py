# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab's tests share.

A test program runs twice: outside it makes disk images and boots the lab,
which runs the same program inside (QI_INSIDE is set there); what must be seen
from outside is checked afterwards. Both emit TAP, one stream in the end.

  Tap       numbers and prints results; step() turns an exception into "not ok"
  Qmp       the monitor of one QEMU
  Guest     one QEMU under test with a KVM guest and an agent in it
  IoctlLog  what ioctl-log.so wrote
  main()    the outside/inside part

A "variant" says how the guest gets its devices: group, iommufd or fd.
"""
import contextlib
import ctypes
import errno
import glob
import json
import os
import re
import resource
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.environ.get('QI_ROOT') or \
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('QI_BUILD') or ROOT + '/build'
QEMU = os.environ.get('QI_QEMU') or BUILD + '/qemu/qemu-system-x86_64'
# the lab host's kernel: a variant of tests/host/kernel-*.config, or ''
HOST_KERNEL = os.environ.get('QI_HOST_KERNEL', '')
HAS_GROUPS = HOST_KERNEL != 'nogroup'
# iommufd in the place of the container does not tell what devices write
GROUPS_MIGRATE = HAS_GROUPS and HOST_KERNEL != 'compat'
MAPS_BARS = HOST_KERNEL == '7.3'        # by iommufd, for DMA of other devices
VARIANTS = os.environ.get('QI_VARIANTS', 'group ' * HAS_GROUPS + 'iommufd fd').split()
BARS_BY_GROUP = (r'\S*qemu\S*: VFIO_MAP_DMA failed: Bad address\n'
                 r'\S*qemu\S*: vfio_dma_map\(.*\) = -14 \(Bad address\)\n')
# what guests say where, and when they end; ECAM costs a KVM guest of the lab a third of
# its start, since each access of a config space is emulated: e1000e does with it
LINUX = 'console=ttyS0 quiet panic=-1 random.trust_cpu=on pci=nommconf '
NVME, E1000E, EDU = '1b36:0010', '8086:10d3', '1234:11e8'


class Tap:
    def __init__(self, first=1):
        self.n, self.failed = first - 1, 0

    def result(self, good, name, why=''):
        self.n += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.n} {name}")
        for line in str(why).splitlines():
            print('# ' + line)
        sys.stdout.flush()

    @contextlib.contextmanager
    def step(self, name):
        """One result. A failure also ends the enclosing block()."""
        start = time.monotonic()
        try:
            yield
        except Exception:
            self.result(False, name, traceback.format_exc())
            raise StepFailed()
        self.result(True, name, f'{time.monotonic() - start:.1f} s')

    @contextlib.contextmanager
    def block(self, name):
        """Steps that build on each other; what is around them may fail too."""
        try:
            yield
        except StepFailed:
            pass
        except Exception:
            self.result(False, name, traceback.format_exc())


class StepFailed(Exception):
    pass


def check(condition, *why):
    if not condition:
        raise AssertionError(' '.join(str(w) for w in why))


def equal(got, want, what=''):
    check(got == want, f'{what}: got {got!r}, want {want!r}')


def stuck(pid):
    """Print where each thread of a process is, which does not end or answer: its state,
    its CPU, what it waits for."""
    with contextlib.suppress(OSError):          # what ends meanwhile
        for task in sorted(os.listdir(f'/proc/{pid}/task'), key=int):
            at = [read(f'/proc/{pid}/task/{task}/{name}').strip()
                  for name in ('comm', 'wchan', 'syscall')]
            stat = read(f'/proc/{pid}/task/{task}/stat').rpartition(')')[2].split()
            print('# stuck:', task, stat[0], 'CPU', stat[36], *at, flush=True)


def ends(proc, seconds):
    """Where one is that does not, and what the kernel thinks of it (console.log)."""
    try:
        return proc.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        stuck(proc.pid)
        for what in 'wlt':      # who is blocked, what the CPUs do, all others, and workqueues
            write('/proc/sysrq-trigger', what)
        raise


def read(path):
    with open(path) as f:
        return f.read()


def write(path, text):
    with open(path, 'w') as f:
        f.write(text)


def wait(condition, seconds, what):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < end, f'{what}: not within {seconds} s')
        time.sleep(0.05)


TOLD = set()


def told(text):
    """Put what QEMU said into the log, where scripts/messages.py looks for it."""
    for line in text.splitlines():
        if line not in TOLD:
            TOLD.add(line)
            print(f'# said: {line}', flush=True)


# --- PCI devices of the host -------------------------------------------------

def pci(ident):
    """The addresses of the devices with this vendor:device, in bus order."""
    found = []
    for d in sorted(glob.glob('/sys/bus/pci/devices/*')):
        if read(d + '/vendor')[2:6] + ':' + read(d + '/device')[2:6] == ident:
            found.append(os.path.basename(d))
    return found


def driver(bdf):
    link = f'/sys/bus/pci/devices/{bdf}/driver'
    return os.path.basename(os.readlink(link)) if os.path.exists(link) else None


def bind(bdf, name='vfio-pci'):
    """Give the device to the driver; '' gives it back to its own."""
    dev = f'/sys/bus/pci/devices/{bdf}'
    if driver(bdf) == name:
        return
    write(dev + '/driver_override', name + '\n')
    if driver(bdf):
        write(dev + '/driver/unbind', bdf)
    write('/sys/bus/pci/drivers_probe', bdf)
    if name:
        wait(lambda: driver(bdf) == name, 5, f'{bdf} bound to {name}')


def cdev(bdf):
    names = glob.glob(f'/sys/bus/pci/devices/{bdf}/vfio-dev/vfio*')
    check(names, f'{bdf} has no vfio-dev in sysfs')
    return '/dev/vfio/devices/' + os.path.basename(names[0])


def group(bdf):
    return os.path.basename(os.readlink(f'/sys/bus/pci/devices/{bdf}/iommu_group'))


def dmesg():
    return subprocess.run(['dmesg'], stdout=subprocess.PIPE, text=True).stdout


def dma_faults():
    return [s for s in dmesg().splitlines()
            if re.search(r'DMAR:.*(fault|Fault|DRHD: handling)', s)]


# --- the QEMU under test -------------------------------------------------------

class Qmp:
    TRIES = 3                   # of 10 s each

    def __init__(self, path, pid=None):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)
        # QEMU's, if it called listen() itself
        self.pid = pid or struct.unpack('=3i', self.sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        self.got, self.events = b'', []
        self._read()
        self.cmd('qmp_capabilities')

    @classmethod
    def connect(cls, path):
        """None if it is not there yet, or has just ended."""
        try:
            return cls(path)
        except (FileNotFoundError, ConnectionError, EOFError):
            return None

    def _read(self):
        tries = 0
        while b'\n' not in self.got:
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                tries += 1
                stuck(self.pid)
                check(tries < self.TRIES, 'the monitor is silent')
                continue
            if not data:
                raise EOFError('QEMU closed the monitor')
            self.got += data
        line, _, self.got = self.got.partition(b'\n')
        return json.loads(line)

    def try_cmd(self, name, **args):
        """The whole answer, an error too. '_' in an argument's name is '-'."""
        args = {k.replace('_', '-'): v for k, v in args.items()}
        self.sock.sendall(json.dumps({'execute': name, 'arguments': args}).encode())
        while True:
            answer = self._read()
            if 'event' in answer:
                self.events.append(answer)
            else:
                told(answer.get('error', {}).get('desc', ''))
                return answer

    def cmd(self, name, **args):
        answer = self.try_cmd(name, **args)
        check('return' in answer, f'{name}: {answer}')
        return answer['return']

    def goes_on(self):
        """cont, after a migration that has ended: it says so while cont is still refused."""
        wait(lambda: self.cmd('query-status')['status'] != 'finish-migrate', 10,
             'what QEMU does after a migration')
        if not self.cmd('query-status')['running']:
            self.cmd('cont')

    def event(self, name, seconds=30, **data):
        """Wait for an event whose data has these values; forget it."""
        end = time.monotonic() + seconds
        while True:
            for e in self.events:
                if e['event'] == name and data.items() <= e.get('data', {}).items():
                    self.events.remove(e)
                    return e
            left = end - time.monotonic()
            check(left > 0, f'no event {name} {data} within {seconds} s')
            if b'\n' in self.got or select.select([self.sock], [], [], left)[0]:
                self.events.append(self._read())


def connect(proc, path):
    """qmp and qtest of a QEMU without a guest, which has both in that folder. What it is
    asked by qtest it has to answer in a minute."""
    def there():
        check(proc.poll() is None, 'QEMU ended')
        return Qmp.connect(path + '/qmp')

    qmp = wait(there, 30, 'QEMU')
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(path + '/qtest')
    return qmp, sock


class Guest:
    """A QEMU with a KVM guest; devices are passed as (bdf, id) pairs."""
    count = 0

    def __init__(self, variant='iommufd', devices=(), mem='512M', machine='q35',
                 smp=1, args=(), append='', log_ioctls=False, qemu=QEMU,
                 memory=(), ports=0, memlock=None, iommufd='', up=True, ecam=False):
        Guest.count += 1
        self.dir = tempfile.mkdtemp(prefix=f'guest{Guest.count}-')
        self.keep = os.environ.get('QI_OUT', '/run/lab')
        self.variant, self.fds, self.objects = variant, [], 0
        self.console = f'{self.dir}/console.log'
        self.log = f'{self.dir}/ioctl.log'
        self.memlock, self.up = memlock, up
        self.env = dict(os.environ)
        if log_ioctls:
            self.env.update(LD_PRELOAD=BUILD + '/guest/ioctl-log.so',
                            IOCTL_LOG=self.log)
        self.cmdline = [
            qemu, '-nodefaults', '-no-user-config', '-display', 'none',
            '-machine', machine, '-accel', 'kvm', '-cpu', 'host,-tsc-deadline',
            '-smp', str(smp), '-m', mem, *memory,
            '-serial', f'file:{self.console}',
            '-chardev', f'socket,id=qmp,path={self.dir}/qmp,server=on,wait=off',
            '-mon', 'chardev=qmp,mode=control',
            '-device', 'virtio-serial-pci',
            '-chardev', f'socket,id=agent,path={self.dir}/agent,server=on,wait=off',
            '-device', 'virtserialport,chardev=agent,name=agent',
            '-kernel', os.environ['QI_KERNEL'],
            '-initrd', BUILD + '/guest/initramfs.gz',
            '-append', (LINUX.replace('pci=nommconf', '') if ecam else LINUX) + append]
        for i in range(ports):
            self.cmdline += ['-device', f'pcie-root-port,id=port{i},chassis={i + 1},'
                             f'slot={i + 1},bus=pcie.0']
        if variant != 'group':
            self.cmdline += ['-object', 'iommufd,id=iommufd0' + iommufd]
        for bdf, ident in devices:
            props = self.device(bdf, ident)
            self.cmdline += ['-device', ','.join(f'{k}={v}' for k, v in props.items())]
        self.cmdline += list(args)
        self.proc = self.qmp = self.agent = None

    def device(self, bdf, ident, variant=None):
        """The properties of a vfio-pci device for this variant."""
        variant = variant or self.variant
        props = {'driver': 'vfio-pci', 'id': ident}
        if variant == 'fd':
            fd = os.open(cdev(bdf), os.O_RDWR)
            os.set_inheritable(fd, True)
            self.fds.append(fd)
            props['fd'] = str(fd)
        else:
            props['host'] = bdf
        if variant != 'group':
            props['iommufd'] = 'iommufd0'
        return props

    def __enter__(self):
        self.start = time.monotonic()
        with open(f'{self.dir}/qemu.log', 'w') as log:
            self.proc = subprocess.Popen(self.cmdline, env=self.env, stdout=log,
                                         stderr=log, stdin=subprocess.DEVNULL,
                                         pass_fds=self.fds,
                                         preexec_fn=self._limit if self.memlock else None)
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        try:
            wait(lambda: self.alive() and self._connects(), 60, 'monitor')
            if self.up:
                self.wait_up()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        self.seconds_to_up = time.monotonic() - self.start
        return self

    def _limit(self):
        """Locked memory counts only without CAP_IPC_LOCK: exec drops it."""
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (self.memlock, self.memlock))
        pr_capbset_drop, cap_ipc_lock = 24, 14
        ctypes.CDLL(None).prctl(pr_capbset_drop, cap_ipc_lock, 0, 0, 0)

    def _connects(self):
        self.qmp = Qmp.connect(f'{self.dir}/qmp')
        return self.qmp

    def __exit__(self, kind, value, tb):
        if self.proc.poll() is None:
            self.proc.kill()
            ends(self.proc, 60)
        told(self.messages())
        if kind:
            value_dir = f'{self.keep}/failed-{os.path.basename(self.dir)}'
            shutil.rmtree(value_dir, ignore_errors=True)
            os.makedirs(value_dir)
            for name in ('console.log', 'qemu.log'):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f'{self.dir}/{name}', f'{value_dir}/{name}')
            write(f'{value_dir}/command', ' '.join(self.cmdline) + '\n')
        shutil.rmtree(self.dir)

    def alive(self):
        check(self.proc.poll() is None,
              f'QEMU ended ({self.proc.returncode}): {self.messages()}')
        return True

    def messages(self):
        """But for what the group path says of BARs where iommufd serves it."""
        text = read(f'{self.dir}/qemu.log')
        return re.sub(BARS_BY_GROUP, '', text) if HOST_KERNEL == 'compat' else text

    def wait_up(self, seconds=90, times=1):
        """Until user space has come up this many times since QEMU started."""
        try:
            wait(lambda: self.alive() and read(self.console).count('GUEST-UP ') >= times,
                 seconds, 'guest user space')
        except AssertionError:
            self._look()
            raise
        # a port that was open when the guest reset may swallow what is sent
        wait(self._agent_answers, 60, 'agent')

    def hmp(self, line):
        return self.qmp.cmd('human-monitor-command', command_line=line)

    def _look(self):
        """Where a guest is that says nothing, and whether it waits for RAM. To be asked
        wakes a vCPU up."""
        with contextlib.suppress(Exception):    # QEMU may be gone
            for line in (self.hmp('info registers -a').splitlines()[:24] +
                         self.hmp('info iommufd').splitlines()):
                print('# it was at', line, flush=True)

    def _agent_answers(self):
        if self.agent:
            self.agent.close()
        self.agent = socket.socket(socket.AF_UNIX)
        self.agent.connect(self.dir + '/agent')
        self.buf = b''
        try:
            return self.try_run('true', 2)[0] == 0
        except AssertionError:
            return False

    def run(self, command, seconds=60):
        """Run a line of shell in the guest; what it prints, or an error."""
        status, out = self.try_run(command, seconds)
        check(status == 0, f'in the guest: {command}: status {status}\n{out}')
        return out

    def try_run(self, command, seconds=60):
        # the mark makes the answer to this command known from older ones
        mark = f'##{time.monotonic_ns()}'
        self.agent.sendall(f'echo "{mark}"; {command}\n'.encode())
        pattern = re.compile(mark.encode() + rb'\r?\n(.*?)##END (\d+)\r?\n', re.S)
        end, look = time.monotonic() + seconds, time.monotonic() + 30
        while True:
            found = pattern.search(self.buf)
            if found:
                self.buf = self.buf[found.end():]
                return int(found[2]), found[1].decode(errors='replace').strip()
            left = end - time.monotonic()
            check(left > 0, f'in the guest: {command}: no answer in {seconds} s')
            self.alive()
            if time.monotonic() > look:
                print(f'# the guest was silent for 30 s: {command}', flush=True)
                look += seconds
                self._look()
            if select.select([self.agent], [], [], min(left, 1))[0]:
                data = self.agent.recv(65536)
                check(data, 'the agent of the guest is gone')
                self.buf += data

    def poweroff(self, seconds=60):
        """Power off from within the guest; QEMU must end, with status 0."""
        self.agent.sendall(b'poweroff -f\n')
        ends(self.proc, seconds)
        equal(self.proc.returncode, 0, 'status of QEMU')

    def descriptors(self):
        """{what: number} of QEMU's open descriptors."""
        kinds = {}
        for fd in os.listdir(f'/proc/{self.proc.pid}/fd'):
            with contextlib.suppress(FileNotFoundError):
                what = os.readlink(f'/proc/{self.proc.pid}/fd/{fd}')
                what = re.sub(r'\d+', 'N', what) if what.startswith('socket') else what
                kinds[what] = kinds.get(what, 0) + 1
        return kinds


class IoctlLog:
    NAMES = {104: 'VFIO_GROUP_SET_CONTAINER', 106: 'VFIO_GROUP_GET_DEVICE_FD',
             107: 'VFIO_DEVICE_GET_INFO', 108: 'VFIO_DEVICE_GET_REGION_INFO',
             109: 'VFIO_DEVICE_GET_IRQ_INFO', 110: 'VFIO_DEVICE_SET_IRQS',
             111: 'VFIO_DEVICE_RESET', 113: 'VFIO_IOMMU_MAP_DMA',
             114: 'VFIO_IOMMU_UNMAP_DMA', 117: 'VFIO_DEVICE_FEATURE',
             118: 'VFIO_DEVICE_BIND_IOMMUFD', 119: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
             120: 'VFIO_DEVICE_DETACH_IOMMUFD_PT',
             0x80: 'IOMMU_DESTROY', 0x81: 'IOMMU_IOAS_ALLOC', 0x83: 'IOMMU_IOAS_COPY',
             0x84: 'IOMMU_IOAS_IOVA_RANGES', 0x85: 'IOMMU_IOAS_MAP',
             0x86: 'IOMMU_IOAS_UNMAP', 0x87: 'IOMMU_OPTION', 0x89: 'IOMMU_HWPT_ALLOC',
             0x8a: 'IOMMU_GET_HW_INFO', 0x8b: 'IOMMU_HWPT_SET_DIRTY_TRACKING',
             0x8c: 'IOMMU_HWPT_GET_DIRTY_BITMAP', 0x8f: 'IOMMU_IOAS_MAP_FILE',
             0xe0: 'KVM_CREATE_DEVICE', 0xe1: 'KVM_SET_DEVICE_ATTR'}
    MAPS, UNMAPS = (113, 0x85, 0x8f), (114, 0x86)
    # flags of 117: VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, and of a container
    # VFIO_IOMMU_DIRTY_PAGES that gets a bitmap
    ASKS = (1 << 16 | 8, 4)
    CALLS = 65536

    def __init__(self, path, whole=True):
        """Not whole: of more calls than the log takes there are only totals."""
        with open(path, 'rb') as f:
            data = f.read()
        calls = struct.unpack_from('=Q', data, 24)[0]
        check(calls <= self.CALLS or not whole, f'{calls} ioctls: the log is too small')
        self.total = {}
        for nr in range(256):
            t = struct.unpack_from('=4Q', data, 32 + nr * 32)
            if t[0]:
                self.total[nr] = dict(zip(('count', 'failed', 'bytes', 'ns'), t))
        at = 32 + 256 * 32
        keys = ('nr', 'errno', 'iova', 'bytes', 'id', 'start_ns', 'ns', 'fd')
        self.calls = [dict(zip(keys, struct.unpack_from('=8Q', data, at + i * 64)))
                      for i in range(min(calls, self.CALLS))]

    @staticmethod
    def fail(path, nr, iova, error):
        """From now on this call fails in the process that logs there."""
        with open(path, 'r+b' if os.path.exists(path) else 'wb') as f:
            f.write(struct.pack('=3Q', nr, iova, error))

    def kvm(self):
        """What KVM was told of cdevs, and when they were bound: (what, fd)."""
        what = {(0xe1, 1): 'add', (0xe1, 2): 'del', (118, 0): 'bind'}
        return [(what[c['nr'], c['iova']], c['fd']) for c in self.calls
                if (c['nr'], c['iova']) in what and not c['errno']]

    def live(self):
        """{iova: call} of the mappings that are there."""
        live = {}
        for c in self.calls:
            if c['nr'] in self.MAPS and not c['errno']:
                live[c['iova']] = c
            elif c['nr'] in self.UNMAPS and not c['errno']:
                for iova in [i for i in live
                             if c['iova'] <= i < c['iova'] + c['bytes']]:
                    del live[iova]
        return live

    def asks(self):
        """The calls that ask what devices have written, whoever is asked."""
        return [c for c in self.calls if c['nr'] == 0x8c or
                c['nr'] == 117 and c['iova'] >> 32 in self.ASKS]

    def ids(self, nr):
        return [c['id'] for c in self.calls if c['nr'] == nr and not c['errno']]

    def failed(self):
        """What failed, but for what the base does on the group path as well, and
        questions that were answered by no."""
        return [f"{self.name(c['nr'])}: {os.strerror(c['errno'])} "
                f"(iova {c['iova']:#x} length {c['bytes']:#x})"
                for c in self.calls if c['errno'] and not self.is_msix_off(c)
                and not (c['nr'] == 117 and c['errno'] == errno.ENOTTY)]

    @staticmethod
    def is_msix_off(call):
        """hw/vfio/pci.c switches MSI-X off without knowing whether it is on."""
        return call['nr'] == 110 and call['iova'] == 0x200000021

    def name(self, nr):
        return self.NAMES.get(nr, f'ioctl {nr:#x}')

    def sum(self, numbers, key='bytes'):
        return sum(self.total[n][key] for n in numbers if n in self.total)

    def report(self):
        return '\n'.join(f"{self.name(n):32} {t['count']:6} calls {t['failed']:4} failed "
                         f"{t['bytes'] / 2**20:9.1f} MiB {t['ns'] / 1e6:9.1f} ms"
                         for n, t in sorted(self.total.items()))


# --- outside and inside --------------------------------------------------------

def make_disk(path, mib=16, seed=b'lab'):
    """A disk of bytes that cannot come about by chance; its MD5."""
    import hashlib
    total = hashlib.md5()
    with open(path, 'wb') as f:
        for i in range(mib):
            block = hashlib.shake_128(seed + str(i).encode()).digest(1 << 20)
            f.write(block)
            total.update(block)
    return total.hexdigest()


def main(inside, lab=(), prepare=None, after=None):
    """Run the test: lab are arguments of tests/host/lab. prepare(out) runs
    before and returns more of them; after(tap, out) checks from outside."""
    if os.environ.get('QI_INSIDE'):
        tap = Tap()
        with tap.block('the test ran to its end'):
            inside(tap)
        sys.exit(tap.failed != 0)

    out = f'{BUILD}/lab/{os.path.basename(sys.argv[0])}' + \
        (HOST_KERNEL and '@' + HOST_KERNEL)
    tap = Tap()
    status = run_lab(tap, out, lab, prepare)
    if status and not tap.failed:
        tap.result(False, 'the lab ran the test to its end', f'status {status}')
    elif after:
        with tap.block('what is seen from outside'):
            after(tap, out)
    print(f'1..{tap.n}')
    sys.exit(tap.failed != 0)


def run_lab(tap, out, lab, prepare):
    """Run this program in the lab; its results go into tap, renumbered. The lab's
    status."""
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    words = [*lab, *(prepare(out) if prepare else [])]
    proc = subprocess.Popen(
        [ROOT + '/tests/host/lab', '--out', out, *words, '--',
         '/usr/bin/python3', os.path.abspath(sys.argv[0])],
        env=dict(os.environ, QI_INSIDE='1', PYTHONDONTWRITEBYTECODE='1'),
        stdout=subprocess.PIPE, text=True, errors='replace')
    for line in proc.stdout:
        found = re.match(r'(not )?ok \d+ (.*)', line.rstrip('\r\n'))
        if found:
            tap.result(not found[1], found[2])
        else:
            print(line.rstrip('\r\n'), flush=True)
    return proc.wait()
