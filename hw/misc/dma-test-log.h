/*
 * dma-test: the log of what it has written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MISC_DMA_TEST_LOG_H
#define HW_MISC_DMA_TEST_LOG_H

typedef struct DMATestLog DMATestLog;

/**
 * dma_test_log_new - begin to log writes to some ranges of IOVAs
 * @granule: bytes for which there is a bit, a power of two, 4 KiB to 1 GiB
 * @ranges: @n pairs of iova and length, both in bytes, multiples of @granule
 *
 * Returns NULL if any of it is not as it should be, or there are more than
 * DMA_TEST_LOG_MAX_PAGES bits.
 */
DMATestLog *dma_test_log_new(uint64_t granule, const uint64_t *ranges,
                             uint64_t n);

/* NULL is fine */
void dma_test_log_free(DMATestLog *log);

/**
 * dma_test_log_write - @size bytes at @iova are written
 *
 * Returns how many pages of these are in no range.
 */
uint64_t dma_test_log_write(DMATestLog *log, uint64_t iova, uint64_t size);

/**
 * dma_test_log_report - move the bits of @pages pages from @iova on to @bits
 * @bits: little-endian, in words of 64; pages in no range are clean
 *
 * Returns false, and changes nothing, if @iova is no multiple of the granule.
 */
bool dma_test_log_report(DMATestLog *log, uint64_t iova, uint64_t pages,
                         uint8_t *bits);

#endif
