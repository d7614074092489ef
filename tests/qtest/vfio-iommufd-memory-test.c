/*
 * QTest testcase for memory that a VFIO device over iommufd reaches piece by
 * piece: behind a guest IOMMU, or plugged by virtio-mem
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a guest does to its IOMMU and to a virtio-mem device is done from here,
 * through guest memory and registers; what QEMU asks of the kernel is read from
 * the log of the fake one (fake-iommufd.h).
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_iommu.h"
#include "standard-headers/linux/virtio_mem.h"
#include "standard-headers/linux/virtio_ring.h"
#include "fake-iommufd-env.h"

#define BDF         "0000:65:00.0"
#define DEVICE      "-object iommufd,id=iommufd0,map-background=off " \
                    "-device vfio-pci,host=" BDF ",iommufd=iommufd0,addr=5"
#define Q35         "-machine q35 -nodefaults "
#define REGION      "'vtd-05.0-dmar'"
#define STOPPED     "vfio: VM stopped, 'cont' tries again: "

static FakeEnv *env;
static QTestState *qts;
static QGuestAllocator alloc;

static void start(const char *control, const char *args)
{
    env = fake_env_new();
    fake_env_control(env, control);
    qts = fake_env_start_heard(env, args);
    pc_alloc_init(&alloc, qts, ALLOC_NO_FLAGS);
    g_free(fake_env_take_log(env));
}

static void end(void)
{
    alloc_destroy(&alloc);
    qtest_quit(qts);
    fake_env_free(env);
}

static void expect_log(const char *what)
{
    g_autofree char *log = fake_env_take_log(env);

    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, what));
}

static void expect_said(const char *what)
{
    g_autofree char *said = fake_env_said(env);

    g_assert_nonnull(strstr(said, what));
}

static void expect_running(void)
{
    g_assert_true(fake_env_has_status(qts, "running"));
}

static void cont(void)
{
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(qts, "RESUME");
}

/* A virtio device with one queue, in a slot */

typedef struct Virtio {
    QPCIBus *bus;
    QVirtioPCIDevice *dev;
    QVirtQueue *vq;
} Virtio;

static Virtio virtio_start(int slot)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(slot, 0) };
    Virtio v = { .bus = qpci_new_pc(qts, NULL) };
    uint64_t features;

    v.dev = virtio_pci_new(v.bus, &address);
    g_assert_nonnull(v.dev);
    qvirtio_pci_device_enable(v.dev);
    qvirtio_start_device(&v.dev->vdev);
    features = qvirtio_get_features(&v.dev->vdev);
    qvirtio_set_features(&v.dev->vdev, features &
                         ~(QVIRTIO_F_BAD_FEATURE |
                           (1u << VIRTIO_RING_F_INDIRECT_DESC) |
                           (1u << VIRTIO_RING_F_EVENT_IDX)));
    v.vq = qvirtqueue_setup(&v.dev->vdev, &alloc, 0);
    qvirtio_set_driver_ok(&v.dev->vdev);
    g_free(fake_env_take_log(env));
    return v;
}

static void virtio_free(Virtio *v)
{
    qvirtqueue_cleanup(v->dev->vdev.bus, v->vq, &alloc);
    qvirtio_pci_device_disable(v->dev);
    qvirtio_pci_destructor(&v->dev->obj);
    g_free(v->dev);
    qpci_free_pc(v->bus);
}

/* What the device says to a request: the first word of its answer */
static unsigned virtio_ask(Virtio *v, const void *request, unsigned size,
                           unsigned answer)
{
    uint64_t at = guest_alloc(&alloc, size + answer);
    uint32_t head;

    qtest_memwrite(qts, at, request, size);
    head = qvirtqueue_add(qts, v->vq, at, size, false, true);
    qvirtqueue_add(qts, v->vq, at + size, answer, true, false);
    qvirtqueue_kick(qts, &v->dev->vdev, v->vq, head);
    qvirtio_wait_used_elem(qts, &v->dev->vdev, v->vq, head, NULL,
                           10 * G_USEC_PER_SEC);
    return qtest_readw(qts, at + size);
}

/* Intel's IOMMU: one page of IOVA for the device in slot 5, or slot 0 */

#define VTD(reg)    (0xfed90000 + (reg))
#define IOVA        0x5000

typedef struct Vtd {
    uint64_t pte;               /* the guest's entry for IOVA */
    uint64_t gib3;              /* the entry for the GiB from 0xc0000000 on */
} Vtd;

static uint64_t vtd_table(void)
{
    uint64_t table = guest_alloc(&alloc, 4096);

    qtest_memset(qts, table, 0, 4096);
    return table;
}

static Vtd vtd_tables(void)
{
    uint64_t table[5];
    int i;

    for (i = 0; i < 5; i++) {
        table[i] = vtd_table();
    }
    /* root, context (39 bits, domain 1), three levels */
    qtest_writeq(qts, table[0], table[1] | 1);
    for (i = 0; i <= 6; i++) {
        qtest_writeq(qts, table[1] + (i << 3) * 16, table[2] | 1);
        qtest_writeq(qts, table[1] + (i << 3) * 16 + 8, 1 << 8 | 1);
    }
    qtest_writeq(qts, table[2], table[3] | 3);
    qtest_writeq(qts, table[3], table[4] | 3);
    qtest_writeq(qts, VTD(0x20), table[0]);
    qtest_writel(qts, VTD(0x18), 1u << 30);
    return (Vtd) {
        .pte = table[4] + (IOVA >> 12) * 8,
        .gib3 = table[2] + 3 * 8,
    };
}

/* The entry for the large page at @iova, in the table of the GiB it is in */
static uint64_t vtd_large(uint64_t table, uint32_t iova)
{
    return table + iova % GiB / (2 * MiB) * 8;
}

static void vtd_enable(void)
{
    qtest_writel(qts, VTD(0x18), 1u << 31);
}

static void vtd_set(Vtd *vtd, uint64_t entry)
{
    qtest_writeq(qts, vtd->pte, entry);
    qtest_writeq(qts, VTD(0xf8), 1ull << 63 | 1ull << 60);
}

/* What happened to the log's mappings since the last look */
static FakeMaps maps(void)
{
    g_autofree char *log = fake_env_take_log(env);

    g_test_message("log: %s", log);
    return fake_env_maps(log);
}

