"""Registration of points swept over the true bone of synthetic patients to the bone that is found in their CT.

Each patient's CT is segmented by the built-in method; nothing of the truth goes into the registration. A stylus sweeps
the exact surface from behind, with 0.5 mm of noise along each axis; one point in twenty is off the bone, in the soft
tissue 2 to 6 mm behind it. The first guess is off by 10 mm and 10 degrees, in a random direction. The error is that
in the middle of both alae, where the tips of trocars come to lie. Poor sweeps must be refused.

With --peer, the same full sweeps from the same guesses by VTK's iterative closest points, which extensions of 3D Slicer
use for this, on the smoothed surface of the same labels.

Run: python Testing/benchmarks/navigation_surface.py [PATIENTS] [--draws N] [--peer] [--cache FOLDER]
A patient takes about half a minute to make and to segment; --cache keeps them (pickles) for the next run.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anatomy_on_phantoms import case_of
from true_bones import TrueBones

from sacroplasty.anatomy.bone_sources import BoneSource, find_bones
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import find_structures
from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import FloatArray, invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.navigation.bone_surface import BoneSurface, surface_of_anatomy
from sacroplasty.navigation.surface_registration import register_surface
from sacroplasty.phantom.make import Phantom, make_phantom

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData

NOISE_MM, OFF_BONE_SHARE, OFF_BONE_MM = 0.5, 0.05, (2.0, 6.0)
GUESS_MM, GUESS_DEG = 10.0, 10.0
#: Where the reference lies: the patient is prone before a camera.
REFERENCE = rigid(rotation_about([1, -2, 0.5], 70), [120, -300, 800])
#: Spacing of the points from which sweeps are drawn [mm], apart along all axes.
_GRAIN_MM = 1.5


@dataclass(frozen=True)
class Case:
    """One synthetic patient: the bone in the CT, and the truth."""

    surface: BoneSurface
    bones: Volume
    swept: FloatArray
    targets_ras: FloatArray
    #: Left, posterior and superior coordinates of `swept` about the S1 endplate.
    local: FloatArray
    is_sacrum: FloatArray


def patients(seeds: range, cache: Path | None) -> Iterator[tuple[int, Phantom, Anatomy]]:
    """Made and segmented, or read from an earlier run."""
    for seed in seeds:
        path = None if cache is None else cache / f"{seed:03d}.pickle"
        if path is not None and path.exists():
            phantom, anatomy = pickle.loads(path.read_bytes())
        else:
            phantom = make_phantom(seed, **case_of(seed))
            anatomy = find_structures(phantom.ct, find_bones(phantom.ct, BoneSource("atlas")))
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(pickle.dumps((phantom, anatomy)))
        yield seed, phantom, anatomy


def case(phantom: Phantom, anatomy: Anatomy) -> Case:
    from scipy import ndimage

    truth = TrueBones(phantom)
    # Candidates: voxels at the border of the true labels, moved onto the exact surface.
    bone = np.isin(phantom.bones.voxels, (1, 3, 4))
    edge = bone & ~ndimage.binary_erosion(bone)
    points = phantom.bones.ras_of(np.argwhere(edge))
    rng = np.random.default_rng([phantom.parameters.seed, 11])
    points = truth.onto_surface(points[rng.permutation(len(points))[:40000]])
    points = points[truth.reachable(points)]
    _, alone = np.unique((points / _GRAIN_MM).round().astype(int), axis=0, return_index=True)
    points = points[np.sort(alone)]
    ala = [phantom.regions.voxels == label for label in (31, 32)]
    targets = np.array([phantom.regions.ras_of(np.argwhere(mask)).mean(axis=0) for mask in ala])
    local = transform_points(invert_rigid(phantom.SacrumToRAS), points)
    surface = surface_of_anatomy(anatomy, phantom.ct)
    return Case(surface, anatomy.bones, points, targets, local, truth.sacrum(points) < 0.3)


#: Which of the reachable points are swept, and how many.
Sweep = Callable[[Case, np.random.Generator], FloatArray]


def near(case: Case, center: FloatArray, radius_mm: float) -> FloatArray:
    return np.linalg.norm(case.swept - center, axis=1) < radius_mm


def posterior_spine(case: Case, left: bool) -> FloatArray:
    """The rearmost point of one iliac bone near the sacrum."""
    side = ~case.is_sacrum & ((case.local[:, 0] > 0) == left) & (case.local[:, 2] > -75)
    return case.swept[side][np.argmax(case.local[side, 1])]


def chosen(case: Case, rng: np.random.Generator, *parts: tuple[FloatArray, int]) -> FloatArray:
    taken = [rng.choice(np.flatnonzero(mask), min(count, int(mask.sum())), replace=False) for mask, count in parts]
    return case.swept[np.concatenate(taken)]


def back(case: Case) -> FloatArray:
    """The back of the sacrum from S1 to S4, without its steep sides."""
    return case.is_sacrum & (np.abs(case.local[:, 0]) < 32) & (case.local[:, 2] > -90)


def crest(case: Case) -> FloatArray:
    """The spinous processes: what lies behind all else near the middle."""
    return case.is_sacrum & (np.abs(case.local[:, 0]) < 7) & (case.local[:, 2] > -90)


def full(case: Case, rng: np.random.Generator) -> FloatArray:
    spines = [near(case, posterior_spine(case, left), 35) & ~case.is_sacrum for left in (True, False)]
    return chosen(case, rng, (back(case), 60), (crest(case), 20), (spines[0], 30), (spines[1], 30))


def without_sacrum_sides(case: Case, rng: np.random.Generator) -> FloatArray:
    spines = [near(case, posterior_spine(case, left), 35) & ~case.is_sacrum for left in (True, False)]
    return chosen(case, rng, (crest(case), 30), (spines[0], 40), (spines[1], 40))


def sacrum_only(case: Case, rng: np.random.Generator) -> FloatArray:
    return chosen(case, rng, (back(case), 100), (crest(case), 20))


def small_patch(case: Case, rng: np.random.Generator) -> FloatArray:
    candidates = case.swept[back(case) & ~crest(case)]
    return chosen(case, rng, (near(case, candidates[rng.integers(len(candidates))], 12), 80))


def one_spine(case: Case, rng: np.random.Generator) -> FloatArray:
    return chosen(case, rng, (near(case, posterior_spine(case, True), 20) & ~case.is_sacrum, 80))


def crest_only(case: Case, rng: np.random.Generator) -> FloatArray:
    return chosen(case, rng, (crest(case) & (np.abs(case.local[:, 0]) < 3), 60))


GOOD: dict[str, Sweep] = {
    "sacrum, crest and both iliac spines": full,
    "crest and both iliac spines": without_sacrum_sides,
    "sacrum alone": sacrum_only,
}
POOR: dict[str, Sweep] = {
    "patch of 24 mm": small_patch,
    "one iliac spine": one_spine,
    "median crest alone": crest_only,
}


def off_guess(rng: np.random.Generator, center: FloatArray) -> FloatArray:
    direction, axis = rng.normal(size=(2, 3))
    turn = rotation_about(axis, GUESS_DEG)
    return rigid(turn, center + direction / np.linalg.norm(direction) * GUESS_MM - turn @ center)


@dataclass
class Outcome:
    """Errors [mm] at the worse target of what was accepted, squares at both, and why the rest was refused."""

    errors_mm: list[float] = field(default_factory=list)
    true_squares: list[float] = field(default_factory=list)
    predicted_squares: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def drawn(case: Case, sweep: Sweep, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Touched points in the reference's frame, and a first guess of ReferenceToRAS."""
    points = sweep(case, rng)
    measured = points + rng.normal(0, NOISE_MM, points.shape)
    outside = rng.random(len(points)) < OFF_BONE_SHARE
    # Soft tissue behind the bone: towards the back of the patient.
    measured[outside] += np.array([0.0, -1.0, 0.0]) * rng.uniform(*OFF_BONE_MM, (int(outside.sum()), 1))
    guess = off_guess(rng, points.mean(axis=0)) @ REFERENCE
    return transform_points(invert_rigid(REFERENCE), measured), guess


