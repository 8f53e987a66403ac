/* SPDX-License-Identifier: Apache-2.0 */
/* interpose_node.c: what the two drivers do on open, close and ioctl, on emulated boards. */
#define _GNU_SOURCE 1
#include "../include/dfl_abi.h"
#include "interpose.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { REGISTER_BYTES = EMU_MMIO_BYTES };

/* ---- names --------------------------------------------------------------------------------------------- */

struct name {
    char dir[512]; /* the rack */
    bool old, fme;
    unsigned number;
};

static bool parse(const char *path, struct name *out)
{
    static const struct {
        const char *start;
        bool old, fme;
    } kinds[] = { { "/dev/dfl-port.", false, false }, { "/dev/dfl-fme.", false, true },
                  { "/dev/intel-fpga-port.", true, false }, { "/dev/intel-fpga-fme.", true, true } };
    for (size_t i = 0; path && i < sizeof kinds / sizeof *kinds; i++) {
        const char *at = strstr(path, kinds[i].start);
        char *end;
        if (!at || (size_t)(at - path) >= sizeof out->dir)
            continue;
        const char *digits = at + strlen(kinds[i].start);
        unsigned long number = strtoul(digits, &end, 10);
        if (end == digits || *end || number > 9999)
            continue;
        memcpy(out->dir, path, (size_t)(at - path));
        out->dir[at - path] = '\0';
        out->old = kinds[i].old;
        out->fme = kinds[i].fme;
        out->number = (unsigned)number;
        return true;
    }
    return false;
}

bool node_named(const char *path)
{
    struct name n;
    char mark[600];
    if (!parse(path, &n))
        return false;
    if (!n.dir[0]) { /* /dev itself: of a machine, or container, that was made to look like the rack */
        const char *rack = getenv("FPGAHAL_EMU_RACK");
        return rack && *rack;
    }
    snprintf(mark, sizeof mark, "%s/rack.bin", n.dir);
    return access(mark, F_OK) == 0;
}

/* The board whose port has that number: its identity file lies in the port's folder. */
static struct emu_board *board_of(struct emu_rack *rack, const struct name *n)
{
    char part[64];
    snprintf(part, sizeof part, "/%s-port.%u/afu_id", n->old ? "intel-fpga" : "dfl", n->number);
    for (uint32_t i = 0; i < rack->shared->nboards; i++) {
        struct emu_board *b = &rack->shared->boards[i];
        if (b->family == EMU_OPAE && strstr(b->identity, part))
            return b;
    }
    return NULL;
}

/* ---- open and close ------------------------------------------------------------------------------------- */

int node_fault(struct node *n, const char *call)
{
    int code = 0;
    if (atomic_load(&n->board->vanished))
        return ENODEV;
    return emu_fault(n->rack, n->board, EMU_FAULT_CALL, call, &code) ? code : 0;
}

int node_open(const char *path, bool exclusive, struct node **out)
{
    struct name name;
    bool first = false;
    struct emu_rack *rack = NULL;
    if (parse(path, &name))
        rack = name.dir[0] ? emu_rack_open(name.dir) : emu_rack_current();
    struct emu_board *board = rack ? board_of(rack, &name) : NULL;
    struct node *n = board ? calloc(1, sizeof *n) : NULL;
    if (!n)
        return board ? ENOMEM : ENODEV;
    n->rack = rack;
    n->board = board;
    n->old = name.old;
    n->owner = getpid();
    n->references = 1;
    int rc = node_fault(n, "open");
    if (rc == 0)
        rc = emu_hold(rack, board, name.fme ? "fme" : "afu", exclusive ? EMU_HOLD_EXCLUSIVE : EMU_HOLD_SHARED,
                      &n->hold, &first);
    if (rc == 0 && !name.fme && !(n->port = emu_port_open(rack, board))) {
        emu_hold_release(n->hold);
        rc = ENOMEM;
    }
    if (rc) {
        free(n);
        return rc;
    }
    if (n->port && first) /* the last one may have been killed before it could clean up */
        emu_port_reset(n->port);
    *out = n;
    return 0;
}

