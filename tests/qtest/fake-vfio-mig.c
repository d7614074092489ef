/*
 * A fake of the kernel's VFIO cdev interface: migration protocol v2
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model of vfio_ioctl_device_feature_mig_device_state() and
 * vfio_mig_get_next_state() of Linux 6.12, with a driver behind: a device with
 * "migration N FLAGS" has the states that the flags (VFIO_MIGRATION_*) name.
 * The way between two states is searched for in the arcs that the UAPI lists.
 *
 * The state of the device is the beginning of its BAR 0, between a head and a
 * sum.  PRE_COPY sends the head, STOP_COPY the rest; what is loaded is checked
 * when RESUMING is left.  A session's descriptor is a memfd that only stands
 * for it: reads and writes come here.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/vfio.h>

#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "fake-iommufd.h"

#define S(x)    VFIO_DEVICE_STATE_##x
#define BIT_OF(s) (1u << (s))
#define SAVING  (BIT_OF(S(PRE_COPY)) | BIT_OF(S(PRE_COPY_P2P)) | \
                 BIT_OF(S(STOP_COPY)))
#define HEAD    16
#define DATA    (FAKE_MIG_PAGES * 4096)
#define TOTAL   (HEAD + DATA + 8)

struct FakeMig {
    unsigned index;
    int backing;                /* of the cdev: where BAR 0 is */
    unsigned state;
    int fd;                     /* of the session, or -1 */
    bool disabled;              /* the device was reset */
    unsigned arc_failed;        /* so often */
    size_t at, filled;          /* read or written; there */
    uint8_t data[TOTAL];
};

/* What can be reached from a state in one step */
static const unsigned arcs[VFIO_DEVICE_STATE_NR] = {
    [S(STOP)] = BIT_OF(S(RUNNING_P2P)) | BIT_OF(S(STOP_COPY)) |
                BIT_OF(S(RESUMING)),
    [S(RUNNING)] = BIT_OF(S(RUNNING_P2P)) | BIT_OF(S(PRE_COPY)),
    [S(STOP_COPY)] = BIT_OF(S(STOP)),
    [S(RESUMING)] = BIT_OF(S(STOP)),
    [S(RUNNING_P2P)] = BIT_OF(S(STOP)) | BIT_OF(S(RUNNING)) |
                       BIT_OF(S(PRE_COPY_P2P)),
    [S(PRE_COPY)] = BIT_OF(S(RUNNING)) | BIT_OF(S(PRE_COPY_P2P)),
    [S(PRE_COPY_P2P)] = BIT_OF(S(PRE_COPY)) | BIT_OF(S(RUNNING_P2P)) |
                        BIT_OF(S(STOP_COPY)),
};

static const char *const names[VFIO_DEVICE_STATE_NR] = {
    "ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P",
    "PRE_COPY", "PRE_COPY_P2P",
};

/* By descriptor; also asked without the lock, by calls made under it */
#define MAX_FD  1024
static FakeMig *sessions[MAX_FD];

FakeMig *fake_mig_new(unsigned index, int backing)
{
    FakeMig *m = g_new0(FakeMig, 1);

    m->index = index;
    m->backing = backing;
    m->state = S(RUNNING);
    m->fd = -1;
    return m;
}

/* The file lives on until QEMU closes it, as the kernel's does */
static void end_session(FakeMig *m)
{
    m->disabled = true;
}

void fake_mig_reset(FakeMig *m)
{
    m->state = S(RUNNING);
    end_session(m);
}

void fake_mig_free(FakeMig *m)
{
    if (m->fd >= 0) {
        qatomic_set(&sessions[m->fd], NULL);
    }
    g_free(m);
}

static FakeMig *session_of(int fd)
{
    return fd >= 0 && fd < MAX_FD ? qatomic_read(&sessions[fd]) : NULL;
}

bool fake_mig_owns(int fd)
{
    return session_of(fd);
}

void fake_mig_close(int fd)
{
    FakeMig *m = session_of(fd);

    fake_log("close mig %u", m->index);
    qatomic_set(&sessions[fd], NULL);
    m->fd = -1;
    syscall(SYS_close, fd);
}

