/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_memory.c: which device addresses are in use.  First fit in each bank; a bank remembers below which
 * address it is full, so that allocating in a row does not search.
 */
#include "xrt_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int xrt_memory_load(struct xrt_memory *m, const struct xclbin_memories *topology)
{
    struct xrt_bank *banks = calloc((size_t)topology->count + 1, sizeof *banks);
    if (!banks)
        return ENOMEM;
    for (uint32_t i = 0; i < topology->count; i++) {
        const struct xclbin_memory *t = &topology->at[i];
        banks[i].usable = t->used && t->size && xclbin_is_bank(t);
        banks[i].base = t->base ? t->base : EMU_PAGE; /* 0 is no address */
        banks[i].end = t->base + t->size;
        banks[i].full_below = banks[i].base;
    }
    pthread_mutex_lock(&m->lock);
    free(m->banks);
    m->banks = banks;
    m->nbanks = topology->count;
    m->loaded = true;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

/* First block that ends after `address`. */
static size_t block_after(const struct xrt_memory *m, uint64_t address)
{
    size_t low = 0, high = m->nblocks;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (m->blocks[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool make_room(struct xrt_memory *m)
{
    if (m->nblocks < m->room)
        return true;
    size_t room = m->room ? 2 * m->room : 64;
    struct xrt_block *grown = realloc(m->blocks, room * sizeof *grown);
    if (!grown)
        return false;
    m->blocks = grown;
    m->room = room;
    return true;
}

static int take(struct xrt_memory *m, struct xrt_bank *bank, uint64_t size, struct xrt_buffer *owner)
{
    if (!make_room(m))
        return ENOMEM;
    uint64_t at = bank->full_below;
    bool dense = true; /* no gap seen so far */
    for (size_t i = block_after(m, at);; i++) {
        uint64_t limit = i < m->nblocks && m->blocks[i].base < bank->end ? m->blocks[i].base : bank->end;
        if (limit > at && limit - at >= size) {
            memmove(&m->blocks[i + 1], &m->blocks[i], (m->nblocks - i) * sizeof *m->blocks);
            m->blocks[i] = (struct xrt_block){ at, at + size, owner };
            m->nblocks++;
            if (dense)
                bank->full_below = at + size;
            owner->address = at;
            return 0;
        }
        if (limit == bank->end)
            return ENOMEM;
        dense = dense && limit <= at;
        at = m->blocks[i].end;
        if (dense)
            bank->full_below = at;
    }
}

int xrt_memory_take(struct xrt_memory *m, uint32_t bank, uint64_t size, struct xrt_buffer *owner)
{
    if (size > UINT64_MAX - EMU_PAGE)
        return ENOMEM;
    size = (size + EMU_PAGE - 1) & ~(uint64_t)(EMU_PAGE - 1);
    pthread_mutex_lock(&m->lock);
    int rc = bank < m->nbanks && m->banks[bank].usable ? take(m, &m->banks[bank], size, owner) : EINVAL;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

void xrt_memory_give(struct xrt_memory *m, uint64_t address)
{
    pthread_mutex_lock(&m->lock);
    size_t i = block_after(m, address);
    if (i < m->nblocks && m->blocks[i].base == address) {
        m->nblocks--;
        memmove(&m->blocks[i], &m->blocks[i + 1], (m->nblocks - i) * sizeof *m->blocks);
        for (uint32_t b = 0; b < m->nbanks; b++) /* banks may overlap: groups do */
            if (address >= m->banks[b].base && address < m->banks[b].full_below)
                m->banks[b].full_below = address;
    }
    pthread_mutex_unlock(&m->lock);
}

struct xrt_buffer *xrt_memory_find(struct xrt_memory *m, uint64_t address, uint64_t size)
{
    struct xrt_buffer *found = NULL;
    pthread_mutex_lock(&m->lock);
    size_t i = block_after(m, address);
    if (i < m->nblocks && m->blocks[i].base <= address && size <= m->blocks[i].end - address) {
        struct xrt_buffer *b = m->blocks[i].owner;
        /* A buffer leaves this table before it is freed, so it can be looked at here. */
        uint64_t offset = address - b->address;
        if (offset <= b->size && size <= b->size - offset && xrt_try_retain(&b->object))
            found = b;
    }
    pthread_mutex_unlock(&m->lock);
    return found;
}

void xrt_memory_free(struct xrt_memory *m)
{
    free(m->banks);
    free(m->blocks);
    pthread_mutex_destroy(&m->lock);
}
