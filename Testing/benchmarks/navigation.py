"""Errors of tool calibration and patient registration over many simulated runs with a known truth.

Tool: a stylus of 180 mm circles about its resting tip, 300 poses with 0.1 mm and 0.02 degrees of noise, every tenth
pose wild. Poor motion: the same tilted by 6 degrees only, or standing still. Patient: eight landmarks, about where they
lie on the sample patient, each touched with an error of 0.5 mm (root mean square over three axes); the error is looked
at where the tips of two trocars would be. Run: python Testing/benchmarks/navigation.py [RUNS]
"""

from __future__ import annotations

import sys

import numpy as np

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.navigation.pivot import calibrate_pivot
from sacroplasty.navigation.registration import register_landmarks

TIP, PIVOT = np.array([3.0, -1.5, 180.0]), np.array([40.0, 25.0, -60.0])
NOISE_MM, NOISE_DEG, WILD_SHARE, WILD_MM = 0.1, 0.02, 0.1, 20.0
LOCALIZATION_MM = 0.5
#: Left, posterior and superior of the S1 endplate's centre, mm.
LANDMARKS = {
    "psis_left": (47, 48, -45),
    "psis_right": (-49, 48, -46),
    "median_crest_s1": (-1, 52, -17),
    "median_crest_s2": (-1, 48, -46),
    "median_crest_s3": (-1, 36, -69),
    "median_crest_s4": (5, 19, -85),
    "foramen_s2_left_lateral_edge": (24, 34, -49),
    "foramen_s2_right_lateral_edge": (-25, 32, -49),
}
TARGETS = {"left": np.array([42.0, 0.0, -19.0]), "right": np.array([-40.0, 2.0, -14.0])}


def pivoting(rng: np.random.Generator, tilt_deg: float, roll_deg: float, wild_share: float) -> np.ndarray:
    """StylusToReference (300, 4, 4) of a tool that circles about its resting tip."""
    poses = []
    for number in range(300):
        turn = 2 * np.pi * number / 100
        tilt = tilt_deg * (0.6 + 0.4 * np.sin(number / 37))
        rotation = rotation_about([np.cos(turn), np.sin(turn), 0], tilt)
        rotation = rotation @ rotation_about([0, 0, 1], roll_deg * np.sin(turn))
        rotation = rotation_about(rng.normal(size=3), rng.normal() * NOISE_DEG) @ rotation
        poses.append(rigid(rotation, PIVOT - rotation @ TIP + rng.normal(size=3) * NOISE_MM))
    wild = rng.choice(len(poses), round(wild_share * len(poses)), replace=False)
    result = np.array(poses)
    result[wild, :3, 3] += rng.normal(size=(len(wild), 3)) * WILD_MM
    return result


def tool_table(runs: int) -> None:
    errors, stated, refused = [], [], {"tilted by 6 deg": 0, "standing still": 0}
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        found = calibrate_pivot(pivoting(rng, 35.0, 20.0, WILD_SHARE))
        errors.append(np.linalg.norm(found.tip_in_tool_mm - TIP))
        stated.append(found.tip_uncertainty_mm)
        for name, tilt_deg in (("tilted by 6 deg", 6.0), ("standing still", 0.0)):
            try:
                calibrate_pivot(pivoting(rng, tilt_deg, 0.0, 0.0))
            except CalibrationError:
                refused[name] += 1
    print(f"tool tip, {runs} runs (seeds 0-{runs - 1}), mm")
    print(f"  error: mean {np.mean(errors):.3f}, 95 % {np.percentile(errors, 95):.3f}, worst {max(errors):.3f}")
    print(f"  root mean square {np.sqrt(np.mean(np.square(errors))):.3f}, stated uncertainty {np.mean(stated):.3f}")
    for name, count in refused.items():
        print(f"  {name}: refused {count} of {runs}")


def patient_table(runs: int) -> None:
    names, fixed = tuple(LANDMARKS), np.array(list(LANDMARKS.values()), float)
    motion = rigid(rotation_about([1, -2, 0.5], 70), [120, -300, 800])
    squares: dict[str, list[float]] = {side: [] for side in TARGETS}
    predicted: dict[str, list[float]] = {side: [] for side in TARGETS}
    residuals, lost = [], 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=fixed.shape) * LOCALIZATION_MM / np.sqrt(3)
        try:
            found = register_landmarks(transform_points(invert_rigid(motion), fixed + noise), fixed, names)
        except CalibrationError:
            lost += 1
            continue
        residuals.append(found.rms_mm)
        for side, target in TARGETS.items():
            moved = transform_points(found.MovingToFixed, transform_points(invert_rigid(motion), target))
            squares[side].append(float(np.sum((moved - target) ** 2)))
            predicted[side].append(found.predicted_tre_mm(target))
    print(f"patient, {runs} registrations with {len(names)} landmarks (seeds 0-{runs - 1}), mm; refused {lost}")
    print(f"  residuals, root mean square: {np.sqrt(np.mean(np.square(residuals))):.2f}")
    for side in TARGETS:
        true, stated = np.sqrt(np.mean(squares[side])), np.sqrt(np.mean(np.square(predicted[side])))
        tail = np.sqrt(np.percentile(squares[side], 95))
        print(f"  {side} target: true error {true:.2f} (95 % {tail:.2f}), predicted {stated:.2f}")


def main() -> None:
    """Print both tables."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    tool_table(runs)
    patient_table(5 * runs)


if __name__ == "__main__":
    main()
