/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port.c: one process's view of a board's AFU: registers, and the engine that runs its jobs.  All handles
 * of a process on one board share a port, as they would share the card.  Memory and events: dma.c.
 *
 * Locks, outer first: mmio, then the board's (emu_lock), then dma, engine, irq, which are never nested.
 * A job takes only dma and the board's, so whoever stops it may hold mmio.
 */
#define _GNU_SOURCE 1
#include "port.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define ENGINE_STACK (8u << 20) /* what a main thread has: a model may be a Python function */

static pthread_mutex_t ports_lock = PTHREAD_MUTEX_INITIALIZER;
static struct emu_port *ports, *inherited;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A forked child has no engine and no hold: it starts with no ports.  Those it inherited are kept, but not
 * touched (opae_objects.c makes the inherited handles invalid). */
static void before_fork(void) { pthread_mutex_lock(&ports_lock); }
static void after_fork(void) { pthread_mutex_unlock(&ports_lock); }
static void in_child(void)
{
    for (struct emu_port *next; ports; ports = next) {
        next = ports->next;
        ports->next = inherited;
        inherited = ports;
    }
    pthread_mutex_unlock(&ports_lock);
}
static void watch_fork(void) { pthread_atfork(before_fork, after_fork, in_child); }

struct emu_rack *emu_port_rack(struct emu_port *p) { return p->rack; }
struct emu_board *emu_port_board(struct emu_port *p) { return p->board; }
void *emu_port_space(struct emu_port *p) { return p->space; }

/* ---- open and close ------------------------------------------------------------------------------- */

struct emu_port *emu_port_open(struct emu_rack *rack, struct emu_board *board)
{
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&ports_lock);
    struct emu_port *p = ports;
    while (p && p->board != board)
        p = p->next;
    if (p) {
        p->references++;
    } else if ((p = calloc(1, sizeof *p)) != NULL) {
        p->rack = rack;
        p->board = board;
        p->references = 1;
        atomic_store(&p->epoch, EMU_NO_EPOCH);
        p->error_eventfd = -1;
        for (int i = 0; i < EMU_VECTORS; i++)
            p->eventfd[i] = -1;
        pthread_mutex_init(&p->mmio, NULL);
        pthread_mutex_init(&p->dma, NULL);
        pthread_mutex_init(&p->engine, NULL);
        pthread_mutex_init(&p->irq, NULL);
        pthread_cond_init(&p->changed, NULL);
        pthread_cond_init(&p->unpinned, NULL);
        p->next = ports;
        ports = p;
    }
    pthread_mutex_unlock(&ports_lock);
    return p;
}

void emu_port_close(struct emu_port *p)
{
    pthread_mutex_lock(&ports_lock);
    bool last = --p->references == 0;
    for (struct emu_port **at = &ports; last && *at; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            break;
        }
    }
    pthread_mutex_unlock(&ports_lock);
    if (!last)
        return;
    emu_port_stop(p);
    pthread_mutex_lock(&p->engine);
    p->quit = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->engine);
    if (p->threaded)
        pthread_join(p->thread, NULL);
    /* Pages behind the map stay mapped in the process, as the vendor's library leaves them: somebody may
     * still look at them.  Only the AFU's way to them ends here. */
    free(p->mappings);
    pthread_cond_destroy(&p->unpinned);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->irq);
    pthread_mutex_destroy(&p->engine);
    pthread_mutex_destroy(&p->dma);
    pthread_mutex_destroy(&p->mmio);
    free(p);
}

void emu_port_each(void (*visit)(struct emu_port *, void *), void *context)
{
    pthread_mutex_lock(&ports_lock);
    for (struct emu_port *p = ports; p; p = p->next)
        visit(p, context);
    pthread_mutex_unlock(&ports_lock);
}

