"""A sacrum of planes and cylinders with a plan of both sides, as the search finds it."""

from __future__ import annotations

from sacroplasty.scene import anatomy, nodes, planning
from scene.planned_sacrum import searched, segmented


def planned_case(scene):
    """CT, segmentation and plan of it."""
    ct, found = segmented()
    ct_node = nodes.add_volume(scene, ct, "CT")
    segmentation = anatomy.show_anatomy(scene, found, ct_node)
    planning.show_plan(scene, searched())
    return ct_node, segmentation
