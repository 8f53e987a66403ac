/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xgboost_predict.c: compute kernel xgboost_predict, version 1: margins of a forest of regression trees, equal to
 * XGBoost's to the last bit: a row's sum begins with its base and takes the leaves in the order of the trees, in
 * float32.  The arguments are those of PREDICT in fpgahal.kernels.xgboost.
 */
#include "forest_store.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    X = 0x10, Y = 0x1c, NODES = 0x28, TREES = 0x34, BASE = 0x40, N_ROWS = 0x4c, N_FEATURES = 0x54, X_STRIDE = 0x5c,
    TREE_BEGIN = 0x64, TREE_END = 0x6c, N_OUT = 0x74, FLAGS = 0x7c, MODEL_ID = 0x84, END = 0x8c,
};
enum { LEAVES = 1, CONTINUE = 2 }; /* flags: Y gets leaf indices; sums begin with what Y holds */

#define PIECE (1u << 18) /* rows times trees between two looks at `cancel`: about a millisecond */
#define FEW 8u /* rows that are faster one by one */

static uint32_t word(const struct emu_call *c, unsigned offset) { return c->regs[offset / 4]; }

static uint64_t wide(const struct emu_call *c, unsigned offset)
{
    return word(c, offset) | (uint64_t)word(c, offset + 4) << 32;
}

struct job {
    struct emu_call *call;
    const struct forest *forest;
    forest_add *add;
    const float *x, *base;
    void *y;
    uint32_t stride, flags;
    _Atomic int failed;
};

/* ---- leaves ------------------------------------------------------------------------------------------ */

static uint32_t leaf_of(const struct forest_node *nodes, const float *x)
{
    for (uint32_t at = 0;;) {
        uint32_t meta = nodes[at].meta, left = meta & 0xffff;
        if (left == 0)
            return at;
        float seen = x[meta >> 16 & 0x7fff];
        at += left + !(isnan(seen) ? meta >> 31 != 0 : seen < nodes[at].value);
    }
}

static void leaves(const struct job *j, uint64_t begin, uint64_t end)
{
    const struct forest_source *s = &j->forest->source;
    for (uint64_t row = begin; row < end; row++) {
        for (uint32_t t = 0; t < s->n_trees; t++)
            ((uint32_t *)j->y)[row * s->n_trees + t] = leaf_of(s->nodes + s->trees[t].root, j->x + row * j->stride);
    }
}

/* ---- margins ----------------------------------------------------------------------------------------- */

/* Rows of the host, as columns; what is left of a multiple of FOREST_LANES is zero. */
static void spread(const struct job *j, uint64_t begin, uint32_t rows, uint32_t lanes, float *x)
{
    const struct forest *f = j->forest;
    const float *from = j->x + begin * j->stride;
    for (uint32_t c = 0; c < f->n_columns; c++) {
        const float *feature = from + f->columns[c].feature;
        float *column = x + ((size_t)c << f->shift);
        for (uint32_t r = 0; r < rows; r++) {
            float seen = feature[(size_t)r * j->stride];
            column[r] = seen;
        }
        if (f->columns[c].missing == FOREST_LEFT) {
            for (uint32_t r = 0; r < rows; r++)
                column[r] = isnan(column[r]) ? -INFINITY : column[r];
        } else if (f->columns[c].missing == FOREST_ONLY) { /* such a threshold is no number, or -inf: test against 0 */
            for (uint32_t r = 0; r < rows; r++)
                column[r] = isnan(column[r]) ? -INFINITY : INFINITY;
        }
        for (uint32_t r = rows; r < lanes; r++)
            column[r] = 0;
    }
}

