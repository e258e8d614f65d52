"""OpenIGTLink bytes to messages and back, without any input or output.

`Decoder` takes bytes as they come, in pieces of any size, and gives whole, checked messages. Damage costs the damaged
message only: a wrong checksum, a broken body or garbage between messages is counted and the decoder finds the next
header. Format: OpenIGTLink protocol 3 (header, extended header and metadata of header versions 2 and 3; the body
layouts of each type's page).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ..errors import DeviceError
from ..geometry import FloatArray, LPSToRAS
from .crc64 import crc64
from .messages import (
    Capability,
    Command,
    CommandReply,
    Image,
    Message,
    NamedPoint,
    Opaque,
    Point,
    Query,
    Sensor,
    Status,
    String,
    TrackedTool,
    TrackingData,
    Transform,
)

HEADER_BYTES = 58
LARGEST_BODY_BYTES = 64 * 2**20
#: A type whose body cannot be large: a damaged size field must not make the decoder wait for megabytes.
_SMALL_TYPES = frozenset({"TRANSFORM", "STATUS", "STRING", "COMMAND", "RTS_COMMAND", "SENSOR", "CAPABILITY"})
_LARGEST_SMALL_BODY_BYTES = 2**20
_LARGEST_HEADER_VERSION = 3

_HEADER = struct.Struct(">H12s20sIIQQ")
_EXTENDED = struct.Struct(">HHII")
_METADATA_ITEM = struct.Struct(">HHI")
_TRANSFORM = struct.Struct(">12f")
_IMAGE = struct.Struct(">HBBBB3H12f6H")
_STRING = struct.Struct(">HH")
_STATUS = struct.Struct(">Hq20s")
_POINT = struct.Struct(">64s32s4B3ff20s")
_COMMAND = struct.Struct(">I128sHI")
_SENSOR = struct.Struct(">BBQ")
_TOOL = struct.Struct(">20sBB12f")
_TYPE_NAME = struct.Struct(">12s")

_ASCII, _UTF8 = 3, 106  # IANA MIBenum values.
_SCALAR_TYPES: dict[int, str] = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}
_PLAUSIBLE_START = re.compile(rb"\x00[\x01-\x03](?=[A-Za-z][A-Za-z0-9_]{0,11}\x00{0,11})")
_PLAUSIBLE_TYPE = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\x00*")


class Decoder:
    """Bytes in, messages out. One per connection.

    Attributes:
        crc_errors: messages discarded for a wrong checksum.
        malformed: messages discarded because a body with a right checksum makes no sense.
        skipped_bytes: bytes that belonged to no message.
        last_problem: the latest of these in words, empty while all is well.
    """

    def __init__(self, largest_body_bytes: int = LARGEST_BODY_BYTES) -> None:
        self._buffer = bytearray()
        self._largest_body_bytes = largest_body_bytes
        self.crc_errors = 0
        self.malformed = 0
        self.skipped_bytes = 0
        self.last_problem = ""

    @property
    def pending_bytes(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take bytes and return the messages that are now whole, in order."""
        self._buffer += data
        return self._drain()

    def resynchronize(self) -> list[Message]:
        """Give up on the unfinished message and look for the next one in what is already there.

        For a caller with a clock, when the rest of a message does not come: its size field may be damaged.
        """
        if self._buffer:
            self._problem(f"gave up on an unfinished message after {len(self._buffer)} bytes")
            self._skip_to_plausible(1)
        return self._drain()

    def _drain(self) -> list[Message]:
        messages: list[Message] = []
        while len(self._buffer) >= HEADER_BYTES:
            size = self._plausible_body_bytes(0)
            if size is None:
                self._problem("bytes that are no OpenIGTLink message")
                self._skip_to_plausible(1)
                continue
            end = HEADER_BYTES + size
            if len(self._buffer) < end:
                break
            with memoryview(self._buffer) as view:
                # A copy, since the buffer goes on changing.
                header, body = bytes(view[:HEADER_BYTES]), bytes(view[HEADER_BYTES:end])
            if crc64(body) != _HEADER.unpack(header)[6]:
                self.crc_errors += 1
                self._problem("a message with a wrong checksum was discarded")
                self._skip_damaged(end)
                continue
            del self._buffer[:end]
            try:
                messages.append(_decode(header, body))
            except (ValueError, struct.error, IndexError, KeyError, OverflowError) as error:
                self.malformed += 1
                self._problem(f"a message that makes no sense was discarded ({error})")
        return messages

    def _plausible_body_bytes(self, start: int) -> int | None:
        """The body size of the header at `start`, or None when that can be no header."""
        version, type_name, _, _, _, size, _ = _HEADER.unpack_from(self._buffer, start)
        if not 1 <= version <= _LARGEST_HEADER_VERSION or not _PLAUSIBLE_TYPE.fullmatch(type_name):
            return None
        small = type_name.rstrip(b"\0").decode("ascii") in _SMALL_TYPES
        limit = min(_LARGEST_SMALL_BODY_BYTES, self._largest_body_bytes) if small else self._largest_body_bytes
        return int(size) if size <= limit else None

    def _skip_damaged(self, end: int) -> None:
        """Leave a damaged message, by its own size when another header (or nothing yet) follows there."""
        after = self._buffer[end : end + HEADER_BYTES]
        if not after or (len(after) == HEADER_BYTES and self._plausible_body_bytes(end) is not None):
            del self._buffer[:end]
            self.skipped_bytes += end
        else:
            self._skip_to_plausible(1)

    def _skip_to_plausible(self, start: int) -> None:
        match = _PLAUSIBLE_START.search(self._buffer, start)
        # Without a match the beginning of a header may still be the last bytes received.
        skip = match.start() if match else max(start, len(self._buffer) - 14)
        del self._buffer[:skip]
        self.skipped_bytes += skip

    def _problem(self, text: str) -> None:
        self.last_problem = text


