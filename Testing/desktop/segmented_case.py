"""A segmented sacrum with something in every section of the segmentation module."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from sacroplasty.anatomy.fracture_model import Evidence, FractureSuggestion
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import transform_points
from sacroplasty.scene import anatomy, nodes
from simple_sacrum import SACRUM_TO_RAS, SimpleSacrum, simple_sacrum


def sacrum_point(left, posterior, superior):
    """A point of the simple sacrum's own axes, in RAS."""
    return transform_points(SACRUM_TO_RAS, [left, posterior, superior])


def suggestion(score: float) -> FractureSuggestion:
    return FractureSuggestion(
        center_ras=sacrum_point(40.0, 10.0, -30.0),
        normal_ras=SACRUM_TO_RAS[:3, 0],
        along_ras=SACRUM_TO_RAS[:3, 2],
        extent_mm=(40.0, 20.0),
        area_mm2=600.0,
        side="left",
        denis_zone=1,
        direction="vertical",
        score=score,
        evidence=(Evidence("cleft", 0.5, 62.0), Evidence("asymmetry", 0.5, 48.0)),
    )


@cache
def found() -> tuple[SimpleSacrum, Anatomy]:
    """The simple sacrum, one foramen closed, as the engine finds it; computed once."""
    case = simple_sacrum(2.5, closed=("s4", "left"))
    return case, segment_from_labels(case.ct, case.bones)


def segmented_case(scene):
    """CT and segmentation nodes of it, with two suggestions."""
    case, result = found()
    ct_node = nodes.add_volume(scene, case.ct, "CT")
    suggested = replace(result, fracture_suggestions=(suggestion(0.62), suggestion(0.41)))
    return ct_node, anatomy.show_anatomy(scene, suggested, ct_node)


def offset(mask: np.ndarray) -> np.ndarray:
    """A mask with a layer more, as a person paints it."""
    from scipy import ndimage

    return ndimage.binary_dilation(mask)
