"""Touched points from files: our JSON, markups of 3D Slicer (.mrk.json, .fcsv) and tables (.csv)."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import read_document
from ..errors import CalibrationError
from ..geometry import FloatArray, flip_lps_ras


@dataclass(frozen=True)
class TouchedPoints:
    """Points in the frame of the reference, mm.

    Attributes:
        names: (n,) of the points; empty where a point has none.
        points_mm: (n, 3).
    """

    names: tuple[str, ...]
    points_mm: FloatArray


def read_touched_points(path: Path) -> TouchedPoints:
    """Read points that a stylus touched, in the reference's frame.

    `.csv` has a row for each point: name, x, y, z, or x, y, z alone; a row of headings is allowed. A file of markups
    says itself whether it is LPS or RAS; those of 3D Slicer are LPS unless told otherwise, and are turned. `.json` is
    a document `touched_points`.

    Raises:
        CalibrationError, DocumentError: for a file that cannot be read, or a point that is not three numbers.
    """
    path = Path(path)
    if path.name.lower().endswith(".mrk.json"):
        return _markups(path)
    readers = {".fcsv": _fiducials, ".csv": _table, ".json": _document}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CalibrationError(f"{path} is no list of points; give a .json, .mrk.json, .fcsv or .csv file")
    return reader(path)


def _document(path: Path) -> TouchedPoints:
    record = read_document(path, "touched_points")
    return _points(path, [(entry.get("name", ""), entry["position_mm"]) for entry in record["points"]])


def _markups(path: Path) -> TouchedPoints:
    try:
        markups = json.loads(_text(path))["markups"]
        rows = [
            (str(point.get("label", "")), _in_ras(point["position"], markup.get("coordinateSystem", "LPS"), path))
            for markup in markups
            for point in markup["controlPoints"]
            # Slicer keeps points that were announced and never placed.
            if point.get("positionStatus", "defined") == "defined"
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CalibrationError(f"{path} is no markups file of 3D Slicer; save the point list again") from None
    return _points(path, rows)


def _fiducials(path: Path) -> TouchedPoints:
    lines = _text(path).splitlines()
    system, columns = "LPS", ["id", "x", "y", "z"]
    for line in lines:
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip() == "CoordinateSystem":
                # Old versions of Slicer wrote 0 for RAS and 1 for LPS.
                system = {"0": "RAS", "1": "LPS"}.get(value.strip(), value.strip())
            elif key.strip() == "columns":
                columns = [name.strip() for name in value.split(",")]
    rows = []
    for cells in csv.reader(line for line in lines if line and not line.startswith("#")):
        row = dict(zip(columns, cells, strict=False))
        rows.append((row.get("label", ""), _in_ras([row.get(axis) for axis in "xyz"], system, path)))
    return _points(path, rows)


def _table(path: Path) -> TouchedPoints:
    rows: list[tuple[str, Any]] = []
    for number, cells in enumerate(csv.reader(_text(path).splitlines())):
        cells = [cell.strip() for cell in cells]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if number == 0 and not _is_number(cells[-1]):
            continue
        rows.append((cells[0] if len(cells) == 4 else "", cells[-3:] if len(cells) in (3, 4) else cells))
    return _points(path, rows)


def _points(path: Path, rows: list[tuple[str, Any]]) -> TouchedPoints:
    points = []
    for number, (name, position) in enumerate(rows, start=1):
        try:
            point = np.array([float(value) for value in position])
        except (TypeError, ValueError):
            point = np.full(3, np.nan)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise CalibrationError(f"{path}: point {number} {name!r} is not three numbers; touch it again")
        points.append(point)
    if not points:
        raise CalibrationError(f"{path} holds no points")
    return TouchedPoints(tuple(name.strip() for name, _ in rows), np.array(points))


def _in_ras(position: Any, system: str, path: Path) -> Any:
    if system not in ("RAS", "LPS"):
        raise CalibrationError(f"{path} has the coordinate system {system!r}; save it in RAS or LPS")
    try:
        return position if system == "RAS" else flip_lps_ras([float(value) for value in position])
    except (TypeError, ValueError):
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CalibrationError(f"{path} is no text file of points") from None
