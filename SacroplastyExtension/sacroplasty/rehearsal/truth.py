"""The world of a rehearsal: where everything truly is, and afterwards what truly happened."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cement.zones import cancellous_bone
from ..geometry import FloatArray, rigid, rotation_about, unit
from ..image import write_volume
from ..planning.model import Side
from ..procedure.case import Case
from ..simulation.cement import CementTruth, read_truth
from ..simulation.live import LiveFolder, live_folder_of
from ..simulation.world import write_world
from .scenario import Scenario

#: The C-arm's pose is known this well: one standard deviation per axis.
_GEOMETRY_ERROR_MM = 0.4
_GEOMETRY_ERROR_DEG = 0.15
#: How well a landmark is touched (root mean square over three axes), and jitter of the tracker per axis.
_LOCALIZATION_MM = 0.7
_TRACKER_NOISE_MM = 0.1
#: How far cement may get from a target in the world [mm].
_REACH_MM = 35.0


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
    """Write the world document of a rehearsal and its volumes into `folder`.

    The patient is the CT itself; where cement can flow is the segmented sacrum within its cortex.
    """
    rng = np.random.default_rng([seed, 1])
    write_volume(case.ct, folder / "ct.nrrd")
    write_volume(case.anatomy.regions, folder / "regions.nrrd")
    permeable = {}
    for side, trajectory in case.targets.items():
        bone = cancellous_bone(case.anatomy, trajectory.target, _REACH_MM)
        permeable[side] = f"permeable_{side}.nrrd"
        write_volume(bone.like(bone.voxels.astype(np.uint8)), folder / permeable[side])
    content: dict[str, Any] = {
        "ct": "ct.nrrd",
        "regions": "regions.nrrd",
        "permeable": permeable,
        "TrackerToRAS": rigid(_any_rotation(rng), rng.uniform(-1000, 1000, 3)),
        "ReferenceToTracker": np.eye(4),
        "tools": {
            "Stylus": {"TipToTool": rigid(np.eye(3), [*rng.normal(0, 0.5, 2), 160.0])},
            "Trocar": {"TipToTool": rigid(np.eye(3), [*rng.normal(0, 0.5, 2), 170.0])},
        },
        "landmarks": {name: case.anatomy.landmarks[name].position_ras for name in landmarks},
        "tracker": {"noise_mm": _TRACKER_NOISE_MM, "localization_mm": _LOCALIZATION_MM},
        "carm": {
            "geometry_error": rigid(
                rotation_about(rng.normal(size=3), abs(rng.normal(0, _GEOMETRY_ERROR_DEG))),
                rng.normal(0, _GEOMETRY_ERROR_MM, 3),
            ),
        },
        "seed": seed,
    }
    # The reference marker stands on the iliac crest, near what is treated.
    marker_ras = case.anatomy.landmarks[landmarks[0]].position_ras + np.array([0.0, -60.0, 40.0])
    content["ReferenceToTracker"] = np.linalg.inv(content["TrackerToRAS"]) @ rigid(_any_rotation(rng), marker_ras)
    if scenario.leak is not None:
        content["leak"] = asdict(scenario.leak)
    world = folder / "world.json"
    write_world(world, content)
    return world


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


def _any_rotation(rng: np.random.Generator) -> FloatArray:
    return rotation_about(unit(rng.normal(size=3)), float(rng.uniform(0, 180)))