def encode(message: Message) -> bytes:
    """The bytes of a message.

    Raises:
        DeviceError: when the message cannot be said in OpenIGTLink: name longer than 20 bytes, text too long,
            pixels of a type that it does not have, metadata with header version 1.
    """
    packer = _PACKERS.get(type(message))
    if packer is None:
        raise DeviceError(f"{type(message).__name__} is no message that can be sent")
    try:
        content = packer(message)
        body = _extend(message, content)
        name = _fixed(message.name, 20, "device name")
        type_name = _fixed(message.type_name, 12, "message type")
        seconds = int(message.timestamp_s)
        fraction = min(int((message.timestamp_s - seconds) * 2**32), 2**32 - 1)
        header = _HEADER.pack(message.header_version, type_name, name, seconds, fraction, len(body), crc64(body))
    except (struct.error, OverflowError, ValueError) as error:
        raise DeviceError(f"{message.type_name} {message.name!r} cannot be sent: {error}") from None
    return header + body


def _extend(message: Message, content: bytes) -> bytes:
    if message.header_version == 1:
        if message.metadata:
            raise ValueError("metadata needs header version 2")
        return content
    if not 2 <= message.header_version <= _LARGEST_HEADER_VERSION:
        raise ValueError(f"there is no header version {message.header_version}")
    index, values = struct.pack(">H", len(message.metadata)), b""
    for key, value in message.metadata.items():
        key_bytes, (encoding, value_bytes) = key.encode(), _encode_text(value)
        index += _METADATA_ITEM.pack(len(key_bytes), encoding, len(value_bytes))
        values += key_bytes + value_bytes
    extended = _EXTENDED.pack(_EXTENDED.size, len(index), len(values), message.message_id)
    return b"".join((extended, content, index, values))


def _decode(header: bytes, body: bytes) -> Message:
    version, type_bytes, name_bytes, seconds, fraction, _, _ = _HEADER.unpack(header)
    common: dict[str, Any] = {
        "name": _text_of(name_bytes),
        "timestamp_s": seconds + fraction / 2**32,
        "header_version": version,
    }
    content = memoryview(body)
    if version > 1:
        extended_bytes, index_bytes, values_bytes, message_id = _EXTENDED.unpack_from(body)
        end = len(body) - index_bytes - values_bytes
        if extended_bytes < _EXTENDED.size or end < extended_bytes:
            raise ValueError("its metadata is larger than the message")
        content = content[extended_bytes:end]
        common["message_id"] = message_id
        common["metadata"] = _decode_metadata(body[end : end + index_bytes], body[end + index_bytes :])
    type_name = type_bytes.rstrip(b"\0").decode("ascii")
    if type_name == Image.TYPE:
        return _unpack_image(common, content)
    unpacker = _UNPACKERS.get(type_name)
    if unpacker is not None:
        return unpacker(common, bytes(content))
    action, _, target = type_name.partition("_")
    if action in ("GET", "STT", "STP") and target:
        target = "CAPABILITY" if target == "CAPABIL" else target
        return Query(action=cast(Any, action), target=target, content=bytes(content), **common)
    return Opaque(type=type_name, body=bytes(content), **common)


def _decode_metadata(index: bytes, values: bytes) -> dict[str, str]:
    metadata: dict[str, str] = {}
    if not index:
        return metadata
    (count,) = struct.unpack_from(">H", index)
    offset = 0
    for item in range(count):
        key_bytes, encoding, value_bytes = _METADATA_ITEM.unpack_from(index, 2 + item * _METADATA_ITEM.size)
        if offset + key_bytes + value_bytes > len(values):
            raise ValueError("its metadata is cut short")
        key = values[offset : offset + key_bytes].decode()
        offset += key_bytes
        metadata[key] = _decode_text(encoding, values[offset : offset + value_bytes])
        offset += value_bytes
    return metadata


