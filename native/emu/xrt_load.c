/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_load.c: an xclbin onto a board.  Everything is checked before the board is touched.
 */
#define _GNU_SOURCE 1
#include "xrt_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define XRT_MAJOR 2

typedef char uuid_text[37];

static const char *uuid_print(const uint8_t id[16], uuid_text out)
{
    char *p = out;
    for (int i = 0; i < 16; i++)
        p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
    return out;
}

static bool is_null(const uint8_t id[16])
{
    static const uint8_t nothing[16];
    return memcmp(id, nothing, 16) == 0;
}

/* ---- checks ---------------------------------------------------------------------------------------- */

static int check_platform(const struct xrt_device *d, const struct xclbin *x)
{
    const struct emu_board *b = d->board;
    if (x->timestamp && b->timestamp && x->timestamp != b->timestamp)
        return xrt_fail(b, EOPNOTSUPP, "xclbin is for platform %s (time stamp %" PRIu64 "), which does not match shell "
                        "%s (time stamp %" PRIu64 ") of this board", x->vbnv, x->timestamp, b->vbnv, b->timestamp);
    if (!x->ninterfaces || is_null(b->interface_id))
        return 0;
    for (uint32_t i = 0; i < x->ninterfaces; i++)
        if (memcmp(x->interfaces[i], b->interface_id, 16) == 0)
            return 0;
    uuid_text want, have;
    return xrt_fail(b, EOPNOTSUPP, "xclbin is for platform %s (interface %s), which does not match shell %s (interface "
                    "%s) of this board", x->vbnv, uuid_print(x->interfaces[0], want), b->vbnv,
                    uuid_print(b->interface_id, have));
}

static int check_kernels(const struct xrt_device *d, const struct xclbin *x)
{
    uint32_t masks = x->ncus ? (x->ncus + 31) / 32 : 1; /* words of CU mask in a command packet */
    for (uint32_t i = 0; i < x->nkernels; i++) {
        const struct xclbin_kernel *k = &x->kernels[i];
        if (!emu_model_by_kernel(k->name))
            return xrt_fail(d->board, ENOSYS, "the emulator has no model of kernel \"%s\" in this process; it cannot "
                            "run this xclbin (a Python function is known only to the process that registered it)",
                            k->name);
        if (4 * (1 + masks) + (uint64_t)k->reg_bytes > XRT_REG_BYTES)
            return xrt_fail(d->board, EINVAL, "the register file of kernel %s (0x%x bytes) does not fit into a command "
                            "of %u bytes", k->name, k->reg_bytes, XRT_REG_BYTES);
    }
    return 0;
}

/* Is [base, base+size) made of the board's banks?  Of a single one, unless it is a group. */
static bool on_board(const struct emu_board *b, uint64_t base, uint64_t size, bool group)
{
    uint64_t at = base, end = base + size;
    for (;;) {
        uint32_t i = 0;
        while (i < b->nbanks && !(at >= b->banks[i].base && at - b->banks[i].base < b->banks[i].size))
            i++;
        if (i == b->nbanks)
            return false;
        if (end - b->banks[i].base <= b->banks[i].size)
            return true;
        if (!group)
            return false;
        at = b->banks[i].base + b->banks[i].size;
    }
}

static int check_memories(const struct xrt_device *d, const struct xclbin *x, const struct xclbin_memories *m)
{
    enum { TYPE_HOST = 10 };
    for (uint32_t i = 0; i < m->count; i++) {
        const struct xclbin_memory *e = &m->at[i];
        if (!e->used || !e->size || !xclbin_is_bank(e) || e->type == TYPE_HOST || strncmp(e->tag, "HOST", 4) == 0)
            continue;
        if (!on_board(d->board, e->base, e->size, m == &x->groups && i >= x->memories.count))
            return xrt_fail(d->board, EINVAL,
                            "xclbin memory %u (%s, 0x%" PRIx64 " bytes at 0x%" PRIx64 ") is not a bank "
                            "of this board", i, e->tag, e->size, e->base);
    }
    return 0;
}

/* 0, EIO when the card will find the image broken while it is loaded, or -1. */
static int check_bitstream(const struct xrt_device *d, const struct xclbin *x)
{
    uint8_t interface[16], id[16];
    uuid_text want, have;
    int rc = x->has_bitstream ? emu_image_check(x->bitstream.at, x->bitstream.size, interface, id) : ENOMSG;
    if (rc == ENOMSG)
        return 0; /* a real one, or none: nothing to compare */
    if (rc == EBADMSG)
        return EIO;
    if (memcmp(id, x->uuid, 16) != 0)
        return xrt_fail(d->board, EINVAL, "xclbin %s holds the BITSTREAM of %s", uuid_print(x->uuid, want),
                        uuid_print(id, have));
    if (!is_null(interface) && !is_null(d->board->interface_id) && memcmp(interface, d->board->interface_id, 16) != 0)
        return xrt_fail(d->board, EOPNOTSUPP, "xclbin holds a BITSTREAM for interface %s, which does not match "
                        "interface %s of this board", uuid_print(interface, want),
                        uuid_print(d->board->interface_id, have));
    return 0;
}

