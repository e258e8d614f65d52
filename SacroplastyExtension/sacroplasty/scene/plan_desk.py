"""A plan under a person's hands: search, drag, check, snap, mirror, choose and undo, with its lines in the views.

Each change is a new plan; the old ones are kept for undo. Slicer's own undo is off by default and would have to be
switched on for every node, so it is not used. Like Slicer's, this one ends with the session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from slicer import vtkMRMLMarkupsLineNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..anatomy.labels import SIDES
from ..errors import PlanError
from ..geometry import FloatArray
from ..planning.check import check_trajectory, mirrored
from ..planning.context import PlanningContext
from ..planning.depots import plan_depots
from ..planning.files import check_same_image
from ..planning.model import Plan, Side, Source, Trajectory, VolumeOverride
from ..planning.options import LARGEST_PER_ALA_ML, LARGEST_TOTAL_ML, PlanOptions
from ..planning.search import gaps_mm, leave_room, nearest_accepted, plan_trajectories, with_merits
from ..planning.search import plan_of as plan_holding
from .anatomy import RECORD_NAME as ANATOMY_RECORD
from .anatomy import anatomy_of
from .dicom import frame_of_reference
from .nodes import first_node, line_points, volume_of
from .planning import (
    TrajectoryRow,
    chosen,
    clearance_key,
    is_at,
    plan_lines,
    plan_of,
    set_visible,
    trajectory_rows,
    update_plan,
)
from .trocar_models import show_margin, show_shaft

#: Steps that undo can take back.
_STEPS = 50
#: Volumes are told in tenths [mL].
_SAME_ML = 0.05

LimitName = Literal["ala", "total"]
_USUAL_ML: dict[LimitName, float] = {"ala": LARGEST_PER_ALA_ML, "total": LARGEST_TOTAL_ML}
#: A trajectory with its line; None for one that gets a line when it comes into the scene.
_Pair = tuple[Trajectory, vtkMRMLMarkupsLineNode | None]
_Ends = tuple[ArrayLike, ArrayLike]
_Nodes = tuple[vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class LiveReading:
    """What is near a line where it is now, while a person drags it.

    Attributes:
        clearance_mm: of the shaft's surface from each structure, nearest first; minus infinity when not known.
        depth_mm: how deep below the entry of the line the nearest place lies.
    """

    clearance_mm: dict[str, float]
    depth_mm: float


@dataclass(frozen=True)
class _Step:
    """A plan before it was changed, with the lines of its trajectories."""

    plan: Plan
    line_ids: tuple[str, ...]


class PlanDesk:
    """The plan of one scene. What is kept in the scene comes back with it; distances and undo end with the session."""

    def __init__(self, scene: vtkMRMLScene) -> None:
        self._scene = scene
        self._nodes: _Nodes | None = None
        self._context: PlanningContext | None = None
        self._context_of: tuple[object, ...] = ()
        self._steps: list[_Step] = []
        self._image_hash = ""
        self._image_hash_of: tuple[object, ...] = ()

    # The patient

    def choose(self, ct_node: vtkMRMLScalarVolumeNode | None, segmentation: vtkMRMLSegmentationNode | None) -> None:
        """Say on which CT and segmentation to work."""
        self._nodes = (ct_node, segmentation) if ct_node is not None and segmentation is not None else None
        if self.why_foreign:
            # Over another patient a line would mislead.
            for line in plan_lines(self._scene).values():
                set_visible(line, False)

    @property
    def name(self) -> str:
        """Of the CT."""
        return "" if self._nodes is None else str(self._nodes[0].GetName())

    @property
    def frame_of_reference(self) -> str | None:
        """DICOM frame of reference of the CT; None when it has none."""
        return None if self._nodes is None else frame_of_reference(self._nodes[0])

    @property
    def why_foreign(self) -> str:
        """Why the scene's plan is not one of the chosen CT, in words; empty when it is, or nothing is chosen."""
        try:
            self._check_own(plan_of(self._scene))
        except PlanError as error:
            return str(error)
        return ""

    def _check_own(self, plan: Plan | None) -> None:
        if plan is not None and self._nodes is not None:
            ct_hash = self._hash_of(self._nodes[0])
            check_same_image(plan, ct_hash, self.frame_of_reference, "the plan of this scene")

    def _hash_of(self, ct_node: vtkMRMLScalarVolumeNode) -> str:
        image = ct_node.GetImageData()
        key = ct_node.GetID(), None if image is None else image.GetMTime()
        if self._image_hash_of != key:
            self._image_hash, self._image_hash_of = "" if image is None else volume_of(ct_node).content_hash(), key
        return self._image_hash

    def rows(self) -> list[TrajectoryRow]:
        """The trajectories of the plan; none of a plan that belongs to another CT."""
        return [] if self.why_foreign else trajectory_rows(self._scene)

    @property
    def is_ready(self) -> bool:
        """Whether the distances of this patient are known, and still belong to CT and segmentation."""
        return self._context is not None and self._nodes is not None and self._context_of == self._state()

    def context(self) -> PlanningContext:
        """What lines are checked against, computed anew after CT, segmentation or confirmations were changed.

        Raises:
            PlanError: when nothing can be planned on them.
        """
        if self._nodes is None:
            raise PlanError("select a CT and its segmentation first")
        if not self.is_ready:
            ct_node, segmentation = self._nodes
            anatomy = anatomy_of(self._scene, segmentation, ct_node)
            self._context = PlanningContext(volume_of(ct_node), anatomy, frame_of_reference(ct_node))
            self._context_of = self._state()
        assert self._context is not None
        return self._context

    def _state(self) -> tuple[object, ...]:
        """Changes whenever what was computed on CT and segmentation may no longer hold."""
        assert self._nodes is not None
        ct_node, segmentation = self._nodes
        record = first_node(self._scene, "vtkMRMLTextNode", ANATOMY_RECORD)
        # What a person confirmed stands in the record.
        return (*clearance_key(segmentation, ct_node), "" if record is None else record.GetText())

    # The whole plan

    def search(self, sides: Sequence[Side], options: PlanOptions, progress: Progress | None = None) -> Plan:
        """Search trajectories. Lines that a person drew or brought along stay, and are checked again.

        Raises:
            PlanError: when nothing can be searched; a plan without an accepted trajectory is no error but says why.
        """
        if not sides:
            raise PlanError("choose at least one side to plan")
        context = self.context()
        drawn = [] if self.why_foreign else [pair for pair in self._pairs() if pair[0].source != "search"]
        found = plan_trajectories(context, tuple(sides), options, progress)
        self._change([*((item, None) for item in found.trajectories), *self._checked(drawn, options)], found)
        self._show_best()
        return found

    def check_all(self, options: PlanOptions) -> None:
        """Judge every trajectory where its line is now, by its own technique and trocar and by these rules."""
        self._change(self._checked(self._pairs(), options), replace(self._plan(), **_rules(options)))

    def differs(self, options: PlanOptions) -> bool:
        """Whether the plan was judged by other margins, errors or limits than these."""
        plan = plan_of(self._scene)
        return plan is not None and _rules(plan) != _rules(options)

    def undo(self) -> None:
        """Take the last change back; first of all, lines that were moved and not checked.

        Raises:
            PlanError: when there is nothing to take back.
        """
        plan = plan_of(self._scene)
        if plan is not None and any(row.is_moved for row in trajectory_rows(self._scene)):
            update_plan(self._scene, plan, [plan_lines(self._scene).get(n) for n in range(len(plan.trajectories))])
            return
        if not self._steps:
            raise PlanError("there is nothing to undo")
        step = self._steps.pop()
        update_plan(self._scene, step.plan, [self._scene.GetNodeByID(one) if one else None for one in step.line_ids])
        self._show_best()

    @property
    def can_undo(self) -> bool:
        return bool(self._steps) or any(row.is_moved for row in trajectory_rows(self._scene))

    # One trajectory

    def add(self, ends: Sequence[_Ends], options: PlanOptions, source: Source = "manual") -> int:
        """Check lines that a person drew or brought along and make them part of the plan, accepted or not.

        Args:
            ends: entry and target of each, RAS.

        Returns:
            The number of the first.

        Raises:
            PlanError: when one of them cannot be measured; then none is added.
        """
        context, (pairs, plan) = self.context(), self._judged(options)
        sides = [_side_of(context, np.asarray(entry, float)) for entry, _ in ends]
        share = len({*sides, *(item.side for item, _ in pairs)})
        made = [
            check_trajectory(context, entry, target, side, options, share, source)
            for (entry, target), side in zip(ends, sides, strict=True)
        ]
        self._change([*pairs, *((item, None) for item in made)], plan)
        return self._number_of(made[0])

    def bring(self, items: Sequence[Trajectory], options: PlanOptions) -> int:
        """Make trajectories of another plan part of this one, each checked by its own technique and trocar.

        Returns:
            The number of the first that was not there yet.

        Raises:
            PlanError: when all of them were.
        """
        pairs, plan = self._judged(options)
        new = [item for item in items if not any(_is_same(item, known) for known, _ in pairs)]
        if not new:
            raise PlanError("all its trajectories are in the plan already")
        brought = self._checked([(replace(item, source="imported"), None) for item in new], options)
        self._change([*pairs, *brought], plan)
        return self._number_of(brought[0][0])

    def move(self, index: int, options: PlanOptions) -> int:
        """Check a line where a person has put it; it starts at the skin then. Returns its number."""
        context, (pairs, plan) = self.context(), self._judged(options)
        item, line = pairs[index]
        entry, target = line_points(line)
        side = _side_of(context, entry)
        moved = check_trajectory(context, entry, target, side, _own(options, item), _share(pairs, side), "manual")
        return self._replace(pairs, plan, index, moved)

    def snap(self, index: int, options: PlanOptions) -> int:
        """Move a line to the nearest trajectory that is accepted. Returns its number.

        Raises:
            PlanError: when there is none near it.
        """
        context, (pairs, plan) = self.context(), self._judged(options)
        item, line = pairs[index]
        safe = nearest_accepted(context, *line_points(line), item.side, _own(options, item), _share(pairs, item.side))
        return self._replace(pairs, plan, index, safe)

    def mirror(self, index: int, options: PlanOptions) -> int:
        """Copy a trajectory to the other side. Returns the number of the copy."""
        context, (pairs, plan) = self.context(), self._judged(options)
        item, _ = pairs[index]
        copy = mirrored(context, item, _own(options, item), 2)
        self._change([*pairs, (copy, None)], plan)
        return self._number_of(copy)

    def take(self, index: int) -> int:
        """Treat a side by this trajectory. Returns its new number.

        Raises:
            PlanError: when it is not accepted where its line is.
        """
        pairs = self._pairs()
        item, line = pairs[index]
        if not item.accepted:
            raise PlanError(f"a refused trajectory cannot be used: {'; '.join(item.reasons)}")
        if not is_at(line, item):
            raise PlanError(f"{line.GetName()} was moved and not checked since; check it first")
        self._change([pairs[index], *pairs[:index], *pairs[index + 1 :]], self._plan())
        return self._number_of(item)

    def delete(self, index: int) -> None:
        """Take a trajectory out of the plan."""
        pairs = self._pairs()
        self._change([*pairs[:index], *pairs[index + 1 :]], self._plan())

    def set_volume(self, index: int, volume_ml: float, reason: str, options: PlanOptions) -> None:
        """Plan another volume for a trajectory, in as many depots as it needs to fit.

        Args:
            reason: why more than the limits allow, or more than fits; goes into the plan.

        Raises:
            PlanError: without a reason where one is needed.
        """
        context, (pairs, plan) = self.context(), self._judged(options)
        item, line = pairs[index]
        reason = reason.strip()
        others_ml = sum(one.planned_volume_ml for one in chosen(plan).values() if one.side != item.side)
        used_ml: dict[LimitName, float] = {"ala": volume_ml, "total": volume_ml + others_ml}
        beyond = [what for what, used in used_ml.items() if used > _limit_ml(options.overrides, what)]
        structures = context.structures(item.technique, item.side)
        depots = plan_depots(structures, item.entry_bone, item.target, volume_ml, volume_ml)
        fits_ml = sum(depot.volume_ml for depot in depots)
        does_fit = fits_ml >= volume_ml - _SAME_ML
        if not reason and (beyond or not does_fit):
            why = [f"the limit is {_limit_ml(options.overrides, what):.1f} mL ({what})" for what in beyond]
            why += [] if does_fit else [f"only {fits_ml:.1f} mL fit"]
            raise PlanError(f"{volume_ml:.1f} mL need a reason, which is recorded: {', '.join(why)}")
        changed = replace(item, depots=depots)
        if not does_fit:
            note = f"more than the {fits_ml:.1f} mL that fit: {reason}"
            changed = changed.with_volume(volume_ml)
            changed = replace(changed, depots=tuple(replace(depot, note=note) for depot in changed.depots))
        overrides = {override.what: override for override in plan.overrides}
        overrides |= {what: VolumeOverride(what, used_ml[what], reason) for what in beyond}
        plan = replace(plan, overrides=tuple(overrides.values()))
        self._change([*pairs[:index], (changed, line), *pairs[index + 1 :]], plan)

    def margins(self) -> tuple[float, float]:
        """Smallest and preferred clearance that the plan was judged by, mm."""
        plan = plan_of(self._scene) or Plan((), "")
        return plan.margin_mm, plan.preferred_margin_mm

    def limits(self) -> tuple[tuple[float, float], str]:
        """Limits of volume that the plan was judged by, for one ala and in total, mL, and why they were changed."""
        plan = plan_of(self._scene)
        overrides = plan.overrides if plan is not None else ()
        reason = "; ".join(dict.fromkeys(override.reason for override in overrides))
        return (_limit_ml(overrides, "ala"), _limit_ml(overrides, "total")), reason

    def gaps_of_both_mm(self) -> tuple[float, float] | None:
        """Distance between shafts and between hubs when both sides are treated and that is too near; else None."""
        plan = plan_of(self._scene)
        used = list(chosen(plan).values()) if plan is not None else []
        return gaps_mm(*used) if len(used) == 2 and not leave_room(*used) else None

    # In the views

    def select(
        self, index: int, movable: bool = False, margin: bool = True, cement: bool = True
    ) -> vtkMRMLMarkupsLineNode:
        """Show one trajectory alone on its side; it can be dragged when `movable`, all others are locked."""
        plan, pairs = self._plan(), self._pairs()
        for number, (item, line) in enumerate(pairs):
            is_selected = number == index
            line.SetLocked(not (movable and is_selected))
            visible = is_selected or (item.side != pairs[index][0].side and bool(line.GetDisplayVisibility()))
            if visible and self.is_ready:
                self._draw(plan, item, line)
            set_visible(line, visible, margin and is_selected, cement)
        return pairs[index][1]

    def live(self, index: int) -> LiveReading | None:
        """Clearance of a line where it is now, drawn along its shaft; None while the distances are not known."""
        line = plan_lines(self._scene).get(index)
        if line is None or not self.is_ready:
            return None
        plan = self._plan()
        return self._draw(plan, plan.trajectories[index], line)

    def lock_all(self) -> None:
        """No line can be dragged any more."""
        for line in plan_lines(self._scene).values():
            line.SetLocked(True)

    def _draw(self, plan: Plan, item: Trajectory, line: vtkMRMLMarkupsLineNode) -> LiveReading:
        assert self._context is not None
        entry, target = line_points(line)
        where = (entry, target, item.needle, item.side, item.technique)
        shaft = self._context.profile(*where)
        diameter = item.needle.outer_diameter_mm
        show_shaft(line, shaft.points_ras, diameter, shaft.clearance_mm, plan.margin_mm, plan.preferred_margin_mm)
        show_margin(line, shaft.points_ras[[0, -1]], diameter, plan.margin_mm)
        nearest_mm = shaft.along_mm[-1] - shaft.along_mm[int(np.argmin(shaft.clearance_mm))]
        return LiveReading(self._context.clearance_mm(*where), float(nearest_mm))

    # The plan as it is and as it becomes

    def _plan(self) -> Plan:
        """The plan of the scene, or one without any trajectory.

        Raises:
            PlanError: when it was made on another CT than the one that is worked on.
        """
        plan = plan_of(self._scene)
        if plan is None:
            return plan_holding(self.context(), (), PlanOptions())
        self._check_own(plan)
        return plan

    def _pairs(self) -> list[tuple[Trajectory, vtkMRMLMarkupsLineNode]]:
        """Trajectories with their lines, in the plan's order."""
        plan, lines = plan_of(self._scene), plan_lines(self._scene)
        trajectories = plan.trajectories if plan is not None else ()
        lost = [number for number in range(len(trajectories)) if number not in lines]
        if plan is not None and lost:
            # A line was deleted elsewhere: what was checked is still there, and so the line comes back.
            update_plan(self._scene, plan, [lines.get(number) for number in range(len(trajectories))])
            lines = plan_lines(self._scene)
        return [(item, lines[number]) for number, item in enumerate(trajectories)]

    def _judged(self, options: PlanOptions) -> tuple[Sequence[_Pair], Plan]:
        """Trajectories and plan by these rules: checked again when they were judged by others."""
        pairs, plan = self._pairs(), self._plan()
        if _rules(plan) == _rules(options):
            return pairs, plan
        return self._checked(pairs, options), replace(plan, **_rules(options))

    def _checked(self, pairs: Sequence[_Pair], options: PlanOptions) -> list[_Pair]:
        """Trajectories where their lines are now. What was planned to be injected stays, where it still may."""
        context, checked = self.context(), list[_Pair]()
        for item, line in pairs:
            share, own = _share(pairs, item.side), _own(options, item)
            if line is not None and not is_at(line, item):
                found = check_trajectory(context, *line_points(line), item.side, own, share, "manual")
            else:
                found = check_trajectory(context, item.entry_skin, item.target, item.side, own, share, item.source)
                if 0 < item.planned_volume_ml <= own.limit_ml(share):
                    found = replace(found, depots=item.depots)
            checked.append((found, line))
        return checked

    def _replace(self, pairs: Sequence[_Pair], plan: Plan, index: int, item: Trajectory) -> int:
        self._change([*pairs[:index], (item, pairs[index][1]), *pairs[index + 1 :]], plan)
        return self._number_of(item)

    def _change(self, pairs: Sequence[_Pair], plan: Plan) -> None:
        """Make this the plan of the scene, in the order of its sides, and keep the one before it for undo."""
        before = plan_of(self._scene)
        if before is not None:
            lines = plan_lines(self._scene)
            ids = [lines[number].GetID() if number in lines else "" for number in range(len(before.trajectories))]
            self._steps = [*self._steps[1 - _STEPS :], _Step(before, tuple(ids))]
        ordered = sorted(pairs, key=lambda pair: pair[0].side)
        trajectories = _with_merits([item for item, _ in ordered])
        update_plan(self._scene, replace(plan, trajectories=trajectories), [line for _, line in ordered])

    def _show_best(self) -> None:
        """Only the trajectory by which each side is treated."""
        plan = self._plan()
        best = list(chosen(plan).values())
        for item, line in self._pairs():
            is_best = any(_is_same(item, one) for one in best)
            if is_best and self.is_ready:
                self._draw(plan, item, line)
            set_visible(line, is_best)

    def _number_of(self, item: Trajectory) -> int:
        """Where a trajectory has come to stand."""
        for number, (other, _) in enumerate(self._pairs()):
            if _is_same(other, item):
                return number
        raise PlanError("the trajectory is not in the plan")


