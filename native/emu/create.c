/* SPDX-License-Identifier: Apache-2.0 */
/* create.c: rack.bin from a description (see fpgahal_emu_create). */
#define _GNU_SOURCE 1
#include "../include/board.h"
#include "../include/emu_control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_BOARDS 4096
#define MAX_LINE 512

/* ---- values: each returns NULL or what is wrong --------------------------------------------------- */

static const char *text(char *out, size_t room, const char *v)
{
    if (strlen(v) >= room)
        return "is too long";
    strcpy(out, v);
    return NULL;
}

static const char *number(uint64_t *out, const char *v, int base, uint64_t max)
{
    char *end;
    errno = 0;
    *out = strtoull(v, &end, base);
    if (!*v || *v == '-' || *end || errno || *out > max)
        return "is not a number in range";
    return NULL;
}

static const char *number16(uint16_t *out, const char *v)
{
    uint64_t n = 0;
    const char *bad = number(&n, v, 16, 0xffff);
    *out = (uint16_t)n;
    return bad;
}

/* 32 hex digits with dashes anywhere between the bytes; an empty value is the zero id. */
static const char *uuid(uint8_t out[16], const char *v)
{
    int digits = 0;
    memset(out, 0, 16);
    for (const char *c = v; *c; c++) {
        int d = *c >= '0' && *c <= '9' ? *c - '0' : (*c | 32) >= 'a' && (*c | 32) <= 'f' ? (*c | 32) - 'a' + 10 : -1;
        if (*c == '-' && digits % 2 == 0)
            continue;
        if (d < 0 || digits == 32)
            return "is not a UUID";
        out[digits / 2] |= (uint8_t)(digits % 2 ? d : d << 4);
        digits++;
    }
    return digits == 32 || digits == 0 ? NULL : "is not a UUID";
}

static const char *address(struct emu_board *b, const char *v)
{
    unsigned segment, bus, device, function;
    int end = 0;
    if (sscanf(v, "%4x:%2x:%2x.%1x%n", &segment, &bus, &device, &function, &end) != 4 || v[end] || end != 12
        || device > 31 || function > 7)
        return "is not dddd:bb:dd.f";
    b->segment = (uint16_t)segment;
    b->bus = (uint8_t)bus;
    b->device = (uint8_t)device;
    b->function = (uint8_t)function;
    return text(b->bdf, sizeof b->bdf, v);
}

static const char *bank(struct emu_board *b, const char *v)
{
    char tag[16], type[24], base[24], size[24], more[2];
    uint64_t n = 0;
    if (b->nbanks == EMU_MAX_BANKS)
        return "is one bank too many";
    struct emu_bank *out = &b->banks[b->nbanks];
    if (sscanf(v, "%15s %23s %23s %23s %1s", tag, type, base, size, more) != 4 || number(&n, type, 0, UINT32_MAX)
        || number(&out->base, base, 0, UINT64_MAX) || number(&out->size, size, 0, UINT64_MAX))
        return "is not TAG TYPE BASE SIZE";
    strcpy(out->tag, tag);
    out->type = (uint32_t)n;
    out->index = b->nbanks++;
    return NULL;
}

static const char *cores(struct emu_board *b, const char *v)
{
    uint64_t n = 0;
    const char *bad = number(&n, v, 10, EMU_MAX_CORES);
    b->cores = (uint32_t)n;
    return bad;
}

static const char *family(struct emu_board *b, const char *v)
{
    b->family = strcmp(v, "opae") == 0 ? EMU_OPAE : strcmp(v, "xrt") == 0 ? EMU_XRT : 0;
    return b->family ? NULL : "is neither opae nor xrt";
}

static const char *set(struct emu_board *b, const char *key, const char *v)
{
#define IS(name) (strcmp(key, name) == 0)
    if (IS("bdf"))
        return address(b, v);
    if (IS("model"))
        return text(b->model, sizeof b->model, v);
    if (IS("name"))
        return text(b->name, sizeof b->name, v);
    if (IS("vbnv"))
        return text(b->vbnv, sizeof b->vbnv, v);
    if (IS("identity"))
        return text(b->identity, sizeof b->identity, v);
    if (IS("family"))
        return family(b, v);
    if (IS("vendor"))
        return number16(&b->vendor_id, v);
    if (IS("device"))
        return number16(&b->device_id, v);
    if (IS("subvendor"))
        return number16(&b->subvendor_id, v);
    if (IS("subdevice"))
        return number16(&b->subdevice_id, v);
    if (IS("interface"))
        return uuid(b->interface_id, v);
    if (IS("afu"))
        return uuid(b->initial_afu_id, v);
    if (IS("timestamp"))
        return number(&b->timestamp, v, 0, UINT64_MAX);
    if (IS("link_bytes_per_s"))
        return number(&b->link_bytes_per_s, v, 0, UINT64_MAX);
    if (IS("launch_ns"))
        return number(&b->launch_ns, v, 0, 3600000000000ull);
    if (IS("program_ns"))
        return number(&b->program_ns, v, 0, 3600000000000ull);
    if (IS("cores"))
        return cores(b, v);
    if (IS("bank"))
        return bank(b, v);
#undef IS
    return "is an unknown key";
}

