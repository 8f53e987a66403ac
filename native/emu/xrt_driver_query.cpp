/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_driver_query.cpp: what an emulated board answers to XRT's queries.  An answer must hold exactly the type that
 * XRT 2.13 expects for that key; a key that is not here is one that the board does not have.
 */
#include "xrt_driver_classes.h"

#include <map>
#include <tuple>
#include <vector>

namespace {

using xrt_core::query::request;
using answer = boost::any (*)(const board_device &, const drv_info &);

class query_of : public request {
public:
    explicit query_of(answer a) : answer_(a) { }

    boost::any get(const xrt_core::device *device) const override
    {
        auto board = static_cast<const board_device *>(device);
        drv_info info;
        drv_describe(board->handle(), &info);
        return answer_(*board, info);
    }

private:
    answer answer_;
};

boost::any text_if(const char *text)
{
    return *text ? std::vector<std::string>{ text } : std::vector<std::string>{};
}

#define ANSWER(expression)                                                                                             \
    query_of([](const board_device &board, const drv_info &info) -> boost::any {                                       \
        (void)board, (void)info;                                                                                       \
        return expression;                                                                                             \
    })

const std::map<int, query_of> &answers()
{
    static const std::map<int, query_of> all = {
        { 0, ANSWER(info.vendor_id) },
        { 1, ANSWER(info.device_id) },
        { 2, ANSWER(info.subvendor_id) },
        { 3, ANSWER(info.subdevice_id) },
        { 8, ANSWER(std::make_tuple(info.segment, info.bus, info.device, info.function)) },
        { 12, ANSWER(std::string(info.vbnv)) },
        { 15, ANSWER(std::string(info.name)) }, /* name of the FPGA */
        { 17, ANSWER(std::string(info.interface_id)) },
        { 18, ANSWER(info.timestamp) },
        { 19, ANSWER(board.loaded()) }, /* UUID of the xclbin */
        { 60, ANSWER(uint32_t{ 1 }) }, /* copies between buffers on the card */
        { 62, ANSWER(uint32_t{ 0 }) }, /* needs no DMA */
        { 147, ANSWER(false) }, /* golden image */
        { 150, ANSWER(true) }, /* ready */
        { 151, ANSWER(false) }, /* offline */
        { 156, ANSWER(text_if(info.interface_id)) },
        { 157, ANSWER(text_if(info.interface_id)) },
    };
    return all;
}

} // namespace

const request &board_device::lookup_query(int key) const
{
    auto found = answers().find(key);
    if (found == answers().end())
        throw xrt_core::query::no_such_key(key);
    return found->second;
}
