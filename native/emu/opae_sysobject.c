/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_sysobject.c: objects by name, which are the files that the driver shows in sysfs.  Here they are
 * the files of the rack's tree; what changes all the time (counters, errors) comes from the board.
 */
#define _GNU_SOURCE 1
#include "opae.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SYNC = 1, GLOB = 2, RAW = 4, RECURSE_ONE = 8, RECURSE_ALL = 16 }; /* flags of the calls */
enum { CONTAINER = 1, ATTRIBUTE = 2 }; /* types of objects */
#define MAX_PATH 1024
#define MAX_VALUE 4096 /* sysfs shows a page at most */
#define MAX_CHILDREN 64

struct sysobject {
    struct opae_object object;
    struct emu_rack *rack;
    struct emu_board *board;
    fpga_handle handle; /* NULL: read-only, it came from a token */
    uint64_t handle_id;
    int type;
    int flags; /* that it was made with, for its children */
    char path[MAX_PATH];
    size_t root; /* how much of the path is the port's or the device's folder */
    uint32_t size; /* bytes of the value, or number of children */
    char value[MAX_VALUE + 1];
    char *children[MAX_CHILDREN]; /* paths */
};

static struct sysobject *sysobject(fpga_object o)
{
    struct sysobject *object = o;
    return object && object->object.magic == OPAE_SYSOBJECT ? object : NULL;
}

/* ---- values ------------------------------------------------------------------------------------------- */

static const struct {
    const char *end; /* of the path */
    int counter; /* enum emu_perf */
} counters[] = {
    { "perf/cache/read_hit", EMU_PERF_RD_HIT },        { "perf/cache/write_hit", EMU_PERF_WR_HIT },
    { "perf/cache/read_miss", EMU_PERF_RD_MISS },      { "perf/cache/write_miss", EMU_PERF_WR_MISS },
    { "perf/cache/rx_eviction", EMU_PERF_EVICTION },   { "perf/fabric/pcie0_read", EMU_PERF_PCIE0_READ },
    { "perf/fabric/pcie0_write", EMU_PERF_PCIE0_WRITE },
};

static bool ends(const struct sysobject *o, const char *with)
{
    size_t length = strlen(o->path), wanted = strlen(with);
    return length - o->root >= wanted && strcmp(o->path + length - wanted, with) == 0;
}

static bool of_port(const struct sysobject *o) { return memmem(o->path, o->root, "-port.", 6) != NULL; }

/* A value that the board itself knows. */
static bool live(const struct sysobject *o, uint64_t *value)
{
    const uint64_t *source = of_port(o) && ends(o, "/errors/errors") ? &o->board->errors : NULL;
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        if (!of_port(o) && ends(o, counters[i].end))
            source = &o->board->perf[counters[i].counter];
    }
    if (!source)
        return false;
    emu_lock(o->board);
    *value = *source;
    emu_unlock(o->board);
    return true;
}

static fpga_result refresh(struct sysobject *o)
{
    uint64_t value;
    if (live(o, &value)) {
        o->size = (uint32_t)snprintf(o->value, sizeof o->value, "0x%" PRIx64 "\n", value);
        return FPGA_OK;
    }
    int fd = open(o->path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, o->value, MAX_VALUE);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0) /* a port that is held in reset answers so */
        return error == ENOENT ? FPGA_NOT_FOUND : error == EACCES ? FPGA_NO_ACCESS : FPGA_EXCEPTION;
    o->value[n] = '\0';
    o->size = (uint32_t)n;
    return FPGA_OK;
}

/* ---- objects ------------------------------------------------------------------------------------------ */

static void discard(struct sysobject *o)
{
    for (uint32_t i = 0; o->type == CONTAINER && i < o->size; i++)
        free(o->children[i]);
    opae_free(o);
}

static bool add(struct sysobject *o, const char *path)
{
    if (o->size < MAX_CHILDREN && (o->children[o->size] = strdup(path)) != NULL)
        o->size++;
    return o->size < MAX_CHILDREN;
}

static int visible(const struct dirent *entry) { return entry->d_name[0] != '.' && entry->d_type != DT_LNK; }

static void list(struct sysobject *o)
{
    char path[MAX_PATH];
    struct dirent **entries;
    int n = scandir(o->path, &entries, visible, alphasort);
    if (n < 0)
        return;
    for (int i = 0; i < n; i++) {
        if (snprintf(path, sizeof path, "%s/%s", o->path, entries[i]->d_name) < (int)sizeof path)
            add(o, path);
        free(entries[i]);
    }
    free(entries);
}

