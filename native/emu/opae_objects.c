/* SPDX-License-Identifier: Apache-2.0 */
/* opae_objects.c: memory of tokens, handles, properties and events; error texts; version. */
#define _GNU_SOURCE 1
#include "opae.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
enum kind { TOKENS, HANDLES, PROPERTIES, EVENTS, SYSOBJECTS, KINDS };
static struct opae_object *all[KINDS], *unused[KINDS];

static enum kind kind_of(uint64_t magic)
{
    return magic == OPAE_TOKEN        ? TOKENS
           : magic == OPAE_PROPERTIES ? PROPERTIES
           : magic == OPAE_EVENT      ? EVENTS
           : magic == OPAE_SYSOBJECT  ? SYSOBJECTS
                                      : HANDLES;
}

/* A handle means a hold, buffers and an engine of this process; a forked child has none of them.  Its
 * copies of the handles become invalid, and their memory is not used again. */
static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
static void in_child(void)
{
    for (struct opae_object *o = all[HANDLES]; o; o = o->next)
        o->magic = OPAE_DEAD;
    pthread_mutex_unlock(&lock);
}
static void watch_fork(void) { pthread_atfork(before_fork, after_fork, in_child); }

void *opae_new(enum opae_magic magic, size_t size)
{
    enum kind kind = kind_of(magic);
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&lock);
    struct opae_object *o = unused[kind];
    if (o) {
        unused[kind] = o->next_free;
        struct opae_object *next = o->next;
        memset(o, 0, size);
        o->next = next;
    } else if ((o = calloc(1, size)) != NULL) {
        o->next = all[kind];
        all[kind] = o;
    }
    if (o)
        o->magic = magic;
    pthread_mutex_unlock(&lock);
    return o;
}

void opae_free(void *object)
{
    struct opae_object *o = object;
    pthread_mutex_lock(&lock);
    enum kind kind = kind_of(o->magic);
    o->magic = OPAE_DEAD;
    o->next_free = unused[kind];
    unused[kind] = o;
    pthread_mutex_unlock(&lock);
}

void opae_each(enum opae_magic magic, void (*visit)(void *, void *), void *context)
{
    pthread_mutex_lock(&lock);
    for (struct opae_object *o = all[kind_of(magic)]; o; o = o->next) {
        if (o->magic == magic)
            visit(o, context);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- results and versions ---------------------------------------------------------------------------- */

fpga_result opae_result(int error)
{
    switch (error) {
    case 0:
        return FPGA_OK;
    case EINVAL:
        return FPGA_INVALID_PARAM;
    case EBUSY:
        return FPGA_BUSY;
    case ENOENT:
        return FPGA_NOT_FOUND;
    case ENOMEM:
        return FPGA_NO_MEMORY;
    case ENODEV:
        return FPGA_NO_DRIVER;
    case EACCES:
    case EPERM:
    case EROFS:
        return FPGA_NO_ACCESS;
    default:
        return FPGA_EXCEPTION;
    }
}

const char *fpgaErrStr(fpga_result result)
{
    static const char *const texts[] = {
        "success", "invalid parameter", "resource busy", "exception", "not found", "no memory", "not supported",
        "no driver available", "no fpga daemon running", "insufficient privileges", "reconfiguration error",
    };
    return (unsigned)result < sizeof texts / sizeof *texts ? texts[result] : "unknown error";
}

/* The version whose functions are here. */
fpga_result fpgaGetOPAECVersion(fpga_version *version)
{
    if (!version)
        return FPGA_INVALID_PARAM;
    *version = (fpga_version) { 2, 14, 0 };
    return FPGA_OK;
}

static fpga_result copy_text(char *out, size_t room, const char *text)
{
    if (!out || room <= strlen(text))
        return FPGA_INVALID_PARAM;
    strcpy(out, text);
    return FPGA_OK;
}

fpga_result fpgaGetOPAECVersionString(char *text, size_t length) { return copy_text(text, length, "2.14.0"); }
fpga_result fpgaGetOPAECBuildString(char *text, size_t length) { return copy_text(text, length, "fpgahal emulated"); }

fpga_result fpgaInitialize(const char *config_file)
{
    (void)config_file;
    return FPGA_OK;
}
fpga_result fpgaFinalize(void) { return FPGA_OK; }

void opae_print(int level, const char *fmt, ...)
{
    const char *wanted = getenv("LIBOPAE_LOG");
    if (level > (wanted ? atoi(wanted) : 0))
        return;
    va_list args;
    va_start(args, fmt);
    vfprintf(level ? stdout : stderr, fmt, args);
    va_end(args);
}
