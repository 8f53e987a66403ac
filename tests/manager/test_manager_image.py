# SPDX-License-Identifier: Apache-2.0
"""Images through the manager: the same as without it, to the last bit, and as OpenCV has them."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_daemon import running

import fpgahal
from fpgahal import manager
from fpgahal.kernels import image
from fpgahal.manager import image as accelerators
from fpgahal.manager.memory import Array, Segment
from fpgahal.manager.wire import MAX_BYTES

DTYPES = (np.uint8, np.uint16)
SHAPES = ((1, 1), (240, 321), (31, 7, 3), (1100, 700, 3))  # the last one takes several tiles
RIGHT = 16  # OpenCV computes so many columns at the right of a row without fma
PATIENCE = 30


class Both(NamedTuple):
    m: manager.Client
    sobel: image.Sobel
    affine: image.Affine


@pytest.fixture(scope="module", params=["pac-a10", "u250"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A manager, and boards without one."""
    with (
        running(tmp_path_factory.mktemp("manager"), request.param) as daemon,
        daemon.connect() as m,
        fpgahal.emu.rack(f"{request.param}:2") as rack,
    ):
        first, second = (fpgahal.open(info) for info in rack.devices())
        with first, second, image.Sobel(first) as sobel, image.Affine(second) as affine:
            yield Both(m, sobel, affine)


def noise(shape: tuple[int, ...], dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(list(shape)).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_edges(both: Both, shape: tuple[int, ...], dtype: Any) -> None:
    pixels = noise(shape, dtype)
    found = both.m.submit("image.sobel", image=pixels).result(PATIENCE)
    gx, gy = (cv2.Sobel(pixels, cv2.CV_64F, *order).reshape(shape) for order in ((1, 0), (0, 1)))
    assert found.dtype == dtype
    assert np.array_equal(found, np.minimum(np.floor(np.sqrt(gx**2 + gy**2) + 0.5), np.iinfo(dtype).max))
    for options in (
        {"ksize": 5, "norm": "l1", "border": "replicate"},
        {"dx": 1},
        {"dx": 0, "dy": 2, "ksize": 7, "border": "constant", "border_value": 9},
        {"border": "constant", "border_value": (1, 2, 3)[: pixels.shape[2] if pixels.ndim == 3 else 1]},
    ):
        ours = both.m.submit("image.sobel", image=pixels, **options).result(PATIENCE)
        direct = both.sobel(pixels, **options)
        assert ours.dtype == direct.dtype
        assert np.array_equal(ours, direct), options


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_warps(both: Both, shape: tuple[int, ...], dtype: Any) -> None:
    pixels = noise(shape, dtype)
    rows, columns = shape[:2]
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), 31.4, 0.9)
    found = both.m.submit("image.affine", image=pixels, matrix=matrix).result(PATIENCE)
    difference = np.abs(found.astype(int) - cv2.warpAffine(pixels, matrix, (columns, rows)).reshape(shape))
    assert difference.max() <= (1 if dtype == np.uint8 else 8)
    assert not difference[:, :-RIGHT].any()
    colour = (10, 200, 77)[: pixels.shape[2] if pixels.ndim == 3 else 1]
    for options in (
        {"size": (columns + 13, rows + 5), "border": "constant", "border_value": colour},
        {"inverse": True, "interpolation": "nearest", "border": "reflect"},
        {"size": None, "border": "reflect101"},
    ):
        ours = both.m.submit("image.affine", image=pixels, matrix=matrix.tolist(), **options).result(PATIENCE)
        assert np.array_equal(ours, both.affine(pixels, matrix, **options)), options


def test_shared_arrays_are_used_where_they_are_and_change_from_request_to_request(both: Both) -> None:
    pixels, out = both.m.allocate((60, 80), "uint16"), both.m.allocate((60, 80), "uint16")
    matrix = image.rotation(10, (40, 30))
    for seed in range(3):
        pixels[:] = noise((60, 80, 1 + seed), np.uint16)[..., 0]
        assert both.m.submit("image.sobel", image=pixels, out=out).result(PATIENCE) is out
        assert np.array_equal(out, both.sobel(pixels))
        matrix[0, 2] = seed  # the same array
        assert both.m.submit("image.affine", image=pixels, matrix=matrix, out=out).result(PATIENCE) is out
        assert np.array_equal(out, both.affine(pixels, matrix))
        size = (20 + seed, 30)
        ours = both.m.submit("image.affine", image=pixels, matrix=matrix, size=size).result(PATIENCE)
        assert np.array_equal(ours, both.affine(pixels, matrix, size=size))


