"""The built-in way from a CT to its bones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import AnatomyError
from ...image import Volume, check_ct
from ..bones import LabelledBones
from ..labels import BONE_LABEL, BONES, SIDES
from .deform import Fit, fit
from .delineate import label_bones
from .localize import find_pelvis
from .template import Template, average_pelvis

#: Mean evidence of the sacrum's surface: below the first it is not the sacrum that was found; from the second on the
#: outline is as clear as it gets. Own choice: real CTs seen have 0.58 and 0.62, synthetic ones 0.7 to 0.9.
_LEAST_EVIDENCE, _CLEAR_EVIDENCE = 0.4, 0.6
#: Stretch of the average sacrum along three axes. Sacra are 93 to 120 mm high and 93 to 117 mm wide (two standard
#: deviations about the mean of 30 dry bones); seen here 0.86 to 1.17. Fitted to other things it shrinks to 0.2 to 0.7.
_STRETCH = (0.72, 1.4)
_BEST_CONFIDENCE = 0.9
#: So much of the sacrum must be in view for its outline to mean anything.
_LEAST_IN_VIEW = 0.4
#: Bones with less than this in view are left out: their surface hangs on nothing.
_LEAST_NEIGHBOR_IN_VIEW = 0.15
#: The sacroiliac joint of synthetic patients is 1.2 to 2.8 mm wide. Voxels as wide as that do not show where the sacrum
#: ends and the hip begins: among 200 patients trocars were planned too near to a hip with such voxels only.
_JOINT_MM, _UNRESOLVED_JOINT = 1.75, 0.4


def segment_bones(ct: Volume, progress: Callable[[float], None] | None = None) -> LabelledBones:
    """Sacrum, L5 and hips of a CT by fitting the average pelvis; needs no network, no GPU and no download.

    Args:
        ct: in Hounsfield units, of any orientation.
        progress: called with the fraction done; an exception from it cancels.

    Raises:
        AnatomyError: when there is no sacrum in view.
        ImageError: when `ct` is no CT.
    """
    told = progress or (lambda fraction: None)
    check_ct(ct, "the CT")
    template = average_pelvis()
    told(0.05)
    places = find_pelvis(ct, template)
    told(0.2)
    found: Fit | None = None
    for number, place in enumerate(places):
        found = fit(ct, template, place, _share(told, 0.2 + 0.5 * number / len(places), 0.5 / len(places)))
        if _evidence(template, found, "sacrum") >= _LEAST_EVIDENCE and _is_a_sacrum(template, found):
            break
    else:
        raise AnatomyError(
            "no sacrum was found in the CT; is the pelvis in view and the image a CT in Hounsfield units? If it is, "
            "give the bones as a label map (--labels FILE)"
        )
    told(0.7)
    in_view = {name: float(found.in_view[_of(template, name)].mean()) for name in BONE_LABEL}
    if in_view["sacrum"] < _LEAST_IN_VIEW:
        raise AnatomyError(
            f"only {in_view['sacrum']:.0%} of the sacrum lie within the CT; it needs at least "
            f"{_LEAST_IN_VIEW:.0%}, better all of it: choose a series with the whole pelvis"
        )
    labels = label_bones(ct, template, found)
    for name, share in in_view.items():
        if share < _LEAST_NEIGHBOR_IN_VIEW:
            labels[labels == BONE_LABEL[name]] = 0
    told(1.0)
    present = {BONES[int(label)] for label in np.unique(labels) if label}
    confidence = {name: _confidence(_evidence(template, found, name)) for name in BONE_LABEL if name in present}
    across_mm = _across_the_joints_mm(ct)
    if across_mm >= _JOINT_MM:
        confidence |= {f"si_joint_{side}": _UNRESOLVED_JOINT for side in SIDES if f"hip_{side}" in present}
    return LabelledBones(
        bones=ct.like(labels),
        canal=np.zeros(ct.voxels.shape, bool),
        method="built-in: average pelvis fitted to the CT",
        confidence=confidence,
        warnings=_warnings(in_view, confidence, across_mm),
    )


def _share(told: Callable[[float], None], start: float, width: float) -> Callable[[float], None]:
    return lambda fraction: told(start + width * fraction)


def _of(template: Template, name: str) -> NDArray[np.bool_]:
    return (template.bone == BONE_LABEL[name]) & ~template.cut


def _evidence(template: Template, found: Fit, name: str) -> float:
    """Mean evidence of a bone's surface where the image shows it."""
    chosen = _of(template, name) & found.in_view
    return float(found.evidence[chosen].mean()) if chosen.any() else 0.0


def _is_a_sacrum(template: Template, found: Fit) -> bool:
    """Whether the fitted sacrum has the size and proportions of one."""
    chosen = _of(template, "sacrum")
    average = np.column_stack([template.points_mm[chosen], np.ones(np.count_nonzero(chosen))])
    affine = np.linalg.lstsq(average, found.points_ras[chosen], rcond=None)[0][:3]
    stretch = np.linalg.svd(affine, compute_uv=False)
    return bool((stretch > _STRETCH[0]).all() and (stretch < _STRETCH[1]).all())


def _confidence(evidence: float) -> float:
    return float(np.clip(evidence / _CLEAR_EVIDENCE, 0, 1) * _BEST_CONFIDENCE)


def _across_the_joints_mm(ct: Volume) -> float:
    """Size of a voxel from the patient's left to the right, the way across the sacroiliac joints."""
    axes = ct.IJKToRAS[:3, :3]
    return float(np.abs(axes[0]).max())


def _warnings(in_view: dict[str, float], confidence: dict[str, float], across_mm: float) -> tuple[str, ...]:
    warnings = []
    if across_mm >= _JOINT_MM:
        warnings.append(
            f"Voxels of {across_mm:.1f} mm are as wide as the sacroiliac joints; check where the sacrum ends and where "
            "the hips begin."
        )
    for name, share in in_view.items():
        if share < _LEAST_NEIGHBOR_IN_VIEW:
            warnings.append(f"{name} lies outside the CT or nearly so; it is unknown and counts as forbidden.")
        elif share < 0.95:
            warnings.append(f"{name} is cut off by the border of the CT: {share:.0%} of its surface is in view.")
    unclear = [name for name, value in confidence.items() if value < 0.6 and name in BONE_LABEL]
    if unclear:
        warnings.append(f"The outline of {', '.join(unclear)} is unclear in this CT; check it, slice by slice.")
    return tuple(warnings)
