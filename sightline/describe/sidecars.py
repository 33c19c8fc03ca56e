"""A text beside each file, as trainers of image models read it: ``cat.jpg`` has ``cat.txt``."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from sightline.describe.file_index import Entry, FileIndex
from sightline.describe.sources import stem_of
from sightline.screen import Failure

#: What would meet all texts alike, and so ends the run.
_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class CannotWrite(OSError):
    """A text cannot stand beside its file: the folder takes no files, or the name would be too long."""

    code = "sidecar"


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
        index: knows files whose names differ in the suffix only; each of those has the whole name before its own suffix.
    """

    suffix: str
    existing: Where
    index: FileIndex
    shared: int = 0  #: how many had to have the whole name

    @property
    def keeps(self) -> bool:
        """Whether texts that are there are kept."""
        return self.existing is Where.SKIP

    def name(self, entry: Entry) -> bytes:
        """Say where a file's text stands."""
        path = os.fsdecode(entry.place)
        if self.index.shares_stem(stem_of(entry.path)):
            self.shared += 1
            return os.fsencode(f"{path}.{self.suffix}")
        return os.fsencode(f"{os.path.splitext(path)[0]}.{self.suffix}")  # noqa: PTH122

    def is_there(self, entry: Entry) -> bool:
        """Say whether a file has its text, and is to keep it."""
        if self.existing is not Where.SKIP or not entry.place:
            return False
        try:
            facts = os.stat(self.name(entry))  # noqa: PTH116
            return stat.S_ISREG(facts.st_mode) and facts.st_size > 0
        except OSError:
            return False

    def check(self, entry: Entry) -> None:
        """Look before a job is made whose text nobody would have.

        Raises:
            CannotWrite: there is no place for the text.
        """
        if not entry.place:
            return
        name = self.name(entry)
        try:
            os.stat(name)  # noqa: PTH116  # bytes
        except FileNotFoundError:
            pass
        except OSError as error:  # the name is too long
            raise _refusal(name, error) from error
        if not os.access(os.path.dirname(name) or b".", os.W_OK):  # noqa: PTH120
            raise CannotWrite(errno.EACCES, f"cannot write {_shown(name)}: its folder takes no files")

    def write(self, entry: Entry, text: str) -> None:
        """Write a file's text beside it, whole or not at all; a repetition changes nothing.

        Raises:
            CannotWrite: there is no place for it.
            Failure: the disk is full, or fails.
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
            with suppress(OSError):
                os.unlink(other)  # noqa: PTH108
            raise _refusal(name, error) from error


def _refusal(name: bytes, error: OSError) -> Failure | CannotWrite:
    """Say of which text an error is, and whether it would meet all others."""
    said = f"cannot write {_shown(name)}: {error.strerror}"
    if error.errno in _OF_THE_DISK:
        return Failure(f"{said}; the same command goes on when it can be")
    return CannotWrite(error.errno, said)


def _shown(name: bytes) -> str:
    return os.fsdecode(name).encode(errors="replace").decode()


def _appended(name: bytes, text: str) -> str:
    try:
        with open(name, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            before = file.read()
    except FileNotFoundError:
        return text
    if not before.strip() or before.endswith(text):
        return before or text
    return f"{before.rstrip()}\n{text}"
