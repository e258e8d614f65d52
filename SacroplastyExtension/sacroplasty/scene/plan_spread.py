"""The predicted spread of planned trajectories: where their depots go, and the same cement given in other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from slicer import vtkMRMLScene

from ..cement.line import injection_line
from ..cement.presets import default_preset
from ..cement.spread import planned_cavity
from ..errors import PlanError
from ..planning.depots import ways_to_give
from ..planning.model import Side
from ..planning.uncertainty import pose_uncertainty
from . import spread
from .planning import TrajectoryRow, plan_of
from .spread import SpreadSummary


def predict(scene: vtkMRMLScene, row: TrajectoryRow, progress: Callable[[float], None] | None = None) -> SpreadSummary:
    """Predict the spread of a trajectory, and of other ways to give its cement, and show it in the scene.

    The tip is as uncertain as the plan says that navigation is, where it says so.

    Args:
        progress: called with the share done; may raise to end it, and then the scene is as before.

    Raises:
        PlanError: for a line that was moved and not checked, and where nothing is to be injected.
        AnatomyError: without a segmented CT.
    """
    item, plan = row.trajectory, plan_of(scene)
    if row.is_moved:
        raise PlanError(f"{row.name} was moved and not checked since; check it first")
    if not item.planned_volume_ml > 0:
        raise PlanError(f"no cement is planned for {row.name}; set a volume first")
    ways = ways_to_give([depot for depot in item.depots if depot.volume_ml > 0])
    accuracy = None if plan is None else plan.accuracy
    return spread.predict(
        scene,
        item.side,
        ways.pop("planned"),
        injection_line(item.needle),
        default_preset(),
        cavity=None if item.balloon is None else planned_cavity(item.balloon),
        pose=None if accuracy is None else pose_uncertainty(accuracy, item.target),
        others=ways,
        progress=progress,
    )


def is_current(scene: vtkMRMLScene, row: TrajectoryRow) -> bool:
    """Whether the prediction of the side is of this trajectory as it is planned now."""
    depots = [depot for depot in row.trajectory.depots if depot.volume_ml > 0]
    return not row.is_moved and spread.is_of(scene, row.trajectory.side, depots)


def current(scene: vtkMRMLScene, row: TrajectoryRow) -> SpreadSummary | None:
    """The prediction of a trajectory as it is planned now; None where there is none."""
    return spread.summary(scene, row.trajectory.side) if is_current(scene, row) else None


def show_current(scene: vtkMRMLScene, rows: Iterable[TrajectoryRow], visible: bool) -> None:
    """Draw the predictions of trajectories that still hold, and hide the others.

    Args:
        rows: the first one of a side counts, and over the slices the first of all.
    """
    first: dict[Side, TrajectoryRow] = {}
    for row in rows:
        first.setdefault(row.trajectory.side, row)
    for side in get_args(Side):
        if side not in first:
            spread.set_visible(scene, side, False)
    for side, row in reversed(first.items()):
        spread.set_visible(scene, side, visible and is_current(scene, row))
