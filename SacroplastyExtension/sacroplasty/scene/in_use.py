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


def mark(scene: vtkMRMLScene, key: str, record: dict[str, Any]) -> None:
    """Note that this record may be used, until it changes or the scene is closed."""
    write_record(scene, _NAME, {**(read_record(scene, _NAME) or {}), key: _digest(record)})
    node = first_node(scene, "vtkMRMLTextNode", _NAME)
    if node is not None:
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)


def is_marked(scene: vtkMRMLScene, key: str, record: dict[str, Any]) -> bool:
    """Whether this very record may be used."""
    return (read_record(scene, _NAME) or {}).get(key) == _digest(record)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
