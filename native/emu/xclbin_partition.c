/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xclbin_partition.c: the interface UUIDs in PARTITION_METADATA, a flattened device tree (big endian).
 */
#include "xclbin.h"

#include <string.h>

enum { TOKEN_BEGIN = 1, TOKEN_END = 2, TOKEN_PROPERTY = 3, TOKEN_NOP = 4, TOKEN_DONE = 9 };

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_uuid(const uint8_t *text, size_t size, uint8_t out[16])
{
    if (size < 32)
        return false;
    for (int i = 0; i < 16; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool broken(struct xclbin_error *e)
{
    return xclbin_refuse(e, "xclbin PARTITION_METADATA is not a valid device tree");
}

bool xclbin_parse_partition(struct xclbin *x, struct xclbin_bytes tree, struct xclbin_error *e)
{
    static const char wanted[] = "interface_uuid";
    if (tree.size < 40 || be32(tree.at) != 0xd00dfeed)
        return broken(e);
    size_t total = be32(tree.at + 4), at = be32(tree.at + 8), strings = be32(tree.at + 12);
    size_t strings_size = be32(tree.at + 32), size = be32(tree.at + 36);
    if (total > tree.size || at > total || size > total - at || strings > total || strings_size > total - strings)
        return broken(e);
    size_t end = at + size;
    unsigned depth = 0;
    while (end - at >= 4) {
        uint32_t token = be32(tree.at + at);
        at += 4;
        if (token == TOKEN_BEGIN) {
            const uint8_t *nul = memchr(tree.at + at, 0, end - at);
            if (!nul)
                return broken(e);
            at += (size_t)(nul - (tree.at + at)) + 1;
            depth++;
        } else if (token == TOKEN_END) {
            if (depth-- == 0)
                return broken(e);
        } else if (token == TOKEN_PROPERTY) {
            if (depth == 0 || end - at < 8)
                return broken(e);
            size_t length = be32(tree.at + at), name = be32(tree.at + at + 4);
            at += 8;
            if (length > end - at || name >= strings_size)
                return broken(e);
            if (strings_size - name >= sizeof wanted && memcmp(tree.at + strings + name, wanted, sizeof wanted) == 0) {
                if (x->ninterfaces == XCLBIN_MAX_INTERFACES ||
                    !read_uuid(tree.at + at, length, x->interfaces[x->ninterfaces]))
                    return xclbin_refuse(e, "xclbin PARTITION_METADATA has a bad interface_uuid, or too many");
                x->ninterfaces++;
            }
            at += length;
        } else if (token == TOKEN_DONE) {
            return depth == 0 || broken(e);
        } else if (token != TOKEN_NOP) {
            return broken(e);
        }
        at = (at + 3) & ~(size_t)3;
        if (at > end)
            return broken(e);
    }
    return broken(e);
}
