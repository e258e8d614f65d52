"""A sacrum of planes and cylinders with a plan of both sides, as the search finds it."""

from __future__ import annotations

from functools import cache

from desktop.test_fluoroscopy import found
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.model import Plan
from sacroplasty.planning.search import plan_trajectories
from sacroplasty.scene import anatomy, nodes, planning


@cache
def searched() -> Plan:
    """The plan; searched once."""
    return plan_trajectories(PlanningContext(*found()))


def planned_case(scene):
    """CT, segmentation and plan of it."""
    ct, result = found()
    ct_node = nodes.add_volume(scene, ct, "CT")
    segmentation = anatomy.show_anatomy(scene, result, ct_node)
    planning.show_plan(scene, searched())
    return ct_node, segmentation
