"""A plan on one page: for each side the CT down and along the trocar, what stands near it, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..anatomy.colors import color_of
from ..anatomy.labels import BONE_LABEL, REGION_LABEL
from ..geometry import FloatArray, distance_to_segment
from ..image import Volume, box_around, crop
from ..planning.context import PlanningContext, ShaftProfile
from ..planning.depots import sphere_radius_mm
from ..planning.model import Plan, Side, Trajectory
from .anatomy import readable
from .pictures import BONE_WINDOW_HU
from .plan_views import TrocarAxes
from .planning import in_words
from .spread import SpreadSummary
from .trocar_models import NEAR, TOO_NEAR, VERDICT_COLORS, verdicts

#: A4 upright at 150 dots an inch.
_COLUMNS, _ROWS = 1240, 1754
_EDGE, _GAP = 50, 16
_PANEL = (_COLUMNS - 2 * _EDGE - 2 * _GAP) // 3
#: What a panel down the trocar shows, and how much more than the trocar those along it [mm].
_DOWN_MM, _AROUND_MM = 70.0, 30.0
_AIR_HU = -1024.0
#: From here on a distance is only called far [mm].
_FAR_MM = 15.0
#: Width of a drawn line [pixels].
_LINE = 2.0
_INK, _PALE, _PAPER = (0.10, 0.12, 0.14), (0.45, 0.48, 0.50), (1.0, 1.0, 1.0)

#: What is outlined beside the trocar, in the order of drawing.
_OUTLINED = ("hip", "l5", "sacrum", "foramen", "sacral_canal")

Color = tuple[float, float, float]
Implicit = NDArray[np.floating]


@dataclass(frozen=True)
class _Plane:
    """A square picture of the CT: its middle, what points to the right and up in it, and how wide it is."""

    caption: str
    center_ras: FloatArray
    right: FloatArray
    up: FloatArray
    width_mm: float

    @property
    def points_ras(self) -> FloatArray:
        """(rows, columns, 3) of its pixels."""
        offset = (np.arange(_PANEL) - (_PANEL - 1) / 2) * self.width_mm / _PANEL
        return self.center_ras + offset[None, :, None] * self.right - offset[:, None, None] * self.up


@dataclass(frozen=True)
class PlanPage:
    """What goes on the page.

    Attributes:
        context: of the CT that was planned on.
        trajectories: the one that each side is treated by, at most two.
        title, date: the case and the day, as they are to be printed.
        predicted: spread of the one that a side is treated by, where it was predicted for it as it is now.
    """

    context: PlanningContext
    plan: Plan
    trajectories: Sequence[Trajectory]
    title: str
    date: str
    predicted: Mapping[Side, SpreadSummary]

    def draw(self) -> NDArray[np.uint8]:
        """The page as RGB (rows, columns, 3), top row first."""
        sheet = _Sheet()
        top = sheet.line(_EDGE, _EDGE, self.title, 34, bold=True)
        top = sheet.line(_EDGE, top + 4, f"Printed on {self.date}", 20, color=_PALE)
        top = sheet.line(_EDGE, top + 2, "Research software, not a medical device.", 20, bold=True)
        for trajectory in self.trajectories:
            top = self._draw_side(sheet, top + 22, trajectory)
        self._draw_notes(sheet, top + 22)
        return sheet.pixels()

    @cached_property
    def _masks(self) -> dict[str, Volume]:
        """What is outlined, each as a mask of 0 and 1 no larger than it must be; what is spared first comes last."""
        masks, anatomy = {}, self.context.anatomy
        for labels, label_of in ((anatomy.bones, BONE_LABEL), (anatomy.regions, REGION_LABEL)):
            for name in label_of:
                mask = labels.voxels == label_of[name]
                box = box_around(mask, 2)
                if name.startswith(_OUTLINED) and box is not None:
                    masks[name] = crop(labels.like(mask.astype(np.float32)), box)
        return dict(sorted(masks.items(), key=lambda item: _OUTLINED.index(_family(item[0]))))

    def _draw_side(self, sheet: _Sheet, top: int, trajectory: Trajectory) -> int:
        verdict = "accepted" if trajectory.accepted else "REFUSED"
        name = f"{trajectory.side.capitalize()}: {trajectory.technique}, {trajectory.needle.name}, {verdict}"
        top = sheet.line(_EDGE, top, name, 26, bold=True) + 6
        shaft = self.context.profile(
            trajectory.entry_skin, trajectory.target, trajectory.needle, trajectory.side, trajectory.technique
        )
        nearest_at = shaft.points_ras[int(np.argmin(shaft.clearance_mm))]
        axes = TrocarAxes.of(trajectory.entry_skin, trajectory.target)
        middle = (trajectory.entry_skin + trajectory.target) / 2
        wide = trajectory.length_mm + _AROUND_MM
        depth = float((trajectory.entry_skin - nearest_at) @ axes.outwards)
        planes = (
            _Plane(f"Down the trocar, {depth:.0f} mm deep: nearest", nearest_at, axes.right, axes.up, _DOWN_MM),
            _Plane("Along it, from below", middle, -axes.right, -axes.outwards, wide),
            _Plane("Along it, from the side", middle, axes.outwards, axes.up, wide),
        )
        for number, plane in enumerate(planes):
            left = _EDGE + number * (_PANEL + _GAP)
            sheet.put(left, top, self._picture(trajectory, shaft, plane))
            sheet.line(left + 8, top + 6, plane.caption, 17, color=_PAPER, background=(0.0, 0.0, 0.0))
            sheet.marks(left, top, [_letter(way) for way in (-plane.right, plane.right, plane.up)])
            sheet.scale(left, top, _PANEL / plane.width_mm)
        top += _PANEL + 12
        facts = [*_facts(trajectory), *_prediction(self.predicted.get(trajectory.side))]
        columns = (facts, _distances(trajectory, self.plan), _warnings(trajectory))
        ends = []
        for number, lines in enumerate(columns):
            ends.append(sheet.lines(_EDGE + number * (_PANEL + _GAP), top, lines, _PANEL))
        return max(ends)

    def _draw_notes(self, sheet: _Sheet, top: int) -> None:
        plan = self.plan
        accuracy = plan.accuracy
        lines = [
            f"Safety margin {plan.margin_mm:.1f} mm, preferred {plan.preferred_margin_mm:.1f} mm; system error "
            + (
                "not stated"
                if accuracy is None
                else f"{accuracy.registration_sd_mm:.1f} mm and {accuracy.registration_sd_deg:.1f}° registration, "
                f"{accuracy.tool_sd_mm:.1f} mm and {accuracy.tool_sd_deg:.1f}° tool (standard deviations)"
            ),
            *(f"Side {side} blocked: {'; '.join(reasons)}" for side, reasons in plan.blocked.items()),
            *(f"Limit of volume ({item.what}) is {item.limit_ml:.1f} mL: {item.reason}" for item in plan.overrides),
            *(f"Note: {note}" for note in plan.notes),
            *([f"Confirmed by a person: {', '.join(map(readable, plan.confirmed))}"] if plan.confirmed else []),
            f"CT {plan.image_hash[:16]}",
        ]
        sheet.lines(_EDGE, top, [(text, _INK) for text in lines], _COLUMNS - 2 * _EDGE)

    def _picture(self, trajectory: Trajectory, shaft: ShaftProfile, plane: _Plane) -> NDArray[np.floating]:
        """The CT in a plane (rows, columns, 3), with outlines of structures, cement, safety margin and shaft."""
        points = plane.points_ras
        window, level = BONE_WINDOW_HU
        gray = np.clip((_sampled(self.context.ct, points, _AIR_HU) - level) / window + 0.5, 0, 1)
        picture = np.repeat(gray[..., None], 3, axis=2)
        for name, mask in self._masks.items():
            share = _sampled(mask, points, 0.0)
            if share.any():
                _outline(picture, share - 0.5, color_of(name))
        for depot in trajectory.depots:
            ball = np.linalg.norm(points - depot.position_ras, axis=-1) - sphere_radius_mm(depot.volume_ml)
            _outline(picture, ball, color_of("cement"))
        axis = distance_to_segment(points, trajectory.entry_skin, trajectory.target)
        radius = trajectory.needle.radius_mm
        _outline(picture, axis - radius - self.plan.margin_mm, VERDICT_COLORS[NEAR], 1.0)
        # The shaft has the color of the nearest place along it.
        tip, back = shaft.points_ras[[0, -1]]
        step = (points - tip) @ (back - tip) / np.sum((back - tip) ** 2)
        place = np.clip(np.round(step * (len(shaft.along_mm) - 1)), 0, len(shaft.along_mm) - 1).astype(int)
        verdict = verdicts(shaft.clearance_mm, self.plan.margin_mm, self.plan.preferred_margin_mm)[place]
        colors = np.array([VERDICT_COLORS[number] for number in range(len(VERDICT_COLORS))])[verdict]
        _outline(picture, axis - radius, colors)
        return picture


def _letter(direction: FloatArray) -> str:
    """The side of the patient that a direction points to most."""
    axis = int(np.argmax(np.abs(direction)))
    return "RAS"[axis] if direction[axis] > 0 else "LPI"[axis]


def _family(name: str) -> str:
    return next(family for family in _OUTLINED if name.startswith(family))


def _sampled(volume: Volume, plane_ras: FloatArray, outside: float) -> NDArray[np.float32]:
    """Values of a volume at the points (rows, columns, 3) of a plane that are evenly spaced."""
    from scipy.ndimage import map_coordinates

    rows, columns = plane_ras.shape[:2]
    first, last_column, last_row = volume.kji_of(np.stack([plane_ras[0, 0], plane_ras[0, -1], plane_ras[-1, 0]]))
    across = np.linspace(0, 1, columns)[None, None, :] * (last_column - first)[:, None, None]
    down = np.linspace(0, 1, rows)[None, :, None] * (last_row - first)[:, None, None]
    kji = first[:, None, None] + across + down
    return map_coordinates(volume.voxels, kji, order=1, output=np.float32, mode="constant", cval=outside)


def _outline(picture: NDArray[np.floating], field: Implicit, color: Color | NDArray, width: float = _LINE) -> None:
    """Draw where a field is zero, in lines of even width and smooth edges."""
    down, across = np.gradient(field)
    # Where the field is flat nothing is near its zero.
    pixels_away = np.abs(field) / np.maximum(np.hypot(down, across), 1e-3)
    share = np.clip((width + 1) / 2 - pixels_away, 0, 1)
    drawn = share > 0
    picture[drawn] += share[drawn, None] * (np.broadcast_to(color, picture.shape)[drawn] - picture[drawn])


Line = tuple[str, Color]


def _facts(trajectory: Trajectory) -> list[Line]:
    lines = [
        f"Skin to target {trajectory.length_mm:.0f} mm",
        f"Cement {trajectory.planned_volume_ml:.1f} mL",
        *(
            f"{number}. {depot.volume_ml:.1f} mL" + (f": {depot.note}" if depot.note else " at the target")
            for number, depot in enumerate(trajectory.depots, start=1)
        ),
    ]
    if trajectory.incidence_deg is not None:
        lines.append(f"Meets the cortex at {trajectory.incidence_deg:.0f}° to its normal")
    if trajectory.lateral_to_s2_mm is not None:
        lines.append(f"Entry {trajectory.lateral_to_s2_mm:.0f} mm lateral to the S2 foramen")
    if trajectory.balloon is not None:
        cavity = np.linalg.norm(trajectory.balloon.end_ras - trajectory.balloon.start_ras)
        lines.append(f"Balloon {trajectory.balloon.diameter_mm:.0f} mm wide, {cavity:.0f} mm long")
    if trajectory.biopsy is not None:
        throw = np.linalg.norm(trajectory.biopsy.end_ras - trajectory.biopsy.start_ras)
        lines.append(f"Biopsy of {throw:.0f} mm before cement")
    for name, point in (("Skin", trajectory.entry_skin), ("Target", trajectory.target)):
        lines.append(f"{name} R {point[0]:.1f}  A {point[1]:.1f}  S {point[2]:.1f} mm")
    return [(line, _INK) for line in lines]


def _prediction(found: SpreadSummary | None) -> list[Line]:
    if found is None:
        return []
    text = f"Predicted: cement leaves the bone in {100 * found.any_leak:.0f} % of {found.members} simulated bones"
    first = f", first to {found.rows[0].route}" if found.any_leak > 0 and found.rows else ""
    return [(text + first, _INK)]


def _distances(trajectory: Trajectory, plan: Plan) -> list[Line]:
    lines: list[Line] = []
    for name, distance in sorted(trajectory.clearance_mm.items(), key=lambda item: item[1])[:6]:
        risk = trajectory.breach_probability.get(name)
        text = f"{distance:.1f} mm" if distance < _FAR_MM else f"> {_FAR_MM:.0f} mm"
        text += f" to {readable(name)}"
        text += "" if risk is None else f", risk {percent(risk)}"
        verdict = int(verdicts(distance, plan.margin_mm, plan.preferred_margin_mm))
        lines.append((text, VERDICT_COLORS[TOO_NEAR] if verdict == TOO_NEAR else _INK))
    return lines


def _warnings(trajectory: Trajectory) -> list[Line]:
    refused = [f"Refused: {in_words(reason, trajectory)}" for reason in trajectory.reasons]
    cautions = [f"Caution: {in_words(caution, trajectory)}" for caution in trajectory.cautions]
    return [*((line, VERDICT_COLORS[TOO_NEAR]) for line in refused), *((line, _INK) for line in cautions)]


def percent(probability: float) -> str:
    """A probability as a person reads it; nothing rounds to zero or to certainty."""
    if not probability >= 0.001:
        return "< 0.1 %" if probability >= 0 else "unknown"
    return f"{100 * probability:.1f} %"


class _Sheet:
    """The paper: text by VTK's own FreeType, so that it looks alike in every host and needs no window."""

    def __init__(self) -> None:
        self._pixels = np.ones((_ROWS, _COLUMNS, 3))

    def pixels(self) -> NDArray[np.uint8]:
        return np.round(255 * np.clip(self._pixels, 0, 1)).astype(np.uint8)

    def put(self, left: int, top: int, picture: NDArray[np.floating]) -> None:
        rows, columns = picture.shape[:2]
        part = self._pixels[top : top + rows, left : left + columns]
        part[:] = picture[: part.shape[0], : part.shape[1]]

    def line(
        self, left: int, top: int, text: str, size: int, color: Color = _INK, bold: bool = False,
        background: Color | None = None,
    ) -> int:  # fmt: skip
        """Write a line; returns where the next one may start."""
        share = _rendered(text, size, bold)
        part = self._pixels[top : top + share.shape[0], left : left + share.shape[1]]
        share = share[: part.shape[0], : part.shape[1], None]
        if background is not None:
            part += 0.6 * (np.asarray(background) - part)
        part += share * (np.asarray(color) - part)
        return top + round(size * 1.35)

    def lines(self, left: int, top: int, lines: Sequence[Line], width: int, size: int = 18) -> int:
        """Write lines, broken between words to a width; those beyond the page are counted, not lost silently."""
        broken = [(part, color) for text, color in lines for part in _broken(text, width, size)]
        for number, (text, color) in enumerate(broken):
            if top + 2.7 * size > _ROWS - _EDGE / 2 and number < len(broken) - 1:
                return self.line(left, top, f"... {len(broken) - number} lines more in the program", size, _PALE)
            top = self.line(left, top, text, size, color)
        return top

    def marks(self, left: int, top: int, letters: Sequence[str]) -> None:
        """Letters for what lies to the left, right and top of a picture."""
        middle = top + _PANEL // 2 - 10
        places = ((left + 8, middle), (left + _PANEL - 22, middle), (left + _PANEL // 2 - 6, top + 30))
        for letter, (column, row) in zip(letters, places, strict=True):
            self.line(column, row, letter, 18, color=_PAPER, bold=True)

    def scale(self, left: int, top: int, pixels_per_mm: float) -> None:
        """A bar of 10 mm."""
        row, length = top + _PANEL - 14, round(10 * pixels_per_mm)
        self._pixels[row : row + 4, left + 10 : left + 10 + length] = 1.0
        self.line(left + 16 + length, row - 10, "10 mm", 15, color=_PAPER)


def _rendered(text: str, size: int, bold: bool) -> NDArray[np.floating]:
    """Cover of a line of text (rows, columns), 0 to 1."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    style = vtk.vtkTextProperty()
    style.SetFontFamilyToArial()
    style.SetFontSize(size)
    style.SetBold(bold)
    image, used = vtk.vtkImageData(), [0, 0]
    if not text or not vtk.vtkTextRenderer.GetInstance().RenderString(style, text, image, used, 72):
        return np.zeros((size, 1))
    columns, rows, _ = image.GetDimensions()
    cover = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[..., 3] / 255
    return cover[: used[1], : used[0]][::-1]


def _broken(text: str, width: int, size: int) -> list[str]:
    """A text in lines no wider than `width` pixels."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and _rendered(longer, size, False).shape[1] > width:
            lines.append(line)
            line = f"      {word}"
        else:
            line = longer
    return [*lines, line]
