/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xclbin.c: header, section table and the binary sections of an xclbin file.
 */
#include "xclbin.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SECTIONS 0x10000u
#define KIND_LIMIT 64u /* kinds up to here are known to some release */
#define IP_KERNEL 1u

struct section {
    uint32_t kind;
    struct xclbin_bytes bytes;
};

bool xclbin_refuse(struct xclbin_error *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (e->size)
        vsnprintf(e->text, e->size, fmt, ap);
    va_end(ap);
    return false;
}

uint64_t xclbin_length(const uint8_t *header)
{
    if (memcmp(header, "xclbin2", 8) != 0)
        return 0;
    return xclbin_u64(header + 304);
}

static bool parse_header(struct xclbin *x, const uint8_t *data, size_t size, uint32_t *nsections,
                         struct xclbin_error *e)
{
    if (size < 8 || memcmp(data, "xclbin2", 8) != 0)
        return xclbin_refuse(e, "not an xclbin file (the magic is not xclbin2)");
    if (size < XCLBIN_HEADER_BYTES)
        return xclbin_refuse(e, "xclbin is cut: %zu bytes, a header has %d", size, XCLBIN_HEADER_BYTES);
    uint64_t length = xclbin_u64(data + 304);
    if (length != size)
        return xclbin_refuse(e, "xclbin header says %llu bytes, the file has %zu", (unsigned long long)length, size);
    int32_t signature = (int32_t)xclbin_u32(data + 8);
    if (signature < -1 || signature > (int64_t)(size - XCLBIN_HEADER_BYTES))
        return xclbin_refuse(e, "xclbin signature length %d is out of range", signature);
    x->timestamp = xclbin_u64(data + 320);
    x->version_major = data[330];
    memcpy(x->vbnv, data + 352, 64);
    memcpy(x->uuid, data + 416, 16);
    *nsections = xclbin_u32(data + 448);
    if (*nsections > MAX_SECTIONS || *nsections > (size - XCLBIN_HEADER_BYTES) / XCLBIN_SECTION_BYTES)
        return xclbin_refuse(e, "xclbin has %u sections: more than fit into the file", *nsections);
    return true;
}

static int by_offset(const void *a, const void *b)
{
    const uint8_t *x = ((const struct section *)a)->bytes.at, *y = ((const struct section *)b)->bytes.at;
    return (x > y) - (x < y);
}

static bool may_repeat(uint32_t kind)
{
    return kind == XCLBIN_SOFT_KERNEL || kind == XCLBIN_ASK_FLASH || kind == XCLBIN_VENDER_METADATA;
}

static bool parse_sections(const uint8_t *data, size_t size, struct section *sections, uint32_t n,
                           struct xclbin_error *e)
{
    size_t first = XCLBIN_HEADER_BYTES + (size_t)n * XCLBIN_SECTION_BYTES;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *entry = data + XCLBIN_HEADER_BYTES + (size_t)i * XCLBIN_SECTION_BYTES;
        uint32_t kind = xclbin_u32(entry);
        uint64_t offset = xclbin_u64(entry + 24), bytes = xclbin_u64(entry + 32);
        if (offset > size || bytes > size - offset)
            return xclbin_refuse(e, "xclbin section %u (kind %u) lies outside the file", i, kind);
        if (bytes && offset < first)
            return xclbin_refuse(e, "xclbin section %u (kind %u) lies in the header", i, kind);
        if (kind < KIND_LIMIT && !may_repeat(kind)) {
            if (seen >> kind & 1)
                return xclbin_refuse(e, "xclbin has two sections of kind %u", kind);
            seen |= UINT64_C(1) << kind;
        }
        sections[i] = (struct section){ kind, { data + offset, (size_t)bytes } };
    }
    qsort(sections, n, sizeof *sections, by_offset);
    const uint8_t *end = data;
    for (uint32_t i = 0; i < n; i++) {
        if (!sections[i].bytes.size)
            continue;
        if (sections[i].bytes.at < end)
            return xclbin_refuse(e, "xclbin sections overlap (kind %u)", sections[i].kind);
        end = sections[i].bytes.at + sections[i].bytes.size;
    }
    return true;
}

static const struct xclbin_bytes *find(const struct section *sections, uint32_t n, uint32_t kind)
{
    for (uint32_t i = 0; i < n; i++)
        if (sections[i].kind == kind)
            return &sections[i].bytes;
    return NULL;
}

