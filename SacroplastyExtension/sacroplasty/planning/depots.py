"""How much cement goes where: spheres around the tip that keep inside the bone and off the nerves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..geometry import FloatArray, transform_points
from .model import Depot
from .options import SMALLEST_USUAL_ML
from .structures import Structures

#: Cement fills the pores of cancellous bone: share of the volume that is pore.
POROSITY = 0.85
#: Cement keeps this distance from the surface of the bone and from the foramina [mm].
CEMENT_MARGIN_MM = 1.0
#: The trocar is withdrawn at most this far, in these steps, and by no less for another depot to be worth it [mm].
_WITHDRAWAL_MM, _WITHDRAWAL_STEP_MM, _LEAST_WITHDRAWAL_MM = 15.0, 1.0, 4.0
#: A second depot below this is not worth its withdrawal [mL].
_LEAST_DEPOT_ML = 0.3

#: Ways to give the cement of a trocar: in the planned depots, all of it at the target, or less and only there.
Way = Literal["planned", "all at the target", "less, at the target"]


def sphere_radius_mm(volume_ml: float) -> float:
    """Radius of the sphere of cancellous bone that so much cement fills: 5 mL reach 11 mm."""
    return float((3 * 1000 * volume_ml / (4 * np.pi * POROSITY)) ** (1 / 3))


def sphere_ml(radius_mm: FloatArray) -> FloatArray:
    """Cement in spheres of cancellous bone of these radii."""
    return 4 / 3 * np.pi * np.maximum(radius_mm, 0) ** 3 * POROSITY / 1000


def room_mm(structures: Structures, points_mm: FloatArray) -> FloatArray:
    """How far cement may spread from view points (..., 3) in every direction [mm], 0 or more."""
    room = np.minimum(structures.outside.at_view(points_mm), structures.nerves.at_view(points_mm))
    return np.maximum(room - CEMENT_MARGIN_MM, 0.0)


def plan_depots(
    structures: Structures, entry_ras: FloatArray, target_ras: FloatArray, wanted_ml: float, limit_ml: float
) -> tuple[Depot, ...]:
    """Depots of one trocar: what is wanted at the tip, or what fits there and the rest after a withdrawal.

    Args:
        entry_ras: where the trocar enters the bone.
        wanted_ml: what void and fracture call for.
        limit_ml: most for this trocar.
    """
    inside_mm = float(np.linalg.norm(entry_ras - target_ras))
    outwards = (entry_ras - target_ras) / inside_mm
    back_mm = np.arange(0, min(_WITHDRAWAL_MM, inside_mm) + 0.01, _WITHDRAWAL_STEP_MM)
    centers = target_ras + back_mm[:, None] * outwards
    radii = room_mm(structures, transform_points(structures.view.RASToView, centers))
    wanted = min(wanted_ml, limit_ml)
    at_tip = min(float(sphere_ml(radii[0])), wanted)
    depots = [Depot(target_ras, round(at_tip, 2), _reach_note(structures, target_ras, at_tip, wanted))]
    if wanted - at_tip < _LEAST_DEPOT_ML:
        return tuple(depots)
    added = [
        _beyond_first_ml(sphere_radius_mm(at_tip) if at_tip > 0 else 0.0, float(radius), float(back))
        for radius, back in zip(radii, back_mm, strict=True)
    ]
    candidates = np.where(back_mm >= _LEAST_WITHDRAWAL_MM, added, 0.0)
    best = int(np.argmax(candidates))
    volume = min(float(candidates[best]), wanted - at_tip)
    if volume >= _LEAST_DEPOT_ML:
        note = f"withdraw by {back_mm[best]:.0f} mm first"
        depots.append(Depot(centers[best], round(volume, 2), note))
    return tuple(depots)


def ways_to_give(depots: Sequence[Depot]) -> dict[Way, tuple[Depot, ...]]:
    """The depots as planned, and where they are several what a person may want to do instead of withdrawing."""
    ways: dict[Way, tuple[Depot, ...]] = {"planned": tuple(depots)}
    if len(depots) > 1:
        total_ml = sum(depot.volume_ml for depot in depots)
        ways["all at the target"] = (Depot(depots[0].position_ras, round(total_ml, 2)),)
        ways["less, at the target"] = (Depot(depots[0].position_ras, depots[0].volume_ml),)
    return ways


def second_trocar_ml(first: Sequence[Depot], second: Sequence[Depot]) -> float:
    """What the first depot of another trocar adds to the depots of one: the cement beyond the largest overlap."""
    other = second[0]
    return min(
        _beyond_first_ml(
            sphere_radius_mm(depot.volume_ml),
            sphere_radius_mm(other.volume_ml),
            float(np.linalg.norm(depot.position_ras - other.position_ras)),
        )
        for depot in first
    )


def volume_cautions(depots: Sequence[Depot], wanted_ml: float) -> tuple[str, ...]:
    """What to say when less fits than is usual."""
    total = sum(depot.volume_ml for depot in depots)
    if total >= min(wanted_ml, SMALLEST_USUAL_ML) - 0.05:
        return ()
    return (
        f"only {total:.1f} mL fit between cortex and foramina here, less than the usual {SMALLEST_USUAL_ML:g} mL: "
        "inject no more, or add a second trocar",
    )


def _reach_note(structures: Structures, tip_ras: FloatArray, volume_ml: float, wanted_ml: float) -> str:
    """Why the first depot is smaller than wanted."""
    if wanted_ml - volume_ml < _LEAST_DEPOT_ML:
        return ""
    tip = transform_points(structures.view.RASToView, tip_ras)[None]
    nerves, bone = float(structures.nerves.at_view(tip)[0]), float(structures.outside.at_view(tip)[0])
    what = "a foramen or the canal" if nerves < bone else "the surface of the bone"
    spread, reached = sphere_radius_mm(wanted_ml), max(min(nerves, bone), 0.0)
    return f"{wanted_ml:.1f} mL would spread {spread:.0f} mm and reach {what} at {reached:.0f} mm"


def _beyond_first_ml(first_mm: float, second_mm: float, apart_mm: float) -> float:
    """Cement in the part of a second sphere that the first one leaves free (lens of two spheres)."""
    whole = float(sphere_ml(np.array(second_mm)))
    if apart_mm >= first_mm + second_mm or second_mm <= 0:
        return whole
    if apart_mm <= abs(first_mm - second_mm):
        return max(whole - float(sphere_ml(np.array(min(first_mm, second_mm)))), 0.0)
    a, b, d = first_mm, second_mm, apart_mm
    lens = np.pi * (a + b - d) ** 2 * (d * d + 2 * d * (a + b) - 3 * (a - b) ** 2) / (12 * d)
    return max(whole - float(lens) * POROSITY / 1000, 0.0)
