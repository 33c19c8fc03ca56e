"""A text beside each file, as trainers of image models read it: ``cat.jpg`` has ``cat.txt``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from sightline.describe.book import Book, Entry
from sightline.screen import Failure


class Where(StrEnum):
    """What becomes of a text that is there already."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    APPEND = "append"


@dataclass
class Sidecars:
    """Writes them.

    Args:
        suffix: ``txt`` or ``caption``.
        existing: what becomes of those that are there.
        book: knows files whose names differ in the suffix only; each of those has the whole name before its own suffix.
    """

    suffix: str
    existing: Where
    book: Book
    shared: int = 0  #: how many had to have the whole name

    @property
    def keeps(self) -> bool:
        """Whether texts that are there are kept."""
        return self.existing is Where.SKIP

    def name(self, entry: Entry) -> bytes:
        """Say where a file's text stands."""
        path = os.fsdecode(entry.place)
        stem = os.path.splitext(entry.path)[0]  # noqa: PTH122  # bytes that are no UTF-8 stay as they are
        if self.book.shares_stem(stem):
            self.shared += 1
            return os.fsencode(f"{path}.{self.suffix}")
        return os.fsencode(f"{os.path.splitext(path)[0]}.{self.suffix}")  # noqa: PTH122

    def is_there(self, entry: Entry) -> bool:
        """Say whether a file has its text, and is to keep it."""
        if self.existing is not Where.SKIP or not entry.place:
            return False
        try:
            return os.stat(self.name(entry)).st_size > 0  # noqa: PTH116
        except OSError:
            return False

    def write(self, entry: Entry, text: str) -> None:
        """Write a file's text beside it, whole or not at all; a repetition changes nothing.

        Raises:
            Failure: the folder takes no files.
        """
        if not entry.place:  # an address has no folder
            return
        name = self.name(entry)
        other = os.path.join(os.path.dirname(name), b".sightline-%d.new" % os.getpid())  # noqa: PTH118, PTH120
        try:
            if self.existing is Where.APPEND:
                text = _appended(name, text)
            with open(other, "wb") as file:  # noqa: PTH123
                file.write(text.encode("utf-8", "backslashreplace"))
            os.replace(other, name)  # noqa: PTH105
        except OSError as error:
            where = os.fsdecode(name).encode(errors="replace").decode()
            raise Failure(f"cannot write {where}: {error.strerror}; the same command goes on when it can be") from error


def _appended(name: bytes, text: str) -> str:
    try:
        with open(name, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            before = file.read()
    except FileNotFoundError:
        return text
    if not before.strip() or before.endswith(text):
        return before or text
    return f"{before.rstrip()}\n{text}"
