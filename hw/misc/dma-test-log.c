/*
 * dma-test: the log of what it has written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the ranges and their bits.  Who may write what is not known here.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "hw/misc/dma-test.h"
#include "dma-test-log.h"

typedef struct DMATestLogRange {
    uint64_t first, pages;
    unsigned long *dirty;
} DMATestLogRange;

struct DMATestLog {
    uint64_t granule, n;
    DMATestLogRange range[];
};

static bool dma_test_log_fits(uint64_t granule, const uint64_t *ranges,
                              uint64_t n)
{
    uint64_t i, sum = 0;

    if (!n || !is_power_of_2(granule) || granule < 4 * KiB ||
        granule > 1 * GiB) {
        return false;
    }
    for (i = 0; i < n; i++) {
        uint64_t iova = ranges[2 * i], size = ranges[2 * i + 1];

        if (!size || (iova | size) % granule || iova + size - 1 < iova ||
            size / granule > DMA_TEST_LOG_MAX_PAGES - sum) {
            return false;
        }
        sum += size / granule;
    }
    return true;
}

DMATestLog *dma_test_log_new(uint64_t granule, const uint64_t *ranges,
                             uint64_t n)
{
    DMATestLog *log;
    uint64_t i;

    if (!dma_test_log_fits(granule, ranges, n)) {
        return NULL;
    }
    log = g_malloc(sizeof(*log) + n * sizeof(log->range[0]));
    log->granule = granule;
    log->n = n;
    for (i = 0; i < n; i++) {
        log->range[i].first = ranges[2 * i] / granule;
        log->range[i].pages = ranges[2 * i + 1] / granule;
        log->range[i].dirty = bitmap_new(log->range[i].pages);
    }
    return log;
}

void dma_test_log_free(DMATestLog *log)
{
    uint64_t i;

    for (i = 0; log && i < log->n; i++) {
        g_free(log->range[i].dirty);
    }
    g_free(log);
}

uint64_t dma_test_log_write(DMATestLog *log, uint64_t iova, uint64_t size)
{
    uint64_t last = (iova + size - 1) / log->granule;
    uint64_t p, i, missed = 0;

    for (p = iova / log->granule; p <= last; p++) {
        for (i = 0; i < log->n; i++) {
            uint64_t page = p - log->range[i].first;

            if (page < log->range[i].pages) {
                set_bit(page, log->range[i].dirty);
                break;
            }
        }
        missed += i == log->n;
    }
    return missed;
}

bool dma_test_log_report(DMATestLog *log, uint64_t iova, uint64_t pages,
                         uint8_t *bits)
{
    uint64_t p, i;

    if (iova % log->granule) {
        return false;
    }
    memset(bits, 0, DIV_ROUND_UP(pages, 64) * 8);
    for (p = 0; p < pages; p++) {
        for (i = 0; i < log->n; i++) {
            uint64_t page = iova / log->granule + p - log->range[i].first;

            if (page < log->range[i].pages &&
                test_and_clear_bit(page, log->range[i].dirty)) {
                bits[p / 8] |= 1 << p % 8;
            }
        }
    }
    return true;
}
