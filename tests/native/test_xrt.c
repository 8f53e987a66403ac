/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_xrt.c: the emulated XRT library, called as a program would.
 * usage: test_xrt <libfpgahal-emu-xrt.so> [cycles]
 */
#define _GNU_SOURCE 1
#include "xrt_rig.h"
#include "xrt_cases_load.h"
#include "xrt_cases_memory.h"
#include "xrt_cases_run.h"
#include "xrt_cases_process.h"

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    /* first: where messages go is decided by the first one */
    { "messages go to the file of Runtime.runtime_log", test_log },
    { "devices: open, share, close, stale handles", test_devices },
    { "strict: nothing before an xclbin is loaded", test_before_load },
    { "load: what is checked", test_load_checks },
    { "load: same image, other image, busy, bitstream", test_load_again },
    { "load: cut after every 8 bytes", test_load_cut },
    { "load: every bit of header and section table flipped", test_load_flipped },
    { "load: XML that is odd or wrong", test_xml },
    { "xclbin handles", test_xclbin_handles },
    { "kernels: names, modes, groups, offsets", test_kernels },
    { "registers of an exclusive kernel", test_registers },
    { "buffers: kinds, banks, bounds", test_buffers },
    { "buffers: first fit, bank full", test_addresses },
    { "runs: vadd, passthrough, reuse", test_runs },
    { "runs: each scalar type is read as its type", test_scalars },
    { "runs: misuse and bad addresses", test_run_misuse },
    { "runs: in flight on the worker, close in flight", test_worker },
    { "runs: callbacks", test_callbacks },
    { "runs: callbacks that start a run, or close the device", test_callback_calls },
    { "runs: several waiters wake", test_waiters },
    { "faults: hang, run-error, flip, program, wrong-afu, vanish", test_faults },
    { "faults: every call by name", test_fault_calls },
    { "8 threads on one device", test_threads },
    { "two processes", test_two_processes },
    { "a process killed in mid-run leaves nothing", test_kill },
    { "fork: a child's inherited handles are stale", test_fork },
    { "many cycles of open, alloc, run, close", test_cycles },
};

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 2)
        cycles = atoi(argv[2]);
    load_library(argv[1]);
    make_rack();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        case_failed = false;
        double start = now_s();
        cases[i].run();
        emu.clear(rack_dir, NULL);
        printf("%s  %-60s %6.0f ms\n", case_failed ? "FAIL" : "ok  ", cases[i].name, (now_s() - start) * 1e3);
        *(case_failed ? &failed : &passed) += 1;
    }
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", rack_dir);
    if (strncmp(rack_dir, "/tmp/", 5) == 0 && system(command) != 0)
        printf("cannot remove %s\n", rack_dir);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
