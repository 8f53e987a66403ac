# SPDX-License-Identifier: Apache-2.0
"""The server's certificate: TLS 1.2 at least, and renewed files are taken without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from fpgahal import FpgaError

log = logging.getLogger(__name__)


class CertificateError(FpgaError, ValueError):
    """The files are missing, or are no certificate with its key."""


class Certificate:
    """A TLS context for a server, whose certificate follows its files.

    Parameters
    ----------
    certificate, key : path
        PEM files; the first holds the whole chain.

    Attributes
    ----------
    context : ssl.SSLContext
        For the server.
    renewals, failures : int
        How often new files were taken, and how often they could not be.

    Raises
    ------
    CertificateError
        The files can't be used now.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self.renewals = self.failures = 0
        self._stamp = self._stamps()
        self.context = self._current = self._load()
        # A context of its own for each renewal: half-loaded files never reach the one that serves.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current

    def refresh(self) -> bool:
        """Take the files if they were changed; tell whether that was so.  If they are unsound, keep the old ones."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return False
        try:
            loaded = self._load()
        except CertificateError as error:
            self.failures += 1
            log.error("The certificate stays as it was: %s", error.message)
            return False
        if self._stamps() != stamp:
            return False  # they are being exchanged right now: next time
        self._current, self._stamp = loaded, stamp
        self.renewals += 1
        log.info("A new certificate is in use")
        return True

    async def follow(self, seconds: float) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self.refresh()

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Tell the files apart from others; a mounted Secret changes the target of a link."""
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._files:
            try:
                status = path.stat()
                stamps.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                stamps.append(None)
        return tuple(stamps)

    def _load(self) -> ssl.SSLContext:
        certificate, key = self._files
        for path in self._files:
            if not path.is_file():
                raise CertificateError(f"There is no file {path}.", hint="Is the secret mounted?")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")  # never ask on the terminal
        except (OSError, ValueError) as error:
            raise CertificateError(
                f"{certificate} and {key} are no certificate with its key: {error}.",
                hint="PEM files are expected, the key without a pass phrase.",
            ) from None
        return context
