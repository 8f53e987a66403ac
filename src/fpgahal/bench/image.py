# SPDX-License-Identifier: Apache-2.0
"""``fpgahal-bench image``: a picture through an image kernel, and how long that takes."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import fpgahal
from fpgahal import Device
from fpgahal.bench.boards import load
from fpgahal.bench.report import Report, duration
from fpgahal.cli.app import OK, UsageError
from fpgahal.cli.files import replacing
from fpgahal.cli.output import Output
from fpgahal.kernels.image import AFFINE, SOBEL, Affine, Sobel, rotation

Pixels = npt.NDArray[Any]
GREY, COLOUR = "L", "RGB"
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")  # what Pillow calls 16 bits of grey


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``image``; --input and --output are those of ``nlb``."""
    group = parser.add_argument_group("image: a picture through the board (needs fpgahal[image])")
    group.add_argument(
        "--kernel", choices=("sobel", "affine"), default="sobel", help="edges, or a turn (default: sobel)"
    )
    group.add_argument("--angle", type=float, default=30.0, metavar="DEGREES", help="affine: counter-clockwise (30)")
    group.add_argument("--scale", type=float, default=1.0, metavar="FACTOR", help="affine: about the middle (1)")


def image(args: argparse.Namespace, out: Output) -> int:
    """The command: read, run until --seconds are over, write."""
    if args.input is None or args.output is None:
        raise UsageError(
            "image needs --input and --output.",
            hint="fpgahal-bench image --emulate pac-a10 --input photo.png --output edges.png",
        )
    kind = check_output(args)
    pixels = read(args.input, grey=args.kernel == "sobel")
    with fpgahal.open(args.device) as dev:
        info = dev.info
        report = Report(out, info.emulated, quiet=out.as_json)
        report.line(f"{info.address}  {info.name}  ({info.driver})")
        found, samples = run(dev, args, pixels)
    write(args.output, found, kind)
    height, width = pixels.shape[:2]
    median = statistics.median(samples)
    speed = width * height / median / 1e6
    report.line(f"{args.kernel}  {width} x {height}, {pixels.shape[2] if pixels.ndim == 3 else 1} x {pixels.dtype}")
    report.line(f"p50 {duration(median * 1e9)}   {speed:.1f} Mpixel/s   ({len(samples)} samples)")
    report.line(f"{args.output}: written")
    document = {
        "device": info.address,
        "emulated": info.emulated,
        "board": info.name,
        "kernel": args.kernel,
        "input": args.input,
        "output": args.output,
        "shape": list(pixels.shape),
        "dtype": str(pixels.dtype),
        "p50_ns": round(median * 1e9),
        "samples": len(samples),
        "megapixels_per_s": round(speed, 3),
    }
    out.result(document, lambda: None)
    return OK


def run(dev: Device, args: argparse.Namespace, pixels: Pixels) -> tuple[Pixels, list[float]]:
    """The result, and the seconds that each of several runs took."""
    contract = SOBEL if args.kernel == "sobel" else AFFINE
    load(dev, contract.name, contract.afu_id if dev.info.driver == "opae" else None, args.program)
    if args.kernel == "sobel":
        with Sobel(dev, timeout=args.timeout) as sobel:
            return timed(lambda: sobel(pixels), args.seconds)
    height, width = pixels.shape[:2]
    matrix = rotation(args.angle, ((width - 1) / 2, (height - 1) / 2), args.scale)
    with Affine(dev, timeout=args.timeout) as affine:
        return timed(lambda: affine(pixels, matrix), args.seconds)


def timed(work: Callable[[], Pixels], seconds: float) -> tuple[Pixels, list[float]]:
    """Once to warm up, then at least three times, until `seconds` are over."""
    found, samples = work(), list[float]()
    end = time.perf_counter() + seconds
    while len(samples) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        samples.append(time.perf_counter() - start)
    return found, samples


# --- files --------------------------------------------------------------------------------------------------------


def pillow() -> Any:
    """Pillow's module Image.

    Raises
    ------
    UnsupportedError
        It is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise fpgahal.UnsupportedError(
            "Pictures need Pillow, which is not installed.", hint="pip install fpgahal[image]"
        ) from None
    return Image


def check_output(args: argparse.Namespace) -> str:
    """The format that the output's name asks for."""
    known = pillow().registered_extensions()
    ending = os.path.splitext(args.output)[1].lower()
    if known.get(ending) not in pillow().SAVE:
        raise UsageError(f"--output {args.output}: {ending or 'no ending'} is no format of pictures.", hint="Use .png.")
    if os.path.exists(args.output) and os.path.exists(args.input) and os.path.samefile(args.input, args.output):
        raise UsageError(f"{args.input} and {args.output} are the same file.", hint="Name another file for the result.")
    return str(known[ending])


def read(path: str, *, grey: bool) -> Pixels:
    """A picture as (rows, columns) or (rows, columns, 3), upright; uint16 if it has 16 bits of grey."""
    from PIL import ImageOps, UnidentifiedImageError

    module = pillow()
    try:
        with module.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode not in DEEP:
                plain = grey or picture.mode in ("1", GREY, "LA")
                picture = picture.convert(GREY if plain else COLOUR)
            pixels = np.asarray(picture)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (UnidentifiedImageError, module.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: is no picture that can be read: {error}", hint="Is the file whole?") from error
    return pixels.astype(np.uint16) if pixels.dtype.itemsize > 1 else pixels


def write(path: str, pixels: Pixels, kind: str) -> None:
    """Write a picture; the file appears whole or not at all."""
    picture = pillow().fromarray(pixels)
    with replacing(path) as file:
        try:
            picture.save(file, kind)
        except OSError as error:
            if error.errno is not None:
                raise
            raise UsageError(
                f"{path}: {kind} has no pictures of {pixels.dtype} like this: {error}.", hint="Use .png."
            ) from error
