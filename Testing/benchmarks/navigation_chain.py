"""The whole simulated chain: pivoting, spinning, touching, registering, and where the trocar is shown at its target.

Every pose comes from a simulated camera that sees tool and reference, both with the noise of `simulation.tracker`:
0.1 mm along each axis and 0.1 mm / 50 mm about each. While tools are pivoted every tenth pose is wild and every
twentieth missing. Eight landmarks are touched with an error of 0.5 mm (root mean square over three axes) and with the
tremor of `simulation.hand`, held for 40 poses each. Then the trocar stands at the target of its plan. The error is the
distance of its shown tip from its true one, and the angle between shown and true shaft: shown from one pose, and from
the mean of 20 poses. Nothing of the truth goes into calibration or registration; how a hand steers is no part of it.

Run: python Testing/benchmarks/navigation_chain.py [RUNS]
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import numpy as np
from navigation_error_model import NAMES, POINTS, TARGETS
from scipy.spatial.transform import Rotation

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import (
    FloatArray,
    angle_between_deg,
    invert_rigid,
    rigid,
    rotation_about,
    rotation_between,
    unit,
)
from sacroplasty.navigation.error_model import error_budget, pose_noise
from sacroplasty.navigation.pivot import PivotCalibration, calibrate_pivot
from sacroplasty.navigation.registration import register_landmarks
from sacroplasty.navigation.tool_axis import calibrate_spin
from sacroplasty.navigation.tool_calibration import ToolCalibration, tool_calibration

NOISE_MM, NOISE_DEG, TREMOR_MM, LOCALIZATION_MM = 0.1, float(np.degrees(0.1 / 50)), 0.05, 0.5
WILD_SHARE, MISSING_SHARE, WILD_MM = 0.1, 0.05, 20.0
HELD, SMOOTHED = 40, 20
STYLUS_TIP = np.array([3.0, -1.5, 180.0])
#: The trocar's markers sit beside its shaft.
TROCAR_TIP, TROCAR_AXIS = np.array([25.0, 4.0, 150.0]), unit([0.02, -0.01, 1.0])
DIVOT = np.array([30.0, 60.0, 20.0])
RASToReference = invert_rigid(rigid(rotation_about([1, -2, 0.5], 70), [60, -80, 150]))
ReferenceToTracker = rigid(rotation_about([1, 0, 0], 170), [40, -30, 1400])
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def measured(poses: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Poses (n, 4, 4) with a camera's noise."""
    turn = Rotation.from_rotvec(rng.normal(0, np.radians(NOISE_DEG), (len(poses), 3))).as_matrix()
    noisy = poses.copy()
    noisy[:, :3, :3] = turn @ poses[:, :3, :3]
    noisy[:, :3, 3] += rng.normal(0, NOISE_MM, (len(poses), 3))
    return noisy


def seen(ToolToReference: FloatArray, rng: np.random.Generator) -> FloatArray:
    """What a camera makes of the poses (n, 4, 4) of a tool relative to the reference."""
    tool = measured(ReferenceToTracker @ ToolToReference, rng)
    reference = measured(np.repeat(ReferenceToTracker[None], len(tool), axis=0), rng)
    return np.linalg.inv(reference) @ tool


def resting_on(tip: FloatArray, place: FloatArray, turns: FloatArray) -> FloatArray:
    """ToolToReference (n, 4, 4) with the tip at a place, in these orientations (n, 3, 3)."""
    poses = np.tile(np.eye(4), (len(turns), 1, 1))
    poses[:, :3, :3] = turns
    poses[:, :3, 3] = place - turns @ tip
    return poses


def pivoted(tip: FloatArray, rng: np.random.Generator) -> PivotCalibration:
    """A rosette of tilts in all directions with some roll, 8 s at 60 Hz."""
    turn = np.linspace(0, 2 * np.pi, 480)
    tilt = np.radians(rng.uniform(25, 40)) * np.sin(3 * turn)
    axes = np.stack([np.cos(turn / 2), np.sin(turn / 2), 0 * turn], axis=1)
    roll = Rotation.from_rotvec(np.radians(20) * np.sin(5 * turn)[:, None] * [0, 0, 1])
    poses = resting_on(tip, DIVOT, (Rotation.from_rotvec(tilt[:, None] * axes) * roll).as_matrix())
    poses[:, :3, 3] += rng.normal(0, TREMOR_MM, (len(poses), 3))
    found = seen(poses, rng)
    chance = rng.random(len(poses))
    wild = chance < WILD_SHARE
    found[wild, :3, 3] += rng.normal(size=(int(wild.sum()), 3)) * WILD_MM
    found[(chance >= WILD_SHARE) & (chance < WILD_SHARE + MISSING_SHARE)] = np.nan
    return calibrate_pivot(found)


