# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of managers share: who else holds descriptors beside QEMU.

  Iommufd      the manager's own /dev/iommu, and a look at what is left in it
  Monitor      QMP as libvirt writes it: compact JSON, ids, CR LF, and getfd
               with the descriptor in the same message as the command
  ManagedGuest a Guest whose command line is given whole, run as another user
               in a /dev of its own
  Domain       one with libvirt's command line

Kernel facts (Linux 6.2): IOMMU_OPTION RLIMIT_MODE can be set by a process with
CAP_SYS_RESOURCE, and only on an iommufd that has no object: EBUSY otherwise.
So setting it tells whether anything is left, whoever allocated it.
"""
import array
import errno
import fcntl
import json
import os
import re
import resource
import shutil
import socket
import stat
import struct
import tempfile

from labtest import BUILD, LINUX, Guest, Qmp, cdev, check, equal, read, told, wait

IOMMU_DESTROY, IOMMU_IOAS_ALLOC, IOMMU_OPTION = 0x3b80, 0x3b81, 0x3b87
VFIO_DEVICE_BIND_IOMMUFD = 0x3b64 + 18
OPTION_GET, RLIMIT_MODE_PROCESS = 1, 1
SANDBOX = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'
USER = 64055                    # libvirt-qemu on Debian; nothing is named so here
MIB = 1 << 20


def inherited(fd):
    os.set_inheritable(fd, True)
    return fd


def open_cdev(bdf):
    return inherited(os.open(cdev(bdf), os.O_RDWR))


def is_free(bdf):
    """Nobody has the device bound: neither a process, nor KVM for a process."""
    with Iommufd() as iommufd:
        fd = open_cdev(bdf)
        try:
            iommufd.bind(fd)
        except OSError as e:
            return False if e.errno in (errno.EINVAL, errno.EBUSY) else check(False, e)
        finally:
            os.close(fd)
    return True


class Iommufd:
    """The manager's descriptor of /dev/iommu; it stays open here."""

    def __init__(self):
        self.fd = inherited(os.open('/dev/iommu', os.O_RDWR))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.close(self.fd)

    def option(self, op=0, value=0):
        """IOMMU_OPTION_RLIMIT_MODE: size, option_id, op, object_id, val64."""
        buf = bytearray(struct.pack('=IIHHIQ', 24, 0, op, 0, 0, value))
        fcntl.ioctl(self.fd, IOMMU_OPTION, buf)
        return struct.unpack('=IIHHIQ', buf)[5]

    def account_per_process(self):
        self.option(value=RLIMIT_MODE_PROCESS)

    def accounts_per_process(self):
        return self.option(op=OPTION_GET) == RLIMIT_MODE_PROCESS

    def is_empty(self):
        """No kernel object is left; keeps the accounting as it is."""
        try:
            self.option(value=self.option(op=OPTION_GET))
        except OSError as e:
            equal(e.errno, errno.EBUSY, 'errno of RLIMIT_MODE')
            return False
        return True

    def bind(self, device):
        """argsz, flags, iommufd, out_devid"""
        buf = bytearray(struct.pack('=IIiI', 16, 0, self.fd, 0))
        fcntl.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, buf)
        return struct.unpack('=IIiI', buf)[3]

    def works(self):
        """Allocate an IOAS (size, flags, out_ioas_id), destroy it (size, id)."""
        buf = bytearray(struct.pack('=III', 12, 0, 0))
        fcntl.ioctl(self.fd, IOMMU_IOAS_ALLOC, buf)
        ident = struct.unpack('=III', buf)[2]
        fcntl.ioctl(self.fd, IOMMU_DESTROY, struct.pack('=II', 8, ident))
        return True


