/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interpose_mmio.c: registers that a program has mapped.
 *
 * The program loads and stores through a pointer, and each store must reach the accelerator's model before
 * the next instruction runs.  So nothing is mapped there (PROT_NONE), and the SIGSEGV handler carries the
 * instruction out: it decodes the MOV, asks the board core, and steps over it.  Compared with making the page
 * writable for one single-stepped instruction that leaves no moment in which another thread's store gets lost,
 * needs one signal and no mprotect, and loads are served as well: a register that the engine, a port reset or
 * another process has just changed is never stale, and a card that is gone reads as all ones.  The price: only
 * x86-64, and only the forms of MOV that compilers use for a volatile access; another one is reported.
 */
#define _GNU_SOURCE 1
#include "interpose.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the decoder below knows x86-64"
#endif

enum { RANGES = 64 };
static struct range {
    char *at; /* NULL: never used */
    size_t size;
    struct node *node; /* NULL: forgotten, but somebody may just have been trapped in it */
} ranges[RANGES];
static _Atomic unsigned watched; /* ranges with a node */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before; /* whose handler was there */

/* ---- instructions --------------------------------------------------------------------------------------- */

struct move {
    unsigned length, bytes; /* of the instruction; of the datum: 4 or 8 */
    bool store, immediate;
    unsigned reg;
    uint64_t value; /* immediate */
};

/* Length of ModRM, SIB and displacement. */
static unsigned modrm_length(const uint8_t *at)
{
    unsigned mod = at[0] >> 6, rm = at[0] & 7, n = 1;
    if (rm == 4) {
        n++;
        if (mod == 0 && (at[1] & 7) == 5)
            n += 4;
    }
    return n + (mod == 1 ? 1 : mod == 2 || (mod == 0 && rm == 5) ? 4 : 0);
}

static bool decode(const uint8_t *at, struct move *m)
{
    const uint8_t *start = at;
    uint8_t rex = (*at & 0xf0) == 0x40 ? *at++ : 0;
    uint8_t opcode = *at++;
    m->bytes = rex & 8 ? 8 : 4;
    m->store = opcode != 0x8b;
    m->immediate = opcode == 0xc7;
    if ((opcode != 0x8b && opcode != 0x89 && opcode != 0xc7) || at[0] >> 6 == 3)
        return false;
    m->reg = (at[0] >> 3 & 7) | (rex & 4 ? 8 : 0);
    if (m->immediate && (at[0] >> 3 & 7) != 0)
        return false;
    at += modrm_length(at);
    if (m->immediate) {
        int32_t value;
        memcpy(&value, at, sizeof value);
        m->value = m->bytes == 8 ? (uint64_t)(int64_t)value : (uint32_t)value;
        at += 4;
    }
    m->length = (unsigned)(at - start);
    return true;
}

static greg_t *register_of(ucontext_t *context, unsigned reg)
{
    static const int names[] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
    return &context->uc_mcontext.gregs[names[reg]];
}

/* ---- the handler ---------------------------------------------------------------------------------------- */

static void carry_out(struct node *n, uint64_t offset, const struct move *m, ucontext_t *context)
{
    uint64_t value = UINT64_MAX; /* what a read of the bus gives when nobody answers */
    if (m->store) {
        value = m->immediate ? m->value : (uint64_t)*register_of(context, m->reg);
        emu_port_write(n->port, offset, m->bytes, m->bytes == 8 ? value : (uint32_t)value);
        return;
    }
    if (emu_port_read(n->port, offset, m->bytes, &value) != 0)
        value = UINT64_MAX;
    *register_of(context, m->reg) = (greg_t)(m->bytes == 8 ? value : (uint32_t)value); /* upper half becomes 0 */
}

/* The range of an address, its node acquired.  One that was forgotten may overlap one that is in use. */
static bool find(const char *address, struct range *out)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < RANGES && !(found && out->node); i++) {
        if (ranges[i].at && address >= ranges[i].at && address < ranges[i].at + ranges[i].size) {
            *out = ranges[i];
            found = true;
        }
    }
    if (found && out->node)
        node_acquire(out->node);
    pthread_mutex_unlock(&lock);
    return found;
}

static void pass_on(int number, siginfo_t *info, void *context)
{
    if (before.sa_flags & SA_SIGINFO && before.sa_sigaction) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else { /* as if we had never been here: the instruction runs again, and kills */
        signal(number, SIG_DFL);
    }
}

/* It may take locks and write texts: the program was at a load or store of its own, not inside libc. */
static void trapped(int number, siginfo_t *info, void *ucontext)
{
    static _Thread_local unsigned in_vain; /* how often the same thread was here with nothing to do */
    int saved = errno;
    ucontext_t *context = ucontext;
    struct range r = { 0 };
    struct move m;
    const uint8_t *ip = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    bool ours = find(info->si_addr, &r);
    if (ours && r.node && decode(ip, &m)) {
        in_vain = 0;
        carry_out(r.node, (uint64_t)((char *)info->si_addr - r.at), &m, context);
        context->uc_mcontext.gregs[REG_RIP] += m.length;
    } else if (ours && !r.node && in_vain++ < 1000) {
        /* the range became plain memory after the trap: the instruction runs again */
    } else {
        if (ours)
            emu_error(r.node ? r.node->board : NULL, true, "register access by an instruction that is no plain MOV: "
                      "%02x %02x %02x %02x", ip[0], ip[1], ip[2], ip[3]);
        pass_on(number, info, ucontext);
    }
    if (r.node)
        node_release(r.node);
    errno = saved;
}

/* Each time, because others (Python's faulthandler) may have put theirs in front meanwhile. */
static void install(void)
{
    struct sigaction now, own = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER };
    sigemptyset(&own.sa_mask);
    if (sigaction(SIGSEGV, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO && now.sa_sigaction == trapped)) {
        before = now;
        sigaction(SIGSEGV, &own, NULL);
    }
}

/* ---- ranges ----------------------------------------------------------------------------------------------- */

void mmio_watch(void *at, size_t size, struct node *node)
{
    struct range *place = NULL;
    pthread_mutex_lock(&lock);
    for (int i = RANGES - 1; i >= 0; i--) { /* best the one that was there before, else one never used */
        struct range *r = &ranges[i];
        if (!r->node && (!place || (r->at == at) > (place->at == at) || (place->at != at && !r->at)))
            place = r;
    }
    if (place) {
        *place = (struct range) { at, size, node };
        atomic_fetch_add(&watched, 1);
    }
    install();
    pthread_mutex_unlock(&lock);
    if (!place)
        emu_error(node->board, true, "more than %d mappings of registers", RANGES);
}

struct node *mmio_forget(void *at)
{
    struct node *node = NULL;
    if (atomic_load(&watched) == 0) /* as nearly always: every munmap of the program asks */
        return NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < RANGES && !node; i++) {
        if (ranges[i].at == at && ranges[i].node) {
            node = ranges[i].node;
            ranges[i].node = NULL;
            atomic_fetch_sub(&watched, 1);
        }
    }
    pthread_mutex_unlock(&lock);
    return node;
}

/* A child has none of its parent's ports.  It is alone, so the lock is its own, whoever held it. */
void mmio_forget_all(void)
{
    pthread_mutex_init(&lock, NULL);
    atomic_store(&watched, 0);
    for (int i = 0; i < RANGES; i++)
        ranges[i].node = NULL;
}
