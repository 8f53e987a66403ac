// SPDX-License-Identifier: Apache-2.0
// A program for XRT's C++ API, as a user of a card would write it; it knows nothing of emulation.
//   xrt_app IMAGE      IMAGE has the kernels vadd and passthrough
#include <experimental/xrt_ip.h>
#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_kernel.h>

#include <chrono>
#include <cstdint>
#include <iostream>
#include <stdexcept>
#include <vector>

static void require(bool good, const char *what)
{
    if (!good)
        throw std::runtime_error(std::string("failed: ") + what);
    std::cout << "ok " << what << std::endl;
}

static void add(const xrt::device &device, const xrt::uuid &uuid)
{
    constexpr uint32_t n = 100000;
    xrt::kernel vadd(device, uuid, "vadd");
    xrt::bo a(device, n * 4, vadd.group_id(0)), b(device, n * 4, vadd.group_id(1)), out(device, n * 4, vadd.group_id(2));
    auto pa = a.map<uint32_t *>(), pb = b.map<uint32_t *>(), po = out.map<uint32_t *>();
    for (uint32_t i = 0; i < n; i++) {
        pa[i] = i;
        pb[i] = 3 * i;
        po[i] = 0;
    }
    a.sync(XCL_BO_SYNC_BO_TO_DEVICE);
    b.sync(XCL_BO_SYNC_BO_TO_DEVICE);
    xrt::run run = vadd(a, b, out, n);
    require(run.wait(std::chrono::milliseconds(10000)) == ERT_CMD_STATE_COMPLETED, "vadd completes");
    require(po[1] == 0, "nothing arrives without a sync");
    out.sync(XCL_BO_SYNC_BO_FROM_DEVICE);
    bool good = true;
    for (uint32_t i = 0; i < n; i++)
        good = good && po[i] == 4 * i;
    require(good, "vadd adds");
    for (int i = 0; i < 1000; i++) {
        run.start();
        run.wait();
    }
    require(run.state() == ERT_CMD_STATE_COMPLETED, "1000 runs");
    bool refused = false;
    try {
        a.sync(XCL_BO_SYNC_BO_TO_DEVICE, n * 4, 4);
    } catch (const std::exception &) {
        refused = true;
    }
    require(refused, "a sync over the end is refused");
}

static void registers(const xrt::device &device, const xrt::uuid &uuid)
{
    xrt::ip ip(device, uuid, "passthrough:{passthrough_1}");
    ip.write_register(0x10, 0x12345678);
    require(ip.read_register(0x10) == 0x12345678, "registers of a compute unit");
}

int main(int argc, char **argv)
try {
    if (argc != 2)
        throw std::runtime_error("usage: xrt_app IMAGE");
    xrt::device device(0);
    auto uuid = device.load_xclbin(argv[1]);
    require(device.get_xclbin_uuid() == uuid, "the image is loaded");
    std::cout << "board " << device.get_info<xrt::info::device::bdf>() << std::endl;
    add(device, uuid);
    registers(device, uuid);
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << std::endl;
    return 1;
}
