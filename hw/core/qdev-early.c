/*
 * Devices of the command line that have something to begin early
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the list of who registered, which only grows while types are
 * registered.
 */

#include "qemu/osdep.h"
#include "hw/qdev-early.h"

static GHashTable *early_drivers;       /* name -> QDevEarly */

void qdev_register_early(const char *driver, QDevEarly *early)
{
    if (!early_drivers) {
        early_drivers = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_hash_table_insert(early_drivers, (gpointer)driver, early);
}

void qdev_begin_early(const QDict *options)
{
    const char *driver = qdict_get_try_str(options, "driver");
    QDevEarly *early = driver && early_drivers ?
                       g_hash_table_lookup(early_drivers, driver) : NULL;

    if (early) {
        early(options);
    }
}
