"""Fluoroscopy frames with their geometry, and whether they are live."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .freshness import Freshness
from .link import Client, Received
from .messages import Command, CommandReply, Image

PLANES = ("Image_Detector", "Image_Detector2")
#: A frame lives for this many frame periods.
PERIODS = 2.0
_KEPT_FRAMES = 256


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of one plane.

    Attributes:
        plane: `Image_Detector`, or `Image_Detector2` for the second plane of a biplane unit.
        pixels: (rows, columns), detector counts.
        geometry: the geometry.json record sent along; None when it was missing or unreadable.
        air_level: counts behind air; None when it was not sent.
        frame_rate_hz: as announced by the fluoroscope; None when it was not.
        number: counts up with each frame; None when it was not sent.
        timestamp_s: by the fluoroscope's clock.
        received_s: by the receiver's clock.
    """

    plane: str
    pixels: NDArray
    geometry: dict[str, Any] | None
    air_level: float | None
    frame_rate_hz: float | None
    number: int | None
    timestamp_s: float
    received_s: float


@dataclass(frozen=True)
class View:
    """The state of one plane now.

    Attributes:
        frame: the newest frame if it is live and its geometry is known, else None.
        age_s: of the newest frame; infinite when there is none.
        changing: whether the newest frame differs from the one before (noise alone makes it differ).
        reason: why there is no frame, in words; empty when there is one.
    """

    frame: Frame | None
    age_s: float
    changing: bool
    reason: str


@dataclass(frozen=True)
class CArmAnswer:
    """What the C-arm said to an order."""

    accepted: bool
    reason: str


@dataclass
class _Plane:
    freshness: Freshness = field(default_factory=Freshness)
    frame: Frame | None = None
    changing: bool = True
    problem: str = ""


class FluoroscopeRole:
    """Frames from IMAGE messages; orders to a motorized C-arm as COMMAND `CArm`.

    Args:
        client: the link to the fluoroscope; `poll` polls it.
        frame_rate_hz: assumed when the fluoroscope does not announce its own.

    Attributes:
        correct: takes the distortion out of pixels (rows, columns); None for frames as they come. A frame that it
            refuses with an `ImageError` has no geometry that could be relied upon.
    """

    def __init__(self, client: Client, frame_rate_hz: float = 5.0) -> None:
        self.client = client
        self.correct: Callable[[NDArray], NDArray] | None = None
        self._frame_rate_hz = frame_rate_hz
        self._planes: dict[str, _Plane] = {}
        self._new: deque[Frame] = deque(maxlen=_KEPT_FRAMES)
        self._last_order = 0
        self._answers: dict[int, CArmAnswer] = {}

    def poll(self, now_s: float) -> None:
        for received in self.client.poll(now_s):
            self.handle(received)

    def handle(self, received: Received) -> None:
        """Take one message of a link that somebody else polls."""
        message = received.message
        if isinstance(message, Image) and message.name in PLANES:
            self._observe(message, received)
        elif isinstance(message, CommandReply) and message.name == "CArm":
            try:
                body = json.loads(message.text)
                answer = CArmAnswer(body.get("accepted") is True, str(body.get("reason", "")))
            except (ValueError, AttributeError):
                answer = CArmAnswer(False, "the C-arm gave an answer that cannot be read")
            self._answers[message.command_id] = answer

    def take_frames(self) -> list[Frame]:
        """Every new frame since the last call, in order, the planes mixed."""
        frames = list(self._new)
        self._new.clear()
        return frames

    def view(self, plane: str, now_s: float) -> View:
        """The newest frame of a plane, if it may be relied upon."""
        state = self._planes.get(plane)
        if state is None or state.frame is None:
            reason = f"no frame of {plane} yet" if self.client.connected else f"no fluoroscope: {self.client.reason}"
            return View(None, float("inf"), False, reason)
        frame = state.frame
        age_s = state.freshness.age_s(now_s)
        period_s = 1.0 / (frame.frame_rate_hz or self._frame_rate_hz)
        reason = ""
        if not age_s <= PERIODS * period_s:
            reason = f"the last frame of {plane} is {age_s:.1f} s old"
        elif not state.changing:
            reason = f"{plane} is frozen: two frames are the same to the last bit"
        elif frame.geometry is None:
            reason = state.problem or f"{plane} comes without its geometry"
        return View(None if reason else frame, age_s, state.changing, reason)

    def move(self, geometries: list[dict[str, Any]], frame_rate_hz: float, pixels: int, expose: bool) -> int | None:
        """Ask a motorized C-arm to take a pose and to expose (or not); the order's number, None when not connected.

        Args:
            geometries: one or two geometry.json records; the second is for the second plane.
            pixels: columns of the frames wanted (rows follow from the geometry).
        """
        self._last_order += 1
        body = {"geometries": geometries, "frame_rate_hz": frame_rate_hz, "pixels": pixels, "expose": expose}
        text = json.dumps(body, allow_nan=False)
        sent = self.client.send(Command("CArm", command_id=self._last_order, command="CArm", text=text))
        # Frames of the old pose must not pass for frames of the new one.
        self._planes.clear()
        self._new.clear()
        return self._last_order if sent else None

    def answer(self, order: int) -> CArmAnswer | None:
        """What the C-arm said to an order, None as long as it said nothing."""
        return self._answers.get(order)

    def _observe(self, message: Image, received: Received) -> None:
        if message.voxels.ndim != 3 or message.voxels.shape[0] != 1:
            return
        state = self._planes.setdefault(message.name, _Plane())
        if not state.freshness.observe(message.timestamp_s, received.received_s, received.delay_s):
            return
        pixels, geometry, state.problem = message.voxels[0], _geometry(message.metadata.get("Geometry")), ""
        if self.correct is not None:
            try:
                pixels = self.correct(pixels)
            except ImageError as error:
                geometry, state.problem = None, f"{message.name}: {error}"
        frame = Frame(
            plane=message.name,
            pixels=pixels,
            geometry=geometry,
            air_level=_positive(message.metadata.get("AirLevel")),
            frame_rate_hz=_positive(message.metadata.get("FrameRate")),
            number=_count(message.metadata.get("FrameNumber")),
            timestamp_s=message.timestamp_s,
            received_s=received.received_s,
        )
        previous = state.frame
        state.changing = previous is None or not np.array_equal(previous.pixels, pixels)
        state.frame = frame
        self._new.append(frame)


def _geometry(text: str | None) -> dict[str, Any] | None:
    try:
        record = json.loads(text or "")
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