def errors_mm(case: Case, ReferenceToRAS: FloatArray) -> FloatArray:
    """Distances (2,) of the alae from where a registration puts them."""
    moved = transform_points(ReferenceToRAS @ invert_rigid(REFERENCE), case.targets_ras)
    return np.linalg.norm(moved - case.targets_ras, axis=1)


def try_sweep(case: Case, sweep: Sweep, rng: np.random.Generator, outcome: Outcome) -> None:
    touched, guess = drawn(case, sweep, rng)
    try:
        found = register_surface(touched, case.surface, guess, case.targets_ras, touch_error_mm=NOISE_MM * np.sqrt(3))
    except CalibrationError as error:
        outcome.refused.append(str(error))
        return
    errors = errors_mm(case, found.MovingToFixed)
    outcome.errors_mm.append(float(errors.max()))
    outcome.true_squares += np.square(errors).tolist()
    outcome.predicted_squares += np.square(found.uncertainty.rms_mm(case.targets_ras)).tolist()


def peer_surface(bones: Volume) -> vtkPolyData:
    """The smoothed surface of the labels in RAS, as a segmentation in 3D Slicer shows it."""
    from scipy import ndimage
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkCommonTransforms import vtkTransform
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D
    from vtkmodules.vtkFiltersGeneral import vtkTransformPolyDataFilter

    smooth = ndimage.gaussian_filter(np.isin(bones.voxels, (1, 3, 4)).astype(np.float32), 0.7)
    image = vtkImageData()
    image.SetDimensions(*smooth.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(smooth.ravel(), deep=True))
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.5)
    placed, transform = vtkTransformPolyDataFilter(), vtkTransform()
    transform.SetMatrix(bones.IJKToRAS.ravel().tolist())
    placed.SetTransform(transform)
    placed.SetInputConnection(edges.GetOutputPort())
    placed.Update()
    return placed.GetOutput()


