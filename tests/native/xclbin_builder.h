/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xclbin_builder.h: makes small xclbin files for the native tests, section by section, so that a test
 * can also make wrong ones.
 */
#ifndef XCLBIN_BUILDER_H
#define XCLBIN_BUILDER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BITSTREAM = 0, EMBEDDED_METADATA = 2, MEM_TOPOLOGY = 6, CONNECTIVITY = 7, IP_LAYOUT = 8, PARTITION = 20,
       GROUP_TOPOLOGY = 26, GROUP_CONNECTIVITY = 27 };

struct section_in {
    uint32_t kind;
    const void *data;
    size_t size;
};

struct file {
    uint8_t *data;
    size_t size;
};

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

static struct file build_axlf(const uint8_t uuid[16], uint64_t timestamp, const char *vbnv, const struct section_in *s,
                              unsigned n)
{
    size_t size = 456 + 40 * (size_t)n;
    for (unsigned i = 0; i < n; i++)
        size = ((size + 7) & ~(size_t)7) + s[i].size;
    size = (size + 7) & ~(size_t)7;
    struct file f = { calloc(1, size), size };
    uint8_t *p = f.data;
    memcpy(p, "xclbin2", 8);
    put32(p + 8, 0xffffffff);
    memset(p + 12, 0xff, 284);
    put64(p + 304, size);
    put64(p + 320, timestamp);
    p[330] = 2;
    p[331] = 13;
    strncpy((char *)p + 352, vbnv, 64);
    memcpy(p + 416, uuid, 16);
    put32(p + 448, n);
    size_t at = 456 + 40 * (size_t)n;
    for (unsigned i = 0; i < n; i++) {
        at = (at + 7) & ~(size_t)7;
        uint8_t *h = p + 456 + 40 * (size_t)i;
        put32(h, s[i].kind);
        put64(h + 24, at);
        put64(h + 32, s[i].size);
        if (s[i].size)
            memcpy(p + at, s[i].data, s[i].size);
        at += s[i].size;
    }
    return f;
}

static uint32_t crc32_of(const uint8_t *data, size_t size)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static void put_bank(uint8_t *p, uint8_t type, uint64_t base, uint64_t size, const char *tag)
{
    p[0] = type;
    p[1] = 1;
    put64(p + 8, size >> 10);
    put64(p + 16, base);
    strncpy((char *)p + 24, tag, 16);
}

static void put_ip(uint8_t *p, unsigned interrupt, uint64_t base, const char *name)
{
    put32(p, 1);
    put32(p + 4, 1 | interrupt << 1);
    put64(p + 8, base);
    strncpy((char *)p + 16, name, 64);
}

#define ARG(name, q, id, size, offset, type)                                                                           \
    "<arg name=\"" name "\" addressQualifier=\"" q "\" id=\"" id "\" port=\"P\" size=\"" size "\" offset=\"" offset \
    "\" hostOffset=\"0x0\" hostSize=\"" size "\" type=\"" type "\"/>"
#define PORTS                                                                                                          \
    "<port name=\"M\" mode=\"master\" range=\"0xFFFFFFFFFFFFFFFF\"/><port name=\"S\" mode=\"slave\" range=\"0x1000\"/>"
#define VADD_ARGS                                                                                                      \
    ARG("a", "1", "0", "0x8", "0x10", "uint*") ARG("b", "1", "1", "0x8", "0x1c", "uint*")                              \
    ARG("out", "1", "2", "0x8", "0x28", "uint*") ARG("n", "0", "3", "0x4", "0x34", "uint")
#define XML_HEAD "<?xml version=\"1.0\"?><!-- made by a test --><project name=\"t\"><platform><device><core>"
#define XML_TAIL "</core></device></platform></project>"
#define XML_KERNELS                                                                                                    \
    XML_HEAD "<kernel name=\"vadd\" language=\"c\">" PORTS VADD_ARGS                                                   \
    "<instance name=\"vadd_1\"/><instance name=\"vadd_2\"/></kernel><kernel name='passthrough'>" PORTS                 \
    ARG("src", "1", "0", "0x8", "0x10", "void*") ARG("dst", "1", "1", "0x8", "0x1c", "void*")                          \
    ARG("bytes", "0", "2", "0x8", "0x28", "ulong") "<instance name=\"passthrough_1\"/></kernel>" XML_TAIL

struct options { /* what is not the ordinary image; all zero: vadd x 2 and passthrough on a two-bank board */
    const char *xml;
    uint64_t timestamp;
    uint64_t bank0_base, bank0_size;
    const uint8_t *partition_interface; /* 16 bytes */
    const uint8_t *bitstream_id; /* 16 bytes; NULL: the UUID */
    int bad_crc, raw_bitstream, groups, bad_connection;
};

