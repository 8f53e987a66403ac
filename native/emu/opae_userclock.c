/* SPDX-License-Identifier: Apache-2.0 */
/* opae_userclock.c: the two clocks that an accelerator may ask for.  They are kept, and set nothing. */
#include "opae.h"

#define LOWEST 25 /* MHz: what the card's clock generator can make */
#define HIGHEST 600

static fpga_result port_of(fpga_handle handle, const char *call, struct opae_handle **out)
{
    struct opae_handle *h = *out = opae_handle(handle);
    if (!h)
        return FPGA_INVALID_PARAM;
    fpga_result result = opae_enter(h->rack, h->board, call);
    return result || h->port ? result : FPGA_INVALID_PARAM; /* a device has none */
}

fpga_result fpgaGetUserClock(fpga_handle handle, uint64_t *high, uint64_t *low, int flags)
{
    struct opae_handle *h;
    (void)flags;
    fpga_result result = port_of(handle, __func__, &h);
    if (result || !high || !low)
        return result ? result : FPGA_INVALID_PARAM;
    emu_lock(h->board);
    *high = h->board->user_clock[0];
    *low = h->board->user_clock[1];
    emu_unlock(h->board);
    return FPGA_OK;
}

fpga_result fpgaSetUserClock(fpga_handle handle, uint64_t high, uint64_t low, int flags)
{
    struct opae_handle *h;
    (void)flags;
    fpga_result result = port_of(handle, __func__, &h);
    if (result)
        return result;
    if (high < LOWEST || high > HIGHEST || low > high) {
        emu_error(h->board, false, "a user clock is %d to %d MHz, and the low one not above the high one", LOWEST,
                  HIGHEST);
        return FPGA_INVALID_PARAM;
    }
    emu_lock(h->board);
    h->board->user_clock[0] = (uint32_t)high;
    h->board->user_clock[1] = (uint32_t)low;
    emu_unlock(h->board);
    return FPGA_OK;
}
