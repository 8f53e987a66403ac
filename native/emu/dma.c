/* SPDX-License-Identifier: Apache-2.0 */
/* dma.c: what an AFU reaches outside itself: host memory through the port's map, and events. */
#define _GNU_SOURCE 1
#include "port.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Addresses of the AFU's side.  They are far from what the host uses for pointers, so that a pointer
 * given to an AFU by mistake is an error and not a copy.  A gap follows each mapping, so that running
 * over its end never lands in the next one. */
#define FIRST_IOVA 0x10000000000ull /* 1 TiB */
#define LAST_IOVA 0x400000000000ull /* 64 TiB */
#define GAP (2ull * EMU_PAGE)

/* ---- the map: sorted by iova, so that it can be searched by halving ----------------------------------- */

/* Index of the first mapping that begins after `iova`. */
static size_t after(const struct emu_port *p, uint64_t iova)
{
    size_t low = 0, high = p->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (p->mappings[middle].iova <= iova)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The place for a new mapping, and its address.  New ones go to the end; only when the addresses have
 * all been used once is a hole looked for. */
static bool place(struct emu_port *p, uint64_t size, size_t *index, uint64_t *iova)
{
    uint64_t need = size + GAP;
    if (p->count == 0 || p->next_iova < FIRST_IOVA)
        p->next_iova = FIRST_IOVA;
    if (need <= LAST_IOVA - p->next_iova) {
        *index = p->count;
        *iova = p->next_iova;
        p->next_iova += need;
        return true;
    }
    uint64_t from = FIRST_IOVA;
    for (size_t i = 0; i < p->count; i++) {
        if (p->mappings[i].iova - from >= need) {
            *index = i;
            *iova = from;
            return true;
        }
        from = p->mappings[i].iova + p->mappings[i].size + GAP;
    }
    return false;
}

static void lock(struct emu_port *p)
{
    atomic_fetch_add(&p->dma_wanted, 1);
    pthread_mutex_lock(&p->dma);
    atomic_fetch_sub(&p->dma_wanted, 1);
}

int emu_port_map_as(struct emu_port *p, struct emu_mapping *m)
{
    size_t index;
    int rc = 0;
    if (!m->host || m->size == 0 || m->size % EMU_PAGE || m->size > LAST_IOVA - FIRST_IOVA - GAP)
        return EINVAL;
    lock(p);
    if (p->count == p->room) {
        size_t room = p->room ? 2 * p->room : 16;
        struct emu_mapping *more = realloc(p->mappings, room * sizeof *more);
        if (more) {
            p->mappings = more;
            p->room = room;
        } else {
            rc = ENOMEM;
        }
    }
    if (rc == 0 && !place(p, m->size, &index, &m->iova))
        rc = ENOMEM;
    if (rc == 0) {
        memmove(p->mappings + index + 1, p->mappings + index, (p->count - index) * sizeof *m);
        p->mappings[index] = *m;
        p->count++;
    }
    pthread_mutex_unlock(&p->dma);
    return rc;
}

static struct emu_mapping *find(struct emu_port *p, uint64_t iova, uint64_t owner)
{
    size_t i = after(p, iova);
    struct emu_mapping *m = i ? &p->mappings[i - 1] : NULL;
    return m && m->iova == iova && m->owner == owner ? m : NULL;
}

bool emu_port_find(struct emu_port *p, uint64_t iova, uint64_t owner, struct emu_mapping *out)
{
    lock(p);
    struct emu_mapping *m = find(p, iova, owner);
    if (m)
        *out = *m;
    pthread_mutex_unlock(&p->dma);
    return m != NULL;
}

int emu_port_take(struct emu_port *p, uint64_t iova, uint64_t owner, struct emu_mapping *out)
{
    struct emu_mapping *m;
    lock(p);
    while ((m = find(p, iova, owner)) && m->pins)
        pthread_cond_wait(&p->unpinned, &p->dma);
    if (m) {
        *out = *m;
        p->count--;
        memmove(m, m + 1, (p->count - (size_t)(m - p->mappings)) * sizeof *m);
    }
    pthread_mutex_unlock(&p->dma);
    return m ? 0 : ENOENT;
}

int emu_port_map(struct emu_port *p, void *host, uint64_t size, uint64_t *iova)
{
    struct emu_mapping m = { .host = host, .size = size };
    int rc = emu_port_map_as(p, &m);
    *iova = m.iova;
    return rc;
}

int emu_port_unmap(struct emu_port *p, uint64_t iova)
{
    struct emu_mapping m;
    return emu_port_take(p, iova, 0, &m);
}

/* A job that takes the lock again and again would starve a host that waits for it: so it lets it in. */
void emu_port_dma_begin(struct emu_port *p)
{
    while (atomic_load(&p->dma_wanted))
        sched_yield();
    pthread_mutex_lock(&p->dma);
}

void emu_port_dma_end(struct emu_port *p) { pthread_mutex_unlock(&p->dma); }

static struct emu_mapping *covering(struct emu_port *p, uint64_t iova, uint64_t size)
{
    size_t i = after(p, iova);
    struct emu_mapping *m = i ? &p->mappings[i - 1] : NULL;
    return !m || size > m->size || iova - m->iova > m->size - size ? NULL : m;
}

void *emu_port_dma_at(struct emu_port *p, uint64_t iova, uint64_t size, bool write)
{
    const struct emu_mapping *m = covering(p, iova, size);
    return !m || (write && m->readonly) ? NULL : m->host + (iova - m->iova);
}

bool emu_port_dma_pin(struct emu_port *p, uint64_t iova, uint64_t size, struct emu_mapping *out)
{
    emu_port_dma_begin(p);
    struct emu_mapping *m = covering(p, iova, size);
    if (m) {
        m->pins++;
        *out = *m;
    }
    emu_port_dma_end(p);
    return m != NULL;
}

void emu_port_dma_unpin(struct emu_port *p, uint64_t iova_of_mapping)
{
    pthread_mutex_lock(&p->dma);
    struct emu_mapping *m = covering(p, iova_of_mapping, 0); /* it is there: nobody takes a pinned one away */
    if (m && --m->pins == 0)
        pthread_cond_broadcast(&p->unpinned);
    pthread_mutex_unlock(&p->dma);
}

void *emu_port_dma(struct emu_port *p, uint64_t iova, uint64_t size)
{
    emu_port_dma_begin(p);
    void *at = emu_port_dma_at(p, iova, size, false);
    emu_port_dma_end(p);
    return at;
}

/* ---- events ------------------------------------------------------------------------------------------- */

static void ring(int fd)
{
    uint64_t one = 1;
    if (fd >= 0 && write(fd, &one, sizeof one) != (ssize_t)sizeof one)
        return; /* the counter is full: whoever waits will wake anyway */
}

int emu_port_set_irq(struct emu_port *p, uint32_t vector, int eventfd)
{
    if (vector >= EMU_VECTORS)
        return EINVAL;
    pthread_mutex_lock(&p->irq);
    p->eventfd[vector] = eventfd;
    pthread_mutex_unlock(&p->irq);
    return 0;
}

void emu_port_set_error_event(struct emu_port *p, int eventfd)
{
    pthread_mutex_lock(&p->irq);
    p->error_eventfd = eventfd;
    pthread_mutex_unlock(&p->irq);
}

static void forget(struct emu_port *p, void *context)
{
    int fd = *(int *)context;
    pthread_mutex_lock(&p->irq);
    for (int i = 0; i < EMU_VECTORS; i++) {
        if (p->eventfd[i] == fd)
            p->eventfd[i] = -1;
    }
    if (p->error_eventfd == fd)
        p->error_eventfd = -1;
    pthread_mutex_unlock(&p->irq);
}

void emu_port_forget_event(int eventfd) { emu_port_each(forget, &eventfd); }

void emu_port_irq(struct emu_port *p, uint32_t vector)
{
    pthread_mutex_lock(&p->irq);
    if (vector < EMU_VECTORS)
        ring(p->eventfd[vector]);
    pthread_mutex_unlock(&p->irq);
}

void emu_port_raise(struct emu_port *p, uint64_t errors)
{
    emu_lock(p->board);
    p->board->errors |= errors;
    emu_unlock(p->board);
    pthread_mutex_lock(&p->irq);
    ring(p->error_eventfd);
    pthread_mutex_unlock(&p->irq);
}
