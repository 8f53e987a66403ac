/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_xclbin.c: libFuzzer harness of the xclbin parser.
 *
 * clang -fsanitize=fuzzer,address,undefined fuzz_xclbin.c ../../native/emu/xclbin*.c ../../native/emu/xml_scan.c
 */
#include "../../native/emu/xclbin.h"
#include "../native/xclbin_builder.h"

#include <stddef.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[256];
    struct xclbin *x = xclbin_parse(data, size, why, sizeof why);
    if (!x)
        return 0;
    int sum = 0; /* everything that the parser promises can be followed */
    for (uint32_t i = 0; i < x->ncus; i++) {
        const struct xclbin_kernel *k = &x->kernels[x->cus[i].kernel];
        for (uint32_t a = 0; a < k->nargs; a++)
            sum += xclbin_group_id(x, &x->cus[i], a, true) + xclbin_group_id(x, &x->cus[i], a, false) +
                k->args[a].name[0];
    }
    if (x->has_bitstream && x->bitstream.size)
        sum += x->bitstream.at[0] + x->bitstream.at[x->bitstream.size - 1];
    __asm__ volatile("" : : "r"(sum)); /* used, or the compiler leaves the reads out */
    xclbin_release(x);
    return 0;
}

/* Most mutations break the length or the magic, which is refused at once: mend them, and sometimes start
 * from a good file, to reach what lies behind. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    if ((size < XCLBIN_HEADER_BYTES || seed % 64 == 0) && max_size > 8192) {
        static const uint8_t uuid[16] = { 1 };
        struct options o = { .groups = seed >> 6 & 1, .partition_interface = seed >> 7 & 1 ? uuid : NULL };
        struct file f = build_xclbin(uuid, &o);
        memcpy(data, f.data, f.size);
        size = f.size;
        free(f.data);
    }
    size = LLVMFuzzerMutate(data, size, max_size);
    if (seed % 8 && size >= XCLBIN_HEADER_BYTES) {
        memcpy(data, "xclbin2", 8);
        put64(data + 304, size);
    }
    return size;
}
