"""An operating room in the test's hands: every device says what the test tells it to, and time is turned by hand."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cement_scene import CENTER, block_anatomy, body_line_integrals, expose, sphere_line_integrals, views
from sacroplasty.cement.zones import make_zones
from sacroplasty.clock import ManualClock, ScaledClock
from sacroplasty.devices.fluoroscope import PLANES, CArmAnswer, Frame, View
from sacroplasty.devices.pump import PumpReading
from sacroplasty.devices.pump_protocol import Answer, PumpState
from sacroplasty.devices.tracker import Pose
from sacroplasty.image import Volume
from sacroplasty.planning.model import Depot, Plan, Trajectory
from sacroplasty.planning.needles import needle
from sacroplasty.procedure.case import Case, PlacedTrocar
from sacroplasty.procedure.equipment import Clocks, Equipment
from sacroplasty.procedure.inject import Fluoroscopy
from sacroplasty.procedure.journal import Journal
from sacroplasty.procedure.prepare import Preparation
from shaft_distances import everywhere

FRAME_PERIOD_S = 0.2
TICK_S = 0.05
VIEWS = views(96)


def preparation_of(case: Case) -> Preparation:
    """What the left side of a case needs."""
    return Preparation(
        everywhere(sacral_canal=30.0),
        {"left": make_zones(case.anatomy, CENTER, ("left",))},
    )


class FakeTracker:
    """Poses as told: by tool the 4x4 ToolToTracker; a tool that is not there has no pose."""

    def __init__(self) -> None:
        self.poses: dict[str, np.ndarray] = {"Reference": np.eye(4)}
        self.age_s = 0.01

    def poll(self, now_s: float) -> None:
        pass

    def pose(self, name: str, now_s: float) -> Pose:
        matrix = self.poses.get(name.removesuffix("ToTracker"))
        if matrix is None:
            return Pose(None, float("inf"), "OUT_OF_VIEW", f"{name} is out of view")
        if self.age_s > 0.1:
            return Pose(None, self.age_s, "OK", f"{name} is {self.age_s:.1f} s old")
        return Pose(matrix, self.age_s, "OK", "")


class FakePump:
    """Gives what it is told to, at once and exactly, unless it is spoilt."""

    stop_pending = False

    def __init__(self) -> None:
        self.state, self.fault = "idle", ""
        self.delivered_ml, self.pressure_kpa = 0.0, 100.0
        self.run_left_ml = self.rate_ml_s = 0.0
        self.age_s = 0.0
        self.connected = self.moves = True
        self.refuses: str = ""
        self.alarm = ""
        self.orders: list[str] = []
        self.answers: list[Answer] = []
        self._last_s: float | None = None

    def poll(self, now_s: float) -> None:
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        if self.state == "running":
            given = min(self.run_left_ml, self.rate_ml_s * passed_s)
            self.delivered_ml += given
            self.run_left_ml -= given
            if self.run_left_ml <= 1e-9:
                self.state = "armed"

    def _order(self, name: str, new_state: str) -> None:
        self.orders.append(name)
        if self.refuses == name:
            self.answers.append(Answer(len(self.orders), name, False, "busy", "the syringe is empty", self.state))
        else:
            self.state = new_state

    def arm(self, now_s: float) -> None:
        self._order("arm", "armed")

    def run(self, rate_ml_s: float, volume_ml: float, pressure_limit_kpa: float, now_s: float) -> None:
        self.run_left_ml, self.rate_ml_s = volume_ml, rate_ml_s
        self._order("run", "running" if self.moves else self.state)

    def hold(self, now_s: float) -> None:
        self._order("hold", "armed")

    def stop(self, now_s: float) -> None:
        self._order("stop", "stopped")

    def reset(self, now_s: float) -> None:
        self._order("reset", "idle")

    def take_answers(self) -> list[Answer]:
        answers, self.answers = self.answers, []
        return answers

    def reading(self, now_s: float) -> PumpReading:
        fields = dict(
            state=self.state, fault=self.fault, delivered_ml=self.delivered_ml, pressure_kpa=self.pressure_kpa
        )
        filler = dict(counter=1, run_ml=0.0, remaining_ml=10.0, rate_ml_s=0.0, session="test", sequence=0)
        ready = self.connected and not self.alarm
        reason = self.alarm or ("" if self.connected else "off")
        return PumpReading(ready, PumpState(**fields, **filler), self.age_s, reason, self.alarm)


class FakeFluoroscope:
    """Two live views of the sacrum of blocks; cement grows at the tip with what the pump gives."""

    client = SimpleNamespace(reason="", connected=True)

    def __init__(self, pump: FakePump) -> None:
        self.pump = pump
        self.rng = np.random.default_rng(4)
        self.sends = dict.fromkeys(VIEWS, True)
        self.frozen: set[str] = set()
        self.posed = True
        #: More cement, as centre and volume, from somewhere else than the tip.
        self.leaks: list[tuple[Any, float]] = []
        self.accepts = CArmAnswer(True, "")
        self.exposing = False
        self._body = {name: body_line_integrals(geometry) for name, geometry in VIEWS.items()}
        self._newest: dict[str, Frame] = {}
        self._queue: list[Frame] = []
        self._next_s = 0.0

    def poll(self, now_s: float) -> None:
        if now_s + 1e-9 < self._next_s:
            return
        self._next_s = now_s + FRAME_PERIOD_S
        for (name, geometry), plane in zip(VIEWS.items(), PLANES, strict=True):
            if not self.sends[name]:
                continue
            total = self._body[name]
            for center, volume_ml in [(CENTER, self.pump.delivered_ml), *self.leaks]:
                if volume_ml > 0:
                    total = total + sphere_line_integrals(geometry, center, volume_ml)
            pixels = self._newest[name].pixels if name in self.frozen else expose(total, self.rng)
            record = geometry.to_dict() if self.posed else None
            frame = Frame(plane, pixels, record, None, 1 / FRAME_PERIOD_S, None, now_s, now_s)
            self._newest[name] = frame
            self._queue.append(frame)

    def take_frames(self) -> list[Frame]:
        frames, self._queue = self._queue, []
        return frames

    def view(self, plane: str, now_s: float) -> View:
        name = list(VIEWS)[PLANES.index(plane)]
        frame = self._newest.get(name)
        if frame is None:
            return View(None, float("inf"), False, f"no frame of {plane} yet")
        age_s = now_s - frame.received_s
        live = age_s <= 2 * FRAME_PERIOD_S
        changing = name not in self.frozen
        return View(frame if live and changing else None, age_s, changing, "" if live else f"{plane} is old")

    def move(self, geometries: list[dict[str, Any]], frame_rate_hz: float, pixels: int, expose: bool) -> int:
        self.exposing = expose
        return 1

    def answer(self, order: int) -> CArmAnswer:
        return self.accepts


@dataclass
class Theatre:
    """Devices, clocks, journal and one case with a trocar in the left ala of the sacrum of blocks."""

    folder: Path
    tracker: FakeTracker = field(default_factory=FakeTracker)
    pump: FakePump = field(default_factory=FakePump)

    def __post_init__(self) -> None:
        self.fluoroscope = FakeFluoroscope(self.pump)
        self.equipment = Equipment(self.tracker, self.fluoroscope, self.pump)  # type: ignore[arg-type]
        self.time = ManualClock(100.0)
        self.procedure_time = ScaledClock(self.time)
        self.clocks = Clocks(self.time, self.procedure_time)
        self.journal = Journal(self.folder / "journal.jsonl")
        self.live = Fluoroscopy(dict(VIEWS))
        anatomy = block_anatomy()
        ct = Volume(np.zeros(anatomy.bones.voxels.shape, np.int16), anatomy.bones.IJKToRAS)
        self.trajectory = Trajectory(
            side="left",
            technique="short-axis",
            entry_skin=CENTER + np.array([0.0, -60.0, 0.0]),
            entry_bone=CENTER + np.array([0.0, -20.0, 0.0]),
            target=CENTER,
            needle=needle(11),
            length_mm=60.0,
            clearance_mm={"sacral_canal": 12.0},
            accepted=True,
            reasons=(),
            depots=(Depot(CENTER, 2.0),),
        )
        self.case = Case(ct, anatomy, Plan((self.trajectory,), "0" * 64), {"left": self.trajectory})
        self.case.trocars["left"] = PlacedTrocar(CENTER, self.trajectory.entry_skin, 0.0, 0.0, 1.0)

    def tick(self, seconds: float = TICK_S) -> None:
        """Let time pass and the devices speak."""
        self.time.advance(seconds)
        self.equipment.poll(self.time.now())

    def play(self, run: Generator[Any, Any, Any], seconds: float, act: Any = None) -> Any:
        """Drive a generator for so long; `act(prompt, seconds passed)` gives its requests.

        Returns:
            What the generator returned.

        Raises:
            TimeoutError: when it does not end in time.
        """
        request, begun_s = None, self.time.now()
        while self.time.now() - begun_s < seconds:
            try:
                prompt = run.send(request)
            except StopIteration as ended:
                return ended.value
            request = act(prompt, self.time.now() - begun_s) if act else None
            self.tick()
        raise TimeoutError(f"still at it after {seconds} s: {prompt.text}")
