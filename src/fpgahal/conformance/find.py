# SPDX-License-Identifier: Apache-2.0
"""Finding and opening devices."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

import fpgahal
from fpgahal.conformance.target import Target

pytestmark = pytest.mark.harmless


def test_the_target_is_listed_in_order_of_address(target: Target) -> None:
    infos = fpgahal.devices()
    assert target.info in infos
    assert [i.address for i in infos] == sorted(i.address for i in infos)


def test_an_info_is_a_plain_value(target: Target) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.info.bdf = "x"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(target.info)) == target.info
    assert target.info.bdf in str(target.info)
    assert target.info.health.ok, target.info.health


def test_emulated_boards_say_so(target: Target) -> None:
    if target.rack is not None:
        assert target.info.emulated
    assert ("EMULATED" in str(target.info)) == target.info.emulated


def test_open_by_info_address_and_short_address(target: Target) -> None:
    for selector in (target.info, target.info.bdf, target.info.address, target.info.bdf.removeprefix("0000:")):
        with fpgahal.open(selector) as dev:
            assert dev.info == target.info
    with fpgahal.open(bdf=target.info.bdf, driver=target.info.driver) as dev:
        assert not dev.closed


def test_no_match_lists_the_candidates(target: Target) -> None:
    with pytest.raises(fpgahal.DeviceNotFoundError) as caught:
        fpgahal.open(bdf="0000:ff:1f.7")
    assert target.info.address in str(caught.value)
    assert isinstance(caught.value, LookupError)


def test_several_matches_list_the_candidates(target: Target) -> None:
    if len(fpgahal.devices()) < 2:
        pytest.skip("it needs two devices")
    with pytest.raises(fpgahal.AmbiguousDeviceError) as caught:
        fpgahal.open()
    for info in fpgahal.devices():
        assert info.address in str(caught.value)


def test_a_malformed_address_is_explained(target: Target) -> None:
    with pytest.raises(fpgahal.DeviceNotFoundError, match=r"0000:3b:00\.0"):
        fpgahal.open(f"{target.info.bdf}/x")


def test_exclusive_by_default(target: Target) -> None:
    with fpgahal.open(target.info):
        for shared in (False, True):
            with pytest.raises(fpgahal.DeviceBusyError, match=target.info.bdf):
                fpgahal.open(target.info, shared=shared)
    with fpgahal.open(target.info):
        pass


def test_shared_opens_live_side_by_side(target: Target) -> None:
    with fpgahal.open(target.info, shared=True) as one, fpgahal.open(target.info, shared=True) as two:
        assert one.afu_id == two.afu_id
        with pytest.raises(fpgahal.DeviceBusyError):
            fpgahal.open(target.info)


def test_open_waits_when_asked_to(target: Target) -> None:
    with fpgahal.open(target.info), pytest.raises(fpgahal.DeviceBusyError):
        fpgahal.open(target.info, timeout=0.1)


def test_closing_twice_is_fine_and_use_after_close_is_not(target: Target) -> None:
    dev = fpgahal.open(target.info)
    dev.close()
    dev.close()
    assert dev.closed
    for use in (
        lambda: dev.afu_id,
        lambda: dev.allocate(1),
        lambda: dev.csr.read64(0),
        dev.reset,
        lambda: dev.kernel("x"),
        lambda: dev.__enter__(),
    ):
        with pytest.raises(fpgahal.ClosedError, match="closed"):
            use()
