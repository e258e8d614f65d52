"""Plans in the scene: a locked line for each trajectory, a record of all of them, and clearance of a moved line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slicer import vtkMRMLMarkupsLineNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..errors import PlanError
from ..planning.files import plan_from_record, plan_record
from ..planning.model import Plan, Side, Technique, Trajectory
from .anatomy import anatomy_of
from .nodes import add_line, line_points, volume_of
from .records import read_record, write_record

RECORD_NAME = "Sacroplasty plan"
#: On each line: which trajectory of the plan it shows.
_INDEX = "Sacroplasty.Trajectory"
_ACCEPTED_COLOR = (0.2, 0.8, 0.9)
_REFUSED_COLOR = (0.85, 0.2, 0.2)


@dataclass(frozen=True)
class TrajectoryRow:
    """What the table of trajectories shows.

    `clearance_mm` is that of the planned place, nearest first; `nearest` is the structure with the smallest clearance.
    """

    side: Side
    accepted: bool
    nearest: str
    nearest_mm: float
    length_mm: float
    planned_volume_ml: float
    reasons: tuple[str, ...]
    clearance_mm: dict[str, float]
    line: vtkMRMLMarkupsLineNode | None


def plan(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    segmentation: vtkMRMLSegmentationNode,
    sides: Sequence[Side],
    technique: Technique,
    gauge: int,
    margin_mm: float,
    progress: Callable[[float], None] | None = None,
) -> Plan:
    """Search trajectories and show them, in place of an older plan.

    Raises:
        PlanError: when nothing can be searched; a plan without an accepted trajectory is no error but says why.
    """
    from ..planning.context import PlanningContext
    from ..planning.needles import needle
    from ..planning.options import PlanOptions
    from ..planning.search import plan_trajectories

    if not sides:
        raise PlanError("choose at least one side to plan")
    options = PlanOptions(technique, needle(gauge), margin_mm, max(margin_mm, PlanOptions.preferred_margin_mm))
    context = PlanningContext(volume_of(ct_node), anatomy_of(scene, segmentation, ct_node))
    result = plan_trajectories(context, tuple(sides), options, progress)
    show_plan(scene, result)
    return result


def show_plan(scene: vtkMRMLScene, plan: Plan) -> None:
    """Show a plan in place of an older one. Only the best accepted line of each side is visible at first."""
    for old in _lines(scene).values():
        scene.RemoveNode(old)
    shown: set[str] = set()
    for index, trajectory in enumerate(plan.trajectories):
        best = trajectory.accepted and trajectory.side not in shown
        shown |= {trajectory.side} if best else set()
        line = add_line(
            scene,
            trajectory.entry_skin,
            trajectory.target,
            _line_name(plan, index),
            _ACCEPTED_COLOR if trajectory.accepted else _REFUSED_COLOR,
        )
        line.SetAttribute(_INDEX, str(index))
        line.SetDisplayVisibility(best)
    write_record(scene, RECORD_NAME, plan_record(plan))


def plan_of(scene: vtkMRMLScene) -> Plan | None:
    """The plan that the scene holds, or None."""
    record = read_record(scene, RECORD_NAME)
    return None if record is None else plan_from_record(record)


def trajectory_of(scene: vtkMRMLScene, line: vtkMRMLMarkupsLineNode | None) -> Trajectory:
    """What was planned for a line, wherever it was moved since.

    Raises:
        PlanError: when the line is none of the plan's.
    """
    plan = plan_of(scene)
    index = line.GetAttribute(_INDEX) if line is not None else None
    if plan is None or index is None or int(index) >= len(plan.trajectories):
        raise PlanError("select a line of the plan; make one in the Planning module first")
    return plan.trajectories[int(index)]


def chosen(plan: Plan) -> dict[Side, Trajectory]:
    """The best accepted trajectory of each side that has one."""
    best: dict[Side, Trajectory] = {}
    for trajectory in plan.trajectories:
        if trajectory.accepted:
            best.setdefault(trajectory.side, trajectory)
    return best


def trajectory_rows(scene: vtkMRMLScene) -> list[TrajectoryRow]:
    """One row for each trajectory of the plan, in its order."""
    plan = plan_of(scene)
    lines = _lines(scene)
    rows = []
    for index, trajectory in enumerate(plan.trajectories if plan else ()):
        clearance_mm = dict(sorted(trajectory.clearance_mm.items(), key=lambda item: item[1]))
        nearest = next(iter(clearance_mm), "")
        rows.append(
            TrajectoryRow(
                side=trajectory.side,
                accepted=trajectory.accepted,
                nearest=nearest,
                nearest_mm=clearance_mm.get(nearest, float("nan")),
                length_mm=trajectory.length_mm,
                planned_volume_ml=trajectory.planned_volume_ml,
                reasons=trajectory.reasons,
                clearance_mm=clearance_mm,
                line=lines.get(index),
            )
        )
    return rows


def select_line(scene: vtkMRMLScene, index: int, movable: bool = False) -> vtkMRMLMarkupsLineNode | None:
    """Show one trajectory alone on its side; it can be dragged when `movable`, all others are locked."""
    plan, lines = plan_of(scene), _lines(scene)
    if plan is None or index not in lines:
        return None
    side = plan.trajectories[index].side
    for number, line in lines.items():
        line.SetLocked(not (movable and number == index))
        if plan.trajectories[number].side == side:
            line.SetDisplayVisibility(number == index)
    return lines[index]


def is_moved(scene: vtkMRMLScene, index: int, tolerance_mm: float = 0.1) -> bool:
    """Whether a person has moved this line away from its planned place."""
    plan, line = plan_of(scene), _lines(scene).get(index)
    if plan is None or line is None:
        return False
    planned = plan.trajectories[index]
    now = line_points(line)
    return any(
        float(np.linalg.norm(a - b)) > tolerance_mm
        for a, b in zip(now, (planned.entry_skin, planned.target), strict=True)
    )


class LineClearance:
    """Clearance of a line that a person drags, quick enough to follow the mouse.

    Distance fields are computed once, when this is made, and can be shared with guidance as `shaft`.
    """

    def __init__(
        self,
        scene: vtkMRMLScene,
        segmentation: vtkMRMLSegmentationNode,
        ct_node: vtkMRMLScalarVolumeNode,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        from ..navigation.clearance import ShaftClearance

        tell = progress or (lambda fraction: None)
        self.shaft = ShaftClearance.of_anatomy(anatomy_of(scene, segmentation, ct_node), tell)

    def of(self, line: vtkMRMLMarkupsLineNode, outer_diameter_mm: float) -> dict[str, float]:
        """Distance in mm of the shaft's surface to each protected structure, nearest first; negative inside it."""
        start, end = line_points(line)
        clearance = self.shaft.distances_mm(end, start, outer_diameter_mm)
        return dict(sorted(clearance.items(), key=lambda item: item[1]))


