# SPDX-License-Identifier: Apache-2.0
"""GBS files: what is built can be read, and each way to break one has its own message."""

from __future__ import annotations

import contextlib
import copy
import json
import struct
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpgahal._bitstream import Bitstream
from fpgahal._errors import BitstreamError
from fpgahal._gbs import build_gbs
from fpgahal._image import build_emulated

MAGIC = b"XeonFPGA\xb7GBSv001"
AFU = uuid.UUID("d8424dc4-a4a3-c413-f89e-433683f9040b")
INTERFACE = uuid.UUID("9926ab6d-6c92-5a68-aabc-a7d84c545738")
RBF = bytes(range(256)) * 5

METADATA: dict[str, Any] = {
    "version": 1,
    "platform-name": "DCP",
    "afu-image": {
        "clock-frequency-high": 200,
        "clock-frequency-low": "auto",
        "power": 25,
        "interface-uuid": str(INTERFACE),
        "magic-no": 488605312,
        "afu-top-interface": {"class": "ccip_std_afu", "module-ports": [{"class": "cci-p", "params": {"clock": "x"}}]},
        "accelerator-clusters": [{"total-contexts": 1, "name": "nlb0", "accelerator-type-uuid": str(AFU)}],
    },
}


def gbs(
    metadata: object = None, *, text: bytes | None = None, length: int | None = None, payload: bytes = RBF
) -> bytes:
    """Put a GBS together without looking at it."""
    if text is None:
        text = json.dumps(METADATA if metadata is None else metadata).encode()
    return MAGIC + struct.pack("<I", len(text) if length is None else length) + text + payload


def changed(change: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]) -> bytes:
    """Give the good file with its metadata changed: `change` gets the object, its afu-image, its cluster."""
    metadata = copy.deepcopy(METADATA)
    change(metadata, metadata["afu-image"], metadata["afu-image"]["accelerator-clusters"][0])
    return gbs(metadata)


def top(**items: object) -> bytes:
    return changed(lambda m, i, c: m.update({key.replace("_", "-"): value for key, value in items.items()}))


def image(**items: object) -> bytes:
    return changed(lambda m, i, c: i.update({key.replace("_", "-"): value for key, value in items.items()}))


def cluster(**items: object) -> bytes:
    return changed(lambda m, i, c: c.update({key.replace("_", "-"): value for key, value in items.items()}))


def text_with(old: str, new: str) -> bytes:
    return gbs(text=json.dumps(METADATA).replace(old, new).encode())


def damaged_image() -> bytes:
    payload = bytearray(build_emulated(INTERFACE, AFU))
    payload[40] ^= 1
    return gbs(payload=bytes(payload))


GOOD = gbs()
OTHER = uuid.UUID(int=7)

