"""A plan into files, and plans and lines of others into the scene."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from vtk.util.numpy_support import vtk_to_numpy

from sacroplasty.errors import PlanError
from sacroplasty.planning.files import read_plan, write_plan
from sacroplasty.planning.options import PlanOptions
from sacroplasty.scene import files, nodes, plan_desk, plan_files, planning
from scene.planned_sacrum import desk_in, point, ready_context, searched

OPTIONS = PlanOptions()
SAFE = point(40, 90, -30), point(40, 5, -25)


@pytest.fixture
def desk(scene, monkeypatch):
    monkeypatch.setattr(plan_desk, "PlanningContext", ready_context)
    return desk_in(scene)


@pytest.fixture(autouse=True)
def page(monkeypatch):
    """A page of one color: what is on the real one is looked at in test_planning_pictures.py."""
    monkeypatch.setattr(plan_files.PlanPage, "draw", lambda self: np.zeros((4, 3, 3), np.uint8))


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


def test_every_trajectory_has_a_line_a_mesh_and_a_row(scene, exported):
    names = {"left": 0, "right": 0}
    for row in rows(scene):
        names[row.trajectory.side] += 1
        name = f"{row.trajectory.side}_{names[row.trajectory.side]}"
        line = files.load_file(scene, exported / "lines" / f"{name}.mrk.json")
        assert np.allclose(nodes.line_points(line)[1], row.trajectory.target, atol=1e-3)
        scene.RemoveNode(line)
        mesh = files.load_file(scene, exported / "trocars" / f"{name}.stl")
        points = vtk_to_numpy(mesh.GetPolyData().GetPoints().GetData())
        on_axis = np.linalg.norm(points - row.trajectory.target, axis=1)
        assert on_axis.max() == pytest.approx(row.trajectory.needle.length_mm, abs=0.1)
        assert on_axis.min() == pytest.approx(row.trajectory.needle.radius_mm, abs=0.1)
        scene.RemoveNode(mesh)
    assert (exported / "plan.csv").read_text(encoding="utf-8").count("\n") == len(rows(scene)) + 1


def test_lines_of_other_programs_are_checked_whichever_end_comes_first(scene, desk, tmp_path):
    turned = nodes.add_line(scene, SAFE[1], SAFE[0], "From elsewhere")
    files.save_node(turned, tmp_path / "line.mrk.json")
    scene.RemoveNode(turned)
    index = plan_files.import_file(tmp_path / "line.mrk.json", desk, OPTIONS)
    item = rows(scene)[index].trajectory
    assert item.source == "imported" and item.accepted and np.allclose(item.target, SAFE[1], atol=1e-3)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 1


def test_a_plan_comes_back_with_the_trocars_it_was_made_for(scene, desk, exported):
    before = planning.plan_of(scene).trajectories
    planning.update_plan(scene, replace(planning.plan_of(scene), trajectories=()), [])
    plan_files.import_file(exported / "plan.json", desk, OPTIONS)
    after = planning.plan_of(scene).trajectories
    assert [one.accepted for one in after] == [one.accepted for one in before]
    assert {one.source for one in after} == {"imported"}
    assert [one.planned_volume_ml for one in after] == [one.planned_volume_ml for one in before]


def test_a_plan_of_another_ct_is_refused_and_changes_nothing(scene, desk, tmp_path):
    write_plan(replace(searched(), image_hash="0" * 64), tmp_path / "plan.json")
    with pytest.raises(PlanError, match="another CT"):
        plan_files.import_file(tmp_path / "plan.json", desk, OPTIONS)
    assert planning.plan_of(scene) is None and not rows(scene)


def test_files_without_a_line_are_refused_and_change_nothing(scene, desk, tmp_path):
    points = nodes.add_points(scene, {"here": [0, 0, 0]}, "Points")
    files.save_node(points, tmp_path / "points.mrk.json")
    before = scene.GetNumberOfNodes()
    with pytest.raises(PlanError, match="holds no line"):
        plan_files.import_file(tmp_path / "points.mrk.json", desk, OPTIONS)
    with pytest.raises(PlanError, match="choose a file first"):
        plan_files.import_file(tmp_path / "nowhere.json", desk, OPTIONS)
    assert scene.GetNumberOfNodes() == before


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


def test_a_refused_side_is_on_the_page_too(scene, desk, tmp_path, monkeypatch):
    shown = []
    draw = plan_files.PlanPage.draw
    monkeypatch.setattr(plan_files.PlanPage, "draw", lambda self: shown.append(self.trajectories) or draw(self))
    desk.add([(point(21, 90, -28), point(21, 5, -28))], OPTIONS)
    plan_files.export_plan(scene, tmp_path / "plan", desk, "2026-11-27")
    assert [[item.accepted for item in items] for items in shown] == [[False]]
    record = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))
    assert [one["accepted"] for one in record["trajectories"]] == [False]
