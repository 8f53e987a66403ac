# SPDX-License-Identifier: Apache-2.0
"""The image kernels against OpenCV (bit for bit) and scikit-image, on boards of both vendors."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import skimage.data
import skimage.filters
import skimage.transform

import fpgahal
from fpgahal.kernels import image

BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "replicate": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "reflect101": cv2.BORDER_REFLECT_101,
}
INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}
SHAPES = (
    *((1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (7, 7), (17, 64), (64, 17), (33, 129), (100, 100), (240, 321)),
    *((1, 1, 1), (5, 4, 1), (1, 30, 3), (31, 1, 3), (8, 8, 3), (63, 65, 3), (120, 200, 3), (40, 50, 4)),
)
DTYPES = (np.uint8, np.uint16)
CASES = list(itertools.product(SHAPES, DTYPES))
RIGHT = 16  # OpenCV computes so many columns at the right of a row without fma


class Boards(NamedTuple):
    sobel: image.Sobel
    affine: image.Affine
    small_sobel: image.Sobel  # with the smallest buffers: everything takes many tiles
    small_affine: image.Affine
    rack: fpgahal.emu.Rack


@pytest.fixture(scope="module", params=["pac-a10", "u250"])
def boards(request: pytest.FixtureRequest) -> Iterator[Boards]:
    with fpgahal.emu.rack(f"{request.param}:2") as rack:
        first, second = (fpgahal.open(info) for info in rack.devices())
        with (
            first,
            second,
            image.Sobel(first) as sobel,
            image.Affine(second) as affine,
            image.Sobel(first, buffer_bytes=4096) as small_sobel,
            image.Affine(second, buffer_bytes=4096) as small_affine,
        ):
            yield Boards(sobel, affine, small_sobel, small_affine, rack)


def noise(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(list(shape)).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def warp(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int], **options: Any) -> np.ndarray:
    """OpenCV's, without the columns at the right that it computes in another way."""
    wide = cv2.warpAffine(pixels, matrix, (-(-size[0] // 64) * 64, size[1]), **options)
    return wide[:, : size[0]].reshape(size[1], size[0], *pixels.shape[2:])


# --- Sobel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_edges_are_those_of_opencv(boards: Boards, shape: tuple[int, ...], dtype: Any) -> None:
    pixels = noise(shape, dtype)
    largest = np.iinfo(dtype).max
    for ksize, (border, flag) in itertools.product((1, 3, 5, 7), BORDERS.items()):
        gx, gy = (
            cv2.Sobel(pixels, cv2.CV_64F, *order, ksize=ksize, borderType=flag).reshape(shape)
            for order in ((1, 0), (0, 1))
        )
        both = (
            boards.sobel(pixels, ksize=ksize, border=border),
            boards.sobel(pixels, ksize=ksize, border=border, norm="l1"),
        )
        assert both[0].dtype == dtype
        assert np.array_equal(both[0], np.minimum(np.floor(np.sqrt(gx**2 + gy**2) + 0.5), largest))
        assert np.array_equal(both[1], np.minimum(abs(gx) + abs(gy), largest))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ksize", [1, 3, 5, 7])
def test_derivatives_are_those_of_opencv(boards: Boards, ksize: int, dtype: Any) -> None:
    pixels = noise((60, 71, 3), dtype)
    highest = max(2, ksize - 1)
    for dx, dy in itertools.product(range(highest + 1), repeat=2):
        if dx or dy:
            found = boards.sobel(pixels, dx=dx, dy=dy, ksize=ksize)
            assert found.dtype == np.int32
            assert np.array_equal(found, cv2.Sobel(pixels, cv2.CV_64F, dx, dy, ksize=ksize)), (dx, dy)


def test_edges_of_a_photograph_are_those_of_scikit_image(boards: Boards) -> None:
    pixels = skimage.data.camera()
    ours = boards.sobel(pixels).astype(float)
    theirs = skimage.filters.sobel(pixels.astype(float)) * 4 * np.sqrt(2)  # it divides by the weights, and averages
    assert np.abs(ours - np.minimum(theirs, 255))[1:-1, 1:-1].max() <= 0.5 + 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("border", BORDERS)
def test_sobel_in_many_tiles_is_the_same(boards: Boards, dtype: Any, border: str) -> None:
    for shape in ((1, 5000), (5000, 1), (150, 170, 3)):
        pixels = noise(shape, dtype)
        for options in ({"ksize": 7}, {"dx": 1}):
            options |= {"border": border, "border_value": 77}
            assert np.array_equal(boards.small_sobel(pixels, **options), boards.sobel(pixels, **options))


def test_a_constant_border_has_its_colour(boards: Boards) -> None:
    pixels = np.full((4, 4, 3), 9, np.uint8)
    assert not boards.sobel(pixels, border="constant", border_value=9).any()
    edges = boards.sobel(pixels, border="constant", border_value=(9, 9, 200))
    assert not edges[..., :2].any()
    assert edges[0, 0, 2]


# --- affine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_a_warp_is_that_of_opencv(boards: Boards, shape: tuple[int, ...], dtype: Any) -> None:
    pixels = noise(shape, dtype)
    rows, columns = shape[:2]
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), 31.4, 0.9)
    size = columns + 13, rows + 5
    colour = (10, 200, 77, 255)[: pixels.shape[2] if pixels.ndim == 3 else 1]
    for (name, flags), (border, mode) in itertools.product(INTERPOLATIONS.items(), BORDERS.items()):
        ours = boards.affine(pixels, matrix, size=size, interpolation=name, border=border, border_value=colour)
        theirs = warp(pixels, matrix, size, flags=flags, borderMode=mode, borderValue=colour)
        assert ours.dtype == dtype
        assert np.array_equal(ours, theirs), (name, border)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 0], [0, 1, 0]],
        [[1, 0, 0.5], [0, 1, -7.25]],
        [[0, 1, 0], [1, 0, 0]],
        [[-1, 0, 99], [0, -1, 79]],
        [[3.7, 0, 0], [0, 0.2, 0]],
        [[1, 0.6, -20], [0.1, 1, 3]],
        [[0.01, 0, 3], [0, 0.01, 5]],
        [[40, -3, 1000], [5, 61, -2000]],
        [[1, 0, 5e3], [0, 1, 0]],
        [[1e-2, 0, 0], [0, 1e2, 0]],
    ],
)
def test_warps_of_all_kinds(boards: Boards, matrix: list[list[float]], dtype: Any) -> None:
    pixels, m = noise((80, 100), dtype), np.array(matrix, float)
    for inverse, border in itertools.product((False, True), BORDERS):
        flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if inverse else 0)
        ours = boards.affine(pixels, m, inverse=inverse, border=border)
        assert np.array_equal(ours, warp(pixels, m, (100, 80), flags=flags, borderMode=BORDERS[border])), border


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_right_edge_opencv_may_round_otherwise(boards: Boards, dtype: Any) -> None:
    pixels = noise((200, 333, 3), dtype)
    matrix = cv2.getRotationMatrix2D((160, 100), 12.3, 1.1)
    theirs = cv2.warpAffine(pixels, matrix, (333, 200)).astype(int)
    difference = np.abs(boards.affine(pixels, matrix).astype(int) - theirs)
    assert difference.max() <= (1 if dtype == np.uint8 else 8)
    assert not difference[:, :-RIGHT].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("border", BORDERS)
