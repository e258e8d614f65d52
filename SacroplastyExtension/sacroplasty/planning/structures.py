"""What a trocar must not touch, as distance fields, and the sacrum as seen along its foramina."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..anatomy.labels import LEVELS, REGION_LABEL, SIDES, VESSELS
from ..anatomy.model import Anatomy
from ..anatomy.regions import border_joined
from ..anatomy.surroundings import joint_space
from ..errors import PlanError
from ..geometry import FloatArray, invert_rigid, rigid, transform_points, unit
from ..image import Volume, box_around, crop

Mask = NDArray[np.bool_]

STEP_MM = 1.0
#: Rim of the working grid around the sacrum: to the sides, in front and above, behind (up to the iliac spines), and how
#: far below the S4 foramina it ends [mm].
_RIM_MM, _BEHIND_MM, _BELOW_S4_MM = 10.0, 35.0, 25.0
#: A way through the ilium starts outside of it: so much more of the sides then [mm].
_WIDE_RIM_MM = 70.0
#: Gaps in a sacrum label up to twice this are closed: osteoporotic alae hold negative HU, and labels have holes there.
_LABEL_GAP_MM = 2
#: Larger distances decide nothing [mm].
REACH_MM = 20.0
#: So near to the bone it counts whether its surface faces the back [mm]: whether its normal has at least this part
#: along the foramina.
_BESIDE_MM, _FACES_BACK = 2.5, 0.25
#: Share of a label from which a grid point counts as inside; below one half it leans towards "too near".
_OCCUPIED = 0.4

#: Structures without which nothing may be planned on a side; `{side}` is filled in.
NEEDED = ("sacral_canal", *(f"foramen_{level}_{{side}}" for level in LEVELS), "si_joint_{side}", "hip_{side}")
NERVES = ("sacral_canal", *(f"foramen_{level}_{side}" for level in LEVELS for side in SIDES))
PRESACRAL = "anterior_cortex"


@dataclass(frozen=True)
class SacrumView:
    """The sacrum looked at along its foramina, on a 1 mm grid [left, back, up].

    Attributes:
        ViewToRAS: rigid 4x4; x to the patient's left, y backwards along the foramina, z up; origin at the S1 endplate.
        left_mm, back_mm, up_mm: coordinates of the grid.
        sacrum: the sacrum without holes in its label; canal and foramina are no part of it.
        front_surface_mm, back_surface_mm: [left, up] first and last sacral bone along y; NaN beside it.
    """

    ViewToRAS: FloatArray
    left_mm: FloatArray
    back_mm: FloatArray
    up_mm: FloatArray
    sacrum: Mask
    front_surface_mm: FloatArray
    back_surface_mm: FloatArray

    @property
    def origin_mm(self) -> FloatArray:
        """View coordinates of the first grid point."""
        return np.array([self.left_mm[0], self.back_mm[0], self.up_mm[0]])

    @cached_property
    def RASToView(self) -> FloatArray:
        return invert_rigid(self.ViewToRAS)

    @cached_property
    def back_continued_mm(self) -> FloatArray:
        """[left, up] the back surface, beside the bone that of the nearest bone."""
        from scipy import ndimage

        known = np.isfinite(self.back_surface_mm)
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        return self.back_surface_mm[tuple(nearest)]

    def sampled(self, mask: Volume) -> NDArray[np.float32]:
        """Share of a mask at the grid points, interpolated linearly between voxel centres, 0 outside."""
        return _on_grid(mask, self.ViewToRAS, [self.left_mm, self.back_mm, self.up_mm])


class ViewField:
    """Signed distance in mm from a mask on the grid of a view, interpolated; beyond the grid, that at its border.

    Exact up to 20 mm, which also stands for everything further away.
    """

    def __init__(self, view: SacrumView, values: NDArray[np.float32]) -> None:
        self.values = values
        self._origin_mm = view.origin_mm

    @classmethod
    def of_mask(cls, view: SacrumView, mask: Mask, depth: bool = True) -> ViewField:
        """The field of a mask [left, back, up].

        Args:
            depth: whether distances inside of it are wanted; without them the inside has half a step below zero.
        """
        from scipy.ndimage import distance_transform_edt

        values = np.full(mask.shape, REACH_MM, np.float32)
        box = box_around(mask, int(REACH_MM / STEP_MM) + 1)
        if box is not None:
            outer = distance_transform_edt(~mask[box]) * STEP_MM - STEP_MM / 2
            values[box] = np.minimum(outer, REACH_MM)
        core = box_around(mask, 1) if depth else None
        if core is not None:
            inside = np.pad(mask[core], 1)
            inner = distance_transform_edt(inside)[1:-1, 1:-1, 1:-1] * STEP_MM - STEP_MM / 2
            values[core] = np.where(mask[core], -inner, values[core])
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
        guard_mm: what the distances are short of those measured, so that the real ones are not smaller.
    """

    def __init__(self, anatomy: Anatomy, view: SacrumView, through_ilium: str | None = None) -> None:
        """
        Args:
            through_ilium: side whose hip and sacroiliac joint may be passed, and the space lateral to them.

        Raises:
            PlanError: when neither canal nor foramina are known.
        """
        anatomy = near_sacrum(anatomy, _WIDE_RIM_MM if through_ilium else _BEHIND_MM)
        self.view = view
        self.guard_mm = guard_mm(anatomy)
        self._through = through_ilium
        self._masks = _masks(anatomy, view)
        if not any(name in NERVES for name in self._masks):
            raise PlanError(
                "the anatomy has neither canal nor foramina; nothing can be planned without them: segment again"
            )
        self._fields: dict[str, ViewField] = {}
        self._extents: dict[str, tuple[FloatArray, FloatArray]] = {}
        self._joints = {side: self._joint(side) for side in SIDES if f"hip_{side}" in self._masks}
        present = [*self._masks, *(f"si_joint_{side}" for side, joint in self._joints.items() if joint.any())]
        self.names = tuple(name for name in (*present, PRESACRAL) if name not in self._allowed())
        needed = {name.format(side=side) for name in NEEDED for side in SIDES}
        self.unknown = frozenset(needed - {*present, PRESACRAL})

    def field(self, name: str) -> ViewField:
        """The distance field of one structure, less the guard."""
        if name not in self._fields:
            self._fields[name] = self._guarded(self._mask(name))
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
        if name not in self._fields and np.linalg.norm(off) > REACH_MM:
            return np.full(len(points_mm), REACH_MM - self.guard_mm)
        return self.field(name).at_view(points_mm).astype(float)

    def _extent_mm(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest view coordinates of a structure."""
        if name not in self._extents:
            box = box_around(self._mask(name))
            ends = np.array([(part.start, part.stop) for part in box]) if box else np.full((3, 2), np.inf)
            origin = self.view.origin_mm
            self._extents[name] = origin + ends[:, 0] * STEP_MM, origin + ends[:, 1] * STEP_MM
        return self._extents[name]

    @cached_property
    def everything(self) -> ViewField:
        """Distance from whichever structure is nearest, less the guard."""
        union = np.zeros(self.view.sacrum.shape, bool)
        for name in self.names:
            union |= self._mask(name)
        return self._guarded(union, depth=False)

    @cached_property
    def nerves(self) -> ViewField:
        """Distance from canal and foramina, less the guard."""
        union = np.logical_or.reduce([self._masks[name] for name in NERVES if name in self._masks])
        return self._guarded(union, depth=False)

    @cached_property
    def outside(self) -> ViewField:
        """Distance from all that is not sacral bone: positive inside the bone, canal and foramina being outside."""
        inside = self._to_sacrum
        return ViewField(self.view, -inside.values)

    @cached_property
    def _to_sacrum(self) -> ViewField:
        return ViewField.of_mask(self.view, self.view.sacrum)

    def _guarded(self, mask: Mask, depth: bool = True) -> ViewField:
        field = ViewField.of_mask(self.view, mask, depth)
        field.values -= np.float32(self.guard_mm)
        return field

    def _allowed(self) -> tuple[str, ...]:
        return () if self._through is None else (f"hip_{self._through}", f"si_joint_{self._through}")

    def _mask(self, name: str) -> Mask:
        if name == PRESACRAL:
            return self._presacral
        return self._joints[name.removeprefix("si_joint_")] if name.startswith("si_joint_") else self._masks[name]

    def _joint(self, side: str) -> Mask:
        from scipy.ndimage import distance_transform_edt

        hip, sacrum = self._masks[f"hip_{side}"], self.view.sacrum
        joint = np.zeros(hip.shape, bool)
        boxes = [box_around(mask, 5) for mask in (hip, sacrum)]
        if boxes[0] is None or boxes[1] is None:
            return joint
        # Only where both are near.
        box = tuple(
            slice(max(a.start, b.start), max(min(a.stop, b.stop), max(a.start, b.start)))
            for a, b in zip(*boxes, strict=True)
        )
        if hip[box].any() and sacrum[box].any():
            away = [distance_transform_edt(~mask[box]) * STEP_MM - STEP_MM / 2 for mask in (sacrum, hip)]
            joint[box] = joint_space(away[0], away[1]) & ~sacrum[box] & ~hip[box]
        return joint

    @cached_property
    def _beside_steep_bone(self) -> Mask:
        """Next to bone whose surface does not face the back: its edges, where the back surface ends between columns."""
        from scipy.ndimage import uniform_filter

        distance = self._to_sacrum.values
        near = np.zeros(distance.shape, bool)
        box = box_around(self.view.sacrum, 4)
        assert box is not None
        part = uniform_filter(distance[box], 3)
        near[box] = (distance[box] > 0) & (distance[box] <= _BESIDE_MM) & (np.gradient(part, axis=1) < _FACES_BACK)
        return near

    @cached_property
    def _presacral(self) -> Mask:
        """In front of the sacrum's back, but not sacrum: pelvis, great vessels and the nerve roots that cross the ala.

        Beside its outline the back surface is continued: leaving over an edge counts as well.
        """
        view = self.view
        ahead = view.back_mm[None, :, None] < view.back_continued_mm[:, None, :]
        outside = ~view.sacrum & (ahead | self._beside_steep_bone)
        for mask in (*self._masks.values(), *self._joints.values()):
            outside &= ~mask
        if self._through is not None and f"hip_{self._through}" in self._masks:
            hip = self._masks[f"hip_{self._through}"]
            outward = hip if self._through == "left" else hip[::-1]
            lateral = np.logical_or.accumulate(outward, axis=0)
            outside &= ~(lateral if self._through == "left" else lateral[::-1])
        return outside


def near_sacrum(anatomy: Anatomy, margin_mm: float) -> Anatomy:
    """The anatomy with its label maps cut off so far around the sacrum: whole CTs take long to look through.

    Raises:
        PlanError: when there is no sacrum.
    """
    margin = np.ceil(margin_mm / anatomy.bones.spacing_mm[::-1]) + 1
    box = box_around(anatomy.bone("sacrum"), margin)
    if box is None:
        raise PlanError("the anatomy has no sacrum; segment the CT again")
    return replace(anatomy, bones=crop(anatomy.bones, box), regions=crop(anatomy.regions, box))


def guard_mm(anatomy: Anatomy) -> float:
    """How far a measured distance may be above the real one [mm].

    Of the grid: a structure has a grid point within half a cell's diagonal of each of its points, half a step of which
    is taken off already. Of the label: the border between two voxels is known to a quarter of the largest voxel once
    labels are interpolated linearly, half of the half voxel that it is off at most.
    """
    grid = STEP_MM * (np.sqrt(3) - 1) / 2
    return float(grid + 0.25 * anatomy.bones.spacing_mm.max())


def view_along_foramina(anatomy: Anatomy, wide: bool = False) -> SacrumView:
    """Resample the sacrum in the direction in which its foramina are seen through.

    Args:
        wide: with the ilia beside it.

    Raises:
        PlanError: when the anatomy has no pair of foramina to look along.
    """
    anatomy = near_sacrum(anatomy, _WIDE_RIM_MM if wide else _BEHIND_MM)
    left = anatomy.SacrumToRAS[:3, 0]
    axes = [
        unit(foramen.posterior.center_ras - foramen.anterior.center_ras)
        for name, foramen in anatomy.foramina.items()
        if not name.startswith("foramen_s4")
    ]
    if len(axes) < 2:
        raise PlanError("the anatomy has fewer than two foramina; nothing can be planned without them: segment again")
    back = np.mean(axes, axis=0)
    back = unit(back - (back @ left) * left)
    up = np.cross(left, back)
    ViewToRAS = rigid(np.column_stack([left, back, up]), anatomy.SacrumToRAS[:3, 3])
    sacrum = anatomy.bones.like(anatomy.bone("sacrum"))
    view = transform_points(invert_rigid(ViewToRAS), anatomy.bones.ras_of(np.argwhere(sacrum.voxels)))
    lowest = min(
        transform_points(invert_rigid(ViewToRAS), foramen.posterior.center_ras)[2]
        for foramen in anatomy.foramina.values()
    )
    side = _WIDE_RIM_MM if wide else _RIM_MM
    lower = np.maximum(view.min(axis=0), [-np.inf, -np.inf, lowest - _BELOW_S4_MM]) - [side, _RIM_MM, _RIM_MM]
    upper = view.max(axis=0) + np.array([side, _BEHIND_MM, _RIM_MM])
    axis = [np.arange(low, high, STEP_MM) for low, high in zip(lower, upper, strict=True)]
    bone = _on_grid(sacrum, ViewToRAS, axis) > 0.5
    hollow = _on_grid(anatomy.regions.like(anatomy.canal_and_foramina()), ViewToRAS, axis) > 0.5
    solid = _filled(bone, hollow) & ~hollow
    hit = solid.any(axis=1)
    front = np.where(hit, axis[1][np.argmax(solid, axis=1)], np.nan)
    rear = np.where(hit, axis[1][::-1][np.argmax(solid[:, ::-1], axis=1)], np.nan)
    return SacrumView(ViewToRAS, axis[0], axis[1], axis[2], solid, front, rear)


def _filled(bone: Mask, hollow: Mask) -> Mask:
    """Bone and its hollow with the gaps of its label closed and everything that they enclose."""
    from scipy import ndimage

    box = box_around(bone, _LABEL_GAP_MM + 1)
    assert box is not None
    part = np.pad(bone[box], _LABEL_GAP_MM)
    closed = ~_grown(~_grown(part, _LABEL_GAP_MM), _LABEL_GAP_MM)
    inner = (slice(_LABEL_GAP_MM, -_LABEL_GAP_MM),) * 3
    filled = bone | hollow
    filled[box] |= closed[inner]
    # What hangs together with the first corner, which lies outside of everything, is no hole.
    parts, _ = ndimage.label(~np.pad(filled, 1))
    return (parts != parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


def _grown(mask: Mask, steps: int) -> Mask:
    """The mask with its neighbours along the axes, so many times."""
    for _ in range(steps):
        grown = mask.copy()
        for axis in range(3):
            lower = tuple(slice(None, -1) if n == axis else slice(None) for n in range(3))
            upper = tuple(slice(1, None) if n == axis else slice(None) for n in range(3))
            grown[lower] |= mask[upper]
            grown[upper] |= mask[lower]
        mask = grown
    return mask


def _masks(anatomy: Anatomy, view: SacrumView) -> dict[str, Mask]:
    """Canal, foramina, hips and vessels on the grid; what may be nerve or bone counts as the nerve beside it."""
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
    return {name: view.sampled(grid.like(mask)) >= _OCCUPIED for name, grid, mask in wanted if mask.any()}


def _on_grid(mask: Volume, ViewToRAS: FloatArray, axes: list[FloatArray]) -> NDArray[np.float32]:
    """Share of a mask on the grid of a view, interpolated linearly between voxel centres, 0 outside."""
    import SimpleITK as sitk

    shape = tuple(len(axis) for axis in axes)
    result = np.zeros(shape, np.float32)
    used = box_around(mask.voxels)
    if used is None:
        return result
    crop = np.pad(mask.voxels[used], 1).astype(np.float32)
    first = np.array([part.start for part in used]) - 1
    # Only the part of the grid that the mask can reach.
    ends = [(part.start - 1, part.stop) for part in used]
    corners = mask.ras_of([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]])
    origin = np.array([axis[0] for axis in axes])
    reached = (transform_points(invert_rigid(ViewToRAS), corners) - origin) / STEP_MM
    low = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, shape)
    high = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, 0, shape)
    if (high <= low).any():
        return result
    # Image axes of the crop are i, j, k; those of the result up, back, left, so that its array is [left, back, up].
    RASToIJK = mask.RASToIJK
    matrix = RASToIJK[:3, :3] @ ViewToRAS[:3, [2, 1, 0]] * STEP_MM
    start = transform_points(RASToIJK, transform_points(ViewToRAS, origin + low * STEP_MM)) - first[::-1]
    GridToCrop = sitk.AffineTransform(matrix.ravel().tolist(), start.tolist())
    resampled = sitk.Resample(
        sitk.GetImageFromArray(crop), [int(n) for n in (high - low)[::-1]], GridToCrop, sitk.sitkLinear
    )
    result[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = sitk.GetArrayFromImage(resampled)
    return result


def nearest_of(fields: Iterable[ViewField], points_mm: FloatArray) -> NDArray[np.float32]:
    """Smallest distance (...) of view points (..., 3) from any of the fields."""
    return np.minimum.reduce([field.at_view(points_mm) for field in fields])
