"""How far a case has come: the eleven steps of the procedure, each judged by what the scene holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from slicer import vtkMRMLScene

from ..errors import DocumentError
from .anatomy import RECORD_NAME as ANATOMY_RECORD
from .anatomy import SEGMENTATION_NAME
from .nodes import volumes_in
from .planning import RECORD_NAME as PLAN_RECORD
from .records import read_record, write_record

#: `to do`: waits for an earlier step. `ready`: can be done now. `blocked`: was tried and refused.
State = Literal["to do", "ready", "done", "blocked"]


@dataclass(frozen=True)
class WorkflowStep:
    """One step of the procedure as a case stands.

    `module` is the name of the Slicer module that does it. `reason` says in plain words why the step waits or was
    refused, or what is there; it can be empty.
    """

    key: str
    module: str
    state: State
    reason: str


@dataclass(frozen=True)
class _Step:
    key: str
    module: str
    needs: tuple[str, ...]
    judge: Callable[[vtkMRMLScene], tuple[State, str]]


def workflow_steps(scene: vtkMRMLScene) -> list[WorkflowStep]:
    """All steps in order. A step is never `ready` before the ones it needs are done."""
    done: set[str] = set()
    steps = []
    for step in _STEPS:
        try:
            state, reason = step.judge(scene)
        except DocumentError as error:
            state, reason = "blocked", str(error)
        missing = [need for need in step.needs if need not in done]
        if state == "ready" and missing:
            state, reason = "to do", f"after {', '.join(name.replace('_', '-') for name in missing)}"
        if state == "done":
            done.add(step.key)
        steps.append(WorkflowStep(step.key, step.module, state, reason))
    return steps


def step_record_name(key: str) -> str:
    """Name of the record that says how a step ended, for the steps without a richer record of their own."""
    return f"Sacroplasty step {key}"


def write_step(scene: vtkMRMLScene, key: str, accepted: bool, reasons: list[str]) -> None:
    """Record how a step ended: accepted, or refused for these reasons (plain sentences)."""
    if key not in {step.key for step in _STEPS}:
        raise KeyError(f"no step of the procedure is called {key}")
    write_record(scene, step_record_name(key), {"accepted": accepted, "reasons": reasons})


def _recorded(key: str) -> Callable[[vtkMRMLScene], tuple[State, str]]:
    """Judge of a step by its record. Only a plain `true` counts as accepted."""

    def judge(scene: vtkMRMLScene) -> tuple[State, str]:
        record = read_record(scene, step_record_name(key))
        if record is None:
            return "ready", ""
        reason = "; ".join(str(text) for text in record.get("reasons", []))
        return ("done" if record.get("accepted") is True else "blocked"), reason

    return judge


def _withdrawal(scene: vtkMRMLScene) -> tuple[State, str]:
    """The trocar comes out after an injection that was stopped as well."""
    if read_record(scene, step_record_name("withdrawal")) is None and (
        read_record(scene, step_record_name("injection")) is None
    ):
        return "to do", "after injection"
    return _recorded("withdrawal")(scene)


def _imaging(scene: vtkMRMLScene) -> tuple[State, str]:
    if read_record(scene, ANATOMY_RECORD) is not None and scene.GetFirstNodeByName(SEGMENTATION_NAME) is not None:
        return "done", ""
    if volumes_in(scene):
        return "ready", "segment the CT"
    return "ready", "load a CT of the pelvis"


def _plan(scene: vtkMRMLScene) -> tuple[State, str]:
    record = read_record(scene, PLAN_RECORD)
    if record is None:
        return "ready", ""
    trajectories: list[dict[str, Any]] = record.get("trajectories", [])
    accepted = sum(trajectory.get("accepted") is True for trajectory in trajectories)
    if accepted:
        return "done", f"{accepted} of {len(trajectories)} trajectories accepted"
    return "blocked", "no trajectory is acceptable"


_STEPS = (
    _Step("indication", "SacroplastyReport", (), _recorded("indication")),
    _Step("imaging", "SacroplastySegmentation", (), _imaging),
    _Step("plan", "SacroplastyPlanning", ("imaging",), _plan),
    _Step("position", "SacroplastyFluoroscopy", ("plan",), _recorded("position")),
    _Step("registration", "SacroplastyNavigation", ("plan",), _recorded("registration")),
    _Step("trocar", "SacroplastyNavigation", ("indication", "registration"), _recorded("trocar")),
    _Step("cement", "SacroplastyCementMonitor", ("trocar",), _recorded("cement")),
    _Step("injection", "SacroplastyCementMonitor", ("trocar", "cement"), _recorded("injection")),
    _Step("withdrawal", "SacroplastyCementMonitor", (), _withdrawal),
    _Step("verification", "SacroplastyFluoroscopy", ("withdrawal",), _recorded("verification")),
    _Step("follow_up", "SacroplastyReport", ("verification",), _recorded("follow_up")),
)
