"""A sacrum of planes and cylinders in the scene, with a desk to plan on it."""

from __future__ import annotations

from copy import copy
from functools import cache

import numpy as np

from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import transform_points
from sacroplasty.image import Volume
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.model import Plan
from sacroplasty.planning.search import plan_trajectories
from sacroplasty.scene import anatomy, nodes
from sacroplasty.scene.plan_desk import PlanDesk
from simple_sacrum import USUAL_SACRUM_TO_RAS, simple_sacrum


@cache
def segmented() -> tuple[Volume, Anatomy]:
    """CT and anatomy of the simple sacrum in the usual position; computed once."""
    sacrum = simple_sacrum(2.5, SacrumToRAS=USUAL_SACRUM_TO_RAS)
    return sacrum.ct, segment_from_labels(sacrum.ct, sacrum.bones)


@cache
def context() -> PlanningContext:
    """Its distances."""
    return PlanningContext(*segmented())


def ready_context(ct: Volume, anatomy: Anatomy, frame_of_reference: str | None) -> PlanningContext:
    """The same, in place of the class: what takes seconds was computed before."""
    made = copy(context())
    made.frame_of_reference = frame_of_reference
    return made


@cache
def searched() -> Plan:
    """Its plan, as the search finds it."""
    return plan_trajectories(context())


def point(left: float, posterior: float, superior: float) -> np.ndarray:
    """A point of the sacrum's own axes, in RAS."""
    return transform_points(USUAL_SACRUM_TO_RAS, [left, posterior, superior])


def desk_in(scene) -> PlanDesk:
    """CT and segmentation in the scene, and the desk that works on them."""
    ct, found = segmented()
    ct_node = nodes.add_volume(scene, ct, "CT")
    desk = PlanDesk(scene)
    desk.choose(ct_node, anatomy.show_anatomy(scene, found, ct_node))
    return desk
