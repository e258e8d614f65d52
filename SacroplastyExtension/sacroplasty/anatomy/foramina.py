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
from .openings import StraightOpening, Surface, measure_opening, round_opening
from .straight_image import STEP_MM, StraightImage

#: Where the openings lie beside the mirror plane [mm]: posterior S1 16 to 32, further levels nearer to it (the S1
#: range: CT of 632 patients, mean 23.5 mm from the midline); anterior openings a little further out.
_NEAREST_LEFT_MM, _FURTHEST_LEFT_MM = 9.0, 34.0
#: How far the anterior S1 openings lie below the plane of the S1 endplate [mm]: a body of 28.0 mm (median of 29
#: Korean CTs) or a pedicle of 20.7 mm and half an opening of 13.0 mm (108 Indian sacra, J Clin Diagn Res 12(6):AC01).
#: Tolerance (SD): own choice.
_S1_BELOW_ENDPLATE_MM, _S1_BELOW_ENDPLATE_SD_MM = 28.0, 6.0
#: Further off than this, about half of what parts S1 and S2, the levels may be counted from a neighbor [mm].
_S1_DOUBTFUL_MM = 11.0
#: Distances between levels along the curve, mean and tolerance (SD) [mm]: from the heights of the sacral segments,
#: about a fifth of 107 mm each, smaller towards the tip.
_SPACINGS_MM, _SPACING_SD_MM = (22.0, 19.0, 17.0), 4.0
#: Levels are never nearer to each other [mm], and each has the most evidence within the other distance (own choices).
_LEAST_SPACING_MM, _SUMMIT_MM = 10.0, 6
#: A count of the levels that beats its rival by less than this is doubtful (own choice; 3.7 is the least of 17
#: phantoms, all counted right).
_LEAST_MARGIN = 2.0
#: Confidence of foramina that are seen, but whose count is doubtful: too little to plan without a person's look.
_DOUBTFUL_COUNT = 0.45
#: A side may stand this much higher or lower than the other [mm].
_SIDE_SHIFT_MM = 6
#: Anterior and posterior opening differ in level by no more than this [mm].
_FRONT_TO_BACK_MM = 5
#: Pits shallower than this are grooves of the surface [mm].
_SHALLOWEST_PIT_MM = 2.5
#: Depth beyond that at which a pit is full evidence: half of a thin sacrum, and at most so much [mm] (own choice).
_FULL_EVIDENCE_MM = (4.0, 10.0)
#: Half height and half width of the openings where nothing is seen [mm]: about 13 x 13 anterior and 10 x 8 posterior
#: (S1, 108 dry sacra), enlarged because the place is a guess.
_GUESSED_RADIUS_MM = 9.0
_LARGEST_RADIUS_MM = 9.0
#: Where the posterior opening is thought to be relative to the anterior one, towards the midline and the tip [mm].
_POSTERIOR_MEDIAL_MM, _POSTERIOR_DOWN_MM = 3.0, 3.0
#: Distance from the mirror plane of an anterior opening of which nothing is seen [mm].
_GUESSED_LEFT_MM = 20.0
#: The sacrum is nowhere thinner between two openings [mm].
_SHORTEST_CHANNEL_MM = 4.0
LOW_CONFIDENCE = 0.3
#: Less evidence than this (0 to 1) may be the edge of a neighbour or a groove.
_LEAST_EVIDENCE = 0.2


@dataclass(frozen=True)
class StraightForamen:
    """One foramen in straightened coordinates (left, deep, down) in mm.

    Attributes:
        anterior, posterior: its openings.
        confidence: 0 to 1.
    """

    anterior: StraightOpening
    posterior: StraightOpening
    confidence: float

    @property
    def lateral_edge(self) -> FloatArray:
        """Most lateral point of the posterior rim."""
        rim = self.posterior.rim
        return rim[int(np.argmax(rim[:, 0] * np.sign(self.posterior.center[0])))]


def find_foramina(image: StraightImage) -> tuple[dict[str, StraightForamen], str | None]:
    """All eight foramina by name, and why their count is doubtful, if it is.

    Those not seen carry at most `LOW_CONFIDENCE`, and no foramen of a doubtful count is sure enough to plan by.
    """
    evidence = {side: _evidence(image, side) for side in SIDES}
    levels, margin = _levels(image, evidence)
    found = {}
    for level, down in zip(LEVELS, levels, strict=True):
        for side in SIDES:
            found[f"foramen_{level}_{side}"] = _foramen(image, evidence[side], side, down)
    found = _symmetric_where_unseen(found)
    doubt = _doubt(image, found, margin)
    if doubt is not None:
        for name, foramen in found.items():
            found[name] = replace(foramen, confidence=min(foramen.confidence, _DOUBTFUL_COUNT))
    return found, doubt


