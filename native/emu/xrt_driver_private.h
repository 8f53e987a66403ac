/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_driver_private.h: what the C files of the driver share. */
#ifndef FPGAHAL_XRT_DRIVER_PRIVATE_H
#define FPGAHAL_XRT_DRIVER_PRIVATE_H

#include "xrt_driver.h"
#include "xrt_private.h"

#define DRV_COMMAND (UINT32_C(1) << 31) /* flag of a command buffer */

struct drv_buffer {
    struct drv_device *owner;
    struct xrt_buffer *buffer; /* NULL: a command buffer */
    uint32_t *packet; /* of a command buffer */
    struct xrt_run *run; /* the last that this command buffer started: it is used again */
    bool busy; /* from start until the packet shows the end */
    uint32_t flags;
    size_t size;
};

struct drv_cu {
    struct xrt_kernel *kernel; /* NULL: no context */
    unsigned users;
};

struct drv_device {
    struct xrt_device *board;
    uint64_t id; /* never used twice */
    pthread_mutex_t lock; /* of what follows; taken before any lock of the board */
    pthread_cond_t changed; /* a command ended */
    uint64_t ended; /* how many did */
    struct drv_cu cus[XCLBIN_MAX_CUS];
    unsigned contexts; /* not on a compute unit */
    struct drv_buffer **buffers; /* by number; NULL: free */
    unsigned nbuffers;
};

/* With the device's lock: the buffer of that number, or NULL and errno. */
struct drv_buffer *drv_buffer_find(struct drv_device *, unsigned number);
/* Stop what the command buffer runs, and wait until its packet shows that. */
void drv_command_stop(struct drv_device *, struct drv_buffer *);
void drv_command_stop_all(struct drv_device *);
void drv_buffer_free_all(struct drv_device *);

#endif
