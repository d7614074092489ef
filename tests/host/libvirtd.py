# SPDX-License-Identifier: GPL-2.0-or-later
"""A real libvirt in the lab: Debian's, unpacked into the cache, nothing installed.

  fetch()  outside: unpack it and say where it lies, or skip the test
  Daemon   one libvirtd, in a mount namespace where its files are laid over
           /usr, and /etc, /run and /var are its own; so one host can have two
  LibvirtGuest   a VM of it: a Guest for which virsh does what QMP does otherwise
  Host     two daemons, a dma-test device for each, and the VM that is at one

The lab's kernel has no overlayfs: the new /usr is a tree of links.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import dialogue
from labtest import (BUILD, LINUX, QEMU, ROOT, Guest, bind, cdev, check, equal, pci, read, told,
                     wait, write)
from labvfio import DmaTest
from manager import USER, is_free
from written import HUGE_PAGES, Written

BASE = '/tmp/libvirt'
TOP = BASE + '/top'             # the root as it is without us
VM = 'vm'
PORTS = ''.join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>"
                for n in range(1, 7))
HOSTDEV = """
    <hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio'/><source>
      <address domain='0x{}' bus='0x{}' slot='0x{}' function='0x{}'/>
    </source><address type='pci' bus='{}' slot='0x00'/></hostdev>"""
# Debian's libvirt is older than libvirt's iommufd, so the user's part adds it; by
# group nobody tracks what the device writes, so migration has to be asked for
OVERRIDE = """
  <qemu:override><qemu:device alias='hostdev0'><qemu:frontend>
    <qemu:property name='{}' type='string' value='{}'/>
  </qemu:frontend></qemu:device></qemu:override>"""
GROUP = OVERRIDE.format('enable-migration', 'on')
IOMMUFD = """
  <qemu:commandline>
    <qemu:arg value='-object'/><qemu:arg value='iommufd,id=iommufd0'/>
  </qemu:commandline>""" + OVERRIDE.format('iommufd', 'iommufd0')


def fetch(version, suite=''):
    """Outside; inside it is os.environ['QI_LIBVIRT']."""
    packages = ('libvirt-daemon', 'libvirt-daemon-driver-qemu', 'libvirt-clients')
    done = subprocess.run([ROOT + '/scripts/fetch', 'unpacked', 'libvirt-' + version,
                           *(p + suite for p in packages)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f'1..0 # SKIP libvirt {version} cannot be fetched')
        sys.exit(0)
    os.environ['QI_LIBVIRT'] = done.stdout.strip()


def lay_over(new, old, to):
    """A folder with what is in either; what is in both is that of new."""
    os.makedirs(to)
    # each look at the root takes a while: it is the machine's, by 9p
    above, below = set(os.listdir(new)), set(os.listdir(old))
    for name in (above | below) - {'doc', 'man'}:
        path = f'{new}/{name}'
        if name not in above:
            os.symlink(f'{TOP}{old}/{name}', f'{to}/{name}')
        elif name in below and os.path.isdir(path) and not os.path.islink(path):
            lay_over(path, f'{old}/{name}', f'{to}/{name}')
        else:
            os.symlink(path, f'{to}/{name}')


def lay_out():
    """Once, before the first Daemon."""
    os.makedirs(TOP)
    subprocess.run(['mount', '--bind', '/', TOP], check=True)
    lay_over(os.environ['QI_LIBVIRT'] + '/usr', '/usr', BASE + '/usr')
    for path in os.environ['QI_KERNEL'], BUILD + '/guest/initramfs.gz':
        shutil.copy(path, BASE)
    os.mkdir(BASE + '/open')
    os.chmod(BASE + '/open', 0o777)


class Daemon:
    CONFIG = {
        'qemu.conf': 'namespaces = []\ncgroup_controllers = []\nsecurity_driver = "none"\n'
                     'seccomp_sandbox = 1\nstdio_handler = "file"\nremember_owner = 0\n',
        'libvirtd.conf': 'auth_unix_rw = "none"\nlog_outputs = "1:file:/run/libvirtd.log"\n'
                         'log_filters = "1:qemu.qemu_monitor 3:*"\n'
                         'host_uuid = "00000000-1111-4222-8333-44444444444%d"\n'}
    SCRIPT = """set -e
        for d in usr:/usr $1/etc:/etc $1/run:/run $1/lib:/var/lib $1/cache:/var/cache \\
            $1/log:/var/log
        do mount --bind $0/${d%%:*} ${d#*:}; done
        [ /var/run -ef /run ] || mount --bind /run /var/run
        exec libvirtd"""

    def __init__(self, n):
        self.n, self.dir = n, f'{BASE}/{n}'
        self.run = self.dir + '/run'
        for d in 'etc', 'run', 'lib', 'cache', 'log':
            os.makedirs(f'{self.dir}/{d}')
        for d in 'lib', 'cache', 'log':
            os.mkdir(f'{self.dir}/{d}/libvirt')
        self.etc()
        with open(self.dir + '/libvirtd.out', 'w') as out:
            self.proc = subprocess.Popen(
                ['unshare', '--mount', 'sh', '-c', self.SCRIPT, BASE, str(n)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def etc(self):
        for name in set(os.listdir('/etc')) - {'passwd', 'group', 'libvirt'}:
            os.symlink(f'{TOP}/etc/{name}', f'{self.dir}/etc/{name}')
        names = f'libvirt-qemu:x:{USER}:'
        write(self.dir + '/etc/passwd', read('/etc/passwd') +
              f'{names}{USER}::/nonexistent:/bin/false\n')
        write(self.dir + '/etc/group', read('/etc/group') +
              f'{names}\nkvm:x:64056:\nlibvirt:x:64057:\n')
        shutil.copytree(os.environ['QI_LIBVIRT'] + '/etc/libvirt', self.dir + '/etc/libvirt')
        for name, text in self.CONFIG.items():
            with open(f'{self.dir}/etc/libvirt/{name}', 'a') as f:
                f.write(text % self.n if '%' in text else text)

    def wait_up(self):
        def there():
            check(self.proc.poll() is None, read(self.dir + '/libvirtd.out'))
            return os.path.exists(self.run + '/libvirt/libvirt-sock')
        wait(there, 60, 'libvirtd')

    def log(self):
        """What libvirt and QEMU wrote into the VM's log."""
        return read(f'{self.dir}/log/libvirt/qemu/{VM}.log')

    def knows_qemu(self, other):
        """It need not ask QEMU for what the other one has asked already."""
        path = 'cache/libvirt/qemu/capabilities'
        shutil.copytree(f'{other.dir}/{path}', f'{self.dir}/{path}', dirs_exist_ok=True)

    def end(self):
        self.proc.terminate()
        self.proc.wait()

    @property
    def uri(self):
        """By which everybody reaches it."""
        return f'qemu+unix:///system?socket={self.run}/libvirt/libvirt-sock'

    def start_virsh(self, *args):
        return subprocess.Popen(
            ['nsenter', f'--mount=/proc/{self.proc.pid}/ns/mnt', 'virsh', '-q', '-c',
             self.uri, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    @staticmethod
    def ended(proc, seconds=90):
        """(status, what it said)"""
        try:
            said = proc.communicate(timeout=seconds)[0].strip()
        finally:
            proc.kill()
        told(said)
        return proc.returncode, said

    def virsh(self, *args):
        status, said = self.ended(self.start_virsh(*args))
        check(status == 0, f'virsh {args}: {said}')
        return said

    def refuses(self, *args):
        """What virsh says when that fails, as it has to."""
        status, said = self.ended(self.start_virsh(*args))
        check(status == 1, f'virsh {args} did not fail: {said}')
        return said

    def dialogue(self):
        """What libvirtd has told QEMU since the last call."""
        path = self.run + '/libvirtd.log'
        lines = re.findall(r'QEMU_MONITOR_IO_WRITE: mon=\S+ buf=(\{.*)', read(path))
        os.truncate(path, 0)
        return [json.loads(s) for s in lines]


class LibvirtGuest(Guest):
    """It has no QEMU of ours, and moves from daemon to daemon."""

    def __init__(self, daemon):
        self.agent = self.proc = None
        self.move(daemon)

    def move(self, daemon):
        self.daemon, self.dir = daemon, daemon.run
        self.console = daemon.run + '/console.log'

    @staticmethod
    def hostdev(bdf, bus='0x03'):
        path = f'{BASE}/{bdf}.xml'
        write(path, HOSTDEV.format(*re.split('[:.]', bdf), bus))
        return path

    @classmethod
    def xml(cls, bdf, iommufd):
        text = f"""
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{VM}</name><uuid>11111111-2222-4333-8444-555555555555</uuid>
  <memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>{BASE}/bzImage</kernel><initrd>{BASE}/initramfs.gz</initrd>
    <cmdline>{LINUX}{HUGE_PAGES}</cmdline></os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'><feature policy='disable' name='tsc-deadline'/></cpu>
  <devices>
    <emulator>{QEMU}</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <controller type='virtio-serial'/>
    <channel type='unix'><source mode='bind' path='/run/agent'/>
      <target type='virtio' name='agent'/></channel>
    <serial type='file'><source path='/run/console.log'/></serial>
    <controller type='pci' index='0' model='pcie-root'/>
    {PORTS}
    {read(cls.hostdev(bdf))}
  </devices>{IOMMUFD if iommufd else GROUP}
</domain>"""
        write(BASE + '/vm.xml', text)
        return BASE + '/vm.xml'

    def alive(self):
        return True             # virsh would take its time

    def qmp(self, name, **args):
        answer = json.loads(self.daemon.virsh('qemu-monitor-command', VM, json.dumps(
            {'execute': name, 'arguments': args})))
        check('return' in answer, answer)
        return answer['return']

    def hmp(self, line):
        return self.daemon.virsh('qemu-monitor-command', VM, '--hmp', line)

    def memory(self, addr, size):
        path = BASE + '/open/memory'
        self.qmp('pmemsave', val=addr, size=size, filename=path)
        with open(path, 'rb') as f:
            data = f.read()
        os.unlink(path)
        return data

    def messages(self):
        """What QEMU said there."""
        return self.daemon.log()


class Host:
    """The VM's device writes all the time. at: which of the two has it."""
    CHANNEL, FILE = BASE + '/open/channel', BASE + '/open/saved'

    def __init__(self, tap):
        DmaTest.load_driver()
        self.bdfs, self.at = pci(DmaTest.ID), 0
        for b in self.bdfs:
            bind(b, DmaTest.DRIVER)
        for path in '/dev/kvm', '/dev/iommu', *map(cdev, self.bdfs):
            os.chmod(path, 0o666)
        with tap.step('two libvirtds'):
            lay_out()
            self.daemons = [Daemon(0), Daemon(1)]
            for d in self.daemons:
                d.wait_up()
        with tap.step('virsh create, by group; the device writes'):
            self.vm = LibvirtGuest(self.here)
            self.here.virsh('create', self.xml(self.at, False))
            self.vm.wait_up()
            self.there.knows_qemu(self.here)
            self.written = Written(self.vm)

    @staticmethod
    def way(iommufd):
        return 'iommufd=' if iommufd else 'by group'

    @property
    def here(self):
        return self.daemons[self.at]

    @property
    def there(self):
        return self.daemons[1 - self.at]

    def xml(self, at, iommufd):
        return self.vm.xml(self.bdfs[at], iommufd)

    def heard(self, at):
        """What this libvirtd has told QEMU since the last time, of migration."""
        return dialogue.heard(self.daemons[at].dialogue(), ['query-migrate-capabilities'])

    def goes_on(self):
        """It has come and is paused."""
        self.written.check_paused(self.vm)
        self.here.virsh('resume', VM)
        wait(self.vm._agent_answers, 60, 'agent')
        self.written.check(self.vm)

    def migrate_words(self, iommufd, *more):
        return ['migrate', '--live', '--suspend', *more,
                '--xml', self.xml(1 - self.at, iommufd),
                '--migrateuri', 'unix://' + self.CHANNEL, VM, self.there.uri]

    def migrate(self, iommufd):
        self.heard(0), self.heard(1)
        told(self.vm.messages())
        self.here.virsh(*self.migrate_words(iommufd))
        self.at = 1 - self.at
        self.vm.move(self.here)
        check(is_free(self.bdfs[1 - self.at]), 'the device is still bound')
        self.goes_on()
        equal(self.heard(1 - self.at), dialogue.commands(
            dialogue.live_begin() + dialogue.LIVE_SWITCH + dialogue.LIVE_END))
        want = dialogue.commands([dialogue.EVENTS] +
                                 dialogue.incoming('unix:' + self.CHANNEL))
        equal(self.heard(self.at)[:len(want)], want)

    def runs_on(self):
        """Here, after what has failed."""
        equal(self.here.virsh('domstate', VM), 'running')
        equal(self.there.virsh('list', '--name'), '')
        self.written.check(self.vm)
        check(is_free(self.bdfs[1 - self.at]), 'the device is still bound')

    def end(self):
        told(self.vm.messages())
        self.here.virsh('destroy', VM)
        check(is_free(self.bdfs[self.at]), 'the device is still bound')
        for d in self.daemons:
            d.end()
