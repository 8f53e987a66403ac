/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_abi.h: what fpgahal calls in libxrt_coreutil.so.2 (C entry points; the same signatures from 2.13 to
 * master in 2026).  Own declarations of the public ABI; no vendor header is used.
 */
#ifndef FPGAHAL_XRT_ABI_H
#define FPGAHAL_XRT_ABI_H

#include "abi_table.h"
#include <stdint.h>

typedef void *xrtDeviceHandle;
typedef void *xrtKernelHandle;
typedef void *xrtRunHandle;
typedef void *xrtBufferHandle;

enum xclBOSyncDirection { XCL_BO_SYNC_BO_TO_DEVICE, XCL_BO_SYNC_BO_FROM_DEVICE };
enum ert_cmd_state {
    ERT_CMD_STATE_NEW = 1, ERT_CMD_STATE_QUEUED, ERT_CMD_STATE_RUNNING, ERT_CMD_STATE_COMPLETED, ERT_CMD_STATE_ERROR,
    ERT_CMD_STATE_ABORT, ERT_CMD_STATE_SUBMITTED, ERT_CMD_STATE_TIMEOUT, ERT_CMD_STATE_NORESPONSE,
    ERT_CMD_STATE_SKERROR, ERT_CMD_STATE_SKCRASHED
};

#define XRT_BO_FLAGS_NONE 0ull
#define XRT_BO_FLAGS_CACHEABLE (1ull << 24)
#define XRT_BO_FLAGS_DEV_ONLY (1ull << 28)
#define XRT_BO_FLAGS_HOST_ONLY (1ull << 29)

/* F(required, result type, name, parameters) */
#define XRT_FUNCTIONS(F)                                                                                               \
    F(1, int, xrtIniStringSet, (const char *key, const char *value))                                                   \
    F(1, xrtDeviceHandle, xrtDeviceOpenByBDF, (const char *bdf))                                                       \
    F(1, int, xrtDeviceClose, (xrtDeviceHandle device))                                                                \
    F(1, int, xrtDeviceLoadXclbin, (xrtDeviceHandle device, const void *axlf))                                         \
    F(1, int, xrtDeviceGetXclbinUUID, (xrtDeviceHandle device, unsigned char out[16]))                                 \
    F(1, xrtKernelHandle, xrtPLKernelOpen, (xrtDeviceHandle device, const unsigned char uuid[16], const char *name))   \
    F(1, xrtKernelHandle, xrtPLKernelOpenExclusive,                                                                    \
      (xrtDeviceHandle device, const unsigned char uuid[16], const char *name))                                        \
    F(1, int, xrtKernelClose, (xrtKernelHandle kernel))                                                                \
    F(1, int, xrtKernelArgGroupId, (xrtKernelHandle kernel, int argno))                                                \
    F(1, uint32_t, xrtKernelArgOffset, (xrtKernelHandle kernel, int argno))                                            \
    F(1, int, xrtKernelReadRegister, (xrtKernelHandle kernel, uint32_t offset, uint32_t *data))                        \
    F(1, int, xrtKernelWriteRegister, (xrtKernelHandle kernel, uint32_t offset, uint32_t data))                        \
    F(1, xrtRunHandle, xrtRunOpen, (xrtKernelHandle kernel))                                                           \
    F(1, int, xrtRunSetArg, (xrtRunHandle run, int index, ...))                                                        \
    F(1, int, xrtRunStart, (xrtRunHandle run))                                                                         \
    F(1, enum ert_cmd_state, xrtRunWaitFor, (xrtRunHandle run, unsigned int milliseconds))                             \
    F(1, enum ert_cmd_state, xrtRunState, (xrtRunHandle run))                                                          \
    F(1, int, xrtRunClose, (xrtRunHandle run))                                                                         \
    F(1, xrtBufferHandle, xrtBOAlloc, (xrtDeviceHandle device, size_t size, uint64_t flags, uint32_t group))           \
    F(0, xrtBufferHandle, xrtBOAllocUserPtr,                                                                           \
      (xrtDeviceHandle device, void *pointer, size_t size, uint64_t flags, uint32_t group))                            \
    F(1, int, xrtBOFree, (xrtBufferHandle buffer))                                                                     \
    F(1, size_t, xrtBOSize, (xrtBufferHandle buffer))                                                                  \
    F(1, uint64_t, xrtBOAddress, (xrtBufferHandle buffer))                                                             \
    F(1, void *, xrtBOMap, (xrtBufferHandle buffer))                                                                   \
    F(1, int, xrtBOSync, (xrtBufferHandle buffer, enum xclBOSyncDirection dir, size_t size, size_t offset))            \
    F(0, int, xrtBOCopy,                                                                                               \
      (xrtBufferHandle dst, xrtBufferHandle src, size_t size, size_t dst_offset, size_t src_offset))                   \
    F(0, int, xrtRunSetCallback,                                                                                       \
      (xrtRunHandle run, enum ert_cmd_state state, void (*callback)(xrtRunHandle, enum ert_cmd_state, void *),         \
       void *data))                                                                                                    \
    /* The emulator's own: abort all runs of this process on the board.  XRT has no such entry in C. */                \
    F(0, int, fpgahal_emu_xrt_reset, (xrtDeviceHandle device))

typedef struct xrt_abi {
    size_t size;
    XRT_FUNCTIONS(ABI_POINTER)
} xrt_abi;

#define XRT_SYMBOL(required, type, name, args) { #name, offsetof(xrt_abi, name), required },
static const struct abi_symbol xrt_symbols[] = { XRT_FUNCTIONS(XRT_SYMBOL) { 0, 0, 0 } };

static inline const char *xrt_abi_fill(void *library, xrt_abi *table)
{
    table->size = sizeof *table;
    return abi_fill(library, table, xrt_symbols);
}

#endif
