"""The simulated surgeon's hands: they move tools in the true world, a little unsteadily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.labels import SIDES
from ..errors import DeviceError
from ..geometry import FloatArray, perpendicular, rigid, rotation_about, unit
from .live import HandState
from .world import World

_SPEED_MM_S = 60.0
_TURN_DEG_S = 60.0
_SHORTEST_MOVE_S = 0.15
_TREMOR_MM = 0.05
#: A hand misses a wanted movement by this share of it, and never by less than this.
_MOTOR_SHARE = 0.03
_MOTOR_MM = 0.1
_MOTOR_DEG = 0.1
_PIVOT_TILT_DEG = 35.0
#: Straight down onto a prone patient: from posterior to anterior.
_DOWN = (0.0, 1.0, 0.0)


@dataclass
class _Held:
    """A tool in the hand: from one pose to another, or tilting about its tip."""

    start: FloatArray
    end: FloatArray
    since_s: float
    lasts_s: float
    pivoting: bool = False


class Hand:
    """Tools `Stylus` and `Trocar`, moved by orders (JSON objects of COMMAND `Hand`). Poses are of the tip, in RAS."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world = world
        self._rng = rng
        self._held: dict[str, _Held] = {}
        self._cannulas: dict[str, FloatArray] = {}
        self._connected: str | None = None
        landmarks = list(world.landmarks.values()) or [np.zeros(3)]
        self._divot = np.mean(landmarks, axis=0) + np.array([0.0, -150.0, 0.0])

    def order(self, body: dict[str, Any], now_s: float) -> float:
        """Begin what the order says; returns for how many seconds the hand is busy with it.

        Orders: `{"tool", "pivot_s": seconds}`, `{"tool", "touch": landmark}`, `{"tool", "place": {"tip_ras" or
        "landmark" and "offset_mm", "direction_ras"}}`, `{"tool", "move": {"translate_mm", "rotate_deg"}}` (about the
        tip, both along the RAS axes), `{"tool", "hide": true}`, `{"tool": "Trocar", "release": side}`, `{"connect":
        side or null}`.

        Raises:
            DeviceError: for an order that makes no sense.
        """
        if "connect" in body:
            return self._connect(body["connect"])
        tool = body.get("tool")
        if tool not in ("Stylus", "Trocar"):
            raise DeviceError(f"there is no tool {tool!r}; the tools are Stylus and Trocar")
        if "pivot_s" in body:
            return self._pivot(tool, float(body["pivot_s"]), now_s)
        if "touch" in body:
            return self._touch(tool, body["touch"], now_s)
        if "place" in body:
            return self._place(tool, body["place"], now_s)
        if "move" in body:
            return self._move(tool, body["move"], now_s)
        if body.get("hide"):
            self._held.pop(tool, None)
            return 0.0
        if "release" in body and tool == "Trocar":
            return self._release(body["release"], now_s)
        raise DeviceError("the hand does not know this order; it can pivot, touch, place, move, hide, release, connect")

    def pose(self, tool: str, now_s: float) -> FloatArray | None:
        """True TipToRAS of a tool without tremor, None when it is out of sight."""
        held = self._held.get(tool)
        if held is None:
            return None
        passed = (now_s - held.since_s) / held.lasts_s if held.lasts_s > 0 else 1.0
        if held.pivoting:
            return _tilted(held.start, passed % 1.0) if passed < 1 else held.start
        return _between(held.start, held.end, float(np.clip(passed, 0, 1)))

    def trembling_pose(self, tool: str, now_s: float) -> FloatArray | None:
        """As `pose`, with the tremor of this moment."""
        pose = self.pose(tool, now_s)
        if pose is not None:
            pose = pose.copy()
            pose[:3, 3] += self._rng.normal(0, _TREMOR_MM, 3)
        return pose

    def state(self, now_s: float) -> HandState:
        return HandState(self.pose("Trocar", now_s), dict(self._cannulas), self._connected)

    def _pivot(self, tool: str, seconds: float, now_s: float) -> float:
        if not 0 < seconds <= 120:
            raise DeviceError(f"pivot_s is {seconds}; 0 to 120 s can be pivoted")
        start = _pointing(self._divot, _DOWN)
        self._held[tool] = _Held(start, start, now_s, seconds, pivoting=True)
        return seconds

    def _touch(self, tool: str, name: Any, now_s: float) -> float:
        point = self._landmark(name) + self._rng.normal(0, self._world.tracker.localization_mm / np.sqrt(3), 3)
        return self._go(tool, _pointing(point, _DOWN), now_s)

    def _place(self, tool: str, where: Any, now_s: float) -> float:
        if not isinstance(where, dict) or not ("tip_ras" in where or "landmark" in where):
            raise DeviceError("place needs tip_ras or a landmark")
        tip = _vector(where["tip_ras"], "tip_ras") if "tip_ras" in where else self._landmark(where["landmark"])
        tip = tip + _vector(where.get("offset_mm", [0, 0, 0]), "offset_mm")
        direction = _vector(where.get("direction_ras", _DOWN), "direction_ras")
        return self._go(tool, _pointing(tip, direction), now_s)

    def _move(self, tool: str, by: Any, now_s: float) -> float:
        pose = self.pose(tool, now_s)
        if pose is None or not isinstance(by, dict):
            raise DeviceError(
                f"the {tool} is not in the hand; place it first" if pose is None else "move needs an object"
            )
        shift = self._missed(_vector(by.get("translate_mm", [0, 0, 0]), "translate_mm"), _MOTOR_MM)
        turn_deg = self._missed(_vector(by.get("rotate_deg", [0, 0, 0]), "rotate_deg"), _MOTOR_DEG)
        angle_deg = float(np.linalg.norm(turn_deg))
        rotation = rotation_about(turn_deg, angle_deg) if angle_deg > 1e-9 else np.eye(3)
        return self._go(tool, rigid(rotation @ pose[:3, :3], pose[:3, 3] + shift), now_s)

    def _missed(self, wanted: FloatArray, least: float) -> FloatArray:
        """What the hand does when this is wanted; nothing when nothing is."""
        size = float(np.linalg.norm(wanted))
        return wanted + self._rng.normal(0, max(least, _MOTOR_SHARE * size) / np.sqrt(3), 3) if size > 0 else wanted

    def _release(self, side: Any, now_s: float) -> float:
        pose = self.pose("Trocar", now_s)
        if pose is None:
            raise DeviceError("there is no trocar in the hand that could be released")
        if side not in SIDES:
            raise DeviceError(f"release needs a side, left or right, not {side!r}")
        self._cannulas[side] = pose
        del self._held["Trocar"]
        return 0.0

    def _connect(self, side: Any) -> float:
        if side is not None and side not in self._cannulas:
            raise DeviceError(f"there is no cannula {side!r} to connect the pump to; release the trocar there first")
        self._connected = side
        return 0.0

    def _go(self, tool: str, target: FloatArray, now_s: float) -> float:
        start = self.pose(tool, now_s)
        if start is None:
            self._held[tool] = _Held(target, target, now_s, 0.0)
            return 0.0
        way_mm = float(np.linalg.norm(target[:3, 3] - start[:3, 3]))
        cosine = (np.trace(start[:3, :3].T @ target[:3, :3]) - 1) / 2
        turn_deg = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        lasts_s = max(way_mm / _SPEED_MM_S, turn_deg / _TURN_DEG_S, _SHORTEST_MOVE_S)
        self._held[tool] = _Held(start, target, now_s, lasts_s)
        return lasts_s

    def _landmark(self, name: Any) -> FloatArray:
        if name not in self._world.landmarks:
            known = ", ".join(self._world.landmarks)
            raise DeviceError(f"there is no landmark {name!r}; there are {known}")
        return self._world.landmarks[name]


