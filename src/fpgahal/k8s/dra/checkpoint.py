# SPDX-License-Identifier: Apache-2.0
"""What is prepared on this node, in a file that survives this process, its successor's start, and a power cut.

An image on a board does not survive a reboot, so neither does what is written here: it names the boot that it is of.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fpgahal import FpgaError
from fpgahal.k8s.files import write_whole

VERSION = 1
STARTED, COMPLETED = "started", "completed"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class CheckpointError(FpgaError, ValueError):
    """The file can't be believed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One device of a claim.

    Attributes
    ----------
    request, pool, device, share_id : str
        As allocated.
    address : str
        Of the board.
    """

    request: str
    pool: str
    device: str
    share_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that boards are held for.

    Attributes
    ----------
    uid, namespace, name : str
    state : str
        `STARTED`: its boards are nobody else's, but may not run their images yet.  `COMPLETED`: they do.
    devices : tuple of Prepared
    """

    uid: str
    namespace: str
    name: str
    state: str
    devices: tuple[Prepared, ...]


class Checkpoint:
    """The file, and a lock beside it that an old and a new instance of the driver share during an update.

    Parameters
    ----------
    path : Path
    boot_id : str
        Of the running system.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self.path, self._boot_id = path, boot_id

    @contextmanager
    def changing(self) -> Iterator[dict[str, Claim]]:
        """Give the claims by uid; what the body made of them is written at its end.  Blocks while another does this.

        Raises
        ------
        CheckpointError
            The file is damaged, or of a newer version: who holds which board is not known, so none is given out.
        OSError
            It can't be read or written.
        """
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            claims = self._load()
            before = dict(claims)
            yield claims
            if claims != before:
                self._save(claims)
        finally:
            os.close(lock)

    def claims(self) -> dict[str, Claim]:
        """Give the claims by uid; raises as `changing` does."""
        with self.changing() as found:
            return dict(found)

    def _load(self) -> dict[str, Claim]:
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError:
            raise self._damaged("it is no text") from None
        try:
            document = json.loads(text)
            version, boot_id, told, body = (document[key] for key in ("version", "bootId", "checksum", "claims"))
            if version != VERSION:
                raise self._damaged(f"its version is {version!r}, expected {VERSION}")
            if told != _checksum(boot_id, body):
                raise self._damaged("its checksum is wrong")
            claims = {uid: _claim(uid, entry) for uid, entry in body.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise self._damaged(str(error)) from None
        return claims if boot_id == self._boot_id else {}

    def _save(self, claims: dict[str, Claim]) -> None:
        body = {uid: asdict(claim) for uid, claim in sorted(claims.items())}
        document = {
            "version": VERSION,
            "bootId": self._boot_id,
            "checksum": _checksum(self._boot_id, json.loads(json.dumps(body))),
            "claims": body,
        }
        write_whole(self.path, json.dumps(document, indent=1) + "\n")

    def _damaged(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} can't be believed: {why}.",
            hint="It says which board is whose.  Drain the node, then delete it.",
        )


def _claim(uid: str, entry: dict[str, Any]) -> Claim:
    devices = tuple(Prepared(**device) for device in entry["devices"])
    found = Claim(**{**entry, "devices": devices})
    if found.uid != uid or found.state not in (STARTED, COMPLETED):
        raise ValueError(f"the claim {uid} contradicts itself")
    return found


def _checksum(boot_id: str, claims: Any) -> str:
    return hashlib.sha256(json.dumps([boot_id, claims], sort_keys=True).encode()).hexdigest()
