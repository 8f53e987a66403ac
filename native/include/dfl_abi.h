/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dfl_abi.h: how Intel's two Linux drivers are asked: the kernel's own DFL driver ("new"), and the older
 * out-of-tree intel-fpga ("old").  Own declarations of numbers and layouts; no kernel header is used.
 * All structures are little endian, x86-64 layout; each that starts with argsz carries its own size there.
 */
#ifndef FPGAHAL_DFL_ABI_H
#define FPGAHAL_DFL_ABI_H

#include <stdint.h>

/* ---- request numbers: the magic is 0xB6 for the new driver, 0xB5 for the old one ---------------------- */
enum {
    DFL_GET_API_VERSION = 0xb600, OLD_GET_API_VERSION = 0xb500,
    DFL_CHECK_EXTENSION = 0xb601, OLD_CHECK_EXTENSION = 0xb501,
    DFL_PORT_RESET = 0xb640, OLD_PORT_RESET = 0xb540,
    DFL_PORT_GET_INFO = 0xb641, OLD_PORT_GET_INFO = 0xb541,
    DFL_PORT_GET_REGION_INFO = 0xb642, OLD_PORT_GET_REGION_INFO = 0xb542,
    DFL_PORT_DMA_MAP = 0xb643, OLD_PORT_DMA_MAP = 0xb543,
    DFL_PORT_DMA_UNMAP = 0xb644, OLD_PORT_DMA_UNMAP = 0xb544,
    OLD_PORT_ERR_SET_IRQ = 0xb549, OLD_PORT_UAFU_SET_IRQ = 0xb54a,
    DFL_PORT_ERR_SET_IRQ = 0x4008b646, DFL_PORT_UINT_SET_IRQ = 0x4008b648,
    DFL_FME_PORT_PR = 0xb680, OLD_FME_PORT_PR = 0xb580,
};
#define DFL_PORT_ERR_GET_IRQ_NUM 0x8004b645u /* out: uint32_t */
#define DFL_PORT_UINT_GET_IRQ_NUM 0x8004b647u

/* ---- structures ---------------------------------------------------------------------------------------- */
struct dfl_port_info { uint32_t argsz, flags, num_regions, num_umsgs; };
struct old_port_info { uint32_t argsz, flags, capability, num_regions, num_umsgs, num_uafu_irqs; };

enum { DFL_REGION_AFU = 0 }; /* region 0: the AFU's registers; 1: SignalTap */
enum { DFL_REGION_READ = 1, DFL_REGION_WRITE = 2, DFL_REGION_MMAP = 4 };
struct dfl_region_info { uint32_t argsz, flags, index, padding; uint64_t size, offset; };

enum { DFL_DMA_TO_DEVICE = 1, DFL_DMA_FROM_DEVICE = 2 }; /* flags; 0 is both ways */
struct dfl_dma_map { uint32_t argsz, flags; uint64_t user_addr, length, iova; };
struct dfl_dma_unmap { uint32_t argsz, flags; uint64_t iova; };

struct dfl_port_pr { uint32_t argsz, flags, port_id, buffer_size; uint64_t buffer_address; };
struct old_port_pr { uint32_t argsz, flags, port_id, buffer_size; uint64_t buffer_address, status; };
enum { /* bits of old_port_pr.status */
    OLD_PR_OPERATION = 1, OLD_PR_CRC = 2, OLD_PR_INCOMPATIBLE = 4, OLD_PR_PROTOCOL = 8, OLD_PR_FIFO = 16,
    OLD_PR_TIMEOUT = 32, OLD_PR_SECURE = 64
};

/* Interrupts: an eventfd a vector; -1 takes it away. */
struct dfl_irq_set { uint32_t start, count; int32_t evtfd[1]; };
struct old_error_irq { uint32_t argsz, flags; int32_t evtfd; };
struct old_user_irq { uint32_t argsz, flags, start, count; int32_t evtfd[1]; };

#define DFL_SIZE_IS(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
DFL_SIZE_IS(dfl_port_info, 16);
DFL_SIZE_IS(old_port_info, 24);
DFL_SIZE_IS(dfl_region_info, 32);
DFL_SIZE_IS(dfl_dma_map, 32);
DFL_SIZE_IS(dfl_dma_unmap, 16);
DFL_SIZE_IS(dfl_port_pr, 24);
DFL_SIZE_IS(old_port_pr, 32);
DFL_SIZE_IS(dfl_irq_set, 12);
DFL_SIZE_IS(old_error_irq, 12);
DFL_SIZE_IS(old_user_irq, 20);

/* One access of exactly this width, neither merged nor split by the compiler. */
static inline uint64_t mmio_read64(const void *at) { return *(const volatile uint64_t *)at; }
static inline uint32_t mmio_read32(const void *at) { return *(const volatile uint32_t *)at; }
static inline void mmio_write64(void *at, uint64_t value) { *(volatile uint64_t *)at = value; }
static inline void mmio_write32(void *at, uint32_t value) { *(volatile uint32_t *)at = value; }

#endif
