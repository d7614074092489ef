/*
 * A host for QEMU with the fake iommufd kernel preloaded
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A temporary directory with the fake's control and log files and a sysfs of
 * devices; starting QEMU in it; reading the log.  See fake-iommufd.h for the
 * control and for the log.
 */

#ifndef TESTS_QTEST_FAKE_IOMMUFD_ENV_H
#define TESTS_QTEST_FAKE_IOMMUFD_ENV_H

#include "libqtest.h"

typedef struct FakeEnv {
    char *dir, *control, *log, *messages, *sysfs;
} FakeEnv;

/* What the log says of the mappings that were made and dropped */
typedef struct FakeMaps {
    uint64_t mapped_rw, mapped_ro, unmapped;    /* bytes, all together */
    uint64_t copied;                            /* not in the above */
    uint64_t live_low;                          /* bytes left below 2 GiB */
    uint64_t lowest, highest;                   /* IOVAs touched */
    unsigned maps, unmaps, failed;
} FakeMaps;

/*
 * Two devices, 0000:65:00.0 and 0000:65:00.1, with the cdevs vfio0 and vfio1,
 * bound to vfio-pci, in IOMMU groups 7 and 8.  Tests run one at a time, so
 * there is one environment.
 */
FakeEnv *fake_env_new(void);
void fake_env_free(FakeEnv *env);

/* Replaces the control; all counters start again */
void fake_env_control(FakeEnv *env, const char *text);

/* Run shell commands in the directory of a device: how its sysfs differs */
void fake_env_sysfs(FakeEnv *env, const char *bdf, const char *commands);

/* The log since the last call, for g_free() */
char *fake_env_take_log(FakeEnv *env);
FakeMaps fake_env_maps(const char *log);

/* What calc-dirty-rate finds, in MiB/s; waits for its end */
int64_t fake_env_dirty_rate(QTestState *qts);
unsigned fake_env_count(const char *log, const char *what);

/* A running QEMU, or one that is expected to refuse its command line */
QTestState *fake_env_start(FakeEnv *env, const char *args);

/* A running QEMU whose messages are kept, and what it said, for g_free() */
QTestState *fake_env_start_heard(FakeEnv *env, const char *args);
char *fake_env_said(FakeEnv *env);

/* Is the VM's status this one?  Wait until it is */
bool fake_env_has_status(QTestState *qts, const char *status);
void fake_env_wait_status(QTestState *qts, const char *status);

/* Save the running VM, end it, and load it into the QEMU that is returned */
QTestState *fake_env_reload(FakeEnv *env, QTestState *qts, const char *args);
char *fake_env_start_fails(FakeEnv *env, const char *args);

#endif
