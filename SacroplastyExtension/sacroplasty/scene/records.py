"""JSON records of a case in text nodes: what nodes cannot hold, so that a saved scene restores all of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from slicer import vtkMRMLScene

from ..errors import DocumentError
from .nodes import add_text, first_node


def write_record(scene: vtkMRMLScene, name: str, record: dict[str, Any]) -> None:
    """Store the record under this name, in place of an older one.

    Arrays become lists. A number that is not finite has no place in JSON: say None.
    """
    text = json.dumps(record, default=_plain, allow_nan=False, ensure_ascii=False)
    node = first_node(scene, "vtkMRMLTextNode", name)
    if node is None:
        add_text(scene, text, name)
    else:
        node.SetText(text)


def read_record(scene: vtkMRMLScene, name: str) -> dict[str, Any] | None:
    """The record of this name, or None when the scene has none.

    Raises:
        DocumentError: when the text was changed into something that is no record.
    """
    node = first_node(scene, "vtkMRMLTextNode", name)
    if node is None or not node.GetText():
        return None
    try:
        record = json.loads(node.GetText())
    except ValueError as error:
        raise DocumentError(f"the text {name!r} of the scene is damaged ({error}); make it again") from error
    if not isinstance(record, dict):
        raise DocumentError(f"the text {name!r} of the scene holds no record; make it again")
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a record")
