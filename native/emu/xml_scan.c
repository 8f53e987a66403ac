/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1 /* memmem */
#include "xml_scan.h"

#include <string.h>

static bool space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool name_char(char c)
{
    return !space(c) && c != '<' && c != '>' && c != '/' && c != '=' && c != '"' && c != '\'' && c != '\0';
}

static const char *find(const char *at, const char *end, const char *what)
{
    return memmem(at, (size_t)(end - at), what, strlen(what));
}

void xml_begin(struct xml *x, const char *text, size_t size)
{
    *x = (struct xml){ .at = text, .end = text + size };
    /* Builders pad the text with zeros; the last tag ends before them. */
    while (x->end > x->at && (x->end[-1] == '\0' || space(x->end[-1])))
        x->end--;
}

static enum xml_event broken(struct xml *x, const char *why)
{
    x->error = why;
    return XML_BROKEN;
}

/* Step over text, comments, processing instructions and declarations to the next real tag. */
static const char *next_tag(struct xml *x)
{
    while (x->at < x->end) {
        const char *tag = memchr(x->at, '<', (size_t)(x->end - x->at));
        const char *text_end = tag ? tag : x->end;
        if (x->depth == 0)
            for (const char *p = x->at; p < text_end; p++)
                if (!space(*p) && (unsigned char)*p < 0x80) { /* a byte order mark is fine */
                    x->error = "text outside the root element";
                    return NULL;
                }
        if (!tag)
            break;
        const char *close = ">";
        size_t left = (size_t)(x->end - tag);
        if (left >= 4 && memcmp(tag, "<!--", 4) == 0)
            close = "-->";
        else if (left >= 9 && memcmp(tag, "<![CDATA[", 9) == 0)
            close = "]]>";
        else if (left >= 2 && tag[1] == '?')
            close = "?>";
        else if (left < 2 || tag[1] != '!')
            return tag;
        const char *after = find(tag + 2, x->end, close);
        if (!after) {
            x->error = "a comment or declaration does not end";
            return NULL;
        }
        x->at = after + strlen(close);
    }
    x->at = x->end;
    return NULL;
}

/* The '>' that ends a tag: one inside quotes does not. */
static const char *tag_end(const char *at, const char *end)
{
    char quote = 0;
    for (; at < end; at++) {
        if (quote) {
            if (*at == quote)
                quote = 0;
        } else if (*at == '"' || *at == '\'') {
            quote = *at;
        } else if (*at == '>') {
            return at;
        } else if (*at == '<') {
            return NULL;
        }
    }
    return NULL;
}

enum xml_event xml_next(struct xml *x)
{
    if (x->pending_end) {
        x->pending_end = false;
        x->name = x->open[--x->depth];
        return XML_END;
    }
    const char *tag = next_tag(x);
    if (!tag) {
        if (x->error)
            return XML_BROKEN;
        return x->depth ? broken(x, "an element is not closed") : XML_DONE;
    }
    const char *close = tag_end(tag + 1, x->end);
    if (!close)
        return broken(x, "a tag does not end");
    x->at = close + 1;
    const char *p = tag + 1;
    bool ending = p < close && *p == '/';
    if (ending)
        p++;
    const char *name = p;
    while (p < close && name_char(*p))
        p++;
    x->name = (struct xml_slice){ name, (size_t)(p - name) };
    if (p == name)
        return broken(x, "a tag has no name");
    if (ending) {
        x->attributes = (struct xml_slice){ p, 0 };
        struct xml_slice want = x->depth ? x->open[--x->depth] : (struct xml_slice){ p, 0 };
        if (want.size != x->name.size || memcmp(want.at, name, want.size) != 0)
            return broken(x, "an end tag does not match its start");
        return XML_END;
    }
    if (x->depth == XML_MAX_DEPTH)
        return broken(x, "elements are nested too deeply");
    x->open[x->depth++] = x->name;
    x->pending_end = close[-1] == '/';
    x->attributes = (struct xml_slice){ p, (size_t)(close - p) - (x->pending_end && close > p) };
    return XML_START;
}

bool xml_is(const struct xml *x, const char *name)
{
    return strlen(name) == x->name.size && memcmp(name, x->name.at, x->name.size) == 0;
}

/* One character of an attribute value: an entity counts as one.  Returns how many bytes it took. */
static size_t decode(const char *at, size_t size, char *out)
{
    static const struct { const char *text; char c; } entities[] = {
        { "&lt;", '<' }, { "&gt;", '>' }, { "&amp;", '&' }, { "&quot;", '"' }, { "&apos;", '\'' },
    };
    *out = *at;
    if (*at != '&')
        return 1;
    for (size_t i = 0; i < sizeof entities / sizeof *entities; i++) {
        size_t n = strlen(entities[i].text);
        if (size >= n && memcmp(at, entities[i].text, n) == 0) {
            *out = entities[i].c;
            return n;
        }
    }
    return 1; /* left as it stands */
}

bool xml_attribute(const struct xml *x, const char *name, char *out, size_t size)
{
    const char *p = x->attributes.at, *end = p + x->attributes.size;
    size_t want = strlen(name);
    while (p < end) {
        while (p < end && space(*p))
            p++;
        const char *key = p;
        while (p < end && name_char(*p))
            p++;
        size_t key_size = (size_t)(p - key);
        while (p < end && space(*p))
            p++;
        if (key_size == 0 || p == end || *p != '=')
            return false;
        p++;
        while (p < end && space(*p))
            p++;
        if (p == end || (*p != '"' && *p != '\''))
            return false;
        char quote = *p++;
        const char *value = p;
        const char *stop = memchr(p, quote, (size_t)(end - p));
        if (!stop)
            return false;
        p = stop + 1;
        if (key_size != want || memcmp(key, name, want) != 0)
            continue;
        size_t n = 0;
        while (value < stop) {
            if (n + 1 >= size)
                return false;
            value += decode(value, (size_t)(stop - value), &out[n++]);
        }
        out[n] = '\0';
        return true;
    }
    return false;
}

bool xml_number(const struct xml *x, const char *name, uint64_t *out)
{
    char text[32];
    if (!xml_attribute(x, name, text, sizeof text))
        return false;
    const char *p = text;
    uint64_t base = 10, value = 0;
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
        if (!*p)
            return false;
    }
    for (; *p; p++) {
        uint64_t digit;
        if (*p >= '0' && *p <= '9')
            digit = (uint64_t)(*p - '0');
        else if (base == 16 && ((*p >= 'a' && *p <= 'f') || (*p >= 'A' && *p <= 'F')))
            digit = (uint64_t)((*p | 0x20) - 'a') + 10;
        else
            return false;
        if (value > (UINT64_MAX - digit) / base)
            return false;
        value = value * base + digit;
    }
    *out = value;
    return true;
}