def test_strides_and_byte_order_do_not_matter(both: Both) -> None:
    pixels = noise((50, 60, 3), np.uint16)
    for view in (pixels[::-1, ::-2], pixels[..., 1], np.asfortranarray(pixels)):
        assert np.array_equal(both.m.submit("image.sobel", image=view).result(PATIENCE), both.sobel(view))


def test_many_at_a_time(both: Both) -> None:
    images = [noise((40 + n, 50)) for n in range(60)]
    matrices = [image.rotation(n, (25, 20)) for n in range(60)]
    edges = [both.m.submit("image.sobel", image=one) for one in images]
    warps = [both.m.submit("image.affine", image=one, matrix=m) for one, m in zip(images, matrices, strict=True)]
    for one, m, edge, warp in zip(images, matrices, edges, warps, strict=True):
        assert np.array_equal(edge.result(PATIENCE), both.sobel(one))
        assert np.array_equal(warp.result(PATIENCE), both.affine(one, m))


PIXELS = np.ones((5, 5, 3), np.uint8)
EYE = np.eye(2, 3)


@pytest.mark.parametrize(
    ("accelerator", "arguments", "error", "says"),
    [
        ("image.sobel", {}, fpgahal.ArgumentError, "image is to be an array"),
        ("image.sobel", {"image": 3}, fpgahal.ArgumentError, "image is to be an array"),
        ("image.sobel", {"image": PIXELS.astype(float)}, fpgahal.ArgumentError, "expected uint8 or uint16"),
        ("image.sobel", {"image": PIXELS[0, 0]}, fpgahal.ArgumentRangeError, "shape"),
        ("image.sobel", {"image": PIXELS[:0]}, fpgahal.ArgumentRangeError, "no pixels"),
        ("image.sobel", {"image": PIXELS, "colour": 1}, fpgahal.ArgumentError, "no argument 'colour'; it has image, "),
        ("image.sobel", {"image": PIXELS, "ksize": 4}, fpgahal.ArgumentRangeError, "image.sobel: ksize is 4"),
        ("image.sobel", {"image": PIXELS, "ksize": "3"}, fpgahal.ArgumentError, "ksize is to be of type int"),
        ("image.sobel", {"image": PIXELS, "dx": 1.5}, fpgahal.ArgumentError, "dx is to be of type int"),
        ("image.sobel", {"image": PIXELS, "dx": 3}, fpgahal.ArgumentRangeError, "dx is 3"),
        ("image.sobel", {"image": PIXELS, "norm": 2}, fpgahal.ArgumentError, "norm is to be of type str"),
        ("image.sobel", {"image": PIXELS, "border": "wrap"}, fpgahal.ArgumentRangeError, "border"),
        ("image.sobel", {"image": PIXELS, "out": PIXELS.copy()}, fpgahal.ArgumentError, r"make it with allocate\(\)"),
        ("image.affine", {"image": PIXELS}, fpgahal.ArgumentError, "matrix is missing"),
        ("image.affine", {"image": PIXELS, "matrix": EYE[:, :2]}, fpgahal.ArgumentRangeError, r"shape \(2, 2\)"),
        ("image.affine", {"image": PIXELS, "matrix": 0 * EYE}, fpgahal.ArgumentRangeError, "singular"),
        ("image.affine", {"image": PIXELS, "matrix": EYE * np.nan}, fpgahal.ArgumentRangeError, "not a number"),
        ("image.affine", {"image": PIXELS, "matrix": EYE * 1j}, fpgahal.ArgumentError, "expected numbers"),
        ("image.affine", {"image": PIXELS, "matrix": [[1], [2, 3]]}, fpgahal.ArgumentError, "expected numbers"),
        ("image.affine", {"image": PIXELS, "matrix": "turn"}, fpgahal.ArgumentError, "real numbers"),
        ("image.affine", {"image": PIXELS, "matrix": np.zeros((99, 99))}, fpgahal.ArgumentError, "numbers in JSON"),
        ("image.affine", {"image": PIXELS, "matrix": EYE, "size": 4}, fpgahal.ArgumentError, "size"),
        ("image.affine", {"image": PIXELS, "matrix": EYE, "size": (0, 4)}, fpgahal.ArgumentRangeError, "size"),
        ("image.affine", {"image": PIXELS, "matrix": EYE, "size": (1 << 24,) * 2}, fpgahal.ArgumentRangeError, "holds"),
        ("image.affine", {"image": PIXELS, "matrix": EYE, "inverse": 0.5}, fpgahal.ArgumentError, "inverse"),
        ("image.affine", {"image": PIXELS, "matrix": EYE, "border_value": (1, 2)}, fpgahal.ArgumentError, "channels"),
        ("image.affine", {"image": PIXELS, "matrix": EYE, "border_value": -1}, fpgahal.ArgumentRangeError, "0 to 255"),
    ],
)
def test_wrong_requests(
    both: Both, accelerator: str, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        both.m.submit(accelerator, **arguments).result(PATIENCE)
    assert not both.m.submit("image.sobel", image=PIXELS).result(PATIENCE).any()


def test_wrong_outputs(both: Both) -> None:
    pixels = both.m.allocate((5, 5, 3))
    pixels[:] = 1
    for out, error in (
        (both.m.allocate((5, 5, 3), "uint16"), fpgahal.ArgumentError),
        (both.m.allocate((5, 5)), fpgahal.ArgumentRangeError),
        (pixels, fpgahal.ArgumentRangeError),
    ):
        with pytest.raises(error, match="out"):
            both.m.submit("image.sobel", image=pixels, out=out).result(PATIENCE)
    whole = both.m.allocate((10, 5, 3))
    with pytest.raises(fpgahal.ArgumentRangeError, match="share memory"):
        both.m.submit("image.sobel", image=whole[:5], out=whole[4:9]).result(PATIENCE)
    whole[:5] = 1
    assert not both.m.submit("image.sobel", image=whole[:5], out=whole[5:]).result(PATIENCE).any()


def test_one_request_does_not_keep_a_board_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pixel of the result comes from another place, so each would take a run."""
    monkeypatch.setattr(accelerators, "MAX_RUNS", 20)
    affine = accelerators.Affine()
    with fpgahal.emu.rack("pac-a10", launch_us=0), fpgahal.open() as dev:
        pixels, out = (whole(noise((1500, 1500))) for _ in range(2))
        arguments = {"image": pixels, "matrix": json.dumps((EYE * 3e3).tolist()), "border": "reflect", "out": out}
        job = affine.job(arguments | {"inverse": 1})
        opened = affine.open(dev, job)
        with pytest.raises(fpgahal.ArgumentRangeError, match="more than 20 runs"):
            finish(opened.run([job], None))
        finish(opened.run([affine.job(arguments)], None))  # it makes the image larger, instead
        opened.close()
        assert np.array_equal(out.values, image.affine(dev, pixels.values, EYE * 3e3, border="reflect"))


def finish(runs: Iterable[fpgahal.Run]) -> None:
    for run in runs:
        run.wait(10)


def whole(values: Any) -> Array:
    """An array as the manager sees it."""
    segment = Segment.__new__(Segment)
    segment.data, segment.constant = values.reshape(-1).view(np.uint8), False
    return Array(segment, 0, values.dtype, values.shape, values.nbytes)


def test_defaults_are_those_of_the_kernels() -> None:
    for kernel in (image.Sobel, image.Affine):
        call = dict(inspect.signature(kernel.__call__).parameters)
        del call["self"]
        assert call == dict(inspect.signature(kernel.plan).parameters)
    for accelerator in (accelerators.Sobel(), accelerators.Affine()):
        assert {"image", *accelerator.options} == set(inspect.signature(accelerator.kernel.plan).parameters)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8)
TEXTS = st.text(max_size=20) | st.builds(json.dumps, JSON) | st.just("[" * 999)


@given(st.dictionaries(st.sampled_from(["matrix", "size", "border_value"]), TEXTS), st.sampled_from(DTYPES))
@settings(max_examples=100, deadline=None)
def test_any_text_is_taken_or_refused(texts: dict[str, str], dtype: Any) -> None:
    """What comes is not known to be numbers: nothing but an error of the client's, or a plan."""
    arguments = {"image": whole(np.ones((2, 2, 3), dtype)), "matrix": "[[1,0,0],[0,1,0]]", "border": "constant"} | texts
    try:
        (spec,) = accelerators.Affine().outputs(arguments)
    except (fpgahal.ArgumentError, fpgahal.ArgumentRangeError):
        return
    assert 0 < int(np.prod(spec.shape, dtype=object)) * spec.dtype.itemsize <= MAX_BYTES


def test_every_option_is_tried() -> None:
    """The tests above use each option at least once."""
    text = Path(__file__).read_text()
    options = itertools.chain(accelerators.Sobel.options, accelerators.Affine.options)
    assert [name for name in options if f'"{name}": ' not in text and f"{name}=" not in text] == []