def peer_fit(touched: FloatArray, surface: vtkPolyData, guess: FloatArray) -> FloatArray:
    """ReferenceToRAS by vtkIterativeClosestPointTransform, rigid, up to 200 iterations to 1e-4 mm."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkIterativeClosestPointTransform, vtkPolyData

    points, source = vtkPoints(), vtkPolyData()
    points.SetData(numpy_to_vtk(transform_points(guess, touched), deep=True))
    source.SetPoints(points)
    icp = vtkIterativeClosestPointTransform()
    icp.SetSource(source)
    icp.SetTarget(surface)
    icp.GetLandmarkTransform().SetModeToRigidBody()
    icp.SetMaximumNumberOfLandmarks(len(touched))
    icp.SetMaximumNumberOfIterations(200)
    icp.CheckMeanDistanceOn()
    icp.SetMaximumMeanDistance(1e-4)
    icp.Update()
    matrix = icp.GetMatrix()
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)]) @ guess


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=int, nargs="?", default=40)
    parser.add_argument("--first", type=int, default=1, help="seed of the first patient")
    parser.add_argument("--draws", type=int, default=5, help="full sweeps of each patient; 2 of every other kind")
    parser.add_argument("--peer", action="store_true", help="VTK's iterative closest points beside it")
    parser.add_argument("--cache", type=Path, help="folder of patients that were made before")
    asked = parser.parse_args()
    outcomes = {name: Outcome() for name in (*GOOD, *POOR)}
    seeds = range(asked.first, asked.first + asked.patients)
    peer = []
    for seed, phantom, anatomy in patients(seeds, asked.cache):
        one = case(phantom, anatomy)
        if asked.peer:
            surface = peer_surface(one.bones)
            for draw in range(asked.draws):
                touched, guess = drawn(one, full, np.random.default_rng([seed, 0, draw]))
                peer.append(errors_mm(one, peer_fit(touched, surface, guess)).max())
        for number, (name, sweep) in enumerate((GOOD | POOR).items()):
            for draw in range(asked.draws if sweep is full else min(asked.draws, 2)):
                try_sweep(one, sweep, np.random.default_rng([seed, number, draw]), outcomes[name])
    print(f"{len(seeds)} patients (seeds {seeds[0]}-{seeds[-1]}); error at the worse ala")
    for name, outcome in outcomes.items():
        print(f"  {name}: {_row(outcome)}")
        for reason in sorted({reason.split(" (")[0].split(" by ")[0] for reason in outcome.refused}):
            print(f"      {sum(one.startswith(reason) for one in outcome.refused)} refused: {reason}")
    if peer:
        print(
            f"  VTK on the first of these: {len(peer)} cases, {np.mean(np.array(peer) < 1):.1%} below 1 mm; rms "
            f"{np.sqrt(np.mean(np.square(peer))):.2f}, 95 % {np.percentile(peer, 95):.2f}, worst {max(peer):.2f} mm"
        )


def _row(outcome: Outcome) -> str:
    errors, count = np.array(outcome.errors_mm), len(outcome.errors_mm) + len(outcome.refused)
    text = f"{count} cases, {len(outcome.refused)} refused"
    if not len(errors):
        return text
    below = int(np.sum(errors < 1.0))
    ratio = np.sqrt(np.mean(outcome.predicted_squares) / np.mean(outcome.true_squares))
    return (
        f"{text}, {below} below 1 mm ({below / count:.1%}), {len(errors) - below} accepted and not below; "
        f"rms {np.sqrt(np.mean(errors**2)):.2f}, 95 % {np.percentile(errors, 95):.2f}, worst {errors.max():.2f} mm; "
        f"predicted over true, both alae {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
