/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_cases_run.h: test cases: runs and faults. */

static void test_runs(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    static const uint32_t sizes[] = { 1, 16, 1000, 300000 };
    for (int i = 0; i < 4; i++) {
        struct vadd v = vadd_open(d, U1, sizes[i]);
        for (int again = 0; again < 3; again++) {
            memset(v.po, 0, 4 * v.n);
            CHECK(xrt.xrtBOSync(v.out, XCL_BO_SYNC_BO_TO_DEVICE, 4 * (size_t)v.n, 0) == 0);
            CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED);
            CHECK(v.po[0] == 0); /* not synced yet */
            CHECK(vadd_wrong(&v) == 0);
        }
        vadd_close(&v);
    }
    xrtKernelHandle k = xrt.xrtPLKernelOpen(d, U1, "passthrough");
    xrtBufferHandle src = xrt.xrtBOAlloc(d, 1 << 20, 0, 0), dst = xrt.xrtBOAlloc(d, 1 << 20, 0, 1);
    uint8_t *p = xrt.xrtBOMap(src), *q = xrt.xrtBOMap(dst);
    for (size_t i = 0; i < 1 << 20; i++)
        p[i] = (uint8_t)(i * 7);
    CHECK(xrt.xrtBOSync(src, XCL_BO_SYNC_BO_TO_DEVICE, 1 << 20, 0) == 0);
    xrtRunHandle r = more.KernelRun(k, src, dst, (uint64_t)(1 << 20));
    CHECK(xrt.xrtKernelClose(k) == 0); /* the run keeps it */
    CHECK(r && more.RunWait(r) == ERT_CMD_STATE_COMPLETED && xrt.xrtRunState(r) == ERT_CMD_STATE_COMPLETED);
    CHECK(xrt.xrtBOSync(dst, XCL_BO_SYNC_BO_FROM_DEVICE, 1 << 20, 0) == 0 && memcmp(p, q, 1 << 20) == 0);
    CHECK(xrt.xrtRunSetArg(r, 2, (uint64_t)0) == 0 && xrt.xrtRunStart(r) == 0 && more.RunWait(r) == 4);
    CHECK(xrt.xrtRunClose(r) == 0 && xrt.xrtBOFree(src) == 0 && xrt.xrtBOFree(dst) == 0);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_scalars(void)
{
    /* vadd's four, and one of each other type behind them; the registers show what was stored */
    static const char xml[] = XML_HEAD "<kernel name=\"vadd\">" PORTS VADD_ARGS ARG("i", "0", "4", "4", "0x40", "int")
        ARG("f", "0", "5", "4", "0x44", "float") ARG("d", "0", "6", "8", "0x48", "double")
        ARG("p", "0", "7", "16", "0x50", "int*") ARG("c", "0", "8", "1", "0x60", "char") ARG("s", "4", "9", "8", "0",
                                                                                             "stream")
        ARG("u", "0", "10", "4", "0x64", "unsigned int") ARG("l", "0", "11", "8", "0x68", "long")
        ARG("x", "0", "", "4", "0x70", "uint") ARG("w", "0", "12", "4", "0x74", "uint") ARG("w", "0", "12", "4",
                                                                                            "0x78", "uint")
        "</kernel><kernel name=\"passthrough\"/>" XML_TAIL;
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    CHECK(load(d, U1, (struct options){ .xml = xml }) == 0);
    xrtKernelHandle k = xrt.xrtPLKernelOpenExclusive(d, U1, "vadd:{vadd_1}");
    xrtBufferHandle b = xrt.xrtBOAlloc(d, 64, 0, 0);
    int numbers[4] = { 1, -2, 3, -4 };
    xrtRunHandle r = more.KernelRun(k, b, b, b, 4u, -5, 1.5, 2.25, numbers, (size_t)0x1ff, (void *)&b, 0xfffffff0u,
                                    UINT64_C(0x1122334455667788), 42u);
    CHECK(r && more.RunWait(r) == ERT_CMD_STATE_COMPLETED);
    union { float f; uint32_t u; } f = { 1.5f };
    union { double d; uint64_t u; } g = { 2.25 };
    CHECK(reg(k, 0x40) == (uint32_t)-5 && reg(k, 0x44) == f.u);
    CHECK(reg(k, 0x48) == (uint32_t)g.u && reg(k, 0x4c) == (uint32_t)(g.u >> 32));
    CHECK(reg(k, 0x50) == 1 && reg(k, 0x5c) == (uint32_t)-4);
    CHECK(reg(k, 0x60) == 0xff && reg(k, 0x64) == 0xfffffff0u);
    CHECK(reg(k, 0x68) == 0x55667788 && reg(k, 0x6c) == 0x11223344 && reg(k, 0x70) == 0);
    CHECK(reg(k, 0x74) == 42 && reg(k, 0x78) == 0);
    CHECK(xrt.xrtRunClose(r) == 0 && xrt.xrtKernelClose(k) == 0 && xrt.xrtBOFree(b) == 0);
    static const char float_pointer[] = XML_HEAD "<kernel name=\"vadd\">" PORTS ARG("p", "0", "0", "8", "0x10",
                                                                                    "float*")
        "</kernel><kernel name=\"passthrough\"/>" XML_TAIL;
    CHECK(load(d, U2, (struct options){ .xml = float_pointer }) == 0);
    REFUSED(!xrt.xrtPLKernelOpen(d, U2, "vadd"), EINVAL);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_run_misuse(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    struct vadd v = vadd_open(d, U1, 64);
    xrtRunHandle r = xrt.xrtRunOpen(v.kernel);
    CHECK(xrt.xrtRunState(r) == ERT_CMD_STATE_NEW);
    REFUSED(xrt.xrtRunWaitFor(r, 0) == ERT_CMD_STATE_ABORT, EINVAL);
    REFUSED(xrt.xrtRunSetArg(r, 4, 1) == -1, EINVAL);
    REFUSED(xrt.xrtRunSetArg(r, -1, 1) == -1, EINVAL);
    REFUSED(xrt.xrtRunSetArg(r, 0, (void *)0) == -1, EINVAL);
    REFUSED(xrt.xrtRunSetArg(r, 0, v.run) == -1, EINVAL);
    for (int i = 0; i < 3; i++)
        CHECK(xrt.xrtRunSetArg(r, i, v.a) == 0);
    REFUSED(xrt.xrtRunStart(r) == -1, EINVAL);
    CHECK(log_has("argument 3 (n) of kernel vadd was never set"));
    CHECK(xrt.xrtRunSetArg(r, 3, 65) == 0 && xrt.xrtRunStart(r) == 0); /* one element past the end */
    CHECK(xrt.xrtRunWaitFor(r, 0) == ERT_CMD_STATE_ERROR && log_has("is not inside one allocated buffer"));
    CHECK(xrt.xrtRunSetArg(r, 3, UINT32_MAX) == 0 && xrt.xrtRunStart(r) == 0 && more.RunWait(r) == ERT_CMD_STATE_ERROR);
    CHECK(xrt.xrtRunSetArg(r, 3, 64) == 0 && xrt.xrtRunStart(r) == 0 && more.RunWait(r) == ERT_CMD_STATE_COMPLETED);
    xrtBufferHandle gone = xrt.xrtBOAlloc(d, 256, 0, 0);
    CHECK(xrt.xrtRunSetArg(r, 1, gone) == 0 && xrt.xrtBOFree(gone) == 0);
    CHECK(xrt.xrtRunStart(r) == 0 && more.RunWait(r) == ERT_CMD_STATE_ERROR); /* freed under it */
    xrtBufferHandle sub = more.BOSubAlloc(v.a, 64, 64);
    CHECK(xrt.xrtRunSetArg(r, 1, sub) == 0 && xrt.xrtRunSetArg(r, 3, 16) == 0);
    CHECK(xrt.xrtRunStart(r) == 0 && more.RunWait(r) == ERT_CMD_STATE_COMPLETED && xrt.xrtBOFree(sub) == 0);
    xrtDeviceHandle e = open_loaded(BDF2, U1);
    xrtBufferHandle other = xrt.xrtBOAlloc(e, 256, 0, 0);
    REFUSED(xrt.xrtRunSetArg(r, 1, other) == -1, EINVAL);
    CHECK(xrt.xrtBOFree(other) == 0 && xrt.xrtDeviceClose(e) == 0);
    CHECK(xrt.xrtRunClose(r) == 0);
    vadd_close(&v);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_worker(void)
{
    xrtDeviceHandle d = open_loaded(SLOW, U1);
    struct vadd v = vadd_open(d, U1, 16), w = vadd_open(d, U1, 16);
    double t = now_s();
    CHECK(xrt.xrtRunStart(v.run) == 0 && now_s() - t < 0.02);
    CHECK(xrt.xrtRunState(v.run) == ERT_CMD_STATE_RUNNING);
    REFUSED(xrt.xrtRunStart(v.run) == -1, EBUSY);
    REFUSED(xrt.xrtRunSetArg(v.run, 3, 1) == -1, EBUSY);
    REFUSED(more.RunUpdateArg(v.run, 3, 1) == -1, EOPNOTSUPP);
    CHECK(xrt.xrtRunWaitFor(v.run, 2) == ERT_CMD_STATE_TIMEOUT && xrt.xrtRunState(v.run) == ERT_CMD_STATE_RUNNING);
    CHECK(xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED && now_s() - t >= 0.03 && vadd_wrong(&v) == 0);
    CHECK(more.RunUpdateArg(v.run, 3, 16) == 0);
    CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunStart(w.run) == 0);
    CHECK(xrt.fpgahal_emu_xrt_reset(d) == 0);
    CHECK(xrt.xrtRunState(v.run) == ERT_CMD_STATE_ABORT && xrt.xrtRunState(w.run) == ERT_CMD_STATE_ABORT);
    CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED);
    /* close in flight: executing, and waiting behind it; the buffers go, too */
    CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunStart(w.run) == 0);
    vadd_close(&v);
    vadd_close(&w);
    v = vadd_open(d, U1, 16);
    CHECK(xrt.xrtRunStart(v.run) == 0);
    t = now_s();
    CHECK(xrt.xrtDeviceClose(d) == 0 && now_s() - t < 0.05);
    REFUSED(!xrt.xrtBOAlloc(d, 64, 0, 0), EINVAL);
    CHECK(xrt.xrtRunState(v.run) == ERT_CMD_STATE_ABORT);
    REFUSED(xrt.xrtRunStart(v.run) == -1, ENODEV);
    vadd_close(&v);
}

