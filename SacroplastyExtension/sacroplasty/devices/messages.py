"""What travels over OpenIGTLink, as plain records.

Every message has `name` (device name, at most 20 bytes), `timestamp_s` (seconds since 1970 by the sender's clock, 0
when unused), `metadata` (text by key, needs header version 2) and `header_version`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray


class StatusCode(IntEnum):
    """Codes of STATUS (OpenIGTLink protocol 3, status message), those used here."""

    OK = 1
    UNKNOWN_ERROR = 2
    PANIC = 3
    ACCESS_DENIED = 5
    BUSY = 6
    TIMEOUT = 7
    CONFIGURATION = 10
    UNKNOWN_INSTRUCTION = 12
    NOT_READY = 13
    DISABLED = 15
    HARDWARE_FAILURE = 18
    SHUTTING_DOWN = 19


@dataclass(frozen=True, eq=False)
class Message:
    """What all messages have."""

    name: str
    timestamp_s: float = field(default=0.0, kw_only=True)
    metadata: dict[str, str] = field(default_factory=dict, kw_only=True)
    header_version: int = field(default=2, kw_only=True)
    message_id: int = field(default=0, kw_only=True)

    TYPE: ClassVar[str] = ""

    @property
    def type_name(self) -> str:
        return self.TYPE


@dataclass(frozen=True, eq=False)
class Transform(Message):
    """A 4x4 matrix in mm, float32 on the wire; the name says from where to where, `StylusToTracker`."""

    matrix: FloatArray
    TYPE: ClassVar[str] = "TRANSFORM"


@dataclass(frozen=True, eq=False)
class Image(Message):
    """Pixels `voxels[k, j, i]` (or `[k, j, i, component]`) and `IJKToRAS` (4x4, mm, float32 on the wire)."""

    voxels: NDArray
    IJKToRAS: FloatArray = field(default_factory=lambda: np.eye(4))
    TYPE: ClassVar[str] = "IMAGE"


@dataclass(frozen=True, eq=False)
class String(Message):
    """Text of at most 65535 bytes."""

    text: str
    TYPE: ClassVar[str] = "STRING"


@dataclass(frozen=True, eq=False)
class Status(Message):
    """State of a device; also the keep-alive of a link."""

    code: int
    subcode: int = 0
    error_name: str = ""
    text: str = ""
    TYPE: ClassVar[str] = "STATUS"


@dataclass(frozen=True)
class NamedPoint:
    """One point of a POINT message, mm."""

    name: str
    position: tuple[float, float, float]
    group: str = ""
    rgba: tuple[int, int, int, int] = (255, 255, 0, 255)
    diameter_mm: float = 0.0
    owner: str = ""


@dataclass(frozen=True, eq=False)
class Point(Message):
    points: tuple[NamedPoint, ...]
    TYPE: ClassVar[str] = "POINT"


@dataclass(frozen=True, eq=False)
class Command(Message):
    """An order, `command_id` unique per sender; its answer is a CommandReply with the same id."""

    command_id: int
    command: str
    text: str
    TYPE: ClassVar[str] = "COMMAND"


@dataclass(frozen=True, eq=False)
class CommandReply(Message):
    """The answer to a Command. `command` repeats the order's name (some peers put an error text there)."""

    command_id: int
    command: str
    text: str
    TYPE: ClassVar[str] = "RTS_COMMAND"


@dataclass(frozen=True, eq=False)
class Sensor(Message):
    """Up to 255 readings in one unit (the protocol's 64-bit unit field; 0 when they have none in common)."""

    values: tuple[float, ...]
    unit: int = 0
    status: int = 0
    TYPE: ClassVar[str] = "SENSOR"


@dataclass(frozen=True)
class TrackedTool:
    """One tool of a TDATA message; `kind` 1 tracker, 2 six, 3 three, 4 five degrees of freedom."""

    name: str
    matrix: FloatArray
    kind: int = 2


@dataclass(frozen=True, eq=False)
class TrackingData(Message):
    tools: tuple[TrackedTool, ...]
    TYPE: ClassVar[str] = "TDATA"


@dataclass(frozen=True, eq=False)
class Query(Message):
    """GET_, STT_ (start) or STP_ (stop) of a message type; `content` is passed as it is."""

    action: Literal["GET", "STT", "STP"]
    target: str
    content: bytes = b""

    @property
    def type_name(self) -> str:
        # A type name has 12 bytes: CAPABILITY is asked for as GET_CAPABIL.
        return f"{self.action}_{self.target}"[:11] if self.target == "CAPABILITY" else f"{self.action}_{self.target}"


@dataclass(frozen=True, eq=False)
class Capability(Message):
    """The message types that the sender understands."""

    types: tuple[str, ...]
    TYPE: ClassVar[str] = "CAPABILITY"


@dataclass(frozen=True, eq=False)
class Opaque(Message):
    """A message of a type that is not known here, its body untouched."""

    type: str
    body: bytes

    @property
    def type_name(self) -> str:
        return self.type
