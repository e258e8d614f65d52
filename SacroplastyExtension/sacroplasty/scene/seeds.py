"""Three clicks that correct the bones: sacrum, hip and background grow from seeds as in Slicer's Segment Editor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer

from ..anatomy.labels import BONE_LABEL
from ..anatomy.structure_names import HIPS, structure_of
from ..errors import AnatomyError
from ..geometry import FloatArray
from ..image import Volume
from .anatomy import anatomy_of, bone_warnings_of, show_structures
from .bones import corrected_bones
from .nodes import volume_of

BACKGROUND = "background"
_CORRECTED = ", corrected by clicks"
#: Seeds and result: bones as in `labels.BONES`, then the background; 0 is what is to be filled.
_SEED_LABEL = {**BONE_LABEL, BACKGROUND: max(BONE_LABEL.values()) + 1}
#: A click is a ball of this radius [mm].
_CLICK_MM = 2.0
#: How far around a click that contradicts the bones they may change [mm].
REACH_MM = 25.0
#: The same for clicks between bone and soft tissue: an osteoporotic ala is as dark as fat, so farther growth would
#: lose it [mm].
SOFT_REACH_MM = 10.0
#: Soft tissue of a joint lies within this distance of the other bone [mm].
_JOINT_MM = 3.0
#: Smoothing before growing: less than a joint's width, enough that the noise of many voxels does not add up [mm].
_SMOOTHING_MM = 0.7


def grow_from_seeds(
    ct: Volume, seeds: Mapping[str, ArrayLike], bones: Volume | None = None, reach_mm: float = REACH_MM
) -> Volume:
    """Bones as they grow from clicks.

    A click that contradicts the bones opens what has the wrong label around it; all else keeps its label and grows
    into the opening together with the clicks, and borders come to lie where the CT's brightness changes. Without bones,
    everything within reach of a click is open.

    Args:
        ct: in Hounsfield units.
        seeds: clicks (n, 3) in RAS by `sacrum`, `l5`, `hip_left`, `hip_right` or `background`.
        bones: the result to correct, labels of `labels.BONES` on the CT's grid.
        reach_mm: how far from a contradicting click the bones may change.

    Returns:
        Labels of `labels.BONES` (uint8) on the CT's grid.

    Raises:
        AnatomyError: for unknown names, clicks outside the CT, or clicks that change nothing.
    """
    clicks = _checked(ct, seeds)
    if bones is not None and not bones.same_grid(ct):
        raise AnatomyError("the bones to correct are on another grid than the CT; segment this CT again")
    points = np.vstack([points for _, points in clicks])
    box = _box(ct, points, reach_mm + 5.0)
    k, j, i = (np.arange(part.start, part.stop) for part in box)
    centers = ct.ras_of(np.stack(np.meshgrid(k, j, i, indexing="ij"), axis=-1).reshape(-1, 3))
    shape = (len(k), len(j), len(i))
    labels = np.zeros(shape, np.uint8)
    if bones is not None:
        labels = bones.voxels[box].astype(np.uint8)
        labels[labels == 0] = _SEED_LABEL[BACKGROUND]
    # What bones took of each other, and what bone and soft tissue took of each other.
    between_bones, soft = np.zeros(shape, bool), np.zeros(shape, bool)
    balls = []
    for name, points in clicks:
        for point in points:
            away_mm = np.linalg.norm(centers - point, axis=1).reshape(shape)
            here = np.unravel_index(int(np.argmin(away_mm)), shape)
            pair = {int(labels[here]), _SEED_LABEL[name]}
            if _SEED_LABEL[BACKGROUND] in pair and len(pair) == 2 and bones is not None:
                soft |= (labels == labels[here]) & (away_mm < min(SOFT_REACH_MM, reach_mm))
            elif len(pair) == 2:
                between_bones |= (labels == labels[here]) & (away_mm < reach_mm)
            balls.append((_SEED_LABEL[name], (away_mm < _CLICK_MM) | (away_mm == away_mm[here])))
    if not (between_bones | soft).any():
        raise AnatomyError("every click lies where the bones already say so; click where they are wrong")
    grown = np.where(between_bones | soft, 0, labels)
    for label, ball in balls:
        grown[ball] = label
    if bones is not None and between_bones.any():
        # They part it between them first: soft tissue would take its share of a dark ala.
        closed = (grown == _SEED_LABEL[BACKGROUND]) | soft
        parted = np.where(closed, grown, _grow(ct, box, grown, closed))
        # Then the joint between them opens, filled from the soft tissue around it.
        grown = np.where(between_bones & _near_another_bone(parted, ct) & (grown == 0), 0, parted)
    grown = _grow(ct, box, grown)
    result = np.zeros(ct.voxels.shape, np.uint8) if bones is None else bones.voxels.astype(np.uint8)
    result[box] = np.where(grown == _SEED_LABEL[BACKGROUND], 0, grown)
    return ct.like(result)


def correct_bones(
    scene: slicer.vtkMRMLScene,
    ct_node: slicer.vtkMRMLScalarVolumeNode,
    segmentation: slicer.vtkMRMLSegmentationNode,
    clicks: slicer.vtkMRMLMarkupsFiducialNode,
    progress: Callable[[float], None] | None = None,
) -> slicer.vtkMRMLSegmentationNode:
    """Correct the segmented bones by clicks and find anew all that depends on them, in place of the older result.

    Args:
        clicks: points named by what is there: sacrum, l5, background, hip (the side is seen from the place) or
            hip_left and hip_right; a number behind a name, as Slicer adds it, is left out.
        progress: called with 0 to 1.

    Raises:
        AnatomyError: when nothing was segmented yet, a point has another name, or nothing changes.
    """
    tell = progress or (lambda fraction: None)
    anatomy = anatomy_of(scene, segmentation, ct_node)
    ct = volume_of(ct_node)
    tell(0.1)
    bones = grow_from_seeds(ct, _seeds_in(clicks, anatomy.SacrumToRAS), anatomy.bones)
    tell(0.3)
    warning = "The bones were corrected by clicks; check their borders around them."
    labelled = corrected_bones(anatomy, bones, _CORRECTED, (*bone_warnings_of(scene), warning))
    return show_structures(scene, ct_node, labelled, lambda fraction: tell(0.3 + 0.7 * fraction))


def _seeds_in(clicks: slicer.vtkMRMLMarkupsFiducialNode, SacrumToRAS: FloatArray) -> dict[str, list[FloatArray]]:
    seeds: dict[str, list[FloatArray]] = {}
    for number in range(clicks.GetNumberOfControlPoints() if clicks is not None else 0):
        if clicks.GetNthControlPointPositionStatus(number) != slicer.vtkMRMLMarkupsNode.PositionDefined:
            continue
        label = clicks.GetNthControlPointLabel(number)
        position = [0.0, 0.0, 0.0]
        clicks.GetNthControlPointPositionWorld(number, position)
        point = np.array(position)
        words = re.sub(r"[-_ ]+\d+$", "", label)
        name = BACKGROUND if words.lower() == BACKGROUND else structure_of(words)
        if name == HIPS:
            name = "hip_left" if (point - SacrumToRAS[:3, 3]) @ SacrumToRAS[:3, 0] > 0 else "hip_right"
        if name not in _SEED_LABEL:
            raise AnatomyError(f"the point {label!r} is none of {', '.join(_SEED_LABEL)}; rename it")
        seeds.setdefault(name, []).append(point)
    return seeds


def _checked(ct: Volume, seeds: Mapping[str, ArrayLike]) -> list[tuple[str, NDArray[np.float64]]]:
    unknown = sorted(set(seeds) - set(_SEED_LABEL))
    if unknown:
        raise AnatomyError(f"seeds are named {', '.join(unknown)}; known are {', '.join(_SEED_LABEL)}")
    clicks = [(name, np.asarray(points, float).reshape(-1, 3)) for name, points in seeds.items()]
    clicks = [(name, points) for name, points in clicks if len(points)]
    if len(clicks) < 2:
        raise AnatomyError("place at least two kinds of seeds, for example sacrum and background")
    for name, points in clicks:
        inside = ct.kji_of(points)
        if not (np.isfinite(points).all() and ((inside > -0.5) & (inside < np.array(ct.voxels.shape) - 0.5)).all()):
            raise AnatomyError(f"a seed of {name} lies outside the CT; move it into the image")
    return clicks


def _box(ct: Volume, points_ras: NDArray[np.float64], margin_mm: float) -> tuple[slice, slice, slice]:
    around = ct.kji_of(points_ras)
    margin = margin_mm / ct.spacing_mm[::-1]
    low = np.maximum(np.floor(around.min(axis=0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(around.max(axis=0) + margin) + 1, ct.voxels.shape).astype(int)
    first, second, third = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return first, second, third


def _near_another_bone(labels: NDArray[np.uint8], grid: Volume) -> NDArray[np.bool_]:
    from scipy import ndimage

    near = np.zeros(labels.shape, bool)
    for label in BONE_LABEL.values():
        others = (labels != label) & (labels != _SEED_LABEL[BACKGROUND]) & (labels != 0)
        if others.any() and (labels == label).any():
            distance_mm = ndimage.distance_transform_edt(~others, sampling=grid.spacing_mm[::-1])
            near |= (labels == label) & (distance_mm <= _JOINT_MM)
    return near


def _grow(
    ct: Volume,
    box: tuple[slice, slice, slice],
    seeds: NDArray[np.uint8],
    closed: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Fill the zeros of `seeds` by Slicer's grow-cut filter, not from nor through what is closed."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(ct.voxels[box].astype(np.float32), _SMOOTHING_MM / ct.spacing_mm[::-1])
    grow_cut = _grow_cut()
    grow_cut.SetIntensityVolume(_image(smooth, ct))
    grow_cut.SetSeedLabelVolume(_image(seeds, ct))
    if closed is not None:
        grow_cut.SetMaskVolume(_image(closed.astype(np.uint8), ct))
    grow_cut.Update()
    voxels: NDArray[np.uint8] = vtk_to_numpy(grow_cut.GetOutput().GetPointData().GetScalars()).reshape(seeds.shape)
    return voxels.astype(np.uint8)


def _grow_cut() -> vtk.vtkImageAlgorithm:
    """Slicer's filter of the effect Grow from seeds: in vtkITK now, in the Segmentations logic of slicer-core 5.11."""
    try:
        from vtkITK import vtkITKGrowCut

        return vtkITKGrowCut()
    except ImportError:
        return slicer.vtkImageGrowCutSegment()


def _image(voxels: NDArray, grid: Volume) -> vtk.vtkImageData:
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(voxels.shape))
    image.SetSpacing(*grid.spacing_mm)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(voxels).ravel(), deep=True))
    return image
