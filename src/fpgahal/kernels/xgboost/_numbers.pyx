# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Loops over float32 where NumPy differs in the last bit from the C library, which XGBoost uses, or goes twice."""
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport expf, fmaxf, fminf, logf
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Whether any of n numbers is infinite: the compiler makes vectors of this loop. */
    static int any_infinite(const float *x, Py_ssize_t n)
    {
        uint32_t found = 0;
        for (Py_ssize_t i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, x + i, 4);
            found |= (bits & 0x7fffffffu) == 0x7f800000u;
        }
        return (int)found;
    }

    /* Numbers equal to `missing` become NaN. */
    static void mark_missing(float *x, Py_ssize_t n, float missing)
    {
        for (Py_ssize_t i = 0; i < n; i++)
            x[i] = x[i] == missing ? __builtin_nanf("") : x[i];
    }
    """
    bint any_infinite(const float *x, Py_ssize_t n) nogil
    void mark_missing(float *x, Py_ssize_t n, float missing) nogil

cdef enum:
    C_IDENTITY
    C_SIGMOID
    C_EXP
    C_HINGE
    C_SOFTMAX
    C_ARGMAX
    SMALL = 16384  # numbers for which releasing the GIL costs more than it brings
    BLOCK = 4096   # numbers that are looked at while they are in the cache

IDENTITY, SIGMOID, EXP, HINGE, SOFTMAX, ARGMAX = C_IDENTITY, C_SIGMOID, C_EXP, C_HINGE, C_SOFTMAX, C_ARGMAX


def logit(float p):
    """The margin of a probability; XGBoost keeps it 1e-6 away from 0 and 1."""
    p = fminf(fmaxf(p, 1e-6), <float>1.0 - <float>1e-6)
    return -logf(<float>1.0 / p - <float>1.0)


def log(float x):
    """The C library's logf."""
    return logf(x)


# --- rows in ------------------------------------------------------------------------------------------------
cdef Py_ssize_t look(float *x, Py_ssize_t n, float missing, bint inf_is_missing) noexcept nogil:
    """Mark what is missing; the place of the first infinity, or -1."""
    cdef Py_ssize_t i
    if missing == missing:
        mark_missing(x, n, missing)
    if not inf_is_missing and any_infinite(x, n):
        for i in range(n):
            if any_infinite(x + i, 1):
                return i
    return -1


cdef Py_ssize_t copy_and_look(const float *source, float *target, Py_ssize_t n, float missing,
                              bint inf_is_missing) noexcept nogil:
    cdef Py_ssize_t at = 0, size, found
    while at < n:
        size = min(BLOCK, n - at)
        memcpy(target + at, source + at, size * sizeof(float))
        found = look(target + at, size, missing, inf_is_missing)
        if found >= 0:
            return at + found
        at += size
    return -1


def fill(source, target, Py_ssize_t first, Py_ssize_t count, float missing, bint inf_is_missing):
    """Copy float32 ``source[first:first+count]`` to the start of `target`; both contiguous.

    Returns
    -------
    int
        The place of the first infinity in `source` from `first` on, or -1.
    """
    cdef Py_buffer a, b
    cdef Py_ssize_t found
    PyObject_GetBuffer(source, &a, PyBUF_C_CONTIGUOUS)
    try:
        PyObject_GetBuffer(target, &b, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        try:
            if (first + count) * <Py_ssize_t>sizeof(float) > a.len or count * <Py_ssize_t>sizeof(float) > b.len:
                raise IndexError(f"{count} numbers from {first} on: {a.len} and {b.len} bytes are there.")
            if count <= SMALL:
                return copy_and_look(<const float *>a.buf + first, <float *>b.buf, count, missing, inf_is_missing)
            with nogil:
                found = copy_and_look(<const float *>a.buf + first, <float *>b.buf, count, missing, inf_is_missing)
            return found
        finally:
            PyBuffer_Release(&b)
    finally:
        PyBuffer_Release(&a)


def scan(target, Py_ssize_t count, float missing, bint inf_is_missing):
    """Mark what is missing in the first `count` numbers; the place of the first infinity, or -1."""
    cdef Py_buffer b
    cdef Py_ssize_t found
    PyObject_GetBuffer(target, &b, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    try:
        if count * <Py_ssize_t>sizeof(float) > b.len:
            raise IndexError(f"{count} numbers: {b.len} bytes are there.")
        with nogil:
            found = look(<float *>b.buf, count, missing, inf_is_missing)
        return found
    finally:
        PyBuffer_Release(&b)


# --- margins out --------------------------------------------------------------------------------------------
cdef float sigmoid(float x) noexcept nogil:
    cdef float below = expf(fminf(-x, <float>88.7)) + <float>1.0
    below = below + <float>1e-16
    return <float>1.0 / below


cdef void softmax(const float *x, float *y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    cdef float most = x[0]
    cdef double total = 0
    for k in range(1, n):
        most = fmaxf(x[k], most)
    for k in range(n):
        y[k] = expf(x[k] - most)
        total += y[k]
    for k in range(n):
        y[k] /= <float>total


cdef float argmax(const float *x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k, best = 0
    for k in range(1, n):
        if x[k] > x[best]:
            best = k
    return <float>best


cdef void convert(int kind, const float *x, float *y, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t i
    if kind == C_IDENTITY:
        memcpy(y, x, rows * columns * sizeof(float))
    elif kind == C_SIGMOID:
        for i in range(rows * columns):
            y[i] = sigmoid(x[i])
    elif kind == C_EXP:
        for i in range(rows * columns):
            y[i] = expf(x[i])
    elif kind == C_HINGE:
        for i in range(rows * columns):
            y[i] = 1 if x[i] > 0 else 0
    elif kind == C_SOFTMAX:
        for i in range(rows):
            softmax(x + i * columns, y + i * columns, columns)
    else:
        for i in range(rows):
            y[i] = argmax(x + i * columns, columns)


def finish(int kind, source, target, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t columns):
    """Turn the margins at the start of `source` into predictions, in `target` from row `first` on.

    A row has `columns` numbers, and as many predictions; for ARGMAX one.
    """
    cdef Py_buffer a, b
    cdef Py_ssize_t out = 1 if kind == C_ARGMAX else columns
    cdef Py_ssize_t size = sizeof(float)
    PyObject_GetBuffer(source, &a, PyBUF_C_CONTIGUOUS)
    try:
        PyObject_GetBuffer(target, &b, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        try:
            if rows * columns * size > a.len or (first + rows) * out * size > b.len:
                raise IndexError(f"{rows} rows of {columns} from {first} on: {a.len} and {b.len} bytes are there.")
            if rows * columns <= SMALL:
                convert(kind, <const float *>a.buf, <float *>b.buf + first * out, rows, columns)
            else:
                with nogil:
                    convert(kind, <const float *>a.buf, <float *>b.buf + first * out, rows, columns)
        finally:
            PyBuffer_Release(&b)
    finally:
        PyBuffer_Release(&a)
