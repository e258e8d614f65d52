"""Runs a rehearsal: simulators as processes, the procedure at its links, the simulated surgeon at its prompts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..clock import ScaledClock, WallClock
from ..devices.fluoroscope import FluoroscopeRole
from ..devices.link import Client
from ..devices.pump import PumpRole
from ..devices.tracker import TrackerRole
from ..errors import PlanError
from ..planning.model import Plan, Side, Trajectory
from ..procedure.case import Case
from ..procedure.conduct import conduct
from ..procedure.equipment import Clocks, Equipment
from ..procedure.inject import Fluoroscopy
from ..procedure.journal import Journal
from ..procedure.prepare import Preparation
from ..procedure.prompts import Prompt, Wait
from ..simulation.serve import ROLES, Service, end, read_ready, start
from ..xray.views import find_views
from .scenario import Scenario
from .surgeon import SimulatedSurgeon

#: The procedure's loop runs this often; a real one hangs on a timer of 5 ms.
_TICK_S = 0.005

#: The outlet shows the foramina apart from the alae, which neither AP nor lateral does.
_LIVE_VIEWS = ("outlet", "lateral")
_FINAL_VIEWS = ("ap", "lateral")


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal leaves for the report."""

    case: Case
    live: Fluoroscopy
    final: Fluoroscopy
    duration_s: float


def choose_targets(plan: Plan, scenario: Scenario) -> dict[Side, Trajectory]:
    """The best accepted trajectory of each side of the scenario.

    Raises:
        PlanError: with the planner's reasons when a side has none.
    """
    targets: dict[Side, Trajectory] = {}
    for side in scenario.sides:
        of_side = [trajectory for trajectory in plan.trajectories if trajectory.side == side]
        best = next((trajectory for trajectory in of_side if trajectory.accepted), None)
        if best is None:
            why = "; ".join(of_side[0].reasons) if of_side else "nothing was found"
            raise PlanError(f"no acceptable trajectory on the {side}: {why}")
        volume_ml = scenario.volume_ml or best.planned_volume_ml
        targets[side] = best.with_volume(volume_ml)
    return targets


def rehearse(
    case: Case,
    landmarks: list[str],
    preparation: Preparation,
    world: Path,
    scenario: Scenario,
    journal: Journal,
    seed: int,
    speed: float,
    first_port: int,
    show: Callable[[Prompt], None],
) -> Rehearsal:
    """Run the procedure to its end.

    Args:
        world: the world document for the simulators.
        speed: how many times faster than life cement flows and ages. Devices stay fresh in real time.
        first_port: of three in a row on 127.0.0.1; 0 takes free ones.
        show: called with each new prompt.

    Raises:
        SacroplastyError: when a simulator cannot start.
    """
    wall = WallClock()
    procedure_clock = ScaledClock(wall, speed)
    clocks = Clocks(device=wall, procedure=procedure_clock)
    found = find_views(case.anatomy, case.targets)
    live, final = (Fluoroscopy({view: found[view].geometry for view in views}) for views in (_LIVE_VIEWS, _FINAL_VIEWS))
    begun_s = clocks.procedure.now()
    with _simulators(world, scenario, seed, speed, first_port) as ports, _clients(ports) as clients:
        equipment = Equipment(
            TrackerRole(clients["tracker"]),
            FluoroscopeRole(clients["carm"]),
            PumpRole(clients["pump"], session=f"rehearsal-{uuid.uuid4().hex[:12]}"),
        )
        surgeon = SimulatedSurgeon(clients["hand"], np.random.default_rng([seed, 2]))
        procedure = conduct(case, landmarks, preparation, live, final, equipment, clocks, journal)
        request = None
        try:
            while True:
                now_s = wall.now()
                equipment.poll(now_s)
                surgeon.poll(now_s)
                try:
                    prompt = procedure.send(request)
                except StopIteration:
                    break
                show(prompt)
                if isinstance(prompt.task, Wait):
                    # Where people would only wait, the rehearsal does not.
                    procedure_clock.skip(max(0.0, prompt.task.until_s - procedure_clock.now()))
                request = surgeon.act(prompt, now_s)
                time.sleep(_TICK_S)
        finally:
            procedure.close()
    return Rehearsal(case, live, final, clocks.procedure.now() - begun_s)


@contextmanager
def _simulators(world: Path, scenario: Scenario, seed: int, speed: float, first_port: int) -> Iterator[dict[str, int]]:
    """Ports of the simulators by role, for as long as they run."""
    children: list[Any] = []
    try:
        for number, role in enumerate(ROLES):
            port = first_port + number if first_port else 0
            service = Service(role, port, str(world), None, speed, seed, scenario.faults.get(role, ()), True)
            children.append(start(service))
        yield {record["role"]: int(record["port"]) for record in map(read_ready, children)}
    finally:
        end(children)


@contextmanager
def _clients(ports: dict[str, int]) -> Iterator[dict[str, Client]]:
    """A link to each simulator, and a second one to the tracker's for the hands."""
    clients = {role: Client(port=port) for role, port in ports.items()} | {"hand": Client(port=ports["tracker"])}
    try:
        yield clients
    finally:
        for client in clients.values():
            client.close()
