/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_plugin_properties.c: the properties object of libopae-c 2.1.1 and newer.  The plugin makes it, the
 * shell frees it.  It is translated to and from our own.
 */
#define _GNU_SOURCE 1
#include "opae_plugin.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC 0x4650474150524f50ull

struct shell_properties {
    pthread_mutex_t lock; /* recursive */
    uint64_t magic;
    uint64_t valid; /* the same bits as ours */
    fpga_guid guid;
    fpga_token parent; /* a filter's: our token; in what we return: unset, the shell fills it in */
    int32_t objtype;
    uint16_t segment;
    uint8_t bus, device, function, socket_id;
    uint64_t object_id;
    uint16_t vendor_id, device_id;
    uint32_t num_errors;
    int32_t interface;
    uint16_t subvendor_id, subdevice_id;
    union {
        struct { uint32_t num_slots; uint64_t bbs_id; fpga_version bbs_version; } fme;
        struct { int32_t state; uint32_t num_mmio, num_interrupts; } afu;
    };
};
_Static_assert(sizeof(struct shell_properties) == 144 && offsetof(struct shell_properties, object_id) == 96
                   && offsetof(struct shell_properties, interface) == 112
                   && offsetof(struct shell_properties, fme.bbs_id) == 128,
               "the properties object of libopae-c 2.12");

#define COMMON(F)                                                                                                      \
    F(segment) F(bus) F(device) F(function) F(socket_id) F(object_id) F(vendor_id) F(device_id) F(num_errors)          \
    F(interface) F(subvendor_id) F(subdevice_id)

static void to_shell(const struct opae_properties *ours, struct shell_properties *s)
{
    s->valid = ours->valid & ~HAS_PARENT;
    s->parent = NULL;
    s->objtype = (int32_t)ours->objtype;
    memcpy(s->guid, ours->guid, sizeof s->guid);
#define OUT(field) s->field = ours->field;
    COMMON(OUT)
    if (ours->objtype == FPGA_DEVICE) {
        s->fme.num_slots = ours->num_slots;
        s->fme.bbs_id = ours->bbs_id;
        s->fme.bbs_version = ours->bbs_version;
    } else {
        s->afu.state = (int32_t)ours->state;
        s->afu.num_mmio = ours->num_mmio;
        s->afu.num_interrupts = ours->num_interrupts;
    }
}

static fpga_result from_shell(struct shell_properties *s, struct opae_properties *ours)
{
    if (!s || s->magic != MAGIC)
        return FPGA_INVALID_PARAM;
    memset(ours, 0, sizeof *ours);
    pthread_mutex_lock(&s->lock);
    ours->valid = s->valid;
    ours->objtype = (fpga_objtype)s->objtype;
    memcpy(ours->guid, s->guid, sizeof ours->guid);
#define IN(field) ours->field = s->field;
    COMMON(IN)
    if (s->objtype == FPGA_DEVICE) {
        ours->num_slots = s->fme.num_slots;
        ours->bbs_id = s->fme.bbs_id;
        ours->bbs_version = s->fme.bbs_version;
    } else {
        ours->state = (fpga_accelerator_state)s->afu.state;
        ours->num_mmio = s->afu.num_mmio;
        ours->num_interrupts = s->afu.num_interrupts;
    }
    if (ours->valid & HAS_PARENT) {
        struct opae_token *parent = opae_token(s->parent);
        ours->parent_board = parent && parent->type == FPGA_DEVICE ? parent->board : NULL;
    }
    pthread_mutex_unlock(&s->lock);
    return FPGA_OK;
}

static fpga_result new_properties(const struct opae_token *token, fpga_properties *out)
{
    struct opae_properties ours;
    pthread_mutexattr_t recursive;
    struct shell_properties *s = calloc(1, sizeof *s); /* the shell frees it */
    if (!s)
        return FPGA_NO_MEMORY;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&s->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    s->magic = MAGIC;
    memset(&ours, 0, sizeof ours);
    opae_describe(token, true, &ours);
    to_shell(&ours, s);
    *out = s;
    return FPGA_OK;
}

fpga_result plugin_GetProperties(fpga_token t, fpga_properties *out)
{
    struct opae_token *token = opae_token(t);
    if (!token || !out)
        return FPGA_INVALID_PARAM;
    fpga_result result = opae_enter(token->rack, token->board, "fpgaGetProperties");
    return result ? result : new_properties(token, out);
}

fpga_result plugin_GetPropertiesFromHandle(fpga_handle handle, fpga_properties *out)
{
    struct opae_handle *h = opae_handle(handle);
    struct opae_token token;
    if (!h || !out)
        return FPGA_INVALID_PARAM;
    fpga_result result = opae_enter(h->rack, h->board, "fpgaGetPropertiesFromHandle");
    if (result)
        return result;
    opae_token_of(h, &token);
    return new_properties(&token, out);
}

/* The shell holds the object's lock; it is recursive. */
fpga_result plugin_UpdateProperties(fpga_token t, fpga_properties prop)
{
    struct opae_token *token = opae_token(t);
    struct shell_properties *s = prop;
    struct opae_properties ours;
    if (!token || !s || s->magic != MAGIC)
        return FPGA_INVALID_PARAM;
    fpga_result result = opae_enter(token->rack, token->board, "fpgaUpdateProperties");
    if (result)
        return result;
    memset(&ours, 0, sizeof ours);
    opae_describe(token, true, &ours);
    to_shell(&ours, s);
    return FPGA_OK;
}

fpga_result plugin_Enumerate(const fpga_properties *filters, uint32_t num_filters, fpga_token *tokens,
                             uint32_t max_tokens, uint32_t *num_matches)
{
    if (!num_matches || (num_filters && !filters))
        return FPGA_INVALID_PARAM;
    struct opae_properties *ours = calloc(num_filters + 1, sizeof *ours);
    const struct opae_properties **pointers = calloc(num_filters + 1, sizeof *pointers);
    fpga_result result = ours && pointers ? FPGA_OK : FPGA_NO_MEMORY;
    for (uint32_t i = 0; result == FPGA_OK && i < num_filters; i++) {
        result = from_shell(filters[i], &ours[i]);
        pointers[i] = &ours[i];
    }
    if (result == FPGA_OK)
        result = opae_enumerate(pointers, num_filters, tokens, max_tokens, num_matches);
    free(pointers);
    free(ours);
    return result;
}
