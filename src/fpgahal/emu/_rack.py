# SPDX-License-Identifier: Apache-2.0
"""Rack: an emulated machine full of boards."""

from __future__ import annotations

import glob
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from fpgahal import _sysfs
from fpgahal._contract import KernelContract, add_contract, remove_contract
from fpgahal._errors import ClosedError, DeviceNotFoundError
from fpgahal._info import DeviceInfo
from fpgahal.emu import _control as control
from fpgahal.emu import _folder as folder
from fpgahal.emu import _tree as tree
from fpgahal.emu._boards import Board
from fpgahal.emu._models import Function, SharedObject
from fpgahal.emu._spec import Placed, SpecError, parse, tuned

#: Names the folder of the rack that this process and its children use.
RACK_FOLDER = "FPGAHAL_EMU_RACK"

FAULTS = ("program", "wrong-afu", "hang", "flip", "vanish", "run-error", "call")

_entered: list[Rack] = []  # racks in `with`, the innermost last
_guard = threading.Lock()


def innermost() -> str | None:
    """Return the folder of the innermost ``with rack(...)`` of this process, if any."""
    with _guard:
        return _entered[-1].dir if _entered else None


class Rack:
    """An emulated machine; made by :func:`fpgahal.emu.rack`.

    In ``with``, it is the machine whose boards this process and the programs that it starts see (and no others).
    """

    def __init__(self, dir: str, placed: list[Placed], *, owned: bool) -> None:
        self.dir = dir
        self._boards = sorted(placed, key=lambda one: (len(one.bdf), one.bdf))
        self._outer: list[str | None] = []  # the variable's value before each `with`
        self._closed = False
        self._models: list[tuple[KernelContract, Function | SharedObject]] = []
        # a rack that nobody closes goes when the program ends, but not with a forked child
        self._finalizer = weakref.finalize(self, _discard, dir, os.getpid()) if owned else None

    def devices(self) -> list[DeviceInfo]:
        """Return the boards that answer, by PCI address."""
        self._check_open()
        return _sysfs.scan(self.dir)

    def fault(
        self, device: str | int | DeviceInfo, kind: str, *, call: str | None = None, code: int = 0, count: int = -1
    ) -> None:
        """Make something go wrong.

        Parameters
        ----------
        device : str, int or DeviceInfo
            PCI address, record, or position among the rack's boards in order of address.
        kind : str
            ``"program"`` (reconfiguration fails), ``"wrong-afu"`` (it succeeds, but another id answers), ``"hang"``
            (a run never ends), ``"flip"`` (a word of a run's output is inverted), ``"run-error"`` (a run ends in the
            error state), ``"vanish"`` (the board drops off the bus), ``"call"`` (a vendor function fails).
        call, code : str, int
            For ``"call"``: the function's name and what it returns (OPAE: fpga_result) or sets (XRT: errno).
        count : int
            How often; negative: until :meth:`clear`.

        Raises
        ------
        DeviceNotFoundError
            The rack has no such board.
        ValueError
            No such fault, or it lacks `call` or `code`.
        """
        one = self._find(device)
        if kind not in FAULTS:
            raise SpecError(f"there is no fault {kind!r}.", hint=f"Known faults: {', '.join(FAULTS)}.")
        if (kind == "call") != (call is not None) or (kind == "call" and code == 0):
            raise SpecError(
                f"fault {kind!r} with call={call!r}, code={code}: the fault 'call', and only that, needs "
                "the function's name and a code other than 0.",
                hint='For example rack.fault(0, "call", call="fpgaOpen", code=2).',
            )
        control.fault(self.dir, one.bdf, kind, call, code, count)
        if kind == "vanish":
            tree.remove(self.dir, one)

    def clear(self, device: str | int | DeviceInfo | None = None) -> None:
        """Take the faults of a board (None: of all boards) away; a vanished board comes back as after power-up."""
        chosen = self._boards if device is None else [self._find(device)]
        back = [one for one in chosen if control.status(self.dir, one.bdf).vanished]
        tree.write(self.dir, back)
        for one in back if device is None else chosen:
            control.clear(self.dir, one.bdf)
        if device is None:
            control.clear(self.dir, None)

    def status(self, device: str | int | DeviceInfo) -> control.Status:
        """Return what the emulator says of a board, also of one that vanished."""
        return control.status(self.dir, self._find(device).bdf)

    def board(self, device: str | int | DeviceInfo) -> Board:
        """Return what kind of board one is: :func:`fpgahal.emu.build_image` wants to know."""
        return self._find(device).board

    def accelerator(self, contract: KernelContract, model: Callable[..., object] | str | os.PathLike[str]) -> None:
        """Add an accelerator that the boards can run, until the rack is closed.

        Images for it come from :func:`fpgahal.emu.build_image` and :func:`fpgahal.kernels.open_kernel`.

        Parameters
        ----------
        contract : KernelContract
        model : callable, or path
            What a run executes.  A function is called with the arguments by name: NumPy arrays of the contract's
            shapes and dtypes (``"void"``: uint8), read-only where the access is ``"r"``, good only during the call;
            scalars as int and float.  It runs in this process, on a thread of the emulator; an exception is printed
            and ends the run in the error state.  Other processes can't run it.
            A path names a shared object that exports ``const struct emu_model fpgahal_emu_model`` (see
            :func:`fpgahal.emu.include`); processes that this one starts can run it, too.

        Raises
        ------
        LibraryError
            The file is no such shared object.
        SpecError
            It is the model of another kernel.
        """
        self._check_open()
        families = {one.board.family for one in self._boards}
        known = Function(contract, model, families) if callable(model) else SharedObject(contract, model)
        self._models.append((contract, known))
        add_contract(contract)

    def hold_files(self, device: str | int | DeviceInfo) -> list[str]:
        """Return the files that a process keeps open, and locked, while it uses a board."""
        return glob.glob(f"{glob.escape(self.dir)}/lock/{self._find(device).index}.*")

    def close(self) -> None:
        """Leave the rack, and delete its folder unless it was to be kept.  Again: does nothing."""
        while self._outer:
            self._leave()
        self._closed = True
        while self._models:
            contract, model = self._models.pop()
            remove_contract(contract)
            model.remove()
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> Rack:
        self._check_open()
        with _guard:
            self._outer.append(os.environ.get(RACK_FOLDER))
            os.environ[RACK_FOLDER] = self.dir
            _entered.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if len(self._outer) > 1:
            self._leave()
        else:
            self.close()

    def __repr__(self) -> str:
        names = ", ".join(f"{one.bdf} {one.board.name}" for one in self._boards[:8])
        more = f", and {len(self._boards) - 8} more" if len(self._boards) > 8 else ""
        return f"<EMULATED rack {self.dir}: {names}{more}{'; closed' if self._closed else ''}>"

    def _leave(self) -> None:
        with _guard:
            outer = self._outer.pop()
            if outer is None:
                os.environ.pop(RACK_FOLDER, None)
            else:
                os.environ[RACK_FOLDER] = outer
            for position in range(len(_entered) - 1, -1, -1):
                if _entered[position] is self:
                    del _entered[position]
                    break

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the emulated rack {self.dir} was closed.", hint="Make a new one with fpgahal.emu.rack.")

    def _find(self, device: str | int | DeviceInfo) -> Placed:
        self._check_open()
        if isinstance(device, int):
            if 0 <= device < len(self._boards):
                return self._boards[device]
        else:
            bdf = device.bdf if isinstance(device, DeviceInfo) else device
            for one in self._boards:
                if bdf and bdf in (one.bdf, one.management_bdf, f"{one.bdf}/0"):
                    return one
        raise DeviceNotFoundError(
            f"the rack has no board {device!s}.", hint=f"It has {', '.join(one.bdf for one in self._boards)}."
        )


