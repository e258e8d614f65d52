"""JSON documents that say what they are: `schema` (name and version), checked against a schema in this package.

A schema file `schemas/NAME.schema.json` is JSON Schema draft 7. Its documents carry
``"schema": {"name": NAME, "version": N}``.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DocumentError
from .files import atomic_file
from .json_schema import problem_of


def write_document(path: Path, name: str, content: dict[str, Any]) -> None:
    """Write `content` as a document of the named kind, validated first, whole or not at all.

    Raises:
        DocumentError: when the content is not what the schema asks for.
    """
    document = {"schema": {"name": name, "version": newest_version(name)}, **_plain(content)}
    _validate(document, name, str(path))
    with atomic_file(path) as draft:
        draft.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_document(path: Path, name: str) -> dict[str, Any]:
    """Read and validate a document of the named kind.

    Raises:
        DocumentError: for a file that cannot be read, is of another kind or comes from a newer version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path} is not a JSON file; it is no UTF-8 text") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DocumentError(f"{path} is not a JSON file ({error}); is it whole?") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, dict) or schema.get("name") != name:
        found = schema.get("name") if isinstance(schema, dict) else "nothing"
        raise DocumentError(f"{path} is no {name} document (its schema names {found!r})")
    version, newest = schema.get("version"), newest_version(name)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DocumentError(f"{path}: the schema version must be a whole number from 1, not {version!r}")
    if version > newest:
        raise DocumentError(f"{path} has {name} version {version}; this program reads up to {newest}: update it")
    _validate(document, name, str(path))
    return document


def newest_version(name: str) -> int:
    """The version of the named schema that this package writes."""
    return int(_schema(name)["properties"]["schema"]["properties"]["version"]["maximum"])


@cache
def _schema(name: str) -> dict[str, Any]:
    file = resources.files("sacroplasty").joinpath("schemas", f"{name}.schema.json")
    return json.loads(file.read_text(encoding="utf-8"))


def _validate(document: dict[str, Any], name: str, where: str) -> None:
    problem = problem_of(document, _schema(name))
    if problem:
        raise DocumentError(f"{where}: {problem}")


def _plain(value: Any) -> Any:
    """Arrays and numpy numbers as plain JSON values; NaN is refused by the writer."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value
