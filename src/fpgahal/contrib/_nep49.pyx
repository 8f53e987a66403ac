# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""NEP 49: NumPy arrays whose data a Python function allocates, while a handler is installed in the current context.

NumPy's own headers are not needed: what is used of its C API are two positions of its function table and one struct,
all of which NEP 49 and NumPy's promise about its ABI fix (1.22 to 2.x; tests/contrib/test_inaccel.py looks).
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_INCREF
from libc.stdint cimport SIZE_MAX, uint8_t, uintptr_t
from libc.string cimport memcpy, memset, strcpy

try:
    from numpy._core._multiarray_umath import _ARRAY_API
except ImportError:  # NumPy 1
    from numpy.core._multiarray_umath import _ARRAY_API

ctypedef struct Functions:           # PyDataMemAllocator
    void *ctx
    void *(*malloc)(void *ctx, size_t size) noexcept
    void *(*calloc)(void *ctx, size_t count, size_t size) noexcept
    void *(*realloc)(void *ctx, void *pointer, size_t size) noexcept
    void (*free)(void *ctx, void *pointer, size_t size) noexcept

ctypedef struct Table:               # PyDataMem_Handler
    char name[127]
    uint8_t version
    Functions functions

ctypedef object (*set_handler)(object handler)   # PyDataMem_SetHandler: gives the one before
cdef set_handler numpy_set_handler = <set_handler>(<void **>PyCapsule_GetPointer(_ARRAY_API, NULL))[304]


@cython.no_gc_clear
cdef class Handler:
    """Allocates the data of arrays.

    Parameters
    ----------
    allocate : callable
        Takes a number of bytes, gives an address and an object that has the memory; the object is kept until NumPy
        frees the array.  An exception becomes a MemoryError.

    Attributes
    ----------
    blocks : dict
        By address: bytes, and what `allocate` gave.
    failure : Exception or None
        What `allocate` raised last.
    """
    cdef Table table
    cdef object allocate, capsule
    cdef readonly dict blocks
    cdef readonly object failure

    def __init__(self, allocate):
        self.allocate, self.blocks = allocate, {}
        strcpy(self.table.name, b"fpgahal")
        self.table.version = 1
        self.table.functions = Functions(<void *>self, handler_malloc, handler_calloc, handler_realloc, handler_free)
        self.capsule = PyCapsule_New(&self.table, b"mem_handler", NULL)
        Py_INCREF(self)  # it lives as long as the process: any array may be the last to need it

    def install(self):
        """Let it allocate the arrays of this context from here on; gives what did before."""
        return numpy_set_handler(self.capsule)

    cdef void *take(self, size_t size) noexcept:
        cdef uintptr_t address
        try:
            address, block = self.allocate(size or 1)
            self.blocks[address] = size, block
        except Exception as error:
            self.failure = error.with_traceback(None)
            return NULL
        return <void *>address

    cdef void *move(self, void *old, size_t size) noexcept:
        cdef void *new = self.take(size)
        cdef size_t before
        if new != NULL and old != NULL:
            before = self.blocks[<uintptr_t>old][0]
            memcpy(new, old, min(before, size))
            self.drop(old)
        return new

    cdef void drop(self, void *pointer) noexcept:
        self.blocks.pop(<uintptr_t>pointer, None)


def restore(before):
    """Install again what :meth:`Handler.install` gave."""
    numpy_set_handler(before)


cdef void *handler_malloc(void *ctx, size_t size) noexcept with gil:
    return (<Handler>ctx).take(size)


cdef void *handler_calloc(void *ctx, size_t count, size_t size) noexcept with gil:
    cdef void *pointer
    if size and count > SIZE_MAX // size:
        return NULL
    pointer = (<Handler>ctx).take(count * size)
    if pointer != NULL:
        memset(pointer, 0, count * size)
    return pointer


cdef void *handler_realloc(void *ctx, void *pointer, size_t size) noexcept with gil:
    return (<Handler>ctx).move(pointer, size)


cdef void handler_free(void *ctx, void *pointer, size_t size) noexcept with gil:
    (<Handler>ctx).drop(pointer)
