"""The monitor page's work: pictures with cement and structures, the last 30 s again, curves, and what is not known.

It looks over the shoulder of the `SpreadWatch` and decides nothing: banner, alarm and stop go on whatever is shown.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from slicer import vtkMRMLScene

from ..cement.frames import binned_geometry
from ..cement.measures import SpreadMeasures
from ..cement.monitor import Frame, MonitorReading, SpreadEvent, SpreadMonitor
from ..cement.picture import (
    LEAK_COLOR,
    RGB,
    TIP_COLOR,
    Color,
    FirstSeen,
    Kind,
    Lines,
    SeenCement,
    Shot,
    cross_mark,
    lines_of,
    paint,
    picture_step,
    place_mark,
    shot_of,
    tip_mark,
)
from ..cement.unplaced_view import CannulaMarks, PictureMarks, stand_in_geometry
from ..errors import ImageError, SacroplastyError
from ..geometry import FloatArray
from ..planning.model import Side
from ..xray.overlay import Outline
from ..xray.reach import angles_text
from .anatomy import readable, segmented_ct
from .fluoroscopy import FluoroscopyDesk, keep_for_report
from .injection_chart import Curve, show_chart
from .records import read_record, write_record
from .spread_watch import BannerLevel, SpreadWatch

RECORD_NAME = "Sacroplasty monitor"
#: How much of the past can be seen again [s].
KEPT_S = 30.0
#: How far apart the points of the curves are, and how long before the first cement they begin [s].
_CURVE_STEP_S, _CURVE_LEAD_S = 0.2, 5.0
#: What is drawn of the anatomy: where cement belongs, and where it must not go.
_FAMILIES = ("foramina", "canal", "alae", "joints")
#: Room that a name takes beside its outline, as shares of the picture.
_NAME_WIDTH, _NAME_HEIGHT = 0.14, 0.045
#: A volume with a larger relative error than this is not calibrated yet.
_UNSURE_SHARE = 0.3
_MOST_EVENTS = 200
#: Of the ring around the place of an event, as its alarm.
_MARK_COLORS: dict[str, Color] = {"leak": LEAK_COLOR, "warning": (255, 213, 0), "watch": (127, 223, 255)}

#: Routes of what could not be placed.
_UNKNOWN_PLACES = ("missing", "unknown")

#: What the monitor cannot tell, and why.
Unknown = Literal["not learned", "no zones", "no geometry", "one view", "unsure volume", "missing cement"]


@dataclass(frozen=True)
class Look:
    """What a person wants to see in the pictures."""

    kind: Kind = "live"
    growth: bool = True
    structures: bool = True


@dataclass(frozen=True)
class CurvePoint:
    """Volumes since the views were learned: given by the pump, and seen; NaN where unknown."""

    time_s: float
    pump_ml: float
    image_ml: float
    image_sd_ml: float


@dataclass(frozen=True)
class Replayed:
    """The moment of the past that the pictures show.

    Attributes:
        before_s: how long before the pictures were frozen.
        clock_text: the moment by the clock on the wall.
        playing: whether the moment moves on.
    """

    before_s: float
    clock_text: str
    playing: bool


@dataclass(frozen=True)
class Marking:
    """What a person may mark next.

    Attributes:
        number: of the view.
        part: of the cannula.
    """

    number: int
    part: Literal["tip", "shaft"]


@dataclass(frozen=True)
class MonitorReadout:
    """Everything that the monitor page shows beside its pictures. All of it is live, also during a replay.

    Attributes:
        level, text: the word of the watch.
        event: the gravest that stands, with its route and place; None when nothing was told.
        likely_way: by which cement of unknown place most likely left the bone, by the prediction made before; empty
            without one, or where the place is known.
        from_tip_ras: from the tip to the place of the event [mm]; None when either is not known.
        volume_ml, volume_sd_ml, concentricity: NaN when not known.
        measures: None when not known.
        unknown: what the monitor cannot tell now.
        cannot_tell: what it does not know even when it sees well, in its own words.
        planes: views of which there is a picture, in order.
        faults: by plane why its picture is not watched; planes that are watched are left out.
        learning: share of the reference that is taken; None when none is under way.
        refusal: why the reference was refused; empty when it was not.
        smallest_ml: by plane the least cement at the tip that would show, of views of which the CT tells that.
        replayed: None while the pictures are live.
        may_acknowledge: whether a leak stands.
        may_mark: whether a view comes without its pose, so that marks in its picture are of use.
        marking: a mark that is waited for; None when none is.
        saved_text: what a restored scene says of the monitor; empty when this session has its own.
        snapshots: how many pictures were sent to the report.
    """

    level: BannerLevel
    text: str
    event: SpreadEvent | None
    likely_way: str
    from_tip_ras: FloatArray | None
    volume_ml: float
    volume_sd_ml: float
    concentricity: float
    measures: SpreadMeasures | None
    unknown: tuple[Unknown, ...]
    cannot_tell: tuple[str, ...]
    planes: tuple[str, ...]
    faults: dict[str, str]
    learning: float | None
    refusal: str
    smallest_ml: dict[str, float]
    replayed: Replayed | None
    may_acknowledge: bool
    may_mark: bool
    marking: Marking | None
    saved_text: str
    snapshots: int


@dataclass
class _Plane:
    """What is kept of one view."""

    frame: Frame | None = None
    shots: deque[Shot] = field(default_factory=deque)
    first_seen: FirstSeen = field(default_factory=FirstSeen)
    road_map: SeenCement | None = None
    lines: Lines | None = None
    tip: Lines | None = None
    outlines: tuple[Outline, ...] = ()
    fault: str = ""
    painted: tuple[tuple[object, ...], RGB] | None = None


@dataclass(frozen=True)
class _Replay:
    shots: dict[str, tuple[Shot, ...]]
    level: BannerLevel
    frozen_s: float
    at_s: float
    played_from_s: float | None = None

    def moment_s(self, now_s: float) -> float:
        """The moment that is shown: it stands, or runs on from where playing began."""
        if self.played_from_s is None:
            return self.at_s
        return min(self.at_s + now_s - self.played_from_s, self.frozen_s)


_GRAVITY: dict[BannerLevel, int] = {"none": 0, "unjudged": 0, "watch": 1, "blind": 2, "warning": 3, "leak": 4}


class MonitorPage:
    """Pictures and figures of one case's monitor.

    `follow` is to be called after each turn of the watch.

    Args:
        likely_way: tells by which way out cement leaks most often in the prediction, in words; empty without one.
    """

    def __init__(
        self,
        scene: vtkMRMLScene,
        watch: SpreadWatch,
        now_s: float,
        unix_s: float,
        likely_way: Callable[[], str] = str,
    ) -> None:
        self._scene = scene
        self._watch = watch
        self._likely_way = likely_way
        self._unix_at_zero_s = unix_s - now_s
        self._fluoroscopy = FluoroscopyDesk(scene)
        self._planes: dict[str, _Plane] = {}
        self._monitor: SpreadMonitor | None = None
        self._reading: MonitorReading | None = None
        self._standing: SpreadEvent | None = None
        self._replay: _Replay | None = None
        self._refusal = ""
        self._marks_wanted = False
        record = read_record(scene, RECORD_NAME) or {}
        self._events: list[dict[str, Any]] = list(record.get("events", ()))
        self._snapshots = int(record.get("snapshots", 0))
        self._saved_text = str(record.get("text", ""))
        self._curve: list[CurvePoint] = []

    # What comes in

    def begin_reference(self) -> None:
        """The views are learned anew: what was seen of them before no longer holds."""
        self._refusal = ""
        self._replay = None

    def refuse_reference(self, problem: str) -> None:
        """Why the views could not be learned."""
        self._refusal = problem

    def follow(self, now_s: float, total_ml: float) -> None:
        """Take in what the watch has looked at since the last turn.

        Args:
            total_ml: cement given so far, through all trocars.
        """
        monitor = self._watch.monitor
        if monitor is not self._monitor:
            self._monitor, self._standing = monitor, None
            self._planes = {plane: _Plane(shots=kept.shots) for plane, kept in self._planes.items()}
            if monitor is not None:
                self._outline(monitor)
        for plane, frame in self._watch.shown.items():
            kept = self._planes.setdefault(plane, _Plane())
            if frame is not kept.frame:
                kept.frame = frame
                self._take(plane, kept, frame)
            while kept.shots and kept.shots[-1].time_s - kept.shots[0].time_s > KEPT_S:
                kept.shots.popleft()
        reading = self._watch.reading
        if reading is not None and reading is not self._reading:
            self._note(reading, total_ml)
        self._reading = reading
        if self._replay is not None and _GRAVITY[self._watch.banner(now_s)[0]] > _GRAVITY[self._replay.level]:
            # Something graver has happened since: nobody must look at the past now.
            self._replay = None

    @property
    def planes(self) -> tuple[str, ...]:
        """Views of which there are pictures, in the order in which they are numbered."""
        return tuple(sorted(self._planes))

    @property
    def curve(self) -> list[CurvePoint]:
        """Volumes since shortly before cement first flowed."""
        flowed_s = next((one.time_s for one in self._curve if one.pump_ml > 0 or one.image_ml > 0), math.inf)
        begin_s = min(flowed_s, self._curve[-1].time_s - _CURVE_LEAD_S if self._curve else math.inf) - _CURVE_LEAD_S
        return [one for one in self._curve if one.time_s >= begin_s]

    # What a person asks for

    def freeze(self, now_s: float) -> None:
        """Let the pictures stand; the monitor goes on."""
        shots = {plane: tuple(kept.shots) for plane, kept in self._planes.items() if kept.shots}
        if shots:
            newest_s = max(one[-1].time_s for one in shots.values())
            self._replay = _Replay(shots, self._watch.banner(now_s)[0], newest_s, newest_s)

    def replay(self, now_s: float) -> None:
        """Play what is kept once, from its beginning, and stand at its end."""
        if self._replay is None:
            self.freeze(now_s)
        if self._replay is not None:
            begin_s = min(one[0].time_s for one in self._replay.shots.values())
            self._replay = replace(self._replay, at_s=begin_s, played_from_s=now_s)

    def show_moment(self, before_s: float, now_s: float) -> None:
        """Show the moment so long before the pictures were frozen, and stand there."""
        if self._replay is None:
            self.freeze(now_s)
        if self._replay is not None:
            at_s = self._replay.frozen_s - min(max(before_s, 0.0), KEPT_S)
            self._replay = replace(self._replay, at_s=at_s, played_from_s=None)

    def go_live(self) -> None:
        self._replay = None

    def take_road_map(self) -> None:
        """From now on a road map shows what comes on top of the cement that there is."""
        for kept in self._planes.values():
            kept.road_map = kept.shots[-1].cement if kept.shots else None

    def begin_marking(self) -> None:
        """Let a person mark the cannula in each view without pose: the tip, then a point far up the shaft."""
        self._replay = None
        self._marks_wanted = True
        for plane in self._unposed:
            self._watch.marks.pop(plane, None)

    def end_marking(self) -> None:
        """Leave it at the marks that there are: a shaft that is seen end-on gives no scale."""
        self._marks_wanted = False

    @property
    def marking(self) -> Marking | None:
        """A mark that is waited for, tips first; None when none is."""
        if not self._marks_wanted:
            return None
        unposed = self._unposed
        marks = {n: self._watch.marks.get(one) for n, one in enumerate(self.planes, start=1) if one in unposed}
        tips = [Marking(number, "tip") for number, one in marks.items() if one is None]
        shafts = [Marking(number, "shaft") for number, one in marks.items() if one is not None and one.shaft_uv is None]
        return next(iter([*tips, *shafts]), None)

    def mark(self, plane: str, across: float, down: float) -> bool:
        """Set the next mark of a view.

        Args:
            across, down: place in the picture as shares of its width and height.

        Returns:
            False when none is wanted there.
        """
        frame, marks = self._planes[plane].frame, self._watch.marks.get(plane)
        if not self._marks_wanted or plane not in self._unposed or frame is None:
            return False
        if marks is not None and marks.shaft_uv is not None:
            return False
        rows, columns = frame.pixels.shape[:2]
        at = (across * columns - 0.5, down * rows - 0.5)
        self._watch.marks[plane] = CannulaMarks(at) if marks is None else replace(marks, shaft_uv=at)
        self._marks_wanted = self.marking is not None
        return True

    @property
    def _unposed(self) -> set[str]:
        """Views whose frames come without geometry."""
        return {plane for plane, kept in self._planes.items() if kept.frame is not None and kept.frame.geometry is None}

    def acknowledge_leak(self) -> bool:
        """A person has seen the leak; the pump stays stopped until it is reset. False when none stands."""
        if self._reading is None or not self._reading.leak:
            return False
        self._watch.acknowledge_leak()
        self._standing = None
        return True

    def snapshot(self, now_s: float, look: Look) -> int:
        """Send the pictures as they are shown to the report; returns how many.

        Raises:
            ImageError: when there is no picture.
        """
        taken = 0
        for number, plane in enumerate(self.planes, start=1):
            shot, picture = self._shot(plane, now_s), self.picture(plane, look, now_s)
            if shot is None or picture is None:
                continue
            title = f"Monitor view {number}, {self._clock_text(shot.time_s)}"
            keep_for_report(self._scene, title, self._caption(title, plane, shot, now_s), picture)
            taken += 1
        if not taken:
            raise ImageError("there is no picture to be sent; does the C-arm send?")
        self._snapshots += taken
        self._write()
        return taken

    def keep(self) -> None:
        """Bring record, table and chart of the scene up to date."""
        self._write()
        points = self.curve
        show_chart(self._scene, RECORD_NAME, [one.time_s for one in points], _curves(points))

    # What is shown

    def readout(self, now_s: float) -> MonitorReadout:
        level, text = self._watch.banner(now_s)
        text = self._named(text)
        reading = self._reading if level != "blind" else None
        event = self._standing if level in ("watch", "warning", "leak") else None
        monitor = self._monitor
        from_tip = None
        if event is not None and event.position_ras is not None and monitor is not None and monitor.tip_ras is not None:
            from_tip = event.position_ras - monitor.tip_ras
        faults = {plane: kept.fault for plane, kept in self._planes.items() if kept.fault}
        return MonitorReadout(
            level=level,
            text=text,
            event=event,
            likely_way=self._likely_way() if event is not None and event.route in _UNKNOWN_PLACES else "",
            from_tip_ras=from_tip,
            volume_ml=reading.volume_ml if reading else math.nan,
            volume_sd_ml=reading.volume_ml_sd if reading else math.nan,
            concentricity=reading.concentricity if reading else math.nan,
            measures=reading.measures if reading else None,
            unknown=_unknown(monitor, reading, bool(self._unposed)),
            cannot_tell=tuple(self._named(what) for what in reading.cannot_tell) if reading else (),
            planes=self.planes,
            faults=faults,
            learning=self._watch.learning,
            refusal=self._named(self._refusal),
            smallest_ml={plane: seen.smallest_ml for plane, seen in monitor.visibility.items()} if monitor else {},
            replayed=self._replayed(now_s),
            may_acknowledge=self._reading is not None and bool(self._reading.leak),
            may_mark=bool(self._unposed),
            marking=self.marking,
            saved_text=self._saved_text if self._reading is None else "",
            snapshots=self._snapshots,
        )

    def picture_key(self, plane: str, look: Look, now_s: float) -> tuple[object, ...]:
        """Changes when `picture` would give another one."""
        kept = self._planes[plane]
        event = self._standing
        told = None if event is None else (event.time_s, event.level, event.route)
        return self._shot(plane, now_s), look, told, kept.road_map, kept.lines, self._watch.marks.get(plane)

    def picture(self, plane: str, look: Look, now_s: float) -> RGB | None:
        """A view as it is to be seen now (rows, columns, 3); None when there is none."""
        kept, key = self._planes[plane], self.picture_key(plane, look, now_s)
        if kept.painted is None or kept.painted[0] != key:
            shot = self._shot(plane, now_s)
            if shot is None:
                return None
            # The panel and a large screen show the same picture.
            kept.painted = key, self._paint(kept, shot, look, self._watch.marks.get(plane))
        return kept.painted[1]

    def _paint(self, kept: _Plane, shot: Shot, look: Look, marks: CannulaMarks | None) -> RGB:
        lines = []
        if marks is not None and kept.frame is not None and kept.frame.geometry is None:
            lines.append(_marked(marks, shot))
        if shot.geometry is not None and kept.lines is not None and kept.tip is not None:
            lines = [kept.lines, kept.tip] if look.structures else [kept.tip]
            if self._standing is not None and self._standing.position_ras is not None:
                mark = place_mark(self._standing.position_ras, shot.geometry)
                lines.append(lines_of([mark], shot.geometry, _MARK_COLORS[self._standing.level]))
        first_seen_s = kept.first_seen.times_s if look.growth and look.kind == "live" else None
        return paint(shot, lines, look.kind, first_seen_s, kept.road_map)

    def outline_places(self, plane: str, now_s: float) -> list[tuple[str, tuple[float, float]]]:
        """Names of the drawn structures and the top of each, as shares of the picture's width and height."""
        shot = self._shot(plane, now_s)
        if shot is None or shot.geometry is None:
            return []
        columns, rows = shot.geometry.detector_pixels
        places: list[tuple[str, tuple[float, float]]] = []
        for outline in self._planes[plane].outlines:
            points = np.concatenate(outline.polylines) + shot.shift[::-1]
            inside = points[((points >= 0) & (points < [columns, rows])).all(axis=1)]
            if len(inside):
                u, v = inside[np.argmin(inside[:, 1])] / [columns, rows]
                while any(abs(u - x) < _NAME_WIDTH and abs(v - y) < _NAME_HEIGHT for _, (x, y) in places):
                    v += _NAME_HEIGHT
                places.append((outline.name, (float(u), float(v))))
        return places

    def view_text(self, plane: str) -> str:
        """From where a view is seen; empty when that is not known."""
        frame = self._planes[plane].frame
        return "" if frame is None or frame.geometry is None else angles_text(frame.geometry)

    # Inside

    def _named(self, text: str) -> str:
        """A text with the views as the page calls them, in place of their names on the line."""
        # The longer name first: one is the beginning of the other.
        for number, plane in reversed([*enumerate(self.planes, start=1)]):
            text = text.replace(f"view {plane}", plane).replace(plane, f"view {number}")
        return text

    def _shot(self, plane: str, now_s: float) -> Shot | None:
        if self._replay is None:
            kept = self._planes[plane].shots
            return kept[-1] if kept else None
        shots = self._replay.shots.get(plane, ())
        number = bisect_right(shots, self._replay.moment_s(now_s), key=lambda one: one.time_s)
        return shots[max(number - 1, 0)] if shots else None

    def _take(self, plane: str, kept: _Plane, frame: Frame) -> None:
        background = seen = geometry = None
        per_mm = 1.0
        if self._monitor is not None and plane in self._monitor.views:
            background, seen = self._monitor.seen(plane)
            per_mm = self._monitor.settings.cement_per_mm
            # Where the C-arm has moved, outlines of its old pose would lie; without a pose there are none.
            geometry = background.full_geometry if seen is not None and frame.geometry is not None else None
        try:
            shot = shot_of(frame.pixels, frame.time_s, geometry, background, seen, per_mm)
        except ImageError as error:
            kept.fault = str(error)
            return
        kept.fault = ""
        if self._monitor is not None and seen is None:
            kept.fault = "not watched" if background is not None else "not learned"
        if shot.cement is not None:
            kept.first_seen.take(shot.cement, shot.time_s)
        kept.shots.append(shot)

    def _note(self, reading: MonitorReading, total_ml: float) -> None:
        """Keep the curve and the events."""
        if not self._curve or reading.time_s - self._curve[-1].time_s >= _CURVE_STEP_S:
            pump_ml = self._watch.given_ml(total_ml)
            self._curve.append(CurvePoint(reading.time_s, pump_ml, reading.volume_ml, reading.volume_ml_sd))
        for event in reading.events:
            position = None if event.position_ras is None else event.position_ras.tolist()
            self._events.append(
                {
                    "unix_s": event.time_s + self._unix_at_zero_s,
                    "level": event.level,
                    "route": event.route,
                    "position_ras": position,
                    "stop": event.stop,
                }
            )
            if event.level == reading.level and event.level != "blind":
                self._standing = event
        if reading.level not in ("watch", "warning", "leak"):
            self._standing = None
        if reading.events:
            del self._events[:-_MOST_EVENTS]
            self._write()

    def _outline(self, monitor: SpreadMonitor) -> None:
        """The structures' outlines in the views that were learned, once: they stay where they are."""
        ct_node, segmentation = segmented_ct(self._scene)
        for plane in set(monitor.views) & set(self._watch.shown):
            if self._watch.shown[plane].geometry is None:
                continue
            kept = self._planes.setdefault(plane, _Plane())
            background, _ = monitor.seen(plane)
            full = background.full_geometry
            geometry = binned_geometry(full, picture_step(full.detector_pixels[0]))
            try:
                drawn = self._fluoroscopy.outlines(geometry, ct_node, segmentation, _FAMILIES)
                drawn = [outline for outline in drawn if _is_near(outline.name, monitor)]
            except SacroplastyError:
                # Without a segmentation there is nothing to be drawn, and the page says that the zones are not known.
                drawn = []
            kept.outlines = tuple(drawn)
            kept.lines = lines_of(drawn, geometry)
            marks = [] if monitor.tip_ras is None else [tip_mark(monitor.tip_ras, geometry)]
            kept.tip = lines_of(marks, geometry, TIP_COLOR)

    def _replayed(self, now_s: float) -> Replayed | None:
        if self._replay is None:
            return None
        moment_s = self._replay.moment_s(now_s)
        playing = self._replay.played_from_s is not None and moment_s < self._replay.frozen_s
        return Replayed(self._replay.frozen_s - moment_s, self._clock_text(moment_s), playing)

    def _clock_text(self, time_s: float) -> str:
        return time.strftime("%H:%M:%S", time.localtime(time_s + self._unix_at_zero_s))

    def _caption(self, title: str, plane: str, shot: Shot, now_s: float) -> str:
        parts = [title]
        if angles := self.view_text(plane):
            parts.append(angles)
        if self._replay is not None:
            parts.append("seen again later")
        elif shot.cement is None:
            parts.append("the monitor does not see")
        else:
            level, text = self._watch.banner(now_s)
            parts += [text] if level == "none" else [f"{level}: {self._event_text(text)}"]
        return ", ".join(parts)

    def _event_text(self, text: str) -> str:
        return text if self._standing is None else f"{readable(self._standing.route)}, {text}"

    def _write(self) -> None:
        reading = self._reading
        text = self._saved_text
        if reading is not None and reading.healthy:
            seen = f"{reading.volume_ml:.1f} ± {reading.volume_ml_sd:.1f} mL seen"
            text = f"{self._clock_text(reading.time_s)}: {seen}, {reading.level or 'no leak'}"
        write_record(self._scene, RECORD_NAME, {"text": text, "events": self._events, "snapshots": self._snapshots})


