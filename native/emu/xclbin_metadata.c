/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xclbin_metadata.c: kernels and their arguments, from the XML of EMBEDDED_METADATA.
 */
#include "xclbin.h"
#include "xml_scan.h"

#include <stdlib.h>
#include <string.h>

#define MAX_KERNELS 1024u
#define DEFAULT_RANGE 0x10000u /* register space of a kernel without a slave port */

static bool add_kernel(struct xclbin *x, const struct xml *xml, struct xclbin_error *e)
{
    if (x->nkernels == MAX_KERNELS)
        return xclbin_refuse(e, "xclbin metadata has more than %u kernels", MAX_KERNELS);
    struct xclbin_kernel *grown = realloc(x->kernels, (x->nkernels + 1) * sizeof *grown);
    if (!grown)
        return xclbin_refuse(e, "out of memory");
    x->kernels = grown;
    struct xclbin_kernel *k = &x->kernels[x->nkernels];
    *k = (struct xclbin_kernel){ .range = DEFAULT_RANGE };
    if (!xml_attribute(xml, "name", k->name, sizeof k->name) || !k->name[0])
        return xclbin_refuse(e, "xclbin metadata: a kernel has no name, or one of more than 63 characters");
    for (uint32_t i = 0; i < x->nkernels; i++)
        if (strcmp(x->kernels[i].name, k->name) == 0)
            return xclbin_refuse(e, "xclbin metadata: two kernels are named %s", k->name);
    k->args = calloc(XCLBIN_MAX_ARGS, sizeof *k->args);
    if (!k->args)
        return xclbin_refuse(e, "out of memory");
    x->nkernels++;
    return true;
}

static bool add_port(struct xclbin_kernel *k, const struct xml *xml, struct xclbin_error *e)
{
    char mode[16];
    uint64_t range;
    if (k->has_range || !xml_attribute(xml, "mode", mode, sizeof mode) || strcmp(mode, "slave") != 0)
        return true;
    if (!xml_number(xml, "range", &range) || range > UINT32_MAX)
        return xclbin_refuse(e, "xclbin metadata: kernel %s has a slave port without a usable range", k->name);
    k->range = (uint32_t)range;
    k->has_range = true;
    return true;
}

static bool add_argument(struct xclbin_kernel *k, const struct xml *xml, struct xclbin_error *e)
{
    struct xclbin_argument a = { .present = true };
    char id_text[16];
    uint64_t id, offset, size, host_size, qualifier;
    if (!xml_attribute(xml, "name", a.name, sizeof a.name) || !xml_attribute(xml, "id", id_text, sizeof id_text) ||
        !xml_number(xml, "offset", &offset) || !xml_number(xml, "size", &size) ||
        !xml_number(xml, "hostSize", &host_size) || !xml_number(xml, "addressQualifier", &qualifier))
        return xclbin_refuse(e, "xclbin metadata: an argument of kernel %s lacks name, id, offset, size, hostSize or "
                                "addressQualifier, or has a bad number there", k->name);
    if (xml_attribute(xml, "type", a.type, sizeof a.type) == false)
        a.type[0] = '\0'; /* optional */
    if (!id_text[0])
        return true; /* has no index: no call can set it */
    if (!xml_number(xml, "id", &id) || id >= XCLBIN_MAX_ARGS)
        return xclbin_refuse(e, "xclbin metadata: argument %s of kernel %s has the bad id %s", a.name, k->name,
                             id_text);
    if (qualifier > XCLBIN_STREAM)
        return xclbin_refuse(e, "xclbin metadata: argument %s of kernel %s has an unknown addressQualifier", a.name,
                             k->name);
    if (offset > UINT32_MAX || size > UINT32_MAX)
        return xclbin_refuse(e, "xclbin metadata: argument %s of kernel %s lies outside its register space", a.name,
                             k->name);
    a.qualifier = (uint8_t)qualifier;
    a.offset = (uint32_t)offset;
    a.size = (uint32_t)size;
    struct xclbin_argument *at = &k->args[id];
    if (at->present) { /* the same id again: one argument in several pieces */
        if (a.offset < at->offset)
            at->offset = a.offset;
        if (at->size > UINT32_MAX - a.size)
            return xclbin_refuse(e, "xclbin metadata: argument %s of kernel %s is too large", a.name, k->name);
        at->size += a.size;
        return true;
    }
    *at = a;
    if (id >= k->nargs)
        k->nargs = (uint32_t)id + 1;
    return true;
}

static bool check_kernel(struct xclbin_kernel *k, struct xclbin_error *e)
{
    for (uint32_t i = 0; i < k->nargs; i++) {
        const struct xclbin_argument *a = &k->args[i];
        if (!a->present)
            return xclbin_refuse(e, "xclbin metadata: kernel %s has no argument with id %u", k->name, i);
        if (a->qualifier == XCLBIN_LOCAL || a->qualifier == XCLBIN_STREAM)
            continue; /* not in the register file */
        uint64_t end = (uint64_t)a->offset + a->size;
        if (end > k->range)
            return xclbin_refuse(e, "xclbin metadata: argument %s of kernel %s ends at 0x%llx, outside its register "
                                    "space of 0x%x bytes", a->name, k->name, (unsigned long long)end, k->range);
        if (a->offset % 4)
            return xclbin_refuse(e, "xclbin metadata: argument %s of kernel %s is not on a register boundary",
                                 a->name, k->name);
        if (end > k->reg_bytes)
            k->reg_bytes = (uint32_t)end;
    }
    /* The table was as large as it may get; most kernels have a handful. */
    struct xclbin_argument *fit = realloc(k->args, (k->nargs + 1) * sizeof *fit);
    if (fit)
        k->args = fit;
    return true;
}

bool xclbin_parse_metadata(struct xclbin *x, struct xclbin_bytes text, struct xclbin_error *e)
{
    struct xml xml;
    xml_begin(&xml, (const char *)text.at, text.size);
    struct xclbin_kernel *kernel = NULL;
    bool root = false;
    for (;;) {
        switch (xml_next(&xml)) {
        case XML_DONE:
            return root || xclbin_refuse(e, "xclbin EMBEDDED_METADATA is empty");
        case XML_BROKEN:
            return xclbin_refuse(e, "xclbin EMBEDDED_METADATA is not good XML: %s", xml.error);
        case XML_START:
            if (!root && !xml_is(&xml, "project"))
                return xclbin_refuse(e, "xclbin EMBEDDED_METADATA does not start with <project>");
            root = true;
            if (!kernel && xml_is(&xml, "kernel")) {
                if (!add_kernel(x, &xml, e))
                    return false;
                kernel = &x->kernels[x->nkernels - 1];
            } else if (kernel && xml_is(&xml, "port")) {
                if (!add_port(kernel, &xml, e))
                    return false;
            } else if (kernel && xml_is(&xml, "arg")) {
                if (!add_argument(kernel, &xml, e))
                    return false;
            }
            break;
        case XML_END:
            if (kernel && xml_is(&xml, "kernel")) {
                if (!check_kernel(kernel, e))
                    return false;
                kernel = NULL;
            }
            break;
        }
    }
}
