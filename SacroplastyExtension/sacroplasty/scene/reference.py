"""Follows the reference on the patient: a jump takes the registration out of use until a check point is touched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slicer import vtkMRMLScene

from ..geometry import FloatArray, nearest_rotation, rigid
from ..navigation.reference_check import ReferenceWatch
from .devices import pose_problem
from .navigation import doubt_registration
from .nodes import first_node, matrix_of

#: A look is the middle of the poses of so long [s], and of at least so many.
_LOOK_S, _FEWEST_POSES = 1.0, 8


class ReferenceFollower:
    """Looks about once a second whether the reference moved against the camera.

    Nothing else is known to rest in the room, so a camera that was moved counts as well: a check point tells. What
    moved while nobody followed, or while the reference was out of sight, is found at the next look.
    """

    def __init__(self, scene: vtkMRMLScene, clock: Callable[[], float]) -> None:
        """
        Args:
            clock: seconds.
        """
        self._scene, self._clock = scene, clock
        self._watch = ReferenceWatch()
        self._changed: int | None = None
        self._poses: list[tuple[float, FloatArray]] = []

    def follow(self) -> bool:
        """Take the pose of now, if it is new; whether the registration went out of use by it."""
        node = first_node(self._scene, "vtkMRMLLinearTransformNode", "ReferenceToTracker")
        if node is None:
            return False
        # Not the node's own time: marks of validity must not look like a new pose.
        changed, before = node.GetTransformToParent().GetMTime(), self._changed
        self._changed = changed
        pose = matrix_of(node)
        if before in (None, changed) or pose_problem(node) or not np.isfinite(pose).all():
            return False
        now_s = self._clock()
        if self._poses and not 0 <= now_s - self._poses[-1][0] <= _LOOK_S:
            # After a gap, what was before belongs to no look.
            self._poses = []
        self._poses.append((now_s, pose))
        if now_s - self._poses[0][0] < _LOOK_S or len(self._poses) < _FEWEST_POSES:
            return False
        seen = self._watch.look(_middle([pose for _, pose in self._poses]), {})
        self._poses = []
        return seen.movement in ("check", "reference moved") and doubt_registration(self._scene, seen.text)


def _middle(poses: list[FloatArray]) -> FloatArray:
    """The median of poses (4, 4), number by number: wild ones do not decide, and a jump counts wholly or not at all."""
    median = np.median(poses, axis=0)
    return rigid(nearest_rotation(median[:3, :3]), median[:3, 3])