def _doubt(image: StraightImage, foramina: dict[str, StraightForamen], margin: float) -> str | None:
    """Why the levels may be miscounted: S1 at an unlikely height of its body, or another count almost as good."""
    below = [_below(image, foramina[f"foramen_s1_{side}"].anterior.center) for side in SIDES]
    mean_mm = float(np.mean(below))
    if not abs(mean_mm - _S1_BELOW_ENDPLATE_MM) <= _S1_DOUBTFUL_MM:
        return f"the S1 foramina lie {mean_mm:.0f} mm below the endplate, usual is {_S1_BELOW_ENDPLATE_MM:.0f} mm"
    if not margin >= _LEAST_MARGIN:
        return "another count of the foramina is almost as likely"
    return None


def _below(image: StraightImage, point: FloatArray) -> float:
    """How far a straightened point lies below the plane of the S1 endplate [mm]."""
    index = image.column(point[0]), image.depth(point[1]), image.row(point[2])
    return float(image.below_endplate_mm[index])


def _columns(image: StraightImage, side: str) -> NDArray[np.bool_]:
    # Straightened `left` grows to the patient's left.
    beside = image.left_mm if side == "left" else -image.left_mm
    return (beside >= _NEAREST_LEFT_MM) & (beside <= _FURTHEST_LEFT_MM)


def _evidence(image: StraightImage, side: str) -> FloatArray:
    """Per level row, 0 to 1: how much of a foramen is seen from front and back."""
    from scipy import ndimage

    band = _columns(image, side)
    seen = []
    # Where the sacrum is thin, no pit is deep: half of a hole right through is all that one side can show.
    thickness_mm = np.ma.median(np.ma.masked_invalid(image.back_mm[band] - image.front_mm[band]), axis=0).filled(0)
    full_mm = np.clip(thickness_mm / 2 - _SHALLOWEST_PIT_MM, *_FULL_EVIDENCE_MM)
    for pit in (image.front_pit_mm, image.back_pit_mm):
        deep = np.clip((pit[band] - _SHALLOWEST_PIT_MM) / full_mm, 0, 1)
        # A foramen is some millimetres wide; a crack is not.
        seen.append(ndimage.uniform_filter(deep, 5, mode="constant").max(axis=0))
    # The gap between the laminae of L5 and S1 is a pit from behind only, a groove beside a body from the front only.
    near = [ndimage.maximum_filter1d(rows, 2 * _FRONT_TO_BACK_MM + 1) for rows in seen]
    total = (seen[0] + seen[1]) / 4 + np.sqrt(near[0] * near[1]) / 2
    return ndimage.gaussian_filter1d(total, 1.5)


def _levels(image: StraightImage, evidence: dict[str, FloatArray]) -> tuple[list[float], float]:
    """Arc lengths of S1 to S4, and by how much they beat the best count that begins at another level."""
    anywhere = np.ones(len(image.down_mm), bool)
    levels, score = _chain(image, evidence, anywhere)
    _, second = _chain(image, evidence, np.abs(image.down_mm - levels[0]) > _LEAST_SPACING_MM)
    return levels, score - second


def _chain(
    image: StraightImage, evidence: dict[str, FloatArray], first: NDArray[np.bool_]
) -> tuple[list[float], float]:
    """The four levels with the most evidence at likely places (dynamic programming), S1 in `first`, and their score.

    The score is a logarithm of likelihood as far as places go, plus the evidence.
    """
    from scipy import ndimage

    both = sum(ndimage.maximum_filter1d(seen, _SIDE_SHIFT_MM + 1) for seen in evidence.values())
    both = both + sum(evidence.values())
    # A level is a summit of the evidence; the flanks of one foramen are not two levels.
    both[both < ndimage.maximum_filter1d(both, 2 * _SUMMIT_MM + 1)] = 0
    down = image.down_mm
    weight = 2.0
    off = (_below_endplate_mm(image) - _S1_BELOW_ENDPLATE_MM) / _S1_BELOW_ENDPLATE_SD_MM
    score = np.where(first, weight * both - 0.5 * off**2, -np.inf)
    steps = []
    for spacing in _SPACINGS_MM:
        gap = down[None, :] - down[:, None]
        chain = score[:, None] - 0.5 * ((gap - spacing) / _SPACING_SD_MM) ** 2
        chain[gap < _LEAST_SPACING_MM] = -np.inf
        steps.append(np.argmax(chain, axis=0))
        score = weight * both + chain.max(axis=0)
    index = int(np.argmax(score))
    best = float(score[index])
    path = [index]
    for step in reversed(steps):
        index = int(step[index])
        path.append(index)
    return [float(down[index]) for index in reversed(path)], best


