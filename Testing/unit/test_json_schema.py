"""The validator of documents, beside an independent one."""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

import fastjsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.json_schema import problem_of

SCHEMAS = {
    file.name: json.loads(file.read_text(encoding="utf-8"))
    for file in resources.files("sacroplasty").joinpath("schemas").iterdir()
    if file.name.endswith(".schema.json")
}
JUDGES = {name: fastjsonschema.compile(schema) for name, schema in SCHEMAS.items()}
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.text("aé0", max_size=3), st.just("0" * 64)
)
ANY = st.recursive(PLAIN, lambda item: st.lists(item, max_size=4) | st.dictionaries(st.text("ab", max_size=2), item))


def refused_by_the_other(name: str, document: Any) -> bool:
    try:
        JUDGES[name](copy.deepcopy(document))
    except fastjsonschema.JsonSchemaValueException:
        return True
    return False


def example(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Some value that a schema accepts."""
    if "$ref" in schema:
        return example(root["definitions"][schema["$ref"].rpartition("/")[2]], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return example(schema["anyOf"][0], root)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {key: example(item, root) for key, item in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {}), root) for _ in range(schema.get("minItems", 1))]
    if kind == "string":
        return "0" * 64
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return max(schema.get("minimum", 1), 1) if schema.get("maximum", 1) >= 1 else schema["maximum"]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def put(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = put(value[path[0]], path[1:], new)
    return changed


@pytest.mark.parametrize("name", sorted(SCHEMAS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_both_validators_refuse_and_accept_the_same_documents(name: str, data: st.DataObject) -> None:
    document = example(SCHEMAS[name], SCHEMAS[name])
    for _ in range(data.draw(st.integers(0, 2))):
        document = put(document, data.draw(st.sampled_from(places(document))), data.draw(ANY))
    assert bool(problem_of(document, SCHEMAS[name])) == refused_by_the_other(name, document), document


@pytest.mark.parametrize(
    ("value", "schema", "words"),
    [
        ({"a": {"b": "x"}}, {"properties": {"a": {"properties": {"b": {"type": "number"}}}}}, "a.b must be number"),
        ({"a": [1, -1]}, {"properties": {"a": {"items": {"minimum": 0}}}}, r"a\[1\] must be at least 0"),
        ([], {"type": "object"}, "the document must be object"),
        ({}, {"required": ["side"]}, "the document must contain side"),
        ({"depth": float("nan")}, {"properties": {"depth": {"minimum": 0}}}, "depth must be at least 0"),
    ],
)
def test_the_place_is_named(value: Any, schema: dict[str, Any], words: str) -> None:
    import re

    assert re.search(words, problem_of(value, schema) or "")


def test_a_keyword_that_is_not_known_is_no_silent_yes() -> None:
    with pytest.raises(ValueError, match="dependencies"):
        problem_of({}, {"dependencies": {}})