def clearance_key(segmentation: vtkMRMLSegmentationNode, ct_node: vtkMRMLScalarVolumeNode) -> tuple[object, ...]:
    """Changes whenever distances that were computed on these nodes may no longer hold: a segment was corrected, ..."""
    segments = segmentation.GetSegmentation()
    edited = []
    for number in range(segments.GetNumberOfSegments()):
        voxels = segments.GetNthSegment(number).GetRepresentation("Binary labelmap")
        edited.append(0 if voxels is None else voxels.GetMTime())
    return segmentation.GetID(), tuple(edited), ct_node.GetID(), ct_node.GetImageData().GetMTime()


def export_plan(scene: vtkMRMLScene, path: Path) -> None:
    """Write the plan as a plan document.

    Raises:
        PlanError: when there is no plan, or a line was moved so that its recorded clearance no longer holds.
    """
    from ..planning.files import write_plan

    plan = plan_of(scene)
    if plan is None:
        raise PlanError("there is no plan to export; press Plan first")
    moved = [number for number in range(len(plan.trajectories)) if is_moved(scene, number)]
    if moved:
        names = ", ".join(_line_name(plan, number) for number in moved)
        raise PlanError(f"{names} was moved by hand, so its checks no longer hold; plan again or move it back")
    write_plan(plan, Path(path))


def _line_name(plan: Plan, index: int) -> str:
    side = plan.trajectories[index].side
    rank = sum(trajectory.side == side for trajectory in plan.trajectories[: index + 1])
    return f"Plan {side} {rank}"


def _lines(scene: vtkMRMLScene) -> dict[int, vtkMRMLMarkupsLineNode]:
    """Lines of the plan by the number of their trajectory."""
    found = {}
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLMarkupsLineNode")
        if node.GetAttribute(_INDEX) is not None:
            found[int(node.GetAttribute(_INDEX))] = node
    return found
