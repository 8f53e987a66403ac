# SPDX-License-Identifier: Apache-2.0
"""The accelerator ``xgboost_predict``: the kernel itself, for those who bring a forest in the board's layout, as
:func:`fpgahal.kernels.xgboost.load` does.

A board trusts the forest that it is given, so the manager reads it first, and gives the board its own copy: where a
node's children are, and which features it asks for.  As on a board, a forest is known by its `model_id`: other contents
at the same place under the same one are not seen.
"""

from __future__ import annotations

import hashlib
import secrets
import weakref
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError, ArgumentRangeError, Buffer, Device, Scalar
from fpgahal import Array as ArrayArgument
from fpgahal.kernels import xgboost
from fpgahal.manager.accelerators import Arguments, Job, Opened, Plain
from fpgahal.manager.memory import Array, Segment

MAX_FOREST = 64 << 20  #: bytes
_TOGETHER = 1024  # rows of requests that run together
_LEAVES, _CONTINUE = 1, 2  # flags
_NODES, _TREES, _BASE, _ID = 2, 3, 4, 12  # positions of arguments
_FLAGS = _LEAVES | _CONTINUE


class Forest(NamedTuple):
    """A forest that was read and found sound."""

    digest: bytes
    nodes: npt.NDArray[np.uint8]
    trees: npt.NDArray[np.uint8]


class _Detail(NamedTuple):
    forest: Forest
    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.uint8]
    base: npt.NDArray[np.uint8]
    numbers: dict[str, int]


class Forests(Plain):
    """Predictions with forests in the board's layout."""

    def __init__(self) -> None:
        self.name = xgboost.PREDICT.name
        self.contract = xgboost.PREDICT
        self._scalars = [arg for arg in self.contract.args if isinstance(arg, Scalar)]
        self._arrays = [arg for arg in self.contract.args if isinstance(arg, ArrayArgument)]
        self._known: weakref.WeakKeyDictionary[Segment, dict[Hashable, Forest]] = weakref.WeakKeyDictionary()

    def prepare(self, arguments: Arguments) -> Callable[[], None] | None:
        """Read the forest, if it is a new one."""
        place, key = self._place(arguments)
        return None if key in self._known.get(place, ()) else lambda: self._read(arguments)

    def _place(self, arguments: Arguments) -> tuple[Segment, Hashable]:
        """The segment with the nodes, and what a forest in it is known by."""
        arrays = [self._array(arguments, name) for name in ("nodes", "trees")]
        numbers = self._numbers(arguments)
        shape = tuple(numbers[name] for name in ("n_features", "n_out", "tree_begin", "tree_end", "model_id"))
        places = tuple((id(array.segment), array.offset, array.nbytes) for array in arrays)
        return arrays[0].segment, (places, shape)

    def _array(self, arguments: Arguments, name: str) -> Array:
        value = arguments.get(name)
        if not isinstance(value, Array):
            raise ArgumentError(f"{self.name}: {name} is to be an array.")
        return value

    def _read(self, arguments: Arguments) -> None:
        place, key = self._place(arguments)
        numbers = self._numbers(arguments)
        nodes, trees = (self._array(arguments, name).bytes for name in ("nodes", "trees"))
        if nodes.nbytes + trees.nbytes > MAX_FOREST:
            raise ArgumentRangeError(f"{self.name}: a forest has {MAX_FOREST >> 20} MiB at most.")
        nodes, trees = nodes.copy(), trees.copy()  # from here on the client can't change them
        forest = _sound(self.name, nodes, trees, numbers)
        forests = self._known.setdefault(place, {})
        if not numbers["model_id"] or len(forests) >= 64:
            forests.clear()
        forests[key] = forest

    def job(self, arguments: Arguments) -> Job:
        """Check a request."""
        known = {arg.name for arg in self.contract.args}
        for name in arguments.keys() - known:
            raise ArgumentError(f"{self.name} has no argument {name!r}; it has {', '.join(sorted(known))}.")
        numbers = {name: int(value) for name, value in self._numbers(arguments).items()}
        place, key = self._place(arguments)
        forest = self._known.get(place, {}).get(key)
        if forest is None:
            raise ArgumentError(f"{self.name}: the forest was not read.")
        if numbers["flags"] & ~_FLAGS or numbers["x_stride"] < numbers["n_features"]:
            raise ArgumentRangeError(
                f"{self.name}: flags {numbers['flags']:#x}, or rows of {numbers['x_stride']} values with "
                f"{numbers['n_features']} features."
            )
        rows, trees = numbers["n_rows"], numbers["tree_end"] - numbers["tree_begin"]
        width = trees if numbers["flags"] & _LEAVES else numbers["n_out"]
        x = self._take(arguments, "x", 4 * rows * numbers["x_stride"])
        y = self._take(arguments, "y", 4 * rows * width, written=True)
        base = self._take(arguments, "base", 4 * numbers["n_out"])
        rest = tuple(value for name, value in numbers.items() if name not in ("n_rows", "model_id"))
        detail = _Detail(forest, x, y, base, numbers)
        return Job(rows, (forest.digest, base.ctypes.data, *rest), _TOGETHER, (self.name, forest.digest), detail)

    def _take(self, arguments: Arguments, name: str, needed: int, written: bool = False) -> npt.NDArray[np.uint8]:
        value = self._array(arguments, name)
        if value.nbytes < needed or (written and value.segment.constant):
            raise ArgumentRangeError(
                f"{self.name}: {name} has {value.nbytes} bytes, expected {needed}{', not constant' if written else ''}."
            )
        return value.bytes[:needed]

    def open(self, dev: Device, job: Job) -> Opened:
        """Bring the forest to the board."""
        return OpenedForest(dev, job.detail.forest)


