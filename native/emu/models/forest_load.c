/* SPDX-License-Identifier: Apache-2.0 */
/* forest_load.c: check a forest that a host wrote, and lay it out for speed (see forest.h). */
#include "forest.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_FLOATS 4096u /* columns of one block: half of a first-level cache */
#define MOST_SHIFT 7u /* 128 rows */
#define LEAST_SHIFT 5u /* 32 rows: FOREST_LANES */
#define MOST_FEATURES 32768u /* what 15 bits can name */
#define NOWHERE UINT32_MAX
#define LOOK 64u /* trees between two looks at `cancel` */

static uint32_t left_of(const struct forest_node *n) { return n->meta & 0xffff; }
static uint32_t feature_of(const struct forest_node *n) { return n->meta >> 16 & 0x7fff; }

static uint32_t missing_of(const struct forest_node *n)
{
    if (!(n->meta >> 31))
        return FOREST_RIGHT;
    return n->value > -INFINITY ? FOREST_LEFT : FOREST_ONLY; /* -inf or NaN: nothing is less */
}

/* Where only a missing value goes left, the column says all: -inf or +inf. */
static float threshold_of(const struct forest_node *n)
{
    return missing_of(n) == FOREST_ONLY ? 0 : n->value;
}

struct loading {
    struct forest *f;
    uint32_t *column_of; /* by feature and kind of missing */
    uint32_t *level; /* by node of the tree at hand */
    uint32_t room;
};

static uint32_t *column_of(struct loading *l, const struct forest_node *n)
{
    return &l->column_of[feature_of(n) * FOREST_KINDS + missing_of(n)];
}

/* Children lie behind their parents, so one pass in order sees every way through the tree. */
static int check_tree(struct loading *l, const struct forest_tree *t, uint32_t *depth)
{
    struct forest *f = l->f;
    const struct forest_node *nodes = f->source.nodes + t->root;
    if (t->n_nodes == 0 || t->out >= f->n_out || t->reserved)
        return EINVAL;
    if (t->n_nodes > l->room) {
        uint32_t *more = realloc(l->level, (size_t)t->n_nodes * sizeof *more);
        if (!more)
            return ENOMEM;
        l->level = more;
        l->room = t->n_nodes;
    }
    memset(l->level, 0xff, (size_t)t->n_nodes * sizeof *l->level);
    l->level[0] = *depth = 0;
    for (uint32_t i = 0; i < t->n_nodes; i++) {
        uint32_t off = left_of(&nodes[i]), left = i + off;
        if (l->level[i] == NOWHERE || off == 0)
            continue;
        if (feature_of(&nodes[i]) >= f->n_features || left + 1 >= t->n_nodes || l->level[left] != NOWHERE
            || l->level[left + 1] != NOWHERE)
            return EINVAL;
        l->level[left] = l->level[left + 1] = l->level[i] + 1;
        if (l->level[left] > *depth)
            *depth = l->level[left];
        uint32_t *column = column_of(l, &nodes[i]);
        if (*column == NOWHERE) {
            f->columns[f->n_columns] = (struct forest_column){ feature_of(&nodes[i]), missing_of(&nodes[i]) };
            *column = f->n_columns++;
        }
    }
    return *depth > t->depth ? EINVAL : 0;
}

static uint32_t levels_of(uint32_t depth)
{
    return depth < FOREST_LEAST ? FOREST_LEAST : depth <= FOREST_WHOLE ? depth : FOREST_TOP;
}

