"""Views of a sacrum whose planes, cylinders and axes are known exactly."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sacroplasty.anatomy.labels import LEVELS, SIDES
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.errors import GeometryError
from sacroplasty.geometry import FloatArray, angle_between_deg, rigid, rotation_about, transform_points, unit
from sacroplasty.planning.model import Trajectory
from sacroplasty.planning.needles import needle
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.openness import OpenForamina
from sacroplasty.xray.reach import ReachableRange, direction_of_angles
from sacroplasty.xray.sight_lines import anterior_cortex_normals, endplate, front_of_bodies, joint_plane
from sacroplasty.xray.views import View, find_views, score_pose, table_csv, table_text, trocar_views
from simple_sacrum import LEVELS as TRUE_LEVELS
from simple_sacrum import USUAL_SACRUM_TO_RAS, back, front, simple_sacrum

#: A sacrum that also lies askew: 6 degrees of roll, 4 of yaw.
ASKEW_SACRUM_TO_RAS = rigid(
    rotation_about([0, 0, 1], 6.0) @ rotation_about([0, 1, 0], 4.0) @ USUAL_SACRUM_TO_RAS[:3, :3], [10.0, -30.0, 200.0]
)
WIDE = ReachableRange((-180.0, 180.0), (-89.0, 89.0))


@cache
def anatomy() -> Anatomy:
    sacrum = simple_sacrum(1.5, SacrumToRAS=ASKEW_SACRUM_TO_RAS)
    return segment_from_labels(sacrum.ct, sacrum.bones)


@cache
def views() -> dict[str, View]:
    return find_views(anatomy(), {"left": trocar()}, reach=WIDE)


def in_sacrum(direction: FloatArray) -> FloatArray:
    return ASKEW_SACRUM_TO_RAS[:3, :3].T @ direction


def trocar() -> Trajectory:
    skin, bone, target = (
        transform_points(ASKEW_SACRUM_TO_RAS, place) for place in ((48, 75, -40), (43, 31, -36), (38, 0, -32))
    )
    return Trajectory("left", "short-axis", skin, bone, target, needle(11), 76.0, {}, True)


def seen_area(level: str, side: str, source: FloatArray) -> float:
    """mm^2 at the foramen that a source in the sacrum's frame sees through a cylinder between two slanted planes."""
    height, beside, radius = TRUE_LEVELS[level]
    middle = np.array([beside if side == "left" else -beside, (front(height) + back(height)) / 2, height])
    grid = np.stack(np.meshgrid(np.arange(-9, 9.05, 0.1), np.arange(-9, 9.05, 0.1)), axis=-1).reshape(-1, 2)
    aims = middle + np.column_stack([grid[:, 0], np.zeros(len(grid)), grid[:, 1]])
    rays = aims - source
    inside = np.ones(len(grid), bool)
    for depth_at in (front, back):
        slope = depth_at(1.0) - depth_at(0.0)
        share = (depth_at(0.0) + slope * source[2] - source[1]) / (rays[:, 1] - slope * rays[:, 2])
        hit = source + share[:, None] * rays
        inside &= np.hypot(hit[:, 0] - middle[0], hit[:, 2] - height) < radius
    towards = unit(middle - source)
    return float(np.count_nonzero(inside)) * 0.01 * abs(towards[1])


def test_open_area_is_that_of_the_exact_cylinder() -> None:
    foramina = OpenForamina(anatomy())
    for tilt in (-8.0, 0.0, 6.0):
        beam = np.array([0.0, -np.cos(np.radians(tilt)), np.sin(np.radians(tilt))])
        source = np.array([0.0, 10.0, -48.0]) - 620 * beam
        shares = foramina.shares(transform_points(ASKEW_SACRUM_TO_RAS, source))
        for name, share in shares.items():
            _, level, side = name.split("_")
            height, beside, _ = TRUE_LEVELS[level]
            straight = np.array([beside if side == "left" else -beside, 620.0, height])
            expected = seen_area(level, side, source) / seen_area(level, side, straight)
            # Voxels of 1.5 mm round the sharp rims, past which some more is seen.
            assert share == pytest.approx(expected, abs=0.13), (name, tilt)


def test_the_outlet_looks_along_parallel_foramina() -> None:
    outlet = views()["outlet"]
    assert angle_between_deg(in_sacrum(outlet.direction_ras), [0, -1, 0]) < 1.5
    assert set(outlet.open_foramina) == {f"foramen_{level}_{side}" for level in LEVELS[:3] for side in SIDES}
    assert min(outlet.open_foramina.values()) > 0.7
    turned = find_views(anatomy(), reach=WIDE)["ap"].open_foramina
    assert min(turned.values()) < 0.2, "40 degrees off nothing is open"


def test_the_lateral_lies_in_the_endplate_and_from_side_to_side() -> None:
    lateral = views()["lateral"]
    across = in_sacrum(lateral.direction_ras)
    assert abs(across[2]) < np.sin(np.radians(0.5)) and angle_between_deg(across, [1, 0, 0]) < 0.7
    source = np.linalg.inv(ASKEW_SACRUM_TO_RAS) @ [*lateral.geometry.source_ras, 1]
    assert abs(source[2]) < 2.0, "the source stands in the plane, so the diverging beam is edge-on too"