static int begin_session(FakeMig *m)
{
    if (m->fd >= 0) {
        fake_log("mig %u: a session begins and the last is open", m->index);
        return -EBUSY;          /* stricter than the kernel: it would leak */
    }
    m->fd = syscall(SYS_memfd_create, "fake-mig", MFD_CLOEXEC);
    if (m->fd < 0 || m->fd >= MAX_FD) {
        abort();
    }
    qatomic_set(&sessions[m->fd], m);
    m->disabled = false;
    m->at = m->filled = 0;
    return m->fd;
}

/* The driver */

static uint64_t sum_of(const uint8_t *data)
{
    uint64_t sum = 0xf00d;
    size_t i;

    for (i = 0; i < DATA; i++) {
        sum = (sum << 5 | sum >> 59) ^ data[i];
    }
    return sum;
}

static void fill_head(FakeMig *m)
{
    stq_he_p(m->data, 0x4d49474b4146ULL);
    stq_he_p(m->data + 8, DATA);
    m->filled = HEAD;
}

static void fill_rest(FakeMig *m)
{
    if (syscall(SYS_pread64, m->backing, m->data + HEAD, DATA, 0) != DATA) {
        abort();
    }
    stq_he_p(m->data + HEAD + DATA, sum_of(m->data + HEAD));
    m->filled = TOTAL;
}

static int take(FakeMig *m)
{
    if (m->filled != TOTAL || ldq_he_p(m->data) != 0x4d49474b4146ULL ||
        ldq_he_p(m->data + 8) != DATA ||
        ldq_he_p(m->data + HEAD + DATA) != sum_of(m->data + HEAD)) {
        return -EINVAL;
    }
    if (syscall(SYS_pwrite64, m->backing, m->data + HEAD, DATA, 0) != DATA) {
        abort();
    }
    return 0;
}

/* One arc */
static int step(FakeMig *m, unsigned to)
{
    unsigned from = m->state;
    int ret = 0;

    if (BIT_OF(to) & SAVING && !(BIT_OF(from) & SAVING)) {
        ret = begin_session(m);
        fill_head(m);
    } else if (to == S(RESUMING)) {
        ret = begin_session(m);
    }
    if (ret < 0) {
        return ret;
    }
    if (to == S(STOP_COPY)) {
        fill_rest(m);
    }
    if (from == S(RESUMING) && take(m)) {
        m->state = S(ERROR);
        end_session(m);
        return -EINVAL;
    }
    if ((BIT_OF(from) & SAVING && !(BIT_OF(to) & SAVING)) ||
        from == S(RESUMING)) {
        end_session(m);
    }
    m->state = to;
    return 0;
}

/* The first step of the shortest way, or ERROR if there is none */
static unsigned next_state(unsigned from, unsigned to)
{
    unsigned first[VFIO_DEVICE_STATE_NR] = {}, queue[VFIO_DEVICE_STATE_NR];
    bool session = BIT_OF(from) & SAVING && BIT_OF(to) & SAVING;
    unsigned head = 0, tail = 0, s;

    if (session && from == S(STOP_COPY)) {
        return S(ERROR);
    }
    queue[tail++] = from;
    while (head < tail) {
        unsigned at = queue[head++];

        if (at != from && BIT_OF(at) & SAVING && !session) {
            continue;           /* a session begins and ends at either end */
        }
        for (s = 1; s < VFIO_DEVICE_STATE_NR; s++) {
            if (arcs[at] & BIT_OF(s) && !first[s] && s != from) {
                first[s] = at == from ? s : first[at];
                queue[tail++] = s;
            }
        }
    }
    return first[to];
}

static bool offered(uint32_t flags, unsigned state)
{
    return !((state == S(RUNNING_P2P) || state == S(PRE_COPY_P2P)) &&
             !(flags & VFIO_MIGRATION_P2P)) &&
           !((state == S(PRE_COPY) || state == S(PRE_COPY_P2P)) &&
             !(flags & VFIO_MIGRATION_PRE_COPY));
}

static int set_state(FakeMig *m, struct vfio_device_feature_mig_state *set)
{
    const FakeDeviceControl *d = &fake_control.device[m->index];
    unsigned from = m->state, to = set->device_state;
    int ret = 0, had = m->fd;

    set->data_fd = -1;
    if (to >= VFIO_DEVICE_STATE_NR || to == S(ERROR) || from == S(ERROR) ||
        !offered(d->migration, to)) {
        return -EINVAL;
    }
    if (d->arc_error && d->arc_from == from && d->arc_to == to &&
        m->arc_failed < d->arc_times) {
        m->arc_failed++;
        if (d->arc_end != from) {
            m->state = d->arc_end;
            end_session(m);
        }
        ret = -d->arc_error;
    }
    while (!ret && m->state != to) {
        unsigned s = next_state(m->state, to);

        /* what is not offered is passed through */
        ret = s == S(ERROR) ? -EINVAL : step(m, s);
    }
    if (!ret && m->fd != had) {
        set->data_fd = m->fd;
    }
    fake_log("mig %u %s -> %s = %d", m->index, names[from], names[to], ret);
    return ret;
}

