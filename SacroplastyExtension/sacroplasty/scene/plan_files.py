"""The scene's plan into files, and plans and lines of others into the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slicer import vtkMRMLScene

from ..errors import PlanError
from ..files import staged_directory
from ..geometry import FloatArray
from ..planning import export
from ..planning.files import read_plan, write_plan
from ..planning.options import PlanOptions
from . import plan_spread
from .pictures import save_png
from .plan_desk import PlanDesk
from .plan_page import PlanPage
from .planning import chosen, plan_of, trajectory_rows


def export_plan(scene: vtkMRMLScene, folder: Path, desk: PlanDesk, date: str) -> None:
    """Write a plan in all formats, all of them or none.

    `plan.json` is what command line and import read, `plan.csv` a table, `plan.png` a page to print, `lines` has a
    markups file of each trajectory, and `trocars` a mesh of each in its true size.

    Args:
        date: as it is to be printed.

    Raises:
        PlanError: without a folder or a plan, or when a line was moved and not checked since.
    """
    plan, rows = plan_of(scene), trajectory_rows(scene)
    if plan is None or not rows:
        raise PlanError("there is no plan to export; plan automatically or draw a trajectory first")
    if not str(folder).strip() or Path(folder) == Path():
        raise PlanError("choose a folder for the plan first")
    moved = [row.name for row in rows if row.is_moved]
    if moved:
        raise PlanError(f"{', '.join(moved)} was moved and not checked since; check it again or put it back")
    # A side that cannot be treated is on the page too, with why.
    first = {item.side: item for item in reversed(plan.trajectories)}
    shown = [trajectory for _, trajectory in sorted((first | chosen(plan)).items())]
    used = {row.trajectory.side: plan_spread.current(scene, row) for row in rows if row.is_chosen}
    predicted = {side: found for side, found in used.items() if found is not None}
    page = PlanPage(desk.context(), plan, shown, f"Trocar plan: {desk.name}", date, predicted)
    with staged_directory(Path(folder)) as stage:
        export.export_plan(plan, stage)
        write_plan(plan, stage / "plan.json")
        save_png(stage / "plan.png", page.draw())


def import_file(path: Path, desk: PlanDesk, options: PlanOptions) -> int:
    """Add the trajectories of a plan, or lines made elsewhere. Everything is checked on this CT.

    Args:
        path: `plan.json`, or what `planning.export.read_lines` reads.

    Returns:
        The number of the first.

    Raises:
        PlanError: for no path, a plan of another CT, or a file without a line.
    """
    path = Path(path)
    if not path.is_file():
        raise PlanError("choose a file first: a plan (.json), or lines (.mrk.json, .fcsv, .csv)")
    if path.suffix != ".json" or path.name.endswith(".mrk.json"):
        center = desk.context().anatomy.SacrumToRAS[:3, 3]
        return desk.add([_from_outside(line, center) for line in export.read_lines(path)], options, "imported")
    context = desk.context()
    plan = read_plan(path, context.image_hash, context.frame_of_reference)
    if not plan.trajectories:
        raise PlanError(f"{path} holds no trajectory")
    return desk.bring(plan.trajectories, options)


def _from_outside(line: tuple[FloatArray, FloatArray], center_ras: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Entry and target: whichever end was drawn first, the target is the one nearer to the sacrum's middle."""
    first, second = line
    is_turned = np.linalg.norm(first - center_ras) < np.linalg.norm(second - center_ras)
    return (second, first) if is_turned else (first, second)
