/* SPDX-License-Identifier: Apache-2.0 */
/* opae.c: OPAE on emulated boards: open, registers, buffers. */
#define _GNU_SOURCE 1
#include "opae.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_BUFFER (1ull << 30) /* the vendor's: one call is one page, and none is larger */
#define HUGE_BYTES (4ull << 20) /* from here on huge pages are worth their zeroing */
#define BUF_READ_ONLY 4
#define PAGE_SHIFT 12

/* ---- open and close ----------------------------------------------------------------------------------- */

fpga_result fpgaOpen(fpga_token t, fpga_handle *out, int flags)
{
    static _Atomic uint64_t last_id;
    struct opae_token *token = opae_token(t);
    if (!token || !out || (flags & ~FPGA_OPEN_SHARED))
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(token);
    bool afu = token->type == FPGA_ACCELERATOR, first = false;
    struct opae_handle *h = opae_new(afu ? OPAE_AFU : OPAE_FME, sizeof *h);
    if (!h)
        return FPGA_NO_MEMORY;
    h->rack = token->rack;
    h->board = token->board;
    h->armed = &token->rack->shared->armed;
    h->id = atomic_fetch_add(&last_id, 1) + 1;
    memcpy(h->guid, token->guid, sizeof h->guid);
    int rc = emu_hold(h->rack, h->board, afu ? "afu" : "fme",
                      flags & FPGA_OPEN_SHARED ? EMU_HOLD_SHARED : EMU_HOLD_EXCLUSIVE, &h->hold, &first);
    if (rc) {
        if (rc == EBUSY)
            emu_error(h->board, false, "the %s is open elsewhere", afu ? "accelerator" : "device");
        opae_free(h);
        return opae_result(rc);
    }
    if (afu && !(h->port = emu_port_open(h->rack, h->board))) {
        emu_hold_release(h->hold);
        opae_free(h);
        return FPGA_NO_MEMORY;
    }
    if (afu && first) /* the last one may have been killed before it could clean up */
        emu_port_reset(h->port);
    *out = h;
    return FPGA_OK;
}

/* Also when the board is gone: what this process holds is given back in any case. */
fpga_result fpgaClose(fpga_handle handle)
{
    struct opae_handle *h = opae_handle(handle);
    int code = 0;
    if (!h)
        return FPGA_INVALID_PARAM;
    if (emu_fault(h->rack, h->board, EMU_FAULT_CALL, __func__, &code))
        return (fpga_result)code;
    int hold = h->hold;
    opae_events_close(h);
    if (h->port) {
        if (emu_hold_only(hold))
            emu_port_reset(h->port);
        emu_port_close(h->port);
    }
    opae_free(h);
    emu_hold_release(hold);
    return FPGA_OK;
}

static fpga_result accelerator(fpga_handle handle, const char *call, struct opae_handle **out)
{
    struct opae_handle *h = *out = opae_handle(handle);
    if (!h)
        return FPGA_INVALID_PARAM;
    fpga_result result = opae_enter(h->rack, h->board, call);
    if (result == FPGA_OK && !h->port) {
        emu_error(h->board, false, "%s needs the handle of an accelerator, not of a device", call);
        return FPGA_INVALID_PARAM;
    }
    return result;
}

fpga_result fpgaReset(fpga_handle handle)
{
    struct opae_handle *h;
    fpga_result result = accelerator(handle, __func__, &h);
    return result ? result : opae_result(emu_port_reset(h->port));
}

/* ---- registers ---------------------------------------------------------------------------------------- */

/* No pointer is given out: a plain store by the program would go unnoticed.  OPAE allows that (its
 * simulator does the same). */
fpga_result fpgaMapMMIO(fpga_handle handle, uint32_t mmio, uint64_t **pointer)
{
    struct opae_handle *h;
    fpga_result result = accelerator(handle, __func__, &h);
    if (result || mmio != 0)
        return result ? result : FPGA_INVALID_PARAM;
    return pointer ? FPGA_NOT_SUPPORTED : FPGA_OK;
}

fpga_result fpgaUnmapMMIO(fpga_handle handle, uint32_t mmio)
{
    struct opae_handle *h;
    fpga_result result = accelerator(handle, __func__, &h);
    return result || mmio == 0 ? result : FPGA_INVALID_PARAM;
}

static inline bool plain(const struct opae_handle *h, uint32_t mmio)
{
    return h && h->object.magic == OPAE_AFU && mmio == 0 && !atomic_load_explicit(h->armed, memory_order_relaxed);
}

static __attribute__((noinline)) fpga_result read_slowly(fpga_handle handle, uint32_t mmio, uint64_t offset,
                                                         unsigned bytes, uint64_t *value, const char *call)
{
    struct opae_handle *h;
    fpga_result result = accelerator(handle, call, &h);
    if (result || mmio != 0)
        return result ? result : FPGA_INVALID_PARAM;
    return opae_result(emu_port_read(h->port, offset, bytes, value));
}

fpga_result fpgaReadMMIO64(fpga_handle handle, uint32_t mmio, uint64_t offset, uint64_t *value)
{
    struct opae_handle *h = handle;
    if (!value)
        return FPGA_INVALID_PARAM;
    if (plain(h, mmio) && emu_port_read_fast(h->port, offset, 8, value))
        return FPGA_OK;
    return read_slowly(handle, mmio, offset, 8, value, __func__);
}

