/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xgboost_exact.c: compute kernel xgboost_exact: the best split of every node of one tree level, by exact greedy
 * search, with the very roundings of xgboost's tree_method=exact on one thread.
 *
 * Sums are float64, in the order of the column; a candidate's loss is float32.  flags bit 0 is the gain variant: 0 as
 * xgboost <= 3.3 computes it (threshold(g)^2 / (h + lambda), both rounded to float32 first), 1 as >= 3.4 does (in
 * float64, from the float32 weight).  A board with several cores shares out the columns to them.
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
#define AHEAD 32 /* rows are fetched this many entries before they are used */

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
    const struct entry *entries;
    const uint64_t *col_ptr;
    const double (*stats)[2];
    const float *root_gain;
    uint32_t *passes; /* their indexes, in xgboost's order */
    struct best *best; /* so far */
    pthread_mutex_t lock; /* of `best` */
    _Atomic int rc; /* the first error */
    _Atomic int *cancel;
    uint64_t nnz;
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

/* Both sides reach min_child_weight. */
static __attribute__((noinline)) float loss_of(const struct level *l, pair sum, pair rest, float root_gain)
{
    if ((l->flags & GAIN_FLOAT64) && (sum[1] <= 0 || rest[1] <= 0))
        return -INFINITY;
    return gain(l, sum[0], sum[1]) + gain(l, rest[0], rest[1]) - root_gain;
}

/* The same for what nearly everybody asks: variant 0, alpha and max_delta_step 0, and no hessian of 0. */
static inline __attribute__((always_inline)) float plain_loss(double lambda, pair sum, pair rest, float root_gain)
{
    pair g = { sum[0], rest[0] }, h = { sum[1], rest[1] };
    pairf q = __builtin_convertvector(g * g, pairf) / __builtin_convertvector(h + lambda, pairf);
    return q[0] + q[1] - root_gain;
}

/* ---- passes over columns --------------------------------------------------------------------------- */

/* One way through one column.  Two of them go side by side, each with nodes of its own, because the sums of one wait
 * for each other most of the time. */
struct pass {
    const struct entry *entries; /* the first one to look at */
    int64_t step; /* 1 or -1 */
    uint64_t count;
    uint32_t index; /* feature | DEFAULT_LEFT: backward, what has been passed is the right side */
    struct node *nodes;
    struct best *best;
};

/* A better split.  Candidates come in the order of xgboost, so a tie keeps the earlier one, as its rule wants. */
static __attribute__((noinline)) void take(const struct pass *p, struct node *n, float loss, float value, pair sum,
                                           pair rest)
{
    if (isinf(loss))
        return;
    bool left = p->index & DEFAULT_LEFT;
    n->loss = loss;
    p->best[n - p->nodes] = (struct best){ loss, p->index, value, 0,
                                           { left ? rest[0] : sum[0], left ? rest[1] : sum[1] },
                                           { left ? sum[0] : rest[0], left ? sum[1] : rest[1] } };
}

#define INLINE static inline __attribute__((always_inline))

INLINE float loss_at(const struct level *l, bool plain, double lambda, pair sum, pair rest, float root_gain)
{
    return plain ? plain_loss(lambda, sum, rest, root_gain) : loss_of(l, sum, rest, root_gain);
}

/* One entry of a pass: `at` in `entries`, whose nodes are `nodes`.  0 or EINVAL. */
INLINE int visit(const struct level *l, const struct pass *p, const struct entry *at, struct node *nodes,
                 const struct row *rows, uint32_t n_rows, uint32_t n_nodes, double least, double lambda, bool plain)
{
    struct entry e = *at;
    if (e.row >= n_rows)
        return EINVAL;
    const struct row *r = &rows[e.row];
    uint32_t place = (uint32_t)r->node;
    if (place >= n_nodes)
        return place == UINT32_MAX ? 0 : EINVAL;
    struct node *node = &nodes[place];
    pair sum = node->sum;
    if (e.value != node->last && sum[1] >= least && (plain || sum[1] != 0)) {
        pair rest = node->total - sum;
        if (rest[1] >= least) {
            float loss = loss_at(l, plain, lambda, sum, rest, node->root_gain);
            if (__builtin_expect(loss > node->loss, 0)) {
                float middle = (e.value + node->last) * 0.5f;
                take(p, node, loss, middle == e.value ? node->last : middle, sum, rest);
            }
        }
    }
    node->sum = sum + (pair){ r->g, r->h };
    node->last = e.value;
    return 0;
}

