"""An exhaustive search on a fine grid, written apart from the planner: what a plan is measured against.

Labels are laid on a grid of 0.5 mm and distances measured there; nothing of the planner is used. Entries are 1 mm and
targets 1.5 mm apart, and every pair is tried from the tip to 60 mm behind its entry; around the best one the grid is
made finer twice.

Nothing is lost by rejecting pairs early: the distance at a point is interpolated between eight grid points, so it is
never larger than the largest of the 27 around the nearest one. A pair is rejected where that bound is below what is
needed at one of its points, and the others are measured in the order of their bounds until no bound is better than
what was found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sacroplasty.anatomy.cortex import within_cortex
from sacroplasty.anatomy.labels import BONE_LABEL, LEVELS, NERVE_BORDER, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.geometry import FloatArray, invert_rigid, rigid, transform_points, unit
from sacroplasty.image import Volume, box_around

_GRID_MM = 0.5
#: Larger distances decide nothing.
_REACH_MM = 14.0
_JOINT_MM = 3.0
#: Normals are those of the level smoothed by this.
_NORMAL_MM = 1.0
_BEHIND_MM = 60.0
#: Entries beside the S2 foramen edge, least depth, and least part of the axis along the foramina: the short axis.
BESIDE_MM, _LEAST_DEPTH_MM, _LEAST_BACKWARDS = (4.5, 28.0), 12.0, 0.5
#: The grid around the sacrum: to the sides, behind, and below the S4 foramina.
_RIM_MM, _OUT_MM, _BELOW_MM = 10.0, 35.0, 25.0
#: So much a shown distance is short of that on the labels: for the planner's grid, and the scanner's point spread.
_GRID_DOUBT_MM, _POINT_SPREAD_MM = 0.11, 0.6
#: Voxels whose sides differ by no more count as cubes, whose surfaces are off by as much in every direction.
_CUBE = 1.2
#: Dense bone without a label, so far lateral and so large, counts as hip [HU, mm, mm3].
_UNCLAIMED_HU, _UNCLAIMED_LATERAL_MM, _UNCLAIMED_MM3 = 250.0, 22.0, 200.0
#: Bone that the label misses: so far behind it, at least half as bright as the brightest within a reach, but no less
#: than half as faint cortex [mm, mm, HU]; soft tissue [HU].
_MISSED_MM, _CORTEX_MM, _FAINT_HU, _SOFT_HU = 6.0, 3.0, 200.0, 50.0
#: Steps of entries [mm] and of targets [grid points]; around the best pair 7 steps of so many mm along each axis.
_ENTRY_MM, _TARGET_STEPS, _FINER_MM = 1.0, 3, (0.35, 0.1)
#: So much more than the best on the grid a pair between may keep.
_BETWEEN_MM = 0.5
#: So many pairs are measured at a time; of the best so many are looked at closer that differ by so much at an end [mm].
_MEASURED, _APART, _APART_MM = 500, 6, 2.5
#: Where along the way a pair is looked at first: as shares of the way to the entry, then behind it [mm].
_FIRST_SHARES, _FIRST_BEHIND_MM = (0.5, 0.25, 0.75), (4.0, 10.0, 18.0, 30.0)


@dataclass(frozen=True)
class Corridor:
    """A pair of view points, and what its axis keeps from everything."""

    kept_mm: float
    entry: FloatArray
    target: FloatArray


@dataclass(frozen=True)
class Zone:
    """Where the short axis enters and aims on one side.

    Attributes:
        outwards: 1 to the left, -1 to the right.
        edge_mm: left coordinate of the lateral edge of the S2 foramen.
        up_mm: lowest and highest entry.
        back_mm: [left, up] where the bone ends behind, NaN beside it.
        aim: grid points that may be targets.
    """

    outwards: float
    edge_mm: float
    up_mm: tuple[float, float]
    back_mm: FloatArray
    aim: NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """Fields of one side on a grid [left, back, up] of 0.5 mm.

    Attributes:
        distance_mm: from each structure by name, less the doubt about labels.
    """

    ViewToRAS: FloatArray
    origin_mm: FloatArray
    distance_mm: dict[str, NDArray[np.float32]]
    zone: Zone

    def widest(
        self,
        needed_mm: float,
        without: Collection[str] = (),
        lateral_mm: tuple[float, float] = BESIDE_MM,
        enough_mm: float = np.inf,
    ) -> Corridor | None:
        """The corridor whose axis keeps the most; None where none keeps `needed_mm`.

        Args:
            without: structures that do not count.
            lateral_mm: least and most that the entry lies lateral to the edge of the S2 foramen.
            enough_mm: a corridor that keeps as much ends the search.
        """
        room = np.minimum.reduce([values for name, values in self.distance_mm.items() if name not in without])
        bound = ndimage.maximum_filter(room, 3)
        low, high = self.zone.up_mm
        x, z = np.meshgrid(np.arange(*lateral_mm, _ENTRY_MM), np.arange(low, high, _ENTRY_MM), indexing="ij")
        entries = self._entries(x.ravel(), z.ravel(), lateral_mm)
        aim = np.argwhere(self.zone.aim[::_TARGET_STEPS, ::_TARGET_STEPS, ::_TARGET_STEPS]) * _TARGET_STEPS
        found = self._best(
            room, bound, entries, self.origin_mm + aim * _GRID_MM, needed_mm - _BETWEEN_MM, enough_mm, most=_APART
        )
        for step in _FINER_MM:
            if not found or found[0].kept_mm >= enough_mm:
                break
            near = step * np.arange(-3, 4)
            finer: list[Corridor] = []
            for corridor in found:
                beside = self.zone.outwards * (corridor.entry[0] - self.zone.edge_mm)
                x, z = np.meshgrid(beside + near, corridor.entry[2] + near, indexing="ij")
                around = np.stack(np.meshgrid(near, near, near, indexing="ij"), axis=-1).reshape(-1, 3)
                around = corridor.target + around
                around = around[self._nearest(self.zone.aim, around)]
                entries = self._entries(x.ravel(), z.ravel(), lateral_mm)
                finer += self._best(room, bound, entries, around, corridor.kept_mm, enough_mm, most=1) or [corridor]
            found = sorted(finer, key=lambda corridor: -corridor.kept_mm)[:2]
        best = max(found, key=lambda corridor: corridor.kept_mm, default=None)
        return None if best is None or best.kept_mm < needed_mm else best

    def _entries(self, beside_mm: FloatArray, up_mm: FloatArray, lateral_mm: tuple[float, float]) -> FloatArray:
        """Points (n, 3) of the back of the bone at places (m,) lateral to the S2 foramen, those within the zone."""
        zone = self.zone
        kept = (beside_mm >= lateral_mm[0]) & (beside_mm <= lateral_mm[1])
        kept &= (up_mm >= zone.up_mm[0]) & (up_mm <= zone.up_mm[1])
        x, z = zone.edge_mm + zone.outwards * beside_mm[kept], up_mm[kept]
        place = np.rint((np.column_stack([x, z]) - self.origin_mm[[0, 2]]) / _GRID_MM).astype(int)
        place = np.clip(place, 0, np.array(zone.back_mm.shape) - 1)
        entries = np.column_stack([x, zone.back_mm[place[:, 0], place[:, 1]], z])
        return entries[np.isfinite(entries[:, 1])]

    def _best(
        self,
        room: NDArray,
        bound: NDArray,
        entries: FloatArray,
        targets: FloatArray,
        needed_mm: float,
        enough_mm: float,
        most: int,
    ) -> list[Corridor]:
        """Of all pairs of entries (n, 3) and targets (m, 3) the one that keeps the most, and others apart from it."""
        entries, targets = (points[self._nearest(bound, points) >= needed_mm] for points in (entries, targets))
        pairs, bounds = [np.zeros((0, 2), int)], [np.zeros(0)]
        for number, entry in enumerate(entries):
            kept, least = self._not_rejected(bound, entry, targets, needed_mm)
            pairs.append(np.column_stack([np.full(len(kept), number), kept]))
            bounds.append(least)
        pair, least = np.concatenate(pairs), np.concatenate(bounds)
        order = np.argsort(-least, kind="stable")
        kept_mm = np.full(len(order), -np.inf)
        for start in range(0, len(order), _MEASURED):
            part = order[start : start + _MEASURED]
            if not max(needed_mm, kept_mm.max()) <= least[part[0]] or kept_mm.max() >= enough_mm:
                break
            kept_mm[part] = self._least(room, entries[pair[part, 0]], targets[pair[part, 1]])
        found: list[Corridor] = []
        order = np.argsort(-kept_mm, kind="stable")
        order = order[kept_mm[order] >= needed_mm]
        while len(order) and len(found) < most:
            corridor = Corridor(float(kept_mm[order[0]]), entries[pair[order[0], 0]], targets[pair[order[0], 1]])
            found.append(corridor)
            away = [
                np.linalg.norm(points[pair[order, n]] - end, axis=1)
                for n, (points, end) in enumerate(((entries, corridor.entry), (targets, corridor.target)))
            ]
            order = order[np.maximum(*away) >= _APART_MM]
        return found

    def kept_mm(self, skin_ras: FloatArray, target_ras: FloatArray) -> float:
        """What an axis in RAS keeps from whichever structure is nearest."""
        ends = transform_points(invert_rigid(self.ViewToRAS), np.stack([skin_ras, target_ras]))
        room = np.minimum.reduce(list(self.distance_mm.values()))
        return float(self._least(room, ends[:1], ends[1:], behind_mm=0.0)[0])

    def _not_rejected(
        self, bound: NDArray, entry: FloatArray, targets: FloatArray, needed_mm: float
    ) -> tuple[NDArray[np.int_], FloatArray]:
        """Indices of the targets that an entry may be paired with, and the least bound along their ways."""
        way = entry - targets
        length = np.linalg.norm(way, axis=1)
        kept = np.flatnonzero((length >= _LEAST_DEPTH_MM) & (way[:, 1] >= _LEAST_BACKWARDS * length))
        least = np.full(len(kept), np.inf, np.float32)
        looks = [share * length[:, None] for share in _FIRST_SHARES]
        looks += [length[:, None] + behind for behind in _FIRST_BEHIND_MM]
        longest = float(length.max()) + _BEHIND_MM
        looks += [np.minimum(np.arange(first, longest, 8.0), length[:, None] + _BEHIND_MM) for first in range(8)]
        for along in looks:
            if not len(kept):
                break
            points = targets[kept, None] + (along[kept] / length[kept, None])[..., None] * way[kept, None]
            least = np.minimum(least, self._nearest(bound, points).min(axis=1))
            passed = least >= needed_mm
            kept, least = kept[passed], least[passed]
        return kept, least

    def _nearest(self, values: NDArray, points: FloatArray) -> NDArray:
        """Values at the grid points nearest to view points (..., 3), beyond the grid at its border."""
        index = np.rint((points - self.origin_mm) / _GRID_MM).astype(np.int32)
        index = np.clip(index, 0, np.array(values.shape) - 1)
        return values[index[..., 0], index[..., 1], index[..., 2]]

    def _least(
        self, values: NDArray, entries: FloatArray, targets: FloatArray, behind_mm: float = _BEHIND_MM
    ) -> FloatArray:
        """The least interpolated value along each of the axes (n, 3) to (n, 3)."""
        way = entries - targets
        length = np.linalg.norm(way, axis=1)
        along = np.minimum(np.arange(0, float(length.max()) + behind_mm, 0.5), length[:, None] + behind_mm)
        points = targets[:, None] + (along / length[:, None])[..., None] * way[:, None]
        index = np.moveaxis((points - self.origin_mm) / _GRID_MM, -1, 0)
        return ndimage.map_coordinates(values, index, order=1, mode="nearest").min(axis=1)


class _Grid:
    """The grid of 0.5 mm of one side, and what is laid on it."""

    def __init__(self, anatomy: Anatomy, side: str) -> None:
        left = anatomy.SacrumToRAS[:3, 0]
        ways = [
            unit(item.posterior.center_ras - item.anterior.center_ras)
            for name, item in anatomy.foramina.items()
            if "s4" not in name
        ]
        back = np.mean(ways, axis=0)
        back = unit(back - (back @ left) * left)
        self.ViewToRAS = rigid(np.column_stack([left, back, np.cross(left, back)]), anatomy.SacrumToRAS[:3, 3])
        self.RASToView = invert_rigid(self.ViewToRAS)
        bone = anatomy.bones.ras_of(np.argwhere(anatomy.bone("sacrum")))
        bone = transform_points(self.RASToView, bone)
        tip = min(transform_points(self.RASToView, item.posterior.center_ras)[2] for item in anatomy.foramina.values())
        self.low_mm = np.maximum(bone.min(axis=0) - _RIM_MM, [-np.inf, -np.inf, tip - _BELOW_MM])
        high_mm = bone.max(axis=0) + np.array([_RIM_MM, _OUT_MM, _RIM_MM])
        # The other half is too far away to count.
        if side == "left":
            self.low_mm[0] = 0.0
        else:
            high_mm[0] = 0.0
        self.axes = [np.arange(a, b, _GRID_MM) for a, b in zip(self.low_mm, high_mm, strict=True)]
        self.shape = tuple(len(axis) for axis in self.axes)
        spacing = anatomy.bones.spacing_mm
        # How far the border of a label is open along each axis of the image: half a voxel and the point spread.
        axes = self.RASToView[:3, :3] @ anatomy.bones.IJKToRAS[:3, :3] / spacing
        self._open_mm = (axes * np.hypot(spacing / 2, _POINT_SPREAD_MM)).T

    @property
    def half_voxel_mm(self) -> float:
        """The most that a label leaves open."""
        return float(np.linalg.norm(self._open_mm, axis=1).max())

    def laid(self, image: Volume, values: NDArray) -> NDArray[np.float32]:
        """Voxels on the grid of an image, interpolated at the grid points."""
        level = np.zeros(self.shape, np.float32)
        used = box_around(values != 0, 1)
        if used is None:
            return level
        ends = [(part.start - 1, part.stop) for part in used]
        corners = image.ras_of([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]])
        reached = (transform_points(self.RASToView, corners) - self.low_mm) / _GRID_MM
        first = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, self.shape)
        last = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, 0, self.shape)
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        RASToKJI = image.RASToIJK[[2, 1, 0]]
        matrix = RASToKJI[:, :3] @ self.ViewToRAS[:3, :3] * _GRID_MM
        offset = RASToKJI[:, :3] @ transform_points(self.ViewToRAS, self.low_mm + first * _GRID_MM) + RASToKJI[:, 3]
        offset = offset - [part.start for part in used]
        shape = tuple(last - first)
        level[box] = ndimage.affine_transform(
            values[used].astype(np.float32), matrix, offset, output_shape=shape, order=1
        )
        return level

    def distance(self, level: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distance from where a level is one half, less what labels and the planner's grid leave open."""
        away = np.full(self.shape, _REACH_MM, np.float32)
        box = box_around(level >= 0.5, int(_REACH_MM / _GRID_MM) + 2)
        if box is None:
            return away
        steps, way = _to_nearest(level[box])
        length = np.maximum(np.sqrt(sum(part * part for part in way)), 1e-3)
        doubt = self.doubt_mm([part / length for part in way])
        away[box] = np.minimum(steps - doubt - _GRID_DOUBT_MM, _REACH_MM)
        return away

    def doubt_mm(self, normal: Sequence[NDArray]) -> NDArray[np.float32]:
        """What a label leaves open about the place of surfaces with normals in three parts."""
        sizes = np.linalg.norm(self._open_mm, axis=1)
        if sizes.max() <= _CUBE * sizes.min():
            return np.full(1, sizes.max(), np.float32)
        along = [np.abs(sum(part * size for part, size in zip(normal, axis, strict=True))) for axis in self._open_mm]
        return np.maximum.reduce(along)