/* The last close of a port stops the AFU; what was mapped for it goes with the port. */
void node_close(struct node *n)
{
    if (n->port) {
        if (emu_hold_only(n->hold))
            emu_port_reset(n->port);
        emu_port_close(n->port);
    }
    emu_hold_release(n->hold);
    free(n);
}

/* ---- port ------------------------------------------------------------------------------------------------ */

static int port_info(bool old, void *argument)
{
    if (old) {
        struct old_port_info *i = argument;
        if (i->argsz < sizeof *i)
            return EINVAL;
        *i = (struct old_port_info) { .argsz = sizeof *i, .capability = 3, .num_regions = 1,
                                      .num_uafu_irqs = EMU_VECTORS };
    } else {
        struct dfl_port_info *i = argument;
        if (i->argsz < sizeof *i)
            return EINVAL;
        *i = (struct dfl_port_info) { .argsz = sizeof *i, .num_regions = 1 };
    }
    return 0;
}

static int region_info(struct dfl_region_info *i)
{
    if (i->argsz < sizeof *i || i->padding || i->index != DFL_REGION_AFU)
        return EINVAL;
    i->flags = DFL_REGION_READ | DFL_REGION_WRITE | DFL_REGION_MMAP;
    i->size = REGISTER_BYTES;
    i->offset = 0;
    return 0;
}

/* The rules of the drivers but one: pages need not be neighbours in physical memory, which no program
 * without rights can see or arrange.  Mappings belong to the port, not to the file they were made through. */
static int dma_map(struct emu_port *p, struct dfl_dma_map *m)
{
    if (m->argsz < sizeof *m || (m->flags & ~(uint32_t)(DFL_DMA_TO_DEVICE | DFL_DMA_FROM_DEVICE)))
        return EINVAL;
    if (m->length == 0 || m->length % EMU_PAGE || m->user_addr % EMU_PAGE || m->user_addr + m->length < m->user_addr)
        return EINVAL;
    void *host = (void *)(uintptr_t)m->user_addr;
    if (msync(host, m->length, MS_ASYNC) != 0) /* fails where nothing is mapped */
        return EFAULT;
    struct emu_mapping mapping = { .host = host, .size = m->length, .readonly = m->flags == DFL_DMA_TO_DEVICE };
    int rc = emu_port_map_as(p, &mapping);
    m->iova = mapping.iova;
    return rc;
}

static int dma_unmap(struct emu_port *p, const struct dfl_dma_unmap *m)
{
    if (m->argsz < sizeof *m || m->flags)
        return EINVAL;
    return emu_port_unmap(p, m->iova) ? EINVAL : 0;
}

static int user_irq(struct emu_port *p, uint32_t start, uint32_t count, const int32_t *fds)
{
    if (count == 0 || start >= EMU_VECTORS || count > EMU_VECTORS - start)
        return EINVAL;
    for (uint32_t i = 0; i < count; i++)
        emu_port_set_irq(p, start + i, fds[i]);
    return 0;
}

static int error_irq(struct emu_port *p, uint32_t start, uint32_t count, int32_t fd)
{
    if (start != 0 || count != 1)
        return EINVAL;
    emu_port_set_error_event(p, fd);
    return 0;
}

