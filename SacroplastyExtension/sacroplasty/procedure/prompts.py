"""What the procedure asks of the people in the room, one prompt at a tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..cement.injection import Request
from ..geometry import FloatArray
from ..navigation.guidance import GuidanceReading
from ..planning.model import Side, Trajectory

Step = Literal[
    "calibration", "registration", "positioning", "trocar", "cement", "injection", "withdrawal", "verification"
]


@dataclass(frozen=True)
class Pivot:
    """Put the tool's tip into a divot and swing the tool about it."""

    tool: str


@dataclass(frozen=True)
class Touch:
    """Put the stylus tip onto a landmark of the patient and keep it there."""

    landmark: str


@dataclass(frozen=True)
class Steer:
    """Move the trocar as the screen shows: onto the planned line, then along it to the target.

    Attributes:
        TrocarTipToRAS: where the screen draws the trocar; None while there is no pose.
    """

    side: Side
    trajectory: Trajectory
    reading: GuidanceReading
    TrocarTipToRAS: FloatArray | None


@dataclass(frozen=True)
class LeaveTrocar:
    """Let go of the trocar where it is; it stays in the bone."""

    side: Side


@dataclass(frozen=True)
class ConnectLine:
    """Connect the pump's line to the trocar of this side."""

    side: Side


@dataclass(frozen=True)
class Press:
    """Decide: the named request is offered to the operator."""

    request: Request


@dataclass(frozen=True)
class Wait:
    """Nothing to do until this time of the procedure's clock."""

    until_s: float


@dataclass(frozen=True)
class Watch:
    """Watch the screen; the software works."""


Task = Pivot | Touch | Steer | LeaveTrocar | ConnectLine | Press | Wait | Watch


@dataclass(frozen=True)
class Prompt:
    """One tick of the procedure as people see it.

    Attributes:
        step: where in the procedure this is.
        text: what the screen says, one line.
        task: the same for a program that plays the operator.
        fraction: how much of this step is done, 0 to 1.
    """

    step: Step
    text: str
    task: Task
    fraction: float = 0.0