def make_reference(anatomy: Anatomy, ct: Volume, side: str) -> Reference:
    """The reference of one side for the short axis."""
    grid = _Grid(anatomy, side)
    sign = 1.0 if side == "left" else -1.0
    regions = _border_to_nearest(anatomy)
    nerves = {
        name: grid.laid(anatomy.regions, regions == REGION_LABEL[name])
        for name in ("sacral_canal", *(f"foramen_{level}_{side}" for level in LEVELS))
    }
    hollow = grid.laid(anatomy.regions, anatomy.canal_and_foramina())
    bone = within_cortex(anatomy.bones.like(anatomy.bone("sacrum")), ct)
    sacrum = _without_gaps(grid.laid(bone, bone.voxels), hollow)
    hip = grid.laid(anatomy.bones, anatomy.bones.voxels == BONE_LABEL[f"hip_{side}"])
    hip = np.maximum(hip, _unclaimed(grid, anatomy, ct, sacrum >= 0.5, sign))
    sacrum = np.maximum(sacrum, np.minimum(_missed_behind(grid, anatomy, ct, sacrum), 1 - hollow))
    joint = _joint(sacrum, hip, grid.half_voxel_mm)
    named = np.maximum.reduce([*nerves.values(), hip, joint])
    solid = sacrum >= 0.5
    hit, depth = solid.any(axis=1), grid.axes[1]
    front = np.where(hit, depth[np.argmax(solid, axis=1)], np.nan)
    rear = np.where(hit, depth[::-1][np.argmax(solid[:, ::-1], axis=1)], np.nan)
    levels = nerves | {
        f"hip_{side}": hip,
        f"si_joint_{side}": joint,
        "anterior_cortex": np.where(_off_limits(grid, sacrum, rear) & (named < 0.5), 1 - sacrum, 0),
    }
    edges = {
        level: transform_points(grid.RASToView, anatomy.foramina[f"foramen_{level}_{side}"].lateral_edge_ras)
        for level in ("s2", "s3")
    }
    zone = Zone(
        sign,
        float(edges["s2"][0]),
        (float(edges["s3"][2]) - 4.0, float(edges["s2"][2]) + 8.0),
        rear,
        _aim(anatomy, side, grid, front, rear),
    )
    distance = {name: grid.distance(level) for name, level in levels.items()}
    return Reference(grid.ViewToRAS, grid.low_mm, distance, zone)


