# SPDX-License-Identifier: Apache-2.0
"""Any sequence of changes, by us, by others, and by processes that die, against a model of the store."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from dying import dies_at
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from images import HASH, IF10, IF12, NLB0, NLB3, aocx, gbs

from fpgahal import AccessError, ImageNotFoundError, ImageStore, ImageStoreError, StoredImage
from fpgahal._aocx import parse_aocx

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")

KEYS = [(IF10, NLB0), (IF10, NLB3), (IF12, NLB0), (IF12, HASH)]
OTHER = (IF10, "1" * 32)
KEY = st.sampled_from(KEYS)
NAMESPACES = st.sampled_from([None, (), ("a",), ("a", "b")])

Record = tuple[bytes, tuple[str, ...] | None]


def data_of(key: tuple[str, str], payload: int) -> bytes:
    interface, afu = key
    inner = gbs(interface, NLB0 if afu == HASH else afu, bytes([payload]) * 20)
    return aocx(inner) if afu == HASH else inner


def name_of(key: tuple[str, str]) -> str:
    return f"{key[0]}/{key[1]}.{'aocx' if key[1] == HASH else 'gbs'}"


class AnyStore(RuleBasedStateMachine):
    """`index` is what was added, `disk` what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="fpgahal-store-")
        self.store = ImageStore(f"{self.folder}/store")
        self.index: dict[tuple[str, str], Record] = {}
        self.disk: dict[tuple[str, str], bytes] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def path(self, key: tuple[str, str]) -> Path:
        return Path(self.store.folder, name_of(key))

    # --- us -------------------------------------------------------------------------------------------------------

    @rule(key=KEY, payload=st.integers(0, 2), namespaces=NAMESPACES, force=st.booleans(), dry_run=st.booleans())
    def add(
        self, key: tuple[str, str], payload: int, namespaces: tuple[str, ...] | None, force: bool, dry_run: bool
    ) -> None:
        data = data_of(key, payload)
        if not force and (key in self.index or key in self.disk):
            with pytest.raises(ImageStoreError, match="there already"):
                self.store.add(data, namespaces=namespaces, dry_run=dry_run)
            return
        added = self.store.add(data, namespaces=namespaces, force=force, dry_run=dry_run)
        assert added.path == str(self.path(key))
        if not dry_run:
            self.disk[key] = data
            self.index[key] = self.after(key, data, namespaces)
            assert added.namespaces == self.index[key][1]

    def after(self, key: tuple[str, str], data: bytes, namespaces: tuple[str, ...] | None) -> Record:
        return data, self.index[key][1] if namespaces is None and key in self.index else namespaces

    @rule(key=KEY, force=st.booleans(), dry_run=st.booleans())
    def remove(self, key: tuple[str, str], force: bool, dry_run: bool) -> None:
        in_index, on_disk = key in self.index, key in self.disk
        if not in_index and not on_disk:
            with pytest.raises(ImageNotFoundError):
                self.store.remove(*key, force=force, dry_run=dry_run)
            return
        if not force and on_disk and (not in_index or self.disk[key] != self.index[key][0]):
            with pytest.raises(ImageStoreError):
                self.store.remove(*key, dry_run=dry_run)
            return
        assert self.store.remove(*key, force=force, dry_run=dry_run) == str(self.path(key))
        if not dry_run:
            self.index.pop(key, None)
            self.disk.pop(key, None)

    @rule(key=KEY, payload=st.integers(0, 2), namespaces=NAMESPACES, step=st.integers(0, 40))
    def add_and_die(self, key: tuple[str, str], payload: int, namespaces: tuple[str, ...] | None, step: int) -> None:
        data = data_of(key, payload)
        before = self.index.get(key), self.disk.get(key)
        after = self.after(key, data, namespaces)
        died = dies_at(step, lambda: self.store.add(data, namespaces=namespaces, force=True))
        self.settle(key, before, (after, data), died)

    @rule(key=KEY, step=st.integers(0, 40))
    def remove_and_die(self, key: tuple[str, str], step: int) -> None:
        if key in self.index or key in self.disk:
            before = self.index.get(key), self.disk.get(key)
            died = dies_at(step, lambda: self.store.remove(*key, force=True))
            self.settle(key, before, (None, None), died)

    def settle(
        self,
        key: tuple[str, str],
        before: tuple[Record | None, bytes | None],
        after: tuple[Record | None, bytes | None],
        died: bool,
    ) -> None:
        """It was done, or it was not: nothing in between."""
        path = self.path(key)
        disk = path.read_bytes() if path.exists() else None
        index = {(one.interface_id, one.afu_id): one for one in self.store.list()}.get(key)
        listed = None if index is None else (index.sha256, index.namespaces)
        allowed = [after, before] if died else [after]
        assert (listed, disk) in [(_digested(record), content) for record, content in allowed]
        chosen = next(one for one in allowed if (listed, disk) == (_digested(one[0]), one[1]))
        for known, value in ((self.index, chosen[0]), (self.disk, chosen[1])):
            known.pop(key, None)
            if value is not None:
                known[key] = value

    # --- others ---------------------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Let a writer finish what dead ones began: that is known by the file, which others are about to change."""
        self.index[OTHER] = data_of(OTHER, 0), None
        self.disk[OTHER] = data_of(OTHER, 0)
        self.store.add(data_of(OTHER, 0), force=True)

    @rule(key=KEY, payload=st.integers(3, 4))
    def somebody_writes(self, key: tuple[str, str], payload: int) -> None:
        self.decide()
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        self.disk[key] = data_of(key, payload)
        self.path(key).write_bytes(self.disk[key])

    @rule(key=KEY)
    def somebody_deletes(self, key: tuple[str, str]) -> None:
        self.decide()
        if self.disk.pop(key, None) is not None:
            self.path(key).unlink()

    # --- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def verify_finds_it_all(self) -> None:
        expected = {name_of(key): "foreign" for key in self.disk.keys() - self.index.keys()}
        for key, (data, _) in self.index.items():
            if self.disk.get(key) != data:
                expected[name_of(key)] = "changed" if key in self.disk else "missing"
        assert {one.path: one.kind for one in self.store.verify()} == expected

    @invariant()
    def only_what_was_added_is_loaded(self) -> None:
        for key in KEYS:
            if key in self.index and self.disk.get(key) == self.index[key][0]:
                found = self.store.find(*key)
                loaded = self.store.load(found)
                assert loaded.data == (data_inside(key, self.disk[key]))
                self.check_list(found, self.index[key][1])
            else:
                with pytest.raises(ImageStoreError):
                    self.store.load(self.store.find(*key))

    def check_list(self, found: StoredImage, namespaces: tuple[str, ...] | None) -> None:
        for asked in ("a", "b", "c", None):
            if namespaces is None or asked in namespaces:
                found.check_allowed(asked)
            else:
                with pytest.raises(AccessError):
                    found.check_allowed(asked)


def data_inside(key: tuple[str, str], data: bytes) -> bytes:
    return parse_aocx(data, "x").gbs.data if key[1] == HASH else data


def _digested(record: Record | None) -> tuple[str, tuple[str, ...] | None] | None:
    return None if record is None else (hashlib.sha256(record[0]).hexdigest(), record[1])


AnyStore.TestCase.settings = settings(
    max_examples=int(os.environ.get("FPGAHAL_STORE_EXAMPLES", "20")), stateful_step_count=25, deadline=None
)
test_any_sequence_of_changes = AnyStore.TestCase
