"""What is known of one case as it goes on: the record that report and scene are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..anatomy.model import Anatomy
from ..cement.monitor import SpreadEvent
from ..geometry import FloatArray
from ..image import Volume
from ..navigation.registration import Registration
from ..navigation.tool_calibration import ToolCalibration
from ..planning.model import Plan, Side, Trajectory


@dataclass(frozen=True)
class PlacedTrocar:
    """A trocar as it was left, by the tracker.

    Attributes:
        tip_ras: the tip; `hub_ras`: a point on the axis at the planned length outside.
        target_error_mm: distance of the tip from the planned target.
        angle_deg: between axis and plan.
        predicted_error_mm: expected error of the tip's position itself (registration and calibration).
    """

    tip_ras: FloatArray
    hub_ras: FloatArray
    target_error_mm: float
    angle_deg: float
    predicted_error_mm: float


@dataclass(frozen=True)
class InjectionSample:
    """One moment of an injection, for the curve."""

    time_s: float
    pump_ml: float
    seen_ml: float
    seen_sd_ml: float
    pressure_kpa: float


@dataclass
class InjectionRecord:
    """One injection, finished or stopped.

    Attributes:
        given_ml: by the pump's counter, after-flow included.
        seen_ml: by the spread monitor at the end; NaN when it saw nothing reliable.
        stopped: why it was stopped; empty when it finished.
        ended_s: when it finished or was stopped, on the procedure's clock.
    """

    side: Side
    planned_ml: float
    given_ml: float = 0.0
    seen_ml: float = float("nan")
    seen_sd_ml: float = float("nan")
    steps: int = 0
    stopped: str = ""
    ended_s: float = float("nan")
    samples: list[InjectionSample] = field(default_factory=list)
    events: list[SpreadEvent] = field(default_factory=list)


@dataclass
class Case:
    """One patient, one procedure.

    Attributes:
        targets: the trajectory chosen for each side, in the order of treatment.
        refused: why the procedure ended before its aim; empty when it did not.
    """

    ct: Volume
    anatomy: Anatomy
    plan: Plan
    targets: dict[Side, Trajectory]
    calibrations: dict[str, ToolCalibration] = field(default_factory=dict)
    registration: Registration | None = None
    trocars: dict[Side, PlacedTrocar] = field(default_factory=dict)
    injections: dict[Side, InjectionRecord] = field(default_factory=dict)
    refused: str = ""

    @property
    def given_ml(self) -> float:
        """Cement given so far on all sides."""
        return sum(record.given_ml for record in self.injections.values())

    @property
    def stopped(self) -> InjectionRecord | None:
        """The injection that was stopped, if one was."""
        return next((record for record in self.injections.values() if record.stopped), None)
