"""Recorded device sessions as sequences of 3D Slicer, one for each transform, image and text, in one browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import slicer
from slicer import vtkMRMLNode, vtkMRMLScene, vtkMRMLSequenceBrowserNode, vtkMRMLSequenceNode

from ..devices.messages import Image, Message, String, Transform
from ..devices.session_file import Session
from ..errors import DeviceError, GeometryError
from ..image import Volume
from ..xray.geometry import XrayGeometry
from .devices import REASON, VALID, detector_volume
from .nodes import set_transform, set_volume

PREFIX = "Recorded"
#: On a recorded transform: OK, MISSING, OUT_OF_VIEW ... as the tracker said then.
RECORDED_STATUS = "Sacroplasty.RecordedStatus"
_CLASS: dict[type[Message], str] = {
    Transform: "vtkMRMLLinearTransformNode",
    Image: "vtkMRMLScalarVolumeNode",
    String: "vtkMRMLTextNode",
}


def add_session(
    scene: vtkMRMLScene, session: Session, progress: Callable[[float], None] | None = None
) -> vtkMRMLSequenceBrowserNode:
    """Add all that a session received as sequences with one browser, which plays them together.

    Nodes are called `RecordedStylusToTracker` and so on, since what is played back must never be taken for live; poses
    are marked as not valid too, and what the tracker said of each stands in an attribute.

    Args:
        progress: called with 0 to 1.

    Raises:
        DeviceError: when the session holds nothing to show.
    """
    sequences: dict[tuple[str, str], vtkMRMLSequenceNode] = {}
    carriers: dict[str, vtkMRMLNode] = {}
    for number, link in enumerate(session.links):
        for time_s, message in session.messages(link):
            node_class = _CLASS.get(type(message))
            if node_class is None:
                continue
            carrier = carriers.setdefault(node_class, getattr(slicer, node_class)())
            if not _fill(carrier, message):
                continue
            sequence = sequences.get((node_class, message.name))
            if sequence is None:
                sequence = sequences[node_class, message.name] = _add_sequence(scene, PREFIX + message.name)
            carrier.SetName(PREFIX + message.name)
            sequence.SetDataNodeAtValue(carrier, f"{time_s:.4f}")
            if progress is not None and session.duration_s > 0:
                progress((number + time_s / session.duration_s) / len(session.links))
    if not sequences:
        raise DeviceError(f"{session.name} holds no pose, image or text")
    browser: vtkMRMLSequenceBrowserNode = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", session.name)
    # The one with most items leads, so that none of it is skipped.
    leading = max(sequences.values(), key=lambda sequence: sequence.GetNumberOfDataNodes())
    browser.SetAndObserveMasterSequenceNodeID(leading.GetID())
    for sequence in sequences.values():
        if sequence is not leading:
            browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    browser.SetAttribute("Sacroplasty.StartedUnix", f"{session.started_unix_s:.3f}")
    return browser


def _add_sequence(scene: vtkMRMLScene, name: str) -> vtkMRMLSequenceNode:
    sequence: vtkMRMLSequenceNode = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    return sequence


def _fill(carrier: Any, message: Message) -> bool:
    """Put a message into the node that carries it; False when it cannot be shown."""
    if isinstance(message, Transform):
        set_transform(carrier, message.matrix)
        carrier.SetAttribute(RECORDED_STATUS, message.metadata.get("TransformStatus", "UNKNOWN"))
        carrier.SetAttribute(VALID, "0")
        carrier.SetAttribute(REASON, f"{message.name} is recorded, not live")
        return True
    if isinstance(message, String):
        carrier.SetText(message.text)
        return True
    assert isinstance(message, Image)
    if message.voxels.ndim != 3:
        return False
    try:
        record = json.loads(message.metadata.get("Geometry", "null"))
        geometry = XrayGeometry.from_dict(record).resampled(message.voxels.shape[2]) if record else None
    except (GeometryError, ValueError, AttributeError):
        return False
    if geometry is not None and message.voxels.shape[0] == 1:
        set_volume(carrier, detector_volume(message.voxels[0], geometry))
    else:
        set_volume(carrier, Volume(message.voxels, message.IJKToRAS))
    return True