def _without_gaps(bone: NDArray[np.float32], hollow: NDArray[np.float32]) -> NDArray[np.float32]:
    """The level of the sacrum without the gaps of its label and what they enclose; canal and foramina stay out."""
    box = box_around(bone >= 0.5, 8)
    part, space = bone[box], hollow[box]
    grown = ndimage.distance_transform_edt(part < 0.5) * _GRID_MM <= 2.0
    closed = ndimage.distance_transform_edt(np.pad(grown, 8, mode="edge"))[8:-8, 8:-8, 8:-8] * _GRID_MM > 2.0
    filled = ndimage.binary_fill_holes(closed | (part >= 0.5) | (space >= 0.5))
    whole = np.where(ndimage.binary_erosion(filled, border_value=1), 1, np.maximum(part + space, 0.5 * filled))
    level = np.zeros_like(bone)
    level[box] = np.minimum(whole, 1 - space)
    return level


def _missed_behind(grid: _Grid, anatomy: Anatomy, ct: Volume, sacrum: NDArray[np.float32]) -> NDArray[np.float32]:
    """Level of bright bone behind the sacrum that its label ends short of; one half is half way down the CT's edge."""
    solid = sacrum >= 0.5
    density = ndimage.gaussian_filter(grid.laid(ct, ct.voxels), 0.5 * float(np.mean(ct.spacing_mm)) / _GRID_MM)
    other = grid.laid(anatomy.bones, (anatomy.bones.voxels > 0) & (anatomy.bones.voxels != BONE_LABEL["sacrum"]))
    free = ndimage.distance_transform_edt(other <= 0) * _GRID_MM > 2.0
    span = 2 * int(_CORTEX_MM / _GRID_MM) + 1
    cortex = ndimage.maximum_filter(np.where(free, density, _SOFT_HU), span)
    level = np.clip((density - _SOFT_HU) / (np.maximum(cortex, _FAINT_HU) - _SOFT_HU), 0, 1)
    depth = np.arange(solid.shape[1])[None, :, None]
    last = np.where(solid, depth, -1).max(axis=1)
    beside = ndimage.distance_transform_edt(last < 0, return_distances=False, return_indices=True)
    bright = (level >= 0.5) & free & (depth > last[tuple(beside)][:, None, :])
    bright &= ndimage.distance_transform_edt(~solid) * _GRID_MM <= _MISSED_MM
    parts, _ = ndimage.label(bright | solid)
    bone = bright & np.isin(parts, np.unique(parts[solid]))
    rim = ndimage.binary_dilation(bone, iterations=2) & free & (depth > last[tuple(beside)][:, None, :])
    return np.where(rim, level, 0).astype(np.float32)


