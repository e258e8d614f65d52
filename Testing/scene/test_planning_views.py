"""Slice views that follow a trocar, and its models."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

import slicer
from sacroplasty.geometry import unit
from sacroplasty.scene import nodes, plan_views, trocar_models

ENTRY, TARGET = np.array([-38.0, -60.0, -20.0]), np.array([-34.0, -10.0, -4.0])


@pytest.fixture
def slices(scene):
    """The three slice nodes of Slicer's standard layouts, turned as Slicer turns them."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    made = {}
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        node = scene.CreateNodeByClass("vtkMRMLSliceNode")
        node.UnRegister(None)
        node.SetName(name)
        node.SetLayoutName(name)
        node.SetSingletonTag(name)
        made[name] = scene.AddNode(node)
        made[name].SetDefaultOrientation(orientation)
        made[name].SetOrientationToDefault()
    yield made
    # Clearing a scene leaves views in it.
    for node in made.values():
        scene.RemoveNode(node)


def matrix(node):
    return slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())


def test_probe_eye_looks_down_the_axis_with_the_head_up_and_the_patients_right_on_the_right(scene, slices):
    plan_views.show_along_trocar(scene, ENTRY, TARGET, 10.0)
    outwards = unit(ENTRY - TARGET)
    seen = matrix(slices["Green"])
    assert np.allclose(seen[:3, 2], outwards)
    assert seen[0, 0] > 0.9 and seen[2, 1] > 0.8
    assert np.allclose(seen[:3, 3], ENTRY - 10.0 * outwards)


@pytest.mark.parametrize("view", ["Red", "Yellow"])
def test_views_along_the_trocar_hold_its_whole_axis(scene, slices, view):
    plan_views.show_along_trocar(scene, ENTRY, TARGET, 10.0)
    seen = matrix(slices[view])
    for point in (ENTRY, TARGET):
        assert abs((point - seen[:3, 3]) @ seen[:3, 2]) < 1e-6


def test_views_along_the_trocar_look_as_usual(scene, slices):
    plan_views.show_along_trocar(scene, ENTRY, TARGET, 0.0)
    red, yellow = matrix(slices["Red"]), matrix(slices["Yellow"])
    assert red[0, 0] < -0.9 and red[1, 1] > 0.8, "the patient's left on the right, the front above"
    assert yellow[1, 0] < -0.8 and yellow[2, 1] > 0.8, "the front on the left, the head above"


@pytest.mark.parametrize("entry", [(-38.0, -10.0, -94.0), (-138.0, -10.0, -4.0), (-34.0, 10.0, -4.0)])
def test_trocars_of_any_direction_have_axes(entry):
    axes = plan_views.TrocarAxes.of(entry, TARGET)
    frame = np.column_stack([axes.right, axes.up, axes.outwards])
    assert np.allclose(frame.T @ frame, np.eye(3)) and np.isclose(np.linalg.det(frame), 1)


def test_standard_planes_come_back_through_the_target(scene, slices):
    before = {name: matrix(node)[:3, :3] for name, node in slices.items()}
    plan_views.show_along_trocar(scene, ENTRY, TARGET, 10.0)
    plan_views.show_standard_planes(scene, TARGET)
    for name, node in slices.items():
        assert np.allclose(matrix(node)[:3, :3], before[name])
        assert np.allclose(matrix(node)[:3, 3], TARGET)


def test_a_layout_without_slice_views_is_no_error(scene):
    plan_views.show_along_trocar(scene, ENTRY, TARGET, 10.0)
    plan_views.show_standard_planes(scene, TARGET)


@pytest.fixture
def line(scene):
    return nodes.add_line(scene, ENTRY, TARGET, "Plan left 1")


def along(entry=ENTRY, target=TARGET, count=60):
    return entry + np.linspace(0, 1, count)[:, None] * (target - entry)


def clearance(count=60):
    return np.linspace(9.0, 1.0, count)