static void test_giommu(void)
{
    Vtd vtd;

    start("", Q35 "-m 256 -device intel-iommu,caching-mode=on " DEVICE);
    vtd = vtd_tables();
    qtest_writeq(qts, vtd.pte, 0x200000 | 3);
    vtd_enable();
    expect_log("IOMMU_IOAS_COPY ioas=2 iova=0x5000 length=0x1000 from=3 "
               "at=0x200000 flags=0x7 = 0\n");

    /* Mapped elsewhere: the guest's last word counts */
    vtd_set(&vtd, 0x201000 | 3);
    expect_log("IOMMU_IOAS_UNMAP ioas=2 iova=0x5000 length=0x1000 = 0\n");

    fake_env_control(env, "fail IOMMU_IOAS_UNMAP 1 5");
    vtd_set(&vtd, 0);
    expect_said("vfio: unmapping [0x5000, 0x5fff] (" REGION ") failed: "
                "Input/output error\n");
    vtd_set(&vtd, 0);

    fake_env_control(env, "fail IOMMU_IOAS_COPY 1 14");
    vtd_set(&vtd, 0x202000 | 3);
    qtest_qmp_eventwait(qts, "STOP");
    expect_said(STOPPED "cannot map guest memory [0x5000, 0x5fff] (" REGION
                ") for DMA: IOMMU_IOAS_MAP: Bad address\n");
    g_free(fake_env_take_log(env));
    cont();
    expect_log("iova=0x5000 length=0x1000");
    end();
}

/* One that wants to see each write */
static void test_giommu_dirty_bits(void)
{
    start("", Q35 "-m 256 -device intel-iommu,caching-mode=on,"
          "x-scalable-mode=on,x-ssads=on " DEVICE);
    vtd_tables();
    vtd_enable();
    qtest_qmp_eventwait(qts, "STOP");
    expect_said(STOPPED "cannot follow the guest IOMMU " REGION ": an assigned "
                "device sets no dirty bits: use x-ssads=off\n");
    end();
}

/* A large page that crosses the window of interrupts, which is no memory */
static void test_giommu_crossing(void)
{
    uint64_t table;
    FakeMaps m;
    Vtd vtd;

    start("", Q35 "-m 256 -device intel-iommu,caching-mode=on " DEVICE);
    vtd = vtd_tables();
    table = vtd_table();
    qtest_writeq(qts, vtd_large(table, 0xfee00000),
                 0x400000 | 1 << 7 | 3);
    qtest_writeq(qts, vtd.gib3, table | 3);
    vtd_enable();
    expect_log("iova=0xfef00000 length=0x100000 from=3 at=0x500000 ");

    /* Part of it goes, then all, then nothing */
    qtest_writeq(qts, vtd_large(table, 0xfee00000), 0);
    vtd_set(&vtd, 0);
    expect_log("IOMMU_IOAS_UNMAP ioas=2 iova=0xfef00000 length=0x100000 = 0\n");
    vtd_set(&vtd, 0);
    m = maps();
    g_assert_cmpuint(m.maps + m.unmaps, ==, 0);
    end();
}

/* A large page, which the guest then has as small ones, but for one */

#define LARGE       0xc0000000

typedef struct Large {
    uint64_t pde;
    uint64_t table;             /* its small pages */
} Large;

static Large large_page(Vtd *vtd)
{
    Large large = { .pde = vtd_table(), .table = vtd_table() };
    int i;

    qtest_writeq(qts, large.pde, 0x400000 | 1 << 7 | 3);
    qtest_writeq(qts, vtd->gib3, large.pde | 3);
    for (i = 0; i < 512; i++) {
        qtest_writeq(qts, large.table + i * 8,
                     i == 1 ? 0 : (0x400000 + i * 4096) | 3);
    }
    return large;
}

static void unmap_second(Large *large)
{
    qtest_writeq(qts, large->pde, large->table | 3);
    qtest_writeq(qts, VTD(0xf0), LARGE + 0x1000);
    qtest_writeq(qts, VTD(0xf8), 1ull << 63 | 3ull << 60 | 1ull << 32);
}

/*
 * What was mapped along with the page cannot be mapped again: the VM stops, and
 * what is mapped stays so when it goes on, for the device may be at work
 */
static void test_giommu_split_fails(void)
{
    g_autofree char *log = NULL;
    Large large;
    Vtd vtd;

    start("", Q35 "-m 256 -device intel-iommu,caching-mode=on " DEVICE);
    vtd = vtd_tables();
    large = large_page(&vtd);
    qtest_writeq(qts, vtd.pte, 0x200000 | 3);
    vtd_enable();
    expect_log("iova=0xc0000000 length=0x200000 from=3 at=0x400000 ");

    fake_env_control(env, "fail IOMMU_IOAS_COPY 2 12");
    unmap_second(&large);
    qtest_qmp_eventwait(qts, "STOP");
    expect_said(STOPPED "cannot map guest memory [0xc0001000, 0xc01fffff] ("
                REGION ") for DMA: the host is out of memory\n");
    expect_log("iova=0xc0000000 length=0x1000 from=3 at=0x400000 ");

    cont();
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, "iova=0xc0002000 length=0x1000 "));
    g_assert_null(strstr(log, "iova=0xc0001000 "));
    g_assert_null(strstr(log, "iova=0xc0000000 "));
    g_assert_null(strstr(log, "iova=0x5000 "));
    g_assert_null(strstr(log, "UNMAP"));
    end();
}

/*
 * A page that the guest has mapped still is unplugged and its memory is gone:
 * of what is cut out of it nothing is mapped again, for other things of QEMU's
 * may be at that address by now
 */
