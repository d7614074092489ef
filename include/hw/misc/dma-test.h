/*
 * dma-test: a PCI device whose DMA, interrupts and state can be predicted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What its registers mean is in docs/devel/dma-test.rst. Numbers only: the
 * device, its tests and the driver in tests/host/dma-test-vfio include it.
 */

#ifndef HW_MISC_DMA_TEST_H
#define HW_MISC_DMA_TEST_H

#define DMA_TEST_VENDOR_ID      0x1234
#define DMA_TEST_DEVICE_ID      0x11e9

#define DMA_TEST_BAR            0       /* the guest's */
#define DMA_TEST_MSIX_BAR       2
#define DMA_TEST_MEMORY_SIZE    0x4000  /* of this BAR, with memory=on */
#define DMA_TEST_MEMORY_HOLE    0x1000  /* a page in it: the MSI-X table */
#define DMA_TEST_HOST_BAR       4       /* the host driver's only */

#define DMA_TEST_ID_VALUE       0x3154534554414d44ull   /* "DMATEST1" */
#define DMA_TEST_MAX_RANGES     16
#define DMA_TEST_UNIT           64

/* BAR 0 */
#define DMA_TEST_BAR_SIZE       0x1000
#define DMA_TEST_ID             0x00
#define DMA_TEST_CONTROL        0x08
#define DMA_TEST_RUN            1
#define DMA_TEST_COPY           2
#define DMA_TEST_STATUS         0x10
#define DMA_TEST_BUSY           1
#define DMA_TEST_FAULT          2
#define DMA_TEST_DONE           4
#define DMA_TEST_INTERVAL       0x18
#define DMA_TEST_BURST          0x20
#define DMA_TEST_LIMIT          0x28
#define DMA_TEST_SEQUENCE       0x30
#define DMA_TEST_IRQ_EVERY      0x38
#define DMA_TEST_NRANGES        0x40
#define DMA_TEST_RAISE          0x48
#define DMA_TEST_RANGE(i)       (0x100 + 32 * (i))
#define DMA_TEST_DST            0x00
#define DMA_TEST_SIZE           0x08
#define DMA_TEST_STRIDE         0x10
#define DMA_TEST_SRC            0x18

/* BAR 4 */
#define DMA_TEST_HOST_BAR_SIZE  0x10000
#define DMA_TEST_H_ID           0x00
#define DMA_TEST_H_FREEZE       0x08
#define DMA_TEST_RUNNING        0
#define DMA_TEST_QUIESCED       1
#define DMA_TEST_STOPPED        2
#define DMA_TEST_H_VIOLATIONS   0x10
#define DMA_TEST_H_STATE        0x18
#define DMA_TEST_SAVE           1
#define DMA_TEST_LOAD           2
#define DMA_TEST_H_RESULT       0x20
#define DMA_TEST_OK             0
#define DMA_TEST_REFUSED        1
#define DMA_TEST_MALFORMED      2
#define DMA_TEST_H_STATE_SIZE   0x28
#define DMA_TEST_H_LOG          0x30
#define DMA_TEST_LOG_STOP       0
#define DMA_TEST_LOG_START      1
#define DMA_TEST_LOG_REPORT     2
#define DMA_TEST_H_LOG_STATUS   0x38
#define DMA_TEST_H_LOG_GRANULE  0x40
#define DMA_TEST_H_LOG_NRANGES  0x48
#define DMA_TEST_H_LOG_MAX      0x50
#define DMA_TEST_H_LOG_IOVA     0x58
#define DMA_TEST_H_LOG_PAGES    0x60
#define DMA_TEST_H_LOG_MISSED   0x68
#define DMA_TEST_H_LOG_RANGE(i) (0x100 + 16 * (i))
#define DMA_TEST_H_WINDOW       0x8000
#define DMA_TEST_H_WINDOW_SIZE  0x8000

#define DMA_TEST_LOG_MAX_PAGES  (1u << 24)

/* The state, 64-bit words, little-endian */
#define DMA_TEST_STATE_VERSION  1
#define DMA_TEST_STATE_WORDS    (12 + 4 * DMA_TEST_MAX_RANGES)

#endif