/* The entries from `done` to `end` of one pass, or of two.  Fetches the rows of the later ones meanwhile. */
INLINE int visit_all(const struct level *l, const struct pass *p, const struct pass *q, uint64_t done, uint64_t end,
                     bool plain)
{
    /* Copies, because a store to a node might change *l or *p, for all that the compiler knows. */
    const struct row *const rows = l->rows;
    const uint32_t n_rows = l->n_rows, n_nodes = l->n_nodes;
    const double least = l->min_child_weight, lambda = l->lambda;
    const int64_t p_step = p->step, q_step = q ? q->step : 0;
    const struct entry *a = p->entries + (int64_t)done * p_step, *b = q ? q->entries + (int64_t)done * q_step : NULL;
    struct node *const p_nodes = p->nodes, *const q_nodes = q ? q->nodes : NULL;
    uint64_t left = p->count - done;
    if (q && q->count - done < left)
        left = q->count - done;
    for (; done < end; done++, left--, a += p_step, b += q_step) {
        if (left > AHEAD) {
            __builtin_prefetch((const char *)rows + (uint64_t)a[AHEAD * p_step].row * sizeof *rows);
            if (q)
                __builtin_prefetch((const char *)rows + (uint64_t)b[AHEAD * q_step].row * sizeof *rows);
        }
        if (visit(l, p, a, p_nodes, rows, n_rows, n_nodes, least, lambda, plain)
            || (q && visit(l, q, b, q_nodes, rows, n_rows, n_nodes, least, lambda, plain)))
            return EINVAL;
    }
    return 0;
}

/* All present values on one side, the missing ones on the other. */
INLINE void close_pass(const struct level *l, const struct pass *p, bool plain)
{
    const double least = l->min_child_weight;
    for (uint32_t i = 0; i < l->n_nodes; i++) {
        struct node *n = &p->nodes[i];
        pair rest = n->total - n->sum;
        if (!(n->sum[1] >= least && rest[1] >= least))
            continue;
        float loss = loss_at(l, plain, l->lambda, n->sum, rest, n->root_gain), beyond = fabsf(n->last) + EPSILON;
        if (loss > n->loss)
            take(p, n, loss, p->step > 0 ? n->last + beyond : n->last - beyond, n->sum, rest);
    }
}

/* One pass, or two: side by side as far as the shorter one goes. */
INLINE int pass_all(const struct level *l, const struct pass *passes, int n, bool plain)
{
    const struct pass *p = &passes[0], *q = n == 2 ? &passes[1] : NULL;
    if (q && q->count > p->count) {
        q = p;
        p = &passes[1];
    }
    uint64_t both = q ? q->count : 0;
    for (uint64_t done = 0; done < p->count;) {
        if (atomic_load_explicit(l->cancel, memory_order_relaxed))
            return ECANCELED;
        uint64_t limit = done < both ? both : p->count, end = limit - done > PIECE ? done + PIECE : limit;
        int rc = done < both ? visit_all(l, p, q, done, end, plain) : visit_all(l, p, NULL, done, end, plain);
        if (rc)
            return rc;
        done = end;
    }
    for (int i = 0; i < n; i++)
        close_pass(l, &passes[i], plain);
    return 0;
}

/* xgboost's order: by feature, forward first. */
static uint32_t order(uint32_t index)
{
    return index << 1 | index >> 31;
}

/* What the passes from the one with index `first` on need not look for: a split as good as one that comes earlier. */
static void begin_passes(struct level *l, struct pass *p, uint32_t first)
{
    pthread_mutex_lock(&l->lock);
    for (uint32_t at = 0; at < l->n_nodes; at++) {
        const struct best *best = &l->best[at];
        p->nodes[at] = (struct node){ .total = { l->stats[at][0], l->stats[at][1] }, .root_gain = l->root_gain[at],
                                      .loss = order(best->index) < order(first) ? best->loss : 0 };
    }
    pthread_mutex_unlock(&l->lock);
}

/* Other cores may have found something better, or the same in a later column. */
static void end_passes(struct level *l, const struct pass *p)
{
    pthread_mutex_lock(&l->lock);
    for (uint32_t at = 0; at < l->n_nodes; at++) {
        const struct best *mine = &p->best[at], *best = &l->best[at];
        if (mine->loss > best->loss
            || (mine->loss > 0 && mine->loss == best->loss && order(mine->index) < order(best->index)))
            l->best[at] = *mine;
    }
    pthread_mutex_unlock(&l->lock);
}

