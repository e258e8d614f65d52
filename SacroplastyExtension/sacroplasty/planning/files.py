"""The plan as a record and as a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import read_document, write_document
from ..errors import PlanError
from .model import Accuracy, Balloon, Biopsy, Depot, Plan, Trajectory, VolumeOverride
from .needles import Needle

_POINTS = ("entry_skin", "entry_bone", "target")


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan as plain values and arrays, as it stands in documents and in the scene."""
    return {"coordinateSystem": "RAS", **asdict(plan)}


def plan_from_record(record: Mapping[str, Any]) -> Plan:
    """The plan of a record that `plan_record` made."""
    accuracy = record["accuracy"]
    return Plan(
        trajectories=tuple(_trajectory(item) for item in record["trajectories"]),
        image_hash=record["image_hash"],
        blocked={side: tuple(reasons) for side, reasons in record["blocked"].items()},
        confirmed=tuple(record["confirmed"]),
        notes=tuple(record["notes"]),
        technique=record["technique"],
        needle=None if record["needle"] is None else Needle(**record["needle"]),
        margin_mm=record["margin_mm"],
        preferred_margin_mm=record["preferred_margin_mm"],
        accuracy=None if accuracy is None else Accuracy(**accuracy),
        overrides=tuple(VolumeOverride(**item) for item in record["overrides"]),
        frame_of_reference=record["frame_of_reference"],
    )


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan, whole or not at all."""
    write_document(Path(path), "plan", plan_record(plan))


def read_plan(path: Path, image_hash: str | None = None, frame_of_reference: str | None = None) -> Plan:
    """Read a plan.

    Args:
        image_hash: `Volume.content_hash` of the CT that is loaded, to refuse another patient's plan.
        frame_of_reference: DICOM frame of reference UID of that CT, where it has one.

    Raises:
        DocumentError: for a file that is no plan.
        PlanError: for a plan of another CT.
    """
    plan = plan_from_record(read_document(Path(path), "plan"))
    check_same_image(plan, image_hash, frame_of_reference, str(path))
    return plan


def check_same_image(plan: Plan, image_hash: str | None, frame_of_reference: str | None, where: str) -> None:
    """Refuse a plan that was made on another image; what is None is not compared.

    Raises:
        PlanError: naming what differs.
    """
    if image_hash is not None and plan.image_hash != image_hash:
        raise PlanError(f"{where} was planned on another CT; plan on this one, or load the CT that it belongs to")
    planned, loaded = plan.frame_of_reference, frame_of_reference
    if planned is not None and loaded is not None and planned != loaded:
        raise PlanError(
            f"{where} was planned in another DICOM frame of reference ({planned}, here {loaded}): another patient or "
            "another scan; load the CT that it belongs to"
        )


def _trajectory(record: Mapping[str, Any]) -> Trajectory:
    fields = dict(record)
    fields |= {name: np.array(record[name], float) for name in _POINTS}
    fields |= {name: tuple(record[name]) for name in ("reasons", "cautions", "merits")}
    fields["needle"] = Needle(**record["needle"])
    fields["depots"] = tuple(
        Depot(np.array(item["position_ras"], float), item["volume_ml"], item["note"]) for item in record["depots"]
    )
    for name, kind in (("biopsy", Biopsy), ("balloon", Balloon)):
        if record[name] is not None:
            ends = {end: np.array(record[name][end], float) for end in ("start_ras", "end_ras")}
            fields[name] = kind(**{**record[name], **ends})
    return Trajectory(**fields)
