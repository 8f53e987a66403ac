/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xml_scan.h: read the tags and attributes of a small XML text, one after the other.
 *
 * Enough for the metadata of an FPGA image: no name spaces, no entities but the five of XML and character
 * numbers, no DTD.  Nothing is copied but attribute values, and nothing is read outside [text, text+size).
 */
#ifndef FPGAHAL_XML_SCAN_H
#define FPGAHAL_XML_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XML_MAX_DEPTH 32

struct xml_slice {
    const char *at;
    size_t size;
};

struct xml {
    const char *at, *end;
    const char *error; /* why xml_next returned XML_BROKEN */
    unsigned depth;
    struct xml_slice open[XML_MAX_DEPTH]; /* names of the elements that are open */
    struct xml_slice name; /* of the tag just read */
    struct xml_slice attributes;
    bool pending_end; /* <a/> gives a start and then an end */
};

enum xml_event { XML_DONE, XML_START, XML_END, XML_BROKEN };

void xml_begin(struct xml *, const char *text, size_t size);
enum xml_event xml_next(struct xml *);
bool xml_is(const struct xml *, const char *name);
/* Value of an attribute of the tag just read, NUL-terminated.  False if absent or longer than out. */
bool xml_attribute(const struct xml *, const char *name, char *out, size_t size);
/* A number, decimal or 0x..; "" is 0.  False if absent, not a number, or more than 64 bits. */
bool xml_number(const struct xml *, const char *name, uint64_t *out);

#endif