class Monitor(Qmp):
    """The bytes that libvirt's qemu_monitor_json.c makes."""

    def __init__(self, path, pid=None):
        self.serial = 0
        super().__init__(path, pid)

    def send(self, name, args, fd=None):
        self.serial += 1
        ident = f'libvirt-{self.serial}'
        command = {'execute': name}
        if args:
            command['arguments'] = args
        command['id'] = ident
        line = json.dumps(command, separators=(',', ':')).encode() + b'\r\n'
        if fd is None:
            self.sock.sendall(line)
        else:
            sent = self.sock.sendmsg([line], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                               array.array('i', [fd]))])
            equal(sent, len(line), 'bytes sent with the descriptor')
        while True:
            answer = self._read()
            if 'event' in answer:
                self.events.append(answer)
            else:
                equal(answer.get('id'), ident, f'id of the answer to {name}')
                told(answer.get('error', {}).get('desc', ''))
                return answer

    def try_cmd(self, name, **args):
        return self.send(name, {k.replace('_', '-'): v for k, v in args.items()})

    def getfd(self, name, fd):
        """Pass the descriptor and close it here, as a manager does."""
        answer = self.send('getfd', {'fdname': name}, fd)
        os.close(fd)
        check('return' in answer, answer)

    def error(self, name, want, **args):
        """The command has to fail, with this description."""
        answer = self.try_cmd(name, **args)
        check('error' in answer, f'{name} did not fail: {answer}')
        equal(answer['error']['desc'], want, f'error of {name}')


def jailed(command, nodes=(), user=USER):
    """Run it as another user, without any capability, in a /dev of its own. That is made
    here: each process that a shell would start for it takes the lab half a second."""
    folder = tempfile.mkdtemp(prefix='dev.', dir='/run')
    os.chmod(folder, 0o755)
    for node in ('null', 'zero', 'full', 'random', 'urandom', 'tty', 'kvm', *nodes):
        path = f'{folder}/{node}'
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mknod(path, stat.S_IFCHR, os.stat(f'/dev/{node}').st_rdev)
        os.chmod(path, 0o666)
    script = (f'mount --bind {folder} /dev && exec setpriv --reuid={user} --regid={user} '
              '--clear-groups --inh-caps=-all --bounding-set=-all -- "$@"')
    return ['unshare', '--mount', 'sh', '-c', script, 'sh', *command]


class ManagedGuest(Guest):
    """A Guest run with our arguments only: words() makes them from this one.

    words() appends to fds what QEMU shall inherit; it is closed here once QEMU
    runs. What QEMU writes lies in its folder, which belongs to its user.
    """

    def __init__(self, words, nodes=(), memlock=None, monitor=Monitor,
                 user=USER, log_ioctls=False, jail=True):
        super().__init__('group', log_ioctls=log_ioctls)
        self.qemu = self.cmdline[0]
        self.cmdline = [self.qemu, *words(self)]
        if jail:
            self.cmdline = jailed(self.cmdline, nodes, user)
            os.chown(self.dir, user, user)
        self.memlock, self.monitor = memlock, monitor

    def agent_words(self, append=''):
        """What Guest needs to talk to the guest."""
        return ['-device', 'virtio-serial-pci',
                '-chardev', f'socket,id=agent,path={self.dir}/agent,server=on,wait=off',
                '-device', 'virtserialport,chardev=agent,name=agent',
                '-serial', f'file:{self.console}',
                '-kernel', self.copy(os.environ['QI_KERNEL']),
                '-initrd', self.copy(BUILD + '/guest/initramfs.gz'),
                '-append', LINUX + append]


    def copy(self, path):
        """Where another user may read it; gone with this object."""
        return shutil.copyfile(path, f'{self.dir}/{os.path.basename(path)}')

    def _limit(self):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (self.memlock, self.memlock))

    def _connects(self):
        try:
            self.qmp = self.monitor(f'{self.dir}/qmp', self.proc.pid)
        except (FileNotFoundError, ConnectionError, EOFError):
            return False
        self.connected()
        return True

    def connected(self):
        """Called once, when the monitor answers."""

    def vfio_descriptors(self):
        return sorted(what for what, n in self.descriptors().items()
                      for _ in range(n)
                      if 'iommu' in what or 'vfio' in what and 'kvm' not in what)

    def disk(self, n=0, there=True):
        wait(lambda: (self.try_run(f'[ -b /dev/nvme{n}n1 ]')[0] == 0) == there, 20,
             f'disk {n} in the guest' + ('' if there else ' gone'))

    def md5(self, n=0):
        self.disk(n)
        return self.run(f'md5sum </dev/nvme{n}n1').split()[0]