fpga_result fpgaReadMMIO32(fpga_handle handle, uint32_t mmio, uint64_t offset, uint32_t *value)
{
    struct opae_handle *h = handle;
    uint64_t wide = 0;
    if (!value)
        return FPGA_INVALID_PARAM;
    fpga_result result = FPGA_OK;
    if (!plain(h, mmio) || !emu_port_read_fast(h->port, offset, 4, &wide))
        result = read_slowly(handle, mmio, offset, 4, &wide, __func__);
    if (result == FPGA_OK)
        *value = (uint32_t)wide;
    return result;
}

static fpga_result write_register(fpga_handle handle, uint32_t mmio, uint64_t offset, unsigned bytes, uint64_t value,
                                  const char *call)
{
    struct opae_handle *h;
    fpga_result result = accelerator(handle, call, &h);
    if (result || mmio != 0)
        return result ? result : FPGA_INVALID_PARAM;
    return opae_result(emu_port_write(h->port, offset, bytes, value));
}

fpga_result fpgaWriteMMIO64(fpga_handle handle, uint32_t mmio, uint64_t offset, uint64_t value)
{
    return write_register(handle, mmio, offset, 8, value, __func__);
}

fpga_result fpgaWriteMMIO32(fpga_handle handle, uint32_t mmio, uint64_t offset, uint32_t value)
{
    return write_register(handle, mmio, offset, 4, value, __func__);
}

fpga_result fpgaWriteMMIO512(fpga_handle handle, uint32_t mmio, uint64_t offset, const void *value)
{
    struct opae_handle *h;
    (void)mmio, (void)offset, (void)value;
    fpga_result result = accelerator(handle, __func__, &h);
    return result ? result : FPGA_NOT_SUPPORTED;
}

/* ---- buffers ------------------------------------------------------------------------------------------ */

/* A page more than asked for: the vendor's nlb0 writes 7 bytes past the end of its input buffer. */
static void *allocate(uint64_t size)
{
    void *at = mmap(NULL, size + EMU_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (size >= HUGE_BYTES)
        madvise(at, size, MADV_HUGEPAGE);
    return at;
}

/* Memory of the caller: whole pages, all of them there. */
static bool usable(void *at, uint64_t size)
{
    unsigned char in_core[256];
    const uint64_t step = sizeof in_core * EMU_PAGE;
    if (!at || size % EMU_PAGE || (uintptr_t)at % EMU_PAGE)
        return false;
    for (uint64_t done = 0; done < size; done += step) { /* mincore fails where nothing is mapped */
        if (mincore((char *)at + done, size - done < step ? size - done : step, in_core) != 0)
            return false;
    }
    return true;
}

fpga_result fpgaPrepareBuffer(fpga_handle handle, uint64_t length, void **address, uint64_t *wsid, int flags)
{
    struct opae_handle *h;
    fpga_result result = accelerator(handle, __func__, &h);
    if (result)
        return result;
    bool given = flags & FPGA_BUF_PREALLOCATED;
    if (!wsid || (!given && !address))
        return FPGA_INVALID_PARAM;
    if (given && !address && length == 0)
        return FPGA_OK; /* "can you do that?" */
    if (length == 0 || length > MAX_BUFFER
        || (flags & ~(FPGA_BUF_PREALLOCATED | FPGA_BUF_QUIET | BUF_READ_ONLY))) {
        emu_error(h->board, false, "a buffer is 1 byte to 1 GiB; asked for %llu", (unsigned long long)length);
        return FPGA_INVALID_PARAM;
    }
    if (given && (!address || !usable(*address, length))) {
        emu_error(h->board, false, "a preallocated buffer must be whole pages of memory");
        return FPGA_INVALID_PARAM;
    }
    struct emu_mapping m = { .owner = h->id, .readonly = flags & BUF_READ_ONLY };
    m.size = (length + EMU_PAGE - 1) & ~(uint64_t)(EMU_PAGE - 1);
    m.mapped = given ? 0 : m.size + EMU_PAGE;
    m.host = given ? *address : allocate(m.size);
    if (!m.host)
        return FPGA_NO_MEMORY;
    int rc = emu_port_map_as(h->port, &m);
    if (rc) {
        if (!given)
            munmap(m.host, m.mapped);
        return opae_result(rc);
    }
    *address = m.host;
    *wsid = m.iova >> PAGE_SHIFT;
    return FPGA_OK;
}

/* Works without the board, too: the memory is the host's. */
fpga_result fpgaReleaseBuffer(fpga_handle handle, uint64_t wsid)
{
    struct opae_handle *h = opae_handle(handle);
    struct emu_mapping m;
    int code = 0;
    if (!h || !h->port)
        return FPGA_INVALID_PARAM;
    if (emu_fault(h->rack, h->board, EMU_FAULT_CALL, __func__, &code))
        return (fpga_result)code;
    if (emu_port_take(h->port, wsid << PAGE_SHIFT, h->id, &m) != 0)
        return FPGA_NOT_FOUND;
    if (m.mapped)
        munmap(m.host, m.mapped);
    return FPGA_OK;
}

fpga_result fpgaGetIOAddress(fpga_handle handle, uint64_t wsid, uint64_t *ioaddr)
{
    struct opae_handle *h;
    struct emu_mapping m;
    fpga_result result = accelerator(handle, __func__, &h);
    if (result || !ioaddr)
        return result ? result : FPGA_INVALID_PARAM;
    if (!emu_port_find(h->port, wsid << PAGE_SHIFT, h->id, &m))
        return FPGA_NOT_FOUND;
    *ioaddr = m.iova;
    return FPGA_OK;
}
