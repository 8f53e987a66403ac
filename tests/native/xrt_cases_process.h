/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_cases_process.h: test cases: threads, processes, forks, endurance. */

static int cycles = 10000;

static void *thread_body(void *device)
{
    struct vadd v = vadd_open(device, U1, 64);
    for (int i = 0; i < 300; i++) {
        uint32_t n = i % 10 ? 64 : 40000; /* now and then on the worker */
        xrtBufferHandle b = xrt.xrtBOAlloc(device, 4 * (size_t)n, 0, (uint32_t)i % 2);
        CHECK(b && xrt.xrtBOSync(b, XCL_BO_SYNC_BO_TO_DEVICE, 4 * (size_t)n, 0) == 0);
        xrtRunHandle r = more.KernelRun(v.kernel, b, b, b, n);
        CHECK(r && xrt.xrtRunStart(v.run) == 0);
        CHECK(xrt.xrtRunWaitFor(r, 0) == ERT_CMD_STATE_COMPLETED && xrt.xrtRunWaitFor(v.run,
                                                                                      0) == ERT_CMD_STATE_COMPLETED);
        CHECK(vadd_wrong(&v) == 0);
        if (i % 3 == 0)
            CHECK(xrt.xrtRunStart(r) == 0); /* closed in flight */
        CHECK(xrt.xrtRunClose(r) == 0 && xrt.xrtBOFree(b) == 0);
        if (i % 50 == 0) {
            xrtDeviceHandle again = xrt.xrtDeviceOpenByBDF(BDF);
            CHECK(again == device && load(again, U1, (struct options){ 0 }) == 0 && xrt.xrtDeviceClose(again) == 0);
        }
    }
    vadd_close(&v);
    return NULL;
}

static void *thread_abuse(void *handles)
{
    void **h = handles; /* close what the other threads close: once each */
    intptr_t closed = 0;
    for (int i = 0; i < 200; i++) {
        xrt.xrtRunStart(h[i]);
        xrt.xrtRunSetArg(h[i], 3, 8);
        xrt.xrtRunWaitFor(h[i], 1);
        closed += xrt.xrtRunClose(h[i]) == 0;
    }
    return (void *)closed;
}

static void test_threads(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    pthread_t t[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&t[i], NULL, thread_body, d);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
    struct vadd v = vadd_open(d, U1, 16);
    void *runs[200], *closed;
    for (int i = 0; i < 200; i++) {
        runs[i] = more.KernelRun(v.kernel, v.a, v.b, v.out, 16u);
        CHECK(runs[i]);
    }
    intptr_t sum = 0;
    for (int i = 0; i < 8; i++)
        pthread_create(&t[i], NULL, thread_abuse, runs);
    for (int i = 0; i < 8; i++) {
        pthread_join(t[i], &closed);
        sum += (intptr_t)closed;
    }
    CHECK(sum == 200);
    vadd_close(&v);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void other_image(void)
{
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
    CHECK(d);
    REFUSED(load(d, U2, (struct options){ 0 }) == -1, EBUSY); /* the parent's kernel is open */
    REFUSED(!xrt.xrtBOAlloc(d, 64, 0, 0), EINVAL);
    uint64_t n = status_of(BDF).programmed;
    CHECK(load(d, U1, (struct options){ 0 }) == 0 && status_of(BDF).programmed == n);
    struct vadd v = vadd_open(d, U1, 64);
    CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED && vadd_wrong(&v) == 0);
    vadd_close(&v);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void reprogram(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U2);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void race_to_load(void)
{
    for (int i = 0; i < 20; i++) {
        xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(BDF);
        CHECK(d && load(d, U1, (struct options){ 0 }) == 0); /* all want the same: none may be refused */
        xrtKernelHandle k = xrt.xrtPLKernelOpen(d, U1, "vadd");
        CHECK(k && xrt.xrtKernelClose(k) == 0 && xrt.xrtDeviceClose(d) == 0);
    }
}

static void test_two_processes(void)
{
    xrtDeviceHandle d = open_loaded(BDF, U1);
    struct vadd v = vadd_open(d, U1, 64);
    CHECK(in_child(other_image));
    CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED && vadd_wrong(&v) == 0);
    vadd_close(&v);
    CHECK(in_child(reprogram));
    REFUSED(!xrt.xrtPLKernelOpen(d, U1, "vadd"), EINVAL);
    CHECK(log_has("is not what the board holds now"));
    pid_t children[4];
    fflush(stdout);
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            alarm(60);
            race_to_load();
            fflush(stdout);
            _exit(case_failed);
        }
    }
    for (int i = 0; i < 4; i++) {
        int status;
        waitpid(children[i], &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(load(d, U1, (struct options){ 0 }) == 0);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static void test_kill(void)
{
    for (int i = 0; i < 5; i++) {
        int ready[2];
        CHECK(pipe(ready) == 0);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            xrtDeviceHandle d = open_loaded(SLOW, U1);
            struct vadd v = vadd_open(d, U1, 100000);
            xrt.xrtRunStart(v.run);
            if (write(ready[1], "x", 1) != 1)
                _exit(1);
            for (;;)
                if (xrt.xrtRunWaitFor(v.run, 0) != 0)
                    xrt.xrtRunStart(v.run);
        }
        char c;
        close(ready[1]);
        CHECK(read(ready[0], &c, 1) == 1);
        close(ready[0]);
        usleep(3000 * (unsigned)i);
        xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(SLOW);
        REFUSED(load(d, U2, (struct options){ 0 }) == -1, EBUSY);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        CHECK(load(d, U2, (struct options){ 0 }) == 0);
        struct vadd v = vadd_open(d, U2, 16);
        CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED &&
              vadd_wrong(&v) == 0);
        vadd_close(&v);
        CHECK(xrt.xrtDeviceClose(d) == 0);
    }
}