static _Atomic int callbacks, callback_state;
static void *_Atomic callback_run;

static void on_done(xrtRunHandle run, enum ert_cmd_state state, void *data)
{
    callback_state = (int)state;
    callback_run = run;
    callbacks += *(int *)data;
}

static void start_again(xrtRunHandle run, enum ert_cmd_state state, void *left)
{
    if (state == ERT_CMD_STATE_COMPLETED && --*(_Atomic int *)left > 0)
        CHECK(xrt.xrtRunStart(run) == 0);
}

static void close_device(xrtRunHandle run, enum ert_cmd_state state, void *device)
{
    CHECK(state == ERT_CMD_STATE_COMPLETED && xrt.xrtRunState(run) == ERT_CMD_STATE_COMPLETED);
    CHECK(xrt.xrtDeviceClose(device) == 0);
    callbacks = -1;
}

/* What a callback may do to the library that is calling it. */
static void test_callback_calls(void)
{
    static _Atomic int left = 50;
    xrtDeviceHandle d = open_loaded(BDF, U1);
    struct vadd v = vadd_open(d, U1, 16), w = vadd_open(d, U1, 16);
    CHECK(xrt.xrtRunSetCallback(v.run, ERT_CMD_STATE_COMPLETED, start_again, (void *)&left) == 0);
    CHECK(xrt.xrtRunStart(v.run) == 0);
    for (int i = 0; i < 2000 && left > 0; i++)
        usleep(1000);
    CHECK(left == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED);
    CHECK(xrt.xrtRunSetCallback(w.run, ERT_CMD_STATE_COMPLETED, close_device, d) == 0);
    CHECK(xrt.xrtRunStart(w.run) == 0);
    for (int i = 0; i < 2000 && callbacks != -1; i++)
        usleep(1000);
    CHECK(callbacks == -1);
    REFUSED(xrt.xrtDeviceClose(d) == -1, EINVAL);
    vadd_close(&v);
    vadd_close(&w);
}

