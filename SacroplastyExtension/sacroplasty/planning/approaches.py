"""Where each technique enters the bone, where it aims, and how it may point: candidates for the search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..anatomy.frame import sample_mask
from ..anatomy.labels import REGION_LABEL
from ..errors import PlanError
from ..geometry import FloatArray, invert_rigid, transform_points
from .check import ENTRY_LATERAL_MM, surface_point
from .context import PlanningContext
from .model import Side, Technique, target_region
from .sacrum_view import SacrumView

#: Aims: the anterior third of the ala, at the height of the middle of the S1 body [mm below its endplate].
_ANTERIOR_PART, _SEARCHED_PART = 1 / 3, 0.6
_AIM_BELOW_ENDPLATE_MM, _AIM_REACH_MM = 12.0, 24.0
#: Steps of entries and of targets [mm], and how far a trocar goes at least into the bone.
_ENTRY_STEP_MM, _TARGET_STEP_MM, _LEAST_DEPTH_MM = 2.0, 2.5, 12.0
#: Least number of pairs that are tried on a side; the steps shrink until there are as many.
LEAST_PAIRS = 100_000
#: The entry rule is meant for the real foramen, whose edge is found to some half a millimetre: entries this near to the
#: ends of the rule are worth less [mm].
_RULE_SLACK_MM = 0.75
#: Where a trocar meets bone is found again on the labels, beside the entry that was searched by up to this [mm].
_RULE_INSET_MM = 0.2


@dataclass(frozen=True)
class _Approach:
    """Where a technique enters and how it points.

    Attributes:
        lateral_mm: entry zone lateral to the S2 foramen edge.
        upper, lower: posterior foramina between whose levels the entry lies, with what is added above and below [mm].
        tilt_deg: smallest and largest angle between shaft and the direction of the foramina.
        rule: whether the entry rule of the short axis holds.
    """

    lateral_mm: tuple[float, float]
    upper: tuple[str, float]
    lower: tuple[str, float]
    tilt_deg: tuple[float, float]
    rule: bool = False


_APPROACHES: dict[Technique, _Approach] = {
    # Posterolateral, through the ala from behind; the edge of the foramen and a margin are the medial limit.
    "short-axis": _Approach((4.5, 28.0), ("s2", 8.0), ("s3", 4.0), (0.0, 60.0), rule=True),
    # From the caudal end upwards, within the plane of the ala.
    "long-axis": _Approach((4.0, 28.0), ("s2", -8.0), ("s3", 14.0), (40.0, 85.0)),
    # Beside and between the foramina, through what was the pedicle.
    "body-s1": _Approach((-12.0, 24.0), ("s1", 22.0), ("s2", 0.0), (0.0, 70.0)),
    "body-s2": _Approach((-12.0, 24.0), ("s1", 0.0), ("s3", 0.0), (0.0, 70.0)),
    "body-s3": _Approach((-12.0, 20.0), ("s2", 0.0), ("s4", 0.0), (0.0, 70.0)),
    # Through the ilium and the joint, from the side.
    "transiliac": _Approach((0.0, 0.0), ("s1", 20.0), ("s2", -6.0), (25.0, 100.0)),
}
_APPROACHES["double-needle"] = _APPROACHES["short-axis"]


@dataclass(frozen=True)
class Candidates:
    """Entry-target pairs in view coordinates, arrays of length n.

    Attributes:
        penalty: distance from what is preferred.
        ruled: whether the entry keeps the rule of the technique; always where there is none.
    """

    entry: FloatArray
    target: FloatArray
    penalty: FloatArray
    ruled: NDArray[np.bool_]

    def part(self, index: NDArray[np.int_]) -> Candidates:
        """Those at the indices."""
        return Candidates(self.entry[index], self.target[index], self.penalty[index], self.ruled[index])


class Rules:
    """Where entries and targets of one side may lie and how far they are from what is published."""

    def __init__(self, context: PlanningContext, technique: Technique, side: Side) -> None:
        """
        Raises:
            PlanError: when a foramen that the entry is measured from is not known.
        """
        self.view: SacrumView = context.view(technique)
        self._anatomy, self._technique, self._side = context.anatomy, technique, side
        self._approach = _APPROACHES[technique]
        self._sign = 1.0 if side == "left" else -1.0
        self._edges = {
            level: transform_points(self.view.RASToView, context.anatomy.foramina[name].lateral_edge_ras)
            for level in ("s1", "s2", "s3", "s4")
            if (name := f"foramen_{level}_{side}") in context.anatomy.foramina
        }
        for level in dict.fromkeys(("s2", "s3", self._approach.upper[0], self._approach.lower[0])):
            if level not in self._edges:
                raise PlanError(
                    f"foramen_{level}_{side} is not known, and the entry is measured from it; segment again"
                )
        self._target_name = target_region(technique, side)
        label = REGION_LABEL[self._target_name]
        self._target_region = self._anatomy.regions.like(self._anatomy.regions.voxels == label)
        self._ViewToSacrum = invert_rigid(self._anatomy.SacrumToRAS) @ self.view.ViewToRAS

    def all_pairs(self) -> Candidates:
        """At least 100,000 pairs of entries and targets, less those that point where the technique does not.

        Raises:
            PlanError: when there is no entry or no target.
        """
        entry_step, target_step = _ENTRY_STEP_MM, _TARGET_STEP_MM
        while True:
            entries, targets = self._entries(entry_step), self._targets(target_step)
            if not len(entries) or not len(targets):
                what = "cortex to enter through" if not len(entries) else f"{self._target_name} to aim at"
                raise PlanError(
                    f"there is no {what} on the {self._side} in this anatomy; check the sacrum label and its regions"
                )
            if len(entries) * len(targets) >= LEAST_PAIRS or target_step < 1.0:
                break
            entry_step, target_step = 0.85 * entry_step, 0.85 * target_step
        found = self.pairs(np.repeat(entries, len(targets), axis=0), np.tile(targets, (len(entries), 1)))
        if not len(found.entry):
            raise PlanError(
                f"no path on the {self._side} has the direction that {self._technique} asks for; "
                "choose another technique"
            )
        return found

    def neighbors(self, entry: FloatArray, target: FloatArray, offsets: FloatArray) -> Candidates:
        """Pairs (n, 3), (n, 3) moved by each of the offsets (m, 5): of the entry along its axes, of the target."""
        count = len(offsets)
        entry, target = np.repeat(entry, count, axis=0), np.repeat(target, count, axis=0)
        moves = np.tile(offsets, (len(entry) // count, 1))
        if self._technique == "transiliac":
            entry = self._on_ilium(entry[:, 1] + moves[:, 0], entry[:, 2] + moves[:, 1])
        else:
            entry = surface_point(self.view, entry[:, 0] + moves[:, 0], entry[:, 2] + moves[:, 1])
            beside = self._beside(entry)
            entry[(beside < self._approach.lateral_mm[0]) | (beside > self._approach.lateral_mm[1])] = np.nan
        target = target + moves[:, 2:]
        kept = np.flatnonzero(np.isfinite(entry).all(axis=1))
        kept = kept[self.in_target(target[kept])]
        return self.pairs(entry[kept], target[kept])

    @property
    def entry_axes(self) -> list[int]:
        """The two axes of the view along which `neighbors` moves an entry."""
        return [1, 2] if self._technique == "transiliac" else [0, 2]

    def entry_bounds_mm(self, entry: FloatArray, reach_mm: float, ruled: bool) -> list[tuple[float, float]]:
        """How far an entry may be moved along each of its axes: by a reach, and no farther than the technique allows.

        Args:
            ruled: whether it must keep the rule of the technique.
        """
        first, second = (-reach_mm, reach_mm), (-reach_mm, reach_mm)
        if self._technique != "transiliac":
            limits = np.array(self._approach.lateral_mm)
            if ruled and self._approach.rule:
                limits = np.add(ENTRY_LATERAL_MM, (_RULE_INSET_MM, -_RULE_INSET_MM))
            room = self._sign * (limits - self._beside(entry[None]))
            low, high = np.clip(np.sort(room), -reach_mm, reach_mm)
            first = (min(float(low), 0.0), max(float(high), 0.0))
        return [first, second]

    def in_target(self, points: FloatArray) -> NDArray[np.bool_]:
        """Whether view points (n, 3) lie in the searched part of the target's region."""
        if not len(points):
            return np.zeros(0, bool)
        inside = sample_mask(self._target_region, transform_points(self.view.ViewToRAS, points)) > 0.5
        part, off_height = self._place(points)
        if self._technique.startswith("body"):
            return inside & (part <= _SEARCHED_PART)
        return inside & (part <= _SEARCHED_PART) & (off_height <= _AIM_REACH_MM)

    def pairs(self, entry: FloatArray, target: FloatArray) -> Candidates:
        """Those of the pairs (n, 3), (n, 3) that the approach allows."""
        direction = target - entry
        length = np.linalg.norm(direction, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            tilt = np.degrees(np.arccos(np.clip(-direction[:, 1] / length, -1, 1)))
            kept = (
                (length >= _LEAST_DEPTH_MM)
                & (tilt >= self._approach.tilt_deg[0])
                & (tilt <= self._approach.tilt_deg[1])
            )
        entry, target, tilt = entry[kept], target[kept], tilt[kept]
        if not self._approach.rule:
            return Candidates(entry, target, self._off_target(target), np.ones(len(entry), bool))
        beside = self._beside(entry)
        from_end = np.minimum(beside - ENTRY_LATERAL_MM[0], ENTRY_LATERAL_MM[1] - beside)
        penalty = self._off_target(target) + self._off_entry(entry, tilt)
        # Off the rule the nearest are best, on it those that keep it even if the edge of the foramen is a little off.
        penalty += 0.10 * np.maximum(-from_end, 0) + np.clip(1 - from_end / _RULE_SLACK_MM, 0, 1)
        return Candidates(entry, target, penalty, from_end >= 0)

    def _beside(self, entry: FloatArray) -> FloatArray:
        """How far entries (n, 3) lie lateral to the lateral edge of the S2 foramen."""
        return self._sign * (entry[:, 0] - self._edges["s2"][0])

    def _off_target(self, target: FloatArray) -> FloatArray:
        part, off_height = self._place(target)
        penalty = 2.0 * np.clip(part - _ANTERIOR_PART, 0, 1)
        return penalty + 0.03 * off_height if self._target_name.startswith("ala") else penalty

    def _off_entry(self, entry: FloatArray, tilt: FloatArray) -> FloatArray:
        # Slightly caudal of S2 is preferred: a third of the way to S3.
        s2, s3 = self._edges["s2"][2], self._edges["s3"][2]
        # A shaft that meets the cortex aslant slips.
        return 0.02 * np.abs(entry[:, 2] - (s2 + (s3 - s2) / 3)) + 0.3 * np.clip((tilt - 30) / 30, 0, 1)

    def _entries(self, step_mm: float) -> FloatArray:
        approach = self._approach
        top = self._edges[approach.upper[0]][2] + approach.upper[1]
        bottom = self._edges[approach.lower[0]][2] - approach.lower[1]
        up = np.arange(bottom, top, step_mm)
        if self._technique == "transiliac":
            back = np.arange(self.view.back_mm[0], self.view.back_mm[-1], step_mm)
            depth, height = (grid.ravel() for grid in np.meshgrid(back, up, indexing="ij"))
            entries = self._on_ilium(depth, height)
        else:
            lateral = np.arange(approach.lateral_mm[0], approach.lateral_mm[1] + 0.1, step_mm)
            beside, height = (grid.ravel() for grid in np.meshgrid(lateral, up, indexing="ij"))
            entries = surface_point(self.view, self._edges["s2"][0] + self._sign * beside, height)
        return entries[np.isfinite(entries).all(axis=1)]

    def _targets(self, step_mm: float) -> FloatArray:
        from ..image import box_around

        found = box_around(self._target_region.voxels)
        if found is None:
            return np.zeros((0, 3))
        ends = [(part.start, part.stop) for part in found]
        corners = self._target_region.ras_of([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]])
        in_view = transform_points(self.view.RASToView, corners)
        axes = [
            np.arange(low, high + 0.1, step_mm)
            for low, high in zip(in_view.min(axis=0), in_view.max(axis=0), strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return grid[self.in_target(grid)]

    def _on_ilium(self, back_mm: FloatArray, up_mm: FloatArray) -> FloatArray:
        """Points (n, 3) where lines from the side meet the ilium first, NaN where they miss it."""
        lateral = np.full(len(back_mm), np.nan)
        row = np.round(back_mm - self.view.back_mm[0]).astype(int)
        height = np.round(up_mm - self.view.up_mm[0]).astype(int)
        within = (row >= 0) & (row < len(self.view.back_mm)) & (height >= 0) & (height < len(self.view.up_mm))
        lateral[within] = self._ilium_mm[row[within], height[within]]
        return np.column_stack([lateral, back_mm, up_mm])

    @property
    def _ilium_mm(self) -> FloatArray:
        """[back, up] the most lateral place of the hip, NaN where there is none."""
        if not hasattr(self, "_ilium"):
            hip = self.view.sampled(self._anatomy.bones.like(self._anatomy.bone(f"hip_{self._side}"))) > 0.5
            ordered, left = (hip[::-1], self.view.left_mm[::-1]) if self._side == "left" else (hip, self.view.left_mm)
            self._ilium = np.where(hip.any(axis=0), left[np.argmax(ordered, axis=0)], np.nan)
        return self._ilium

    def _place(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How far back in the bone (0 front to 1 back) and how far off the aimed height points (n, 3) lie."""
        view = self.view
        column = np.clip(np.round(points[..., 0] - view.left_mm[0]).astype(int), 0, len(view.left_mm) - 1)
        row = np.clip(np.round(points[..., 2] - view.up_mm[0]).astype(int), 0, len(view.up_mm) - 1)
        front, rear = view.front_surface_mm[column, row], view.back_surface_mm[column, row]
        with np.errstate(invalid="ignore", divide="ignore"):
            part = (points[..., 1] - front) / (rear - front)
        below = -transform_points(self._ViewToSacrum, points)[..., 2]
        return part, np.abs(below - _AIM_BELOW_ENDPLATE_MM)
