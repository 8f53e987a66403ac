/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xgboost_exact.c: compute kernel xgboost_exact: the best split of every node of one tree level, by exact greedy
 * search, with the very roundings of xgboost's tree_method=exact on one thread.
 *
 * Sums are float64, in the order of the column; a candidate's loss is float32.  flags bit 0 is the gain variant: 0 as
 * xgboost <= 3.3 computes it (threshold(g)^2 / (h + lambda), both rounded to float32 first), 1 as >= 3.4 does (in
 * float64, from the float32 weight).
 */
#include "../../include/board.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_ROWS = 0x10, N_FEATURES = 0x18, N_NODES = 0x20, FLAGS = 0x28, ENTRIES = 0x30, COL_PTR = 0x3c, DIRS = 0x48,
       ROWS = 0x54, NODE_STATS = 0x60, ROOT_GAIN = 0x6c, BEST = 0x78, MIN_CHILD_WEIGHT = 0x84, MAX_DELTA_STEP = 0x8c,
       REG_ALPHA = 0x94, REG_LAMBDA = 0x9c, END = 0xa0 };
enum { MAX_NODES = 4096, FORWARD = 1, BACKWARD = 2, GAIN_FLOAT64 = 1 };
#define DEFAULT_LEFT 0x80000000u
#define EPSILON 1e-6f /* xgboost's kRtEps: how far a split of "all on one side" lies beyond the last value */
#define PIECE (1 << 14) /* entries between two looks at `cancel` */
#define AHEAD 24 /* rows are fetched this many entries before they are used */

typedef double pair __attribute__((vector_size(16))); /* gradient, hessian */
typedef float pairf __attribute__((vector_size(8)));

struct entry {
    uint32_t row;
    float value;
};
struct row {
    float g, h;
    int32_t node; /* -1: not in this level */
    uint32_t reserved;
};
struct best {
    float loss;
    uint32_t index; /* feature | DEFAULT_LEFT */
    float value;
    uint32_t reserved;
    double left[2], right[2];
};
struct node {
    pair sum; /* of the entries passed */
    pair total;
    float last; /* value passed before */
    float root_gain;
    float loss; /* of its best split */
};

struct level {
    const struct row *rows;
    struct node *nodes;
    struct best *best;
    _Atomic int *cancel;
    uint32_t n_rows, n_nodes, flags;
    float min_child_weight, max_delta_step, alpha, lambda;
};

/* ---- gain ------------------------------------------------------------------------------------------ */

static double threshold(const struct level *l, double g)
{
    return g > l->alpha ? g - l->alpha : g < -l->alpha ? g + l->alpha : 0.0;
}

static float weight(const struct level *l, double g, double h)
{
    if (h <= 0 || (!(l->flags & GAIN_FLOAT64) && h < l->min_child_weight))
        return 0;
    double w = -threshold(l, g) / (h + l->lambda);
    if (l->max_delta_step != 0 && fabs(w) > l->max_delta_step)
        w = copysign(l->max_delta_step, w);
    return (float)w;
}

static float gain(const struct level *l, double g, double h)
{
    if (h <= 0)
        return 0;
    if (l->flags & GAIN_FLOAT64) {
        float w = weight(l, g, h);
        return (float)-(2.0 * g * w + (h + l->lambda) * (w * w) + 2.0 * l->alpha * fabsf(w));
    }
    if (l->max_delta_step == 0) {
        double t = threshold(l, g);
        return (float)(t * t) / (float)(h + l->lambda);
    }
    float w = weight(l, g, h), g32 = (float)g, h32 = (float)h;
    return -(2.0f * g32 * w + (h32 + l->lambda) * (w * w));
}

/* Both sides reach min_child_weight.  `plain`: variant 0 without alpha and max_delta_step, and no hessian is 0. */
static inline float loss_of(const struct level *l, bool plain, pair sum, pair rest, float root_gain)
{
    if (plain) {
        pair g = { sum[0], rest[0] }, h = { sum[1], rest[1] };
        pairf q = __builtin_convertvector(g * g, pairf) / __builtin_convertvector(h + (double)l->lambda, pairf);
        return q[0] + q[1] - root_gain;
    }
    if ((l->flags & GAIN_FLOAT64) && (sum[1] <= 0 || rest[1] <= 0))
        return -INFINITY;
    return gain(l, sum[0], sum[1]) + gain(l, rest[0], rest[1]) - root_gain;
}

