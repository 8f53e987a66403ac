/* SPDX-License-Identifier: Apache-2.0 */
/* opae_properties.h: the fields of a properties object.  The bits are those of the vendor's library. */
#ifndef FPGAHAL_EMU_OPAE_PROPERTIES_H
#define FPGAHAL_EMU_OPAE_PROPERTIES_H

#include "opae.h"

#define HAS_PARENT (1ull << 0)
#define HAS_OBJTYPE (1ull << 1)
#define HAS_SEGMENT (1ull << 2)
#define HAS_BUS (1ull << 3)
#define HAS_DEVICE (1ull << 4)
#define HAS_FUNCTION (1ull << 5)
#define HAS_SOCKETID (1ull << 6)
#define HAS_VENDORID (1ull << 7)
#define HAS_DEVICEID (1ull << 8)
#define HAS_GUID (1ull << 9)
#define HAS_OBJECTID (1ull << 10)
#define HAS_NUM_ERRORS (1ull << 11)
#define HAS_INTERFACE (1ull << 12)
#define HAS_SUB_VENDORID (1ull << 13)
#define HAS_SUB_DEVICEID (1ull << 14)
#define HAS_NUM_SLOTS (1ull << 32) /* of a device */
#define HAS_BBSID (1ull << 33)
#define HAS_BBSVERSION (1ull << 34)
#define HAS_STATE (1ull << 32) /* of an accelerator */
#define HAS_NUM_MMIO (1ull << 33)
#define HAS_NUM_INTERRUPTS (1ull << 34)

struct opae_properties {
    struct opae_object object;
    uint64_t valid; /* which fields are set */
    struct emu_rack *parent_rack;
    struct emu_board *parent_board;
    fpga_token parent; /* made when it is asked for, and gone with this object */
    fpga_objtype objtype;
    fpga_guid guid;
    uint16_t segment, vendor_id, device_id, subvendor_id, subdevice_id;
    uint8_t bus, device, function, socket_id;
    uint32_t num_errors, num_slots, num_mmio, num_interrupts;
    int interface;
    uint64_t object_id, bbs_id;
    fpga_version bbs_version;
    fpga_accelerator_state state;
};

static inline struct opae_properties *opae_properties(fpga_properties prop)
{
    struct opae_properties *p = prop;
    return p && p->object.magic == OPAE_PROPERTIES ? p : NULL;
}

/* What the token of an open object would be, for opae_describe. */
void opae_token_of(const struct opae_handle *, struct opae_token *);
/* fpgaEnumerate, on filters that were looked at. */
fpga_result opae_enumerate(const struct opae_properties *const *filters, uint32_t num_filters, fpga_token *tokens,
                           uint32_t max_tokens, uint32_t *num_matches);
/* Fill in all that is known of an object; `state`: also what takes a system call, which
 * is whether somebody has it open, and the id of its shell. */
void opae_describe(const struct opae_token *, bool state, struct opae_properties *);

#endif
