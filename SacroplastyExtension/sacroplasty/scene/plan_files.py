"""Plans into files and back: for the command line, spreadsheets, other programs, a printer, and a workshop."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

import slicer
from slicer import vtkMRMLScene

from ..errors import PlanError
from ..files import staged_directory
from ..geometry import unit
from ..planning.files import read_plan, write_plan
from ..planning.model import Trajectory
from ..planning.options import PlanOptions
from .files import load_file, save_node
from .nodes import add_trocar, line_points
from .pictures import save_png
from .plan_desk import PlanDesk
from .plan_page import PlanPage
from .planning import TrajectoryRow, chosen, plan_of, trajectory_rows

_POINTS = ("entry_skin", "entry_bone", "target")


def export_plan(scene: vtkMRMLScene, folder: Path, desk: PlanDesk, date: str) -> None:
    """Write a plan in all formats, all of them or none.

    `plan.json` is what the command line and the import read, `plan.csv` a table, `plan.png` a page to print, `lines`
    has a markups file of each line, and `trocars` a mesh of each trocar in its true size (mm, LPS as STL files of
    Slicer are).

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
    context = desk.context()
    best = chosen(plan)
    # A side that cannot be treated is on the page too, with why.
    shown = [next(item for item in plan.trajectories if item.side == side) for side in _sides(rows)]
    page = PlanPage(context, plan, [best.get(item.side, item) for item in shown], f"Trocar plan: {desk.name}", date)
    with staged_directory(Path(folder)) as stage:
        write_plan(plan, stage / "plan.json")
        _write_table(rows, stage / "plan.csv")
        save_png(stage / "plan.png", page.draw())
        for name in ("lines", "trocars"):
            (stage / name).mkdir()
        for row in rows:
            if row.line is not None:
                save_node(row.line, stage / "lines" / f"{row.name}.mrk.json")
            _write_trocar(row.trajectory, stage / "trocars" / f"{row.name}.stl")


def import_file(scene: vtkMRMLScene, path: Path, desk: PlanDesk, options: PlanOptions) -> int:
    """Add the trajectories of a plan, or a line made elsewhere. Everything is checked on this CT.

    Returns:
        The number of the first.

    Raises:
        PlanError: for no path, a plan of another CT, or a file without a line.
    """
    if not str(path).strip() or not Path(path).is_file():
        raise PlanError(f"there is no file {str(path)!r}; choose a plan (.json) or a line (.mrk.json)")
    if Path(path).name.endswith(".mrk.json"):
        return desk.add([_line_in(scene, Path(path), desk)], options, "imported")
    context = desk.context()
    plan = read_plan(Path(path), context.image_hash, context.frame_of_reference)
    if not plan.trajectories:
        raise PlanError(f"{path} holds no trajectory")
    return desk.bring(plan.trajectories, options)


def _line_in(scene: vtkMRMLScene, path: Path, desk: PlanDesk) -> tuple[np.ndarray, np.ndarray]:
    """Entry and target of a line made elsewhere: its target is the end that is nearer to the sacrum's middle."""
    center = desk.context().anatomy.SacrumToRAS[:3, 3]
    node = load_file(scene, path)
    try:
        if not node.IsA("vtkMRMLMarkupsLineNode"):
            raise PlanError(f"{path} holds no line but {node.GetClassName()}; export the trajectory as a markups line")
        first, second = line_points(node)
    finally:
        scene.RemoveNode(node)
    is_turned = np.linalg.norm(first - center) < np.linalg.norm(second - center)
    return (second, first) if is_turned else (first, second)


def _sides(rows: list[TrajectoryRow]) -> list[str]:
    return list(dict.fromkeys(row.trajectory.side for row in rows))


def _write_table(rows: list[TrajectoryRow], path: Path) -> None:
    """A row for each trajectory; points in RAS."""
    columns = [
        "name", "side", "technique", "source", "used", "accepted", "trocar", "outer_diameter_mm", "length_mm",
        "nearest", "nearest_mm", "incidence_deg", "lateral_to_s2_mm", "planned_volume_ml", "breach_probability",
        *(f"{point}_{axis}" for point in _POINTS for axis in "ras"), "merits", "reasons", "cautions",
    ]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow(_record(row))


def _record(row: TrajectoryRow) -> dict[str, object]:
    item = row.trajectory
    record: dict[str, object] = {
        name: getattr(item, name)
        for name in ("side", "technique", "source", "accepted", "outer_diameter_mm", "length_mm", "incidence_deg")
    }
    record |= {
        f"{point}_{axis}": round(float(value), 3)
        for point in _POINTS
        for axis, value in zip("ras", getattr(item, point), strict=True)
    }
    return record | {
        "name": row.name,
        "used": row.is_chosen,
        "trocar": item.needle.name,
        "nearest": row.nearest,
        "nearest_mm": row.nearest_mm,
        "lateral_to_s2_mm": item.lateral_to_s2_mm,
        "planned_volume_ml": item.planned_volume_ml,
        "breach_probability": row.riskiest_breach,
        "merits": "; ".join(item.merits),
        "reasons": "; ".join(item.reasons),
        "cautions": "; ".join(item.cautions),
    }


def _write_trocar(item: Trajectory, path: Path) -> None:
    """The whole trocar, from its hub to its tip."""
    hub = item.target + item.needle.length_mm * unit(item.entry_skin - item.target)
    # Nodes are written from a scene; nobody needs to see this one.
    apart = slicer.vtkMRMLScene()
    save_node(add_trocar(apart, hub, item.target, item.outer_diameter_mm, path.stem), path)
