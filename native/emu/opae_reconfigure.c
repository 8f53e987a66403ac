/* SPDX-License-Identifier: Apache-2.0 */
/* opae_reconfigure.c: loading a GBS, with the checks of the vendor's library and driver, within bounds. */
#define _GNU_SOURCE 1
#include "gbs.h"
#include "opae.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SKIP_USER_CLOCK 2

static void text_of(const uint8_t id[16], char out[37])
{
    int n = 0;
    for (int i = 0; i < 16; i++)
        n += snprintf(out + n, (size_t)(37 - n), "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
}

static fpga_result check(struct emu_board *b, const struct gbs *image)
{
    char expected[37], actual[37];
    if (memcmp(image->interface_id, b->interface_id, 16) != 0) {
        text_of(b->interface_id, expected);
        text_of(image->interface_id, actual);
        emu_error(b, false, "the image is for interface %s; the board has %s", actual, expected);
        return FPGA_INVALID_PARAM;
    }
    return FPGA_OK;
}

/* What a card finds out while the bits go in: an emulated image must be whole and be what its metadata
 * says.  Any other bitstream is taken at its word, if we have an AFU of that id. */
static fpga_result load(struct opae_handle *h, const struct gbs *image)
{
    uint8_t interface_id[16], afu_id[16];
    char text[37];
    int kind = emu_image_check(image->payload, image->payload_size, interface_id, afu_id);
    bool broken = kind == EBADMSG
                  || (kind == 0
                      && (memcmp(interface_id, h->board->interface_id, 16) != 0
                          || memcmp(afu_id, image->afu_id, 16) != 0));
    if (!broken && !emu_model_by_afu(image->afu_id)) {
        text_of(image->afu_id, text);
        emu_error(h->board, true, "there is no emulated accelerator %s; the slot is left as it was", text);
        return FPGA_RECONF_ERROR;
    }
    int rc = broken ? emu_program_broken(h->rack, h->board) : emu_program(h->rack, h->board, image->afu_id);
    return rc == EIO ? FPGA_RECONF_ERROR : opae_result(rc);
}

fpga_result fpgaReconfigureSlot(fpga_handle fme, uint32_t slot, const uint8_t *bitstream, size_t length, int flags)
{
    struct opae_handle *h = opae_handle(fme);
    struct gbs image;
    int hold = -1;
    if (!h || h->port || !bitstream || slot != 0 || (flags & ~(FPGA_RECONF_FORCE | SKIP_USER_CLOCK)))
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(h);
    const char *wrong = gbs_parse(bitstream, length, &image);
    if (wrong) {
        emu_error(h->board, false, "not a GBS for this board: %s", wrong);
        return FPGA_INVALID_PARAM;
    }
    fpga_result result = check(h->board, &image);
    if (result != FPGA_OK)
        return result;
    if (!(flags & FPGA_RECONF_FORCE)) {
        int rc = emu_hold(h->rack, h->board, "afu", EMU_HOLD_EXCLUSIVE, &hold, NULL);
        if (rc) {
            if (rc == EBUSY)
                emu_error(h->board, false, "the accelerator is in use");
            return opae_result(rc);
        }
    }
    result = load(h, &image);
    emu_hold_release(hold);
    return result;
}