static void test_giommu_unplugged(void)
{
    g_autofree char *log = NULL, *blocks = NULL;
    Large large;
    Vtd vtd;

    start("", Q35 "-m 256M,slots=1,maxmem=1G "
          "-device intel-iommu,caching-mode=on "
          "-object memory-backend-ram,id=mem1,size=128M "
          "-device pc-dimm,id=dimm1,memdev=mem1,addr=0x100000000 " DEVICE);
    vtd = vtd_tables();
    large = large_page(&vtd);
    qtest_writeq(qts, large.pde, 0x100000000ull | 1 << 7 | 3);
    vtd_enable();
    expect_log("iova=0xc0000000 length=0x200000 from=3 at=0x100000000 ");

    qtest_qmp_device_del_send(qts, "dimm1");
    qtest_outl(qts, 0xa00, 0);
    qtest_outb(qts, 0xa14, 1 << 3);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
    qtest_qmp_assert_success(qts, "{'execute': 'object-del', 'arguments': "
                             "{'id': 'mem1'}}");
    do {
        g_free(blocks);
        blocks = qtest_hmp(qts, "info ramblock");
    } while (strstr(blocks, "0x0000000008000000 0x0000000008000000"));
    g_free(fake_env_take_log(env));
    unmap_second(&large);
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, "IOMMU_IOAS_UNMAP ioas=2 iova=0xc0000000 "
                            "length=0x200000 = 0\n"));
    g_assert_null(strstr(log, "IOMMU_IOAS_MAP "));
    g_assert_null(strstr(log, "IOMMU_IOAS_COPY "));
    end();
}

/*
 * While the VM is stopped by a map that failed, other vCPUs are about to tell
 * what they have changed: with what `cont` tells again they need not
 */
static void test_giommu_replay(void)
{
    g_autofree char *log = NULL;
    uint64_t table;
    Vtd vtd;

    start("", Q35 "-m 256 -device intel-iommu,caching-mode=on " DEVICE);
    vtd = vtd_tables();
    table = vtd_table();
    qtest_writeq(qts, vtd.gib3, table | 3);
    qtest_writeq(qts, vtd.pte, 0x200000 | 3);
    qtest_writeq(qts, vtd.pte + 8, 0x201000 | 3);
    qtest_writeq(qts, vtd.pte + 24, 0x203000 | 3);
    vtd_enable();
    expect_log("iova=0x8000 length=0x1000 ");

    fake_env_control(env, "fail IOMMU_IOAS_COPY 1 14");
    qtest_writeq(qts, vtd.pte + 16, 0x202000 | 3);
    vtd_set(&vtd, 0x200000 | 3);
    qtest_qmp_eventwait(qts, "STOP");
    g_free(fake_env_take_log(env));

    /* Gone, no RAM now, come above the window of interrupts; and not said */
    qtest_writeq(qts, vtd.pte + 8, 0);
    qtest_writeq(qts, vtd.pte + 24, VTD(0) | 3);
    qtest_writeq(qts, vtd_large(table, 0xff000000),
                 0x400000 | 1 << 7 | 3);
    cont();
    vtd_set(&vtd, 0x200000 | 3);
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, "IOMMU_IOAS_UNMAP ioas=2 iova=0x6000 "
                            "length=0x1000 = 0\n"));
    g_assert_nonnull(strstr(log, "IOMMU_IOAS_UNMAP ioas=2 iova=0x8000 "
                            "length=0x1000 = 0\n"));
    g_assert_nonnull(strstr(log, "iova=0x7000 length=0x1000 "));
    g_assert_nonnull(strstr(log, "iova=0xff000000 length=0x200000 "));
    g_assert_null(strstr(log, "iova=0x5000 "));
    end();
}

static void expect_refused_once(const char *what)
{
    g_autofree char *said = fake_env_said(env);
    g_autofree char *line = g_strdup_printf(
        "vfio: a guest IOMMU maps %s to what the IOMMU of the host cannot "
        "translate: DMA there fails\n", what);
    char *at = strstr(said, line);

    g_assert_nonnull(at);
    g_assert_null(strstr(at + 10, "a guest IOMMU maps"));
}

/* What the host's IOMMU has no entry for: no fault of the VM's */
static void test_giommu_refused(void)
{
    Large large;
    Vtd vtd;

    start("hole 0 0xc0000000 0xc0000fff", Q35 "-m 256 -device intel-iommu,"
          "caching-mode=on " DEVICE);
    vtd = vtd_tables();
    large = large_page(&vtd);
    vtd_enable();
    vtd_set(&vtd, 0x200000 | 3);
    expect_log("iova=0x5000 length=0x1000 ");
    qtest_writeq(qts, large.pde, 0);
    vtd_set(&vtd, 0);
    qtest_writeq(qts, large.pde, 0x600000 | 1 << 7 | 3);
    vtd_set(&vtd, 0x200000 | 3);
    expect_log("iova=0x5000 length=0x1000 ");

    expect_refused_once("[0xc0000000, 0xc01fffff] (" REGION ")");
    expect_running();
    end();
}

/* The guest asks virtio-iommu for what the IOMMU of the host cannot do */

#define DOMAIN      1

static unsigned viommu_attach(Virtio *v)
{
    struct virtio_iommu_req_attach req = {
        .head.type = VIRTIO_IOMMU_T_ATTACH,
        .domain = cpu_to_le32(DOMAIN),
        .endpoint = cpu_to_le32(QPCI_DEVFN(5, 0)),
    };

    return virtio_ask(v, &req, offsetof(typeof(req), tail), sizeof(req.tail));
}

static unsigned viommu_map(Virtio *v, uint64_t iova, uint64_t last,
                           uint64_t to)
{
    struct virtio_iommu_req_map req = {
        .head.type = VIRTIO_IOMMU_T_MAP,
        .domain = cpu_to_le32(DOMAIN),
        .virt_start = cpu_to_le64(iova),
        .virt_end = cpu_to_le64(last),
        .phys_start = cpu_to_le64(to),
        .flags = cpu_to_le32(VIRTIO_IOMMU_MAP_F_READ |
                             VIRTIO_IOMMU_MAP_F_WRITE),
    };

    return virtio_ask(v, &req, offsetof(typeof(req), tail), sizeof(req.tail));
}

static unsigned viommu_unmap(Virtio *v, uint64_t iova, uint64_t last)
{
    struct virtio_iommu_req_unmap req = {
        .head.type = VIRTIO_IOMMU_T_UNMAP,
        .domain = cpu_to_le32(DOMAIN),
        .virt_start = cpu_to_le64(iova),
        .virt_end = cpu_to_le64(last),
    };

    return virtio_ask(v, &req, offsetof(typeof(req), tail), sizeof(req.tail));
}