static const uint64_t BANK_SIZE = UINT64_C(16) << 20;

static size_t build_partition(uint8_t *out, const uint8_t interface[16])
{
    static const char names[] = "interface_uuid";
    uint8_t tree[256] = { 0 };
    size_t n = 0;
#define BE(v) (put32(tree + n, __builtin_bswap32(v)), n += 4)
    BE(1u), n += 4; /* root: an empty name */
    BE(1u), memcpy(tree + n, "interfaces", 11), n += 12;
    BE(1u), memcpy(tree + n, "@0", 3), n += 4;
    BE(3u), BE(33u), BE(0u);
    for (int i = 0; i < 16; i++)
        sprintf((char *)tree + n + 2 * i, "%02x", interface[i]);
    n += 36;
    BE(2u), BE(2u), BE(2u), BE(9u);
    size_t size = n;
    uint32_t words[10] = { 0xd00dfeed, (uint32_t)(56 + size + sizeof names), 56, (uint32_t)(56 + size), 40, 17, 0, 0,
                           sizeof names, (uint32_t)size };
    uint8_t body[256];
    memcpy(body, tree, size);
    n = 0;
    for (int i = 0; i < 10; i++)
        BE(words[i]);
    memcpy(out, tree, 40);
    memset(out + 40, 0, 16);
    memcpy(out + 56, body, size);
    memcpy(out + 56 + size, names, sizeof names);
    return 56 + size + sizeof names;
#undef BE
}

static struct file build_xclbin(const uint8_t uuid[16], const struct options *o)
{
    const char *xml = o->xml ? o->xml : XML_KERNELS;
    uint8_t memory[8 + 2 * 40] = { 2 }, groups[8 + 3 * 40] = { 3 }, ips[8 + 3 * 80] = { 3 };
    put_bank(memory + 8, 1, o->bank0_base, o->bank0_size ? o->bank0_size : BANK_SIZE, "DDR[0]");
    put_bank(memory + 48, 1, UINT64_C(0x400000000), BANK_SIZE, "DDR[1]");
    memcpy(groups + 8, memory + 8, 80);
    put_bank(groups + 88, 1, UINT64_C(0x400000000), BANK_SIZE, "MEM_GROUP");
    put_ip(ips + 8, 0, 0x1800000, "vadd:vadd_1");
    put_ip(ips + 88, 1, 0x1810000, "vadd:vadd_2");
    put_ip(ips + 168, 2, 0x1820000, "passthrough:passthrough_1");
    static const int wires[8][3] = { { 0, 0, 0 }, { 1, 0, 0 }, { 2, 0, 1 }, { 0, 1, 0 }, { 1, 1, 0 }, { 2, 1, 1 },
        { 0, 2, 0 },
                                     { 1, 2, 1 } };
    uint8_t wiring[4 + 9 * 12] = { 8 }, group_wiring[4 + 9 * 12] = { 9 };
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 3; k++)
            put32(wiring + 4 + 12 * i + 4 * k, (uint32_t)wires[i][k]);
    memcpy(group_wiring + 4, wiring + 4, 96);
    put32(group_wiring + 100, 2), put32(group_wiring + 104, 0), put32(group_wiring + 108, 2);
    if (o->bad_connection)
        put32(wiring + 4 + 8, 7);
    uint8_t image[64] = "FPGAHAL EMULATED", partition[400];
    memcpy(image + 32, o->bitstream_id ? o->bitstream_id : uuid, 16);
    put32(image + 48, crc32_of(image, 48) ^ (o->bad_crc ? 1u : 0u));
    if (o->raw_bitstream)
        memset(image, 0x5a, sizeof image);
    struct section_in s[9] = {
        { EMBEDDED_METADATA, xml, strlen(xml) }, { MEM_TOPOLOGY, memory, sizeof memory }, { IP_LAYOUT, ips,
          sizeof ips },
        { CONNECTIVITY, wiring, sizeof wiring - 12 }, { BITSTREAM, image, sizeof image },
    };
    unsigned n = 5;
    if (o->groups) {
        s[n++] = (struct section_in){ GROUP_TOPOLOGY, groups, sizeof groups };
        s[n++] = (struct section_in){ GROUP_CONNECTIVITY, group_wiring, sizeof group_wiring };
    }
    if (o->partition_interface)
        s[n++] = (struct section_in){ PARTITION, partition, build_partition(partition, o->partition_interface) };
    return build_axlf(uuid, o->timestamp, "xilinx_u200_test_1", s, n);
}

#endif
