# SPDX-License-Identifier: Apache-2.0
"""``fpgahal.open("manager:")``: the manager's boards behind the Device API.  docs/manager-device.md says what works.

This is an Owner in the sense of ``fpgahal._scheme``: it stands below Device where a vendor's library does.
"""

from __future__ import annotations

import os
import socket
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal import (
    AccessError,
    ArgumentError,
    Bitstream,
    DeviceBusyError,
    DeviceInfo,
    DeviceLostError,
    DeviceMemoryError,
    DeviceNotFoundError,
    FpgaError,
    KernelContract,
    KernelInfo,
    KernelNotFoundError,
    RunError,
    RunTimeoutError,
    Scalar,
    UnsupportedError,
)
from fpgahal import Array as ArrayArgument
from fpgahal.manager.client import Client, Request, default_socket
from fpgahal.manager.errors import ManagerLostError, QuotaError, WaitTimeoutError

#: Of the manager's errors, those that the Device API has other names for.
_CLASSES: dict[type[FpgaError], type[FpgaError]] = {
    ManagerLostError: DeviceLostError,
    DeviceNotFoundError: DeviceLostError,  # no board can run it, any more
    QuotaError: DeviceBusyError,
    RunTimeoutError: RunError,  # it is not pending, the manager has stopped it
}


def translated(error: FpgaError) -> FpgaError:
    """The same error, of the class that a Device raises."""
    return _CLASSES.get(type(error), type(error))(error.message, hint=error.hint)


class ManagerScheme:
    """How managers are found: ``manager:`` and the path of the socket; by default :func:`default_socket`."""

    def info(self, address: str) -> DeviceInfo:
        """Describe a manager; it is not asked."""
        path = os.path.abspath(address or default_socket())
        return DeviceInfo(f"manager:{path}", driver="manager", name="boards of the node manager", platform="manager")

    def connect(self, info: DeviceInfo) -> Boards:
        """Connect.

        Raises
        ------
        DeviceNotFoundError
            No manager answers there.
        AccessError
            This user may not connect.
        DeviceBusyError
            This user has too many connections.
        """
        path = info.bdf.partition(":")[2]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:  # the Client would wait for a manager
            try:
                probe.connect(path)
            except PermissionError as error:
                raise AccessError(f"{info.bdf}: this user may not connect.", hint="Its owner and group may.") from error
            except OSError as error:
                raise DeviceNotFoundError(
                    f"{info.bdf}: no manager answers: {error.strerror or error}.",
                    hint="Is fpgahal-manager running, and is this its socket?",
                ) from error
        try:
            return Boards(info, Client(path, _PATIENCE))
        except ManagerLostError as error:
            raise DeviceNotFoundError(error.message, hint=error.hint) from error
        except QuotaError as error:
            raise DeviceBusyError(error.message, hint=error.hint) from error


_PATIENCE = 30.0  # seconds to wait for the next manager when one has gone