def _unclaimed(grid: _Grid, anatomy: Anatomy, ct: Volume, sacrum: NDArray[np.bool_], sign: float) -> NDArray[np.bool_]:
    """Dense bone of the CT beside the sacrum that no label claims."""
    density = ndimage.uniform_filter(grid.laid(ct, ct.voxels), int(3 / _GRID_MM))
    claimed = (grid.laid(anatomy.bones, anatomy.bones.voxels > 0) >= 0.5) | sacrum
    away = ndimage.distance_transform_edt(~claimed) * _GRID_MM
    dense = density >= _UNCLAIMED_HU
    lateral = (sign * grid.axes[0] > _UNCLAIMED_LATERAL_MM)[:, None, None]
    parts, _ = ndimage.label(dense & lateral & (away > 2.0))
    large = np.bincount(parts.ravel()) * _GRID_MM**3 >= _UNCLAIMED_MM3
    large[0] = False
    if not large.any():
        return np.zeros(grid.shape, bool)
    return (ndimage.distance_transform_edt(~large[parts]) * _GRID_MM <= 2.0) & dense & ~sacrum


def _joint(sacrum: NDArray[np.float32], hip: NDArray[np.float32], open_mm: float) -> NDArray[np.float32]:
    """The level of what lies between sacrum and hip, within 3 mm of both or as far as labels leave open."""
    joint = np.zeros_like(sacrum)
    boxes = [box_around(level >= 0.5, 14) for level in (sacrum, hip)]
    if boxes[1] is None:
        return joint
    box = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(*boxes, strict=True))
    bones = [sacrum[box], hip[box]]
    near = [_to_nearest(bone)[0] <= _JOINT_MM + open_mm for bone in bones]
    between = near[0] & near[1] & (bones[0] < 0.5) & (bones[1] < 0.5)
    joint[box] = np.where(between, np.maximum(1 - np.maximum(*bones), 0.5), 0)
    return joint