/* `like` says whose it is; its path is the object's own, or a pattern with `found` matches. */
static fpga_result make(const struct sysobject *like, const char *path, const glob_t *found, fpga_object *out)
{
    struct stat st;
    if (!found && stat(path, &st) != 0)
        return errno == ENOENT || errno == ENOTDIR ? FPGA_NOT_FOUND : errno == EACCES ? FPGA_NO_ACCESS : FPGA_EXCEPTION;
    struct sysobject *o = opae_new(OPAE_SYSOBJECT, sizeof *o);
    if (!o)
        return FPGA_NO_MEMORY;
    o->rack = like->rack;
    o->board = like->board;
    o->handle = like->handle;
    o->handle_id = like->handle_id;
    o->root = like->root;
    o->flags = like->flags;
    o->type = found || S_ISDIR(st.st_mode) ? CONTAINER : ATTRIBUTE;
    snprintf(o->path, sizeof o->path, "%s", path);
    fpga_result result = FPGA_OK;
    if (found) {
        for (size_t i = 0; i < found->gl_pathc && add(o, found->gl_pathv[i]); i++)
            ;
    } else if (o->type == ATTRIBUTE) {
        result = refresh(o);
    } else if (o->flags & (RECURSE_ONE | RECURSE_ALL)) {
        list(o);
    }
    if (result != FPGA_OK) {
        o->type = ATTRIBUTE; /* it has no children yet */
        opae_free(o);
        return result;
    }
    *out = o;
    return FPGA_OK;
}

static fpga_result find(struct sysobject *like, const char *folder, const char *name, int flags, fpga_object *out)
{
    char path[MAX_PATH];
    glob_t found = { 0 };
    if (!name || !out || name[0] == '.' || name[0] == '/' || strstr(name, ".."))
        return FPGA_INVALID_PARAM;
    if (flags & ~(SYNC | GLOB | RAW | RECURSE_ONE | RECURSE_ALL))
        return FPGA_INVALID_PARAM;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return FPGA_INVALID_PARAM;
    like->flags = flags & ~GLOB;
    if (!(flags & GLOB))
        return make(like, path, NULL, out);
    /* The folder's own name is no pattern: only what was asked for is one. */
    char pattern[2 * MAX_PATH];
    size_t n = 0;
    for (const char *c = path; *c && n < sizeof pattern - 2; c++) {
        if (c < path + strlen(folder) && strchr("*?[]\\", *c))
            pattern[n++] = '\\';
        pattern[n++] = *c;
    }
    pattern[n] = '\0';
    int rc = glob(pattern, 0, NULL, &found);
    fpga_result result = rc == GLOB_NOMATCH ? FPGA_NOT_FOUND : rc == GLOB_NOSPACE ? FPGA_NO_MEMORY : FPGA_EXCEPTION;
    if (rc == 0)
        result = found.gl_pathc == 1 ? make(like, found.gl_pathv[0], NULL, out) : make(like, path, &found, out);
    globfree(&found);
    return result;
}

/* The folder of a port is where its afu_id lies; that of its device has the same number beside it. */
static fpga_result root_of(struct sysobject *o, fpga_objtype type)
{
    char *last;
    int n = snprintf(o->path, sizeof o->path, "%s/%s", o->rack->dir, o->board->identity);
    if (n >= (int)sizeof o->path || !(last = strrchr(o->path, '/')))
        return FPGA_NOT_FOUND;
    *last = '\0';
    char *name = strrchr(o->path, '/'), *port = name ? strstr(name, "-port.") : NULL;
    if (!port)
        return FPGA_NOT_FOUND; /* a rack whose tree is not a driver's */
    if (type == FPGA_DEVICE) { /* one letter shorter */
        memcpy(port, "-fme.", 5);
        memmove(port + 5, port + 6, strlen(port + 6) + 1);
    }
    o->root = strlen(o->path);
    return FPGA_OK;
}

fpga_result fpgaTokenGetObject(fpga_token t, const char *name, fpga_object *out, int flags)
{
    struct opae_token *token = opae_token(t);
    if (!token)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(token);
    struct sysobject like = { .rack = token->rack, .board = token->board };
    fpga_result result = root_of(&like, token->type);
    return result ? result : find(&like, like.path, name, flags, out);
}

fpga_result fpgaHandleGetObject(fpga_handle handle, const char *name, fpga_object *out, int flags)
{
    struct opae_handle *h = opae_handle(handle);
    if (!h)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(h);
    struct sysobject like = { .rack = h->rack, .board = h->board, .handle = handle, .handle_id = h->id };
    fpga_result result = root_of(&like, h->port ? FPGA_ACCELERATOR : FPGA_DEVICE);
    return result ? result : find(&like, like.path, name, flags, out);
}

fpga_result fpgaObjectGetObject(fpga_object parent, const char *name, fpga_object *out, int flags)
{
    struct sysobject *o = sysobject(parent);
    if (!o || o->type != CONTAINER)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(o);
    struct sysobject like = { .rack = o->rack, .board = o->board, .handle = o->handle, .handle_id = o->handle_id,
                              .root = o->root };
    return find(&like, o->path, name, flags, out);
}

fpga_result fpgaObjectGetObjectAt(fpga_object parent, size_t index, fpga_object *out)
{
    struct sysobject *o = sysobject(parent);
    if (!o || !out || o->type != CONTAINER || index >= o->size)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(o);
    struct sysobject like = { .rack = o->rack, .board = o->board, .handle = o->handle, .handle_id = o->handle_id,
                              .root = o->root, .flags = o->flags & ~RECURSE_ONE };
    return make(&like, o->children[index], NULL, out);
}

