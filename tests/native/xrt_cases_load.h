/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_cases_load.h: test cases: devices, messages, loading images. */

static void test_log(void)
{
    int fd = open(log_path, O_RDWR | O_CREAT, 0600); /* as fpgahal does: a file without a name of its own */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(xrt.xrtIniStringSet("Runtime.runtime_log", "null") == 0);
    CHECK(xrt.xrtIniStringSet("Runtime.runtime_log", path) == 0);
    CHECK(xrt.xrtIniStringSet(NULL, "x") == -1);
    REFUSED(!xrt.xrtDeviceOpenByBDF("0000:77:00.1"), ENODEV);
    CHECK(log_has(" GMT] [XRT] Tid: "));
    CHECK(log_has(",  ERROR: EMULATED: xrtDeviceOpenByBDF: Could not open device with BDF '0000:77:00.1'\n"));
    CHECK(xrt.xrtIniStringSet("Runtime.runtime_log", "null") == -1);
    CHECK(xrt.xrtIniStringSet("Runtime.verbosity", "4") == 0);
    close(fd);
}

static void test_devices(void)
{
    xrtDeviceHandle a = xrt.xrtDeviceOpenByBDF(BDF), b = xrt.xrtDeviceOpenByBDF("5e:00.1"), c;
    CHECK(a && a == b);
    CHECK((c = more.DeviceOpen(2)) == a && xrt.xrtDeviceClose(c) == 0); /* index 0 is the highest address */
    CHECK((c = xrt.xrtDeviceOpenByBDF("2")) == a && xrt.xrtDeviceClose(c) == 0);
    CHECK((c = more.DeviceOpen(0)) != a && xrt.xrtDeviceClose(c) == 0);
    REFUSED(!more.DeviceOpen(3), ENODEV);
    REFUSED(!xrt.xrtDeviceOpenByBDF("0000:5E:00.1"), ENODEV);
    REFUSED(!xrt.xrtDeviceOpenByBDF(NULL), EINVAL);
    REFUSED(!xrt.xrtDeviceOpenByBDF(""), EINVAL);
    REFUSED(!xrt.xrtDeviceOpenByBDF("0000:5e:00.1 and a long tail"), ENODEV);
    unsigned char id[16];
    CHECK(xrt.xrtDeviceGetXclbinUUID(a, id) == 0);
    CHECK(xrt.xrtDeviceClose(a) == 0);
    CHECK(xrt.xrtDeviceGetXclbinUUID(b, id) == 0);
    CHECK(xrt.xrtDeviceClose(b) == 0);
    REFUSED(xrt.xrtDeviceClose(b) == -1, EINVAL);
    CHECK(log_has("No such handle"));
    void *wrong[] = { NULL, b, (void *)1, (void *)-1, (void *)make_rack, (void *)&id,
        (void *)((uintptr_t)b ^ 3ull << 60),
                      (void *)((uintptr_t)b + (1 << 24)), (void *)((uintptr_t)b | 0xffffff) };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        void *h = wrong[i];
        REFUSED(xrt.xrtDeviceClose(h) == -1, EINVAL);
        REFUSED(xrt.xrtDeviceLoadXclbin(h, "x") == -1, EINVAL);
        REFUSED(!xrt.xrtPLKernelOpen(h, U1, "vadd"), EINVAL);
        REFUSED(xrt.xrtKernelClose(h) == -1, EINVAL);
        REFUSED(!xrt.xrtRunOpen(h), EINVAL);
        REFUSED(xrt.xrtRunSetArg(h, 0, 1) == -1, EINVAL);
        REFUSED(xrt.xrtRunStart(h) == -1, EINVAL);
        REFUSED(xrt.xrtRunState(h) == ERT_CMD_STATE_ABORT, EINVAL);
        REFUSED(xrt.xrtRunWaitFor(h, 0) == ERT_CMD_STATE_ABORT, EINVAL);
        REFUSED(xrt.xrtRunClose(h) == -1, EINVAL);
        REFUSED(!xrt.xrtBOAlloc(h, 4096, 0, 0), EINVAL);
        REFUSED(xrt.xrtBOFree(h) == -1, EINVAL);
        REFUSED(xrt.xrtBOSize(h) == SIZE_MAX, EINVAL);
        REFUSED(xrt.xrtBOAddress(h) == UINT64_MAX, EINVAL);
        REFUSED(!xrt.xrtBOMap(h), EINVAL);
        REFUSED(xrt.xrtBOSync(h, 0, 0, 0) == -1, EINVAL);
        REFUSED(xrt.xrtBOCopy(h, h, 0, 0, 0) == -1, EINVAL);
        REFUSED(xrt.xrtKernelArgGroupId(h, 0) == -1, EINVAL);
        REFUSED(xrt.xrtKernelArgOffset(h, 0) == UINT32_MAX, EINVAL);
        REFUSED(more.XclbinFreeHandle(h) == -1, EINVAL);
        REFUSED(xrt.fpgahal_emu_xrt_reset(h) == -1, EINVAL);
    }
}

