/* SPDX-License-Identifier: Apache-2.0 */
/* forest_store.h: forests kept from run to run; each has as many users as runs that use it, and one for the store. */
#ifndef FPGAHAL_FOREST_STORE_H
#define FPGAHAL_FOREST_STORE_H

#include "../../include/board.h"
#include "forest.h"

struct forest_key {
    const struct emu_board *board;
    uint64_t programmed; /* a reconfiguration empties the on-chip memory */
    uint64_t model_id, nodes, trees; /* addresses */
    uint32_t first, last, n_features, n_out;
};

struct forest_shared {
    _Atomic uint32_t users;
    struct forest forest;
};

/* The one that is kept, with one user more; or NULL. */
struct forest_shared *forest_find(const struct forest_key *);
void forest_keep(const struct forest_key *, struct forest_shared *);
void forest_release(struct forest_shared *);

#endif
