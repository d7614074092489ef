/*
 * Device side of VFIO over iommufd: which descriptor belongs to which device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: a descriptor given by getfd, from the moment its name is used up until
 * cdev.c takes it (VFIODevice.passed).  Else it owns nothing, and reads sysfs
 * and, to explain a failure, /proc.  A device that
 * is bound to a vfio driver has a directory vfio-dev/vfioN in sysfs (Linux
 * 6.1); its file `dev` has major:minor of the cdev, and exists only with
 * CONFIG_VFIO_DEVICE_CDEV (6.6) and for devices with an IOMMU.  The node is
 * /dev/vfio/devices/vfioN; a container may have the sysfs entry but no node.
 */

#include "qemu/osdep.h"
#include <sys/sysmacros.h>

#include "cdev.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qemu/ctype.h"

char *vfio_cdev_link(const char *sysfsdev, const char *link)
{
    g_autofree char *path = g_build_filename(sysfsdev, link, NULL);
    g_autofree char *target = g_file_read_link(path, NULL);

    return target ? g_path_get_basename(target) : NULL;
}

bool vfio_cdev_is_mdev(const char *sysfsdev)
{
    g_autofree char *subsystem = vfio_cdev_link(sysfsdev, "subsystem");

    return !g_strcmp0(subsystem, "mdev");
}

static bool vfio_cdev_is_noiommu(const char *sysfsdev)
{
    g_autofree char *path = g_build_filename(sysfsdev, "iommu_group", "name",
                                             NULL);
    g_autofree char *name = NULL;

    return g_file_get_contents(path, &name, NULL, NULL) &&
           g_str_has_prefix(name, "vfio-noiommu");
}

char *vfio_cdev_sysfsdev(int fd)
{
    g_autofree char *link = NULL;
    g_autofree char *path = NULL;
    g_autofree char *class = NULL;
    g_autofree char *parent = NULL;
    char *real;
    struct stat st;

    if (fstat(fd, &st) || !S_ISCHR(st.st_mode)) {
        return NULL;
    }
    /* -> /sys/devices/.../0000:65:00.0/vfio-dev/vfio0 */
    link = g_strdup_printf("/sys/dev/char/%u:%u", major(st.st_rdev),
                           minor(st.st_rdev));
    real = realpath(link, NULL);
    path = g_strdup(real ?: "");
    free(real);
    parent = g_path_get_dirname(path);
    class = g_path_get_basename(parent);
    return strcmp(class, "vfio-dev") ? NULL : g_path_get_dirname(parent);
}

bool vfio_cdev_take_fd(VFIODevice *vbasedev, bool named, Error **errp)
{
    g_autofree char *sysfsdev = NULL;
    g_autofree char *what = NULL;
    int fd;

    if (!vbasedev->iommufd && !qemu_uuid_is_null(&vbasedev->vf_token)) {
        error_setg(errp, "vf-token= needs iommufd=: name the iommufd object "
                   "that the device shall use");
        return false;
    }
    if (!vbasedev->fd_param || vbasedev->passed) {
        return true;
    }
    if (!vbasedev->iommufd) {
        error_setg(errp, "fd= needs iommufd=: name the iommufd object that "
                   "the device shall use");
        return false;
    }

    fd = monitor_fd_param(monitor_cur(), vbasedev->fd_param, errp);
    if (fd < 0) {
        return false;
    }
    vbasedev->passed = g_new(VFIOPassedFD, 1);
    vbasedev->passed->fd = fd;
    vbasedev->passed->ours = !qemu_isdigit(vbasedev->fd_param[0]);

    sysfsdev = vfio_cdev_sysfsdev(fd);
    if (!sysfsdev) {
        what = iommufd_fd_name(fd);
        error_setg(errp, "fd '%s' is %s, not a VFIO device: pass a descriptor "
                   "of /dev/vfio/devices/vfioN", vbasedev->fd_param, what);
        return false;
    }
    if (!named && !vbasedev->sysfsdev) {
        vbasedev->sysfsdev = g_steal_pointer(&sysfsdev);
    }
    return true;
}

void vfio_cdev_drop_fd(VFIODevice *vbasedev)
{
    if (vbasedev->passed && vbasedev->passed->ours) {
        close(vbasedev->passed->fd);
    }
    g_clear_pointer(&vbasedev->passed, g_free);
}

