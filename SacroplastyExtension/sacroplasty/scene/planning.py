"""Plans in the scene: a record of all trajectories, and a locked line for each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slicer import vtkMRMLMarkupsLineNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..errors import PlanError
from ..planning.files import plan_from_record, plan_record
from ..planning.model import Plan, Side, Trajectory
from .anatomy import readable
from .nodes import add_line, line_points, move_line
from .records import read_record, write_record
from .trocar_models import remove_models, show_cement, show_models

RECORD_NAME = "Sacroplasty plan"
#: On each line: which trajectory of the plan it shows.
_INDEX = "Sacroplasty.Trajectory"
_ACCEPTED_COLOR = (0.2, 0.8, 0.9)
_REFUSED_COLOR = (0.85, 0.2, 0.2)
#: A line is where it was planned when its ends are no farther off than this; files keep fewer digits than memory [mm].
_SAME_PLACE_MM = 0.1


@dataclass(frozen=True)
class TrajectoryRow:
    """A trajectory as the table of trajectories shows it.

    Attributes:
        is_chosen: its side is treated by it.
        is_moved: its line stands elsewhere than where it was checked, so nothing is known of that place.
        nearest: the structure with the smallest clearance.
        riskiest_breach: largest probability of entering a structure, or None where none was computed.
    """

    trajectory: Trajectory
    name: str
    is_chosen: bool
    is_moved: bool
    nearest: str
    nearest_mm: float
    riskiest_breach: float | None
    line: vtkMRMLMarkupsLineNode | None


def show_plan(scene: vtkMRMLScene, plan: Plan) -> None:
    """Show a plan in place of an older one. Only the best accepted line of each side is visible at first."""
    for old in plan_lines(scene).values():
        _remove_line(scene, old)
    update_plan(scene, plan, [None] * len(plan.trajectories))
    best = list(chosen(plan).values())
    for index, line in plan_lines(scene).items():
        set_visible(line, any(plan.trajectories[index] is one for one in best))


def update_plan(scene: vtkMRMLScene, plan: Plan, lines: Sequence[vtkMRMLMarkupsLineNode | None]) -> None:
    """Make the scene show a changed plan, whose lines keep what else refers to them.

    Args:
        lines: one for each trajectory, moved to it; None for a trajectory that has none yet. Others of the plan are
            removed.
    """
    kept = [line for line in lines if line is not None]
    for old in plan_lines(scene).values():
        if not any(old is line for line in kept):
            _remove_line(scene, old)
    for index, (trajectory, line) in enumerate(zip(plan.trajectories, lines, strict=True)):
        if line is None:
            line = add_line(scene, trajectory.entry_skin, trajectory.target, _new_name(scene, trajectory.side))
        elif not is_at(line, trajectory):
            move_line(line, trajectory.entry_skin, trajectory.target)
        line.SetAttribute(_INDEX, str(index))
        color = _ACCEPTED_COLOR if trajectory.accepted else _REFUSED_COLOR
        line.GetDisplayNode().SetSelectedColor(*color)
        line.GetDisplayNode().SetColor(*color)
        show_cement(line, trajectory.depots)
    write_record(scene, RECORD_NAME, plan_record(plan))


def plan_of(scene: vtkMRMLScene) -> Plan | None:
    """The plan that the scene holds, or None; one of an older version of the program is none, and is planned again."""
    record = read_record(scene, RECORD_NAME)
    try:
        return None if record is None else plan_from_record(record)
    except (KeyError, TypeError):
        return None


def trajectory_of(scene: vtkMRMLScene, line: vtkMRMLMarkupsLineNode | None) -> Trajectory:
    """What was checked for a line, wherever it was moved since.

    Raises:
        PlanError: when the line is none of the plan's.
    """
    plan = plan_of(scene)
    index = index_of(line)
    if plan is None or index is None or index >= len(plan.trajectories):
        raise PlanError("select a line of the plan; make one in the Planning module first")
    return plan.trajectories[index]


def chosen(plan: Plan) -> dict[Side, Trajectory]:
    """The trajectory by which each side is treated: its first accepted one; sides without any are left out."""
    best: dict[Side, Trajectory] = {}
    for trajectory in plan.trajectories:
        if trajectory.accepted:
            best.setdefault(trajectory.side, trajectory)
    return best


def trajectory_rows(scene: vtkMRMLScene) -> list[TrajectoryRow]:
    """One row for each trajectory of the plan, in its order."""
    plan = plan_of(scene)
    if plan is None:
        return []
    lines, best = plan_lines(scene), list(chosen(plan).values())
    rows = []
    for index, trajectory in enumerate(plan.trajectories):
        line = lines.get(index)
        nearest = min(trajectory.clearance_mm, key=trajectory.clearance_mm.__getitem__, default="")
        rows.append(
            TrajectoryRow(
                trajectory=trajectory,
                name="" if line is None else line.GetName(),
                is_chosen=any(trajectory is one for one in best),
                is_moved=line is not None and not is_at(line, trajectory),
                nearest=nearest,
                nearest_mm=trajectory.clearance_mm.get(nearest, float("nan")),
                riskiest_breach=max(trajectory.breach_probability.values(), default=None),
                line=line,
            )
        )
    return rows


def moved_lines(scene: vtkMRMLScene) -> list[int]:
    """Numbers of the trajectories whose lines were moved since they were checked."""
    return [number for number, row in enumerate(trajectory_rows(scene)) if row.is_moved]


def plan_lines(scene: vtkMRMLScene) -> dict[int, vtkMRMLMarkupsLineNode]:
    """Lines of the plan by the number of their trajectory."""
    found = {}
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLMarkupsLineNode")
        index = index_of(node)
        if index is not None:
            found[index] = node
    return found


def index_of(line: vtkMRMLMarkupsLineNode | None) -> int | None:
    """Number of the trajectory that a line shows; None for a line that is none of the plan's."""
    index = line.GetAttribute(_INDEX) if line is not None else None
    return None if index is None else int(index)