static void lay_out(struct loading *l, const struct forest_tree *from, const struct forest_top *t, uint32_t walk)
{
    struct forest *f = l->f;
    const struct forest_node *nodes = f->source.nodes + from->root;
    uint32_t size = 1u << t->levels, place[2u << FOREST_WHOLE]; /* which node stands where in the heap */
    union forest_word *thresholds = f->tops + t->at, *columns = thresholds + size, *ends = columns + size;
    thresholds[0].value = 0;
    columns[0].index = 0;
    place[1] = 0;
    for (uint32_t h = 1; h < size; h++) {
        const struct forest_node *n = &nodes[place[h]];
        uint32_t left = left_of(n);
        thresholds[h].value = left ? threshold_of(n) : 0;
        columns[h].index = left ? (int32_t)(*column_of(l, n) << f->shift) : 0;
        place[2 * h] = place[h] + left;
        place[2 * h + 1] = place[h] + (left ? left + 1 : 0);
    }
    for (uint32_t h = 0; h < size; h++) {
        if (t->deep)
            ends[h].index = (int32_t)(walk + place[size + h]);
        else
            ends[h].value = nodes[place[size + h]].value;
    }
    for (uint32_t i = 0; t->deep && i < from->n_nodes; i++) {
        uint32_t left = left_of(&nodes[i]);
        bool known = left && feature_of(&nodes[i]) < f->n_features; /* else nothing leads to it */
        uint32_t column = known ? *column_of(l, &nodes[i]) : NOWHERE;
        f->walk[walk + i] = column == NOWHERE
                                ? (struct forest_walk){ nodes[i].value, 0 }
                                : (struct forest_walk){ threshold_of(&nodes[i]), left | column << 16 };
    }
}

static int load(struct loading *l, _Atomic int *cancel)
{
    struct forest *f = l->f;
    uint64_t tops = 0, walk = 0;
    for (uint32_t i = 0; i < f->source.n_trees; i++) {
        const struct forest_tree *from = &f->source.trees[i];
        uint32_t depth;
        int rc = check_tree(l, from, &depth);
        if (rc)
            return rc;
        struct forest_top t = { (uint32_t)tops, (uint16_t)levels_of(depth), from->out, depth > FOREST_WHOLE };
        f->trees[i] = t;
        tops += ((3u << t.levels) + 15) & ~15u;
        walk += t.deep ? from->n_nodes : 0;
        if (i % LOOK == 0 && atomic_load_explicit(cancel, memory_order_relaxed))
            return ECANCELED;
    }
    if (tops > INT32_MAX || walk > INT32_MAX || (walk && f->n_columns > 1u << 16))
        return E2BIG;
    f->shift = MOST_SHIFT;
    while (f->shift > LEAST_SHIFT && f->n_columns << f->shift > BLOCK_FLOATS)
        f->shift--;
    f->width = 1u << f->shift;
    f->tops = aligned_alloc(64, (tops + 16) * sizeof *f->tops);
    f->walk = malloc((walk + 1) * sizeof *f->walk);
    if (!f->tops || !f->walk)
        return ENOMEM;
    walk = 0;
    for (uint32_t i = 0; i < f->source.n_trees; i++) {
        const struct forest_tree *from = &f->source.trees[i];
        lay_out(l, from, &f->trees[i], (uint32_t)walk);
        walk += f->trees[i].deep ? from->n_nodes : 0;
        if (i % LOOK == 0 && atomic_load_explicit(cancel, memory_order_relaxed))
            return ECANCELED;
    }
    return 0;
}

int forest_load(struct forest *f, struct forest_source source, uint32_t n_features, uint32_t n_out, _Atomic int *cancel)
{
    *f = (struct forest){ .source = source, .n_features = n_features, .n_out = n_out };
    if (n_features > MOST_FEATURES)
        return EINVAL;
    size_t columns = (size_t)n_features * FOREST_KINDS + 1;
    f->columns = malloc(columns * sizeof *f->columns);
    f->trees = malloc(((size_t)source.n_trees + 1) * sizeof *f->trees);
    struct loading l = { .f = f, .column_of = malloc(columns * sizeof *l.column_of) };
    int rc = ENOMEM;
    if (f->columns && f->trees && l.column_of) {
        memset(l.column_of, 0xff, columns * sizeof *l.column_of);
        rc = load(&l, cancel);
    }
    free(l.column_of);
    free(l.level);
    return rc;
}

void forest_free(struct forest *f)
{
    free(f->source.nodes);
    free(f->source.trees);
    free(f->columns);
    free(f->trees);
    free(f->tops);
    free(f->walk);
}