def _is_same(a: Trajectory, b: Trajectory) -> bool:
    """Whether two trajectories lead the same way; read anew, they are equal but not the same object."""
    ends = np.allclose(a.entry_skin, b.entry_skin, atol=1e-3) and np.allclose(a.target, b.target, atol=1e-3)
    return bool(ends and a.side == b.side)


def _rules(judged: Plan | PlanOptions) -> dict[str, Any]:
    """What a trajectory is judged by, beside its own technique and trocar."""
    return {name: getattr(judged, name) for name in ("margin_mm", "preferred_margin_mm", "accuracy", "overrides")}


def _with_merits(items: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
    """Trajectories, ordered by sides, with what the accepted ones of each side are the best in."""
    result: list[Trajectory] = []
    for side in SIDES:
        of_side = [item for item in items if item.side == side]
        best = iter(with_merits([item for item in of_side if item.accepted]))
        result += [next(best) if item.accepted else replace(item, merits=()) for item in of_side]
    return tuple(result)


def _own(options: PlanOptions, item: Trajectory) -> PlanOptions:
    return replace(options, technique=item.technique, needle=item.needle)


def _share(pairs: Sequence[_Pair], side: Side) -> int:
    """How many sides the cement is for."""
    return len({side, *(item.side for item, _ in pairs)})


def _side_of(context: PlanningContext, entry_ras: FloatArray) -> Side:
    """The side on which a trocar enters."""
    SacrumToRAS = context.anatomy.SacrumToRAS
    return "left" if (entry_ras - SacrumToRAS[:3, 3]) @ SacrumToRAS[:3, 0] > 0 else "right"


def limit_overrides(ala_ml: float, total_ml: float, reason: str) -> tuple[VolumeOverride, ...]:
    """Those of the limits of volume that are not the usual ones."""
    wanted: dict[LimitName, float] = {"ala": ala_ml, "total": total_ml}
    return tuple(VolumeOverride(what, limit, reason) for what, limit in wanted.items() if limit != _USUAL_ML[what])


def _limit_ml(overrides: Sequence[VolumeOverride], what: LimitName) -> float:
    return next((override.limit_ml for override in overrides if override.what == what), _USUAL_ML[what])
