"""The C-arm views of one patient, found from the anatomy and the plan, and how well a pose meets them.

| view | the beam |
| --- | --- |
| `ap` | in the sacrum's mirror plane, at a right angle to the table |
| `outlet` | opens the least open of the S1 to S3 foramina as far as possible |
| `inlet` | along the fronts of the bodies of S1 and S2 |
| `lateral` | in the plane of the S1 endplate, as nearly from side to side as that allows: the alae cover each other |
| `oblique-left`, `oblique-right` | level, along the sacroiliac joint of that side |
| `barrel-SIDE`, `perpendicular-SIDE` | along the planned trocar, and across it, as near to the lateral as that allows |
| `biplane-1`, `biplane-2` | a pair about 90 degrees apart: open foramina, and the anterior cortex of the alae |

The beam diverges: what a view looks along lies on the central ray, and the source stands in the plane in question.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..anatomy.labels import SIDES
from ..anatomy.model import Anatomy
from ..errors import AnatomyError, GeometryError
from ..geometry import FloatArray, angle_between_deg, rigid, transform_points, unit
from ..image import Volume
from ..planning.model import Side, Trajectory
from .geometry import SACRUM_CENTER_MM, VIEW_ANGLES_DEG, CArm, XrayGeometry
from .openness import OUTLET_LEVELS, OpenForamina
from .positioning import PRONE_HEAD_FIRST, joints_of_pose
from .reach import (
    ReachableRange,
    angles_of_direction,
    direction_of_angles,
    direction_text,
    off_line_deg,
    prone_text,
    read_range,
    turn_text,
)
from .sight_lines import anterior_cortex_normals, endplate, front_of_bodies, joint_plane

#: Closer to the view than this the head's direction no longer tells which way is up in the image.
_LEAST_ANGLE_TO_UP_DEG = 5.0
#: What a turn away from the mirror plane must gain in the outlet: share of a foramen per square degree. A picture that
#: is symmetrical is the better one to read: 5 degrees must open 10 % more (own choice).
_ASYMMETRY_COST = 0.004
#: How far from the mean direction of the channels the outlet is looked for, and the first and last step [degrees].
_OUTLET_REACH_DEG, _FIRST_STEP_DEG, _LAST_STEP_DEG = 36.0, 4.0, 0.1
#: The lateral aims this far behind the middle of the endplate, so that alae and trocars are in the picture [mm].
_LATERAL_BEHIND_MM = 15.0
#: A foramen less open than this is closed on the picture (share of its straight area; own choice).
CLOSED_SHARE = 0.05
#: A beam farther from the foramina than this shows none of them [degrees].
_FRONTAL_DEG = 60.0
#: Grids of the biplane pair: the first view around the outlet, the second over all that is reachable [degrees].
_FIRST_VIEW_DEG, _SECOND_VIEW_STEP_DEG = (-15.0, -7.5, 0.0, 7.5, 15.0), 2.5
#: A pose this far off a view meets nothing of it, and one within the other angle meets it (own choices) [degrees].
_WORTHLESS_DEG, _GOOD_DEG, _USABLE_DEG = 10.0, 2.0, 5.0


@dataclass(frozen=True)
class View:
    """One view of a patient and the pose that shows it.

    Attributes:
        name: as in the table at the head of this module.
        aim_ras: the point in the middle of the picture.
        direction_ras: the beam that is wanted, from the source to the detector.
        geometry: the pose: of that beam, or of the nearest one that the C-arm reaches.
        off_deg: how far the pose is off the wanted beam; 0 when it is reached.
        open_foramina: share of each foramen's straight area that the pose shows; empty where it shows none.
        note: what to know about it, in plain words; empty when there is nothing.
        measured: whether it comes from this patient's anatomy or plan, not from mean angles.
    """

    name: str
    aim_ras: FloatArray
    direction_ras: FloatArray
    geometry: XrayGeometry
    off_deg: float
    open_foramina: dict[str, float] = field(default_factory=dict)
    note: str = ""
    measured: bool = True

    @property
    def beam_ras(self) -> FloatArray:
        """The pose's central ray, from the source to the detector."""
        return self.geometry.view_direction_ras

    def to_dict(self) -> dict[str, Any]:
        """The view in a record."""
        return {
            "name": self.name,
            "aim_ras": np.asarray(self.aim_ras).tolist(),
            "direction_ras": np.asarray(self.direction_ras).tolist(),
            "geometry": self.geometry.to_dict(),
            "off_deg": self.off_deg,
            "open_foramina": self.open_foramina,
            "note": self.note,
            "measured": self.measured,
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> View:
        return View(
            name=str(record["name"]),
            aim_ras=np.asarray(record["aim_ras"], float),
            direction_ras=np.asarray(record["direction_ras"], float),
            geometry=XrayGeometry.from_dict(record["geometry"]),
            off_deg=float(record["off_deg"]),
            open_foramina={name: float(share) for name, share in record["open_foramina"].items()},
            note=str(record["note"]),
            measured=bool(record["measured"]),
        )


def find_views(
    anatomy: Anatomy,
    trajectories: Mapping[Side, Trajectory] | None = None,
    c_arm: CArm | None = None,
    reach: ReachableRange | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, View]:
    """All views of a patient by name.

    Where the anatomy lacks what a standard view looks along, that view has the mean angles of the literature and says
    so; a biplane pair without foramina is left out.

    Args:
        trajectories: the planned trocar of each side to be treated.
        reach: limits of the C-arm, by default those of `read_range`.
        progress: called with 0 to 1.

    Raises:
        GeometryError: for impossible limits.
    """
    tell = progress or (lambda fraction: None)
    finder = _Finder(anatomy, c_arm or CArm(), (reach or read_range()).check())
    views: dict[str, View] = {}
    for number, name in enumerate(VIEW_ANGLES_DEG):
        views[name] = finder.standard(name)
        tell(0.7 * (number + 1) / len(VIEW_ANGLES_DEG))
    for side, trajectory in (trajectories or {}).items():
        views |= finder.of_trocar(side, trajectory, views["lateral"].direction_ras)
    tell(0.75)
    views |= finder.biplane(views["outlet"].direction_ras)
    tell(1.0)
    return views


def trocar_views(
    anatomy: Anatomy,
    side: str,
    trajectory: Trajectory,
    lateral: View,
    c_arm: CArm | None = None,
    reach: ReachableRange | None = None,
) -> dict[str, View]:
    """The two views of one trocar, `barrel-SIDE` and `perpendicular-SIDE`, wherever it was moved to.

    Args:
        lateral: of the same patient, which the second view comes as near to as it can.
    """
    finder = _Finder(anatomy, c_arm or CArm(), (reach or read_range()).check())
    return finder.of_trocar(side, trajectory, lateral.direction_ras)


class _Finder:
    """Anatomy, C-arm and its limits, with the directions that every view needs."""

    def __init__(self, anatomy: Anatomy, c_arm: CArm, reach: ReachableRange) -> None:
        self._anatomy, self._c_arm, self._reach = anatomy, c_arm, reach
        frame = anatomy.SacrumToRAS
        self._left: FloatArray = frame[:3, 0]
        # Straight ahead at a right angle to the table, which is the scanner's; from side to side it is the sacrum's, so
        # that a pelvis turned on the table still gives a true AP and a true lateral.
        self._forward = unit(np.cross(self._left, [0.0, 0.0, 1.0]))
        self._center = transform_points(frame, SACRUM_CENTER_MM)

    @cached_property
    def _foramina(self) -> OpenForamina | str:
        """The foramina, or why none can be judged."""
        try:
            return OpenForamina(self._anatomy, self._c_arm.source_to_isocenter_mm)
        except GeometryError as error:
            return str(error)

    def standard(self, name: str) -> View:
        find: dict[str, Callable[[], tuple[FloatArray, FloatArray, str]]] = {
            "ap": lambda: (self._center, self._forward, ""),
            "outlet": self._outlet,
            "inlet": self._inlet,
            "lateral": self._lateral,
            "oblique-left": lambda: self._oblique("left"),
            "oblique-right": lambda: self._oblique("right"),
        }
        try:
            aim, direction, note = find[name]()
        except (AnatomyError, GeometryError) as error:
            mean = self._c_arm.view(name, self._anatomy.SacrumToRAS)
            note = f"mean angles of the literature, since {error}"
            return self._view(name, self._center, mean.view_direction_ras, note, measured=False)
        return self._view(name, aim, direction, note)

    def of_trocar(self, side: str, trajectory: Trajectory, lateral: FloatArray) -> dict[str, View]:
        along = unit(trajectory.target - trajectory.entry_skin)
        across = lateral - (lateral @ along) * along
        if np.linalg.norm(across) < 0.1:  # a trocar from side to side
            across = self._forward - (self._forward @ along) * along
        middle = (trajectory.entry_bone + trajectory.target) / 2
        return {
            f"barrel-{side}": self._view(f"barrel-{side}", trajectory.target, along),
            f"perpendicular-{side}": self._view(f"perpendicular-{side}", middle, unit(across)),
        }

    def biplane(self, outlet: FloatArray) -> dict[str, View]:
        """The pair that shows open foramina in one picture and the way out of the anterior cortex in the other.

        Chosen by the product of: the least open foramen of the first; how much of a displacement across the anterior
        cortex the second shows; the sine of the angle between them.
        """
        foramina = self._foramina
        if isinstance(foramina, str):
            return {}
        try:
            normals = anterior_cortex_normals(self._anatomy)
        except AnatomyError:
            return {}
        first_angles = np.add(
            angles_of_direction(outlet), np.stack(np.meshgrid(*[_FIRST_VIEW_DEG] * 2), -1).reshape(-1, 2)
        )
        first = np.array([self._reach.nearest(direction_of_angles(*angles)) for angles in first_angles])
        distance = self._c_arm.source_to_isocenter_mm
        least = np.array([min(foramina.shares(foramina.center_ras - distance * beam).values()) for beam in first])
        around, along = (
            np.arange(low, high + 1e-6, _SECOND_VIEW_STEP_DEG)
            for low, high in (self._reach.primary_deg, self._reach.secondary_deg)
        )
        second = direction_of_angles(*np.meshgrid(around, along)).reshape(-1, 3)
        shown = np.sqrt(np.maximum(1 - (second @ normals.T) ** 2, 0)).mean(axis=1)
        cosine = first @ second.T
        quality = least[:, None] * shown * np.sqrt(np.maximum(1 - cosine**2, 0))
        one, two = np.unravel_index(int(np.argmax(quality)), quality.shape)
        apart = off_line_deg(first[one], second[two])
        note = f"{apart:.0f}° between the two views of the pair"
        return {
            "biplane-1": self._view("biplane-1", foramina.center_ras, first[one], note),
            "biplane-2": self._view("biplane-2", foramina.center_ras, second[two], note),
        }

    # What each standard view looks along: aim, beam direction, note

    def _outlet(self) -> tuple[FloatArray, FloatArray, str]:
        foramina = self._foramina
        if isinstance(foramina, str):
            raise GeometryError(foramina)
        notes = []
        if foramina.unknown:
            names = ", ".join(_plain(name) for name in foramina.unknown)
            notes.append(f"{names} cannot be judged and had no part in it")
        levels = list(OUTLET_LEVELS)
        while True:
            direction, least = _open_widest(foramina, levels, self._left, self._c_arm.source_to_isocenter_mm)
            judged = [level for level in levels if any(f"_{level}_" in name for name in foramina.channels)]
            if least > CLOSED_SHARE or len(judged) < 2:
                break
            levels.remove(judged[-1])
            notes.append(f"{judged[-1].upper()} cannot be opened together with the foramina above it")
        return foramina.center_ras, direction, "; ".join(notes)

    def _inlet(self) -> tuple[FloatArray, FloatArray, str]:
        middle, downwards = front_of_bodies(self._anatomy)
        return middle, -downwards, ""

    def _lateral(self) -> tuple[FloatArray, FloatArray, str]:
        plane = endplate(self._anatomy)
        across = unit(self._left - (self._left @ plane.normal_ras) * plane.normal_ras)
        tilt = angle_between_deg(across, self._left)
        # Still in the endplate's plane, but nearer to where the trocar comes from.
        aim = plane.point_ras + _LATERAL_BEHIND_MM * np.cross(plane.normal_ras, across)
        return aim, across, f"the endplate is tilted by {tilt:.0f}° from side to side" if tilt >= 2 else ""

    def _oblique(self, side: str) -> tuple[FloatArray, FloatArray, str]:
        plane = joint_plane(self._anatomy, side)
        level = unit(np.cross(plane.normal_ras, [0.0, 0.0, 1.0]))
        return plane.point_ras, level * (1.0 if level @ self._forward >= 0 else -1.0), ""

    # Poses

    def _view(self, name: str, aim: FloatArray, direction: FloatArray, note: str = "", measured: bool = True) -> View:
        """The view, its pose within reach, what the pose shows of the foramina, and what to know about it."""
        beam, notes = self._reachable(unit(direction), [note] if note else [])
        geometry = self._c_arm.pose(aim, beam, upwards(beam))
        off = off_line_deg(beam, direction)
        shares = {}
        foramina = self._foramina
        if not isinstance(foramina, str) and off_line_deg(beam, foramina.forward) < _FRONTAL_DEG:
            shares = foramina.shares(geometry.source_ras)
        return View(name, np.asarray(aim, float), unit(direction), geometry, off, shares, "; ".join(notes), measured)

    def _reachable(self, wanted: FloatArray, notes: list[str]) -> tuple[FloatArray, list[str]]:
        """The beam nearest to the wanted line of sight, and the notes with what it falls short by."""
        beam, other = self._reach.nearest(wanted), self._reach.nearest(-wanted)
        if angle_between_deg(other, -wanted) + 1e-6 < angle_between_deg(beam, wanted):
            beam = other
            notes = [*notes, "taken from the other side, so the picture is mirrored"]
        off = off_line_deg(beam, wanted)
        if off > 0.05:
            wish, least = direction_text(wanted), direction_text(beam)
            notes = [f"out of reach: {wish} is wanted, {least} is the nearest, {off:.1f}° off", *notes]
        return beam, notes


def _open_widest(
    foramina: OpenForamina, levels: Iterable[str], left: FloatArray, source_distance_mm: float
) -> tuple[FloatArray, float]:
    """The beam whose least open foramen is the most open, and that foramen's share.

    Searched first in the mirror plane, then around the best of it by steps that are halved (a compass search).
    """
    names = [name for name in foramina.channels if any(f"_{level}_" in name for level in levels)]
    forward = unit(foramina.forward - (foramina.forward @ left) * left)
    upward = np.cross(left, forward)

    def direction(aside: float, tilt: float) -> FloatArray:
        a, b = np.radians([aside, tilt])
        return np.sin(a) * left + np.cos(a) * (np.cos(b) * forward + np.sin(b) * upward)

    known: dict[tuple[float, float], float] = {}

    def worth(at: tuple[float, float]) -> float:
        if at not in known:
            shares = foramina.shares(foramina.center_ras - source_distance_mm * direction(*at))
            known[at] = min(shares[name] for name in names) - _ASYMMETRY_COST * at[0] ** 2
        return known[at]

    tilts = np.arange(-_OUTLET_REACH_DEG, _OUTLET_REACH_DEG + 1e-6, _FIRST_STEP_DEG)
    best = max(((0.0, float(tilt)) for tilt in tilts), key=worth)
    step = _FIRST_STEP_DEG / 2
    while step >= _LAST_STEP_DEG:
        around = [(best[0] + i * step, best[1] + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        better = max(around, key=worth)
        if worth(better) > worth(best):
            best = better
        else:
            step /= 2
    return direction(*best), worth(best) + _ASYMMETRY_COST * best[0] ** 2


def upwards(direction_ras: FloatArray) -> FloatArray:
    """What points up in the picture of a beam: the head, or the patient's back where the beam runs along the body."""
    head = np.array([0.0, 0.0, 1.0])
    if _LEAST_ANGLE_TO_UP_DEG < angle_between_deg(direction_ras, head) < 180 - _LEAST_ANGLE_TO_UP_DEG:
        return head
    return np.array([0.0, -1.0, 0.0])


def frame_without_anatomy(ct: Volume) -> FloatArray:
    """A stand-in for SacrumToRAS that puts the middle of the CT into the middle of every view."""
    center = ct.ras_of([(np.array(ct.voxels.shape) - 1) / 2])[0]
    axes = np.diag([-1.0, -1.0, 1.0])
    return rigid(axes, center - axes @ SACRUM_CENTER_MM)


@dataclass(frozen=True)
class PoseScore:
    """How well a pose meets a view.

    Attributes:
        off_deg: angle between the ray to the view's aim and the wanted line of sight.
        beside_mm: how far the aim is off the middle of the picture, at the patient.
        score: 1 on the line of sight, 0 from 10 degrees off it on, or with the aim outside of the picture.
        verdict: `good`, `usable` or `off`.
        advice: what to do, in words for the operator.
    """

    view: str
    off_deg: float
    beside_mm: float
    score: float
    verdict: str
    advice: str


def score_pose(view: View, geometry: XrayGeometry) -> PoseScore:
    """How well a C-arm that stands at `geometry` meets a view; the source may stand at either end of its line."""
    source = geometry.source_ras
    ray = np.asarray(view.aim_ras) - source
    distance = float(np.linalg.norm(ray))
    reverse = angle_between_deg(ray, view.direction_ras) > 90
    wanted = -view.direction_ras if reverse else view.direction_ras
    off = off_line_deg(ray, wanted)
    pixel = geometry.project(view.aim_ras)
    middle = (np.array(geometry.detector_pixels) - 1) / 2
    inside = bool(np.isfinite(pixel).all() and (np.abs(pixel - middle) <= middle + 0.5).all())
    away = (pixel - middle) * geometry.pixel_spacing_mm
    beside = float(np.linalg.norm(away)) * distance / geometry.source_to_detector_mm if inside else float("inf")
    score = max(0.0, 1 - off / _WORTHLESS_DEG) if inside else 0.0
    verdict = "off" if not inside or off > _USABLE_DEG else "good" if off <= _GOOD_DEG else "usable"
    advice = turn_text(ray, wanted)
    if not inside:
        advice += "; the sacrum is not in the picture, move the C-arm"
    return PoseScore(view.name, off, beside, score, verdict, advice)


# Tables for the operator of the C-arm: `primary` and `secondary` are DICOM's; orbital, angulation and wig-wag are what
# the scales of a C-arm read that stands beside a prone patient, head first, with its tube under the table.

_COLUMNS = (
    "view", "detector", "primary_deg", "secondary_deg", "upper_end_above_prone_patient", "orbital_deg",
    "angulation_deg", "wigwag_deg", "out_of_reach_deg",
    *(f"open_{level}_{side}_percent" for level in OUTLET_LEVELS for side in SIDES), "note",
)  # fmt: skip


def table_rows(views: Mapping[str, View]) -> list[dict[str, str]]:
    """One row for each view, by column."""
    rows = []
    for name, view in views.items():
        primary, secondary = angles_of_direction(view.beam_ras)
        under_table = CArm().pose(view.aim_ras, -view.beam_ras, upwards(view.beam_ras))
        joints = joints_of_pose(under_table, PRONE_HEAD_FIRST)
        shares = {
            f"open_{level}_{side}_percent": view.open_foramina.get(f"foramen_{level}_{side}")
            for level in OUTLET_LEVELS
            for side in SIDES
        }
        row = {
            "view": name,
            "detector": direction_text(view.beam_ras),
            "primary_deg": f"{primary:.1f}",
            "secondary_deg": f"{secondary:.1f}",
            "upper_end_above_prone_patient": prone_text(view.beam_ras),
            "orbital_deg": f"{joints.orbital:.1f}",
            "angulation_deg": f"{joints.angulation:.1f}",
            "wigwag_deg": f"{joints.wigwag:.1f}",
            "out_of_reach_deg": f"{view.off_deg:.1f}",
            **{column: "" if share is None else f"{100 * share:.0f}" for column, share in shares.items()},
            "note": view.note,
        }
        rows.append(row)
    return rows


def table_csv(views: Mapping[str, View]) -> str:
    """The table as comma-separated values with a line of column names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table_rows(views))
    return text.getvalue()


def table_text(views: Mapping[str, View]) -> str:
    """The table for people: angles, how the C stands over a prone patient, which foramina are open, what to know."""
    lines = [f"{'view':<20} {'detector':<17} {'upper end, patient prone':<28} open S1 S2 S3, left/right %"]
    for row in table_rows(views):
        shown = ["/".join(row[f"open_{level}_{side}_percent"] or "-" for side in SIDES) for level in OUTLET_LEVELS]
        opened = "" if all(part == "-/-" for part in shown) else "  ".join(shown)
        lines.append(
            f"{row['view']:<20} {row['detector']:<17} {row['upper_end_above_prone_patient']:<28} {opened}".rstrip()
        )
        if row["note"]:
            lines.append(f"{'':<20} {row['note']}")
    lines.append(
        "Angles of the detector from straight in front of the patient, who lies as in the CT: LAO to the patient's "
        "left, CRA to the head."
    )
    return "\n".join(lines)


def _plain(name: str) -> str:
    """`foramen_s1_left` as `left S1`."""
    _, level, side = name.split("_")
    return f"{side} {level.upper()}"
