/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_abi.h: what fpgahal calls in libopae-c, soname .so.1 and .so.2 (the C API is append-only from
 * 1.0.0 to 2.14).  Own declarations of the public ABI; no vendor header is used.
 */
#ifndef FPGAHAL_OPAE_ABI_H
#define FPGAHAL_OPAE_ABI_H

#include "abi_table.h"
#include <stdbool.h>
#include <stdint.h>

typedef void *fpga_properties;
typedef void *fpga_token;
typedef void *fpga_handle;
typedef void *fpga_event_handle;
typedef void *fpga_object;
typedef uint8_t fpga_guid[16]; /* text order */
typedef struct { uint8_t major, minor; uint16_t patch; } fpga_version;
struct fpga_error_info { char name[64]; bool can_clear; };

typedef enum {
    FPGA_OK, FPGA_INVALID_PARAM, FPGA_BUSY, FPGA_EXCEPTION, FPGA_NOT_FOUND, FPGA_NO_MEMORY, FPGA_NOT_SUPPORTED,
    FPGA_NO_DRIVER, FPGA_NO_DAEMON, FPGA_NO_ACCESS, FPGA_RECONF_ERROR
} fpga_result;
typedef enum { FPGA_DEVICE, FPGA_ACCELERATOR } fpga_objtype;
typedef enum { FPGA_ACCELERATOR_ASSIGNED, FPGA_ACCELERATOR_UNASSIGNED } fpga_accelerator_state;
typedef enum { FPGA_EVENT_INTERRUPT, FPGA_EVENT_ERROR, FPGA_EVENT_POWER_THERMAL } fpga_event_type;

#define FPGA_OPEN_SHARED 1
#define FPGA_BUF_PREALLOCATED 1
#define FPGA_BUF_QUIET 2
#define FPGA_RECONF_FORCE 1

/* F(required, result type, name, parameters) */
#define OPAE_FUNCTIONS(F)                                                                                              \
    F(0, fpga_result, fpgaInitialize, (const char *config_file))                                                       \
    F(0, fpga_result, fpgaFinalize, (void))                                                                            \
    F(0, fpga_result, fpgaGetOPAECVersion, (fpga_version *version))                                                    \
    F(1, const char *, fpgaErrStr, (fpga_result result))                                                               \
    F(1, fpga_result, fpgaEnumerate,                                                                                   \
      (const fpga_properties *filters, uint32_t num_filters, fpga_token *tokens, uint32_t max_tokens,                  \
       uint32_t *num_matches))                                                                                         \
    F(1, fpga_result, fpgaDestroyToken, (fpga_token * token))                                                          \
    F(1, fpga_result, fpgaGetProperties, (fpga_token token, fpga_properties * prop))                                   \
    F(1, fpga_result, fpgaDestroyProperties, (fpga_properties * prop))                                                 \
    F(1, fpga_result, fpgaPropertiesSetObjectType, (fpga_properties prop, fpga_objtype type))                          \
    F(1, fpga_result, fpgaPropertiesSetSegment, (fpga_properties prop, uint16_t segment))                              \
    F(1, fpga_result, fpgaPropertiesSetBus, (fpga_properties prop, uint8_t bus))                                       \
    F(1, fpga_result, fpgaPropertiesSetDevice, (fpga_properties prop, uint8_t device))                                 \
    F(1, fpga_result, fpgaPropertiesSetFunction, (fpga_properties prop, uint8_t function))                             \
    F(1, fpga_result, fpgaPropertiesGetGUID, (const fpga_properties prop, fpga_guid *guid))                            \
    F(0, fpga_result, fpgaPropertiesGetObjectID, (const fpga_properties prop, uint64_t *id))                           \
    F(0, fpga_result, fpgaPropertiesGetNumMMIO, (const fpga_properties prop, uint32_t *n))                             \
    F(0, fpga_result, fpgaPropertiesGetNumInterrupts, (const fpga_properties prop, uint32_t *n))                       \
    F(0, fpga_result, fpgaPropertiesGetNumErrors, (const fpga_properties prop, uint32_t *n))                           \
    F(1, fpga_result, fpgaOpen, (fpga_token token, fpga_handle * handle, int flags))                                   \
    F(1, fpga_result, fpgaClose, (fpga_handle handle))                                                                 \
    F(1, fpga_result, fpgaReset, (fpga_handle handle))                                                                 \
    F(1, fpga_result, fpgaMapMMIO, (fpga_handle handle, uint32_t mmio, uint64_t **pointer))                            \
    F(1, fpga_result, fpgaUnmapMMIO, (fpga_handle handle, uint32_t mmio))                                              \
    F(1, fpga_result, fpgaReadMMIO64, (fpga_handle handle, uint32_t mmio, uint64_t offset, uint64_t *value))           \
    F(1, fpga_result, fpgaWriteMMIO64, (fpga_handle handle, uint32_t mmio, uint64_t offset, uint64_t value))           \
    F(1, fpga_result, fpgaReadMMIO32, (fpga_handle handle, uint32_t mmio, uint64_t offset, uint32_t *value))           \
    F(1, fpga_result, fpgaWriteMMIO32, (fpga_handle handle, uint32_t mmio, uint64_t offset, uint32_t value))           \
    F(1, fpga_result, fpgaPrepareBuffer,                                                                               \
      (fpga_handle handle, uint64_t length, void **address, uint64_t *wsid, int flags))                                \
    F(1, fpga_result, fpgaReleaseBuffer, (fpga_handle handle, uint64_t wsid))                                          \
    F(1, fpga_result, fpgaGetIOAddress, (fpga_handle handle, uint64_t wsid, uint64_t *ioaddr))                         \
    F(1, fpga_result, fpgaReconfigureSlot,                                                                             \
      (fpga_handle fme, uint32_t slot, const uint8_t *bitstream, size_t length, int flags))                            \
    F(0, fpga_result, fpgaReadError, (fpga_token token, uint32_t error, uint64_t *value))                              \
    F(0, fpga_result, fpgaGetErrorInfo, (fpga_token token, uint32_t error, struct fpga_error_info *info))              \
    F(0, fpga_result, fpgaClearAllErrors, (fpga_token token))                                                          \
    F(0, fpga_result, fpgaCreateEventHandle, (fpga_event_handle * event))                                              \
    F(0, fpga_result, fpgaDestroyEventHandle, (fpga_event_handle * event))                                             \
    F(0, fpga_result, fpgaRegisterEvent,                                                                               \
      (fpga_handle handle, fpga_event_type type, fpga_event_handle event, uint32_t flags))                             \
    F(0, fpga_result, fpgaUnregisterEvent, (fpga_handle handle, fpga_event_type type, fpga_event_handle event))        \
    F(0, fpga_result, fpgaGetOSObjectFromEventHandle, (const fpga_event_handle event, int *fd))

typedef struct opae_abi {
    size_t size;
    OPAE_FUNCTIONS(ABI_POINTER)
} opae_abi;

#define OPAE_SYMBOL(required, type, name, args) { #name, offsetof(opae_abi, name), required },
static const struct abi_symbol opae_symbols[] = { OPAE_FUNCTIONS(OPAE_SYMBOL) { 0, 0, 0 } };

static inline const char *opae_abi_fill(void *library, opae_abi *table)
{
    table->size = sizeof *table;
    return abi_fill(library, table, opae_symbols);
}

#endif
