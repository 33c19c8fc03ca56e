"""``/openapi.json`` as generators of clients read it."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from api.main import create_app
from shared.settings import Settings


def described(**settings: Any) -> dict[str, Any]:
    told: dict[str, Any] = create_app(Settings(**settings)).openapi()
    return told


def operations(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method} {path}": operation
        for path, item in told["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post", "delete"}
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
