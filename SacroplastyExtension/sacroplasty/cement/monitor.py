"""The spread monitor: watches one or two live views during the injection and says how much cement is where.

It is handed frames and the time, and hands back readings. Before the injection it learns each view without cement
(`set_reference`), with the trocar in place; after the trocar, the C-arm or the table was moved it has to learn anew.
What it cannot see it calls blind, which stops the pump like a leak does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ImageError
from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from ..xray.project import CEMENT_PER_MM, ProjectableVolume
from .alignment import settled
from .background import Background
from .balance import FOREIGN_ML, MissingCement, nothing_given
from .cannula import Cannula
from .cement_map import CementMap, map_cement
from .changes import ViewCement
from .estimate import Shadow
from .frames import grey_signal
from .growth import GrowthWatch
from .leaks import Finding, LeakFinder, pixel_size_mm
from .measures import SECTORS, Nearness, SpreadMeasures, measure_view
from .pieces import widened
from .reference import learn_background, thinned
from .unplaced_view import PictureMarks, stand_in_geometry, stray_cement
from .veil import Sample, find_scale_and_veil, most_of, unveiled, veil_share
from .visibility import Sight, Visibility, check_bright
from .zones import Zones

Level = Literal["watch", "warning", "leak", "blind"]

#: Relative error of the volume beside noise: the cement's composition and beam, its depth, and what scatter hides. The
#: pump's volume calibrates it; without, scatter may hide more than half.
_CALIBRATED_SD, _UNCALIBRATED_SD = 0.05, 0.5
#: The same for a scale that was marked in the picture: 5 % of a length are 10 % of an area.
_MARKED_SD = 0.1
#: Volumes by the pump between which the views are calibrated [mL]: enough to be seen well, and not yet much. By the
#: second a view is calibrated or too dark; what a warning kept from it is made up for until the last volume.
_CALIBRATION_ML, _CALIBRATED_ML, _LATEST_CALIBRATION_ML = (0.3, 1.5), 1.0, 2.0
#: A frame tells more than the one before when its cement has grown by this factor.
_SAMPLES_APART = 1.15
#: A view that shows less than this share of the pump's volume is not calibrated by it.
_LEAST_SEEN = 0.8
#: So many frames have to be tried before a view is called calibrated or too dark.
_FEWEST_CALIBRATIONS = 5

#: Every view must show the cube of twice this size around the tip [mm].
_AROUND_TIP_MM = 8.0

#: Less cement has no shape yet [mL].
_SMALLEST_SHAPE_ML = 0.15

#: The front's speed is taken over this time [s], from so many readings at most.
_SPEED_S, _KEPT_FRONTS = 1.0, 60

#: A pose that differs by more from the reference's is another pose: entries of the rotation, and mm. The images
#: themselves tell smaller movements.
_ROTATION_TOLERANCE = 2e-3
_TRANSLATION_TOLERANCE_MM = 1.0


@dataclass(frozen=True)
class Frame:
    """One image of one view.

    Attributes:
        pixels: (rows, columns) raw detector signal.
        time_s: when it was taken, on the clock of `update`'s `now_s`.
        geometry: pose of the C-arm as far as is known.
    """

    pixels: NDArray
    time_s: float
    geometry: XrayGeometry | None


@dataclass(frozen=True)
class MonitorSettings:
    """
    Attributes:
        frame_period_s: of the fluoroscope; a view is late after two.
        cement_per_mm: linear attenuation of the cement.
        confirming_frames: frames of a view in a row that must show a leak.
    """

    frame_period_s: float = 0.2
    cement_per_mm: float = CEMENT_PER_MM
    confirming_frames: int = 2


@dataclass(frozen=True)
class SpreadEvent:
    """Something to be told at once.

    Attributes:
        level: `watch` (cement reaches a protected structure but may be in the bone beside it), `warning` (outside the
            planned ala but not certainly leaking), `leak`, `blind`.
        route: a route of `Zones`, `venous`, `bone`, `unknown`, or `missing` for what no view shows; for `blind` the
            reason.
        position_ras: None when not known.
        stop: whether the pump has to stop.
    """

    time_s: float
    level: Level
    route: str
    position_ras: FloatArray | None
    stop: bool


@dataclass(frozen=True)
class MonitorReading:
    """What is known after an update.

    Attributes:
        volume_ml, volume_ml_sd: cement seen since the reference; NaN when blind.
        concentricity: 1 for cement that lies evenly round the tip, 0 for a streak or a blob beside it; the lower of the
            views; NaN while there is too little cement, no tip or no sight.
        health: `ok`, or why the monitor is blind.
        level: the gravest present level; None when all is well.
        leak: whether a leak was confirmed and not acknowledged; None where leaks cannot be judged, which forbids the
            flow like a leak does.
        events: new ones.
        per_view_volume_ml: by view.
        measures: size, evenness, speed and nearness; None when blind or without a tip.
        cannot_tell: what this monitor does not know even when it sees well, in words.
        warnings: routes of the warnings that stand.
    """

    time_s: float
    volume_ml: float
    volume_ml_sd: float
    concentricity: float
    health: str
    level: Level | None
    leak: bool | None
    events: tuple[SpreadEvent, ...]
    per_view_volume_ml: dict[str, float] = field(default_factory=dict)
    measures: SpreadMeasures | None = None
    cannot_tell: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return self.health == "ok"


@dataclass
class _View:
    background: Background
    pixel_mm: float
    tip_ras: FloatArray | None
    marks: PictureMarks | None = None
    calibrations: int = 0
    showing: int = 0
    samples: list[Sample] = field(default_factory=list)
    #: What the frames of the reference show beside their mean, with their times, until growth is watched.
    before: list[tuple[float, ViewCement]] = field(default_factory=list)
    #: Attenuation of the cement over what the greys show of it beside scatter, and the share (rows, columns) of each
    #: pixel's signal that is scatter and glare, as far as known.
    scale: float = 1.0
    share: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1), np.float32))
    last: Frame | None = None
    seen: CementMap | None = None
    fault: str = "no frame yet"
    leaking_frames: int = 0
    visibility: Visibility | None = None

    @cached_property
    def cosine(self) -> NDArray[np.float64]:
        """Of each ray's angle to the detector's normal: a path is longer than the layer it crosses."""
        return _cosine(self.background.geometry)

    @property
    def placed(self) -> bool:
        """Whether it is known where the view looks."""
        return self.marks is None

    @property
    def scaled(self) -> bool:
        """Whether the size of its pixels is known."""
        return self.marks is None or self.marks.pixel_mm is not None

    @property
    def calibrated(self) -> bool:
        """Whether the pump told how much of the signal is scatter, in most of the frames that were tried."""
        return self.showing > self.calibrations / 2

    @property
    def dark(self) -> bool:
        """Whether the pump told that most of the cement is not to be seen."""
        return self.calibrations >= _FEWEST_CALIBRATIONS and not self.calibrated

    def calibrate(self, layer: float, region: NDArray[np.bool_]) -> None:
        """Learn from the pump's volume what the greys tell of cement.

        Args:
            layer: sum over the region of the attenuation that its cement has along the detector's normal.
        """
        assert self.seen is not None
        self.calibrations += 1
        if not region.any():
            return
        log_signal = self.background.log_signal.values
        sample = Sample(self.seen.sharp[region], log_signal[region], layer / float(self.cosine[region].mean()))
        # Too dark to show most of the cement, whatever the veil: this view's figures are not to be trusted.
        if most_of(sample) < _LEAST_SEEN * sample.expected_sum:
            return
        self.showing += 1
        if self.samples and sample.expected_sum < self.samples[-1].expected_sum * _SAMPLES_APART:
            return
        self.samples.append(sample)
        self.scale, veil = find_scale_and_veil(self.samples)
        self.share = veil_share(log_signal, veil)

    def unveiled(self) -> CementMap:
        """The cement of the last frame as the beam alone would show it."""
        assert self.seen is not None
        if not self.calibrated:
            return self.seen
        scale = np.float32(self.scale)
        attenuation = scale * unveiled(self.seen.attenuation, self.share).astype(np.float32)
        return replace(self.seen, attenuation=attenuation, sigma=scale * self.seen.sigma / (1 - self.share))

    @property
    def share_and_scale(self) -> tuple[NDArray[np.float32] | float, float]:
        """Of scatter and of the cement, as far as the pump told them; none and one before."""
        return (self.share, self.scale) if self.calibrated else (0.0, 1.0)

    def for_growth(self) -> ViewCement:
        """The cement of the last frame as the picture shows it, the patient's movement taken out."""
        assert self.seen is not None
        return _for_growth(self.seen, *self.share_and_scale)


