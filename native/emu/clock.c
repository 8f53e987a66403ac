/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.c: time, and the board's link.
 *
 * Each direction of a link is a queue of its own, and the board's: all processes stand in it.  A transfer
 * joins it in pieces, so that two long ones share the link, and one that is given up leaves next to nothing
 * behind.  A piece begins when the one before it ends, not when its thread wakes up: late wake-ups don't add up.
 */
#define _GNU_SOURCE 1
#include "../include/board.h"

#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

#define SLICE_NS 5000000ull /* how late a cancel may be seen */
#define SPIN_NS 20000ull /* a sleep comes back up to this much late: the rest is spun */
#define PIECES_PER_S 1000u /* a piece takes the link for a millisecond at most */
#define STALE_NS 60000000000ull /* no queue is that long: the time is from before this computer was started */

uint64_t emu_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* By default Linux may let a thread sleep 50 us longer than asked, so that it wakes several at once. */
static void nap_until(uint64_t until)
{
    int slack = prctl(PR_GET_TIMERSLACK);
    prctl(PR_SET_TIMERSLACK, 1ul);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME,
                    &(struct timespec) { (time_t)(until / 1000000000u), (long)(until % 1000000000u) }, NULL);
    if (slack > 0)
        prctl(PR_SET_TIMERSLACK, (unsigned long)slack);
}

bool emu_wait_until(const struct emu_board *board, uint64_t until, _Atomic int *cancel)
{
    for (;;) {
        if ((cancel && atomic_load(cancel)) || atomic_load(&board->vanished))
            return false;
        uint64_t now = emu_now_ns();
        if (now >= until)
            return true;
        if (until - now > SPIN_NS)
            nap_until(until - now - SPIN_NS < SLICE_NS ? until - SPIN_NS : now + SLICE_NS);
        else
            sched_yield();
    }
}

/* When `bytes` are across, which wait from `from` on. */
static uint64_t enqueue(struct emu_board *board, enum emu_direction direction, uint64_t bytes, uint64_t from)
{
    if (!bytes)
        return from;
    uint64_t takes = (uint64_t)((double)bytes * 1e9 / (double)board->link_bytes_per_s);
    uint64_t end, free = atomic_load(&board->link_free_ns[direction]);
    do {
        end = (free > from && free - from < STALE_NS ? free : from) + takes;
    } while (!atomic_compare_exchange_weak(&board->link_free_ns[direction], &free, end));
    return end;
}

uint64_t emu_link(struct emu_board *board, uint64_t up, uint64_t down, uint64_t from, _Atomic int *cancel)
{
    uint64_t most = board->link_bytes_per_s / PIECES_PER_S + 1, end[2] = { from, from };
    while (board->link_bytes_per_s && (up || down)) {
        uint64_t u = up < most ? up : most, d = down < most ? down : most;
        end[EMU_UP] = enqueue(board, EMU_UP, u, end[EMU_UP]);
        end[EMU_DOWN] = enqueue(board, EMU_DOWN, d, end[EMU_DOWN]);
        if (!emu_wait_until(board, end[EMU_UP] > end[EMU_DOWN] ? end[EMU_UP] : end[EMU_DOWN], cancel))
            return 0;
        up -= u;
        down -= d;
    }
    return end[EMU_UP] > end[EMU_DOWN] ? end[EMU_UP] : end[EMU_DOWN];
}
