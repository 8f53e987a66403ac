# SPDX-License-Identifier: Apache-2.0
"""Client: what programs use of the manager."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError, FpgaError
from fpgahal.manager import wire
from fpgahal.manager.arena import Arena, Segment, content, shared
from fpgahal.manager.errors import ManagerError, WaitTimeoutError, check
from fpgahal.manager.link import Call, Link
from fpgahal.manager.wire import Describe, Done, Ref, Report, Spec, Specs, Status, Submit, Value

if TYPE_CHECKING:
    from fpgahal.manager.watch import Watch

SOCKET = "FPGAHAL_MANAGER"  #: names the manager's socket
_DESCRIBED = 256  # answers to Describe that are remembered
_USUAL = 4096  # requests with the same arrays that are remembered
_FILES = 64  # models read from files that are remembered

# What an accelerator's arguments are made of, where their type does not say it.
_CONTENT = {("xgboost.predict", "model")}
_DTYPES = {("xgboost.predict", "x"): np.dtype(np.float32)}
_JSON = {"image.sobel": ("border_value",), "image.affine": ("matrix", "size", "border_value")}


def default_socket() -> str:
    """Where the manager is: ``$FPGAHAL_MANAGER``, else ``/run/fpgahal/manager.sock``."""
    return os.environ.get(SOCKET) or "/run/fpgahal/manager.sock"


class Constant:
    """Bytes that are shared and never change, such as a model; made by :meth:`Client.constant`."""

    __slots__ = ("segment",)

    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    @property
    def nbytes(self) -> int:
        """How many they are."""
        return self.segment.nbytes


class _Usual:
    """A request that was sent before, with the same arguments: what is sent is the same, too."""

    __slots__ = ("_arrays", "_rest", "body", "outputs")

    def __init__(self, body: bytes, outputs: tuple[str, ...], arguments: dict[str, Any]) -> None:
        self.body = body
        self.outputs = outputs
        self._arrays = [
            (name, weakref.ref(value), value.shape, value.dtype)
            for name, value in arguments.items()
            if type(value) is np.ndarray
        ]
        self._rest = [value for value in arguments.values() if type(value) is not np.ndarray]  # no others get their ids

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Whether these are the same arrays: others may have taken their place in memory."""
        for name, array, shape, dtype in self._arrays:
            value: npt.NDArray[Any] = arguments[name]
            if array() is not value or value.shape != shape or value.dtype is not dtype:
                return False
        return True


_CONSTANT_TYPES = (Constant, int, float, str)  # of arguments that stay what they are