/* Number of entries of a table section: an int32 that must agree with the section's size. */
static bool entries(struct xclbin_bytes s, size_t header, size_t entry, const char *what, uint32_t *count,
                    struct xclbin_error *e)
{
    if (s.size < header)
        return xclbin_refuse(e, "xclbin %s is cut", what);
    int32_t n = (int32_t)xclbin_u32(s.at);
    if (n < 0 || (size_t)n > (s.size - header) / entry)
        return xclbin_refuse(e, "xclbin %s says %d entries, which do not fit into its %zu bytes", what, n, s.size);
    *count = (uint32_t)n;
    return true;
}

static bool parse_memories(struct xclbin_memories *m, const struct xclbin_bytes *s, const char *what,
                           struct xclbin_error *e)
{
    if (!s)
        return true;
    uint32_t n;
    if (!entries(*s, 8, 40, what, &n, e))
        return false;
    m->at = calloc((size_t)n + 1, sizeof *m->at);
    if (!m->at)
        return xclbin_refuse(e, "out of memory");
    m->count = n;
    m->present = true;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = s->at + 8 + (size_t)i * 40;
        struct xclbin_memory *out = &m->at[i];
        out->type = p[0];
        out->used = p[1] != 0;
        out->base = xclbin_u64(p + 16);
        memcpy(out->tag, p + 24, 16);
        uint64_t kb = xclbin_u64(p + 8);
        if (!xclbin_is_bank(out) || !out->used)
            continue;
        if (kb > UINT64_MAX >> 10 || out->base + (kb << 10) < out->base)
            return xclbin_refuse(e, "xclbin %s entry %u is larger than the address space", what, i);
        out->size = kb << 10;
    }
    return true;
}

static bool parse_connections(struct xclbin_connections *c, const struct xclbin_bytes *s, const char *what,
                              uint32_t nips, uint32_t nmemories, struct xclbin_error *e)
{
    if (!s)
        return true;
    uint32_t n;
    if (!entries(*s, 4, 12, what, &n, e))
        return false;
    c->at = calloc((size_t)n + 1, sizeof *c->at);
    if (!c->at)
        return xclbin_refuse(e, "out of memory");
    c->count = n;
    c->present = true;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = s->at + 4 + (size_t)i * 12;
        struct xclbin_connection *out = &c->at[i];
        out->argument = (int32_t)xclbin_u32(p);
        out->ip = (int32_t)xclbin_u32(p + 4);
        out->memory = (int32_t)xclbin_u32(p + 8);
        if (out->argument < 0 || out->argument >= XCLBIN_MAX_ARGS || out->ip < 0 || (uint32_t)out->ip >= nips ||
            out->memory < 0 || (uint32_t)out->memory >= nmemories)
            return xclbin_refuse(e, "xclbin %s entry %u (argument %d, IP %d, memory %d) is out of range", what, i,
                                 out->argument, out->ip, out->memory);
    }
    return true;
}

/* CU index order: by interrupt id, or by base address when no CU has an interrupt id. */
static int by_base(const void *a, const void *b)
{
    const struct xclbin_cu *x = a, *y = b;
    return (x->base > y->base) - (x->base < y->base);
}

static int by_interrupt(const void *a, const void *b)
{
    uint32_t x = ((const struct xclbin_cu *)a)->properties >> 1 & 0x7f;
    uint32_t y = ((const struct xclbin_cu *)b)->properties >> 1 & 0x7f;
    return x != y ? (x > y) - (x < y) : by_base(a, b);
}

static bool add_cu(struct xclbin *x, uint32_t ip, const uint8_t *entry, struct xclbin_error *e)
{
    const char *name = (const char *)entry + 16;
    const char *colon = memchr(name, ':', 64), *end = memchr(name, 0, 64);
    if (!colon || !end || colon > end)
        return xclbin_refuse(e, "xclbin IP_LAYOUT entry %u has no \"kernel:instance\" name", ip);
    if (x->ncus == XCLBIN_MAX_CUS)
        return xclbin_refuse(e, "xclbin has more than %d compute units", XCLBIN_MAX_CUS);
    struct xclbin_cu *cu = &x->cus[x->ncus++];
    *cu = (struct xclbin_cu){ .ip = ip, .properties = xclbin_u32(entry + 4), .base = xclbin_u64(entry + 8) };
    memcpy(cu->name, colon + 1, (size_t)(end - colon));
    for (cu->kernel = 0; cu->kernel < x->nkernels; cu->kernel++) {
        const char *kernel = x->kernels[cu->kernel].name;
        if (strlen(kernel) == (size_t)(colon - name) && memcmp(kernel, name, strlen(kernel)) == 0)
            return true;
    }
    return xclbin_refuse(e, "xclbin IP_LAYOUT names %.64s, but EMBEDDED_METADATA has no such kernel", name);
}

