# SPDX-License-Identifier: Apache-2.0
# What the driver-level session asks the system with: ``native/include/dfl_abi.h``, and what Cython lacks of Linux.
from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef extern from "<sys/mman.h>" nogil:
    enum: MADV_DONTFORK, MAP_HUGETLB
    int madvise(void *address, size_t length, int advice)

cdef extern from "<sys/eventfd.h>" nogil:
    enum: EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "dfl_abi.h" nogil:
    enum: DFL_PORT_RESET, OLD_PORT_RESET, DFL_PORT_GET_INFO, OLD_PORT_GET_INFO
    enum: DFL_PORT_GET_REGION_INFO, OLD_PORT_GET_REGION_INFO, DFL_PORT_DMA_MAP, OLD_PORT_DMA_MAP
    enum: DFL_PORT_DMA_UNMAP, OLD_PORT_DMA_UNMAP, DFL_FME_PORT_PR, OLD_FME_PORT_PR
    enum: DFL_PORT_ERR_SET_IRQ, OLD_PORT_ERR_SET_IRQ, DFL_PORT_UINT_SET_IRQ, OLD_PORT_UAFU_SET_IRQ
    enum: DFL_REGION_AFU, DFL_REGION_MMAP
    struct dfl_port_info:
        uint32_t argsz, num_regions
    struct old_port_info:
        uint32_t argsz, num_regions
    struct dfl_region_info:
        uint32_t argsz, flags, index
        uint64_t size, offset
    struct dfl_dma_map:
        uint32_t argsz
        uint64_t user_addr, length, iova
    struct dfl_dma_unmap:
        uint32_t argsz
        uint64_t iova
    struct dfl_port_pr:
        uint32_t argsz, port_id, buffer_size
        uint64_t buffer_address
    struct old_port_pr:
        uint32_t argsz, port_id, buffer_size
        uint64_t buffer_address, status
    struct dfl_irq_set:
        uint32_t start, count
        int32_t evtfd[1]
    struct old_error_irq:
        uint32_t argsz
        int32_t evtfd
    struct old_user_irq:
        uint32_t argsz, start, count
        int32_t evtfd[1]
    uint64_t mmio_read64(const void *at)
    uint32_t mmio_read32(const void *at)
    void mmio_write64(void *at, uint64_t value)
    void mmio_write32(void *at, uint32_t value)