def _off_limits(grid: _Grid, sacrum: NDArray[np.float32], rear: FloatArray) -> NDArray[np.bool_]:
    """What lies in front of the back of the sacrum, continued beside it, and beside walls that may not face the back.

    A wall faces the back where its normal has a fifth along the foramina even if the label is off over 3 mm of it.
    Beside an edge the normals turn late by as much as they are smoothed: so far around a wall is wall.
    """
    known = np.isfinite(rear)
    beside = rear[tuple(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))]
    solid = sacrum >= 0.5
    away = ndimage.distance_transform_cdt(~solid, "taxicab") * _GRID_MM
    near = np.nonzero((away <= _GRID_MM) & ~solid)
    smooth = ndimage.gaussian_filter(sacrum, _NORMAL_MM / _GRID_MM)
    normal = -np.stack([np.gradient(smooth, axis=axis)[near] for axis in range(3)])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    off = np.arctan((grid.doubt_mm(normal) + _GRID_DOUBT_MM) / 3.0)
    wall = np.zeros(solid.shape, bool)
    wall[near] = np.arccos(np.clip(normal[1], -1, 1)) + off > np.arccos(0.2)
    wall = ndimage.binary_dilation(wall, iterations=round(_NORMAL_MM / _GRID_MM)) & (away <= 1.0)
    return (wall | (grid.axes[1][None, :, None] < beside[:, None, :])) & ~solid