/* The last address that the guest is offered */
static uint64_t viommu_last(Virtio *v)
{
    return qvirtio_config_readq(&v->dev->vdev,
                                offsetof(struct virtio_iommu_config,
                                         input_range.end));
}

static void test_giommu_virtio(void)
{
    Virtio v;
    FakeMaps m;

    start("aperture-last 0x7fffffffff", Q35 "-m 256 "
          "-device virtio-iommu-pci,addr=7 " DEVICE);
    v = virtio_start(7);
    g_assert_cmphex(viommu_last(&v), ==, 0x7fffffffff);
    g_assert_cmpuint(viommu_attach(&v), ==, VIRTIO_IOMMU_S_OK);
    g_free(fake_env_take_log(env));
    g_assert_cmpuint(viommu_map(&v, 0x5000, 0x5fff, 0x200000), ==,
                     VIRTIO_IOMMU_S_OK);
    expect_log("IOMMU_IOAS_COPY ioas=2 iova=0x5000 length=0x1000 from=3 "
               "at=0x200000 flags=0x7 = 0\n");

    /* An address of 41 bits; a part of a page; more than there are addresses */
    viommu_map(&v, 1ull << 40, (1ull << 40) + 0xfff, 0x300000);
    viommu_map(&v, 0x8000, 0x87ff, 0x300000);
    m = maps();
    g_assert_cmpuint(m.maps + m.failed + m.unmaps, ==, 0);
    g_assert_cmpuint(viommu_unmap(&v, 0, UINT64_MAX), ==, VIRTIO_IOMMU_S_OK);
    expect_log("IOMMU_IOAS_UNMAP ioas=2 iova=0x5000 length=0x1000 = 0\n");
    viommu_map(&v, 0, UINT64_MAX, 0);
    m = maps();
    g_assert_cmphex(m.copied + m.mapped_rw + m.failed, ==, 0);
    expect_running();
    viommu_unmap(&v, 0, UINT64_MAX);

    expect_refused_once("[0x10000000000, 0x10000000fff] "
                        "('virtio-iommu-memory-region-0-40')");
    g_assert_cmpuint(viommu_map(&v, 0x6000, 0x6fff, 0x200000), ==,
                     VIRTIO_IOMMU_S_OK);
    expect_log("iova=0x6000 length=0x1000 ");
    virtio_free(&v);
    end();
}

/* A device is plugged when the guest has perhaps been offered more */
static void test_giommu_virtio_plug(void)
{
    Virtio v;

    start("aperture-last 0x7fffffffff", Q35 "-m 256 "
          "-device virtio-iommu-pci,addr=7 "
          "-device pcie-root-port,id=rp0,addr=2 "
          "-object iommufd,id=iommufd0");
    v = virtio_start(7);
    g_assert_cmphex(viommu_last(&v), ==, UINT64_MAX);
    qtest_qmp_device_add(qts, "vfio-pci", "hd0", "{'bus': 'rp0', "
                         "'host': %s, 'iommufd': 'iommufd0'}", BDF);
    g_assert_cmphex(viommu_last(&v), ==, 0x7fffffffff);
    expect_said("warning: vfio: guest IOMMU 'virtio-iommu-device' offered the "
                "guest more addresses than the 39 bits of the host's: until "
                "the guest starts anew DMA may fail\n");
    virtio_free(&v);
    end();
}

/* An IOMMU that was never off does not tell, when loaded, of what it maps */
static void test_giommu_virtio_loaded(void)
{
    static const char args[] =
        Q35 "-m 256 -device virtio-iommu-pci,addr=7,boot-bypass=off "
        DEVICE ",enable-migration=on";
    static const char copied[] = "IOMMU_IOAS_COPY ioas=2 iova=0x5000 ";
    Virtio v;

    start("migration 0 7", args);
    v = virtio_start(7);
    viommu_attach(&v);
    viommu_map(&v, 0x5000, 0x5fff, 0x200000);
    expect_log(copied);
    virtio_free(&v);
    qts = fake_env_reload(env, qts, args);
    expect_log(copied);
    end();
}

/* Two devices: RAM is pinned once, whatever the guest maps, and to the end */
static void test_giommu_once(void)
{
    FakeMaps m;
    Vtd vtd;

    start("memlock 0x10800000\n", Q35 "-m 256 -device intel-iommu,"
          "caching-mode=on -device pcie-root-port,id=rp0,addr=2 "
          "-device pcie-root-port,id=rp1,addr=3,chassis=1 "
          "-object iommufd,id=iommufd0,map-background=off "
          "-device vfio-pci,id=hd0,bus=rp0,host=" BDF ",iommufd=iommufd0 "
          "-device vfio-pci,id=hd1,bus=rp1,host=0000:65:00.1,"
          "iommufd=iommufd0");
    vtd = vtd_tables();
    vtd_enable();
    m = maps();
    g_assert_cmpuint(m.maps, ==, 0);
    g_assert_cmphex(m.unmapped, >=, 2 * 256 * MiB);
    vtd_set(&vtd, 0x200000 | 3);
    m = maps();
    g_assert_cmpuint(m.maps, ==, 0);
    g_assert_cmphex(m.copied, ==, 2 * 4096);

    /* The one that the page table was made for goes; then it comes again */
    qtest_qmp_device_del_send(qts, "hd0");
    qtest_qmp_assert_success(qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
    g_free(fake_env_take_log(env));
    vtd = vtd_tables();
    vtd_enable();
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'vfio-pci', 'id': 'hd2', 'bus': "
                             "'rp0', 'host': '" BDF "', 'iommufd': "
                             "'iommufd0'}}");
    vtd_set(&vtd, 0x201000 | 3);
    m = maps();
    g_assert_cmpuint(m.maps + m.failed, ==, 0);
    g_assert_cmphex(m.copied, ==, 2 * 4096);
    end();
}

