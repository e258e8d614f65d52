"""Signs of an unusual sacrum, as hints for a person: none of them is a finding, and none changes what is planned.

Published signs are read from pictures (outlet view) and have no cut-offs, and two readers agree on them only fairly
(kappa 0.26 to 0.59; Kaiser 2014, J Bone Joint Surg Am 96:e120). So the sign is the literature's, the threshold our own.
Mammillary processes, misshapen foramina and the tongue-in-groove joint are not looked for. A CT of the pelvis does not
show how many lumbar vertebrae there are: a transitional vertebra can be suspected here, not named.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from .labels import BONE_LABEL, SIDES
from .quality import Hint
from .straight_image import STEP_MM, StraightImage

_SIGN = "sign: dysplastic sacra, BMC Musculoskelet Disord 2019 (s12891-019-2771-1, table 7); threshold: own criterion"
_OWN = "own criterion"
_SLOPE = (
    "sign: dysplastic sacra, BMC Musculoskelet Disord 2019 (s12891-019-2771-1, table 7); threshold: mean + 2 SD of 30 "
    "sacra of the JHU pelvis atlas (Han 2019), own measurement"
)
#: A normal endplate of S1 lies far below the crests [mm].
_CREST_ABOVE_S1_MM = 15.0
#: Mean and two standard deviations of the 60 alae of 30 sacra (JHU pelvis atlas, Han 2019, doi
#: 10.1088/1361-6560/ab1456), measured in the same way: 7 and 14 degrees [deg].
_STEEP_ALA_DEG = 35.0
#: How much darker the disc is than the bone above and below it [HU]; and the share of the bodies' depth it takes up.
_DISC_CONTRAST_HU, _DISC_DEPTH = 60.0, 0.5
#: The remnant of the disc lies within this of the S1 foramina's level [mm], and its endplates within this of it.
_DISC_REACH_MM, _ENDPLATE_REACH_MM = 12.0, 7.0
#: L5 joins an ala where their labels come nearer than this, voxel size permitting, over at least this area.
_JOINED_MM, _JOINED_MM2 = 2.0, 40.0
#: Lateral of this only transverse processes and alae meet, no facets [mm].
_LATERAL_MM = 30.0
#: Median distance between the halves of an intact sacrum, mirrored, stays below this [mm].
LARGEST_ASYMMETRY_MM = 2.5


def find_hints(
    bones: Volume, SacrumToRAS: FloatArray, asymmetry_mm: float, image: StraightImage, s1_level_mm: float
) -> tuple[Hint, ...]:
    """All hints that this CT gives.

    Args:
        asymmetry_mm: median distance between the sacral surface and its mirror image.
        image: the straightened sacrum.
        s1_level_mm: where the anterior S1 foramina lie along its curve.
    """
    hints = [_residual_disc(image, s1_level_mm), *_joined_l5(bones, SacrumToRAS), *_alar_slope(bones, SacrumToRAS)]
    hints.append(_crests(bones, SacrumToRAS))
    if asymmetry_mm > LARGEST_ASYMMETRY_MM:
        text = (
            f"The halves of the sacrum differ by {asymmetry_mm:.1f} mm (median): a transitional vertebra on one side, "
            "a displaced fracture, or a label that is cut off. Check the levels of the foramina."
        )
        hints.append(Hint("asymmetric_sacrum", "", round(asymmetry_mm, 2), LARGEST_ASYMMETRY_MM, text, _OWN))
    return tuple(hint for hint in hints if hint is not None)


def _residual_disc(image: StraightImage, s1_level_mm: float) -> Hint | None:
    """A dark band between two brighter ones across the bodies of S1 and S2."""
    from scipy import ndimage

    columns = np.abs(image.left_mm) <= 8
    rows = np.abs(image.down_mm - s1_level_mm) <= _DISC_REACH_MM + _ENDPLATE_REACH_MM
    front = np.nanmedian(np.where(np.isfinite(image.front_mm), image.front_mm, np.nan)[columns][:, rows])
    depths = (image.deep_mm >= front + 3) & (image.deep_mm <= front + 15)
    block = image.hounsfield[np.ix_(columns, depths, rows)].astype(float)
    if not block.size or not np.isfinite(front):
        return None
    # Rows are at a right angle to the bodies' front: a disc is dark along whole rows, at each depth on its own.
    profile = ndimage.gaussian_filter1d(block.mean(axis=0), 1.0 / STEP_MM, axis=1)
    down = image.down_mm[rows]
    reach = int(_ENDPLATE_REACH_MM / STEP_MM)
    best, valley = 0.0, -1
    mean = profile.mean(axis=0)
    for index in range(reach, len(down) - reach):
        contrast = min(mean[index - reach : index].max(), mean[index + 1 : index + reach + 1].max()) - mean[index]
        if abs(down[index] - s1_level_mm) <= _DISC_REACH_MM and contrast > best:
            best, valley = float(contrast), index
    if valley < 0 or best < _DISC_CONTRAST_HU:
        return None
    above = profile[:, valley - reach : valley].max(axis=1)
    below = profile[:, valley + 1 : valley + reach + 1].max(axis=1)
    share = float((np.minimum(above, below) - profile[:, valley] >= _DISC_CONTRAST_HU / 2).mean())
    if share < _DISC_DEPTH:
        return None
    text = (
        f"Between S1 and S2 a band is {best:.0f} HU darker than the bone above and below it: the rest of a disc, as in "
        "a transitional or dysmorphic S1, or only its scar. Check that the uppermost foramina are those of S1."
    )
    return Hint("residual_s1_s2_disc", "", round(best, 1), _DISC_CONTRAST_HU, text, _SIGN)


def _joined_l5(bones: Volume, SacrumToRAS: FloatArray) -> list[Hint]:
    """A transverse process of L5 that meets the ala."""
    from scipy.spatial import cKDTree

    groups = [_local(bones, name, SacrumToRAS) for name in ("l5", "sacrum")]
    hints = []
    limit_mm = max(_JOINED_MM, 1.2 * float(bones.spacing_mm.max()))
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        process, ala = (group[sign * group[:, 0] > _LATERAL_MM] for group in groups)
        if not len(process) or not len(ala):
            continue
        near = process[cKDTree(ala).query(process, distance_upper_bound=limit_mm)[0] <= limit_mm]
        # The area of contact as seen from above.
        step_mm = float(bones.spacing_mm.max())
        area_mm2 = len(np.unique(np.round(near[:, :2] / step_mm), axis=0)) * step_mm**2
        if area_mm2 < _JOINED_MM2:
            continue
        text = (
            f"The lowest lumbar vertebra meets the {side} ala over {area_mm2:.0f} mm²: a transitional vertebra? Which "
            "number it has cannot be told from this CT. Check the count of the foramina."
        )
        hints.append(Hint("l5_joins_ala", side, round(area_mm2, 0), _JOINED_MM2, text, _OWN))
    return hints


def _alar_slope(bones: Volume, SacrumToRAS: FloatArray) -> list[Hint]:
    """How steeply the upper edge of each ala falls from the body to the joint, in the plane of endplate and width."""
    sacrum = _local(bones, "sacrum", SacrumToRAS)
    hints = []
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        beside = sacrum[:, 0] * sign
        before = (sacrum[:, 1] > -10) & (sacrum[:, 1] < 15)
        edge = [
            (middle, float(np.percentile(sacrum[before & (np.abs(beside - middle) <= 3), 2], 99)))
            for middle in (30.0, 36.0, 42.0, 48.0)
            if np.count_nonzero(before & (np.abs(beside - middle) <= 3)) > 20
        ]
        if len(edge) < 3:
            continue
        away, height = np.array(edge).T
        slope_deg = float(-np.degrees(np.arctan(np.polyfit(away, height, 1)[0])))
        if slope_deg > _STEEP_ALA_DEG:
            text = (
                f"The upper edge of the {side} ala falls by {slope_deg:.0f} degrees towards the joint, steeply as in a "
                "dysmorphic sacrum: what lies in front of a straight path through it must be looked at."
            )
            hints.append(Hint("steep_ala", side, round(slope_deg, 1), _STEEP_ALA_DEG, text, _SLOPE))
    return hints


def _crests(bones: Volume, SacrumToRAS: FloatArray) -> Hint | None:
    """Iliac crests at the height of the S1 endplate, so that the sacrum does not lie deep between the hips."""
    heights = []
    for side in SIDES:
        points = bones.ras_of(np.argwhere(bones.voxels == BONE_LABEL[f"hip_{side}"]))
        if not len(points):
            continue
        top = points[points[:, 2] >= points[:, 2].max() - 1.5]
        kji = bones.kji_of(top)
        if (kji < 0.6).any() or (kji > np.array(bones.voxels.shape) - 1.6).any():
            # The image ends before the crest does.
            return None
        heights.append(float(top[:, 2].mean() - SacrumToRAS[2, 3]))
    if not heights or min(heights) >= _CREST_ABOVE_S1_MM:
        return None
    value = round(min(heights), 1)
    text = (
        f"The iliac crests rise only {value:.0f} mm above the endplate of S1: the sacrum stands high between the hips, "
        "as in dysmorphism or with a transitional vertebra."
    )
    return Hint("collinear_crests", "", value, _CREST_ABOVE_S1_MM, text, _SIGN)


def _local(bones: Volume, name: str, SacrumToRAS: FloatArray) -> NDArray[np.float64]:
    points = bones.ras_of(np.argwhere(bones.voxels == BONE_LABEL[name]))
    return transform_points(invert_rigid(SacrumToRAS), points)