def _encode_text(text: str) -> tuple[int, bytes]:
    return (_ASCII, text.encode("ascii")) if text.isascii() else (_UTF8, text.encode())


def _decode_text(encoding: int, data: bytes) -> str:
    if encoding not in (_ASCII, _UTF8):
        raise ValueError(f"text in the encoding {encoding}, which is neither ASCII (3) nor UTF-8 (106)")
    # UTF-8 includes ASCII; some senders name ASCII and write UTF-8.
    return data.decode("utf-8")


def _fixed(text: str, size: int, what: str) -> bytes:
    data = text.encode()
    if len(data) > size:
        raise ValueError(f"the {what} {text!r} is longer than {size} bytes")
    return data


def _text_of(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def _columns(matrix: FloatArray) -> list[float]:
    """The twelve numbers of a transform, column after column."""
    return np.asarray(matrix, float)[:3, :4].T.ravel().tolist()


def _matrix(values: tuple[float, ...]) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, :4] = np.reshape(values, (4, 3)).T
    return matrix


def _pack_transform(message: Transform) -> bytes:
    return _TRANSFORM.pack(*_columns(message.matrix))


def _unpack_transform(common: dict[str, Any], content: bytes) -> Transform:
    return Transform(matrix=_matrix(_TRANSFORM.unpack(content)), **common)


def _pack_image(message: Image) -> bytes:
    voxels = np.asarray(message.voxels)
    if voxels.ndim not in (3, 4):
        raise ValueError(f"its pixels have the shape {voxels.shape}; [k, j, i] or [k, j, i, component] is needed")
    native = voxels.dtype.newbyteorder("=").str[1:]
    codes = [code for code, scalar in _SCALAR_TYPES.items() if scalar == native]
    if not codes:
        raise ValueError(f"OpenIGTLink has no pixels of type {voxels.dtype}")
    components = voxels.shape[3] if voxels.ndim == 4 else 1
    size = voxels.shape[2], voxels.shape[1], voxels.shape[0]
    middle = message.IJKToRAS @ [(size[0] - 1) / 2, (size[1] - 1) / 2, (size[2] - 1) / 2, 1.0]
    axes = np.asarray(message.IJKToRAS, float)[:3, :3].T.ravel()
    little, ras = 2, 1
    head = _IMAGE.pack(1, components, codes[0], little, ras, *size, *axes, *middle[:3], 0, 0, 0, *size)
    little_endian = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    # Joined once: a picture is large enough for each copy to count.
    return b"".join((head, little_endian.reshape(-1).view(np.uint8).data))


