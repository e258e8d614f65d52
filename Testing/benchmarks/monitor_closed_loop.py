"""Whole injections with and without the spread monitor: how often does cement leave the bone?

Each procedure is one ala of another synthetic patient. Whether it leaks is decided by the bone alone
(`simulation.exits`): weak spots, cracks and veins at random places, through which the front runs if it gets there. The
real injection session, state machine, interlock, pump role and firmware run in virtual time; the simulated line
stretches and gives cement after a stop. Steps of 1 mL and pauses of 20 s. The same procedure is done twice: with the
monitor on two views of `monitor_scenes`, and with one that always says that all is well. A simulated person arms,
starts, and decides to go on whenever asked.

Every frame of 7.5 a second is made while cement leaves the bone or the monitor warns; else every fourth while cement
flows and every tenth while it rests, which saves three quarters of the time. So false stops may be somewhat rarer here
than with all frames; `--all-frames` makes them all.

Run: python Testing/benchmarks/monitor_closed_loop.py --patients 100 --json FILE [--first SEED] [--jobs N]
    [--pixels N] [--all-frames]
Procedures that FILE has already are not done again. Tables from what it holds: --report FILE
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from monitor_scenes import FRAME_S, VIEWS, Fluoroscope, Scene, learn_views, make_scene

from injection_room import VirtualLine
from sacroplasty.cement.injection import Prescription
from sacroplasty.cement.interlock import Limits, Observed
from sacroplasty.cement.line import cannula_line
from sacroplasty.cement.monitor import MonitorReading, SpreadEvent
from sacroplasty.cement.zones import make_zones
from sacroplasty.devices.pump import PumpRole
from sacroplasty.errors import ImageError, PlanError
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.procedure.injection_session import InjectionSession, Surroundings, Wish
from sacroplasty.procedure.journal import Journal
from sacroplasty.procedure.pump_delivery import PumpDelivery
from sacroplasty.simulation.exits import ExitModel, LeakyBone, draw_leaky_bone
from sacroplasty.simulation.pump import PumpMachine
from sacroplasty.simulation.world import PumpModel, demonstration_world
from sacroplasty.xray.project import CEMENT_PER_MM

SIDES = ("left", "right")
LEAK_ML = (0.1, 0.05)
#: One turn of the loop for each frame, so that a stop is late by up to a frame.
TICK_S = FRAME_S
#: While cement flows and while it rests one of so many frames is made, unless there is something to see.
FLOWING_EVERY, RESTING_EVERY = 4, 10
#: Levels of the monitor with which every frame is made.
GRAVE = ("warning", "leak", "blind")
#: Something was to see so long ago at most [s].
QUIET_S = 2.0
PERSON_DECIDES_S = 3.0
AFTER_FLOW_S = 20.0
LONGEST_S = 600.0
LIMITS = Limits(frame_period_s=FRAME_S)


@dataclass
class Outcome:
    """What became of one procedure.

    Attributes:
        out_ml, leaked_ml: of the tip, and of that out of the bone, when all had come to rest.
        leaked_at_end_ml: out of the bone when it was stopped or finished.
        routes: where that went, by the zones of the true anatomy.
        ended: phase of the state machine.
        reason: of the machine for a stop.
        level, route: of the monitor's event that stopped.
        decisions: how often a person was asked.
        frames: pairs of frames that were made.
        missing: whether the monitor ever warned that cement is missing.
    """

    seed: int
    side: str
    watched: bool
    planned_ml: float
    out_ml: float
    leaked_ml: float
    leaked_at_end_ml: float
    routes: dict[str, float]
    ended: str
    reason: str
    level: str
    route: str
    decisions: int
    seconds: float
    frames: int
    missing: bool

    @property
    def key(self) -> tuple[int, str, bool]:
        return self.seed, self.side, self.watched


class Watch:
    """The monitor and its C-arm, for the session."""

    def __init__(self, scene: Scene, bone: LeakyBone, every_frame: bool) -> None:
        self._camera, self._monitor, self._bone = Fluoroscope(scene), scene.monitor, bone
        self._every_frame = every_frame
        learn_views(scene, self._camera)
        self._reading: MonitorReading | None = None
        self._number, self._made = 0, -math.inf
        self._seen_ml, self._eventful_s = 0.0, -math.inf
        self.stop: SpreadEvent | None = None
        self.frames = 0
        self.missing = False

    def look(self, now_s: float, out_ml: float, told_ml: float, flows: bool) -> None:
        """Make a frame of both views and hand it to the monitor, if one is due."""
        self._number += 1
        leaked_ml = self._bone.leaked_ml(out_ml)
        if leaked_ml > self._seen_ml + 1e-6 or (self._reading is not None and self._reading.level in GRAVE):
            self._eventful_s = now_s
        self._seen_ml = leaked_ml
        every = FLOWING_EVERY if flows else RESTING_EVERY
        if now_s - self._eventful_s <= QUIET_S or self._every_frame:
            every = 1
        if self._number - self._made < every:
            return
        self._made = self._number
        self.frames += 1
        cement = self._bone.filling.at(out_ml)
        attenuation = cement.like(cement.voxels * np.float32(CEMENT_PER_MM))
        self._reading = self._monitor.update(self._camera.frames(attenuation, now_s), now_s, told_ml)
        self.missing |= "missing" in self._reading.warnings
        if self.stop is None:
            self.stop = next((event for event in self._reading.events if event.stop), None)

    def surroundings(self, now_s: float) -> Surroundings:
        """What the session is told; between two frames that are made nothing has changed."""
        reading = self._reading
        if reading is None:
            return _surroundings(now_s, healthy=False, leak=False, concentricity=math.nan, warning="")
        warning = "the monitor sees cement outside the planned ala" if reading.level == "warning" else ""
        return _surroundings(now_s, reading.healthy, reading.leak, reading.concentricity, warning)


def _surroundings(now_s: float, healthy: bool, leak: bool | None, concentricity: float, warning: str) -> Surroundings:
    return Surroundings(
        frames_changing={view: Observed(True, now_s) for view in VIEWS},
        monitor_healthy=Observed(healthy, now_s),
        leak=None if leak is None else Observed(leak, now_s),
        registration_error_mm=Observed(1.0, now_s),
        concentricity=Observed(concentricity, now_s),
        warning=warning,
    )


class Procedure:
    """One injection in virtual time.

    Args:
        watch: None for nobody who looks.
    """

    def __init__(self, scene: Scene, bone: LeakyBone, watch: Watch | None, folder: Path) -> None:
        self._scene, self._bone, self._watch = scene, bone, watch
        rng = np.random.default_rng([scene.seed, 11, scene.side == "left"])
        self._planned_ml = float(rng.uniform(3.0, 5.0))
        model = PumpModel(consistency_pa_sn=float(rng.uniform(50, 400)))
        trocar = demonstration_world(0).trocar
        self._machine = PumpMachine(model, trocar)
        self._line = VirtualLine(self._machine, rng, lambda name: False)
        self._pump = PumpRole(self._line, "closed-loop")  # type: ignore[arg-type]
        self._delivery = PumpDelivery(self._pump)
        line = replace(
            cannula_line(11, trocar.inner_diameter_mm, trocar.length_mm),
            compliance_ml_per_kpa=0.9 * model.compliance_ml_kpa,
        )
        path = folder / f"{scene.seed}-{scene.side}-{watch is not None}.jsonl"
        self._session = InjectionSession(LIMITS, lambda: Journal(path), line, 0.0, 1.7e9)
        self._session.clock = self._session.clock.mixed(-300.0).with_reading(0.0, 22.0)
        self._decisions, self._asked_s = 0, math.nan

    def play(self) -> Outcome:
        """Until it is stopped or all is given, and then until all has come to rest."""
        now_s, ended_s, at_end_ml = 0.0, math.inf, 0.0
        prescription = Prescription(
            self._scene.side,  # type: ignore[arg-type]
            self._planned_ml,
            pressure_limit_kpa=2900.0,
        )
        self._session.choose(prescription, self._delivery, now_s)
        while now_s < min(ended_s + AFTER_FLOW_S, LONGEST_S):
            now_s += TICK_S
            self._turn(now_s)
            if math.isinf(ended_s) and self._phase in ("stopped", "finished"):
                ended_s, at_end_ml = now_s, self._bone.leaked_ml(self._machine.syringe.out_ml)
        self._session.close(self._delivery, now_s)
        return self._outcome(ended_s, at_end_ml)

    @property
    def _phase(self) -> str:
        assert self._session.state is not None
        return self._session.state.phase

    def _turn(self, now_s: float) -> None:
        self._line.advance(now_s)
        self._pump.poll(now_s)
        if self._watch is None:
            around = _surroundings(now_s, healthy=True, leak=False, concentricity=1.0, warning="")
        else:
            if self._phase not in ("stopped", "finished"):
                out_ml = self._machine.syringe.out_ml
                self._watch.look(now_s, out_ml, self._session.total_ml, self._phase == "injecting")
            around = self._watch.surroundings(now_s)
        self._session.tick(around, self._delivery, self._person(now_s), now_s)
        self._pump.poll(now_s)

    def _person(self, now_s: float) -> Wish:
        assert self._session.state is not None
        if self._phase == "prepare" and self._pump.reading(now_s).ready:
            return Wish("arm")
        if self._phase == "armed":
            return Wish("start")
        asked = self._phase == "holding" and "decide" in self._session.state.reason
        if not asked:
            self._asked_s = math.nan
            return Wish()
        if math.isnan(self._asked_s):
            self._asked_s = now_s
        if now_s - self._asked_s < PERSON_DECIDES_S:
            return Wish()
        self._decisions += 1
        self._asked_s = math.nan
        return Wish("continue")

    def _outcome(self, ended_s: float, at_end_ml: float) -> Outcome:
        assert self._session.state is not None
        stop = self._watch.stop if self._watch is not None else None
        out_ml = self._machine.syringe.out_ml
        return Outcome(
            seed=self._scene.seed,
            side=self._scene.side,
            watched=self._watch is not None,
            planned_ml=self._planned_ml,
            out_ml=out_ml,
            leaked_ml=self._bone.leaked_ml(out_ml),
            leaked_at_end_ml=at_end_ml,
            routes=_routes(self._scene, self._bone, out_ml),
            ended=self._phase,
            reason=self._session.state.reason,
            level=stop.level if stop is not None else "",
            route=stop.route if stop is not None else "",
            decisions=self._decisions,
            seconds=ended_s,
            frames=self._watch.frames if self._watch is not None else 0,
            missing=self._watch is not None and self._watch.missing,
        )


def _routes(scene: Scene, bone: LeakyBone, out_ml: float) -> dict[str, float]:
    """Cement outside the bone by where it lies."""
    filling = bone.filling
    zones = make_zones(scene.anatomy, scene.tip, (scene.side,), 36.0, 1.0)
    labels = zones.labels.voxels[tuple(filling.kji.T)]
    volume = np.bincount(labels, filling.filled_ml(out_ml) * bone.outside, len(zones.names))
    return {name: float(part) for name, part in zip(zones.names, volume, strict=True) if part > 1e-3}


def patient(seed: int, pixels: int, every_frame: bool, done: set[tuple[int, str, bool]]) -> list[Outcome]:
    """Both alae of a patient, each with and without the monitor, as far as not done."""
    if {(seed, side, watched) for side in SIDES for watched in (False, True)} <= done:
        return []
    phantom: Phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
    found = []
    # Journals of simulated injections need no disk: each of their entries would wait for it.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        for side in SIDES:
            arms = [watched for watched in (False, True) if (seed, side, watched) not in done]
            if not arms:
                continue
            try:
                scene = make_scene(phantom, seed, side, pixels)
                rng = np.random.default_rng([seed, 12, side == "left"])
                bone = draw_leaky_bone(phantom.ct, scene.anatomy, scene.tip, ExitModel(), rng)
            except PlanError as error:
                print(f"seed {seed} {side}: {error}", file=sys.stderr)
                continue
            for watched in arms:
                try:
                    watch = Watch(scene, bone, every_frame) if watched else None
                except ImageError as error:
                    print(f"seed {seed} {side}: {error}", file=sys.stderr)
                    continue
                found.append(Procedure(scene, bone, watch, Path(folder)).play())
    return found


def _patient(arguments: tuple[int, int, bool, set[tuple[int, str, bool]]]) -> list[Outcome]:
    return patient(*arguments)


def read_outcomes(path: Path) -> list[Outcome]:
    if not path.exists():
        return []
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def print_tables(outcomes: Iterable[Outcome]) -> None:
    """What the procedures come to; only those that were done both with and without the monitor."""
    found: dict[tuple[int, str], dict[bool, Outcome]] = {}
    for one in outcomes:
        found.setdefault((one.seed, one.side), {})[one.watched] = one
    pairs = [both for both in found.values() if len(both) == 2]
    if not pairs:
        print("no procedure was done both with and without the monitor")
        return
    without, watched = ([both[arm] for both in pairs] for arm in (False, True))
    print(f"{len(pairs)} procedures, {len({one.seed for one in watched})} patients")
    print(f"not done with the monitor, since it refused the references: {len(found) - len(pairs)}\n")
    print("| | without | with the monitor |\n| --- | --- | --- |")
    routes = sorted({name for one in [*without, *watched] for name in one.routes})
    rows: list[tuple[str, Callable[[list[Outcome]], str]]] = [
        *((f"{limit} mL or more out of the bone", partial(_leaks, limit=limit)) for limit in LEAK_ML),
        *((f"the same, {LEAK_ML[0]} mL: {route}", partial(_leaks, limit=LEAK_ML[0], route=route)) for route in routes),
        ("out of the bone, sum (worst), mL", _leaked),
        (
            "given, share of the plan, median",
            lambda arm: f"{np.median([one.out_ml / one.planned_ml for one in arm]):.0%}",
        ),
        ("all given", lambda arm: _share(one.ended == "finished" for one in arm)),
        ("a person was asked, mean", lambda arm: f"{np.mean([one.decisions for one in arm]):.2f} times"),
    ]
    for name, value in rows:
        print(f"| {name} | {value(without)} | {value(watched)} |")
    _print_stops(watched)


def _print_stops(watched: list[Outcome]) -> None:
    """What the monitor stopped, rightly or not, and what leaked in spite of it."""
    true = [one for one in watched if one.level and one.leaked_at_end_ml > 0]
    false = [one for one in watched if one.level and one.leaked_at_end_ml == 0]
    print(f"| stopped with nothing out of the bone | | {_share(one in false for one in watched)} |")
    print(f"| stopped with something out | | {_share(one in true for one in watched)} |")
    for name, values in (
        ("out at the stop", [one.leaked_at_end_ml for one in true]),
        ("out when all rested", [one.leaked_ml for one in true]),
        ("into the leak after the stop", [one.leaked_ml - one.leaked_at_end_ml for one in true]),
    ):
        if values:
            middle, high, worst = np.percentile(values, [50, 95, 100])
            print(f"| {name}, mL: median, 95 %, worst | | {middle:.3f}, {high:.3f}, {worst:.3f} |")
    for name, some in (("without", False), ("with", True)):
        arm = [one for one in watched if (one.leaked_ml > 0) is some]
        print(
            f"| warned that cement is missing, of procedures {name} a leak | | {_share(one.missing for one in arm)} |"
        )
    others = Counter(one.reason for one in watched if one.ended != "finished" and not one.level)
    print("\nended otherwise:", dict(others) or "none")
    for one in false:
        print(f"false: {one.seed} {one.side}: {one.level} {one.route} at {one.out_ml:.2f} mL: {one.reason}")
    for one in watched:
        if one.leaked_ml >= LEAK_ML[0]:
            routes = ", ".join(f"{name} {part:.2f}" for name, part in one.routes.items())
            print(f"leaked: {one.seed} {one.side}: {one.leaked_ml:.2f} mL ({routes}); {one.level} {one.route}")


def _leaks(arm: list[Outcome], limit: float, route: str = "") -> str:
    return _share((one.routes.get(route, 0.0) if route else one.leaked_ml) >= limit for one in arm)


def _leaked(arm: list[Outcome]) -> str:
    leaked = [one.leaked_ml for one in arm]
    return f"{sum(leaked):.2f} ({max(leaked):.2f})"


def _share(hits: Iterable[bool]) -> str:
    hits = list(hits)
    return f"{sum(hits)} ({sum(hits) / max(len(hits), 1):.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--first", type=int, default=5000, help="seed of the first patient")
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--all-frames", action="store_true")
    parser.add_argument("--json", type=Path, help="one line for each procedure, added as they end")
    parser.add_argument("--report", type=Path, help="only print the tables of such a file")
    options = parser.parse_args()
    if options.report is not None:
        print_tables(read_outcomes(options.report))
        return
    outcomes = read_outcomes(options.json) if options.json else []
    done = {one.key for one in outcomes}
    seeds = range(options.first, options.first + options.patients)
    tasks = [(seed, options.pixels, options.all_frames, done) for seed in seeds]
    with Pool(options.jobs) as pool:
        for found in pool.imap_unordered(_patient, tasks):
            outcomes += found
            for one in found:
                if options.json:
                    with options.json.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(one)) + "\n")
                print(
                    f"{one.seed} {one.side:5s} {'watched' if one.watched else 'alone  '} {one.out_ml:.2f} of "
                    f"{one.planned_ml:.2f} mL, leaked {one.leaked_ml:.3f}, {one.ended} {one.level} {one.route}, "
                    f"{one.frames} frames",
                    flush=True,
                )
    print_tables([one for one in outcomes if one.seed in seeds])


if __name__ == "__main__":
    main()
