"""Plans in the scene."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

from sacroplasty.scene import nodes
from sacroplasty.scene import planning as scene_planning
from sacroplasty.scene.records import write_record
from scene.simple_case import make_ct, make_plan


@pytest.fixture
def plan(scene):
    plan = make_plan(make_ct())
    scene_planning.show_plan(scene, plan)
    return plan


def test_plan_comes_back_from_the_scene_as_it_went_in(scene, plan):
    back = scene_planning.plan_of(scene)
    assert back.image_hash == plan.image_hash
    for before, after in zip(plan.trajectories, back.trajectories, strict=True):
        assert np.allclose(before.target, after.target) and np.allclose(before.entry_bone, after.entry_bone)
        assert (before.side, before.accepted, before.reasons) == (after.side, after.accepted, after.reasons)
        assert before.clearance_mm == after.clearance_mm


def test_lines_are_locked_and_only_the_best_of_a_side_is_visible(scene, plan):
    rows = scene_planning.trajectory_rows(scene)
    assert [row.line.GetName() for row in rows] == ["Plan left 1", "Plan left 2", "Plan right 1"]
    assert all(row.line.GetLocked() for row in rows)
    assert [bool(row.line.GetDisplayVisibility()) for row in rows] == [True, False, False]
    start, end = nodes.line_points(rows[0].line)
    assert np.allclose(start, plan.trajectories[0].entry_skin) and np.allclose(end, plan.trajectories[0].target)


def test_table_names_the_nearest_structure(scene, plan):
    row = scene_planning.trajectory_rows(scene)[0]
    assert (row.nearest, row.nearest_mm) == ("foramen_s1_left", 11.0)


def test_planning_again_replaces_the_lines(scene, plan):
    scene_planning.show_plan(scene, plan)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == len(plan.trajectories)


def test_plan_survives_a_saved_scene(host, plan, tmp_path):
    host.save(tmp_path / "case.mrb")
    host.scene.Clear(False)
    host.load(tmp_path / "case.mrb")
    rows = scene_planning.trajectory_rows(host.scene)
    assert [row.line.GetName() for row in rows] == ["Plan left 1", "Plan left 2", "Plan right 1"]
    assert not any(row.is_moved for row in rows)


def test_a_line_that_was_moved_is_known_to_be(scene, plan):
    line = scene_planning.trajectory_rows(scene)[0].line
    line.SetNthControlPointPositionWorld(1, vtk.vtkVector3d(0, 0, 0))
    assert [row.is_moved for row in scene_planning.trajectory_rows(scene)] == [True, False, False]


def test_a_plan_of_an_older_version_is_none_and_gives_way_to_a_new_one(scene, plan):
    write_record(scene, scene_planning.RECORD_NAME, {"image_hash": plan.image_hash, "trajectories": [{"side": "left"}]})
    assert scene_planning.plan_of(scene) is None and scene_planning.trajectory_rows(scene) == []
    scene_planning.show_plan(scene, plan)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == len(plan.trajectories)
    assert len(scene_planning.trajectory_rows(scene)) == len(plan.trajectories)
