/* SPDX-License-Identifier: Apache-2.0 */
/* gbs.h: what the emulated driver wants to know of a GBS file. */
#ifndef FPGAHAL_EMU_GBS_H
#define FPGAHAL_EMU_GBS_H

#include <stddef.h>
#include <stdint.h>

struct gbs {
    uint8_t interface_id[16], afu_id[16]; /* text order; of the first accelerator cluster */
    const uint8_t *payload;
    size_t payload_size;
};

/* NULL, or what is wrong with it.  Any bytes are fine as input. */
const char *gbs_parse(const uint8_t *data, size_t size, struct gbs *out);

#endif