static void test_before_load(void)
{
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    REFUSED(!xrt.xrtBOAlloc(d, 4096, 0, 0), EINVAL);
    CHECK(log_has("load one before buffers are allocated"));
    REFUSED(!xrt.xrtPLKernelOpen(d, U1, "vadd"), EINVAL);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_load_checks(void)
{
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF), e = xrt.xrtDeviceOpenByBDF(BDF2);
    uint8_t null[16] = { 0 };
    uint64_t before = status_of(BDF).programmed;
    REFUSED(load(d, null, (struct options){ 0 }) == -1, EINVAL);
    REFUSED(xrt.xrtDeviceLoadXclbin(d, NULL) == -1, EINVAL);
    REFUSED(xrt.xrtDeviceLoadXclbin(d, (void *)16) == -1, EINVAL);
    REFUSED(load(e, U1, (struct options){ .timestamp = 999 }) == -1, EOPNOTSUPP);
    CHECK(log_has("does not match shell") && log_has("xilinx_u200_test_1") && log_has("xilinx_u200_board"));
    CHECK(load(e, U1, (struct options){ .timestamp = 1234 }) == 0);
    REFUSED(load(d, U1, (struct options){ .timestamp = 1234 }) == -1, EOPNOTSUPP); /* its shell has none */
    REFUSED(load(d, U1, (struct options){ .partition_interface = U2 }) == -1, EOPNOTSUPP);
    REFUSED(load(d, U1, (struct options){ .bank0_size = BANK_SIZE * 2 }) == -1, EINVAL);
    REFUSED(load(d, U1, (struct options){ .bank0_base = 0x1000000 }) == -1, EINVAL);
    REFUSED(load(d, U1, (struct options){ .bitstream_id = U2 }) == -1, EINVAL);
    REFUSED(load(d, U1, (struct options){ .bad_connection = 1 }) == -1, EINVAL);
    REFUSED(load(d, U1, (struct options){ .xml = XML_HEAD "<kernel name=\"fir\"/>" XML_TAIL }) == -1, EINVAL);
    CHECK(status_of(BDF).programmed == before);
    CHECK(load(d, U1, (struct options){ .partition_interface = INTERFACE, .groups = 1 }) == 0);
    CHECK(status_of(BDF).programmed == before + 1 && memcmp(status_of(BDF).afu_id, U1, 16) == 0);
    unsigned char id[16];
    CHECK(xrt.xrtDeviceGetXclbinUUID(d, id) == 0 && memcmp(id, U1, 16) == 0);
    REFUSED(more.DeviceLoadXclbinFile(d, "/nonexistent") == -1, ENOENT);
    /* a header that claims more than there is, at the end of what is mapped */
    struct file f = build_xclbin(U1, &(struct options){ 0 });
    uint8_t *edge = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(edge + 8192, 8192, PROT_NONE);
    uint8_t *at = edge + 8192 - 600;
    memcpy(at, f.data, 600);
    REFUSED(xrt.xrtDeviceLoadXclbin(d, at) == -1, EINVAL);
    put64(at + 304, UINT64_MAX);
    REFUSED(xrt.xrtDeviceLoadXclbin(d, at) == -1, EINVAL);
    REFUSED(xrt.xrtDeviceLoadXclbin(d, edge + 8192 - 8) == -1, EINVAL);
    munmap(edge, 16384);
    free(f.data);
    CHECK(xrt.xrtDeviceClose(d) == 0 && xrt.xrtDeviceClose(e) == 0);
}

