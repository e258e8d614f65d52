"""The sacrum and its CT cut at a right angle to its curve, with front and back surfaces as if it had no openings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from .frame import sample_voxels
from .straighten import Straightening

STEP_MM = 1.0
#: Half width, front, back, top and bottom of the straightened box [mm]; adult sacra are about 104 mm wide.
_LEFT_MM, _FRONT_MM, _BACK_MM, _TOP_MM, _LONGEST_MM = 70.0, -32.0, 78.0, -20.0, 150.0
#: Openings narrower than twice this are closed in the smooth surfaces: the widest foramina measure about 14 mm.
_OPENING_RADIUS_MM = 9.0
#: Gaps up to twice this in the outline of the bone, beside a foramen at its edge, are closed [mm].
_BRIDGE_MM = 4.0
#: Depth that is shown for a ray that meets no bone at all [mm].
DEEPEST_PIT_MM = 15.0


@dataclass(frozen=True)
class StraightImage:
    """Arrays [left, deep, down] on a 1 mm grid of straightened coordinates.

    Attributes:
        left_mm, deep_mm, down_mm: the grid's coordinates.
        share: 0 to 1, how much of the sacrum's label is around a point; 0.5 at its surface.
        bone: True in the sacrum.
        l5: True in the fifth lumbar vertebra.
        in_view: True where the image reaches.
        hounsfield: CT numbers.
        canal_label: True where the label map shows the spinal canal or cord.
        below_endplate_mm: distance from the plane of the S1 endplate, positive on its caudal side.
        front_hit_mm, back_hit_mm: [left, down] depth of the first bone from the front and from the back; NaN for none.
        front_mm, back_mm: [left, down] depth of the smooth front and back surface; NaN beside the bone.
        front_pit_mm, back_pit_mm: [left, down] how deep the real surface lies below the smooth one, 0 beside the bone.
    """

    left_mm: FloatArray
    deep_mm: FloatArray
    down_mm: FloatArray
    share: NDArray[np.float32]
    bone: NDArray[np.bool_]
    l5: NDArray[np.bool_]
    in_view: NDArray[np.bool_]
    hounsfield: NDArray[np.float32]
    canal_label: NDArray[np.bool_]
    below_endplate_mm: NDArray[np.float32]
    front_hit_mm: FloatArray
    back_hit_mm: FloatArray
    front_mm: FloatArray
    back_mm: FloatArray
    front_pit_mm: FloatArray
    back_pit_mm: FloatArray

    @property
    def outline(self) -> NDArray[np.bool_]:
        """[left, down] True where the sacrum, its openings closed, is in the way of a ray from front to back."""
        return np.isfinite(self.front_mm)

    @property
    def below_endplate(self) -> NDArray[np.bool_]:
        """True on the caudal side of the plane of the S1 endplate."""
        return self.below_endplate_mm >= 0

    def column(self, left: float) -> int:
        return int(np.clip(round((left - self.left_mm[0]) / STEP_MM), 0, len(self.left_mm) - 1))

    def row(self, down: float) -> int:
        return int(np.clip(round((down - self.down_mm[0]) / STEP_MM), 0, len(self.down_mm) - 1))

    def depth(self, deep: float) -> int:
        return int(np.clip(round((deep - self.deep_mm[0]) / STEP_MM), 0, len(self.deep_mm) - 1))

    def shows(self, point: FloatArray) -> bool:
        """Whether the image reaches a straightened point."""
        return bool(self.in_view[self.column(point[0]), self.depth(point[1]), self.row(point[2])])

    def envelope(self) -> NDArray[np.bool_]:
        """True between the smooth front and back surfaces."""
        deep = self.deep_mm[None, :, None]
        with np.errstate(invalid="ignore"):
            return (deep >= self.front_mm[:, None, :]) & (deep <= self.back_mm[:, None, :])


def straight_image(ct: Volume, sacrum: Volume, l5: Volume, canal: Volume, curve: Straightening) -> StraightImage:
    """Sample the CT, and masks on its grid, along the sacrum's curve."""
    left = np.arange(-_LEFT_MM, _LEFT_MM + 0.5, STEP_MM)
    deep = np.arange(_FRONT_MM, _BACK_MM + 0.5, STEP_MM)
    down = np.arange(_TOP_MM, min(curve.tip_mm + 10, _LONGEST_MM), STEP_MM)
    points = curve.to_ras(np.stack(np.meshgrid(left, deep, down, indexing="ij"), axis=-1))
    coordinates = np.moveaxis(ct.kji_of(points), -1, 0)
    share = sample_voxels(sacrum.voxels, coordinates)
    last = np.reshape(ct.voxels.shape, (3, 1, 1, 1)) - 0.5
    hits = _first_bone(share, deep), -_first_bone(share[:, ::-1], -deep[::-1])
    front, back, front_pit, back_pit = _surfaces(*hits, deep)
    return StraightImage(
        left_mm=left,
        deep_mm=deep,
        down_mm=down,
        share=share,
        bone=share > 0.5,
        l5=sample_voxels(l5.voxels, coordinates) > 0.5,
        in_view=np.logical_and.reduce((coordinates > -0.5) & (coordinates < last)),
        hounsfield=sample_voxels(ct.voxels, coordinates),
        canal_label=sample_voxels(canal.voxels, coordinates) > 0.5,
        below_endplate_mm=-transform_points(invert_rigid(curve.SacrumToRAS), points)[..., 2].astype(np.float32),
        front_hit_mm=hits[0],
        back_hit_mm=hits[1],
        front_mm=front,
        back_mm=back,
        front_pit_mm=front_pit,
        back_pit_mm=back_pit,
    )