def in_words(text: str, trajectory: Trajectory) -> str:
    """A sentence of the engine with the names of structures as a person reads them."""
    names = sorted(trajectory.clearance_mm, key=len, reverse=True)
    return re.sub("|".join(names), lambda found: readable(found.group()), text) if names else text


def is_at(line: vtkMRMLMarkupsLineNode, trajectory: Trajectory) -> bool:
    """Whether a line stands where its trajectory was checked."""
    if line.GetNumberOfDefinedControlPoints() < 2:
        return False
    ends = zip(line_points(line), (trajectory.entry_skin, trajectory.target), strict=True)
    return all(float(np.linalg.norm(now - planned)) <= _SAME_PLACE_MM for now, planned in ends)


def clearance_key(segmentation: vtkMRMLSegmentationNode, ct_node: vtkMRMLScalarVolumeNode) -> tuple[object, ...]:
    """Changes whenever distances that were computed on these nodes may no longer hold: a segment was corrected, ..."""
    segments = segmentation.GetSegmentation()
    edited = []
    for number in range(segments.GetNumberOfSegments()):
        voxels = segments.GetNthSegment(number).GetRepresentation("Binary labelmap")
        edited.append(0 if voxels is None else voxels.GetMTime())
    image = ct_node.GetImageData()
    return segmentation.GetID(), tuple(edited), ct_node.GetID(), 0 if image is None else image.GetMTime()


def set_visible(line: vtkMRMLMarkupsLineNode, visible: bool, margin: bool = False, cement: bool = True) -> None:
    """Show or hide a line with its shaft; where it is shown, its safety margin and its cement on their own."""
    line.SetDisplayVisibility(visible)
    show_models(line, visible, margin, cement)


def _remove_line(scene: vtkMRMLScene, line: vtkMRMLMarkupsLineNode) -> None:
    remove_models(line)
    scene.RemoveNode(line)


def _new_name(scene: vtkMRMLScene, side: Side) -> str:
    """`Plan left 3`: names stay with their lines, whatever the order becomes."""
    taken = {line.GetName() for line in plan_lines(scene).values()}
    number = 1
    while f"Plan {side} {number}" in taken:
        number += 1
    return f"Plan {side} {number}"
