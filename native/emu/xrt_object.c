/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_object.c: the table of handles. */
#include "xrt_object.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

_Atomic(struct xrt_slot *) xrt_chunks[XRT_CHUNKS];
_Atomic uint32_t xrt_epoch;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static uint32_t made; /* slots that exist */
static uint32_t first_free = NONE;

static struct xrt_slot *slot_at(uint32_t index)
{
    return atomic_load_explicit(&xrt_chunks[index / XRT_CHUNK], memory_order_relaxed) + index % XRT_CHUNK;
}

static struct xrt_slot *take_slot(void)
{
    struct xrt_slot *s = NULL;
    pthread_mutex_lock(&lock);
    if (first_free != NONE) {
        s = slot_at(first_free);
        first_free = s->next_free;
    } else if (made < XRT_CHUNK * XRT_CHUNKS) {
        bool room = made % XRT_CHUNK != 0;
        if (!room) {
            size_t bytes = XRT_CHUNK * sizeof *s;
            struct xrt_slot *chunk = aligned_alloc(_Alignof(struct xrt_slot), bytes);
            if (chunk) {
                memset(chunk, 0, bytes);
                atomic_store_explicit(&xrt_chunks[made / XRT_CHUNK], chunk, memory_order_release);
                room = true;
            }
        }
        if (room) {
            s = slot_at(made);
            s->index = made++;
        }
    }
    pthread_mutex_unlock(&lock);
    return s;
}

void *xrt_publish(struct xrt_object *o, enum xrt_kind kind)
{
    struct xrt_slot *s = take_slot();
    if (!s)
        return NULL;
    s->object = o;
    s->kind = (uint8_t)kind;
    s->epoch = (uint8_t)atomic_load(&xrt_epoch);
    o->slot = s;
    uint64_t generation = ((atomic_load_explicit(&s->word, memory_order_relaxed) >> 24) + 1) & XRT_GENERATIONS;
    atomic_store_explicit(&s->word, generation << 24 | 1, memory_order_release);
    return xrt_handle(o);
}

void *xrt_handle(const struct xrt_object *o)
{
    uint64_t generation = atomic_load_explicit(&o->slot->word, memory_order_relaxed) >> 24;
    return (void *)(uintptr_t)((uint64_t)o->slot->kind << 60 | (uint64_t)o->slot->epoch << 52 | generation << 24 |
                               o->slot->index);
}

bool xrt_unpublish(struct xrt_object *o)
{
    uint64_t word = atomic_load(&o->slot->word), closed;
    do {
        if (!(word >> 24 & 1))
            return false;
        closed = (((word >> 24) + 1) & XRT_GENERATIONS) << 24 | (word & XRT_REFERENCES);
    } while (!atomic_compare_exchange_weak(&o->slot->word, &word, closed));
    xrt_unpin(o);
    return true;
}

void xrt_destroy(struct xrt_object *o)
{
    struct xrt_slot *s = o->slot;
    int saved = errno; /* a call that failed tells why after it let go */
    o->destroy(o);
    pthread_mutex_lock(&lock);
    s->next_free = first_free;
    first_free = s->index;
    pthread_mutex_unlock(&lock);
    errno = saved;
}

void xrt_object_before_fork(void)
{
    pthread_mutex_lock(&lock);
}

void xrt_object_after_fork(bool child)
{
    if (child) /* 8 bits in a handle: 0 is never used again after the first fork */
        atomic_store(&xrt_epoch, atomic_load(&xrt_epoch) % 255 + 1);
    pthread_mutex_unlock(&lock);
}
