# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt says to QEMU when it saves, restores and migrates a VM.

As libvirt 11.3 was heard to say it: the bytes are compared in real-libvirt-migrate
and spoken in libvirt-migrate. A dialogue is a list of commands, each a name and its
arguments, and of statuses that libvirt waits for: EVENT and the status.
"""
EVENT = 'event MIGRATION'
CAPABILITIES = ('xbzrle', 'auto-converge', 'rdma-pin-all', 'postcopy-ram', 'compress',
                'pause-before-switchover', 'late-block-activate', 'multifd',
                'dirty-bitmaps', 'return-path', 'zero-copy-send', 'postcopy-preempt')
UNLIMITED = (1 << 63) - (1 << 20)
NO_TLS = {'tls-creds': '', 'tls-hostname': ''}
EVENTS = ('migrate-set-capabilities',
          {'capabilities': [{'capability': 'events', 'state': True}]})


def capabilities(*on):
    """libvirt says all that it knows, also what is off."""
    return ('migrate-set-capabilities', {'capabilities': [
        {'capability': c, 'state': c in on} for c in CAPABILITIES]})


# the descriptor goes with getfd
SEND = [('getfd', {'fdname': 'migrate'}),
        ('migrate', {'detach': True, 'resume': False, 'uri': 'fd:migrate'})]
SAVE = [('query-migrate', {}), ('stop', {}), capabilities(),
        ('migrate-set-parameters', {'max-bandwidth': UNLIMITED}), *SEND,
        (EVENT, 'completed'), ('query-migrate', {})]
# what was changed for it is changed back, also when QEMU is about to be ended
SAVE_END = [capabilities(), ('migrate-set-parameters', {'max-bandwidth': UNLIMITED})]


def restore(uri):
    """uri is fd: and the number of an inherited descriptor."""
    return [capabilities(), ('migrate-incoming', {'uri': uri}), (EVENT, 'completed')]


def live_begin(*more, bandwidth=UNLIMITED):
    return [('query-migrate', {}), ('query-migrate-parameters', {}),
            capabilities('pause-before-switchover', 'return-path', *more),
            ('migrate-set-parameters', {**NO_TLS, 'max-bandwidth': bandwidth}), *SEND]


# the VM is stopped; a real libvirt lets go of disks and leases now
LIVE_SWITCH = [(EVENT, 'pre-switchover'), ('query-migrate', {})]
LIVE_END = [('migrate-continue', {'state': 'pre-switchover'}), (EVENT, 'completed'),
            ('query-migrate', {})]


def incoming(uri, *more):
    return [('query-migrate-parameters', {}),
            capabilities('late-block-activate', 'return-path', *more),
            ('migrate-set-parameters', NO_TLS), ('migrate-incoming', {'uri': uri})]


INCOMING_END = [(EVENT, 'completed')]
CONT = [('cont', {})]
# and a "cont" if the VM ran
CANCEL = [('migrate_cancel', {}), (EVENT, 'cancelled')]


def speak(monitor, lines, fd=None):
    """As a manager; the last answer. fd is passed, and closed here."""
    answer = None
    for name, args in lines:
        if name == EVENT:
            monitor.event('MIGRATION', status=args)
        elif name == 'getfd':
            monitor.getfd(args['fdname'], fd)
        else:
            answer = monitor.cmd(name, **args)
    return answer


def commands(lines):
    """Without what is only waited for, and questions asked twice in a row."""
    said = []
    for line in lines:
        if line[0] != EVENT and line != (said or [None])[-1]:
            said.append(line)
    return said


def heard(log, skip=()):
    """Of what libvirt said, (name, arguments) that belong to a dialogue."""
    return commands((c['execute'], c.get('arguments', {})) for c in log
                    if ('migrat' in c['execute'] or
                        c['execute'] in ('getfd', 'stop', 'cont')) and
                    c['execute'] not in skip)
