"""Tool calibration and landmark registration over many simulated runs with a known truth.

Tool: a stylus of 180 mm circles about its resting tip, 300 poses with 0.1 mm and 0.02 degrees of noise, every tenth
pose wild by some 20 mm. Beside it, on the same poses, scikit-surgerycalibration where it is installed (its algebraic
method, and its RANSAC). Poor motion, which must be refused: tilted by 6 degrees only, standing still, turned about one
axis, a tip that slides by 15 mm, two divots in one recording.

Patient: three to twelve landmarks against the optimum by unit quaternions (Horn 1987), another way to the same answer;
residuals and leave-one-out errors likewise.

Run: python Testing/benchmarks/navigation.py [RUNS]
"""

from __future__ import annotations

import importlib.util
import io
import random
import sys
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import FloatArray, invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.navigation.pivot import calibrate_pivot
from sacroplasty.navigation.registration import register_landmarks

TIP, PIVOT = np.array([3.0, -1.5, 180.0]), np.array([40.0, 25.0, -60.0])
NOISE_MM, NOISE_DEG, WILD_SHARE, WILD_MM = 0.1, 0.02, 0.1, 20.0


def pivoting(rng: np.random.Generator, tilt_deg: float, roll_deg: float, wild_share: float) -> FloatArray:
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


def spoiled(how: str, rng: np.random.Generator) -> FloatArray:
    if how == "tilted by 6 deg":
        return pivoting(rng, 6.0, 0.0, 0.0)
    if how == "standing still":
        return pivoting(rng, 0.0, 0.0, 0.0)
    poses = pivoting(rng, 35.0, 20.0, 0.0)
    if how == "about one axis":
        for number, pose in enumerate(poses):
            turn = rotation_about([1, 0, 0], 30 * np.sin(number / 20))
            pose[:3, :3], pose[:3, 3] = turn, PIVOT - turn @ TIP + rng.normal(size=3) * NOISE_MM
    elif how == "sliding tip":
        poses[:, 0, 3] += np.linspace(0, 15, len(poses))
    else:
        poses[150:, :3, 3] += [15, 0, 0]
    return poses


POOR = ("tilted by 6 deg", "standing still", "about one axis", "sliding tip", "two divots")


def tool_table(runs: int) -> None:
    errors, stated = [], []
    refused = dict.fromkeys(POOR, 0)
    peer: dict[str, list[float]] = {"algebraic": [], "RANSAC": []}
    pivot_calibration = _peer()
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        poses = pivoting(rng, 35.0, 20.0, WILD_SHARE)
        found = calibrate_pivot(poses)
        errors.append(float(np.linalg.norm(found.tip_in_tool_mm - TIP)))
        stated.append(found.tip_uncertainty_mm)
        for name in POOR:
            try:
                calibrate_pivot(spoiled(name, rng))
            except CalibrationError:
                refused[name] += 1
        if pivot_calibration is not None:
            random.seed(seed)
            for name, options in (("algebraic", {"method": "aos"}), ("RANSAC", {"method": "ransac"})):
                with redirect_stdout(io.StringIO()):
                    tip = pivot_calibration(poses, options)[0]
                peer[name].append(float(np.linalg.norm(np.ravel(tip) - TIP)))
    print(f"tool tip, {runs} runs (seeds 0-{runs - 1}), mm")
    print(f"  error: {_spread(errors)}")
    print(f"  root mean square {np.sqrt(np.mean(np.square(errors))):.3f}, stated uncertainty {np.mean(stated):.3f}")
    for name, values in peer.items():
        if values:
            print(f"  scikit-surgerycalibration, {name}: {_spread(values)}")
    if pivot_calibration is None:
        print("  scikit-surgerycalibration is not installed: not compared")
    for name, count in refused.items():
        print(f"  {name}: refused {count} of {runs}")


def _spread(values: list[float]) -> str:
    return f"mean {np.mean(values):.3f}, 95 % {np.percentile(values, 95):.3f}, worst {max(values):.3f}"


def _peer() -> Callable[..., tuple] | None:
    """Pivot calibration of scikit-surgerycalibration, when it is installed."""
    if importlib.util.find_spec("sksurgerycalibration") is None:
        return None
    from sksurgerycalibration.algorithms.pivot import pivot_calibration

    return pivot_calibration


def horn(source: FloatArray, target: FloatArray, weights: FloatArray) -> FloatArray:
    """The optimum by unit quaternions (Horn 1987)."""
    share = weights / weights.sum()
    s = np.einsum("n,ni,nj->ij", share, source - share @ source, target - share @ target)
    skew = np.array([s[1, 2] - s[2, 1], s[2, 0] - s[0, 2], s[0, 1] - s[1, 0]])
    four = np.zeros((4, 4))
    four[0, 0], four[0, 1:], four[1:, 0] = np.trace(s), skew, skew
    four[1:, 1:] = s + s.T - np.trace(s) * np.eye(3)
    w, *v = np.linalg.eigh(four)[1][:, -1]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    return rigid(rotation, share @ target - rotation @ (share @ source))


def optimum_table(runs: int) -> None:
    """Largest differences from the optimum, its residuals and its leave-one-out errors."""
    off = dict.fromkeys(("points", "residuals", "leave-one-out"), 0.0)
    cases = 0
    for seed in range(runs):
        rng = np.random.default_rng([seed, 1])
        count = int(rng.integers(3, 13))
        fixed = rng.uniform([-60, -80, -100], [60, 20, 20], (count, 3))
        motion = rigid(rotation_about(rng.normal(size=3), rng.uniform(0, 180)), rng.uniform(-900, 900, 3))
        touched = transform_points(invert_rigid(motion), fixed + rng.normal(size=fixed.shape) * 0.5)
        errors = rng.uniform(0.4, 1.5, count)
        try:
            found = register_landmarks(touched, fixed, [str(n) for n in range(count)], fle_mm=errors)
        except CalibrationError:
            continue  # three landmarks nearly on one line
        cases += 1
        best = horn(touched, fixed, errors**-2)
        placed = transform_points(best, touched)
        off["points"] = max(off["points"], np.abs(transform_points(found.MovingToFixed, touched) - placed).max())
        expected = np.linalg.norm(placed - fixed, axis=1)
        off["residuals"] = max(off["residuals"], np.abs(found.residuals_mm - expected).max())
        for number in np.flatnonzero(np.isfinite(found.leave_one_out_mm)):
            others = np.arange(count) != number
            alone = horn(touched[others], fixed[others], errors[others] ** -2)
            miss = np.linalg.norm(transform_points(alone, touched[number]) - fixed[number])
            off["leave-one-out"] = max(off["leave-one-out"], abs(found.leave_one_out_mm[number] - miss))
    print(
        f"landmarks against the closed-form optimum, {cases} weighted registrations (seeds 0-{runs - 1}), largest, mm"
    )
    for name, value in off.items():
        print(f"  {name}: {value:.1e}")


def main() -> None:
    """Print both tables."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    tool_table(runs)
    optimum_table(runs)


if __name__ == "__main__":
    main()
