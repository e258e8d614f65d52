"""X-rays in the scene, simulated and real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import vtk

from sacroplasty.errors import GeometryError, PlanError
from sacroplasty.geometry import angle_between_deg
from sacroplasty.scene import anatomy, fluoroscopy, nodes, planning
from sacroplasty.scene.fluoroscopy import FluoroscopyDesk, Pose
from sacroplasty.xray.geometry import CArm, write_geometry
from scene.simple_case import make_anatomy, make_ct, make_plan


@pytest.fixture
def case(scene):
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    return ct_node, anatomy.show_anatomy(scene, make_anatomy(ct), ct_node)


@pytest.fixture
def desk(scene):
    return FluoroscopyDesk(scene)


def pose(scene, case, primary=0.0, secondary=0.0, shift=(0.0, 0.0, 0.0)):
    return fluoroscopy.geometry_of_pose(scene, case[0], Pose(primary, secondary, shift))


def slice_views(scene, *names):
    for class_name in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
        for name in names:
            node = scene.CreateNodeByClass(class_name)
            node.UnRegister(None)
            node.SetSingletonTag(name)
            node.SetLayoutName(name)
            scene.AddNode(node)


def test_bone_is_darker_than_soft_tissue_at_its_own_place(scene, case, desk):
    view = desk.simulate(case[0], pose(scene, case), 128)
    picture = nodes.volume_of(view.image).voxels[0]
    u, v = np.round(view.geometry.project([0.0, -15.0, -10.0])).astype(int)
    beside_u, beside_v = np.round(view.geometry.project([60.0, -15.0, -10.0])).astype(int)
    assert int(picture[v, u]) + 10 < int(picture[beside_v, beside_u])


def test_each_structure_is_outlined_where_it_projects_in_its_own_color(scene, case, desk):
    view = desk.simulate(case[0], pose(scene, case), 256, case[1])
    labels = nodes.volume_of(view.structures).voxels[0]
    colors = view.structures.GetDisplayNode().GetColorNode()
    names = {number: colors.GetColorName(number) for number in np.unique(labels) if number}
    assert set(names.values()) == {"sacral_canal", "foramen_s1_left", "foramen_s1_right", "ala_left", "ala_right"}
    number = next(number for number, name in names.items() if name == "foramen_s1_left")
    v, u = np.argwhere(labels == number).mean(axis=0)
    assert np.allclose([u, v], view.geometry.project([-20.0, -15.0, 10.0]), atol=2)


def test_families_are_switched_on_and_off(scene, case, desk):
    planning.show_plan(scene, make_plan(make_ct()))
    geometry = pose(scene, case)
    for families, shown in (
        (["foramina"], {"foramen_s1_left", "foramen_s1_right"}),
        (["trajectories"], {"trajectory_left"}),
        (["canal", "joints"], {"sacral_canal"}),
    ):
        view = desk.simulate(case[0], geometry, 128, case[1], families)
        colors = view.structures.GetDisplayNode().GetColorNode()
        labels = np.unique(nodes.volume_of(view.structures).voxels)
        assert {colors.GetColorName(int(number)) for number in labels if number} == shown
    assert desk.simulate(case[0], geometry, 128, case[1], []).structures is None
    assert scene.GetFirstNodeByName(fluoroscopy.STRUCTURES_NAME) is None
    with pytest.raises(GeometryError, match="nerves"):
        desk.simulate(case[0], geometry, 128, case[1], ["nerves"])


def test_the_plan_lies_on_the_line_between_its_projected_ends(scene, case, desk):
    planning.show_plan(scene, make_plan(make_ct()))
    view = desk.simulate(case[0], pose(scene, case, 40.0, -20.0), 256, None, ["trajectories"])
    marked = np.argwhere(nodes.volume_of(view.structures).voxels[0] > 0)[:, ::-1]
    planned = planning.plan_of(scene).trajectories[0]
    start, end = view.geometry.project([planned.entry_skin, planned.target])
    along = (end - start) / np.linalg.norm(end - start)
    beside = np.abs((marked - start) @ [-along[1], along[0]])
    assert len(marked) > 20 and beside.max() < 5, "half the shaft, magnified, and the line's width"


def test_cement_that_was_measured_is_drawn(scene, case, desk):
    ball = np.linalg.norm(np.indices(make_ct().voxels.shape) - np.array([[[[25]]], [[[35]]], [[[55]]]]), axis=0) < 4
    nodes.add_segmentation(scene, {"cement_1": ball}, make_ct(), "Cement")
    view = desk.simulate(case[0], pose(scene, case), 256, case[1], ["cement"])
    v, u = np.argwhere(nodes.volume_of(view.structures).voxels[0] > 0).mean(axis=0)
    assert np.allclose([u, v], view.geometry.project(make_ct().ras_of([25, 35, 55])), atol=1.5)


def test_a_second_view_replaces_the_first(scene, case, desk):
    for angles in ((0, 0), (90, 0)):
        view = desk.simulate(case[0], pose(scene, case, *angles), 64, case[1])
    assert scene.GetNodesByName(fluoroscopy.IMAGE_NAME).GetNumberOfItems() == 1
    assert scene.GetNodesByName(fluoroscopy.STRUCTURES_NAME).GetNumberOfItems() == 1
    assert nodes.volume_of(view.image).voxels.shape == (1, 64, 64)
    assert np.allclose(fluoroscopy.geometry_of(view.image).RASToDetector, view.geometry.RASToDetector)


def test_sliders_and_views_speak_of_the_same_pose(scene, case, desk):
    for name, view in desk.views(*case).items():
        again = fluoroscopy.geometry_of_pose(scene, case[0], fluoroscopy.pose_of_view(scene, case[0], view))
        assert np.allclose(again.RASToDetector, view.geometry.RASToDetector, atol=1e-6), name
        assert fluoroscopy.score(view, again).off_deg == pytest.approx(view.off_deg, abs=1e-6)


def test_views_are_found_once_and_come_back_with_the_scene(scene, case, desk, monkeypatch):
    planning.show_plan(scene, make_plan(make_ct()))
    found = desk.views(*case)
    assert {"ap", "outlet", "lateral", "barrel-left", "perpendicular-left"} <= set(found)
    monkeypatch.setattr(fluoroscopy, "find_views", lambda *arguments: pytest.fail("found again"))
    again = FluoroscopyDesk(scene).views(*case)
    assert again["outlet"].to_dict() == found["outlet"].to_dict()
    assert [row["view"] for row in fluoroscopy.views_table(scene)] == list(found)
    monkeypatch.undo()
    other = desk.views(*case, c_arm=CArm(source_to_isocenter_mm=700.0))
    assert np.linalg.norm(other["ap"].geometry.source_ras - other["ap"].aim_ras) == pytest.approx(700.0)
    planning.show_plan(scene, replace(make_plan(make_ct()), trajectories=()))
    assert "barrel-left" not in desk.views(*case), "the plan has changed"


def test_without_a_segmentation_mean_angles_are_shown_and_called_so(scene, desk):
    ct_node = nodes.add_volume(scene, make_ct(), "CT")
    views = desk.views(ct_node, None)
    assert views["outlet"].geometry.positioner_angles_deg == pytest.approx((0.0, -42.8))
    assert not views["outlet"].measured and "mean angles" in views["outlet"].note
    assert fluoroscopy.found_views(scene) == {}


def test_the_table_of_angles_is_written_only_when_there_is_one(scene, case, desk, tmp_path):
    with pytest.raises(GeometryError, match="no views were found"):
        fluoroscopy.export_views(scene, tmp_path / "views.csv")
    desk.views(*case)
    with pytest.raises(GeometryError, match=r"\.csv"):
        fluoroscopy.export_views(scene, Path())
    fluoroscopy.export_views(scene, tmp_path / "views.csv")
    lines = (tmp_path / "views.csv").read_text().splitlines()
    assert lines[0].startswith("view,detector,primary_deg") and lines[1].startswith("ap,")


def test_views_of_a_trocar_follow_its_line(scene, case, desk):
    planning.show_plan(scene, make_plan(make_ct()))
    line = planning.trajectory_rows(scene)[0].line
    line.SetNthControlPointPosition(0, -30.0, -60.0, 20.0)
    start, end = nodes.line_points(line)
    views = desk.trocar_views(line, *case)
    barrel, across = views["barrel"], views["perpendicular"]
    assert angle_between_deg(barrel.direction_ras, end - start) < 1e-6
    assert angle_between_deg(across.direction_ras, end - start) == pytest.approx(90.0)
    geometry = barrel.geometry
    assert np.linalg.norm(geometry.project(start) - geometry.project(end)) < 0.01
    stranger = nodes.add_line(scene, [0, 0, 0], [1, 1, 1], "Stranger")
    with pytest.raises(PlanError, match="line of the plan"):
        desk.trocar_views(stranger, *case)


def test_a_picture_of_too_few_columns_is_refused(scene, case, desk):
    with pytest.raises(GeometryError, match="at least 16"):
        desk.simulate(case[0], pose(scene, case), 4)


def test_a_real_image_takes_the_same_outlines(scene, case, desk, tmp_path):
    import SimpleITK as sitk

    geometry = pose(scene, case, 10.0, -30.0).resampled(128)
    write_geometry(tmp_path / "geometry.json", geometry)
    pixels = np.random.default_rng(1).integers(0, 4000, (128, 128), np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "shot.png"))
    with pytest.raises(GeometryError, match=r"geometry\.json"):
        fluoroscopy.load_real(scene, tmp_path / "shot.png", Path())
    image = fluoroscopy.load_real(scene, tmp_path / "shot.png", tmp_path / "geometry.json")
    assert np.array_equal(nodes.volume_of(image).voxels[0], pixels)
    real = desk.draw_over(image, *case, ["foramina", "canal"])
    simulated = desk.simulate(case[0], geometry, 128, case[1], ["foramina", "canal"]).structures
    assert np.array_equal(nodes.volume_of(real).voxels, nodes.volume_of(simulated).voxels)
    bare = nodes.add_volume(scene, nodes.volume_of(image), "Unknown")
    with pytest.raises(GeometryError, match="not known"):
        desk.draw_over(bare, *case)


def test_slice_view_turns_to_the_picture_and_back(scene, case, desk):
    view = desk.simulate(case[0], pose(scene, case, 0.0, -40.0), 64)
    assert not fluoroscopy.show_in_slice_view(scene, view, "Nowhere")
    slice_views(scene, "Red")
    assert fluoroscopy.show_in_slice_view(scene, view)
    slice_node = scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    matrix = slice_node.GetSliceToRAS()
    normal = [matrix.GetElement(row, 2) for row in range(3)]
    assert abs(np.dot(normal, view.geometry.view_direction_ras)) == pytest.approx(1.0, abs=1e-6)
    detector_mm = np.multiply(view.geometry.detector_pixels, view.geometry.pixel_spacing_mm)
    assert (np.array(slice_node.GetFieldOfView()[:2]) >= detector_mm - 1e-6).all(), "the whole picture is seen"
    slice_node.AddSliceOrientationPreset("Axial", vtk.vtkMatrix3x3())
    assert fluoroscopy.show_ct_in_slice_view(scene, case[0])
    composite = scene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode")
    assert (composite.GetBackgroundVolumeID(), composite.GetLabelVolumeID()) == (case[0].GetID(), None)
    matrix = slice_node.GetSliceToRAS()
    assert [matrix.GetElement(row, 2) for row in range(3)] == [0.0, 0.0, 1.0]
    assert [matrix.GetElement(row, 3) for row in range(3)] == pytest.approx([1.0, 1.0, -1.0], abs=1.1)


def test_two_pictures_stand_side_by_side_and_the_layout_comes_back(scene, case, desk):
    slice_views(scene, "Red", "Yellow")
    layout = scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    view = desk.simulate(case[0], pose(scene, case), 64, case[1])
    real = fluoroscopy.show_real(scene, np.zeros((64, 64), np.uint8), view.geometry, "Shot")
    overlay = desk.draw_over(real, *case)
    assert fluoroscopy.show_side_by_side(scene, view.image, real)
    assert layout.GetViewArrangement() == layout.SlicerLayoutSideBySideView
    for name, image, structures in (("Red", view.image, view.structures), ("Yellow", real, overlay)):
        composite = scene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode")
        assert composite.GetBackgroundVolumeID() == image.GetID()
        assert composite.GetLabelVolumeID() == structures.GetID()
    slice_node = scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    slice_node.AddSliceOrientationPreset("Axial", vtk.vtkMatrix3x3())
    fluoroscopy.show_ct_in_slice_view(scene, case[0])
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView


def test_a_picture_sent_to_the_report_is_in_it(scene, case, desk, tmp_path):
    from sacroplasty.scene import report

    view = desk.simulate(case[0], pose(scene, case, 0.0, -40.0), 128, case[1])
    desk.views(*case)
    caption = desk.send_to_report(view.image, "Outlet", *case)
    assert caption.startswith("Outlet: ") and "CAU 40°" in caption and "simulated" in caption
    desk.send_to_report(view.image, "Outlet", *case)
    assert len(fluoroscopy.report_pictures(scene)) == 1, "the same view again replaces it"
    page = report.export(scene, tmp_path / "report").read_text(encoding="utf-8")
    assert "CAU 40°" in page and "data:image/png;base64" in page and "C-arm views" in page
    case_file = json.loads((tmp_path / "report" / "case.json").read_text(encoding="utf-8"))
    assert case_file["views"]["views"][0]["name"] == "ap"
