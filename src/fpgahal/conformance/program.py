# SPDX-License-Identifier: Apache-2.0
"""Programming and verifying."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

import fpgahal
from fpgahal import Bitstream
from fpgahal.conformance.target import Target, foreign_images


def test_program_verify_and_read_back(target: Target) -> None:
    image = Bitstream.parse(target.image)
    with fpgahal.open(target.info) as dev:
        dev.program(image)
        assert dev.afu_id == image.afu_id
        for expected in (image, image.afu_id, str(image.afu_id)):
            dev.verify(expected)
    listed = next(i for i in fpgahal.devices() if i.address == target.info.address)
    assert listed.afu_id == image.afu_id


def test_a_path_does_as_well(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(target.image)
    with fpgahal.open(target.info) as dev:
        dev.program(path)
        dev.verify(path)
        dev.program(str(path))


def test_another_image_replaces_the_first(target: Target) -> None:
    other = Bitstream.parse(target.need_other())
    with fpgahal.open(target.info) as dev:
        dev.program(target.image)
        assert dev.program(other) is True
        assert dev.afu_id == other.afu_id
        assert dev.program(target.image) is True


def test_the_same_image_is_not_written_again(target: Target) -> None:
    with fpgahal.open(target.info) as dev:
        dev.program(target.image)
        before = target.rack.status(target.info).programmed if target.rack else None
        assert dev.program(target.image) is False
        if target.rack:
            assert target.rack.status(target.info).programmed == before


def test_force_goes_to_the_driver(target: Target) -> None:
    with fpgahal.open(target.info) as dev:
        dev.program(target.image)
        assert dev.program(target.image, force=True) is True


@pytest.mark.harmless
def test_verify_names_both_sides(target: Target) -> None:
    wrong = uuid.uuid4()
    with target.device() as dev:
        with pytest.raises(fpgahal.AFUMismatchError) as caught:
            dev.verify(wrong)
        assert str(wrong) in str(caught.value)
        assert str(dev.afu_id or "runs nothing") in str(caught.value)


def test_a_broken_file_never_reaches_the_board(target: Target, tmp_path: Path) -> None:
    with target.device() as dev:
        before = dev.afu_id
        for broken in (b"", b"\0" * 64, target.image[:-1], target.image[: len(target.image) // 2], b"x" + target.image):
            path = tmp_path / "broken"
            path.write_bytes(broken)
            with pytest.raises(fpgahal.BitstreamError, match="broken"):
                dev.program(path)
        with pytest.raises(FileNotFoundError):
            dev.program(tmp_path / "absent")
        assert dev.afu_id == before


def test_an_image_for_another_board_is_refused(target: Target) -> None:
    with target.device() as dev:
        before = dev.afu_id
        for image in foreign_images(target.info):
            with pytest.raises(fpgahal.IncompatibleBitstreamError, match=r"Nothing was written"):
                dev.program(image)
        assert dev.afu_id == before


def test_open_buffers_keep_their_image(target: Target) -> None:
    other = target.need_other()
    with target.device() as dev:
        buffer = dev.allocate(64)
        with pytest.raises(fpgahal.BufferInUseError, match="reprogramming"):
            dev.program(other)
        buffer.close()
        dev.program(other)


def test_programming_needs_the_slot_alone(target: Target) -> None:
    other = target.need_other()
    with target.device(shared=True) as mine, fpgahal.open(target.info, shared=True) as theirs:
        if target.info.driver == "xrt":
            theirs.program(target.image)
            held = theirs.kernel(target.kernel)
        with pytest.raises(fpgahal.DeviceBusyError):
            mine.program(other)
        if target.info.driver == "xrt":
            held.close()
        theirs.verify(Bitstream.parse(target.image))


def test_progress_is_reported(target: Target) -> None:
    seen: list[float] = []
    with fpgahal.open(target.info) as dev:
        dev.program(target.need_other())
        dev.program(target.image, progress=seen.append)
    assert seen == sorted(seen)
    assert seen


def test_a_closed_device_is_not_programmed(target: Target) -> None:
    dev = fpgahal.open(target.info)
    dev.close()
    with pytest.raises(fpgahal.ClosedError, match="closed"):
        dev.program(target.image)
