# SPDX-License-Identifier: Apache-2.0
"""Image kernels: Sobel edge detection and affine warp, for uint8 and uint16 images of any size.

>>> import fpgahal, numpy as np
>>> from fpgahal.kernels import image
>>> with fpgahal.emu.rack("pac-a10"), fpgahal.open() as dev:
...     edges = image.sobel(dev, np.eye(4, dtype=np.uint8))
>>> edges.shape
(4, 4)

Images are NumPy arrays of any strides, (rows, columns) or (rows, columns, channels) with 1 to 4 channels.  They go
through the board in tiles, so its buffers are small whatever the size of the image.

The contracts are SOBEL and AFFINE; ``native/emu/models/image_*.c`` is what the emulated boards execute.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError, ArgumentRangeError, Array, Device, KernelContract, Scalar
from fpgahal.kernels._tiles import (
    BORDERS,
    MAX_COLUMNS,
    MAX_SIDE,
    Image,
    Pixels,
    Plan,
    Tile,
    TiledKernel,
    check_border_value,
    check_choice,
    check_image,
    inside,
    needed,
)

SOBEL = KernelContract(
    "image_sobel",
    (
        Array("src", "void"),  # (height + 2 r, width + 2 r, channels), r = max(1, ksize // 2)
        Array("dst", "void", access="w"),  # (height, width, channels); int32 if norm is 0, else as src
        Scalar("width", "uint32"),
        Scalar("height", "uint32"),
        Scalar("channels", "uint32"),
        Scalar("depth", "uint32"),  # bytes in a sample
        Scalar("ksize", "uint32"),
        Scalar("dx", "uint32"),
        Scalar("dy", "uint32"),
        Scalar("norm", "uint32"),  # 0 the derivative (dx, dy), 1 |gx| + |gy|, 2 sqrt(gx^2 + gy^2)
    ),
    afu_id=uuid.UUID("528c47cf-a1d4-58fd-9655-5007c8dbf2a8"),
    summary="derivatives and edges of a tile of an image",
)

AFFINE = KernelContract(
    "image_affine",
    (
        Array("src", "void"),  # (src_height, src_width, channels): a rectangle of the image
        Array("dst", "void", access="w"),  # (dst_height, dst_width, channels): a rectangle of the result
        *(Scalar(f"src_{name}", "uint32") for name in ("x", "y", "width", "height")),
        Scalar("width", "uint32"),  # of the whole image
        Scalar("height", "uint32"),
        *(Scalar(f"dst_{name}", "uint32") for name in ("x", "y", "width", "height")),
        Scalar("channels", "uint32"),
        Scalar("depth", "uint32"),  # bytes in a sample
        Scalar("interpolation", "uint32"),  # 0 nearest, 1 linear
        Scalar("border", "uint32"),  # 0 constant, 1 replicate, 2 reflect, 3 reflect101
        Scalar("value", "uint64"),  # the border's colour, 16 bits a channel
        *(Scalar(f"m{n}", "float32") for n in range(6)),
    ),
    afu_id=uuid.UUID("b83404aa-7657-596c-8f19-2bd93bc839c7"),
    summary="a tile of an affinely transformed image",
)

NORMS = {"l1": 1, "l2": 2}
INTERPOLATIONS = {"nearest": 0, "linear": 1}
KSIZES = (1, 3, 5, 7)
BORDER_NAMES = tuple(BORDERS)


class Sobel(TiledKernel):
    """The Sobel kernel on a board, opened: ``Sobel(dev)(image)`` gives its edges.

    Keeps the kernel and its buffers from call to call; use it in a ``with`` statement.  The board is programmed if
    it runs something else.  One call at a time; others wait.
    """

    CONTRACT = SOBEL

    def __call__(
        self,
        image: npt.ArrayLike,
        *,
        dx: int | None = None,
        dy: int | None = None,
        ksize: int = 3,
        norm: str = "l2",
        border: str = "reflect101",
        border_value: int | tuple[int, ...] = 0,
    ) -> Pixels:
        """Find edges; or, with `dx` or `dy`, compute a derivative.

        Parameters
        ----------
        image : array of uint8 or uint16, (rows, columns) or (rows, columns, channels)
            Channels are worked on separately.
        dx, dy : int, optional
            Order of the derivative along a row and along a column, 0 to ``ksize - 1`` (to 2 if `ksize` is 1), not
            both 0.  If neither is given, the strength of the edges is computed.
        ksize : {1, 3, 5, 7}
            Size of the stencil; 1 is 3 without smoothing.
        norm : {"l2", "l1"}
            Strength of edges from the first derivatives gx and gy: ``floor(sqrt(gx**2 + gy**2) + 1/2)``, or
            ``abs(gx) + abs(gy)``; at most the largest number of the dtype.
        border : {"reflect101", "replicate", "reflect", "constant"}
            What stands beyond the edges: ``gfedcb|abcdefgh|gfedcba``, ``aaa|abcdefgh|hhh``,
            ``fedcba|abcdefgh|hgfedcb``, or `border_value`.
        border_value : int or tuple of int
            For "constant"; one for all channels, or one for each.

        Returns
        -------
        numpy.ndarray
            Of the image's shape.  Edges: its dtype.  Derivative: int32, in exact whole numbers, those of OpenCV's
            ``Sobel`` with a ``ddepth`` that holds them (CV_64F always does).

        Raises
        ------
        ArgumentError, ArgumentRangeError
            An argument that makes no sense; nothing was sent.
        RunTimeoutError, RunError
            A tile did not come back in time, or the board reports an error.
        """
        return self._process(
            self.plan(image, dx=dx, dy=dy, ksize=ksize, norm=norm, border=border, border_value=border_value)
        )

    @staticmethod
    def plan(
        image: npt.ArrayLike,
        *,
        dx: int | None = None,
        dy: int | None = None,
        ksize: int = 3,
        norm: str = "l2",
        border: str = "reflect101",
        border_value: int | tuple[int, ...] = 0,
    ) -> Plan:
        """Check the arguments of a call, without a board; parameters and errors are those of a call."""
        pixels = check_image(image)
        check_choice("ksize", ksize, KSIZES)
        check_choice("norm", norm, NORMS)
        check_choice("border", border, BORDER_NAMES)
        value = check_border_value(border_value, pixels) if border == "constant" else None
        edges = dx is None and dy is None
        order = 0 if edges else _order(dx, "dx", ksize), 0 if edges else _order(dy, "dy", ksize)
        if not edges and order == (0, 0):
            raise ArgumentRangeError("dx and dy are both 0: that is no derivative.")
        scalars = ksize, *order, NORMS[norm] if edges else 0
        dtype = pixels.dtype.newbyteorder("=") if edges else np.dtype(np.int32)
        return Plan(np.shape(image), dtype, partial(_sobel_tiles, pixels, scalars, border, value))


class Affine(TiledKernel):
    """The affine kernel on a board, opened: ``Affine(dev)(image, matrix)`` gives the image, transformed.

    Keeps the kernel and its buffers from call to call; use it in a ``with`` statement.  The board is programmed if
    it runs something else.  One call at a time; others wait.
    """

    CONTRACT = AFFINE

    def __call__(
        self,
        image: npt.ArrayLike,
        matrix: npt.ArrayLike,
        *,
        size: tuple[int, int] | None = None,
        inverse: bool = False,
        interpolation: str = "linear",
        border: str = "constant",
        border_value: int | tuple[int, ...] = 0,
    ) -> Pixels:
        """Warp an image by a matrix, as OpenCV's ``warpAffine`` does.

        Parameters
        ----------
        image : array of uint8 or uint16, (rows, columns) or (rows, columns, channels)
        matrix : array of 2 x 3 numbers
            Pixel (x, y) of the image goes to ``matrix @ (x, y, 1)``; :func:`rotation` makes such a matrix.
        size : tuple of int, optional
            Width and height of the result; those of the image by default.
        inverse : bool
            `matrix` leads from the result back to the image.
        interpolation : {"linear", "nearest"}
        border : {"constant", "replicate", "reflect", "reflect101"}
            What stands beyond the edges of the image, as for :class:`Sobel`.
        border_value : int or tuple of int
            For "constant"; one for all channels, or one for each.

        Returns
        -------
        numpy.ndarray
            Of the image's dtype and number of channels.

        Raises
        ------
        ArgumentError, ArgumentRangeError
            An argument that makes no sense; nothing was sent.
        RunTimeoutError, RunError
            A tile did not come back in time, or the board reports an error.

        Notes
        -----
        With the inverse matrix m in float32, pixel (x, y) of the result comes from ``sx = fma(m00, x, m01 * y + m02)``
        and ``sy = fma(m10, x, m11 * y + m12)``, in float32.  Nearest takes the pixel at ``rint``.  Linear takes, with
        ``ix = floor(sx)`` and ``ax = sx - ix``, ``top = fma(ax, p01 - p00, p00)`` of the upper two pixels, `bottom` of
        the lower two in the same way, and ``rint(fma(ay, bottom - top, top))``.

        That is what OpenCV 5.0 computes with vector instructions: results are equal bit for bit, but for a few
        columns at the right of each row, which OpenCV computes without fma (there coordinates differ by a rounding:
        in tests by 1 of 255 at most, and by 7 of 65,535).  OpenCV 4 (to 4.14) rounds coordinates to 1/32 pixel;
        that makes up to 1/32 of the difference between neighbours.
        """
        return self._process(
            self.plan(
                image,
                matrix,
                size=size,
                inverse=inverse,
                interpolation=interpolation,
                border=border,
                border_value=border_value,
            )
        )

    @staticmethod
    def plan(
        image: npt.ArrayLike,
        matrix: npt.ArrayLike,
        *,
        size: tuple[int, int] | None = None,
        inverse: bool = False,
        interpolation: str = "linear",
        border: str = "constant",
        border_value: int | tuple[int, ...] = 0,
    ) -> Plan:
        """Check the arguments of a call, without a board; parameters and errors are those of a call."""
        pixels = check_image(image)
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        check_choice("border", border, BORDER_NAMES)
        value = check_border_value(border_value if border == "constant" else 0, pixels)
        m = _matrix(matrix, inverse)
        width, height = _size(size, pixels)
        options = INTERPOLATIONS[interpolation], BORDERS[border], sum(int(v) << 16 * n for n, v in enumerate(value))
        return Plan(
            (height, width, *np.shape(image)[2:]),
            pixels.dtype.newbyteorder("="),
            partial(_affine_tiles, pixels, m, border, value, options),
        )


def sobel(dev: Device, image: npt.ArrayLike, **options: Any) -> Pixels:
    """Find edges, or compute a derivative: one :class:`Sobel` call; parameters and errors are the same."""
    with Sobel(dev) as kernel:
        return kernel(image, **options)


def affine(dev: Device, image: npt.ArrayLike, matrix: npt.ArrayLike, **options: Any) -> Pixels:
    """Warp an image by a matrix: one :class:`Affine` call; parameters and errors are the same."""
    with Affine(dev) as kernel:
        return kernel(image, matrix, **options)


def rotation(angle: float, center: tuple[float, float], scale: float = 1.0) -> npt.NDArray[np.float64]:
    """A matrix for :func:`affine`: turns by `angle` degrees counter-clockwise, and scales, about `center` (x, y)."""
    a, b = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    x, y = center
    return np.array([[a, b, (1 - a) * x - b * y], [-b, a, b * x + (1 - a) * y]])


# --- tiles --------------------------------------------------------------------------------------------------------


def _sobel_tiles(
    pixels: Pixels,
    scalars: tuple[int, ...],
    border: str,
    value: Pixels | None,
    result: Pixels,
    buffer_bytes: int,
) -> Iterator[Tile]:
    rows, columns, channels = pixels.shape
    result = result.reshape(pixels.shape)
    depth, r = pixels.itemsize, max(1, scalars[0] // 2)
    width, height = _sobel_extent(columns, r, channels * depth, channels * result.itemsize, buffer_bytes)
    for y in range(0, rows, height):
        for x in range(0, columns, width):
            target = result[y : y + height, x : x + width]
            h, w = target.shape[:2]
            load = partial(_framed, pixels, (y - r, y + h + r), (x - r, x + w + r), border, value)
            yield Tile(load, (w, h, channels, depth, *scalars), target)


def _sobel_extent(columns: int, r: int, pixel: int, result_pixel: int, buffer_bytes: int) -> tuple[int, int]:
    """Width and height of a tile that fits into the buffers; `pixel` is the bytes of one."""
    width = min(columns, MAX_COLUMNS)
    while True:
        framed = buffer_bytes // ((width + 2 * r) * pixel) - 2 * r
        height = min(framed, buffer_bytes // (width * result_pixel))
        if height >= 1:
            return width, height
        width //= 2


def _affine_tiles(
    pixels: Pixels,
    m: npt.NDArray[np.float32],
    border: str,
    value: Pixels,
    options: tuple[int, int, int],
    result: Pixels,
    buffer_bytes: int,
) -> Iterator[Tile]:
    height, width = result.shape[:2]
    result = result.reshape(height, width, -1)
    step = max(1, min(512, int((buffer_bytes / (pixels.shape[2] * pixels.itemsize)) ** 0.5)))
    for y in range(0, height, step):
        for x in range(0, width, step):
            target = result[y : y + step, x : x + step]
            yield from _affine_tile(pixels, target, x, y, m, border, value, options, buffer_bytes)


def _affine_tile(
    pixels: Pixels,
    target: Pixels,
    x: int,
    y: int,
    m: npt.NDArray[np.float32],
    border: str,
    value: Pixels,
    options: tuple[int, int, int],
    buffer_bytes: int,
) -> Iterator[Tile]:
    """The tile that begins at (x, y); or several, if it needs more of the image than a buffer holds."""
    height, width = target.shape[:2]
    rows, columns, channels = pixels.shape
    left, right = needed(*_reach(m[0], x, y, width, height), columns, border)
    top, bottom = needed(*_reach(m[1], x, y, width, height), rows, border)
    if left >= right or top >= bottom:
        target[:] = value
    elif (right - left) * (bottom - top) * channels * pixels.itemsize <= buffer_bytes:
        yield Tile(
            partial(_part, pixels, slice(top, bottom), slice(left, right)),
            (
                *(left, top, right - left, bottom - top),
                *(columns, rows),
                *(x, y, width, height),
                *(channels, pixels.itemsize),
                *options,
                *map(float, m.ravel()),
            ),
            target,
        )
    elif width >= height:
        half = width // 2
        for part, at in ((target[:, :half], x), (target[:, half:], x + half)):
            yield from _affine_tile(pixels, part, at, y, m, border, value, options, buffer_bytes)
    else:
        half = height // 2
        for part, at in ((target[:half], y), (target[half:], y + half)):
            yield from _affine_tile(pixels, part, x, at, m, border, value, options, buffer_bytes)


# --- details ------------------------------------------------------------------------------------------------------


def _framed(
    pixels: Pixels, rows: tuple[int, int], columns: tuple[int, int], border: str, value: Pixels | None
) -> Pixels:
    """Part of an image, which may reach beyond its edges."""
    n, m = pixels.shape[:2]
    if rows[0] >= 0 and rows[1] <= n and columns[0] >= 0 and columns[1] <= m:
        return pixels[slice(*rows), slice(*columns)]
    if value is None:
        return pixels[np.ix_(inside(np.arange(*rows), n, border), inside(np.arange(*columns), m, border))]
    framed = np.empty((rows[1] - rows[0], columns[1] - columns[0], pixels.shape[2]), pixels.dtype)
    framed[:] = value
    y, x = max(rows[0], 0), max(columns[0], 0)
    part = pixels[y : rows[1], x : columns[1]]
    framed[y - rows[0] :, x - columns[0] :][: part.shape[0], : part.shape[1]] = part
    return framed


def _part(pixels: Pixels, rows: slice, columns: slice) -> Pixels:
    return pixels[rows, columns]


def _order(value: int | None, name: str, ksize: int) -> int:
    highest = max(2, ksize - 1)
    order = 0 if value is None else operator.index(value)
    if not 0 <= order <= highest:
        raise ArgumentRangeError(f"{name} is {order}; with ksize {ksize} it must be 0 to {highest}.")
    return order


def _matrix(matrix: npt.ArrayLike, inverse: bool) -> npt.NDArray[np.float32]:
    """The way back from the result to the image, in float32."""
    try:
        m = np.asarray(matrix).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"The matrix does not consist of real numbers: {error}.") from error
    if m.shape != (2, 3):
        raise ArgumentRangeError(
            f"The matrix has shape {m.shape}, expected (2, 3).", hint="Leave out the last row of a 3 x 3 matrix."
        )
    if not np.isfinite(m).all():
        raise ArgumentRangeError("The matrix has an element that is infinite or not a number.")
    with np.errstate(all="ignore"):
        if not inverse:
            determinant = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
            if determinant == 0:
                raise ArgumentRangeError("The matrix is singular: it maps the image onto a line or a point.")
            d = 1 / determinant
            a, b, c, e = m[1, 1] * d, -d * m[0, 1], -d * m[1, 0], m[0, 0] * d
            m = np.array([[a, b, -a * m[0, 2] - b * m[1, 2]], [c, e, -c * m[0, 2] - e * m[1, 2]]])
        back = m.astype(np.float32)
    if not np.isfinite(back).all():
        raise ArgumentRangeError("The matrix, or its inverse, has an element that is too large for float32.")
    return back


def _size(size: tuple[int, int] | None, pixels: Pixels) -> tuple[int, int]:
    if size is None:
        return pixels.shape[1], pixels.shape[0]
    try:
        width, height = (operator.index(extent) for extent in size)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"size is {size!r}; expected (width, height), two whole numbers.") from error
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ArgumentRangeError(f"size is {size!r}; each side must have 1 to {MAX_SIDE:,} pixels.")
    return width, height


def _reach(m: npt.NDArray[np.float32], x: int, y: int, width: int, height: int) -> tuple[int, int]:
    """First and last coordinate of the image that a rectangle of the result can need.

    Coordinates grow or fall steadily along rows and columns, so the corners have the extremes; they are computed
    here to one unit in the last place, which is no more than a pixel.
    """
    with np.errstate(all="ignore"):
        rows = m[1] * np.array([y, y + height - 1], np.float32) + m[2]
        corners = np.float64(m[0]) * np.array([[x], [x + width - 1]]) + rows
    corners = np.nan_to_num(np.clip(corners, -(2.0**30), 2.0**30), nan=-(2.0**30))
    return int(np.floor(corners.min())) - 1, int(np.floor(corners.max())) + 2


__all__ = ["AFFINE", "SOBEL", "Affine", "Image", "Plan", "Sobel", "affine", "rotation", "sobel"]
