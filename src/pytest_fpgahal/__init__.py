# SPDX-License-Identifier: Apache-2.0
"""pytest plugin of fpgahal: emulated boards for the tests of programs that use FPGAs.

Installed with fpgahal, and so loaded by each run of pytest in its environment.  It is a package of its own because
importing anything below ``fpgahal`` loads NumPy and the bindings: here they are imported when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from fpgahal import Device
    from fpgahal.emu import Rack

#: What a rack holds unless the marker says otherwise: an OPAE board, because it works without an image.
BOARDS = "pac-a10"

OPTIONS = ("boards", "faults", "image")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        'fpga(boards="pac-a10", faults=[], image=None): run on an emulated rack of these boards, with these faults; '
        "image is what fpga_device programs",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a marked test its rack even if it names no fixture: else it would run on the machine's own boards."""
    names = getattr(item, "fixturenames", None)
    if names is not None and item.get_closest_marker("fpga") is not None and "fpga_rack" not in names:
        names.insert(0, "fpga_rack")


@pytest.fixture
def fpga_rack(request: pytest.FixtureRequest) -> Iterator[Rack]:
    """Emulated machine (``fpgahal.emu.Rack``): inside the test, its boards are the only ones that there are.

    ``@pytest.mark.fpga(boards="u250:2", faults=["hang"])`` says which boards, and what goes wrong on them; without
    it there is one ``pac-a10``.  Marks of the class and the module count too; the closest one wins, option by option.
    """
    from fpgahal import FpgaError, emu

    options = _options(request)
    boards = options.get("boards", BOARDS)
    try:
        rack = emu.rack(*([boards] if isinstance(boards, str) else boards))
    except (FpgaError, TypeError) as error:
        _refuse(f"boards={boards!r}: {error}")
    with rack:
        if "fpga_device" not in request.fixturenames:  # else they begin when the device is ready
            _faults(rack, options)
        yield rack


@pytest.fixture
def fpga_device(request: pytest.FixtureRequest, fpga_rack: Rack) -> Iterator[Device]:
    """The rack's board (the first by PCI address), opened (``fpgahal.Device``).

    ``@pytest.mark.fpga(image="nlb3")`` programs it: a name from the catalogue of emulated accelerators, a path
    object, or the bytes of an image.  Faults begin after that.
    """
    import fpgahal
    from fpgahal import emu

    options = _options(request)
    dev = fpgahal.open(fpga_rack.devices()[0])
    try:
        image = options.get("image")
        if image is not None:
            try:
                dev.program(emu.build_image(image, fpga_rack.board(0)) if isinstance(image, str) else image)
            except fpgahal.FpgaError as error:
                _refuse(f"image={image!r}: {error}")
        _faults(fpga_rack, options)
        yield dev
    finally:
        # A test that failed still has its views (in the traceback), and other fixtures may have some: its own
        # failure says more.  The board closes with the last view.
        with suppress(fpgahal.BufferInUseError, fpgahal.DeviceBusyError):
            dev.close()


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("fpga"))):
        unknown = [*map(repr, mark.args), *sorted(mark.kwargs.keys() - set(OPTIONS))]
        if unknown:
            _refuse(f"does not take {', '.join(unknown)}; it takes {', '.join(f'{name}=...' for name in OPTIONS)}")
        options.update(mark.kwargs)
    return options


def _faults(rack: Rack, options: dict[str, Any]) -> None:
    """Inject the marker's faults: kinds (of the first board), or arguments of ``Rack.fault`` as tuple or dict."""
    from fpgahal import FpgaError

    faults = options.get("faults", ())
    if isinstance(faults, (str, dict)):
        faults = [faults]
    if not isinstance(faults, (list, tuple)):
        _refuse(f"faults={faults!r}: expected a list of kinds, of tuples or of dicts")
    for fault in faults:
        try:
            if isinstance(fault, str):
                rack.fault(0, fault)
            elif isinstance(fault, dict):
                rack.fault(**{"device": 0, **fault})
            elif isinstance(fault, tuple):
                rack.fault(*fault)
            else:
                raise TypeError("expected a kind, or a tuple or dict of what Rack.fault takes")
        except (FpgaError, TypeError, ValueError) as error:
            _refuse(f"fault {fault!r}: {error}")


def _refuse(problem: str) -> NoReturn:
    pytest.fail(f"@pytest.mark.fpga {problem}", pytrace=False)