static void test_callbacks(void)
{
    int one = 1;
    xrtDeviceHandle d = open_loaded(BDF, U1);
    struct vadd v = vadd_open(d, U1, 16);
    REFUSED(xrt.xrtRunSetCallback(v.run, ERT_CMD_STATE_ERROR, on_done, &one) == -1, EINVAL);
    CHECK(xrt.xrtRunSetCallback(v.run, ERT_CMD_STATE_COMPLETED, on_done, &one) == 0);
    callbacks = 0;
    for (int i = 0; i < 100; i++)
        CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED);
    for (int i = 0; i < 1000 && callbacks < 100; i++)
        usleep(1000); /* the last one may still be on its way */
    CHECK(callbacks == 100 && callback_state == 4 && callback_run == v.run);
    CHECK(xrt.xrtRunSetArg(v.run, 3, 17) == 0 && xrt.xrtRunStart(v.run) == 0);
    CHECK(xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_ERROR); /* fires for any final state */
    CHECK(xrt.fpgahal_emu_xrt_reset(d) == 0 && callbacks == 101 && callback_state == ERT_CMD_STATE_ERROR);
    xrtRunHandle r = xrt.xrtRunOpen(v.kernel);
    for (int i = 0; i < 3; i++)
        CHECK(xrt.xrtRunSetArg(r, i, v.a) == 0);
    CHECK(xrt.xrtRunSetArg(r, 3, 1) == 0 && xrt.xrtRunStart(r) == 0);
    REFUSED(xrt.xrtRunSetCallback(r, ERT_CMD_STATE_COMPLETED, on_done, &one) == -1, EINVAL);
    CHECK(xrt.xrtRunClose(r) == 0);
    vadd_close(&v);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void *wait_forever(void *run)
{
    return (void *)(intptr_t)xrt.xrtRunWaitFor(run, 0);
}

