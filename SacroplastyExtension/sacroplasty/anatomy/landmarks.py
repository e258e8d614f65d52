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

#: A tubercle rises so many steps above the crest on both of its sides [mm].
_TUBERCLE_STEPS = 0.5
#: The canal's roof has ended where it is missing for so many steps [mm]: gaps between laminae are narrower.
_HIATUS_ROWS = 4

#: Root mean square distance of each kind of landmark from the true one, when the voxels are very small [mm]: sharp
#: edges are found to half a millimeter, the top of a rounded ridge nowhere in particular. Calibrated on phantoms and
#: checked on other ones (landmarks_on_phantoms.py); real bones are less regular, and their labels less exact.
_DEFINITION_MM = {
    "promontory": 0.9,
    "s1_endplate_center": 1.0,
    "median_crest_s3": 3.0,
    "median_crest": 1.9,
    "sacral_hiatus": 1.5,
    "foramen": 0.8,
    "psis": 2.5,
    "asis": 4.0,
}
#: Share of a voxel's diagonal by which voxels add to that.
_VOXEL_SHARE = 0.2

#: What a stylus reaches through the skin of a prone patient, the widely spaced points first.
_TOUCHABLE = (
    *(f"psis_{side}" for side in SIDES),
    *(f"median_crest_{level}" for level in LEVELS),
    # The third ones fix the turn about the line from left to right (navigation_landmarks.py: with them 0.9 mm at the
    # alae, without them 1.4).
    *(f"foramen_{level}_{side}_lateral_edge" for level in ("s2", "s3") for side in SIDES),
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
    """Promontory, endplate, median crest, sacral hiatus, foraminal edges, and the iliac spines that the image shows."""
    found = {
        "promontory": transform_points(frame.SacrumToRAS, [0.0, *frame.promontory_mm]),
        "s1_endplate_center": frame.SacrumToRAS[:3, 3].copy(),
    }
    for level, (upper, lower) in _segments(foramina).items():
        crest = _median_crest(image, upper, lower)
        if crest is not None:
            found[f"median_crest_{level}"] = curve.to_ras(crest)
        for side in SIDES:
            foramen = foramina[f"foramen_{level}_{side}"]
            if foramen.confidence > LOW_CONFIDENCE:
                found[f"foramen_{level}_{side}_lateral_edge"] = curve.to_ras(foramen.lateral_edge)
    hiatus = _sacral_hiatus(image, foramina)
    if hiatus is not None:
        found["sacral_hiatus"] = curve.to_ras(hiatus)
    found |= _iliac_spines(bones, frame)
    return {name: Landmark(point, _uncertainty_mm(name, bones.spacing_mm)) for name, point in found.items()}


def _uncertainty_mm(name: str, spacing_mm: FloatArray) -> float:
    """Expected distance from the true point (root mean square): what cannot be defined better, and the voxels."""
    kind = next(kind for kind in _DEFINITION_MM if name.startswith(kind))
    return float(np.hypot(_DEFINITION_MM[kind], _VOXEL_SHARE * np.linalg.norm(spacing_mm)))


def _segments(foramina: dict[str, StraightForamen]) -> dict[str, tuple[float, float]]:
    """Where the segment of each level begins and ends along the curve [mm]: midway between posterior foramina."""
    downs = [
        float(np.mean([foramina[f"foramen_{level}_{side}"].posterior.center[2] for side in SIDES])) for level in LEVELS
    ]
    half = np.diff(downs) / 2
    # The arch of S1 begins just above its foramina: higher up lies the gap below L5.
    upper = [downs[0] - half[0] / 2, *(down - step for down, step in zip(downs[1:], half, strict=True))]
    lower = [*(down + step for down, step in zip(downs, half, strict=False)), downs[-1] + half[-1]]
    return {level: (a, b) for level, a, b in zip(LEVELS, upper, lower, strict=True)}


def _median_crest(image: StraightImage, upper: float, lower: float) -> FloatArray | None:
    """The tubercle of a segment: the top of the crest that stands out most from a line between the segment's ends.

    None where the crest only falls or rises: such a segment has no tubercle that a stylus could find again.
    """
    from scipy import ndimage, signal

    rows = np.nonzero((image.down_mm >= upper) & (image.down_mm <= lower))[0]
    columns = np.abs(image.left_mm) <= 5
    bone = image.bone[columns][:, :, rows]
    filled = np.nonzero(np.any(bone, axis=(0, 1)))[0]
    rows, bone = rows[filled], bone[:, :, filled]
    if len(rows) < 5:
        return None
    # Index of the rearmost bone at each row, and the middle of it from side to side.
    rear = bone.shape[1] - 1 - np.argmax(np.any(bone, axis=0)[::-1], axis=0)
    crest = ndimage.gaussian_filter1d(rear.astype(float), 1.0, mode="nearest")
    chord = np.interp(rows, rows[[0, -1]], crest[[0, -1]])
    tops, _ = signal.find_peaks(crest, prominence=_TUBERCLE_STEPS)
    if not len(tops):
        return None
    top = int(tops[np.argmax((crest - chord)[tops])])
    left = image.left_mm[columns][bone[:, rear[top], top]].mean()
    return np.array([left, image.deep_mm[rear[top]], image.down_mm[rows[top]]])


def _sacral_hiatus(image: StraightImage, foramina: dict[str, StraightForamen]) -> FloatArray | None:
    """The apex of the hiatus: the lower end of the canal's roof in the mirror plane, at its back.

    None where the label map shows no canal at S3, or one that goes on to the border of the image.
    """
    bone = image.bone[np.abs(image.left_mm) <= 2].mean(axis=0) > 0.5
    # A roof has space between itself and the body in front of it.
    starts = np.diff(bone.astype(np.int8), axis=0, prepend=0) == 1
    roofed = starts.sum(axis=0) >= 2
    first = image.row(float(np.mean([foramina[f"foramen_s3_{side}"].posterior.center[2] for side in SIDES])))
    last = len(image.down_mm) - _HIATUS_ROWS
    end = next((row for row in range(first, last) if not roofed[row : row + _HIATUS_ROWS].any()), None)
    if end is None or end == first:
        return None
    rear = np.nonzero(bone[:, end - 1])[0].max()
    return np.array([0.0, image.deep_mm[rear], image.down_mm[end - 1]])


def _iliac_spines(bones: Volume, frame: SacralFrame) -> dict[str, FloatArray]:
    """Posterior superior iliac spines, and anterior ones unless the image ends before them.

    Directions are the body's, not the sacrum's, which is tilted by the sacral slope: backwards is the direction at a
    right angle to the sacrum's left that is nearest to the scanner's.
    """
    left = frame.SacrumToRAS[:3, 0]
    posterior = np.array([0.0, -1.0, 0.0])
    posterior = unit(posterior - (posterior @ left) * left)
    superior = np.cross(left, posterior)
    RASToBody = np.stack([left, posterior, superior])
    found: dict[str, FloatArray] = {}
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
                found[f"psis_{side}"] = behind
        # The anterior superior spine: the foremost point of the upper half of the bone, above the hip joint.
        crest = body[:, 2] > body[:, 2].max() - 90
        ahead = _extreme(points[crest], -body[crest, 1])
        cut_above = _at_border(bones, _extreme(points, body[:, 2]))
        if not cut_above and not _at_border(bones, ahead):
            found[f"asis_{side}"] = ahead
    return found


def _extreme(points: FloatArray, along: FloatArray) -> FloatArray:
    """Middle of the points within 1.5 mm of the furthest one along a direction."""
    return points[along >= along.max() - 1.5].mean(axis=0)


def _at_border(volume: Volume, point_ras: FloatArray) -> bool:
    kji = volume.kji_of(point_ras)
    reach = _BORDER_MM / volume.spacing_mm[::-1]
    return bool((kji < reach).any() or (kji > np.array(volume.voxels.shape) - 1 - reach).any())
