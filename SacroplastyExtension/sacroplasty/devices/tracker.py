"""Where the tools are, or no pose at all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ..errors import GeometryError
from ..geometry import FloatArray, check_rigid
from .freshness import OLDEST_POSE_S, Freshness
from .link import Client, Received
from .messages import TrackingData, Transform
from .twins import Twins

_KEPT_POSES = 4096


@dataclass(frozen=True)
class Pose:
    """One reading of a tool.

    Attributes:
        matrix: 4x4 ToolToTracker in mm, or None when there is none to be used.
        age_s: since it was measured, as far as can be known; infinite when it never was.
        status: what the tracker says: OK, MISSING, OUT_OF_VIEW, ... or UNKNOWN.
        reason: why there is no matrix, in words; empty when there is one.
    """

    matrix: FloatArray | None
    age_s: float
    status: str
    reason: str


@dataclass
class _Stream:
    freshness: Freshness = field(default_factory=Freshness)
    twins: Twins = field(default_factory=Twins)
    matrix: FloatArray | None = None
    status: str = "UNKNOWN"
    problem: str = ""
    changed_s: float = 0.0
    sample: int = 0


class TrackerRole:
    """Poses by transform name from TRANSFORM (and TDATA) messages.

    Args:
        client: the link to the tracker; `poll` polls it.
        oldest_pose_s: an older pose is none.
        frozen_s: identical numbers for this long are none; None for a source without noise, such as a replay.
        require_status: whether a pose without `TransformStatus` or `TransformValid` metadata is refused. Senders with
            header version 1 have no metadata; accept them knowingly.
    """

    def __init__(
        self,
        client: Client,
        oldest_pose_s: float = OLDEST_POSE_S,
        frozen_s: float | None = OLDEST_POSE_S,
        require_status: bool = True,
    ) -> None:
        self.client = client
        self._oldest_pose_s = oldest_pose_s
        self._frozen_s = frozen_s
        self._require_status = require_status
        self._streams: dict[str, _Stream] = {}
        self._recorded: deque[tuple[float, str, FloatArray]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Transforms heard of so far."""
        return tuple(self._streams)

    def poll(self, now_s: float) -> None:
        for received in self.client.poll(now_s):
            self.handle(received)

    def handle(self, received: Received) -> None:
        """Take one message of a link that somebody else polls."""
        message = received.message
        if isinstance(message, Transform):
            self._observe(message.name, message.matrix, received)
        elif isinstance(message, TrackingData):
            for tool in message.tools:
                self._observe(tool.name, tool.matrix, received)

    def pose(self, name: str, now_s: float) -> Pose:
        """The pose of a transform such as `StylusToTracker`, with a matrix only if it may be used."""
        stream = self._streams.get(name)
        if stream is None:
            reason = f"{name} was never received" if self.client.connected else f"no tracker: {self.client.reason}"
            return Pose(None, float("inf"), "UNKNOWN", reason)
        age_s = stream.freshness.age_s(now_s)
        reason = stream.problem
        if not age_s <= self._oldest_pose_s:
            reason = f"{name} is {age_s:.1f} s old"
        elif stream.twins.seen(now_s):
            reason = f"two tools send as {name}: give each its own name"
        elif not reason and self._frozen_s is not None and now_s - stream.changed_s > self._frozen_s:
            reason = f"{name} has not changed in the least for {now_s - stream.changed_s:.1f} s: does the tracker hang?"
        return Pose(None if reason else stream.matrix, age_s, stream.status, reason)

    def record(self, on: bool) -> None:
        """Begin (or end) keeping every usable sample, for a calibration."""
        self._recorded = deque(maxlen=_KEPT_POSES) if on else None

    def recorded(self, name: str) -> list[tuple[float, FloatArray]]:
        """Time received and matrix of each sample of a transform since `record(True)`."""
        return [(time_s, matrix) for time_s, found, matrix in self._recorded or () if found == name]

    def _observe(self, name: str, matrix: FloatArray, received: Received) -> None:
        stream = self._streams.setdefault(name, _Stream())
        received_s = received.received_s
        status, problem = self._judge(name, matrix, received.message.metadata)
        if not problem:
            stream.twins.observe(matrix, received_s)
        if not stream.freshness.observe(received.message.timestamp_s, received_s, received.delay_s):
            return
        stream.status, stream.problem = status, problem
        if stream.matrix is None or not np.array_equal(matrix, stream.matrix):
            stream.changed_s = received_s
        stream.matrix = matrix
        if self._recorded is not None and not stream.problem:
            self._recorded.append((received_s, name, matrix))

    def _judge(self, name: str, matrix: FloatArray, metadata: dict[str, str]) -> tuple[str, str]:
        status = metadata.get("TransformStatus", "")
        valid = metadata.get("TransformValid", "").strip().lower()
        if not status and not valid:
            if self._require_status:
                return "UNKNOWN", f"{name} comes without TransformStatus"
        elif (status and status != "OK") or (valid and valid not in ("true", "1")):
            return status or "INVALID", f"{name} is {(status or 'INVALID').lower().replace('_', ' ')}"
        try:
            check_rigid(matrix, name)
        except GeometryError as error:
            return status or "UNKNOWN", str(error)
        return status or "OK", ""
