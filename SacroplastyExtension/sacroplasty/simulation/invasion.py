"""The spread of cement in simulations: bone fills from the tip outwards in the order of least resistance.

The front arrives at each point after a time that grows with the resistance on the way: arrival solves the eikonal
equation |grad arrival| = resistance (fast marching). Even bone fills as a sphere, the front goes round barriers and
runs ahead where bone is loose. Volume is conserved: each voxel takes its porosity times its size. On purpose this is
not what predicts the spread (`cement.spread`, Darcy's law), so that a prediction is never judged by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cement.grid import local_grid, sample, sample_mask
from ..errors import PlanError
from ..geometry import FloatArray
from ..image import Volume

#: Share of cancellous bone that is marrow; the sacral ala of the old is at the loose end.
CANCELLOUS_POROSITY = 0.85

#: A tip this far from permeable bone still fills it; farther off it is somewhere else.
_LARGEST_SNAP_MM = 3.0

#: Around the tip the front is taken as a sphere, since the first voxels of fast marching are coarse.
_SEED_RADIUS_MM = 2.0

_NEVER = 1e5
_BARRIER_SPEED = 1e-7


@dataclass(frozen=True)
class Filling:
    """Voxels of a local grid in the order in which cement fills them.

    Attributes:
        grid: the local grid (its voxels are the permeable mask).
        kji: (n, 3) voxel indices, earliest first.
        capacity_ml: (n,) cement that fills each.
        arrival: (n,) resistance-weighted way of the front in mm.
    """

    grid: Volume
    kji: NDArray[np.intp]
    capacity_ml: FloatArray
    arrival: FloatArray

    @property
    def voxel_ras(self) -> FloatArray:
        """(n, 3) centres in the order of filling."""
        return self.grid.ras_of(self.kji)

    @property
    def cumulative_volume_ml(self) -> FloatArray:
        """(n,) volume injected when each voxel has just been filled."""
        return np.cumsum(self.capacity_ml)

    @property
    def room_ml(self) -> float:
        """What fits in all; more than this cannot go anywhere in the model."""
        return float(self.capacity_ml.sum())

    def filled_ml(self, volume_ml: float) -> FloatArray:
        """(n,) cement in each voxel after `volume_ml`; what exceeds `room_ml` finds no place."""
        if not volume_ml >= 0:
            raise ValueError(f"volume_ml must be 0 or more, got {volume_ml}")
        before = self.cumulative_volume_ml - self.capacity_ml
        return np.clip(volume_ml - before, 0.0, self.capacity_ml)

    def at(self, volume_ml: float) -> Volume:
        """Cement after `volume_ml`, as the fraction of each voxel of the local grid (float32, 0 to 1).

        Times the attenuation of dense cement this is what X-rays see; above zero it is the cement's mask.
        """
        fraction = np.zeros(self.grid.voxels.shape, np.float32)
        fraction[tuple(self.kji.T)] = self.filled_ml(volume_ml) / self.grid.voxel_volume_ml
        return self.grid.like(fraction)


def resistance_from_hu(hu: NDArray) -> NDArray[np.float32]:
    """Relative resistance of cancellous bone: 1 in fatty marrow (-50 HU and less), 3 from 300 HU on, linear between.

    An assumption: bone density predicts the permeability of human cancellous bone only weakly (Baroud 2004), so the
    range is narrow.
    """
    return np.interp(hu, (-50.0, 300.0), (1.0, 3.0)).astype(np.float32)


def fill_from(
    tip_ras: ArrayLike,
    region: Volume,
    resistance: Volume | None = None,
    porosity: float | Volume = CANCELLOUS_POROSITY,
    half_size_mm: float = 30.0,
    spacing_mm: float = 1.0,
) -> Filling:
    """The order in which cement fills permeable bone around a tip.

    Args:
        tip_ras: where cement leaves the cannula.
        region: mask of what cement can enter, on any grid; all else is a barrier.
        resistance: relative resistance, positive, on any grid; even when missing.
        porosity: fraction of a voxel that cement can fill, 0 to 1; 1 in a void.
        half_size_mm, spacing_mm: of the local grid.

    Raises:
        PlanError: when the tip is not in or next to permeable bone.
    """
    from scipy.ndimage import label

    tip = np.asarray(tip_ras, float)
    if not np.isfinite(tip).all():
        raise PlanError("the tip's position is not known (NaN); measure it before predicting the spread")
    grid = local_grid(tip, half_size_mm, spacing_mm)
    permeable = sample_mask(region, grid)
    cost = np.ones(permeable.shape, np.float32) if resistance is None else sample(resistance, grid, outside=1.0)
    if not (np.isfinite(cost).all() and cost.min() > 0):
        raise PlanError("the resistance to flow must be a positive number in every voxel")
    fill = np.full(permeable.shape, porosity) if isinstance(porosity, float | int) else sample(porosity, grid)
    permeable &= fill > 0

    offsets = (np.indices(permeable.shape) - (permeable.shape[0] - 1) / 2) * spacing_mm
    from_tip = np.sqrt((offsets**2).sum(axis=0))
    nearest = float(from_tip[permeable].min()) if permeable.any() else np.inf
    if nearest > _LARGEST_SNAP_MM:
        raise PlanError(
            f"the tip {np.round(tip, 1).tolist()} lies {nearest:.1f} mm from bone that cement can enter; "
            "check the trocar's position against the segmentation"
        )
    # Only what hangs together with the voxel next to the tip: cement does not start on both sides of a cortex.
    near = permeable & (from_tip <= nearest + _SEED_RADIUS_MM)
    pieces, _ = label(near)
    start = np.unravel_index(np.argmin(np.where(permeable, from_tip, np.inf)), permeable.shape)
    seeds = np.argwhere(pieces == pieces[start])
    arrival = _march(permeable, cost, seeds, from_tip[tuple(seeds.T)] * cost[start], spacing_mm)

    reached = np.argwhere(permeable & (arrival < _NEVER))
    order = np.argsort(arrival[tuple(reached.T)], kind="stable")
    kji = reached[order]
    voxels = tuple(kji.T)
    capacity_ml = np.clip(fill[voxels], 0.0, 1.0).astype(np.float64) * grid.voxel_volume_ml
    return Filling(grid.like(permeable), kji, capacity_ml, arrival[voxels].astype(np.float64))


def _march(
    permeable: NDArray[np.bool_], cost: NDArray, seeds: NDArray, seed_values: NDArray, spacing_mm: float
) -> NDArray[np.float64]:
    """Arrival in resistance-weighted mm; `_NEVER` and more where the front does not come."""
    import SimpleITK as sitk

    speed = sitk.GetImageFromArray(np.where(permeable, 1.0 / cost, _BARRIER_SPEED).astype(np.float64))
    speed.SetSpacing([spacing_mm] * 3)
    marching = sitk.FastMarchingImageFilter()
    marching.SetTrialPoints([tuple(int(index) for index in seed[::-1]) for seed in seeds])
    marching.SetInitialTrialValues([float(value) for value in seed_values])
    marching.SetStoppingValue(_NEVER)
    return sitk.GetArrayFromImage(marching.Execute(speed))