/* ---- the description ------------------------------------------------------------------------------ */

static int refuse(unsigned line, const char *what, const char *why)
{
    emu_error(NULL, false, "rack description, line %u: '%s' %s", line, what, why);
    return EINVAL;
}

/* Boards that can't be told apart, or lack what every board needs. */
static int check(const struct emu_board *boards, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!boards[i].bdf[0] || !boards[i].model[0] || !boards[i].family) {
            emu_error(NULL, false, "rack description: board %u needs bdf, model and family", i);
            return EINVAL;
        }
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(boards[i].bdf, boards[k].bdf) == 0) {
                emu_error(NULL, false, "rack description: two boards at %s", boards[i].bdf);
                return EINVAL;
            }
        }
    }
    return 0;
}

static int parse(const char *description, struct emu_board **out, uint32_t *count)
{
    struct emu_board *boards = NULL;
    uint32_t n = 0, room = 0;
    unsigned number_of_line = 0;
    int rc = 0;
    for (const char *at = description; *at && rc == 0;) {
        char line[MAX_LINE];
        size_t length = strcspn(at, "\n");
        number_of_line++;
        snprintf(line, sizeof line, "%.*s", (int)(length < MAX_LINE ? length : MAX_LINE), at);
        if (length >= MAX_LINE) {
            rc = refuse(number_of_line, line, "is too long");
            break;
        }
        at += length + (at[length] == '\n');
        char *equals = strchr(line, '=');
        if (line[strspn(line, " \t\r")] == '\0')
            continue;
        if (strcmp(line, "[board]") == 0) {
            if (n == room) {
                room = room ? 2 * room : 8;
                void *more = n < MAX_BOARDS ? realloc(boards, room * sizeof *boards) : NULL;
                if (!more) {
                    rc = refuse(number_of_line, line, "is one board too many");
                    break;
                }
                boards = more;
            }
            memset(&boards[n], 0, sizeof boards[n]);
            boards[n].index = n;
            n++;
        } else if (!equals || n == 0) {
            rc = refuse(number_of_line, line, n ? "is not key=value" : "stands before the first [board]");
        } else {
            *equals = '\0';
            const char *why = set(&boards[n - 1], line, equals + 1);
            if (why)
                rc = refuse(number_of_line, line, why);
        }
    }
    if (rc == 0)
        rc = check(boards, n);
    if (rc != 0) {
        free(boards);
        return rc;
    }
    *out = boards;
    *count = n;
    return 0;
}

static int fill(int fd, const char *dir, const struct emu_board *boards, uint32_t n)
{
    size_t size = sizeof(struct emu_shared) + n * sizeof *boards;
    if (ftruncate(fd, (off_t)size) != 0)
        return errno;
    struct emu_shared *s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (s == MAP_FAILED)
        return errno;
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    s->magic = EMU_MAGIC;
    s->version = EMU_VERSION;
    s->nboards = n;
    s->size = size;
    if (n)
        memcpy(s->boards, boards, n * sizeof *boards);
    for (uint32_t i = 0; i < n; i++) {
        struct emu_board *b = &s->boards[i];
        memcpy(b->afu_id, b->initial_afu_id, 16);
        pthread_mutex_init(&b->lock, &attr);
        emu_model_reset_registers(b);
        emu_identity_write(dir, b);
    }
    pthread_mutexattr_destroy(&attr);
    munmap(s, size);
    return 0;
}

int fpgahal_emu_create(const char *dir, const char *description)
{
    struct emu_board *boards = NULL;
    uint32_t n = 0;
    char path[4096], aside[4096 + 32];
    if (!dir || !description || snprintf(path, sizeof path, "%s/rack.bin", dir) >= (int)sizeof path) {
        emu_error(NULL, false, "fpgahal_emu_create: no folder, no description, or a path that is too long");
        return EINVAL;
    }
    int rc = parse(description, &boards, &n);
    if (rc)
        return rc;
    snprintf(aside, sizeof aside, "%s.%ld", path, (long)getpid());
    int fd = open(aside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = errno;
        emu_error(NULL, false, "cannot make %s: %m", aside);
    } else {
        rc = fill(fd, dir, boards, n);
        close(fd);
        /* link, not rename: a rack that others use already is not replaced under them */
        if (rc == 0 && link(aside, path) != 0)
            rc = errno;
        if (rc) {
            errno = rc;
            emu_error(NULL, false, "cannot make %s: %m", path);
        }
        unlink(aside);
    }
    free(boards);
    return rc;
}
