/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_driver_classes.h: an emulated board as a device of libxrt_coreutil. */
#ifndef FPGAHAL_XRT_DRIVER_CLASSES_H
#define FPGAHAL_XRT_DRIVER_CLASSES_H

#include "xrt_driver.h"
#include "xrt_driver_plug.h"

/* What XRT calls a handle (xclDeviceHandle) points to this. */
struct opened {
    drv_device *device;
    std::shared_ptr<xrt_core::device> core; /* XRT only keeps a weak reference */
};

class board_device final : public xrt_core::device {
public:
    board_device(opened *handle, unsigned id) : device(id), opened_(handle) { }

    /* XRT makes a scheduler, with a thread, for each address that a device had, and ends none before the process:
     * so addresses are used again. */
    static void *operator new(size_t size);
    static void operator delete(void *);

    drv_device *handle() const { return opened_->device; }
    std::string loaded() const;

    void close_device() override;
    void open_context(const unsigned char *uuid, unsigned cu, bool shared) override;
    void close_context(const unsigned char *uuid, unsigned cu) override;
    unsigned alloc_bo(size_t size, unsigned flags) override;
    unsigned alloc_bo(void *user, size_t size, unsigned flags) override;
    void free_bo(unsigned bo) override;
    void copy_bo(unsigned to, unsigned from, size_t size, size_t to_offset, size_t from_offset) override;
    void sync_bo(unsigned bo, int direction, size_t size, size_t offset) override;
    void *map_bo(unsigned bo, bool write) override;
    void unmap_bo(unsigned, void *) override { }
    void get_bo_properties(unsigned bo, void *properties) const override;
    void reg_read(uint32_t cu, uint32_t offset, uint32_t *value) const override;
    void reg_write(uint32_t cu, uint32_t offset, uint32_t value) override;
    void exec_buf(unsigned bo) override;
    int exec_wait(int milliseconds) const override { return drv_command_wait(handle(), milliseconds); }
    void load_axlf(const void *axlf) override;
    void update_scheduler_status() override { }
    void user_reset(int) override;
    void *get_device_handle() const override { return opened_; }
    const xrt_core::query::request &lookup_query(int key) const override;

private:
    opened *opened_;
};

#endif
