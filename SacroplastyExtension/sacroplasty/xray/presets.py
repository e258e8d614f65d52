"""C-arms by name, from a data file that can be edited or replaced."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..documents import read_document, write_document
from ..errors import GeometryError
from .geometry import CArm

DEFAULT_PRESET = "mobile-flat-panel"


def c_arms(path: Path | None = None) -> dict[str, CArm]:
    """The C-arms of a document (`c_arms.json`), by name; those of this package by default.

    Raises:
        DocumentError: for a file that is none.
        GeometryError: for a C-arm that cannot be, by name.
    """
    if path is None:
        with resources.as_file(resources.files("sacroplasty").joinpath("xray", "c_arms.json")) as built_in:
            return c_arms(built_in)
    found = {}
    for name, record in read_document(path, "c_arms")["c_arms"].items():
        columns, rows = record["detector_pixels"]
        u, v = record["pixel_spacing_mm"]
        diameter = record["field_diameter_mm"]
        if not record["source_to_isocenter_mm"] < record["source_to_detector_mm"]:
            raise GeometryError(f"{path}: the isocenter of {name!r} lies behind its detector")
        found[name] = CArm(
            source_to_detector_mm=float(record["source_to_detector_mm"]),
            source_to_isocenter_mm=float(record["source_to_isocenter_mm"]),
            detector_pixels=(int(columns), int(rows)),
            pixel_spacing_mm=(float(u), float(v)),
            field_diameter_mm=None if diameter is None else float(diameter),
        )
    return found


def write_c_arms(path: Path, presets: dict[str, CArm]) -> None:
    """Write a document of C-arms that `c_arms` reads."""
    records = {
        name: {
            "source_to_detector_mm": c_arm.source_to_detector_mm,
            "source_to_isocenter_mm": c_arm.source_to_isocenter_mm,
            "detector_pixels": list(c_arm.detector_pixels),
            "pixel_spacing_mm": list(c_arm.pixel_spacing_mm),
            "field_diameter_mm": c_arm.field_diameter_mm,
        }
        for name, c_arm in presets.items()
    }
    write_document(path, "c_arms", {"c_arms": records})
