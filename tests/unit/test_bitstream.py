# SPDX-License-Identifier: Apache-2.0
"""Bitstream: loading, comparing, fitting a slot; and the catalogue of images for emulated boards."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
import struct
import time
import uuid
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fpgahal import _bitstream
from fpgahal._bitstream import Bitstream
from fpgahal._catalogue import ENVIRONMENT, accelerators, build_image
from fpgahal._errors import ArgumentRangeError, BitstreamError, IncompatibleBitstreamError
from fpgahal._fdt import build_fdt, parse_fdt
from fpgahal._gbs import build_gbs
from fpgahal._image import build_emulated
from fpgahal._info import DeviceInfo
from fpgahal._reader import Reader
from fpgahal._types import ArgKind, BankInfo
from fpgahal._xclbin_build import build_xclbin

AFU = uuid.UUID("d8424dc4-a4a3-c413-f89e-433683f9040b")
INTERFACE = uuid.UUID("9926ab6d-6c92-5a68-aabc-a7d84c545738")
OTHER = uuid.UUID("f2c1ee39-c5b9-4a4e-9de6-5a8f1de0b16d")
GBS = build_gbs(AFU, INTERFACE, b"rbf" * 100, platform="DCP")
OPAE_SLOT = DeviceInfo("0000:3b:00.0", driver="opae", interface_id=INTERFACE, platform="pac-a10")
XRT_SLOT = DeviceInfo("0000:5e:00.1", driver="xrt", timestamp=0x5D14FBE6, platform="xilinx_u200_xdma_201830_2")


@dataclass(frozen=True)
class Board:
    family: str = "xrt"
    interface_id: uuid.UUID | None = None
    vbnv: str = "xilinx_u200_xdma_201830_2"
    timestamp: int = 0x5D14FBE6
    banks: tuple[BankInfo, ...] = tuple(BankInfo(i, f"bank{i}", "ddr4", i << 34, 16 << 30) for i in range(4))


OPAE = Board("opae", INTERFACE, "pac-a10", 0, ())
HBM = Board(
    interface_id=OTHER,
    vbnv="xilinx_u280_gen3x16",
    timestamp=0,
    banks=(
        *(BankInfo(i, f"HBM[{i}]", "hbm", i << 28, 256 << 20) for i in range(32)),
        BankInfo(32, "DDR[0]", "ddr4", 1 << 38, 16 << 30),
        BankInfo(33, "PLRAM[0]", "plram", 1 << 39, 128 << 10),
    ),
)


# --- loading ---------------------------------------------------------------------------------------------------


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "nlb.gbs"
    path.write_bytes(GBS)
    found = Bitstream.load(path)
    assert found.name == str(path)
    assert found.data == GBS
    assert (found.size, found.sha256) == (len(GBS), hashlib.sha256(GBS).hexdigest())
    link = tmp_path / "link"
    link.symlink_to(path)
    assert Bitstream.load(str(link)) == found


def test_no_such_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Bitstream.load(tmp_path / "none.gbs")


def test_not_a_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    device = Path("/dev/zero")
    for path, fragment in ((fifo, "a device, FIFO or socket"), (device, "a device"), (tmp_path, "a directory")):
        with pytest.raises(BitstreamError, match=fragment):
            Bitstream.load(path)


def test_unreadable_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(GBS)
    (tmp_path / "loop").symlink_to("loop")
    for path, number in (("file/x", errno.ENOTDIR), ("loop", errno.ELOOP), ("n" * 300, errno.ENAMETOOLONG)):
        with pytest.raises(BitstreamError, match=os.strerror(number)):
            Bitstream.load(tmp_path / path)
    with pytest.raises(BitstreamError, match="null byte"):
        Bitstream.load("a\0b")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nlb.gbs"
    path.write_bytes(GBS)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BitstreamError, match=r"nlb\.gbs: can't be read: Permission denied"):
        Bitstream.load(path)


def test_absurd_sizes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, (4 << 30) + 1)
    with pytest.raises(BitstreamError, match="4294967297 bytes"):
        Bitstream.load(path)
    os.truncate(path, 4 << 30)  # allowed, but its first bytes tell enough
    started = time.monotonic()
    with pytest.raises(BitstreamError, match="is no GBS and no xclbin"):
        Bitstream.load(path)
    assert time.monotonic() - started < 1


def test_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nlb.gbs"
    path.write_bytes(GBS)
    monkeypatch.setattr(_bitstream, "_check_regular", lambda status, name: status.st_size + 5)
    with pytest.raises(BitstreamError, match="changed while it was read"):
        Bitstream.load(path)


def test_large_files_are_not_copied() -> None:
    data = build_gbs(AFU, INTERFACE, bytes(40 << 20))
    started = time.monotonic()
    found = Bitstream.parse(data)
    assert time.monotonic() - started < 0.2
    assert found.data is data
    assert found.payload.obj is data


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_buffers_are_copied(kind: type) -> None:
    data = kind(bytearray(GBS))
    found = Bitstream.parse(data)
    data[0] = 0
    assert found.data == GBS


# --- value -----------------------------------------------------------------------------------------------------


def test_equal_if_the_bytes_are() -> None:
    one, two = Bitstream.parse(GBS, "one"), Bitstream.parse(GBS, "two")
    assert one == two
    assert len({one, two, Bitstream.parse(build_gbs(AFU, OTHER, b"x"))}) == 2


def test_pickle() -> None:
    found = pickle.loads(pickle.dumps(Bitstream.parse(GBS, "one.gbs")))
    assert (found.data, found.name, found.metadata["version"]) == (GBS, "one.gbs", 1)


def test_repr_is_short() -> None:
    assert len(repr(Bitstream.parse(GBS))) < 500


# --- does it fit? ----------------------------------------------------------------------------------------------


def xclbin(interface: uuid.UUID | None = None, timestamp: int = 0) -> Bitstream:
    kernels = accelerators()["vadd"].kernels
    banks = [BankInfo(0, "DDR[0]", "ddr4", 0, 1 << 30)]
    return Bitstream.parse(
        build_xclbin(
            kernels, platform="xilinx_u200_xdma_201830_2", banks=banks, timestamp=timestamp, interface_id=interface
        ),
        "vadd.xclbin",
    )


def test_fits() -> None:
    Bitstream.parse(GBS).check_compatible(OPAE_SLOT)
    xclbin(timestamp=0x5D14FBE6).check_compatible(XRT_SLOT)
    xclbin().check_compatible(XRT_SLOT)  # 0 is "not checked"
    xclbin(OTHER).check_compatible(replace(XRT_SLOT, interface_id=OTHER))
    xclbin(timestamp=0x5D14FBE6).check_compatible(replace(XRT_SLOT, platform="another name"))


@pytest.mark.parametrize(
    ("image", "slot", "fragment"),
    [
        (
            Bitstream.parse(GBS, "nlb.gbs"),
            replace(OPAE_SLOT, interface_id=OTHER),
            f"nlb.gbs was built for interface {INTERFACE}, slot 0000:3b:00.0/0 has {OTHER}. Nothing was written.",
        ),
        (Bitstream.parse(GBS, "nlb.gbs"), replace(OPAE_SLOT, interface_id=None), "has none that can be read"),
        (Bitstream.parse(GBS, "nlb.gbs"), XRT_SLOT, "nlb.gbs is a GBS (OPAE), slot 0000:5e:00.1/0 is driven by xrt"),
        (xclbin(), OPAE_SLOT, "vadd.xclbin is an xclbin (XRT), slot 0000:3b:00.0/0 is driven by opae"),
        (xclbin(timestamp=5), XRT_SLOT, "the shell with time stamp 0x5, slot 0000:5e:00.1/0 has 0x5d14fbe6"),
        (xclbin(timestamp=5), replace(XRT_SLOT, timestamp=0), "time stamp 0x5, slot 0000:5e:00.1/0 has none that can"),
        (
            xclbin(OTHER),
            replace(XRT_SLOT, interface_id=INTERFACE),
            f"interface {OTHER}, slot 0000:5e:00.1/0 has {INTERFACE}",
        ),
        (xclbin(OTHER), XRT_SLOT, f"interface {OTHER}, slot 0000:5e:00.1/0 has none"),
        (xclbin(), replace(XRT_SLOT, interface_id=INTERFACE), "interface (none named), slot"),
    ],
)
def test_does_not_fit(image: Bitstream, slot: DeviceInfo, fragment: str) -> None:
    with pytest.raises(IncompatibleBitstreamError) as caught:
        image.check_compatible(slot)
    assert fragment in caught.value.message
    assert "Nothing was written" in caught.value.message
    assert isinstance(caught.value, BitstreamError)


def test_simulation_images_fit_no_board() -> None:
    data = bytearray(xclbin().data)
    struct.pack_into("<H", data, 332, 5)
    with pytest.raises(IncompatibleBitstreamError, match="built for sw_emu"):
        Bitstream.parse(data).check_compatible(XRT_SLOT)


# --- images for emulated boards --------------------------------------------------------------------------------


def test_emulated_image_layout() -> None:
    # native/include/board.h
    image = build_emulated(INTERFACE, AFU)
    assert image[:48] == b"FPGAHAL EMULATED" + INTERFACE.bytes + AFU.bytes
    assert struct.unpack("<I", image[48:]) == (zlib.crc32(image[:48]),)
    assert build_emulated(None, AFU)[16:32] == bytes(16)


@pytest.mark.parametrize("name", ["nlb0", "nlb3", "hello"])
def test_gbs_of_the_catalogue(name: str) -> None:
    found = Bitstream.parse(build_image(name, OPAE))
    assert found.emulated
    assert (found.afu_id, found.interface_id) == (accelerators()[name].afu_id, INTERFACE)
    assert found.platform == "pac-a10"
    found.check_compatible(replace(OPAE_SLOT, emulated=True))
    with pytest.raises(IncompatibleBitstreamError, match=r"EMULATED boards only, slot .* is a real one"):
        found.check_compatible(OPAE_SLOT)


@pytest.mark.parametrize(
    ("name", "kernels"), [("vadd", ["vadd"]), ("passthrough", ["passthrough"]), ("demo", ["vadd", "passthrough"])]
)
def test_xclbin_of_the_catalogue(name: str, kernels: list[str]) -> None:
    found = Bitstream.parse(build_image(name, Board()))
    assert found.emulated
    assert [kernel.name for kernel in found.kernels] == kernels
    assert found.data == build_image(name, Board())
    for arg in (arg for kernel in found.kernels for arg in kernel.args):
        assert arg.banks == ((0, 1, 2, 3) if arg.kind is ArgKind.BUFFER else ())
    found.check_compatible(replace(XRT_SLOT, emulated=True))
    with pytest.raises(IncompatibleBitstreamError, match="EMULATED boards only"):
        found.check_compatible(XRT_SLOT)


def test_offsets_of_the_catalogue() -> None:
    vadd, copy = accelerators()["demo"].kernels
    assert [(arg.offset, arg.size) for arg in vadd.args] == [(0x10, 8), (0x1C, 8), (0x28, 8), (0x34, 4)]
    assert [(arg.offset, arg.size) for arg in copy.args] == [(0x10, 8), (0x1C, 8), (0x28, 8)]


def test_buffers_of_hbm_boards_are_in_hbm() -> None:
    found = Bitstream.parse(build_image("vadd", HBM))
    assert found.kernels[0].args[0].banks == tuple(range(32))
    assert [bank.used for bank in found.banks] == [True] * 32 + [False, False]
    assert found.interface_id == OTHER


def test_another_board_gives_another_id() -> None:
    boards = [
        Board(),
        replace(Board(), timestamp=1),
        replace(Board(), interface_id=OTHER),
        HBM,
        replace(Board(), banks=Board().banks[:2]),
    ]
    ids = {Bitstream.parse(build_image(name, board)).afu_id for board in boards for name in ("vadd", "demo")}
    assert len(ids) == 10


def test_catalogue_refuses() -> None:
    with pytest.raises(ArgumentRangeError, match=r"no accelerator 'nlb9'; for this board .*hello.* nlb0, nlb3"):
        build_image("nlb9", OPAE)
    with pytest.raises(IncompatibleBitstreamError, match="nlb0 is for OPAE boards, xilinx_u200"):
        build_image("nlb0", Board())
    with pytest.raises(IncompatibleBitstreamError, match="neither HBM nor DDR"):
        build_image("vadd", replace(Board(), banks=()))
    with pytest.raises(IncompatibleBitstreamError, match="no interface id"):
        build_image("nlb0", replace(OPAE, interface_id=None))


def test_catalogue_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('[accelerators.mine]\nafu_id = "331db30c-9885-41ea-9081-f88b8f655caa"\n')
    two.write_text(
        '[accelerators.wide]\nkernels = ["vadd*4", "scale"]\n[kernels.scale]\n'
        'arguments = [{name="x", type="float*", offset=16}, {name="s", type="my_t", offset=28, size=12}]\n'
    )
    monkeypatch.setenv(ENVIRONMENT, f"{one}{os.pathsep}{two}")
    assert Bitstream.parse(build_image("mine", OPAE)).afu_id == uuid.UUID("331db30c-9885-41ea-9081-f88b8f655caa")
    vadd, scale = Bitstream.parse(build_image("wide", Board())).kernels
    assert vadd.compute_units == ("vadd_1", "vadd_2", "vadd_3", "vadd_4")
    assert (scale.args[1].size, scale.args[1].type) == (12, "my_t")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("x", "is not TOML"),
        ("[boards.x]", r"has \[boards\]"),
        ("accelerators = 3", "should hold tables"),
        ("[accelerators.x]", "needs either afu_id"),
        ("[accelerators.x]\nafu_id = 'x'\nkernels = []", "needs either"),
        ("[accelerators.x]\nafu_id = 5", "afu_id = 5 is no UUID"),
        ("[accelerators.x]\nuuid = 'x'", "has the key 'uuid'"),
        ("[accelerators.x]\nkernels = 'vadd'", "should be a list"),
        ("[accelerators.x]\nkernels = ['vsub']", "names the kernel 'vsub'; there are: .*passthrough, .*vadd"),
        ("[accelerators.x]\nkernels = ['vadd*0']", r"names the kernel 'vadd\*0'"),
        ("[kernels.x]", r"\[kernels.x\] should have arguments"),
        ("[kernels.x]\narguments = [{name='a'}]", "should have arguments = .*missing"),
        ("[kernels.x]\narguments = [{name='a', type='blob', offset=16}]", "'blob', whose size is not known"),
    ],
)
def test_broken_catalogue(text: str, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    monkeypatch.setenv(ENVIRONMENT, str(path))
    with pytest.raises(ArgumentRangeError, match=fragment) as caught:
        accelerators()
    assert "mine.toml" in caught.value.message


def test_missing_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "/nowhere/mine.toml")
    with pytest.raises(ArgumentRangeError, match=r"/nowhere/mine\.toml: can't be read"):
        accelerators()


# --- device tree -----------------------------------------------------------------------------------------------


def test_device_tree_round_trip() -> None:
    properties = {
        "logic_uuid": b"a" * 33,
        "schema_version/major": b"\0\0\0\1",
        "interfaces/@0/interface_uuid": b"b",
        "interfaces/@1/interface_uuid": b"",
        "other/deep/er/x": b"12345",
    }
    assert parse_fdt(Reader(build_fdt(properties), "x")) == properties


# --- bounded effort --------------------------------------------------------------------------------------------


def test_adversarial_sizes_are_quick() -> None:
    kernel = replace(accelerators()["vadd"].kernels[0], args=())
    banks = [BankInfo(0, "DDR[0]", "ddr4", 0, 1 << 30)]
    arg = b"<arg name='s' addressQualifier='4' id='0' size='0' offset='0' hostSize='0'/>"
    xml = (
        b"<project><platform><device><core><kernel name='k'>"
        + arg * 60_000
        + b"<instance name='k_1'/></kernel></core></device></platform></project>"
    )
    pair = b'{"key": "", "value": ""}'
    cases = [
        {"CONNECTIVITY": struct.pack("<i", 1 << 20) + bytes(12 << 20)},
        {"MEM_TOPOLOGY": struct.pack("<ii", 65536, 0) + bytes(65536 * 40)},
        {"EMBEDDED_METADATA": xml},
        {"KEYVALUE_METADATA": b'{"key_values": [' + (pair + b",") * 40_000 + pair + b"]}"},
        {"PARTITION_METADATA": build_fdt({f"n/p{number}": b"" for number in range(40_000)})},
    ]
    for sections in cases:
        started = time.monotonic()
        with contextlib.suppress(BitstreamError):
            build_xclbin([kernel], platform="x", banks=banks, sections=sections)
        assert time.monotonic() - started < 5, list(sections)
