"""Where the cement truly is: invasion around the tip of each cannula, and a planted leak."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cement.grid import local_grid
from ..errors import PlanError
from ..geometry import FloatArray
from ..image import Volume
from .invasion import Filling, fill_from, resistance_from_hu
from .live import LiveFolder, live_folder_of
from .world import World, read_world

#: CT number shown for dense cement: far above cortical bone, near the upper end of a 12-bit scanner.
CEMENT_HU = 2500.0
_LOCAL_HALF_MM = 32.0


@dataclass(frozen=True)
class CementTruth:
    """What left one cannula.

    Attributes:
        delivered_ml: out of the tip.
        leaked_ml: of that, into the leak's space.
        depots: fraction of each voxel that is cement, on local grids (in the bone, then in the leak's space).
    """

    side: str
    delivered_ml: float
    leaked_ml: float
    depots: tuple[Volume, ...]


class Deposit:
    """The cement of one cannula as a function of the volume that left it."""

    def __init__(self, world: World, side: str, TipToRAS: FloatArray, ct: Volume) -> None:
        self._tip = TipToRAS[:3, 3]
        self._side = side
        resistance = ct.like(resistance_from_hu(ct.voxels.astype(np.float32)))
        region = world.permeable(side)
        try:
            self._bone = fill_from(self._tip, _everywhere(self._tip) if region is None else region, resistance)
        except PlanError:
            # The tip is not where cement can flow in bone: it flows into soft tissue, which gives way.
            self._bone = fill_from(self._tip, _everywhere(self._tip), porosity=1.0)
        self._leak = world.leak if world.leak is not None and world.leak.side == side else None
        self._escape = self._way_out(world) if self._leak is not None else None

    def leaked_ml(self, volume_ml: float) -> float:
        if self._leak is None or self._escape is None:
            return 0.0
        return min(self._leak.fraction * max(0.0, volume_ml - self._leak.after_ml), self._escape.room_ml)

    def truth(self, volume_ml: float) -> CementTruth:
        leaked_ml = self.leaked_ml(volume_ml)
        depots = [self._bone.at(max(0.0, volume_ml - leaked_ml))]
        if self._escape is not None and leaked_ml > 0:
            depots.append(self._escape.at(leaked_ml))
        return CementTruth(self._side, volume_ml, leaked_ml, tuple(depots))

    def _way_out(self, world: World) -> Filling:
        """The leak's space, filled from its point that is nearest to the cement when the leak begins."""
        from scipy.spatial import cKDTree

        assert self._leak is not None
        space = world.leak_space()
        assert space is not None
        points = space.ras_of(np.argwhere(space.voxels))
        reached = self._bone.voxel_ras[self._bone.cumulative_volume_ml <= max(self._leak.after_ml, 0.05)]
        distance, _ = cKDTree(reached if len(reached) else self._tip[None]).query(points)
        return fill_from(points[int(np.argmin(distance))], space, porosity=1.0)


def read_truth(world_file: Path) -> tuple[CementTruth, ...]:
    """What has truly happened so far in the world of a document, for judging a rehearsal after it."""
    world = read_world(world_file)
    live = LiveFolder(live_folder_of(world_file))
    ct = world.ct()
    delivered, cannulas = live.read_delivered(), live.read_hand().cannulas
    return tuple(
        Deposit(world, side, pose, ct).truth(delivered[side])
        for side, pose in cannulas.items()
        if delivered.get(side, 0.0) > 0
    )


def paint_cement(truth: tuple[CementTruth, ...], grid: Volume) -> Volume:
    """Fraction of each voxel of `grid` that is cement (float32); volume is conserved inside the grid."""
    fraction = np.zeros(grid.voxels.size)
    shape = grid.voxels.shape
    for depot in (depot for one in truth for depot in one.depots):
        # Each voxel is spread as points closer together than the grid's voxels, so that none is left out.
        count = 2 * int(np.ceil(depot.spacing_mm.max() / grid.spacing_mm.min()))
        steps = (np.arange(count) + 0.5) / count - 0.5
        offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
        filled = np.argwhere(depot.voxels > 0)
        kji = (filled[:, None, :] + offsets).reshape(-1, 3)
        target = np.rint(grid.kji_of(depot.ras_of(kji))).astype(int)
        inside = ((target >= 0) & (target < shape)).all(axis=1)
        share = depot.voxel_volume_ml / grid.voxel_volume_ml / len(offsets)
        weight = np.repeat(depot.voxels[tuple(filled.T)], len(offsets))[inside] * share
        fraction += np.bincount(np.ravel_multi_index(tuple(target[inside].T), shape), weight, minlength=fraction.size)
    return grid.like(np.minimum(fraction, 1.0).astype(np.float32).reshape(shape))


def post_operative_ct(ct: Volume, fraction: Volume) -> Volume:
    """The CT with the cement in it, int16 HU (`CEMENT_HU` where a voxel is full)."""
    voxels = ct.voxels * (1 - fraction.voxels) + CEMENT_HU * fraction.voxels
    return ct.like(np.rint(voxels).astype(np.int16))


def _everywhere(tip: FloatArray) -> Volume:
    grid = local_grid(tip, _LOCAL_HALF_MM, 2.0)
    return grid.like(np.ones(grid.voxels.shape, bool))
