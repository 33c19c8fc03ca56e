"""What pydantic finds wrong with a request, in words for those who sent it. Pure."""

from __future__ import annotations

import difflib
from typing import Any

from api.content import NoReference, PartRefused
from shared.errors import BadMediaReference, InvalidRequest

#: pydantic's kinds of error and what they ask for; its context fills the gaps.
_WANTED = {
    "missing": "is missing",
    "string_type": "should be a text",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "int_parsing_size": "should be a smaller number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "finite_number": "should be a finite number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "list_type": "should be a list",
    "dict_type": "should be an object",
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "none_required": "should be left out",
    "literal_error": "should be {expected}",
    "enum": "should be {expected}",
    "union_tag_invalid": "should have the {discriminator} {expected_tags}",
    "union_tag_not_found": "should say its {discriminator}",
    "greater_than": "should be more than {gt}",
    "greater_than_equal": "should be at least {ge}",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be at most {le}",
    "too_short": "should have at least {min_length}, and has {actual_length}",
    "too_long": "should have at most {max_length}, and has {actual_length}",
    "string_too_short": "should have at least {min_length} characters",
    "string_too_long": "should have at most {max_length} characters",
    "string_pattern_mismatch": "should be of the form {pattern}",
    "multiple_of": "should be a multiple of {multiple_of}",
    "invalid_key": "has a name that is no text",
    "json_type": "should be JSON",
    "extra_forbidden": "there is no such field",
    "url_parsing": "should be an address",
    "recursion_loop": "is nested in itself",
}
#: Kinds after which the value itself helps: it is one word or number.
_SHOWS_VALUE = frozenset(
    {
        *("literal_error", "enum", "greater_than", "greater_than_equal", "less_than", "less_than_equal", "int_from_float"),
        *("int_parsing", "float_parsing", "bool_parsing", "multiple_of"),
    }
)
#: Kinds after which it helps to say what was found instead.
_SHOWS_TYPE = frozenset(
    {
        *("string_type", "int_type", "float_type", "bool_type", "list_type", "dict_type", "model_type"),
        *("model_attributes_type", "none_required"),
    }
)
_TYPES = ((bool, "true or false"), (str, "a text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"))
MAX_SHOWN = 40  #: characters of a value that an error shows


def from_validation(errors: list[Any]) -> InvalidRequest:
    """Turn pydantic's list into one error that names the first field at fault, what was found and what is wanted."""
    first = next((error for error in errors if error["loc"][-1:] != ("str",)), errors[0])
    path, reason = _path(first["loc"]), _reason(first)
    cause = (first.get("ctx") or {}).get("error")
    if isinstance(cause, PartRefused):
        path = f"{path}.{cause.field}".rstrip(".")
        if isinstance(cause, NoReference):
            return BadMediaReference(reason, param=path)
    return InvalidRequest(f"{path}: {reason}" if path else f"the body {reason}", param=path or None)


def _reason(error: Any) -> str:
    kind, found = error["type"], error.get("input")
    if kind in {"value_error", "assertion_error"}:
        return str(error["ctx"]["error"])
    gaps = {name: _plain(value) for name, value in (error.get("ctx") or {}).items()}
    wanted = _WANTED.get(kind, "is not valid").format_map(_Gaps(gaps))
    if kind in _SHOWS_VALUE and isinstance(found, str | int | float):
        return f"{wanted}, not {_plain(found)!r:.{MAX_SHOWN}}"
    if kind in _SHOWS_TYPE:
        return f"{wanted}, not {_name(found)}"
    return wanted


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Gaps(dict[str, object]):
    def __missing__(self, name: str) -> str:
        return name


def _name(value: object) -> str:
    if value is None:
        return "null"
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "that")


def nearest(name: str, known: Any) -> str:
    """Give a hint at the field that was meant, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; is {near[0]} meant?" if near else ""


def _path(loc: tuple[str | int, ...]) -> str:
    """Give the way to a field as the client wrote it: pydantic adds which kinds of content and of part it tried."""
    parts = [str(part) for part in loc if part not in {"body", "query", "path", "header"}]
    tried = [n for n, part in enumerate(parts) if part.startswith(("list[", "function-"))]
    tags = [n + 2 for n in tried if "tagged-union" in parts[n]]
    return ".".join(part for n, part in enumerate(parts) if n not in {*tried, *tags})