def _in_words(arguments: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Make JSON of arguments that are a few numbers, and so not worth a place in shared memory; leave None out."""
    found = {name: value for name, value in arguments.items() if value is not None}
    for name in found.keys() & names:
        try:
            found[name] = json.dumps(np.asarray(found[name]).tolist())
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{name} is {found[name]!r}; expected numbers.") from error
    return found


class Request:
    """A request that was sent.  ``request.result()`` waits for it, and so does ``await request``."""

    __slots__ = ("__weakref__", "_call", "_client", "_outputs", "_tag")

    def __init__(self, client: Client, tag: int, call: Call, outputs: dict[str, npt.NDArray[Any]]) -> None:
        self._client = client
        self._tag = tag
        self._call = call
        self._outputs = outputs

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        if self._call.answer is None:
            self._client._link.pump()
        return self._call.answer is not None

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        numpy.ndarray
            The output, in shared memory; where there are several, a dict of them by name.

        Raises
        ------
        WaitTimeoutError
            It has not ended; it is still under way.
        FpgaError
            What became of it: RunError, RunTimeoutError, DeadlineError, CancelledError, DeviceLostError, QuotaError,
            ManagerLostError, ...
        """
        answer = self._call.answer
        if answer is None:
            answer = self._client._link.wait(self._call, timeout)
        check(answer)
        return next(iter(self._outputs.values())) if len(self._outputs) == 1 else self._outputs

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait for the end; the exception that :meth:`result` would raise, if any."""
        try:
            check(self._client._link.wait(self._call, timeout))
        except WaitTimeoutError:
            raise
        except FpgaError as error:
            return error
        return None

    @property
    def times(self) -> tuple[float, float]:
        """Seconds that it waited for a board, and board-seconds that it took; only after a good end."""
        if not isinstance(self._call.answer, Done):
            raise ManagerError("The request has not ended well, so it has no times.")
        return self._call.answer

    def cancel(self) -> None:
        """Ask that it is not run; if it runs already, it goes on."""
        if self._call.answer is None:
            self._client._link.cancel(self._tag)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._finished().__await__()

    async def _finished(self) -> Any:
        from asyncio import CancelledError  # 20 ms that only those who await need to pay

        try:
            await self._client._watching().wait(self._call)
        except CancelledError:
            self.cancel()
            raise
        return self.result(0)


class Client:
    """A connection to the manager; made by :func:`connect`.  Threads may share it.

    If the manager dies, the client waits for the next one, registers its memory again, and sends again what has no
    answer yet; but nothing that is to be run ``once``.
    """

    def __init__(self, path: str | os.PathLike[str], patience: float) -> None:
        self._link = Link(path, patience)
        self._watch: Watch | None = None
        self._guard = threading.RLock()
        self._arena = Arena(self._link.register, self._link.release)
        self._described: OrderedDict[Any, tuple[Spec, ...]] = OrderedDict()
        self._files: OrderedDict[Any, Constant] = OrderedDict()
        self._usual: OrderedDict[Any, _Usual] = OrderedDict()

    def allocate(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = "uint8") -> npt.NDArray[Any]:
        """Make an array in memory that the manager can use; what is in it is undefined.

        Requests that use such arrays copy nothing on their way to the manager.  The memory goes back when the array
        and all its views are gone.
        """
        self._link.check()
        with self._guard:
            return self._arena.allocate(shape, dtype)

    def constant(self, value: Any) -> Constant:
        """Share bytes that never change, such as a model: of bytes, of a file, of an ``xgboost.Booster``."""
        self._link.check()
        with self._guard:
            return Constant(self._arena.constant(content(value)))

    def submit(
        self,
        accelerator: str,
        /,
        *,
        priority: int = 1,
        deadline: float | None = None,
        once: bool = False,
        **arguments: Any,
    ) -> Request:
        """Ask for a run.

        Parameters
        ----------
        accelerator : str
            ``"vadd"``, ``"xgboost.predict"``, ...: what, not where.
        priority : int
            0, 1 or 2; 0 comes first, among this user's requests.
        deadline : float, optional
            Seconds from now; later than that, it is not begun.
        once : bool
            It must not be run twice: if a board or the manager is lost while it may be running, it fails.
        **arguments
            By name.  Arrays of :meth:`allocate` are used where they are; other arrays are copied.  Outputs that are
            not given are made.

        Raises
        ------
        ArgumentError, ArgumentRangeError, KernelNotFoundError, AccessError
            As soon as it is known; else :meth:`Request.result` raises it.
        """
        body, keep, outputs = self._message(accelerator, priority, deadline, once, arguments)
        tag, call = self._link.call(body, keep, once=once)
        return Request(self, tag, call, outputs)

    def submit_many(
        self,
        accelerator: str,
        requests: Iterable[Mapping[str, Any]],
        /,
        *,
        priority: int = 1,
        deadline: float | None = None,
        once: bool = False,
        **common: Any,
    ) -> list[Request]:
        """Ask for many runs: as :meth:`submit` for each, but they travel together and may run together.

        Parameters
        ----------
        accelerator : str
        requests : iterable of mappings
            The arguments of each.
        priority, deadline, once
            As for :meth:`submit`, of each.
        **common
            Arguments that all of them have.

        Returns
        -------
        list of Request

        Examples
        --------
        >>> m.submit_many("xgboost.predict", [{"x": x, "y": y} for x, y in places], model=model)  # doctest: +SKIP
        """
        messages = [self._message(accelerator, priority, deadline, once, {**common, **one}) for one in requests]
        calls = self._link.requests([one[0] for one in messages], [one[1] for one in messages], once=once)
        return [Request(self, *call, message[2]) for call, message in zip(calls, messages, strict=True)]

    def _message(
        self, accelerator: str, priority: int, deadline: float | None, once: bool, arguments: dict[str, Any]
    ) -> tuple[bytes, Any, dict[str, npt.NDArray[Any]]]:
        """What is sent for a request, what has to stay until its answer is there, and its outputs."""
        if accelerator in _JSON:
            arguments = _in_words(arguments, _JSON[accelerator])
        key = (accelerator, priority, deadline, once, *arguments, *map(id, arguments.values()))
        usual = self._usual.get(key)
        if usual is not None and usual.fits(arguments):
            return usual.body, arguments, {name: arguments[name] for name in usual.outputs}
        self._link.check()  # before anything is written: a forked child has the same memory
        with self._guard:
            return self._new_message(Submit(accelerator, {}, priority, 0, once), deadline, arguments, key)

    def _new_message(
        self, request: Submit, deadline: float | None, arguments: dict[str, Any], key: tuple[Any, ...]
    ) -> tuple[bytes, Any, dict[str, npt.NDArray[Any]]]:
        values, outputs = request.arguments, dict[str, npt.NDArray[Any]]()
        keep: list[Any] = []
        for name, value in arguments.items():
            values[name] = self._value(request.name, name, value, keep)
        for spec in self._outputs(request):
            given = arguments.get(spec.name)
            if given is None:
                outputs[spec.name] = self._arena.allocate(spec.shape, spec.dtype)
                values[spec.name] = self._array(outputs[spec.name], None, keep)
            elif type(given) is np.ndarray and any(one is given for one in keep):  # else it was copied
                outputs[spec.name] = given
            else:
                raise ArgumentError(f"{spec.name} is an output: make it with allocate().")
        if deadline is not None:
            request = request._replace(deadline=max(1, int(deadline * 1e6)))
        body = wire.submit_body(request)
        given = {id(value) for value in arguments.values()}
        copied = any(id(one) not in given for one in keep)  # or made
        if not copied and all(type(one) is np.ndarray or type(one) in _CONSTANT_TYPES for one in arguments.values()):
            if len(self._usual) >= _USUAL:
                self._usual.popitem(last=False)
            self._usual[key] = _Usual(body, tuple(outputs), arguments)
        return body, keep, outputs

    def _value(self, accelerator: str, name: str, value: Any, keep: list[Any]) -> Value:
        if type(value) is np.ndarray:
            return self._array(value, _DTYPES.get((accelerator, name)), keep)
        if isinstance(value, Constant):
            return self._constant(value, keep)
        if (accelerator, name) in _CONTENT or isinstance(value, bytes | os.PathLike) or hasattr(value, "save_raw"):
            return self._constant(self._remembered(value), keep)
        if isinstance(value, str):
            return value
        if isinstance(value, bool | int | float | np.integer | np.floating):
            return value.item() if isinstance(value, np.generic) else int(value) if isinstance(value, bool) else value
        return self._array(value, _DTYPES.get((accelerator, name)), keep)

    def _array(self, value: Any, dtype: np.dtype[Any] | None, keep: list[Any]) -> Ref:
        values = np.asarray(value, dtype)
        if values.dtype not in wire.DTYPE_NUMBERS:
            raise ArgumentError(f"An array of {values.dtype} can't be sent; {', '.join(map(str, wire.DTYPES))} can.")
        found = shared(values)
        if found is None or not self._link.knows(found[0]):
            copy = self._arena.allocate(values.shape, values.dtype)
            copy[...] = values
            values = copy
            found = shared(values)
            assert found is not None
        keep.append(values)
        return Ref(found[0].handle, found[1], values.dtype, values.shape, values.nbytes)

    def _constant(self, constant: Constant, keep: list[Any]) -> Ref:
        segment = constant.segment
        if not self._link.knows(segment):
            raise ArgumentError("This constant is another client's.", hint="Make it with constant() of this one.")
        keep.append(constant)
        return Ref(segment.handle, 0, wire.DTYPES[1], (segment.nbytes,), segment.nbytes)

    def _remembered(self, value: Any) -> Constant:
        """A file that has not changed, and the same bytes, are shared once."""
        key: Any
        if isinstance(value, str | os.PathLike):
            known = os.stat(value)
            key = (os.path.abspath(value), known.st_ino, known.st_mtime_ns, known.st_size)
        else:
            value = key = content(value)
        found = self._files.get(key)
        if found is None:
            while len(self._files) >= _FILES:
                self._forget(self._files.popitem(last=False)[1])
            found = self._files[key] = self.constant(value)
        self._files.move_to_end(key)
        return found

    def _forget(self, constant: Constant) -> None:
        self._link.release(constant.segment)
        constant.segment.close()

    def _outputs(self, request: Submit) -> tuple[Spec, ...]:
        """Ask what the outputs are like; the answer is the same for arrays of the same shapes."""
        key = (
            request.name,
            tuple(
                (name, value.dtype, value.shape, value.handle if value.dtype == wire.DTYPES[1] else 0)
                if isinstance(value, Ref)
                else (name, value)
                for name, value in request.arguments.items()
            ),
        )
        found = self._described.get(key)
        if found is None:
            answer = check(self._link.wait(self._link.call(Describe(request))[1]))
            assert isinstance(answer, Specs)
            if len(self._described) >= _DESCRIBED:
                self._described.popitem(last=False)
            found = self._described[key] = answer.outputs
        return found

    def _watching(self) -> Watch:
        from fpgahal.manager.watch import Watch

        with self._guard:
            if self._watch is None:
                self._watch = Watch(self._link)
            return self._watch

    def status(self, accelerator: str = "") -> dict[str, Any]:
        """What the manager does now: boards, users, connections; or what an accelerator is."""
        answer = check(self._link.wait(self._link.call(Status(accelerator))[1]))
        assert isinstance(answer, Report)
        found: dict[str, Any] = json.loads(answer.text)
        return found

    @property
    def closed(self) -> bool:
        """Whether it was closed, or the manager is gone for good."""
        return self._link.closed

    def close(self) -> None:
        """Hang up; arrays stay good.  Closing twice is fine."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<fpgahal.manager.Client {self._link.path}{' closed' if self.closed else ''}>"


def connect(path: str | os.PathLike[str] | None = None, *, patience: float = 30.0) -> Client:
    """Connect to the manager of this node.

    Parameters
    ----------
    path : path, optional
        Of its socket; by default ``$FPGAHAL_MANAGER``, else ``/run/fpgahal/manager.sock``.
    patience : float
        Seconds to wait for a manager if none is there, now or later.

    Raises
    ------
    ManagerLostError
        There is none.
    QuotaError
        This user has too many connections.

    Examples
    --------
    >>> with fpgahal.manager.connect() as m:  # doctest: +SKIP
    ...     y = m.submit("xgboost.predict", model="model.ubj", x=X).result()
    """
    return Client(default_socket() if path is None else path, patience)


__all__ = ["SOCKET", "Client", "Constant", "Request", "connect", "default_socket"]