/* What the guest could not use is an error before; the VM goes on */
static void test_giommu_width(void)
{
    QDict *answer;

    start("aperture-last 0x7fffffffff\n", Q35 "-m 256 -device intel-iommu,"
          "caching-mode=on,aw-bits=48 -device pcie-root-port,id=rp0 "
          "-object iommufd,id=iommufd0");
    answer = qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                       "{'driver': 'vfio-pci', 'bus': 'rp0', 'host': '"
                       BDF "', 'iommufd': 'iommufd0'}}");
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(answer, "error"), "desc"),
                    ==, "vfio " BDF ": guest IOMMU 'intel-iommu' translates "
                    "48 bits, the IOMMU of the host 39: give it a lower "
                    "aw-bits");
    qobject_unref(answer);
    expect_log("gone /dev/vfio/devices/vfio0 mapped=0\n");
    qtest_qmp_assert_success(qts, "{'execute': 'object-del', 'arguments': "
                             "{'id': 'iommufd0'}}");
    expect_log("gone /dev/iommu bound=0 ioas=0 hwpts=0 areas=0\n");
    end();
}

/* An error for one that is plugged, too; it is QEMU itself that says so */
static void test_giommu_no_caching_mode(void)
{
    g_autofree char *error = NULL;
    const char *desc;
    QDict *answer;

    start("", Q35 "-m 256 -device intel-iommu -device pcie-root-port,id=rp0 "
          "-object iommufd,id=iommufd0");
    answer = qtest_qmp(qts, "{'execute': 'device_add', 'arguments': "
                       "{'driver': 'vfio-pci', 'bus': 'rp0', 'host': '"
                       BDF "', 'iommufd': 'iommufd0'}}");
    desc = qdict_get_str(qdict_get_qdict(answer, "error"), "desc");
    g_test_message("said: %s", desc);
    g_assert_nonnull(strstr(desc, "caching-mode=on"));
    qobject_unref(answer);
    qtest_qmp_assert_success(qts, "{'execute': 'object-del', 'arguments': "
                             "{'id': 'iommufd0'}}");
    end();

    env = fake_env_new();
    error = fake_env_start_fails(env, Q35 "-m 256 -device intel-iommu " DEVICE);
    g_assert_nonnull(strstr(error, ": vfio " BDF ": guest IOMMU 'intel-iommu' "
                            "does not tell what the guest maps: give it "
                            "caching-mode=on\n"));
    expect_log("gone /dev/vfio/devices/vfio0 mapped=0\n");
    fake_env_free(env);
}

/*
 * Not all of RAM may be locked: a device behind the guest IOMMU works all the
 * same, with what the guest maps for it
 */
static void test_giommu_memlock(void)
{
    FakeMaps m;
    Vtd vtd;

    start("memlock 0x100000\n", Q35 "-m 256 -device intel-iommu,"
          "caching-mode=on -device pcie-root-port,id=rp0,addr=2 "
          "-object iommufd,id=iommufd0,map-background=off");
    vtd = vtd_tables();
    qtest_writeq(qts, vtd.pte, 0x200000 | 3);
    vtd_enable();
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'vfio-pci', 'bus': 'rp0', 'host': '"
                             BDF "', 'iommufd': 'iommufd0'}}");
    expect_log("IOMMU_IOAS_COPY ioas=2 iova=0x5000 length=0x1000 from=3 "
               "at=0x200000 flags=0x7 = 0\n");
    vtd_set(&vtd, 0x201000 | 3);
    m = maps();
    g_assert_cmpuint(m.maps + m.failed, ==, 0);
    g_assert_cmphex(m.copied, ==, 4096);
    end();
}

/* Of QEMUs that have ended */
static long cpu_ms(void)
{
    struct rusage r;

    g_assert_cmpint(getrusage(RUSAGE_CHILDREN, &r), ==, 0);
    return (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000 +
           (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1000;
}

/*
 * The same, found out when the second of three ranges is mapped that threads
 * fill: what is left is not theirs any more, and nobody waits for them
 */
static void test_giommu_memlock_late(void)
{
    long before = cpu_ms();
    FakeMaps m;
    Vtd vtd;

    start("", Q35 "-m 192 -device intel-iommu,caching-mode=on "
          "-object memory-backend-ram,id=m0,size=64M "
          "-object memory-backend-ram,id=m1,size=64M "
          "-object memory-backend-ram,id=m2,size=64M -numa node,memdev=m0 "
          "-numa node,memdev=m1 -numa node,memdev=m2 "
          "-device pcie-root-port,id=rp0,addr=2 -object iommufd,id=iommufd0");
    vtd = vtd_tables();
    qtest_writeq(qts, vtd.pte, 0x200000 | 3);
    vtd_enable();
    fake_env_control(env, "fail IOMMU_IOAS_MAP 2 12");
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'vfio-pci', 'bus': 'rp0', 'host': '"
                             BDF "', 'iommufd': 'iommufd0'}}");
    g_usleep(3000 * 1000);                  /* nothing is to be done */
    m = maps();
    g_assert_cmpuint(m.failed, ==, 1);
    end();
    g_assert_cmpint(cpu_ms() - before, <, 2000);
}

/*
 * A device that bypasses the guest IOMMU uses the IOAS that others copy from,
 * and needs all of it: what did not matter before is mapped now
 */
static void test_giommu_bypass(void)
{
    FakeMaps m;

    start("", Q35 "-m 256,slots=1,maxmem=1G "
          "-device intel-iommu,caching-mode=on -device pxb-pcie,id=pxb,"
          "bus_nr=16,bypass_iommu=on -device pcie-root-port,id=rp0,bus=pxb "
          "-object memory-backend-ram,id=mem0,size=8M " DEVICE ",bus=pcie.0");
    vtd_tables();
    vtd_enable();
    g_free(fake_env_take_log(env));
    fake_env_control(env, "fail IOMMU_IOAS_MAP 1 14");
    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'pc-dimm', 'memdev': 'mem0'}}");
    m = maps();
    g_assert_cmpuint(m.failed, ==, 1);
    g_assert_cmphex(m.mapped_rw + m.copied, ==, 0);

    qtest_qmp_assert_success(qts, "{'execute': 'device_add', 'arguments': "
                             "{'driver': 'vfio-pci', 'bus': 'rp0', 'host': "
                             "'0000:65:00.1', 'iommufd': 'iommufd0'}}");
    m = maps();
    g_assert_cmpuint(m.copied + m.failed, ==, 0);
    g_assert_cmphex(m.mapped_rw, ==, 8 * MiB);
    end();
}

/* RAM's dirty log is on, and a device writes to what will be unmapped */

