"""What a trocar must not touch, as distance fields, and the sacrum as seen along its foramina."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..anatomy.labels import LEVELS, REGION_LABEL, SIDES, VESSELS
from ..anatomy.model import Anatomy
from ..anatomy.regions import border_joined
from ..anatomy.surroundings import joint_space
from ..errors import PlanError
from ..geometry import FloatArray, invert_rigid, rigid, transform_points, unit
from ..image import Volume

STEP_MM = 1.0
#: Rim of the working grid around the sacrum: to the sides and in front, behind (up to the iliac spines), and how far
#: below the S4 foramina it ends [mm].
_RIM_MM, _BEHIND_MM, _BELOW_S4_MM = 10.0, 35.0, 25.0
#: Gaps in a sacrum label up to twice this are closed: osteoporotic alae hold negative HU, and labels have holes there.
_LABEL_GAP_MM = 2.0
#: Larger distances decide nothing [mm].
_REACH_MM = 30.0
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
    sacrum: NDArray[np.bool_]
    front_surface_mm: FloatArray
    back_surface_mm: FloatArray


class ViewField:
    """Signed distance in mm from a mask on the grid of a view, interpolated; beyond the grid, that at its border.

    Exact up to 30 mm, which also stands for everything further away.
    """

    def __init__(self, view: SacrumView, values: NDArray[np.float32]) -> None:
        self.values = values
        self._origin_mm = np.array([view.left_mm[0], view.back_mm[0], view.up_mm[0]])

    @classmethod
    def of_mask(cls, view: SacrumView, mask: NDArray[np.bool_]) -> ViewField:
        """The field of a mask [left, back, up]."""
        from scipy.ndimage import distance_transform_edt

        values = np.full(mask.shape, _REACH_MM, np.float32)
        if mask.any():
            margin = int(_REACH_MM / STEP_MM) + 1
            used = [(index.min(), index.max() + 1) for index in np.nonzero(mask)]
            box = tuple(slice(max(low - margin, 0), high + margin) for low, high in used)
            inside = mask[box]
            outer = distance_transform_edt(~inside) * STEP_MM - STEP_MM / 2
            inner = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1] * STEP_MM - STEP_MM / 2
            values[box] = np.where(inside, -inner, np.minimum(outer, _REACH_MM))
        return cls(view, values)

    @classmethod
    def nearest(cls, view: SacrumView, fields: Iterable[ViewField]) -> ViewField:
        """Distance from whichever structure is nearest."""
        return cls(view, np.minimum.reduce([field.values for field in fields]))

    def at_view(self, points_mm: FloatArray) -> NDArray[np.float32]:
        """Distances (...) of view points (..., 3)."""
        from scipy.ndimage import map_coordinates

        index = np.moveaxis((points_mm - self._origin_mm) / STEP_MM, -1, 0)
        return map_coordinates(self.values, index, order=1, mode="nearest")


@dataclass(frozen=True)
class Structures:
    """Distance fields on the grid of a view, and the names of structures that are not known in this patient.

    Attributes:
        fields: by name, `sacral_canal`, `foramen_s1_left` ..., `anterior_cortex`, `si_joint_left`, `hip_left` ..., and
            `iliac_vessels` where the label map had them.
        nerves: canal and foramina together.
        everything: all fields together.
        sacrum: negative inside the sacrum.
        unknown: names that `NEEDED` asks for and the anatomy does not have.
    """

    fields: dict[str, ViewField]
    nerves: ViewField
    everything: ViewField
    sacrum: ViewField
    unknown: frozenset[str]


def view_along_foramina(anatomy: Anatomy) -> SacrumView:
    """Resample the sacrum in the direction in which its foramina are seen through.

    Raises:
        PlanError: when the anatomy has no pair of foramina to look along.
    """
    from scipy import ndimage

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
    sacrum_ras = anatomy.bones.ras_of(np.argwhere(anatomy.bone("sacrum")))
    if not len(sacrum_ras):
        raise PlanError("the anatomy has no sacrum; segment the CT again")
    view = (sacrum_ras - ViewToRAS[:3, 3]) @ ViewToRAS[:3, :3]
    lowest = min(
        transform_points(invert_rigid(ViewToRAS), foramen.posterior.center_ras)[2]
        for foramen in anatomy.foramina.values()
    )
    lower = np.maximum(view.min(axis=0), [-np.inf, -np.inf, lowest - _BELOW_S4_MM]) - _RIM_MM
    upper = view.max(axis=0) + np.array([_RIM_MM, _BEHIND_MM, _RIM_MM])
    axis = [np.arange(low, high, STEP_MM) for low, high in zip(lower, upper, strict=True)]
    bone = _on_grid(anatomy.bones.like(anatomy.bone("sacrum")), ViewToRAS, axis) > 0.5
    hollow = _on_grid(anatomy.regions.like(anatomy.canal_and_foramina()), ViewToRAS, axis) > 0.5
    reach = int(_LABEL_GAP_MM / STEP_MM)
    closed = ndimage.binary_closing(bone, ndimage.generate_binary_structure(3, 1), iterations=reach)
    solid = ndimage.binary_fill_holes(closed | hollow) & ~hollow
    hit = solid.any(axis=1)
    front = np.where(hit, axis[1][np.argmax(solid, axis=1)], np.nan)
    rear = np.where(hit, axis[1][::-1][np.argmax(solid[:, ::-1], axis=1)], np.nan)
    return SacrumView(ViewToRAS, axis[0], axis[1], axis[2], solid, front, rear)


def _on_grid(mask: Volume, ViewToRAS: FloatArray, axes: list[FloatArray]) -> NDArray[np.float32]:
    """Share of a mask on the grid of a view, interpolated linearly between voxel centres, 0 outside."""
    from scipy import ndimage

    shape = tuple(len(axis) for axis in axes)
    result = np.zeros(shape, np.float32)
    if not mask.voxels.any():
        return result
    used = [(int(index.min()), int(index.max())) for index in np.nonzero(mask.voxels)]
    crop = np.pad(mask.voxels[tuple(slice(low, high + 1) for low, high in used)], 1).astype(np.float32)
    first = np.array([low for low, _ in used]) - 1
    # Only the part of the grid that the mask can reach.
    ends = [(low - 1, high + 1) for low, high in used]
    corners = mask.ras_of([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]])
    origin = np.array([axis[0] for axis in axes])
    reached = (transform_points(invert_rigid(ViewToRAS), corners) - origin) / STEP_MM
    low = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, shape)
    high = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, 0, shape)
    if (high <= low).any():
        return result
    RASToKJI = mask.RASToIJK[[2, 1, 0]]
    matrix = RASToKJI[:, :3] @ ViewToRAS[:3, :3] * STEP_MM
    start = transform_points(ViewToRAS, origin + low * STEP_MM)
    offset = RASToKJI[:, :3] @ start + RASToKJI[:, 3] - first
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    result[box] = ndimage.affine_transform(crop, matrix, offset, output_shape=tuple(high - low), order=1, cval=0.0)
    return result


def forbidden_structures(
    anatomy: Anatomy, view: SacrumView, progress: Callable[[float], None] = lambda fraction: None
) -> Structures:
    """Distance fields of everything a shaft must keep clear of.

    Raises:
        PlanError: when neither canal nor foramina are known.
    """
    from scipy import ndimage

    axes = [view.left_mm, view.back_mm, view.up_mm]

    def sampled(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return _on_grid(volume.like(mask), view.ViewToRAS, axes) >= _OCCUPIED

    masks: dict[str, NDArray[np.bool_]] = {}
    # What may be nerve or bone counts as the canal or foramen beside it.
    nerves = border_joined(anatomy.regions)
    for name in NERVES:
        mask = nerves.voxels == REGION_LABEL[name]
        if name in anatomy.confidence and mask.any():
            masks[name] = sampled(nerves, mask)
    if not masks:
        raise PlanError(
            "the anatomy has neither canal nor foramina; nothing can be planned without them: segment again"
        )
    progress(0.2)
    hollow = np.logical_or.reduce(list(masks.values()))
    if VESSELS in anatomy.confidence and anatomy.region(VESSELS).any():
        masks[VESSELS] = sampled(anatomy.regions, anatomy.region(VESSELS))
    for side in SIDES:
        if f"hip_{side}" in anatomy.confidence and anatomy.bone(f"hip_{side}").any():
            masks[f"hip_{side}"] = sampled(anatomy.bones, anatomy.bone(f"hip_{side}"))
    # In front of the sacrum's back, but not sacrum: pelvis, great vessels and the nerve roots that cross the ala.
    # Beside its outline the back surface is continued from the nearest bone: leaving over an edge counts as well.
    known = np.isfinite(view.back_surface_mm)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    rear = view.back_surface_mm[tuple(nearest)]
    outside = ~view.sacrum & (view.back_mm[None, :, None] < rear[:, None, :]) & ~hollow
    sacrum = ViewField.of_mask(view, view.sacrum)
    fields: dict[str, ViewField] = {}
    for number, (name, mask) in enumerate(masks.items()):
        fields[name] = ViewField.of_mask(view, mask)
        progress(0.3 + 0.5 * number / len(masks))
    for side in SIDES:
        if f"hip_{side}" not in fields:
            continue
        outside &= ~masks[f"hip_{side}"]
        joint = joint_space(sacrum.values, fields[f"hip_{side}"].values)
        outside &= ~joint
        if joint.any():
            fields[f"si_joint_{side}"] = ViewField.of_mask(view, joint)
    fields[PRESACRAL] = ViewField.of_mask(view, outside)
    progress(1.0)
    needed = {name.format(side=side) for name in NEEDED for side in SIDES}
    return Structures(
        fields=fields,
        nerves=ViewField.nearest(view, (field for name, field in fields.items() if name in NERVES)),
        everything=ViewField.nearest(view, fields.values()),
        sacrum=sacrum,
        unknown=frozenset(needed - set(fields)),
    )
