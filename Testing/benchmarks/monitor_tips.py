"""Where a trocar's tip stands in a synthetic patient, and from where it comes: by plain distances in the true labels.

The planner is not asked, so that the studies of the spread monitor do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
from sacroplasty.geometry import FloatArray, unit
from sacroplasty.phantom.make import Phantom
from sacroplasty.planning.model import Technique, target_region

#: Outward directions that are tried: so much to the side and downwards for each backwards.
ASIDE, DOWN = np.arange(-0.8, 1.61, 0.1), np.arange(0, 1.01, 0.1)
#: A trocar's axis is followed this far [mm].
REACH_MM = 90.0
#: Nor nearer to the middle than this, as through a pedicle [mm].
OFF_MIDDLE_MM = 8.0
#: How far a tip that is chosen for a structure lies from it [mm].
NEAR_MM = (6.0, 10.0)


@dataclass(frozen=True)
class Aim:
    """Where a tip is put: the deepest place of what the technique fills.

    Attributes:
        near: a structure that has to lie within `NEAR_MM` of it; `side` stands for the treated one.
    """

    technique: Technique = "short-axis"
    near: str = ""


ALA, BESIDE_S2, BEFORE_CANAL = Aim(), Aim("long-axis", "foramen_s2_side"), Aim("body-s1", "sacral_canal")
#: The others are near enough to the middle of the ala.
AIM_OF_ROUTE = {"foramen_s2": BESIDE_S2, "sacral_canal": BEFORE_CANAL}


def deepest_tip(phantom: Phantom, side: str, aim: Aim = ALA) -> FloatArray:
    """The place (RAS) of what is filled that lies deepest in it, on its side of the middle."""
    region = phantom.regions.voxels == REGION_LABEL[target_region(aim.technique, side)]
    spacing = phantom.ct.spacing_mm[::-1]
    depth = ndimage.distance_transform_edt(np.pad(region, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    if aim.near:
        near = phantom.regions.voxels == REGION_LABEL[aim.near.replace("side", side)]
        away = ndimage.distance_transform_edt(~near, sampling=spacing)
        depth[(away < NEAR_MM[0]) | (away > NEAR_MM[1])] = 0
        places = np.argwhere(depth > 0)
        left_mm = (phantom.ct.ras_of(places) - phantom.SacrumToRAS[:3, 3]) @ phantom.SacrumToRAS[:3, 0]
        beyond = (left_mm if side == "left" else -left_mm) < OFF_MIDDLE_MM
        depth[tuple(places[beyond].T)] = 0
    return phantom.ct.ras_of(np.argwhere(depth == depth.max()))[0]


def way_out(phantom: Phantom, tip_ras: FloatArray, side: str) -> FloatArray:
    """Unit vector (RAS) from the tip along the trocar that keeps farthest off nerves and ilium."""
    nerves = [value for name, value in REGION_LABEL.items() if "foramen" in name or "canal" in name]
    hips = [BONE_LABEL["hip_left"], BONE_LABEL["hip_right"]]
    forbidden = np.isin(phantom.regions.voxels, nerves) | np.isin(phantom.bones.voxels, hips)
    away = ndimage.distance_transform_edt(~forbidden, sampling=phantom.ct.spacing_mm[::-1])
    aside, backwards, up = phantom.SacrumToRAS[:3, :3].T * np.array([[1 if side == "left" else -1], [1], [1]])
    directions = np.array([unit(backwards + a * aside - b * up) for a, b in product(ASIDE, DOWN)])
    along = tip_ras + np.arange(0, REACH_MM)[:, None] * directions[:, None]
    clearance = ndimage.map_coordinates(away, phantom.ct.kji_of(along.reshape(-1, 3)).T, order=1, mode="nearest")
    return directions[int(np.argmax(clearance.reshape(len(directions), -1).min(axis=1)))]


def leaves_bone(phantom: Phantom, tip_ras: FloatArray, outwards: FloatArray) -> NDArray:
    """Where the trocar's axis leaves the bone (RAS)."""
    along = tip_ras + np.arange(0, REACH_MM, 0.5)[:, None] * outwards
    kji = np.rint(phantom.bones.kji_of(along)).astype(int)
    inside = phantom.bones.voxels[tuple(np.clip(kji, 0, np.array(phantom.bones.voxels.shape) - 1).T)] > 0
    return along[np.flatnonzero(inside)[-1]]
