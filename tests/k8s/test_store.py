# SPDX-License-Identifier: Apache-2.0
"""The image store and its command: G cases, crashes, strangers, links, and damage of every kind."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dying import dies_at
from hypothesis import given, settings
from hypothesis import strategies as st
from images import HASH, IF10, IF12, NLB0, NLB3, aocx, boards_of_the_cases, elf, gbs, image

import fpgahal
from fpgahal import AccessError, ArgumentRangeError, BitstreamError, ImageNotFoundError, ImageStore, ImageStoreError
from fpgahal._aocx import parse_aocx
from fpgahal.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def _boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards_of_the_cases(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def tree(store: ImageStore) -> dict[str, bytes]:
    """Every file of a store, but the lock."""
    top = Path(store.folder)
    found = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    found.pop(".lock", None)
    return found


# --- G cases ------------------------------------------------------------------------------------------------------


def test_G1_a_gbs_says_where_it_belongs(store: ImageStore) -> None:
    data = gbs()
    assert data[16:20] == (405).to_bytes(4, "little")
    added = store.add(data)
    assert (added.interface_id, added.afu_id) == (IF12, NLB0)
    assert added.path == f"{store.folder}/{IF12}/{NLB0}.gbs"
    loaded = store.load(added)
    assert (loaded.interface_id, loaded.afu_id, len(loaded.payload)) == (uuid.UUID(IF12), uuid.UUID(NLB0), 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.gbs", None),
        ("one.gbs", b"X"),
        ("empty.aocx", b""),
        ("empty.gbs", b""),
        ("nlb.rbf", gbs()),
        ("nlb", gbs()),
    ],
)
def test_G2_what_is_no_image_is_refused(name: str, content: bytes | None, store: ImageStore, tmp_path: Path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises((BitstreamError, FileNotFoundError), match=name.replace(".", r"\.")):
        store.add(file)
    assert not os.path.exists(store.folder)


def test_G5_a_gbs_goes_before_an_aocx(store: ImageStore) -> None:
    wanted = f"{IF12}/{NLB0}: bitstream not found"
    with pytest.raises(ImageNotFoundError, match=wanted):
        store.find(IF12, NLB0)
    store.add(aocx(gbs()))
    store.add(gbs(afu=NLB3))
    with pytest.raises(ImageNotFoundError, match=wanted):
        store.find(IF12, NLB0)
    assert store.find(IF12, HASH).path.endswith(f"/{IF12}/{HASH}.aocx")
    store.add(gbs())
    Path(store.folder, IF12, f"{NLB0}.aocx").write_bytes(aocx(gbs()))
    assert store.find(uuid.UUID(IF12), str(uuid.UUID(NLB0)).upper()).path.endswith(f"/{IF12}/{NLB0}.gbs")


def test_G8_install_overwrites_only_by_force(store: ImageStore) -> None:
    store.add(gbs(payload=b"old"), dry_run=True)
    assert not os.path.exists(store.folder)
    old = store.add(gbs(payload=b"old"), namespaces=["b", "a", "b"])
    assert old.namespaces == ("a", "b")
    before = tree(store)
    for payload, told in ((b"new", "other bytes"), (b"old", "the same bytes")):
        with pytest.raises(ImageStoreError, match=told):
            store.add(gbs(payload=payload))
    store.add(gbs(payload=b"new"), force=True, dry_run=True)
    assert tree(store) == before
    new = store.add(gbs(payload=b"new"), force=True)
    assert bytes(store.load(new).payload) == b"new"
    assert new.namespaces == ("a", "b"), "replacing an image must not open it to everybody"
    assert store.add(gbs(payload=b"new"), force=True, namespaces=[]).namespaces == ()
    with pytest.raises(ImageStoreError, match="was changed"):
        store.load(old)


def test_G8_no_partial_file_is_ever_visible(store: ImageStore) -> None:
    """A reader that looks all the time sees a whole old or a whole new image, and never anything else."""
    payloads = [bytes([n]) * 300_000 for n in (1, 2)]
    store.add(gbs(payload=payloads[0]))
    stop, seen, failures = threading.Event(), set(), []

    def look() -> None:
        while not stop.is_set():
            try:
                seen.add(bytes(store.load(store.find(IF12, NLB0)).payload[:1]))
            except ImageStoreError as error:
                if "was changed" not in str(error):  # replaced between the two calls: refused, not mixed up
                    failures.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(30):
        store.add(gbs(payload=payloads[turn % 2]), force=True)
    stop.set()
    reader.join(30)
    assert not failures
    assert seen <= {b"\1", b"\2"}


def test_others_may_read_what_root_added(store: ImageStore) -> None:
    """The plugin need not be root, and root's umask may be 077."""
    before = os.umask(0o077)
    try:
        added = store.add(fpgahal.Bitstream.parse(gbs()))
    finally:
        os.umask(before)
    for path in (added.path, os.path.dirname(added.path), store.folder, f"{store.folder}/index.json"):
        assert os.stat(path).st_mode & 0o755 == (0o755 if os.path.isdir(path) else 0o644)


