"""Surface registration on a made-up bone whose surface is known by formula, and the sweeps that it must refuse."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.anatomy.model import Anatomy
from sacroplasty.errors import CalibrationError, PoorRegistrationError
from sacroplasty.geometry import FloatArray, invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.navigation.bone_surface import BoneSurface, surface_of_anatomy, surface_of_polydata
from sacroplasty.navigation.surface_registration import LandmarkPairs, register_surface
from simple_sacrum import SimpleSacrum, back

MOTION = rigid(rotation_about([1, -2, 0.5], 70), [120, -300, 800])
TARGETS = np.array([[-40.0, 45.0, -20.0], [40.0, 45.0, -20.0]])


def height(x: FloatArray, z: FloatArray) -> FloatArray:
    """A back with a crest in the middle, two spines and some waves [mm]."""
    crest = 9 * np.exp(-((x / 6) ** 2)) * (1 + 0.4 * np.cos(z / 5))
    spines = 14 * np.exp(-(((np.abs(x) - 45) / 10) ** 2) - ((z + 10) / 14) ** 2)
    return -(crest + spines + 1.5 * np.sin(x / 7 + z / 11) - (x / 14) ** 2 / 2)


def surface_points(x: FloatArray, z: FloatArray) -> FloatArray:
    return np.stack([x, height(x, z), z], axis=-1)


def bone() -> BoneSurface:
    x, z = (grid.ravel() for grid in np.meshgrid(np.arange(-70, 70, 0.7), np.arange(-70, 50, 0.7)))
    e = 1e-4
    slopes = (height(x + e, z) - height(x - e, z)) / (2 * e), (height(x, z + e) - height(x, z - e)) / (2 * e)
    normals = np.stack([slopes[0], -np.ones_like(x), slopes[1]], axis=1)
    return BoneSurface(surface_points(x, z), normals / np.linalg.norm(normals, axis=1, keepdims=True), 0.15)


BONE = bone()


def swept(
    rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float], count: int = 100
) -> FloatArray:
    """Touched points (in the reference's frame) of a rectangle x, z, with 0.2 mm of noise along each axis."""
    x, z = rng.uniform(low, high, (count, 2)).T
    return transform_points(invert_rigid(MOTION), surface_points(x, z) + rng.normal(0, 0.2, (count, 3)))


def guess(rng: np.random.Generator, mm: float = 10, deg: float = 10) -> FloatArray:
    direction = rng.normal(size=3)
    turn = rotation_about(rng.normal(size=3), deg)
    return rigid(turn, mm * direction / np.linalg.norm(direction)) @ MOTION


def errors_mm(ReferenceToRAS: FloatArray) -> FloatArray:
    moved = transform_points(ReferenceToRAS @ invert_rigid(MOTION), TARGETS)
    return np.linalg.norm(moved - TARGETS, axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_sweep_registers_from_a_poor_guess(seed: int) -> None:
    rng = np.random.default_rng(seed)
    touched = swept(rng, (-55, -60), (55, 30))
    # One point in ten is soft tissue.
    outside = rng.choice(100, 10, replace=False)
    touched[outside] += transform_points(invert_rigid(MOTION), [[0.0, -5, 0]]) - invert_rigid(MOTION)[:3, 3]
    found = register_surface(touched, BONE, guess(rng), TARGETS, touch_error_mm=0.35)
    assert errors_mm(found.MovingToFixed).max() < 0.5
    assert not found.used[outside].any()
    assert found.used.sum() >= 80
    assert found.rms_mm == pytest.approx(0.2, rel=0.3)
    assert found.starts_agreeing > 0.3
    assert found.warnings == ()


def test_many_points_off_the_bone_are_left_out_with_a_word() -> None:
    rng = np.random.default_rng(7)
    touched = swept(rng, (-55, -60), (55, 30))
    touched[:25] += invert_rigid(MOTION)[:3, :3] @ [0.0, -6, 0]
    found = register_surface(touched, BONE, guess(rng), TARGETS, touch_error_mm=0.35)
    assert errors_mm(found.MovingToFixed).max() < 0.6
    assert any("25% of the swept points lie off the bone" in warning for warning in found.warnings)


def test_the_predicted_error_is_the_spread_of_many_registrations() -> None:
    true, predicted = [], []
    exact = BoneSurface(BONE.points_ras, BONE.normals_ras, 1e-3)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        touched = swept(rng, (-55, -60), (55, 30))
        found = register_surface(touched, exact, guess(rng, 3, 3), TARGETS, touch_error_mm=0.35)
        true.append(np.square(errors_mm(found.MovingToFixed)).mean())
        predicted.append(np.square(found.uncertainty.rms_mm(TARGETS)).mean())
    assert np.sqrt(np.mean(true)) == pytest.approx(np.sqrt(np.mean(predicted)), rel=0.4)


def test_a_flat_or_small_patch_is_refused_with_the_motion_that_it_leaves_open() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(PoorRegistrationError, match=r"leave the patient open .* sweep other parts as well"):
        register_surface(swept(rng, (15, -60), (30, -45)), BONE, guess(rng), TARGETS, touch_error_mm=0.35)
    plane = BoneSurface(BONE.points_ras * [1, 0, 1], np.tile([0.0, -1, 0], (len(BONE.points_ras), 1)), 0.15)
    flat = transform_points(invert_rigid(MOTION), rng.uniform(-50, 40, (100, 3)) * [1, 0, 1])
    with pytest.raises(CalibrationError, match=r"leave .* open"):
        register_surface(flat, plane, guess(rng), TARGETS)


def test_a_bone_that_looks_the_same_in_two_places_is_refused() -> None:
    """Corrugated along z: a step to the next ridge fits as well."""
    x, z = (grid.ravel() for grid in np.meshgrid(np.arange(-60, 60, 0.7), np.arange(-70, 70, 0.7)))

    def ridges(x: FloatArray, z: FloatArray) -> FloatArray:
        return np.stack([x, 3 * np.cos(2 * np.pi * z / 12) + (x / 10) ** 2, z], axis=-1)

    slope_x, slope_z = x / 50, -3 * 2 * np.pi / 12 * np.sin(2 * np.pi * z / 12)
    normals = np.stack([slope_x, -np.ones_like(x), slope_z], axis=1)
    comb = BoneSurface(ridges(x, z), normals / np.linalg.norm(normals, axis=1, keepdims=True), 0.15)
    rng = np.random.default_rng(2)
    at = rng.uniform((-50, -40), (50, 40), (120, 2)).T
    touched = transform_points(invert_rigid(MOTION), ridges(*at) + rng.normal(0, 0.2, (120, 3)))
    with pytest.raises(PoorRegistrationError, match=r"in two ways that differ by 1\d\.\d mm"):
        register_surface(touched, comb, guess(rng, 1, 1), TARGETS, touch_error_mm=0.35)


def test_landmarks_close_what_the_surface_leaves_open() -> None:
    rng = np.random.default_rng(3)
    patch = swept(rng, (10, -40), (35, 0))
    with pytest.raises(PoorRegistrationError):
        register_surface(patch, BONE, guess(rng, 3, 3), TARGETS, touch_error_mm=0.35)
    at = np.array([[-45.0, -10], [45, -10], [0, 20], [0, -55]]).T
    fixed = surface_points(*at)
    moving = transform_points(invert_rigid(MOTION), fixed + rng.normal(0, 0.2, fixed.shape))
    pairs = LandmarkPairs(moving, fixed, np.full(4, 0.35))
    found = register_surface(patch, BONE, guess(rng, 3, 3), TARGETS, landmarks=pairs, touch_error_mm=0.35)
    assert errors_mm(found.MovingToFixed).max() < 0.8


def test_what_cannot_be_registered_is_refused_in_words() -> None:
    rng = np.random.default_rng(4)
    wide = swept(rng, (-55, -60), (55, 30))
    with pytest.raises(CalibrationError, match="too few"):
        register_surface(wide[:10], BONE, MOTION, TARGETS)
    with pytest.raises(CalibrationError, match="look like metres"):
        register_surface(wide / 1000, BONE, MOTION, TARGETS)
    with pytest.raises(CalibrationError, match="more than a pelvis"):
        register_surface(wide * 10, BONE, MOTION, TARGETS)
    with pytest.raises(CalibrationError, match="sweep a larger part"):
        register_surface(wide / 20, BONE, MOTION, TARGETS)
    broken = wide.copy()
    broken[7, 1] = np.nan
    with pytest.raises(CalibrationError, match="swept point 7 is no number"):
        register_surface(broken, BONE, MOTION, TARGETS)
    with pytest.raises(PoorRegistrationError, match="do not fit the bone"):
        register_surface(rng.uniform(-40, 40, (30, 3)), BONE, np.eye(4), TARGETS)


def test_the_surface_of_a_segmented_bone_lies_within_a_fraction_of_a_voxel(
    simple: SimpleSacrum, simple_anatomy: Anatomy
) -> None:
    found = surface_of_anatomy(simple_anatomy, simple.ct)
    local = transform_points(invert_rigid(simple.SacrumToRAS), found.points_ras)
    normals = found.normals_ras @ simple.SacrumToRAS[:3, :3]
    behind = (normals[:, 1] > 0.95) & (np.abs(local[:, 0] - 35) < 6) & (np.abs(local[:, 2] + 40) < 20)
    assert behind.sum() > 50
    off = local[behind, 1] - back(local[behind, 2])
    assert np.abs(np.median(off)) < 0.2 * simple.ct.spacing_mm[0]


def test_a_model_of_3d_slicer_is_a_surface_too() -> None:
    from vtkmodules.vtkCommonDataModel import vtkPolyData
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    source = vtkSphereSource()
    source.SetRadius(40)
    source.SetThetaResolution(40)
    source.SetPhiResolution(40)
    source.Update()
    found = surface_of_polydata(source.GetOutput(), 0.3)
    outward = found.points_ras / np.linalg.norm(found.points_ras, axis=1, keepdims=True)
    assert np.einsum("ni,ni->n", outward, found.normals_ras).min() > 0.99
    with pytest.raises(CalibrationError, match="no faces"):
        surface_of_polydata(vtkPolyData(), 0.3)