def _sound(name: str, data: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8], numbers: Any) -> Forest:
    """Give the forest; raise unless every way through its trees ends, and stays inside."""
    nodes = data[: data.nbytes // xgboost.NODE.itemsize * xgboost.NODE.itemsize].view(xgboost.NODE)
    trees = table[: table.nbytes // xgboost.TREE.itemsize * xgboost.TREE.itemsize].view(xgboost.TREE)
    begin, end = numbers["tree_begin"], numbers["tree_end"]
    if not begin <= end <= len(trees):
        raise ArgumentRangeError(f"{name}: trees {begin} to {end}; there are {len(trees)}.")
    table, trees = table[: end * xgboost.TREE.itemsize], trees[begin:end]
    ends = trees["root"].astype(np.int64) + trees["n_nodes"]
    if len(trees) and (ends.max() > len(nodes) or trees["n_nodes"].min() < 1 or trees["out"].max() >= numbers["n_out"]):
        raise ArgumentRangeError(f"{name}: a tree is not inside the {len(nodes)} nodes, or adds to no output.")
    for root, last in zip(trees["root"].tolist(), ends.tolist(), strict=True):
        meta = nodes["meta"][root:last]
        left, feature = meta & 0xFFFF, meta >> 16 & 0x7FFF
        inner = np.flatnonzero(left)
        if inner.size and (
            (inner + left[inner]).max() + 1 >= last - root or feature[inner].max() >= numbers["n_features"]
        ):
            raise ArgumentRangeError(f"{name}: the tree at node {root} leads outside, or asks for no feature.")
    data = data[: int(ends.max(initial=0)) * xgboost.NODE.itemsize]
    return Forest(hashlib.sha256(data.tobytes() + table.tobytes()).digest(), data, table)


class _Room:
    """Buffers for x, y and base, for as many rows as there were so far, and whose data is in them."""

    __slots__ = ("buffers", "user")

    def __init__(self) -> None:
        self.buffers: dict[int, tuple[Buffer, npt.NDArray[np.uint8]]] = {}
        self.user: Hashable = None

    def scrub(self) -> None:
        """Nothing of what one user had on the board is left for another."""
        for buffer, view in self.buffers.values():
            view[:] = 0
            buffer.sync_to_device()


class OpenedForest:
    """A forest on a board."""

    def __init__(self, dev: Device, forest: Forest) -> None:
        self._dev = dev
        self.kernel = dev.kernel(xgboost.PREDICT)
        self._banks = [arg.banks[0] if arg.banks else None for arg in self.kernel.info.args]
        self._rooms: list[_Room] = []  # that nobody uses; append and pop are atomic
        self._forest = [self._upload(at, data) for at, data in ((_NODES, forest.nodes), (_TREES, forest.trees))]
        self._id = secrets.randbits(63) + 1  # a board keeps forests by it: nobody else's can be taken for this one

    def _upload(self, at: int, data: npt.NDArray[np.uint8]) -> Buffer:
        buffer = self._dev.allocate(max(64, -(-data.nbytes // 64) * 64), bank=self._banks[at])
        np.asarray(buffer)[: data.nbytes] = data
        buffer.sync_to_device()
        return buffer

    def run(self, jobs: Sequence[Job], user: Hashable) -> Generator[tuple[Any, ...]]:
        """Copy rows in, run, copy results out; requests one after the other."""
        room = self._rooms.pop() if self._rooms else _Room()
        if user != room.user:
            room.scrub()
            room.user = user
        details: list[_Detail] = [job.detail for job in jobs]
        numbers = details[0].numbers | {"n_rows": sum(detail.numbers["n_rows"] for detail in details)}
        x, x_view = self._buffer(room, 0, sum(detail.x.nbytes for detail in details))
        y, y_view = self._buffer(room, 1, sum(detail.y.nbytes for detail in details))
        _fill(x, x_view, [detail.x for detail in details])
        base, base_view = self._buffer(room, _BASE, details[0].base.nbytes)
        _fill(base, base_view, [details[0].base])
        if numbers["flags"] & _CONTINUE:
            _fill(y, y_view, [detail.y for detail in details])
        scalars = [numbers[arg.name] for arg in xgboost.PREDICT.args[_BASE + 1 : _ID]]
        yield (x, y, *self._forest, base, *scalars, self._id)
        y.sync_from_device(0, sum(detail.y.nbytes for detail in details))
        at = 0
        for detail in details:
            detail.y[:] = y_view[at : at + detail.y.nbytes]
            at += detail.y.nbytes
        self._rooms.append(room)  # after an error it may be in use, and goes with the board

    def _buffer(self, room: _Room, index: int, nbytes: int) -> tuple[Buffer, npt.NDArray[np.uint8]]:
        found = room.buffers.get(index)
        if found is None or found[0].nbytes < nbytes:
            if found is not None:
                del room.buffers[index]
                buffer = found[0]
                del found
                buffer.close()
            buffer = self._dev.allocate(max(4096, 1 << (nbytes - 1).bit_length()), bank=self._banks[index])
            found = room.buffers[index] = buffer, np.asarray(buffer)
        return found

    def close(self) -> None:
        """Take it off the board."""
        buffers = [*self._forest, *(buffer for room in self._rooms for buffer, _view in room.buffers.values())]
        self._rooms.clear()  # the views, too, which would keep the device open
        self.kernel.close()
        for buffer in buffers:
            buffer.close()


def _fill(buffer: Buffer, view: npt.NDArray[np.uint8], pieces: list[npt.NDArray[np.uint8]]) -> None:
    at = 0
    for piece in pieces:
        view[at : at + piece.nbytes] = piece
        at += piece.nbytes
    buffer.sync_to_device(0, at)


__all__ = ["MAX_FOREST", "Forest", "Forests", "OpenedForest"]