def _pointing(tip_ras: FloatArray, direction_ras: Any) -> FloatArray:
    """A tip frame whose z points along the direction."""
    z = unit(direction_ras)
    x = perpendicular(z)
    return rigid(np.stack([x, np.cross(z, x), z], axis=1), tip_ras)


def _tilted(pose: FloatArray, phase: float) -> FloatArray:
    """The pose turned about its tip: a rosette of tilts in all directions, with some roll."""
    turn = 2 * np.pi * phase
    tilt_deg = _PIVOT_TILT_DEG * np.sin(3 * turn)
    axis = pose[:3, :3] @ [np.cos(turn / 2), np.sin(turn / 2), 0]
    roll = rotation_about(pose[:3, 2], 20 * np.sin(5 * turn))
    return rigid(rotation_about(axis, tilt_deg) @ roll @ pose[:3, :3], pose[:3, 3])


def _between(start: FloatArray, end: FloatArray, fraction: float) -> FloatArray:
    """Between two poses, starting and ending gently."""
    if fraction <= 0 or fraction >= 1:
        return start if fraction <= 0 else end
    eased = fraction * fraction * (3 - 2 * fraction)
    turn = start[:3, :3].T @ end[:3, :3]
    angle_deg = float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    part = rotation_about(axis, eased * angle_deg) if np.linalg.norm(axis) > 1e-9 else np.eye(3)
    return rigid(start[:3, :3] @ part, start[:3, 3] + eased * (end[:3, 3] - start[:3, 3]))


def _vector(value: Any, name: str) -> FloatArray:
    try:
        vector = np.array(value, float)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise DeviceError(f"{name} must be three numbers, not {value!r}")
    return vector
