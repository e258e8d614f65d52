"""Files into the scene and out of it, alike in 3D Slicer and in the headless host."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import slicer
from slicer import vtkMRMLNode, vtkMRMLScene, vtkMRMLSequenceBrowserNode, vtkMRMLSequenceNode, vtkMRMLStorableNode

from ..errors import SacroplastyError
from ..files import atomic_file
from ..image import Volume, read_volume
from .nodes import add_volume, set_volume

#: File endings, most specific first: node class and storage class.
_KINDS: dict[str, tuple[str, str]] = {
    ".seg.nrrd": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
    ".seq.nrrd": ("vtkMRMLSequenceNode", "vtkMRMLVolumeSequenceStorageNode"),
    ".seq.mha": ("vtkMRMLSequenceNode", "vtkMRMLLinearTransformSequenceStorageNode"),
    ".igs.mha": ("vtkMRMLSequenceNode", "vtkMRMLVolumeSequenceStorageNode"),
    ".h5": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode"),
    ".tfm": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode"),
    ".vtk": ("vtkMRMLModelNode", "vtkMRMLModelStorageNode"),
    ".vtp": ("vtkMRMLModelNode", "vtkMRMLModelStorageNode"),
    ".stl": ("vtkMRMLModelNode", "vtkMRMLModelStorageNode"),
}

_MARKUPS = {
    "Fiducial": "vtkMRMLMarkupsFiducialNode",
    "Line": "vtkMRMLMarkupsLineNode",
    "Curve": "vtkMRMLMarkupsCurveNode",
    "ClosedCurve": "vtkMRMLMarkupsClosedCurveNode",
    "Plane": "vtkMRMLMarkupsPlaneNode",
}


def load_file(scene: vtkMRMLScene, path: Path) -> vtkMRMLNode:
    """Load one file, or a DICOM folder, as the node that its ending stands for.

    Volumes: .nii, .nii.gz, .nrrd, .mha, .mhd and DICOM folders. Others: .seg.nrrd, .mrk.json, .h5, .tfm, .seq.nrrd,
    .seq.mha, .igs.mha, .vtk, .vtp, .stl.

    Raises:
        SacroplastyError: when the file cannot be read; the scene is left as it was.
    """
    path = Path(path)
    if not path.exists():
        raise SacroplastyError(f"{path} does not exist; check the path")
    if path.name.endswith(".mrk.json"):
        return _load_markups(scene, path)
    kind = next((kind for ending, kind in _KINDS.items() if path.name.endswith(ending)), None)
    if kind is None:
        return add_volume(scene, read_volume(path), path.name.split(".")[0])
    return _read(scene, path, *kind)


def save_node(node: vtkMRMLStorableNode, path: Path) -> None:
    """Save a node in the format of the file ending, whole or not at all."""
    with atomic_file(path) as draft:
        storage = node.CreateDefaultStorageNode()
        if storage is None:
            raise SacroplastyError(f"{node.GetName()} has nothing to save")
        storage.UnRegister(None)
        storage.SetFileName(str(draft))
        if not storage.WriteData(node):
            raise SacroplastyError(f"{path} could not be written; is the ending right and space on the disk?")


def add_image_sequence(
    scene: vtkMRMLScene, frames: list[Volume], times_s: list[float], name: str
) -> vtkMRMLSequenceBrowserNode:
    """Add a recorded image sequence with a browser to replay it in 3D Slicer.

    Args:
        frames: of equal size.
        times_s: one for each frame, rising.
    """
    sequence: vtkMRMLSequenceNode = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    for frame, time_s in zip(frames, times_s, strict=True):
        set_volume(node, frame)
        sequence.SetDataNodeAtValue(node, f"{time_s:.3f}")
    browser: vtkMRMLSequenceBrowserNode = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    if len(times_s) > 1:
        browser.SetPlaybackRateFps(float(1 / np.median(np.diff(times_s))))
    return browser


def _load_markups(scene: vtkMRMLScene, path: Path) -> vtkMRMLNode:
    import json

    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["markups"][0]["type"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise SacroplastyError(f"{path} is no markups file ({error})") from error
    if kind not in _MARKUPS:
        raise SacroplastyError(f"{path} holds markups of type {kind!r}; known are {', '.join(_MARKUPS)}")
    return _read(scene, path, _MARKUPS[kind], "vtkMRMLMarkupsJsonStorageNode")


def _read(scene: vtkMRMLScene, path: Path, node_class: str, storage_class: str) -> vtkMRMLNode:
    node = scene.AddNewNodeByClass(node_class, path.name.split(".")[0])
    storage = getattr(slicer, storage_class)()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        scene.RemoveNode(node)
        raise SacroplastyError(f"{path} cannot be read; is it whole and what its ending says?")
    if hasattr(node, "CreateDefaultDisplayNodes"):
        node.CreateDefaultDisplayNodes()
    return node
