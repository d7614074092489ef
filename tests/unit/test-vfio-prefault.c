/*
 * Unit test: memory is filled by threads, as far as told and no further
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On real memory of this process; what is filled is seen by mincore().
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qemu/atomic.h"
#include "qemu/units.h"
#include "hw/vfio/prefault.h"

#define SIZE    (16 * MiB)

static int notified;
static bool anonymous = true;   /* of what add() adds */

static void notify(void *opaque)
{
    g_assert_true(opaque == &notified);
    qatomic_inc(&notified);
}

static char *new_memory(size_t size)
{
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert_true(p != MAP_FAILED);
    return p;
}

static void add(GArray *ranges, void *p, uint64_t size)
{
    VFIOPrefaultRange r = { (uintptr_t)p, size, qemu_real_host_page_size(),
                            anonymous };

    g_array_append_val(ranges, r);
}

static GArray *new_ranges(void)
{
    return g_array_new(false, false, sizeof(VFIOPrefaultRange));
}

static size_t resident(char *p, size_t size)
{
    size_t page = qemu_real_host_page_size(), n = size / page, i, count = 0;
    g_autofree unsigned char *vec = g_malloc(n);

    g_assert_cmpint(mincore(p, size, vec), ==, 0);
    for (i = 0; i < n; i++) {
        count += vec[i] & 1;
    }
    return count * page;
}

/* All of the ranges, nothing around them, and what is there stays */
static void test_fills(const void *data)
{
    unsigned threads = GPOINTER_TO_UINT(data);
    size_t page = qemu_real_host_page_size();
    g_autoptr(GArray) ranges = new_ranges();
    char *p = new_memory(4 * SIZE);
    VFIOPrefault *f;

    madvise(p, 4 * SIZE, MADV_NOHUGEPAGE);
    notified = 0;
    p[SIZE + page] = 'x';
    p[SIZE + 9 * page] = 'y';
    p[2 * SIZE - 1] = 'z';      /* of the last piece this is all there is */
    add(ranges, p + SIZE + page, SIZE - page);
    add(ranges, p + 3 * SIZE, page);
    f = vfio_prefault_start(ranges, threads, notify, &notified);
    vfio_prefault_wait(f, 2);
    g_assert_true(vfio_prefault_finished(f));
    g_assert_cmpuint(vfio_prefault_filled(f), ==, 2);
    g_assert_cmpuint(vfio_prefault_bytes(f), ==, SIZE);
    vfio_prefault_stop(f);
    g_assert_cmpint(notified, >=, 1);
    g_assert_cmpint(notified, <=, 2);

    g_assert_cmpuint(resident(p, SIZE + page), ==, 0);
    g_assert_cmpuint(resident(p + SIZE + page, SIZE - page), ==, SIZE - page);
    g_assert_cmpuint(resident(p + 2 * SIZE, SIZE), ==, 0);
    g_assert_cmpuint(resident(p + 3 * SIZE, SIZE), ==, page);
    g_assert_cmpint(p[SIZE + page], ==, 'x');
    g_assert_cmpint(p[SIZE + 9 * page], ==, 'y');
    g_assert_cmpint(p[2 * SIZE - 1], ==, 'z');
    munmap(p, 4 * SIZE);
}

/* What cannot be written does not keep it from the end */
static void test_holes(void)
{
    g_autoptr(GArray) ranges = new_ranges();
    char *p = new_memory(3 * SIZE);
    VFIOPrefault *f;

    g_assert_cmpint(mprotect(p + SIZE, SIZE + SIZE / 2, PROT_NONE), ==, 0);
    anonymous = false;          /* only then there can be any */
    add(ranges, p, 3 * SIZE);
    anonymous = true;
    f = vfio_prefault_start(ranges, 2, notify, &notified);
    vfio_prefault_wait(f, 1);
    vfio_prefault_stop(f);
    g_assert_cmpuint(resident(p, SIZE), >=, SIZE / 2);
    /* but for the rest of the piece in which the hole ends */
    g_assert_cmpuint(resident(p + 2 * SIZE + SIZE / 2, SIZE / 2), >=, SIZE / 4);
    munmap(p, 3 * SIZE);
}

/* Stopped in the middle: far from all is filled, and nothing after that */
static void test_stop(void)
{
    const uint64_t size = 1 * TiB;
    g_autoptr(GArray) ranges = new_ranges();
    char *p = new_memory(size);
    uint64_t bytes;
    VFIOPrefault *f;

    add(ranges, p, size);
    f = vfio_prefault_start(ranges, 2, NULL, NULL);
    while (!(bytes = vfio_prefault_bytes(f))) {
        g_usleep(100);
    }
    g_assert_cmpuint(vfio_prefault_filled(f), ==, 0);
    g_assert_false(vfio_prefault_finished(f));
    vfio_prefault_stop(f);
    munmap(p, size);
    g_assert_cmpuint(bytes, <, size / 100);
}

