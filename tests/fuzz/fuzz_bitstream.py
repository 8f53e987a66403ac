# SPDX-License-Identifier: Apache-2.0
"""Fuzz Bitstream.parse: any bytes give a Bitstream or a BitstreamError, and quickly.

With atheris: ``python fuzz_bitstream.py --atheris -max_total_time=60`` (and whatever libFuzzer takes).
Without it: ``python fuzz_bitstream.py --seconds 60 [--seed N]`` mutates good files.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import random
import struct
import sys
import time
import uuid
from types import SimpleNamespace

ATHERIS = "--atheris" in sys.argv
if ATHERIS:
    import atheris

    imports = atheris.instrument_imports(include=["fpgahal"])
else:
    imports = contextlib.nullcontext()
with imports:
    from fpgahal._bitstream import Bitstream
    from fpgahal._catalogue import build_image
    from fpgahal._errors import BitstreamError
    from fpgahal._types import BankInfo

    for parser in ("_gbs", "_xclbin_build"):  # else imported at the first parse, without instrumentation
        importlib.import_module(f"fpgahal.{parser}")

SLOW_SECONDS = 2.0
_BANKS = [BankInfo(index, f"DDR[{index}]", "ddr4", index << 30, 1 << 30) for index in range(2)]
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 64) - 1)
_WORDS = (b'""', b"null", b"true", b"NaN", b"-1", b"1e999", b"[", b"{", b"0x", b"<!DOCTYPE a>", b"&a;", b"\0", b"\xff")


def seeds() -> list[bytes]:
    """Make good files: a GBS, and an xclbin of each kind of shell."""
    interface = uuid.UUID(int=0x1234)
    opae = SimpleNamespace(family="opae", interface_id=interface, vbnv="pac", timestamp=0, banks=[])
    old = SimpleNamespace(family="xrt", interface_id=None, vbnv="u200", timestamp=7, banks=_BANKS)
    new = SimpleNamespace(family="xrt", interface_id=interface, vbnv="u250", timestamp=0, banks=_BANKS)
    return [build_image("nlb0", opae), build_image("vadd", old), build_image("demo", new)]


def check(data: bytes) -> bool:
    """Parse once; True if the file was good.  What must not happen is an exception that goes on from here."""
    started = time.monotonic()
    try:
        found = Bitstream.parse(data)
    except BitstreamError as error:
        str(error)
        good = False
    else:
        good = found.emulated or bool(repr(found))
    if time.monotonic() - started > SLOW_SECONDS:
        raise RuntimeError(f"{len(data)} bytes took {time.monotonic() - started:.1f} s")
    return good


def repaired(data: bytes) -> bytes:
    """Make an xclbin's length right, so that a mutation gets past the first check."""
    if data[:8] == b"xclbin2\0" and len(data) >= 312:
        data = data[:304] + struct.pack("<Q", len(data)) + data[312:]
    return data


def mutated(good: bytes, random_: random.Random) -> bytes:
    """Change a few places of a good file."""
    data = bytearray(good)
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        at = random_.randrange(len(data))
        match random_.randrange(6):
            case 0:
                data[at] = random_.randrange(256)
            case 1:
                layout = random_.choice(("<H", "<I", "<Q", ">I"))
                value = random_.choice(_EDGES) & (1 << 8 * struct.calcsize(layout)) - 1
                at = min(at & ~3, len(data) - 8)
                struct.pack_into(layout, data, at, value)
            case 2:
                data[at : at + random_.randrange(1, 40)] = b""
            case 3:
                data[at:at] = random_.randbytes(random_.randrange(1, 40))
            case 4:
                data[at : at + random_.randrange(12)] = random_.choice(_WORDS)
            case _:
                end = at + random_.randrange(1, 60)
                data[at:at] = data[at:end]
        if len(data) < 32:
            break
    return bytes(data)


def run_atheris() -> None:
    """Run libFuzzer; the corpus starts from the good files."""
    good = seeds()

    def one(data: bytes) -> None:
        check(data)
        check(repaired(data))
        if len(data) > 2:  # and as a patch on a good file
            base = good[data[0] % len(good)]
            at = int.from_bytes(data[1:3], "little") % len(base)
            check(base[:at] + data[3:] + base[at + len(data) - 3 :])

    atheris.Setup([argument for argument in sys.argv if argument != "--atheris"], one)
    atheris.Fuzz()


def run_plain(seconds: float, seed: int) -> None:
    """Mutate good files until the time is up."""
    random_ = random.Random(seed)
    good = seeds()
    if not all(check(data) for data in good):
        raise RuntimeError("a good file was refused")
    until = time.monotonic() + seconds
    runs = sound = 0
    while time.monotonic() < until:
        data = mutated(random_.choice(good), random_)
        try:
            sound += check(data if runs % 8 == 0 else repaired(data))
        except BaseException:
            print(f"seed {seed}, run {runs}: {data.hex()}", file=sys.stderr)
            raise
        runs += 1
    print(f"{runs} files, {sound} of them sound, {runs - sound} refused, none crashed (seed {seed})")


if __name__ == "__main__":
    if ATHERIS:
        run_atheris()
    else:
        options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        options.add_argument("--seconds", type=float, default=60)
        options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
        arguments = options.parse_args()
        run_plain(arguments.seconds, arguments.seed)