static char *wait_logged(const char *what)
{
    GString *log = g_string_new(NULL);

    while (!strstr(log->str, what)) {
        g_autofree char *more = NULL;

        g_usleep(10000);
        more = fake_env_take_log(env);
        g_string_append(log, more);
    }
    g_test_message("log: %s", log->str);
    return g_string_free(log, false);
}

static void dirty_log_on(int seconds)
{
    qtest_qmp_assert_success(qts, "{'execute': 'calc-dirty-rate', 'arguments': "
                             "{'calc-time': %d, 'mode': 'dirty-bitmap'}}",
                             seconds);
    g_free(wait_logged("SET_DIRTY_TRACKING"));
    /* Not before the first sync */
    qtest_qmp_assert_success(qts, "{'execute': 'query-status'}");
    g_free(fake_env_take_log(env));
}

/* Read before it is unmapped, nothing lost, nobody asked wrongly */
static void expect_read(const char *get)
{
    g_autofree char *log = fake_env_take_log(env);

    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, get));
    g_assert_cmpint(strstr(log, get) - log, <, strstr(log, "UNMAP") - log);
    g_assert_null(strstr(log, "lost"));
    g_assert_null(strstr(log, "MISTAKE"));
}

static void test_giommu_dirty(void)
{
    g_autofree char *log = NULL;
    Vtd vtd;

    start("dirty 1", Q35 "-m 256 -device intel-iommu,caching-mode=on " DEVICE
          " -trace vfio_ioas_written");
    vtd = vtd_tables();
    /* Two pages that are apart in memory, and adjacent for the device */
    qtest_writeq(qts, vtd.pte, 0x200000 | 3);
    qtest_writeq(qts, vtd.pte + 8, 0x300000 | 3);
    vtd_enable();
    /* One run, and it is the second page that was written */
    dirty_log_on(1);
    fake_env_control(env, "dirty 1\nwrite 0 0x6000 1");
    log = wait_logged("SET_DIRTY_TRACKING");
    g_assert_nonnull(strstr(log, "flags=0x0 iova=0x5000 length=0x2000 = 0\n"));
    expect_said("pc.ram 1 pages from 0x300000\n");

    dirty_log_on(60);
    fake_env_control(env, "dirty 1\nwrite 0 0x5000 1\nwrite 0 0x6000 1");
    vtd_set(&vtd, 0);
    expect_read("flags=0x1 iova=0x5000 length=0x1000 = 0\n");
    expect_said("pc.ram 1 pages from 0x200000\n");
    fake_env_control(env, "dirty 1");

    /* The whole domain goes; the second page was asked for in its turn */
    qtest_writel(qts, VTD(0x18), 0);
    expect_read("flags=0x1 iova=0x6000 length=0x1000 = 0\n");
    end();
}

/* MiB that were written in a second */
static int64_t written(const char *control)
{
    dirty_log_on(1);
    fake_env_control(env, control);
    return fake_env_dirty_rate(qts);
}

/*
 * A primary of virtio-net's failover is given away by the guest before any of
 * RAM is sent: that nobody can track it is no reason to count all as written
 */
static void test_failover_dirty(void)
{
    QPCIAddress address = { .devfn = QPCI_DEVFN(1 << 5, 0) };
    g_autofree char *said = NULL;
    QVirtioPCIDevice *net;
    QPCIBus *bus;
    QPCIDevice *port;
    int i;

    start("ethernet 0", Q35 "-m 256 "
          "-device pcie-root-port,id=rp0,addr=1,chassis=1 "
          "-device pcie-root-port,id=rp1,addr=2,chassis=2 "
          "-netdev hubport,id=hub,hubid=0 -device virtio-net-pci,id=net0,"
          "bus=rp0,failover=on,netdev=hub -object iommufd,id=iommufd0 "
          "-device vfio-pci,id=hd0,failover_pair_id=net0,bus=rp1,host=" BDF
          ",iommufd=iommufd0 -trace vfio_ioas_dirty_*");
    bus = qpci_new_pc(qts, &alloc);
    g_assert_cmpint(qpci_secondary_buses_init(bus), ==, 2);
    for (i = 1; i <= 2; i++) {
        port = qpci_device_find(bus, QPCI_DEVFN(i, 0));
        qpci_device_enable(port);
        qpci_iomap(port, 4, NULL);
        g_free(port);
    }
    net = virtio_pci_new(bus, &address);
    g_assert_nonnull(net);
    qvirtio_pci_device_enable(net);
    qvirtio_start_device(&net->vdev);
    qvirtio_set_features(&net->vdev, qvirtio_get_features(&net->vdev) &
                         ~QVIRTIO_F_BAD_FEATURE);
    qvirtio_set_driver_ok(&net->vdev);
    qtest_qmp_eventwait(qts, "FAILOVER_NEGOTIATED");
    expect_running();
    expect_log("VFIO_DEVICE_ATTACH_IOMMUFD_PT 3 = 0\n");

    qtest_qmp_assert_success(qts, "{'execute': 'calc-dirty-rate', 'arguments': "
                             "{'calc-time': 1, 'mode': 'dirty-bitmap'}}");
    g_assert_cmpint(fake_env_dirty_rate(qts), <, 2);
    said = fake_env_said(env);
    g_assert_nonnull(strstr(said, "vfio_ioas_dirty_start ioas=2 all=0\n"));
    qos_object_destroy((QOSGraphObject *)net);
    qpci_free_pc(bus);
    end();
}

/*
 * Pages that are adjacent for the device and far apart in memory: of what is
 * beside them nothing was written
 */
static void test_giommu_dirty_exact(void)
{
    g_autofree char *control = g_strdup_printf("dirty 1\nwrite 0 %d %d",
                                               IOVA, 500 * 4096);
    Vtd vtd;
    int i;

    start("dirty 1", Q35 "-m 256 -device intel-iommu,caching-mode=on " DEVICE);
    vtd = vtd_tables();
    for (i = 0; i < 500; i++) {
        qtest_writeq(qts, vtd.pte + i * 8, (0x4000000 + i * 0x40000ull) | 3);
    }
    vtd_enable();
    g_assert_cmpint(written(control), <=, 2);
    end();
}

/*
 * A page goes out of a large one: what is written to the rest of it before it
 * is unmapped, and after it was asked for, would be in no bitmap
 */
