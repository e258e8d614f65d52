"""The devices of one procedure, polled together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ..clock import Clock
from ..devices.fluoroscope import FluoroscopeRole
from ..devices.pump import PumpRole
from ..devices.tracker import Pose, TrackerRole
from ..geometry import FloatArray, invert_rigid


@dataclass(frozen=True)
class Clocks:
    """`device` is real time, for freshness; `procedure` is the time in which cement ages and people wait.

    They are one clock in an operating room; a rehearsal runs the second one faster. `today` tells the date, for what is
    kept beyond this procedure.
    """

    device: Clock
    procedure: Clock
    today: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True)
class Equipment:
    """Tracker, fluoroscope and pump."""

    tracker: TrackerRole
    fluoroscope: FluoroscopeRole
    pump: PumpRole

    def poll(self, now_s: float) -> None:
        """Let all links send and receive; call it every few milliseconds."""
        self.tracker.poll(now_s)
        self.fluoroscope.poll(now_s)
        self.pump.poll(now_s)

    def tool_to_reference(self, tool: str, now_s: float) -> tuple[FloatArray | None, Pose, Pose]:
        """Pose of a tool relative to the patient's reference marker, or None when either is not usable now.

        Returns:
            The 4x4 ToolToReference or None, the tool's own reading and the reference's.
        """
        tool_pose = self.tracker.pose(f"{tool}ToTracker", now_s)
        reference = self.tracker.pose("ReferenceToTracker", now_s)
        if tool_pose.matrix is None or reference.matrix is None:
            return None, tool_pose, reference
        return invert_rigid(reference.matrix) @ tool_pose.matrix, tool_pose, reference
