/* SPDX-License-Identifier: Apache-2.0 */
/* clock.c: time, and the pace at which an emulated link moves data. */
#define _GNU_SOURCE 1
#include "../include/board.h"

#include <sched.h>
#include <time.h>

#define SLICE_NS 5000000ull /* how late a cancel may be seen */
#define SPIN_NS 100000ull /* a sleep comes back up to this much late: the rest is spun */

uint64_t emu_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

bool emu_pace(const struct emu_board *board, uint64_t bytes, bool launch, uint64_t started_ns, _Atomic int *cancel)
{
    uint64_t until = started_ns + (launch ? board->launch_ns : 0);
    if (board->link_bytes_per_s)
        until += (uint64_t)((double)bytes * 1e9 / (double)board->link_bytes_per_s);
    while (until > started_ns) { /* else there is nothing to wait for, and no clock to read */
        if (cancel && atomic_load(cancel))
            return false;
        uint64_t now = emu_now_ns();
        if (now >= until)
            return true;
        uint64_t left = until - now;
        if (left > 2 * SPIN_NS) {
            uint64_t nap = left - SPIN_NS < SLICE_NS ? left - SPIN_NS : SLICE_NS;
            nanosleep(&(struct timespec) { 0, (long)nap }, NULL);
        } else {
            sched_yield();
        }
    }
    return !(cancel && atomic_load(cancel));
}