class SpreadMonitor:
    """State of the views from one reference to the next.

    Args:
        zones: where cement belongs; without them there is a volume but no judgement of leaks.
        tip_ras: where cement leaves the cannula; without it no concentricity, and no leaks.
        cannula: whose shadow may tremble; one that is not told and moves blinds the monitor.
        attenuation: of the patient by the CT, 1/mm. It tells before any cement which views are too dark to show it;
            without, only the first millilitre does.
    """

    def __init__(
        self,
        zones: Zones | None = None,
        tip_ras: ArrayLike | None = None,
        settings: MonitorSettings | None = None,
        cannula: Cannula | None = None,
        attenuation: ProjectableVolume | None = None,
    ) -> None:
        self.zones = zones
        self.tip_ras = None if tip_ras is None else np.asarray(tip_ras, float)
        self.settings = settings or MonitorSettings()
        self._cannula = cannula
        self._attenuation = attenuation
        self._views: dict[str, _View] = {}
        self._finder: LeakFinder | None = None
        self._growth: GrowthWatch | None = None
        self._nearness: Nearness | None = None
        self._fronts: deque[tuple[float, float]] = deque(maxlen=_KEPT_FRONTS)
        self._new_views: set[str] = set()
        self._spots: list[Finding] = []
        self._growing_frames = 0
        self._judged_beside = False
        self._leak = False
        self._calibration_over = False
        self._missing = MissingCement()
        self._told: set[tuple[str, str]] = set()
        self._last: MonitorReading | None = None

    @property
    def views(self) -> tuple[str, ...]:
        """The views that must be live."""
        return tuple(self._views)

    def set_reference(self, view: str, frames: Sequence[Frame], marks: PictureMarks | None = None) -> None:
        """Learn a view before the injection; what it shows then is not cement. Forgets what was seen in the view.

        Args:
            marks: what is known of a view whose frames have no geometry. Such a view is looked at in the picture alone.

        Raises:
            ImageError: for too few or useless frames, or a pose that is missing or changes between them.
            DarkViewError: when cement would hardly show in this view, as far as the CT tells.
        """
        geometry = frames[0].geometry if frames else None
        if geometry is None and (marks is None or not frames):
            raise ImageError(
                f"the reference frames of view {view} have no geometry; cement cannot be located without. Mark the "
                "tip in the picture to watch its spread at least"
            )
        if geometry is not None and any(not _same_pose(frame.geometry, geometry) for frame in frames):
            raise ImageError(f"the C-arm moved between the reference frames of view {view}; take them again")
        try:
            learned = self._learned(frames, geometry, marks)
        except ImageError as error:
            raise ImageError(f"view {view}: {error}") from None
        learned.visibility = self._bright_enough(view, learned)
        self._views[view] = learned
        self._finder = None
        self._spots, self._growing_frames, self._judged_beside = [], 0, False
        self._calibration_over = False
        self._missing = MissingCement()
        self._last = None

    def _learned(self, frames: Sequence[Frame], geometry: XrayGeometry | None, marks: PictureMarks | None) -> _View:
        signals = [grey_signal(frame.pixels) for frame in frames]
        if geometry is not None:
            background = learn_background(signals, geometry, _around(self.tip_ras), self._cannula)
            pixel_mm = pixel_size_mm(background.geometry, self._middle(geometry))
            return _View(background, pixel_mm, self.tip_ras, before=_before(background, frames, signals, pixel_mm))
        assert marks is not None
        tip = np.zeros(3) if marks.tip_uv is not None else None
        background = learn_background(signals, stand_in_geometry(signals[0].shape, marks), _around(tip))
        return _View(background, background.geometry.pixel_spacing_mm[0], tip, marks)

    def _bright_enough(self, name: str, view: _View) -> Visibility | None:
        """What a view could show of cement, if that is enough; None where it cannot be told."""
        if self._attenuation is None or self.tip_ras is None or not view.placed:
            return None
        sight = Sight(self._attenuation, self.tip_ras, self.settings.cement_per_mm)
        others = [one.background.geometry for other, one in self._views.items() if other != name and one.placed]
        return check_bright(name, view.background, sight, others)

    def acknowledge_leak(self) -> None:
        """A person has seen the leak; the next frames judge anew."""
        self._leak = False
        self._last = None
        self._told.clear()
        self._spots, self._growing_frames = [], 0
        for view in self._views.values():
            view.leaking_frames = 0

    def update(
        self,
        frames: Mapping[str, Frame],
        now_s: float,
        pump_volume_ml: float | None = None,
        in_line_ml: float = 0.0,
    ) -> MonitorReading:
        """Take in new frames, of all views or some, or none when only time has passed.

        Args:
            now_s: on the clock of the frames' times.
            pump_volume_ml: given since the reference; while it is small and all is well it calibrates the views. None
                when it is not known how much has been given by now.
            in_line_ml: what the stretched line still holds back of it, as far as is known.

        Raises:
            ImageError: for a frame of a view that has no reference.
        """
        for name, frame in frames.items():
            if name not in self._views:
                raise ImageError(f"view {name} has no reference frames; call set_reference first")
            self._take(self._views[name], frame)
        if self._finder is None:
            self._prepare()
        health = self._health(now_s)
        if health != "ok":
            return self._blind(health, now_s)
        if not frames and self._last is not None and self._last.healthy:
            return replace(self._last, time_s=now_s, events=())
        maps = {name: view.unveiled() for name, view in self._views.items()}
        placed_maps = {name: seen for name, seen in maps.items() if self._views[name].placed}
        depth = self._finder.center(placed_maps) if self._finder is not None else None
        # What a stretched line still held when the views were learned comes without more being given.
        idle = pump_volume_ml is not None and nothing_given(pump_volume_ml)
        if idle and self._seen_ml(depth)[0] > in_line_ml + FOREIGN_ML:
            return self._blind("something that is no cement came into the picture: none was given yet", now_s)
        found = self._judge(placed_maps, frames, now_s) + self._stray(maps, now_s)
        level = _gravest(found)
        if pump_volume_ml is not None:
            if level in (None, "watch") and not self._leak:
                self._calibrate(frames, depth, pump_volume_ml)
            self._calibration_over = self._ends_calibration(pump_volume_ml)
        volume_ml, sd_ml, per_view_ml = self._seen_ml(depth)
        measures = self._measure(maps, placed_maps, depth, now_s)
        if pump_volume_ml is not None:
            missing_ml = pump_volume_ml - in_line_ml - volume_ml
            if measures is not None:
                measures = replace(measures, missing_ml=missing_ml, missing_ml_sd=sd_ml)
            if self._misses(missing_ml, sd_ml, now_s):
                found.append(SpreadEvent(now_s, "warning", "missing", None, False))
                level = _gravest(found)
        self._last = MonitorReading(
            time_s=now_s,
            volume_ml=volume_ml,
            volume_ml_sd=sd_ml,
            concentricity=self._concentricity(measures, volume_ml),
            health="ok",
            level="leak" if self._leak else level,
            leak=self._known_leak,
            events=self._tell(found),
            per_view_volume_ml=per_view_ml,
            measures=measures,
            cannot_tell=self.cannot_tell,
            warnings=tuple(sorted({event.route for event in found if event.level == "warning"})),
        )
        return self._last

    def _prepare(self) -> None:
        """Match pixels and voxels, once for all views: that takes a while."""
        geometries = {name: view.background.geometry for name, view in self._views.items() if view.placed}
        if geometries and self.zones is not None and self.tip_ras is not None:
            self._finder = LeakFinder(self.zones, geometries, self.tip_ras, self._cannula)
            self._nearness = Nearness(self.zones)
            self._growth = GrowthWatch(self.zones, geometries, self.settings.cement_per_mm, self._cannula)
            for name in geometries:
                for time_s, shown in self._views[name].before:
                    self._growth.keep(name, time_s, shown)
                self._views[name].before = []

    def _misses(self, missing_ml: float, sd_ml: float, now_s: float) -> bool:
        """Whether much of what the pump gave shows nowhere. Before all views are calibrated scatter may hide it."""
        calibrated = all(view.calibrated for view in self._views.values() if view.scaled)
        return self._missing.update(missing_ml if calibrated else math.nan, sd_ml, now_s)

    def _blind(self, health: str, now_s: float) -> MonitorReading:
        events = self._tell([SpreadEvent(now_s, "blind", health, None, True)])
        self._last = MonitorReading(now_s, math.nan, math.nan, math.nan, health, "blind", self._known_leak, events)
        return self._last

    @property
    def judges_leaks(self) -> bool:
        """Whether cement in a wrong place can be told: with zones, a tip and at least one view of known geometry."""
        return self.zones is not None and self.tip_ras is not None and any(view.placed for view in self._views.values())

    @property
    def cannot_tell(self) -> tuple[str, ...]:
        """What this monitor does not know even when it sees well, in words."""
        unplaced = [name for name, view in self._views.items() if not view.placed]
        unknown = [f"where cement of view {name} lies: no geometry" for name in unplaced]
        unknown += [f"the volume by view {name}: no scale" for name in unplaced if not self._views[name].scaled]
        if self._calibration_over:
            unsure = [name for name in unplaced if self._views[name].scaled and not self._views[name].calibrated]
            unknown += [f"what view {name} hides: not calibrated by the pump" for name in unsure]
        unknown += [
            f"how even the spread is in view {name}: no tip"
            for name, view in self._views.items()
            if view.tip_ras is None
        ]
        if self._growth is not None and not self._judges_beside:
            unknown.append("whether cement leaks close beside the bone: less than a breath was seen")
        if self._growth is not None and len(self._views) == 1:
            unknown.append("whether cement leaks close beside the bone: that takes two views")
        if self._attenuation is None:
            unknown.append("whether a view is too dark before the first millilitre: no CT")
        if not self.judges_leaks:
            missing = "zones of the anatomy" if self.zones is None else "a tip" if self.tip_ras is None else "geometry"
            unknown.append(f"whether and where cement leaks: no {missing}")
        return tuple(unknown)

    @property
    def visibility(self) -> dict[str, Visibility]:
        """What views could show of cement at the tip; without those of which that is not known."""
        return {name: view.visibility for name, view in self._views.items() if view.visibility is not None}

    @property
    def _judges_beside(self) -> bool:
        """Whether the two views that can tell growth close beside the bone have seen enough of a breath for it.

        Other numbers of views are not judged for it at all.
        """
        placed = [view for view in self._views.values() if view.placed]
        return len(placed) != 2 or (self._growth is not None and self._growth.judges)

    @property
    def _known_leak(self) -> bool | None:
        """Whether cement leaks; before a breath was seen since the reference it is not known that it does not."""
        if self._leak:
            return True
        return False if self.judges_leaks and (self._judged_beside or self._judges_beside) else None

    def seen(self, view: str) -> tuple[Background, CementMap | None]:
        """A view before the injection, and the cement of its last frame for pictures; None when that told nothing."""
        known = self._views[view]
        return known.background, None if known.fault else known.seen

    def last_frame(self, view: str) -> Frame | None:
        """The newest frame of a view, usable or not."""
        return self._views[view].last

    def shadows(self) -> dict[str, Shadow]:
        """Cement in the last frames, for an estimate in three dimensions: of views that see and whose pose is known.

        Views that the pump could not calibrate are left out: what they do not show may be there.
        """
        per_mm = np.float32(self.settings.cement_per_mm)
        seeing = {name: view for name, view in self._views.items() if view.placed and view.seen and not view.fault}
        trusted = {name: view for name, view in seeing.items() if view.calibrated or not self._calibration_over}
        maps = {name: (view, view.unveiled()) for name, view in trusted.items()}
        return {
            name: Shadow(
                np.where(np.isfinite(seen.sigma), seen.attenuation / per_mm, np.nan),
                widened(seen.detected, 2),
                view.background.geometry,
            )
            for name, (view, seen) in maps.items()
        }

    def _take(self, view: _View, frame: Frame) -> None:
        """Map the cement of a frame, or note why it cannot be used."""
        columns, rows = view.background.full_geometry.detector_pixels
        last = view.last
        if last is not None and not frame.time_s > last.time_s:
            view.fault = "time stands still or runs backwards"
            return
        view.last = frame
        if view.placed and frame.geometry is None:
            view.fault = "no geometry"
            return
        if view.placed and not _same_pose(frame.geometry, view.background.full_geometry):
            view.fault = "C-arm moved"
            return
        try:
            signal = grey_signal(frame.pixels)
        except ImageError as error:
            view.fault = f"unreadable frame: {error}"
            return
        if signal.shape != (rows, columns):
            view.fault = f"unreadable frame: {signal.shape[1]} x {signal.shape[0]} pixels instead of {columns} x {rows}"
        elif last is not None and np.array_equal(last.pixels, frame.pixels):
            view.fault = "frozen"
        else:
            seen = map_cement(view.background, signal, view.seen, view.pixel_mm)
            view.fault = seen.fault
            if not seen.fault:
                view.seen = seen

    def _health(self, now_s: float) -> str:
        if not self._views:
            return "no reference"
        for name, view in self._views.items():
            if view.fault:
                return f"{view.fault} ({name})"
            age_s = now_s - view.last.time_s if view.last is not None else math.nan
            if not age_s <= 2 * self.settings.frame_period_s:
                return f"late ({name})"
            if age_s < -self.settings.frame_period_s:
                return f"its time lies ahead ({name})"
            if self._calibration_over and view.placed and not view.calibrated:
                if view.dark:
                    return f"too dark to show the cement that the pump gave ({name})"
                # How much of the cement it hides is not known, so that its silence would tell nothing.
                return f"not calibrated: something was wrong while the pump gave the first cement ({name})"
        return "ok"

    def _judge(self, maps: dict[str, CementMap], fresh: Mapping[str, Frame], now_s: float) -> list[SpreadEvent]:
        """All that holds now, told already or not."""
        if self._finder is None:
            return []
        calibrated = [name for name in maps if self._views[name].calibrated]
        found = self._finder.findings(maps, self.settings.cement_per_mm, calibrated)
        for name in fresh:
            view = self._views[name]
            leaking = any(finding.view == name and finding.is_leak for finding in found)
            view.leaking_frames = view.leaking_frames + 1 if leaking else 0
        events = [
            SpreadEvent(now_s, "watch", route, position, False)
            for route, position in self._finder.touched(maps).items()
        ]
        spots = self._growing(maps, fresh, now_s)
        for finding in [*found, *spots]:
            frames_in_a_row = self._growing_frames
            if finding.view in self._views:
                frames_in_a_row = self._views[finding.view].leaking_frames
            confirmed = finding.is_leak and frames_in_a_row >= self.settings.confirming_frames
            self._leak |= confirmed
            events.append(_event(finding, confirmed, now_s))
        return events

    def _stray(self, maps: dict[str, CementMap], now_s: float) -> list[SpreadEvent]:
        """Cement of views without geometry that is not with the rest, as a warning: whether it leaks is not known."""
        found = []
        for name, view in self._views.items():
            if view.placed or view.tip_ras is None:
                continue
            tip_uv = view.background.geometry.project(view.tip_ras)
            found += [
                SpreadEvent(now_s, "warning", route, None, False)
                for route in stray_cement(maps[name], tip_uv, view.pixel_mm)
            ]
        return found

    def _growing(self, maps: dict[str, CementMap], fresh: Mapping[str, Frame], now_s: float) -> list[Finding]:
        """Places outside the plan where both views see cement grow."""
        if self._growth is None or any(self._views[name].dark for name in maps):
            return []
        # Views may come one by one; growth is looked at when each has something new.
        self._new_views |= set(fresh)
        if not self._new_views >= set(maps):
            return self._spots
        self._new_views = set()
        for name in maps:
            self._growth.keep(name, now_s, self._views[name].for_growth())
        self._spots = [Finding(spot.zone, spot.position_ras, spot.volume_ml, "growth") for spot in self._growth.spots()]
        self._judged_beside |= self._growth.judges
        self._growing_frames = self._growing_frames + 1 if any(spot.is_leak for spot in self._spots) else 0
        return self._spots

    def _tell(self, found: list[SpreadEvent]) -> tuple[SpreadEvent, ...]:
        """Those that did not hold at the update before. A leak is told once."""
        now = {(event.level, event.route) for event in found}
        new = {(event.level, event.route): event for event in found if (event.level, event.route) not in self._told}
        self._told = now | {key for key in self._told if key[0] == "leak"}
        return tuple(new.values())

    def _calibrate(self, fresh: Mapping[str, Frame], center_ras: FloatArray | None, pump_volume_ml: float) -> None:
        """Learn from the pump's volume what the greys of each view tell of cement."""
        last_ml = _CALIBRATION_ML[1] if self._is_tried else _LATEST_CALIBRATION_ML
        if not _CALIBRATION_ML[0] <= pump_volume_ml <= last_ml:
            return
        for name in fresh:
            view = self._views[name]
            if not view.scaled:
                continue
            region, to_ml = self._cement_region(view, center_ras)
            view.calibrate(pump_volume_ml / to_ml, region)

    def _ends_calibration(self, pump_volume_ml: float) -> bool:
        """Whether the pump has given enough for the views to be calibrated, or never to be."""
        return pump_volume_ml > (_CALIBRATED_ML if self._is_tried else _LATEST_CALIBRATION_ML)

    @property
    def _is_tried(self) -> bool:
        return all(view.calibrations >= _FEWEST_CALIBRATIONS for view in self._views.values() if view.scaled)

    def _seen_ml(self, center_ras: FloatArray | None) -> tuple[float, float, dict[str, float]]:
        """Volume of all views, its standard deviation, and each view's; NaN without a view that has a scale."""
        volumes = {name: self._volume(view, center_ras) for name, view in self._views.items() if view.scaled}
        if not volumes:
            return math.nan, math.nan, {}
        # A view that sees little may be the one that errs: its error is as large as what the other sees.
        largest_ml = max(volume for volume, _ in volumes.values())
        variances = []
        for name, (_, noise) in volumes.items():
            view = self._views[name]
            share = _CALIBRATED_SD if view.calibrated else _UNCALIBRATED_SD
            variances.append(
                noise**2 + (share * largest_ml) ** 2 + (0.0 if view.placed else _MARKED_SD * largest_ml) ** 2
            )
        weights = 1 / np.array(variances)
        per_view_ml = {name: volume for name, (volume, _) in volumes.items()}
        together_ml = float(np.dot(weights, [*per_view_ml.values()]) / weights.sum())
        return together_ml, float(weights.sum() ** -0.5), per_view_ml

    def _volume(self, view: _View, center_ras: FloatArray | None) -> tuple[float, float]:
        """Volume in mL and its standard deviation by noise: path length times pixel area in the cement's plane."""
        assert view.seen is not None
        region, to_ml = self._cement_region(view, center_ras)
        known_share, scale = view.share_and_scale
        share = np.broadcast_to(known_share, region.shape)[region]
        path = unveiled(view.seen.sharp[region], share)
        to_ml *= scale
        volume = max(float((path * view.cosine[region]).sum()) * to_ml, 0.0)
        # Smoothing over 3 x 3 pixels lowered each sigma threefold, not that of a sum.
        noise = 3 * math.sqrt(float(((view.seen.sigma[region] / (1 - share)) ** 2).sum())) * to_ml
        return volume, max(noise, 1e-4)

    def _cement_region(self, view: _View, center_ras: FloatArray | None) -> tuple[NDArray[np.bool_], float]:
        """Pixels with cement and their rim, and how many mL one of them has for each unit of attenuation."""
        assert view.seen is not None
        geometry = view.background.geometry
        where = center_ras if center_ras is not None and view.placed else self._middle(geometry, view.placed)
        # The rim is faint: two pixels more catch what smoothing spread, at the price of a little noise.
        region = view.background.bridged(widened(view.seen.detected, 2)) & np.isfinite(view.seen.sigma)
        return region, pixel_size_mm(geometry, where) ** 2 / self.settings.cement_per_mm / 1000

    def _measure(
        self,
        maps: dict[str, CementMap],
        placed_maps: dict[str, CementMap],
        center_ras: FloatArray | None,
        now_s: float,
    ) -> SpreadMeasures | None:
        views = {
            name: measure_view(seen, view.background.geometry, view.pixel_mm, view.tip_ras, self.settings.cement_per_mm)
            for (name, seen), view in zip(maps.items(), self._views.values(), strict=True)
            if view.tip_ras is not None
        }
        if not views:
            return None
        for name in views:
            if not self._views[name].scaled:
                views[name] = replace(views[name], area_mm2=math.nan, front_mm=np.full(SECTORS, math.nan))
        measures = SpreadMeasures(views)
        if self._finder is not None and self._nearness is not None:
            cement = self._finder.planned_cement(placed_maps)
            third = self._finder.zones.anterior_third.ravel()
            measures = replace(
                measures,
                center_ras=center_ras,
                distance_mm=self._nearness.of(cement),
                anterior_third_filled=float(cement[third].mean()) if third.any() else math.nan,
            )
        front_mm = measures.mean_front_mm
        earlier = [(time_s, front) for time_s, front in self._fronts if now_s - time_s >= _SPEED_S]
        self._fronts.append((now_s, front_mm))
        if not earlier:
            return measures
        then_s, then_mm = earlier[-1]
        return replace(measures, front_mm_s=(front_mm - then_mm) / (now_s - then_s))

    @staticmethod
    def _concentricity(measures: SpreadMeasures | None, volume_ml: float) -> float:
        if measures is None or volume_ml < _SMALLEST_SHAPE_ML:
            return math.nan
        return min(view.concentricity for view in measures.views.values())

    def _middle(self, geometry: XrayGeometry, placed: bool = True) -> FloatArray:
        """Where cement is expected: the tip, the zones' middle, or the detector's axis at two thirds of the way."""
        if not placed:
            return np.zeros(3)
        if self.tip_ras is not None:
            return self.tip_ras
        if self.zones is not None:
            grid = self.zones.labels
            return grid.ras_of((np.array(grid.voxels.shape) - 1) / 2)
        columns, rows = geometry.detector_pixels
        detector = geometry.pixel_ras([(columns - 1) / 2, (rows - 1) / 2])
        return geometry.source_ras + (detector - geometry.source_ras) * 2 / 3


