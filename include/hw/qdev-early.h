/*
 * Devices of the command line that have something to begin early
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * -device makes its devices one after the other, when the machine is there.
 * A device that has to wait for something which needs no machine can begin
 * with it when accelerators and objects exist, so that all devices wait at
 * the same time and while the machine is made.
 *
 * It is a head start and nothing else: nobody has checked the options, and
 * the device may never be created.  What begins must not report anything, and
 * what came of it is for the device's realize() to find, or not.
 */

#ifndef HW_QDEV_EARLY_H
#define HW_QDEV_EARLY_H

#include "qapi/qmp/qdict.h"

/* @options: of one -device, as they were written: strings, or JSON */
typedef void QDevEarly(const QDict *options);

/**
 * qdev_register_early - have @early called for each -device of type @driver
 * @driver: must live for ever
 *
 * To be called by a type_init() function.
 */
void qdev_register_early(const char *driver, QDevEarly *early);

/**
 * qdev_begin_early - a device with these options will be created later
 */
void qdev_begin_early(const QDict *options);

#endif
