"""The headless Slicer: a real MRML scene, its files and its pictures."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from sacroplasty.errors import SacroplastyError
from sacroplasty.image import Volume, write_volume

pytest.importorskip("trame_slicer", reason="the headless Slicer (extra 'headless') is not installed")

from sacroplasty.scene import nodes
from sacroplasty.scene.files import add_image_sequence, load_file, save_node
from sacroplasty.scene.host import HeadlessHost


@pytest.fixture
def a_host() -> HeadlessHost:
    return HeadlessHost()


@pytest.fixture
def an_oblique_volume(a_small_ct: Volume) -> Volume:
    turn = np.eye(4)
    angle = np.radians(25)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Volume(a_small_ct.voxels, turn @ a_small_ct.IJKToRAS)


def test_a_volume_survives_the_scene(a_host: HeadlessHost, an_oblique_volume: Volume) -> None:
    node = nodes.add_volume(a_host.scene, an_oblique_volume, "CT")
    back = nodes.volume_of(node)
    np.testing.assert_array_equal(back.voxels, an_oblique_volume.voxels)
    np.testing.assert_allclose(back.IJKToRAS, an_oblique_volume.IJKToRAS, atol=1e-9)


def test_a_transformed_volume_is_taken_where_it_shows(a_host: HeadlessHost, a_small_ct: Volume) -> None:
    node = nodes.add_volume(a_host.scene, a_small_ct, "CT")
    shift = np.eye(4)
    shift[:3, 3] = [5, -7, 11]
    node.SetAndObserveTransformNodeID(nodes.add_transform(a_host.scene, shift, "table").GetID())
    np.testing.assert_allclose(nodes.volume_of(node).IJKToRAS[:3, 3], a_small_ct.IJKToRAS[:3, 3] + [5, -7, 11])


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.nii.gz"])
def test_volume_files_load_where_they_were(
    a_host: HeadlessHost, an_oblique_volume: Volume, tmp_path: Path, name: str
) -> None:
    write_volume(an_oblique_volume, tmp_path / name)
    back = nodes.volume_of(load_file(a_host.scene, tmp_path / name))
    np.testing.assert_array_equal(back.voxels, an_oblique_volume.voxels)
    np.testing.assert_allclose(back.IJKToRAS, an_oblique_volume.IJKToRAS, atol=1e-4)


def test_segments_come_back_from_a_file_voxel_by_voxel(
    a_host: HeadlessHost, an_oblique_volume: Volume, tmp_path: Path
) -> None:
    bone = an_oblique_volume.voxels > 300
    node = nodes.add_segmentation(a_host.scene, {"sacrum": bone, "empty": bone & False}, an_oblique_volume, "Anatomy")
    assert nodes.segment_names(node) == ["sacrum"]
    save_node(node, tmp_path / "anatomy.seg.nrrd")
    loaded = load_file(a_host.scene, tmp_path / "anatomy.seg.nrrd")
    np.testing.assert_array_equal(nodes.mask_of(loaded, "sacrum", an_oblique_volume), bone)


def test_a_segment_is_replaced_and_not_doubled(a_host: HeadlessHost, a_small_ct: Volume) -> None:
    bone = a_small_ct.voxels > 300
    node = nodes.add_segmentation(a_host.scene, {"sacrum": bone}, a_small_ct, "Anatomy")
    smaller = bone.copy()
    smaller[:12] = False
    nodes.set_segment(node, "sacrum", smaller, a_small_ct)
    assert nodes.segment_names(node) == ["sacrum"]
    np.testing.assert_array_equal(nodes.mask_of(node, "sacrum", a_small_ct), smaller)


def test_markups_and_transforms_load_from_their_files(a_host: HeadlessHost, tmp_path: Path) -> None:
    line = nodes.add_line(a_host.scene, [1, 2, 3], [4, 5, 60], "plan")
    assert line.GetLocked()
    save_node(line, tmp_path / "plan.mrk.json")
    start, end = nodes.line_points(load_file(a_host.scene, tmp_path / "plan.mrk.json"))
    np.testing.assert_allclose([start, end], [[1, 2, 3], [4, 5, 60]])

    matrix = np.eye(4)
    matrix[:3, 3] = [1, -2, 3]
    save_node(nodes.add_transform(a_host.scene, matrix, "StylusToReference"), tmp_path / "pose.h5")
    np.testing.assert_allclose(nodes.matrix_of(load_file(a_host.scene, tmp_path / "pose.h5")), matrix, atol=1e-6)


def test_a_case_survives_mrb(a_host: HeadlessHost, a_small_ct: Volume, tmp_path: Path) -> None:
    nodes.add_volume(a_host.scene, a_small_ct, "CT")
    nodes.add_segmentation(a_host.scene, {"sacrum": a_small_ct.voxels > 300}, a_small_ct, "Anatomy")
    nodes.add_line(a_host.scene, [1, 2, 3], [4, 5, 60], "plan left")
    nodes.add_text(a_host.scene, '{"volume_ml": 4.0, "note": "µ"}', "plan.json")
    frames = [Volume(np.full((1, 8, 9), number, np.uint16), np.eye(4)) for number in range(3)]
    add_image_sequence(a_host.scene, frames, [0.0, 0.2, 0.4], "Fluoroscopy")
    a_host.save(tmp_path / "case.mrb")

    with zipfile.ZipFile(tmp_path / "case.mrb") as archive:
        names = archive.namelist()
    assert sum(name.endswith(".mrml") for name in names) == 1, "3D Slicer expects exactly one scene in an .mrb"

    again = HeadlessHost()
    again.load(tmp_path / "case.mrb")
    ct = nodes.first_node(again.scene, "vtkMRMLScalarVolumeNode", "CT")
    np.testing.assert_array_equal(nodes.volume_of(ct).voxels, a_small_ct.voxels)
    segmentation = nodes.first_node(again.scene, "vtkMRMLSegmentationNode", "Anatomy")
    np.testing.assert_array_equal(nodes.mask_of(segmentation, "sacrum", a_small_ct), a_small_ct.voxels > 300)
    assert nodes.text_of(again.scene, "plan.json") == '{"volume_ml": 4.0, "note": "µ"}'
    sequence = nodes.first_node(again.scene, "vtkMRMLSequenceNode", "Fluoroscopy")
    assert sequence.GetNumberOfDataNodes() == 3
    assert nodes.volume_of(sequence.GetNthDataNode(2)).voxels.max() == 2


@pytest.mark.parametrize(
    ("name", "content"), [("case.mrb", b"PK\x03\x04 cut short"), ("case.mrb", b""), ("plan.mrk.json", b"{}")]
)
def test_damaged_files_are_refused_in_words(a_host: HeadlessHost, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    before = a_host.scene.GetNumberOfNodes()
    with pytest.raises(SacroplastyError, match=name):
        if name.endswith(".mrb"):
            a_host.load(path)
        else:
            load_file(a_host.scene, path)
    assert a_host.scene.GetNumberOfNodes() == before


def test_pictures_show_the_bone_from_the_side_asked_for(
    a_host: HeadlessHost, a_small_ct: Volume, tmp_path: Path
) -> None:
    from vtk import vtkPNGReader
    from vtk.util.numpy_support import vtk_to_numpy

    from sacroplasty.scene.pictures import Photographer

    def pixels(path: Path) -> np.ndarray:
        reader = vtkPNGReader()
        reader.SetFileName(str(path))
        reader.Update()
        image = reader.GetOutput()
        columns, rows, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1).astype(int)

    ct = nodes.add_volume(a_host.scene, a_small_ct, "CT")
    bone = a_small_ct.voxels > 300
    segmentation = nodes.add_segmentation(a_host.scene, {"sacrum": bone}, a_small_ct, "Anatomy")
    segmentation.CreateClosedSurfaceRepresentation()
    middle = a_small_ct.ras_of(np.argwhere(bone)).mean(axis=0)
    photographer = Photographer(a_host, size=(300, 200))

    photographer.three_d(tmp_path / "front.png", middle, [0, 1, 0], [0, 0, 1], height_mm=120)
    front = pixels(tmp_path / "front.png")
    red, blue = front[..., 0], front[..., 2]
    bone_pixels = np.argwhere(red - blue > 30)
    height, width = np.ptp(bone_pixels, axis=0) + 1
    # 36 mm wide and 24 mm high of 120 mm in 200 rows.
    assert width / height == pytest.approx(36 / 24, rel=0.15)
    assert height == pytest.approx(200 * 24 / 120, rel=0.15)

    photographer.slice(tmp_path / "axial.png", ct, "Axial", middle, width_mm=120)
    axial = pixels(tmp_path / "axial.png").mean(axis=-1)
    assert axial[100, 150] > 150, "the middle of the picture is bone"
    assert axial[5, 5] < 20, "the corner is air"