static bool parse_ip_layout(struct xclbin *x, const struct xclbin_bytes *s, struct xclbin_error *e)
{
    if (!s)
        return true;
    if (!entries(*s, 8, 80, "IP_LAYOUT", &x->nips, e))
        return false;
    bool interrupts = false;
    for (uint32_t i = 0; i < x->nips; i++) {
        const uint8_t *p = s->at + 8 + (size_t)i * 80;
        if (xclbin_u32(p) != IP_KERNEL)
            continue;
        if (!add_cu(x, i, p, e))
            return false;
        interrupts = interrupts || (xclbin_u32(p + 4) >> 1 & 0x7f);
    }
    qsort(x->cus, x->ncus, sizeof *x->cus, interrupts ? by_interrupt : by_base);
    return true;
}

static bool parse(struct xclbin *x, const struct section *sections, uint32_t n, struct xclbin_error *e)
{
    const struct xclbin_bytes *s = find(sections, n, XCLBIN_EMBEDDED_METADATA);
    if (!s)
        return xclbin_refuse(e, "xclbin has no EMBEDDED_METADATA section");
    if (!xclbin_parse_metadata(x, *s, e) || !parse_ip_layout(x, find(sections, n, XCLBIN_IP_LAYOUT), e) ||
        !parse_memories(&x->memories, find(sections, n, XCLBIN_MEM_TOPOLOGY), "MEM_TOPOLOGY", e) ||
        !parse_memories(&x->groups, find(sections, n, XCLBIN_GROUP_TOPOLOGY), "GROUP_TOPOLOGY", e))
        return false;
    const struct xclbin_memories *groups = x->groups.present ? &x->groups : &x->memories;
    if (!parse_connections(&x->connections, find(sections, n, XCLBIN_CONNECTIVITY), "CONNECTIVITY", x->nips,
                           x->memories.count, e) ||
        !parse_connections(&x->group_connections, find(sections, n, XCLBIN_GROUP_CONNECTIVITY), "GROUP_CONNECTIVITY",
                           x->nips, groups->count, e))
        return false;
    s = find(sections, n, XCLBIN_PARTITION_METADATA);
    if (s && !xclbin_parse_partition(x, *s, e))
        return false;
    s = find(sections, n, XCLBIN_BITSTREAM);
    x->has_bitstream = s != NULL;
    if (s)
        x->bitstream = *s;
    return true;
}

struct xclbin *xclbin_parse(const uint8_t *data, size_t size, char *error, size_t error_size)
{
    struct xclbin_error e = { error, error_size };
    uint32_t n = 0;
    struct section *sections = NULL;
    struct xclbin *x = calloc(1, sizeof *x);
    bool good = x || xclbin_refuse(&e, "out of memory");
    good = good && parse_header(x, data, size, &n, &e);
    if (good) {
        x->references = 1;
        sections = calloc((size_t)n + 1, sizeof *sections);
        good = (sections || xclbin_refuse(&e, "out of memory")) && parse_sections(data, size, sections, n, &e) &&
               parse(x, sections, n, &e);
    }
    free(sections);
    if (good)
        return x;
    if (x) {
        x->references = 1;
        xclbin_release(x);
    }
    return NULL;
}

struct xclbin *xclbin_retain(struct xclbin *x)
{
    if (x)
        atomic_fetch_add(&x->references, 1);
    return x;
}

void xclbin_release(struct xclbin *x)
{
    if (!x || atomic_fetch_sub(&x->references, 1) != 1)
        return;
    for (uint32_t i = 0; i < x->nkernels; i++)
        free(x->kernels[i].args);
    free(x->kernels);
    free(x->memories.at);
    free(x->groups.at);
    free(x->connections.at);
    free(x->group_connections.at);
    free(x);
}

bool xclbin_is_bank(const struct xclbin_memory *m)
{
    enum { STREAMING = 3, STREAMING_CONNECTION = 9, PS_KERNEL = 11 };
    return m->type != STREAMING && m->type != STREAMING_CONNECTION && m->type != PS_KERNEL;
}

int xclbin_group_id(const struct xclbin *x, const struct xclbin_cu *cu, uint32_t argument, bool use_groups)
{
    bool groups = use_groups && x->group_connections.present;
    const struct xclbin_connections *c = groups ? &x->group_connections : &x->connections;
    const struct xclbin_memories *m = groups && x->groups.present ? &x->groups : &x->memories;
    int best = -1;
    for (uint32_t i = 0; i < c->count; i++)
        if ((uint32_t)c->at[i].argument == argument && (uint32_t)c->at[i].ip == cu->ip && c->at[i].memory > best &&
            xclbin_is_bank(&m->at[c->at[i].memory]))
            best = c->at[i].memory;
    return best;
}