def test_affine_in_many_tiles_is_the_same(boards: Boards, dtype: Any, border: str) -> None:
    for shape in ((1, 3000), (3000, 1), (150, 170, 3)):
        pixels = noise(shape, dtype)
        for matrix in (image.rotation(40, (80, 70), 1.5), image.rotation(10, (9, 9), 0.1)):
            options = {"border": border, "border_value": 77, "size": (90, 60)}
            whole = boards.affine(pixels, matrix, **options)
            assert np.array_equal(boards.small_affine(pixels, matrix, **options), whole)


def test_a_warped_photograph_is_that_of_scikit_image(boards: Boards) -> None:
    pixels = skimage.data.astronaut()
    matrix = image.rotation(20, (255.5, 255.5), 0.8)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    theirs = skimage.transform.warp(pixels, back, order=1, preserve_range=True)
    assert np.abs(boards.affine(pixels, matrix) - theirs).max() <= 0.51


def test_rotation_is_that_of_opencv() -> None:
    for angle, center, scale in ((0, (0, 0), 1), (17.3, (50, 40), 1.13), (-200, (1e4, 3), 0.2)):
        assert np.allclose(image.rotation(angle, center, scale), cv2.getRotationMatrix2D(center, angle, scale))


# --- both ---------------------------------------------------------------------------------------------------------


