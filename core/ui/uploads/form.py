"""Reads a form with files as it arrives, and stops writing a file once it is too much."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.ui.request_bodies import Refusal
from core.uploads.limits import UploadLimits

FIELD = "files"
_FILES_A_REQUEST = 2_000
_NAME_BYTES = 4_096


class UploadForm:
    """A ``multipart/form-data`` body whose files go to a folder of its own.

    A file that is larger than one may be, or that does not fit beside those before it, is emptied,
    and of the rest only the size is counted, so that the files after it arrive.

    Args:
        content_type: The header of the request.
        folder: New and empty; it is made with the first file.
        limits: What one upload may hold.
        admit: Asked before more bytes are written; raises if there is no room for them.
        arrived: Told the name and size of each piece of a file.

    Attributes:
        files: Of each file: its path, the bytes that were sent, and whether all were kept.
        kept: Bytes of the files that were kept.
        admitted: Bytes that were asked for.

    Raises:
        Refusal: The header announces no such form.
    """

    def __init__(
        self,
        content_type: str,
        folder: Path,
        limits: UploadLimits,
        admit: Callable[[int], None],
        arrived: Callable[[str, int], None],
    ) -> None:
        """Expect the first byte."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise Refusal(400, "Files are sent as multipart/form-data.")
        self.files: list[tuple[Path, int, bool]] = []
        self.kept = self.admitted = 0
        self._folder = folder
        self._limits = limits
        self._admit = admit
        self._arrived = arrived
        self._ended = False
        self._file: BinaryIO | None = None
        self._name = ""
        self._sent = self._written = 0
        self._header = b""
        self._value = b""
        self._disposition = b""
        try:
            self._parser = MultipartParser(
                options.get(b"boundary") or b"",
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._open,
                    "on_part_data": self._write,
                    "on_part_end": self._close,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise Refusal(400, "The boundary of the form is too long.") from None
        if not options.get(b"boundary"):
            raise Refusal(400, "The form names no boundary.")

    def feed(self, chunk: bytes) -> None:
        """Take in the next piece of the body.

        Raises:
            Refusal: It is no such form, or there is no room for it.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Refusal(400, f"The form cannot be read: {str(error)[:80]}") from None

    def finish(self) -> None:
        """Check that the form came to its end.

        Raises:
            Refusal: It was cut off.
        """
        if not self._ended:
            raise Refusal(400, "The form ends before its last boundary.")

    def discard(self) -> None:
        """Delete what was written."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self) -> None:
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD.encode():
            raise Refusal(400, f"Files are sent in a field called {FIELD!r}; there is another.")
        if b"filename" not in options:
            raise Refusal(400, f"The field {FIELD!r} holds files only.")
        if len(self.files) == _FILES_A_REQUEST:
            raise Refusal(400, f"A request holds at most {_FILES_A_REQUEST:,} files.")
        self._take_room(least_bytes(self._limits))
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._name = options[b"filename"][:_NAME_BYTES].decode("utf-8", "replace")
        self._sent = self._written = 0
        self._file = (self._folder / str(len(self.files))).open("wb", buffering=0)

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        size = end - start
        whole = self._sent == self._written
        self._sent += size
        self._arrived(self._name, size)
        room = min(self._limits.decode.max_bytes, self._limits.bytes - self.kept) - self._written
        if not whole or size > room:
            return  # too much already: of what follows only the size counts
        self._take_room(size)
        with memoryview(data) as view:
            written = 0
            while written < size:
                written += self._file.write(view[start + written : end])
        self._written += size

    def _take_room(self, size: int) -> None:
        self._admit(size)
        self.admitted += size

    def _close(self) -> None:
        if self._file is None:
            return
        whole = self._sent == self._written
        if whole:
            self.kept += self._written
        else:
            os.ftruncate(self._file.fileno(), 0)
        path = self._folder / str(len(self.files))
        self._file.close()
        self._file = None
        self.files.append((path, self._sent, whole))

    def _end(self) -> None:
        self._ended = True


def least_bytes(limits: UploadLimits) -> int:
    """Return what a file counts beside its bytes: an empty one takes up some of the disk, too."""
    return min(4_096, limits.bytes // limits.files)
