"""Where rows go: a file that is also the state of the run, texts beside the files, or the terminal."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from sightline.describe.disk import writing
from sightline.describe.file_index import Entry, FileIndex
from sightline.describe.progress import Display
from sightline.describe.roots import SAMPLE, are_here, is_telling, mark_of
from sightline.describe.row import Row
from sightline.describe.row_codecs import Csv, Jsonl
from sightline.describe.row_file import RowFile
from sightline.describe.sidecars import CannotWrite, Sidecars
from sightline.screen import Failure, print_json, print_text

#: So many failures are shown one by one; more are in the output.
SHOWN = 10

#: Makes a file of another form from the rows of this one.
Export = Callable[[RowFile, Path], None]


def open_rows(path: Path, columns: list[str], root: Path = Path()) -> tuple[RowFile, Export | None]:
    """Open the file for rows that the name asks for, and say what is to be made of it at the end.

    Args:
        path: its name.
        columns: what a schema asks for.
        root: the folder that paths in it are relative to.

    Raises:
        Failure: there is no such form, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise Failure(f"{path} is a folder; name a file in it, such as {path / 'out.jsonl'}, or use --sidecar")
    if suffix == ".csv":
        return RowFile(path, Csv(columns)), None
    if path.name == "metadata.jsonl" or suffix == ".parquet":
        from sightline.describe.exports import export_to

        return RowFile(path.with_name(f".{path.name}.rows"), Jsonl()), export_to(path, root)
    if suffix in {".jsonl", ".ndjson"}:
        return RowFile(path, Jsonl()), None
    raise Failure(f"{path}: rows are written as .jsonl, .csv, .parquet, or metadata.jsonl for a Hugging Face image folder")


