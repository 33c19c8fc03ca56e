"""What a run knows of its files: an index on the disk, made anew from the output, so that memory stays flat.

It is SQLite's own temporary database, which nobody else sees and which is gone with the process.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sightline.describe.row import Row

_SCHEMA = """
CREATE TABLE known (path TEXT PRIMARY KEY, row INTEGER, status TEXT, odd INTEGER, bytes INTEGER, modified_at REAL,
                    sha256 TEXT, run INTEGER) WITHOUT ROWID;
CREATE TABLE files (n INTEGER PRIMARY KEY, path TEXT UNIQUE, place BLOB, stem TEXT, stamp TEXT, again INTEGER DEFAULT 0);
CREATE INDEX stems ON files (stem);
CREATE TABLE texts (sha256 TEXT PRIMARY KEY, row TEXT, here INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE found (path TEXT, place BLOB, stem TEXT, stamp TEXT);
"""


@dataclass(frozen=True)
class Entry:
    """A file that a run is about: how its row names it, where it is, and what the output says of it."""

    n: int
    path: str
    place: bytes
    status: str | None
    is_odd: bool
    bytes: int | None
    modified_at: float | None
    sha256: str | None
    run: int | None
    is_changed: bool  #: since this run described it


class FileIndex:
    """The index; every call is short, and threads may share it."""

    def __init__(self) -> None:
        """Make an empty one."""
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4000;" + _SCHEMA)
        self._lock = threading.Lock()

    def learn(self, rows: Iterable[Row]) -> int:
        """Note the rows of an output, in its order; gives how many have a newer one."""
        seen = 0
        with self._lock:
            self._db.execute("BEGIN")
            for number, row in enumerate(rows):
                seen += 1
                facts = (number, row.status, bool(row.flags), row.size_bytes, row.modified_at, row.sha256, row.run)
                self._db.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (_text(row.path), *facts))
                if row.is_good and row.sha256:
                    self._db.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, 0)", (row.sha256, _packed(row)))
            self._db.execute("COMMIT")
            (rows_kept,) = self._db.execute("SELECT count(*) FROM known").fetchone()
        return seen - int(rows_kept)

    def is_newest(self, number: int, row: Row) -> bool:
        """Say whether a row, given its number in the output, is the newest of its file."""
        with self._lock:
            found = self._db.execute("SELECT row FROM known WHERE path = ?", (_text(row.path),)).fetchone()
        return bool(found and found[0] == number)

    def find(self, found: Iterable[tuple[tuple[str, bytes, str], str]]) -> None:
        """Note files that were found.

        Args:
            found: of each how its row names it, where it is, and its path without what follows the last dot; and what it was
                like: one that is found again and is like something else is worked on again.
        """
        with self._lock:
            rows = ((_text(path), place, _text(stem), stamp) for (path, place, stem), stamp in found)
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def release(self, *, is_sorted: bool) -> None:
        """Let those that were found since the last time be worked on, behind those before, sorted or as given."""
        with self._lock:
            self._db.execute("BEGIN")
            self._db.execute(
                "INSERT INTO files (path, place, stem, stamp) SELECT path, place, stem, stamp FROM found WHERE true "
                "ORDER BY CASE WHEN ? THEN path END, rowid "
                "ON CONFLICT (path) DO UPDATE SET n = (SELECT max(n) + 1 FROM files), stamp = excluded.stamp, again = 1 "
                "WHERE stamp != excluded.stamp",
                (is_sorted,),
            )
            self._db.execute("DELETE FROM found")
            self._db.execute("COMMIT")

    def after(self, n: int, limit: int = 200) -> list[Entry]:
        """Give the next files that were found, after this number."""
        with self._lock:
            rows = self._db.execute(
                "SELECT n, files.path, place, status, odd, bytes, modified_at, sha256, run, again "
                "FROM files LEFT JOIN known ON known.path = files.path WHERE n > ? ORDER BY n LIMIT ?",
                (n, limit),
            ).fetchall()
        return [Entry(n, _path(path), place, status, bool(odd), *facts) for n, path, place, status, odd, *facts in rows]

    def count(self) -> int:
        """Count the files that were found, those that changed anew."""
        with self._lock:
            return int(self._db.execute("SELECT coalesce(max(n), 0) FROM files").fetchone()[0])

    def shares_stem(self, stem: str) -> bool:
        """Say whether another file has the same name but for what follows the last dot."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM files WHERE stem = ?", (_text(stem),)).fetchone()[0]) > 1

    def remember(self, row: Row) -> None:
        """Keep a row of this run, for other files of the same content."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, 1)", (row.sha256, _packed(row)))

    def same(self, sha256: str, *, only_here: bool) -> Row | None:
        """Give the row of a file of the same content, ``only_here`` of this run."""
        query = "SELECT row FROM texts WHERE sha256 = ? AND here >= ?"
        with self._lock:
            found = self._db.execute(query, (sha256, int(only_here))).fetchone()
        return Row(**json.loads(found[0])) if found else None


def _packed(row: Row) -> str:
    return json.dumps(asdict(row))


def _text(path: str) -> bytes:
    """Give bytes for a path: SQLite's texts hold no half surrogates."""
    return path.encode("utf-8", "surrogatepass")


def _path(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")