def test_the_shaft_has_its_true_width_and_length(line):
    node = trocar_models.show_shaft(line, along(), 3.0, clearance(), 3.0, 5.0)
    points = vtk.util.numpy_support.vtk_to_numpy(node.GetPolyData().GetPoints().GetData())
    direction = unit(TARGET - ENTRY)
    depth = (points - ENTRY) @ direction
    away = np.linalg.norm(points - ENTRY - depth[:, None] * direction, axis=1)
    assert np.isclose(away[:-2], 1.5, atol=1e-4).all() and np.isclose(away[-2:], 0, atol=1e-4).all()
    assert np.isclose(depth.min(), 0, atol=1e-3) and np.isclose(depth.max(), np.linalg.norm(TARGET - ENTRY), atol=1e-3)


def test_the_shaft_is_closed(line):
    node = trocar_models.show_shaft(line, along(), 3.0, clearance(), 3.0, 5.0)
    edges = vtk.vtkFeatureEdges()
    edges.SetInputData(node.GetPolyData())
    edges.FeatureEdgesOff()
    edges.ManifoldEdgesOff()
    edges.Update()
    assert edges.GetOutput().GetNumberOfCells() == 0


def test_verdicts_follow_both_margins_and_what_is_not_known_is_too_near():
    values = [9.0, 5.0, 4.9, 3.0, 2.9, -1.0, np.nan, -np.inf]
    assert trocar_models.verdicts(values, 3.0, 5.0).tolist() == [2, 2, 1, 1, 0, 0, 0, 0]


def test_the_color_along_the_shaft_is_that_of_its_verdict(line):
    node = trocar_models.show_shaft(line, along(), 3.0, clearance(), 3.0, 5.0)
    display = node.GetDisplayNode()
    table = display.GetColorNode().GetLookupTable()
    table.SetTableRange(*display.GetScalarRange())
    for verdict, color in trocar_models.VERDICT_COLORS.items():
        rgb = [0.0] * 3
        table.GetColor(verdict, rgb)
        assert np.allclose(rgb, color, atol=0.01)
    values = vtk.util.numpy_support.vtk_to_numpy(node.GetPolyData().GetPointData().GetArray("Verdict"))
    assert set(values) == {0.0, 1.0, 2.0} and display.GetActiveScalarName() == "Verdict"
    assert display.GetVisibility2D(), "slices show the shaft too"


def model_count(scene):
    """Models but for those in which slice views show themselves in 3D."""
    kind = "vtkMRMLModelNode"
    names = [scene.GetNthNodeByClass(number, kind).GetName() for number in range(scene.GetNumberOfNodesByClass(kind))]
    return sum("Slice" not in name for name in names)


def test_a_moved_line_moves_its_shaft_and_makes_no_second_one(scene, line):
    node = trocar_models.show_shaft(line, along(), 3.0, clearance(), 3.0, 5.0)
    seen = []
    tag = node.AddObserver(node.MeshModifiedEvent, lambda *_: seen.append(1))
    again = trocar_models.show_shaft(line, along(ENTRY + 5), 3.0, clearance(), 3.0, 5.0)
    node.RemoveObserver(tag)
    assert again is node and seen, "views draw it again when they are told"
    assert model_count(scene) == 1
    longer = trocar_models.show_shaft(line, along(count=90), 3.0, clearance(90), 3.0, 5.0)
    assert longer is node and node.GetPolyData().GetNumberOfPoints() == 90 * 24 + 2


def test_models_come_back_with_a_saved_scene_and_still_belong_to_their_line(host, line, tmp_path):
    trocar_models.show_shaft(line, along(), 3.0, clearance(), 3.0, 5.0)
    host.save(tmp_path / "case.mrb")
    host.scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    back = nodes.first_node(host.scene, "vtkMRMLMarkupsLineNode", "Plan left 1")
    node = trocar_models.shaft_of(back)
    assert node.GetDisplayNode().GetActiveScalarName() == "Verdict"
    assert node.GetPolyData().GetPointData().GetArray("Clearance (mm)") is not None
    assert node.GetDisplayNode().GetColorNode().GetNumberOfColors() == 3
    trocar_models.show_shaft(back, along(ENTRY + 5), 3.0, clearance(), 3.0, 5.0)
    assert model_count(host.scene) == 1
    trocar_models.remove_models(back)
    assert model_count(host.scene) == 0