/* Why is there no cdev? */
static void vfio_cdev_explain_none(const char *sysfsdev, bool vfio_dev,
                                   Error **errp)
{
    g_autofree char *driver = vfio_cdev_link(sysfsdev, "driver");
    g_autofree char *group = vfio_cdev_link(sysfsdev, "iommu_group");

    if (!driver) {
        error_setg(errp, "no driver is bound to the device: bind it to "
                   "vfio-pci (driverctl set-override, or driver_override in "
                   "sysfs)");
    } else if (!vfio_dev && !strstr(driver, "vfio") &&
               !strstr(driver, "mdev")) {
        error_setg(errp, "the device is bound to driver '%s', which is not a "
                   "vfio driver: bind it to vfio-pci", driver);
    } else if (!group) {
        error_setg(errp, "the device has no IOMMU: turn the IOMMU on in the "
                   "host's firmware and kernel");
    } else if (vfio_cdev_is_noiommu(sysfsdev)) {
        error_setg(errp, "the device is in noiommu mode, which exists for "
                   "groups only and which QEMU cannot use: turn the IOMMU on "
                   "in the host's firmware and kernel");
    } else {
        error_setg(errp, "the host's kernel offers no VFIO cdev for the "
                   "device: this needs Linux 6.6 or later with "
                   "CONFIG_VFIO_DEVICE_CDEV; without iommufd= the VFIO group "
                   "is used");
    }
}

char *vfio_cdev_node(const char *sysfsdev, dev_t *rdev, Error **errp)
{
    g_autofree char *dir_path = g_build_filename(sysfsdev, "vfio-dev", NULL);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    g_autofree char *dev_path = NULL;
    g_autofree char *numbers = NULL;
    const char *entry = NULL;
    unsigned major, minor;

    while (dir && (entry = g_dir_read_name(dir)) &&
           !g_str_has_prefix(entry, "vfio")) {
        /* next */
    }
    if (!entry) {
        vfio_cdev_explain_none(sysfsdev, false, errp);
        return NULL;
    }

    dev_path = g_build_filename(dir_path, entry, "dev", NULL);
    if (!g_file_get_contents(dev_path, &numbers, NULL, NULL) ||
        sscanf(numbers, "%u:%u", &major, &minor) != 2) {
        vfio_cdev_explain_none(sysfsdev, true, errp);
        return NULL;
    }
    *rdev = makedev(major, minor);
    return g_build_filename("/dev/vfio/devices", entry, NULL);
}

int vfio_cdev_open(const char *node, dev_t rdev, Error **errp)
{
    int fd = qemu_open_old(node, O_RDWR);
    struct stat st;

    if (fd < 0) {
        switch (errno) {
        case ENOENT:
            error_setg(errp, "%s is missing although the kernel has the "
                       "device: make the node (major %u, minor %u) available "
                       "in QEMU's /dev, or pass a descriptor", node,
                       major(rdev), minor(rdev));
            break;
        case EACCES:
        case EPERM:
            error_setg(errp, "no permission to open %s: give QEMU's user read "
                       "and write access to it", node);
            break;
        default:
            error_setg_errno(errp, errno, "cannot open %s", node);
        }
        return -1;
    }

    if (fstat(fd, &st) || !S_ISCHR(st.st_mode) || st.st_rdev != rdev) {
        error_setg(errp, "%s is not the node of this device: sysfs says major "
                   "%u, minor %u", node, major(rdev), minor(rdev));
        close(fd);
        return -1;
    }
    return fd;
}

/* Does the process @pid (not this one) have the character device open? */
static bool vfio_cdev_is_open_in(const char *pid, dev_t rdev)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *entry;

    while (dir && (entry = g_dir_read_name(dir))) {
        g_autofree char *fd = g_build_filename(path, entry, NULL);
#ifdef CONFIG_STATX
        struct statx st;

        /* Whatever it has open: a dead server's file must not keep us */
        if (!statx(AT_FDCWD, fd, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
                   STATX_TYPE, &st) && S_ISCHR(st.stx_mode) &&
            makedev(st.stx_rdev_major, st.stx_rdev_minor) == rdev) {
            return true;
        }
#else
        struct stat st;

        if (!stat(fd, &st) && S_ISCHR(st.st_mode) && st.st_rdev == rdev) {
            return true;
        }
#endif
    }
    return false;
}

static char *vfio_cdev_find_holder(dev_t rdev)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *pid;

    while (proc && (pid = g_dir_read_name(proc))) {
        g_autofree char *path = g_build_filename("/proc", pid, "comm", NULL);
        g_autofree char *comm = NULL;

        if (g_ascii_isdigit(pid[0]) && atoi(pid) != getpid() &&
            vfio_cdev_is_open_in(pid, rdev) &&
            g_file_get_contents(path, &comm, NULL, NULL)) {
            return g_strdup_printf("process %s (%s)", pid, g_strstrip(comm));
        }
    }
    return NULL;
}

