/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_driver_plug.h: the classes between libxrt_coreutil 2.13 and its driver, as far as their binary form goes.
 *
 * Own declarations.  What counts is the order of the virtual functions (Itanium C++ ABI), not their names; those that
 * a driver of emulated boards has no use for are called `absentN`.  Debian builds with AIE, hence slots 37 to 57.
 * libxrt_coreutil defines the key functions (~device, get_device_id) and with them vtables and type information.
 */
#ifndef FPGAHAL_XRT_DRIVER_PLUG_H
#define FPGAHAL_XRT_DRIVER_PLUG_H

#include <boost/any.hpp>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#define XRT_PLUG __attribute__((visibility("default")))
#define XRT_ABSENT(n) virtual void absent##n() const { xrt_core::absent(); }

namespace xrt_core {

/* XRT's C functions put the code of this one into errno.  It is found by the names of the types. */
class XRT_PLUG system_error : public std::system_error {
public:
    system_error(int code, const std::string &what) : std::system_error(code, std::system_category(), what) { }
};
class XRT_PLUG generic_error : public system_error {
public:
    using system_error::system_error;
};
class XRT_PLUG error : public generic_error {
public:
    using generic_error::generic_error;
};

[[noreturn]] inline void absent()
{
    throw error(95 /* EOPNOTSUPP */, "EMULATED: the emulated board has no such function");
}

class device;

namespace query {

class XRT_PLUG exception : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class XRT_PLUG no_such_key : public exception {
public:
    explicit no_such_key(int key) : exception("no such key"), key(key) { }
    int key;
};

struct XRT_PLUG request { /* 8 slots */
    virtual ~request() { }
    virtual boost::any get(const device *) const { absent(); }
    virtual boost::any get(const device *, const boost::any &) const { absent(); }
    virtual boost::any get(const device *, const boost::any &, const boost::any &) const { absent(); }
    virtual boost::any get(const device *, int, const std::string &) const { absent(); }
    virtual boost::any get(const device *, const boost::any &, const boost::any &, const boost::any &) const
    {
        absent();
    }
    virtual void put(const device *, const boost::any &) const { absent(); }
};

} // namespace query

class XRT_PLUG device { /* 71 slots */
public:
    explicit device(unsigned id);
    device(const device &) = delete;

    virtual void close_device() = 0; /* 1 */
    virtual void open_context(const unsigned char *uuid, unsigned cu, bool shared) = 0;
    virtual void close_context(const unsigned char *uuid, unsigned cu) = 0;
    virtual unsigned alloc_bo(size_t size, unsigned flags) = 0;
    virtual unsigned alloc_bo(void *user, size_t size, unsigned flags) = 0; /* 5 */
    virtual void free_bo(unsigned bo) = 0;
    XRT_ABSENT(7) /* export_bo */
    XRT_ABSENT(8) /* import_bo */
    XRT_ABSENT(9) XRT_ABSENT(10)
    virtual void copy_bo(unsigned to, unsigned from, size_t size, size_t to_offset, size_t from_offset) = 0; /* 11 */
    virtual void sync_bo(unsigned bo, int direction, size_t size, size_t offset) = 0;
    virtual void *map_bo(unsigned bo, bool write) = 0;
    virtual void unmap_bo(unsigned bo, void *) = 0;
    virtual void get_bo_properties(unsigned bo, void *properties) const = 0; /* 15 */
    virtual void reg_read(uint32_t cu, uint32_t offset, uint32_t *value) const = 0;
    virtual void reg_write(uint32_t cu, uint32_t offset, uint32_t value) = 0;
    XRT_ABSENT(18) /* raw access to the bus: 18 to 21 */
    XRT_ABSENT(19) XRT_ABSENT(20) XRT_ABSENT(21)
    virtual void exec_buf(unsigned bo) = 0; /* 22 */
    virtual int exec_wait(int milliseconds) const = 0;
    virtual void load_axlf(const void *axlf) = 0;
    XRT_ABSENT(25) /* clocks, P2P, host memory: 25 to 28 */
    XRT_ABSENT(26) XRT_ABSENT(27) XRT_ABSENT(28)
    virtual void update_scheduler_status() = 0; /* 29 */
    virtual void user_reset(int kind) = 0;
    XRT_ABSENT(31) /* interrupts: 31 to 36 */
    XRT_ABSENT(32) XRT_ABSENT(33) XRT_ABSENT(34) XRT_ABSENT(35) XRT_ABSENT(36)
    XRT_ABSENT(37) /* AIE: 37 to 57 */
    XRT_ABSENT(38) XRT_ABSENT(39) XRT_ABSENT(40) XRT_ABSENT(41) XRT_ABSENT(42) XRT_ABSENT(43)
    XRT_ABSENT(44) XRT_ABSENT(45) XRT_ABSENT(46) XRT_ABSENT(47) XRT_ABSENT(48) XRT_ABSENT(49) XRT_ABSENT(50)
    XRT_ABSENT(51) XRT_ABSENT(52) XRT_ABSENT(53) XRT_ABSENT(54) XRT_ABSENT(55) XRT_ABSENT(56) XRT_ABSENT(57)
    virtual ~device(); /* 58, 59 */
    virtual void *get_device_handle() const = 0; /* 60 */
    virtual void *get_mgmt_handle() const { absent(); }
    virtual void *get_user_handle() const { return get_device_handle(); }
    virtual bool is_userpf() const { return true; }
    virtual const query::request &lookup_query(int key) const = 0;
    XRT_ABSENT(65) /* get_info, raw files, reset of the card: 65 to 71 */
    XRT_ABSENT(66) XRT_ABSENT(67) XRT_ABSENT(68) XRT_ABSENT(69) XRT_ABSENT(70) XRT_ABSENT(71)

    void register_axlf(const void *axlf) { register_axlf_(this, axlf); }

private:
    /* Its parameter is a struct axlf, which needs no declaration here. */
    static void register_axlf_(device *, const void *) __asm__("_ZN8xrt_core6device13register_axlfEPK4axlf");
    alignas(8) unsigned char members_[504]; /* of the library's; 2.13 uses about 112 bytes */
};

class XRT_PLUG system { /* 12 slots */
public:
    system();
    virtual void get_xrt_info(void *) { }
    virtual void get_os_info(void *) { } /* for the banner: must not throw */
    virtual void get_devices(void *) const { }
    virtual unsigned get_device_id(const std::string &text) const;
    virtual std::pair<unsigned, unsigned> get_total_devices(bool user) const = 0; /* 5: all, ready */
    virtual std::shared_ptr<device> get_userpf_device(unsigned id) const = 0;
    virtual std::shared_ptr<device> get_userpf_device(void *handle, unsigned id) const = 0;
    virtual std::shared_ptr<device> get_mgmtpf_device(unsigned) const { absent(); }
    virtual int get_monitor_access_type() const { return 0; }
    XRT_ABSENT(10) XRT_ABSENT(11) XRT_ABSENT(12)

private:
    alignas(8) unsigned char members_[64];
};

XRT_PLUG std::shared_ptr<device> get_userpf_device(void *handle, unsigned id);

} // namespace xrt_core

#endif
