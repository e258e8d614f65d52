"""Where an MRI lies on the CT: rigid registration of the pelvic ring by mutual information, and whether to trust it.

A wrong pose can look convincing, as pelves are alike. So the pose is searched from several starts, compared with poses
elsewhere, and then checked in parts: each part of the pelvic ring says how far it would rather move. In the same
patient the parts are content where they are; in another patient, or at a wrong pose, they are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from ..errors import AnatomyError, CalibrationError
from ..geometry import FloatArray, check_rigid, invert_rigid, rigid, transform_points
from ..image import Volume, check_ct
from .labels import BONE_LABEL
from .model import Anatomy
from .mri import check_mri
from .mutual_information import SampledPair, even_signal, sample_pair, signal_levels

#: L5 is left out: it moves against the sacrum from scan to scan.
_RING = ("sacrum", "hip_left", "hip_right")
#: Only what is this near to the sacrum counts: hips turn little against it, but their far ends turn far [mm].
_REACH_MM = 45.0
#: The surface of the bones gets its contrast from what lies around them [mm].
_AROUND_BONE_MM = 6.0
#: Without an anatomy bone is what is denser than this [HU].
_BONE_HU = 200.0
_MASK_MM = 1.5
#: Steps and turns about each axis around a start.
_SEARCH_MM = (-16.0, -8.0, 0.0, 8.0, 16.0)
_SEARCH_DEG = (-8.0, 0.0, 8.0)
#: Poses that are tried and climbed from each start, and how far they are apart.
_TRIED, _CLIMBED, _APART_MM = 20, 3, 5.0
_UNIT_MM, _UNIT_DEG = 2.0, 2.0
#: A pose this far off is another one [mm].
_ELSEWHERE_MM = 6.0
_PART_MM = ((-6.0, -3.0, 0.0, 3.0, 6.0), (-1.0, 0.0, 1.0))
_FEWEST_IN_PART = 1000
#: Own rules, chosen on synthetic patients other than those of the published figures.
_CLEAR_RATIO = 1.8  # further starts need not be tried
_LEAST_RATIO, _LARGEST_DISAGREEMENT_MM, _NOTED_DISAGREEMENT_MM, _FULLY_COVERED = 1.5, 2.5, 1.5, 0.8
_SEED = 20261


@dataclass(frozen=True)
class MRIRegistration:
    """An MRI laid on the CT.

    Attributes:
        MRIToCT: rigid 4x4 from the RAS of the MRI's header to the RAS of the CT.
        start: what the search began with: `header`, `middle` (of the MRI on that of the sacrum) or `given`.
        information: mutual information at the pose, nats.
        information_elsewhere: the best at poses a good way off, nats.
        disagreement_mm: how far the parts of the pelvic ring would rather move, median over the parts.
        covered: share of the bones near the sacrum that lies in the MRI.
        moved_mm: how far the sacrum's middle lies from where the headers say.
        turned_deg: how far the MRI is turned from what the headers say.
        warnings: plain sentences for the person.
    """

    MRIToCT: FloatArray
    start: str
    information: float
    information_elsewhere: float
    disagreement_mm: float
    covered: float
    moved_mm: float
    turned_deg: float
    warnings: tuple[str, ...]


def register_mri(
    ct: Volume,
    mri: Volume,
    anatomy: Anatomy | None = None,
    start: ArrayLike | None = None,
    progress: Callable[[float], None] | None = None,
) -> MRIRegistration:
    """Lay an MRI of the sacrum on the CT of the same patient. The same input gives the same result.

    Args:
        ct: in Hounsfield units, of any orientation.
        mri: of any contrast and orientation.
        anatomy: found in this CT; without it the bones are taken by their density and the check is weaker.
        start: rigid 4x4 MRIToCT from which to search (a person's), in place of the headers and the images' middles.
            The search reaches about 16 mm and 8 degrees about each axis.
        progress: called with the fraction done.

    Raises:
        ImageError: when an image is not what it should be.
        AnatomyError: when the anatomy was found in another CT.
        GeometryError: for a start that is not rigid.
        CalibrationError: when no pose can be trusted, saying why and what to do.
    """
    tell = progress or (lambda fraction: None)
    check_ct(ct, "the CT")
    check_mri(mri, "the MRI")
    if anatomy is not None and anatomy.image_hash != ct.content_hash():
        raise AnatomyError("this anatomy was found in another CT; segment this one before an MRI is laid on it")
    mask = _where_it_counts(ct, anatomy)
    center = mask.ras_of(np.argwhere(mask.voxels)).mean(axis=0)
    rng = np.random.default_rng(_SEED)
    even = even_signal(mri)
    look, coarse, fine, parts = (
        sample_pair(ct, mask, signal_levels(even, stage.levels, stage.smooth_mm), stage.levels, stage.points, rng)
        for stage in _STAGES
    )
    starts = _starts(mri, center, start)
    tell(0.05)
    poses: list[tuple[float, str, FloatArray]] = []
    for number, (name, CTToMRI) in enumerate(starts.items()):
        for pose in _look_around(look, CTToMRI, center):
            refined = _climb(coarse, pose, center, rounds=6)
            poses.append((fine.information(refined), name, refined))
        tell(0.05 + 0.65 * (number + 1) / len(starts))
        best = max(poses, key=lambda entry: entry[0])
        others = [one for one, _, pose in poses if _distance_mm(fine, pose, best[2]) > _ELSEWHERE_MM]
        others += [fine.information(pose) for pose in _poses_elsewhere(best[2], center, rng)]
        if best[0] > _CLEAR_RATIO * max(others):
            break
    if not any(information > 0 for information, _, _ in poses):
        raise CalibrationError(
            "the MRI and the sacrum of the CT do not overlap; check that it shows the sacrum, or lay it roughly on the "
            "CT by hand and start from there"
        )
    _, name, pose = best
    CTToMRI = _climb(fine, pose, center, rounds=12)
    tell(0.85)
    far = [information for information, _, pose in poses if _distance_mm(fine, pose, CTToMRI) > _ELSEWHERE_MM]
    far += [fine.information(pose) for pose in _poses_elsewhere(CTToMRI, center, rng)]
    result = _result(CTToMRI, name, fine, max(far), _disagreement_mm(parts, CTToMRI), center)
    _refuse(result)
    tell(1.0)
    return result


@dataclass(frozen=True)
class _Stage:
    levels: int
    smooth_mm: float
    points: int


#: To look around, to climb, to arrive, and to ask the parts.
_STAGES = (_Stage(12, 1.5, 2500), _Stage(16, 1.5, 4000), _Stage(24, 1.0, 12000), _Stage(12, 1.0, 48000))


def _result(
    CTToMRI: FloatArray, start: str, fine: SampledPair, elsewhere: float, disagreement_mm: float, center: FloatArray
) -> MRIRegistration:
    MRIToCT = invert_rigid(CTToMRI)
    covered = fine.inside(CTToMRI)
    turned = float(np.degrees(np.arccos(np.clip((np.trace(MRIToCT[:3, :3]) - 1) / 2, -1, 1))))
    return MRIRegistration(
        MRIToCT=MRIToCT,
        start=start,
        information=fine.information(CTToMRI),
        information_elsewhere=elsewhere,
        disagreement_mm=disagreement_mm,
        covered=covered,
        moved_mm=float(np.linalg.norm(transform_points(MRIToCT, center) - center)),
        turned_deg=turned,
        warnings=_warnings(disagreement_mm, covered),
    )


def _refuse(result: MRIRegistration) -> None:
    """Raise CalibrationError for a pose that is not to be trusted."""
    ratio = result.information / max(result.information_elsewhere, 1e-9)
    remedy = "check that CT and MRI are of the same patient, or lay the MRI on the CT by hand and start from there"
    if not ratio >= _LEAST_RATIO:
        raise CalibrationError(
            f"the MRI fits the CT hardly better here than elsewhere ({ratio:.2f} times; {_LEAST_RATIO:g} needed); "
            f"{remedy}"
        )
    if not result.disagreement_mm <= _LARGEST_DISAGREEMENT_MM:
        raise CalibrationError(
            f"the parts of the pelvis disagree by {result.disagreement_mm:.1f} mm on where the MRI lies (at most "
            f"{_LARGEST_DISAGREEMENT_MM:g}); {remedy}"
        )


def _warnings(disagreement_mm: float, covered: float) -> tuple[str, ...]:
    found = ["look at the edges of sacrum and joints in the overlay before the MRI is relied on"]
    if disagreement_mm > _NOTED_DISAGREEMENT_MM:
        found.append(
            f"the parts of the pelvis disagree by {disagreement_mm:.1f} mm on where the MRI lies: is it of "
            "this patient?"
        )
    if covered < _FULLY_COVERED:
        found.append(f"only {covered:.0%} of the bones around the sacrum lie in the MRI")
    return tuple(found)


def _where_it_counts(ct: Volume, anatomy: Anatomy | None) -> Volume:
    """Mask of the bones near the sacrum and what lies around them, on a coarse part of the CT's grid."""
    from scipy.ndimage import distance_transform_edt

    step = np.maximum(1, np.round(_MASK_MM / ct.spacing_mm[::-1])).astype(int)
    coarse = tuple(slice(None, None, int(n)) for n in step)
    if anatomy is None:
        bone = near = ct.voxels[coarse] > _BONE_HU
    else:
        bones = anatomy.bones.voxels[coarse]
        near, bone = bones == BONE_LABEL["sacrum"], np.isin(bones, [BONE_LABEL[name] for name in _RING])
    if not near.any():
        raise AnatomyError("the CT shows no bone to lay the MRI on; segment it first")
    spacing = ct.spacing_mm[::-1] * step
    margin = np.ceil((_REACH_MM + _AROUND_BONE_MM) / spacing).astype(int)
    found = np.argwhere(near)
    low, high = np.maximum(found.min(axis=0) - margin, 0), found.max(axis=0) + margin + 1
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    bone, near = bone[window], near[window]
    bone = bone & (distance_transform_edt(~near, sampling=spacing) < _REACH_MM)
    mask = distance_transform_edt(~bone, sampling=spacing) < _AROUND_BONE_MM
    IJKToRAS = ct.IJKToRAS.copy()
    IJKToRAS[:3, 3] = ct.ras_of(low * step)
    IJKToRAS[:3, :3] *= step[::-1]
    return Volume(np.asarray(mask), IJKToRAS)


def _starts(mri: Volume, center: FloatArray, start: ArrayLike | None) -> dict[str, FloatArray]:
    """CTToMRI of each start by name."""
    if start is not None:
        return {"given": invert_rigid(check_rigid(start, "the start"))}
    middle = mri.ras_of((np.array(mri.voxels.shape) - 1) / 2)
    return {"header": np.eye(4), "middle": rigid(np.eye(3), middle - center)}


def _motion(center: FloatArray, turn: FloatArray, step: FloatArray) -> FloatArray:
    """A turn about the center and then a step."""
    return rigid(turn, center - turn @ center + step)


def _turn(degrees: ArrayLike) -> FloatArray:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(np.radians(degrees)).as_matrix())