def _around(tip_ras: FloatArray | None) -> FloatArray | None:
    """The tip and points around it, which every view must show; None without a tip."""
    return None if tip_ras is None else tip_ras + _AROUND_TIP_MM * np.array([*np.ndindex(3, 3, 3)]) - _AROUND_TIP_MM


def _for_growth(seen: CementMap, scatter_share: NDArray | float = 0.0, gain: float = 1.0) -> ViewCement:
    assert seen.alignment is not None
    attenuation = settled(seen.attenuation, seen.alignment)
    return ViewCement(attenuation, seen.sigma, scatter_share, gain, seen.alignment.shift_pixels)


def _before(
    background: Background, frames: Sequence[Frame], signals: Sequence[NDArray], pixel_mm: float
) -> list[tuple[float, ViewCement]]:
    """What the frames of a reference show beside their mean: how the picture changes while there is no cement."""
    shown = []
    seen = None
    for frame, signal in zip(thinned(frames), thinned(signals), strict=True):
        found = map_cement(background, signal, seen, pixel_mm)
        if not found.fault:
            seen = found
            shown.append((frame.time_s, _for_growth(found)))
    return shown


def _event(finding: Finding, confirmed: bool, now_s: float) -> SpreadEvent:
    position = finding.position_ras if np.isfinite(finding.position_ras).all() else None
    return SpreadEvent(now_s, "leak" if confirmed else "warning", finding.zone, position, confirmed)


