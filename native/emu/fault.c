/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c: injected faults.  Any process of the rack may add, use up and clear them at any time; the
 * table is used without a lock, because faults are asked for where the board's lock may be held.
 */
#include "../include/board.h"
#include "../include/emu_control.h"
#include "rack.h"

#include <errno.h>
#include <string.h>

#define TAKEN 0xffffffffu /* kind of an entry that is being written */

static void disarm(struct emu_shared *s, struct emu_fault *f, uint32_t kind)
{
    if (atomic_compare_exchange_strong(&f->kind, &kind, 0))
        atomic_fetch_sub(&s->armed, 1);
}

bool emu_fault_slow(struct emu_rack *rack, struct emu_board *b, uint32_t kind, const char *call, int *code)
{
    struct emu_shared *s = rack->shared;
    for (int i = 0; i < EMU_MAX_FAULTS; i++) {
        struct emu_fault *f = &s->faults[i];
        if (atomic_load(&f->kind) != kind || f->board != b->index)
            continue;
        if (kind == EMU_FAULT_CALL && strncmp(f->call, call, sizeof f->call) != 0)
            continue;
        int result = f->code;
        int32_t left = atomic_load(&f->count);
        while (left > 0 && !atomic_compare_exchange_weak(&f->count, &left, left - 1))
            ;
        if (left == 0)
            continue; /* another thread took the last one */
        if (left == 1)
            disarm(s, f, kind);
        if (code)
            *code = result;
        if (kind == EMU_FAULT_CALL)
            emu_error(b, false, "injected fault: %s fails with %d", call, result);
        return true;
    }
    return false;
}

static const struct {
    const char *name;
    uint32_t kind;
} kinds[] = {
    { "program", EMU_FAULT_PROGRAM }, { "wrong-afu", EMU_FAULT_WRONG_AFU }, { "hang", EMU_FAULT_HANG },
    { "flip", EMU_FAULT_FLIP },       { "vanish", EMU_FAULT_VANISH },       { "call", EMU_FAULT_CALL },
    { "run-error", EMU_FAULT_RUN_ERROR },
};

static uint32_t kind_named(const char *name)
{
    for (size_t i = 0; name && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0)
            return kinds[i].kind;
    }
    return 0;
}

static void set_vanished(struct emu_rack *rack, struct emu_board *b, bool gone)
{
    emu_lock(b);
    if (atomic_load(&b->vanished) != gone) {
        atomic_store(&b->vanished, gone);
        if (!gone) { /* it was powered off and is as it was at the start */
            memcpy(b->afu_id, b->initial_afu_id, 16);
            atomic_store(&b->state, EMU_READY);
            b->errors = 0;
            memset(b->user_clock, 0, sizeof b->user_clock);
            memset(b->perf, 0, sizeof b->perf);
            emu_model_reset_registers(b);
        }
        atomic_fetch_add(&b->epoch, 1);
        emu_identity_write(rack->dir, b);
    }
    emu_unlock(b);
}

int fpgahal_emu_fault(const char *dir, const char *bdf, const char *kind_name, const char *call, int code, int count)
{
    struct emu_rack *rack = emu_rack_named(dir);
    struct emu_board *b = rack ? emu_rack_find_any(rack, 0, bdf) : NULL;
    if (!b)
        return ENODEV;
    uint32_t kind = kind_named(kind_name);
    if (!kind || count == 0) {
        emu_error(b, false, kind ? "a fault with count 0 never fires" : "unknown kind of fault '%s'",
                  kind_name ? kind_name : "(null)");
        return EINVAL;
    }
    if (kind == EMU_FAULT_CALL && (!call || !*call || strlen(call) >= sizeof((struct emu_fault *)0)->call)) {
        emu_error(b, false, "a fault of kind 'call' needs the name of an ABI function");
        return EINVAL;
    }
    if (kind == EMU_FAULT_VANISH) {
        set_vanished(rack, b, true);
        return 0;
    }
    struct emu_shared *s = rack->shared;
    for (int i = 0; i < EMU_MAX_FAULTS; i++) {
        struct emu_fault *f = &s->faults[i];
        uint32_t empty = 0;
        if (!atomic_compare_exchange_strong(&f->kind, &empty, TAKEN))
            continue;
        f->board = b->index;
        f->code = code;
        memset(f->call, 0, sizeof f->call);
        if (kind == EMU_FAULT_CALL)
            memcpy(f->call, call, strlen(call));
        atomic_store(&f->count, count);
        atomic_store(&f->kind, kind);
        atomic_fetch_add(&s->armed, 1);
        return 0;
    }
    emu_error(b, false, "no room for more than %d faults at a time", EMU_MAX_FAULTS);
    return ENOSPC;
}

int fpgahal_emu_clear(const char *dir, const char *bdf)
{
    struct emu_rack *rack = emu_rack_named(dir);
    struct emu_board *only = rack && bdf ? emu_rack_find_any(rack, 0, bdf) : NULL;
    if (!rack || (bdf && !only))
        return ENODEV;
    struct emu_shared *s = rack->shared;
    for (int i = 0; i < EMU_MAX_FAULTS; i++) {
        uint32_t kind = atomic_load(&s->faults[i].kind);
        if (kind && kind != TAKEN && (!only || s->faults[i].board == only->index))
            disarm(s, &s->faults[i], kind);
    }
    for (uint32_t i = 0; i < s->nboards; i++) {
        if (!only || only == &s->boards[i])
            set_vanished(rack, &s->boards[i], false);
    }
    return 0;
}
