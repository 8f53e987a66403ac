# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""Signature: what a kernel's arguments take, and how Python values become them.

pyxrt leaves an argument that it can't convert unset, silently; here every such value is an exception.
"""
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t

from fpgahal._buffer cimport Buffer
from fpgahal._session cimport ARG_BUFFER, ARG_F32, ARG_F64, ARG_NONE, ARG_U32, ARG_U64, KernelSession, arg

import operator
import re

from fpgahal._errors import ArgumentError, ArgumentRangeError, UnsupportedError
from fpgahal._types import ArgKind


cdef class Signature:
    def __cinit__(self, KernelSession kernel not None):
        cdef int i
        self.session, self.info = kernel.session, kernel.info
        self.n = len(self.info.args)
        if self.n > MAX_ARGS:
            raise UnsupportedError(f"Kernel {self.info.name} has {self.n} arguments; {MAX_ARGS} is the most.")
        for i, argument in enumerate(self.info.args):
            describe(argument, &self.specs[i])

    cdef int convert(self, tuple args, arg *out) except -1:
        cdef Py_ssize_t count = PyTuple_GET_SIZE(args)
        cdef int i, b
        cdef spec *s
        cdef Buffer buffer
        cdef object value
        if count != self.n:
            names = ", ".join(f"{a.type or a.kind.value} {a.name}" for a in self.info.args)
            raise ArgumentError(f"{self.info.name} takes {self.n} argument{'' if self.n == 1 else 's'} ({names}), "
                                f"not {count}.")
        for i in range(self.n):
            s = &self.specs[i]
            value = <object>PyTuple_GET_ITEM(args, i)
            out[i].kind = s.kind
            if s.kind == ARG_BUFFER:
                if type(value) is not Buffer:
                    self.wrong_type(i, value)
                buffer = <Buffer>value
                if buffer.closed:
                    buffer.check()
                if buffer.session is not self.session:
                    raise ArgumentRangeError(
                        f"{self.label(i)}: the buffer belongs to {buffer.session.info.address}, the kernel to "
                        f"{self.session.info.address}.", hint="Allocate it with this kernel's device.")
                if s.banks:
                    for b in range(s.banks):
                        if s.bank[b] == buffer.memory.bank:
                            break
                    else:
                        allowed = ", ".join(str(bank) for bank in self.info.args[i].banks)
                        raise ArgumentRangeError(
                            f"{self.label(i)}: the buffer is in memory bank {buffer.memory.bank}; the argument is "
                            f"connected to bank {allowed}.", hint=f"dev.allocate(..., bank={s.bank[0]})")
                out[i].value.buffer = &buffer.memory
            elif s.kind == ARG_F32 or s.kind == ARG_F64:
                out[i].value.f = PyFloat_AS_DOUBLE(value) if PyFloat_CheckExact(value) else self.real(i, value)
            elif s.kind == ARG_NONE:
                if value is not None:
                    self.wrong_type(i, value)
                out[i].value.u = 0
            else:
                self.integer(i, s, value, &out[i].value.u)
        return 0

    cdef int integer(self, int i, const spec *s, value, uint64_t *out) except -1:
        cdef int overflow = 0
        cdef int64_t small
        if not PyLong_CheckExact(value):
            if isinstance(value, (float, str, bytes)):
                self.wrong_type(i, value)
            try:
                value = operator.index(value)
            except TypeError:
                self.wrong_type(i, value)
        small = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow > 0 and s.high > <uint64_t>INT64_MAX:
            try:
                out[0] = value
            except OverflowError:
                self.wrong_range(i, s, value)
        elif overflow or small < s.low or (small > 0 and <uint64_t>small > s.high):
            self.wrong_range(i, s, value)
        else:
            out[0] = <uint32_t>small if s.kind == ARG_U32 else <uint64_t>small
        return 0

    cdef int wrong_range(self, int i, const spec *s, value) except -1:
        raise ArgumentRangeError(f"{self.label(i)}: {value} does not fit (from {s.low} to {s.high}).")

    cdef double real(self, int i, value) except? -1:
        if isinstance(value, (str, bytes, Buffer)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
            self.wrong_type(i, value)
        try:
            return float(value)
        except (TypeError, ValueError):
            self.wrong_type(i, value)
        except OverflowError:
            raise ArgumentRangeError(f"{self.label(i)}: {value} does not fit a double.") from None

    cdef label(self, int i):
        argument = self.info.args[i]
        return f"{self.info.name} argument {i} ({argument.type or argument.kind.value} {argument.name})"

    cdef int wrong_type(self, int i, value) except -1:
        wanted = {ArgKind.BUFFER: "a fpgahal.Buffer", ArgKind.STREAM: "None (a stream)"}.get(self.info.args[i].kind)
        if wanted is None:
            wanted = "a number" if self.specs[i].kind in (ARG_F32, ARG_F64) else "an integer"
        hint = "dev.allocate(array.shape, array.dtype), then copy into np.asarray(buffer)." if (
            self.specs[i].kind == ARG_BUFFER and hasattr(value, "__array__")) else ""
        raise ArgumentError(f"{self.label(i)} takes {wanted}, not {type(value).__name__}.", hint=hint)

    cdef int hold(self, tuple args) except -1:
        """Count a run in the buffers that it uses, so that they can't be closed under it."""
        cdef int i
        for i in range(self.n):
            if self.specs[i].kind == ARG_BUFFER:
                (<Buffer>PyTuple_GET_ITEM(args, i)).runs += 1
        return 0

    cdef int release(self, tuple args) except -1:
        cdef int i
        for i in range(self.n):
            if self.specs[i].kind == ARG_BUFFER:
                (<Buffer>PyTuple_GET_ITEM(args, i)).runs -= 1
        return 0


_UNSIGNED = re.compile(r"\b(unsigned|u(int|char|short|long)\w*|size_t|uint\d+_t|bool)\b")
_SIGNED = re.compile(r"\b(int|char|short|long|signed)\b|\bint\d+_t\b")


cdef int describe(argument, spec *out) except -1:
    """What an argument takes, from the image's description of it."""
    bits = 64  # a Python number: 1 << 64 must not wrap
    if argument.kind is ArgKind.STREAM:
        out.kind = ARG_NONE
    elif argument.kind is ArgKind.BUFFER:
        out.kind = ARG_BUFFER
        if len(argument.banks) <= MAX_BANKS:
            out.banks = len(argument.banks)
            for at, bank in enumerate(argument.banks):
                out.bank[at] = bank
    elif argument.type == "float":
        out.kind = ARG_F32
    elif argument.type == "double":
        out.kind = ARG_F64
    elif "*" in argument.type or argument.size > 8:
        raise UnsupportedError(f"Argument {argument.name} is a {argument.type or 'value'} of {argument.size} bytes "
                               "passed by value: fpgahal passes scalars of up to 8 bytes.")
    else:
        out.kind = ARG_U32 if argument.size <= 4 else ARG_U64
        bits = 8 * min(argument.size, 8)
        if re.search(r"\b(unsigned )?u?char\b|\bu?int8_t\b", argument.type):
            bits = 8
        elif re.search(r"\bu?short\b|\bu?int16_t\b", argument.type):
            bits = 16
        # An unknown type name (a typedef) takes both readings of its bits.
        unsigned = _UNSIGNED.search(argument.type) is not None
        signed = not unsigned and _SIGNED.search(argument.type) is not None
        out.low = 0 if unsigned else -(1 << (bits - 1))
        out.high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
    return 0
