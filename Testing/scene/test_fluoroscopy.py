"""Simulated X-rays in the scene."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

from sacroplasty.errors import GeometryError, PlanError
from sacroplasty.scene import anatomy, fluoroscopy, nodes, planning
from scene.simple_case import make_anatomy, make_ct, make_plan


@pytest.fixture
def case(scene):
    ct = make_ct()
    ct_node = nodes.add_volume(scene, ct, "CT")
    return ct_node, anatomy.show_anatomy(scene, make_anatomy(ct), ct_node)


def test_bone_is_darker_than_soft_tissue_at_its_own_place(scene, case):
    ct_node, _ = case
    view = fluoroscopy.simulate(scene, ct_node, fluoroscopy.view_geometry(scene, "ap", ct_node), 128)
    picture = nodes.volume_of(view.image).voxels[0]
    u, v = np.round(view.geometry.project([0.0, -15.0, -10.0])).astype(int)
    beside_u, beside_v = np.round(view.geometry.project([60.0, -15.0, -10.0])).astype(int)
    assert int(picture[v, u]) + 10 < int(picture[beside_v, beside_u])


def test_structures_are_outlined_where_they_project(scene, case):
    ct_node, segmentation = case
    view = fluoroscopy.simulate(scene, ct_node, fluoroscopy.view_geometry(scene, "ap", ct_node), 256, segmentation)
    labels = nodes.volume_of(view.structures).voxels[0]
    v, u = np.argwhere(labels == 2).mean(axis=0)  # The canal is 1, the left foramen of S1 is next.
    assert np.allclose([u, v], view.geometry.project([-20.0, -15.0, 10.0]), atol=2)


def test_plan_is_drawn_as_its_shadow_and_taken_away_again(scene, case):
    ct_node, _ = case
    planning.show_plan(scene, make_plan(make_ct()))
    geometry = fluoroscopy.view_geometry(scene, "ap", ct_node)
    view = fluoroscopy.simulate(scene, ct_node, geometry, 128)
    shadow = nodes.first_node(scene, "vtkMRMLMarkupsLineNode", "X-ray plan left")
    target = planning.plan_of(scene).trajectories[0].target
    on_detector = view.geometry.pixel_ras(view.geometry.project(target))
    assert np.allclose(nodes.line_points(shadow)[1], on_detector, atol=1e-6)
    assert nodes.first_node(scene, "vtkMRMLMarkupsLineNode", "X-ray plan right") is None
    fluoroscopy.simulate(scene, ct_node, geometry, 128, with_plan=False)
    assert nodes.first_node(scene, "vtkMRMLMarkupsLineNode", "X-ray plan left") is None


def test_a_second_view_replaces_the_first(scene, case):
    ct_node, segmentation = case
    for name in ("ap", "lateral"):
        view = fluoroscopy.simulate(scene, ct_node, fluoroscopy.view_geometry(scene, name, ct_node), 64, segmentation)
    assert scene.GetNodesByName(fluoroscopy.IMAGE_NAME).GetNumberOfItems() == 1
    assert scene.GetNodesByName(fluoroscopy.STRUCTURES_NAME).GetNumberOfItems() == 1
    assert nodes.volume_of(view.image).voxels.shape == (1, 64, 64)


@pytest.mark.parametrize(
    ("view", "angles"),
    [("ap", (0, 0)), ("outlet", (0, -42.8)), ("inlet", (0, 20.5)), ("lateral", (90, 0)), ("oblique-left", (30, 0))],
)
def test_angles_are_read_back_from_the_pose(scene, case, view, angles):
    geometry = fluoroscopy.view_geometry(scene, view, case[0])
    assert fluoroscopy.angles_deg(geometry) == pytest.approx(angles, abs=1e-6)


def test_down_the_barrel_shows_a_line_of_the_plan_as_one_dot(scene, case):
    planning.show_plan(scene, make_plan(make_ct()))
    line = planning.trajectory_rows(scene)[0].line
    geometry = fluoroscopy.barrel_geometry(scene, line)
    start, end = nodes.line_points(line)
    assert np.linalg.norm(geometry.project(start) - geometry.project(end)) < 0.01
    stranger = nodes.add_line(scene, [0, 0, 0], [1, 1, 1], "Stranger")
    with pytest.raises(PlanError, match="line of the plan"):
        fluoroscopy.barrel_geometry(scene, stranger)


def test_a_picture_of_too_few_columns_is_refused(scene, case):
    geometry = fluoroscopy.view_geometry(scene, "ap", case[0])
    with pytest.raises(GeometryError, match="at least 16"):
        fluoroscopy.simulate(scene, case[0], geometry, 4)


def test_slice_view_turns_to_the_picture(scene, case):
    view = fluoroscopy.simulate(scene, case[0], fluoroscopy.view_geometry(scene, "outlet", case[0]), 64)
    assert not fluoroscopy.show_in_slice_view(scene, view, "Nowhere")
    for class_name in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
        node = scene.CreateNodeByClass(class_name)
        node.UnRegister(None)
        node.SetSingletonTag("Red")
        node.SetLayoutName("Red")
        scene.AddNode(node)
    assert fluoroscopy.show_in_slice_view(scene, view)
    matrix = scene.GetSingletonNode("Red", "vtkMRMLSliceNode").GetSliceToRAS()
    normal = [matrix.GetElement(row, 2) for row in range(3)]
    assert abs(np.dot(normal, view.geometry.view_direction_ras)) == pytest.approx(1.0, abs=1e-6)
    slice_node = scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    detector_mm = np.multiply(view.geometry.detector_pixels, view.geometry.pixel_spacing_mm)
    assert (np.array(slice_node.GetFieldOfView()[:2]) >= detector_mm - 1e-6).all(), "the whole picture is seen"
    slice_node.AddSliceOrientationPreset("Axial", vtk.vtkMatrix3x3())
    assert fluoroscopy.show_ct_in_slice_view(scene, case[0])
    composite = scene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode")
    assert (composite.GetBackgroundVolumeID(), composite.GetLabelVolumeID()) == (case[0].GetID(), None)
    matrix = slice_node.GetSliceToRAS()
    assert [matrix.GetElement(row, 2) for row in range(3)] == [0.0, 0.0, 1.0]
    assert [matrix.GetElement(row, 3) for row in range(3)] == pytest.approx([1.0, 1.0, -1.0], abs=1.1)
