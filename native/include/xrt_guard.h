/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_guard.h: is this the libxrt_coreutil that the driver of emulated boards was made for?
 *
 * The classes between libxrt_coreutil and its driver change with every release, and nothing in them tells the
 * version.  Their vtables do: both have an ELF size, which grows with each virtual function.  Compare them before
 * any object of these classes is made, because with other classes the first call goes anywhere.
 */
#ifndef FPGAHAL_XRT_GUARD_H
#define FPGAHAL_XRT_GUARD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>

#define XRT_GUARD_RELEASE "2.13"
#define XRT_GUARD_DEVICE "_ZTVN8xrt_core6deviceE"
#define XRT_GUARD_DEVICE_BYTES 584
#define XRT_GUARD_SYSTEM "_ZTVN8xrt_core6systemE"
#define XRT_GUARD_SYSTEM_BYTES 112

/* Bytes of a symbol, 0 if it is not there. */
static inline unsigned long xrt_guard_size(void *library, const char *name)
{
    Dl_info info;
    ElfW(Sym) *entry = NULL;
    void *at = dlsym(library, name);
    if (!at || !dladdr1(at, &info, (void **)&entry, RTLD_DL_SYMENT) || !entry)
        return 0;
    return (unsigned long)entry->st_size;
}

/* 0; or -1 and a text.  `library` is a handle of dlopen, or RTLD_DEFAULT. */
static inline int xrt_guard(void *library, char *why, unsigned long size)
{
    unsigned long device = xrt_guard_size(library, XRT_GUARD_DEVICE), system = xrt_guard_size(library, XRT_GUARD_SYSTEM);
    if (device == XRT_GUARD_DEVICE_BYTES && system == XRT_GUARD_SYSTEM_BYTES)
        return 0;
    snprintf(why, size,
             "the driver of emulated boards was made for libxrt_coreutil " XRT_GUARD_RELEASE " (classes of %d and %d bytes), "
             "this one has classes of %lu and %lu bytes",
             XRT_GUARD_DEVICE_BYTES, XRT_GUARD_SYSTEM_BYTES, device, system);
    return -1;
}

#endif
