/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gbs.c: the envelope and the metadata of a GBS file.  A scanner, not a JSON library: it walks the text
 * once, checks its shape, and picks up three values by their place.  fpgahal checks files in Python
 * before they come here; this is the emulated driver's own check, as a program may call it directly.
 */
#include "gbs.h"

#include <stdbool.h>
#include <string.h>

#define HEADER 20
#define MAX_JSON 8192 /* xfpga's limit */
#define MAX_DEPTH 32
#define MAGIC_NO 488605312u

static const uint8_t guid[16] = { 0x58, 0x65, 0x6f, 0x6e, 0x46, 0x50, 0x47, 0x41,
                                  0xb7, 0x47, 0x42, 0x53, 0x76, 0x30, 0x30, 0x31 };

enum place { OTHER, ROOT, IMAGE, MAGIC, INTERFACE, CLUSTERS, CLUSTER, AFU };

static const struct {
    enum place in;
    const char *key;
    enum place is;
} keys[] = {
    { ROOT, "afu-image", IMAGE },
    { IMAGE, "magic-no", MAGIC },
    { IMAGE, "interface-uuid", INTERFACE },
    { IMAGE, "accelerator-clusters", CLUSTERS },
    { CLUSTER, "accelerator-type-uuid", AFU },
};

struct scan {
    const char *at, *end;
    struct gbs *out;
    bool magic, interface_id, afu;
    const char *wrong;
};

static bool fail(struct scan *s, const char *why)
{
    if (!s->wrong)
        s->wrong = why;
    return false;
}

static int peek(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
    return s->at < s->end ? (unsigned char)*s->at : -1;
}

static bool take(struct scan *s, char c)
{
    if (peek(s) != c)
        return false;
    s->at++;
    return true;
}

/* A string as it stands in the text, escapes and all: no key or id we look for has any. */
static bool string(struct scan *s, const char **text, size_t *length)
{
    if (!take(s, '"'))
        return fail(s, "the metadata is not JSON: a string is missing");
    *text = s->at;
    for (; s->at < s->end && *s->at != '"'; s->at++) {
        if ((unsigned char)*s->at < 0x20)
            return fail(s, "the metadata is not JSON: control character in a string");
        if (*s->at == '\\' && ++s->at == s->end)
            break;
    }
    if (s->at >= s->end)
        return fail(s, "the metadata is not JSON: a string does not end");
    *length = (size_t)(s->at++ - *text);
    return true;
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

static bool uuid(const char *text, size_t length, uint8_t out[16])
{
    if (length != 36)
        return false;
    for (size_t i = 0, n = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        int d = digit(text[i]);
        if (dash ? text[i] != '-' : d < 0)
            return false;
        if (!dash) {
            out[n / 2] = (uint8_t)(n % 2 ? out[n / 2] | d : d << 4);
            n++;
        }
    }
    return true;
}

static bool id_value(struct scan *s, enum place place)
{
    const char *text;
    size_t length;
    if (!string(s, &text, &length))
        return false;
    if (place == INTERFACE) {
        s->interface_id = uuid(text, length, s->out->interface_id);
        return s->interface_id || fail(s, "interface-uuid is not a UUID");
    }
    if (s->afu) /* the first cluster counts */
        return true;
    s->afu = uuid(text, length, s->out->afu_id);
    return s->afu || fail(s, "accelerator-type-uuid is not a UUID");
}

static bool scalar(struct scan *s, enum place place)
{
    const char *from = s->at;
    while (s->at < s->end && strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", *s->at) && *s->at)
        s->at++;
    size_t length = (size_t)(s->at - from);
    if (length == 0)
        return fail(s, "the metadata is not JSON: a value is missing");
    bool word = (length == 4 && (!memcmp(from, "true", 4) || !memcmp(from, "null", 4)))
                || (length == 5 && !memcmp(from, "false", 5));
    if (!word && !(*from == '-' || (*from >= '0' && *from <= '9')))
        return fail(s, "the metadata is not JSON: an unknown word");
    if (place == MAGIC) {
        uint64_t n = 0;
        for (size_t i = 0; i < length && n < 1ull << 40; i++)
            n = from[i] >= '0' && from[i] <= '9' ? n * 10 + (uint64_t)(from[i] - '0') : UINT64_MAX;
        s->magic = n == MAGIC_NO;
        return s->magic || fail(s, "magic-no is not 488605312");
    }
    return true;
}

static bool value(struct scan *s, enum place place, int depth);

static bool object(struct scan *s, enum place place, int depth)
{
    if (take(s, '}'))
        return true;
    do {
        const char *text;
        size_t length;
        enum place is = OTHER;
        peek(s);
        if (!string(s, &text, &length))
            return false;
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            if (keys[i].in == place && strlen(keys[i].key) == length && !memcmp(keys[i].key, text, length))
                is = keys[i].is;
        }
        if (!take(s, ':'))
            return fail(s, "the metadata is not JSON: ':' is missing");
        if (!value(s, is, depth))
            return false;
    } while (take(s, ','));
    return take(s, '}') || fail(s, "the metadata is not JSON: '}' is missing");
}

static bool array(struct scan *s, enum place place, int depth)
{
    if (take(s, ']'))
        return true;
    do {
        if (!value(s, place == CLUSTERS ? CLUSTER : OTHER, depth))
            return false;
    } while (take(s, ','));
    return take(s, ']') || fail(s, "the metadata is not JSON: ']' is missing");
}

static bool value(struct scan *s, enum place place, int depth)
{
    if (depth > MAX_DEPTH)
        return fail(s, "the metadata is nested too deeply");
    int c = peek(s);
    if (place == INTERFACE || place == AFU)
        return id_value(s, place);
    if (place == MAGIC)
        return scalar(s, place);
    if (c == '{' || c == '[') {
        s->at++;
        return c == '{' ? object(s, place, depth + 1) : array(s, place, depth + 1);
    }
    if (c == '"') {
        const char *text;
        size_t length;
        return string(s, &text, &length);
    }
    return scalar(s, place);
}

const char *gbs_parse(const uint8_t *data, size_t size, struct gbs *out)
{
    if (size <= HEADER)
        return "it is too short";
    if (memcmp(data, guid, 16) != 0)
        return "it does not begin with the GBS GUID";
    size_t json = data[16] | (size_t)data[17] << 8 | (size_t)data[18] << 16 | (size_t)data[19] << 24;
    if (json >= MAX_JSON || json > size - HEADER)
        return "its metadata is longer than the file, or than 8191 bytes";
    memset(out, 0, sizeof *out);
    struct scan s = { .at = (const char *)data + HEADER, .out = out };
    s.end = s.at + json;
    if (!value(&s, ROOT, 0))
        return s.wrong;
    if (peek(&s) != -1)
        return "the metadata is not JSON: text follows its end";
    if (!s.magic || !s.interface_id || !s.afu)
        return !s.magic          ? "its metadata has no magic-no"
               : !s.interface_id ? "its metadata has no interface-uuid"
                                 : "its metadata names no accelerator";
    out->payload = data + HEADER + json;
    out->payload_size = size - HEADER - json;
    return out->payload_size ? NULL : "it holds no bitstream after the metadata";
}
