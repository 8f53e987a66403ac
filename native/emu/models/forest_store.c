/* SPDX-License-Identifier: Apache-2.0 */
/* forest_store.c: the forests that a board keeps from run to run, as a card keeps trees in on-chip memory. */
#include "forest_store.h"

#include <pthread.h>
#include <stdlib.h>

#define KEPT 16 /* forests of one process: the longest unused one goes */

struct entry {
    struct forest_key key;
    struct forest_shared *forest;
    uint64_t used;
};

static struct {
    pthread_mutex_t lock;
    struct entry entries[KEPT];
    uint64_t clock;
} store = { .lock = PTHREAD_MUTEX_INITIALIZER };
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&store.lock); }
static void after_fork(void) { pthread_mutex_unlock(&store.lock); }
static void watch_fork(void) { pthread_atfork(before_fork, after_fork, after_fork); }

static bool same(const struct forest_key *a, const struct forest_key *b)
{
    return a->board == b->board && a->programmed == b->programmed && a->model_id == b->model_id && a->nodes == b->nodes
           && a->trees == b->trees && a->first == b->first && a->last == b->last && a->n_features == b->n_features
           && a->n_out == b->n_out;
}

struct forest_shared *forest_find(const struct forest_key *key)
{
    struct forest_shared *found = NULL;
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&store.lock);
    for (struct entry *e = store.entries; e < store.entries + KEPT; e++) {
        if (e->forest && same(&e->key, key)) {
            e->used = ++store.clock;
            found = e->forest;
            atomic_fetch_add(&found->users, 1);
            break;
        }
    }
    pthread_mutex_unlock(&store.lock);
    return found;
}

void forest_keep(const struct forest_key *key, struct forest_shared *forest)
{
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&store.lock);
    struct entry *oldest = store.entries;
    for (struct entry *e = store.entries; e < store.entries + KEPT; e++) {
        /* another model at that address: what was kept of it is gone */
        if (e->forest && e->key.board == key->board && e->key.nodes == key->nodes && e->key.model_id != key->model_id) {
            forest_release(e->forest);
            e->forest = NULL;
        }
        if (!e->forest || (oldest->forest && e->used < oldest->used))
            oldest = e;
    }
    if (oldest->forest)
        forest_release(oldest->forest);
    atomic_fetch_add(&forest->users, 1);
    *oldest = (struct entry){ *key, forest, ++store.clock };
    pthread_mutex_unlock(&store.lock);
}

void forest_release(struct forest_shared *forest)
{
    if (atomic_fetch_sub(&forest->users, 1) == 1) {
        forest_free(&forest->forest);
        free(forest);
    }
}