fpga_result fpgaDestroyObject(fpga_object *object)
{
    struct sysobject *o = object ? sysobject(*object) : NULL;
    if (!o)
        return FPGA_INVALID_PARAM;
    discard(o);
    *object = NULL;
    return FPGA_OK;
}

/* ---- files of a device, for the other calls ----------------------------------------------------------- */

static bool device_file(struct emu_rack *rack, struct emu_board *board, const char *name, char *path, size_t room)
{
    struct sysobject like = { .rack = rack, .board = board };
    return root_of(&like, FPGA_DEVICE) == FPGA_OK && snprintf(path, room, "%s/%s", like.path, name) < (int)room;
}

bool opae_attribute_read(struct emu_rack *rack, struct emu_board *board, const char *name, uint64_t *value)
{
    char path[MAX_PATH], text[32];
    int fd = device_file(rack, board, name, path, sizeof path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return false;
    text[n] = '\0';
    *value = strtoull(text, NULL, 0);
    return true;
}

static bool write_file(const char *path, const char *text, size_t size)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, text, size) == (ssize_t)size;
    if (fd >= 0)
        close(fd);
    return written;
}

bool opae_attribute_write(struct emu_rack *rack, struct emu_board *board, const char *name, uint64_t value)
{
    char path[MAX_PATH], text[32];
    int n = snprintf(text, sizeof text, "0x%" PRIx64 "\n", value);
    return device_file(rack, board, name, path, sizeof path) && write_file(path, text, (size_t)n);
}

/* ---- reading and writing ------------------------------------------------------------------------------ */

static fpga_result attribute(fpga_object object, int flags, const char *call, struct sysobject **out)
{
    struct sysobject *o = *out = sysobject(object);
    if (!o || o->type != ATTRIBUTE)
        return FPGA_INVALID_PARAM;
    fpga_result result = opae_enter(o->rack, o->board, call);
    return result || !(flags & SYNC) ? result : refresh(o);
}

fpga_result fpgaObjectRead(fpga_object object, uint8_t *buffer, size_t offset, size_t length, int flags)
{
    struct sysobject *o;
    fpga_result result = attribute(object, flags, __func__, &o);
    if (result || !buffer || offset > o->size || length > o->size - offset)
        return result ? result : FPGA_INVALID_PARAM;
    memcpy(buffer, o->value + offset, length);
    return FPGA_OK;
}

fpga_result fpgaObjectRead64(fpga_object object, uint64_t *value, int flags)
{
    struct sysobject *o;
    fpga_result result = attribute(object, flags, __func__, &o);
    if (result || !value)
        return result ? result : FPGA_INVALID_PARAM;
    if (flags & RAW)
        memcpy(value, o->value, sizeof *value);
    else
        *value = strtoull(o->value, NULL, 0);
    return FPGA_OK;
}

/* Four bytes are stored: the vendor's plugin table says eight, its public header and its callers four. */
fpga_result fpgaObjectGetSize(fpga_object object, uint32_t *size, int flags)
{
    struct sysobject *o = sysobject(object);
    if (!o || !size)
        return FPGA_INVALID_PARAM;
    if (o->type == ATTRIBUTE) {
        fpga_result result = attribute(object, flags, __func__, &o);
        if (result)
            return result;
    }
    *size = o->size;
    return FPGA_OK;
}

fpga_result fpgaObjectGetType(fpga_object object, int *type)
{
    struct sysobject *o = sysobject(object);
    if (!o || !type)
        return FPGA_INVALID_PARAM;
    *type = o->type;
    return FPGA_OK;
}

/* What a driver lets root write: errors are cleared with the value that was read, or injected. */
fpga_result fpgaObjectWrite64(fpga_object object, uint64_t value, int flags)
{
    struct sysobject *o;
    fpga_result result = attribute(object, 0, __func__, &o);
    struct opae_handle *h = result ? NULL : opae_handle(o->handle);
    if (result || !h || h->id != o->handle_id)
        return result ? result : FPGA_INVALID_PARAM;
    bool clears = of_port(o) && (ends(o, "/errors/clear") || ends(o, "/errors/errors"));
    bool injects = !of_port(o) && (ends(o, "/errors/inject_error") || ends(o, "/errors/inject_errors"));
    if (clears) {
        emu_lock(o->board);
        bool right = o->board->errors == value;
        if (right)
            o->board->errors = 0;
        emu_unlock(o->board);
        return right ? FPGA_OK : FPGA_EXCEPTION;
    }
    if (!injects && !ends(o, "/freeze"))
        return FPGA_EXCEPTION;
    if (flags & RAW)
        memcpy(o->value, &value, o->size = sizeof value);
    else
        o->size = (uint32_t)snprintf(o->value, sizeof o->value, "0x%" PRIx64, value);
    if (!write_file(o->path, o->value, o->size))
        return FPGA_EXCEPTION;
    if (injects && value)
        opae_events_device_error(o->board);
    return FPGA_OK;
}
