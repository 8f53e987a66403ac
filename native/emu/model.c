/* SPDX-License-Identifier: Apache-2.0 */
/* model.c: the accelerators an emulated board can hold.  A new one is a file in models/ and a line here, or is added
 * at run time: module.c. */
#include "../include/board.h"
#include "port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern const struct emu_model emu_model_nlb0, emu_model_nlb3, emu_model_hello, emu_model_vadd, emu_model_passthrough;
extern const struct emu_model emu_model_image_sobel, emu_model_image_affine, emu_model_dma;
extern const struct emu_model emu_model_xgboost_predict, emu_model_xgboost_exact, emu_model_inaccel_exact;

static const struct emu_model *const models[] = {
    &emu_model_nlb0, &emu_model_nlb3, &emu_model_hello, &emu_model_vadd, &emu_model_passthrough,
    &emu_model_image_sobel, &emu_model_image_affine, &emu_model_dma,
    &emu_model_xgboost_predict, &emu_model_xgboost_exact, &emu_model_inaccel_exact,
};
enum { MODELS = sizeof models / sizeof *models };

/* An id that no model answers to (an injected wrong AFU): its header can be read, nothing else. */
static const struct emu_reg unknown_regs[] = {
    { 0x00, 8, EMU_RO, 0x1000010000000000, "DFH" },
    { 0x08, 8, EMU_RO, 0, "AFU_ID_L" },
    { 0x10, 8, EMU_RO, 0, "AFU_ID_H" },
    { 0, 0, 0, 0, NULL },
};
static const struct emu_model unknown = { .name = "unknown", .regs = unknown_regs };

/* A model, and what a port must know of its registers.  Entries are never freed: a port may look at one. */
struct entry {
    struct emu_model model; /* a compute kernel with an AFU id has the registers of models/hls.c */
    struct emu_access access;
    const void *key; /* of who added it */
    _Atomic bool removed;
    struct entry *next;
};
static struct entry builtin[MODELS], unknown_entry;
static struct entry *_Atomic added; /* newest first */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

static bool any(const uint8_t id[16])
{
    static const uint8_t nothing[16];
    return memcmp(id, nothing, 16) != 0;
}

static void make(struct entry *e, const struct emu_model *m)
{
    static const uint8_t kinds[] = { [EMU_RO] = EMU_READABLE, [EMU_RW] = EMU_WRITABLE, [EMU_LOCKED] = EMU_LOCKABLE,
                                     [EMU_TOGGLE] = EMU_INVERTED };
    e->model = *m;
    if (m->kernel && !m->regs && any(m->afu_id)) {
        e->model.regs = emu_hls_regs;
        e->model.unlocked = emu_hls_unlocked;
        e->model.written = emu_hls_written;
    }
    e->access.model = &e->model;
    for (const struct emu_reg *r = e->model.regs; r && r->bytes; r++) {
        for (uint32_t at = r->offset; at < r->offset + r->bytes && at < EMU_CSR_BYTES; at += 4) {
            e->access.access[at / 4] = kinds[r->flags];
            e->access.word[at / 8] = 1;
        }
    }
}

static void lock(void) { pthread_mutex_lock(&adding); }
static void unlock(void) { pthread_mutex_unlock(&adding); }

static void make_all(void)
{
    for (int i = 0; i < MODELS; i++)
        make(&builtin[i], models[i]);
    make(&unknown_entry, &unknown);
    pthread_atfork(lock, unlock, unlock);
}

static bool matches(const struct entry *e, const uint8_t *afu_id, const char *kernel)
{
    if (atomic_load(&e->removed))
        return false;
    return afu_id ? e->model.regs && memcmp(e->model.afu_id, afu_id, 16) == 0
                  : e->model.kernel && strcmp(e->model.kernel, kernel) == 0;
}

/* By one of the two. */
static const struct entry *find(const uint8_t *afu_id, const char *kernel)
{
    pthread_once(&once, make_all);
    emu_modules_load();
    for (const struct entry *e = atomic_load(&added); e; e = e->next) {
        if (matches(e, afu_id, kernel))
            return e;
    }
    for (int i = 0; i < MODELS; i++) {
        if (matches(&builtin[i], afu_id, kernel))
            return &builtin[i];
    }
    return NULL;
}

const struct emu_model *emu_model_by_afu(const uint8_t afu_id[16])
{
    const struct entry *e = any(afu_id) ? find(afu_id, NULL) : NULL;
    return e ? &e->model : NULL;
}

const struct emu_model *emu_model_by_kernel(const char *name)
{
    const struct entry *e = find(NULL, name);
    return e ? &e->model : NULL;
}

int emu_model_add(const struct emu_model *m, const void *key)
{
    if (!m->name || !(m->kernel ? m->execute != NULL : m->regs && any(m->afu_id)))
        return EINVAL;
    struct entry *e = calloc(1, sizeof *e);
    if (!e)
        return ENOMEM;
    make(e, m);
    e->key = key;
    lock();
    e->next = atomic_load(&added);
    atomic_store(&added, e);
    unlock();
    return 0;
}

int emu_model_remove(const void *key)
{
    int rc = ENOENT;
    for (struct entry *e = atomic_load(&added); e; e = e->next) {
        if (e->key == key && !atomic_exchange(&e->removed, true))
            rc = 0;
    }
    return rc;
}

/* In registers an id is two little-endian words, low half first (DFH header). */
static uint64_t id_half(const uint8_t *bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | bytes[i];
    return v;
}

/* Each register goes to its value in one step: others may read meanwhile, and must not see, say, an id of
 * zero in a header that never changes. */
void emu_model_reset_registers(struct emu_board *b)
{
    uint64_t value[EMU_CSR_BYTES / 8] = { 0 };
    if (b->family == EMU_OPAE) {
        const struct emu_model *m = emu_model_by_afu(b->afu_id);
        for (const struct emu_reg *r = m ? m->regs : unknown_regs; r->bytes; r++)
            value[r->offset / 8] |= r->reset << (r->offset & 4) * 8;
        value[1] = id_half(b->afu_id + 8);
        value[2] = id_half(b->afu_id);
    }
    for (size_t i = 0; i < EMU_CSR_BYTES / 8; i++)
        atomic_store(&b->csr[i], value[i]);
}

const struct emu_access *emu_access_of(const uint8_t afu_id[16])
{
    const struct entry *e = any(afu_id) ? find(afu_id, NULL) : NULL;
    return e ? &e->access : &unknown_entry.access;
}
