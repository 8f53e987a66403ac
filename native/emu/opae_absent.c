/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_absent.c: the rest of the public API.  Vendor programs import these names, so they must exist;
 * what an emulated board does not have answers as the vendor's library does where hardware lacks it.
 * No declarations of the vendor's types are needed: no argument is looked at.
 */
#include "opae.h"

static fpga_result not_supported(const char *name)
{
    emu_error(NULL, true, "%s is not emulated", name);
    return FPGA_NOT_SUPPORTED;
}

#define EXPORT __attribute__((visibility("default")))
#define NOT_SUPPORTED(name)                                                                                            \
    EXPORT fpga_result name(void);                                                                                     \
    fpga_result name(void) { return not_supported(#name); }
/* Lookups by name: "there is none" is what programs expect and can live with. */
#define NOT_FOUND(name)                                                                                                \
    EXPORT fpga_result name(void);                                                                                     \
    fpga_result name(void) { return FPGA_NOT_FOUND; }
/* No object was ever given out, so none can be valid. */
#define NO_OBJECT(name)                                                                                                \
    EXPORT fpga_result name(void);                                                                                     \
    fpga_result name(void) { return FPGA_INVALID_PARAM; }

NOT_FOUND(fpgaTokenGetObject)
NOT_FOUND(fpgaHandleGetObject)
NO_OBJECT(fpgaObjectGetObject)
NO_OBJECT(fpgaObjectGetObjectAt)
NO_OBJECT(fpgaObjectGetType)
NO_OBJECT(fpgaObjectGetSize)
NO_OBJECT(fpgaObjectRead)
NO_OBJECT(fpgaObjectRead64)
NO_OBJECT(fpgaObjectWrite64)
NO_OBJECT(fpgaDestroyObject)
NOT_SUPPORTED(fpgaGetChildren)
NOT_SUPPORTED(fpgaBindSVA)
NOT_SUPPORTED(fpgaGetNumUmsg)
NOT_SUPPORTED(fpgaSetUmsgAttributes)
NOT_SUPPORTED(fpgaTriggerUmsg)
NOT_SUPPORTED(fpgaGetUmsgPtr)
NOT_SUPPORTED(fpgaAssignPortToInterface)
NOT_SUPPORTED(fpgaAssignToInterface)
NOT_SUPPORTED(fpgaReleaseFromInterface)
NOT_SUPPORTED(fpgaSetUserClock)
NOT_SUPPORTED(fpgaGetUserClock)
NOT_SUPPORTED(fpgaGetNumMetrics)
NOT_SUPPORTED(fpgaGetMetricsInfo)
NOT_SUPPORTED(fpgaGetMetricsByIndex)
NOT_SUPPORTED(fpgaGetMetricsByName)
NOT_SUPPORTED(fpgaGetMetricsThresholdInfo)
NOT_SUPPORTED(fpgaPropertiesGetModel)
NOT_SUPPORTED(fpgaPropertiesSetModel)
NOT_SUPPORTED(fpgaPropertiesGetLocalMemorySize)
NOT_SUPPORTED(fpgaPropertiesSetLocalMemorySize)
NOT_SUPPORTED(fpgaPropertiesGetCapabilities)
NOT_SUPPORTED(fpgaPropertiesSetCapabilities)