/* One block: up to `width` rows. */
static void block(const struct job *j, uint64_t begin, uint32_t rows, float *x, float *sums)
{
    const struct forest *f = j->forest;
    uint32_t lanes = (rows + FOREST_LANES - 1) & ~(FOREST_LANES - 1), trees = f->source.n_trees;
    float *y = (float *)j->y + begin * f->n_out;
    spread(j, begin, rows, rows < FEW ? rows : lanes, x);
    for (uint32_t o = 0; o < f->n_out; o++) {
        for (uint32_t r = 0; r < rows; r++)
            sums[(o << f->shift) + r] = j->flags & CONTINUE ? y[(size_t)r * f->n_out + o] : j->base[o];
    }
    for (uint32_t first = 0, last; first < trees; first = last) {
        last = trees - first > PIECE / lanes ? first + PIECE / lanes : trees;
        if (rows < FEW) {
            for (uint32_t r = 0; r < rows; r++)
                forest_add_row(f, first, last, x + r, sums + r);
        } else {
            j->add(f, first, last, x, lanes, sums);
        }
        if (atomic_load_explicit(j->call->cancel, memory_order_relaxed))
            return;
    }
    for (uint32_t o = 0; o < f->n_out; o++) {
        for (uint32_t r = 0; r < rows; r++)
            y[(size_t)r * f->n_out + o] = sums[(o << f->shift) + r];
    }
}

static void rows(void *context, uint64_t begin, uint64_t end)
{
    struct job *j = context;
    const struct forest *f = j->forest;
    if (j->flags & LEAVES) {
        leaves(j, begin, end);
        return;
    }
    size_t columns = (size_t)f->n_columns << f->shift, sums = (size_t)f->n_out << f->shift;
    float *room = aligned_alloc(64, (columns + sums) * sizeof *room);
    if (!room) {
        atomic_store(&j->failed, ENOMEM);
        return;
    }
    memset(room + columns, 0, sums * sizeof *room);
    for (; begin < end; begin += f->width)
        block(j, begin, end - begin < f->width ? (uint32_t)(end - begin) : f->width, room, room + columns);
    free(room);
}

/* ---- the forest -------------------------------------------------------------------------------------- */

static int fetch(struct emu_call *c, uint32_t first, uint32_t last, struct forest_source *source)
{
    uint64_t size = (uint64_t)(last - first) * sizeof *source->trees, most = 0;
    *source = (struct forest_source){ .n_trees = last - first };
    const struct forest_tree *trees = size ? c->memory(c, wide(c, TREES) + first * sizeof *trees, size) : NULL;
    if (!trees && size)
        return EFAULT;
    source->trees = malloc(size + 1);
    if (!source->trees)
        return ENOMEM;
    if (size)
        memcpy(source->trees, trees, size);
    for (uint32_t t = 0; t < source->n_trees; t++) {
        uint64_t end = (uint64_t)source->trees[t].root + source->trees[t].n_nodes;
        most = end > most ? end : most;
    }
    if (most > UINT32_MAX / 2)
        return E2BIG;
    const void *nodes = most ? c->memory(c, wide(c, NODES), most * sizeof *source->nodes) : NULL;
    if (!nodes && most)
        return EFAULT;
    source->nodes = malloc(most * sizeof *source->nodes + 1);
    if (!source->nodes)
        return ENOMEM;
    if (most)
        memcpy(source->nodes, nodes, most * sizeof *source->nodes);
    return 0;
}

/* The forest of this run: the one that was kept, or a new one. */
static int forest_of(struct emu_call *c, struct forest_shared **out)
{
    struct forest_key key = {
        c->board, c->board->programmed, wide(c, MODEL_ID), wide(c, NODES), wide(c, TREES), word(c, TREE_BEGIN),
        word(c, TREE_END), word(c, N_FEATURES), word(c, N_OUT),
    };
    if (key.model_id && (*out = forest_find(&key)))
        return 0;
    struct forest_source source;
    struct forest_shared *made = calloc(1, sizeof *made);
    if (!made)
        return ENOMEM;
    atomic_store(&made->users, 1);
    int rc = fetch(c, key.first, key.last, &source);
    if (rc == 0) {
        rc = forest_load(&made->forest, source, key.n_features, key.n_out, c->cancel);
    } else {
        made->forest.source = source;
    }
    if (rc) {
        forest_release(made);
        return rc;
    }
    if (key.model_id)
        forest_keep(&key, made);
    *out = made;
    return 0;
}