/* What the host may change while we work is read once, and checked after it was read. */
static int begin_pass(const struct level *l, struct pass *p, uint32_t index)
{
    uint32_t feature = index & ~DEFAULT_LEFT;
    uint64_t begin = l->col_ptr[feature], end = l->col_ptr[feature + 1];
    if (begin > end || end > l->nnz || end - begin > l->n_rows)
        return EINVAL;
    bool back = index & DEFAULT_LEFT && begin < end;
    p->entries = l->entries + (back ? end - 1 : begin);
    p->step = index & DEFAULT_LEFT ? -1 : 1;
    p->count = end - begin;
    p->index = index;
    return 0;
}

/* One or two passes, on one of the board's cores. */
static void run_passes(void *context, uint64_t begin, uint64_t end)
{
    struct level *l = context;
    bool plain = !(l->flags & GAIN_FLOAT64) && l->alpha == 0 && l->max_delta_step == 0 && l->min_child_weight > 0;
    int n = (int)(end - begin), rc = 0;
    struct node *nodes = aligned_alloc(64, ((uint64_t)n * l->n_nodes * sizeof *nodes + 63) / 64 * 64);
    struct best *best = calloc((uint64_t)n * l->n_nodes, sizeof *best);
    struct pass passes[2] = { 0 };
    if (!nodes || !best)
        rc = ENOMEM;
    for (int i = 0; !rc && i < n; i++) {
        passes[i].nodes = nodes + (uint64_t)i * l->n_nodes;
        passes[i].best = best + (uint64_t)i * l->n_nodes;
        if (!(rc = begin_pass(l, &passes[i], l->passes[begin + (uint64_t)i])))
            begin_passes(l, &passes[i], l->passes[begin]);
    }
    if (!rc)
        rc = plain ? pass_all(l, passes, n, true) : pass_all(l, passes, n, false);
    for (int i = 0; !rc && i < n; i++)
        end_passes(l, &passes[i]);
    if (rc) {
        int none = 0;
        atomic_compare_exchange_strong(&l->rc, &none, rc);
    }
    free(nodes);
    free(best);
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
    l->col_ptr = c->memory(c, pointer(c, COL_PTR), ((uint64_t)n_features + 1) * 8);
    const uint8_t *dirs = l->col_ptr ? c->memory(c, pointer(c, DIRS), n_features) : NULL;
    l->stats = dirs ? c->memory(c, pointer(c, NODE_STATS), (uint64_t)n * 16) : NULL;
    l->root_gain = l->stats ? c->memory(c, pointer(c, ROOT_GAIN), (uint64_t)n * 4) : NULL;
    struct best *out = l->root_gain ? c->memory(c, pointer(c, BEST), n * sizeof *out) : NULL;
    l->rows = out ? c->memory(c, pointer(c, ROWS), (uint64_t)l->n_rows * sizeof *l->rows) : NULL;
    if (!l->rows)
        return EFAULT;
    l->nnz = l->col_ptr[n_features];
    if (l->nnz > UINT64_MAX / sizeof(struct entry))
        return EINVAL;
    if (l->nnz && !(l->entries = c->memory(c, pointer(c, ENTRIES), l->nnz * sizeof *l->entries)))
        return EFAULT;
    if (((uintptr_t)l->col_ptr | (uintptr_t)l->stats | (uintptr_t)out | (uintptr_t)l->entries) % 8
        || ((uintptr_t)l->root_gain | (uintptr_t)l->rows) % 4)
        return EINVAL;
    if (!(l->passes = malloc(2 * ((uint64_t)n_features + 1) * sizeof *l->passes)))
        return ENOMEM;
    uint64_t count = 0;
    for (uint32_t feature = 0; feature < n_features; feature++) {
        uint8_t way = dirs[feature];
        if (way & FORWARD)
            l->passes[count++] = feature;
        if (way & BACKWARD)
            l->passes[count++] = feature | DEFAULT_LEFT;
    }
    int rc = emu_team(c, count, 2, run_passes, l);
    if (!rc)
        rc = atomic_load(&l->rc);
    if (!rc)
        memcpy(out, l->best, n * sizeof *out);
    return rc;
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
    pthread_mutex_init(&l.lock, NULL);
    l.best = calloc(l.n_nodes, sizeof *l.best);
    int rc = l.best ? search(c, &l) : ENOMEM;
    pthread_mutex_destroy(&l.lock);
    free(l.passes);
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
