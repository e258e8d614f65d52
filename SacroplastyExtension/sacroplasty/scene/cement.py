"""What a scene records of the cement of its case: volumes by side and depot, whether it was stopped, its age."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from slicer import vtkMRMLScene

from ..errors import PlanError
from ..planning.model import Side
from .records import read_record, write_record
from .workflow import write_step

RECORD_NAME = "Sacroplasty cement"


def show_injections(scene: vtkMRMLScene, given: Mapping[Side, float], stopped: str) -> None:
    """Record the cement given by side, and why it was stopped (empty when it was not)."""
    volumes = {side: given.get(side, 0.0) for side in get_args(Side)}
    write_record(scene, RECORD_NAME, {"mixed_at_unix_s": None, "given_ml": volumes, "stopped": bool(stopped)})
    write_step(scene, "injection", not stopped, [text for text in (stopped, given_text(scene)) if text])


def record_withdrawal(scene: vtkMRMLScene, without_tail: bool) -> None:
    """Record that the trocar is out, and whether it drew no tail of cement behind it.

    Raises:
        PlanError: when no cement was given, so that there is nothing to leave a tail.
    """
    if not given_ml(scene):
        raise PlanError("no cement was given yet; the withdrawal is recorded after the injection")
    text = "no cement tail" if without_tail else "a tail of cement is left behind: look at it on the CT"
    write_step(scene, "withdrawal", without_tail, [text])


def given_ml(scene: vtkMRMLScene) -> dict[Side, float]:
    """Cement given by side; sides without any are left out."""
    given: Mapping[str, float] = (read_record(scene, RECORD_NAME) or {}).get("given_ml", {})
    return {side: float(given[side]) for side in get_args(Side) if given.get(side, 0.0) > 0}


def given_text(scene: vtkMRMLScene) -> str:
    """Cement given, in a line."""
    given = given_ml(scene)
    return ", ".join(f"{volume:.1f} mL {side}" for side, volume in given.items()) if given else "none given"


def was_stopped(scene: vtkMRMLScene) -> bool:
    """Whether an injection of this case was ever stopped."""
    return bool((read_record(scene, RECORD_NAME) or {}).get("stopped", False))
