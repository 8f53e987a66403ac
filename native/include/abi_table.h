/* SPDX-License-Identifier: Apache-2.0 */
/*
 * abi_table.h: one struct of typed function pointers per vendor library, filled by dlsym at run time.
 * The functions stand once, in an X-macro; table, symbol list and (in the emulators) prototypes come
 * from it, so that the three cannot drift apart.
 */
#ifndef FPGAHAL_ABI_TABLE_H
#define FPGAHAL_ABI_TABLE_H

#include <dlfcn.h>
#include <stddef.h>

struct abi_symbol {
    const char *name;
    size_t offset; /* of its pointer in the table */
    int required;
};

/* Fill `table` from `library`.  Returns the name of the first required symbol that is missing, or NULL.
 * An optional symbol that is missing leaves a null pointer: test it at the call. */
static inline const char *abi_fill(void *library, void *table, const struct abi_symbol *symbols)
{
    const char *missing = NULL;
    for (; symbols->name; symbols++) {
        void *f = dlsym(library, symbols->name);
        *(void **)((char *)table + symbols->offset) = f;
        if (!f && symbols->required && !missing)
            missing = symbols->name;
    }
    return missing;
}

#define ABI_POINTER(required, type, name, args) type(*name) args;

/* The emulators export the vendor's names; what is loaded below the vendor's own library must not. */
#ifndef ABI_EXPORT
#define ABI_EXPORT __attribute__((visibility("default")))
#endif
#define ABI_PROTOTYPE(required, type, name, args) ABI_EXPORT type name args;

#endif
