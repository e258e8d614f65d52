"""Pseudo-CTs and their disturbances: the labels must stay the truth about the picture."""

import numpy as np
import pytest
from ct_disturbances import DISTURBANCES
from pelvis_labels import HIP_LEFT, HIP_RIGHT, L5, SACRUM, PelvisLabels, signed_distance, voxelize
from pseudo_ct import Look, PseudoCT, paint

from sacroplasty.image import Volume


@pytest.fixture(scope="module")
def pelvis() -> PelvisLabels:
    """Boxes: a sacrum between two hips that touch it, and an L5 8 mm above."""
    labels = np.zeros((110, 110, 170), np.uint8)
    labels[20:70, 50:80, 45:125] = SACRUM
    labels[15:75, 40:90, 125:140] = HIP_LEFT
    labels[15:75, 40:90, 30:45] = HIP_RIGHT
    labels[78:104, 50:78, 65:105] = L5
    IJKToRAS = np.diag([-1.0, -1.0, 1.0, 1.0])
    IJKToRAS[:3, 3] = (85, 60, -45)
    return PelvisLabels("boxes", Volume(labels, IJKToRAS), (1, 2, 3, 4), np.ones(labels.shape, bool))


@pytest.fixture(scope="module")
def look() -> Look:
    return Look(ala_hu=-50, body_hu=120, joint_mm=2.0, bridged=0.0, noise_hu=8, texture_hu=30, vessel_hu=45)


@pytest.fixture(scope="module")
def made(pelvis: PelvisLabels, look: Look) -> PseudoCT:
    return paint(pelvis, look, seed=5, spacing_mm=(1.0, 1.0, 1.0))


def test_the_distance_to_a_plane_counts_from_between_the_voxels() -> None:
    mask = np.zeros((5, 5, 20), bool)
    mask[:, :, :10] = True
    assert signed_distance(mask)[2, 2, 8:12] == pytest.approx([-1.5, -0.5, 0.5, 1.5])


def test_a_ball_with_a_hole_in_its_surface_is_filled_all_the_same() -> None:
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    source = vtk.vtkSphereSource()
    source.SetRadius(15)
    source.SetThetaResolution(60)
    source.SetPhiResolution(60)
    source.Update()
    points = vtk_to_numpy(source.GetOutput().GetPoints().GetData()).astype(float)
    triangles = vtk_to_numpy(source.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3)
    centers = points[triangles].mean(axis=1)
    holed = triangles[np.linalg.norm(centers - (9, 9, 8), axis=1) > 3]
    assert len(holed) < len(triangles)
    mask = voxelize(points, holed, np.full(3, -20.0), (41, 41, 41))
    assert np.count_nonzero(mask) == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.01)
    assert np.argwhere(mask).mean(axis=0) == pytest.approx([20, 20, 20], abs=0.2)


def test_the_same_seed_gives_the_same_ct_and_another_seed_another(pelvis: PelvisLabels, look: Look) -> None:
    first, same, other = (paint(pelvis, look, seed, (3.0, 3.0, 3.0)).ct.voxels for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).mean() > 0.5


def test_marrow_of_the_wings_is_as_thin_as_asked_for_and_that_of_the_body_dense(made: PseudoCT) -> None:
    marrow = made.ct.voxels[45:60, 60:70]
    wings, body = (marrow[..., columns].mean() for columns in (np.r_[116:120, 50:54], np.r_[78:92]))
    assert wings == pytest.approx(-50, abs=45)
    assert body > wings + 90


def test_cortex_stands_out_at_the_front_of_the_bone(made: PseudoCT) -> None:
    profile = made.ct.voxels[35:55, 40:70, 75:95].mean(axis=(0, 2))
    assert profile[8:14].max() > 250
    assert profile[8:14].max() > profile[20:28].mean() + 150


def test_a_dark_gap_parts_bones_that_touch_in_the_labels(made: PseudoCT) -> None:
    profile = made.ct.voxels[30:60, 58:72, 118:134].mean(axis=(0, 1))
    gap = profile[5:9].min()
    assert profile[:6].max() > gap + 80
    assert profile[8:].max() > gap + 80


