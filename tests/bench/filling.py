# SPDX-License-Identifier: GPL-2.0-or-later
"""Fill memory by several processes, and do nothing else: what the machine can do at best.

Not by QEMU's prealloc=on: a thread of it that wants mmap_lock for writing (malloc's
first arena, say) waits until the other is done with its share, so two need as long as
one. Processes share no such lock.
"""
import contextlib
import mmap
import os
import signal
import statistics
import time

MADV_POPULATE_WRITE = 23


def ratio(ours, theirs):
    """The median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(ours, theirs))


def child(size, memfd, done):
    said = b'!'
    try:
        if memfd:
            fd = os.memfd_create('filling')
            os.truncate(fd, size)
            memory = mmap.mmap(fd, size)
        else:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(MADV_POPULATE_WRITE)
        said = b'.'
    finally:
        os.write(done, said)
        signal.pause()
        os._exit(1)


@contextlib.contextmanager
def filling(size, memfd=False, processes=0):
    """Beginning now, by so many or one for each CPU; yields what waits for the end, and
    returns the seconds it took. The memory is kept until the context is left."""
    processes = processes or len(os.sched_getaffinity(0))
    ends, done = os.pipe()
    start, pids = time.monotonic(), []

    def wait():
        for _ in pids:
            if os.read(ends, 1) != b'.':
                raise RuntimeError('memory could not be filled')
        return time.monotonic() - start

    try:
        for _ in range(processes):
            pid = os.fork()
            if not pid:
                os.close(ends)
                child(size // processes, memfd, done)
            pids.append(pid)
        os.close(done)
        yield wait
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(ends)
