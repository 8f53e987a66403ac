/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xclbin.h: what the emulated XRT needs to know of an xclbin (axlf) file.
 *
 * The parser trusts nothing: every offset, size and count is checked against the file before use, and a
 * file that any part of XRT would mishandle is refused with a text.
 */
#ifndef FPGAHAL_XCLBIN_H
#define FPGAHAL_XCLBIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XCLBIN_HEADER_BYTES 456 /* up to the section table */
#define XCLBIN_SECTION_BYTES 40
#define XCLBIN_MAX_BYTES (UINT64_C(2) << 30)
#define XCLBIN_MAX_CUS 128
#define XCLBIN_MAX_ARGS 256
#define XCLBIN_MAX_INTERFACES 16

enum xclbin_kind {
    XCLBIN_BITSTREAM = 0, XCLBIN_EMBEDDED_METADATA = 2, XCLBIN_MEM_TOPOLOGY = 6, XCLBIN_CONNECTIVITY = 7,
    XCLBIN_IP_LAYOUT = 8, XCLBIN_SOFT_KERNEL = 23, XCLBIN_PARTITION_METADATA = 20, XCLBIN_ASK_FLASH = 24,
    XCLBIN_GROUP_TOPOLOGY = 26, XCLBIN_GROUP_CONNECTIVITY = 27, XCLBIN_VENDER_METADATA = 31
};

struct xclbin_bytes {
    const uint8_t *at;
    size_t size;
};

struct xclbin_memory { /* an entry of MEM_TOPOLOGY or GROUP_TOPOLOGY */
    char tag[17];
    uint8_t type;
    bool used;
    uint64_t base, size; /* bytes */
};

struct xclbin_memories {
    struct xclbin_memory *at;
    uint32_t count;
    bool present;
};

struct xclbin_connection {
    int32_t argument, ip, memory;
};

struct xclbin_connections {
    struct xclbin_connection *at;
    uint32_t count;
    bool present;
};

enum { XCLBIN_SCALAR = 0, XCLBIN_GLOBAL = 1, XCLBIN_CONSTANT = 2, XCLBIN_LOCAL = 3, XCLBIN_STREAM = 4 };

struct xclbin_argument {
    char name[64], type[48];
    uint8_t qualifier;
    bool present; /* an id that no <arg> had is a hole, which is refused */
    uint32_t offset, size; /* in the CU's register file, bytes */
};

struct xclbin_kernel {
    char name[64];
    uint32_t range; /* of its register space, bytes */
    bool has_range;
    uint32_t nargs, reg_bytes; /* reg_bytes: end of the last argument */
    struct xclbin_argument *args;
};

struct xclbin_cu { /* in CU index order */
    char name[64]; /* instance: "vadd_1" */
    uint32_t kernel; /* index into kernels */
    uint32_t ip; /* index into IP_LAYOUT */
    uint32_t properties;
    uint64_t base;
};

struct xclbin {
    atomic_uint references;
    uint8_t uuid[16];
    char vbnv[65];
    uint64_t timestamp; /* of the feature ROM it was built for; 0: any */
    uint8_t version_major;
    uint32_t nips, ncus, nkernels, ninterfaces;
    struct xclbin_cu cus[XCLBIN_MAX_CUS];
    struct xclbin_kernel *kernels;
    struct xclbin_memories memories, groups;
    struct xclbin_connections connections, group_connections;
    uint8_t interfaces[XCLBIN_MAX_INTERFACES][16]; /* platforms that PARTITION_METADATA names */
    struct xclbin_bytes bitstream; /* points into the file: good only while the caller keeps that */
    bool has_bitstream;
};

/* Parse a file in memory.  `size` is all there is; m_length must be the same.  NULL and a text if refused. */
struct xclbin *xclbin_parse(const uint8_t *data, size_t size, char *error, size_t error_size);
/* m_length of a header (XCLBIN_HEADER_BYTES readable bytes), or 0 if it is not an xclbin header. */
uint64_t xclbin_length(const uint8_t *header);
struct xclbin *xclbin_retain(struct xclbin *);
void xclbin_release(struct xclbin *);

/* Is this memory a bank with addresses (not a stream)? */
bool xclbin_is_bank(const struct xclbin_memory *);
/* Largest bank index that argument `argument` of a CU is connected to; -1 if none. */
int xclbin_group_id(const struct xclbin *, const struct xclbin_cu *, uint32_t argument, bool use_groups);

/* Parts, each in its own file; false and a text when refused. */
struct xclbin_error {
    char *text;
    size_t size;
};
bool xclbin_refuse(struct xclbin_error *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool xclbin_parse_metadata(struct xclbin *, struct xclbin_bytes xml, struct xclbin_error *);
bool xclbin_parse_partition(struct xclbin *, struct xclbin_bytes tree, struct xclbin_error *);

static inline uint32_t xclbin_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t xclbin_u64(const uint8_t *p)
{
    return xclbin_u32(p) | (uint64_t)xclbin_u32(p + 4) << 32;
}

#endif
