# SPDX-License-Identifier: Apache-2.0
"""Programs written for InAccel's Coral, on the node manager: ``from fpgahal.contrib import inaccel`` instead of
``import inaccel.coral as inaccel``.

>>> from fpgahal.contrib import inaccel
>>> with inaccel.allocator:  # doctest: +SKIP
...     a, b, c = (np.ndarray(1024, np.float32) for _ in range(3))
>>> request = inaccel.request("com.inaccel.math.vector.addition")  # doctest: +SKIP
>>> inaccel.submit(request.arg(a).arg(b).arg(c).arg(np.int32(1024))).result()  # doctest: +SKIP

The manager is that of ``$FPGAHAL_MANAGER``.  docs/inaccel.md says what differs.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from concurrent.futures import Future
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError, ArgumentRangeError
from fpgahal.contrib._nep49 import Handler, restore
from fpgahal.manager import Client, Request, connect


class _Block(NamedTuple):
    """Shared memory, and the connection on which it is registered."""

    client: Client
    memory: npt.NDArray[np.uint8]


_guard = threading.RLock()
_connected: tuple[str | None, int, Client] | None = None  # to which socket, in which process
_loop: tuple[int, asyncio.AbstractEventLoop] | None = None
_orders: dict[tuple[int, str], list[dict[str, Any]]] = {}  # arguments, by connection and accelerator


def _client() -> Client:
    """This process's connection to the manager."""
    global _connected
    with _guard:
        name, pid = os.environ.get("FPGAHAL_MANAGER"), os.getpid()
        if _connected is None or _connected[:2] != (name, pid) or _connected[2].closed:
            close()
            _connected = name, pid, connect()
        return _connected[2]


def close() -> None:
    """Hang up; the next use connects again.  Arrays stay good, but the manager does not know them any more."""
    global _connected
    with _guard:
        if _connected is not None and _connected[1] == os.getpid():  # else it is the parent's
            _connected[2].close()
        _connected = None
        _orders.clear()


atexit.register(close)


def _allocate(nbytes: int) -> tuple[int, _Block]:
    client = _client()
    memory = client.allocate(nbytes)
    return int(memory.ctypes.data), _Block(client, memory)


