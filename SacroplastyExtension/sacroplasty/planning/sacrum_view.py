"""The sacrum looked at along its foramina, on a grid: its bone and where that may be passed from behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..anatomy.cortex import OUTSIDE_HU, SMOOTHING_VOXELS, within_cortex
from ..anatomy.model import Anatomy
from ..errors import PlanError
from ..geometry import FloatArray, invert_rigid, rigid, transform_points, unit
from ..image import Volume, box_around, crop

Mask = NDArray[np.bool_]
#: How much of a structure is at each grid point: 1 inside, 0 outside, one half at its surface.
Level = NDArray[np.float32]

STEP_MM = 1.0
#: Rim of the working grid around the sacrum: to the sides, in front and above, behind (up to the iliac spines), and how
#: far below the S4 foramina it ends [mm].
_RIM_MM, _BEHIND_MM, _BELOW_S4_MM = 10.0, 35.0, 25.0
#: A way through the ilium starts outside of it: so much more of the sides then [mm].
_WIDE_RIM_MM = 70.0
#: Gaps in a sacrum label up to twice this are closed: osteoporotic alae hold negative HU, and labels have holes there.
_LABEL_GAP_MM = 2
#: Normals are those of the label smoothed by this [mm].
_NORMAL_MM = 1.0
#: Bone that the label misses behind the sacrum is followed so far, and kept so far away from other bones [mm]; it is at
#: least half as bright as the brightest within a reach [mm], which counts as no darker than so many HU (own choices).
_MISSED_MM, _OTHER_BONE_MM, _CORTEX_REACH_MM, _FAINT_CORTEX_HU = 6, 2, 3, 200.0


@dataclass(frozen=True)
class SacrumView:
    """The sacrum looked at along its foramina, on a 1 mm grid [left, back, up].

    Attributes:
        ViewToRAS: rigid 4x4; x to the patient's left, y backwards along the foramina, z up; origin at the S1 endplate.
        left_mm, back_mm, up_mm: coordinates of the grid.
        sacrum: level of the sacrum without holes in its label; canal and foramina are no part of it.
        front_surface_mm, back_surface_mm: [left, up] first and last sacral bone along y; NaN beside it.
        bone, hollow: masks of the sacrum up to its cortex, and of canal and foramina, on the grid of the labels.
        filled: level of what was filled in, and of what its label misses behind it.
        missed: level of the latter.
        density: of the CT on the grid [HU]; None without one.
    """

    ViewToRAS: FloatArray
    left_mm: FloatArray
    back_mm: FloatArray
    up_mm: FloatArray
    sacrum: Level
    front_surface_mm: FloatArray
    back_surface_mm: FloatArray
    bone: Volume
    hollow: Volume
    filled: Level
    missed: Level
    density: NDArray[np.float32] | None

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

    @cached_property
    def smoothed(self) -> NDArray[np.float32]:
        """The level of the sacrum as its normals are taken from."""
        return smoothed(self.sacrum)

    def interpolated(self, values: Level, points_mm: FloatArray) -> NDArray[np.float32]:
        """Values of the grid at view points (n, 3), beyond the grid those at its border."""
        from scipy.ndimage import map_coordinates

        return map_coordinates(values, ((points_mm - self.origin_mm) / STEP_MM).T, order=1, mode="nearest")

    def nearest(self, points_mm: FloatArray) -> tuple[NDArray[np.int32], ...]:
        """Indices of the grid points nearest to view points (n, 3), along each axis."""
        steps = np.rint((points_mm - self.origin_mm) / STEP_MM).astype(np.int32)
        return tuple(np.clip(steps, 0, np.array(self.sacrum.shape) - 1).T)

    @cached_property
    def back_limit_mm(self) -> FloatArray:
        """[left, up] up to where what is no bone lies in front of the back: a step before it where bone is.

        Dents of a step are those of the label.
        """
        known = np.isfinite(self.back_surface_mm)
        return np.where(known, self.back_surface_mm - STEP_MM, self.back_continued_mm)

    def ahead_of_back(self, points_mm: FloatArray) -> Mask:
        """Whether view points (n, 3) lie in front of the continued back surface."""
        from scipy.ndimage import map_coordinates

        place = ((points_mm - self.origin_mm) / STEP_MM)[:, [0, 2]]
        return points_mm[:, 1] < map_coordinates(self.back_limit_mm, place.T, order=1, mode="nearest")

    def sampled(self, mask: Volume) -> Level:
        """The level of a mask, or a CT, at the grid points, interpolated linearly between voxel centres, 0 outside."""
        return _on_grid(mask, self.ViewToRAS, [self.left_mm, self.back_mm, self.up_mm])


def near_sacrum(anatomy: Anatomy, wide: bool) -> Anatomy:
    """The anatomy with its label maps cut off around the sacrum: whole CTs take long to look through.

    Args:
        wide: with the ilia beside it.

    Raises:
        PlanError: when there is no sacrum.
    """
    margin = np.ceil((_WIDE_RIM_MM if wide else _BEHIND_MM) / anatomy.bones.spacing_mm[::-1]) + 1
    box = box_around(anatomy.bone("sacrum"), margin)
    if box is None:
        raise PlanError("the anatomy has no sacrum; segment the CT again")
    return replace(anatomy, bones=crop(anatomy.bones, box), regions=crop(anatomy.regions, box))


def view_along_foramina(anatomy: Anatomy, wide: bool = False, ct: Volume | None = None) -> SacrumView:
    """Resample the sacrum in the direction in which its foramina are seen through.

    Args:
        wide: with the ilia beside it.
        ct: to whose cortex the label of the sacrum is cut back where it reaches beyond, and continued where it falls
            short of it behind; without it, it is neither.

    Raises:
        PlanError: when the anatomy has no pair of foramina to look along.
    """
    cut_off = None
    if ct is not None:
        beyond = anatomy.bone("sacrum")
        beyond &= ~within_cortex(anatomy.bones.like(beyond), ct).voxels
        cut_off = anatomy.bones.like(beyond)
        anatomy = replace(anatomy, bones=anatomy.bones.like(np.where(beyond, np.uint8(0), anatomy.bones.voxels)))
    anatomy = near_sacrum(anatomy, wide)
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
    view = transform_points(invert_rigid(ViewToRAS), anatomy.bones.ras_of(_column_ends(sacrum.voxels)))
    lowest = min(
        transform_points(invert_rigid(ViewToRAS), foramen.posterior.center_ras)[2]
        for foramen in anatomy.foramina.values()
    )
    side = _WIDE_RIM_MM if wide else _RIM_MM
    lower = np.maximum(view.min(axis=0), [-np.inf, -np.inf, lowest - _BELOW_S4_MM]) - [side, _RIM_MM, _RIM_MM]
    upper = view.max(axis=0) + np.array([side, _BEHIND_MM, _RIM_MM])
    axis = [np.arange(low, high, STEP_MM) for low, high in zip(lower, upper, strict=True)]
    nerves = anatomy.regions.like(anatomy.canal_and_foramina())
    bone, hollow = _on_grid(sacrum, ViewToRAS, axis), _on_grid(nerves, ViewToRAS, axis)
    solid = _filled(bone >= 0.5, hollow >= 0.5)
    filled = np.where(_enclosed(solid), np.float32(1), np.where(solid, np.float32(0.5), np.float32(0)))
    level = sacral_level(bone, hollow, filled)
    missed, density = np.zeros_like(level), None
    if ct is not None:
        others = anatomy.bones.like((anatomy.bones.voxels > 0) & ~sacrum.voxels)
        density = _on_grid(ct, ViewToRAS, axis)
        missed = missed_behind(level, _on_grid(others, ViewToRAS, axis), density)
        filled = np.maximum(filled, missed)
        level = sacral_level(bone, hollow, filled)
    solid = level >= 0.5
    hit = solid.any(axis=1)
    front = np.where(hit, axis[1][np.argmax(solid, axis=1)], np.nan)
    rear = np.where(hit, axis[1][::-1][np.argmax(solid[:, ::-1], axis=1)], np.nan)
    if cut_off is not None:
        rear = np.fmax(rear, hanging_mm(level, _on_grid(cut_off, ViewToRAS, axis), axis[1]))
    return SacrumView(ViewToRAS, axis[0], axis[1], axis[2], level, front, rear, sacrum, nerves, filled, missed, density)


def missed_behind(sacrum: Level, others: Level, density: NDArray[np.float32]) -> Level:
    """Level of the bone that continues a sacrum behind its label, as crests do that the label cuts off.

    The edge of bone is where a CT is half as bright as the cortex next to it, as in `within_cortex`.

    Args:
        sacrum, others: of the label and of the other bones on the grid of a view, [left, back, up].
        density: of the CT there [HU].
    """
    from scipy import ndimage

    missed = np.zeros_like(sacrum)
    box = box_around(sacrum >= 0.5, _MISSED_MM + _CORTEX_REACH_MM)
    if box is None:
        return missed
    solid, other = sacrum[box] >= 0.5, grown(others[box] > 0, _OTHER_BONE_MM)
    known = solid.any(axis=1)
    last = solid.shape[1] - 1 - np.argmax(solid[:, ::-1], axis=1)
    last = last[tuple(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))]
    behind = np.arange(solid.shape[1])[None, :, None] > last[:, None, :]
    smooth = ndimage.gaussian_filter(density[box], SMOOTHING_VOXELS)
    cortex = ndimage.maximum_filter(np.where(other, OUTSIDE_HU, smooth), 2 * _CORTEX_REACH_MM + 1)
    level = (smooth - OUTSIDE_HU) / (np.maximum(cortex, _FAINT_CORTEX_HU) - OUTSIDE_HU)
    level = np.where(behind & ~other, np.clip(level, 0, 1), 0).astype(np.float32)
    reached = solid
    for _ in range(_MISSED_MM):
        reached = reached | (grown(reached, 1) & (level >= 0.5))
    missed[box] = np.where(grown(reached & ~solid, 1), level, 0)
    return missed


def hanging_mm(sacrum: Level, cut_off: Level, back_mm: FloatArray) -> FloatArray:
    """[left, up] how far back bone hangs free behind the sacrum that was cut off: thin plates, too faint for a cortex.

    NaN where there is none, or where what was cut off lies on the bone. Half of either is no gap between the two.
    """
    solid = sacrum >= 0.5
    behind = np.logical_or.accumulate(solid, axis=1) & ~solid
    free = np.logical_or.accumulate(behind & (sacrum + cut_off < 0.5), axis=1)
    hanging = (cut_off >= 0.5) & free
    last = back_mm[::-1][np.argmax(hanging[:, ::-1], axis=1)]
    return np.where(hanging.any(axis=1), last, np.nan)


def sacral_level(bone: Level, hollow: Level, filled: Level) -> Level:
    """What was filled is bone; the surface keeps the place that the label gives it."""
    return np.minimum(np.maximum(bone + hollow, filled), 1 - hollow).astype(np.float32)


def smoothed(sacrum: Level) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    smooth = np.zeros(sacrum.shape, np.float32)
    box = box_around(sacrum >= 0.5, 5)
    if box is not None:
        smooth[box] = gaussian_filter(sacrum[box], _NORMAL_MM / STEP_MM)
    return smooth


def _column_ends(mask: Mask) -> NDArray[np.int_]:
    """Indices (n, 3) of the first and last voxel of each column; what sticks out of a mask anywhere is among them."""
    used = mask.any(axis=0)
    first, last = np.argmax(mask, axis=0), mask.shape[0] - 1 - np.argmax(mask[::-1], axis=0)
    rows, columns = np.nonzero(used)
    ends = [np.column_stack([end[rows, columns], rows, columns]) for end in (first, last)]
    return np.concatenate(ends)


def _filled(bone: Mask, hollow: Mask) -> Mask:
    """Bone and its hollow with the gaps of its label closed and everything that they enclose."""
    from scipy import ndimage

    box = box_around(bone, _LABEL_GAP_MM + 1)
    assert box is not None
    part = np.pad(bone[box], _LABEL_GAP_MM)
    closed = ~grown(~grown(part, _LABEL_GAP_MM), _LABEL_GAP_MM)
    inner = (slice(_LABEL_GAP_MM, -_LABEL_GAP_MM),) * 3
    filled = bone | hollow
    filled[box] |= closed[inner]
    # What hangs together with the first corner, which lies outside of everything, is no hole.
    parts, _ = ndimage.label(~np.pad(filled, 1))
    return (parts != parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


def grown(mask: Mask, steps: int) -> Mask:
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


def _enclosed(mask: Mask) -> Mask:
    """Points of a mask whose six neighbours belong to it too."""
    return ~grown(~mask, 1)


def _on_grid(mask: Volume, ViewToRAS: FloatArray, axes: list[FloatArray]) -> NDArray[np.float32]:
    """Level of a mask on the grid of a view, interpolated linearly between voxel centres, 0 outside."""
    import SimpleITK as sitk

    shape = tuple(len(axis) for axis in axes)
    result = np.zeros(shape, np.float32)
    # Only the part of the mask that the grid can reach.
    sides = [(axis[0], axis[-1]) for axis in axes]
    grid_corners = np.array([[x, y, z] for x in sides[0] for y in sides[1] for z in sides[2]])
    seen = mask.kji_of(transform_points(ViewToRAS, grid_corners))
    lower = np.clip(np.floor(seen.min(axis=0)).astype(int) - 1, 0, mask.voxels.shape).tolist()
    upper = np.clip(np.ceil(seen.max(axis=0)).astype(int) + 2, 0, mask.voxels.shape).tolist()
    inner = box_around(mask.voxels[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))])
    if inner is None:
        return result
    used = tuple(slice(low + part.start, low + part.stop) for low, part in zip(lower, inner, strict=True))
    crop = np.pad(mask.voxels[used], 1)
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
    image = sitk.GetImageFromArray(crop.view(np.uint8) if crop.dtype == bool else crop)
    size = [int(n) for n in (high - low)[::-1]]
    resampled = sitk.Resample(
        image, size, GridToCrop, sitk.sitkLinear, defaultPixelValue=0.0, outputPixelType=sitk.sitkFloat32
    )
    result[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = sitk.GetArrayFromImage(resampled)
    return result
