"""Where the files come from: files, folders, globs, addresses, lists, a column of a table. Nothing is opened but lists."""

from __future__ import annotations

import glob
import os
import stat
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from fnmatch import fnmatch
from pathlib import Path

from shared.media_types import SUFFIXES
from sightline.describe.lists import column, column_of, is_address, lines_of, refuse_table

_ENDINGS = frozenset(f".{suffix}" for suffixes in SUFFIXES.values() for suffix in suffixes)
#: How many names of one folder are in memory at a time; the rest is sorted on the disk.
PART = 5000


class Release(Enum):
    """Marks that work may begin on the files found so far."""

    AS_GIVEN = auto()
    SORTED = auto()  #: a folder is whole


#: Of each: how its row names it, where it is, and its :func:`stem_of`.
Found = tuple[str, bytes, str]


@dataclass
class Sources:
    """What was given on the command line.

    Args:
        given: files, folders, globs, addresses, ``-``, ``table.csv:column``.
        lists: files with a path or address a line; where they hold NUL, that separates.
        recursive: enter the folders in a folder.
        include: patterns of names that are taken, in place of those of pictures and videos.
        exclude: patterns of names that are left out.
        output: a file of rows, which is left out, and what is beside it while it is written.
        beside: what texts beside files end in, which are left out.
    """

    given: Sequence[str]
    lists: Sequence[str] = ()
    recursive: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    output: Path | None = None
    beside: str | None = None
    left_out: int = 0  #: files in folders that are no pictures or videos
    not_entered: int = 0  #: folders
    unreadable: list[tuple[str, str]] = field(default_factory=list)  #: folders, and why

    def find(self) -> Iterator[list[Found] | Release]:
        """Give what is found, in parts, and from time to time that it can be begun with.

        Raises:
            Failure: a list or table cannot be read.
        """
        self.left_out = self.not_entered = 0  # a folder that is watched is looked through again and again
        self.unreadable.clear()
        for source in self.given:
            yield from self._of(source)
        for name in self.lists:
            if name == "-" or column_of(name):
                yield from self._of(name)
            else:
                refuse_table(name)
                yield from self._list(name, name)
        yield Release.AS_GIVEN

    def _of(self, source: str) -> Iterator[list[Found] | Release]:
        if source == "-":
            yield from self._list(sys.stdin.fileno(), "standard input")
        elif is_address(source):
            yield [(source, b"", source)]
        elif Path(source).is_dir():
            yield Release.AS_GIVEN
            yield from self._folder(source, "" if self._is_alone else source)
        elif named := column_of(source):
            yield from self._parts(column(*named))
        elif glob.has_magic(source) and not os.path.lexists(source):
            yield from self._glob(source)
        else:
            refuse_table(source)
            yield [_found(source, source)]

    @property
    def root(self) -> Path:
        """The folder that paths of rows are relative to."""
        return Path(self.given[0]) if self._is_alone and Path(self.given[0]).is_dir() else Path()

    @property
    def _is_alone(self) -> bool:
        return len(self.given) == 1 and not self.lists

    def all(self) -> Iterator[Found]:
        """Give all that is found, one by one."""
        for part in self.find():
            if not isinstance(part, Release):
                yield from part

    def is_wanted(self, path: str) -> bool:
        """Say whether a file in a folder is to be described, by its name."""
        name = path.rpartition("/")[2]

        def matches(pattern: str) -> bool:
            return fnmatch(path if "/" in pattern else name, pattern)

        if name.startswith("._") or any(map(matches, self.exclude)):  # what macOS leaves beside files
            return False
        if self.include:
            return any(map(matches, self.include))
        return os.path.splitext(name)[1].lower() in _ENDINGS  # noqa: PTH122  # a path for each of a million is slow

    def _is_own(self, folder: str, name: str) -> bool:
        """Say whether a run like this one wrote a file: ``*`` means what is described, not what is said of it."""
        if name.startswith(".sightline-") or (self.beside and name.endswith(f".{self.beside}")):
            return True
        out = self.output
        if out is None or out.name[:200] not in name or not (name == out.name or name.startswith(".")):
            return False
        return os.path.samefile(folder or ".", out.parent)  # noqa: PTH121

    def _folder(self, folder: str, shown: str) -> Iterator[list[Found] | Release]:
        """Walk a folder, and without end through links that lead back: links to folders are not followed."""
        inside = list[str]()
        part = list[Found]()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = os.path.join(shown, entry.name)  # noqa: PTH118  # as above
                    if entry.is_dir(follow_symlinks=False):
                        inside.append(entry.name)
                    elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112  # false where a link leads nowhere
                        self.not_entered += 1
                    elif self.is_wanted(path) and not self._is_own(folder, entry.name):
                        part.append(_found(path, entry.path))
                    else:
                        self.left_out += 1
                    if len(part) >= PART:
                        yield part
                        part = []
        except OSError as error:
            self.unreadable.append((folder, error.strerror or str(error)))
        yield part
        yield Release.SORTED
        if not self.recursive:
            self.not_entered += len(inside)
            return
        for name in sorted(inside):
            path = os.path.join(shown, name)  # noqa: PTH118
            if name.startswith(".") or any(fnmatch(name, pattern.rstrip("/")) for pattern in self.exclude):
                self.not_entered += 1
            else:
                yield from self._folder(os.path.join(folder, name), path)  # noqa: PTH118

    def _glob(self, pattern: str) -> Iterator[list[Found]]:
        any_found = False
        paths = (path for path in glob.iglob(pattern, recursive=True) if not Path(path).is_dir())  # noqa: PTH207
        for part in self._parts(path for path in paths if not self._is_own(*os.path.split(path))):
            any_found = True
            yield part
        if not any_found:  # a name with brackets in it, perhaps
            yield [_found(pattern, pattern)]

    def _list(self, file: int | str, name: str) -> Iterator[list[Found] | Release]:
        for part in lines_of(file, name):
            yield from self._parts(iter(part))
            yield Release.AS_GIVEN  # whoever writes the list may take his time

    def _parts(self, paths: Iterator[str]) -> Iterator[list[Found]]:
        part = list[Found]()
        for path in paths:
            part.append((path, b"", path) if is_address(path) else _found(path, path))
            if len(part) >= PART:
                yield part
                part = []
        if part:
            yield part


def _found(path: str, place: str) -> Found:
    try:
        where = os.fsencode(place)
    except UnicodeEncodeError:  # half a surrogate pair, out of JSON: there is no such file
        where = place.encode("utf-8", "surrogatepass")
    path = as_typed(path)
    return path, where, stem_of(path)


def as_typed(text: str) -> str:
    """Give a text of the system as it was typed, whatever the locale made of it; a name that is no UTF-8 stays what it is."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def stem_of(path: str) -> str:
    """Give a path without what follows its last dot, the same for all that some system takes for one name."""
    return unicodedata.normalize("NFC", os.path.splitext(path)[0]).casefold()  # noqa: PTH122


def facts_of(place: bytes) -> os.stat_result:
    """Look at a file before it is opened.

    Raises:
        OSError: it is not there, may not be read, or is a pipe, a device or a folder, which nobody should open.
    """
    if b"\0" in place:  # out of a table; no file has such a name
        raise FileNotFoundError(2, "No such file or directory")
    facts = os.stat(place)  # noqa: PTH116  # bytes
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(21, "Is a directory")
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(22, "not a regular file")
    return facts