/* How many threads of this process are so nice */
static unsigned threads_at(int nice)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    const char *name;
    unsigned n = 0;

    while ((name = g_dir_read_name(dir))) {
        errno = 0;
        n += getpriority(PRIO_PROCESS, atoi(name)) == nice && !errno;
    }
    return n;
}

static void wait_for_threads(int nice, unsigned n)
{
    int i;

    for (i = 0; i < 5000 && threads_at(nice) != n; i++) {
        g_usleep(1000);
    }
    g_assert_cmpuint(threads_at(nice), ==, n);
}

/* Nice while nobody waits, fewer if a CPU is to be left; then others, once */
static void test_hurry(void)
{
    const uint64_t size = 1 * TiB;
    int nice = getpriority(PRIO_PROCESS, 0), nicer = MIN(nice + 10, 19);
    g_autoptr(GArray) ranges = new_ranges();
    char *p = new_memory(size);
    unsigned others, few = MIN(MAX(vfio_prefault_threads() - 1, 1), 4);
    VFIOPrefault *f;

    if (nicer == nice) {
        g_test_skip("run with nice 19: nothing is nicer");
        return;
    }
    others = threads_at(nice);
    add(ranges, p, size);
    f = vfio_prefault_start(ranges, 4, notify, &notified);
    wait_for_threads(nicer, 4);
    vfio_prefault_leave_cpu(f);
    wait_for_threads(nicer, few);
    g_assert_cmpuint(threads_at(nice), ==, others);
    vfio_prefault_hurry(f);
    vfio_prefault_hurry(f);
    wait_for_threads(nice, others + 4);
    g_assert_cmpuint(threads_at(nicer), ==, few);
    vfio_prefault_stop(f);
    g_assert_cmpuint(threads_at(nice), ==, others);
    munmap(p, size);
}

static void test_matches(void)
{
    g_autoptr(GArray) ranges = new_ranges();
    g_autoptr(GArray) rest = new_ranges();
    char *p = new_memory(SIZE);
    VFIOPrefault *f;

    add(ranges, p, SIZE / 2);
    add(ranges, p + SIZE / 2, SIZE / 2);
    add(rest, p + SIZE / 2, SIZE / 2);
    f = vfio_prefault_start(ranges, 1, notify, &notified);
    g_assert_true(vfio_prefault_matches(f, ranges, 0));
    g_assert_false(vfio_prefault_matches(f, ranges, 1));
    g_assert_false(vfio_prefault_matches(f, rest, 0));
    g_assert_true(vfio_prefault_matches(f, rest, 1));
    g_assert_false(vfio_prefault_matches(f, rest, 2));
    g_array_index(rest, VFIOPrefaultRange, 0).size /= 2;
    g_assert_false(vfio_prefault_matches(f, rest, 1));
    vfio_prefault_stop(f);
    munmap(p, SIZE);
}

/* No thread to be had: the map will do it */
static void test_no_thread(void)
{
    g_autoptr(GArray) ranges = new_ranges();
    char *p = new_memory(SIZE);
    VFIOPrefault *f;

    notified = 0;
    add(ranges, p, SIZE);
    f = vfio_prefault_start(ranges, 0, notify, &notified);
    g_assert_true(vfio_prefault_finished(f));
    vfio_prefault_wait(f, 1);
    vfio_prefault_stop(f);
    g_assert_cmpint(notified, ==, 1);
    munmap(p, SIZE);
}

static void test_threads(void)
{
    unsigned threads = vfio_prefault_threads();

    g_assert_cmpuint(threads, >=, 1);
    g_assert_cmpuint(threads, <=, sysconf(_SC_NPROCESSORS_CONF));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/vfio/prefault/fills/1", GUINT_TO_POINTER(1),
                         test_fills);
    g_test_add_data_func("/vfio/prefault/fills/7", GUINT_TO_POINTER(7),
                         test_fills);
    g_test_add_func("/vfio/prefault/holes", test_holes);
    g_test_add_func("/vfio/prefault/stop", test_stop);
    g_test_add_func("/vfio/prefault/hurry", test_hurry);
    g_test_add_func("/vfio/prefault/matches", test_matches);
    g_test_add_func("/vfio/prefault/no-thread", test_no_thread);
    g_test_add_func("/vfio/prefault/threads", test_threads);
    return g_test_run();
}