/* ---- one pass over a column ------------------------------------------------------------------------ */

/* A better split.  Features come in ascending order, so a tie keeps the earlier one, as xgboost's rule wants. */
static __attribute__((noinline)) void take(const struct level *l, struct node *n, uint32_t index, float loss,
                                           float value, pair sum, pair rest)
{
    if (isinf(loss))
        return;
    bool left = index & DEFAULT_LEFT; /* backward: what has been passed is the right side */
    n->loss = loss;
    l->best[n - l->nodes] = (struct best){ loss, index, value, 0,
                                           { left ? rest[0] : sum[0], left ? rest[1] : sum[1] },
                                           { left ? sum[0] : rest[0], left ? sum[1] : rest[1] } };
}

static inline __attribute__((always_inline)) int pass(const struct level *l, const struct entry *entries,
                                                      uint64_t count, uint32_t index, int step, bool plain)
{
    const float least = l->min_child_weight;
    for (uint32_t i = 0; i < l->n_nodes; i++)
        l->nodes[i].sum = (pair){ 0, 0 };
    for (uint64_t done = 0; done < count;) {
        if (atomic_load_explicit(l->cancel, memory_order_relaxed))
            return ECANCELED;
        uint64_t end = count - done > PIECE ? done + PIECE : count;
        for (; done < end; done++, entries += step) {
            struct entry e = *entries;
            if (e.row >= l->n_rows)
                return EINVAL;
            if (count - done > AHEAD)
                __builtin_prefetch((const char *)l->rows + (uint64_t)entries[AHEAD * step].row * sizeof(struct row));
            const struct row *r = &l->rows[e.row];
            uint32_t at = (uint32_t)r->node;
            if (at >= l->n_nodes) {
                if (at != UINT32_MAX)
                    return EINVAL;
                continue;
            }
            struct node *n = &l->nodes[at];
            pair sum = n->sum;
            if (e.value != n->last && sum[1] >= least && (plain || sum[1] != 0)) {
                pair rest = n->total - sum;
                if (rest[1] >= least) {
                    float loss = loss_of(l, plain, sum, rest, n->root_gain);
                    if (__builtin_expect(loss > n->loss, 0)) {
                        float middle = (e.value + n->last) * 0.5f;
                        take(l, n, index, loss, middle == e.value ? n->last : middle, sum, rest);
                    }
                }
            }
            n->sum = sum + (pair){ r->g, r->h };
            n->last = e.value;
        }
    }
    for (uint32_t i = 0; i < l->n_nodes; i++) { /* all present values on one side, the missing ones on the other */
        struct node *n = &l->nodes[i];
        pair rest = n->total - n->sum;
        if (!(n->sum[1] >= least && rest[1] >= least))
            continue;
        float loss = loss_of(l, plain, n->sum, rest, n->root_gain), beyond = fabsf(n->last) + EPSILON;
        if (loss > n->loss)
            take(l, n, index, loss, step > 0 ? n->last + beyond : n->last - beyond, n->sum, rest);
    }
    return 0;
}

static int column(const struct level *l, const struct entry *entries, uint64_t count, uint32_t feature, uint8_t dirs)
{
    bool plain = !(l->flags & GAIN_FLOAT64) && l->alpha == 0 && l->max_delta_step == 0 && l->min_child_weight > 0;
    const struct entry *last = count ? entries + count - 1 : entries;
    int rc = 0;
    if (dirs & FORWARD)
        rc = plain ? pass(l, entries, count, feature, 1, true) : pass(l, entries, count, feature, 1, false);
    if (!rc && (dirs & BACKWARD))
        rc = plain ? pass(l, last, count, feature | DEFAULT_LEFT, -1, true)
                   : pass(l, last, count, feature | DEFAULT_LEFT, -1, false);
    return rc;
}

/* ---- the kernel ------------------------------------------------------------------------------------ */

static uint64_t pointer(const struct emu_call *c, unsigned offset)
{
    return c->regs[offset / 4] | (uint64_t)c->regs[offset / 4 + 1] << 32;
}

static float real(const struct emu_call *c, unsigned offset)
{
    float value;
    memcpy(&value, &c->regs[offset / 4], sizeof value);
    return value;
}