def _discard(path: str, maker: int) -> None:
    if os.getpid() == maker:
        tree.delete(path)


def rack(
    *specs: str,
    dir: str | os.PathLike[str] | None = None,
    keep: bool = False,
    program_ms: float | None = None,
    link_gbps: float | None = None,
    launch_us: float | None = None,
    cores: int | None = None,
) -> Rack:
    """Make an emulated machine.

    Parameters
    ----------
    *specs : str
        Boards: ``"pac-a10"``, ``"pac-a10:2"``, ``"pac-a10:2,u250"``; see :func:`fpgahal.emu.boards`.  None, with
        `dir`: open the rack that is there.
    dir : str or os.PathLike, optional
        Its folder: made if it does not exist, else it must be empty.  Default: a new one in the user's run-time
        folder, TMPDIR, /dev/shm or /tmp: the first that has room.
    keep : bool
        Leave the folder in place at the end.  A rack that was only opened is always kept.
    program_ms : float, optional
        Milliseconds that a reconfiguration takes.
    link_gbps : float, optional
        GB/s (10^9 bytes a second) of each direction of a board's link.  All transfers in a direction share it.
    launch_us : float, optional
        Microseconds added to each run.
        0 is as fast as this computer can; None is what the data file says of the board.
    cores : int, optional
        Threads of this computer that a board's kernels may use.

    Returns
    -------
    Rack
        Use it in ``with``: inside, its boards are the ones that this process sees.

    Raises
    ------
    SpecError
        The description is wrong.  It is a ValueError; its hint shows a right one.
    BoardFileError
        A file in ``FPGAHAL_BOARDS`` is broken.

    Examples
    --------
    >>> with fpgahal.emu.rack("pac-a10:2", "u250") as rack:  # doctest: +SKIP
    ...     print(len(fpgahal.devices()))
    3
    """
    if not specs and dir is not None:
        path = os.path.abspath(os.fspath(dir))
        return Rack(path, folder.contents(path), owned=False)
    boards = tuned(parse(specs), program_ms, link_gbps, launch_us, cores)
    if dir is None:
        path = folder.fresh(len(boards))
    else:
        path = os.path.abspath(os.fspath(dir))
        os.makedirs(path, mode=0o700, exist_ok=True)
        if os.listdir(path):
            raise SpecError(
                f"{path} is not empty.",
                hint="Pass an empty folder, or open the rack that is there: fpgahal.emu.rack(dir=...).",
            )
    try:
        placed = folder.build(path, boards)
    except BaseException:
        tree.delete(path)
        raise
    return Rack(path, placed, owned=not keep)
