"""``sightline compare``: what two runs of `describe` over the same files said, as with two precisions of one model."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sightline.describe.row import Row
from sightline.describe.row_codecs import Jsonl
from sightline.screen import Failure, note, print_json


@dataclass(frozen=True)
class Difference:
    """One file of which both runs said something, and not the same."""

    path: str
    likeness: float  #: share of the characters that both have in the same order, from 0 to 1
    first: str
    second: str


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common; files count that both described."""

    files: int
    equal: int
    only_in_first: int
    only_in_second: int
    differences: list[Difference]

    @property
    def share(self) -> float:
        """The share of equal answers, from 0 to 1."""
        return self.equal / self.files


def compare(first: Path, second: Path) -> Comparison:
    """Compare two files of rows.

    Args:
        first: rows of a run, JSONL.
        second: those of another.

    Raises:
        Failure: one cannot be read, nothing stands in both, a picture changed in between, or both tell of the same jobs.
    """
    one, other = _texts(first), _texts(second)
    both = [path for path in one if path in other]
    if not both:
        msg = f"{first} and {second} have no described file in common; describe the same folder twice, with -o"
        raise Failure(msg)
    if changed := [path for path in both if one[path].sha256 != other[path].sha256]:
        msg = f"{changed[0]} is not the same file in both runs, nor are {len(changed) - 1} others; describe them again"
        raise Failure(msg)
    if same := [path for path in both if one[path].job and one[path].job == other[path].job]:
        msg = f"both files tell of the same job for {same[0]} and {len(same) - 1} others: the second run asked for nothing new"
        raise Failure(msg)
    pairs = [(path, one[path].text or "", other[path].text or "") for path in both]
    differences = [Difference(path, _likeness(a, b), a, b) for path, a, b in pairs if a != b]
    differences.sort(key=lambda difference: difference.likeness)
    return Comparison(len(both), len(both) - len(differences), len(one) - len(both), len(other) - len(both), differences)


def show(found: Comparison, names: tuple[str, str], *, as_json: bool) -> None:
    """Print a comparison: the answers that differ side by side, the least alike first, and the share of equal ones.

    Args:
        found: what was compared.
        names: of the two runs.
        as_json: one JSON document instead of a table.
    """
    if as_json:
        print_json(asdict(found) | {"share": found.share})
        return
    if found.differences:
        table = Table("file", *(escape(name) for name in names), "alike", show_lines=True)
        for each in found.differences:
            table.add_row(escape(each.path), escape(each.first), escape(each.second), f"{each.likeness:.0%}")
        Console(emoji=False).print(table)
    left_out = found.only_in_first + found.only_in_second
    note(
        f"{found.equal} of {found.files} answers are equal ({found.share:.1%})"
        + (f"; {left_out} files were described in one run only" if left_out else "")
    )


def _texts(path: Path) -> dict[str, Row]:
    """Give the newest row of each file that was described."""
    rows = {row.path: row for row in _rows(path)}
    return {name: row for name, row in rows.items() if row.is_good}


def _rows(path: Path) -> Iterator[Row]:
    codec = Jsonl()
    try:
        with path.open("rb") as file:
            whole = codec.whole_bytes(file)  # a last line that was torn by a kill is none
            file.seek(0)
            yield from codec.decode(io.BytesIO(file.read(whole)))
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise Failure(msg) from error
    except ValueError as error:
        msg = f"{path} holds no rows of `sightline describe -o FILE.jsonl`"
        raise Failure(msg) from error


def _likeness(first: str, second: str) -> float:
    return round(difflib.SequenceMatcher(None, first, second, autojunk=False).ratio(), 3)
