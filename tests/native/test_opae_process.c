/* SPDX-License-Identifier: Apache-2.0 */
/* test_opae_process.c: several processes: holds, kills, fork. */
#include "opae_rig.h"

#include <signal.h>
#include <sys/wait.h>

/* ---- processes -------------------------------------------------------------------------------------------- */

static int ended(pid_t child)
{
    int how = -1;
    CHECK(waitpid(child, &how, 0) == child);
    return how;
}

void two_processes(void)
{
    fpga_handle h = open_afu();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        fpga_handle mine;
        _exit(try_open(FPGA_ACCELERATOR, 0x3b, 0, &mine) == FPGA_BUSY && program_afu(NLB3) == FPGA_BUSY ? 0 : 1);
    }
    CHECK(ended(child) == 0);
    OK(opae.fpgaClose(h));
    child = fork();
    if (child == 0)
        _exit(program_afu(NLB3) == FPGA_OK ? 0 : 1);
    CHECK(ended(child) == 0);
    h = open_afu();
    CHECK(rd64(h, 0x10) == 0xf7df405cbd7acf72);
    OK(opae.fpgaClose(h));
    OK(program_afu(NLB0));
}

void killed_in_a_run(void)
{
    int ready[2];
    char c;
    CHECK(pipe(ready) == 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct nlb n;
        fpga_handle h = open_afu();
        nlb_buffers(&n, h, 1 << 20);
        nlb_start(&n, 16384, NLB_CONTINUOUS, 0);
        nap(0.02);
        _exit(write(ready[1], "x", 1) == 1 ? (pause(), 0) : 1);
    }
    CHECK(read(ready[0], &c, 1) == 1);
    fpga_handle h;
    CHECK(try_open(FPGA_ACCELERATOR, 0x3b, 0, &h) == FPGA_BUSY);
    kill(child, SIGKILL);
    ended(child);
    h = open_afu();
    CHECK(rd64(h, 0x138) == 0 && rd64(h, 0x168) == 0);
    struct nlb n;
    nlb_buffers(&n, h, 4096);
    fill(&n);
    nlb_run(&n, 64, 0, 0);
    CHECK(memcmp(n.src, n.dst, 4096) == 0);
    nlb_free(&n);
    OK(opae.fpgaClose(h));
    close(ready[0]);
    close(ready[1]);
}

void killed_while_programming(void)
{
    for (int i = 0; i < 10; i++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            _exit(program_afu(NLB3));
        nap(0.002 * (i + 1));
        kill(child, SIGKILL);
        ended(child);
        char id[64];
        uint32_t state = status().state; /* READY if it was killed before it began */
        identity(id);
        CHECK((state == 2 && id[0] == 0) || (state == 0 && id[0] != 0));
        CHECK((find_token(FPGA_ACCELERATOR, 0x3b) != NULL) == (state == 0));
        OK(program_afu(NLB0));
    }
}

void shared_by_processes(void)
{
    fpga_handle h;
    uint64_t start = 0;
    OK(try_open(FPGA_ACCELERATOR, 0x3b, FPGA_OPEN_SHARED, &h));
    struct nlb n;
    nlb_buffers(&n, h, 1 << 20);
    nlb_start(&n, 16384, NLB_CONTINUOUS, 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) { /* another process of the same board ends the run */
        fpga_handle mine;
        OK(try_open(FPGA_ACCELERATOR, 0x3b, FPGA_OPEN_SHARED, &mine));
        OK(opae.fpgaReadMMIO64(mine, 0, 0x138, &start));
        wr32(mine, 0x138, 7);
        OK(opae.fpgaClose(mine));
        _exit(start == 3 ? 0 : 1);
    }
    CHECK(ended(child) == 0);
    CHECK(nlb_wait(&n, 1) && rd64(h, 0x138) == 7);
    nlb_free(&n);
    OK(opae.fpgaClose(h));
}

void forked(void)
{
    struct nlb n;
    uint64_t v = 0;
    fpga_handle h = open_afu(), mine;
    nlb_buffers(&n, h, 1 << 20);
    nlb_start(&n, 16384, NLB_CONTINUOUS, 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) { /* the inherited handle is refused, the memory can be looked at, nothing crashes */
        bool good = opae.fpgaReadMMIO64(h, 0, 0, &v) == FPGA_INVALID_PARAM
                    && opae.fpgaReleaseBuffer(h, n.wsid[0]) == FPGA_INVALID_PARAM
                    && opae.fpgaClose(h) == FPGA_INVALID_PARAM
                    && try_open(FPGA_ACCELERATOR, 0x3b, 0, &mine) == FPGA_BUSY
                    && try_open(FPGA_ACCELERATOR, 0x3c, 0, &mine) == FPGA_OK && n.src[0] == 0;
        if (good)
            wr64(mine, 0x80, 1);
        _exit(good ? 0 : 1);
    }
    CHECK(ended(child) == 0);
    wr32(h, 0x138, 7);
    CHECK(nlb_wait(&n, 1));
    child = fork();
    if (child == 0) { /* a child that lives on does not keep the board */
        pause();
        _exit(0);
    }
    nlb_free(&n);
    OK(opae.fpgaClose(h));
    h = open_afu();
    OK(opae.fpgaClose(h));
    kill(child, SIGKILL);
    ended(child);
}
