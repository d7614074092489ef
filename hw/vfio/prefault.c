/*
 * Prefault: fill memory by several threads before it is pinned
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: its threads, a copy of the ranges, and the record of what is done.
 * Borrows: the memory, which must stay mapped until vfio_prefault_stop().
 *
 * MADV_POPULATE_WRITE (Linux 5.14) faults pages in as a write would, without
 * changing what is in them: just what the pin does, so nothing is populated
 * that would not be, huge pages come whole, private file pages are copied, and
 * the memory's NUMA policy holds (a page without policy comes from the node of
 * the thread that touches it).  It is safe beside whoever uses the memory.
 *
 * The threads take small pieces in turn, so that all work on the same range
 * and the first ranges are done first, and so that the memory map of the
 * process (mmap_lock) is not kept for long.
 *
 * While nobody waits they are nice, and leave one CPU alone if the machine runs
 * meanwhile: where each CPU had a nice thread, a vCPU that woke up would wait
 * for the rest of that one's slice.  Without privileges nobody can make them
 * less nice again, so whoever waits gets new ones that are not.  Not
 * SCHED_IDLE: on a busy host a thread that holds mmap_lock has to get on.
 *
 * Where it can be, a piece is touched instead: a fault takes the lock of the
 * one mapping it is in (Linux 6.4), madvise() takes mmap_lock, for which the
 * main thread would wait at each brk() and mmap().  If the first touch
 * brought all of the piece (a huge page), madvise() sees to what was there
 * before, and finds nothing left to do.  Not in memory that may have gone bad
 * (ioas-apply.c): the touch would be the end of the process, where madvise()
 * answers EHWPOISON.
 */

#include "qemu/osdep.h"
#include <sched.h>
#include <sys/resource.h>
#include "qemu/atomic.h"
#include "qemu/ctype.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "prefault.h"

#define PIECE (2 * MiB)
#define THREADS_PER_NODE 8
#define NICER 10                /* about a tenth of what others get */
#define NODES "/sys/devices/system/node"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct VFIOPrefault {
    void (*notify)(void *opaque);
    void *opaque;
    GArray *ranges;             /* of VFIOPrefaultRange */
    GPtrArray *threads;         /* of GThread */
    unsigned count;             /* of them at a time */
    bool hurried;

    QemuMutex lock;             /* for what follows */
    QemuCond grown;             /* @filled, that is */
    bool stop;
    unsigned nice, most_nice;   /* threads that are, and may be */
    guint next;                 /* the range to take a piece from */
    uint64_t offset;            /* in that */
    unsigned *busy;             /* per range: pieces taken and not done */
    guint filled;
    uint64_t bytes;
};

/* Takes a piece: its range, or -1 if there is nothing left to do */
static int vfio_prefault_take(VFIOPrefault *p, uint64_t *vaddr, uint64_t *size)
{
    const VFIOPrefaultRange *r;
    uint64_t end;
    int range = p->next;

    if (p->stop || p->next == p->ranges->len) {
        return -1;
    }
    r = &g_array_index(p->ranges, VFIOPrefaultRange, range);
    *vaddr = r->vaddr + p->offset;
    end = MIN(QEMU_ALIGN_DOWN(*vaddr, MAX(PIECE, r->page_size)) +
              MAX(PIECE, r->page_size), r->vaddr + r->size);
    *size = end - *vaddr;
    p->offset += *size;
    if (p->offset == r->size) {
        p->next++;
        p->offset = 0;
    }
    p->busy[range]++;
    return range;
}

#ifdef HOST_X86_64
static bool vfio_prefault_is_there(uint64_t vaddr)
{
    uint64_t page = QEMU_ALIGN_DOWN(vaddr, qemu_real_host_page_size());
    unsigned char there = 0;

    return !mincore((void *)(uintptr_t)page, 1, &there) && there & 1;
}

/*
 * The byte keeps its value, whoever writes beside us.  Elsewhere the CPU may
 * tell of a read first, and the kernel map the page of zeroes.
 */
static void vfio_prefault_touch(uint64_t vaddr)
{
    qatomic_cmpxchg((uint8_t *)(uintptr_t)vaddr, 0, 0);
}

/* False if there was something, so that this did not see what is missing */
static bool vfio_prefault_touched(uint64_t vaddr, uint64_t size)
{
    uint64_t end = vaddr + size;

    vfio_prefault_touch(vaddr);
    if (vfio_prefault_is_there(end - 1)) {
        return false;           /* a huge page */
    }
    while ((vaddr += qemu_real_host_page_size()) < end) {
        vfio_prefault_touch(vaddr);
    }
    return true;
}
#endif

static void vfio_prefault_piece(const VFIOPrefaultRange *r, uint64_t vaddr,
                                uint64_t size)
{
#ifdef HOST_X86_64
    if (r->anonymous && vfio_prefault_touched(vaddr, size)) {
        return;
    }
#endif
    madvise((void *)(uintptr_t)vaddr, size, MADV_POPULATE_WRITE);
}

/* True if more ranges are done than before */
static bool vfio_prefault_done(VFIOPrefault *p, int range, uint64_t size)
{
    guint before = p->filled;

    p->bytes += size;
    p->busy[range]--;
    while (p->filled < p->next && !p->busy[p->filled]) {
        p->filled++;
    }
    return p->filled > before;
}

static void vfio_prefault_notify(VFIOPrefault *p)
{
    if (p->notify) {
        p->notify(p->opaque);
    }
}

