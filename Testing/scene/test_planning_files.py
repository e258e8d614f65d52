"""A plan into files, and plans and lines of others into the scene."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from sacroplasty.errors import PlanError
from sacroplasty.planning.files import read_plan, write_plan
from sacroplasty.planning.options import PlanOptions
from sacroplasty.scene import files, nodes, plan_desk, plan_files, planning
from scene.planned_sacrum import context, desk_in, point, searched

OPTIONS = PlanOptions()
SAFE = point(40, 90, -30), point(40, 5, -25)


@pytest.fixture
def desk(scene, monkeypatch):
    monkeypatch.setattr(plan_desk, "PlanningContext", lambda ct, anatomy: context())
    return desk_in(scene)


@pytest.fixture
def exported(scene, desk, tmp_path):
    """A folder with everything that was written of a search and a drawn line through a foramen."""
    planning.show_plan(scene, searched())
    desk.context()
    desk.add([(point(21, 90, -28), point(21, 5, -28))], OPTIONS)
    plan_files.export_plan(scene, tmp_path / "plan", desk, "2026-11-27")
    return tmp_path / "plan"


def rows(scene):
    return planning.trajectory_rows(scene)


def test_the_document_is_read_again_as_it_was(scene, exported):
    back, plan = read_plan(exported / "plan.json"), planning.plan_of(scene)
    assert [one.reasons for one in back.trajectories] == [one.reasons for one in plan.trajectories]
    assert [one.source for one in back.trajectories].count("manual") == 1


def test_the_table_has_a_row_for_each_trajectory(scene, exported):
    with (exported / "plan.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["name"] for line in table] == [row.name for row in rows(scene)]
    assert [line["used"] for line in table].count("True") == 2
    refused = next(line for line in table if line["accepted"] == "False")
    assert "foramen_s1_left" in refused["reasons"]
    first = rows(scene)[0].trajectory
    assert [float(table[0][f"target_{axis}"]) for axis in "ras"] == pytest.approx(first.target.tolist(), abs=1e-3)


def test_the_lines_are_markups_that_slicer_reads(scene, exported):
    row = rows(scene)[0]
    line = files.load_file(scene, exported / "lines" / f"{row.name}.mrk.json")
    assert np.allclose(nodes.line_points(line)[1], row.trajectory.target, atol=1e-3)


def test_the_mesh_of_a_trocar_is_closed_has_its_true_size_and_lies_in_lps(scene, exported):
    row = rows(scene)[0]
    reader = vtk.vtkSTLReader()
    reader.SetFileName(str(exported / "trocars" / f"{row.name}.stl"))
    reader.Update()
    mesh = reader.GetOutput()
    edges = vtk.vtkFeatureEdges()
    edges.SetInputData(mesh)
    edges.FeatureEdgesOff()
    edges.ManifoldEdgesOff()
    edges.Update()
    assert edges.GetOutput().GetNumberOfCells() == 0
    item = row.trajectory
    points = vtk_to_numpy(mesh.GetPoints().GetData()) * (-1, -1, 1)
    outwards = (item.entry_skin - item.target) / np.linalg.norm(item.entry_skin - item.target)
    along = (points - item.target) @ outwards
    away = np.linalg.norm(points - item.target - along[:, None] * outwards, axis=1)
    assert along.min() == pytest.approx(0, abs=0.01) and along.max() == pytest.approx(item.needle.length_mm, abs=0.01)
    assert away.max() == pytest.approx(item.needle.radius_mm, abs=0.01)


def test_the_page_shows_pictures_and_text(exported):
    reader = vtk.vtkPNGReader()
    reader.SetFileName(str(exported / "plan.png"))
    reader.Update()
    image = reader.GetOutput()
    columns, lines, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(lines, columns, 3)[::-1].astype(int)
    assert (lines, columns) == (1754, 1240)
    assert (pixels.max(axis=2) < 60).mean() > 0.01, "ink"
    colored = (np.ptp(pixels, axis=2) > 60).mean()
    assert 0.002 < colored < 0.2, "outlines"


def test_lines_of_other_programs_are_checked_whichever_end_comes_first(scene, desk, tmp_path):
    turned = nodes.add_line(scene, SAFE[1], SAFE[0], "From elsewhere")
    files.save_node(turned, tmp_path / "line.mrk.json")
    scene.RemoveNode(turned)
    index = plan_files.import_file(scene, tmp_path / "line.mrk.json", desk, OPTIONS)
    item = rows(scene)[index].trajectory
    assert item.source == "imported" and item.accepted and np.allclose(item.target, SAFE[1], atol=1e-3)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 1


def test_a_plan_comes_back_with_the_trocars_it_was_made_for(scene, desk, exported):
    before = planning.plan_of(scene).trajectories
    planning.update_plan(scene, replace(planning.plan_of(scene), trajectories=()), [])
    plan_files.import_file(scene, exported / "plan.json", desk, OPTIONS)
    after = planning.plan_of(scene).trajectories
    assert [one.accepted for one in after] == [one.accepted for one in before]
    assert {one.source for one in after} == {"imported"}
    assert [one.planned_volume_ml for one in after] == [one.planned_volume_ml for one in before]


def test_a_plan_of_another_ct_is_refused_and_changes_nothing(scene, desk, tmp_path):
    write_plan(replace(searched(), image_hash="0" * 64), tmp_path / "plan.json")
    with pytest.raises(PlanError, match="another CT"):
        plan_files.import_file(scene, tmp_path / "plan.json", desk, OPTIONS)
    assert planning.plan_of(scene) is None and not rows(scene)


def test_markups_without_a_line_are_refused_by_name(scene, desk, tmp_path):
    points = nodes.add_points(scene, {"here": [0, 0, 0]}, "Points")
    files.save_node(points, tmp_path / "points.mrk.json")
    before = scene.GetNumberOfNodes()
    with pytest.raises(PlanError, match="holds no line but vtkMRMLMarkupsFiducialNode"):
        plan_files.import_file(scene, tmp_path / "points.mrk.json", desk, OPTIONS)
    assert scene.GetNumberOfNodes() == before
    with pytest.raises(PlanError, match="no file"):
        plan_files.import_file(scene, tmp_path / "nowhere.json", desk, OPTIONS)


def test_what_was_moved_or_is_not_there_is_not_exported(scene, desk, tmp_path):
    with pytest.raises(PlanError, match="no plan to export"):
        plan_files.export_plan(scene, tmp_path / "plan", desk, "2026-11-27")
    planning.show_plan(scene, searched())
    with pytest.raises(PlanError, match="choose a folder"):
        plan_files.export_plan(scene, "", desk, "2026-11-27")
    line = rows(scene)[0].line
    nodes.move_line(line, SAFE[0], SAFE[1])
    with pytest.raises(PlanError, match="Plan left 1 was moved and not checked"):
        plan_files.export_plan(scene, tmp_path / "plan", desk, "2026-11-27")
    assert not (tmp_path / "plan").exists()


def test_a_refused_side_is_on_the_page_too(scene, desk, tmp_path):
    desk.add([(point(21, 90, -28), point(21, 5, -28))], OPTIONS)
    plan_files.export_plan(scene, tmp_path / "plan", desk, "2026-11-27")
    assert (tmp_path / "plan" / "plan.png").stat().st_size > 50_000
    record = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))
    assert [one["accepted"] for one in record["trajectories"]] == [False]
