"""What was made or checked since this scene was opened: a mark that is never saved.

A calibration or registration that comes out of a file is complete, and yet nobody knows whether the marker is still on
the tool and the patient still on the table. So it has to be checked before it is used again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from slicer import vtkMRMLScene

from .nodes import first_node
from .records import read_record, write_record

_NAME = "Sacroplasty in use"
_DOUBT = "{key}: doubt"


def mark(scene: vtkMRMLScene, key: str, record: dict[str, Any]) -> None:
    """Note that this record may be used, until it changes or the scene is closed."""
    _note(scene, key, _digest(record))


def is_marked(scene: vtkMRMLScene, key: str, record: dict[str, Any]) -> bool:
    """Whether this very record may be used."""
    return _notes(scene).get(key) == _digest(record)


def doubt(scene: vtkMRMLScene, key: str, reason: str) -> None:
    """Note why what is called so, and whatever is made in its place, needs a check; an empty reason ends the doubt."""
    if reason != doubt_about(scene, key):
        _note(scene, _DOUBT.format(key=key), reason)


def doubt_about(scene: vtkMRMLScene, key: str) -> str:
    """Why a check is needed, in words; empty when nobody doubts."""
    return _notes(scene).get(_DOUBT.format(key=key), "")


def _notes(scene: vtkMRMLScene) -> dict[str, str]:
    return read_record(scene, _NAME) or {}


def _note(scene: vtkMRMLScene, key: str, text: str) -> None:
    write_record(scene, _NAME, {**_notes(scene), key: text})
    node = first_node(scene, "vtkMRMLTextNode", _NAME)
    if node is not None:
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
