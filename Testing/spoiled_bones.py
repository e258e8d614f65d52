"""Bones as a segmentation that went wrong gives them: part of the ilium, joint included, is taken for sacrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sacroplasty.anatomy.labels import BONE_LABEL
from sacroplasty.geometry import FloatArray
from sacroplasty.image import Volume

#: Widest gap that is closed together with the ilium [mm].
_JOINT_MM = 4.0


@dataclass(frozen=True)
class Spoiled:
    """Wrong bones, where they are wrong (mask), and three clicks of a person who sees it."""

    bones: Volume
    near: np.ndarray
    clicks: dict[str, FloatArray]


def spoil_ilium(true: Volume, side: str, seed: int, radius_mm: float = 15.0) -> Spoiled:
    """Give a ball of the ilium beside the joint to the sacrum.

    Args:
        true: labels of `labels.BONES`.
        seed: which place along the joint.
    """
    rng = np.random.default_rng([seed, 7])
    spacing = true.spacing_mm[::-1]
    sacrum, hip = true.voxels == BONE_LABEL["sacrum"], true.voxels == BONE_LABEL[f"hip_{side}"]
    to_sacrum = ndimage.distance_transform_edt(~sacrum, sampling=spacing)
    to_hip = ndimage.distance_transform_edt(~hip, sampling=spacing)
    places = np.argwhere(hip & (to_sacrum < 6))
    middle = true.ras_of(places[rng.integers(len(places))][None])[0]
    every = np.indices(true.voxels.shape).reshape(3, -1).T
    away_mm = np.linalg.norm(true.ras_of(every) - middle, axis=1).reshape(true.voxels.shape)
    gap = (true.voxels == 0) & (to_sacrum < _JOINT_MM) & (to_hip < _JOINT_MM)
    wrong = (away_mm < radius_mm) & (hip | gap)
    bones = true.like(np.where(wrong, BONE_LABEL["sacrum"], true.voxels).astype(np.uint8))

    def inside(mask: np.ndarray, depth_mm: float) -> FloatArray:
        depth = ndimage.distance_transform_edt(mask, sampling=spacing)
        found = true.ras_of(np.argwhere(depth >= min(depth_mm, 0.8 * depth.max())))
        return found[np.argmin(np.linalg.norm(found - middle, axis=1))]

    clicks = {
        f"hip_{side}": inside(hip & wrong, 2.0),
        "sacrum": inside(sacrum, 4.0),
        "background": inside(true.voxels == 0, 3.0),
    }
    return Spoiled(bones, away_mm < 2 * radius_mm, clicks)