def test_ap_stands_at_a_right_angle_to_the_table_in_the_mirror_plane() -> None:
    beam = views()["ap"].direction_ras
    assert abs(beam[2]) < 1e-9 and abs(in_sacrum(beam)[0]) < np.sin(np.radians(0.7))
    assert beam[1] > 0.9


def test_the_inlet_looks_along_the_fronts_of_s1_and_s2() -> None:
    slope = front(1.0) - front(0.0)
    assert angle_between_deg(in_sacrum(views()["inlet"].direction_ras), [0, slope, 1]) < 2.0


def test_planes_of_endplate_and_joints_are_the_exact_ones() -> None:
    assert angle_between_deg(in_sacrum(endplate(anatomy()).normal_ras), [0, 0, 1]) < 0.5
    for side, sign in (("left", 1.0), ("right", -1.0)):
        # The wings of the simple sacrum narrow by 0.2 mm for each mm downwards.
        normal = in_sacrum(joint_plane(anatomy(), side).normal_ras)
        assert angle_between_deg(normal, [1, 0, -sign * 0.2]) < 1.5
    middle, downwards = front_of_bodies(anatomy())
    assert abs(in_sacrum(downwards)[0]) < 0.01
    y, z = (np.linalg.inv(ASKEW_SACRUM_TO_RAS) @ [*middle, 1])[1:3]
    assert y == pytest.approx(front(z), abs=0.8)


def test_normals_of_the_anterior_cortex_point_out_of_the_bone() -> None:
    normals = in_sacrum(anterior_cortex_normals(anatomy()).T).T
    exact = unit([0, -1, -(front(1.0) - front(0.0)) * -1])
    assert np.median(normals @ exact) > 0.98


def test_obliques_are_level_and_in_their_joint() -> None:
    for side in SIDES:
        beam = views()[f"oblique-{side}"].direction_ras
        assert abs(beam[2]) < 1e-9
        assert abs(beam @ joint_plane(anatomy(), side).normal_ras) < 1e-9


def test_a_trocar_is_seen_as_a_dot_and_at_full_length() -> None:
    item = trocar()
    barrel, across = views()["barrel-left"].geometry, views()["perpendicular-left"].geometry
    start, end = barrel.project([item.entry_skin, item.target])
    assert np.linalg.norm(start - end) < 0.01
    start, end = across.project([item.entry_skin, item.target])
    length = np.linalg.norm((start - end) * across.pixel_spacing_mm) * 620 / 1020
    assert length == pytest.approx(np.linalg.norm(item.entry_skin - item.target), rel=0.02)
    sideways = angle_between_deg(across.view_direction_ras, views()["lateral"].direction_ras)
    others = [
        angle_between_deg(other, views()["lateral"].direction_ras)
        for angle in range(0, 360, 5)
        for other in [rotation_about(item.target - item.entry_skin, angle) @ across.view_direction_ras]
    ]
    assert sideways <= min(others) + 1e-6
    moved = replace(item, entry_skin=np.add(item.entry_skin, [10.0, 0, 0]))
    again = trocar_views(anatomy(), "left", moved, views()["lateral"], reach=WIDE)["barrel-left"]
    assert angle_between_deg(again.direction_ras, moved.target - moved.entry_skin) < 1e-6


def test_a_trocar_along_the_body_is_seen_with_the_back_up() -> None:
    target = trocar().target
    along = replace(trocar(), entry_skin=target + np.array([0, 0, 250.0]), entry_bone=target + np.array([0, 0, 40.0]))
    everywhere = ReachableRange((-180.0, 180.0), (-90.0, 90.0))
    geometry = trocar_views(anatomy(), "left", along, views()["lateral"], reach=everywhere)["barrel-left"].geometry
    pixels = geometry.project([along.entry_skin, along.entry_bone, target])
    np.testing.assert_allclose(pixels, [[767.5, 767.5]] * 3, atol=1e-6)
    assert geometry.project(target + np.array([0, -10.0, 0]))[1] < 767, "the back is up"
    assert np.linalg.norm(geometry.source_ras - along.entry_skin) < np.linalg.norm(geometry.source_ras - target)


def test_the_biplane_pair_opens_foramina_and_stands_about_square() -> None:
    one, two = views()["biplane-1"], views()["biplane-2"]
    assert angle_between_deg(one.beam_ras, two.beam_ras) == pytest.approx(90, abs=10)
    assert min(one.open_foramina.values()) > 0.5
    narrow = ReachableRange((-30.0, 30.0), (-60.0, 60.0))
    pair = find_views(anatomy(), reach=narrow)
    assert all(narrow.contains(pair[name].beam_ras) for name in ("biplane-1", "biplane-2"))


