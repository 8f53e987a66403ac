/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_driver.cpp: emulated boards under the real libxrt_coreutil 2.13, which loads this library as its driver
 * ($XILINX_XRT/lib/libxrt_core.so.2), or finds it there when it was loaded before the first XRT call.
 *
 * Between XRT's C++ calls and the boards (xrt_driver.h): failures become exceptions, and nothing else happens.
 */
#include "emu_control.h"
#include "xrt_driver_classes.h"
#include "xrt_guard.h"

#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

namespace {

[[noreturn]] void fail()
{
    int code = errno;
    throw xrt_core::error(code, drv_error());
}

void check(int result)
{
    if (result < 0)
        fail();
}

} // namespace

/* ---- a device ---------------------------------------------------------------------------------------- */

namespace {

/* The memory of devices that were closed.  Never destroyed: a device may be closed while the process ends. */
struct free_list {
    std::mutex lock;
    std::vector<void *> all;
} &unused = *new free_list;

} // namespace

void *board_device::operator new(size_t size)
{
    std::lock_guard<std::mutex> guard(unused.lock);
    if (unused.all.empty())
        return ::operator new(size);
    void *last = unused.all.back();
    unused.all.pop_back();
    return last;
}

void board_device::operator delete(void *at)
{
    std::lock_guard<std::mutex> guard(unused.lock);
    unused.all.push_back(at);
}

std::string board_device::loaded() const
{
    char uuid[37];
    check(drv_loaded(handle(), uuid));
    return uuid;
}

void board_device::close_device()
{
    opened *handle = opened_;
    auto self = std::move(handle->core); /* ends this object, at the end of this function */
    drv_close(handle->device);
    delete handle;
}

void board_device::open_context(const unsigned char *uuid, unsigned cu, bool shared)
{
    check(drv_context_open(handle(), uuid, cu, shared));
}

void board_device::close_context(const unsigned char *, unsigned cu)
{
    check(drv_context_close(handle(), cu));
}

unsigned board_device::alloc_bo(size_t size, unsigned flags)
{
    return alloc_bo(nullptr, size, flags);
}

unsigned board_device::alloc_bo(void *user, size_t size, unsigned flags)
{
    unsigned number;
    check(drv_buffer_make(handle(), user, size, flags, &number));
    return number;
}

void board_device::free_bo(unsigned bo)
{
    check(drv_buffer_free(handle(), bo));
}

void board_device::copy_bo(unsigned to, unsigned from, size_t size, size_t to_offset, size_t from_offset)
{
    check(drv_buffer_copy(handle(), to, from, size, to_offset, from_offset));
}

void board_device::sync_bo(unsigned bo, int direction, size_t size, size_t offset)
{
    check(drv_buffer_sync(handle(), bo, direction, size, offset));
}

void *board_device::map_bo(unsigned bo, bool)
{
    void *at = drv_buffer_map(handle(), bo);
    if (!at)
        fail();
    return at;
}

void board_device::get_bo_properties(unsigned bo, void *properties) const
{
    drv_properties p{};
    check(drv_buffer_properties(handle(), bo, &p));
    memcpy(properties, &p, sizeof p); /* xclBOProperties begins like this */
}

void board_device::reg_read(uint32_t cu, uint32_t offset, uint32_t *value) const
{
    check(drv_register_read(handle(), cu, offset, value));
}

void board_device::reg_write(uint32_t cu, uint32_t offset, uint32_t value)
{
    check(drv_register_write(handle(), cu, offset, value));
}

void board_device::exec_buf(unsigned bo)
{
    check(drv_command_start(handle(), bo));
}

void board_device::load_axlf(const void *axlf)
{
    check(drv_load(handle(), axlf));
    register_axlf(axlf);
}

void board_device::user_reset(int)
{
    check(drv_reset(handle()));
}

/* ---- the system -------------------------------------------------------------------------------------- */

namespace {

class board_system final : public xrt_core::system {
public:
    unsigned get_device_id(const std::string &text) const override
    {
        if (!text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos)
            return static_cast<unsigned>(std::stoul(text));
        unsigned index;
        check(drv_index(text.c_str(), &index));
        return index;
    }

    std::pair<unsigned, unsigned> get_total_devices(bool user) const override
    {
        unsigned n = user ? drv_count() : 0;
        return { n, n };
    }

    std::shared_ptr<xrt_core::device> get_userpf_device(unsigned id) const override
    {
        drv_device *device = drv_open(id);
        if (!device)
            fail();
        auto handle = new opened{ device, nullptr };
        handle->core = xrt_core::get_userpf_device(handle, id); /* which asks the function below */
        return handle->core;
    }

    std::shared_ptr<xrt_core::device> get_userpf_device(void *handle, unsigned id) const override
    {
        return std::shared_ptr<board_device>(new board_device(static_cast<opened *>(handle), id));
    }
};

/* Never destroyed: XRT may ask it until the process ends.  A second driver in a process would abort it. */
__attribute__((constructor)) void register_system()
{
    char why[256];
    if (xrt_guard(RTLD_DEFAULT, why, sizeof why))
        fprintf(stderr, "EMULATED: libfpgahal-xrt-driver.so is not used: %s\n", why);
    else
        new board_system;
}

} // namespace

/* XRT has no such function in C; fpgahal looks for it here. */
extern "C" FPGAHAL_EMU_API int fpgahal_emu_xrt_reset(void *device)
{
    auto handle_of = reinterpret_cast<void *(*)(void *)>(dlsym(RTLD_DEFAULT, "xrtDeviceToXclDevice"));
    void *handle = handle_of ? handle_of(device) : nullptr;
    if (handle)
        return drv_reset(static_cast<opened *>(handle)->device);
    errno = EINVAL;
    return -1;
}
