"""An MRI over the CT: a transform above its volume, the overlay in slice views, oedema among the segments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slicer import (
    vtkMRMLLinearTransformNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScene,
    vtkMRMLSegmentationNode,
)

from ..anatomy.mri_files import OEDEMA_LABEL, mri_record
from ..anatomy.mri_registration import MRIRegistration, register_mri
from ..anatomy.oedema import Oedema, find_oedema
from ..errors import AnatomyError, SacroplastyError
from ..geometry import FloatArray
from ..image import Volume
from .anatomy import anatomy_of
from .nodes import add_transform, first_node, matrix_of, set_segment, volume_of
from .records import read_record, write_record

TRANSFORM_NAME = "MRIToCT"
RECORD_NAME = "Sacroplasty MRI"


def register(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    mri_node: vtkMRMLScalarVolumeNode,
    segmentation: vtkMRMLSegmentationNode | None = None,
    from_present_place: bool = False,
    progress: Callable[[float], None] | None = None,
) -> MRIRegistration:
    """Lay the MRI on the CT: a transform node `MRIToCT` above the MRI's volume, which itself stays as it is.

    Args:
        segmentation: the anatomy's; without it the bones are taken by their density.
        from_present_place: search around where a person moved the transform to, not from the headers.

    Raises:
        SacroplastyError: as `anatomy.mri_registration.register_mri`; the scene is then as it was.
    """
    ct, mri = volume_of(ct_node), _mri_of(mri_node)
    anatomy = anatomy_of(scene, segmentation, ct_node) if segmentation is not None else None
    transform = _transform(scene)
    start: FloatArray | None = None
    if from_present_place:
        if transform is None or mri_node.GetTransformNodeID() != transform.GetID():
            raise SacroplastyError(f"{mri_node.GetName()} is under no transform {TRANSFORM_NAME}; lay it there first")
        start = matrix_of(transform)
    found = register_mri(ct, mri, anatomy, start, progress)
    remove(scene)
    transform = add_transform(scene, found.MRIToCT, TRANSFORM_NAME)
    mri_node.SetAndObserveTransformNodeID(transform.GetID())
    write_record(scene, RECORD_NAME, mri_record(ct.content_hash(), mri, found, None))
    return found


def place_by_hand(scene: vtkMRMLScene, mri_node: vtkMRMLScalarVolumeNode) -> vtkMRMLLinearTransformNode:
    """Put the MRI under a transform that a person can drag, to start from when the search fails."""
    transform = _transform(scene)
    if transform is None:
        transform = add_transform(scene, np.eye(4), TRANSFORM_NAME)
    mri_node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def show_oedema(
    scene: vtkMRMLScene,
    ct_node: vtkMRMLScalarVolumeNode,
    mri_node: vtkMRMLScalarVolumeNode,
    segmentation: vtkMRMLSegmentationNode,
) -> Oedema:
    """Add the segments `oedema_left` and `oedema_right`, as far as there is any, to the anatomy's segmentation.

    Raises:
        AnatomyError: when the MRI was not registered, or moved since.
        ImageError: when oedema cannot be told on this MRI.
    """
    record, found = read_record(scene, RECORD_NAME), registration_of(scene)
    transform = _transform(scene)
    if record is None or found is None or transform is None:
        raise AnatomyError("the MRI is not laid on the CT yet; register it first")
    if abs(matrix_of(transform) - found.MRIToCT).max() > 1e-6:
        raise AnatomyError(f"the transform {TRANSFORM_NAME} was moved since the registration; register again")
    ct, mri = volume_of(ct_node), _mri_of(mri_node)
    if record["mri_hash"] != mri.content_hash():
        raise AnatomyError(f"{mri_node.GetName()} is not the MRI that was registered; register this one")
    oedema = find_oedema(ct, mri, anatomy_of(scene, segmentation, ct_node), found)
    _remove_segments(segmentation)
    for name, mask in oedema.masks.items():
        if mask.any():
            set_segment(segmentation, name, mask, ct)
    write_record(scene, RECORD_NAME, mri_record(ct.content_hash(), mri, found, oedema))
    return oedema


def show_overlay(scene: vtkMRMLScene, mri_node: vtkMRMLScalarVolumeNode | None, opacity: float = 0.5) -> int:
    """Show the MRI over the CT in all slice views, or nothing with None. Returns how many views there were."""
    count = int(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode"))
    for number in range(count):
        composite = scene.GetNthNodeByClass(number, "vtkMRMLSliceCompositeNode")
        composite.SetForegroundVolumeID(mri_node.GetID() if mri_node is not None else None)
        composite.SetForegroundOpacity(min(max(float(opacity), 0.0), 1.0) if mri_node is not None else 0.0)
    return count


def remove(scene: vtkMRMLScene) -> None:
    """Undo it all: transform, overlay, oedema segments and record. The MRI's volume stays, where its header puts it."""
    show_overlay(scene, None)
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        _remove_segments(scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode"))
    for class_name, name in (
        ("vtkMRMLLinearTransformNode", TRANSFORM_NAME),
        ("vtkMRMLTextNode", RECORD_NAME),
    ):
        node = first_node(scene, class_name, name)
        if node is not None:
            scene.RemoveNode(node)


def registration_of(scene: vtkMRMLScene) -> MRIRegistration | None:
    """The registration that the scene keeps, or None."""
    record = read_record(scene, RECORD_NAME)
    if record is None:
        return None
    return MRIRegistration(
        MRIToCT=np.array(record["MRIToCT"], float),
        start=record["start"],
        information=record["information_nats"],
        information_elsewhere=record["information_elsewhere_nats"],
        disagreement_mm=record["disagreement_mm"],
        covered=record["covered"],
        moved_mm=record["moved_mm"],
        turned_deg=record["turned_deg"],
        warnings=tuple(record["warnings"]),
    )


def _transform(scene: vtkMRMLScene) -> vtkMRMLLinearTransformNode | None:
    return first_node(scene, "vtkMRMLLinearTransformNode", TRANSFORM_NAME)


def _mri_of(node: vtkMRMLScalarVolumeNode) -> Volume:
    """The MRI where its header puts it, whatever transform is above it."""
    if node is None or node.GetImageData() is None:
        raise SacroplastyError("the MRI is empty; load or select one")
    parent = node.GetTransformNodeID()
    node.SetAndObserveTransformNodeID(None)
    try:
        return volume_of(node)
    finally:
        node.SetAndObserveTransformNodeID(parent)


def _remove_segments(segmentation: vtkMRMLSegmentationNode) -> None:
    for name in OEDEMA_LABEL:
        segment_id = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
        if segment_id:
            segmentation.GetSegmentation().RemoveSegment(segment_id)