def _marked(marks: CannulaMarks, shot: Shot) -> Lines:
    """Crosses where a person marked the cannula."""
    canvas = stand_in_geometry(shot.grey.shape, PictureMarks())
    places = [marks.tip_uv] if marks.shaft_uv is None else [marks.tip_uv, marks.shaft_uv]
    crosses = [cross_mark((np.array(place) + 0.5) / shot.step - 0.5, canvas.detector_pixels[0]) for place in places]
    return lines_of(crosses, canvas, TIP_COLOR)


def _is_near(name: str, monitor: SpreadMonitor) -> bool:
    """Whether a structure lies on a side that cement is given to, or on none."""
    side = name.rpartition("_")[2]
    routes = monitor.zones.routes if monitor.zones is not None else ()
    return side not in get_args(Side) or any(route.endswith(side) for route in routes)


def _unknown(monitor: SpreadMonitor | None, reading: MonitorReading | None, unposed: bool) -> tuple[Unknown, ...]:
    if monitor is None:
        return ("not learned",)
    found: list[Unknown] = []
    # A monitor that sees such a view says itself what it does not know by it.
    if unposed and (reading is None or not reading.cannot_tell):
        found.append("no geometry")
    if monitor.zones is None or monitor.tip_ras is None:
        found.append("no zones")
    if len(monitor.views) < 2:
        found.append("one view")
    if reading is not None:
        if reading.volume_ml > 0 and reading.volume_ml_sd > _UNSURE_SHARE * reading.volume_ml:
            found.append("unsure volume")
        if "missing" in reading.warnings:
            found.append("missing cement")
    return tuple(found)


def _curves(points: list[CurvePoint]) -> list[Curve]:
    blue, pink = (0.0, 0.32, 0.64), (0.85, 0.25, 0.65)
    seen: NDArray[np.float64] = np.array([one.image_ml for one in points], float)
    error: NDArray[np.float64] = np.array([one.image_sd_ml for one in points], float)
    return [
        Curve("given (mL)", blue, [one.pump_ml for one in points]),
        Curve("seen (mL)", pink, seen.tolist()),
        Curve("seen, less its error (mL)", pink, (seen - error).tolist()),
        Curve("seen, more its error (mL)", pink, (seen + error).tolist()),
    ]
