"""The built-in way from a CT to its bones, against synthetic patients and shapes whose truth is known."""

import numpy as np
import pytest
from scipy.special import ndtr

from sacroplasty.anatomy.atlas import segment_bones
from sacroplasty.anatomy.atlas.deform import Lattice
from sacroplasty.anatomy.atlas.delineate import voxelize
from sacroplasty.anatomy.atlas.profiles import Edges, find_edges, line_offsets
from sacroplasty.anatomy.atlas.template import SOLID_SACRUM, average_pelvis, vertex_normals
from sacroplasty.anatomy.labels import BONE_LABEL
from sacroplasty.errors import AnatomyError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.image import Volume, crop
from sacroplasty.phantom import make_phantom

SACRUM = BONE_LABEL["sacrum"]


@pytest.fixture(scope="module")
def patient():
    """A patient with osteoporotic alae and a fracture beside the left joint, on voxels of 2 mm."""
    return make_phantom(61, spacing_mm=(2.0, 2.0, 2.0), ala_hu=-50.0, noise_hu=20.0, fracture="left")


@pytest.fixture(scope="module")
def found(patient):
    return segment_bones(patient.ct)


def dice(found, true):
    return 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))


def test_sacrum_l5_and_hips_are_found_in_a_ct_alone(patient, found):
    for name, least in (("sacrum", 0.95), ("l5", 0.92), ("hip_left", 0.9), ("hip_right", 0.9)):
        label = BONE_LABEL[name]
        assert dice(found.bones.voxels == label, patient.bones.voxels == label) > least, name
        assert found.confidence[name] > 0.8
    # The wings hold darker bone than muscle is; all the same they belong to the sacrum.
    ala = patient.regions.voxels == 31
    assert (found.bones.voxels[ala] == SACRUM).mean() > 0.98


def test_the_sacrum_does_not_leak_into_the_hips(patient, found):
    hips = np.isin(patient.bones.voxels, [BONE_LABEL["hip_left"], BONE_LABEL["hip_right"]])
    assert np.count_nonzero((found.bones.voxels == SACRUM) & hips) * found.bones.voxel_volume_ml < 1.0  # of some 220 mL


def test_an_oblique_scan_shows_the_same_bones(patient):
    turn = rigid(rotation_about((0.3, 1, 0.2), 12.0), (30, -20, 500))
    turned = segment_bones(Volume(patient.ct.voxels, turn @ patient.ct.IJKToRAS))
    assert dice(turned.bones.voxels == SACRUM, patient.bones.voxels == SACRUM) > 0.95


def test_half_a_sacrum_is_drawn_as_far_as_it_is_in_view(patient):
    columns = np.nonzero((patient.bones.voxels == SACRUM).any(axis=(0, 1)))[0]
    box = (slice(None), slice(None), slice(0, int(np.median(columns))))
    found = segment_bones(crop(patient.ct, box))
    assert dice(found.bones.voxels == SACRUM, patient.bones.voxels[box] == SACRUM) > 0.94
    assert any("cut off" in warning for warning in found.warnings)
    assert len({"hip_left", "hip_right"} & set(found.confidence)) == 1


