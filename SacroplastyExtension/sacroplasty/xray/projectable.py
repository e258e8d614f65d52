"""A volume made ready once for many projections."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GeometryError, ImageError
from ..image import Volume, box_around, crop
from .geometry import XrayGeometry
from .rays import Rays
from .slicewise import with_rim

_Voxels = NDArray[np.float32]

#: Axes finer than this times the finest are halved for the next resolution level: thick slices are coarse already.
_FINE = 1.5


@cache
def compiled_loops() -> ModuleType | None:
    """The inner loops of `compiled.py`, or None where numba is missing or fails: then numpy does the same, slower.

    The first call of a session loads what was compiled before, in a fraction of a second, or compiles it.
    """
    try:
        from . import compiled
    except ImportError:
        return None
    try:
        compiled.warm_up()
    except Exception as error:  # Whatever a compiler of another version raises, an X-ray can do without it.
        warnings.warn(f"numba cannot compile the projector, so it works slower: {error}", stacklevel=2)
        return None
    return compiled


@dataclass(frozen=True)
class Packed:
    """Voxels as the compiled loops read them, stepping along one axis.

    Attributes:
        levels: 16-bit levels with that axis last and a rim of nothing around the others.
        bricks: which parts hold anything.
        step: attenuation of one level.
        sparse: whether asking the bricks pays.
    """

    levels: NDArray[np.int16]
    bricks: NDArray[np.uint8]
    step: float
    sparse: bool


@dataclass(frozen=True, eq=False)
class ProjectableVolume:
    """Attenuation ready to be projected: checked, without empty borders, and with what the fast loops ask for.

    Making one reads all voxels; each projection along another axis of the voxels packs them once more. So keep it while
    the patient stays the same. Safe to be used by several threads.

    Attributes:
        filled: the part of the volume that is not empty; None when all is.
        greatest: size of the largest attenuation, 1/mm.
    """

    filled: Volume | None
    greatest: float
    _packed: dict[int, Packed] = field(default_factory=dict, repr=False)
    _rimmed: dict[int, _Voxels] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(attenuation: Volume) -> ProjectableVolume:
        """Make a volume of 1/mm (see `attenuation_from_hu`) ready.

        Raises:
            ImageError: for voxels that are no numbers, or a grid without a size.
        """
        matrix = np.asarray(attenuation.IJKToRAS, float)
        if not np.isfinite(matrix).all() or not attenuation.voxel_volume_ml > 0:
            raise ImageError("the volume to be projected has an impossible voxel size or orientation (zero or NaN)")
        voxels = np.ascontiguousarray(attenuation.voxels, np.float32)
        loops = compiled_loops()
        if loops is not None:
            finite, greatest, bounds = loops.survey(voxels)
            box = tuple(slice(int(low), int(high) + 1) for low, high in bounds) if greatest > 0 else None
        else:
            finite = bool(np.isfinite(voxels.sum(dtype=float)))
            box = box_around(voxels) if finite else None
            greatest = float(max(voxels[box].max(), -voxels[box].min())) if box else 0.0
        if not finite:
            raise ImageError("the volume to be projected holds values that are no numbers (NaN)")
        if box is None:
            return ProjectableVolume(None, 0.0)
        k, j, i = box
        return ProjectableVolume(crop(Volume(voxels, matrix), (k, j, i)), greatest)

    def coarser(self) -> ProjectableVolume:
        """The next resolution level: half as many voxels along the fine axes, each the mean of those it covers."""
        if self.filled is None:
            return self
        spacing = self.filled.spacing_mm[::-1]
        factors = np.where(spacing < _FINE * spacing.min(), 2, 1)
        return ProjectableVolume.of(binned(self.filled, factors))

    def rays(self, geometry: XrayGeometry) -> Rays:
        """The rays of a geometry through the filled part.

        Raises:
            GeometryError: for a source within it, or so far from any CT that it cannot be computed.
        """
        assert self.filled is not None
        shape = np.array(self.filled.voxels.shape)
        source = self.filled.kji_of(geometry.source_ras)
        # Interpolation spreads a voxel over one index on either side.
        if ((source > -1) & (source < shape)).all():
            raise GeometryError("the source lies inside the patient; move it away or correct the geometry")
        corner, u, v = self.filled.kji_of(geometry.pixel_ras([[0, 0], [1, 0], [0, 1]]))
        if not np.isfinite([source, corner, u, v]).all():
            raise GeometryError("the geometry lies too far from the volume, or its voxels are too small: wrong units?")
        axis = int(np.argmax(np.abs((shape - 1) / 2 - source)))
        across = self.filled.IJKToRAS[:3, 2::-1]
        return Rays(axis, source, corner, u - corner, v - corner, across.T @ across)

    def packed(self, axis: int) -> Packed:
        """What the compiled loops read when they step along an axis, made when first asked for."""
        assert self.filled is not None
        if axis not in self._packed:
            from .compiled import pack

            self._packed[axis] = pack(self.filled.voxels, axis, self.greatest)
        return self._packed[axis]

    def rimmed(self, axis: int) -> _Voxels:
        """What the loops in numpy read when they step along an axis, made when first asked for."""
        assert self.filled is not None
        if axis not in self._rimmed:
            self._rimmed[axis] = with_rim(self.filled.voxels, axis)
        return self._rimmed[axis]


def as_projectable(attenuation: Volume | ProjectableVolume) -> ProjectableVolume:
    """The volume made ready, unless it is already."""
    return attenuation if isinstance(attenuation, ProjectableVolume) else ProjectableVolume.of(attenuation)


def binned(volume: Volume, factors_kji: ArrayLike) -> Volume:
    """A volume of larger voxels, each the mean of those it covers; what lies outside counts as zero.

    Args:
        factors_kji: how many voxels become one along k, j, i.
    """
    factors = np.asarray(factors_kji, int)
    shape = np.array(volume.voxels.shape)
    counts = -(-shape // factors)
    padded = np.pad(volume.voxels, [(0, int(extra)) for extra in counts * factors - shape])
    (k, j, i), (fk, fj, fi) = counts.tolist(), factors.tolist()
    voxels = padded.reshape(k, fk, j, fj, i, fi).mean(axis=(1, 3, 5), dtype=np.float32)
    IJKToRAS = volume.IJKToRAS.copy()
    IJKToRAS[:3, :3] = volume.IJKToRAS[:3, :3] * factors[::-1]
    IJKToRAS[:3, 3] = volume.ras_of((factors - 1) / 2)
    return Volume(voxels, IJKToRAS)
