"""The DICOM frame of reference of images in the scene: whether two of them show one patient in one position."""

from __future__ import annotations

from typing import Protocol

from slicer import vtkMRMLScalarVolumeNode

#: Slicer's note of the instances that a volume was loaded from, and ours of their frame of reference.
_INSTANCES, _FRAME = "DICOM.instanceUIDs", "Sacroplasty.FrameOfReferenceUID"
_FRAME_OF_REFERENCE_TAG = "0020,0052"


class InstanceDatabase(Protocol):
    """What is needed of Slicer's DICOM database (`slicer.dicomDatabase`, a ctkDICOMDatabase)."""

    def instanceValue(self, instance_uid: str, tag: str) -> str:
        """Value of an element; empty when it is not known."""


def note_frame_of_reference(node: vtkMRMLScalarVolumeNode, database: InstanceDatabase | None) -> None:
    """Keep on an image what the database knows of it, so that a saved scene still knows where that database is not.

    Args:
        database: None where there is none.
    """
    instances = (node.GetAttribute(_INSTANCES) or "").split()
    if database is None or not instances or frame_of_reference(node) is not None:
        return
    try:
        uid = database.instanceValue(instances[0], _FRAME_OF_REFERENCE_TAG)
    except RuntimeError:
        # The file was moved away since.
        return
    if uid:
        node.SetAttribute(_FRAME, uid)


def frame_of_reference(node: vtkMRMLScalarVolumeNode) -> str | None:
    """DICOM frame of reference UID of an image; None when it is not known, as for every file that is not DICOM."""
    return node.GetAttribute(_FRAME) or None