def test_thick_slices_lie_where_the_labels_lie(pelvis: PelvisLabels, look: Look) -> None:
    thick = paint(pelvis, look, seed=5, spacing_mm=(1.0, 1.0, 3.0))
    center = [v.ras_of(np.argwhere(v.voxels == SACRUM)).mean(axis=0) for v in (thick.bones, pelvis.labels)]
    assert center[0] == pytest.approx(center[1], abs=1.0)
    assert thick.ct.same_grid(thick.bones)


@pytest.mark.parametrize("name", ["prone", "axes swapped", "crop: right ala", "crop: no L5"])
def test_storing_or_cropping_leaves_every_point_of_the_patient_where_it_was(name: str, made: PseudoCT) -> None:
    ct, bones = DISTURBANCES[name].apply(made.ct, made.bones, 3)
    rng = np.random.default_rng(0)
    indices = rng.integers(0, ct.voxels.shape, (200, 3))
    before = np.round(made.ct.kji_of(ct.ras_of(indices))).astype(int)
    assert (ct.voxels[tuple(indices.T)] == made.ct.voxels[tuple(before.T)]).all()
    assert (bones.voxels[tuple(indices.T)] == made.bones.voxels[tuple(before.T)]).all()


def test_half_a_sacrum_is_the_left_half(made: PseudoCT) -> None:
    _, bones = DISTURBANCES["crop: half a sacrum"].apply(made.ct, made.bones, 3)
    assert np.count_nonzero(bones.voxels == SACRUM) == pytest.approx(
        np.count_nonzero(made.bones.voxels == SACRUM) / 2, rel=0.05
    )
    assert (bones.voxels == HIP_LEFT).any()
    assert not (bones.voxels == HIP_RIGHT).any()


@pytest.mark.parametrize("name", ["oblique", "slices of 0.5 mm", "slices of 5 mm"])
def test_another_grid_keeps_the_volume_and_the_place_of_the_sacrum(name: str, made: PseudoCT) -> None:
    ct, bones = DISTURBANCES[name].apply(made.ct, made.bones, 3)
    assert ct.same_grid(bones)
    volumes = [np.count_nonzero(b.voxels == SACRUM) * b.voxel_volume_ml for b in (bones, made.bones)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.05)
    centers = [b.ras_of(np.argwhere(b.voxels == SACRUM)).mean(axis=0) for b in (bones, made.bones)]
    assert centers[0] == pytest.approx(centers[1], abs=1.0)


@pytest.mark.parametrize("name", ["iodine", "bowel gas"])
def test_what_is_put_into_soft_tissue_leaves_the_bones_alone(name: str, made: PseudoCT) -> None:
    ct, bones = DISTURBANCES[name].apply(made.ct, made.bones, 3)
    changed = ct.voxels != made.ct.voxels
    assert changed.any()
    assert not changed[bones.voxels > 0].any()


def test_the_screw_goes_through_hip_joint_and_sacrum(made: PseudoCT) -> None:
    ct, bones = DISTURBANCES["screw through the joint"].apply(made.ct, made.bones, 3)
    metal = ct.voxels == 3071
    assert {SACRUM, HIP_LEFT} <= set(np.unique(bones.voxels[metal]).tolist())


def test_cement_of_a_few_milliliters_lies_in_both_halves_of_the_sacrum(made: PseudoCT) -> None:
    ct, bones = DISTURBANCES["cement in both alae"].apply(made.ct, made.bones, 3)
    cement = np.argwhere(ct.voxels == 1800)
    assert (bones.voxels[tuple(cement.T)] == SACRUM).all()
    right = ct.ras_of(cement)[:, 0] > 0
    assert 2 < np.count_nonzero(right) * ct.voxel_volume_ml < 8
    assert 2 < np.count_nonzero(~right) * ct.voxel_volume_ml < 8


@pytest.mark.parametrize("name", ["only femurs", "thorax"])
def test_an_image_without_a_pelvis_has_no_labels(name: str, made: PseudoCT) -> None:
    ct, bones = DISTURBANCES[name].apply(made.ct, made.bones, 3)
    assert not bones.voxels.any()
    assert (ct.voxels > 300).any()