def _distance_mm(pair: SampledPair, pose: FloatArray, other: FloatArray) -> float:
    """Root mean square distance of some sampled points between two poses."""
    some = pair.points_ras[:: max(1, len(pair.points_ras) // 60)]
    difference = transform_points(pose, some) - transform_points(other, some)
    return float(np.sqrt((difference**2).sum(axis=1).mean()))


def _look_around(pair: SampledPair, CTToMRI: FloatArray, center: FloatArray) -> list[FloatArray]:
    """The most promising poses around a start, each climbed a little, and the start itself."""
    poses = [
        CTToMRI @ _motion(center, turn, step)
        for turn in [_turn(degrees) for degrees in product(_SEARCH_DEG, repeat=3)]
        for step in np.array(list(product(_SEARCH_MM, repeat=3)))
    ]
    scores = np.array([pair.information(pose, interpolate=False) for pose in poses])
    apart: list[FloatArray] = [CTToMRI]
    for number in np.argsort(-scores, kind="stable"):
        if len(apart) > _TRIED or scores[number] <= 0:
            break
        if all(_distance_mm(pair, poses[number], other) > _APART_MM for other in apart):
            apart.append(poses[number])
    climbed = [_climb(pair, pose, center, rounds=1) for pose in apart]
    climbed.sort(key=lambda pose: -pair.information(pose))
    return climbed[:_CLIMBED]


def _climb(pair: SampledPair, CTToMRI: FloatArray, center: FloatArray, rounds: int) -> FloatArray:
    """The pose of most information near by (Powell's method, as Maes 1997)."""
    from scipy.optimize import minimize

    def pose(x: FloatArray) -> FloatArray:
        return CTToMRI @ _motion(center, _turn(_UNIT_DEG * x[:3]), _UNIT_MM * x[3:])

    best = minimize(
        lambda x: -pair.information(pose(x)),
        np.zeros(6),
        method="Powell",
        options={"xtol": 0.02, "ftol": 1e-5, "maxiter": rounds},
    )
    return pose(best.x)


def _poses_elsewhere(CTToMRI: FloatArray, center: FloatArray, rng: np.random.Generator) -> list[FloatArray]:
    """Poses a good way off in all directions."""
    directions = rng.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return [
        CTToMRI @ _motion(center, _turn(rng.uniform(-8, 8, 3)), direction * rng.uniform(_ELSEWHERE_MM, 20))
        for direction in directions
    ]


def _disagreement_mm(pair: SampledPair, CTToMRI: FloatArray) -> float:
    """How far each eighth of the pelvic ring would rather move on its own; the median."""
    offset = pair.points_ras - np.median(pair.points_ras, axis=0)
    octant = (offset > 0) @ np.array([1, 2, 4])
    moves = []
    for number in range(8):
        part = pair.part(octant == number)
        if len(part.points_ras) < _FEWEST_IN_PART or part.inside(CTToMRI) < 0.8:
            continue
        move = np.zeros(3)
        for steps in _PART_MM:
            tried = move + np.array(list(product(steps, repeat=3)))
            scores = [part.information(CTToMRI @ rigid(np.eye(3), step)) for step in tried]
            move = tried[int(np.argmax(scores))]
        moves.append(float(np.linalg.norm(move)))
    return float(np.median(moves)) if moves else np.nan
