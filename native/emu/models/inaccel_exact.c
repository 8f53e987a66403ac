/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inaccel_exact.c: compute kernel com_inaccel_xgboost_exact: split finding as InAccel's accelerator of 2019 does it.
 * 16.16 fixed point that truncates and wraps; each column is walked in ascending order twice, the second time
 * subtracting.  For its results, not for accuracy: sums beyond +-32768 are garbage, as they were on the card.
 */
#include "../../include/board.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_NUM = 0x10, FEATURE_NUM = 0x18, NODE_NUM = 0x20, ENTRY_NUM_BATCH = 0x28, GPAIRS = 0x30, NODE_IDXS = 0x3c,
       ENTRIES = 0x48, FVALID = 0x54, NODE_STATS = 0x60, NODE_ROOT_GAIN = 0x6c, BEST_SPLITS = 0x78,
       MIN_CHILD_WEIGHT = 0x84, MAX_DELTA_STEP = 0x8c, REG_ALPHA = 0x94, REG_LAMBDA = 0x9c, END = 0xa0 };
enum { LANES = 8, MAX_ENTRIES = 65536, MAX_NODES = 2048 }; /* what its memories hold */
enum { HALF = 1 << 15, ONE = 1 << 16 };
#define DEFAULT_LEFT 0x80000000u
#define PIECE 2048 /* beats between two looks at `cancel` */

typedef int32_t fixed; /* 16.16 */

struct gradient {
    float g, h;
};
struct entry {
    uint32_t row; /* beyond entry_num: nothing */
    float value;
};
struct found { /* as the host reads it */
    float loss;
    uint32_t index; /* feature | DEFAULT_LEFT */
    float value, left_g, left_h;
    uint32_t unused[3];
};
struct split {
    fixed loss, value, left_g, left_h;
    uint32_t index;
};
struct node {
    fixed g, h, value; /* passed so far, and the value passed last */
    struct split best;
};
struct kernel {
    _Atomic int *cancel;
    uint32_t n_rows, n_features, n_nodes, beats;
    fixed least, step, alpha, lambda;
    const struct entry *entries;
    struct row {
        fixed g, h;
        uint32_t node;
    } *rows;
    struct total {
        fixed g, h, root_gain;
    } *totals;
    struct node *nodes; /* [n_nodes][LANES] */
};

/* ---- 16.16, AP_TRN and AP_WRAP --------------------------------------------------------------------- */

static fixed wrap(int64_t v) { return (fixed)(uint32_t)(uint64_t)v; }
static fixed mul(fixed a, fixed b) { return wrap((int64_t)a * b >> 16); }
/* A divider's answer to 0 is not defined; here it is 0. */
static fixed quotient(fixed a, fixed b) { return b ? wrap((int64_t)a * ONE / b) : 0; }
static float real(fixed v) { return (float)(v / (double)ONE); }

static fixed from_real(float v)
{
    double scaled = (double)v * ONE;
    if (!(scaled > -9e18 && scaled < 9e18))
        return 0; /* all bits of a float that large lie above the 32 that stay; NaN */
    int64_t whole = (int64_t)scaled;
    return wrap(whole > scaled ? whole - 1 : whole);
}

static fixed gain(const struct kernel *k, fixed g, fixed h)
{
    fixed t = g > k->alpha ? wrap((int64_t)g - k->alpha) : g < -(int64_t)k->alpha ? wrap((int64_t)g + k->alpha) : 0;
    fixed ratio = quotient(t, wrap((int64_t)h + k->lambda));
    fixed score = mul(t, ratio);
    if (k->step == 0)
        return score;
    fixed weight = wrap(-(int64_t)ratio), size = weight >= 0 ? weight : wrap(-(int64_t)weight);
    fixed bounded = weight > k->step ? k->step : weight < -(int64_t)k->step ? wrap(-(int64_t)k->step) : weight;
    fixed gained = wrap((int64_t)((__int128)g * 2 * bounded >> 16));
    return wrap(-((int64_t)score + mul(k->alpha, size)) + gained);
}

static void consider(const struct kernel *k, const struct total *t, struct split *best, uint32_t index, fixed value,
                     fixed left_g, fixed left_h)
{
    fixed right_g = wrap((int64_t)t->g - left_g), right_h = wrap((int64_t)t->h - left_h);
    fixed sum = wrap((int64_t)gain(k, left_g, left_h) + gain(k, right_g, right_h));
    fixed loss = wrap((int64_t)sum - t->root_gain);
    if (loss > best->loss || (loss == best->loss && (index & ~DEFAULT_LEFT) <= (best->index & ~DEFAULT_LEFT)))
        *best = (struct split) { loss, value, left_g, left_h, index };
}

