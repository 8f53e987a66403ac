/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_plugin.c: emulated boards below the vendor's own libopae-c, 2.12 or newer.  That library (the
 * shell) loads plugins, asks each to fill a table with its functions, and hands every call on.
 *
 * The functions are those of the stand-alone library, built here without exporting them: their names
 * are the shell's.  Only what takes a properties object differs, because that object is the shell's.
 */
#define _GNU_SOURCE 1
#include "opae_plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* The table's order since 2.12; it has no size and no version in it. */
#define ADAPTER_FUNCTIONS(F)                                                                                           \
    F(Open) F(Close) F(Reset) F(GetPropertiesFromHandle) F(GetProperties) F(UpdateProperties)                          \
    F(WriteMMIO64) F(ReadMMIO64) F(WriteMMIO32) F(ReadMMIO32) F(WriteMMIO512) F(MapMMIO) F(UnmapMMIO)                  \
    F(Enumerate) F(CloneToken) F(DestroyToken)                                                                         \
    F(GetNumUmsg) F(SetUmsgAttributes) F(TriggerUmsg) F(GetUmsgPtr)                                                    \
    F(PrepareBuffer) F(ReleaseBuffer) F(GetIOAddress) F(BindSVA) F(PinBuffer) F(UnpinBuffer) F(GetWSInfo)              \
    F(ReadError) F(ClearError) F(ClearAllErrors) F(GetErrorInfo)                                                       \
    F(CreateEventHandle) F(DestroyEventHandle) F(GetOSObjectFromEventHandle) F(RegisterEvent) F(UnregisterEvent)       \
    F(AssignPortToInterface) F(AssignToInterface) F(ReleaseFromInterface) F(ReconfigureSlot)                           \
    F(TokenGetObject) F(HandleGetObject) F(ObjectGetObject) F(ObjectGetObjectAt) F(DestroyObject)                      \
    F(ObjectRead) F(ObjectRead64) F(ObjectGetSize) F(ObjectGetType) F(ObjectWrite64)                                   \
    F(SetUserClock) F(GetUserClock)                                                                                    \
    F(GetNumMetrics) F(GetMetricsInfo) F(GetMetricsByIndex) F(GetMetricsByName) F(GetMetricsThresholdInfo)

#define MEMBER(name) void *name;
struct adapter {
    void *next;
    char *path;
    void *dl_handle;
    ADAPTER_FUNCTIONS(MEMBER)
    int (*initialize)(void);
    int (*finalize)(void);
};
_Static_assert(sizeof(struct adapter) == 496 && offsetof(struct adapter, ReconfigureSlot) == 336
                   && offsetof(struct adapter, DestroyObject) == 376 && offsetof(struct adapter, initialize) == 480,
               "the table of libopae-c 2.12");

/* The shell that called `from`, as a handle for dlsym. */
static void *caller(void *from)
{
    Dl_info info;
    if (!dladdr(from, &info) || !info.dli_fname)
        return NULL;
    return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

/* Whether it is one whose table is the one above; the text says why not. */
static bool supported(void *shell)
{
    fpga_version v = { 0, 0, 0 };
    fpga_result (*version)(fpga_version *) = NULL;
    *(void **)&version = dlsym(shell ? shell : RTLD_DEFAULT, "fpgaGetOPAECVersion");
    if (version && version != fpgaGetOPAECVersion && version(&v) == FPGA_OK
        && ((v.major == 2 && v.minor >= 12) || v.major > 2))
        return true;
    if (v.major)
        emu_error(NULL, true, "this plugin is for libopae-c 2.12 and newer, and was loaded by %u.%u.%u: update OPAE",
                  v.major, v.minor, v.patch);
    else
        emu_error(NULL, true, "this plugin is for libopae-c 2.12 and newer, and what loaded it has no version");
    return false;
}

static int nothing(void) { return 0; }

/* In opae_absent.c, where they need no types: the shell would print an error if they were missing. */
fpga_result fpgaGetNumMetrics(const void *, const void *);
fpga_result fpgaGetMetricsInfo(const void *, const void *);
fpga_result fpgaGetMetricsByIndex(const void *, const void *);
fpga_result fpgaGetMetricsByName(const void *, const void *);
fpga_result fpgaGetMetricsThresholdInfo(const void *);

FPGAHAL_EMU_API int opae_plugin_configure(struct adapter *table, const char *json);

/* `json` is the plugin's part of opae.cfg: boards are described by the rack, so nothing is read from it. */
int opae_plugin_configure(struct adapter *table, const char *json)
{
    (void)json;
    void *shell = caller(__builtin_return_address(0));
    bool good = table && supported(shell);
    if (shell)
        dlclose(shell);
    if (!good)
        return 1;
#define SET(name) table->name = (void *)fpga##name;
#define SET_OWN(name) table->name = (void *)plugin_##name;
    SET(Open) SET(Close) SET(Reset)
    SET_OWN(GetPropertiesFromHandle) SET_OWN(GetProperties) SET_OWN(UpdateProperties) SET_OWN(Enumerate)
    SET(WriteMMIO64) SET(ReadMMIO64) SET(WriteMMIO32) SET(ReadMMIO32) SET(WriteMMIO512) SET(MapMMIO) SET(UnmapMMIO)
    SET(CloneToken) SET(DestroyToken)
    SET(PrepareBuffer) SET(ReleaseBuffer) SET(GetIOAddress)
    SET(ReadError) SET(ClearError) SET(ClearAllErrors) SET(GetErrorInfo)
    SET(CreateEventHandle) SET(DestroyEventHandle) SET(GetOSObjectFromEventHandle) SET(RegisterEvent)
    SET(UnregisterEvent) SET(ReconfigureSlot)
    SET(TokenGetObject) SET(HandleGetObject) SET(ObjectGetObject) SET(ObjectGetObjectAt) SET(DestroyObject)
    SET(ObjectRead) SET(ObjectRead64) SET(ObjectGetSize) SET(ObjectGetType) SET(ObjectWrite64)
    SET(SetUserClock) SET(GetUserClock)
    SET(GetNumMetrics) SET(GetMetricsInfo) SET(GetMetricsByIndex) SET(GetMetricsByName) SET(GetMetricsThresholdInfo)
    /* The rest stays NULL: the shell answers NOT_SUPPORTED.  Without GetWSInfo it also takes no AFU for one
     * of several ports, and reads no registers behind its user's back. */
    table->initialize = nothing;
    table->finalize = nothing;
    return 0;
}
