"""Where cement belongs around one tip, and what it is called when it goes elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.labels import BONE_LABEL, REGION_LABEL, REGIONS
from ..anatomy.model import Anatomy
from ..errors import AnatomyError
from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from .grid import local_grid, sample, sample_mask

#: Cement in or so near to both bones of the sacroiliac joint has left the sacrum through it.
_JOINT_REACH_MM = 5.0

#: Canal and foramina are named from this share of the strongest zone's votes on.
_NERVE_SHARE = 0.2

#: Thickness of the cortical shell that holds cement back.
CORTEX_MM = 1.0


@dataclass(frozen=True)
class Zones:
    """A labelled local grid: each voxel belongs to exactly one zone.

    Attributes:
        labels: uint8 on an isotropic RAS grid; an index into `names`.
        names: `planned` (the ala with its margin), `bone` (the rest of the sacrum, outside the plan but no leak), and
            the routes of leakage: `sacral_canal`, `foramen_s1_left` ..., `si_joint_left`, `presacral`, `posterior`,
            `superior`.
        anterior_third: voxels of the planned ala in the front third of its depth.
    """

    labels: Volume
    names: tuple[str, ...]
    anterior_third: NDArray[np.bool_]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Voxels of one zone."""
        return self.labels.voxels == self.names.index(name)

    @property
    def routes(self) -> tuple[str, ...]:
        return self.names[2:]

    def named(self, votes: FloatArray) -> int:
        """The zone (index) with most votes (n,), unless a nerve's has nearly as many: that leak is the graver one."""
        nerves = np.array([name == "sacral_canal" or name.startswith("foramen") for name in self.names])
        grave = np.where(nerves, votes, 0.0)
        return int(np.argmax(grave if grave.max() >= _NERVE_SHARE * votes.max() else votes))


def make_zones(
    anatomy: Anatomy,
    center_ras: ArrayLike,
    sides: tuple[str, ...],
    half_size_mm: float = 40.5,
    spacing_mm: float = 1.5,
    margin_mm: float = 1.0,
) -> Zones:
    """Zones around a tip from the segmented sacrum.

    Args:
        center_ras: middle of the local grid, usually the tip.
        sides: whose alae may hold cement, `left`, `right` or both.
        margin_mm: bone this near to the ala counts as planned. Foramina and canal never do.

    Raises:
        AnatomyError: when what decides between right and leak was not segmented.
    """
    from scipy.ndimage import distance_transform_edt

    for name in ("sacral_canal", *(f"ala_{side}" for side in sides)):
        if not anatomy.region(name).any():
            raise AnatomyError(f"the segmentation has no {name}; leaks cannot be told from good cement without it")
    grid = local_grid(center_ras, half_size_mm, spacing_mm)
    sampling = (spacing_mm,) * 3
    sacrum = sample_mask(anatomy.bones.like(anatomy.bone("sacrum")), grid)
    if not sacrum.any():
        raise AnatomyError("there is no sacrum within reach of the tip; does the segmentation belong to this patient?")
    bones = sample(anatomy.bones, grid, nearest=True)
    regions = sample(anatomy.regions, grid, nearest=True)
    names = ["planned", "bone", "presacral", "posterior", "superior"]

    outward, nearest = distance_transform_edt(~sacrum, sampling=sampling, return_indices=True)
    # Which way cement left the sacrum, in the sacrum's own axes (left, posterior, superior).
    way = (np.indices(sacrum.shape) - nearest)[::-1].reshape(3, -1)
    _, posterior, superior = np.asarray(anatomy.SacrumToRAS, float)[:3, :3].T @ way
    outside = np.where(posterior > 0, names.index("posterior"), names.index("presacral"))
    outside[superior > np.abs(posterior)] = names.index("superior")
    labels = np.where(sacrum, names.index("bone"), outside.reshape(sacrum.shape)).astype(np.uint8)

    ala = np.isin(regions, [REGION_LABEL[f"ala_{side}"] for side in sides])
    if ala.any():
        labels[sacrum & (distance_transform_edt(~ala, sampling=sampling) <= margin_mm)] = names.index("planned")
    for side in ("left", "right"):
        hip = bones == BONE_LABEL[f"hip_{side}"]
        if hip.any():
            near_hip = distance_transform_edt(~hip, sampling=sampling) <= _JOINT_REACH_MM
            labels[~sacrum & (hip | (near_hip & (outward <= _JOINT_REACH_MM)))] = len(names)
            names.append(f"si_joint_{side}")
    for value, name in REGIONS.items():
        here = regions == value
        if (name == "sacral_canal" or name.startswith("foramen_")) and here.any():
            labels[here] = len(names)
            names.append(name)
    return Zones(grid.like(labels), tuple(names), _front_third(grid, labels == 0, anatomy.SacrumToRAS))


def _front_third(grid: Volume, planned: NDArray[np.bool_], SacrumToRAS: ArrayLike) -> NDArray[np.bool_]:
    """The part of a mask in front of a third of its depth, which is measured at each place of breadth and height."""
    third = np.zeros(planned.shape, bool)
    if not planned.any():
        return third
    left, back, up = transform_points(invert_rigid(SacrumToRAS), grid.ras_of(np.argwhere(planned))).T
    step = 2 * float(grid.spacing_mm[0])
    column, row = (np.floor((one - one.min()) / step).astype(int) for one in (left, up))
    place = column * (row.max() + 1) + row
    front, rear = np.full(place.max() + 1, np.inf), np.full(place.max() + 1, -np.inf)
    np.minimum.at(front, place, back)
    np.maximum.at(rear, place, back)
    third[planned] = back - front[place] <= (rear - front)[place] / 3
    return third


def cancellous_bone(
    anatomy: Anatomy, center_ras: ArrayLike, half_size_mm: float = 30.0, spacing_mm: float = 1.0
) -> Volume:
    """What cement can enter around a tip: the sacrum within its cortex, without canal and foramina (boolean)."""
    from scipy.ndimage import distance_transform_edt

    grid = local_grid(center_ras, half_size_mm, spacing_mm)
    sacrum = sample_mask(anatomy.bones.like(anatomy.bone("sacrum")), grid)
    holes = [value for value, name in REGIONS.items() if name == "sacral_canal" or name.startswith("foramen_")]
    sacrum &= ~np.isin(sample(anatomy.regions, grid, nearest=True), holes)
    # Beyond the grid's border the bone goes on; only true surfaces have a cortex.
    depth = distance_transform_edt(np.pad(sacrum, 3, mode="edge"), sampling=(spacing_mm,) * 3)[3:-3, 3:-3, 3:-3]
    return grid.like(depth > CORTEX_MM + spacing_mm / 2)
