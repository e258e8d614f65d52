"""What a trocar must not touch, as distance fields."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..anatomy.labels import LEVELS, REGION_LABEL, SIDES, VESSELS
from ..anatomy.model import Anatomy
from ..anatomy.regions import border_joined
from ..anatomy.surroundings import JOINT_REACH_MM, joint_space
from ..errors import PlanError
from ..geometry import FloatArray
from ..image import Volume, box_around
from .sacrum_view import STEP_MM, Level, Mask, SacrumView, grown, near_sacrum

#: Larger distances decide nothing [mm].
REACH_MM = 20.0
#: A trocar passes the wall of the sacrum only where it faces the back: where its outward normal has at least this part
#: along the foramina (78 degrees between them at most) and nothing of the sacrum lies behind it.
_FACES_BACK = 0.2
#: Over the width of a trocar the surface of a label is off by the doubt [mm].
_PATCH_MM = 3.0
#: What a shaft of 3 mm and interpolation add to a distance at most, see `Doubt` [mm].
_SHAFT_DOUBT_MM = 0.11
#: Grid points inside of a structure miss what lies between them: distances from them are too large by as much on
#: average, by up to 0.8 at corners of labels [mm]. `CloseLook` measures without them.
GRID_DOUBT_MM = 0.3
#: Standard deviation of the point spread of a CT with a usual kernel [mm], half a voxel of 1.2 mm.
_POINT_SPREAD_MM = 0.6
#: Bone that no label claims counts as hip: from this density [HU], so far lateral [mm], in pieces of this size [mm3].
_UNCLAIMED_HU, _UNCLAIMED_LATERAL_MM, _UNCLAIMED_MM3 = 250.0, 22.0, 200
#: Voxels whose sides differ by no more than this count as cubes.
_CUBE = 1.2
#: The highest level outside of a structure.
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
#: The surface of a structure lies at most so far outside of its outermost grid points [mm].
_FARTHEST_SURFACE_MM = 1.0

#: Structures without which nothing may be planned on a side; `{side}` is filled in.
NEEDED = ("sacral_canal", *(f"foramen_{level}_{{side}}" for level in LEVELS), "si_joint_{side}", "hip_{side}")
NERVES = ("sacral_canal", *(f"foramen_{level}_{side}" for level in LEVELS for side in SIDES))
PRESACRAL = "anterior_cortex"


@dataclass(frozen=True)
class Doubt:
    """How far a measured distance may be above the real one.

    Of the points that are looked at: that of a surface which is nearest lies up to half a face's diagonal beside the
    one that its distance is read from, which at a clearance of 3 mm and a trocar of 3 mm adds 0.5 / (2 x 4.5) mm, and
    interpolation in a field that bends as that of a rod adds as much again. Of the label: along each axis of the image
    the border between two voxels is off by up to half of one, and the scanner's point spread leaves it open as well; a
    surface is off by the part of both that lies along its normal.

    Attributes:
        half_voxels_mm: rows are the axes of the image in view coordinates, as long as the border is off along them.
    """

    half_voxels_mm: NDArray[np.float32]

    @classmethod
    def of(cls, anatomy: Anatomy, view: SacrumView) -> Doubt:
        """The doubt about labels on the grid of an anatomy."""
        axes = view.RASToView[:3, :3] @ anatomy.bones.IJKToRAS[:3, :3]
        spacing = anatomy.bones.spacing_mm
        return cls((axes / spacing * np.hypot(spacing / 2, _POINT_SPREAD_MM)).T.astype(np.float32))

    def along_mm(self, way: list[NDArray[np.float32]], length: NDArray[np.float32]) -> NDArray[np.float32]:
        """The doubt about surfaces whose normals point along the three parts of a way of a length."""
        sizes = np.linalg.norm(self.half_voxels_mm, axis=1)
        if sizes.max() <= _CUBE * sizes.min():
            return np.full(1, _SHAFT_DOUBT_MM + sizes.max(), np.float32)
        most = np.zeros(length.shape, np.float32)
        for axis in self.half_voxels_mm:
            along = way[0] * axis[0]
            along += way[1] * axis[1]
            along += way[2] * axis[2]
            np.maximum(most, np.abs(along, out=along), out=most)
        most /= np.maximum(length, 1)
        return most + np.float32(_SHAFT_DOUBT_MM)


class ViewField:
    """Signed distance in mm from a structure on the grid of a view, interpolated; beyond the grid, that at its border.

    Exact up to 20 mm, which also stands for everything further away.
    """

    def __init__(self, view: SacrumView, values: NDArray[np.float32]) -> None:
        self.values = values
        self._origin_mm = view.origin_mm

    @classmethod
    def of_level(cls, view: SacrumView, level: Level, depth: bool = True, doubt: Doubt | None = None) -> ViewField:
        """The field of a structure.

        Args:
            doubt: what is taken off; nothing by default.
            depth: whether distances inside of it are wanted; without them they are only below zero there.
        """
        mask = level >= 0.5
        values = np.full(mask.shape, REACH_MM, np.float32)
        box = box_around(mask, int(REACH_MM / STEP_MM) + 1)
        if box is not None:
            values[box] = np.minimum(_distances(level[box], doubt), REACH_MM)
        if depth:
            values = np.where(mask, -cls.depth_in(view, level).values, values)
        return cls(view, values)

    @classmethod
    def depth_in(cls, view: SacrumView, level: Level) -> ViewField:
        """How deep inside of a structure a point lies; minus half a step or less outside of it."""
        values = np.full(level.shape, -STEP_MM / 2, np.float32)
        core = box_around(level >= 0.5, 1)
        if core is not None:
            values[core] = _distances(1 - np.pad(level[core], 1))[1:-1, 1:-1, 1:-1]
        return cls(view, values)

    def at_view(self, points_mm: FloatArray) -> NDArray[np.float32]:
        """Distances (...) of view points (..., 3)."""
        from scipy.ndimage import map_coordinates

        index = np.moveaxis((points_mm - self._origin_mm) / STEP_MM, -1, 0)
        return map_coordinates(self.values, index, order=1, mode="nearest")

    def gradient_at_view(self, points_mm: FloatArray) -> FloatArray:
        """Gradients (..., 3) of the distance at view points (..., 3), from 1 mm to both sides."""
        shifts = STEP_MM * np.eye(3)
        return np.stack(
            [(self.at_view(points_mm + shift) - self.at_view(points_mm - shift)) / (2 * STEP_MM) for shift in shifts],
            axis=-1,
        ).astype(float)


class Structures:
    """Distance fields of everything a shaft must keep clear of, each computed when it is first asked for.

    Attributes:
        names: those that this patient has: `sacral_canal`, `foramen_s1_left` ..., `anterior_cortex`, `si_joint_left`,
            `hip_left` ..., and `iliac_vessels` where the label map had them.
        unknown: names that `NEEDED` asks for and the anatomy does not have.
        doubt: what the distances are short of those measured, so that the real ones are not smaller.
        through_ilium: side whose hip and joint may be passed, or None.
        masks: of canal, foramina, hips and vessels, on the grid of the labels.
        unclaimed: by hip, the level of bone that no label claims.
        joints_within_mm: by joint, how far within its reach of both bones each grid point lies, negative beyond.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        view: SacrumView,
        through_ilium: str | None = None,
        ct: Volume | None = None,
        exact_labels: bool = False,
    ) -> None:
        """
        Args:
            through_ilium: side whose hip and sacroiliac joint may be passed, and the space lateral to them.
            ct: in which bone is looked for that no label claims; without it there is none.
            exact_labels: whether the labels are the patient, as in a simulation: nothing is open about them then.

        Raises:
            PlanError: when neither canal nor foramina are known.
        """
        anatomy = near_sacrum(anatomy, wide=through_ilium is not None)
        self.view = view
        self.doubt = Doubt(np.zeros((3, 3), np.float32)) if exact_labels else Doubt.of(anatomy, view)
        self.through_ilium = through_ilium
        self.masks = label_masks(anatomy)
        with ThreadPoolExecutor() as pool:
            self._levels = dict(zip(self.masks, pool.map(view.sampled, self.masks.values()), strict=True))
        self.unclaimed: dict[str, Level] = {}
        self.joints_within_mm: dict[str, NDArray[np.float32]] = {}
        if not any(name in NERVES for name in self._levels):
            raise PlanError(
                "the anatomy has neither canal nor foramina; nothing can be planned without them: segment again"
            )
        if ct is not None:
            self._claim_bone(anatomy, ct)
        self._fields: dict[str, ViewField] = {}
        self._deep: set[str] = set()
        self._nearest: dict[tuple[str, str | None], ViewField] = {}
        self._extents: dict[str, tuple[FloatArray, FloatArray]] = {}
        for side in SIDES:
            if f"hip_{side}" in self._levels and (joint := self._joint(side)).any():
                self._levels[f"si_joint_{side}"] = joint
        allowed = () if through_ilium is None else (f"hip_{through_ilium}", f"si_joint_{through_ilium}")
        self.names = tuple(name for name in (*self._levels, PRESACRAL) if name not in allowed)
        needed = {name.format(side=side) for name in NEEDED for side in SIDES}
        self.unknown = frozenset(needed - set(self._levels))

    def field(self, name: str) -> ViewField:
        """The distance field of one structure, less the guard."""
        if name not in self._deep:
            self._fields[name] = self._guarded(self._level(name), depth=True)
            self._deep.add(name)
        return self._fields[name]

    @property
    def fields(self) -> dict[str, ViewField]:
        """All of them by name."""
        with ThreadPoolExecutor() as pool:  # the transforms release the interpreter
            return dict(zip(self.names, pool.map(self.field, self.names), strict=True))

    def distance_mm(self, name: str, points_mm: FloatArray) -> FloatArray:
        """Distances (n,) of view points (n, 3) from one structure; what is beyond reach needs no field."""
        low, high = self._extent_mm(name)
        off = np.maximum(np.maximum(low - points_mm.max(axis=0), points_mm.min(axis=0) - high), 0)
        if np.linalg.norm(off) > REACH_MM:
            return np.full(len(points_mm), REACH_MM)
        found = self.outer_field(name).at_view(points_mm)
        # Depths are worth computing only for a shaft that is inside.
        if found.min() <= 0:
            found = self.field(name).at_view(points_mm)
        return found.astype(float)

    def outer_field(self, name: str) -> ViewField:
        """The same without depths: inside of the structure it is only below zero."""
        if name not in self._fields:
            self._fields[name] = self._guarded(self._level(name), depth=False)
        return self._fields[name]

    def _extent_mm(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest view coordinates of a structure."""
        if name not in self._extents:
            box = box_around(self._level(name) >= 0.5)
            ends = np.array([(part.start, part.stop) for part in box]) if box else np.full((3, 2), np.inf)
            origin = self.view.origin_mm
            self._extents[name] = origin + ends[:, 0] * STEP_MM, origin + ends[:, 1] * STEP_MM
        return self._extents[name]

    def names_on(self, side: str) -> list[str]:
        """Names of all structures but hip and joint of the other side."""
        far = [f"{name}_{other}" for other in SIDES if other != side for name in ("hip", "si_joint")]
        return [name for name in self.names if name not in far]

    def everything(self, side: str, without: str | None = None) -> ViewField:
        """Distance from whichever structure of a side is nearest, less the guard; of all of them, or without one."""
        if (side, without) not in self._nearest:
            self._nearest[side, without] = self._nearest_of([name for name in self.names_on(side) if name != without])
        return self._nearest[side, without]

    @cached_property
    def nerves(self) -> ViewField:
        """Distance from canal and foramina, less the guard."""
        return self._nearest_of([name for name in self.names if name in NERVES])

    @cached_property
    def outside(self) -> ViewField:
        """Distance from all that is not sacral bone: positive inside the bone, canal and foramina being outside."""
        return ViewField.depth_in(self.view, self.view.sacrum)

    def _nearest_of(self, names: list[str]) -> ViewField:
        if unknown := [name for name in names if name not in self._fields]:
            # The transforms release the interpreter; the longest, that of the wall, is begun first.
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.outer_field, sorted(unknown, key=lambda name: name != PRESACRAL)))
        nearest = self._fields[names[0]].values.copy()
        for name in names[1:]:
            np.minimum(nearest, self._fields[name].values, out=nearest)
        return ViewField(self.view, nearest)

    def _guarded(self, level: Level, depth: bool) -> ViewField:
        return ViewField.of_level(self.view, level, depth, self.doubt)

    def _level(self, name: str) -> Level:
        return self._presacral if name == PRESACRAL else self._levels[name]

    def _claim_bone(self, anatomy: Anatomy, ct: Volume) -> None:
        """Add bone beside the sacrum that no label claims to the hip of its side: labels of hips may end too early."""
        from scipy import ndimage

        view = self.view
        bones = view.sampled(anatomy.bones.like(anatomy.bones.voxels > 0)) >= 0.5
        if not bones.any():
            return
        density = ndimage.uniform_filter(view.sampled(ct) if view.density is None else view.density, 3)
        # What continues the sacrum behind its label may be hip all the same.
        sacrum = (view.sacrum >= 0.5) & (view.missed < 0.5)
        unclaimed = (density >= _UNCLAIMED_HU) & ~grown(bones | sacrum, 2)
        for side, sign in (("left", 1.0), ("right", -1.0)):
            name = f"hip_{side}"
            beside = unclaimed & (sign * view.left_mm > _UNCLAIMED_LATERAL_MM)[:, None, None]
            if name not in self._levels or not beside.any():
                continue
            parts, _ = ndimage.label(beside)
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            large = (sizes * STEP_MM**3 >= _UNCLAIMED_MM3)[parts]
            # Back to the label's surface, from which it was kept away.
            reached = grown(large, 2) & (density >= _UNCLAIMED_HU) & ~sacrum
            self.unclaimed[name] = reached.astype(np.float32)
            self._levels[name] = np.maximum(self._levels[name], self.unclaimed[name])

    def _joint(self, side: str) -> Level:
        hip, sacrum = self._levels[f"hip_{side}"], self.view.sacrum
        joint = np.zeros(hip.shape, np.float32)
        boxes = [box_around(level >= 0.5, 5) for level in (hip, sacrum)]
        if boxes[0] is None or boxes[1] is None:
            return joint
        # Only where both are near.
        box = tuple(
            slice(max(a.start, b.start), max(min(a.stop, b.stop), max(a.start, b.start)))
            for a, b in zip(*boxes, strict=True)
        )
        if (hip[box] >= 0.5).any() and (sacrum[box] >= 0.5).any():
            # Either bone may be half a voxel nearer than its label.
            half = np.linalg.norm(self.doubt.half_voxels_mm, axis=1).max()
            away = [_distances(level[box]) for level in (sacrum, hip)]
            away = [np.where(far > 0, np.maximum(far - half, 1e-3), far) for far in away]
            space = joint_space(*away)
            within = self.joints_within_mm[f"si_joint_{side}"] = np.full(hip.shape, -REACH_MM, np.float32)
            within[box] = JOINT_REACH_MM - np.maximum(*away)
            joint[box] = np.where(space, 1 - np.maximum(sacrum[box], hip[box]), 0)
            # Within the space it is joint, however narrow.
            joint[box] = np.where(space, np.maximum(joint[box], 0.5), joint[box])
        return joint

    @cached_property
    def wall(self) -> Mask:
        """Grid points in bone and beside it, through whose surface no trocar may pass."""
        return beside_wall(self.view.sacrum, self.view.smoothed, self.doubt)

    @cached_property
    def _presacral(self) -> Level:
        """In front of the sacrum's back, but not sacrum: pelvis, great vessels and the nerve roots that cross the ala.

        Beside its outline the back surface is continued: leaving over an edge counts as well.
        """
        view = self.view
        ahead = view.back_mm[None, :, None] < view.back_limit_mm[:, None, :]
        counts = ahead | self.wall
        # What is named by another structure is that structure.
        for level in self._levels.values():
            counts &= level < 0.5
        if self.through_ilium is not None and f"hip_{self.through_ilium}" in self._levels:
            hip = self._levels[f"hip_{self.through_ilium}"] >= 0.5
            outward = hip if self.through_ilium == "left" else hip[::-1]
            lateral = np.logical_or.accumulate(outward, axis=0)
            counts &= ~(lateral if self.through_ilium == "left" else lateral[::-1])
        # A gap of the label that was filled is half bone, and no wall.
        outside = np.where(view.sacrum >= 0.5, np.minimum(1 - view.sacrum, _BELOW_HALF), 1 - view.sacrum)
        return np.where(counts, outside, np.float32(0))


def beside_wall(sacrum: Level, smoothed: NDArray[np.float32], doubt: Doubt) -> Mask:
    """In bone or next to it, within a step of a surface that does not surely face the back.

    No trocar may pass there. Normals are smoothed by a step: beside an edge they turn that much too late.

    Args:
        sacrum, smoothed: on the grid of a view, [left, back, up].
        doubt: about its surface.
    """
    solid = sacrum >= 0.5
    near = grown(solid, 1)
    wall = near & ~solid
    place = np.nonzero(wall)
    slope = [_neighbor(smoothed, place, axis, -1) - _neighbor(smoothed, place, axis, 1) for axis in range(3)]
    wall[place] = ~surely_faces_back(slope, doubt)
    return near & grown(wall, 1)


def surely_faces_back(slope: list[NDArray[np.float32]], doubt: Doubt) -> Mask:
    """Whether surfaces may be passed whose outward normals have three parts (n,) of any length: see `_FACES_BACK`.

    The angle that the doubt makes over the width of a trocar counts against a surface.
    """
    length = np.maximum(np.linalg.norm(slope, axis=0), 1e-6).astype(np.float32)
    normal = [(part / length).astype(np.float32) for part in slope]
    tilt = np.arctan(doubt.along_mm(normal, np.ones_like(length)) / _PATCH_MM)
    return np.arccos(np.clip(normal[1], -1, 1)) + tilt <= np.arccos(_FACES_BACK)


def label_masks(anatomy: Anatomy) -> dict[str, Volume]:
    """Masks of canal, foramina, hips and vessels; what may be nerve or bone counts as the nerve beside it."""
    nerves = border_joined(anatomy.regions)
    wanted: list[tuple[str, Volume, Mask]] = [
        (name, nerves, nerves.voxels == REGION_LABEL[name]) for name in NERVES if name in anatomy.confidence
    ]
    if VESSELS in anatomy.confidence:
        wanted.append((VESSELS, anatomy.regions, anatomy.region(VESSELS)))
    wanted += [
        (f"hip_{side}", anatomy.bones, anatomy.bone(f"hip_{side}"))
        for side in SIDES
        if f"hip_{side}" in anatomy.confidence
    ]
    return {name: grid.like(mask) for name, grid, mask in wanted if mask.any()}


def _distances(level: Level, doubt: Doubt | None = None) -> NDArray[np.float32]:
    """Distance in mm of each grid point from a structure, whose surface lies where its level is one half.

    The way to the nearest grid point inside, less how far the surface lies outside of that, less the doubt. Points
    inside have minus that.
    """
    from scipy.ndimage import distance_transform_edt

    mask = level >= 0.5
    if not mask.any():
        return np.full(mask.shape, REACH_MM, np.float32)
    nearest = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    way, squared = [], np.zeros(mask.shape, np.float32)
    flat = np.zeros(mask.shape, np.int32)
    for axis in range(3):
        place = np.arange(mask.shape[axis], dtype=np.int32).reshape([-1 if n == axis else 1 for n in range(3)])
        way.append((nearest[axis] - place).astype(np.float32))
        squared += np.square(way[-1])
        flat *= mask.shape[axis]
        flat += nearest[axis]
    steps = np.sqrt(squared)
    distance = steps * np.float32(STEP_MM) - _surface_mm(level, mask).ravel()[flat]
    return distance if doubt is None else distance - doubt.along_mm(way, steps) - np.float32(GRID_DOUBT_MM)


def _surface_mm(level: Level, mask: Mask) -> NDArray[np.float32]:
    """How far outside of each outermost grid point of a structure its surface lies."""
    beyond = np.zeros(mask.shape, np.float32)
    place = np.nonzero(mask & grown(~mask, 1))
    own = level[place]
    falls = np.zeros(len(own), np.float32)
    for axis in range(3):
        least = np.minimum(_neighbor(level, place, axis, -1), _neighbor(level, place, axis, 1))
        falls += np.square(np.maximum(own - least, 0))
    beyond[place] = np.minimum((own - 0.5) / np.maximum(np.sqrt(falls), 1e-3) * STEP_MM, _FARTHEST_SURFACE_MM)
    return beyond


def _neighbor(values: NDArray, place: tuple[NDArray, ...], axis: int, step: int) -> NDArray:
    """Values at the neighbours of places along an axis; at the border the place's own."""
    moved = list(place)
    moved[axis] = np.clip(place[axis] + step, 0, values.shape[axis] - 1)
    return values[tuple(moved)]
