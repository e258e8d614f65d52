"""The fluoroscopy of a recorded device session, as recordings that the spread monitor replays."""

from __future__ import annotations

import json

import numpy as np

from ..devices.fluoroscope import PLANES
from ..devices.messages import Image, String
from ..devices.pump_protocol import STATE_NAME, parse_state
from ..devices.session_file import Session
from ..errors import DeviceError, DocumentError, GeometryError
from ..xray.geometry import XrayGeometry
from .recording import Recording


def fluoroscopy_of(session: Session) -> dict[str, Recording]:
    """By plane all frames of its last pose, with what the pump had given by then.

    Frames of earlier poses are left out: the monitor compares frames of one view.

    Raises:
        DocumentError: when no plane has a frame with its geometry.
    """
    pump: list[tuple[float, float]] = []
    frames: dict[str, list[tuple[float, Image, XrayGeometry]]] = {}
    for link in session.links:
        for time_s, message in session.messages(link):
            if isinstance(message, String) and message.name == STATE_NAME:
                try:
                    pump.append((time_s, parse_state(message.text).delivered_ml))
                except DeviceError:
                    continue
            elif isinstance(message, Image) and message.name in PLANES:
                try:
                    geometry = XrayGeometry.from_dict(json.loads(message.metadata.get("Geometry", "null")) or {})
                except (GeometryError, ValueError, AttributeError):
                    continue
                of_plane = frames.setdefault(message.name, [])
                if of_plane and of_plane[-1][2].to_dict() != geometry.to_dict():
                    of_plane.clear()
                if not of_plane or time_s > of_plane[-1][0]:
                    of_plane.append((time_s, message, geometry))
    if not frames:
        raise DocumentError(f"{session.name} holds no frame of {' or '.join(PLANES)} with its geometry")
    return {plane: _recording(of_plane, pump) for plane, of_plane in frames.items()}


def _recording(frames: list[tuple[float, Image, XrayGeometry]], pump: list[tuple[float, float]]) -> Recording:
    times = np.array([time_s for time_s, _, _ in frames])
    volume = None
    if pump:
        told_s, told_ml = np.array(pump).T
        # The last state before each frame; before the first there is nothing to be known, and nothing given.
        index = np.searchsorted(told_s, times, side="right") - 1
        volume = np.where(index >= 0, told_ml[np.maximum(index, 0)] - told_ml[0], 0.0)
    metadata = frames[-1][1].metadata
    rate = metadata.get("FrameRate")
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.2
    return Recording(
        frames=np.stack([message.voxels[0] for _, message, _ in frames]).astype(np.uint16),
        time_s=times,
        frame_rate_hz=float(rate) if rate else 1 / step,
        geometries=(frames[-1][2],),
        pump_volume_ml=volume,
        air_level=float(metadata["AirLevel"]) if "AirLevel" in metadata else None,
    )
