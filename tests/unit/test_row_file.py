"""A file of rows drops what a kill tore, and leaves a file that is somebody else's as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.describe.row import Row
from sightline.describe.row_codecs import Codec, Csv, Jsonl
from sightline.describe.row_file import RowFile
from sightline.screen import Failure

CODECS = pytest.mark.parametrize("codec", [Jsonl(), Csv([])], ids=["jsonl", "csv"])


@CODECS
@pytest.mark.parametrize(
    "content",
    [b"image,caption\n1,last line without an end", b"one line", b'{"image": 1}\n{"image": 2}', b'[1]\n"x', b"\xff\n\xfe"],
)
def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path, codec: Codec, content: bytes) -> None:
    path = tmp_path / "theirs"
    path.write_bytes(content)

    with pytest.raises(Failure, match="holds something else"):
        RowFile(path, codec)

    assert path.read_bytes() == content


@CODECS
def test_rows_torn_at_any_byte_leave_the_whole_ones(tmp_path: Path, codec: Codec) -> None:
    path = tmp_path / "ours"
    rows = [Row('猫\n"1".png', "succeeded", "一只猫\n", sha256="1"), Row("2.png", error={"code": "file", "message": "x"})]
    file = RowFile(path, codec)
    for row in rows:
        file.append(row)
    file.close()
    whole = path.read_bytes()

    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        file = RowFile(path, codec)
        left = [row.path for row in file.read()]
        file.close()
        assert left == [row.path for row in rows][: len(left)]
    assert len(left) == len(rows)
