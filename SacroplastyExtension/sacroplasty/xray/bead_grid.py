"""Calibrate an image intensifier's distortion from one picture of a plate with beads on a square grid.

The plate lies on the intensifier's face, turned as it likes. How far its beads are apart need not be told: the grid is
square, and the middle of the picture says how large it would be seen everywhere without distortion.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, ImageError
from ..geometry import FloatArray
from .distortion import TERMS, Distortion, design
from .field import find_field

#: Sizes of beads that are looked for: standard deviations of a blob [pixels].
_BLOBS = (1.2, 1.8, 2.7, 4.0)
#: A bead stands out of the picture's noise by so much.
_LEAST_CONTRAST = 8.0
#: A neighbour on the grid is found so far from where it is expected, as a share of their distance.
_ASTRAY = 0.25
#: Fewer beads do not hold the polynomial; a worse fit is no grid [pixels per half width].
_FEWEST_BEADS, _WORST_REST = 3 * TERMS, 4e-3
#: Beads farther off than this many times the rest are left out, and how often.
_OUTLIER, _ROUNDS = 4.0, 3


def calibrate_distortion(picture: NDArray) -> Distortion:
    """The distortion of a picture (rows, columns) of a bead plate, larger values brighter.

    Raises:
        CalibrationError: when too few beads are found, or they do not lie on a grid.
    """
    beads = find_beads(picture)
    numbers, places = grid_numbers(beads, picture.shape)
    if len(numbers) < _FEWEST_BEADS:
        raise CalibrationError(
            f"{len(numbers)} beads on a grid are too few of {len(beads)} dark spots; {_FEWEST_BEADS} are needed: lay "
            "the plate on the intensifier's face, open the collimator, take all else out of the beam"
        )
    rows, columns = picture.shape
    half, middle = columns / 2, (np.array([columns, rows], float) - 1) / 2
    seen = (places - middle) / half
    ideal = _as_in_the_middle(numbers, seen)
    used = np.ones(len(seen), bool)
    for _ in range(_ROUNDS):
        coefficients = np.linalg.lstsq(design(ideal[used]), (seen - ideal)[used], rcond=None)[0]
        off = np.linalg.norm(seen - ideal - design(ideal) @ coefficients, axis=1)
        rest = float(np.sqrt(np.mean(off[used] ** 2)))
        used = off < _OUTLIER * max(rest, 1e-6)
    if not rest < _WORST_REST:
        raise CalibrationError(
            f"the beads lie {rest * half:.1f} pixels beside a smooth grid; is this a plate with a square grid of beads?"
        )
    radius = float(np.linalg.norm(ideal[used], axis=1).max())
    return Distortion((columns, rows), coefficients.T, radius, rest * half, int(np.count_nonzero(used)))


def find_beads(picture: NDArray) -> FloatArray:
    """Column and row (n, 2) of small dark blobs of the size that most of them have.

    Raises:
        CalibrationError: for a black picture.
    """
    from scipy.ndimage import binary_erosion, gaussian_laplace, maximum_filter

    try:
        lit = find_field(np.asarray(picture, np.float32)).mask
    except ImageError as error:
        raise CalibrationError(f"the picture of the plate cannot be used: {error}") from None
    log = np.log(np.maximum(np.asarray(picture, float), 1e-3 * max(float(np.median(picture)), 1e-6)))
    found: FloatArray = np.zeros((0, 2))
    most = -1.0
    for sigma in _BLOBS:
        contrast = sigma**2 * gaussian_laplace(log, sigma)
        noise = 1.4826 * float(np.median(np.abs(contrast - np.median(contrast))))
        # The border of blades and circle is steeper than any bead.
        inner = binary_erosion(lit, np.ones((3, 3), bool), iterations=int(3 * sigma) + 1)
        peaks = (contrast == maximum_filter(contrast, 2 * int(2 * sigma) + 1)) & (contrast > _LEAST_CONTRAST * noise)
        rows, columns = np.nonzero(peaks & inner)
        if len(rows) < 9:
            continue
        strength = float(np.median(contrast[rows, columns]) / noise * np.sqrt(len(rows)))
        if strength > most:
            most, found = strength, _centers(contrast, rows, columns)
    return found


def _centers(contrast: NDArray, rows: NDArray, columns: NDArray) -> FloatArray:
    """Middles of peaks between pixels, by parabolas through each one and its neighbours."""

    def between(before: NDArray, after: NDArray) -> NDArray:
        here = contrast[rows, columns]
        return 0.5 * (before - after) / np.minimum(before - 2 * here + after, -1e-12)

    across = between(contrast[rows, columns - 1], contrast[rows, columns + 1])
    down = between(contrast[rows - 1, columns], contrast[rows + 1, columns])
    return np.column_stack([columns + np.clip(across, -1, 1), rows + np.clip(down, -1, 1)])


def grid_numbers(beads: FloatArray, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Which bead of the grid each spot is: whole numbers (n, 2) and places (n, 2), from the picture's middle outwards.

    Args:
        beads: (m, 2) column and row of spots, some of which are none of the grid.
    """
    from scipy.spatial import cKDTree

    if len(beads) < 9:
        return np.zeros((0, 2)), np.zeros((0, 2))
    tree = cKDTree(beads)
    first = int(tree.query((np.array(shape[1::-1]) - 1) / 2)[1])
    distances, near = tree.query(beads[first], k=5)
    step = beads[near[1]] - beads[first]
    if not distances[4] < 1.6 * distances[1]:
        return np.zeros((0, 2)), np.zeros((0, 2))
    # The second direction is the first one turned by a right angle, the same way round as rows follow columns.
    known: dict[tuple[int, int], int] = {(0, 0): first}
    steps = {(0, 0): np.array([step, [-step[1], step[0]]])}
    taken, waiting = {first}, deque([(0, 0)])
    while waiting:
        at = waiting.popleft()
        own = steps[at]
        for axis, way in ((0, 1), (0, -1), (1, 1), (1, -1)):
            there = (at[0] + way * (axis == 0), at[1] + way * (axis == 1))
            if there in known:
                continue
            distance, bead = tree.query(beads[known[at]] + way * own[axis])
            if bead in taken or distance > _ASTRAY * np.linalg.norm(own[axis]):
                continue
            known[there] = int(bead)
            taken.add(int(bead))
            # The grid bends: steps are those that were found here last.
            bent = own.copy()
            bent[axis] = way * (beads[bead] - beads[known[at]])
            steps[there] = bent
            waiting.append(there)
    return np.array(list(known), float), beads[list(known.values())]


def _as_in_the_middle(numbers: FloatArray, seen: FloatArray) -> FloatArray:
    """Where beads (n, 2) would be seen if all of the picture were like its middle: turned and scaled, not sheared."""
    center = numbers.mean(axis=0)
    reach = float(np.abs(numbers - center).max())
    coefficients = np.linalg.lstsq(design((numbers - center) / reach), seen, rcond=None)[0]

    def at(number: FloatArray) -> FloatArray:
        return design((number - center) / reach) @ coefficients

    # The grid's place in the middle of the picture, by Newton's method.
    middle = numbers[np.argmin(np.linalg.norm(seen, axis=1))].copy()
    for _ in range(5):
        slope = np.stack([(at(middle + way) - at(middle - way)) / 0.02 for way in 0.01 * np.eye(2)], axis=1)
        middle -= np.linalg.solve(slope, at(middle))
    left, stretch, right = np.linalg.svd(slope)
    turned = float(np.sqrt(np.prod(stretch))) * left @ right
    ideal: FloatArray = (numbers - middle) @ turned.T
    return ideal
