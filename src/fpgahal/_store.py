# SPDX-License-Identifier: Apache-2.0
"""ImageStore: a node's folder of images, each with its digest and the namespaces that may use it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from fpgahal import _store_files as files
from fpgahal import _store_index as index_file
from fpgahal._bitstream import Bitstream
from fpgahal._errors import AccessError, ArgumentRangeError, ImageNotFoundError, ImageStoreError
from fpgahal._store_image import StoredImage, StoreProblem, allow_list, identify, names_of, read, sha256
from fpgahal._store_index import Entry, Index

#: Where Intel's tools have it, too.
FOLDER = "/srv/intel.com/fpga"

_LOCK_SECONDS = 30.0


class ImageStore:
    """A folder of images: ``<interface id>/<AFU id>.gbs`` (or ``.aocx``, ``.xclbin``), and ``index.json``.

    Nothing outside the index is ever used, no link is followed, and what is programmed are the bytes whose digest
    was compared.  Files and index change whole or not at all: a process that is killed leaves a sound store.

    Parameters
    ----------
    folder : path
        Need not exist before the first image is added.
    """

    def __init__(self, folder: str | os.PathLike[str] = FOLDER) -> None:
        self.folder = os.path.abspath(os.fspath(folder))

    def __repr__(self) -> str:
        return f"<fpgahal.ImageStore {self.folder}>"

    # --- looking --------------------------------------------------------------------------------------------------

    def list(self) -> tuple[StoredImage, ...]:
        """Give what the index has, by name.

        Raises
        ------
        ImageStoreError
            The index can't be used.
        """
        with self._open() as (_, index):
            return tuple(self._stored(name, entry) for name, entry in sorted(index.images.items()))

    def find(self, interface_id: uuid.UUID | str | None, afu_id: uuid.UUID | str) -> StoredImage:
        """Find the image of an AFU for a shell: the GBS, else the AOCX, else the xclbin.

        Parameters
        ----------
        interface_id : uuid.UUID, str or None
            None: of an XRT shell without interface id.
        afu_id : uuid.UUID or str

        Raises
        ------
        ImageNotFoundError
            There is none.
        ImageStoreError
            There is a file, but the index does not have it; or the index can't be used.
        ArgumentRangeError
            An id is no id.
        """
        with self._open() as (top, index):
            return self._stored(name := self._first(top, index, names_of(interface_id, afu_id)), index.images[name])

    def load(self, image: StoredImage) -> Bitstream:
        """Read an image, and check these very bytes.

        Returns
        -------
        Bitstream
            What to program: of an AOCX, the GBS in it.

        Raises
        ------
        ImageStoreError
            The file has another digest than `image`, is another image than its name says, or can't be read.
        BitstreamError
            It is no sound image.
        """
        name = os.path.relpath(image.path, self.folder)
        if not index_file.IMAGE.fullmatch(name):
            raise ArgumentRangeError(f"{image.path} is no image of {self.folder}.")
        with files.top_folder(self.folder) as top:
            data = self._read(top, name, image.size)
        if not data:
            raise ImageNotFoundError(f"{image.path} is gone, or empty.", hint="`fpgahal images verify` looks at all.")
        found = sha256(data)
        if found != image.sha256:
            raise ImageStoreError(
                f"{image.path} was changed: its SHA-256 is {found}, the index says {image.sha256}.  "
                "It is not programmed.",
                hint="`fpgahal images add --force FILE` puts a good file in its place.",
            )
        bitstream, actual = identify(data, image.path)
        if actual != name:
            raise ImageStoreError(f"{image.path} holds another image, {actual}.  It is not programmed.")
        return bitstream

    def verify(self) -> tuple[StoreProblem, ...]:
        """Compare every file with the index; an empty result means that all is well.

        Raises
        ------
        ImageStoreError
            The index can't be used.
        """
        found: list[StoreProblem] = []
        with self._open() as (top, index):
            for name, entry in sorted(index.images.items()):
                digest = self._digest(top, name)
                if not digest:
                    found.append(StoreProblem(name, "missing", "it is in the index, but there is no such file"))
                elif digest != entry.sha256:
                    message = f"its SHA-256 is {digest}, the index says {entry.sha256}"
                    found.append(StoreProblem(name, "changed", message))
            strangers = [name for name in files.names(top) if name not in index.images] if top >= 0 else []
        found += [StoreProblem(name, "foreign", "it is not in the index, and is not used") for name in strangers]
        return tuple(found)

    # --- changing -------------------------------------------------------------------------------------------------

    def add(
        self,
        image: str | os.PathLike[str] | bytes | Bitstream,
        *,
        namespaces: Sequence[str] | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> StoredImage:
        """Check an image and put it where its ids say.

        Parameters
        ----------
        image : path, bytes or Bitstream
            A GBS, AOCX or xclbin.
        namespaces : sequence of str, optional
            Who may use it.  None: everybody; when an image is replaced, those that might use it before.
        force : bool
            Replace what is there.
        dry_run : bool
            Do everything but write.

        Returns
        -------
        StoredImage

        Raises
        ------
        FileNotFoundError, BitstreamError
            There is no such file, or it is no sound image.
        ImageStoreError
            There is such an image already, or the store can't be used.
        ArgumentRangeError
            A namespace is none.
        """
        data, source = read(image)
        _, name = identify(data, source)
        digest = sha256(data)
        allowed = allow_list(namespaces)

        def entry_in(top: int, index: Index) -> Entry:
            old = index.images.get(name)
            if not force and (old is not None or (top >= 0 and self._exists(top, name))):
                same = "the same bytes" if old and old.sha256 == digest else "other bytes"
                raise ImageStoreError(
                    f"{self.folder}/{name} is there already, with {same}.  Nothing was written.",
                    hint="force=True (`--force`) replaces it.",
                )
            return Entry(digest, len(data), old.namespaces if old and namespaces is None else allowed)

        if dry_run:
            with self._open() as (top, index):
                return self._stored(name, entry_in(top, index))
        if not os.path.isdir(self.folder):
            os.makedirs(self.folder, exist_ok=True)
            os.chmod(self.folder, 0o755)  # whatever the umask, as with the files
        with self._writing() as (top, index):
            entry = entry_in(top, index)
            folder_name, file_name = name.split("/")
            with suppress(FileExistsError):
                os.mkdir(folder_name, dir_fd=top)
                os.chmod(folder_name, 0o755, dir_fd=top)
                os.fsync(top)
            with (
                files.inner_folder(top, folder_name, f"{self.folder}/{folder_name}") as folder,
                files.beside(folder, file_name, data) as aside,
            ):
                self._write(top, index.beginning(name, entry))
                files.replace(folder, file_name, aside)
            self._write(top, Index({**index.images, name: entry}))
        return self._stored(name, entry)

    def remove(
        self,
        interface_id: uuid.UUID | str | None,
        afu_id: uuid.UUID | str,
        *,
        force: bool = False,
        dry_run: bool = False,
    ) -> str:
        """Take an image out: the first that `find` would look for.

        Parameters
        ----------
        force : bool
            Also if the file was changed, or is not in the index.
        dry_run : bool
            Do everything but write.

        Returns
        -------
        str
            The path of what was removed.

        Raises
        ------
        ImageNotFoundError
            There is none.
        ImageStoreError
            The file is not the one that was added, and `force` was not given; or the store can't be used.
        """
        names = names_of(interface_id, afu_id)

        def name_in(top: int, index: Index) -> str:
            name = self._first(top, index, names, trusted=not force, or_missing=True)
            if not force and name in index.images and self._digest(top, name) not in ("", index.images[name].sha256):
                raise ImageStoreError(
                    f"{self.folder}/{name} is not the file that was added: somebody changed it.  Nothing was removed.",
                    hint="Look at it; force=True (`--force`) removes it.",
                )
            return name

        if dry_run or not os.path.isdir(self.folder):
            with self._open() as (top, index):
                return f"{self.folder}/{name_in(top, index)}"
        with self._writing() as (top, index):
            name = name_in(top, index)
            folder_name, file_name = name.split("/")
            self._write(top, index.beginning(name, None))
            with files.inner_folder(top, folder_name, f"{self.folder}/{folder_name}") as folder:
                if folder >= 0:
                    with suppress(FileNotFoundError):
                        os.unlink(file_name, dir_fd=folder)
                    os.fsync(folder)
            self._write(top, Index({other: entry for other, entry in index.images.items() if other != name}))
            with suppress(OSError):  # others are in it
                os.rmdir(folder_name, dir_fd=top)
        return f"{self.folder}/{name}"

    # --- both -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[tuple[int, Index]]:
        """Open the folder (-1: there is none) and read the index, as it is after the changes that were begun."""
        with files.top_folder(self.folder) as top:
            path = f"{self.folder}/{index_file.NAME}"
            data = files.read_index(top, path, index_file.MAX_BYTES) if top >= 0 else None
            index = Index() if data is None else index_file.parse(data, path)
            yield top, index.settled(lambda name: self._digest(top, name))

    @contextmanager
    def _writing(self) -> Iterator[tuple[int, Index]]:
        try:
            with files.top_folder(self.folder) as top, files.locked(top, self.folder, _LOCK_SECONDS):
                with self._open() as (_, index):
                    pass
                yield top, index
        except OSError as error:
            if isinstance(error, AccessError):
                raise
            raise ImageStoreError(f"{self.folder} can't be written: {error.strerror}.") from error

    def _write(self, top: int, index: Index) -> None:
        with files.beside(top, index_file.NAME, index.dump()) as aside:
            files.replace(top, index_file.NAME, aside)

    def _first(
        self, top: int, index: Index, names: Sequence[str], *, trusted: bool = True, or_missing: bool = False
    ) -> str:
        """Choose the first name that there is a file of; with `or_missing`, also one that only the index has."""
        for name in names if top >= 0 else ():
            there = self._exists(top, name)
            if there and trusted and name not in index.images:
                raise ImageStoreError(
                    f"{self.folder}/{name} is not in the store's index: nobody vouched for it.",
                    hint="If it is good, `fpgahal images add --force` it.",
                )
            if there or (or_missing and name in index.images):
                return name
        raise ImageNotFoundError(
            f"{names[0].partition('.')[0]}: bitstream not found in {self.folder}.",
            hint="`fpgahal images add FILE` adds one, `fpgahal images list` shows what is there.",
        )

    def _exists(self, top: int, name: str) -> bool:
        """Whether there is anything of that name, be it a link."""
        folder_name, file_name = name.split("/")
        with files.inner_folder(top, folder_name, f"{self.folder}/{folder_name}") as folder:
            try:
                return folder >= 0 and bool(os.stat(file_name, dir_fd=folder, follow_symlinks=False))
            except FileNotFoundError:
                return False

    def _read(self, top: int, name: str, size: int) -> bytes:
        """Read up to one byte more than `size`; empty if there is no such file."""
        descriptor = self._descriptor(top, name)
        if descriptor < 0:
            return b""
        with open(descriptor, "rb") as file:
            return file.read(size + 1)

    def _digest(self, top: int, name: str) -> str:
        """Give a file's SHA-256; "none" of what is no regular file; empty if there is no such file."""
        try:
            descriptor = self._descriptor(top, name)
        except ImageStoreError:
            return "none"
        if descriptor < 0:
            return ""
        with open(descriptor, "rb") as file:
            import hashlib

            return hashlib.file_digest(file, "sha256").hexdigest()

    def _descriptor(self, top: int, name: str) -> int:
        if top < 0:
            return -1
        folder_name, file_name = name.split("/")
        with files.inner_folder(top, folder_name, f"{self.folder}/{folder_name}") as folder:
            return files.open_regular(folder, file_name, f"{self.folder}/{name}") if folder >= 0 else -1

    def _stored(self, name: str, entry: Entry) -> StoredImage:
        interface_id, _, rest = name.partition("/")
        afu_id = rest.partition(".")[0]
        return StoredImage(f"{self.folder}/{name}", interface_id, afu_id, entry.sha256, entry.size, entry.namespaces)


__all__ = ["FOLDER", "ImageStore", "StoreProblem", "StoredImage"]