class Boards:
    """What a manager offers: an Owner."""

    def __init__(self, info: DeviceInfo, client: Client) -> None:
        self._info = info
        self._client = client
        self._offers: dict[str, Offer | None] = {}
        self._views: dict[int, dict[np.dtype[Any], npt.NDArray[Any]]] = {}  # by the buffer's identity

    def allocate(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Memory that the manager reads and writes in place.

        Raises
        ------
        DeviceMemoryError
            More than the manager's policy gives this user.
        """
        try:
            memory = self._client.allocate(nbytes)
            self._views[id(memory)] = {}
            weakref.finalize(memory, self._views.pop, id(memory)).atexit = False
            return memory
        except QuotaError as error:
            raise DeviceMemoryError(error.message, hint="The manager's policy file says how much.") from error
        except ManagerLostError as error:
            raise translated(error) from error

    # --- what there is --------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        try:
            boards = self._client.status()["boards"]
        except ManagerLostError as error:
            raise translated(error) from error
        return sorted({name for board in boards for name in board["accelerators"]})

    def _offer(self, name: str) -> Offer | None:
        """What an accelerator is; None if there is none that is called as its kernel is."""
        if name not in self._offers:
            try:
                document = self._client.status(name)
            except (AccessError, KernelNotFoundError):
                return None  # perhaps later
            except ManagerLostError as error:
                raise translated(error) from error
            if not document["images"]:
                return None
            self._offers[name] = Offer.of(name, document)
        return self._offers[name]

    def _all(self) -> list[Offer]:
        return [offer for name in self._names() if (offer := self._offer(name)) is not None]

    def kernels(self) -> tuple[KernelInfo, ...]:
        """Accelerators that are called as their kernel is, in the order of their names."""
        return tuple(offer.info for offer in self._all())

    def kernel(self, name: str | KernelContract) -> KernelInfo:
        """The accelerator of this name, or one with the contract's kernel."""
        offer = self._offer(name.name if isinstance(name, KernelContract) else str(name))
        if not isinstance(name, KernelContract):
            if offer is None:
                raise self._missing(str(name))
            return offer.info
        if offer is not None and offer.kernel == name.name and not name.difference(offer.info):
            return offer.info
        named = [offer for offer in self._all() if offer.kernel == name.name]
        for other in named:
            if not name.difference(other.info):
                return other.info
        if named:
            raise ArgumentError(
                f"{self._info.bdf}: {named[0].info.name} is not the kernel of the contract: "
                f"{name.difference(named[0].info)}.",
                hint="Use the contract that the manager has, or ask its operator for another image.",
            )
        raise self._missing(name.name)

    def _missing(self, name: str) -> KernelNotFoundError:
        known = ", ".join(offer.info.name for offer in self._all()) or "nothing"
        return KernelNotFoundError(
            f"{self._info.bdf}: the manager offers no kernel {name!r} to this user (it offers {known}).",
            hint="Which images its boards get is its operator's decision: fpgahal-manager --help.",
        )

    def check_image(self, image: Bitstream, force: bool) -> None:
        """Raise unless the manager loads this image whenever somebody asks for what it holds."""
        offered = {text: offer.info.name for offer in self._all() for text in offer.images}
        if str(image.afu_id) not in offered:
            raise UnsupportedError(
                f"{image.name} ({image.afu_id}) was not loaded: {self._info.bdf} decides what its boards run, and it "
                f"offers {', '.join(f'{name} ({text})' for text, name in sorted(offered.items())) or 'nothing'}.",
                hint="Ask its operator to add the image, or open a board of your own.",
            )
        if force:
            raise UnsupportedError(
                f"{image.name} was not loaded again: {self._info.bdf} decides when its boards are programmed.",
                hint="Leave force out.",
            )

    def unsupported(self, what: str) -> UnsupportedError:
        """Boards that others use at the same time can't be touched behind their back."""
        return UnsupportedError(
            f"{what}: not through {self._info.bdf}, whose boards others use at the same time.",
            hint="Run kernels instead, or open a board of your own; docs/manager-device.md says what works.",
        )

    # --- runs -----------------------------------------------------------------------------------------------------

    def start(self, kernel: KernelInfo, arguments: list[Any]) -> Pending:
        """Send a request."""
        offer = self._offers[kernel.name]
        assert offer is not None
        values: dict[str, Any] = {}
        for name, dtype, value in zip(offer.names, offer.dtypes, arguments, strict=True):
            values[name] = value if dtype is None else self._view(value, dtype)
        try:
            return Pending(self._client.submit(kernel.name, once=offer.once, **values))
        except FpgaError as error:
            raise translated(error) from error

    def _view(self, memory: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The whole of a buffer, as a kernel sees it; the same object each time, by which requests are known again."""
        views = self._views[id(memory)]
        found = views.get(dtype)
        if found is None:
            found = views[dtype] = memory[: memory.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)
        return found

    def close(self) -> None:
        """Hang up."""
        self._client.close()


class Pending:
    """A request, as a Job."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def wait(self, seconds: float) -> bool:
        """Wait for the answer, that long at most."""
        if self._request.done():
            return True
        if seconds > 0:
            with suppress(WaitTimeoutError):
                self._request.exception(seconds)
                return True
        return False

    def failure(self) -> FpgaError | None:
        """What the answer says went wrong; None without an answer."""
        error = self._request.exception(0) if self._request.done() else None
        return translated(error) if isinstance(error, FpgaError) else None


class Offer:
    """An accelerator whose arguments are its kernel's.

    Attributes
    ----------
    info : KernelInfo
        Under the accelerator's name.
    kernel : str
        What the kernel itself is called.
    images : tuple of str
        Ids of the images with it.
    names : tuple of str
    dtypes : tuple of numpy.dtype or None
        Of the arguments; None: a number.
    once : bool
        It must not be run again after it may have run: it changes what it was given.
    """

    def __init__(self, name: str, contract: KernelContract, images: tuple[str, ...]) -> None:
        known = contract.info
        self.info = KernelInfo(name, known.args, known.compute_units)
        self.kernel = contract.name
        self.images = images
        self.names = tuple(arg.name for arg in contract.args)
        self.dtypes = tuple(
            np.dtype(arg.dtype.replace("void", "uint8")) if isinstance(arg, ArrayArgument) else None
            for arg in contract.args
        )
        self.once = any(isinstance(arg, ArrayArgument) and arg.access == "rw" for arg in contract.args)

    @classmethod
    def of(cls, name: str, document: dict[str, Any]) -> Offer | None:
        """From what the manager says; None if its arguments are not the kernel's."""
        if document["arguments"] is None:
            return None
        args = tuple(
            ArrayArgument(arg["name"], arg["dtype"], access=arg["access"])
            if "access" in arg
            else Scalar(arg["name"], arg["dtype"])
            for arg in document["arguments"]
        )
        return cls(name, KernelContract(document["kernel"], args), tuple(document["images"]))


SCHEME = ManagerScheme()

__all__ = ["SCHEME", "Boards", "ManagerScheme", "Offer", "Pending", "translated"]
