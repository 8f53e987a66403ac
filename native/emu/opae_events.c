/* SPDX-License-Identifier: Apache-2.0 */
/* opae_events.c: events: user interrupts, and errors of ports and devices. */
#define _GNU_SOURCE 1
#include "opae.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct opae_event *opae_event(fpga_event_handle e)
{
    struct opae_event *event = e;
    return event && event->object.magic == OPAE_EVENT ? event : NULL;
}

fpga_result fpgaCreateEventHandle(fpga_event_handle *out)
{
    if (!out)
        return FPGA_INVALID_PARAM;
    struct opae_event *e = opae_new(OPAE_EVENT, sizeof *e);
    if (!e)
        return FPGA_NO_MEMORY;
    e->fd = -1;
    *out = e;
    return FPGA_OK;
}

fpga_result fpgaDestroyEventHandle(fpga_event_handle *event)
{
    struct opae_event *e = event ? opae_event(*event) : NULL;
    if (!e)
        return FPGA_INVALID_PARAM;
    if (e->fd >= 0) {
        emu_port_forget_event(e->fd);
        close(e->fd);
    }
    opae_free(e);
    *event = NULL;
    return FPGA_OK;
}

/* As in the vendor's library the descriptor exists only once the event is registered. */
fpga_result fpgaGetOSObjectFromEventHandle(const fpga_event_handle event, int *fd)
{
    struct opae_event *e = opae_event(event);
    if (!e || !fd || e->fd < 0)
        return FPGA_INVALID_PARAM;
    *fd = e->fd;
    return FPGA_OK;
}

fpga_result fpgaRegisterEvent(fpga_handle handle, fpga_event_type type, fpga_event_handle event, uint32_t flags)
{
    struct opae_handle *h = opae_handle(handle);
    struct opae_event *e = opae_event(event);
    if (!h || !e)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(h);
    if (type == FPGA_EVENT_POWER_THERMAL)
        return FPGA_NO_DAEMON; /* these come from a daemon, and there is none */
    if (type == FPGA_EVENT_INTERRUPT && (!h->port || flags >= EMU_VECTORS)) /* a device has no user interrupts */
        return FPGA_INVALID_PARAM;
    if (type != FPGA_EVENT_INTERRUPT && type != FPGA_EVENT_ERROR)
        return FPGA_INVALID_PARAM;
    if (e->fd < 0 && (e->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        return FPGA_EXCEPTION;
    e->handle = h->id;
    e->device = h->port ? NULL : h->board;
    if (e->device)
        return FPGA_OK;
    if (type == FPGA_EVENT_INTERRUPT)
        emu_port_set_irq(h->port, flags, e->fd);
    else
        emu_port_set_error_event(h->port, e->fd);
    return FPGA_OK;
}

fpga_result fpgaUnregisterEvent(fpga_handle handle, fpga_event_type type, fpga_event_handle event)
{
    struct opae_handle *h = opae_handle(handle);
    struct opae_event *e = opae_event(event);
    (void)type;
    if (!h || !e || e->handle != h->id)
        return FPGA_INVALID_PARAM;
    OPAE_ENTER(h);
    emu_port_forget_event(e->fd);
    e->handle = 0;
    return FPGA_OK;
}

static void tell(void *object, void *context)
{
    struct opae_event *e = object;
    const uint64_t one = 1;
    if (e->handle && e->device == context && write(e->fd, &one, sizeof one) < 0)
        return; /* it is as full as it can be: who waits for it has been told */
}

void opae_events_device_error(const struct emu_board *b) { opae_each(OPAE_EVENT, tell, (void *)b); }

struct one_of {
    uint64_t handle;
    int fd;
};

static void take_one(void *object, void *context)
{
    struct opae_event *e = object;
    struct one_of *wanted = context;
    if (wanted->fd < 0 && e->handle == wanted->handle) {
        wanted->fd = e->fd;
        e->handle = 0;
    }
}

/* One after the other, because ports must not be asked while the list of events is locked. */
void opae_events_close(struct opae_handle *h)
{
    for (;;) {
        struct one_of event = { h->id, -1 };
        opae_each(OPAE_EVENT, take_one, &event);
        if (event.fd < 0)
            return;
        emu_port_forget_event(event.fd);
    }
}
