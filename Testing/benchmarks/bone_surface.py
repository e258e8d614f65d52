"""How far the bone surface for registration lies from the exact one of synthetic patients, where it is swept.

The labels are those that the built-in method finds, the exact ones, and the exact ones of the sacrum made one voxel too
small and too large. Positive is outside of the bone.

Run: python Testing/benchmarks/bone_surface.py [PATIENTS] [--first SEED] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from anatomy_on_phantoms import spoiled
from navigation_surface import patients
from numpy.typing import NDArray
from true_bones import TrueBones

from sacroplasty.anatomy.model import Anatomy
from sacroplasty.navigation.bone_surface import surface_of_anatomy
from sacroplasty.phantom.make import Phantom

LABELS = ("as found", "exact", "eroded", "dilated")
POINTS = 2000
#: Points farther off lie on other surfaces, in joints and holes [mm].
FAR_MM = 4.0


def offsets_mm(phantom: Phantom, anatomy: Anatomy, truth: TrueBones) -> NDArray:
    """Signed distances of points that a stylus reaches from the true sacrum."""
    surface = surface_of_anatomy(anatomy, phantom.ct, ("sacrum",))
    behind = np.flatnonzero(surface.normals_ras @ truth.posterior_ras > 0.3)
    some = np.random.default_rng([phantom.parameters.seed, 13]).permutation(behind)[:POINTS]
    points = surface.points_ras[some]
    off = truth.sacrum(points[truth.reachable(points)])
    return off[np.abs(off) < FAR_MM]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=int, nargs="?", default=8)
    parser.add_argument("--first", type=int, default=21, help="seed of the first patient")
    parser.add_argument("--cache", type=Path, help="folder of patients that were made before")
    asked = parser.parse_args()
    means: dict[str, list[float]] = {name: [] for name in LABELS}
    spreads: dict[str, list[float]] = {name: [] for name in LABELS}
    for seed, phantom, anatomy in patients(range(asked.first, asked.first + asked.patients), asked.cache):
        truth, cells = TrueBones(phantom), []
        for name in LABELS:
            bones = phantom.bones if name == "exact" else anatomy.bones
            if name in ("eroded", "dilated"):
                bones = spoiled(phantom.bones, name, phantom)
            off = offsets_mm(phantom, replace(anatomy, bones=bones), truth)
            means[name].append(float(off.mean()))
            spreads[name].append(float(off.std()))
            cells.append(f"{name} {off.mean():+.2f} ± {off.std():.2f}")
        voxel = " x ".join(f"{size:.1f}" for size in phantom.ct.spacing_mm)
        print(f"  seed {seed}, {voxel} mm: {', '.join(cells)} mm", flush=True)
    for name in LABELS:
        print(
            f"{name}: mean offset {np.mean(means[name]):+.2f} (by patient {min(means[name]):+.2f} to "
            f"{max(means[name]):+.2f}), scatter {np.mean(spreads[name]):.2f} mm"
        )


if __name__ == "__main__":
    main()
