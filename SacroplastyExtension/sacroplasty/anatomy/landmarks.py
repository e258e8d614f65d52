"""Points that can be found again on the patient or on an X-ray image, each with its uncertainty."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, invert_rigid, transform_points, unit
from ..image import Volume
from .foramina import LOW_CONFIDENCE, StraightForamen
from .frame import SacralFrame
from .labels import BONE_LABEL, LEVELS, SIDES
from .model import Landmark
from .straight_image import StraightImage
from .straighten import Straightening

#: A hip whose front touches the border of the image within this distance shows no anterior superior spine [mm].
_BORDER_MM = 4.0

#: What a stylus reaches through the skin of a prone patient, the widely spaced points first.
_TOUCHABLE = (
    *(f"psis_{side}" for side in SIDES),
    *(f"median_crest_{level}" for level in LEVELS),
    *(f"foramen_s2_{side}_lateral_edge" for side in SIDES),
)


def touchable(landmarks: Iterable[str]) -> list[str]:
    """Those of the named landmarks that can be touched for registration, in the order of touching."""
    known = set(landmarks)
    return [name for name in _TOUCHABLE if name in known]


def find_landmarks(
    bones: Volume,
    frame: SacralFrame,
    image: StraightImage,
    curve: Straightening,
    foramina: dict[str, StraightForamen],
) -> dict[str, Landmark]:
    """Promontory, endplate, median crest, foraminal edges, and the iliac spines that the image shows.

    Uncertainties are half the largest voxel spacing, more where the point lies on a rounded ridge.
    """
    spacing = float(bones.spacing_mm.max())
    found = {
        "promontory": Landmark(transform_points(frame.SacrumToRAS, [0.0, *frame.promontory_mm]), 0.5 * spacing + 1.0),
        "s1_endplate_center": Landmark(frame.SacrumToRAS[:3, 3].copy(), 0.5 * spacing + 0.5),
    }
    for level in LEVELS:
        down = float(np.mean([foramina[f"foramen_{level}_{side}"].posterior[2] for side in SIDES]))
        crest = _median_crest(image, down)
        if crest is not None:
            found[f"median_crest_{level}"] = Landmark(curve.to_ras(crest), 0.5 * spacing + 2.0)
        for side in SIDES:
            foramen = foramina[f"foramen_{level}_{side}"]
            if foramen.confidence > LOW_CONFIDENCE:
                edge = Landmark(curve.to_ras(foramen.lateral_edge), 0.5 * spacing + 1.0)
                found[f"foramen_{level}_{side}_lateral_edge"] = edge
    found |= _iliac_spines(bones, frame, spacing)
    return found


def _median_crest(image: StraightImage, down: float) -> FloatArray | None:
    """The most posterior bone in the mirror plane near a level."""
    near, middle = np.abs(image.down_mm - down) <= 4, np.abs(image.left_mm) <= 5
    points = np.argwhere(image.bone & middle[:, None, None] & near[None, None, :])
    if not len(points):
        return None
    deepest = points[points[:, 1] == points[:, 1].max()].mean(axis=0)
    return deepest + np.array([image.left_mm[0], image.deep_mm[0], image.down_mm[0]])


def _iliac_spines(bones: Volume, frame: SacralFrame, spacing: float) -> dict[str, Landmark]:
    """Posterior superior iliac spines, and anterior ones unless the image ends before them.

    Directions are the body's, not the sacrum's, which is tilted by the sacral slope: backwards is the direction at a
    right angle to the sacrum's left that is nearest to the scanner's.
    """
    left = frame.SacrumToRAS[:3, 0]
    posterior = np.array([0.0, -1.0, 0.0])
    posterior = unit(posterior - (posterior @ left) * left)
    superior = np.cross(left, posterior)
    RASToBody = np.stack([left, posterior, superior])
    found: dict[str, Landmark] = {}
    for side in SIDES:
        mask: NDArray[np.bool_] = bones.voxels == BONE_LABEL[f"hip_{side}"]
        indices = np.argwhere(mask)
        if not len(indices):
            continue
        points = bones.ras_of(indices)
        body = points @ RASToBody.T
        level = transform_points(invert_rigid(frame.SacrumToRAS), points)[:, 2]
        # The posterior superior spine stands at about the level of S2; the ischium lies far below.
        upper = (level > -75) & (body[:, 2] > body[:, 2].max() - 130)
        if upper.sum() > 50:
            behind = _extreme(points[upper], body[upper, 1])
            if not _at_border(bones, behind):
                found[f"psis_{side}"] = Landmark(behind, 0.5 * spacing + 3.0)
        # The anterior superior spine: the foremost point of the upper half of the bone, above the hip joint.
        crest = body[:, 2] > body[:, 2].max() - 90
        ahead = _extreme(points[crest], -body[crest, 1])
        cut_above = _at_border(bones, _extreme(points, body[:, 2]))
        if not cut_above and not _at_border(bones, ahead):
            found[f"asis_{side}"] = Landmark(ahead, 0.5 * spacing + 3.0)
    return found


def _extreme(points: FloatArray, along: FloatArray) -> FloatArray:
    """Middle of the points within 1.5 mm of the furthest one along a direction."""
    return points[along >= along.max() - 1.5].mean(axis=0)


def _at_border(volume: Volume, point_ras: FloatArray) -> bool:
    kji = volume.kji_of(point_ras)
    reach = _BORDER_MM / volume.spacing_mm[::-1]
    return bool((kji < reach).any() or (kji > np.array(volume.voxels.shape) - 1 - reach).any())