static struct vadd inherited;

static void use_inherited(void)
{
    struct vadd *v = &inherited;
    REFUSED(xrt.xrtRunSetArg(v->run, 3, 1) == -1, ESTALE);
    REFUSED(xrt.xrtRunStart(v->run) == -1, ESTALE);
    REFUSED(xrt.xrtRunWaitFor(v->run, 0) == ERT_CMD_STATE_ABORT, ESTALE);
    REFUSED(xrt.xrtRunClose(v->run) == -1, ESTALE);
    REFUSED(xrt.xrtBOSync(v->a, XCL_BO_SYNC_BO_TO_DEVICE, 4, 0) == -1, ESTALE);
    REFUSED(xrt.xrtBOFree(v->a) == -1, ESTALE);
    REFUSED(xrt.xrtKernelClose(v->kernel) == -1, ESTALE);
    REFUSED(xrt.xrtDeviceClose(v->device) == -1, ESTALE);
    REFUSED(!xrt.xrtBOAlloc(v->device, 64, 0, 0), ESTALE);
#ifndef __SANITIZE_THREAD__ /* which does not like threads in a forked child */
    xrtDeviceHandle d = open_loaded(SLOW, U1);
    CHECK(d != v->device);
    struct vadd w = vadd_open(d, U1, 16);
    CHECK(xrt.xrtRunStart(w.run) == 0 && xrt.xrtRunWaitFor(w.run, 0) == ERT_CMD_STATE_COMPLETED && vadd_wrong(&w) == 0);
    vadd_close(&w);
    CHECK(xrt.xrtDeviceClose(d) == 0);
#endif
}

static void test_fork(void)
{
    xrtDeviceHandle d = open_loaded(SLOW, U1);
    inherited = vadd_open(d, U1, 16);
    CHECK(xrt.xrtRunStart(inherited.run) == 0); /* in flight, on a worker that is not in the child */
    CHECK(in_child(use_inherited));
    CHECK(xrt.xrtRunWaitFor(inherited.run, 0) == ERT_CMD_STATE_COMPLETED && vadd_wrong(&inherited) == 0);
    /* a child that lives on does not keep the parent's context */
    pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    vadd_close(&inherited);
    CHECK(load(d, U2, (struct options){ 0 }) == 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK(xrt.xrtDeviceClose(d) == 0);
}

static long resident_kb(void)
{
    long pages = 0, skip;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &skip, &pages) != 2)
        pages = 0;
    if (f)
        fclose(f);
    return pages * 4;
}

static long open_files(void)
{
    char path[64], target[256];
    long n = 0;
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        n += readlink(path, target, sizeof target) > 0;
    }
    return n;
}

static void test_cycles(void)
{
    long kb = 0, files = 0;
    for (int i = 0; i < cycles && !case_failed; i++) {
        xrtDeviceHandle d = open_loaded(BDF, U1);
        struct vadd v = vadd_open(d, U1, 100);
        CHECK(xrt.xrtRunStart(v.run) == 0 && xrt.xrtRunWaitFor(v.run, 0) == ERT_CMD_STATE_COMPLETED &&
              vadd_wrong(&v) == 0);
        vadd_close(&v);
        CHECK(xrt.xrtDeviceClose(d) == 0);
        if (i == cycles / 10)
            kb = resident_kb(), files = open_files();
    }
    CHECK(resident_kb() - kb < 2000 || cycles < 1000 || SANITIZED); /* sanitizers keep what was freed */
    CHECK(open_files() == files);
}
