"""Live guidance read from transform nodes, whoever moves them: our own devices, SlicerOpenIGTLink or a recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import vtk

import slicer
from slicer import vtkMRMLLinearTransformNode, vtkMRMLMarkupsLineNode, vtkMRMLScene

from ..errors import CalibrationError, SacroplastyError
from ..geometry import FloatArray, angle_between_deg, invert_rigid, rigid, rotation_between, unit
from ..navigation.alarms import GuidanceAlarms
from ..navigation.guidance import GuidanceReading, blank, guide
from ..navigation.smoothing import PoseSmoother
from ..navigation.watchdog import Level, Watchdog, WorkingVolume
from ..planning.model import Trajectory
from ..planning.pose_uncertainty import PoseUncertainty
from ..procedure.case import PlacedTrocar
from ..procedure.navigate import LARGEST_TARGET_ERROR_MM, TrocarError, budget_at_target, navigation_error_mm
from .anatomy import readable
from .calibration import calibration_of, tool_name, usable_tip
from .devices import REFERENCE_TO_RAS, pose_problem, recording_of
from .navigation import ijk_to_ras, registration_of, registration_problem, show_trocar
from .nodes import first_node, matrix_of
from .planning import trajectory_of

if TYPE_CHECKING:
    from ..navigation.clearance import ShaftClearance

#: A final position is the mean of the poses of so long, which lie within so much of each other.
_REST_S, _REST_MM, _FEWEST_AT_REST = 0.5, 1.5, 5


@dataclass(frozen=True)
class _Facts:
    """What guidance rests on besides poses; `problem` says in words what is lacking."""

    trajectory: Trajectory | None = None
    ToolToTip: FloatArray | None = None
    error: TrocarError | None = None
    target_error_mm: float = float("nan")
    problem: str = ""


class Guide:
    """Guidance of one tip along one planned line.

    A pose is judged when its node changes, and the reading made from it at once; asking for the reading is cheap, and
    blanks it when the pose has grown old meanwhile.

    Attributes:
        alarms: the warnings that stand; `reading` brings them up to date.
        uncertainty: of the trocar's place at the newest reading; None before the first.
    """

    def __init__(
        self,
        scene: vtkMRMLScene,
        tip: vtkMRMLLinearTransformNode,
        line: vtkMRMLMarkupsLineNode,
        clock: Callable[[], float],
        today: Callable[[], datetime],
        clearance: ShaftClearance | None = None,
        volume: WorkingVolume | None = None,
        smoothing_s: float = 0.0,
        shown_s: float = 0.0,
    ) -> None:
        """
        Args:
            tip: the transform of the tip, under that of its tool, under the registration.
            clock: seconds. Poses that were there before count as never seen.
            today: the date with its time zone, by which a calibration grows old.
            clearance: of this patient; without it the clearance is not known.
            volume: of the tracker; without it no edge is known.
            smoothing_s: the delay that smoothing may add to a pose; it counts as age.
            shown_s: how long a reading stays on the screen until the next one is asked for; it counts as age too.
        """
        self._scene, self._tip, self._line = scene, tip, line
        self._clock, self._clearance, self._today = clock, clearance, today
        self._dog = Watchdog(volume)
        self._smoother = PoseSmoother(smoothing_s)
        self._delay_s, self._shown_s = 0.0, shown_s
        self._changed: dict[str, int] = {}
        self._facts_of: tuple[object, ...] = ()
        self._facts = _Facts()
        self._seen = blank("no pose came yet")
        self._poses: deque[tuple[float, FloatArray]] = deque(maxlen=512)
        self.alarms = GuidanceAlarms()
        self.uncertainty: PoseUncertainty | None = None
        for node in self._tracked():
            # What is there already is no measurement of now.
            self._changed[node.GetID()] = node.GetTransformToParent().GetMTime()
        self._tag = tip.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._on_pose)

    def close(self) -> None:
        """Stop following the tip."""
        self._tip.RemoveObserver(self._tag)

    @property
    def trajectory(self) -> Trajectory | None:
        """The plan that is followed; None when the line is none of the plan's."""
        return self._known().trajectory

    def reading(self) -> GuidanceReading:
        """Where the tip is against the plan; not valid, with the reason, when that is not known."""
        now_s = self._clock()
        problem = self._known().problem or self._chain_problem() or self._tool_problem(now_s)
        if problem:
            self._forget()
            self._seen = blank(problem)
        self.alarms.update(self._seen, now_s)
        return self._seen

    def watch_text(self) -> tuple[Level, str]:
        """How far the tracking can be relied upon, and what to see to, in words."""
        now_s = self._clock()
        states = [
            self._dog.state(node.GetName(), now_s) for node in self._tracked() if node.GetName() in self._dog.names
        ]
        worst = max(states, key=lambda state: ("ok", "check", "lost").index(state.level), default=None)
        return ("lost", "no tool is tracked") if worst is None else (worst.level, worst.text)

    def not_live(self) -> str:
        """What is replayed, in words; empty when the tracker is live."""
        tool = self._tip.GetParentTransformNode()
        return recording_of(self._scene, tool) if tool is not None else ""

    def place(self, although_off: bool = False) -> PlacedTrocar:
        """Record that the trocar is left where it rests now.

        Args:
            although_off: also when that is not the target, as a person wants it.

        Raises:
            CalibrationError: when its place is not known, not at rest, not the target, or not surely clear of what is
                protected.
        """
        seen = self.reading()
        trajectory = self._facts.trajectory
        if not seen.valid or trajectory is None:
            raise CalibrationError(f"the place of the trocar is not known: {seen.reason}")
        if self.not_live():
            raise CalibrationError(f"this is no patient: {self.not_live()}")
        if seen.phase != "at-target" and not although_off:
            raise CalibrationError(
                f"the trocar is not at its target: {seen.depth_to_target_mm:.0f} mm left, "
                f"{seen.offset_from_line_mm:.1f} mm off the line"
            )
        rest = [pose for time_s, pose in self._poses if time_s >= self._clock() - _REST_S]
        tips = np.array([pose[:3, 3] for pose in rest])
        if len(rest) < _FEWEST_AT_REST or float(np.ptp(tips, axis=0).max()) > _REST_MM:
            raise CalibrationError("the trocar moves; let it rest for a second and record it then")
        tip, ahead = tips.mean(axis=0), unit(np.mean([pose[:3, 2] for pose in rest], axis=0))
        mean = rigid(rotation_between([0, 0, 1], ahead), tip)
        rests = guide(mean, 0.0, trajectory, self._clearance, self.uncertainty)
        if rests.may_touch:
            name = readable(rests.nearest.structure) if rests.nearest else "a protected structure"
            raise CalibrationError(f"the shaft may touch {name}; draw back and look")
        placed = PlacedTrocar(
            tip_ras=tip,
            hub_ras=tip - ahead * trajectory.length_mm,
            target_error_mm=float(np.linalg.norm(tip - trajectory.target)),
            angle_deg=angle_between_deg(ahead, trajectory.target - trajectory.entry_skin),
            predicted_error_mm=self._facts.target_error_mm,
        )
        show_trocar(self._scene, trajectory.side, placed, trajectory)
        return placed

    def _on_pose(self, caller: object, event: object) -> None:
        now_s = self._clock()
        new = [node for node in self._tracked() if self._is_new(node)]
        for node in new:
            # Against a tool of the scene there is only its own mark; a mark that comes later is asked for then.
            self._dog.observe(node.GetName(), matrix_of(node), now_s, pose_problem(node))
        if new and not (self._known().problem or self._chain_problem() or self._tool_problem(now_s)):
            self._read(now_s)

    def _read(self, now_s: float) -> None:
        """Make the reading of the pose of now."""
        facts = self._facts
        assert facts.trajectory is not None and facts.error is not None and facts.ToolToTip is not None
        pose, self._delay_s = self._smoother.add(self._tip_to_ras(), now_s)
        self._poses.append((now_s, pose))
        self.uncertainty = facts.error.at(pose @ facts.ToolToTip)
        self._seen = guide(pose, self._delay_s, facts.trajectory, self._clearance, self.uncertainty)

    def _tracked(self) -> list[vtkMRMLLinearTransformNode]:
        """The tool to the reference, and tool and reference to the tracker where the scene has them."""
        tool = self._tip.GetParentTransformNode()
        if tool is None:
            return []
        names = (f"{tool_name(tool)}ToTracker", "ReferenceToTracker")
        others = [first_node(self._scene, "vtkMRMLLinearTransformNode", name) for name in names]
        return [tool, *(node for node in others if node is not None)]

    def _is_new(self, node: vtkMRMLLinearTransformNode) -> bool:
        # Not the node's own time: marks of validity must not look like a new pose.
        changed = node.GetTransformToParent().GetMTime()
        is_new = self._changed.get(node.GetID()) != changed
        self._changed[node.GetID()] = changed
        return is_new

    def _tool_problem(self, now_s: float) -> str:
        """Why the tool's pose must not be used now, in words; empty when it may."""
        tracked = self._tracked()
        if not tracked:
            return "the tip stands under no tool"
        for node in tracked:
            problem = pose_problem(node)
            if problem:
                return problem if tool_name(node) in problem else f"{tool_name(node)}: {problem}"
        state = self._dog.state(tracked[0].GetName(), now_s + self._delay_s + self._shown_s)
        if state.matrix is None:
            return state.text
        names = [node.GetName() for node in tracked[1:] if node.GetName() in self._dog.names]
        for name in names:
            state = self._dog.state(name, now_s)
            if state.edge_mm < 0:
                return state.text
        return self._dog.exchanged(names[0], names[1], now_s) if len(names) == 2 else ""

    def _chain_problem(self) -> str:
        """Every transform from the tip to the patient must be valid, and the last of them be the registration."""
        node, last = self._tip, ""
        while node is not None:
            node, last = node.GetParentTransformNode(), node.GetName()
        return (
            "" if last == REFERENCE_TO_RAS else f"the tip stands under {last or 'nothing'}, not under the registration"
        )

    def _known(self) -> _Facts:
        """What the scene says of plan, registration and calibration; read anew only when one of them changed."""
        scene = self._scene
        texts = (
            scene.GetNthNodeByClass(k, "vtkMRMLTextNode")
            for k in range(scene.GetNumberOfNodesByClass("vtkMRMLTextNode"))
        )
        key = tuple((node.GetID(), node.GetMTime()) for node in texts)
        if key != self._facts_of:
            self._facts_of, self._facts = key, self._read_facts()
        return self._facts

    def _read_facts(self) -> _Facts:
        try:
            trajectory = trajectory_of(self._scene, self._line)
        except SacroplastyError as error:
            return _Facts(problem=str(error))
        problem = registration_problem(self._scene)
        registration, tool = registration_of(self._scene), self._tip.GetParentTransformNode()
        calibration = calibration_of(self._scene, tool_name(tool)) if tool is not None else None
        try:
            if not problem and tool is not None:
                usable_tip(self._scene, tool, self._today())
        except CalibrationError as error:
            problem = str(error)
        if problem or registration is None or calibration is None:
            return _Facts(trajectory, problem=problem or "the trocar is not calibrated")
        IJKToRAS = ijk_to_ras(self._scene)
        error_mm = navigation_error_mm(budget_at_target(calibration, registration, trajectory, IJKToRAS))
        if not error_mm <= LARGEST_TARGET_ERROR_MM:
            problem = (
                f"the expected error of the tip at the target is {error_mm:.1f} mm, "
                f"limit {LARGEST_TARGET_ERROR_MM:.1f}: register or calibrate better"
            )
        follower = TrocarError(calibration, registration, IJKToRAS)
        return _Facts(trajectory, invert_rigid(calibration.TipToTool), follower, error_mm, problem)

    def _forget(self) -> None:
        """Nothing of a tool that was lost goes on into what comes after."""
        self._smoother.reset()
        self._poses.clear()
        self._delay_s = 0.0

    def _tip_to_ras(self) -> FloatArray:
        matrix = vtk.vtkMatrix4x4()
        self._tip.GetMatrixTransformToWorld(matrix)
        return slicer.util.arrayFromVTKMatrix(matrix)
