/* SPDX-License-Identifier: Apache-2.0 */
/* opae.h: the objects behind OPAE's opaque pointers, and the prototypes of what the library exports. */
#ifndef FPGAHAL_EMU_OPAE_H
#define FPGAHAL_EMU_OPAE_H

#include "../include/opae_abi.h"
#include "port.h"

OPAE_FUNCTIONS(ABI_PROTOTYPE)

/* What vendor programs call beside what fpgahal calls (more fpgaPropertiesGet/Set and what is
 * only there by name: opae_properties.c, opae_absent.c). */
#define OPAE_MORE_FUNCTIONS(F)                                                                                         \
    F(0, fpga_result, fpgaGetOPAECVersionString, (char *text, size_t length))                                          \
    F(0, fpga_result, fpgaGetOPAECBuildString, (char *text, size_t length))                                            \
    F(0, void, opae_print, (int level, const char *fmt, ...))                                                          \
    F(0, fpga_result, fpgaCloneToken, (fpga_token from, fpga_token * to))                                              \
    F(0, fpga_result, fpgaUpdateProperties, (fpga_token token, fpga_properties prop))                                  \
    F(0, fpga_result, fpgaClearProperties, (fpga_properties prop))                                                     \
    F(0, fpga_result, fpgaCloneProperties, (fpga_properties from, fpga_properties * to))                               \
    F(0, fpga_result, fpgaGetPropertiesFromHandle, (fpga_handle handle, fpga_properties * prop))                       \
    F(0, fpga_result, fpgaPropertiesGetParent, (const fpga_properties prop, fpga_token *parent))                       \
    F(0, fpga_result, fpgaPropertiesSetParent, (fpga_properties prop, fpga_token parent))                              \
    F(0, fpga_result, fpgaPropertiesSetGUID, (fpga_properties prop, fpga_guid guid))                                   \
    F(0, fpga_result, fpgaClearError, (fpga_token token, uint32_t error))                                              \
    F(0, fpga_result, fpgaWriteMMIO512, (fpga_handle handle, uint32_t mmio, uint64_t offset, const void *value))       \
    F(0, fpga_result, fpgaGetUserClock, (fpga_handle handle, uint64_t *high, uint64_t *low, int flags))                \
    F(0, fpga_result, fpgaSetUserClock, (fpga_handle handle, uint64_t high, uint64_t low, int flags))                  \
    F(0, fpga_result, fpgaTokenGetObject, (fpga_token token, const char *name, fpga_object *object, int flags))        \
    F(0, fpga_result, fpgaHandleGetObject, (fpga_handle handle, const char *name, fpga_object *object, int flags))     \
    F(0, fpga_result, fpgaObjectGetObject, (fpga_object parent, const char *name, fpga_object *object, int flags))     \
    F(0, fpga_result, fpgaObjectGetObjectAt, (fpga_object parent, size_t index, fpga_object *object))                  \
    F(0, fpga_result, fpgaDestroyObject, (fpga_object * object))                                                       \
    F(0, fpga_result, fpgaObjectRead, (fpga_object object, uint8_t *buffer, size_t offset, size_t length, int flags))  \
    F(0, fpga_result, fpgaObjectRead64, (fpga_object object, uint64_t *value, int flags))                              \
    F(0, fpga_result, fpgaObjectGetSize, (fpga_object object, uint32_t *size, int flags))                              \
    F(0, fpga_result, fpgaObjectGetType, (fpga_object object, int *type))                                              \
    F(0, fpga_result, fpgaObjectWrite64, (fpga_object object, uint64_t value, int flags))
OPAE_MORE_FUNCTIONS(ABI_PROTOTYPE)

/* The first word says what an object is; it is cleared when the object is destroyed.  The memory is kept
 * for the next object of its kind, so that a stale pointer is told from a live one and not from luck. */
enum opae_magic {
    OPAE_DEAD = 0,
    OPAE_TOKEN = 0x6b6f7465,
    OPAE_AFU = 0x75666168, /* a handle on an accelerator */
    OPAE_FME = 0x656d6668, /* a handle on a device */
    OPAE_PROPERTIES = 0x706f7270,
    OPAE_EVENT = 0x6e657665,
    OPAE_SYSOBJECT = 0x6a626f73,
};

