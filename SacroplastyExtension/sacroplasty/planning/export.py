"""Plans for spreadsheets, other programs and a workshop, and lines that were drawn elsewhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from ..errors import PlanError
from ..files import staged_directory
from ..geometry import FloatArray, flip_lps_ras, unit
from .model import Plan, Trajectory

_POINTS = ("entry_skin", "entry_bone", "target")
_MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
#: Corners of the section of a trocar in its mesh.
_CORNERS = 32


def export_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.csv`, a markups line and a mesh of each trocar, all or none; replaces an older folder of the kind."""
    with staged_directory(Path(folder)) as stage:
        for part in ("lines", "trocars"):
            (stage / part).mkdir()
        names = trajectory_names(plan)
        write_table(plan, stage / "plan.csv")
        for name, item in zip(names, plan.trajectories, strict=True):
            write_line(item, name, stage / "lines" / f"{name}.mrk.json")
            write_trocar(item, stage / "trocars" / f"{name}.stl")


def trajectory_names(plan: Plan) -> list[str]:
    """A name for each trajectory: its side and rank."""
    ranks: dict[str, int] = {}
    names = []
    for item in plan.trajectories:
        ranks[item.side] = ranks.get(item.side, 0) + 1
        names.append(f"{item.side}_{ranks[item.side]}")
    return names


def write_table(plan: Plan, path: Path) -> None:
    """A row for each trajectory as CSV; points in RAS mm."""
    structures = sorted({name for item in plan.trajectories for name in item.clearance_mm})
    columns = [
        "name", "side", "technique", "source", "accepted", "trocar", "outer_diameter_mm", "length_mm", "incidence_deg",
        "low_density_mm", "lateral_to_s2_mm", "planned_volume_ml", "depots",
        *(f"{point}_{axis}" for point in _POINTS for axis in "ras"),
        *(f"clearance_{name}_mm" for name in structures), *(f"breach_probability_{name}" for name in structures),
        "merits", "reasons", "cautions",
    ]  # fmt: skip
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for name, item in zip(trajectory_names(plan), plan.trajectories, strict=True):
            writer.writerow(_row(name, item))


def write_line(item: Trajectory, name: str, path: Path) -> None:
    """A markups line from skin to target, as 3D Slicer reads it (LPS)."""
    points = [
        {"id": str(number + 1), "label": label, "position": flip_lps_ras(point).tolist(), "positionStatus": "defined"}
        for number, (label, point) in enumerate((("entry", item.entry_skin), ("target", item.target)))
    ]
    markup = {
        "type": "Line",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "controlPoints": points,
    }
    Path(path).write_text(
        json.dumps({"@schema": _MARKUPS_SCHEMA, "markups": [markup | {"name": name}]}, indent=2) + "\n"
    )


def write_trocar(item: Trajectory, path: Path) -> None:
    """The cannula in its true size from hub to tip, as an STL mesh (LPS mm)."""
    import vtk

    hub = item.target + item.needle.length_mm * unit(item.entry_skin - item.target)
    line = vtk.vtkLineSource()
    line.SetPoint1(*flip_lps_ras(hub))
    line.SetPoint2(*flip_lps_ras(item.target))
    tube = vtk.vtkTubeFilter()
    tube.SetInputConnection(line.GetOutputPort())
    tube.SetRadius(item.needle.radius_mm)
    tube.SetNumberOfSides(_CORNERS)
    tube.CappingOn()
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputConnection(tube.GetOutputPort())
    writer = vtk.vtkSTLWriter()
    writer.SetInputConnection(triangles.GetOutputPort())
    writer.SetFileName(str(path))
    writer.SetFileTypeToBinary()
    if not writer.Write():
        raise PlanError(f"{path} cannot be written; is the disk full?")


def read_lines(path: Path) -> list[tuple[FloatArray, FloatArray]]:
    """Entry and target (RAS mm) of lines that were drawn elsewhere.

    Markups (.mrk.json, .json; every line in it), Slicer's older .fcsv, and .csv with the columns of `write_table` or
    with two rows of three numbers in RAS. Of two points the first is the entry.

    Raises:
        PlanError: for a file without a line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read as text: {error}") from None
    readers = {".json": _markups, ".fcsv": _fcsv, ".csv": _csv}
    if path.suffix not in readers:
        raise PlanError(f"{path}: lines are read from .mrk.json, .json, .fcsv and .csv files")
    try:
        lines = [np.asarray(points, float) for points in readers[path.suffix](text)]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise PlanError(f"{path} holds no line that can be read: {error!r}") from None
    if not lines or any(points.shape != (2, 3) or not np.isfinite(points).all() for points in lines):
        raise PlanError(f"{path} holds no line: an entry and a target with three finite coordinates each")
    return [(points[0], points[1]) for points in lines]


def _row(name: str, item: Trajectory) -> dict[str, object]:
    same = (
        "side", "technique", "source", "accepted", "outer_diameter_mm", "length_mm", "incidence_deg", "low_density_mm",
        "lateral_to_s2_mm", "planned_volume_ml",
    )  # fmt: skip
    row: dict[str, object] = {field: getattr(item, field) for field in same}
    for point in _POINTS:
        row |= {f"{point}_{axis}": round(float(x), 3) for axis, x in zip("ras", getattr(item, point), strict=True)}
    row |= {f"clearance_{structure}_mm": value for structure, value in item.clearance_mm.items()}
    row |= {f"breach_probability_{structure}": value for structure, value in item.breach_probability.items()}
    row |= {field: "; ".join(getattr(item, field)) for field in ("merits", "reasons", "cautions")}
    depots = "; ".join(f"{depot.volume_ml:g} mL {depot.note}".strip() for depot in item.depots)
    return row | {"name": name, "trocar": item.needle.name, "depots": depots}


def _markups(text: str) -> list[FloatArray]:
    lines = []
    for markup in json.loads(text)["markups"]:
        points = np.array([point["position"] for point in markup["controlPoints"]], float)
        if len(points) == 2:
            lines.append(points if markup.get("coordinateSystem", "LPS") in ("RAS", "0") else flip_lps_ras(points))
    return lines


def _fcsv(text: str) -> list[FloatArray]:
    """Slicer's fiducials: columns id, x, y, z; coordinate system 0 or RAS, 1 or LPS."""
    header = [line for line in text.splitlines() if line.startswith("# CoordinateSystem")]
    system = header[0].split("=")[1].strip() if header else "RAS"
    rows = [line.split(",")[1:4] for line in text.splitlines() if line.strip() and not line.startswith("#")]
    points = np.array(rows, float)
    return [flip_lps_ras(points) if system in ("1", "LPS") else points]


def _csv(text: str) -> list[FloatArray]:
    rows = list(csv.reader(text.splitlines()))
    if rows and "target_r" in rows[0]:
        columns = [[f"{point}_{axis}" for axis in "ras"] for point in ("entry_skin", "target")]
        return [
            np.array([[row[name] for name in names] for names in columns], float)
            for row in csv.DictReader(text.splitlines())
        ]
    return [np.array([row[:3] for row in rows if row], float)]
