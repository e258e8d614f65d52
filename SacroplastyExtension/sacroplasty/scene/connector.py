"""Devices that reach the scene through another connector: what SlicerOpenIGTLink writes into nodes, for the roles.

SlicerOpenIGTLink (OpenIGTLinkIF) puts the metadata of a message on its node as attributes `OpenIGTLink.<key>`, so that
`OpenIGTLink.TransformStatus` and `OpenIGTLink.TransformValid` say whether a pose may be used. It touches the node at
every message, also when nothing changed; that is how the age of a pose is known.
"""

from __future__ import annotations

from slicer import vtkMRMLNode, vtkMRMLScene

from ..devices.fluoroscope import PLANES
from ..devices.link import LinkCounts, Received
from ..devices.messages import Image, Message, Transform
from .nodes import matrix_of, volume_of

ADDRESS = "scene"
ATTRIBUTE = "OpenIGTLink."
_STATUS = ("TransformStatus", "TransformValid")
_SILENCE_S = 3.0


class SceneLink:
    """Nodes that a connector keeps up to date, for a role to poll in place of a `Client`.

    A transform node counts when it carries a status of OpenIGTLink; a volume when it is named as a plane of the
    fluoroscope. The sender's time stamps do not reach the nodes, so a delay on the way is not seen here.

    Attributes:
        state, reason, counts: as those of a Client.
    """

    tap = None

    def __init__(self, scene: vtkMRMLScene) -> None:
        self._scene = scene
        self._known: dict[str, int] = {}
        self._heard_s = float("-inf")
        self.counts = LinkCounts()
        self.state = "waiting"
        self.reason = "no node of the scene carries a status of OpenIGTLink; start a connector in OpenIGTLinkIF"

    @property
    def connected(self) -> bool:
        return self.state == "connected"

    @property
    def address(self) -> str:
        return "nodes of the scene"

    def send(self, message: Message, replaceable: bool | None = None) -> bool:
        """Nodes carry nothing back."""
        return False

    def poll(self, now_s: float) -> list[Received]:
        """What was written into nodes since the last call."""
        if self.state == "closed":
            return []
        received = [Received(message, now_s, 0) for message in (*self._transforms(), *self._images())]
        self.counts.received += len(received)
        if received:
            if not self.connected:
                self.counts.connections += 1
            self.state, self.reason, self._heard_s = "connected", "", now_s
        elif self.connected and now_s - self._heard_s > _SILENCE_S:
            self.state, self.reason = "waiting", f"no node has changed for {_SILENCE_S:.0f} s"
        return received

    def close(self) -> None:
        self.state, self.reason = "closed", "closed"

    def _transforms(self) -> list[Message]:
        found: list[Message] = []
        for node in _nodes(self._scene, "vtkMRMLLinearTransformNode"):
            metadata = _metadata(node, _STATUS)
            # Not the node's own time: our marks of validity must not look like a new pose.
            if metadata and self._is_new(node, node.GetTransformToParent().GetMTime()):
                found.append(Transform(node.GetName(), matrix_of(node), metadata=metadata))
        return found

    def _images(self) -> list[Message]:
        found: list[Message] = []
        for node in _nodes(self._scene, "vtkMRMLScalarVolumeNode"):
            image = node.GetImageData()
            if node.GetName() not in PLANES or image is None or not self._is_new(node, image.GetMTime()):
                continue
            keys = ("Geometry", "AirLevel", "FrameRate", "FrameNumber")
            volume = volume_of(node)
            found.append(Image(node.GetName(), volume.voxels, volume.IJKToRAS, metadata=_metadata(node, keys)))
        return found

    def _is_new(self, node: vtkMRMLNode, changed: int) -> bool:
        is_new = self._known.get(node.GetID()) != changed
        self._known[node.GetID()] = changed
        return is_new


def _nodes(scene: vtkMRMLScene, node_class: str) -> list[vtkMRMLNode]:
    return [scene.GetNthNodeByClass(number, node_class) for number in range(scene.GetNumberOfNodesByClass(node_class))]


def _metadata(node: vtkMRMLNode, keys: tuple[str, ...]) -> dict[str, str]:
    values = {key: node.GetAttribute(ATTRIBUTE + key) for key in keys}
    return {key: value for key, value in values.items() if value is not None}
