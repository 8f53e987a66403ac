/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_opae.c: the emulated OPAE library, called as a vendor's program would.  The cases are in test_opae_*.c.
 *
 * usage: test_opae LIBRARY [PART-OF-A-CASE-NAME]
 *
 * CYCLES=n in the environment: only n cycles, and short measurements (for valgrind and the sanitizers).
 */
#include "opae_rig.h"

opae_abi opae;
__typeof__(&fpgahal_emu_create) emu_create;
__typeof__(&fpgahal_emu_attach) emu_attach;
__typeof__(&fpgahal_emu_fault) emu_fault;
__typeof__(&fpgahal_emu_clear) emu_clear;
__typeof__(&fpgahal_emu_status) emu_status;
__typeof__(&fpgahal_emu_error) emu_error;
__typeof__(&fpgahal_emu_register) emu_register;
__typeof__(&fpgahal_emu_unregister) emu_unregister;
char rack[256];
pid_t rack_owner;

/* F(name, function), in the order they run */
#define CASES(F) \
    F("descriptions", descriptions) \
    F("enumerate", enumerate) \
    F("invalid objects", invalid_objects) \
    F("open busy", open_busy) \
    F("mmio", mmio) \
    F("hello afu", hello) \
    F("buffers", buffers) \
    F("nlb0 copy", nlb0_copy) \
    F("nlb0 errors", nlb0_errors) \
    F("nlb3 modes", nlb3_modes) \
    F("continuous", continuous) \
    F("launch and link pace", paced) \
    F("hang and reset", hang_and_reset) \
    F("events", events) \
    F("hls registers", hls_registers) \
    F("hls runs", hls_runs) \
    F("hls memory", hls_memory) \
    F("hls interrupts", hls_interrupts) \
    F("hls threads", hls_threads) \
    F("models come and go", models_come_and_go) \
    F("reconfigure good", reconfigure_good) \
    F("reconfigure bad", reconfigure_bad) \
    F("faults", faults) \
    F("vanish", vanish) \
    F("two processes", two_processes) \
    F("shared by processes", shared_by_processes) \
    F("killed in a run", killed_in_a_run) \
    F("killed while programming", killed_while_programming) \
    F("fork", forked) \
    F("threads: reset under readers", reset_under_readers) \
    F("threads: 8 on one handle", threads8) \
    F("threads: open and close", threads_open) \
    F("10,000 cycles", cycles) \
    F("speed", speed)

#define DECLARE(name, function) void function(void);
CASES(DECLARE)

#define ENTRY(name, function) { name, function },
static const struct {
    const char *name;
    void (*run)(void);
} cases[] = { CASES(ENTRY) };

int main(int argc, char **argv)
{
    int passed = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: %s LIBRARY [PART-OF-A-CASE-NAME]\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    load_library(argv[1]);
    make_rack();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (argc > 2 && !strstr(cases[i].name, argv[2]))
            continue;
        cases[i].run(); /* does not come back when something is wrong */
        printf("ok   %s\n", cases[i].name);
        passed++;
    }
    printf("%d passed, 0 failed\n", passed);
    return 0;
}
