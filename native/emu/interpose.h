/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interpose.h: emulated boards below the drivers' device files.  With libfpgahal-emu-dfl.so in LD_PRELOAD
 * the files <rack>/dev/dfl-{port,fme}.N and <rack>/dev/intel-fpga-{port,fme}.N behave as the kernel's DFL
 * driver and Intel's older driver do: the strictest test of a program that talks to them.  So do files of
 * those names in /dev, when FPGAHAL_EMU_RACK names a rack.
 *
 *   interpose.c        the functions of libc that a program uses on these files
 *   interpose_node.c   what the drivers do: open, close, ioctl
 *   interpose_mmio.c   loads and stores in mapped registers
 */
#ifndef FPGAHAL_EMU_INTERPOSE_H
#define FPGAHAL_EMU_INTERPOSE_H

#include "port.h"

#include <sys/types.h>

/* An open file of the kernel's: made by open, gone when it is neither open nor mapped any more. */
struct node {
    struct emu_rack *rack;
    struct emu_board *board;
    struct emu_port *port; /* NULL: FME */
    bool old; /* the intel-fpga driver, else DFL */
    int hold;
    pid_t owner; /* a forked child's copy is a plain file */
    unsigned references; /* descriptors, mappings, calls under way; under the lock in interpose.c */
};

/* ---- interpose_node.c.  0 or an errno ---------------------------------------------------------------- */
/* Is `path` a device file of a rack?  Looks only at names and at rack.bin. */
bool node_named(const char *path);
int node_open(const char *path, bool exclusive, struct node **out);
void node_close(struct node *);
int node_ioctl(struct node *, unsigned long request, void *argument);
int node_fault(struct node *, const char *call); /* an injected fault "call" with an errno */

/* ---- interpose_mmio.c --------------------------------------------------------------------------------- */
/* Make [at, at + size) the registers of a port: nothing can be read or written there, and what tries to
 * is served by node_load and node_store. */
void mmio_watch(void *at, size_t size, struct node *);
/* The range is plain memory again, or none.  Its node, to be released; NULL if it was not watched. */
struct node *mmio_forget(void *at);
void mmio_forget_all(void); /* in a forked child */

/* ---- interpose.c -------------------------------------------------------------------------------------- */
void node_acquire(struct node *);
void node_release(struct node *);

#endif