BROKEN: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("half a magic", MAGIC[:9], "ends inside the magic, after 9 bytes"),
    ("another format", b"\x7fELF" + bytes(200), r"it starts with b'\x7fELF"),
    ("one letter wrong", b"X" + b"f" + GOOD[2:], "it starts with b'XfonFPGA"),
    ("legacy header", struct.pack("<I", 0x1D1F8680) + GOOD, "legacy GBS header 0x1d1f8680"),
    ("only the magic", MAGIC, "the length of the JSON text is missing: it takes 4 bytes at offset 16"),
    ("half a length", MAGIC + b"\x10\0", "offset 16, but there are only 18"),
    ("length 0", gbs(length=0), "JSON length at offset 16 is 0,"),
    ("length 8192", gbs(text=b"{" + b" " * 8190 + b"}"), "is 8192, expected 1..8191"),
    ("length huge", gbs(length=0xFFFFFFFF), "is 4294967295, expected"),
    ("JSON cut", GOOD[:100], "but the file ends at 100"),
    ("no RBF", gbs(payload=b""), "the RBF is empty"),
    ("length one short", gbs(length=len(GOOD) - len(RBF) - 21), "not JSON: Expecting ',' delimiter"),
    ("length one long", gbs(length=len(GOOD) - len(RBF) - 19), "contains a NUL byte"),
    ("terminating NUL", gbs(text=b"{}\0"), "a NUL byte at 2: its length must not count"),
    ("not UTF-8", gbs(text=b'{"version": "\xff"}'), "not UTF-8: invalid start byte at byte 13"),
    ("byte order mark", gbs(text=b"\xef\xbb\xbf{}"), "Unexpected UTF-8 BOM"),
    ("not JSON", gbs(text=b"version: 1"), "not JSON: Expecting value at line 1 column 1"),
    ("two objects", gbs(text=b"{}{}"), "not JSON: Extra data"),
    ("an array", gbs(text=b"[1]"), "not an object but (1,)"),
    ("a number", gbs(text=b"17"), "not an object but 17"),
    ("duplicate key", text_with('"version": 1', '"version": 2, "version": 1'), "key 'version' appears twice"),
    ("nested to the stack's end", gbs(text=b"[" * 4000 + b"]" * 4000), "nested deeper than 32 levels"),
    ("NaN", text_with('"power": 25', '"power": NaN'), "NaN is not a JSON number"),
    ("Infinity", text_with('"power": 25', '"power": -Infinity'), "-Infinity is not a JSON number"),
    ("digits without end", text_with('"version": 1', '"version": ' + "9" * 5000), "too many digits"),
    ("no version", changed(lambda m, i, c: m.pop("version")), "version is missing; expected an integer"),
    ("version 2", top(version=2), "version is 2, expected 1"),
    ("version true", top(version=True), "version is True, expected an integer"),
    ("version text", top(version="1"), "version is '1', expected an integer"),
    ("version float", top(version=1.0), "version is 1.0, expected an integer"),
    ("platform number", top(platform_name=5), "platform-name is 5, expected a text"),
    ("platform endless", top(platform_name="x" * 600), "platform-name takes 600 bytes"),
    ("no afu-image", changed(lambda m, i, c: m.pop("afu-image")), "afu-image is missing"),
    ("afu-image list", top(afu_image=[]), "afu-image is (), expected an object"),
    ("no magic-no", changed(lambda m, i, c: i.pop("magic-no")), "afu-image.magic-no is missing"),
    ("magic-no wrong", image(magic_no=488605313), "magic-no is 488605313, expected 488605312"),
    ("magic-no text", image(magic_no="488605312"), "magic-no is '488605312', expected an integer"),
    ("no interface", changed(lambda m, i, c: i.pop("interface-uuid")), "afu-image.interface-uuid is missing"),
    ("interface null", image(interface_uuid=None), "interface-uuid is None, expected a UUID as text"),
    ("interface short", image(interface_uuid="9926ab6d"), "interface-uuid is '9926ab6d', expected a UUID such as"),
    ("interface without dashes", image(interface_uuid=INTERFACE.hex), "is '9926ab6d6c925a68aabca7d84c545738'"),
    ("interface and more", image(interface_uuid=f"{INTERFACE}00"), "a7d84c54573800'"),
    ("interface is null UUID", image(interface_uuid=str(uuid.UUID(int=0))), "interface-uuid is the null UUID"),
    ("power negative", image(power=-1), "power is -1, expected 0..1e+06"),
    ("power true", image(power=True), "power is True, expected a number"),
    (
        "clock infinite",
        text_with('"clock-frequency-high": 200', '"clock-frequency-high": 1e999'),
        "clock-frequency-high is too large",
    ),
    ("clock negative", image(clock_frequency_high=-200.5), "clock-frequency-high is -200.5"),
    ("clock absurd", image(clock_frequency_low=10**9), "clock-frequency-low is 1000000000, expected 0..10000"),
    ("clock word", image(clock_frequency_low="fast"), "clock-frequency-low is 'fast'"),
    ("clock list", image(clock_frequency_low=[1]), "clock-frequency-low is (1,), expected a number"),
    ("top interface text", image(afu_top_interface="x"), "afu-top-interface is 'x', expected an object"),
    ("top interface class", image(afu_top_interface={"class": 1}), "afu-top-interface.class is 1"),
    ("module-ports object", image(afu_top_interface={"module-ports": {}}), "module-ports is mappingproxy({})"),
    ("module-ports entry", image(afu_top_interface={"module-ports": [3]}), "module-ports[0] is 3"),
    ("no clusters", changed(lambda m, i, c: i.pop("accelerator-clusters")), "accelerator-clusters is missing"),
    ("clusters empty", image(accelerator_clusters=[]), "accelerator-clusters is empty"),
    ("clusters object", image(accelerator_clusters={}), "accelerator-clusters is mappingproxy({}), expected an array"),
    ("cluster text", image(accelerator_clusters=["nlb0"]), "accelerator-clusters[0] is 'nlb0'"),
    (
        "second cluster empty",
        image(accelerator_clusters=[METADATA["afu-image"]["accelerator-clusters"][0], {}]),
        "accelerator-clusters[1].name is missing",
    ),
    ("no cluster name", changed(lambda m, i, c: c.pop("name")), "accelerator-clusters[0].name is missing"),
    ("name number", cluster(name=3), "[0].name is 3"),
    ("name 512 bytes", cluster(name="n" * 512), "[0].name takes 512 bytes, at most 511 are safe"),
    ("name 300 wide characters", cluster(name="é" * 300), "[0].name takes 600 bytes"),
    ("name with NUL", cluster(name="nlb\0"), r"[0].name is 'nlb\x00', expected printable"),
    ("name with half a surrogate", cluster(name="\ud800"), r"[0].name is '\ud800'"),
    ("no contexts", changed(lambda m, i, c: c.pop("total-contexts")), "[0].total-contexts is missing"),
    ("contexts true", cluster(total_contexts=True), "total-contexts is True"),
    ("contexts negative", cluster(total_contexts=-1), "total-contexts is -1, expected 0..2147483647"),
    ("contexts huge", cluster(total_contexts=1 << 31), "total-contexts is 2147483648"),
    ("no AFU id", changed(lambda m, i, c: c.pop("accelerator-type-uuid")), "accelerator-type-uuid is missing"),
    ("AFU id word", cluster(accelerator_type_uuid="nlb0"), "accelerator-type-uuid is 'nlb0'"),
    ("AFU id in braces", cluster(accelerator_type_uuid=f"{{{AFU}}}"), "accelerator-type-uuid is '{d8424dc4"),
    (
        "AFU id is null UUID",
        cluster(accelerator_type_uuid=str(uuid.UUID(int=0))),
        "accelerator-type-uuid is the null UUID",
    ),
    ("emulated image cut", gbs(payload=build_emulated(INTERFACE, AFU)[:30]), "RBF: the emulated image is missing"),
    ("emulated image damaged", damaged_image(), "RBF: the emulated image is damaged"),
    ("emulated image of another AFU", gbs(payload=build_emulated(INTERFACE, OTHER)), "image holds AFU id 00000000"),
    ("emulated image of another board", gbs(payload=build_emulated(OTHER, AFU)), "image holds interface id 00000000"),
]


