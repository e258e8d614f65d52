"""Where a marked fracture goes: its zone and side, and the canal and foramina that it reaches."""

from __future__ import annotations

import numpy as np

from ..geometry import FloatArray, invert_rigid, transform_points
from .fracture_model import Direction, FractureSuggestion, MarkedFracture, Place
from .labels import REGIONS
from .model import Anatomy
from .zones import UNKNOWN, denis_zone

#: A line that comes this near to an opening reaches it [mm], plus half a voxel: cortex there is thinner than that.
_NEAR_MM = 2.0
#: Share of a fracture in a zone from which it is in that zone; single voxels are the roughness of labels.
_SHARE = 0.02


def denis_zone_of(fracture: MarkedFracture, anatomy: Anatomy) -> int:
    """The most medial zone that the fracture is in, 1 to 3; 0 when unknown."""
    zones = denis_zone(anatomy.bones.ras_of(fracture.voxels_kji), anatomy)
    reached = [zone for zone in (1, 2, 3) if float((zones == zone).mean()) >= _SHARE]
    return max(reached, default=UNKNOWN)


def direction_of(normal_ras: FloatArray, anatomy: Anatomy) -> Direction:
    """Vertical fractures divide left from right, transverse ones above from below."""
    # The axes of the sacrum bend; left stays.
    return "vertical" if abs(float(normal_ras @ anatomy.SacrumToRAS[:3, 0])) >= 0.6 else "transverse"


def side_of(points_ras: FloatArray, anatomy: Anatomy) -> Place:
    """The side of the mirror plane that holds at least nine tenths of the points, or central."""
    left = float((transform_points(invert_rigid(anatomy.SacrumToRAS), points_ras)[:, 0] > 0).mean())
    return "left" if left >= 0.9 else "right" if left <= 0.1 else "central"


def structures_reached(points_ras: FloatArray, anatomy: Anatomy, margin_mm: float = 0.0) -> dict[str, float]:
    """Canal and foramina that points of a fracture reach, with the distance [mm], nearest first.

    Args:
        margin_mm: half of what is between the points.
    """
    from scipy.spatial import cKDTree

    limit = _NEAR_MM + 0.5 * float(anatomy.regions.spacing_mm.max()) + margin_mm
    # Found in one pass over what may be a hundred million voxels.
    voxels = np.argwhere(anatomy.canal_and_foramina())
    labels = anatomy.regions.voxels[tuple(voxels.T)]
    distances = cKDTree(points_ras).query(anatomy.regions.ras_of(voxels), distance_upper_bound=limit)[0]
    reached = {}
    for label in np.unique(labels[np.isfinite(distances)]):
        reached[REGIONS[int(label)]] = round(float(distances[labels == label].min()), 1)
    return dict(sorted(reached.items(), key=lambda item: item[1]))


def leak_risk_notes(anatomy: Anatomy) -> tuple[str, ...]:
    """A sentence for planning for each line that reaches the canal or a foramen: cement may follow it there.

    Marked fractures come first; suggestions that nobody has judged are named as such.
    """
    notes = []
    for number, fracture in enumerate(anatomy.fractures, start=1):
        reached = structures_reached(anatomy.bones.ras_of(fracture.voxels_kji), anatomy)
        if reached:
            notes.append(
                f"Leak risk: fracture_{number} reaches {_listed(reached)}; cement may follow the line there. Watch it "
                "in every frame, and weigh whether to inject at all."
            )
    for number, suggestion in enumerate(anatomy.fracture_suggestions, start=1):
        reached = structures_reached(_rectangle(suggestion), anatomy, margin_mm=1.0)
        if reached:
            notes.append(
                f"Leak risk, not confirmed: suggestion {number} (score {suggestion.score:.2f}) would reach "
                f"{_listed(reached)} if it is a fracture. Look at it before injecting."
            )
    return tuple(notes)


def _listed(reached: dict[str, float]) -> str:
    names = list(reached)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _rectangle(suggestion: FractureSuggestion) -> FloatArray:
    """Points of a suggestion's patch (an ellipse), 2 mm apart."""
    half = np.array(suggestion.extent_mm) / 2
    along, across = (np.arange(-size, size + 0.1, 2.0) for size in half)
    u, v = (grid.ravel() for grid in np.meshgrid(along, across, indexing="ij"))
    inside = (u / half[0]) ** 2 + (v / half[1]) ** 2 <= 1
    other = np.cross(suggestion.normal_ras, suggestion.along_ras)
    return suggestion.center_ras + u[inside, None] * suggestion.along_ras + v[inside, None] * other
