/* SPDX-License-Identifier: Apache-2.0 */
/* opae_properties.c: properties of objects, which are also the filters of an enumeration. */
#define _GNU_SOURCE 1
#include "opae_properties.h"

#include <string.h>

/* The same numbers as in the device files of a card: (major & 0xfff) << 20 | minor. */
static uint64_t object_id(const struct emu_board *b, fpga_objtype type)
{
    return 240ull << 20 | (b->index * 2 + (type == FPGA_ACCELERATOR));
}

void opae_describe(const struct opae_token *t, bool state, struct opae_properties *p)
{
    const struct emu_board *b = t->board;
    bool afu = t->type == FPGA_ACCELERATOR;
    p->valid = HAS_OBJTYPE | HAS_SEGMENT | HAS_BUS | HAS_DEVICE | HAS_FUNCTION | HAS_SOCKETID | HAS_VENDORID
               | HAS_DEVICEID
               | HAS_GUID | HAS_OBJECTID | HAS_NUM_ERRORS | HAS_INTERFACE | HAS_SUB_VENDORID | HAS_SUB_DEVICEID;
    p->objtype = t->type;
    memcpy(p->guid, t->guid, sizeof p->guid);
    p->segment = b->segment;
    p->bus = b->bus;
    p->device = b->device;
    p->function = b->function;
    p->socket_id = 0;
    p->vendor_id = b->vendor_id;
    p->device_id = b->device_id;
    p->subvendor_id = b->subvendor_id;
    p->subdevice_id = b->subdevice_id;
    p->object_id = object_id(b, t->type);
    p->num_errors = opae_num_errors(b, t->type);
    p->interface = 0; /* DFL */
    if (afu) {
        p->valid |= HAS_PARENT | HAS_NUM_MMIO | HAS_NUM_INTERRUPTS;
        p->parent_rack = t->rack;
        p->parent_board = t->board;
        p->num_mmio = 1;
        p->num_interrupts = EMU_VECTORS;
        if (state) { /* asks the kernel: only when somebody wants to know */
            p->valid |= HAS_STATE;
            p->state = emu_held(t->rack, b, "afu") ? FPGA_ACCELERATOR_ASSIGNED : FPGA_ACCELERATOR_UNASSIGNED;
        }
    } else {
        p->valid |= HAS_NUM_SLOTS | HAS_BBSID | HAS_BBSVERSION;
        p->num_slots = 1;
        p->bbs_id = 1ull << 56 | 2ull << 52; /* version 1.2.0 of no real shell, where sysfs shows none */
        if (state) /* reads a file: only when somebody wants to know */
            opae_attribute_read(t->rack, t->board, "bitstream_id", &p->bbs_id);
        p->bbs_version = (fpga_version) { (p->bbs_id >> 56) & 15, (p->bbs_id >> 52) & 15, (p->bbs_id >> 48) & 15 };
    }
}

/* The token belongs to the properties object, as in the vendor's library; a caller who destroys it does no harm. */
static void drop_parent(struct opae_properties *p)
{
    struct opae_token *token = opae_token(p->parent);
    if (token && token->owner == p)
        opae_free(token);
    p->parent = NULL;
}

fpga_result fpgaGetProperties(fpga_token t, fpga_properties *out)
{
    struct opae_token *token = opae_token(t);
    if (!out || (t && !token))
        return FPGA_INVALID_PARAM;
    if (token)
        OPAE_ENTER(token);
    struct opae_properties *p = opae_new(OPAE_PROPERTIES, sizeof *p);
    if (!p)
        return FPGA_NO_MEMORY;
    if (token)
        opae_describe(token, true, p);
    *out = p;
    return FPGA_OK;
}

fpga_result fpgaUpdateProperties(fpga_token t, fpga_properties prop)
{
    struct opae_token *token = opae_token(t);
    struct opae_properties *p = opae_properties(prop);
    if (!token || !p)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(token);
    drop_parent(p);
    opae_describe(token, true, p);
    return FPGA_OK;
}