@pytest.mark.parametrize(("data", "fragment"), [pytest.param(d, f, id=name) for name, d, f in BROKEN])
def test_broken(data: bytes, fragment: str) -> None:
    with pytest.raises(BitstreamError) as caught:
        Bitstream.parse(data, "some.gbs")
    assert caught.value.message.startswith("some.gbs: ")
    assert fragment in caught.value.message
    assert type(caught.value) is BitstreamError


def test_every_case_has_its_own_message() -> None:
    fragments = [fragment for _, _, fragment in BROKEN]
    assert len(set(fragments)) == len(BROKEN) >= 45
    messages = set()
    for _, data, _ in BROKEN:
        with pytest.raises(BitstreamError) as caught:
            Bitstream.parse(data, "x")
        messages.add(caught.value.message)
    assert len(messages) == len(BROKEN)


def test_good_file() -> None:
    found = Bitstream.parse(GOOD, "good.gbs")
    assert (found.kind, found.name, found.platform) == ("gbs", "good.gbs", "DCP")
    assert (found.afu_id, found.interface_id) == (AFU, INTERFACE)
    assert bytes(found.payload) == RBF
    assert found.clocks == (("high", 200.0),)
    assert found.metadata["afu-image"]["accelerator-clusters"][0]["name"] == "nlb0"
    assert not found.emulated
    with pytest.raises(TypeError):
        found.metadata["version"] = 2  # type: ignore[index]