static void test_giommu_dirty_split(void)
{
    Large large;
    Vtd vtd;

    start("dirty 1", Q35 "-m 256 -device intel-iommu,caching-mode=on " DEVICE
          " -trace vfio_ioas_written");
    vtd = vtd_tables();
    large = large_page(&vtd);
    vtd_enable();
    dirty_log_on(60);
    unmap_second(&large);
    expect_said("pc.ram 1 pages from 0x400000\n");
    expect_said("pc.ram 510 pages from 0x402000\n");
    end();
}

/* One that does not tell what it maps */
static void test_giommu_silent(void)
{
    g_autofree char *error = NULL;

    env = fake_env_new();
    error = fake_env_start_fails(env, Q35 "-m 256 -device amd-iommu " DEVICE);
    g_assert_nonnull(strstr(error, ": vfio " BDF ": cannot follow the guest "
                            "IOMMU 'amd_iommu': device 00.05.0 requires iommu "
                            "notifier which is not currently supported\n"));
    expect_log("gone /dev/vfio/devices/vfio0 mapped=0\n");
    fake_env_free(env);
}

/* virtio-mem: the guest plugs and unplugs blocks */

#define MEM0        0x100000000ull
#define BLOCK       (2 * MiB)
#define VIRTIO_MEM  "-m 256,maxmem=1G,slots=1 " \
                    "-object memory-backend-ram,id=mem0,size=64M " \
                    "-device virtio-mem-pci,memdev=mem0,requested-size=4M," \
                    "block-size=2M,addr=6 "

/* What the device answers */
static unsigned mem_ask(Virtio *mem, uint16_t type, uint64_t addr)
{
    struct virtio_mem_req req = {
        .type = cpu_to_le16(type),
        .u.plug = { cpu_to_le64(addr), cpu_to_le16(1) },
    };

    return virtio_ask(mem, &req, sizeof(req), sizeof(struct virtio_mem_resp));
}

static void test_virtio_mem(void)
{
    Virtio mem;

    start("", Q35 VIRTIO_MEM DEVICE);
    mem = virtio_start(6);

    /* A block that cannot be mapped is not plugged */
    fake_env_control(env, "fail IOMMU_IOAS_MAP 1 12");
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0), !=,
                    VIRTIO_MEM_RESP_ACK);
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0), ==,
                    VIRTIO_MEM_RESP_ACK);
    expect_log("iova=0x100000000 length=0x200000");

    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_UNPLUG, MEM0), ==,
                    VIRTIO_MEM_RESP_ACK);
    expect_log("IOMMU_IOAS_UNMAP ioas=2 iova=0x100000000 length=0x200000 = 0");

    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0 + BLOCK), ==,
                    VIRTIO_MEM_RESP_ACK);
    fake_env_control(env, "fail IOMMU_IOAS_UNMAP 1 5");
    mem_ask(&mem, VIRTIO_MEM_REQ_UNPLUG, MEM0 + BLOCK);
    expect_said("vfio: unmapping [0x100200000, 0x1003fffff] ('mem0') failed: "
                "Input/output error\n");

    /* What is mapped there is not what would be plugged; it goes now */
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0 + BLOCK), !=,
                    VIRTIO_MEM_RESP_ACK);
    expect_log("IOMMU_IOAS_UNMAP ioas=2 iova=0x100200000 length=0x200000 = 0");
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0 + BLOCK), ==,
                    VIRTIO_MEM_RESP_ACK);
    virtio_free(&mem);
    end();
}

/* Unplugged, with bytes that a device has written */
static void test_virtio_mem_dirty(void)
{
    Virtio mem;

    start("dirty 1", Q35 VIRTIO_MEM DEVICE " -trace vfio_ioas_written");
    mem = virtio_start(6);
    dirty_log_on(60);
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0 + BLOCK), ==,
                    VIRTIO_MEM_RESP_ACK);
    g_free(fake_env_take_log(env));
    fake_env_control(env, "dirty 1\nwrite 0 0x100200000 1");
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_UNPLUG, MEM0 + BLOCK), ==,
                    VIRTIO_MEM_RESP_ACK);
    expect_read("flags=0x1 iova=0x100200000 length=0x200000 = 0\n");
    expect_said("mem0 512 pages from 0x200000\n");
    virtio_free(&mem);
    end();
}

/* Both: what is plugged may be mapped, and that is said; else it is not */
static void test_giommu_virtio_mem(void)
{
    FakeMaps m;
    Virtio mem;
    Vtd vtd;

    start("", Q35 VIRTIO_MEM "-device intel-iommu,caching-mode=on " DEVICE);
    mem = virtio_start(6);
    /* While the guest's is off: in both, by the one that hears of it first */
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0), ==,
                    VIRTIO_MEM_RESP_ACK);
    m = maps();
    g_assert_cmpuint(m.maps, ==, 1);
    g_assert_cmphex(m.copied, ==, BLOCK);
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_UNPLUG, MEM0), ==,
                    VIRTIO_MEM_RESP_ACK);
    g_assert_cmphex(maps().unmapped, ==, 2 * BLOCK);
    fake_env_control(env, "fail IOMMU_IOAS_COPY 1 12");
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0), !=,
                    VIRTIO_MEM_RESP_ACK);
    m = maps();
    g_assert_cmphex(m.mapped_rw, ==, BLOCK);
    g_assert_cmphex(m.unmapped, ==, BLOCK);
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0), ==,
                    VIRTIO_MEM_RESP_ACK);
    vtd = vtd_tables();
    vtd_enable();
    g_free(fake_env_take_log(env));

    vtd_set(&vtd, MEM0 | 3);
    expect_log("IOMMU_IOAS_COPY ioas=2 iova=0x5000 length=0x1000 from=3 "
               "at=0x100000000 ");
    expect_said("warning: vfio: with a guest IOMMU the guest can pin more "
                "memory of a virtio-mem device than is plugged; "
                "RLIMIT_MEMLOCK bounds it\n");
    vtd_set(&vtd, (MEM0 + BLOCK) | 3);
    expect_said("iommu map to discarded memory");

    /* Who copies from it does not need the base, so it refuses nothing */
    fake_env_control(env, "fail IOMMU_IOAS_MAP 1 14");
    g_assert_cmpint(mem_ask(&mem, VIRTIO_MEM_REQ_PLUG, MEM0 + 2 * BLOCK), ==,
                    VIRTIO_MEM_RESP_ACK);
    g_free(fake_env_take_log(env));
    vtd_set(&vtd, (MEM0 + 2 * BLOCK) | 3);
    expect_log("IOMMU_IOAS_MAP ioas=2 iova=0x5000 length=0x1000 ");
    virtio_free(&mem);
    end();
}