void opae_token_of(const struct opae_handle *h, struct opae_token *t)
{
    *t = (struct opae_token) { .rack = h->rack, .board = h->board, .type = h->port ? FPGA_ACCELERATOR : FPGA_DEVICE };
    memcpy(t->guid, h->guid, sizeof t->guid);
}

fpga_result fpgaGetPropertiesFromHandle(fpga_handle handle, fpga_properties *out)
{
    struct opae_handle *h = opae_handle(handle);
    if (!h || !out)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(h);
    struct opae_token t;
    opae_token_of(h, &t);
    struct opae_properties *p = opae_new(OPAE_PROPERTIES, sizeof *p);
    if (!p)
        return FPGA_NO_MEMORY;
    opae_describe(&t, true, p);
    *out = p;
    return FPGA_OK;
}

fpga_result fpgaCloneProperties(fpga_properties from, fpga_properties *to)
{
    struct opae_properties *p = opae_properties(from);
    if (!p || !to)
        return FPGA_INVALID_PARAM;
    struct opae_properties *copy = opae_new(OPAE_PROPERTIES, sizeof *copy);
    if (!copy)
        return FPGA_NO_MEMORY;
    struct opae_object object = copy->object;
    *copy = *p;
    copy->object = object;
    copy->parent = NULL;
    *to = copy;
    return FPGA_OK;
}

fpga_result fpgaClearProperties(fpga_properties prop)
{
    struct opae_properties *p = opae_properties(prop);
    if (!p)
        return FPGA_INVALID_PARAM;
    drop_parent(p);
    p->valid = 0;
    return FPGA_OK;
}

fpga_result fpgaDestroyProperties(fpga_properties *prop)
{
    struct opae_properties *p = prop ? opae_properties(*prop) : NULL;
    if (!p)
        return FPGA_INVALID_PARAM;
    drop_parent(p);
    opae_free(p);
    *prop = NULL;
    return FPGA_OK;
}

/* ---- accessors ------------------------------------------------------------------------------------------ */

/* Bits from 32 on mean something else for a device than for an accelerator: the type must be known. */
static fpga_result usable(const struct opae_properties *p, int type)
{
    if (!p)
        return FPGA_INVALID_PARAM;
    return type < 0 || ((p->valid & HAS_OBJTYPE) && (int)p->objtype == type) ? FPGA_OK : FPGA_INVALID_PARAM;
}

#define EXPORT ABI_EXPORT
#define ACCESSORS(Name, type, field, bit, only)                                                                        \
    EXPORT fpga_result fpgaPropertiesGet##Name(const fpga_properties prop, type *out)                                  \
    {                                                                                                                  \
        struct opae_properties *p = opae_properties(prop);                                                             \
        fpga_result result = out ? usable(p, only) : FPGA_INVALID_PARAM;                                               \
        if (result != FPGA_OK || !(p->valid & (bit)))                                                                  \
            return result != FPGA_OK ? result : FPGA_NOT_FOUND;                                                        \
        *out = p->field;                                                                                               \
        return FPGA_OK;                                                                                                \
    }                                                                                                                  \
    EXPORT fpga_result fpgaPropertiesSet##Name(fpga_properties prop, type value)                                       \
    {                                                                                                                  \
        struct opae_properties *p = opae_properties(prop);                                                             \
        fpga_result result = usable(p, only);                                                                          \
        if (result != FPGA_OK)                                                                                         \
            return result;                                                                                             \
        p->field = value;                                                                                              \
        p->valid |= (bit);                                                                                             \
        return FPGA_OK;                                                                                                \
    }

