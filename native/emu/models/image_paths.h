/* SPDX-License-Identifier: Apache-2.0 */
/* image_paths.h: the image kernels compiled twice, and which of the two this run takes.  Both give the same bits. */
#ifndef FPGAHAL_IMAGE_PATHS_H
#define FPGAHAL_IMAGE_PATHS_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define INLINED static inline __attribute__((always_inline))
#ifdef __x86_64__
#define WIDE __attribute__((target("avx2,fma")))
#define HAS_WIDE() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#else
#define WIDE
#define HAS_WIDE() false
#endif

static inline bool image_wide(void)
{
    const char *forced = getenv("FPGAHAL_EMU_ISA");
    return HAS_WIDE() && !(forced && strcmp(forced, "portable") == 0);
}

#endif