/* ---- eight columns --------------------------------------------------------------------------------- */

static int walk(const struct kernel *k, uint32_t block, uint8_t valid, bool back)
{
    const struct entry *e = k->entries + (uint64_t)block * k->beats * LANES;
    for (uint32_t beat = 0; beat < k->beats; beat++, e += LANES) {
        if (beat % PIECE == 0 && atomic_load_explicit(k->cancel, memory_order_relaxed))
            return ECANCELED;
        for (uint32_t lane = 0; lane < LANES; lane++) {
            uint32_t row = e[lane].row;
            if (row >= k->n_rows || !(valid >> lane & 1))
                continue;
            const struct row *r = &k->rows[row];
            if (r->node >= k->n_nodes)
                continue;
            struct node *n = &k->nodes[r->node * LANES + lane];
            const struct total *t = &k->totals[r->node];
            fixed value = from_real(e[lane].value), last = n->value;
            fixed g = n->g, h = n->h; /* of the one side: forward before this entry, backward after it */
            n->g = wrap(back ? (int64_t)g - r->g : (int64_t)g + r->g);
            n->h = wrap(back ? (int64_t)h - r->h : (int64_t)h + r->h);
            n->value = value;
            if (back) {
                g = n->g;
                h = n->h;
            }
            fixed rest_g = wrap((int64_t)t->g - g), rest_h = wrap((int64_t)t->h - h);
            if (last == value || h == 0 || h < k->least || rest_h < k->least)
                continue;
            fixed middle = wrap(((int64_t)last + value) >> 1);
            if (back)
                consider(k, t, &n->best, (block * LANES + lane) | DEFAULT_LEFT, middle, rest_g, rest_h);
            else
                consider(k, t, &n->best, block * LANES + lane, middle, g, h);
        }
    }
    return 0;
}

/* Between the walks: all present values to the right, the missing ones to the left. */
static void turn(const struct kernel *k, uint32_t block, uint8_t valid)
{
    for (uint32_t i = 0; i < k->n_nodes * LANES; i++) {
        struct node *n = &k->nodes[i];
        const struct total *t = &k->totals[i / LANES];
        fixed rest_g = wrap((int64_t)t->g - n->g), rest_h = wrap((int64_t)t->h - n->h);
        if (!(valid >> i % LANES & 1) || n->h < k->least || rest_h < k->least)
            continue;
        fixed gap = wrap((n->value >= 0 ? (int64_t)n->value : -(int64_t)n->value) + 1);
        consider(k, t, &n->best, (block * LANES + i % LANES) | DEFAULT_LEFT, wrap((int64_t)n->value - gap), rest_g,
                 rest_h);
    }
}

static int search(const struct kernel *k, const uint8_t *fvalid)
{
    for (uint32_t block = 0; block < (k->n_features + LANES - 1) / LANES; block++) {
        uint8_t valid = fvalid[block];
        if ((block + 1) * LANES > k->n_features)
            valid &= (1u << k->n_features % LANES) - 1;
        for (uint32_t i = 0; i < k->n_nodes * LANES; i++)
            k->nodes[i].g = k->nodes[i].h = k->nodes[i].value = 0;
        if (!valid)
            continue;
        int rc = walk(k, block, valid, false);
        if (rc)
            return rc;
        turn(k, block, valid);
        if ((rc = walk(k, block, valid, true)))
            return rc;
    }
    return 0;
}

static const struct split *worse(const struct split *a, const struct split *b)
{
    bool b_wins = b->loss > a->loss
                  || (b->loss == a->loss && (b->index & ~DEFAULT_LEFT) <= (a->index & ~DEFAULT_LEFT));
    return b_wins ? b : a;
}

/* The best of eight lanes, in a tree of comparisons. */
static struct found best_of(const struct node *n)
{
    const struct split *four[4], *two[2], *one;
    for (int i = 0; i < 4; i++)
        four[i] = worse(&n[2 * i].best, &n[2 * i + 1].best);
    for (int i = 0; i < 2; i++)
        two[i] = worse(four[2 * i], four[2 * i + 1]);
    one = worse(two[0], two[1]);
    return (struct found) { real(one->loss), one->index, real(one->value), real(one->left_g), real(one->left_h), { 0 } };
}

/* ---- the kernel ------------------------------------------------------------------------------------ */

static uint32_t word(const struct emu_call *c, unsigned offset) { return c->regs[offset / 4]; }