/* Another device of the group that a host driver has, as "0000:01:00.1" */
static char *vfio_cdev_find_partner(const char *sysfsdev, char **driver)
{
    g_autofree char *path = g_build_filename(sysfsdev, "iommu_group", "devices",
                                             NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *entry;

    while (dir && (entry = g_dir_read_name(dir))) {
        g_autofree char *dev = g_build_filename(path, entry, NULL);

        *driver = vfio_cdev_link(dev, "driver");
        if (*driver && !strstr(*driver, "vfio") &&
            strcmp(*driver, "pcieport") && strcmp(*driver, "pci-stub")) {
            return g_strdup(entry);
        }
        g_clear_pointer(driver, g_free);
    }
    return NULL;
}

void vfio_cdev_hint_no_groups(Error **errp)
{
    if (errp && *errp && !access("/sys/class/vfio-dev", F_OK) &&
        access("/sys/class/vfio", F_OK)) {
        error_append_hint(errp, "This kernel has no VFIO groups "
                          "(CONFIG_VFIO_GROUP): add -object iommufd,"
                          "id=iommufd0, and iommufd=iommufd0 to the "
                          "device.\n");
    }
}

char *vfio_cdev_explain_open(dev_t rdev)
{
    g_autofree char *holder = vfio_cdev_find_holder(rdev);

    return holder ? g_strdup_printf("%s has the device open", holder) : NULL;
}

char *vfio_cdev_explain_busy(const char *sysfsdev, dev_t rdev)
{
    g_autofree char *group = vfio_cdev_link(sysfsdev, "iommu_group");
    g_autofree char *node = g_build_filename("/dev/vfio", group ?: "", NULL);
    g_autofree char *driver = NULL;
    g_autofree char *holder = NULL;
    g_autofree char *partner = NULL;
    struct stat st;

    if (group && !stat(node, &st) && S_ISCHR(st.st_mode)) {
        holder = vfio_cdev_find_holder(st.st_rdev);
        if (holder) {
            return g_strdup_printf("%s has its VFIO group open (%s)", holder,
                                   node);
        }
    }
    partner = vfio_cdev_find_partner(sysfsdev, &driver);
    if (partner) {
        return g_strdup_printf("%s in the same IOMMU group is used by host "
                               "driver '%s': bind it to vfio-pci too", partner,
                               driver);
    }
    return g_strdup("its VFIO group is open, in this VM (a device without "
                    "iommufd=) or another");
}

static bool vfio_cdev_is_attached(dev_t rdev)
{
    VFIOCdev *cdev;

    QLIST_FOREACH(cdev, &vfio_cdevs, next) {
        if (cdev->rdev == rdev) {
            return true;
        }
    }
    return false;
}

char *vfio_cdev_explain_eperm(const char *sysfsdev, dev_t rdev)
{
    g_autofree char *path = g_build_filename(sysfsdev, "iommu_group", "devices",
                                             NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    bool partners = false;
    const char *entry;

    while (dir && (entry = g_dir_read_name(dir))) {
        g_autofree char *dev = g_build_filename(path, entry, NULL);
        dev_t other = 0;
        g_autofree char *node = vfio_cdev_node(dev, &other, NULL);
        g_autofree char *holder = NULL;

        if (!node || other == rdev) {
            continue;
        }
        if (vfio_cdev_is_attached(other)) {
            return g_strdup_printf("%s in the same IOMMU group uses another "
                                   "iommufd object: name that one", entry);
        }
        holder = vfio_cdev_find_holder(other);
        if (holder) {
            return g_strdup_printf("%s has %s open, which is in the same IOMMU "
                                   "group", holder, entry);
        }
        partners = true;
    }
    return g_strdup_printf("%sinterrupts cannot be isolated on this host: "
                           "enable interrupt remapping, or accept the risk "
                           "with iommufd.allow_unsafe_interrupts=1", partners ?
                           "its IOMMU group is used through another iommufd, "
                           "or " : "");
}

char *vfio_cdev_explain_attach(const VFIOCdev *cdev)
{
    g_autofree char *group = vfio_cdev_link(cdev->sysfsdev, "iommu_group");
    const VFIOCdev *other;

    QLIST_FOREACH(other, &vfio_cdevs, next) {
        g_autofree char *its = vfio_cdev_link(other->sysfsdev, "iommu_group");

        if (other->be == cdev->be && other->ioas != cdev->ioas &&
            group && !g_strcmp0(group, its)) {
            return g_strdup_printf("%s in the same IOMMU group is behind a "
                                   "guest IOMMU in an address space of its "
                                   "own: put both behind one pcie-pci-bridge",
                                   other->name);
        }
    }
    return g_strdup("the IOMMU cannot give the device the guest's memory map; "
                    "see the host's kernel log");
}
