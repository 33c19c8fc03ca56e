"""JSON with files in it: they are passed over when the rest is looked at, and hide nothing."""

from __future__ import annotations

import json

import pytest

from api import json_body
from api.json_body import LONG_FILE, read_json
from shared.errors import InvalidRequest

FILE = '"data:image/png;base64,' + "A" * (2 * LONG_FILE) + '"'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (f'{{"images": [{FILE}], "prompt": "x", "prompt": "y"}}', "'prompt' stands twice"),
        (f'{{"prompt": "x", "images": [{FILE}, {FILE}], "prompt": "y"}}', "'prompt' stands twice"),
        (f'{{"images": [{FILE[:-1]}\\u0000"]}}', "NUL"),
        (f'{{"images": [{FILE}], "prompt": "\\u0000"}}', "NUL"),
        (f'{{"images": [{FILE}], "temperature": 1e999}}', "not finite"),
        (f'{{"images": [{FILE}, "\\ud800"]}}', "half a surrogate pair"),
        (f'{{"images": [{FILE[:-1]}\\ud800"]}}', "half a surrogate pair"),
    ],
)
def test_a_file_hides_nothing_of_what_is_refused(body, told):
    with pytest.raises(InvalidRequest, match=told):
        read_json(body.encode())


@pytest.mark.parametrize(
    "text", [";base64," * LONG_FILE, ';base64,"' * LONG_FILE, "x;base64," + "图" * LONG_FILE + '\\"', FILE * 3]
)
def test_a_text_that_looks_like_a_file_comes_as_it_is(text):
    body = {"prompt": text, "more": ["after", {text: 1.5}]}
    for ascii_only in (True, False):
        assert read_json(json.dumps(body, ensure_ascii=ascii_only).encode()) == body


def test_the_second_look_reads_no_file(monkeypatch):
    looked_at = []
    monkeypatch.setattr(json_body.json, "loads", lambda data, **_: looked_at.append(data))
    json_body.check_json(f'{{"images": [{FILE}, {FILE}], "prompt": "x"}}'.encode())
    assert looked_at == [b'{"images": ["data:image/png", "data:image/png"], "prompt": "x"}']