def _below_endplate_mm(image: StraightImage) -> FloatArray:
    """[down] how far the front of the sacrum beside its bodies lies below the plane of the S1 endplate.

    Unlike the arc length from the promontory, this does not depend on how the curve is cut at its upper end.
    """
    band = _columns(image, "left") | _columns(image, "right")
    below = np.full(len(image.down_mm), np.nan)
    for row in range(len(below)):
        known = np.flatnonzero(band & np.isfinite(image.front_mm[:, row]))
        if len(known):
            depths = [image.depth(deep) for deep in image.front_mm[known, row]]
            below[row] = np.median(image.below_endplate_mm[known, depths, row])
    seen = np.isfinite(below)
    if not seen.any():
        return image.down_mm
    # Beside the bone, the levels go on as far apart as the rows are.
    nearest = np.clip(np.arange(len(below)), *np.flatnonzero(seen)[[0, -1]])
    filled = np.interp(np.arange(len(below)), np.flatnonzero(seen), below[seen])
    return filled + image.down_mm - image.down_mm[nearest]


def _foramen(image: StraightImage, evidence: FloatArray, side: str, down: float) -> StraightForamen:
    rows = np.abs(image.down_mm - down) <= _SIDE_SHIFT_MM + 4
    band = _columns(image, side)
    seen = float(evidence[np.abs(image.down_mm - down) <= _SIDE_SHIFT_MM].max())
    surfaces = Surface(image.front_hit_mm, image.front_pit_mm, 1.0), Surface(image.back_hit_mm, image.back_pit_mm, -1.0)
    holes = [
        _hole(image, surface.pit_mm, band, rows, down) if seen >= _LEAST_EVIDENCE else None for surface in surfaces
    ]
    middles = [None if hole is None else _middle(image, hole) for hole in holes]
    sign = 1.0 if side == "left" else -1.0
    towards_back = np.array([-sign * _POSTERIOR_MEDIAL_MM, _POSTERIOR_DOWN_MM])
    front, back = middles
    if front is None:
        front = np.array([sign * _GUESSED_LEFT_MM, down]) if back is None else back - towards_back
    if back is None:
        back = front + towards_back
    anterior, posterior = _surface_at(image, image.front_mm, *front), _surface_at(image, image.back_mm, *back)
    channel = (back - front) / max(posterior - anterior, _SHORTEST_CHANNEL_MM)
    openings, unseen = [], 0
    for surface, hole, place, deep in zip(surfaces, holes, (front, back), (anterior, posterior), strict=True):
        measured = None if hole is None else measure_opening(image, surface, image.share, hole, channel)
        unseen += measured is None
        openings.append(measured or round_opening(np.array([place[0], deep, place[1]]), _GUESSED_RADIUS_MM))
    confidence = float(np.clip(0.4 + 0.6 * seen, 0, 1)) if not unseen else LOW_CONFIDENCE / unseen
    return StraightForamen(openings[0], openings[1], confidence)


def _hole(
    image: StraightImage, pit: FloatArray, band: NDArray[np.bool_], rows: NDArray[np.bool_], down: float
) -> NDArray[np.bool_] | None:
    """[left, down] the deepest pit near a level, or None."""
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
    return inside & (away <= _LARGEST_RADIUS_MM)


def _middle(image: StraightImage, hole: NDArray[np.bool_]) -> FloatArray:
    """(left, down) of a region's centre."""
    return np.argwhere(hole).mean(axis=0) * STEP_MM + [image.left_mm[0], image.down_mm[0]]


def _surface_at(image: StraightImage, surface: FloatArray, left: float, down: float) -> float:
    """Depth of a smooth surface near a point, the median of what is known within 3 mm."""
    column, row = image.column(left), image.row(down)
    patch = surface[max(column - 3, 0) : column + 4, max(row - 3, 0) : row + 4]
    known = patch[np.isfinite(patch)]
    if not len(known):
        known = surface[np.isfinite(surface)]
    return float(np.median(known))


def _symmetric_where_unseen(found: dict[str, StraightForamen]) -> dict[str, StraightForamen]:
    """A foramen of which nothing is seen lies opposite its well-seen partner rather than at the textbook's place."""
    result = dict(found)
    mirror = np.array([-1.0, 1.0, 1.0])
    for name, foramen in found.items():
        other = found[name.replace("left", "#").replace("right", "left").replace("#", "right")]
        if foramen.confidence <= LOW_CONFIDENCE < other.confidence:
            result[name] = replace(
                foramen,
                anterior=round_opening(other.anterior.center * mirror, _GUESSED_RADIUS_MM),
                posterior=round_opening(other.posterior.center * mirror, _GUESSED_RADIUS_MM),
            )
    return result
