"""Forms that are made at the end from the rows of a run: Parquet, and the list of a Hugging Face image folder.

Each is written beside its place and then moved there, so that nobody reads half of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sightline.describe.disk import moved_to
from sightline.describe.lists import is_address
from sightline.describe.row import Row
from sightline.describe.row_codecs import clear_of
from sightline.describe.row_file import RowFile
from sightline.screen import Failure

#: What to do where the disk takes no more: the rows are there.
AGAIN = "the same command makes it of the rows once it can be written"
GROUP = 1000  #: rows that are in memory at a time


def export_to(path: Path, root: Path) -> Callable[[RowFile, Path], None]:
    """Say how the file of this name is made.

    Args:
        path: its name.
        root: the folder that the rows' paths are relative to.

    Raises:
        Failure: the package that writes it is not installed.
    """
    if path.suffix.lower() != ".parquet":
        return partial(image_folder, root=root)
    try:
        import pyarrow.parquet  # noqa: F401  # whether it is there
    except ImportError as error:
        raise Failure("Parquet needs the package pyarrow (the extra `data`); install it, or write .jsonl or .csv") from error
    return parquet


def image_folder(rows: RowFile, path: Path, *, root: Path) -> None:
    """Write ``metadata.jsonl``: the file's name, as seen from there, and its text, for those that have one.

    Raises:
        Failure: the disk is full.
    """
    with moved_to(path, again=AGAIN) as other, other.open("wb") as file:
        for row in rows.read():
            if row.is_good and not is_address(row.path):
                name = os.path.relpath(root / row.path, path.parent)
                line = {"file_name": name, "text": row.text}
                line |= {clear_of({"file_name", "text"}, field): value for field, value in (row.fields or {}).items()}
                file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def parquet(rows: RowFile, path: Path) -> None:
    """Write typed columns, in groups of rows.

    Raises:
        Failure: the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole = pa.string(), pa.int64()
    columns = {"path": text, "status": text, "text": text, "fields": text, "flags": pa.list_(text), "error_code": text}
    columns |= {"error": text, "finish_reason": text, "prompt_tokens": whole, "vision_tokens": whole, "output_tokens": whole}
    columns |= {"sha256": text, "size_bytes": whole, "model": text, "job": text, "request": text}
    schema = pa.schema(list(columns.items()))
    with moved_to(path, again=AGAIN) as other, pq.ParquetWriter(other, schema) as writer:
        for group in _groups(rows.read()):
            writer.write_table(pa.Table.from_pylist([_flat(row) for row in group], schema=schema))


def _flat(row: Row) -> dict[str, Any]:
    error = row.error or {}
    fields = None if row.fields is None else json.dumps(row.fields, ensure_ascii=False)
    own = {"error_code": error.get("code"), "error": error.get("message"), "fields": fields}
    path = row.path.encode("utf-8", "backslashreplace").decode()
    return {**row.__dict__, **row.usage, **own, "path": path}


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group = list[Row]()
    for row in rows:
        group.append(row)
        if len(group) >= GROUP:
            yield group
            group = []
    if group:
        yield group