int emu_port_reset(struct emu_port *p)
{
    struct emu_board *b = p->board;
    if (atomic_load(&b->vanished))
        return ENODEV;
    pthread_mutex_lock(&p->mmio);
    emu_port_stop(p);
    emu_lock(b);
    int rc = atomic_load(&b->state) == EMU_PROGRAMMING ? EBUSY : 0;
    if (rc == 0) {
        const struct emu_model *m = emu_model_by_afu(b->afu_id);
        emu_model_reset_registers(b);
        if (m && m->reset)
            m->reset(p);
    }
    emu_unlock(b);
    pthread_mutex_unlock(&p->mmio);
    return rc;
}

/* ---- registers ------------------------------------------------------------------------------------ */

/* Look at the board again if something changed.  0, or why no register answers. */
static int refresh(struct emu_port *p)
{
    struct emu_board *b = p->board;
    if (atomic_load(&p->epoch) == atomic_load(&b->epoch))
        return 0;
    emu_lock(b);
    uint32_t epoch = atomic_load(&b->epoch), state = atomic_load(&b->state);
    const struct emu_access *access = emu_access_of(b->afu_id);
    bool gone = atomic_load(&b->vanished);
    if (!gone && state == EMU_READY) {
        atomic_store(&p->access, access);
        atomic_store(&p->epoch, epoch);
    }
    emu_unlock(b);
    if (gone) {
        emu_error(b, false, "the device is gone");
        return ENODEV;
    }
    if (state != EMU_READY) {
        emu_error(b, true, "register access while the port is held in reset (%s)",
                  state == EMU_FAILED ? "the last reconfiguration failed" : "the slot is being programmed");
        return EIO;
    }
    return 0;
}

static int check(struct emu_port *p, uint64_t offset, unsigned bytes)
{
    if (offset >= EMU_MMIO_BYTES || offset % bytes || bytes > EMU_MMIO_BYTES - offset) {
        emu_error(p->board, false, "register offset 0x%llx is %s", (unsigned long long)offset,
                  offset % bytes ? "misaligned" : "outside the 256 KiB of region 0");
        return EINVAL;
    }
    return refresh(p);
}

static bool defined(const struct emu_access *a, uint64_t offset, unsigned bytes)
{
    return offset < EMU_CSR_BYTES && (bytes == 8 ? a->word[offset / 8] : a->access[offset / 4]) != 0;
}

static int undefined(struct emu_port *p, const struct emu_access *a, const char *what, uint64_t offset, unsigned bytes)
{
    if (a->model->zero_elsewhere)
        return 0;
    const char *more = emu_model_by_afu(p->board->afu_id) ? "" : " (this process has no model of it; a Python function "
                       "is known only to the process that registered it)";
    emu_error(p->board, true, "%u-bit %s of offset 0x%llx, where AFU '%s' has no register%s", bytes * 8, what,
              (unsigned long long)offset, a->model->name, more);
    return EIO;
}

int emu_port_read(struct emu_port *p, uint64_t offset, unsigned bytes, uint64_t *value)
{
    int rc = check(p, offset, bytes);
    if (rc)
        return rc;
    const struct emu_access *a = atomic_load(&p->access);
    *value = 0;
    if (!defined(a, offset, bytes))
        return undefined(p, a, "read", offset, bytes);
    uint64_t v = atomic_load(&p->board->csr[offset / 8]);
    *value = bytes == 8 ? v : (uint32_t)(v >> (offset & 4) * 8);
    return 0;
}

/* Which bits of the 64-bit word does a write of this size set now, and which does it invert? */
static uint64_t writable(struct emu_port *p, const struct emu_access *a, uint64_t offset, unsigned bytes,
                         uint64_t *inverted)
{
    uint64_t mask = 0;
    *inverted = 0;
    for (uint64_t at = offset; at < offset + bytes; at += 4) {
        uint8_t kind = a->access[at / 4];
        uint64_t half = 0xffffffffull << (at & 4) * 8;
        if (kind == EMU_WRITABLE || (kind == EMU_LOCKABLE && (!a->model->unlocked || a->model->unlocked(p))))
            mask |= half;
        else if (kind == EMU_INVERTED)
            *inverted |= half;
    }
    return mask;
}