static void vfio_prefault_work(VFIOPrefault *p, bool nice)
{
    uint64_t vaddr, size;
    bool grown;
    int range;

    qemu_mutex_lock(&p->lock);
    p->nice += nice;
    while (!(nice && p->nice > p->most_nice) &&
           (range = vfio_prefault_take(p, &vaddr, &size)) >= 0) {
        qemu_mutex_unlock(&p->lock);
        vfio_prefault_piece(&g_array_index(p->ranges, VFIOPrefaultRange, range),
                            vaddr, size);
        qemu_mutex_lock(&p->lock);

        grown = vfio_prefault_done(p, range, size);
        if (grown) {
            qemu_cond_broadcast(&p->grown);
            qemu_mutex_unlock(&p->lock);
            vfio_prefault_notify(p);
            qemu_mutex_lock(&p->lock);
        }
    }
    p->nice -= nice;
    qemu_mutex_unlock(&p->lock);
}

static gpointer vfio_prefault_fill(gpointer opaque)
{
    vfio_prefault_work(opaque, false);
    return NULL;
}

static gpointer vfio_prefault_fill_nicely(gpointer opaque)
{
    int nice = getpriority(PRIO_PROCESS, 0);

    /* Of this thread; where it is refused (-sandbox) it works as it is */
    setpriority(PRIO_PROCESS, 0, MIN(nice + NICER, 19));
    vfio_prefault_work(opaque, true);
    return NULL;
}

GThread *vfio_thread_try_new(const char *name, GThreadFunc func, void *opaque)
{
    sigset_t all, old;
    GThread *thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread = g_thread_try_new(name, func, opaque, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return thread;
}

static void vfio_prefault_add_threads(VFIOPrefault *p, GThreadFunc fill)
{
    guint len = p->threads->len + p->count;
    GThread *thread;

    while (p->threads->len < len &&
           (thread = vfio_thread_try_new("vfio-prefault", fill, p))) {
        g_ptr_array_add(p->threads, thread);
    }
}

/* That this process may use.  More than the set has room for: no limit */
static unsigned vfio_prefault_cpus(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) ? UINT_MAX : CPU_COUNT(&set);
}

VFIOPrefault *vfio_prefault_start(const GArray *ranges, unsigned threads,
                                  void (*notify)(void *opaque), void *opaque)
{
    VFIOPrefault *p = g_new0(VFIOPrefault, 1);
    guint i;

    p->notify = notify;
    p->opaque = opaque;
    p->ranges = g_array_sized_new(false, false, sizeof(VFIOPrefaultRange),
                                  ranges->len);
    g_array_append_vals(p->ranges, ranges->data, ranges->len);
    p->busy = g_new0(unsigned, ranges->len);
    p->threads = g_ptr_array_new();
    p->count = p->most_nice = threads;
    qemu_mutex_init(&p->lock);
    qemu_cond_init(&p->grown);
    vfio_prefault_add_threads(p, vfio_prefault_fill_nicely);

    if (!p->threads->len) {     /* RLIMIT_NPROC: then the map does it all */
        for (i = 0; i < ranges->len; i++) {
            p->bytes += g_array_index(ranges, VFIOPrefaultRange, i).size;
        }
        p->filled = p->next = ranges->len;
        vfio_prefault_notify(p);
    }
    return p;
}

void vfio_prefault_leave_cpu(VFIOPrefault *p)
{
    QEMU_LOCK_GUARD(&p->lock);
    p->most_nice = MIN(p->count, MAX(vfio_prefault_cpus() - 1, 1));
}

void vfio_prefault_hurry(VFIOPrefault *p)
{
    if (!p->hurried && !vfio_prefault_finished(p)) {
        p->hurried = true;
        vfio_prefault_add_threads(p, vfio_prefault_fill);
    }
}

void vfio_prefault_stop(VFIOPrefault *p)
{
    guint i;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        p->stop = true;
    }
    for (i = 0; i < p->threads->len; i++) {
        g_thread_join(g_ptr_array_index(p->threads, i));
    }
    qemu_cond_destroy(&p->grown);
    qemu_mutex_destroy(&p->lock);
    g_ptr_array_free(p->threads, true);
    g_free(p->busy);
    g_array_free(p->ranges, true);
    g_free(p);
}

guint vfio_prefault_filled(VFIOPrefault *p)
{
    QEMU_LOCK_GUARD(&p->lock);
    return p->filled;
}

bool vfio_prefault_finished(VFIOPrefault *p)
{
    return vfio_prefault_filled(p) == p->ranges->len;
}

void vfio_prefault_wait(VFIOPrefault *p, guint count)
{
    vfio_prefault_hurry(p);
    QEMU_LOCK_GUARD(&p->lock);
    while (p->filled < count) {
        qemu_cond_wait(&p->grown, &p->lock);
    }
}

uint64_t vfio_prefault_bytes(VFIOPrefault *p)
{
    QEMU_LOCK_GUARD(&p->lock);
    return p->bytes;
}

bool vfio_prefault_matches(VFIOPrefault *p, const GArray *ranges, guint skip)
{
    guint i;

    if (p->ranges->len != skip + ranges->len) {
        return false;
    }
    for (i = 0; i < ranges->len; i++) {
        const VFIOPrefaultRange *a, *b;

        a = &g_array_index(p->ranges, VFIOPrefaultRange, skip + i);
        b = &g_array_index(ranges, VFIOPrefaultRange, i);
        if (a->vaddr != b->vaddr || a->size != b->size) {
            return false;
        }
    }
    return true;
}

static unsigned vfio_prefault_nodes(void)
{
    g_autoptr(GDir) dir = g_dir_open(NODES, 0, NULL);
    const char *name;
    unsigned nodes = 0;

    while (dir && (name = g_dir_read_name(dir))) {
        nodes += g_str_has_prefix(name, "node") && qemu_isdigit(name[4]);
    }
    return MAX(nodes, 1);
}

unsigned vfio_prefault_threads(void)
{
    return MIN(vfio_prefault_cpus(), THREADS_PER_NODE * vfio_prefault_nodes());
}
