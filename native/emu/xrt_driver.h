/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_driver.h: emulated boards as a driver of the real XRT sees its cards.  C below (xrt_driver_*.c, over the same
 * files as the stand-alone library), C++ above (xrt_driver.cpp, the shape that libxrt_coreutil wants).
 *
 * Functions give 0 (or what they say), or -1 / NULL with errno and a text in drv_error().
 */
#ifndef FPGAHAL_XRT_DRIVER_H
#define FPGAHAL_XRT_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DRV_VIRTUAL_CU UINT32_MAX /* a context that is not on a compute unit */

struct drv_device; /* one open handle; several on one board share its memory */

struct drv_info {
    uint16_t segment, bus, device, function;
    uint16_t vendor_id, device_id, subvendor_id, subdevice_id;
    uint64_t timestamp;
    char vbnv[64], name[64];
    char interface_id[33]; /* hex digits; empty: none */
};

struct drv_properties { /* of a buffer, as XRT wants them */
    uint32_t handle, flags;
    uint64_t size, address;
};

const char *drv_error(void);
int drv_fault(struct drv_device *, const char *call); /* -1 if an injected fault, or a board that is gone, ends it */

/* xrt_driver_device.c */
unsigned drv_count(void);
int drv_index(const char *bdf, unsigned *index);
struct drv_device *drv_open(unsigned index);
void drv_close(struct drv_device *);
void drv_describe(const struct drv_device *, struct drv_info *);
int drv_loaded(struct drv_device *, char uuid[37]); /* empty text: nothing is loaded */
int drv_load(struct drv_device *, const void *axlf);
int drv_context_open(struct drv_device *, const unsigned char *uuid, uint32_t cu, int shared);
int drv_context_close(struct drv_device *, uint32_t cu);
int drv_register_read(struct drv_device *, uint32_t cu, uint32_t offset, uint32_t *value);
int drv_register_write(struct drv_device *, uint32_t cu, uint32_t offset, uint32_t value);
int drv_reset(struct drv_device *);

/* xrt_driver_buffer.c */
int drv_buffer_make(struct drv_device *, void *user, size_t size, uint32_t flags, unsigned *number);
int drv_buffer_free(struct drv_device *, unsigned number);
void *drv_buffer_map(struct drv_device *, unsigned number);
int drv_buffer_sync(struct drv_device *, unsigned number, int direction, size_t size, size_t offset);
int drv_buffer_copy(struct drv_device *, unsigned to, unsigned from, size_t size, size_t to_offset, size_t from_offset);
int drv_buffer_properties(struct drv_device *, unsigned number, struct drv_properties *);

/* xrt_driver_command.c */
int drv_command_start(struct drv_device *, unsigned number);
int drv_command_wait(struct drv_device *, int milliseconds); /* 1: some ended; 0: none did in that time */

#ifdef __cplusplus
}
#endif
#endif
