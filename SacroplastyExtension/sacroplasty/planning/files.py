"""The plan document."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..documents import read_document, write_document
from ..errors import PlanError
from .model import Plan, Trajectory

_POINTS = ("entry_skin", "entry_bone", "target")


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan, whole or not at all."""
    trajectories = [
        {name: getattr(item, name) for name in Trajectory.__dataclass_fields__} for item in plan.trajectories
    ]
    content = {
        "coordinateSystem": "RAS",
        "image_hash": plan.image_hash,
        "blocked": plan.blocked,
        "confirmed": plan.confirmed,
        "notes": plan.notes,
        "trajectories": trajectories,
    }
    write_document(Path(path), "plan", content)


def read_plan(path: Path, image_hash: str | None = None) -> Plan:
    """Read a plan.

    Args:
        image_hash: `Volume.content_hash` of the CT that is loaded, to refuse another patient's plan.

    Raises:
        DocumentError: for a file that is no plan.
        PlanError: for a plan of another CT.
    """
    record = read_document(Path(path), "plan")
    if image_hash is not None and record["image_hash"] != image_hash:
        raise PlanError(f"{path} was planned on another CT; plan on this one, or load the CT that it belongs to")
    trajectories = []
    for entry in record["trajectories"]:
        fields = {name: entry[name] for name in Trajectory.__dataclass_fields__}
        fields |= {name: np.array(entry[name], float) for name in _POINTS}
        fields["reasons"] = tuple(entry["reasons"])
        trajectories.append(Trajectory(**fields))
    blocked = {side: tuple(reasons) for side, reasons in record.get("blocked", {}).items()}
    confirmed, notes = (tuple(record.get(name, ())) for name in ("confirmed", "notes"))
    return Plan(tuple(trajectories), record["image_hash"], blocked, confirmed, notes)
