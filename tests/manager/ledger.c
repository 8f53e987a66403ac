/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ledger.c: compute kernel ledger(src, dst, n, micros, number): dst[i] = 3 * src[i] + number.
 * Each run writes its number, 8 bytes, to the end of the file FPGAHAL_TEST_LEDGER: so runs can be counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <fpgahal_emu.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SRC = 0x10, DST = 0x1c, N = 0x28, MICROS = 0x30, NUMBER = 0x38, END = 0x40 };

static uint64_t word(const struct emu_call *c, unsigned offset)
{
    return c->regs[offset / 4] | (uint64_t)c->regs[offset / 4 + 1] << 32;
}

static uint64_t bytes(const struct emu_call *c)
{
    return c->reg_bytes < END || c->regs[MICROS / 4] ? UINT64_MAX : c->regs[N / 4] * 8ull;
}

static int execute(struct emu_call *c)
{
    if (c->reg_bytes < END)
        return EINVAL;
    uint32_t n = c->regs[N / 4];
    uint64_t number = word(c, NUMBER);
    const uint32_t *src = c->memory(c, word(c, SRC), n * 4ull);
    uint32_t *dst = src ? c->memory(c, word(c, DST), n * 4ull) : NULL;
    if (!dst)
        return EFAULT;
    int fd = open(getenv("FPGAHAL_TEST_LEDGER"), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return errno;
    ssize_t written = write(fd, &number, sizeof number);
    close(fd);
    if (written != sizeof number)
        return EIO;
    for (uint32_t left = c->regs[MICROS / 4]; left && !atomic_load(c->cancel);) {
        uint32_t piece = left < 1000 ? left : 1000;
        nanosleep(&(struct timespec){ 0, piece * 1000l }, NULL);
        left -= piece;
    }
    for (uint32_t i = 0; i < n; i++)
        dst[i] = 3 * src[i] + (uint32_t)number;
    return 0;
}

const struct emu_model fpgahal_emu_model = {
    .name = "ledger",
    .kernel = "ledger",
    .afu_id = { 0x4e, 0x27, 0x94, 0xd6, 0x1b, 0x5a, 0x5c, 0x0b, 0x9d, 0x06, 0x2c, 0x7e, 0x53, 0x0a, 0xc1, 0xf8 },
    .bytes = bytes,
    .execute = execute,
};