static int check_feature(const struct vfio_device_feature *feature,
                         uint32_t allowed, size_t size)
{
    uint32_t ops = feature->flags & (VFIO_DEVICE_FEATURE_GET |
                                     VFIO_DEVICE_FEATURE_SET);

    if (ops & ~allowed ||
        (!(feature->flags & VFIO_DEVICE_FEATURE_PROBE) &&
         (!ops || ops == (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET) ||
          feature->argsz < sizeof(*feature) + size))) {
        return -EINVAL;
    }
    return 0;
}

int fake_mig_feature(FakeMig *m, struct vfio_device_feature *feature)
{
    const FakeDeviceControl *d = &fake_control.device[m->index];
    struct vfio_device_feature_migration offer = { .flags = d->migration };
    struct vfio_device_feature_mig_data_size size = {
        .stop_copy_length = TOTAL,
    };
    struct vfio_device_feature_mig_state now = {
        .device_state = m->state,
        .data_fd = -1,
    };
    uint32_t get = VFIO_DEVICE_FEATURE_GET, set = VFIO_DEVICE_FEATURE_SET;
    int ret;

    if (!d->migration) {
        return -ENOTTY;
    }
    switch (feature->flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
        ret = check_feature(feature, get, sizeof(offer));
        if (!ret && feature->flags & get) {
            memcpy(feature->data, &offer, sizeof(offer));
        }
        return ret;
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
        ret = check_feature(feature, get, sizeof(size));
        if (!ret && feature->flags & get) {
            memcpy(feature->data, &size, sizeof(size));
        }
        return ret;
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
        ret = check_feature(feature, get | set, sizeof(now));
        if (ret || feature->flags & VFIO_DEVICE_FEATURE_PROBE) {
            return ret;
        }
        if (feature->flags & set) {
            memcpy(&now, feature->data, sizeof(now));
            ret = set_state(m, &now);
        }
        memcpy(feature->data, &now, sizeof(now));
        return ret;
    default:
        return -ENOTTY;
    }
}

/* The descriptor of a session */

ssize_t fake_mig_read(int fd, void *buf, size_t size)
{
    FakeMig *m = session_of(fd);
    const FakeDeviceControl *d = &fake_control.device[m->index];

    if (m->disabled) {
        return -ENODEV;
    }
    if (m->state == S(RESUMING)) {
        return -EBADF;
    }
    if (d->read_error && m->state == S(STOP_COPY)) {
        if (d->read_error == ENODEV) {
            fake_mig_reset(m);
        }
        return -d->read_error;
    }
    size = MIN(size, m->filled - m->at);
    if (!size) {
        return m->state == S(STOP_COPY) ? 0 : -ENOMSG;
    }
    memcpy(buf, m->data + m->at, size);
    m->at += size;
    return size;
}

/* In pieces, as it may */
ssize_t fake_mig_write(int fd, const void *buf, size_t size)
{
    FakeMig *m = session_of(fd);

    if (m->disabled) {
        return -ENODEV;
    }
    if (m->state != S(RESUMING)) {
        return -EBADF;
    }
    if (size > TOTAL - m->filled) {
        return -ENOMEM;
    }
    size = MIN(size, 3000);
    memcpy(m->data + m->filled, buf, size);
    m->filled += size;
    return size;
}

int fake_mig_ioctl(int fd, unsigned long request, void *arg)
{
    FakeMig *m = session_of(fd);
    struct vfio_precopy_info *info = arg;

    if (request != VFIO_MIG_GET_PRECOPY_INFO) {
        return -ENOTTY;
    }
    if (info->argsz < sizeof(*info) ||
        !(m->state == S(PRE_COPY) || m->state == S(PRE_COPY_P2P))) {
        return -EINVAL;
    }
    if (m->disabled) {
        return -ENODEV;
    }
    info->flags = 0;
    info->initial_bytes = m->filled - m->at;
    info->dirty_bytes = 0;
    return 0;
}
