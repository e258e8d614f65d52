"""Whether tracked tools can be relied upon, and in words why not, whatever sends their poses.

Poses may come from the roles of `devices`, from transform nodes that another program keeps, or from a recording: each
is handed in when it arrives, with what its source says of it, and judged by the clock of whoever asks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..devices.freshness import OLDEST_POSE_S
from ..devices.twins import Twins
from ..errors import GeometryError
from ..geometry import FloatArray, check_rigid, unit

Level = Literal["ok", "check", "lost"]

#: How long back a tool's visibility and movement are looked at [s], and how often it should be seen in that time.
_WINDOW_S = 2.0
_SEEN_SHARE = 0.8
#: Nearer than this to the edge of the tracker's volume, a person should move the camera or the tool [mm].
_EDGE_MM = 50.0
#: Only poses of this frame tell where in the tracker's volume a tool is.
_IN_TRACKER = "ToTracker"
#: The reference is fixed to the patient. When it moves by so much while the tool rests, something is wrong [mm].
_REFERENCE_MOVES_MM = 20.0
_TOOL_RESTS_MM = 2.0


@dataclass(frozen=True)
class WorkingVolume:
    """Where a tracker measures: a pyramid without its top, in the tracker's frame, mm.

    Attributes:
        axis: (3,) in which the camera looks, along which depth counts.
        near_mm, far_mm: depth of the front and the back.
        near_half_width_mm, far_half_width_mm: half the width (and height) there.
    """

    axis: FloatArray
    near_mm: float
    far_mm: float
    near_half_width_mm: float
    far_half_width_mm: float

    def __post_init__(self) -> None:
        sizes = [self.near_mm, self.far_mm, self.near_half_width_mm, self.far_half_width_mm]
        if not (np.isfinite(sizes).all() and 0 <= self.near_mm < self.far_mm and min(sizes[2:]) > 0):
            raise GeometryError("a tracker's volume needs its far side behind its near side, and widths above 0 mm")
        object.__setattr__(self, "axis", unit(self.axis))

    def edge_mm(self, place: ArrayLike) -> float:
        """How far inside the volume a place (3,) lies; negative outside."""
        point = np.asarray(place, float)
        depth = float(point @ self.axis)
        aside = point - depth * self.axis
        # Two directions across the axis, which the sides of the pyramid face.
        first = np.zeros(3)
        first[int(np.abs(self.axis).argmin())] = 1.0
        across = unit(np.cross(self.axis, first))
        off = max(abs(float(aside @ across)), abs(float(aside @ np.cross(self.axis, across))))
        slope = (self.far_half_width_mm - self.near_half_width_mm) / (self.far_mm - self.near_mm)
        side = (self.near_half_width_mm + slope * (depth - self.near_mm) - off) / float(np.hypot(1.0, slope))
        return min(depth - self.near_mm, self.far_mm - depth, side)


@dataclass(frozen=True)
class ToolState:
    """Whether a tool's newest pose may be used.

    Attributes:
        level: `ok`, `check` (may be used, but a person should see to it), or `lost`.
        text: why it is not ok, in words.
        matrix: the pose (4, 4) when it may be used, else None.
        age_s: of the newest pose; infinite before the first.
        edge_mm: how far inside the tracker's volume; infinite when that is not known.
    """

    level: Level
    text: str
    matrix: FloatArray | None
    age_s: float
    edge_mm: float = float("inf")


@dataclass
class _Sightings:
    twins: Twins = field(default_factory=Twins)
    matrix: FloatArray | None = None
    problem: str = ""
    seen_s: float = float("-inf")
    changed_s: float = float("-inf")
    #: Time and place of each pose of the window; None where the tool was not seen.
    recent: deque[tuple[float, FloatArray | None]] = field(default_factory=deque)


class Watchdog:
    """Watches the tools of one source of poses."""

    def __init__(self, volume: WorkingVolume | None = None, frozen_s: float = OLDEST_POSE_S) -> None:
        """
        Args:
            volume: of the tracker; None when it is not known, and then no edge is.
            frozen_s: the very same numbers for so long are no measurement.
        """
        self._volume = volume
        self._frozen_s = frozen_s
        self._tools: dict[str, _Sightings] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Tools heard of so far."""
        return tuple(self._tools)

    def observe(self, name: str, matrix: ArrayLike | None, time_s: float, problem: str = "") -> None:
        """Take what came of a tool.

        Args:
            name: as it was sent, such as `TrocarToTracker`.
            matrix: its pose (4, 4), mm; None when the source has none.
            time_s: when it came (or was measured), by the clock that `state` is asked with.
            problem: what the source says against it, such as `out of view`; empty for nothing.
        """
        tool = self._tools.setdefault(name, _Sightings())
        pose: FloatArray | None = None
        tool.problem = problem
        if not problem:
            try:
                pose = None if matrix is None else check_rigid(matrix, name)
                tool.problem = "" if pose is not None else "not seen"
            except GeometryError as error:
                tool.problem = str(error)
        tool.recent.append((time_s, None if pose is None else pose[:3, 3].copy()))
        while tool.recent[0][0] < time_s - _WINDOW_S:
            tool.recent.popleft()
        if pose is None:
            return
        tool.twins.observe(pose, time_s)
        if tool.matrix is None or not np.array_equal(tool.matrix, pose):
            tool.changed_s = time_s
        tool.matrix, tool.seen_s = pose.copy(), time_s

    def state(self, name: str, now_s: float) -> ToolState:
        """How a tool stands now."""
        shown, tool = _shown(name), self._tools.get(name)
        if tool is None:
            return ToolState("lost", f"{shown} was never seen", None, float("inf"))
        age_s = now_s - tool.seen_s
        edge_mm = float("inf")
        if self._volume is not None and tool.matrix is not None and name.endswith(_IN_TRACKER):
            edge_mm = self._volume.edge_mm(tool.matrix[:3, 3])
        text = self._problem(shown, name, tool, age_s, edge_mm, now_s)
        if text:
            return ToolState("lost", text, None, age_s, edge_mm)
        share = np.mean([place is not None for time_s, place in tool.recent if time_s >= now_s - _WINDOW_S])
        if edge_mm < _EDGE_MM:
            text = f"{shown} is {edge_mm:.0f} mm from the edge of the tracker's volume: move the camera"
        elif share < _SEEN_SHARE:
            text = f"{shown} is seen {share:.0%} of the time only: clear the line of sight"
        return ToolState("check" if text else "ok", text, tool.matrix, age_s, edge_mm)

    def exchanged(self, tool: str, reference: str, now_s: float) -> str:
        """Why tool and reference look exchanged, in words; empty when they do not.

        Both are poses to the tracker. A reference on a patient rests and a tool in a hand does not.
        """
        rests, moves = (self._extent_mm(name, now_s) for name in (tool, reference))
        if rests is None or moves is None or not (moves > _REFERENCE_MOVES_MM and rests < _TOOL_RESTS_MM):
            return ""
        return (
            f"{_shown(reference)} moves ({moves:.0f} mm) while {_shown(tool)} rests: are they exchanged, "
            "or was the patient moved?"
        )

    def _problem(self, shown: str, name: str, tool: _Sightings, age_s: float, edge_mm: float, now_s: float) -> str:
        """Why a pose must not be used, in words; empty when it may."""
        since = f" for {age_s:.1f} s" if np.isfinite(age_s) else ""
        if tool.problem:
            return tool.problem if name in tool.problem else f"{shown} is {tool.problem}{since}"
        if not age_s <= OLDEST_POSE_S:
            return f"no pose of {shown}{since}"
        if tool.twins.seen(now_s):
            return f"two tools send as {name}: give each its own name"
        if now_s - tool.changed_s > self._frozen_s:
            return f"{shown} has not changed in the least for {now_s - tool.changed_s:.1f} s: does the tracker hang?"
        return f"{shown} is outside the tracker's volume" if edge_mm < 0 else ""

    def _extent_mm(self, name: str, now_s: float) -> float | None:
        """How far apart the places of the window lie; None when there are too few."""
        tool = self._tools.get(name)
        places = [
            place
            for time_s, place in (tool.recent if tool else ())
            if place is not None and time_s >= now_s - _WINDOW_S
        ]
        return float(np.linalg.norm(np.ptp(places, axis=0))) if len(places) >= 10 else None


def _shown(name: str) -> str:
    """`Trocar` of `TrocarToTracker`."""
    return name.partition("To")[0] or name
