"""Ways out of the bone for simulated cement: weak spots and cracks of the cortex, and veins, at random places.

They belong to the medium that the front of `invasion` runs through, with what lies beyond them: foramina, canal, the
joint's gap and soft tissue. Whether cement leaks, when, how fast and where to follows from the front alone.

**Number and resistance are assumptions.** They were chosen so that about as many injections leak as on CT after
sacroplasty under a C-arm: 8 of 21 (see docs/validation.md); the share of each way out is not known from patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.labels import REGIONS, SIDES
from ..anatomy.model import Anatomy
from ..cement.grid import grid_points, local_grid, sample, sample_mask
from ..cement.zones import cancellous_bone
from ..geometry import FloatArray, unit
from ..image import Volume
from .invasion import CANCELLOUS_POROSITY, Filling, fill_from, resistance_from_hu

#: Grid around the tip [mm].
_HALF_MM, _SPACING_MM = 36.0, 1.0

#: A way out begins in cancellous bone that is so near to the outside [mm].
_THROUGH_MM = 4.0


@dataclass(frozen=True)
class ExitModel:
    """What may be open.

    Attributes:
        spots, cracks, veins: mean number of each within `reach_mm` of the tip.
        reach_mm: from the tip.
        spot_radius_mm: smallest and largest.
        crack_length_mm: shortest and longest; cracks are one voxel wide.
        passage: resistance within a spot or crack, lowest and highest; even cancellous bone has 1.
        beyond: the same in the space behind it.
        vein_resistance: the same in a vein.
        vein_radius_mm, vein_length_mm: thickness of a vein and its way beyond the bone.
        unevenness: standard deviation of ln(resistance) of the bone beside what its density says.
    """

    spots: float = 2.5
    cracks: float = 1.0
    veins: float = 0.8
    reach_mm: float = 18.0
    spot_radius_mm: tuple[float, float] = (0.8, 2.5)
    crack_length_mm: tuple[float, float] = (4.0, 15.0)
    passage: tuple[float, float] = (1.0, 8.0)
    beyond: tuple[float, float] = (0.03, 0.3)
    vein_resistance: tuple[float, float] = (0.01, 0.1)
    vein_radius_mm: float = 1.4
    vein_length_mm: float = 45.0
    unevenness: float = 0.2


@dataclass(frozen=True)
class LeakyBone:
    """Cement around one tip, in the order in which it comes, with what leaves the bone.

    Attributes:
        filling: of bone and beyond.
        outside: (n,) whether each voxel of the filling lies outside the bone.
    """

    filling: Filling
    outside: NDArray[np.bool_]

    def leaked_ml(self, volume_ml: float) -> float:
        """Cement outside the bone after `volume_ml`."""
        return float(self.filling.filled_ml(volume_ml)[self.outside].sum())


def draw_leaky_bone(
    ct: Volume, anatomy: Anatomy, tip_ras: ArrayLike, model: ExitModel, rng: np.random.Generator
) -> LeakyBone:
    """The bone of one patient around a tip, with ways out drawn by chance.

    Raises:
        PlanError: when the tip is not in or next to cancellous bone.
    """
    from scipy.ndimage import binary_dilation

    tip = np.asarray(tip_ras, float)
    grid = local_grid(tip, _HALF_MM, _SPACING_MM)
    cancellous = cancellous_bone(anatomy, tip, _HALF_MM, _SPACING_MM).voxels
    sacrum = sample_mask(anatomy.bones.like(anatomy.bone("sacrum")), grid)
    open_regions = [value for value, name in REGIONS.items() if name == "sacral_canal" or name.startswith("foramen_")]
    outside = ~sacrum | np.isin(sample(anatomy.regions, grid, nearest=True), open_regions)
    for side in SIDES:
        outside &= ~sample_mask(anatomy.bones.like(anatomy.bone(f"hip_{side}")), grid)
    uneven = np.exp(rng.normal(0, model.unevenness, cancellous.shape))
    resistance = resistance_from_hu(sample(ct, grid)) * uneven.astype(np.float32)
    # What lies beyond the bone is the same for all ways out.
    resistance[outside] = _log_uniform(model.beyond, rng)
    points = grid_points(grid)
    within = np.linalg.norm(points - tip, axis=-1) <= model.reach_mm
    ways = _Ways(grid, cancellous, outside, within, rng)

    passages = np.zeros(cancellous.shape, bool)
    for inner, outer in ways.drawn(model.spots):
        spot = _tube(grid, [inner, outer], rng.uniform(*model.spot_radius_mm))
        resistance[spot & ~cancellous & ~outside] = _log_uniform(model.passage, rng)
        passages |= spot
    for inner, outer in ways.drawn(model.cracks):
        through = unit(outer - inner)
        along = unit(np.cross(through, rng.normal(size=3)))
        off = points - (inner + outer) / 2
        crack = np.abs(off @ through) <= _THROUGH_MM
        crack &= np.abs(off @ along) <= rng.uniform(*model.crack_length_mm) / 2
        crack &= np.abs(off @ np.cross(through, along)) <= 0.6 * _SPACING_MM
        resistance[crack & ~cancellous & ~outside] = _log_uniform(model.passage, rng)
        passages |= crack
    veins = np.zeros(cancellous.shape, bool)
    for inner, outer in ways.drawn(model.veins):
        vein = _tube(grid, _winding(inner, outer, model.vein_length_mm, rng), model.vein_radius_mm)
        resistance[vein] = _log_uniform(model.vein_resistance, rng)
        veins |= vein

    walls = binary_dilation(veins, np.ones((3, 3, 3))) & outside & ~veins
    permeable = cancellous | veins | (passages & ~walls) | (outside & ~walls)
    porosity = np.where(outside, 1.0, CANCELLOUS_POROSITY)
    filling = fill_from(tip, grid.like(permeable), grid.like(resistance), grid.like(porosity), _HALF_MM, _SPACING_MM)
    return LeakyBone(filling, outside[tuple(filling.kji.T)])


class _Ways:
    """Where cancellous bone is near to the outside: a way out leads from one of its voxels to the nearest outside."""

    def __init__(
        self,
        grid: Volume,
        cancellous: NDArray[np.bool_],
        outside: NDArray[np.bool_],
        within: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> None:
        from scipy.ndimage import distance_transform_edt

        distance, nearest = distance_transform_edt(~outside, sampling=grid.spacing_mm[::-1], return_indices=True)
        self._inner = np.argwhere(cancellous & within & (distance <= _THROUGH_MM))
        self._outer = np.moveaxis(nearest, 0, -1)[tuple(self._inner.T)]
        self._grid, self._rng = grid, rng

    def drawn(self, mean_number: float) -> list[tuple[FloatArray, FloatArray]]:
        """Both ends (RAS) of a random number of ways."""
        if not len(self._inner):
            return []
        chosen = self._rng.integers(len(self._inner), size=self._rng.poisson(mean_number))
        return [(self._grid.ras_of(self._inner[one]), self._grid.ras_of(self._outer[one])) for one in chosen]


def _winding(inner: FloatArray, outer: FloatArray, length_mm: float, rng: np.random.Generator) -> FloatArray:
    """Points (n, 3) of a vein that comes from within the bone, leaves it, and goes on in gentle bends."""
    through = unit(outer - inner)
    path = [inner - 6.0 * through, inner, outer]
    for _ in range(round(length_mm / 3)):
        through = unit(through + rng.normal(0, 0.25, 3))
        path.append(path[-1] + 3.0 * through)
    return np.array(path)


def _tube(grid: Volume, path: ArrayLike, radius_mm: float) -> NDArray[np.bool_]:
    """Voxels within a distance of a polyline."""
    near = np.zeros(grid.voxels.shape, bool)
    reach = radius_mm / float(grid.spacing_mm[0])
    for start, end in pairwise(grid.kji_of(path)):
        low = np.maximum(np.floor(np.minimum(start, end) - reach).astype(int), 0)
        high = np.maximum(np.ceil(np.maximum(start, end) + reach).astype(int) + 1, 0)
        window = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        voxels = np.moveaxis(np.indices(near[window].shape), 0, -1) + low
        way = end - start
        share = np.clip((voxels - start) @ way / (way @ way), 0.0, 1.0)
        near[window] |= np.linalg.norm(voxels - start - share[..., None] * way, axis=-1) <= reach
    return near


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))
