/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_absent.c: the rest of the public API.  Vendor programs import these names, so they must exist;
 * what an emulated board does not have answers as the vendor's library does where hardware lacks it.
 * Of their arguments only those are looked at that must be there: the object, and where something goes.
 */
#include "opae.h"

static fpga_result not_supported(const char *name, const void *object)
{
    if (!object)
        return FPGA_INVALID_PARAM;
    emu_error(NULL, true, "%s is not emulated", name);
    return FPGA_NOT_SUPPORTED;
}

#define ABSENT(name)                                                                                                   \
    ABI_EXPORT fpga_result name(const void *object);                                                                   \
    fpga_result name(const void *object) { return not_supported(#name, object); }
#define ABSENT_2(name)                                                                                                 \
    ABI_EXPORT fpga_result name(const void *object, const void *second);                                               \
    fpga_result name(const void *object, const void *second) { return not_supported(#name, second ? object : NULL); }
/* The vendor's library has let go of these: no board and no argument changes the answer. */
#define GONE(name)                                                                                                     \
    ABI_EXPORT fpga_result name(void);                                                                                 \
    fpga_result name(void) { return FPGA_NOT_SUPPORTED; }

/* An accelerator of one port has no children. */
ABI_EXPORT fpga_result fpgaGetChildren(fpga_handle handle, uint32_t room, fpga_handle *children, uint32_t *count);
fpga_result fpgaGetChildren(fpga_handle handle, uint32_t room, fpga_handle *children, uint32_t *count)
{
    if (!opae_handle(handle) || !count || (room && !children))
        return FPGA_INVALID_PARAM;
    *count = 0;
    return FPGA_OK;
}

ABSENT(fpgaBindSVA)
ABSENT(fpgaAssignPortToInterface)
ABSENT_2(fpgaAssignToInterface)
ABSENT_2(fpgaReleaseFromInterface)
ABSENT_2(fpgaGetNumMetrics)
ABSENT_2(fpgaGetMetricsInfo)
ABSENT_2(fpgaGetMetricsByIndex)
ABSENT_2(fpgaGetMetricsByName)
ABSENT(fpgaGetMetricsThresholdInfo) /* no place for them: how many are there? */
GONE(fpgaGetNumUmsg)
GONE(fpgaSetUmsgAttributes)
GONE(fpgaTriggerUmsg)
GONE(fpgaGetUmsgPtr)
GONE(fpgaPropertiesGetModel)
GONE(fpgaPropertiesSetModel)
GONE(fpgaPropertiesGetLocalMemorySize)
GONE(fpgaPropertiesSetLocalMemorySize)
GONE(fpgaPropertiesGetCapabilities)
GONE(fpgaPropertiesSetCapabilities)