def _to_nearest(level: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Distance in mm of each grid point from where a level is one half, and the way to the nearest point inside.

    The surface lies outside of that point by what its level is above one half over the level's slope there.
    """
    inside = level >= 0.5
    if not inside.any():
        return np.full(level.shape, _REACH_MM, np.float32), [np.ones(level.shape, np.float32)] * 3
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    way = [
        (nearest[axis] - np.arange(size).reshape([-1 if axis == n else 1 for n in range(3)])).astype(np.float32)
        for axis, size in enumerate(level.shape)
    ]
    slope = np.sqrt(sum(np.square(part) for part in np.gradient(level)))
    beyond = np.minimum((level - 0.5) / np.maximum(slope, 0.1), 1.5) * _GRID_MM
    steps = np.sqrt(sum(part * part for part in way)) * _GRID_MM
    return (steps - beyond[tuple(nearest)]).astype(np.float32), way


def _aim(anatomy: Anatomy, side: str, grid: _Grid, front: FloatArray, rear: FloatArray) -> NDArray[np.bool_]:
    """The ala's front three fifths, within 24 mm of the middle of S1's height."""
    ala = grid.laid(anatomy.regions, anatomy.regions.voxels == REGION_LABEL[f"ala_{side}"]) > 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (grid.axes[1][None, :, None] - front[:, None, :]) / (rear - front)[:, None, :]
    ala &= part <= 0.6
    place = np.nonzero(ala)
    points = grid.low_mm + np.column_stack(place) * _GRID_MM
    below = -transform_points(invert_rigid(anatomy.SacrumToRAS) @ grid.ViewToRAS, points)[:, 2]
    ala[place] = np.abs(below - 12.0) <= 24.0
    return ala


def _border_to_nearest(anatomy: Anatomy) -> NDArray:
    """Regions whose unsure border belongs to the nearest canal or foramen."""
    regions = anatomy.regions.voxels.copy()
    border = regions == REGION_LABEL[NERVE_BORDER]
    box = box_around(border, 4)
    if box is None:
        return regions
    part = regions[box]
    nearest = ndimage.distance_transform_edt(
        ~((part > 0) & (part < REGION_LABEL[NERVE_BORDER])),
        sampling=anatomy.regions.spacing_mm[::-1],
        return_distances=False,
        return_indices=True,
    )
    regions[box] = np.where(border[box], part[tuple(nearest)], part)
    return regions
