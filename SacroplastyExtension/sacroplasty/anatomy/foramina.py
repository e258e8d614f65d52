"""The sacral foramina as pairs of openings at four levels, found in the straightened sacrum.

Looking at the straightened sacrum from the front and from the back, a foramen is a pit in the surface, or a hole right
through. The four levels are chosen for both sides together; a level of which nothing is seen is placed by anatomical
spacing, and says so by its low confidence and larger size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .labels import LEVELS, SIDES
from .straight_image import STEP_MM, StraightImage

#: Where the openings lie beside the mirror plane [mm]: posterior S1 16 to 32, further levels nearer to it (the S1
#: range: CT of 632 patients, mean 23.5 mm from the midline); anterior openings a little further out.
_NEAREST_LEFT_MM, _FURTHEST_LEFT_MM = 9.0, 34.0
#: Arc length of S1 below the promontory and distances between levels, mean and tolerance (SD) [mm]: from the heights of
#: the sacral segments, about a fifth of 107 mm each, smaller towards the tip.
_FIRST_LEVEL_MM, _FIRST_LEVEL_SD_MM = 36.0, 10.0
_SPACINGS_MM, _SPACING_SD_MM = (22.0, 19.0, 17.0), 4.0
#: A side may stand this much higher or lower than the other [mm].
_SIDE_SHIFT_MM = 6
#: Pits shallower than this are grooves of the surface [mm].
_SHALLOWEST_PIT_MM = 2.5
#: Half height and half width of the openings where nothing is seen [mm]: about 13 x 13 anterior and 10 x 8 posterior
#: (S1, 108 dry sacra), enlarged because the place is a guess.
_GUESSED_RADIUS_MM = 9.0
_LARGEST_RADIUS_MM = 9.0
#: Where the posterior opening is thought to be relative to the anterior one, towards the midline and the tip [mm].
_POSTERIOR_MEDIAL_MM, _POSTERIOR_DOWN_MM = 3.0, 3.0
LOW_CONFIDENCE = 0.3
#: Less evidence than this (0 to 1) may be the edge of a neighbour or a groove.
_LEAST_EVIDENCE = 0.2


@dataclass(frozen=True)
class StraightForamen:
    """One foramen in straightened coordinates (left, deep, down) in mm.

    Attributes:
        anterior, posterior: centres of the openings on the smooth surfaces.
        anterior_radius_mm, posterior_radius_mm: radii of circles of the openings' area.
        lateral_edge: most lateral point of the posterior rim.
        confidence: 0 to 1.
    """

    anterior: FloatArray
    posterior: FloatArray
    anterior_radius_mm: float
    posterior_radius_mm: float
    lateral_edge: FloatArray
    confidence: float


def find_foramina(image: StraightImage) -> dict[str, StraightForamen]:
    """All eight foramina by name; those not seen carry `LOW_CONFIDENCE`."""
    evidence = {side: _evidence(image, side) for side in SIDES}
    levels = _levels(image, evidence)
    found = {}
    for level, down in zip(LEVELS, levels, strict=True):
        for side in SIDES:
            found[f"foramen_{level}_{side}"] = _foramen(image, evidence[side], side, down)
    return _symmetric_where_unseen(image, found)


def _columns(image: StraightImage, side: str) -> NDArray[np.bool_]:
    # Straightened `left` grows to the patient's left.
    beside = image.left_mm if side == "left" else -image.left_mm
    return (beside >= _NEAREST_LEFT_MM) & (beside <= _FURTHEST_LEFT_MM)


def _evidence(image: StraightImage, side: str) -> FloatArray:
    """Per level row, 0 to 1: how much of a foramen is seen from front and back."""
    from scipy import ndimage

    band = _columns(image, side)
    total = np.zeros(len(image.down_mm))
    for pit in (image.front_pit_mm, image.back_pit_mm):
        deep = np.clip(pit[band] - _SHALLOWEST_PIT_MM, 0, 10) / 10
        # A foramen is some millimetres wide; a crack is not.
        total += ndimage.uniform_filter(deep, 5, mode="constant").max(axis=0)
    return ndimage.gaussian_filter1d(total / 2, 1.5)


def _levels(image: StraightImage, evidence: dict[str, FloatArray]) -> list[float]:
    """Arc lengths of S1 to S4: the chain of four with the most evidence at likely spacings (dynamic programming)."""
    from scipy import ndimage

    both = sum(ndimage.maximum_filter1d(seen, _SIDE_SHIFT_MM + 1) for seen in evidence.values())
    both = both + sum(evidence.values())
    down = image.down_mm
    weight = 2.0
    score = weight * both - 0.5 * ((down - _FIRST_LEVEL_MM) / _FIRST_LEVEL_SD_MM) ** 2
    steps = []
    for spacing in _SPACINGS_MM:
        gap = down[None, :] - down[:, None]
        chain = score[:, None] - 0.5 * ((gap - spacing) / _SPACING_SD_MM) ** 2
        chain[gap < 10] = -np.inf
        steps.append(np.argmax(chain, axis=0))
        score = weight * both + chain.max(axis=0)
    index = int(np.argmax(score))
    path = [index]
    for step in reversed(steps):
        index = int(step[index])
        path.append(index)
    return [float(down[index]) for index in reversed(path)]


def _foramen(image: StraightImage, evidence: FloatArray, side: str, down: float) -> StraightForamen:
    rows = np.abs(image.down_mm - down) <= _SIDE_SHIFT_MM + 4
    band = _columns(image, side)
    seen = float(evidence[np.abs(image.down_mm - down) <= _SIDE_SHIFT_MM].max())
    front, back = (
        _opening(image, pit, band, rows, down) if seen >= _LEAST_EVIDENCE else None
        for pit in (image.front_pit_mm, image.back_pit_mm)
    )
    sign = 1.0 if side == "left" else -1.0
    if front is None and back is None:
        beside = sign * 20.0
        front, back = (
            (beside, down, _GUESSED_RADIUS_MM),
            (beside - sign * _POSTERIOR_MEDIAL_MM, down, _GUESSED_RADIUS_MM),
        )
        confidence = LOW_CONFIDENCE / 2
    elif front is None or back is None:
        confidence = LOW_CONFIDENCE
        if front is None:
            assert back is not None
            front = (back[0] + sign * _POSTERIOR_MEDIAL_MM, back[1] - _POSTERIOR_DOWN_MM, _GUESSED_RADIUS_MM)
        else:
            back = (front[0] - sign * _POSTERIOR_MEDIAL_MM, front[1] + _POSTERIOR_DOWN_MM, _GUESSED_RADIUS_MM)
    else:
        confidence = float(np.clip(0.4 + 0.6 * seen, 0, 1))
    assert back is not None and front is not None
    anterior = np.array([front[0], _surface_at(image, image.front_mm, *front[:2]), front[1]])
    posterior = np.array([back[0], _surface_at(image, image.back_mm, *back[:2]), back[1]])
    edge_left = back[0] + sign * back[2]
    edge = np.array([edge_left, _surface_at(image, image.back_mm, edge_left, back[1]), back[1]])
    return StraightForamen(anterior, posterior, front[2], back[2], edge, confidence)


def _opening(
    image: StraightImage, pit: FloatArray, band: NDArray[np.bool_], rows: NDArray[np.bool_], down: float
) -> tuple[float, float, float] | None:
    """Centre (left, down) and radius of the opening of the deepest pit near a level, or None."""
    from scipy import ndimage

    window = np.where(band[:, None] & rows[None, :], pit, 0.0)
    nearness = np.exp(-0.5 * ((image.down_mm - down) / 5.0) ** 2)
    weighted = ndimage.uniform_filter(window, 3) * nearness
    column, row = np.unravel_index(int(np.argmax(weighted)), window.shape)
    depth = window[column, row]
    if depth < _SHALLOWEST_PIT_MM:
        return None
    # The rim: where the surface has gone down a third of the pit, so that shallow grooves beside it do not count.
    parts, _ = ndimage.label(window >= max(_SHALLOWEST_PIT_MM, 0.35 * depth))
    inside = parts == parts[column, row]
    # Grooves that lead away from the opening are cut off at the size of the largest foramina.
    away = np.hypot((image.left_mm - image.left_mm[column])[:, None], (image.down_mm - image.down_mm[row])[None, :])
    inside &= away <= _LARGEST_RADIUS_MM
    left, along = image.left_mm[:, None] * inside, image.down_mm[None, :] * inside
    count = int(inside.sum())
    radius = float(np.sqrt(count * STEP_MM**2 / np.pi))
    return float(left.sum() / count), float(along.sum() / count), radius


def _surface_at(image: StraightImage, surface: FloatArray, left: float, down: float) -> float:
    """Depth of a smooth surface near a point, the median of what is known within 3 mm."""
    column, row = image.column(left), image.row(down)
    patch = surface[max(column - 3, 0) : column + 4, max(row - 3, 0) : row + 4]
    known = patch[np.isfinite(patch)]
    if not len(known):
        known = surface[np.isfinite(surface)]
    return float(np.median(known))


def _symmetric_where_unseen(image: StraightImage, found: dict[str, StraightForamen]) -> dict[str, StraightForamen]:
    """A foramen of which nothing is seen lies opposite its well-seen partner rather than at the textbook's place."""
    result = dict(found)
    mirror = np.array([-1.0, 1.0, 1.0])
    for name, foramen in found.items():
        other = found[name.replace("left", "#").replace("right", "left").replace("#", "right")]
        if foramen.confidence <= LOW_CONFIDENCE < other.confidence:
            result[name] = replace(
                other,
                anterior=other.anterior * mirror,
                posterior=other.posterior * mirror,
                lateral_edge=other.lateral_edge * mirror,
                anterior_radius_mm=max(other.anterior_radius_mm, _GUESSED_RADIUS_MM),
                posterior_radius_mm=max(other.posterior_radius_mm, _GUESSED_RADIUS_MM),
                confidence=foramen.confidence,
            )
    return result
