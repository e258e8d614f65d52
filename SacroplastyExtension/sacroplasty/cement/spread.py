"""Where cement goes: a viscous fluid pushes thin marrow out of porous bone.

Darcy's law with a moving front. Cement is so much more viscous than marrow that all pressure is lost in the cement
(Bohner 2003), and there is none at its front, in the middle of the voxels that are being filled. In each step the
pressure in the cement that is there, div(k grad p) = -source, gives the flow into every voxel at the front, which
moves on; a voxel that is full joins the cement. Even bone fills as a sphere, cement goes round barriers, through holes
in them, and runs ahead where bone is loose. Viscosity sets the pressure and, being the same everywhere, not the shape.
Every step adds exactly what it injects, so volume is conserved.

Cement that is already there (of an earlier depot) is pushed on through as long as it is soft, or stands in the way
once it has set. A cavity takes the first cement and then gives it on from all of its wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import PlanError
from ..geometry import FloatArray, distance_to_segment, unit
from ..image import Volume
from ..planning.model import Balloon, Depot
from .grid import grid_points, local_grid, sample, sample_mask

#: Share of cancellous bone that is marrow; the sacral ala of the old is at the loose end.
CANCELLOUS_POROSITY = 0.85

#: The most that is given into one ala in the technique that is followed (8 mL).
LARGEST_VOLUME_ML = 8.0

#: A tip this far from permeable bone still fills it; farther off it is somewhere else.
_LARGEST_SNAP_MM = 3.0

#: The grid reaches this many radii of the sphere that the cement would be, within these bounds [mm].
_REACH_RADII, _SMALLEST_REACH_MM, _LARGEST_REACH_MM = 2.4, 12.0, 40.0

#: Cement that a step gives on through voxels which it fills, as a share of the step, at most.
_OVERFLOW_SHARE = 0.12

#: Of which a smaller share is not followed any further.
_LEAST_OVERFLOW = 1e-7

#: A voxel is full at least this much later than cement enters it, so that its share is a number.
_SHORTEST_ML = 1e-9

#: Residual of the pressure in the flow that a step starts from.
_PRESSURE_TOLERANCE = 2e-3
_MOST_ITERATIONS = 400


@dataclass(frozen=True)
class Invasion:
    """Voxels of a local grid in the order in which cement reaches them.

    Attributes:
        grid: the local grid (its voxels are the permeable mask).
        kji: (n, 3) voxel indices, earliest first.
        capacity_ml: (n,) cement that each takes.
        begins_ml, full_ml: (n,) volume injected when cement enters it and when it is full.
        room_ml: what all permeable bone takes that hangs together with the tip within the grid; more cannot go
            anywhere in the model.
        solved_ml: volume up to which the front was followed.
    """

    grid: Volume
    kji: NDArray[np.intp]
    capacity_ml: FloatArray
    begins_ml: FloatArray
    full_ml: FloatArray
    room_ml: float
    solved_ml: float

    @property
    def voxel_ras(self) -> FloatArray:
        """(n, 3) centres in the order of filling."""
        return self.grid.ras_of(self.kji)

    def filled_ml(self, volume_ml: float) -> FloatArray:
        """(n,) cement in each voxel after `volume_ml`; what exceeds `room_ml` finds no place.

        Raises:
            ValueError: for a negative volume, or one to which the front was not followed.
        """
        if not volume_ml >= 0:
            raise ValueError(f"volume_ml must be 0 or more, got {volume_ml}")
        if volume_ml >= self.room_ml:
            if self.solved_ml < self.room_ml:
                raise ValueError(f"the spread was followed to {self.solved_ml:.2f} mL, not to {volume_ml:.2f} mL")
            return self.capacity_ml.copy()
        if volume_ml > self.solved_ml + 1e-9:
            raise ValueError(f"the spread was followed to {self.solved_ml:.2f} mL, not to {volume_ml:.2f} mL")
        # Between entering and full a voxel fills evenly; the level at which all add up to the volume is near it.
        low, high = 0.0, float(self.full_ml.max(initial=0.0))
        for _ in range(60):
            level = (low + high) / 2
            if self._at_level(level).sum() < volume_ml:
                low = level
            else:
                high = level
        return self._at_level(high)

    def at(self, volume_ml: float) -> Volume:
        """Cement after `volume_ml`, as the fraction of each voxel of the local grid (float32, 0 to 1).

        Times the attenuation of dense cement this is what X-rays see; above zero it is the cement's mask.
        """
        fraction = np.zeros(self.grid.voxels.shape, np.float32)
        fraction[tuple(self.kji.T)] = self.filled_ml(volume_ml) / self.grid.voxel_volume_ml
        return self.grid.like(fraction)

    def _at_level(self, level_ml: float) -> FloatArray:
        return self.capacity_ml * np.clip((level_ml - self.begins_ml) / (self.full_ml - self.begins_ml), 0.0, 1.0)


def withdrawn_depots(
    tip_ras: ArrayLike, hub_ras: ArrayLike, back_and_volume: Sequence[tuple[float, float]]
) -> tuple[Depot, ...]:
    """Depots of a trocar that is drawn back along its shaft: by how many mm from its first place, and the mL there."""
    tip = np.asarray(tip_ras, float)
    back = unit(np.asarray(hub_ras, float) - tip)
    return tuple(Depot(tip + back_mm * back, volume_ml) for back_mm, volume_ml in back_and_volume)


def resistance_from_hu(hu: NDArray) -> NDArray[np.float32]:
    """Relative resistance of cancellous bone: 1 in fatty marrow (-50 HU and less), 3 from 300 HU on, linear between.

    An assumption: bone density predicts the permeability of human cancellous bone only weakly (Baroud 2004), so the
    range is narrow.
    """
    return np.interp(hu, (-50.0, 300.0), (1.0, 3.0)).astype(np.float32)


def reach_mm(volume_ml: float) -> float:
    """Half the size of a grid in which a volume of cement finds room also when it is not a sphere."""
    radius = (3 * max(volume_ml, 0.0) * 1000 / CANCELLOUS_POROSITY / (4 * math.pi)) ** (1 / 3)
    return float(np.clip(_REACH_RADII * radius, _SMALLEST_REACH_MM, _LARGEST_REACH_MM))


def balloon_cavity(center_ras: ArrayLike, volume_ml: float) -> Volume:
    """The space that a round balloon leaves (boolean, 0.5 mm)."""
    return _capsule(center_ras, center_ras, (3 * volume_ml * 1000 / (4 * math.pi)) ** (1 / 3))


def planned_cavity(balloon: Balloon) -> Volume:
    """The space that a planned balloon leaves, round at both ends (boolean, 0.5 mm)."""
    along = balloon.end_ras - balloon.start_ras
    radius_mm = min(balloon.diameter_mm, float(np.linalg.norm(along))) / 2
    inwards = radius_mm * unit(along)
    return _capsule(balloon.start_ras + inwards, balloon.end_ras - inwards, radius_mm)


def _capsule(start_ras: ArrayLike, end_ras: ArrayLike, radius_mm: float) -> Volume:
    ends = np.array([start_ras, end_ras], float)
    grid = local_grid(ends.mean(axis=0), float(np.linalg.norm(ends[1] - ends[0])) / 2 + radius_mm + 1.0, 0.5)
    return grid.like(distance_to_segment(grid_points(grid), *ends) <= radius_mm)


def invade(
    tip_ras: ArrayLike,
    region: Volume,
    resistance: Volume | None = None,
    porosity: float | Volume = CANCELLOUS_POROSITY,
    until_ml: float = LARGEST_VOLUME_ML,
    spacing_mm: float = 1.0,
    grid: Volume | None = None,
    cavity: Volume | None = None,
    earlier: Volume | None = None,
    earlier_is_soft: bool = True,
) -> Invasion:
    """How cement fills permeable bone around a tip.

    Args:
        tip_ras: where cement leaves the cannula.
        region: mask of what cement can enter, on any grid; all else is a barrier.
        resistance: relative resistance to flow (inverse of the permeability), positive, on any grid; even when missing.
        porosity: fraction of a voxel that cement can fill, 0 to 1; 1 in a void.
        until_ml: volume up to which the front is followed.
        spacing_mm: of the local grid around the tip.
        grid: an isotropic grid to use instead of that.
        cavity: mask of a space without bone, on any grid, which fills first when the tip is in it.
        earlier: cement of earlier depots as fractions of voxels, on any grid. As long as `earlier_is_soft` it is
            pushed on and keeps its room; then it is a barrier.

    Raises:
        PlanError: when the tip is not in or next to permeable bone, or a figure is impossible.
    """
    from scipy.ndimage import label

    tip = np.asarray(tip_ras, float)
    if not np.isfinite(tip).all():
        raise PlanError("the tip's position is not known (NaN); measure it before predicting the spread")
    if not (math.isfinite(until_ml) and until_ml > 0):
        raise PlanError(f"the volume is {until_ml} mL; it must be a positive number")
    if grid is None:
        grid = local_grid(tip, reach_mm(until_ml), spacing_mm)
    permeable = sample_mask(region, grid)
    cost = np.ones(permeable.shape, np.float32) if resistance is None else sample(resistance, grid, outside=1.0)
    if not (np.isfinite(cost).all() and cost.min() > 0):
        raise PlanError("the resistance to flow must be a positive number in every voxel")
    fill = np.full(permeable.shape, porosity) if isinstance(porosity, float | int) else sample(porosity, grid)
    fill = np.clip(fill, 0.0, 1.0).astype(np.float64)
    hollow = np.zeros(permeable.shape, bool) if cavity is None else sample_mask(cavity, grid)
    fill[hollow] = 1.0
    permeable |= hollow
    permeable &= fill > 0
    taken = np.zeros(permeable.shape) if earlier is None else sample(earlier, grid).astype(np.float64)
    taken = np.clip(np.divide(taken, fill, out=np.zeros_like(taken), where=fill > 0), 0.0, 1.0)
    if not earlier_is_soft:
        permeable &= taken < 0.5

    axes = (np.arange(size) - middle for size, middle in zip(permeable.shape, grid.kji_of(tip), strict=True))
    k, j, i = np.meshgrid(*axes, indexing="ij", sparse=True)
    from_tip = np.sqrt(k**2 + j**2 + i**2) * float(grid.spacing_mm[0])
    nearest = float(from_tip[permeable].min()) if permeable.any() else np.inf
    if nearest > _LARGEST_SNAP_MM:
        raise PlanError(
            f"the tip {np.round(tip, 1).tolist()} lies {nearest:.1f} mm from bone that cement can enter; "
            "check the trocar's position against the segmentation"
        )
    start = np.unravel_index(np.argmin(np.where(permeable, from_tip, np.inf)), permeable.shape)
    pieces, _ = label(permeable)
    permeable &= pieces == pieces[start]
    if not hollow[start]:
        hollow[:] = False
    return _follow(grid, permeable, 1.0 / cost, fill * grid.voxel_volume_ml, taken, hollow, start, from_tip, until_ml)


def invade_depots(
    depots: Sequence[Depot],
    region: Volume,
    resistance: Volume | None = None,
    porosity: float | Volume = CANCELLOUS_POROSITY,
    spacing_mm: float = 1.0,
    grid: Volume | None = None,
    cavity: Volume | None = None,
    earlier_is_soft: bool = True,
) -> tuple[Invasion, ...]:
    """Depots one after the other, as through a needle that is withdrawn between them, on one grid.

    Args:
        grid: around the first tip when not given.
        earlier_is_soft: whether the cement of a depot can still be pushed on by that of the next.

    Raises:
        PlanError: as `invade`; also when there are none.
    """
    if not depots:
        raise PlanError("there is no depot to fill; give a tip and a volume")
    tips = np.array([depot.position_ras for depot in depots], float)
    if grid is None:
        reach = reach_mm(sum(depot.volume_ml for depot in depots)) + float(np.linalg.norm(tips - tips[0], axis=1).max())
        grid = local_grid(tips[0], reach, spacing_mm)
    found: list[Invasion] = []
    cement = np.zeros(grid.voxels.shape)
    for depot in depots:
        one = invade(
            depot.position_ras,
            region,
            resistance,
            porosity,
            depot.volume_ml,
            grid=grid,
            cavity=cavity,
            earlier=grid.like(cement) if found else None,
            earlier_is_soft=earlier_is_soft,
        )
        cement = cement + one.at(min(depot.volume_ml, one.room_ml)).voxels
        found.append(one)
    return tuple(found)


def _follow(
    grid: Volume,
    permeable: NDArray[np.bool_],
    permeability: NDArray,
    capacity_ml: FloatArray,
    taken: FloatArray,
    cavity: NDArray[np.bool_],
    start: tuple,
    from_tip: FloatArray,
    until_ml: float,
) -> Invasion:
    """Let the front move until the volume is in or there is no room left.

    Args:
        taken: share of each voxel's capacity that earlier cement holds; only the rest is filled now.
        from_tip: distance of each voxel from the tip, by which a cavity fills.
    """
    # Flat, with a border of barrier around, so that neighbors are at fixed offsets.
    inside = np.pad(permeable, 1).ravel()
    k = np.pad(permeability.astype(np.float64), 1, constant_values=1.0).ravel()
    capacity = np.where(inside, np.pad(capacity_ml, 1).ravel(), 0.0)
    filled = capacity * np.pad(taken, 1).ravel()
    left = capacity - filled
    room_ml = float(left.sum())
    begins, full = np.full(inside.shape, np.inf), np.full(inside.shape, np.inf)
    padded = tuple(size + 2 for size in permeable.shape)

    # A cavity fills from the tip on.
    first = np.flatnonzero(np.pad(cavity & permeable, 1).ravel())
    first = first[np.argsort(np.pad(from_tip, 1).ravel()[first], kind="stable")]
    if not first.size:
        first = np.array([np.ravel_multi_index(tuple(int(index) + 1 for index in start), padded)])
    full[first] = np.cumsum(left[first])
    begins[first] = full[first] - left[first]
    filled[first] = capacity[first]
    cement = _Cement(k, padded)
    cement.begin(first)
    volume_ml = float(left[first].sum())
    while volume_ml < until_ml:
        inner, outer = cement.border(inside)
        if not outer.size:
            volume_ml = room_ml
            break
        touched = outer[filled[outer] >= capacity[outer]]
        if touched.size:
            # Soft cement of an earlier depot passes the flow on.
            cement.join(np.unique(touched))
            continue
        flow = cement.flow_out(inner, 2 / (1 / k[inner] + 1 / k[outer]))
        front, position = np.unique(outer, return_inverse=True)
        into = np.bincount(position, weights=flow)
        step_ml = _step(capacity[front] - filled[front], into)
        begins[front] = np.minimum(begins[front], volume_ml)
        before_ml, arriving = filled.copy(), np.zeros_like(filled)
        arriving[front] = into * step_ml
        while front.size:
            # What a voxel cannot take goes on into those behind it, or a narrow channel would be held up.
            room = capacity[front] - filled[front]
            done = arriving[front] >= room
            over = arriving[front[done]] - room[done]
            since = np.maximum(begins[front[done]], volume_ml)
            when = since + (volume_ml + step_ml - since) * (1 - over / arriving[front[done]])
            filled[front] = np.where(done, capacity[front], filled[front] + arriving[front])
            arriving[front] = 0.0
            full[front[done]] = np.maximum(when, begins[front[done]] + _SHORTEST_ML)
            cement.join(front[done])
            inner, outer, share = cement.behind(front[done], inside)
            arriving += np.bincount(outer, over[inner] * share, arriving.size)
            np.minimum.at(begins, outer, when[inner])
            front = np.unique(outer[over[inner] > _LEAST_OVERFLOW * step_ml])
        volume_ml += float((filled - before_ml).sum())
    # What the front has reached but not filled goes on as before.
    part = np.flatnonzero(np.isfinite(begins) & ~np.isfinite(full) & (left > 0))
    share = 1 - (capacity[part] - filled[part]) / left[part]
    full[part] = begins[part] + np.maximum(volume_ml - begins[part], _SHORTEST_ML) / np.maximum(share, 1e-9)

    reached = np.flatnonzero(np.isfinite(begins) & (left > 0))
    reached = reached[np.argsort(begins[reached], kind="stable")]
    kji = np.stack(np.unravel_index(reached, padded), axis=1) - 1
    return Invasion(grid.like(permeable), kji, left[reached], begins[reached], full[reached], room_ml, volume_ml)


def _step(rest: NDArray, into: NDArray) -> float:
    """How much to inject before the flow is worked out anew, in mL.

    As many voxels may fill at once as leaves what flows on through them a small share.
    """
    flowing = into > 0
    lasts = np.where(flowing, rest / np.where(flowing, into, 1.0), np.inf)
    order = np.argsort(lasts)
    step = lasts[order]
    overflow = step * np.cumsum(into[order]) - np.cumsum(rest[order])
    enough = np.flatnonzero(np.isfinite(step) & (overflow <= _OVERFLOW_SHARE * step))
    return float(step[enough[-1]])


class _Cement:
    """The voxels that are full, and the pressure in them for a source of unit flow in the first."""

    def __init__(self, permeability: FloatArray, shape: tuple[int, ...]) -> None:
        self._k = permeability
        row, layer = shape[2], shape[1] * shape[2]
        self._offsets = (1, -1, row, -row, layer, -layer)
        self._unknown = np.full(permeability.shape, -1)
        self._voxels = np.empty(0, int)
        self._edges: list[tuple[NDArray, NDArray, FloatArray]] = []
        self._pressure: NDArray = np.empty(0)

    def begin(self, voxels: NDArray) -> None:
        """The source: one pressure throughout, so one unknown stands for all of it."""
        self._voxels = voxels
        self._unknown[voxels] = 0
        self._pressure = np.ones(1)

    def join(self, voxels: NDArray) -> None:
        """More voxels, each with a pressure of its own."""
        self._unknown[voxels] = len(self._pressure) + np.arange(len(voxels))
        self._voxels = np.concatenate([self._voxels, voxels])
        self._pressure = np.concatenate([self._pressure, np.zeros(len(voxels))])
        new = self._unknown >= len(self._pressure) - len(voxels)
        for offset in self._offsets:
            other = voxels + offset
            # Two voxels that join together would find each other twice.
            ours = (self._unknown[other] >= 0) & (~new[other] | (offset > 0))
            mine, other = voxels[ours], other[ours]
            self._edges.append(
                (self._unknown[mine], self._unknown[other], 2 / (1 / self._k[mine] + 1 / self._k[other]))
            )

    def border(self, inside: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
        """Pairs of a full voxel and a neighbor that cement can enter."""
        pairs = []
        for offset in self._offsets:
            other = self._voxels + offset
            free = inside[other] & (self._unknown[other] < 0)
            pairs.append((self._voxels[free], other[free]))
        return np.concatenate([one for one, _ in pairs]), np.concatenate([two for _, two in pairs])

    def behind(self, voxels: NDArray, inside: NDArray[np.bool_]) -> tuple[NDArray, NDArray, NDArray]:
        """Where flow goes on from full voxels: their positions in `voxels`, neighbors, and the share of each."""
        one, two = [], []
        for offset in self._offsets:
            other = voxels + offset
            free = np.flatnonzero(inside[other] & (self._unknown[other] < 0))
            one.append(free)
            two.append(other[free])
        inner, outer = np.concatenate(one), np.concatenate(two)
        total = np.bincount(inner, self._k[outer], len(voxels))
        return inner, outer, self._k[outer] / total[inner]

    def flow_out(self, inner: NDArray, conductance: FloatArray) -> FloatArray:
        """Flow through each face of the border, whose other side has no pressure; together 1."""
        from scipy.sparse import csr_matrix

        count = len(self._pressure)
        ids = self._unknown[inner]
        diagonal = np.bincount(ids, weights=conductance, minlength=count)
        if self._edges:
            one, two, weight = (np.concatenate(part) for part in zip(*self._edges, strict=True))
            self._edges = [(one, two, weight)]
            both = np.concatenate([one, two])
            diagonal += np.bincount(both, weights=np.concatenate([weight, weight]), minlength=count)
            links = csr_matrix((np.concatenate([weight, weight]), (both, np.concatenate([two, one]))), (count, count))
        else:
            links = csr_matrix((count, count))
        self._pressure = _solve(links, diagonal, self._pressure)
        flow = np.maximum(conductance * self._pressure[ids], 0.0)
        return flow / flow.sum()


def _solve(links: Any, diagonal: NDArray, pressure: NDArray) -> NDArray:
    """Pressure for a unit source in the first unknown: conjugate gradients from the last pressure on."""
    source = np.zeros_like(diagonal)
    source[0] = 1.0
    residual = source - (diagonal * pressure - links @ pressure)
    scaled = residual / diagonal
    direction, size = scaled, float(residual @ scaled)
    for _ in range(_MOST_ITERATIONS):
        if np.abs(residual).sum() <= _PRESSURE_TOLERANCE:
            break
        image = diagonal * direction - links @ direction
        step = size / float(direction @ image)
        pressure = pressure + step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        size, last = float(residual @ scaled), size
        direction = scaled + size / last * direction
    return pressure