@pytest.mark.parametrize("version", [1, 640, 650])
def test_versions_that_mean_1(version: int) -> None:
    assert Bitstream.parse(top(version=version)).afu_id == AFU


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_rbf_of_any_length(size: int) -> None:
    # The driver rounds the buffer up to what the hardware takes at once: no multiple is asked for.
    assert len(Bitstream.parse(gbs(payload=bytes(size))).payload) == size


@pytest.mark.parametrize("clock", ["auto", "auto-300", "auto-312.5"])
def test_automatic_clocks_are_not_given(clock: str) -> None:
    assert Bitstream.parse(image(clock_frequency_high=clock)).clocks == ()


def test_longest_metadata() -> None:
    text = json.dumps(METADATA).encode()
    assert Bitstream.parse(gbs(text=text.ljust(8191))).afu_id == AFU


def test_emulated_image() -> None:
    found = Bitstream.parse(gbs(payload=build_emulated(INTERFACE, AFU) + bytes(12)))
    assert found.emulated


# Not what hypothesis finds in our own sources: the magic of an emulated image.
RBFS = st.binary(max_size=200).map(lambda raw: b"\xff" + raw)


@given(
    afu=st.uuids(),
    interface=st.uuids(),
    payload=RBFS,
    platform=st.none() | st.just("p"),
    clock=st.none() | st.floats(0, 10_000),
    power=st.none() | st.integers(0, 300),
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100),
)
def test_round_trip(
    afu: uuid.UUID,
    interface: uuid.UUID,
    payload: bytes,
    platform: str | None,
    clock: float | None,
    power: int | None,
    name: str,
) -> None:
    found = Bitstream.parse(
        build_gbs(afu, interface, payload, name=name, platform=platform, clock_mhz=clock, power=power)
    )
    assert (found.afu_id, found.interface_id, found.platform) == (afu, interface, platform or "")
    assert bytes(found.payload) == payload
    assert found.clocks == (() if clock is None else (("high", clock), ("low", clock / 2)))
    assert found.metadata["afu-image"]["accelerator-clusters"][0]["name"] == name


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"payload": b""}, "the RBF is empty"),
        ({"afu_id": "nonsense"}, "accelerator-type-uuid"),
        ({"interface_id": uuid.UUID(int=0)}, "null UUID"),
        ({"clock_mhz": float("nan")}, "NaN"),
        ({"name": "x" * 9000}, "JSON length"),
    ],
)
def test_builder_refuses(change: dict[str, Any], fragment: str) -> None:
    with pytest.raises(BitstreamError, match=fragment):
        build_gbs(**(dict[str, Any](afu_id=AFU, interface_id=INTERFACE, payload=RBF) | change))


def survives(data: bytes) -> None:
    """Parse: any outcome but an exception of another class is right."""
    with contextlib.suppress(BitstreamError):
        Bitstream.parse(data)


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes(tail: bytes) -> None:
    survives(tail)
    survives(MAGIC + tail)
    survives(gbs(text=tail[:200], payload=tail))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@settings(max_examples=300)
@given(
    key=st.sampled_from([*METADATA, *METADATA["afu-image"], *METADATA["afu-image"]["accelerator-clusters"][0]]),
    value=JSON,
)
def test_any_json_in_any_field(key: str, value: object) -> None:
    def replace(m: dict[str, Any], i: dict[str, Any], c: dict[str, Any]) -> None:
        next(place for place in (m, i, c) if key in place)[key] = value

    survives(changed(replace))


@settings(max_examples=300)
@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, 900))] = data.draw(st.integers(0, 255))
    survives(bytes(broken))


def test_every_truncation() -> None:
    whole = len(GOOD) - len(RBF)
    for end in range(whole + 1):
        with pytest.raises(BitstreamError):
            Bitstream.parse(GOOD[:end])
