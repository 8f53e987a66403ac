# SPDX-License-Identifier: Apache-2.0
"""Fuzz fpgahal.manager.wire.parse: any bytes give a frame, which packs to as many bytes, or a ProtocolError.

With atheris: ``python fuzz_manager.py --atheris -max_total_time=60`` (and whatever libFuzzer takes).
Without it: ``python fuzz_manager.py --seconds 60 [--seed N]`` mutates good frames.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import struct
import sys
import time

ATHERIS = "--atheris" in sys.argv
if ATHERIS:
    import atheris

    imports = atheris.instrument_imports(include=["fpgahal.manager"])
else:
    imports = contextlib.nullcontext()
with imports:
    from fpgahal.manager import wire

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 64) - 1)


def seeds() -> list[bytes]:
    """Make one good frame of each kind."""
    floats, ints = wire.DTYPES[9], wire.DTYPES[5]
    submit = wire.Submit(
        "xgboost.predict",
        {"x": wire.Ref(1, 64, floats, (3, 4), 48), "n": 1, "most": 1 << 63, "f": 0.5, "text": "a", "b": -1},
        deadline=1000,
        once=True,
    )
    frames: list[wire.Frame] = [
        wire.Hello(1, 1),
        wire.Welcome(1, 4096, 1024, 1 << 30),
        wire.Register(1, True, 4096),
        wire.Release(1),
        submit,
        wire.Describe(submit),
        wire.Cancel(),
        wire.Status(),
        wire.Admin(wire.Verb.DRAIN, "0000:3b:00.0"),
        wire.Ok(),
        wire.Specs((wire.Spec("y", floats, (3,)), wire.Spec("z", ints, ()))),
        wire.Done(0.0, 1.0),
        wire.Failed(wire.Code.RUN, "what", "hint"),
        wire.Report("{}"),
    ]
    return [wire.pack(frame, 7) for frame in frames]


def check(data: bytes) -> bool:
    """Parse once; True if it was a frame.  What must not happen is an exception that goes on from here."""
    try:
        tag, frame = wire.parse(data)
    except wire.ProtocolError:
        return False
    again = wire.pack(frame, tag)
    if len(again) != len(data) and not isinstance(frame, wire.Failed):  # its texts may be no UTF-8
        raise AssertionError(f"{data!r} was parsed as {frame}, which is {again!r}")
    return True


def mutate(data: bytes, random: random.Random) -> bytes:
    """Change bytes, numbers and the length; mostly, the header fits again."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(4):
            case 0:
                changed[at : at + 1] = random.randbytes(1)
            case 1:
                number = struct.pack("<Q", random.choice(_EDGES))[: random.choice((1, 2, 4, 8))]
                changed[at : at + len(number)] = number
            case 2:
                del changed[at : at + random.randint(1, 16)]
            case _:
                changed[at:at] = random.randbytes(random.randint(1, 16))
    if random.random() < 0.9 and len(changed) >= 16:
        changed[:4] = struct.pack("<I", len(changed))
        changed[5:8] = bytes(3)
    return bytes(changed)


def main() -> int:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    source, good, end, count = random.Random(seed), seeds(), time.monotonic() + args.seconds, 0
    assert all(map(check, good))
    accepted = 0
    while time.monotonic() < end:
        data = mutate(source.choice(good), source)
        try:
            accepted += check(data)
        except BaseException:
            print(f"seed {seed}, after {count}: {data!r}", file=sys.stderr)
            raise
        count += 1
    print(f"{count} frames, {accepted} of them good; seed {seed}")
    return 0


if __name__ == "__main__":
    if ATHERIS:
        sys.argv.remove("--atheris")
        atheris.Setup(sys.argv, lambda data: check(data) and None)
        atheris.Fuzz()
    sys.exit(main())