static void test_waiters(void)
{
    xrtDeviceHandle d = open_loaded(SLOW, U1);
    struct vadd v = vadd_open(d, U1, 16);
    pthread_t t[4];
    void *state;
    CHECK(xrt.xrtRunStart(v.run) == 0);
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, wait_forever, v.run);
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], &state);
        CHECK((intptr_t)state == ERT_CMD_STATE_COMPLETED);
    }
    /* a run that hangs: one is closed under its waiter, one is reset */
    for (int close_it = 0; close_it < 2; close_it++) {
        CHECK(emu.fault(rack_dir, SLOW, "hang", NULL, 0, 1) == 0 && xrt.xrtRunStart(v.run) == 0);
        pthread_create(&t[0], NULL, wait_forever, v.run);
        usleep(20000);
        CHECK(close_it ? xrt.xrtRunClose(v.run) == 0 : xrt.fpgahal_emu_xrt_reset(d) == 0);
        pthread_join(t[0], &state);
        CHECK((intptr_t)state == ERT_CMD_STATE_ABORT);
    }
    CHECK((v.run = xrt.xrtRunOpen(v.kernel)) != NULL);
    vadd_close(&v);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_faults(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    struct vadd v = vadd_open(d, U1, 64);
    CHECK(emu.fault(rack_dir, BDF, "hang", NULL, 0, 1) == 0 && xrt.xrtRunStart(v.run) == 0);
    double t0 = now_s();
    CHECK(xrt.xrtDeviceClose(d) == 0 && now_s() - t0 < 0.05 && xrt.xrtRunState(v.run) == ERT_CMD_STATE_ABORT);
    vadd_close(&v);
    d = open_loaded(BDF, U1);
    v = vadd_open(d, U1, 64);
    CHECK(emu.fault(rack_dir, BDF, "hang", NULL, 0, 1) == 0);
    CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 20) == ERT_CMD_STATE_TIMEOUT);
    CHECK(xrt.xrtRunState(v.run) == ERT_CMD_STATE_RUNNING);
    CHECK(xrt.fpgahal_emu_xrt_reset(d) == 0 && xrt.xrtRunState(v.run) == ERT_CMD_STATE_ABORT);
    CHECK(emu.fault(rack_dir, BDF, "run-error", NULL, 0, 1) == 0);
    CHECK(xrt.xrtRunStart(v.run) == 0 && more.RunWait(v.run) == ERT_CMD_STATE_ERROR && log_has("injected fault"));
    CHECK(emu.fault(rack_dir, BDF, "flip", NULL, 0, 1) == 0);
    CHECK(xrt.xrtRunStart(v.run) == 0 && more.RunWait(v.run) == ERT_CMD_STATE_COMPLETED && vadd_wrong(&v) == 1);
    CHECK(xrt.xrtRunStart(v.run) == 0 && more.RunWait(v.run) == ERT_CMD_STATE_COMPLETED && vadd_wrong(&v) == 0);
    /* vanish with a run that hangs: the waiter returns */
    CHECK(emu.fault(rack_dir, BDF, "hang", NULL, 0, 1) == 0 && xrt.xrtRunStart(v.run) == 0);
    pthread_t t;
    void *state;
    pthread_create(&t, NULL, wait_forever, v.run);
    usleep(10000);
    CHECK(emu.fault(rack_dir, BDF, "vanish", NULL, 0, 1) == 0);
    pthread_join(t, &state);
    CHECK((intptr_t)state == ERT_CMD_STATE_ABORT);
    unsigned char id[16];
    REFUSED(xrt.xrtRunState(v.run) == ERT_CMD_STATE_ABORT, ENODEV);
    REFUSED(xrt.xrtDeviceGetXclbinUUID(d, id) == -1, ENODEV);
    REFUSED(!xrt.xrtBOAlloc(d, 64, 0, 0), ENODEV);
    REFUSED(!xrt.xrtRunOpen(v.kernel), ENODEV);
    REFUSED(xrt.xrtBOSync(v.a, XCL_BO_SYNC_BO_TO_DEVICE, 4, 0) == -1, ENODEV);
    REFUSED(load(d, U1, (struct options){ 0 }) == -1, ENODEV);
    REFUSED(!xrt.xrtDeviceOpenByBDF(BDF), ENODEV);
    CHECK(emu.clear(rack_dir, BDF) == 0);
    CHECK(xrt.fpgahal_emu_xrt_reset(d) == 0);
    REFUSED(xrt.xrtRunStart(v.run) == -1, ENODEV); /* it is back, but empty */
    vadd_close(&v);
    CHECK(load(d, U1, (struct options){ 0 }) == 0);
    CHECK(emu.fault(rack_dir, BDF, "program", NULL, 0, 1) == 0);
    REFUSED(load(d, U2, (struct options){ 0 }) == -1, EIO);
    CHECK(status_of(BDF).state == 2);
    CHECK(emu.fault(rack_dir, BDF, "wrong-afu", NULL, 0, 1) == 0);
    CHECK(load(d, U2, (struct options){ 0 }) == 0);
    CHECK(xrt.xrtDeviceGetXclbinUUID(d, id) == 0 && memcmp(id, U2, 16) != 0);
    REFUSED(!xrt.xrtPLKernelOpen(d, U2, "vadd"), EINVAL);
    CHECK(load(d, U2, (struct options){ 0 }) == 0);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_fault_calls(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    struct vadd v = vadd_open(d, U1, 64);
    xrtDeviceHandle e = xrt.xrtDeviceOpenByBDF(BDF);
    uint32_t word;
    unsigned char id[16];
    xrtKernelHandle ex = xrt.xrtPLKernelOpenExclusive(d, U1, "passthrough");
    void *page = aligned_alloc(4096, 4096);
    const struct abi_symbol *s;
    unsigned seen = 0;
    for (s = xrt_symbols; s->name; s++) {
#define CALL(fn, failure)                                                                                              \
    if (strcmp(s->name, #fn) == 0) {                                                                                   \
        seen++;                                                                                                        \
        CHECK(emu.fault(rack_dir, BDF, "call", #fn, ETIMEDOUT, 1) == 0);                                             \
        REFUSED(failure, ETIMEDOUT);                                                                                   \
    }
        CALL(xrtIniStringSet, xrt.xrtIniStringSet("Runtime.verbosity", "4") == -1)
        CALL(xrtDeviceOpenByBDF, !xrt.xrtDeviceOpenByBDF(BDF))
        CALL(xrtDeviceClose, xrt.xrtDeviceClose(e) == -1)
        CALL(xrtDeviceLoadXclbin, load(d, U1, (struct options){ 0 }) == -1)
        CALL(xrtDeviceGetXclbinUUID, xrt.xrtDeviceGetXclbinUUID(d, id) == -1)
        CALL(xrtPLKernelOpen, !xrt.xrtPLKernelOpen(d, U1, "vadd"))
        CALL(xrtPLKernelOpenExclusive, !xrt.xrtPLKernelOpenExclusive(d, U1, "passthrough"))
        CALL(xrtKernelClose, xrt.xrtKernelClose(v.kernel) == -1)
        CALL(xrtKernelArgGroupId, xrt.xrtKernelArgGroupId(v.kernel, 0) == -1)
        CALL(xrtKernelArgOffset, xrt.xrtKernelArgOffset(v.kernel, 0) == UINT32_MAX)
        CALL(xrtKernelReadRegister, xrt.xrtKernelReadRegister(ex, 0, &word) == -1)
        CALL(xrtKernelWriteRegister, xrt.xrtKernelWriteRegister(ex, 0x10, 0) == -1)
        CALL(xrtRunOpen, !xrt.xrtRunOpen(v.kernel))
        CALL(xrtRunSetArg, xrt.xrtRunSetArg(v.run, 3, 1) == -1)
        CALL(xrtRunStart, xrt.xrtRunStart(v.run) == -1)
        CALL(xrtRunWaitFor, xrt.xrtRunWaitFor(v.run, 1) == ERT_CMD_STATE_ABORT)
        CALL(xrtRunState, xrt.xrtRunState(v.run) == ERT_CMD_STATE_ABORT)
        CALL(xrtRunClose, xrt.xrtRunClose(v.run) == -1)
        CALL(xrtBOAlloc, !xrt.xrtBOAlloc(d, 64, 0, 0))
        CALL(xrtBOAllocUserPtr, !xrt.xrtBOAllocUserPtr(d, page, 4096, 0, 0))
        CALL(xrtBOFree, xrt.xrtBOFree(v.a) == -1)
        CALL(xrtBOSize, xrt.xrtBOSize(v.a) == SIZE_MAX)
        CALL(xrtBOAddress, xrt.xrtBOAddress(v.a) == UINT64_MAX)
        CALL(xrtBOMap, !xrt.xrtBOMap(v.a))
        CALL(xrtBOSync, xrt.xrtBOSync(v.a, XCL_BO_SYNC_BO_TO_DEVICE, 4, 0) == -1)
        CALL(xrtBOCopy, xrt.xrtBOCopy(v.a, v.b, 4, 0, 0) == -1)
        CALL(xrtRunSetCallback, xrt.xrtRunSetCallback(v.run, ERT_CMD_STATE_COMPLETED, on_done, NULL) == -1)
        CALL(fpgahal_emu_xrt_reset, xrt.fpgahal_emu_xrt_reset(d) == -1)
#undef CALL
    }
    CHECK(seen == (unsigned)(s - xrt_symbols)); /* a new function needs a line here */
    free(page);
    vadd_close(&v); /* nothing was really closed */
    CHECK(xrt.xrtKernelClose(ex) == 0 && xrt.xrtDeviceClose(e) == 0 && xrt.xrtDeviceClose(d) == 0);
}
