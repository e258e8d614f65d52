"""A finished procedure in the scene, with the records by which every module shows what was done."""

from __future__ import annotations

from slicer import vtkMRMLScene, vtkMRMLSegmentationNode

from ..procedure.case import Case
from ..procedure.navigate import target_error_mm
from . import cement, navigation
from .anatomy import show_anatomy
from .calibration import show_calibration
from .nodes import add_volume
from .planning import show_plan
from .workflow import write_step


def show_case(scene: vtkMRMLScene, case: Case) -> vtkMRMLSegmentationNode:
    """Show CT, anatomy, plan, registration, trocars and cement, and how each step ended.

    Returns:
        The segmentation.
    """
    ct = add_volume(scene, case.ct, "CT")
    segmentation = show_anatomy(scene, case.anatomy, ct)
    show_plan(scene, case.plan)
    for calibration in case.calibrations.values():
        show_calibration(scene, calibration)
    if case.registration is not None:
        errors = [target_error_mm(case, case.registration, target) for target in case.targets.values()]
        navigation.show_registration(scene, case.registration, max(errors))
    for side, placed in case.trocars.items():
        navigation.show_trocar(scene, side, placed, case.targets[side])
    if case.injections:
        # Nothing is injected before the cement was mixed and the views were set and learned.
        write_step(scene, "position", True, ["views set and learned"])
        write_step(scene, "cement", True, ["mixed"])
        given = {side: record.given_ml for side, record in case.injections.items()}
        cement.show_injections(scene, given, case.stopped.stopped if case.stopped is not None else "")
    if case.refused:
        step = "trocar" if case.registration is not None else "registration"
        write_step(scene, "injection" if case.trocars else step, False, [case.refused])
    return segmentation