def _unpack_image(common: dict[str, Any], content: memoryview) -> Image:
    values = _IMAGE.unpack_from(content)
    _, components, scalar, endian, world = values[:5]
    columns, rows, slices = values[5:8]
    if values[20:26] != (0, 0, 0, columns, rows, slices):
        raise ValueError("an image that is a part of a larger one, which is not supported")
    if scalar not in _SCALAR_TYPES or endian not in (1, 2) or world not in (1, 2) or components < 1:
        raise ValueError(f"an image of unknown kind (scalar {scalar}, byte order {endian}, coordinates {world})")
    dtype = np.dtype((">" if endian == 1 else "<") + _SCALAR_TYPES[scalar])
    shape = (slices, rows, columns) if components == 1 else (slices, rows, columns, components)
    pixels = content[_IMAGE.size :]
    if len(pixels) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise ValueError(f"an image of {len(pixels)} bytes where {shape} of {dtype} was announced")
    IJKToWorld = np.eye(4)
    IJKToWorld[:3, :3] = np.reshape(values[8:17], (3, 3)).T
    # The message gives the centre of the image, a matrix the centre of its first voxel.
    center = np.array([columns - 1, rows - 1, slices - 1]) / 2
    IJKToWorld[:3, 3] = np.array(values[17:20]) - IJKToWorld[:3, :3] @ center
    IJKToRAS = IJKToWorld if world == 1 else LPSToRAS @ IJKToWorld
    voxels = np.frombuffer(pixels, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    return Image(voxels=voxels, IJKToRAS=IJKToRAS, **common)


def _pack_string(message: String) -> bytes:
    encoding, data = _encode_text(message.text)
    if len(data) > 65535:
        raise ValueError(f"its text has {len(data)} bytes; at most 65535 fit")
    return _STRING.pack(encoding, len(data)) + data


def _unpack_string(common: dict[str, Any], content: bytes) -> String:
    encoding, length = _STRING.unpack_from(content)
    return String(text=_decode_text(encoding, _exactly(content, _STRING.size, length)), **common)


def _pack_status(message: Status) -> bytes:
    head = _STATUS.pack(message.code, message.subcode, _fixed(message.error_name, 20, "error name"))
    return head + message.text.encode() + b"\0"


def _unpack_status(common: dict[str, Any], content: bytes) -> Status:
    code, subcode, error_name = _STATUS.unpack_from(content)
    text = _text_of(content[_STATUS.size :])
    return Status(code=code, subcode=subcode, error_name=_text_of(error_name), text=text, **common)


def _pack_point(message: Point) -> bytes:
    return b"".join(
        _POINT.pack(
            _fixed(point.name, 64, "point name"),
            _fixed(point.group, 32, "group"),
            *point.rgba,
            *point.position,
            point.diameter_mm,
            _fixed(point.owner, 20, "owner"),
        )
        for point in message.points
    )


def _unpack_point(common: dict[str, Any], content: bytes) -> Point:
    points = tuple(
        NamedPoint(_text_of(v[0]), (v[6], v[7], v[8]), _text_of(v[1]), (v[2], v[3], v[4], v[5]), v[9], _text_of(v[10]))
        for v in _POINT.iter_unpack(content)
    )
    return Point(points=points, **common)


def _pack_command(message: Command | CommandReply) -> bytes:
    encoding, data = _encode_text(message.text)
    # 127 bytes, since peers written in C want a zero at the end.
    name = _fixed(message.command, 127, "command name")
    return _COMMAND.pack(message.command_id, name, encoding, len(data)) + data


def _unpack_command(common: dict[str, Any], content: bytes) -> Command:
    number, name, text = _command_parts(content)
    return Command(command_id=number, command=name, text=text, **common)


def _unpack_reply(common: dict[str, Any], content: bytes) -> CommandReply:
    number, name, text = _command_parts(content)
    return CommandReply(command_id=number, command=name, text=text, **common)


def _command_parts(content: bytes) -> tuple[int, str, str]:
    number, name, encoding, length = _COMMAND.unpack_from(content)
    return number, _text_of(name), _decode_text(encoding, _exactly(content, _COMMAND.size, length))


def _pack_sensor(message: Sensor) -> bytes:
    count = len(message.values)
    return _SENSOR.pack(count, message.status, message.unit) + struct.pack(f">{count}d", *message.values)


def _unpack_sensor(common: dict[str, Any], content: bytes) -> Sensor:
    count, status, unit = _SENSOR.unpack_from(content)
    values = struct.unpack(f">{count}d", content[_SENSOR.size :])
    return Sensor(values=values, unit=unit, status=status, **common)


def _pack_tracking(message: TrackingData) -> bytes:
    return b"".join(
        _TOOL.pack(_fixed(tool.name, 20, "tool name"), tool.kind, 0, *_columns(tool.matrix)) for tool in message.tools
    )


def _unpack_tracking(common: dict[str, Any], content: bytes) -> TrackingData:
    tools = tuple(TrackedTool(_text_of(v[0]), _matrix(v[3:]), v[1]) for v in _TOOL.iter_unpack(content))
    return TrackingData(tools=tools, **common)


def _pack_capability(message: Capability) -> bytes:
    return b"".join(_TYPE_NAME.pack(_fixed(name, 12, "message type")) for name in message.types)


def _unpack_capability(common: dict[str, Any], content: bytes) -> Capability:
    return Capability(types=tuple(_text_of(name) for (name,) in _TYPE_NAME.iter_unpack(content)), **common)


def _exactly(content: bytes, start: int, length: int) -> bytes:
    data = content[start : start + length]
    if len(data) != length:
        raise ValueError(f"{length} bytes of text were announced and {len(data)} came")
    return data


_PACKERS: dict[type[Message], Callable[[Any], bytes]] = {
    Transform: _pack_transform,
    Image: _pack_image,
    String: _pack_string,
    Status: _pack_status,
    Point: _pack_point,
    Command: _pack_command,
    CommandReply: _pack_command,
    Sensor: _pack_sensor,
    TrackingData: _pack_tracking,
    Query: lambda message: message.content,
    Capability: _pack_capability,
    Opaque: lambda message: message.body,
}

_UNPACKERS: dict[str, Callable[[dict[str, Any], bytes], Message]] = {
    "TRANSFORM": _unpack_transform,
    "STRING": _unpack_string,
    "STATUS": _unpack_status,
    "POINT": _unpack_point,
    "COMMAND": _unpack_command,
    "RTS_COMMAND": _unpack_reply,
    "SENSOR": _unpack_sensor,
    "TDATA": _unpack_tracking,
    "CAPABILITY": _unpack_capability,
}