static uint64_t bytes(const struct emu_call *c)
{
    return c->reg_bytes < END ? 0 : c->regs[N_ROWS / 4] * (sizeof(struct row) + c->regs[N_FEATURES / 4] * (uint64_t)8);
}

static int search(struct emu_call *c, struct level *l)
{
    uint32_t n_features = c->regs[N_FEATURES / 4], n = l->n_nodes;
    const uint64_t *col_ptr = c->memory(c, pointer(c, COL_PTR), ((uint64_t)n_features + 1) * 8);
    const uint8_t *dirs = col_ptr ? c->memory(c, pointer(c, DIRS), n_features) : NULL;
    const double(*stats)[2] = dirs ? c->memory(c, pointer(c, NODE_STATS), (uint64_t)n * 16) : NULL;
    const float *root_gain = stats ? c->memory(c, pointer(c, ROOT_GAIN), (uint64_t)n * 4) : NULL;
    struct best *out = root_gain ? c->memory(c, pointer(c, BEST), n * sizeof *out) : NULL;
    l->rows = out ? c->memory(c, pointer(c, ROWS), (uint64_t)l->n_rows * sizeof *l->rows) : NULL;
    if (!l->rows)
        return EFAULT;
    uint64_t nnz = col_ptr[n_features];
    if (nnz > UINT64_MAX / sizeof(struct entry))
        return EINVAL;
    const struct entry *entries = NULL;
    if (nnz && !(entries = c->memory(c, pointer(c, ENTRIES), nnz * sizeof *entries)))
        return EFAULT;
    if (((uintptr_t)col_ptr | (uintptr_t)stats | (uintptr_t)out | (uintptr_t)entries) % 8
        || ((uintptr_t)root_gain | (uintptr_t)l->rows) % 4)
        return EINVAL;
    for (uint32_t i = 0; i < n; i++)
        l->nodes[i] = (struct node){ .total = { stats[i][0], stats[i][1] }, .root_gain = root_gain[i] };
    /* What the host may change while we work is read once, and checked after it was read. */
    uint64_t begin = col_ptr[0];
    for (uint32_t feature = 0; feature < n_features; feature++) {
        uint64_t end = col_ptr[feature + 1];
        if (begin > end || end > nnz || end - begin > l->n_rows)
            return EINVAL;
        int rc = column(l, entries + begin, end - begin, feature, dirs[feature]);
        if (rc)
            return rc;
        begin = end;
    }
    memcpy(out, l->best, n * sizeof *out);
    return 0;
}

static int execute(struct emu_call *c)
{
    if (c->reg_bytes < END)
        return EINVAL; /* the image describes another kernel */
    struct level l = { .cancel = c->cancel,
                       .n_rows = c->regs[N_ROWS / 4],
                       .n_nodes = c->regs[N_NODES / 4],
                       .flags = c->regs[FLAGS / 4],
                       .min_child_weight = real(c, MIN_CHILD_WEIGHT),
                       .max_delta_step = real(c, MAX_DELTA_STEP),
                       .alpha = real(c, REG_ALPHA),
                       .lambda = real(c, REG_LAMBDA) };
    if (l.n_nodes > MAX_NODES || c->regs[N_FEATURES / 4] > INT32_MAX || l.flags & ~GAIN_FLOAT64)
        return EINVAL;
    if (l.n_nodes == 0)
        return 0;
    if (!(l.min_child_weight >= 0 && l.max_delta_step >= 0 && l.alpha >= 0 && l.lambda >= 0))
        return EINVAL;
    l.nodes = aligned_alloc(64, (l.n_nodes * sizeof *l.nodes + 63) / 64 * 64);
    l.best = calloc(l.n_nodes, sizeof *l.best);
    int rc = l.nodes && l.best ? search(c, &l) : ENOMEM;
    free(l.nodes);
    free(l.best);
    return rc;
}

extern const struct emu_model emu_model_xgboost_exact;
const struct emu_model emu_model_xgboost_exact = {
    .name = "xgboost_exact",
    .afu_id = { 0xd2, 0x72, 0x01, 0xbb, 0xaa, 0xe9, 0x55, 0xca, 0xa0, 0xd4, 0x93, 0x26, 0x45, 0xa4, 0xc4, 0x56 },
    .kernel = "xgboost_exact",
    .bytes = bytes,
    .execute = execute,
};