def test_a_pipe_is_no_image(store: ImageStore, tmp_path: Path) -> None:
    for name in ("pipe.aocx", "pipe.gbs"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(BitstreamError, match="regular file"):
            store.add(tmp_path / name)


# --- dying --------------------------------------------------------------------------------------------------------

OLD, NEW = gbs(payload=b"old image"), gbs(payload=b"new image")


@pytest.mark.parametrize("what", ["first", "replace", "remove"])
def test_G8_a_kill_at_any_point_leaves_a_valid_store(what: str, tmp_path: Path) -> None:
    ends: set[bytes | None] = set()
    for step in range(500):
        store = ImageStore(tmp_path / str(step))
        if what != "first":
            store.add(OLD, namespaces=["team"])
        act = {
            "first": lambda store=store: store.add(NEW, namespaces=["team"]),
            "replace": lambda store=store: store.add(NEW, force=True, namespaces=["other"]),
            "remove": lambda store=store: store.remove(IF12, NLB0),
        }[what]
        died = dies_at(step, act)
        assert store.verify() == ()
        try:
            found = store.find(IF12, NLB0)
        except ImageNotFoundError:
            ends.add(None)
            assert store.list() == ()
        else:
            data = store.load(found).data
            ends.add(data)
            expected = ("other",) if what == "replace" and data == NEW else ("team",)
            assert found.namespaces == expected, "an image and the list of another one"
        store.add(OLD, force=True)
        assert store.verify() == ()
        assert sorted(tree(store)) == [f"{IF12}/{NLB0}.gbs", "index.json"]
        if not died:
            break
    assert step > 10
    assert ends == {"first": {None, NEW}, "replace": {OLD, NEW}, "remove": {OLD, None}}[what]


def test_two_who_add_at_once_do_not_lose_each_other(store: ImageStore) -> None:
    ids = [uuid.uuid5(uuid.NAMESPACE_URL, str(n)).hex for n in range(16)]
    threads = [threading.Thread(target=lambda afu=afu: ImageStore(store.folder).add(gbs(afu=afu))) for afu in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(one.afu_id for one in store.list()) == sorted(ids)
    assert store.verify() == ()


# --- changed, missing, foreign ------------------------------------------------------------------------------------


def test_verify_finds_what_is_wrong(store: ImageStore) -> None:
    changed, missing = store.add(gbs(IF10)), store.add(gbs(IF10, NLB3))
    store.add(gbs())
    assert store.verify() == ()
    with open(changed.path, "ab") as file:
        file.write(b"more")
    os.unlink(missing.path)
    for name in (f"{IF12}/{NLB3}.gbs", f"{IF12}/notes.txt", "README"):
        Path(store.folder, name).write_bytes(gbs(IF12, NLB3))
    os.symlink("/etc", f"{store.folder}/{'0' * 32}")
    problems = {problem.path: problem.kind for problem in store.verify()}
    assert problems == {
        f"{IF10}/{NLB0}.gbs": "changed",
        f"{IF10}/{NLB3}.gbs": "missing",
        f"{IF12}/{NLB3}.gbs": "foreign",
        f"{IF12}/notes.txt": "foreign",
        "README": "foreign",
        "0" * 32: "foreign",
    }
    with pytest.raises(ImageStoreError, match="was changed"):
        store.load(store.find(IF10, NLB0))
    with pytest.raises(ImageNotFoundError):
        store.find(IF10, NLB3)
    with pytest.raises(ImageStoreError, match="nobody vouched"):
        store.find(IF12, NLB3)
    # and all of it can be mended
    for one in ((IF10, NLB0), (IF12, NLB3)):
        with pytest.raises(ImageStoreError):
            store.remove(*one)
        store.remove(*one, force=True)
    store.remove(IF10, NLB3)
    for name in (f"{IF12}/notes.txt", "README", "0" * 32):
        os.unlink(f"{store.folder}/{name}")
    assert store.verify() == ()


@pytest.mark.parametrize("where", ["file", "folder"])
def test_links_are_not_followed(where: str, store: ImageStore, tmp_path: Path) -> None:
    """A link to the very same bytes: it may point to others a moment later."""
    added = store.add(gbs())
    path = Path(added.path if where == "file" else os.path.dirname(added.path))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ImageStoreError, match=r"is a link"):
        store.load(store.find(IF12, NLB0))
    assert store.verify()[0].kind == "changed"
    if where == "file":  # the link goes, not what it points to
        store.add(gbs(payload=b"new"), force=True)
        assert not path.is_symlink()
    else:
        with pytest.raises(ImageStoreError, match=r"is a link"):
            store.add(gbs(payload=b"new"), force=True)
    elsewhere = tmp_path / "elsewhere"
    assert (elsewhere if where == "file" else elsewhere / f"{NLB0}.gbs").read_bytes() == gbs()


@pytest.mark.parametrize(
    "bad", ["..", "../../etc/passwd", "", "g" * 32, "/" * 32, f"{'0' * 31}\n", "%2e%2e", "\u0660" * 32]
)
def test_ids_are_hex_and_nothing_else(bad: str, store: ImageStore) -> None:
    store.add(gbs())
    for pair in ((bad, NLB0), (IF12, bad)):
        for act in (store.find, store.remove):
            with pytest.raises(ArgumentRangeError, match="hex digits"):
                act(*pair)


def test_a_record_of_another_store_is_not_read(store: ImageStore, tmp_path: Path) -> None:
    added = ImageStore(tmp_path / "other").add(gbs())
    store.add(gbs())
    with pytest.raises(ArgumentRangeError, match="no image of"):
        store.load(added)


def test_a_file_under_another_images_name_is_not_used(store: ImageStore) -> None:
    """Somebody who may write the index lies about an image: the bytes' own ids still count."""
    store.add(gbs())
    other = gbs(afu=NLB3)
    Path(store.folder, IF12, f"{NLB0}.gbs").write_bytes(other)
    index = json.loads(Path(store.folder, "index.json").read_text())
    import hashlib

    index["images"][f"{IF12}/{NLB0}.gbs"] |= {"sha256": hashlib.sha256(other).hexdigest(), "size": len(other)}
    Path(store.folder, "index.json").write_text(json.dumps(index))
    with pytest.raises(ImageStoreError, match="holds another image"):
        store.load(store.find(IF12, NLB0))


def spoilt(index: dict[str, Any]) -> Iterator[str]:
    name, entry = next(iter(index["images"].items()))
    yield ""
    yield "[]"
    yield json.dumps(index)[:-5]
    yield json.dumps({**index, "version": 2})
    yield json.dumps({**index, "more": 1})
    yield json.dumps({**index, "images": []})
    yield json.dumps({**index, "images": {f"../{name}": entry}})
    yield json.dumps({**index, "images": {name.upper(): entry}})
    yield json.dumps({**index, "pending": {"x": None}})
    for change in (
        {"sha256": "0"},
        {"size": -1},
        {"size": True},
        {"namespaces": "all"},
        {"namespaces": ["A"]},
        {"x": 1},
    ):
        yield json.dumps({**index, "images": {name: entry | change}})
    text = json.dumps(index)
    yield text.replace('"namespaces": ["a"]', '"namespaces": ["a"], "namespaces": null')


def test_a_spoilt_index_is_not_trusted(store: ImageStore) -> None:
    added = store.add(gbs(), namespaces=["a"])
    path = Path(store.folder, "index.json")
    good = json.loads(path.read_text())
    for text in spoilt(good):
        path.write_text(text)
        for act in (store.list, store.verify, lambda: store.find(IF12, NLB0), lambda: store.add(gbs(), force=True)):
            with pytest.raises(ImageStoreError, match="index can't be used"):
                act()
    path.write_text(json.dumps(good))
    assert store.find(IF12, NLB0) == added


def test_what_everybody_may_write_is_not_trusted(store: ImageStore) -> None:
    store.add(gbs())
    for path in (store.folder, f"{store.folder}/index.json"):
        mode = os.stat(path).st_mode
        os.chmod(path, 0o777)
        with pytest.raises(ImageStoreError, match="Everybody may write"):
            store.find(IF12, NLB0)
        os.chmod(path, mode)
    assert store.find(IF12, NLB0)


def test_the_allow_list(store: ImageStore) -> None:
    for_all, for_some, for_none = (
        store.add(gbs(afu=f"{n:032x}"), namespaces=names) for n, names in ((1, None), (2, ["a", "b"]), (3, []))
    )
    for namespace in ("a", "zz", None):
        for_all.check_allowed(namespace)
    for_some.check_allowed("a")
    for image_, namespace in ((for_some, "c"), (for_some, None), (for_none, "a"), (for_none, None)):
        with pytest.raises(AccessError, match="may not use"):
            image_.check_allowed(namespace)
    for bad in ("A", "a_b", "-a", "a" * 64, ""):
        with pytest.raises(ArgumentRangeError, match="no namespace"):
            store.add(gbs(), namespaces=[bad])


def test_xclbins(store: ImageStore) -> None:
    two_stage, one_stage = store.add(image("vadd", "u250")), store.add(image("vadd", "aws-f1"))
    board = fpgahal.emu.boards()["u250"]
    assert store.find(board.interface_id, two_stage.afu_id) == two_stage
    assert one_stage.interface_id == "0" * 32
    assert store.find(None, one_stage.afu_id) == one_stage
    assert store.load(one_stage).kind == "xclbin"


# --- AOCX ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_an_aocx_gives_its_gbs(bits: int, store: ImageStore, tmp_path: Path) -> None:
    file = tmp_path / "matrix_mult.aocx"
    file.write_bytes(aocx(gbs(payload=b"fabric" * 1000), bits=bits))
    added = store.add(file)
    assert added.path.endswith(f"/{IF12}/{HASH}.aocx")
    loaded = store.load(added)
    assert (loaded.afu_id.hex, bytes(loaded.payload)) == (NLB0, b"fabric" * 1000)


@pytest.mark.parametrize(
    "data",
    [
        b"\x7fELF",
        elf({}),
        elf({".acl.rand_hash": HASH.encode()}),
        aocx(gbs(), hash="x" * 40),
        aocx(b"no GBS"),
        elf({".acl.rand_hash": HASH.encode(), ".acl.fpga.bin": elf({".acl.gbs.gz": b"no gzip"})}),
        elf({".acl.rand_hash": HASH.encode(), ".acl.fpga.bin": elf({".acl.gbs.gz": gzip.compress(gbs())[:-9]})}),
        b"\x7fELF\2\2" + aocx(gbs())[6:],
    ],
)
def test_a_broken_aocx_is_refused(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        parse_aocx(data, "broken.aocx")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpgahal._aocx.MAX_GBS_BYTES", 1 << 20)
    parse_aocx(aocx(gbs(payload=bytes(1 << 19))), "small.aocx")
    with pytest.raises(BitstreamError, match="more than 1048576 bytes"):
        parse_aocx(aocx(gbs(payload=bytes(1 << 24))), "bomb.aocx")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_to_an_aocx_is_found_or_harmless(data: st.DataObject) -> None:
    sound = bytearray(aocx(gbs()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sound) - 1))
        sound[at : at + data.draw(st.integers(1, 8))] = data.draw(st.binary(max_size=8))
    try:
        found = parse_aocx(bytes(sound), "damaged.aocx")
    except BitstreamError:
        return
    assert found.gbs.data == gbs()  # gzip's own checksum: what comes out is what went in


# --- the command --------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> Any:
    assert main(["images", *map(str, args), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_command(store: ImageStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, other = tmp_path / "nlb0.gbs", tmp_path / "nlb3.gbs"
    file.write_bytes(gbs())
    other.write_bytes(gbs(afu=NLB3))
    at = ("--store", store.folder)
    assert run(capsys, "add", *at, file, "--dry-run")["dry_run"] is True
    assert not os.path.exists(store.folder)
    added = run(capsys, "add", *at, file, other, "--namespace", "team-a", "--namespace", "team-b")["images"]
    assert [one["namespaces"] for one in added] == [["team-a", "team-b"]] * 2
    assert run(capsys, "list", *at)["images"] == added
    assert run(capsys, "verify", *at)["problems"] == []
    assert run(capsys, "add", *at, file, code=3)["error"]["type"] == "ImageStoreError"
    run(capsys, "add", *at, file, "--force")
    Path(store.folder, IF12, f"{NLB0}.gbs").write_bytes(b"")
    assert [one["kind"] for one in run(capsys, "verify", *at, code=1)["problems"]] == ["changed"]
    assert run(capsys, "remove", *at, f"{IF12}/{NLB0}", code=3)["error"]["type"] == "ImageStoreError"
    assert run(capsys, "remove", *at, f"{IF12}/{NLB0}", "--force", "--dry-run")["dry_run"] is True
    run(capsys, "remove", *at, f"{IF12}/{NLB0}", "--force")
    run(capsys, "remove", *at, f"{IF12}/{NLB3}")
    assert run(capsys, "remove", *at, f"{IF12}/{NLB3}", code=3)["error"]["type"] == "ImageNotFoundError"
    assert run(capsys, "list", *at)["images"] == []
    assert run(capsys, code=2)["error"]["type"] == "UsageError"
    assert main(["images", "list", *at]) == 0
    assert "SHA-256" in capsys.readouterr().out


def test_a_killed_command_leaves_a_valid_store(store: ImageStore, tmp_path: Path) -> None:
    """SIGKILL from outside, while it writes 64 MB."""
    file = tmp_path / "big.gbs"
    file.write_bytes(gbs(payload=bytes(1 << 26)))
    store.add(gbs(payload=b"small"))
    command = [sys.executable, "-m", "fpgahal", "images", "add", "--store", store.folder, "--force", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(Path(store.folder, IF12).glob("*.part")):
            pass
        process.kill()
    assert store.verify() == ()
    assert len(store.load(store.find(IF12, NLB0)).payload) in (5, 1 << 26)
    store.add(gbs(afu=NLB3))
    assert not list(Path(store.folder).rglob("*.part"))