def _gravest(events: Sequence[SpreadEvent]) -> Level | None:
    order: tuple[Level, ...] = ("leak", "warning", "watch")
    return next((level for level in order if any(event.level == level for event in events)), None)


def _cosine(geometry: XrayGeometry) -> NDArray[np.float64]:
    """Cosine of each ray's angle to the detector's normal: a path is longer than the layer it crosses."""
    columns, rows = geometry.detector_pixels
    u = np.arange(columns) * geometry.pixel_spacing_mm[0] - geometry.source_in_detector_mm[0]
    v = np.arange(rows) * geometry.pixel_spacing_mm[1] - geometry.source_in_detector_mm[1]
    distance = geometry.source_in_detector_mm[2]
    return distance / np.sqrt(distance**2 + u[None, :] ** 2 + v[:, None] ** 2)


def _same_pose(one: XrayGeometry | None, other: XrayGeometry) -> bool:
    return (
        one is not None
        and one.detector_pixels == other.detector_pixels
        and np.allclose(one.RASToDetector[:3, :3], other.RASToDetector[:3, :3], rtol=0, atol=_ROTATION_TOLERANCE)
        and np.allclose(one.RASToDetector[:3, 3], other.RASToDetector[:3, 3], rtol=0, atol=_TRANSLATION_TOLERANCE_MM)
        and np.allclose(one.source_in_detector_mm, other.source_in_detector_mm, rtol=0, atol=_TRANSLATION_TOLERANCE_MM)
        and np.allclose(one.pixel_spacing_mm, other.pixel_spacing_mm, rtol=1e-4)
    )
