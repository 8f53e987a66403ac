/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aligned_alloc.c: LD_PRELOAD before ASan, for libxrt_coreutil: 2.13 asks for sizes that are no multiple of the
 * alignment, which glibc allows and ASan ends the process for.
 */
#include <malloc.h>

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}
