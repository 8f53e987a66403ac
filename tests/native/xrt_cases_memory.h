/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_cases_memory.h: test cases: kernels, registers, buffers. */

static void test_kernels(void)
{
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    CHECK(load(d, U1, (struct options){ .groups = 1 }) == 0);
    static const char *const absent[] = { "nope", "vad", "vaddx", "vadd:{vadd_3}", "vadd:{vadd_1,vadd_3}" };
    static const char *const bad[] = { "", "vadd:", "vadd:vadd_1", "vadd:{", "vadd:{}", "vadd:{vadd_1",
        "vadd:{vadd_1}x" };
    for (size_t i = 0; i < 5; i++)
        REFUSED(!xrt.xrtPLKernelOpen(d, U1, absent[i]), ENOENT);
    for (size_t i = 0; i < 7; i++)
        REFUSED(!xrt.xrtPLKernelOpen(d, U1, bad[i]), EINVAL);
    REFUSED(!xrt.xrtPLKernelOpen(d, NULL, "vadd"), EINVAL);
    REFUSED(!xrt.xrtPLKernelOpen(d, U2, "vadd"), EINVAL);
    xrtKernelHandle k = xrt.xrtPLKernelOpen(d, U1, "vadd"), one = xrt.xrtPLKernelOpen(d, U1, "vadd:{vadd_2}");
    CHECK(k && one && k != one);
    REFUSED(!xrt.xrtPLKernelOpenExclusive(d, U1, "vadd:{vadd_2}"), EBUSY);
    CHECK(log_has("Conflicting access mode"));
    CHECK(xrt.xrtKernelArgGroupId(k, 0) == 0 && xrt.xrtKernelArgGroupId(k, 2) == 2); /* largest index: the group */
    CHECK(xrt.xrtKernelArgGroupId(one, 2) == 1);
    REFUSED(xrt.xrtKernelArgGroupId(k, 3) == -1, EINVAL);
    REFUSED(xrt.xrtKernelArgGroupId(k, 4) == -1, EINVAL);
    REFUSED(xrt.xrtKernelArgGroupId(k, -1) == -1, EINVAL);
    CHECK(xrt.xrtKernelArgOffset(k, 0) == 0x10 && xrt.xrtKernelArgOffset(k, 3) == 0x34);
    REFUSED(xrt.xrtKernelArgOffset(k, 4) == UINT32_MAX, EINVAL);
    CHECK(xrt.xrtKernelClose(k) == 0 && xrt.xrtKernelClose(one) == 0);
    REFUSED(xrt.xrtKernelClose(k) == -1, EINVAL);
    CHECK((k = xrt.xrtPLKernelOpenExclusive(d, U1, "vadd:{vadd_1,vadd_2}")) != NULL);
    CHECK((one = xrt.xrtPLKernelOpenExclusive(d, U1, "vadd:{vadd_2}")) != NULL);
    REFUSED(!xrt.xrtPLKernelOpen(d, U1, "vadd"), EBUSY);
    CHECK(xrt.xrtKernelClose(k) == 0 && xrt.xrtKernelClose(one) == 0);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static uint32_t reg(xrtKernelHandle k, uint32_t offset)
{
    uint32_t v = 0xdeadbeef;
    CHECK(xrt.xrtKernelReadRegister(k, offset, &v) == 0);
    return v;
}

static void test_registers(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    uint32_t v;
    xrtKernelHandle shared = xrt.xrtPLKernelOpen(d, U1, "vadd:{vadd_1}");
    REFUSED(xrt.xrtKernelReadRegister(shared, 0, &v) == -1, EPERM);
    REFUSED(xrt.xrtKernelWriteRegister(shared, 0x10, 1) == -1, EPERM);
    CHECK(xrt.xrtKernelClose(shared) == 0);
    xrtKernelHandle two = xrt.xrtPLKernelOpenExclusive(d, U1, "vadd");
    REFUSED(xrt.xrtKernelReadRegister(two, 0, &v) == -1, EINVAL);
    CHECK(xrt.xrtKernelClose(two) == 0);
    xrtKernelHandle k = xrt.xrtPLKernelOpenExclusive(d, U1, "vadd:{vadd_1}");
    CHECK(reg(k, 0) == 4);
    REFUSED(xrt.xrtKernelReadRegister(k, 0xffd, &v) == -1, EINVAL);
    REFUSED(xrt.xrtKernelReadRegister(k, 0x1000, &v) == -1, EINVAL);
    REFUSED(xrt.xrtKernelReadRegister(k, 0xfffffffc, &v) == -1, EINVAL);
    REFUSED(xrt.xrtKernelReadRegister(k, 0, NULL) == -1, EINVAL);
    CHECK(xrt.xrtKernelWriteRegister(k, 0xffc, 77) == 0 && reg(k, 0xffc) == 77);
    xrtBufferHandle b[3];
    uint32_t *p[3];
    for (int i = 0; i < 3; i++) {
        b[i] = xrt.xrtBOAlloc(d, 64, XRT_BO_FLAGS_HOST_ONLY, 0);
        p[i] = xrt.xrtBOMap(b[i]);
        uint64_t at = xrt.xrtBOAddress(b[i]);
        uint32_t offset = xrt.xrtKernelArgOffset(k, i);
        CHECK(xrt.xrtKernelWriteRegister(k, offset, (uint32_t)at) == 0);
        CHECK(xrt.xrtKernelWriteRegister(k, offset + 4, (uint32_t)(at >> 32)) == 0);
    }
    for (uint32_t i = 0; i < 16; i++)
        p[0][i] = i, p[1][i] = 5;
    CHECK(xrt.xrtKernelWriteRegister(k, 0x34, 16) == 0 && xrt.xrtKernelWriteRegister(k, 0, 1) == 0);
    CHECK(reg(k, 0) == 0xe && reg(k, 0) == 4); /* done and ready clear when read */
    CHECK(p[2][0] == 5 && p[2][15] == 20);
    xrtRunHandle r = more.KernelRun(k, b[0], b[1], b[2], 9u);
    CHECK(r && more.RunWait(r) == ERT_CMD_STATE_COMPLETED);
    CHECK(reg(k, 0) == 0xe && reg(k, 0x34) == 9 && reg(k, 0x28) == (uint32_t)xrt.xrtBOAddress(b[2]));
    CHECK(xrt.xrtRunClose(r) == 0 && xrt.xrtKernelClose(k) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(xrt.xrtBOFree(b[i]) == 0);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_buffers(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    REFUSED(!xrt.xrtBOAlloc(d, 0, 0, 0), EINVAL);
    REFUSED(!xrt.xrtBOAlloc(d, SIZE_MAX, 0, 0), EINVAL);
    REFUSED(!xrt.xrtBOAlloc(d, 64, 0, 2), EINVAL);
    REFUSED(!xrt.xrtBOAlloc(d, 64, 0, 65535), EINVAL);
    REFUSED(!xrt.xrtBOAlloc(d, 64, 0, UINT32_MAX), EINVAL);
    REFUSED(!xrt.xrtBOAlloc(d, 64, 3ull << 28, 0), EINVAL);
    REFUSED(!xrt.xrtBOAlloc(d, 64, 1ull << 30, 0), EOPNOTSUPP);
    xrtBufferHandle a = xrt.xrtBOAlloc(d, 10000, 0, 1), b = xrt.xrtBOAlloc(d, 10000, XRT_BO_FLAGS_CACHEABLE, 0), sub,
        sub2 = NULL;
    CHECK(xrt.xrtBOSize(a) == 10000 && xrt.xrtBOAddress(a) == 0x400000000 && xrt.xrtBOAddress(b) == 4096);
    uint8_t *p = xrt.xrtBOMap(a), *q = xrt.xrtBOMap(b), small[8] = { 0 };
    CHECK(p && p == xrt.xrtBOMap(a) && (uintptr_t)p % 4096 == 0 && p[0] == 0);
    memset(p, 0x41, 10000);
    CHECK(xrt.xrtBOSync(a, XCL_BO_SYNC_BO_TO_DEVICE, 100, 9900) == 0);
    memset(p, 0, 10000);
    CHECK(xrt.xrtBOSync(a, XCL_BO_SYNC_BO_FROM_DEVICE, 10000, 0) == 0 && p[9899] == 0 && p[9900] == 0x41 &&
          p[9999] == 0x41);
    static const size_t outside[][2] = { { 10001, 0 }, { 1, 10000 }, { 0, 10001 }, { SIZE_MAX, 1 }, { 1, SIZE_MAX },
                                         { SIZE_MAX, SIZE_MAX }, { SIZE_MAX - 4095, 4096 } };
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        size_t n = outside[i][0], at = outside[i][1];
        REFUSED(xrt.xrtBOSync(a, XCL_BO_SYNC_BO_TO_DEVICE, n, at) == -1, EINVAL);
        REFUSED(more.BOWrite(a, small, n, at) == -1, EINVAL);
        REFUSED(more.BORead(a, small, n, at) == -1, EINVAL);
        REFUSED(!more.BOSubAlloc(a, n, at), EINVAL);
        REFUSED(xrt.xrtBOCopy(a, b, n, at, 0) == -1, EINVAL);
        REFUSED(xrt.xrtBOCopy(a, b, n, 0, at) == -1, EINVAL);
    }
    REFUSED(xrt.xrtBOSync(a, (enum xclBOSyncDirection)2, 1, 0) == -1, EINVAL);
    CHECK(xrt.xrtBOSync(a, XCL_BO_SYNC_BO_TO_DEVICE, 0, 10000) == 0);
    CHECK(more.BOWrite(a, "abc", 3, 9997) == 0 && more.BORead(a, small, 3, 9997) == 0 && !memcmp(small, "abc", 3));
    REFUSED(more.BOWrite(a, NULL, 3, 0) == -1, EINVAL);
    CHECK(xrt.xrtBOCopy(b, a, 50, 0, 9900) == 0 && q[0] == 0); /* on the card: the host sees it after a sync */
    CHECK(xrt.xrtBOSync(b, XCL_BO_SYNC_BO_FROM_DEVICE, 50, 0) == 0 && q[0] == 0x41 && q[49] == 0x41);
    CHECK((sub = more.BOSubAlloc(a, 1000, 9000)) && (sub2 = more.BOSubAlloc(sub, 100, 900)));
    CHECK(xrt.xrtBOAddress(sub2) == 0x400000000 + 9900 && xrt.xrtBOMap(sub2) == p + 9900 && xrt.xrtBOSize(sub2) == 100);
    REFUSED(xrt.xrtBOSync(sub2, XCL_BO_SYNC_BO_TO_DEVICE, 101, 0) == -1, EINVAL);
    CHECK(xrt.xrtBOFree(a) == 0);
    REFUSED(xrt.xrtBOFree(a) == -1, EINVAL);
    CHECK(xrt.xrtBOFree(sub) == 0 && xrt.xrtBOSync(sub2, XCL_BO_SYNC_BO_FROM_DEVICE, 100, 0) == 0 && p[9950] == 0x41);
    CHECK(xrt.xrtBOFree(sub2) == 0 && xrt.xrtBOFree(b) == 0);
    a = xrt.xrtBOAlloc(d, 4096, XRT_BO_FLAGS_DEV_ONLY, 0);
    CHECK(a && xrt.xrtBOAddress(a));
    REFUSED(!xrt.xrtBOMap(a), EINVAL);
    REFUSED(xrt.xrtBOSync(a, XCL_BO_SYNC_BO_TO_DEVICE, 1, 0) == -1, EINVAL);
    REFUSED(more.BORead(a, small, 1, 0) == -1, EINVAL);
    CHECK(xrt.xrtBOFree(a) == 0);
    REFUSED(!xrt.xrtBOAllocUserPtr(d, NULL, 4096, 0, 0), EINVAL);
    uint8_t *mine = aligned_alloc(4096, 8192);
    memset(mine, 9, 8192);
    REFUSED(!xrt.xrtBOAllocUserPtr(d, mine + 64, 4096, 0, 0), EINVAL);
    REFUSED(!xrt.xrtBOAllocUserPtr(d, mine, 4096, XRT_BO_FLAGS_HOST_ONLY, 0), EINVAL);
    CHECK((a = xrt.xrtBOAllocUserPtr(d, mine, 5000, 0, 0)) && xrt.xrtBOMap(a) == mine);
    CHECK(xrt.xrtBOSync(a, XCL_BO_SYNC_BO_FROM_DEVICE, 5000, 0) == 0 && mine[0] == 0 && mine[5000] == 9);
    CHECK(xrt.xrtBOFree(a) == 0);
    free(mine);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_addresses(void)
{
    enum { N = 4095 }; /* bank 0 is 16 MiB at 0, and 0 is no address */
    static xrtBufferHandle b[N];
    xrtDeviceHandle d = open_loaded(BDF, U1);
    for (int i = 0; i < N; i++) {
        b[i] = xrt.xrtBOAlloc(d, 1 + (size_t)i % 4096, XRT_BO_FLAGS_DEV_ONLY, 0);
        CHECK(b[i] && xrt.xrtBOAddress(b[i]) == 4096 * ((uint64_t)i + 1));
    }
    REFUSED(!xrt.xrtBOAlloc(d, 1, 0, 0), ENOMEM);
    CHECK(xrt.xrtBOFree(b[100]) == 0 && xrt.xrtBOFree(b[7]) == 0 && xrt.xrtBOFree(b[101]) == 0);
    REFUSED(!xrt.xrtBOAlloc(d, 3 * 4096, 0, 0), ENOMEM);
    b[100] = xrt.xrtBOAlloc(d, 2 * 4096, 0, 0), b[7] = xrt.xrtBOAlloc(d, 4096, 0, 0), b[101] = NULL;
    CHECK(xrt.xrtBOAddress(b[100]) == 4096 * 101 && xrt.xrtBOAddress(b[7]) == 4096 * 8);
    REFUSED(!xrt.xrtBOAlloc(d, 1, 0, 0), ENOMEM);
    for (int i = 0; i < N; i++)
        CHECK(!b[i] || xrt.xrtBOFree(b[i]) == 0);
    xrtBufferHandle all = xrt.xrtBOAlloc(d, (16 << 20) - 4096, 0, 0);
    CHECK(all && xrt.xrtBOAddress(all) == 4096 && xrt.xrtBOFree(all) == 0);
    REFUSED(!xrt.xrtBOAlloc(d, 16 << 20, 0, 0), ENOMEM);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}
