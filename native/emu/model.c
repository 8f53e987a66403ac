/* SPDX-License-Identifier: Apache-2.0 */
/* model.c: the accelerators an emulated board can hold.  A new one is a file in models/ and a line here. */
#include "../include/board.h"
#include "port.h"

#include <string.h>

extern const struct emu_model emu_model_nlb0, emu_model_nlb3, emu_model_hello, emu_model_vadd, emu_model_passthrough;
extern const struct emu_model emu_model_xgboost_predict;

static const struct emu_model *const models[] = {
    &emu_model_nlb0, &emu_model_nlb3, &emu_model_hello, &emu_model_vadd, &emu_model_passthrough,
    &emu_model_xgboost_predict,
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

const struct emu_model *emu_model_by_afu(const uint8_t afu_id[16])
{
    static const uint8_t nothing[16];
    if (memcmp(afu_id, nothing, 16) == 0)
        return NULL;
    for (int i = 0; i < MODELS; i++) {
        if (models[i]->regs && memcmp(models[i]->afu_id, afu_id, 16) == 0)
            return models[i];
    }
    return NULL;
}

const struct emu_model *emu_model_by_kernel(const char *name)
{
    for (int i = 0; i < MODELS; i++) {
        if (models[i]->kernel && strcmp(models[i]->kernel, name) == 0)
            return models[i];
    }
    return NULL;
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

/* ---- which registers exist ---------------------------------------------------------------------- */

static struct emu_access tables[MODELS + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void build(struct emu_access *t, const struct emu_model *m)
{
    t->model = m;
    for (const struct emu_reg *r = m->regs; r && r->bytes; r++) {
        for (uint32_t at = r->offset; at < r->offset + r->bytes && at < EMU_CSR_BYTES; at += 4) {
            t->access[at / 4] = r->flags == EMU_RW       ? EMU_WRITABLE
                                : r->flags == EMU_LOCKED ? EMU_LOCKABLE
                                                         : EMU_READABLE;
            t->word[at / 8] = 1;
        }
    }
}

static void build_all(void)
{
    for (int i = 0; i < MODELS; i++)
        build(&tables[i], models[i]);
    build(&tables[MODELS], &unknown);
}

const struct emu_access *emu_access_of(const uint8_t afu_id[16])
{
    pthread_once(&once, build_all);
    const struct emu_model *m = emu_model_by_afu(afu_id);
    for (int i = 0; m && i < MODELS; i++) {
        if (models[i] == m)
            return &tables[i];
    }
    return &tables[MODELS];
}