ACCESSORS(ObjectType, fpga_objtype, objtype, HAS_OBJTYPE, -1)
ACCESSORS(Segment, uint16_t, segment, HAS_SEGMENT, -1)
ACCESSORS(Bus, uint8_t, bus, HAS_BUS, -1)
ACCESSORS(Device, uint8_t, device, HAS_DEVICE, -1)
ACCESSORS(Function, uint8_t, function, HAS_FUNCTION, -1)
ACCESSORS(SocketID, uint8_t, socket_id, HAS_SOCKETID, -1)
ACCESSORS(VendorID, uint16_t, vendor_id, HAS_VENDORID, -1)
ACCESSORS(DeviceID, uint16_t, device_id, HAS_DEVICEID, -1)
ACCESSORS(SubsystemVendorID, uint16_t, subvendor_id, HAS_SUB_VENDORID, -1)
ACCESSORS(SubsystemDeviceID, uint16_t, subdevice_id, HAS_SUB_DEVICEID, -1)
ACCESSORS(ObjectID, uint64_t, object_id, HAS_OBJECTID, -1)
ACCESSORS(NumErrors, uint32_t, num_errors, HAS_NUM_ERRORS, -1)
ACCESSORS(Interface, int, interface, HAS_INTERFACE, -1)
ACCESSORS(NumSlots, uint32_t, num_slots, HAS_NUM_SLOTS, FPGA_DEVICE)
ACCESSORS(BBSID, uint64_t, bbs_id, HAS_BBSID, FPGA_DEVICE)
ACCESSORS(BBSVersion, fpga_version, bbs_version, HAS_BBSVERSION, FPGA_DEVICE)
ACCESSORS(AcceleratorState, fpga_accelerator_state, state, HAS_STATE, FPGA_ACCELERATOR)
ACCESSORS(NumMMIO, uint32_t, num_mmio, HAS_NUM_MMIO, FPGA_ACCELERATOR)
ACCESSORS(NumInterrupts, uint32_t, num_interrupts, HAS_NUM_INTERRUPTS, FPGA_ACCELERATOR)

fpga_result fpgaPropertiesGetGUID(const fpga_properties prop, fpga_guid *out)
{
    struct opae_properties *p = opae_properties(prop);
    if (!p || !out)
        return FPGA_INVALID_PARAM;
    if (!(p->valid & HAS_GUID))
        return FPGA_NOT_FOUND;
    memcpy(out, p->guid, sizeof *out);
    return FPGA_OK;
}

fpga_result fpgaPropertiesSetGUID(fpga_properties prop, fpga_guid guid)
{
    struct opae_properties *p = opae_properties(prop);
    if (!p || !guid)
        return FPGA_INVALID_PARAM;
    memcpy(p->guid, guid, sizeof p->guid);
    p->valid |= HAS_GUID;
    return FPGA_OK;
}

fpga_result fpgaPropertiesGetParent(const fpga_properties prop, fpga_token *out)
{
    struct opae_properties *p = opae_properties(prop);
    if (!p || !out)
        return FPGA_INVALID_PARAM;
    if (!(p->valid & HAS_PARENT))
        return FPGA_NOT_FOUND;
    struct emu_board *b = p->parent_board;
    struct opae_token *token = opae_token(p->parent);
    if (!b)
        return FPGA_NOT_FOUND; /* a filter's parent that is no device */
    if (!token || token->owner != p) {
        p->parent = opae_token_new(p->parent_rack, b, FPGA_DEVICE, b->interface_id);
        if (!p->parent)
            return FPGA_NO_MEMORY;
        opae_token(p->parent)->owner = p;
    }
    *out = p->parent;
    return FPGA_OK;
}

fpga_result fpgaPropertiesSetParent(fpga_properties prop, fpga_token parent)
{
    struct opae_properties *p = opae_properties(prop);
    struct opae_token *token = opae_token(parent);
    if (!p || !token)
        return FPGA_INVALID_PARAM;
    drop_parent(p);
    p->parent_rack = token->rack;
    p->parent_board = token->type == FPGA_DEVICE ? token->board : NULL; /* an accelerator is nobody's parent */
    p->valid |= HAS_PARENT;
    return FPGA_OK;
}