def _first_bone(share: NDArray[np.float32], deep: FloatArray) -> FloatArray:
    """[left, down] where rays along `deep` enter the bone, between grid points; NaN where they meet none."""
    bone = share > 0.5
    index = np.argmax(bone, axis=1)
    before = np.maximum(index - 1, 0)
    low, high = (np.take_along_axis(share, at[:, None], axis=1)[:, 0] for at in (before, index))
    part = np.where(index > before, (0.5 - low) / np.maximum(high - low, 1e-6), 1.0)
    return np.where(bone.any(axis=1), deep[before] + part * (deep[index] - deep[before]), np.nan)


def _disc(radius: int) -> NDArray[np.bool_]:
    span = np.arange(-radius, radius + 1)
    return span[:, None] ** 2 + span**2 <= radius**2


def _surfaces(
    front_hit: FloatArray, back_hit: FloatArray, deep: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    from scipy import ndimage

    disc = _disc(int(_OPENING_RADIUS_MM / STEP_MM))
    hit = np.isfinite(front_hit)
    # A ray through a hole looks infinitely deep; the opening then closes the hole, but not the outside of the bone.
    far = float(deep[-1] - deep[0]) * 2
    front, back = np.where(hit, front_hit, far), np.where(hit, back_hit, -far)
    smooth_front = ndimage.grey_opening(front, footprint=disc, mode="nearest")
    smooth_back = ndimage.grey_closing(back, footprint=disc, mode="nearest")
    # A notch in the outline of the bone is no opening, unless no more than a thin bridge of bone is missing beside it.
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(hit, _disc(int(_BRIDGE_MM / STEP_MM)), border_value=0))
    outside = ~inside | (smooth_front > deep[-1]) | (smooth_back < deep[0])
    front_pit = np.where(outside, 0.0, np.minimum(front - smooth_front, DEEPEST_PIT_MM))
    back_pit = np.where(outside, 0.0, np.minimum(smooth_back - back, DEEPEST_PIT_MM))
    return (
        np.where(outside, np.nan, smooth_front),
        np.where(outside, np.nan, smooth_back),
        front_pit,
        back_pit,
    )