static void test_load_again(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    uint64_t n = status_of(BDF).programmed;
    CHECK(load(d, U1, (struct options){ 0 }) == 0 && status_of(BDF).programmed == n);
    CHECK(load(d, U2, (struct options){ .raw_bitstream = 1 }) == 0 && status_of(BDF).programmed == n + 1);
    xrtKernelHandle k = xrt.xrtPLKernelOpen(d, U2, "vadd");
    CHECK(k);
    REFUSED(load(d, U1, (struct options){ 0 }) == -1, EBUSY);
    CHECK(load(d, U2, (struct options){ .raw_bitstream = 1 }) == 0);
    CHECK(xrt.xrtKernelClose(k) == 0);
    REFUSED(load(d, U1, (struct options){ .bad_crc = 1 }) == -1, EIO);
    CHECK(status_of(BDF).state == 2);
    unsigned char id[16];
    REFUSED(xrt.xrtDeviceGetXclbinUUID(d, id) == -1, EBUSY);
    REFUSED(!xrt.xrtPLKernelOpen(d, U2, "vadd"), EINVAL);
    CHECK(load(d, U1, (struct options){ 0 }) == 0 && status_of(BDF).state == 0);
    REFUSED(!xrt.xrtPLKernelOpen(d, U2, "vadd"), EINVAL);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static int load_file(xrtDeviceHandle d, const uint8_t *data, size_t size)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/x.xclbin", rack_dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(write(fd, data, size) == (ssize_t)size);
    close(fd);
    return more.DeviceLoadXclbinFile(d, path);
}