static int port_ioctl(struct node *n, unsigned long request, void *argument)
{
    const struct dfl_irq_set *irq = argument;
    const struct old_user_irq *user = argument;
    const struct old_error_irq *error = argument;
    const char *name;
    int rc;
#define CALL(text, expression) (name = (text), (rc = node_fault(n, name)) ? rc : (expression))
    switch (request - (n->old ? OLD_GET_API_VERSION - DFL_GET_API_VERSION : 0)) {
    case DFL_GET_API_VERSION:
    case DFL_CHECK_EXTENSION: return 0;
    case DFL_PORT_RESET: return CALL("PORT_RESET", argument ? EINVAL : emu_port_reset(n->port));
    case DFL_PORT_GET_INFO: return CALL("PORT_GET_INFO", port_info(n->old, argument));
    case DFL_PORT_GET_REGION_INFO: return CALL("PORT_GET_REGION_INFO", region_info(argument));
    case DFL_PORT_DMA_MAP: return CALL("PORT_DMA_MAP", dma_map(n->port, argument));
    case DFL_PORT_DMA_UNMAP: return CALL("PORT_DMA_UNMAP", dma_unmap(n->port, argument));
    }
    if (n->old) {
        switch (request) {
        case OLD_PORT_ERR_SET_IRQ: return CALL("SET_IRQ", error_irq(n->port, 0, 1, error->evtfd));
        case OLD_PORT_UAFU_SET_IRQ: return CALL("SET_IRQ", user_irq(n->port, user->start, user->count, user->evtfd));
        }
        return EINVAL;
    }
    switch (request) {
    case DFL_PORT_ERR_GET_IRQ_NUM: *(uint32_t *)argument = 1; return 0;
    case DFL_PORT_UINT_GET_IRQ_NUM: *(uint32_t *)argument = EMU_VECTORS; return 0;
    case DFL_PORT_ERR_SET_IRQ: return CALL("SET_IRQ", error_irq(n->port, irq->start, irq->count, irq->evtfd[0]));
    case DFL_PORT_UINT_SET_IRQ: return CALL("SET_IRQ", user_irq(n->port, irq->start, irq->count, irq->evtfd));
    }
    return EINVAL;
}

/* ---- FME -------------------------------------------------------------------------------------------------- */

/* The driver is given bits without metadata, so only an emulated image says what it will be.  0, or an errno
 * and what the old driver's status word says. */
static int reconfigure(struct node *n, const uint8_t *data, size_t size, uint64_t *status)
{
    uint8_t interface_id[16], afu_id[16];
    int kind = emu_image_check(data, size, interface_id, afu_id), rc;
    *status = 0;
    if (kind == ENOMSG) {
        emu_error(n->board, true, "FME_PORT_PR: this is no emulated image, and nothing else runs here");
        *status = OLD_PR_INCOMPATIBLE;
    } else if (kind) {
        *status = OLD_PR_CRC;
    } else if (memcmp(interface_id, n->board->interface_id, 16) != 0 || !emu_model_by_afu(afu_id)) {
        *status = OLD_PR_INCOMPATIBLE;
    }
    rc = *status ? emu_program_broken(n->rack, n->board) : emu_program(n->rack, n->board, afu_id);
    if (rc == EIO && !*status)
        *status = OLD_PR_OPERATION;
    return rc;
}

static int fme_ioctl(struct node *n, unsigned long request, void *argument)
{
    struct dfl_port_pr *pr = argument;
    uint64_t status;
    if (request == (n->old ? OLD_GET_API_VERSION : DFL_GET_API_VERSION)
        || request == (n->old ? OLD_CHECK_EXTENSION : DFL_CHECK_EXTENSION))
        return 0;
    if (request != (n->old ? OLD_FME_PORT_PR : DFL_FME_PORT_PR))
        return EINVAL;
    int rc = node_fault(n, "FME_PORT_PR");
    if (rc)
        return rc;
    if (pr->argsz < (n->old ? sizeof(struct old_port_pr) : sizeof *pr) || pr->flags || pr->port_id != 0
        || pr->buffer_size == 0)
        return EINVAL;
    const uint8_t *data = (const uint8_t *)(uintptr_t)pr->buffer_address;
    uintptr_t page = pr->buffer_address & ~(uintptr_t)(EMU_PAGE - 1);
    if (!data || msync((void *)page, pr->buffer_address - page + pr->buffer_size, MS_ASYNC) != 0)
        return EFAULT;
    rc = reconfigure(n, data, pr->buffer_size, &status);
    if (n->old)
        ((struct old_port_pr *)argument)->status = status;
    return rc;
}

int node_ioctl(struct node *n, unsigned long request, void *argument)
{
    if (atomic_load(&n->board->vanished))
        return ENODEV;
    bool takes_none = request == DFL_PORT_RESET || request == OLD_PORT_RESET || (request & 0xff) <= 1;
    if (!argument && !takes_none)
        return EFAULT;
    return n->port ? port_ioctl(n, request, argument) : fme_ioctl(n, request, argument);
}