static void shmem_config(uint8_t reg, uint32_t value)
{
    qtest_outl(qts, 0xcf8, 0x80000000 | 7 << 11 | reg);
    qtest_outl(qts, 0xcfc, value);
}

/* A 64-bit BAR that is memory is sized while it is decoded */
static void test_sizing(void)
{
    g_autofree char *log = NULL;

    start("", Q35 "-m 256 -object memory-backend-ram,id=mem0,size=2M,share=on "
          "-device ivshmem-plain,memdev=mem0,addr=7 " DEVICE);
    shmem_config(0x18, 0xe0200000);
    shmem_config(0x1c, 0);
    shmem_config(0x04, 0x2);
    expect_log("iova=0xe0200000 length=0x200000 ");
    shmem_config(0x1c, 0xffffffff);
    shmem_config(0x1c, 0);
    expect_running();
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, "iova=0xe0200000 length=0x200000 "));
    g_assert_null(strstr(log, "iova=0xffff"));
    end();
}

/* A BAR of 2 KiB that is memory lies in the middle of a page */
static void test_misaligned(void)
{
    start("", Q35 "-m 256 -object memory-backend-ram,id=mem0,size=2048,"
          "share=on -device ivshmem-plain,memdev=mem0,addr=7 " DEVICE);
    shmem_config(0x18, 0xe0200800);
    shmem_config(0x1c, 0);
    shmem_config(0x04, 0x2);
    qtest_writel(qts, 0xe0200800, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, 0xe0200800), ==, 0x12345678);
    expect_said("warning: vfio: 'mem0' at 0xe0200800 is not aligned to host "
                "pages: assigned devices cannot reach it\n");
    end();
}

/* Linux 6.13: shared memory by its file, at its place there; other as before */
static void test_map_file(void)
{
    g_autofree char *log = NULL;

    env = fake_env_new();
    fake_env_control(env, "map-file 1");
    qts = fake_env_start(env, "-machine q35,memory-backend=ram -nodefaults "
                         "-m 64M,slots=2,maxmem=1G "
                         "-object memory-backend-memfd,id=ram,size=64M "
                         "-object memory-backend-memfd,id=mem1,size=32M "
                         "-device pc-dimm,memdev=mem1,addr=0x100000000 "
                         "-object memory-backend-ram,id=mem2,size=32M "
                         "-device pc-dimm,memdev=mem2,addr=0x110000000 "
                         DEVICE);
    log = fake_env_take_log(env);
    g_test_message("log: %s", log);
    g_assert_nonnull(strstr(log, "IOMMU_IOAS_MAP_FILE ioas=2 iova=0x3000000 "
                            "length=0x1000000 start=0x3000000 "));
    g_assert_nonnull(strstr(log, "IOMMU_IOAS_MAP_FILE ioas=2 iova=0x100000000 "
                            "length=0x2000000 start=0x0 "));
    g_assert_nonnull(strstr(log, "IOMMU_IOAS_MAP ioas=2 iova=0x110000000 "
                            "length=0x2000000 "));
    qtest_quit(qts);
    fake_env_free(env);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("vfio-iommufd-memory/giommu", test_giommu);
    qtest_add_func("vfio-iommufd-memory/giommu-crossing",
                   test_giommu_crossing);
    qtest_add_func("vfio-iommufd-memory/giommu-split-fails",
                   test_giommu_split_fails);
    qtest_add_func("vfio-iommufd-memory/giommu-refused", test_giommu_refused);
    qtest_add_func("vfio-iommufd-memory/giommu-replay", test_giommu_replay);
    qtest_add_func("vfio-iommufd-memory/giommu-unplugged",
                   test_giommu_unplugged);
    qtest_add_func("vfio-iommufd-memory/failover-dirty", test_failover_dirty);
    qtest_add_func("vfio-iommufd-memory/giommu-dirty-exact",
                   test_giommu_dirty_exact);
    qtest_add_func("vfio-iommufd-memory/giommu-dirty-split",
                   test_giommu_dirty_split);
    qtest_add_func("vfio-iommufd-memory/giommu-virtio", test_giommu_virtio);
    qtest_add_func("vfio-iommufd-memory/giommu-virtio-plug",
                   test_giommu_virtio_plug);
    qtest_add_func("vfio-iommufd-memory/giommu-once", test_giommu_once);
    qtest_add_func("vfio-iommufd-memory/giommu-width", test_giommu_width);
    qtest_add_func("vfio-iommufd-memory/giommu-no-caching-mode",
                   test_giommu_no_caching_mode);
    qtest_add_func("vfio-iommufd-memory/giommu-memlock", test_giommu_memlock);
    qtest_add_func("vfio-iommufd-memory/giommu-memlock-late",
                   test_giommu_memlock_late);
    qtest_add_func("vfio-iommufd-memory/giommu-bypass", test_giommu_bypass);
    qtest_add_func("vfio-iommufd-memory/giommu-virtio-loaded",
                   test_giommu_virtio_loaded);
    qtest_add_func("vfio-iommufd-memory/giommu-dirty", test_giommu_dirty);
    qtest_add_func("vfio-iommufd-memory/virtio-mem-dirty",
                   test_virtio_mem_dirty);
    qtest_add_func("vfio-iommufd-memory/giommu-silent", test_giommu_silent);
    qtest_add_func("vfio-iommufd-memory/giommu-dirty-bits",
                   test_giommu_dirty_bits);
    qtest_add_func("vfio-iommufd-memory/virtio-mem", test_virtio_mem);
    qtest_add_func("vfio-iommufd-memory/giommu-virtio-mem",
                   test_giommu_virtio_mem);
    qtest_add_func("vfio-iommufd-memory/sizing", test_sizing);
    qtest_add_func("vfio-iommufd-memory/misaligned", test_misaligned);
    qtest_add_func("vfio-iommufd-memory/map-file", test_map_file);
    return g_test_run();
}
