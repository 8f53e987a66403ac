/* SPDX-License-Identifier: Apache-2.0 */
/*
 * team.c: a board's cores.  A kernel's work is split into pieces; the thread that runs the kernel and the board's
 * helpers take one after the other.  The helpers start with the first work that has pieces for them, and stay.
 */
#define _GNU_SOURCE 1
#include "../include/board.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

struct team {
    struct team *next;
    const struct emu_board *board;
    pthread_mutex_t busy; /* held by the run that has the helpers */
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    uint32_t helpers; /* threads that there are */
    uint64_t turn; /* counts works */
    uint32_t working; /* helpers that are at it */
    struct work *work;
};

struct work {
    uint64_t n, grain;
    void (*piece)(void *context, uint64_t begin, uint64_t end);
    void *context;
    _Atomic int *cancel;
    _Atomic uint64_t next;
};

static pthread_mutex_t teams_lock = PTHREAD_MUTEX_INITIALIZER;
static struct team *teams;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A forked child has no helpers: it starts with no teams.  What it inherited may be locked for ever. */
static void before_fork(void) { pthread_mutex_lock(&teams_lock); }
static void after_fork(void) { pthread_mutex_unlock(&teams_lock); }
static void in_child(void)
{
    teams = NULL;
    pthread_mutex_unlock(&teams_lock);
}
static void watch_fork(void) { pthread_atfork(before_fork, after_fork, in_child); }

static void do_pieces(struct work *w)
{
    while (!atomic_load_explicit(w->cancel, memory_order_relaxed)) {
        uint64_t begin = atomic_fetch_add(&w->next, w->grain);
        if (begin >= w->n)
            return;
        w->piece(w->context, begin, w->n - begin > w->grain ? begin + w->grain : w->n);
    }
}

static void *help(void *argument)
{
    struct team *t = argument;
    uint64_t seen = 0;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (t->turn == seen || !t->work) {
            seen = t->turn;
            pthread_cond_wait(&t->begin, &t->lock);
        }
        seen = t->turn;
        struct work *w = t->work;
        t->working++;
        pthread_mutex_unlock(&t->lock);
        do_pieces(w);
        pthread_mutex_lock(&t->lock);
        if (--t->working == 0)
            pthread_cond_signal(&t->end);
    }
    return NULL;
}

/* As many helpers as the machine grants: the work gets done with fewer, too. */
static void start_helpers(struct team *t, uint32_t wanted)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals stay with the program's own threads */
    for (pthread_t thread; t->helpers < wanted && pthread_create(&thread, NULL, help, t) == 0; t->helpers++) {
        pthread_setname_np(thread, "emu-core");
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static struct team *team_of(const struct emu_board *board)
{
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&teams_lock);
    struct team *t = teams;
    while (t && t->board != board)
        t = t->next;
    if (!t && (t = calloc(1, sizeof *t))) {
        t->board = board;
        pthread_mutex_init(&t->busy, NULL);
        pthread_mutex_init(&t->lock, NULL);
        pthread_cond_init(&t->begin, NULL);
        pthread_cond_init(&t->end, NULL);
        t->next = teams;
        teams = t;
    }
    pthread_mutex_unlock(&teams_lock);
    return t;
}

int emu_team(const struct emu_call *c, uint64_t n, uint64_t grain,
             void (*piece)(void *context, uint64_t begin, uint64_t end), void *context)
{
    struct work w = { .n = n, .grain = grain, .piece = piece, .context = context, .cancel = c->cancel };
    struct team *t = c->board->cores > 1 && n > grain ? team_of(c->board) : NULL;
    if (t && pthread_mutex_trylock(&t->busy) == 0) {
        if (t->helpers < c->board->cores - 1)
            start_helpers(t, c->board->cores - 1);
        pthread_mutex_lock(&t->lock);
        t->work = &w;
        t->turn++;
        pthread_cond_broadcast(&t->begin);
        pthread_mutex_unlock(&t->lock);
        do_pieces(&w);
        pthread_mutex_lock(&t->lock);
        t->work = NULL; /* who has not begun by now finds nothing */
        while (t->working)
            pthread_cond_wait(&t->end, &t->lock);
        pthread_mutex_unlock(&t->lock);
        pthread_mutex_unlock(&t->busy);
    } else {
        do_pieces(&w); /* alone: another run of this board has the helpers, or there are none */
    }
    return atomic_load_explicit(c->cancel, memory_order_relaxed) ? ECANCELED : 0;
}
