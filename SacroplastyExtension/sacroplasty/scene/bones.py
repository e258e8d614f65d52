"""Bones by the method that a person chose, corrected by hand, and all that depends on them found anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import slicer
from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..anatomy.bone_sources import BoneSource, built_in_instead, chosen_as, find_bones
from ..anatomy.bones import LabelledBones
from ..anatomy.labels import BONE_LABEL, VESSELS
from ..anatomy.model import Anatomy
from ..anatomy.totalsegmentator import TotalSegmentatorError
from ..errors import AnatomyError
from ..image import Volume, check_ct
from .anatomy import anatomy_of, bone_warnings_of, edited_structures, readable, segment, show_structures
from .nodes import volume_of
from .totalsegmentator import ExtensionLogic, bones_by_extension, extension_logic

#: The Segment Editor module looks for its parameters under this tag.
_SEGMENT_EDITOR = "SegmentEditor"
_EDITED = ", edited by hand"


def segment_by(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    method: str = "auto",
    labels_node: vtkMRMLNode | None = None,
    progress: Callable[[float], None] | None = None,
    find_extension: Callable[[], ExtensionLogic] = extension_logic,
) -> vtkMRMLSegmentationNode:
    """Find bones and structures by a method and show them; the older result becomes the previous one.

    Args:
        method: `labels` (of `labels_node`), `totalsegmentator` (Slicer's extension if it is there, else the package),
            `atlas` (built in), or `auto`: TotalSegmentator if it is there, else built in.
        progress: called with 0 to 1; an exception from it cancels and leaves the older result.
        find_extension: gives the TotalSegmentator extension's logic, or raises when there is none.

    Raises:
        AnatomyError: when no bones were found, or not those of a sacrum.
        TotalSegmentatorError: when it was asked for and failed.
        ImageError: when the volume is no CT.
    """
    if method == "labels":
        return segment(scene, ct_node, labels_node, progress)
    tell = progress or (lambda fraction: None)
    extension = None if method == "atlas" else _installed(find_extension)
    labelled = _bones(scene, ct_node, method, extension, lambda fraction: tell(0.7 * fraction))
    return show_structures(scene, ct_node, labelled, lambda fraction: tell(0.7 + 0.3 * fraction))


def recompute(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    ct_node: vtkMRMLScalarVolumeNode,
    progress: Callable[[float], None] | None = None,
) -> vtkMRMLSegmentationNode:
    """Find canal, foramina, regions and landmarks anew in the bones as a person has edited them.

    What a person painted in those regions is not kept: `scene.anatomy.edited_structures` tells it beforehand, and
    `scene.anatomy.restore_previous` brings it back. Marked fractures stay; confirmations lapse.

    Raises:
        AnatomyError: when nothing was segmented yet, the CT is another one, or the bones are none of a sacrum.
    """
    anatomy = anatomy_of(scene, segmentation, ct_node)
    edited = [name for name in edited_structures(scene, segmentation) if name in BONE_LABEL]
    how = _EDITED if edited else ""
    warning = f"Edited by hand, with the confidence of before: {', '.join(map(readable, edited))}."
    warnings = (*bone_warnings_of(scene), *([warning] if edited else []))
    return show_structures(scene, ct_node, corrected_bones(anatomy, anatomy.bones, how, warnings), progress)


def corrected_bones(anatomy: Anatomy, bones: Volume, how: str, warnings: tuple[str, ...]) -> LabelledBones:
    """Bones in place of the anatomy's own. Its vessels stay, since no other source would bring them back.

    Args:
        bones: labels of `labels.BONES` on the anatomy's grid.
        how: what is added to the name of the method.

    Raises:
        AnatomyError: without sacrum or L5, from which everything else is found.
    """
    found = {name for name, label in BONE_LABEL.items() if (bones.voxels == label).any()}
    missing = [name for name in ("sacrum", "l5") if name not in found]
    if missing:
        raise AnatomyError(f"there is nothing left of {' and '.join(missing)}; paint it, or run the segmentation again")
    vessels = anatomy.region(VESSELS)
    return LabelledBones(
        bones,
        np.zeros(bones.voxels.shape, bool),
        f"{anatomy.method.removesuffix(how)}{how}",
        {name: anatomy.confidence.get(name, 0.0) for name in found},
        tuple(dict.fromkeys(warnings)),
        vessels if vessels.any() else None,
    )


def prepare_segment_editor(
    scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode, ct_node: vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentEditorNode:
    """Choose segmentation and source volume for Slicer's module Segment Editor, whether it was opened before or not."""
    node = scene.GetSingletonNode(_SEGMENT_EDITOR, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(_SEGMENT_EDITOR)
        node = scene.AddNode(node)
    node.SetAndObserveSegmentationNode(segmentation)
    node.SetAndObserveSourceVolumeNode(ct_node)
    return node


def _installed(find_extension: Callable[[], ExtensionLogic]) -> ExtensionLogic | None:
    try:
        return find_extension()
    except TotalSegmentatorError:
        return None


def _bones(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    method: str,
    extension: ExtensionLogic | None,
    progress: Callable[[float], None],
) -> LabelledBones:
    if extension is None:
        ct = volume_of(ct_node)
        check_ct(ct, ct_node.GetName())
        return find_bones(ct, BoneSource(method), progress)
    try:
        labelled = bones_by_extension(scene, ct_node, extension, progress=progress)
    except TotalSegmentatorError as error:
        if method != "auto":
            raise
        return built_in_instead(volume_of(ct_node), "the TotalSegmentator extension", error, progress)
    return chosen_as(labelled, "the TotalSegmentator extension is installed") if method == "auto" else labelled
