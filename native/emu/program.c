/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.c: reconfiguration of a slot, the file that shows what is loaded, and the emulated image.
 *
 * The lock is not kept while the slot is being programmed (that may take seconds).  What says that a
 * programmer is alive is the hold "program": state PROGRAMMING without it is the mark of a dead one
 * (see emu_lock).
 */
#define _GNU_SOURCE 1
#include "../include/board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define IMAGE_MAGIC "FPGAHAL EMULATED"
#define IMAGE_BYTES 52

uint32_t emu_crc32(const uint8_t *data, size_t size)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

int emu_image_check(const uint8_t *data, size_t size, uint8_t interface_id[16], uint8_t afu_id[16])
{
    if (size == 0 || memcmp(data, IMAGE_MAGIC, size < 16 ? size : 16) != 0)
        return ENOMSG;
    if (size < IMAGE_BYTES) /* cut short: a card would find out, too */
        return EBADMSG;
    uint32_t crc = data[48] | (uint32_t)data[49] << 8 | (uint32_t)data[50] << 16 | (uint32_t)data[51] << 24;
    if (crc != emu_crc32(data, 48))
        return EBADMSG;
    if (interface_id)
        memcpy(interface_id, data + 16, 16);
    if (afu_id)
        memcpy(afu_id, data + 32, 16);
    return 0;
}

/* ---- identity file ----------------------------------------------------------------------------- */

static size_t identity_text(const struct emu_board *b, char out[64])
{
    static const uint8_t empty[16];
    size_t n = 0;
    if (b->family == EMU_XRT && memcmp(b->afu_id, empty, 16) == 0)
        return 0;
    for (int i = 0; i < 16; i++) {
        if (b->family == EMU_XRT && (i == 4 || i == 6 || i == 8 || i == 10))
            out[n++] = '-';
        n += (size_t)snprintf(out + n, 64 - n, "%02x", b->afu_id[i]);
    }
    out[n++] = '\n';
    return n;
}

/* The new file is made beside the locks and renamed into place: readers see the old or the new one, and
 * an enumerator never meets a half-written neighbour.  A slot that answers to nothing gets a link to
 * itself, because reading the file must then fail, as it does with EBUSY on a card. */
void emu_identity_write(const char *dir, const struct emu_board *b)
{
    if (!b->identity[0])
        return;
    char path[800], aside[640], text[64];
    snprintf(path, sizeof path, "%s/%s", dir, b->identity);
    snprintf(aside, sizeof aside, "%s/lock", dir);
    mkdir(aside, 0777);
    snprintf(aside, sizeof aside, "%s/lock/%u.identity", dir, b->index);
    unlink(aside);
    bool made;
    if (atomic_load(&b->state) != EMU_READY || atomic_load(&b->vanished)) {
        const char *name = strrchr(path, '/') + 1;
        made = symlink(name, aside) == 0;
    } else {
        size_t n = identity_text(b, text);
        int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        made = fd >= 0 && write(fd, text, n) == (ssize_t)n;
        if (fd >= 0)
            close(fd);
    }
    /* A rack without that part of the sysfs tree is allowed: then nobody reads the file. */
    if (!made || (rename(aside, path) != 0 && errno != ENOENT && errno != ENOTDIR))
        emu_error(b, true, "cannot write %s: %m", path);
    unlink(aside);
}

/* ---- reconfiguration --------------------------------------------------------------------------- */

static void set_state(struct emu_rack *rack, struct emu_board *b, uint32_t state, const uint8_t id[16])
{
    static const uint8_t nothing[16];
    emu_lock(b);
    if (state != EMU_PROGRAMMING) {
        memcpy(b->afu_id, id ? id : nothing, 16);
        b->programmed += state == EMU_READY;
        b->errors = 0;
        emu_model_reset_registers(b);
    }
    atomic_store(&b->state, state);
    atomic_fetch_add(&b->epoch, 1);
    emu_identity_write(rack->dir, b);
    emu_unlock(b);
}

static int program(struct emu_rack *rack, struct emu_board *b, const uint8_t *id)
{
    uint8_t loaded[16];
    int fd, rc = EIO;
    if (atomic_load(&b->vanished)) {
        emu_error(b, false, "the device is gone");
        return ENODEV;
    }
    int busy = emu_hold(rack, b, "program", EMU_HOLD_EXCLUSIVE, &fd, NULL);
    if (busy) {
        if (busy == EBUSY)
            emu_error(b, false, "another process is programming the slot");
        return busy;
    }
    set_state(rack, b, EMU_PROGRAMMING, NULL);
    for (uint64_t now, end = emu_now_ns() + b->program_ns; (now = emu_now_ns()) < end;) {
        uint64_t nap = end - now < 10000000u ? end - now : 10000000u;
        nanosleep(&(struct timespec) { 0, (long)nap }, NULL);
        if (atomic_load(&b->vanished))
            break;
    }
    if (atomic_load(&b->vanished)) {
        emu_error(b, false, "the device vanished while it was programmed");
        set_state(rack, b, EMU_FAILED, NULL);
        rc = ENODEV;
    } else if (!id || emu_fault(rack, b, EMU_FAULT_PROGRAM, NULL, NULL)) {
        emu_error(b, false, "reconfiguration failed (%s); the slot holds no AFU until a good image is loaded",
                  id ? "injected fault" : "CRC error or ids in the image that do not match");
        set_state(rack, b, EMU_FAILED, NULL);
    } else {
        memcpy(loaded, id, 16);
        if (emu_fault(rack, b, EMU_FAULT_WRONG_AFU, NULL, NULL))
            loaded[15] ^= 0xff;
        set_state(rack, b, EMU_READY, loaded);
        rc = 0;
    }
    emu_hold_release(fd);
    return rc;
}

int emu_program(struct emu_rack *rack, struct emu_board *b, const uint8_t id[16]) { return program(rack, b, id); }

int emu_program_broken(struct emu_rack *rack, struct emu_board *b) { return program(rack, b, NULL); }
