"""Trocars by their numbers: a catalogue from a data file, and any other diameter and length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from ..documents import read_document
from ..errors import PlanError

TipShape = Literal["diamond", "bevel", "blunt"]

DEFAULT_GAUGE = 11
#: What a trocar for bone can be [mm]: beyond these a number was given in another unit.
_OUTER_MM, _LENGTH_MM = (0.8, 8.0), (30.0, 300.0)
#: Wall of a trocar of unknown bore, that of 11 and 13 G (regular wall) [mm].
_WALL_MM = 0.33


@dataclass(frozen=True)
class Needle:
    """A trocar.

    Attributes:
        name: as in the catalogue, or made from the numbers.
        outer_diameter_mm, inner_diameter_mm: of the cannula.
        length_mm: from the hub to the tip.
        gauge: None for a trocar that is no gauge's.
    """

    name: str
    outer_diameter_mm: float
    inner_diameter_mm: float
    length_mm: float
    tip: TipShape = "diamond"
    gauge: int | None = None

    def __post_init__(self) -> None:
        for what, value, (low, high) in (
            ("outer diameter", self.outer_diameter_mm, _OUTER_MM),
            ("length", self.length_mm, _LENGTH_MM),
        ):
            if not low <= value <= high:  # NaN too
                raise PlanError(f"no trocar has an {what} of {value:g} mm; give {low:g} to {high:g} mm")
        if not 0 < self.inner_diameter_mm < self.outer_diameter_mm:
            raise PlanError(
                f"a trocar of {self.outer_diameter_mm:g} mm cannot have a bore of {self.inner_diameter_mm:g} mm"
            )

    @property
    def radius_mm(self) -> float:
        """Half of the outer diameter."""
        return self.outer_diameter_mm / 2


def catalogue(path: Path | None = None) -> tuple[Needle, ...]:
    """The trocars of a `needles` document, by default those that come with the package.

    Raises:
        DocumentError: for a file that is none.
        PlanError: for a trocar that cannot be.
    """
    return _built_in() if path is None else _read(path)


def needle(gauge: int = DEFAULT_GAUGE, length_mm: float | None = None) -> Needle:
    """The first trocar of a gauge in the catalogue, at any length.

    Raises:
        PlanError: for a gauge that the catalogue does not have, or an impossible length.
    """
    found = next((item for item in catalogue() if item.gauge == gauge), None)
    if found is None:
        known = sorted({item.gauge for item in catalogue() if item.gauge is not None})
        raise PlanError(f"there is no {gauge} G trocar here; choose {' or '.join(map(str, known))}, or give a diameter")
    if length_mm is None or length_mm == found.length_mm:
        return found
    return replace(found, name=f"{gauge}G {found.tip} {length_mm:g} mm", length_mm=length_mm)


def custom_needle(
    outer_diameter_mm: float, length_mm: float, inner_diameter_mm: float | None = None, tip: TipShape = "diamond"
) -> Needle:
    """A trocar of free diameter and length; without a bore its wall is that of 11 and 13 G.

    Raises:
        PlanError: for numbers that no trocar has.
    """
    inner = outer_diameter_mm - 2 * _WALL_MM if inner_diameter_mm is None else inner_diameter_mm
    name = f"{outer_diameter_mm:g} mm {tip} {length_mm:g} mm"
    return Needle(name, outer_diameter_mm, inner, length_mm, tip)


@cache
def _built_in() -> tuple[Needle, ...]:
    with resources.as_file(resources.files(__package__).joinpath("needles.json")) as default:
        return _read(default)


def _read(path: Path) -> tuple[Needle, ...]:
    return tuple(
        Needle(
            name=item["name"],
            outer_diameter_mm=float(item["outer_diameter_mm"]),
            inner_diameter_mm=float(item["inner_diameter_mm"]),
            length_mm=float(item["length_mm"]),
            tip=item["tip"],
            gauge=item["gauge"],
        )
        for item in read_document(path, "needles")["needles"]
    )