/* ---- the kernel -------------------------------------------------------------------------------------- */

static uint64_t outputs(const struct emu_call *c)
{
    return word(c, FLAGS) & LEAVES ? (uint64_t)word(c, TREE_END) - word(c, TREE_BEGIN) : word(c, N_OUT);
}

/* Rows come and go; the forest stays on the board. */
static void traffic(const struct emu_call *c, uint64_t *up, uint64_t *down)
{
    *down = 4 * outputs(c) * word(c, N_ROWS);
    *up = (uint64_t)word(c, N_ROWS) * word(c, N_FEATURES) * 4 + (word(c, FLAGS) & CONTINUE ? *down : 0);
}

/* A row costs what it brings, and for each tree about as much time as another byte. */
static uint64_t bytes(const struct emu_call *c)
{
    if (c->reg_bytes < END)
        return 0;
    uint64_t out = outputs(c), trees = (uint64_t)word(c, TREE_END) - word(c, TREE_BEGIN);
    uint64_t row = ((uint64_t)word(c, N_FEATURES) + out) * 4 + trees, all;
    return __builtin_mul_overflow(row, word(c, N_ROWS), &all) ? UINT64_MAX : all;
}

static int run(struct emu_call *c, struct job *j, const struct forest_shared *shared)
{
    const struct forest *f = &shared->forest;
    uint64_t n = word(c, N_ROWS), x_floats = (n - 1) * j->stride + f->n_features, y_words;
    uint64_t row = j->flags & LEAVES ? f->source.n_trees : f->n_out;
    if (x_floats > UINT64_MAX / 8 || __builtin_mul_overflow(n, row * 4, &y_words))
        return EINVAL;
    y_words /= 4;
    j->forest = f;
    j->x = c->memory(c, wide(c, X), x_floats * 4);
    j->y = j->x && y_words ? c->memory(c, wide(c, Y), y_words * 4) : NULL;
    j->base = j->y && row ? c->memory(c, wide(c, BASE), (uint64_t)f->n_out * 4) : NULL;
    if (y_words == 0)
        return 0;
    if (!j->x || !j->y || !j->base)
        return EFAULT;
    if (((uintptr_t)j->x | (uintptr_t)j->y | (uintptr_t)j->base) % 4)
        return EINVAL;
    uint32_t trees = f->source.n_trees, grain = f->width;
    while ((uint64_t)grain * (trees + 1) < PIECE && grain < 1u << 14)
        grain *= 2;
    int rc = emu_team(c, n, grain, rows, j);
    return rc ? rc : atomic_load(&j->failed);
}

static int execute(struct emu_call *c)
{
    if (c->reg_bytes < END)
        return EINVAL; /* the image describes another one */
    struct job j = { .call = c, .add = forest_path(), .stride = word(c, X_STRIDE), .flags = word(c, FLAGS) };
    if (word(c, N_ROWS) == 0)
        return 0;
    if (!j.add)
        return ENOTSUP;
    if (word(c, TREE_BEGIN) > word(c, TREE_END) || word(c, N_OUT) - 1 > UINT16_MAX || j.stride < word(c, N_FEATURES)
        || word(c, N_FEATURES) == 0 || j.flags & ~(uint32_t)(LEAVES | CONTINUE))
        return EINVAL;
    struct forest_shared *forest;
    int rc = forest_of(c, &forest);
    if (rc)
        return rc;
    rc = run(c, &j, forest);
    forest_release(forest);
    return rc;
}

const struct emu_model emu_model_xgboost_predict = {
    .name = "xgboost_predict",
    .afu_id = { 0xc3, 0xee, 0xc1, 0xd8, 0x20, 0x84, 0x57, 0xbd, 0xbc, 0xee, 0xe0, 0xab, 0x17, 0x3e, 0x31, 0x0e },
    .kernel = "xgboost_predict",
    .bytes = bytes,
    .traffic = traffic,
    .execute = execute,
};