def test_what_is_out_of_reach_is_replaced_by_the_nearest_and_says_so() -> None:
    narrow = ReachableRange((-45.0, 80.0), (-30.0, 60.0))
    found = find_views(anatomy(), reach=narrow)
    outlet = found["outlet"]
    assert outlet.geometry.positioner_angles_deg[1] == pytest.approx(-30.0, abs=0.1)
    assert outlet.off_deg == pytest.approx(angle_between_deg(outlet.beam_ras, views()["outlet"].direction_ras))
    assert f"{outlet.off_deg:.1f}° off" in outlet.note and "out of reach" in outlet.note
    assert found["ap"].note == "" and found["ap"].off_deg == 0
    mirrored = find_views(anatomy(), reach=ReachableRange((-100.0, 45.0), (-60.0, 60.0)))["lateral"]
    assert mirrored.off_deg == 0 and "other side" in mirrored.note
    assert angle_between_deg(mirrored.beam_ras, -views()["lateral"].direction_ras) < 1e-6


def test_what_the_anatomy_lacks_comes_from_mean_angles_and_says_so() -> None:
    blind = replace(anatomy(), foramina={}, confidence={})
    found = find_views(blind, reach=WIDE)
    outlet = found["outlet"]
    assert not outlet.measured and "mean angles" in outlet.note and "foramen" in outlet.note
    mean = CArm().view("outlet", blind.SacrumToRAS)
    assert angle_between_deg(outlet.beam_ras, mean.view_direction_ras) < 1e-6
    assert found["lateral"].measured and "biplane-1" not in found
    doubtful = replace(anatomy(), confidence={**anatomy().confidence, "foramen_s3_left": 0.2})
    note = find_views(doubtful, reach=WIDE)["outlet"].note
    assert "left S3 cannot be judged" in note
    handless = replace(anatomy(), bones=anatomy().bones.like(np.where(anatomy().bones.voxels == 1, 1, 0)))
    assert not find_views(handless, reach=WIDE)["oblique-left"].measured


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(GeometryError, match="primary_deg"):
        find_views(anatomy(), reach=ReachableRange((50.0, -50.0), (-60.0, 60.0)))


@pytest.mark.parametrize(("turn", "verdict", "score"), [(0.0, "good", 1.0), (4.0, "usable", 0.6), (12.0, "off", 0.0)])
def test_a_pose_is_scored_by_its_angle(turn: float, verdict: str, score: float) -> None:
    view = views()["outlet"]
    primary, secondary = view.geometry.positioner_angles_deg
    pose = CArm().at_positioner_angles(view.aim_ras, primary, secondary - turn)
    found = score_pose(view, pose)
    assert (found.verdict, found.score) == (verdict, pytest.approx(score, abs=0.01))
    assert found.off_deg == pytest.approx(turn, abs=0.01) and found.beside_mm < 0.1
    assert ("to the head" in found.advice) == (turn > 0)


def test_a_pose_from_the_other_end_meets_the_view_and_one_beside_the_sacrum_does_not() -> None:
    view = views()["outlet"]
    under_table = CArm().pose(view.aim_ras, -view.direction_ras, [0, 0, 1])
    assert score_pose(view, under_table).score == pytest.approx(1.0)
    beside = CArm().pose(np.add(view.aim_ras, [200, 0, 0]), view.direction_ras, [0, 0, 1])
    found = score_pose(view, beside)
    assert (found.verdict, found.score, found.beside_mm) == ("off", 0.0, np.inf)
    assert "not in the picture" in found.advice
    shifted = CArm().pose(np.add(view.aim_ras, [20, 0, 0]), view.direction_ras, [0, 0, 1])
    assert score_pose(view, shifted).beside_mm == pytest.approx(20.0, rel=0.02)


def test_a_view_comes_back_from_its_record() -> None:
    for view in views().values():
        again = View.from_dict(view.to_dict())
        assert again.to_dict() == view.to_dict()


def test_tables_tell_the_operator_what_to_set() -> None:
    rows = {row["view"]: row for row in csv.DictReader(io.StringIO(table_csv(views())))}
    primary, secondary = views()["outlet"].geometry.positioner_angles_deg
    assert float(rows["outlet"]["primary_deg"]) == pytest.approx(primary, abs=0.06)
    assert float(rows["outlet"]["secondary_deg"]) == pytest.approx(secondary, abs=0.06)
    assert int(rows["outlet"]["open_s2_left_percent"]) > 70
    text = table_text(views())
    assert "CAU" in text and "CRA to the head" in text and "/" in text


def test_scales_of_the_c_arm_are_those_of_a_prone_patient() -> None:
    """The tube under the table, the detector above: an outlet tilts it to the head end."""
    view = replace(views()["outlet"], geometry=CArm().pose([0, 0, 0], direction_of_angles(0, -40.0), [0, 0, 1]))
    (row,) = csv.DictReader(io.StringIO(table_csv({"outlet": view})))
    assert float(row["angulation_deg"]) == pytest.approx(40.0)
    assert float(row["orbital_deg"]) == pytest.approx(0.0)
