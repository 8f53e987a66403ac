/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_pages.c: the memory behind buffers: zeroed, page aligned, taken from the system only where touched.
 * A few small pieces are kept for the next buffer of the same size, because programs that allocate a
 * buffer a call would otherwise measure mmap.
 */
#define _GNU_SOURCE 1
#include "xrt_private.h"

#include <string.h>
#include <sys/mman.h>

#define KEEP_BYTES (64u << 10) /* larger ones go back: clearing them would cost more than mapping them anew */

#define HUGE_BYTES (4u << 20)

void *xrt_pages_take(struct xrt_pages *p, size_t size)
{
    void *at = NULL;
    if (size <= KEEP_BYTES) {
        pthread_mutex_lock(&p->lock);
        for (unsigned i = 0; i < p->count && !at; i++) {
            if (p->kept[i].size == size) {
                at = p->kept[i].at;
                p->kept[i] = p->kept[--p->count];
            }
        }
        pthread_mutex_unlock(&p->lock);
    }
    if (at)
        return memset(at, 0, size);
    at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (size >= HUGE_BYTES)
        madvise(at, size, MADV_HUGEPAGE); /* as NumPy does: else a large copy is the slower for 4 KiB pages */
    return at;
}

void xrt_pages_give(struct xrt_pages *p, void *at, size_t size)
{
    bool kept = false;
    if (size <= KEEP_BYTES) {
        pthread_mutex_lock(&p->lock);
        kept = p->count < XRT_KEPT_PAGES;
        if (kept)
            p->kept[p->count++] = (struct xrt_kept){ at, size };
        pthread_mutex_unlock(&p->lock);
    }
    if (!kept)
        munmap(at, size);
}

void xrt_pages_free(struct xrt_pages *p)
{
    for (unsigned i = 0; i < p->count; i++)
        munmap(p->kept[i].at, p->kept[i].size);
    pthread_mutex_destroy(&p->lock);
}
