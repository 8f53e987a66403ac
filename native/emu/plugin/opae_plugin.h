/* SPDX-License-Identifier: Apache-2.0 */
/* opae_plugin.h: what differs below the vendor's library: the calls that take its properties objects. */
#ifndef FPGAHAL_EMU_OPAE_PLUGIN_H
#define FPGAHAL_EMU_OPAE_PLUGIN_H

#include "../../include/emu_control.h"
#include "../opae_properties.h"

fpga_result plugin_Enumerate(const fpga_properties *filters, uint32_t num_filters, fpga_token *tokens,
                             uint32_t max_tokens, uint32_t *num_matches);
fpga_result plugin_GetProperties(fpga_token token, fpga_properties *out);
fpga_result plugin_GetPropertiesFromHandle(fpga_handle handle, fpga_properties *out);
fpga_result plugin_UpdateProperties(fpga_token token, fpga_properties prop);

#endif
