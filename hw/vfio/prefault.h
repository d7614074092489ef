/*
 * Prefault: fill memory by several threads before it is pinned
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Mapping memory for DMA pins it, and the first touch of each page costs far
 * more than the pin: the kernel zeroes it, on the one thread that is in the
 * ioctl.  Here the touch is done before, by as many threads as it takes, and
 * without the BQL; the map that follows finds the pages there.  No QEMU state,
 * no iommufd: the caller says which memory, and maps it itself.
 */

#ifndef HW_VFIO_PREFAULT_H
#define HW_VFIO_PREFAULT_H

typedef struct VFIOPrefault VFIOPrefault;

/* Writable memory of this process; [@vaddr, @vaddr + @size) does not wrap */
typedef struct VFIOPrefaultRange {
    uint64_t vaddr;
    uint64_t size;              /* bytes, not 0 */
    uint64_t page_size;         /* of the memory behind it, a power of two */
    bool anonymous;             /* private, QEMU's own: a touch cannot fail */
} VFIOPrefaultRange;

/**
 * vfio_thread_try_new - start a thread that takes no signals
 *
 * Those are for the threads that QEMU chose for them.  NULL if the host gives
 * none (RLIMIT_NPROC), where qemu_thread_create() would abort.
 */
GThread *vfio_thread_try_new(const char *name, GThreadFunc func, void *opaque);

/**
 * vfio_prefault_start - begin to fill the memory
 * @ranges: GArray of VFIOPrefaultRange, copied; filled in this order
 * @threads: how many, at least 1; nice ones, see vfio_prefault_hurry()
 * @notify: called in one of the threads, without locks, after
 *          vfio_prefault_filled() has grown; or NULL
 *
 * If the host gives no thread at all, every range counts as filled at once
 * (@notify is called before this returns): the map then does the touching.
 * What cannot be filled (a page that does not exist, no memory) is passed over
 * in silence: the map of it will fail and tell why.
 */
VFIOPrefault *vfio_prefault_start(const GArray *ranges, unsigned threads,
                                  void (*notify)(void *opaque), void *opaque);

/**
 * vfio_prefault_leave_cpu - the machine runs: leave one CPU to it
 *
 * Of the nice threads one fewer than this process may use CPUs goes on, at
 * least one.  What vfio_prefault_hurry() starts is not counted.
 */
void vfio_prefault_leave_cpu(VFIOPrefault *p);

/**
 * vfio_prefault_hurry - somebody waits: as many threads more, not nice ones
 *
 * Does nothing the second time, or when there is nothing left to fill.
 */
void vfio_prefault_hurry(VFIOPrefault *p);

/**
 * vfio_prefault_stop - end it and free it
 *
 * When it returns no thread touches the memory.  That takes as long as filling
 * a few megabytes, or one page where pages are larger.
 */
void vfio_prefault_stop(VFIOPrefault *p);

/**
 * vfio_prefault_filled - how many of the ranges, from the first on, are done
 */
guint vfio_prefault_filled(VFIOPrefault *p);

/**
 * vfio_prefault_finished - is that all of them?
 */
bool vfio_prefault_finished(VFIOPrefault *p);

/**
 * vfio_prefault_wait - hurry, and wait until @count ranges, from the first on,
 * are done
 */
void vfio_prefault_wait(VFIOPrefault *p, guint count);

/**
 * vfio_prefault_bytes - how much is done, bytes
 */
uint64_t vfio_prefault_bytes(VFIOPrefault *p);

/**
 * vfio_prefault_matches - does it fill these ranges after the first @skip ones?
 */
bool vfio_prefault_matches(VFIOPrefault *p, const GArray *ranges, guint skip);

/**
 * vfio_prefault_threads - how many threads suit this host
 *
 * One for each CPU that this process may use, but at most 8 for each NUMA
 * node: some cores are enough for all that a node's memory can take.
 */
unsigned vfio_prefault_threads(void);

#endif
