"""The world of a rehearsal: where everything truly is, and afterwards what truly happened."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..geometry import FloatArray
from ..planning.model import Side
from ..procedure.case import Case
from ..simulation.cement import CementTruth, read_truth
from ..simulation.live import LiveFolder, live_folder_of
from ..simulation.patient import write_patient_world
from .scenario import Scenario


@dataclass(frozen=True)
class Truth:
    """What truly happened on one side.

    Attributes:
        tip_ras: of the cannula.
        tip_error_mm: distance of the true tip from where the procedure believed it to be.
        delivered_ml: cement that left the cannula.
        leaked_ml: of it, what went into the planted leak.
    """

    tip_ras: FloatArray
    tip_error_mm: float
    delivered_ml: float
    leaked_ml: float


def make_world(folder: Path, case: Case, landmarks: list[str], scenario: Scenario, seed: int) -> Path:
    """Write the world document of a rehearsal and its volumes into `folder`."""
    targets = {side: trajectory.target for side, trajectory in case.targets.items()}
    leak = asdict(scenario.leak) if scenario.leak is not None else None
    return write_patient_world(folder, case.ct, case.anatomy, targets, landmarks, seed, leak)


def true_outcome(world: Path, case: Case) -> dict[Side, Truth]:
    """What happened by the simulators' own account, for judging the procedure after it."""
    cannulas = LiveFolder(live_folder_of(world)).read_hand().cannulas
    cement = {one.side: one for one in read_truth(world)}
    outcome = {}
    for side, placed in case.trocars.items():
        tip = cannulas[side][:3, 3]
        flowed = cement.get(side)
        outcome[side] = Truth(
            tip_ras=tip,
            tip_error_mm=float(np.linalg.norm(tip - placed.tip_ras)),
            delivered_ml=flowed.delivered_ml if flowed else 0.0,
            leaked_ml=flowed.leaked_ml if flowed else 0.0,
        )
    return outcome


def true_cement(world: Path) -> tuple[CementTruth, ...]:
    """Where the cement truly is."""
    return read_truth(world)
