"""A small JSON Schema validator: the part of draft 7 that the schemas of this package use.

3D Slicer brings no validator, and a plan must be written in an operating room without a network to install one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
}
_ANNOTATIONS = {"$schema", "definitions", "description", "title"}
_KNOWN = _ANNOTATIONS | {
    *("$ref", "type", "const", "enum", "anyOf", "properties", "required", "additionalProperties", "propertyNames"),
    *("items", "minItems", "maxItems", "uniqueItems", "minLength", "pattern"),
    *("minimum", "maximum", "exclusiveMinimum"),
}


def problem_of(value: Any, schema: dict[str, Any]) -> str | None:
    """The first thing that is wrong with a parsed JSON value, in words that name the place; None when nothing is.

    Raises:
        ValueError: for a schema with a keyword that is not known here.
    """
    return _problem(value, schema, schema, "")


def _problem(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str) -> str | None:
    unknown = schema.keys() - _KNOWN
    if unknown:
        raise ValueError(f"this validator does not know {', '.join(sorted(unknown))}")
    if "$ref" in schema:
        # In draft 7 whatever stands beside a reference is ignored.
        return _problem(value, root["definitions"][schema["$ref"].removeprefix("#/definitions/")], root, where)
    name = where or "the document"
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_TYPES[kind](value) for kind in types):
            return f"{name} must be {' or '.join(types)}"
    if "const" in schema and not _equal(value, schema["const"]):
        return f"{name} must be {json.dumps(schema['const'])}"
    if "enum" in schema and not any(_equal(value, choice) for choice in schema["enum"]):
        return f"{name} must be one of {', '.join(map(json.dumps, schema['enum']))}"
    if "anyOf" in schema and all(_problem(value, choice, root, where) for choice in schema["anyOf"]):
        return f"{name} is none of what it may be: {_problem(value, schema['anyOf'][0], root, where)}"
    if isinstance(value, dict):
        return _object_problem(value, schema, root, where)
    if isinstance(value, list):
        return _array_problem(value, schema, root, where)
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            return f"{name} must have at least {schema['minLength']} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return f"{name} must match {schema['pattern']}"
    elif _TYPES["number"](value):
        # Written so that NaN, which compares with nothing, is refused.
        if "minimum" in schema and not value >= schema["minimum"]:
            return f"{name} must be at least {schema['minimum']}"
        if "maximum" in schema and not value <= schema["maximum"]:
            return f"{name} must be at most {schema['maximum']}"
        if "exclusiveMinimum" in schema and not value > schema["exclusiveMinimum"]:
            return f"{name} must be more than {schema['exclusiveMinimum']}"
    return None


def _object_problem(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> str | None:
    missing = [key for key in schema.get("required", []) if key not in value]
    if missing:
        return f"{where or 'the document'} must contain {', '.join(missing)}"
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in value.items():
        place = f"{where}.{key}" if where else key
        if "propertyNames" in schema:
            problem = _problem(key, schema["propertyNames"], root, f"the name {place}")
            if problem:
                return problem
        if key not in properties and others is False:
            return f"{where or 'the document'} must not contain {key}"
        problem = _problem(item, properties.get(key, others if isinstance(others, dict) else {}), root, place)
        if problem:
            return problem
    return None


def _array_problem(value: list[Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> str | None:
    name = where or "the document"
    if len(value) < schema.get("minItems", 0):
        return f"{name} must contain at least {schema['minItems']} items"
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        return f"{name} must contain at most {schema['maxItems']} items"
    if schema.get("uniqueItems") and any(_equal(a, b) for i, a in enumerate(value) for b in value[:i]):
        return f"{name} must contain each item only once"
    for number, item in enumerate(value):
        problem = _problem(item, schema.get("items", {}), root, f"{where}[{number}]")
        if problem:
            return problem
    return None


def _equal(a: Any, b: Any) -> bool:
    """Equality of JSON: true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