static void test_load_cut(void)
{
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    struct file f = build_xclbin(U1, &(struct options){ .groups = 1, .partition_interface = INTERFACE });
    CHECK(load_file(d, f.data, f.size) == 0);
    for (size_t n = 0; n < f.size; n += 8) {
        uint8_t *cut = malloc(n + 1); /* exactly sized: a sanitizer sees every read past the end */
        memcpy(cut, f.data, n);
        REFUSED(load_file(d, cut, n) == -1, EINVAL);
        if (n >= 312) { /* the length as it should be, the sections still outside */
            put64(cut + 304, n);
            bool in_padding = n + 8 >= f.size;
            CHECK(load_file(d, cut, n) == -1 || in_padding);
        }
        free(cut);
    }
    free(f.data);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_load_flipped(void)
{
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    struct file f = build_xclbin(U1, &(struct options){ .groups = 1, .partition_interface = INTERFACE });
    size_t table = 456 + 40 * 8;
    unsigned accepted = 0;
    for (size_t i = 0; i < f.size; i++) {
        uint8_t was = f.data[i];
        for (int bit = 0; bit < (i < table ? 8 : 1); bit++) {
            f.data[i] = was ^ (uint8_t)(i < table ? 1 << bit : 0xff);
            void *h = more.XclbinAllocRawData((const char *)f.data, (int)f.size);
            accepted += h != NULL;
            if (h)
                CHECK(more.XclbinFreeHandle(h) == 0);
        }
        if (i < table) { /* whole bytes also against a board; what is not checked there may pass */
            f.data[i] = was ^ 0xff;
            int rc = load_file(d, f.data, f.size);
            bool checked = i < 12 || (i >= 304 && i < 312) || (i >= 448 && i < 452);
            CHECK(!checked || rc == -1);
        }
        f.data[i] = was;
    }
    CHECK(accepted > 1000); /* most of the header is not ours to judge */
    CHECK(load_file(d, f.data, f.size) == 0);
    free(f.data);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_xml(void)
{
    static const char *const bad[] = {
        "", " ", "x", "<", "<>", "<project", "<project>", "<project></x></project>", "<a/>", "<project><!-- </project>",
        "<project a=\"></project>", "<project/>trailing", "</project>",
        XML_HEAD "<kernel/>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\"/><kernel name=\"vadd\"/>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "1", "4", "0x10", "uint") "</kernel>" XML_TAIL,
            /* no id 0 */
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "0", "4", "zz", "uint") "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "0", "4", "-4", "uint") "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "9", "0", "4", "0x10", "uint") "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "300", "4", "0x10", "uint") "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "0", "4", "0x1000", "uint") "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "0", "0xffffffff", "0x10", "uint") "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "0", "4", "0x99999999999999999", "uint")
            "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS "<arg name=\"a\" id=\"0\"/></kernel>" XML_TAIL,
        /* fits the slave port, not a command packet */
        XML_HEAD "<kernel name=\"vadd\"><port name=\"S\" mode=\"slave\" range=\"0x10000\"/>"
            ARG("n", "0", "0", "4", "0x1000", "uint") "</kernel>" XML_TAIL,
        XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("n", "0", "0", "4", "0xff8", "uint") "</kernel>" XML_TAIL,
    };
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(load(d, U1, (struct options){ .xml = bad[i] }) == -1);
        if (case_failed)
            printf("  with XML %zu\n", i);
    }
    /* all three IP_LAYOUT names must be kernels here: no model of one */
    REFUSED(load(d, U1, (struct options){ .xml = XML_HEAD "<kernel name=\"vadd\"/><kernel name=\"passthrough\"/>"
                                                          "<kernel name=\"fir\"/>" XML_TAIL }) == -1, ENOSYS);
    CHECK(log_has("no model of kernel \"fir\""));
    static const char odd[] = "\xef\xbb\xbf<?xml?><!DOCTYPE x><project a='>' ><!-- <kernel name=\"no\"> --><kernel\n"
                              "\tname = 'vadd' x='&lt;&amp;&bogus'/><![CDATA[<kernel>]]> text "
                              "<kernel name=\"passthrough\"></kernel></project>\n";
    CHECK(load(d, U1, (struct options){ .xml = odd }) == 0);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_xclbin_handles(void)
{
    struct file f = build_xclbin(U2, &(struct options){ 0 });
    void *x = more.XclbinAllocRawData((const char *)f.data, (int)f.size);
    unsigned char id[16];
    char name[64];
    int size = 0;
    CHECK(x && more.XclbinGetUUID(x, id) == 0 && memcmp(id, U2, 16) == 0);
    CHECK(more.XclbinGetXSAName(x, name, sizeof name, &size) == 0 && size == 18 && !strcmp(name, "xilinx_u200_test_1"));
    CHECK(more.XclbinGetNumKernels(x) == 2);
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    CHECK(more.DeviceLoadXclbinHandle(d, x) == 0);
    CHECK(load_file(d, f.data, f.size) == 0);
    void *y = more.XclbinAllocFilename("/nonexistent");
    CHECK(!y);
    CHECK(more.XclbinFreeHandle(x) == 0);
    REFUSED(more.XclbinFreeHandle(x) == -1, EINVAL);
    REFUSED(!more.XclbinAllocRawData((const char *)f.data, 7), EINVAL);
    REFUSED(!more.XclbinAllocRawData(NULL, 7), EINVAL);
    free(f.data);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}