class Allocator:
    """``with inaccel.allocator:`` arrays that are made inside lie in memory that the manager reads in place.

    That is so for every new array of this thread (of this context, as :mod:`contextvars` has it) while it lasts,
    also for those that NumPy makes on the way; so make the arrays inside, and compute outside.
    """

    def __init__(self) -> None:
        self._handler = Handler(_allocate)
        self._before: ContextVar[tuple[Any, ...]] = ContextVar("fpgahal.contrib.inaccel", default=())

    def __enter__(self) -> Allocator:
        _client()  # what is wrong with the connection shows here, and not as a MemoryError
        self._before.set((self._handler.install(), *self._before.get()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        before, *others = self._before.get()
        self._before.set(tuple(others))
        restore(before)
        if isinstance(value, MemoryError) and self._handler.failure is not None:
            value.add_note(f"inaccel.allocator: {self._handler.failure}")

    def handles(self, array: npt.NDArray[Any]) -> bool:
        """Whether an array lies in its memory."""
        return self._find(array) is not None

    def _find(self, array: npt.NDArray[Any]) -> tuple[_Block, int] | None:
        """The memory in which an array lies, and where in it."""
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        start = owner.ctypes.data
        known = self._handler.blocks.get(start) if owner.base is None else None
        return None if known is None else (known[1], array.ctypes.data - start)

    def shared(self, array: npt.NDArray[Any], client: Client | None, where: str) -> npt.NDArray[Any]:
        """The same array, as the manager's client knows it; `where` is for messages.

        Raises
        ------
        ArgumentError
            It lies elsewhere, or was made by the parent of a fork.
        ArgumentRangeError
            Its elements are not one after the other.
        """
        found = self._find(array)
        if found is None:
            raise ArgumentError(
                f"{where} is an array of {array.nbytes} bytes that inaccel.allocator has not made.",
                hint="Make it inside `with inaccel.allocator:`.  (InAccel's client would pass it by value.)",
            )
        (owner, memory), at = found
        if owner is not client:
            raise ArgumentError(
                f"{where} is an array that was made for another connection: before a fork, or for another manager.",
                hint="Make it again, in this process.",
            )
        if not array.flags.c_contiguous:
            raise ArgumentRangeError(
                f"{where} is an array of shape {array.shape} whose elements are not one after the other.",
                hint="Copy it inside `with inaccel.allocator:`.",
            )
        return memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)


allocator = Allocator()


class request:  # noqa: N801 - as InAccel calls it
    """A request for an accelerator; arguments are positional, in the order of its kernel.

    Parameters
    ----------
    accelerator : str
        ``"com.inaccel.math.vector.addition"``: bitstreamId and kernelId of a repository, or what else the manager
        offers.
    """

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        self._values: dict[int, Any] = {}
        self._next = 0

    def arg(self, value: Any, index: int | None = None) -> request:
        """Set the next argument, or the one at `index`.

        Parameters
        ----------
        value : numpy.ndarray, numpy.generic, int or float
            An array has to be one of `allocator`.
        """
        at = self._next if index is None else index
        if isinstance(value, np.ndarray):
            if not allocator.handles(value):
                allocator.shared(value, None, f"{self.accelerator}: argument {at}")
        elif not isinstance(value, np.generic | int | float):
            raise ArgumentError(
                f"An argument of {self.accelerator} is an array, or a number; not {type(value).__name__}."
            )
        self._values[at] = value
        self._next += index is None
        return self

    def __str__(self) -> str:
        def text(value: Any) -> str:
            return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else str(value)

        return f"{self.accelerator}({', '.join(text(self._values[at]) for at in sorted(self._values))})"

    def _arguments(self, client: Client) -> dict[str, Any]:
        """By name, as the manager wants them."""
        wanted = _order(client, self.accelerator)
        if sorted(self._values) != list(range(len(wanted))):
            names = ", ".join(f"{one['dtype']}{'*' if 'access' in one else ''} {one['name']}" for one in wanted)
            raise ArgumentError(f"{self.accelerator} takes {len(wanted)} arguments ({names}), not {len(self._values)}.")
        return {one["name"]: self._value(at, one, client) for at, one in enumerate(wanted)}

    def _value(self, at: int, wanted: dict[str, Any], client: Client) -> Any:
        value, dtype = self._values[at], wanted["dtype"]
        where = f"{self.accelerator}: argument {at} ({dtype}{'*' if 'access' in wanted else ''} {wanted['name']})"
        if ("access" in wanted) != isinstance(value, np.ndarray):
            raise ArgumentError(f"{where} is {'an array' if isinstance(value, np.ndarray) else 'a number'}.")
        if isinstance(value, np.ndarray):
            return allocator.shared(value, client, where)
        number = value.item() if isinstance(value, np.generic) else value
        if not isinstance(number, int if dtype[0] in "iu" else int | float):
            raise ArgumentError(f"{where} is {value!r}.")
        return number


def _order(client: Client, accelerator: str) -> list[dict[str, Any]]:
    key = id(client), accelerator
    found = _orders.get(key)
    if found is None:
        found = client.status(accelerator)["arguments"]
        if found is None:
            raise ArgumentError(
                f"The arguments of {accelerator} have no order.",
                hint="Name them: fpgahal.manager.connect().submit(...).",
            )
        _orders[key] = found
    return found


def submit(request: request) -> Future[None]:
    """Send a request.

    Returns
    -------
    concurrent.futures.Future
        Its result is None, when the arrays have been written; its exception is what went wrong on the way, one of
        fpgahal's.  ``cancel()`` takes the request back, if it does not run yet.

    Raises
    ------
    KernelNotFoundError, AccessError
        There is no such accelerator, or not for this user.
    ArgumentError, ArgumentRangeError
        The arguments do not fit, as far as that shows before it runs.
    """
    client = _client()
    sent = client.submit(request.accelerator, **request._arguments(client))
    return asyncio.run_coroutine_threadsafe(_end(sent), _running())


async def _end(sent: Request) -> None:
    await sent


def _running() -> asyncio.AbstractEventLoop:
    """The loop in which answers are waited for: one thread for all requests."""
    global _loop
    with _guard:
        if _loop is None or _loop[0] != os.getpid():
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="fpgahal inaccel", daemon=True).start()
            _loop = os.getpid(), loop
        return _loop[1]


__all__ = ["Allocator", "allocator", "close", "request", "submit"]