/* The model may change the same word meanwhile (an end of a run that another register shares a word with). */
static void store(struct emu_port *p, const struct emu_access *a, uint64_t offset, unsigned bytes, uint64_t word)
{
    _Atomic uint64_t *at = &p->board->csr[offset / 8];
    uint64_t inverted, mask = writable(p, a, offset, bytes, &inverted), old = atomic_load(at), new;
    if (!mask && !inverted)
        return; /* a write to a read-only register is lost, as on the card */
    do {
        new = ((old & ~mask) | (word & mask)) ^ (word & inverted);
    } while (!atomic_compare_exchange_weak(at, &old, new));
    if (a->model->written)
        a->model->written(p, (uint32_t)offset & ~7u, old, new);
}

int emu_port_write(struct emu_port *p, uint64_t offset, unsigned bytes, uint64_t value)
{
    pthread_mutex_lock(&p->mmio);
    int rc = check(p, offset, bytes);
    if (rc == 0) {
        const struct emu_access *a = atomic_load(&p->access);
        if (!defined(a, offset, bytes))
            rc = undefined(p, a, "write", offset, bytes);
        else
            store(p, a, offset, bytes, value << (offset & 4) * 8);
    }
    pthread_mutex_unlock(&p->mmio);
    return rc;
}

/* ---- engine --------------------------------------------------------------------------------------- */

static void finished(struct emu_port *p)
{
    pthread_mutex_lock(&p->engine);
    p->job = NULL;
    atomic_store(&p->running, 0);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->engine);
}

static void *engine(void *context)
{
    struct emu_port *p = context;
    pthread_mutex_lock(&p->engine);
    while (!p->quit) {
        if (!p->job) {
            pthread_cond_wait(&p->changed, &p->engine);
            continue;
        }
        pthread_mutex_unlock(&p->engine);
        p->job(p, p->arg, &p->cancel);
        finished(p);
        pthread_mutex_lock(&p->engine);
    }
    pthread_mutex_unlock(&p->engine);
    return NULL;
}

static int start_thread(struct emu_port *p)
{
    pthread_attr_t attr;
    sigset_t all, old;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, ENGINE_STACK);
    sigfillset(&all); /* the program's signals are for its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&p->thread, &attr, engine, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    p->threaded = rc == 0;
    return rc;
}

/* Caller holds mmio: starts and stops don't cross. */
int emu_port_start(struct emu_port *p, void (*job)(struct emu_port *, void *, _Atomic int *), void *arg, bool inline_ok)
{
    if (atomic_load(&p->running))
        return EBUSY;
    atomic_store(&p->cancel, 0);
    atomic_store(&p->running, 1);
    if (inline_ok && !p->board->launch_ns && !p->board->link_bytes_per_s) {
        job(p, arg, &p->cancel);
        finished(p);
        return 0;
    }
    pthread_mutex_lock(&p->engine);
    int rc = p->threaded ? 0 : start_thread(p);
    if (rc == 0) {
        p->arg = arg;
        p->job = job;
        pthread_cond_broadcast(&p->changed);
    } else {
        atomic_store(&p->running, 0);
        emu_error(p->board, true, "no thread for the engine: %s", strerror(rc));
    }
    pthread_mutex_unlock(&p->engine);
    return rc;
}

bool emu_port_running(struct emu_port *p) { return atomic_load(&p->running); }

void emu_port_stop(struct emu_port *p)
{
    if (!atomic_load(&p->running))
        return;
    atomic_store(&p->cancel, 1);
    pthread_mutex_lock(&p->engine);
    while (atomic_load(&p->running))
        pthread_cond_wait(&p->changed, &p->engine);
    pthread_mutex_unlock(&p->engine);
}
