"""Trajectories in a sacrum of known shape, judged by distances that the search does not compute itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from sacroplasty.anatomy.files import write_anatomy
from sacroplasty.anatomy.labels import REGION_LABEL, SIDES
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.cli.plan import command
from sacroplasty.errors import DocumentError, PlanError
from sacroplasty.geometry import distance_to_segment, invert_rigid, segment_to_segment_distance, transform_points
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.files import read_plan, write_plan
from sacroplasty.planning.model import Plan
from sacroplasty.planning.options import PlanOptions
from sacroplasty.planning.search import plan_trajectories
from simple_sacrum import SACRUM_TO_RAS, SimpleSacrum, simple_sacrum


@pytest.fixture(scope="module")
def truth() -> SimpleSacrum:
    return simple_sacrum()


@pytest.fixture(scope="module")
def anatomy(truth: SimpleSacrum) -> Anatomy:
    return segment_from_labels(truth.ct, truth.bones)


@pytest.fixture(scope="module")
def plan(truth: SimpleSacrum, anatomy: Anatomy) -> Plan:
    return plan_trajectories(PlanningContext(truth.ct, anatomy))


def test_each_side_has_an_accepted_trajectory_into_its_own_ala(plan: Plan, anatomy: Anatomy) -> None:
    for side in SIDES:
        best = next(item for item in plan.trajectories if item.side == side)
        assert best.accepted and best.reasons == ()
        k, j, i = np.round(anatomy.regions.kji_of(best.target)).astype(int)
        assert anatomy.region(f"ala_{side}")[k, j, i]


def test_the_whole_shaft_keeps_the_margin_from_true_canal_foramina_and_hips(plan: Plan, truth: SimpleSacrum) -> None:
    forbidden = truth.canal | truth.foramina | (truth.bones.voxels >= 3)
    points = truth.ct.ras_of(np.argwhere(forbidden))
    for item in plan.trajectories:
        nearest = distance_to_segment(points, item.entry_skin, item.target).min() - item.outer_diameter_mm / 2
        # The centres of the true voxels lie within half a voxel (1 mm) of the true surface.
        assert nearest >= 3.0 - 0.5
        assert min(item.clearance_mm.values()) >= 3.0


def test_the_shaft_stays_inside_the_bone_from_cortex_to_tip(plan: Plan, truth: SimpleSacrum) -> None:
    for item in plan.trajectories:
        inside = transform_points(invert_rigid(SACRUM_TO_RAS), [item.entry_bone, item.target])
        assert abs(inside[0, 1] - 31) < 2.5
        assert inside[1, 1] >= -17.0 - 0.30 * inside[1, 2] + 3.0
        assert inside[1, 2] < -6 and abs(inside[1, 0]) < 56


def test_the_entry_lies_beside_s2_and_above_or_at_s3(plan: Plan, anatomy: Anatomy) -> None:
    for item in plan.trajectories:
        edge = anatomy.foramina[f"foramen_s2_{item.side}"].lateral_edge_ras
        local = transform_points(invert_rigid(SACRUM_TO_RAS), [item.entry_bone, edge])
        sign = 1 if item.side == "left" else -1
        assert 4 <= sign * (local[0, 0] - local[1, 0]) <= 28.5
        assert -75 <= local[0, 2] <= -38


def test_the_skin_point_is_where_the_axis_leaves_the_body(plan: Plan, truth: SimpleSacrum) -> None:
    for item in plan.trajectories:
        x, y, _ = transform_points(invert_rigid(SACRUM_TO_RAS), item.entry_skin)
        assert (x / 130) ** 2 + (y / 85) ** 2 == pytest.approx(1, abs=0.08)
        assert np.linalg.norm(item.entry_skin - item.target) == pytest.approx(item.length_mm, abs=0.01)


def test_volumes_keep_the_limits_of_one_ala_and_of_both(plan: Plan) -> None:
    volumes = [max(item.planned_volume_ml for item in plan.trajectories if item.side == side) for side in SIDES]
    assert all(0 < volume <= 8 for volume in volumes)
    assert sum(volumes) <= 12


def test_a_wide_margin_is_refused_with_the_structures_that_are_in_the_way(
    truth: SimpleSacrum, anatomy: Anatomy
) -> None:
    refused = plan_trajectories(
        PlanningContext(truth.ct, anatomy), ("left",), PlanOptions(margin_mm=14.0, preferred_margin_mm=14.0)
    )
    assert refused.trajectories
    for item in refused.trajectories:
        assert not item.accepted
        blockers = {reason.split(":")[0] for reason in item.reasons if ":" in reason}
        assert blockers == {name for name, distance in item.clearance_mm.items() if distance < 14.0}


def test_the_structure_that_alone_is_in_the_way_is_named(truth: SimpleSacrum, anatomy: Anatomy) -> None:
    # A foramen as wide as the ala beside it, and nothing else is changed.
    voxels = anatomy.regions.voxels.copy()
    points = truth.ct.ras_of(np.argwhere(voxels == REGION_LABEL["ala_left"]))
    far = np.linalg.norm(points - anatomy.foramina["foramen_s2_left"].posterior.center_ras, axis=1) > 32
    grown = np.argwhere(voxels == REGION_LABEL["ala_left"])[~far]
    voxels[tuple(grown.T)] = REGION_LABEL["foramen_s2_left"]
    plan = plan_trajectories(
        PlanningContext(truth.ct, replace(anatomy, regions=anatomy.regions.like(voxels))), options=PlanOptions()
    )
    left = [item for item in plan.trajectories if item.side == "left"]
    assert left and all(
        item.reasons[0] == "no path on this side; there would be one without foramen_s2_left" for item in left
    )
    assert next(item for item in plan.trajectories if item.side == "right").accepted


def test_what_many_structures_bar_together_is_laid_to_none_alone(truth: SimpleSacrum, anatomy: Anatomy) -> None:
    wide = PlanOptions(margin_mm=20.0, preferred_margin_mm=20.0)
    plan = plan_trajectories(PlanningContext(truth.ct, anatomy), ("left",), wide)
    for item in plan.trajectories:
        assert not item.accepted and not any("no path" in reason for reason in item.reasons)
        assert sum(reason.split(":")[0] in item.clearance_mm for reason in item.reasons) >= 2


def test_an_unknown_structure_counts_as_in_the_way(truth: SimpleSacrum, anatomy: Anatomy) -> None:
    confidence = {name: value for name, value in anatomy.confidence.items() if name != "hip_right"}
    plan = plan_trajectories(PlanningContext(truth.ct, replace(anatomy, confidence=confidence)))
    for item in plan.trajectories:
        assert item.accepted == (item.side == "left")
        assert (item.side == "left") or any("hip_right: not found" in reason for reason in item.reasons)


def test_a_body_that_the_image_cuts_off_has_no_skin_point(truth: SimpleSacrum, anatomy: Anatomy) -> None:
    full = np.where(truth.ct.voxels == -1000, np.int16(30), truth.ct.voxels)
    full[:, -3:] = -1000  # some air for a valid CT, in front of the body
    ct = truth.ct.like(full)
    plan = plan_trajectories(PlanningContext(ct, replace(anatomy, image_hash=ct.content_hash())), ("right",))
    assert all(any("skin is outside" in reason for reason in item.reasons) for item in plan.trajectories)


def test_two_needles_at_a_time_leave_each_other_room(truth: SimpleSacrum, anatomy: Anatomy) -> None:
    plan = plan_trajectories(PlanningContext(truth.ct, anatomy), options=PlanOptions("double-needle"))
    left, right = (next(item for item in plan.trajectories if item.side == side) for side in SIDES)
    assert left.accepted and right.accepted and left.technique == "double-needle"
    assert segment_to_segment_distance(left.entry_skin, left.target, right.entry_skin, right.target) >= 10


def test_what_cannot_be_planned_is_refused_in_one_line(truth: SimpleSacrum, anatomy: Anatomy) -> None:
    with pytest.raises(PlanError, match="technique body"):
        PlanOptions("body")
    with pytest.raises(PlanError, match="another CT"):
        PlanningContext(truth.ct.like(truth.ct.voxels + np.int16(1)), anatomy)
    with pytest.raises(PlanError, match="margin"):
        PlanOptions(margin_mm=float("nan"))
    with pytest.raises(PlanError, match="foramina"):
        plan_trajectories(PlanningContext(truth.ct, replace(anatomy, foramina={})))


def test_a_plan_is_read_back_and_only_for_its_own_ct(plan: Plan, tmp_path) -> None:
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    back = read_plan(path, plan.image_hash)
    assert len(back.trajectories) == len(plan.trajectories)
    for a, b in zip(back.trajectories, plan.trajectories, strict=True):
        assert np.allclose(a.target, b.target) and np.allclose(a.entry_skin, b.entry_skin)
        assert (a.clearance_mm, a.reasons, a.accepted) == (b.clearance_mm, b.reasons, b.accepted)
    with pytest.raises(PlanError, match="another CT"):
        read_plan(path, "0" * 64)
    path.write_text(path.read_text()[:200])
    with pytest.raises(DocumentError):
        read_plan(path)


def test_the_command_exits_with_3_when_nothing_is_acceptable(truth: SimpleSacrum, anatomy: Anatomy, tmp_path) -> None:
    write_anatomy(anatomy, truth.ct, tmp_path)
    arguments = [str(tmp_path), "--side", "left", "--json"]
    good = CliRunner().invoke(command, arguments)
    assert good.exit_code == 0 and read_plan(tmp_path / "plan.json").trajectories[0].accepted
    bad = CliRunner().invoke(command, [*arguments[:-1], "--margin", "14"])
    assert bad.exit_code == 3
    assert "What may help: a CT with thinner slices (voxels here: " in bad.output
    assert not read_plan(tmp_path / "plan.json").trajectories[0].accepted
