"""The simulated tracker: poses of stylus, trocar and reference, and the hands that hold them."""

from __future__ import annotations

import json

import numpy as np

from ..devices.link import Received, Server
from ..devices.messages import Command, CommandReply, Transform
from ..errors import DeviceError, GeometryError
from ..geometry import FloatArray, invert_rigid, rigid, rotation_about
from .hand import Hand
from .live import LiveFolder
from .world import World

#: Distance over which the markers of a tool lie: their jitter turns the tool by jitter / distance.
_MARKER_BODY_MM = 50.0
_LIVE_PERIOD_S = 0.05
_DEMONSTRATION_S = 20.0
#: For how long something stands between a tool and the camera, at least and at most.
_INTERRUPTION_S = (0.2, 1.5)
#: The table's marker is screwed to its rail, at the patient's left.
_TABLE_TO_RAS = rigid(np.eye(3), [-250.0, 80.0, -300.0])
_SIDE_OF = {"CannulaL": "left", "CannulaR": "right"}


class SimulatedTracker:
    """Streams the pose of each of the world's tracked tools, `StylusToTracker` and so on; obeys COMMAND `Hand`.

    A tool that is not there is MISSING, one that is hidden from the camera OUT_OF_VIEW.

    Args:
        epoch_s: seconds since 1970 at `now_s` zero, for time stamps.
    """

    def __init__(
        self, world: World, server: Server, live: LiveFolder, rng: np.random.Generator, epoch_s: float
    ) -> None:
        self._world = world
        self._server = server
        self._live = live
        self._rng = rng
        self._epoch_s = epoch_s
        self._hand = Hand(world, rng)
        self._next_s = float("-inf")
        self._next_live_s = float("-inf")
        self._demonstrated = 0
        self._covered_until_s: dict[str, float] = {}
        self._DetectorToRAS: FloatArray | None = None
        self._RASToTracker = invert_rigid(world.TrackerToRAS)
        self._ToolToTip = {
            "Stylus": invert_rigid(world.StylusTipToStylus),
            "Trocar": invert_rigid(world.trocar.TipToTool),
        }
        live.write_hand(self._hand.state(0.0))

    def step(self, now_s: float, wait_s: float) -> None:
        """Obey what came, send what is due, wait at most `wait_s` for more."""
        for received in self._server.poll(now_s, max(0.0, min(wait_s, self._next_s - now_s))):
            self._obey(received, now_s)
        if self._world.demonstration:
            self._demonstrate(now_s)
        if now_s >= self._next_s:
            period_s = 1 / self._world.tracker.rate_hz
            # Keeps the mean rate; after a pause it does not catch up.
            self._next_s = now_s + period_s if now_s - self._next_s > period_s else self._next_s + period_s
            self._stream(now_s)
        if now_s >= self._next_live_s:
            self._next_live_s = now_s + _LIVE_PERIOD_S
            self._DetectorToRAS = self._live.read_detector()
            self._live.write_hand(self._hand.state(now_s))

    def _stream(self, now_s: float) -> None:
        for tool in self._world.tracker.tools:
            ToolToTracker = self._true_pose(tool, now_s)
            status = "MISSING" if ToolToTracker is None else "OUT_OF_VIEW" if self._covered(tool, now_s) else "OK"
            matrix = self._measured(ToolToTracker) if ToolToTracker is not None and status == "OK" else np.eye(4)
            metadata = {"TransformStatus": status, "TransformValid": "true" if status == "OK" else "false"}
            message = Transform(f"{tool}ToTracker", matrix, timestamp_s=self._epoch_s + now_s, metadata=metadata)
            self._server.send(message)
        self._server.flush(now_s)

    def _true_pose(self, tool: str, now_s: float) -> FloatArray | None:
        """ToolToTracker, None when the tool is not in the room."""
        if tool == "Reference":
            return self._world.ReferenceToTracker
        ToolToRAS: FloatArray | None = None
        if tool in self._ToolToTip:
            TipToRAS = self._hand.trembling_pose(tool, now_s)
            ToolToRAS = None if TipToRAS is None else TipToRAS @ self._ToolToTip[tool]
        elif tool in _SIDE_OF:
            TipToRAS = self._hand.state(now_s).cannulas.get(_SIDE_OF[tool])
            ToolToRAS = None if TipToRAS is None else TipToRAS @ self._ToolToTip["Trocar"]
        elif tool == "CArm" and self._DetectorToRAS is not None:
            ToolToRAS = self._DetectorToRAS @ invert_rigid(self._world.carm.DetectorToMarker)
        elif tool == "Table":
            ToolToRAS = _TABLE_TO_RAS
        return None if ToolToRAS is None else self._RASToTracker @ ToolToRAS

    def _covered(self, tool: str, now_s: float) -> bool:
        """Whether something stands between a tool and the camera; by chance now and then something comes."""
        model = self._world.tracker
        until_s = self._covered_until_s.get(tool, float("-inf"))
        if now_s >= until_s and self._rng.random() < model.interruptions_per_min / 60 / model.rate_hz:
            self._covered_until_s[tool] = until_s = now_s + float(self._rng.uniform(*_INTERRUPTION_S))
        return now_s < until_s

    def _cover(self, tool: object, seconds: float, now_s: float) -> float:
        tools = self._world.tracker.tools if tool == "all" else (tool,)
        if not set(tools) <= set(self._world.tracker.tools) or not 0 < seconds <= 600:
            raise DeviceError(f"cover_s needs a tracked tool (or all) and up to 600 s, not {tool!r} and {seconds}")
        self._covered_until_s |= {str(one): now_s + seconds for one in tools}
        return 0.0

    def _measured(self, ToolToTracker: FloatArray) -> FloatArray:
        noise_mm = self._world.tracker.noise_mm
        turn = self._rng.normal(0, noise_mm / _MARKER_BODY_MM, 3)
        angle = float(np.linalg.norm(turn))
        rotation = rotation_about(turn, float(np.degrees(angle))) if angle > 0 else np.eye(3)
        return rigid(rotation @ ToolToTracker[:3, :3], ToolToTracker[:3, 3] + self._rng.normal(0, noise_mm, 3))

    def _obey(self, received: Received, now_s: float) -> None:
        message = received.message
        if not isinstance(message, Command) or message.name != "Hand":
            return
        try:
            body = json.loads(message.text)
            if not isinstance(body, dict):
                raise DeviceError("an order to the hand is a JSON object")
            covers = "cover_s" in body
            busy_s = (
                self._cover(body.get("tool"), float(body["cover_s"]), now_s)
                if covers
                else self._hand.order(body, now_s)
            )
            answer = {"accepted": True, "reason": "", "busy_s": busy_s}
        except (DeviceError, GeometryError, ValueError, TypeError) as error:
            answer = {"accepted": False, "reason": str(error), "busy_s": 0.0}
        self._live.write_hand(self._hand.state(now_s))
        reply = CommandReply("Hand", command_id=message.command_id, command=message.command, text=json.dumps(answer))
        self._server.send(reply, to=received.peer)

    def _demonstrate(self, now_s: float) -> None:
        """Without a world of its own the tools move, so that a connection can be seen to work."""
        turn = int(now_s // _DEMONSTRATION_S)
        if turn >= self._demonstrated:
            self._demonstrated = turn + 1
            self._hand.order({"tool": "Stylus", "pivot_s": _DEMONSTRATION_S}, now_s)
            tip = [20.0 * (-1) ** turn, -30.0, 0.0]
            self._hand.order({"tool": "Trocar", "place": {"tip_ras": tip}}, now_s)
