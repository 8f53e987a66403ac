# SPDX-License-Identifier: Apache-2.0
"""Models of accelerators from outside: a Python function, or a shared object, that the emulated boards execute."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import struct
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from fpgahal._contract import Array, KernelContract
from fpgahal._errors import LibraryError
from fpgahal.emu._spec import SpecError

#: Shared objects with models, separated by ``os.pathsep``; child processes see it, too.
MODELS = "FPGAHAL_EMU_MODELS"

_SYMBOL = "fpgahal_emu_model"
_FORMATS = {"uint32": "I", "int32": "i", "uint64": "Q", "int64": "q", "float32": "f", "float64": "d"}


class _Call(ctypes.Structure):  # struct emu_call of native/include/fpgahal_emu.h
    pass


_Memory = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Call), ctypes.c_uint64, ctypes.c_uint64)
_Execute = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Call))
_Call._fields_ = (
    ("rack", ctypes.c_void_p),
    ("board", ctypes.c_void_p),
    ("regs", ctypes.c_void_p),
    ("reg_bytes", ctypes.c_size_t),
    ("memory", _Memory),
    ("context", ctypes.c_void_p),
    ("cancel", ctypes.c_void_p),
)

_callbacks: list[Any] = []  # for ever: a run that was started may still call one


def include() -> str:
    """Return the folder of ``fpgahal_emu.h``, which a model in C includes."""
    from fpgahal import _library  # not at import time, as in _boards

    return _library.include()


class Function:
    """A Python function as the model of a kernel, in this process, until :meth:`remove`."""

    def __init__(self, contract: KernelContract, function: Callable[..., object], families: Iterable[str]) -> None:
        self._execute = _Execute(lambda call: _run(contract, function, call.contents))
        _callbacks.append(self._execute)
        self._libraries = [library for family in sorted(set(families)) for library in _libraries(family)]
        afu_id = contract.afu_id.bytes if contract.afu_id else None
        for library in self._libraries:
            library.fpgahal_emu_register.argtypes = (ctypes.c_char_p, ctypes.c_char_p, _Execute)
            library.fpgahal_emu_unregister.argtypes = (_Execute,)
            if library.fpgahal_emu_register(contract.name.encode(), afu_id, self._execute):
                raise LibraryError(f"The emulator does not take {contract.name}.")

    def remove(self) -> None:
        """Take it away; a run that goes on, goes on."""
        for library in self._libraries:
            library.fpgahal_emu_unregister(self._execute)


class SharedObject:
    """A shared object with a model, named in FPGAHAL_EMU_MODELS until :meth:`remove`."""

    def __init__(self, contract: KernelContract, path: str | os.PathLike[str]) -> None:
        self._path = os.path.abspath(os.fspath(path))
        if os.pathsep in self._path:
            raise SpecError(f"{self._path}: the path of a model must not contain {os.pathsep!r}.")
        try:
            library = ctypes.CDLL(self._path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
            model = _Model.in_dll(library, _SYMBOL)
        except (OSError, ValueError) as error:
            raise LibraryError(
                f"{self._path}: is no model of an accelerator: {error}.",
                hint=f"It should be a shared object that exports `const struct emu_model {_SYMBOL}` (fpgahal_emu.h).",
            ) from None
        wanted = contract.afu_id.bytes if contract.afu_id else bytes(16)
        if model.kernel != contract.name.encode() or bytes(model.afu_id) != wanted:
            raise SpecError(
                f"{self._path}: is a model of kernel {(model.kernel or b'none').decode('utf-8', 'replace')} and AFU "
                f"{bytes(model.afu_id).hex()}, expected {contract.name} and {wanted.hex()}.",
                hint="The contract and the C file must have the same name and AFU id.",
            )
        self._set([self._path, *self._others()])

    def remove(self) -> None:
        """Take it out of the variable."""
        self._set(self._others())

    def _others(self) -> list[str]:
        return [path for path in os.environ.get(MODELS, "").split(os.pathsep) if path not in ("", self._path)]

    @staticmethod
    def _set(paths: list[str]) -> None:
        if paths:
            os.environ[MODELS] = os.pathsep.join(paths)
        else:
            os.environ.pop(MODELS, None)


class _Model(ctypes.Structure):  # struct emu_model
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("afu_id", ctypes.c_uint8 * 16),
        ("regs", ctypes.c_void_p),
        ("zero_elsewhere", ctypes.c_bool),
        ("reset", ctypes.c_void_p),
        ("unlocked", ctypes.c_void_p),
        ("written", ctypes.c_void_p),
        ("kernel", ctypes.c_char_p),
        ("bytes", ctypes.c_void_p),
        ("execute", ctypes.c_void_p),
    )


def _libraries(family: str) -> list[ctypes.CDLL]:
    """The libraries with emulated boards that this process may use."""
    from fpgahal import _library, _opae_plugin

    if family == "opae":
        paths = [_library.emulator("opae"), *([_opae_plugin.plugin()] if _opae_plugin.wanted() else [])]
        return [ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL) for path in paths]
    if _library.wants_real_xrt():
        return [ctypes.CDLL(_library.xrt_driver(), mode=os.RTLD_NOW | os.RTLD_GLOBAL)]
    return [ctypes.CDLL(_library.emulator("xrt"), mode=os.RTLD_NOW | os.RTLD_LOCAL)]


def _run(contract: KernelContract, function: Callable[..., object], call: _Call) -> int:
    """One invocation; on the emulator's thread."""
    try:
        function(**_arguments(contract, call))
    except _NoMemoryError:
        return errno.EFAULT
    except BaseException:  # into C nothing may fly
        print(f"EMULATED kernel {contract.name}: its Python function failed:", file=sys.stderr)
        traceback.print_exc()
        return errno.EIO
    return 0


class _NoMemoryError(Exception):
    """The emulator has said already what was wrong."""


def _arguments(contract: KernelContract, call: _Call) -> dict[str, Any]:
    registers = ctypes.string_at(call.regs, call.reg_bytes)
    offsets = {arg.name: arg.offset for arg in contract.info.args}
    scalars: dict[str, Any] = {
        arg.name: struct.unpack_from(f"<{_FORMATS[arg.dtype]}", registers, offsets[arg.name])[0]
        for arg in contract.args
        if not isinstance(arg, Array)
    }
    found: dict[str, Any] = {}
    for arg in contract.args:
        if isinstance(arg, Array):
            (address,) = struct.unpack_from("<Q", registers, offsets[arg.name])
            found[arg.name] = _view(arg, address, scalars, call)
        else:
            found[arg.name] = scalars[arg.name]
    return found


def _view(arg: Array, address: int, scalars: dict[str, Any], call: _Call) -> Any:
    import numpy as np  # not at import time, as in _boards

    dtype = np.dtype("uint8" if arg.dtype == "void" else arg.dtype)
    shape = tuple(scalars[extent] if isinstance(extent, str) else extent for extent in arg.shape)
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    at = call.memory(ctypes.byref(call), address, size) if 0 < size < 1 << 63 else None
    if at is None:
        print(
            f"EMULATED argument {arg.name}: {size} bytes at device address {address:#x} are not inside one buffer",
            file=sys.stderr,
        )
        raise _NoMemoryError
    block: Any = (ctypes.c_char * size).from_address(at)
    view = np.frombuffer(block, dtype).reshape(shape)
    view.flags.writeable = arg.access != "r"
    return view


__all__ = ["MODELS", "Function", "SharedObject", "include"]
