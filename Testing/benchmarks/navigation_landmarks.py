"""Registration by the landmarks that are found in the CT of synthetic patients, touched where they truly are.

The landmarks of the CT are off themselves: the top of a rounded spine is nowhere in particular. A stylus touches the
true ones to 0.5 mm (root mean square over three axes). Each landmark is stated to be off by that and by its uncertainty
in the CT together; beside it, what comes of stating 0.5 mm alone. The error is that in the middle of both alae.

Run: python Testing/benchmarks/navigation_landmarks.py [PATIENTS] [--draws N] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from navigation_surface import REFERENCE, patients

from sacroplasty.anatomy.landmarks import touchable
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import FloatArray, invert_rigid, transform_points
from sacroplasty.navigation.registration import register_landmarks
from sacroplasty.phantom.make import Phantom

TOUCH_MM, LIMIT_MM = 0.5, 2.0


def true_landmarks(phantom: Phantom) -> dict[str, FloatArray]:
    edges = {f"{name}_lateral_edge": foramen.lateral_edge_ras for name, foramen in phantom.foramina.items()}
    return phantom.landmarks | edges


class Tally:
    """Errors and predictions, squared [mm2], of one way to state the error of a landmark."""

    def __init__(self) -> None:
        self.true: list[float] = []
        self.predicted: list[float] = []
        self.above_limit = self.refused = 0

    def add(
        self, touched: FloatArray, fixed: FloatArray, names: list[str], fle_mm: object, targets: FloatArray
    ) -> None:
        try:
            found = register_landmarks(touched, fixed, names, fle_mm=fle_mm)
        except CalibrationError:
            self.refused += 1
            return
        moved = transform_points(found.MovingToFixed @ invert_rigid(REFERENCE), targets)
        predicted = [found.predicted_tre_mm(target) for target in targets]
        self.above_limit += max(predicted) > LIMIT_MM
        self.true += np.sum(np.square(moved - targets), axis=1).tolist()
        self.predicted += np.square(predicted).tolist()

    def row(self) -> str:
        true, predicted = np.array(self.true), np.array(self.predicted)
        return (
            f"true rms {np.sqrt(true.mean()):.2f}, 95 % {np.sqrt(np.percentile(true, 95)):.2f} mm; predicted over true "
            f"{np.sqrt(predicted.mean() / true.mean()):.2f}; predicted above {LIMIT_MM:g} mm {self.above_limit} of "
            f"{len(true) // 2}, refused for their residuals {self.refused}"
        )


def try_patient(phantom: Phantom, anatomy: Anatomy, draws: int, tallies: dict[str, Tally]) -> None:
    true = true_landmarks(phantom)
    names = [name for name in touchable(anatomy.landmarks) if name in true]
    fixed = np.array([anatomy.landmarks[name].position_ras for name in names])
    uncertainties = np.array([anatomy.landmarks[name].uncertainty_mm for name in names])
    places = np.array([true[name] for name in names])
    targets = np.array(
        [phantom.regions.ras_of(np.argwhere(phantom.regions.voxels == label)).mean(axis=0) for label in (31, 32)]
    )
    for draw in range(draws):
        rng = np.random.default_rng([phantom.parameters.seed, 12, draw])
        missed = places + rng.normal(0, TOUCH_MM / np.sqrt(3), places.shape)
        touched = transform_points(invert_rigid(REFERENCE), missed)
        tallies["touch and CT"].add(touched, fixed, names, np.hypot(TOUCH_MM, uncertainties), targets)
        tallies["touch alone"].add(touched, fixed, names, TOUCH_MM, targets)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=int, nargs="?", default=40)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--cache", type=Path, help="folder of patients that were made before")
    asked = parser.parse_args()
    tallies = {"touch and CT": Tally(), "touch alone": Tally()}
    for _, phantom, anatomy in patients(range(1, asked.patients + 1), asked.cache):
        try_patient(phantom, anatomy, asked.draws, tallies)
    print(f"landmarks found in the CT, {asked.patients} patients (seeds 1-{asked.patients}), {asked.draws} draws each")
    for name, tally in tallies.items():
        print(f"  stated error from {name}: {tally.row()}")


if __name__ == "__main__":
    main()