struct opae_object {
    uint64_t magic;
    struct opae_object *next_free, *next; /* next: all of this kind, dead or alive */
};

/* How the vendor's library wants a token to begin when a plugin made it (2.1.1 and later). */
struct fpga_token_header {
    uint64_t magic;
    uint16_t vendor_id, device_id, segment;
    uint8_t bus, device, function;
    int32_t interface, objtype;
    uint64_t object_id;
    fpga_guid guid;
    uint16_t subvendor_id, subdevice_id;
};
_Static_assert(sizeof(struct fpga_token_header) == 64 && offsetof(struct fpga_token_header, guid) == 40, "token header");

struct opae_token {
    struct opae_object object;
    struct fpga_token_header header; /* an fpga_token points here */
    struct emu_rack *rack;
    struct emu_board *board;
    fpga_objtype type;
    fpga_guid guid; /* as it was when the token was made */
    const void *owner; /* the properties object whose parent it is; NULL: the caller's */
};

struct opae_handle {
    struct opae_object object;
    struct emu_port *port; /* NULL: FME */
    const _Atomic uint32_t *armed; /* the rack's: any fault at all? */
    struct emu_rack *rack;
    struct emu_board *board;
    uint64_t id; /* never used twice; owner of buffers */
    int hold;
    fpga_guid guid;
};

struct opae_event {
    struct opae_object object;
    int fd; /* -1 until it is registered */
    uint64_t handle; /* the id of the handle it is registered with; 0: none */
    const struct emu_board *device; /* whose errors it waits for; NULL: a port's, and its port knows */
};

void *opae_new(enum opae_magic magic, size_t size);
void opae_free(void *object);
/* Visit live objects of a kind.  `visit` takes no lock: fork takes all of them, in an order of its own. */
void opae_each(enum opae_magic magic, void (*visit)(void *object, void *context), void *context);

static inline struct opae_token *opae_token(fpga_token t)
{
    const struct fpga_token_header *header = t;
    if (!header || header->magic != OPAE_TOKEN)
        return NULL;
    struct opae_token *token = (struct opae_token *)((char *)t - offsetof(struct opae_token, header));
    return token->object.magic == OPAE_TOKEN ? token : NULL;
}

static inline struct opae_handle *opae_handle(fpga_handle h)
{
    struct opae_handle *handle = h;
    return handle && (handle->object.magic == OPAE_AFU || handle->object.magic == OPAE_FME) ? handle : NULL;
}

/* What every call asks first: is the board there, and was this call told to fail? */
static inline fpga_result opae_enter(struct emu_rack *rack, struct emu_board *board, const char *call)
{
    int code = 0;
    if (atomic_load_explicit(&board->vanished, memory_order_relaxed)) {
        emu_error(board, false, "%s: the device is gone", call);
        return FPGA_NO_DRIVER;
    }
    return emu_fault(rack, board, EMU_FAULT_CALL, call, &code) ? (fpga_result)code : FPGA_OK;
}
#define OPAE_ENTER(object)                                                                                             \
    do {                                                                                                               \
        fpga_result result_ = opae_enter((object)->rack, (object)->board, __func__);                                   \
        if (result_ != FPGA_OK)                                                                                        \
            return result_;                                                                                            \
    } while (0)

fpga_result opae_result(int error); /* errno to fpga_result */
fpga_token opae_token_new(struct emu_rack *, struct emu_board *, fpga_objtype, const uint8_t guid[16]);
/* Which token's guid does the board show now?  False: it has no such object at the moment. */
bool opae_guid_now(struct emu_board *, fpga_objtype, uint8_t guid[16]);
uint32_t opae_num_errors(const struct emu_board *, fpga_objtype);
/* A number in a file of a device, as its driver shows it in sysfs ("errors/pcie0_errors"). */
bool opae_attribute_read(struct emu_rack *, struct emu_board *, const char *name, uint64_t *value);
bool opae_attribute_write(struct emu_rack *, struct emu_board *, const char *name, uint64_t value);
void opae_events_close(struct opae_handle *);
/* Tell who waits for errors of a device (its FME; those of a port are emu_port_raise's). */
void opae_events_device_error(const struct emu_board *);

#endif