static int check(const struct xrt_device *d, const struct xclbin *x)
{
    if (is_null(x->uuid))
        return xrt_fail(d->board, EINVAL, "xclbin has a null UUID");
    if (x->version_major && x->version_major != XRT_MAJOR)
        return xrt_fail(d->board, EINVAL, "xclbin was built for XRT %u, this is XRT %u", x->version_major, XRT_MAJOR);
    if (check_platform(d, x) || check_kernels(d, x) || check_memories(d, x, &x->memories) ||
        check_memories(d, x, &x->groups))
        return -1;
    return check_bitstream(d, x);
}

/* ---- onto the board -------------------------------------------------------------------------------- */

static bool is_loaded(struct emu_board *b, const uint8_t uuid[16])
{
    emu_lock(b);
    bool yes = atomic_load(&b->state) == EMU_READY && memcmp(b->afu_id, uuid, 16) == 0;
    emu_unlock(b);
    return yes;
}

static int program(struct xrt_device *d, const struct xclbin *x, bool broken)
{
    int fd;
    int rc = emu_hold(d->rack, d->board, "context", EMU_HOLD_EXCLUSIVE, &fd, NULL);
    if (rc == EBUSY)
        return xrt_fail(d->board, EBUSY, "another xclbin is loaded and in use; close all its kernels first, in every "
                                         "process");
    if (rc)
        return xrt_fail(d->board, rc, "cannot take the board: %s", strerror(rc));
    rc = broken ? emu_program_broken(d->rack, d->board) : emu_program(d->rack, d->board, x->uuid);
    emu_hold_release(fd);
    if (rc)
        return xrt_fail(d->board, rc, "loading the xclbin failed: %s",
                        rc == ENODEV ? "the device is gone" : broken ? "the BITSTREAM is damaged (CRC)" : strerror(rc));
    return 0;
}

static int take_turn(struct xrt_device *d, int *fd)
{
    uint64_t give_up = emu_now_ns() + d->board->program_ns + XRT_LOAD_WAIT_NS;
    int rc;
    while ((rc = emu_hold(d->rack, d->board, "load", EMU_HOLD_EXCLUSIVE, fd, NULL)) == EBUSY && emu_now_ns() < give_up)
        nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
    return rc ? xrt_fail(d->board, rc, "another process is loading an xclbin") : 0;
}

/* Make it what this process's kernels and buffers are opened from. */
static int adopt(struct xrt_device *d, struct xclbin *x)
{
    int rc = 0;
    pthread_mutex_lock(&d->lock);
    x->has_bitstream = false; /* the file goes away */
    x->bitstream = (struct xclbin_bytes){ 0 };
    bool same = d->image && memcmp(d->image->uuid, x->uuid, 16) == 0;
    if (!same || !d->contexts) { /* else open kernels stay with the copy that they have */
        d->use_groups = xrt_ini_bool("Runtime.use_xclbin_group_sections", true);
        rc = xrt_memory_load(&d->memory, d->use_groups && x->groups.present ? &x->groups : &x->memories);
        if (rc == 0) {
            xclbin_release(d->image);
            d->image = xclbin_retain(x);
            for (int i = 0; i < XCLBIN_MAX_CUS; i++) {
                free(d->cus[i].regs);
                d->cus[i] = (struct xrt_cu){ 0 };
            }
        }
    }
    pthread_mutex_unlock(&d->lock);
    return rc ? xrt_fail(d->board, rc, "out of memory") : 0;
}

int xrt_load(struct xrt_device *d, const uint8_t *data, size_t size)
{
    char why[256];
    struct xclbin *x = xclbin_parse(data, size, why, sizeof why);
    if (!x)
        return xrt_fail(d->board, EINVAL, "Invalid xclbin: %s", why);
    int rc = check(d, x), fd;
    bool broken = rc == EIO;
    if (broken)
        rc = 0;
    bool again = broken || xrt_ini_bool("Runtime.force_program_xclbin", false);
    if (rc == 0 && (again || !is_loaded(d->board, x->uuid)) && (rc = take_turn(d, &fd)) == 0) {
        /* Now nobody else decides what the board should hold.  Whoever did before may have loaded ours. */
        if (again || !is_loaded(d->board, x->uuid))
            rc = program(d, x, broken);
        int saved = errno;
        emu_hold_release(fd);
        errno = saved;
    }
    if (rc == 0)
        rc = adopt(d, x);
    xclbin_release(x);
    return rc;
}