def test_a_ct_without_a_sacrum_is_refused(patient):
    below = int(np.argwhere(patient.bones.voxels == SACRUM)[:, 0].min())
    voxels = patient.ct.voxels.copy()
    voxels[np.isin(patient.bones.voxels, [SACRUM, BONE_LABEL["l5"]])] = 40
    voxels[below:, :, : voxels.shape[2] // 2] = 40
    with pytest.raises(AnatomyError, match="no sacrum was found"):
        segment_bones(patient.ct.like(voxels))


def test_cancel_ends_the_work(patient):
    class Canceled(Exception):
        pass

    def progress(fraction):
        if fraction > 0.3:
            raise Canceled

    with pytest.raises(Canceled):
        segment_bones(patient.ct, progress)


def sheet(thickness_mm, face_mm, blur_mm, cortex_hu=700.0, soft_hu=40.0):
    """Brightness along a line across a sheet of cortex whose outer face lies at `face_mm`, as a scanner blurs it."""
    at = line_offsets(4.0)
    share = ndtr((at - face_mm + thickness_mm) / blur_mm) - ndtr((at - face_mm) / blur_mm)
    return (soft_hu + (cortex_hu - soft_hu) * share)[None].astype(np.float32)


@pytest.mark.parametrize("thickness_mm", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("face_mm", [-2.0, 0.3, 1.6])
def test_the_outer_face_of_cortex_is_found_however_thin_it_is(thickness_mm, face_mm):
    lines = sheet(thickness_mm, face_mm, blur_mm=0.7)
    no = np.zeros(1, bool)
    edges = find_edges(lines, line_offsets(4.0), 4.0, 700.0, no, no)
    assert edges.offset_mm[0] == pytest.approx(face_mm, abs=0.35)
    assert edges.weight[0] > 0.4


def test_before_a_joint_the_surface_is_on_this_side_of_the_gap():
    """Cortex of the sacrum to 0, a gap of 2 mm, cortex of the hip to 3.5 mm, its marrow behind."""
    at = line_offsets(5.0)
    bone = np.select([at < -1.5, at < 0, at < 2, at < 3.5], [20.0, 700.0, 40.0, 700.0], 20.0)
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    across = find_edges(bone[None].astype(np.float32), at, 5.0, 700.0, yes, no)
    assert across.offset_mm[0] == pytest.approx(0.0, abs=0.8)


def test_a_line_without_an_edge_says_nothing():
    flat = np.full((1, len(line_offsets(4.0))), 60, np.float32)
    no = np.zeros(1, bool)
    assert find_edges(flat, line_offsets(4.0), 4.0, 700.0, no, no).weight[0] == 0


def test_a_lattice_follows_a_smooth_bend():
    rng = np.random.default_rng(1)
    points = rng.uniform(-60, 60, (4000, 3))
    normals = rng.standard_normal((4000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    bend = np.column_stack([4 * np.sin(points[:, 1] / 40), 3 * np.cos(points[:, 2] / 50), points[:, 0] / 30])
    edges = Edges(np.einsum("ij,ij->i", bend, normals), np.ones(4000))
    lattice = Lattice(points, 20.0)
    moved = np.zeros((lattice.size, 3))
    for _ in range(4):
        rest = Edges(edges.offset_mm - np.einsum("ij,ij->i", lattice.weights @ moved, normals), edges.weight)
        moved = lattice.solve(moved, np.arange(4000), normals, rest, 0.05)
    assert np.linalg.norm(lattice.weights @ moved - bend, axis=1).mean() < 0.35


def test_surfaces_of_the_average_pelvis_are_closed_and_look_outwards():
    template = average_pelvis()
    volumes = {}
    for label in (*BONE_LABEL.values(), SOLID_SACRUM):
        triangles = template.triangles_of(label)
        sides = np.sort(np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), axis=1)
        # Thinning out the triangles left one slit of two sides at most.
        assert np.count_nonzero(np.unique(sides, axis=0, return_counts=True)[1] == 1) <= 2
        a, b, c = (template.points_mm[triangles[:, corner]] for corner in range(3))
        volumes[label] = np.einsum("ij,ij->", a, np.cross(b, c)) / 6000
    assert 150 < volumes[SACRUM] < volumes[SOLID_SACRUM] < 320  # mL


def test_a_voxelized_ball_has_its_volume_and_its_place():
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    source = vtk.vtkSphereSource()
    source.SetRadius(20)
    source.SetThetaResolution(60)
    source.SetPhiResolution(60)
    source.Update()
    points = vtk_to_numpy(source.GetOutput().GetPoints().GetData()) + np.array([5.0, -3.0, 8.0])
    triangles = vtk_to_numpy(source.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3)
    IJKToRAS = rigid(rotation_about((0, 0, 1), 25.0), (-40, -40, -30)) @ np.diag([1.0, 1.0, 1.5, 1.0])
    IJKToRAS[:3, 3] = [5, -3, 8] - IJKToRAS[:3, :3] @ [44.3, 45.1, 20.2]
    grid = Volume(np.zeros((42, 90, 90), np.uint8), IJKToRAS)
    ball = voxelize(grid, points, triangles)
    assert np.count_nonzero(ball) * grid.voxel_volume_ml == pytest.approx(4 / 3 * np.pi * 8, rel=0.02)
    assert grid.ras_of(np.argwhere(ball)).mean(axis=0) == pytest.approx([5, -3, 8], abs=0.1)
    normals = vertex_normals(points, triangles)
    assert np.einsum("ij,ij->i", normals, points - [5, -3, 8]).min() > 0
