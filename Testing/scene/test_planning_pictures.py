"""What a person sees of a plan: the shaft in 3D and in slices, and the page to print."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import unit
from sacroplasty.phantom.make import make_phantom
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.search import plan_trajectories
from sacroplasty.scene import anatomy, nodes, plan_desk, plan_files, plan_spread, plan_views, planning
from sacroplasty.scene.pictures import Photographer
from sacroplasty.scene.plan_desk import PlanDesk
from sacroplasty.scene.spread import SpreadSummary
from scene.planned_sacrum import context, desk_in, searched

RENEWED = os.environ.get("SACROPLASTY_UPDATE_PICTURES") == "1"


@pytest.fixture
def picture_folder(tmp_path):
    """Where pictures go: the documentation when it is to be renewed, else a temporary folder."""
    return Path(__file__).parents[2] / "docs" / "images" / "planning" if RENEWED else tmp_path


@cache
def patient():
    """Distances and plan of a synthetic patient."""
    phantom = make_phantom(5, spacing_mm=(1.0, 1.0, 1.0))
    known = PlanningContext(phantom.ct, segment_from_labels(phantom.ct, phantom.bones))
    return known, plan_trajectories(known)


@pytest.fixture
def desk(scene, monkeypatch):
    """A planned sacrum, for the documentation one that looks more like a person's; the left best line is selected."""
    if RENEWED:
        known, plan = patient()
        ct_node = nodes.add_volume(scene, known.ct, "Synthetic patient")
        desk = PlanDesk(scene)
        desk.choose(ct_node, anatomy.show_anatomy(scene, known.anatomy, ct_node))
    else:
        known, plan, desk = context(), searched(), desk_in(scene)
    monkeypatch.setattr(plan_desk, "PlanningContext", lambda *patient: known)
    desk.context()
    planning.show_plan(scene, plan)
    for index in (len(plan.trajectories) - 1, 0):
        desk.select(index)
    return desk


def pixels(path):
    """(rows, columns, 3), top row first."""
    reader = vtk.vtkPNGReader()
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1, :, :3].astype(int)


def share_of(picture, color, tolerance=60):
    """Share of the pixels of a picture that have a color, whatever its brightness."""
    wanted = np.asarray(color) / max(color)
    bright = picture.max(axis=2)
    alike = np.abs(picture - wanted * bright[..., None]).max(axis=2) < tolerance * bright / 255
    return float((alike & (bright > 80)).mean())


def test_the_shaft_has_its_colors_in_3d_and_its_true_width_in_slices(host, scene, desk, picture_folder):
    segmentation = nodes.first_node(scene, "vtkMRMLSegmentationNode", anatomy.SEGMENTATION_NAME)
    segmentation.CreateClosedSurfaceRepresentation()
    display = segmentation.GetDisplayNode()
    for name in nodes.segment_names(segmentation):
        is_shown = name == "sacrum" or name.startswith(("sacral", "foramen"))
        display.SetSegmentVisibility3D(name, is_shown)
        display.SetSegmentVisibility2DOutline(name, is_shown or name.startswith("hip"))
    display.SetSegmentOpacity3D("sacrum", 0.25)
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode")):
        scene.GetNthNodeByClass(number, "vtkMRMLMarkupsFiducialNode").SetDisplayVisibility(False)
    item = planning.trajectory_rows(scene)[0].trajectory
    SacrumToRAS = desk.context().anatomy.SacrumToRAS
    left, back, up = SacrumToRAS[:3, :3].T
    # 0.1 mm a pixel in slices either way.
    columns, rows = (900, 700) if RENEWED else (450, 350)
    photographer = Photographer(host, (columns, rows))
    middle = SacrumToRAS[:3, 3] - 45 * up + 15 * back
    photographer.three_d(picture_folder / "trocars-3d.png", middle, back + 0.3 * left + 0.1 * up, up, 190)
    seen = pixels(picture_folder / "trocars-3d.png")
    assert share_of(seen, (90, 217, 115)) > 0.001, "clear, green"

    node = slicer.vtkMRMLSliceNode()
    node.SetLayoutName(plan_views.PROBE_EYE)
    node.SetSingletonTag(plan_views.PROBE_EYE)
    green = scene.AddNode(node)
    nearest = desk.live(0).depth_mm
    plan_views.show_along_trocar(scene, item.entry_skin, item.target, nearest)
    place = item.entry_skin + nearest * unit(item.target - item.entry_skin)
    ct_node = nodes.first_node(scene, "vtkMRMLScalarVolumeNode", desk.name)
    line = planning.trajectory_rows(scene)[0].line
    seen = []
    for visible in (False, True):
        planning.set_visible(line, visible, margin=True)
        photographer.slice(picture_folder / "probe-eye.png", ct_node, green.GetSliceToRAS(), place, columns / 10)
        seen.append(pixels(picture_folder / "probe-eye.png"))
    scene.RemoveNode(green)
    drawn = np.argwhere(np.abs(seen[1] - seen[0]).max(axis=2) > 40)
    from_axis = np.linalg.norm(drawn - [(rows - 1) / 2, (columns - 1) / 2], axis=1)
    # The rim of the trocar at 15 pixels, that of its safety margin of 3 mm at 45.
    trocar, margin = from_axis[from_axis < 30], from_axis[(from_axis > 30) & (from_axis < 60)]
    assert len(trocar) > 50 and trocar.min() > 12 and trocar.max() < 19
    assert len(margin) > 100 and margin.min() > 42 and margin.max() < 49


def test_the_page_shows_pictures_and_text(scene, desk, picture_folder, tmp_path, monkeypatch):
    plan_files.export_plan(scene, tmp_path / "plan", desk, "2026-11-27")
    page = tmp_path / "plan" / "plan.png"
    if RENEWED:
        (picture_folder / "page.png").write_bytes(page.read_bytes())
    seen = pixels(page)
    assert seen.shape == (1754, 1240, 3)
    assert (seen.max(axis=2) < 60).mean() > 0.01, "ink"
    assert 0.002 < (np.ptp(seen, axis=2) > 60).mean() < 0.2, "outlines"
    found = SpreadSummary(3.0, 20.0, 1.0, 32, 0.25, "300 to 900 kPa", "", (), {})
    monkeypatch.setattr(plan_spread, "current", lambda scene, row: found)
    plan_files.export_plan(scene, tmp_path / "predicted", desk, "2026-11-27")
    more = pixels(tmp_path / "predicted" / "plan.png")
    used = sum(row.is_chosen for row in planning.trajectory_rows(scene))
    assert (more.max(axis=2) < 60).sum() > (seen.max(axis=2) < 60).sum() + 300 * used > 0, "a sentence for each side"
