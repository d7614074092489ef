/*
 * Address-space side of VFIO over iommufd: when memory cannot be mapped
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the words for it, and what follows.  While a device is being attached
 * the failure becomes that device's error.  Later the VM stops rather than let
 * a device write to nowhere, with one line that says which range, why, and
 * what to do; `cont` tries again (ioas-listener.c).
 *
 * Kernel facts: locked memory is counted when memory is pinned, per user or
 * per process (IOMMU_OPTION_RLIMIT_MODE), and not at all for who has
 * CAP_IPC_LOCK in the initial user namespace.  So what one VM needs can be
 * compared with the limit beforehand; what others of the same user have locked
 * cannot be known.
 */

#include "qemu/osdep.h"
#include <sys/resource.h>

#include "ioas.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "hw/core/cpu.h"
#include "sysemu/cpus.h"
#include "trace.h"

/* include/linux/proc_ns.h: the inode number of the initial user namespace */
#define INIT_USER_NS 0xeffffffdU
#define CAP_IPC_LOCK_BIT (1ULL << 14)

/*
 * The VM stops with "io-error", the state that means "an external resource ran
 * out, continue when it is there again": `cont` is refused in internal-error.
 */
static void vfio_ioas_stop_vm(void)
{
    if (!runstate_is_running()) {
        return;
    }
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(RUN_STATE_IO_ERROR);
    if (current_cpu) {
        cpu_stop_current();
    }
}

bool vfio_ioas_complete(const VFIOIOAS *ioas)
{
    return !ioas->incomplete && (!ioas->base || !ioas->base->incomplete);
}

void vfio_ioas_fail(VFIOIOAS *ioas, Error *err)
{
    if (!ioas->listening) {
        if (ioas->setup_error) {
            error_free(err);
        } else {
            ioas->setup_error = err;
        }
        return;
    }

    if (ioas->incomplete) {
        error_free(err);        /* one line until it is complete again */
        return;
    }
    ioas->incomplete = true;
    error_reportf_err(err, "vfio: %s'cont' tries again: ",
                      runstate_is_running() ? "VM stopped, " : "");
    vfio_ioas_stop_vm();
}

/* Is locked memory counted for this process? */
static bool vfio_ioas_counts_memlock(void)
{
    g_autofree char *status = NULL;
    const char *caps, *end;
    uint64_t effective;
    struct stat st;

    if (!g_file_get_contents("/proc/self/status", &status, NULL, NULL)) {
        return false;           /* not known */
    }
    caps = strstr(status, "\nCapEff:");
    if (!caps ||
        qemu_strtou64(caps + strlen("\nCapEff:"), &end, 16, &effective) < 0) {
        return false;
    }
    if (!(effective & CAP_IPC_LOCK_BIT)) {
        return true;
    }
    /* A kernel without user namespaces has none there */
    return !stat("/proc/self/ns/user", &st) && st.st_ino != INIT_USER_NS;
}

bool vfio_ioas_exceeds_memlock(uint64_t bytes)
{
    struct rlimit limit;

    return !getrlimit(RLIMIT_MEMLOCK, &limit) &&
           limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur &&
           vfio_ioas_counts_memlock();
}

/* What the host's administrator can do about -ENOMEM, as a phrase */
static char *vfio_ioas_explain_enomem(VFIOIOAS *ioas)
{
    g_autoptr(GArray) wanted = vfio_ioas_wanted(ioas->base ?: ioas);
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY) {
        return g_strdup("the host is out of memory");
    }
    return g_strdup_printf("%" PRIu64 " KiB of locked memory are needed, the "
                           "limit is %" PRIu64 " KiB: raise RLIMIT_MEMLOCK "
                           "(ulimit -l, LimitMEMLOCK=)",
                           vfio_map_bytes(wanted) / KiB,
                           (uint64_t)limit.rlim_cur / KiB);
}

static char *vfio_ioas_explain_range(VFIOIOAS *ioas)
{
    GString *s = g_string_new("the IOMMU translates only");
    uint32_t i;

    for (i = 0; i < ioas->nr_ranges; i++) {
        g_string_append_printf(s, " [0x%" PRIx64 ", 0x%" PRIx64 "]",
                               ioas->ranges[i].start, ioas->ranges[i].last);
    }
    g_string_append(s, ": give the guest less memory or move it");
    return g_string_free(s, false);
}

Error *vfio_ioas_map_error(VFIOIOAS *ioas, const char *region,
                           uint64_t iova, uint64_t last, int ret)
{
    g_autofree char *why = NULL;
    Error *err = NULL;

    switch (ret) {
    case -ENOMEM:
        why = vfio_ioas_explain_enomem(ioas);
        break;
    case -ERANGE:
        why = vfio_ioas_explain_range(ioas);
        break;
    default:
        why = g_strdup_printf("IOMMU_IOAS_MAP: %s", strerror(-ret));
    }
    error_setg(&err, "cannot map guest memory [0x%" PRIx64 ", 0x%" PRIx64
               "] ('%s') for DMA: %s", iova, last, region, why);
    return err;
}

void vfio_ioas_map_failed(VFIOIOAS *ioas, const char *region,
                          uint64_t iova, uint64_t last, int ret)
{
    trace_vfio_ioas_map_failed(ioas->id, region, iova, last, ret);
    if (vfio_base_only(ioas)) {
        return;                 /* who needs it maps it, or says so */
    }
    vfio_ioas_note_failed(ioas, region, iova, last, ret);
    vfio_ioas_fail(ioas, vfio_ioas_map_error(ioas, region, iova, last, ret));
}