def test_strides_and_byte_order_do_not_matter(boards: Boards) -> None:
    pixels = noise((50, 60, 3), np.uint16)
    matrix = image.rotation(5, (30, 25))
    views = [
        (np.asfortranarray(pixels), pixels),
        (pixels[::-1, ::-2], np.ascontiguousarray(pixels[::-1, ::-2])),
        (pixels[..., 1], np.ascontiguousarray(pixels[..., 1])),
        (pixels[..., ::-1], np.ascontiguousarray(pixels[..., ::-1])),
        (pixels.astype(">u2"), pixels),
        (np.broadcast_to(pixels[:1], pixels.shape), np.array(np.broadcast_to(pixels[:1], pixels.shape))),
    ]
    for view, plain in views:
        for kernel, extra in ((boards.sobel, ()), (boards.affine, (matrix,))):
            found = kernel(view, *extra)
            assert np.array_equal(found, kernel(plain, *extra))
            assert found.flags.c_contiguous
            assert found.dtype == np.uint16
    frozen = pixels.copy()
    frozen.flags.writeable = False
    assert np.array_equal(boards.sobel(frozen), boards.sobel(pixels))


def test_a_large_image(boards: Boards) -> None:
    pixels = np.resize(noise((997, 1009, 3)), (1500, 3001, 3))
    gx = cv2.Sobel(pixels, cv2.CV_64F, 1, 0)
    gy = cv2.Sobel(pixels, cv2.CV_64F, 0, 1)
    assert np.array_equal(boards.sobel(pixels, norm="l1"), np.minimum(abs(gx) + abs(gy), 255))
    matrix = image.rotation(45, (1500, 750), 0.7)
    assert np.array_equal(boards.affine(pixels, matrix), warp(pixels, matrix, (3001, 1500)))


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (np.zeros((4, 4)), fpgahal.ArgumentError, "float64"),
        (np.zeros((4, 4), np.int16), fpgahal.ArgumentError, "int16"),
        (np.zeros((4, 4), bool), fpgahal.ArgumentError, "bool"),
        (np.zeros((4, 4), np.uint32), fpgahal.ArgumentError, "uint32"),
        ([[1, 2], [3, 4]], fpgahal.ArgumentError, "int64"),
        (None, fpgahal.ArgumentError, "object"),
        ("photo.png", fpgahal.ArgumentError, "expected uint8"),
        (np.zeros((4, 4), object), fpgahal.ArgumentError, "object"),
        (np.zeros((0, 4), np.uint8), fpgahal.ArgumentRangeError, "no pixels"),
        (np.zeros((4, 0, 3), np.uint8), fpgahal.ArgumentRangeError, "no pixels"),
        (np.zeros((4, 4, 0), np.uint8), fpgahal.ArgumentRangeError, "channels"),
        (np.zeros((4, 4, 5), np.uint8), fpgahal.ArgumentRangeError, "channels"),
        (np.zeros(4, np.uint8), fpgahal.ArgumentRangeError, "shape"),
        (np.uint8(4), fpgahal.ArgumentRangeError, "shape"),
        (np.zeros((2, 2, 2, 2), np.uint8), fpgahal.ArgumentRangeError, "shape"),
        (np.broadcast_to(np.uint8(1), (1, (1 << 24) + 1)), fpgahal.ArgumentRangeError, "a side may have"),
    ],
)
def test_bad_images(boards: Boards, bad: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        boards.sobel(bad)
    with pytest.raises(error, match=says):
        boards.affine(bad, np.eye(2, 3))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ksize": 4}, fpgahal.ArgumentRangeError, "ksize is 4; it must be one of 1, 3, 5, 7"),
        ({"ksize": "3"}, fpgahal.ArgumentRangeError, "ksize"),
        ({"ksize": [3]}, fpgahal.ArgumentRangeError, "ksize"),
        ({"norm": "max"}, fpgahal.ArgumentRangeError, "norm"),
        ({"border": "wrap"}, fpgahal.ArgumentRangeError, "border"),
        ({"dx": 0}, fpgahal.ArgumentRangeError, "both 0"),
        ({"dx": 3}, fpgahal.ArgumentRangeError, "dx is 3"),
        ({"dy": -1}, fpgahal.ArgumentRangeError, "dy is -1"),
        ({"dx": 1.5}, TypeError, "float"),
        ({"border": "constant", "border_value": 256}, fpgahal.ArgumentRangeError, "uint8 holds 0 to 255"),
        ({"border": "constant", "border_value": (1, 2)}, fpgahal.ArgumentError, "channels"),
        ({"border": "constant", "border_value": 0.5}, fpgahal.ArgumentError, "border_value"),
    ],
)
def test_bad_options_of_sobel(boards: Boards, options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        boards.sobel(noise((5, 5, 3)), **options)


@pytest.mark.parametrize(
    ("matrix", "options", "error", "says"),
    [
        (np.zeros((2, 3)), {}, fpgahal.ArgumentRangeError, "singular"),
        ([[1, 2, 3], [2, 4, 5]], {}, fpgahal.ArgumentRangeError, "singular"),
        ([[1, 0, np.nan], [0, 1, 0]], {}, fpgahal.ArgumentRangeError, "not a number"),
        ([[1, 0, np.inf], [0, 1, 0]], {}, fpgahal.ArgumentRangeError, "infinite"),
        ([[1e-300, 0, 0], [0, 1e-300, 0]], {}, fpgahal.ArgumentRangeError, "singular"),
        ([[1e-50, 0, 0], [0, 1, 0]], {}, fpgahal.ArgumentRangeError, "too large for float32"),
        ([[1e50, 0, 0], [0, 1, 0]], {"inverse": True}, fpgahal.ArgumentRangeError, "too large for float32"),
        (np.eye(3), {}, fpgahal.ArgumentRangeError, "last row"),
        (np.eye(2), {}, fpgahal.ArgumentRangeError, r"shape \(2, 2\)"),
        (None, {}, fpgahal.ArgumentError, "real numbers"),
        ("abc", {}, fpgahal.ArgumentError, "real numbers"),
        (np.eye(2, 3) * 1j, {}, fpgahal.ArgumentError, "real numbers"),
        (np.eye(2, 3), {"size": (0, 4)}, fpgahal.ArgumentRangeError, "size"),
        (np.eye(2, 3), {"size": (4, 1 << 25)}, fpgahal.ArgumentRangeError, "size"),
        (np.eye(2, 3), {"size": 4}, fpgahal.ArgumentError, "size"),
        (np.eye(2, 3), {"size": (4.5, 4)}, fpgahal.ArgumentError, "size"),
        (np.eye(2, 3), {"interpolation": "cubic"}, fpgahal.ArgumentRangeError, "interpolation"),
        (np.eye(2, 3), {"border_value": -1}, fpgahal.ArgumentRangeError, "border_value"),
    ],
)
def test_bad_matrices_and_options(boards: Boards, matrix: Any, options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        boards.affine(noise((5, 5)), matrix, **options)


def test_an_image_beyond_the_border_has_its_colour(boards: Boards) -> None:
    found = boards.affine(noise((5, 5)), [[1, 0, 1000], [0, 1, 0]], border_value=99)
    assert (found == 99).all()


def test_functions_load_what_they_need(boards: Boards) -> None:
    with fpgahal.emu.rack("pac-a10"), fpgahal.open() as dev:
        pixels = noise((20, 30))
        assert np.array_equal(image.sobel(dev, pixels), boards.sobel(pixels))
        matrix = image.rotation(3, (1, 2))
        assert np.array_equal(
            image.affine(dev, pixels, matrix, size=(9, 9)), boards.affine(pixels, matrix, size=(9, 9))
        )


def test_a_tile_that_hangs(boards: Boards) -> None:
    info = boards.rack.devices()[0]
    pixels = noise((100, 100))
    wanted = boards.sobel(pixels)
    model = "pac-a10" if info.driver == "opae" else "u250"
    with fpgahal.emu.rack(model) as rack, fpgahal.open() as dev, image.Sobel(dev, timeout=0.2) as kernel:
        assert np.array_equal(kernel(pixels), wanted)
        rack.fault(0, "hang", count=1)
        started = time.monotonic()
        with pytest.raises(fpgahal.RunTimeoutError, match="image_sobel"):
            kernel(pixels)
        with pytest.raises(fpgahal.RunTimeoutError):  # it is still there
            kernel(pixels)
        assert time.monotonic() - started < 5
        dev.reset()
        assert np.array_equal(kernel(pixels), wanted)


def test_a_tile_that_fails(boards: Boards) -> None:
    info = boards.rack.devices()[0]
    pixels = noise((100, 100))
    wanted = boards.sobel(pixels)
    model = "pac-a10" if info.driver == "opae" else "u250"
    with fpgahal.emu.rack(model) as rack, fpgahal.open() as dev, image.Sobel(dev) as kernel:
        rack.fault(0, "run-error", count=1)
        with pytest.raises(fpgahal.RunError, match="image_sobel"):
            kernel(pixels)
        assert np.array_equal(kernel(pixels), wanted)


def test_arguments_that_the_kernel_refuses(boards: Boards) -> None:
    """The kernels check for themselves: a wrong host must not make them leave their buffers."""
    with fpgahal.emu.rack("pac-a10"), fpgahal.open() as dev:
        kernel = fpgahal.kernels.open_kernel(dev, image.SOBEL)
        src, dst = dev.allocate(4096), dev.allocate(4096)
        good = (16, 16, 1, 1, 3, 0, 0, 2)
        kernel(src, dst, *good, timeout=10)
        for at, bad in ((0, 0), (0, 2**32 - 1), (1, 1 << 17), (1, 250), (2, 0), (2, 9), (3, 3), (4, 2), (4, 9), (7, 3)):
            wrong = list(good)
            wrong[at] = bad
            with pytest.raises(fpgahal.RunError):
                kernel(src, dst, *wrong, timeout=10)
        with pytest.raises(fpgahal.RunError):
            kernel(src, dst, *good[:5], 3, 0, 0, timeout=10)
        del src, dst
    with fpgahal.emu.rack("pac-a10"), fpgahal.open() as dev:
        kernel = fpgahal.kernels.open_kernel(dev, image.AFFINE)
        src, dst = dev.allocate(4096), dev.allocate(4096)
        fine = (0, 0, 16, 16, 16, 16, 0, 0, 16, 16, 1, 1, 1, 0, 0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        kernel(src, dst, *fine, timeout=10)
        for at, value in ((0, 1), (2, 0), (2, 17), (4, 1 << 25), (8, 0), (9, 400), (10, 0), (11, 4), (12, 2), (13, 4)):
            wrong = list(fine)
            wrong[at] = value
            with pytest.raises(fpgahal.RunError):
                kernel(src, dst, *wrong, timeout=10)
        for value in (float("nan"), float("inf"), -3e38, 3e38, 100.0):  # no rectangle for that: an error, or a border
            kernel(src, dst, *fine[:-1], value, timeout=10)
        with pytest.raises(fpgahal.RunError):  # src holds a part only, and the tile needs the rest
            kernel(src, dst, 0, 0, 8, 8, *fine[4:], timeout=10)
        del src, dst


def test_both_instruction_paths_give_the_same_bits(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = image.rotation(33, (100, 50), 1.3)
    for dtype in DTYPES:
        pixels = noise((100, 200, 3), dtype)
        fast = boards.sobel(pixels), boards.sobel(pixels, dx=1), boards.affine(pixels, matrix)
        with monkeypatch.context() as patch:
            patch.setenv("FPGAHAL_EMU_ISA", "portable")
            plain = boards.sobel(pixels), boards.sobel(pixels, dx=1), boards.affine(pixels, matrix)
        assert all(map(np.array_equal, fast, plain))


def test_ids_are_those_of_the_names_and_of_the_models() -> None:
    namespace = uuid.UUID("5b3c1f0e-7a44-5d0b-9c55-6670676168a1")  # that of fpgahal.kernels.vadd
    models = Path(__file__).parents[2] / "native" / "emu" / "models"
    for contract in (image.SOBEL, image.AFFINE):
        assert contract.afu_id == uuid.uuid5(namespace, contract.name)
        source = (models / f"{contract.name}.c").read_text()
        assert ", ".join(f"0x{byte:02x}" for byte in contract.afu_id.bytes) in source