static void *memory(struct emu_call *c, unsigned offset, uint64_t beats, unsigned beat_bytes)
{
    return c->memory(c, word(c, offset) | (uint64_t)word(c, offset + 4) << 32, beats * beat_bytes);
}

static fixed parameter(const struct emu_call *c, unsigned offset)
{
    float value;
    memcpy(&value, &c->regs[offset / 4], sizeof value);
    return from_real(value);
}

static uint64_t eighths(uint32_t n) { return ((uint64_t)n + LANES - 1) / LANES; }

static uint64_t bytes(const struct emu_call *c)
{
    if (c->reg_bytes < END)
        return 0;
    return eighths(word(c, ENTRY_NUM)) * 80 + eighths(word(c, FEATURE_NUM)) * word(c, ENTRY_NUM_BATCH) * 64;
}

static int run(struct emu_call *c, struct kernel *k)
{
    uint64_t row_beats = eighths(k->n_rows), blocks = eighths(k->n_features), node_beats = eighths(k->n_nodes);
    const struct gradient *gpairs = memory(c, GPAIRS, row_beats, 64);
    const uint16_t *node_idxs = gpairs ? memory(c, NODE_IDXS, row_beats, 16) : NULL;
    const uint8_t *fvalid = node_idxs ? memory(c, FVALID, blocks, 1) : NULL;
    const struct gradient *stats = fvalid ? memory(c, NODE_STATS, node_beats, 64) : NULL;
    const float *root_gain = stats ? memory(c, NODE_ROOT_GAIN, node_beats, 32) : NULL;
    struct found *out = root_gain ? memory(c, BEST_SPLITS, ((uint64_t)k->n_nodes + 1) / 2, 64) : NULL;
    k->entries = out ? memory(c, ENTRIES, blocks * k->beats, 64) : NULL;
    if (!k->entries)
        return EFAULT;
    if (((uintptr_t)gpairs | (uintptr_t)node_idxs | (uintptr_t)stats | (uintptr_t)root_gain | (uintptr_t)out
         | (uintptr_t)k->entries) % 4)
        return EINVAL;
    for (uint32_t i = 0; i < k->n_rows; i++)
        k->rows[i] = (struct row) { from_real(gpairs[i].g), from_real(gpairs[i].h), node_idxs[i] };
    for (uint32_t i = 0; i < k->n_nodes; i++)
        k->totals[i] = (struct total) { from_real(stats[i].g), from_real(stats[i].h), from_real(root_gain[i]) };
    int rc = search(k, fvalid);
    for (uint32_t i = 0; !rc && i < k->n_nodes; i++)
        out[i] = best_of(&k->nodes[i * LANES]);
    return rc;
}

static int execute(struct emu_call *c)
{
    if (c->reg_bytes < END)
        return EINVAL; /* the image describes another kernel */
    struct kernel k = { .cancel = c->cancel,
                        .n_rows = word(c, ENTRY_NUM),
                        .n_features = word(c, FEATURE_NUM),
                        .n_nodes = word(c, NODE_NUM),
                        .beats = word(c, ENTRY_NUM_BATCH),
                        .least = parameter(c, MIN_CHILD_WEIGHT),
                        .step = parameter(c, MAX_DELTA_STEP),
                        .alpha = parameter(c, REG_ALPHA),
                        .lambda = parameter(c, REG_LAMBDA) };
    if (k.n_rows > MAX_ENTRIES || k.n_nodes > MAX_NODES || k.beats > MAX_ENTRIES || k.n_features > INT32_MAX)
        return EINVAL;
    if (k.n_rows == 0 || k.n_nodes == 0 || k.n_features == 0 || k.beats == 0)
        return 0;
    k.rows = malloc(k.n_rows * sizeof *k.rows);
    k.totals = malloc(k.n_nodes * sizeof *k.totals);
    k.nodes = calloc(k.n_nodes * LANES, sizeof *k.nodes);
    int rc = k.rows && k.totals && k.nodes ? run(c, &k) : ENOMEM;
    free(k.rows);
    free(k.totals);
    free(k.nodes);
    return rc;
}

extern const struct emu_model emu_model_inaccel_exact;
const struct emu_model emu_model_inaccel_exact = {
    .name = "com_inaccel_xgboost_exact",
    .afu_id = { 0xc7, 0x24, 0x19, 0x05, 0x15, 0x48, 0x56, 0x68, 0x81, 0x6d, 0x11, 0xda, 0x7f, 0xda, 0xb5, 0x90 },
    .kernel = "com_inaccel_xgboost_exact",
    .bytes = bytes,
    .execute = execute,
};
