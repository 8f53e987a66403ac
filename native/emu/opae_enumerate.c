/* SPDX-License-Identifier: Apache-2.0 */
/* opae_enumerate.c: tokens, and finding objects by filters. */
#define _GNU_SOURCE 1
#include "opae_properties.h"

#include <stdio.h>
#include <string.h>

fpga_token opae_token_new(struct emu_rack *rack, struct emu_board *board, fpga_objtype type, const uint8_t guid[16])
{
    struct opae_token *t = opae_new(OPAE_TOKEN, sizeof *t);
    struct opae_properties p;
    if (!t)
        return NULL;
    t->rack = rack;
    t->board = board;
    t->type = type;
    memcpy(t->guid, guid, sizeof t->guid);
    opae_describe(t, false, &p);
    t->header = (struct fpga_token_header) {
        .magic = OPAE_TOKEN, .vendor_id = p.vendor_id, .device_id = p.device_id, .segment = p.segment, .bus = p.bus,
        .device = p.device, .function = p.function, .interface = p.interface, .objtype = (int32_t)p.objtype,
        .object_id = p.object_id, .subvendor_id = p.subvendor_id, .subdevice_id = p.subdevice_id,
    };
    memcpy(t->header.guid, p.guid, sizeof p.guid);
    return &t->header;
}

fpga_result fpgaCloneToken(fpga_token from, fpga_token *to)
{
    struct opae_token *t = opae_token(from);
    if (!t || !to)
        return FPGA_INVALID_PARAM;
    *to = opae_token_new(t->rack, t->board, t->type, t->guid);
    return *to ? FPGA_OK : FPGA_NO_MEMORY;
}

fpga_result fpgaDestroyToken(fpga_token *token)
{
    struct opae_token *t = token ? opae_token(*token) : NULL;
    if (!t)
        return FPGA_INVALID_PARAM;
    opae_free(t);
    *token = NULL;
    return FPGA_OK;
}

bool opae_guid_now(struct emu_board *b, fpga_objtype type, uint8_t guid[16])
{
    if (type == FPGA_DEVICE) {
        memcpy(guid, b->interface_id, 16);
        return true;
    }
    emu_lock(b);
    bool ready = atomic_load(&b->state) == EMU_READY;
    memcpy(guid, b->afu_id, 16);
    emu_unlock(b);
    return ready;
}

/* Every field that the filter has must be the object's. */
static bool matches(const struct opae_properties *f, const struct opae_properties *o)
{
    uint64_t want = f->valid;
    if (want & ~o->valid)
        return false;
#define SAME(bit, field) (!(want & (bit)) || f->field == o->field)
    if (!(SAME(HAS_OBJTYPE, objtype) && SAME(HAS_SEGMENT, segment) && SAME(HAS_BUS, bus) && SAME(HAS_DEVICE, device)
          && SAME(HAS_FUNCTION, function) && SAME(HAS_SOCKETID, socket_id) && SAME(HAS_VENDORID, vendor_id)
          && SAME(HAS_DEVICEID, device_id) && SAME(HAS_SUB_VENDORID, subvendor_id)
          && SAME(HAS_SUB_DEVICEID, subdevice_id) && SAME(HAS_OBJECTID, object_id) && SAME(HAS_NUM_ERRORS, num_errors)
          && SAME(HAS_INTERFACE, interface) && SAME(HAS_PARENT, parent_board)))
        return false;
    if ((want & HAS_GUID) && memcmp(f->guid, o->guid, 16) != 0)
        return false;
    if (!(want & HAS_OBJTYPE))
        return true; /* the other fields belong to a type */
    if (f->objtype == FPGA_ACCELERATOR)
        return SAME(HAS_STATE, state) && SAME(HAS_NUM_MMIO, num_mmio) && SAME(HAS_NUM_INTERRUPTS, num_interrupts);
    return SAME(HAS_NUM_SLOTS, num_slots) && SAME(HAS_BBSID, bbs_id)
           && (!(want & HAS_BBSVERSION) || memcmp(&f->bbs_version, &o->bbs_version, sizeof o->bbs_version) == 0);
#undef SAME
}

static bool wanted(const struct opae_token *t, const struct opae_properties *const *filters, uint32_t n)
{
    if (n == 0)
        return true;
    struct opae_properties o;
    bool state = false;
    for (uint32_t i = 0; i < n; i++)
        state |= filters[i]->valid >> 32 != 0;
    opae_describe(t, state, &o);
    for (uint32_t i = 0; i < n; i++) {
        if (matches(filters[i], &o))
            return true;
    }
    return false;
}

fpga_result fpgaEnumerate(const fpga_properties *filters, uint32_t num_filters, fpga_token *tokens, uint32_t max_tokens,
                          uint32_t *num_matches)
{
    if (!num_matches || (max_tokens && !tokens) || (num_filters == 0) != (filters == NULL))
        return FPGA_INVALID_PARAM;
    for (uint32_t i = 0; i < num_filters; i++) {
        if (!opae_properties(filters[i]))
            return FPGA_INVALID_PARAM;
    }
    return opae_enumerate((const struct opae_properties *const *)filters, num_filters, tokens, max_tokens, num_matches);
}

fpga_result opae_enumerate(const struct opae_properties *const *filters, uint32_t num_filters, fpga_token *tokens,
                           uint32_t max_tokens, uint32_t *num_matches)
{
    struct emu_rack *rack = emu_rack_current();
    if (!rack) { /* an emulator without boards is a mistake in the set-up */
        char why[256];
        snprintf(why, sizeof why, "%s", emu_error_text());
        emu_error(NULL, true, "%s", why);
        return FPGA_NO_DRIVER;
    }
    uint32_t found = 0;
    for (uint32_t i = 0; i < rack->shared->nboards; i++) {
        struct emu_board *b = &rack->shared->boards[i];
        int code = 0;
        if (b->family != EMU_OPAE || atomic_load(&b->vanished))
            continue;
        if (emu_fault(rack, b, EMU_FAULT_CALL, "fpgaEnumerate", &code)) {
            for (uint32_t k = 0; k < found && k < max_tokens; k++)
                fpgaDestroyToken(&tokens[k]);
            return (fpga_result)code;
        }
        for (int type = FPGA_DEVICE; type <= FPGA_ACCELERATOR; type++) {
            struct opae_token t = { .rack = rack, .board = b, .type = (fpga_objtype)type };
            if (!opae_guid_now(b, t.type, t.guid) || !wanted(&t, filters, num_filters))
                continue;
            if (found < max_tokens && !(tokens[found] = opae_token_new(rack, b, t.type, t.guid)))
                return FPGA_NO_MEMORY;
            found++;
        }
    }
    *num_matches = found;
    return FPGA_OK;
}
