"""A world around a patient: the CT, the bones, where cement may go, and where tracker, tools and marker stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.model import Anatomy
from ..cement.zones import cancellous_bone
from ..geometry import FloatArray, rigid, rotation_about, unit
from ..image import Volume, write_volume
from ..planning.model import Side
from .world import write_world

#: The C-arm's pose is known this well: one standard deviation per axis.
_GEOMETRY_ERROR_MM = 0.4
_GEOMETRY_ERROR_DEG = 0.15
#: How well a landmark is touched (root mean square over three axes), and jitter of the tracker per axis.
_LOCALIZATION_MM = 0.7
_TRACKER_NOISE_MM = 0.1
#: How far cement may get from a target in the world [mm].
_REACH_MM = 35.0


def write_patient_world(
    folder: Path,
    ct: Volume,
    anatomy: Anatomy | None,
    targets: Mapping[Side, FloatArray],
    landmarks: Iterable[str],
    seed: int,
    leak: dict[str, Any] | None = None,
) -> Path:
    """Write the world document of a patient, and its volumes, into `folder`.

    The patient is the CT itself; where cement can flow is the segmented sacrum within its cortex.

    Args:
        anatomy: None when nothing was segmented: then cement can flow everywhere, and there is nothing to touch.
        targets: tips in RAS by side, around which cement may flow.
        landmarks: names of those that the hand can touch; the reference marker stands near the first.
    """
    rng = np.random.default_rng([seed, 1])
    write_volume(ct, folder / "ct.nrrd")
    permeable = {}
    points: dict[str, FloatArray] = {}
    if anatomy is not None:
        write_volume(anatomy.regions, folder / "regions.nrrd")
        points = {name: anatomy.landmarks[name].position_ras for name in landmarks}
        for side, target in targets.items():
            bone = cancellous_bone(anatomy, target, _REACH_MM)
            permeable[side] = f"permeable_{side}.nrrd"
            write_volume(bone.like(bone.voxels.astype(np.uint8)), folder / permeable[side])
    content: dict[str, Any] = {
        "ct": "ct.nrrd",
        **({"regions": "regions.nrrd"} if anatomy is not None else {}),
        "permeable": permeable,
        "TrackerToRAS": rigid(_any_rotation(rng), rng.uniform(-1000, 1000, 3)),
        "ReferenceToTracker": np.eye(4),
        "tools": {
            "Stylus": {"TipToTool": rigid(np.eye(3), [*rng.normal(0, 0.5, 2), 160.0])},
            "Trocar": {"TipToTool": rigid(np.eye(3), [*rng.normal(0, 0.5, 2), 170.0])},
        },
        "landmarks": points,
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
    near = next(iter(points.values()), ct.ras_of((np.array(ct.voxels.shape) - 1) / 2))
    marker_ras = near + np.array([0.0, -60.0, 40.0])
    content["ReferenceToTracker"] = np.linalg.inv(content["TrackerToRAS"]) @ rigid(_any_rotation(rng), marker_ras)
    if leak is not None:
        content["leak"] = leak
    world = folder / "world.json"
    write_world(world, content)
    return world


def _any_rotation(rng: np.random.Generator) -> FloatArray:
    return rotation_about(unit(rng.normal(size=3)), float(rng.uniform(0, 180)))
