"""Beside a shaft that keeps too little, one is found that keeps enough by the labels, and only where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import FloatArray, transform_points, unit
from sacroplasty.planning.approaches import Rules
from sacroplasty.planning.check import ENTRY_LATERAL_MM, check_trajectory, keeps_rule
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.narrow_paths import NarrowPaths
from sacroplasty.planning.needles import needle
from sacroplasty.planning.options import PlanOptions
from sacroplasty.planning.search import plan_trajectories
from simple_sacrum import simple_sacrum

_RADIUS_MM = needle(11).radius_mm


@pytest.fixture(scope="module")
def context() -> PlanningContext:
    truth = simple_sacrum()
    return PlanningContext(truth.ct, segment_from_labels(truth.ct, truth.bones))


def paths(context: PlanningContext, margin_mm: float) -> NarrowPaths:
    rules = Rules(context, "short-axis", "left")
    return NarrowPaths(
        context.structures(), rules, "left", lambda along: np.full(len(along), margin_mm + _RADIUS_MM), behind_mm=60.0
    )


def kept_mm(context: PlanningContext, entry: FloatArray, target: FloatArray) -> float:
    ends = transform_points(context.view().ViewToRAS, np.stack([entry, target]))
    item = check_trajectory(context, ends[0] + 5 * unit(ends[0] - ends[1]), ends[1], "left")
    return min(item.clearance_mm.values())


@pytest.fixture(scope="module")
def good(context: PlanningContext) -> FloatArray:
    """Entry and target of an accepted path off the rule, in view coordinates."""
    item = plan_trajectories(context, ("left",), PlanOptions(margin_mm=4.0)).trajectories[0]
    assert item.accepted
    return transform_points(context.view().RASToView, np.stack([item.entry_bone, item.target]))


@pytest.mark.parametrize("moved", [(2.0, 0, 0, -2.0, 0, 0), (-2.0, 0, 1.5, 1.5, 0, 0), (0, 0, -2.0, -1.0, 1.0, 2.0)])
def test_from_a_shaft_beside_a_good_one_the_way_back_is_found(context, good, moved) -> None:
    most = kept_mm(context, *good)
    entry, target = good + np.reshape(moved, (2, 3))
    margin = most - 0.3
    start = kept_mm(context, entry, target)
    found = list(paths(context, margin).beside(entry, target, ruled=False))
    assert found
    assert max(kept_mm(context, *ends) for ends in found) >= margin > start


def test_where_much_more_is_asked_for_nothing_is_found(context: PlanningContext, good: FloatArray) -> None:
    assert not list(paths(context, kept_mm(context, *good) + 4.0).beside(*good, ruled=False))


def test_a_ruled_path_enters_where_the_rule_says(context: PlanningContext, good: FloatArray) -> None:
    rules = Rules(context, "short-axis", "left")
    edge = transform_points(context.view().RASToView, context.anatomy.foramina["foramen_s2_left"].lateral_edge_ras)
    on_rule = np.array([edge[0] + ENTRY_LATERAL_MM[0] + 1, *good[0, 1:]])
    (low, high), up = rules.entry_bounds_mm(on_rule, 3.0, ruled=True)
    assert -1.0 <= low < -0.5 and high == 3.0 and up == (-3.0, 3.0)
    assert rules.entry_bounds_mm(on_rule, 3.0, ruled=False)[0] == (-3.0, 3.0)


def test_the_planner_accepts_such_a_path_first(context: PlanningContext) -> None:
    best = plan_trajectories(context, ("left",)).trajectories[0]
    assert best.accepted and keeps_rule(best.lateral_to_s2_mm) and min(best.clearance_mm.values()) >= 3.0
