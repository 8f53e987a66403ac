/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forest.h: a forest of regression trees as the kernel xgboost_predict keeps it from run to run.
 *
 * Rows go through a tree many at a time ("lanes"), so the features that the forest looks at lie in
 * columns: a column is one feature, one lane after the other.  Where a missing value goes is a property of a node,
 * and is made one of the column: each node's test is then the plain comparison `x < threshold` (enum forest_missing).
 *
 * The first levels of a tree, its top, are stored as a perfect tree in heap order: node h has the children 2h and
 * 2h + 1, and leaves above the last level are repeated down to it.  What is deeper is walked node by node.
 */
#ifndef FPGAHAL_FOREST_H
#define FPGAHAL_FOREST_H

#include <stdatomic.h>
#include <stdint.h>

#define FOREST_LEAST 3u /* levels of a top, at least: stumps are padded */
#define FOREST_WHOLE 8u /* deepest tree that is nothing but a top */
#define FOREST_TOP 6u /* levels of the top of a deeper one */
#define FOREST_LANES 32u /* rows go in multiples of this */

struct forest_source { /* what the host wrote: contract xgboost_predict v1 */
    struct forest_node {
        float value; /* threshold; in a leaf its value */
        uint32_t meta; /* 15:0 offset of the left child, 0 in a leaf; 30:16 feature; 31 missing goes left */
    } *nodes;
    struct forest_tree {
        uint32_t root; /* index of its first node */
        uint16_t depth, out;
        uint32_t n_nodes, reserved;
    } *trees;
    uint32_t n_trees;
};

/* What a column holds where the value is missing (NaN). */
enum forest_missing {
    FOREST_RIGHT, /* NaN, which is less than nothing */
    FOREST_LEFT, /* -inf */
    FOREST_ONLY, /* -inf, and +inf elsewhere: for a threshold that no number is less than */
    FOREST_KINDS,
};

struct forest_column {
    uint32_t feature;
    uint32_t missing; /* enum forest_missing */
};

struct forest_top { /* one tree */
    uint32_t at; /* its place in `tops`: thresholds, columns, then leaves or first nodes: 1 << levels each */
    uint16_t levels;
    uint16_t out;
    uint32_t deep; /* it goes on below: the last row are indices in `walk` */
};

struct forest {
    struct forest_source source; /* copies */
    uint32_t n_features, n_out;
    uint32_t width; /* rows in a block: a power of two, a multiple of FOREST_LANES */
    uint32_t shift; /* width == 1 << shift */
    uint32_t n_columns;
    struct forest_column *columns;
    struct forest_top *trees; /* source.n_trees of them */
    union forest_word {
        float value;
        int32_t index; /* thresholds' columns, already times `width`; first nodes */
    } *tops; /* 64-byte aligned */
    struct forest_walk {
        float value;
        uint32_t meta; /* 15:0 offset of the left child, 0 in a leaf; 31:16 column */
    } *walk;
};

/* ---- forest_load.c ------------------------------------------------------------------------------- */

/* Check `source` and lay it out.  Its arrays become the forest's.  0, EINVAL (a node that leads out of its tree, a
 * feature or output that does not exist, two ways to a node, a tree deeper than it says), E2BIG (more than 65,536
 * different tests of features for deep trees), ENOMEM or ECANCELED. */
int forest_load(struct forest *, struct forest_source source, uint32_t n_features, uint32_t n_out,
                _Atomic int *cancel);
void forest_free(struct forest *);

/* ---- forest_portable.c, forest_avx2.c, forest_avx512.c: the same sums, to the last bit ------------- */

/* Send the first `lanes` rows of a block (a multiple of FOREST_LANES) through the trees [first, last), and add the
 * leaves in that order.  `x`: columns of `width` lanes; `sums`: one such column for each output. */
typedef void forest_add(const struct forest *, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                        float *sums);

forest_add forest_add_portable, forest_add_avx2, forest_add_avx512;
/* The same for one lane: many trees at a time instead of many rows. */
void forest_add_row(const struct forest *, uint32_t first, uint32_t last, const float *x, float *sums);

/* The body of a forest_add: every tree by `add`, which is inlined once for each number of levels of a top. */
#define FOREST_ADD_TREES(add)                                                                                  \
    for (const struct forest_top *t = f->trees + first; t < f->trees + last; t++) {                            \
        float *out = sums + ((size_t)t->out << f->shift);                                                      \
        switch (t->levels) {                                                                                   \
        case 3: add(f, t, x, lanes, out, 3); break;                                                            \
        case 4: add(f, t, x, lanes, out, 4); break;                                                            \
        case 5: add(f, t, x, lanes, out, 5); break;                                                            \
        case 6: add(f, t, x, lanes, out, 6); break;                                                            \
        case 7: add(f, t, x, lanes, out, 7); break;                                                            \
        default: add(f, t, x, lanes, out, 8);                                                                  \
        }                                                                                                      \
    }

/* The fastest that this processor has, or the one that FPGAHAL_EMU_ISA names; NULL if it does not have that one. */
forest_add *forest_path(void);

#endif
