"""The spread monitor on the live views of the devices: learns them without cement, then looks at every new frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from slicer import vtkMRMLScene

from ..cement.cannula import Cannula
from ..cement.frames import grey_signal
from ..cement.interlock import Limits, Observed
from ..cement.monitor import Frame, MonitorReading, MonitorSettings, SpreadEvent, SpreadMonitor
from ..cement.reference import taken_share
from ..cement.unplaced_view import CannulaMarks, PictureMarks
from ..cement.zones import make_zones
from ..devices.fluoroscope import Frame as DetectorFrame
from ..errors import AnatomyError, GeometryError, ImageError, PlanError
from ..geometry import FloatArray, unit
from ..planning.model import Side
from ..planning.needles import needle
from ..procedure.injection_alarms import monitor_warning
from ..procedure.injection_session import Surroundings
from ..xray.geometry import XrayGeometry
from ..xray.project import ProjectableVolume, attenuation_from_hu
from .anatomy import anatomy_of, segmented_ct
from .devices import DeviceDesk
from .navigation import registration_error_mm, trocars
from .nodes import volume_of
from .planning import chosen, plan_of

#: Without new frames the monitor is asked this often whether it still sees.
_LOOK_S = 0.1

#: `unjudged` is a monitor that sees cement and cannot tell whether it leaks.
BannerLevel = Literal["none", "watch", "warning", "leak", "unjudged", "blind"]


@dataclass(frozen=True)
class MonitorView:
    """What the spread monitor last said. `level` is `blind` when it cannot see; `time_s` is when it was true; `leak` is
    None where that is not judged; `warning` is what it warns of, in words."""

    time_s: float
    level: BannerLevel
    text: str
    concentricity: float
    leak: bool | None = None
    warning: str = ""


class SpreadWatch:
    """One monitor, from one learning of the views to the next.

    Attributes:
        reading: what the monitor last said, with the events of that turn.
        shown: by plane the newest frame, once the monitor watches the one that it last looked at.
        problem: why the views could not be learned.
        marks: by plane where a person sees the cannula, for views whose frames come without geometry.
    """

    def __init__(self, scene: vtkMRMLScene, devices: DeviceDesk, limits: Limits) -> None:
        self._scene = scene
        self._devices = devices
        self._limits = limits
        self._monitor: SpreadMonitor | None = None
        self.reading: MonitorReading | None = None
        self.shown: dict[str, Frame] = {}
        self.marks: dict[str, CannulaMarks] = {}
        self._outer_diameter_mm = math.nan
        self._view: MonitorView | None = None
        self._reference: dict[str, list[Frame]] | None = None
        self._looked_s = -math.inf
        self._given_before_ml = 0.0
        self._waiting: dict[str, DetectorFrame] = {}
        self.problem = ""

    @property
    def learned(self) -> bool:
        """Whether the views were learned, or are being learned."""
        return self._monitor is not None

    @property
    def monitor(self) -> SpreadMonitor | None:
        """The monitor, once it has learned all views and watches them."""
        return self._monitor if self._reference is None else None

    def given_ml(self, total_ml: float) -> float:
        """What was given since the views were learned, of all cement."""
        return total_ml - self._given_before_ml

    @property
    def learning(self) -> float | None:
        """The share of the reference that is taken; None when none is under way."""
        if self._reference is None:
            return None
        return min((taken_share([frame.time_s for frame in taken]) for taken in self._reference.values()), default=0.0)

    def acknowledge_leak(self) -> None:
        """A person has seen the leak. The monitor judges the next frames anew; the pump stays stopped."""
        if self._monitor is not None:
            self._monitor.acknowledge_leak()

    def learn(self, side: Side, withdrawn_mm: float = 0.0) -> None:
        """Begin to learn what the views show now; from then on every frame is watched for cement that is more.

        Args:
            withdrawn_mm: how far the trocar of this side stands back from where it was placed.

        Raises:
            AnatomyError: without a segmentation of a CT in the scene.
            PlanError: when this side has no accepted trajectory.
        """
        ct_node, segmentation = segmented_ct(self._scene)
        if segmentation is None or ct_node is None:
            raise AnatomyError("the monitor needs the segmented CT; run the segmentation first")
        plan = plan_of(self._scene)
        trajectory = chosen(plan).get(side) if plan else None
        if trajectory is None:
            raise PlanError(f"no trajectory is accepted for the {side} ala, so no cement belongs there")
        cannula = cannula_of(self._scene, side, withdrawn_mm)
        zones = make_zones(
            anatomy_of(self._scene, segmentation, ct_node),
            trajectory.target,
            (side,),
            technique=trajectory.technique,
            cannula=cannula,
        )
        settings = MonitorSettings(frame_period_s=self._limits.frame_period_s)
        self._outer_diameter_mm = cannula.outer_diameter_mm
        ct = volume_of(ct_node)
        attenuation = ProjectableVolume.of(ct.like(attenuation_from_hu(ct.voxels)))
        self._monitor = SpreadMonitor(zones, cannula.tip_ras, settings, cannula, attenuation)
        self._view, self._waiting, self._reference, self.problem = None, {}, {}, ""
        self.reading = None

    def forget(self) -> None:
        """The views are not those that were learned any more."""
        self._monitor, self.reading, self._view, self._reference = None, None, None, None

    def tick(self, now_s: float, given_ml: float, counted: bool = True, in_line_ml: float = 0.0) -> None:
        """Let the monitor learn from, or look at, all frames that have come.

        Args:
            given_ml: cement given so far, through all trocars.
            counted: whether that is all; a syringe that is being emptied by hand counts only when it is entered.
            in_line_ml: what the stretched line still holds back of it, as far as is known.
        """
        frames = self._devices.take_frames()
        watched = self.monitor.views if self.monitor is not None else ()
        self.shown |= {taken.plane: _frame_of(taken) for taken in frames if taken.plane not in watched}
        if self._monitor is None:
            return
        if self._reference is not None:
            self._given_before_ml = given_ml
            self._learn_from(frames)
            return
        self._waiting |= {taken.plane: taken for taken in frames if taken.plane in self._monitor.views}
        if not self._waiting and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        events: tuple[SpreadEvent, ...] = ()
        told_ml = self.given_ml(given_ml) if counted else None
        try:
            # One picture a turn, the newest of its plane: looking takes long, and the pump waits for its heartbeat.
            for plane in list(self._waiting)[:1]:
                frame = self.shown[plane] = _frame_of(self._waiting.pop(plane))
                events = self._monitor.update({plane: frame}, now_s, told_ml, in_line_ml).events
            reading = self._monitor.update({}, now_s, told_ml, in_line_ml)
        except ImageError as error:
            self._view = MonitorView(now_s, "blind", str(error), math.nan)
            return
        self.reading = replace(reading, events=(*events, *reading.events))
        quiet: BannerLevel = "unjudged" if reading.leak is None else "none"
        level = "blind" if not reading.healthy else (reading.level or quiet)
        text = (
            reading.health if not reading.healthy else f"{reading.volume_ml:.1f} ± {reading.volume_ml_sd:.1f} mL seen"
        )
        warning = monitor_warning(reading.warnings)
        self._view = MonitorView(now_s, level, text, reading.concentricity, reading.leak, warning)

    def banner(self, now_s: float) -> tuple[BannerLevel, str]:
        """What the banner says now; what is silent is blind."""
        if self._reference is not None:
            return "blind", "learning the views: hold still"
        if self._view is None:
            return "blind", "the views were not learned"
        if not 0 <= now_s - self._view.time_s <= self._limits.frame_age_s:
            return "blind", "the spread monitor is silent"
        return self._view.level, self._view.text

    @property
    def warning(self) -> str:
        """What the monitor warns of though it does not stop, in words; empty for nothing."""
        return self._view.warning if self._view is not None else ""

    def surroundings(self, now_s: float) -> Surroundings:
        """What is known beside pump and cement, each with its time. What is not known stays None and forbids."""
        view = self._view
        error_mm = registration_error_mm(self._scene)
        return Surroundings(
            frames_changing=self._frames(now_s),
            monitor_healthy=Observed(view.level != "blind", view.time_s) if view else None,
            leak=Observed(view.leak, view.time_s) if view is not None and view.leak is not None else None,
            registration_error_mm=Observed(error_mm, now_s) if error_mm is not None else None,
            concentricity=Observed(view.concentricity, view.time_s) if view else None,
            warning=self.warning,
        )

    def _learn_from(self, frames: list[DetectorFrame]) -> None:
        """Collect reference frames; when every plane that sends has enough, the monitor knows its views."""
        assert self._reference is not None and self._monitor is not None
        for taken in frames:
            self._reference.setdefault(taken.plane, []).append(_frame_of(taken))
        if self.learning != 1.0:
            return
        try:
            for plane, learned in self._reference.items():
                self._monitor.set_reference(plane, learned, self._picture_marks(plane, learned))
            self._reference = None
        except ImageError as error:
            self.problem = str(error)
            self.forget()

    def _picture_marks(self, plane: str, learned: list[Frame]) -> PictureMarks | None:
        """What is known of a view without geometry; None for one that has it, or where nobody marked the tip."""
        marks = self.marks.get(plane)
        if marks is None or learned[0].geometry is not None:
            return None
        return marks.measured([grey_signal(frame.pixels) for frame in learned], self._outer_diameter_mm)

    def _frames(self, now_s: float) -> dict[str, Observed[bool]] | None:
        """Every plane that the monitor was started with must be live."""
        role = self._devices.fluoroscope
        if role is None:
            return None
        planes = self._monitor.views if self._monitor is not None else ()
        views = {plane: role.view(plane, now_s) for plane in planes}
        return {plane: Observed(view.changing, now_s - view.age_s) for plane, view in views.items()}


def cannula_of(scene: vtkMRMLScene, side: Side, withdrawn_mm: float) -> Cannula:
    """The trocar of a side: where it was placed, or planned, and so far back along its axis.

    Raises:
        PlanError: when neither a trocar nor a plan of this side is known.
    """
    placed = trocars(scene).get(side)
    plan = plan_of(scene)
    trajectory = chosen(plan).get(side) if plan else None
    if placed is not None:
        tip, behind = placed.tip_ras, placed.hub_ras
    elif trajectory is not None:
        tip, behind = trajectory.target, trajectory.entry_skin
    else:
        raise PlanError(f"neither a trocar nor a plan of the {side} side is known")
    trocar = trajectory.needle if trajectory is not None else needle()
    towards_hub = unit(behind - tip)
    return Cannula(tip + withdrawn_mm * towards_hub, towards_hub, trocar.outer_diameter_mm)


def tip_ras(scene: vtkMRMLScene, side: Side, withdrawn_mm: float) -> FloatArray:
    """Where cement leaves the trocar of a side; fails as `cannula_of`."""
    return cannula_of(scene, side, withdrawn_mm).tip_ras


def _frame_of(taken: DetectorFrame) -> Frame:
    try:
        geometry = XrayGeometry.from_dict(taken.geometry or {})
    except (GeometryError, KeyError, TypeError, ValueError):
        geometry = None
    return Frame(taken.pixels, taken.received_s, geometry)