class Domain(ManagedGuest):
    """QEMU as libvirt starts it, with iommufd0 and hostdev0 inherited."""

    def __init__(self, iommufd, device, mem, append='', more=(), fds=()):
        """more and fds: further words, and what QEMU inherits for them."""
        self.passed_iommufd = inherited(os.dup(iommufd.fd))
        self.passed_device = open_cdev(device)
        self.listener = socket.socket(socket.AF_UNIX)
        self.mem, self.append, self.more = mem, append, more
        # what libvirt allows a process that pins: its RAM and 1 GiB
        super().__init__(Domain.words, memlock=(mem + 1024) * MIB)
        self.listener.bind(self.dir + '/qmp')
        self.listener.listen(1)
        self.fds += [self.passed_iommufd, self.passed_device,
                     self.listener.detach(), *fds]

    def words(self):
        ports = [w for n in range(1, 5) for w in (
            '-device', '{"driver":"pcie-root-port","port":%d,"chassis":%d,"id":"pci.%d",'
            '"bus":"pcie.0","addr":"0x%x"}' % (15 + n, n, n, 1 + n))]
        return [
            '-name', 'guest=dom,debug-threads=on', '-S',
            '-machine', 'pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram',
            '-accel', 'kvm', '-cpu', 'host,migratable=on,tsc-deadline=off',
            '-m', str(self.mem), '-object',
            '{"qom-type":"memory-backend-ram","id":"pc.ram","size":%d}' % (self.mem * MIB),
            '-overcommit', 'mem-lock=off', '-smp', '1,sockets=1,cores=1,threads=1',
            '-uuid', 'b6a3a1d2-4b7e-4cd0-8a0c-111111111111', '-display', 'none',
            '-no-user-config', '-nodefaults', '-chardev',
            f'socket,id=charmonitor,fd={self.listener.fileno()},server=on,wait=off',
            '-mon', 'chardev=charmonitor,id=monitor,mode=control',
            '-rtc', 'base=utc', '-no-shutdown', '-boot', 'strict=on', *self.more,
            *ports, *self.agent_words(self.append),
            '-object', '{"qom-type":"iommufd","id":"iommufd0","fd":"%d"}'
            % self.passed_iommufd,
            '-device', '{"driver":"vfio-pci","id":"hostdev0","iommufd":"iommufd0",'
            '"fd":"%d","bus":"pci.1","addr":"0x0"}' % self.passed_device,
            '-sandbox', SANDBOX, '-msg', 'timestamp=on']

    def connected(self):
        self.qmp.cmd('cont')

    # the manager's steps, with libvirt's names

    def add_object(self, iommufd):
        self.qmp.getfd('iommufd', os.dup(iommufd.fd))
        self.qmp.cmd('object-add', qom_type='iommufd', id='iommufd0', fd='iommufd')

    def plug(self, ident, bdf, bus):
        self.qmp.getfd(f'hostdev-{ident}-fd', open_cdev(bdf))
        self.device_add(ident, bus)

    def device_add(self, ident, bus):
        self.qmp.cmd('device_add', **self.props(ident, bus))

    @staticmethod
    def props(ident, bus):
        return dict(driver='vfio-pci', id=ident, iommufd='iommufd0',
                    fd=f'hostdev-{ident}-fd', bus=bus, addr='0x0')

    def pinned(self):
        return int(re.search(r'^VmPin:\s+(\d+) kB',
                             read(f'/proc/{self.proc.pid}/status'), re.M)[1])

    def unplug(self, ident):
        self.qmp.cmd('device_del', id=ident)
        self.qmp.event('DEVICE_DELETED', device=ident)
