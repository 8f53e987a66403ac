/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_object.h: what stands behind an XRT handle.
 *
 * A handle is not an address: it names a slot of a table and the slot's generation, so that a stale,
 * closed or invented handle is recognised without touching freed memory.  A slot's word holds the
 * generation (odd: open) and the number of references.  A call takes a reference for as long as it
 * works (one compare-and-swap, no lock), so closing a handle in one thread while another uses it is
 * harmless: the last one out destroys the object.
 *
 *   handle: kind << 60 | fork epoch << 52 | generation << 24 | slot
 *   word:   generation << 24 | references
 */
#ifndef FPGAHAL_XRT_OBJECT_H
#define FPGAHAL_XRT_OBJECT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum xrt_kind { XRT_DEVICE = 1, XRT_KERNEL, XRT_RUN, XRT_BUFFER, XRT_XCLBIN };

#define XRT_SLOT_BITS 24
#define XRT_CHUNK 4096u
#define XRT_CHUNKS ((1u << XRT_SLOT_BITS) / XRT_CHUNK)
#define XRT_REFERENCES ((UINT64_C(1) << 24) - 1)
#define XRT_GENERATIONS ((UINT64_C(1) << 28) - 1)

struct xrt_slot { /* never freed; a cache line each, so that threads do not disturb each other */
    _Alignas(64) _Atomic uint64_t word;
    struct xrt_object *object;
    uint32_t index, next_free;
    uint8_t kind, epoch;
};

struct xrt_object { /* first member of every object */
    struct xrt_slot *slot;
    struct xrt_device *device; /* NULL for an xclbin */
    void (*destroy)(struct xrt_object *);
};

extern _Atomic(struct xrt_slot *) xrt_chunks[XRT_CHUNKS];
extern _Atomic uint32_t xrt_epoch; /* counts forks: handles of the parent are stale in the child */

/* Give an object a slot.  Its handle, or NULL (out of memory).  The handle owns the one reference. */
void *xrt_publish(struct xrt_object *, enum xrt_kind);
/* Make the handle invalid and drop its reference.  False if another thread did so first. */
bool xrt_unpublish(struct xrt_object *);
void xrt_destroy(struct xrt_object *);
void *xrt_handle(const struct xrt_object *);
/* Table lock around fork; the child forgets all handles. */
void xrt_object_before_fork(void);
void xrt_object_after_fork(bool child);

static inline void xrt_unpin(struct xrt_object *o)
{
    if ((atomic_fetch_sub_explicit(&o->slot->word, 1, memory_order_acq_rel) & XRT_REFERENCES) == 1)
        xrt_destroy(o);
}

static inline struct xrt_object *xrt_pin(const void *handle, enum xrt_kind kind)
{
    uint64_t h = (uintptr_t)handle;
    uint32_t index = h & ((1u << XRT_SLOT_BITS) - 1);
    if (h >> 52 != ((uint64_t)kind << 8 | atomic_load_explicit(&xrt_epoch, memory_order_relaxed)))
        return NULL;
    struct xrt_slot *s = atomic_load_explicit(&xrt_chunks[index / XRT_CHUNK], memory_order_acquire);
    if (!s)
        return NULL;
    s += index % XRT_CHUNK;
    uint64_t generation = h >> 24 & XRT_GENERATIONS, word = atomic_load_explicit(&s->word, memory_order_relaxed);
    do {
        if (word >> 24 != generation || !(generation & 1))
            return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&s->word, &word, word + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    if (s->kind != kind) { /* made up: nobody was given this handle */
        xrt_unpin(s->object);
        return NULL;
    }
    return s->object;
}

/* Another reference, for one who has one. */
static inline void xrt_retain(struct xrt_object *o)
{
    atomic_fetch_add_explicit(&o->slot->word, 1, memory_order_relaxed);
}

/* A reference to an object found otherwise, perhaps on its way out (its memory must be safe meanwhile). */
static inline bool xrt_try_retain(struct xrt_object *o)
{
    uint64_t word = atomic_load_explicit(&o->slot->word, memory_order_relaxed);
    do {
        if (!(word & XRT_REFERENCES))
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&o->slot->word, &word, word + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

#endif