class Outputs:
    """Takes rows as they come and puts them where they belong."""

    def __init__(
        self,
        display: Display,
        index: FileIndex,
        *,
        rows: tuple[RowFile, Export | None] | None,
        path: Path | None,
        as_json: bool,
    ) -> None:
        """Keep what is open; :meth:`learn` reads it."""
        self.index, self._display, self._as_json = index, display, as_json
        self._rows: RowFile | None
        self._export: Export | None
        self._rows, self._export = rows or (None, None)
        self.path = path
        self.sidecars: Sidecars | None = None
        self._waiting, self._order = dict[int, tuple[Entry, Row]](), deque[int]()
        self._shown = self._replaced = 0
        self._known = self._has_noted = False  #: whether there are rows, and whether this run noted its series
        #: Names the jobs of this output as its own, and so those of a run that was killed; another output has others.
        self.series = ""

    def learn(self, request: str, root: Path, *, retries: bool) -> None:
        """Read the rows of an earlier run.

        Args:
            request: rows that are another's are refused,
            root: the folder that this run's paths are relative to; rows of another one are refused,
            retries: rows of another request are to be made again.

        Raises:
            Failure: the file holds rows of another request or folder, or something other than rows.
        """
        mark, sample = mark_of(root), list[Row]()
        self.series = f"{uuid4().hex[:12]}-{mark}"
        if self._rows is None:
            return

        def own() -> Iterator[Row]:
            assert self._rows  # noqa: S101  # looked at above
            for row in self._rows.read():
                if row.is_good and row.request != request and not retries:
                    msg = f"{self.path} holds answers to another request (prompt, model or options); name another file with -o"
                    raise Failure(f"{msg}, or ask those of --retry-failed or --retry-flagged anew")
                self._known, self.series = True, row.series or self.series
                if is_telling(row) and len(sample) < SAMPLE:
                    sample.append(row)
                yield row

        _compact(self._rows)
        self.series = self._note.read_text() if self._note.is_file() else self.series
        self.index.learn(own())
        if self.series[12:] not in {f"-{mark}", ""} and not are_here(sample, root):
            msg = f"{self.path} was begun with another folder: {sample[0].path} is not the same file as seen from this one"
            raise Failure(f"{msg}; name another file with -o, and for several folders give them all in one command")

    @property
    def _note(self) -> Path:
        """Where the series stands while no row tells of it: jobs may be in flight before the first one has ended."""
        assert self._rows  # noqa: S101  # who asks has looked
        return self._rows.path.with_name(f".{self._rows.path.name[:200]}.series")

    def has_sidecar(self, entry: Entry) -> bool:
        """Say whether a file whose row is there has its text beside it, where it should."""
        return self.sidecars is None or not entry.place or not self.sidecars.keeps or self.sidecars.is_there(entry)

    def has_sidecar_only(self, entry: Entry) -> bool:
        """Say whether a file needs no row, and has its text beside it."""
        return self._rows is None and self.sidecars is not None and self.sidecars.is_there(entry)

    def check(self, entry: Entry) -> None:
        """Look before a job is made whose text would stand nowhere.

        Raises:
            CannotWrite: there is no place for a text that would stand beside its file only.
        """
        if self.sidecars and self._rows is None:
            self.sidecars.check(entry)

    def expect(self, entry: Entry) -> None:
        """Hear of a file whose row will come: on the terminal they stand in order."""
        if self._is_terminal:
            self._order.append(entry.n)
        if self._rows and not self._known and not self._has_noted and not self._note.exists():
            self._has_noted = True
            with writing(self._note):
                self._note.write_text(self.series)

    @property
    def _is_terminal(self) -> bool:
        return self._rows is None and self.sidecars is None

    def take(self, entry: Entry, row: Row) -> None:
        """Put a row where it belongs.

        Raises:
            Failure: it cannot be written.
        """
        if self.sidecars and row.is_good and row.text is not None and not self.sidecars.is_there(entry):
            try:
                self.sidecars.write(entry, row.text)
            except CannotWrite as error:  # the text is in the row all the same
                row.status, row.error = "failed", {"code": error.code, "message": error.strerror}
        if self._rows:
            self._rows.append(row)
            if not self._known:
                self._note.unlink(missing_ok=True)
            self._known = True
            self._replaced += entry.status is not None or entry.is_changed
        if self._is_terminal:
            self._waiting[entry.n] = (entry, row)
            while self._order and self._order[0] in self._waiting:
                self._show(self._waiting.pop(self._order.popleft())[1])
        elif not row.is_good:
            self._tell_failure(row)

    def _tell_failure(self, row: Row) -> None:
        self._shown += 1
        if self._shown <= SHOWN or self._rows is None:
            self._display.failure(row)
        elif self._shown == SHOWN + 1:
            self._display.note(f"more failures stand in {self.path}")

    def _show(self, row: Row) -> None:
        with self._display.off_screen():
            if self._as_json:
                print_json(json.loads(row.as_json()))
            elif row.is_good:
                print_text(f"{row.path}: {row.text}")
            else:
                self._display.failure(row)

    def close(self, *, is_broken_off: bool = False, may_go_on: bool = False) -> None:
        """Show what waits for an earlier one, leave one row for each file, and make the form that was asked for.

        Args:
            is_broken_off: the run did not come to its end; where it made no row, nothing of it is left,
            may_go_on: unless jobs of it may go on in the service.
        """
        for _, row in self._waiting.values():
            self._show(row)
        self._waiting.clear()
        if self._rows:
            if self._replaced:
                _compact(self._rows)
            if not self._known and self._has_noted and not may_go_on:
                self._note.unlink(missing_ok=True)
            if self._export and self.path and (self._known or not is_broken_off):
                self._export(self._rows, self.path)
            if not self._known and not self._note.exists() and (self._export or (is_broken_off and self._rows.is_new)):
                self._rows.path.unlink(missing_ok=True)
            self._rows.close()
        sys.stdout.flush()


def _compact(rows: RowFile) -> None:
    """Leave the newest row of each file."""
    index = FileIndex()
    if index.learn(rows.read()):
        rows.keep(index.is_newest)
