"""``/openapi.json`` as generators of clients read it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema_rs
import pytest

from api.main import create_app
from api.openai.response_request import ResponseRequest, to_chat
from shared.errors import InvalidRequest
from shared.settings import Settings


@cache
def described(**settings: Any) -> dict[str, Any]:
    told: dict[str, Any] = create_app(Settings(**settings)).openapi()
    return told


def operations(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method} {path}": operation
        for path, item in told["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post", "patch", "delete"}
    }


def test_names_are_short_public_and_unique() -> None:
    told = described()

    ids = Counter(operation["operationId"] for operation in operations(told).values())
    assert [name for name, count in ids.items() if count > 1] == []
    assert "create_job" in ids
    schemas = told["components"]["schemas"]
    assert not [name for name in schemas if name.startswith("_") or "__" in name or "_v1_" in name]
    titles = Counter(schema["title"] for schema in schemas.values())
    assert set(titles.values()) == {1}
    assert {"ResponseFormat", "ChatFormat"} <= schemas.keys()
    referenced = set(re.findall(r"#/components/schemas/([^\"]+)", json.dumps(told)))
    assert referenced <= schemas.keys()


def test_errors_are_one_schema() -> None:
    for name, operation in operations(described()).items():
        for answer in operation["responses"].values():
            for kind, content in answer.get("content", {}).items():
                assert kind != "application/problem+json" or content["schema"] == {"$ref": "#/components/schemas/Problem"}, name


@pytest.mark.parametrize("required", [True, False])
def test_it_says_where_a_key_is_asked_for(*, required: bool) -> None:
    told = described(require_keys=required)

    assert told["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    for name, operation in operations(told).items():
        keyed = "/v1/" in name
        wanted = [{"apiKey": []}] if required else [{}, {"apiKey": []}]
        assert operation.get("security") == (wanted if keyed else None), name


def answers_of(told: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what is described of each answer that is no error."""
    for name, operation in operations(told).items():
        yield from ((f"{name} {code}", answer) for code, answer in operation["responses"].items() if code.startswith("2"))


def test_every_answer_is_described() -> None:
    for name, answer in answers_of(described()):
        for kind, content in answer.get("content", {}).items():
            wanted = "$ref" if kind == "application/json" else "type"
            assert wanted in content["schema"], (name, kind)


def test_bodies_have_examples_that_fit_them() -> None:
    told = described()

    for name, operation in operations(told).items():
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            if kind == "application/json":
                ref = next(iter(re.findall(r"schemas/(\w+)", json.dumps(content["schema"]))))
                assert told["components"]["schemas"][ref].get("examples"), name
    for name, schema in told["components"]["schemas"].items():
        fits = jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": told["components"]})
        for example in schema.get("examples", ()):
            assert [error.message for error in fits.iter_errors(example)] == [], name
            assert not set(example) - set(schema["properties"]), name


PICTURE = {"type": "input_image", "image_url": "https://example.com/cat.jpg"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "file_under", "arguments": "{}"}
FUNCTION = {"type": "function", "name": "file_under", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"input": "Say a word."}, True),
        ({"input": [{"role": "user", "content": [PICTURE, {"type": "input_text", "text": "What?"}]}]}, True),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1", "detail": "low"}]}]}, True),
        ({"input": [CALL, {"type": "function_call_output", "call_id": "call_1", "output": "done"}]}, True),
        ({"input": "Say a word.", "tools": [FUNCTION], "tool_choice": {"type": "function", "name": "file_under"}}, True),
        ({"input": [{"role": "user", "content": 5}]}, False),
        ({"input": [{"role": "user", "content": [{"type": "input_audio", "data": "AAAA"}]}]}, False),
        ({"input": [{"type": "function_call_output", "call_id": "call_1", "output": 5}]}, False),
        ({"input": "Say a word.", "tools": [{"type": "function"}]}, False),
        ({"input": "Say a word.", "tool_choice": "any"}, False),
    ],
)
def test_a_response_s_request_is_described_down_to_its_parts(fields: dict[str, Any], *, fits: bool) -> None:
    told, body = described(), {"model": "qwen-vl", **fields}

    schema = {"$ref": "#/components/schemas/ResponseRequest", "components": told["components"]}
    assert jsonschema_rs.validator_for(schema).is_valid(body) == fits
    if fits:
        to_chat(ResponseRequest.model_validate(body))
    else:
        with pytest.raises(InvalidRequest):
            to_chat(ResponseRequest.model_validate(body))


def test_every_tag_is_described() -> None:
    told = described()

    used = {tag for operation in operations(told).values() for tag in operation["tags"]}
    assert used == {tag["name"] for tag in told["tags"]}


def test_a_generator_knows_that_an_upload_is_a_file() -> None:
    assert described()["components"]["schemas"]["FileUpload"]["properties"]["file"]["format"] == "binary"