def trocar_calibration(rng: np.random.Generator) -> ToolCalibration:
    pivot = pivoted(TROCAR_TIP, rng)
    turns = Rotation.from_rotvec(np.linspace(0, 3.5, 240)[:, None] * TROCAR_AXIS).as_matrix()
    spin = calibrate_spin(seen(resting_on(TROCAR_TIP, DIVOT, turns), rng))
    return tool_calibration("Trocar", NOW, pivot, spin)


def touched(point: FloatArray, tip_found: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Where the stylus finds a point of the reference's frame that the hand misses a little."""
    missed = point + rng.normal(0, LOCALIZATION_MM / np.sqrt(3), 3)
    lean = Rotation.from_rotvec(rng.normal(0, np.radians(15), 3)).as_matrix()
    poses = resting_on(STYLUS_TIP, missed, np.repeat(lean[None], HELD, axis=0))
    poses[:, :3, 3] += rng.normal(0, TREMOR_MM, (HELD, 3))
    found = seen(poses, rng)
    return (found[:, :3, :3] @ tip_found + found[:, :3, 3]).mean(axis=0)


def one_run(rng: np.random.Generator) -> dict[str, tuple[float, float, float, float]]:
    """Error of tip [mm], of the shaft [deg], and both as predicted: from one pose and from the mean of many."""
    stylus = pivoted(STYLUS_TIP, rng)
    trocar = trocar_calibration(rng)
    points = POINTS @ RASToReference[:3, :3].T + RASToReference[:3, 3]
    found = np.array([touched(point, stylus.tip_in_tool_mm, rng) for point in points])
    registration = register_landmarks(found, POINTS, NAMES, fle_mm=LOCALIZATION_MM)
    target = TARGETS["left" if rng.random() < 0.5 else "right"]
    ahead = unit([rng.uniform(-0.3, 0.3), -1, rng.uniform(-0.4, 0.4)])
    turn = RASToReference[:3, :3] @ rotation_between(TROCAR_AXIS, ahead)
    place = RASToReference[:3, :3] @ target + RASToReference[:3, 3]
    true = resting_on(TROCAR_TIP, place, np.repeat(turn[None], SMOOTHED, axis=0))
    shown = registration.MovingToFixed @ seen(true, rng)
    tips = shown[:, :3, :3] @ trocar.tip_in_tool_mm + shown[:, :3, 3]
    shafts = shown[:, :3, :3] @ trocar.axis_in_tool
    result = {}
    for name, count in (("one pose", 1), (f"mean of {SMOOTHED} poses", SMOOTHED)):
        noise = pose_noise(NOISE_MM / np.sqrt(count), NOISE_DEG / np.sqrt(count))
        budget = error_budget(
            shown[0],
            trocar.tip_in_tool_mm,
            trocar.axis_in_tool,
            registration=registration.uncertainty,
            calibration=trocar.uncertainty,
            trocar_noise=noise,
            reference_noise=noise,
            ReferenceToRAS=registration.MovingToFixed,
            IJKToRAS=np.diag([1e-6, 1e-6, 1e-6, 1]),  # the target is given as a point: no voxel is involved
        )
        result[name] = (
            float(np.linalg.norm(tips[:count].mean(axis=0) - target)),
            angle_between_deg(shafts[:count].mean(axis=0), ahead),
            float(budget.total.rms_mm(budget.tip_ras)),
            budget.angle_rms_deg(),
        )
    return result


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    figures: dict[str, list[tuple[float, float, float, float]]] = {}
    refused = []
    for seed in range(runs):
        try:
            for name, row in one_run(np.random.default_rng(seed)).items():
                figures.setdefault(name, []).append(row)
        except CalibrationError as error:
            refused.append(str(error))
    print(f"whole chain, {runs} runs (seeds 0-{runs - 1}), refused {len(refused)}")
    for name, rows in figures.items():
        tip, angle, tip_told, angle_told = np.array(rows).T
        rms, angle_rms = np.sqrt(np.mean(tip**2)), np.sqrt(np.mean(angle**2))
        print(
            f"  {name}: tip rms {rms:.2f}, 95 % {np.percentile(tip, 95):.2f}, worst {tip.max():.2f} mm, predicted over "
            f"true {np.sqrt(np.mean(tip_told**2)) / rms:.2f}; shaft rms {angle_rms:.2f}, 95 % "
            f"{np.percentile(angle, 95):.2f}, worst {angle.max():.2f} deg, predicted over true "
            f"{np.sqrt(np.mean(angle_told**2)) / angle_rms:.2f}"
        )
    for reason in sorted(set(refused)):
        print(f"    refused: {reason}")


if __name__ == "__main__":
    main()
