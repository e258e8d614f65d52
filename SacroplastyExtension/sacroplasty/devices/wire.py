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
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from ..geometry import FloatArray, LPSToRAS
from .crc64 import SHORT_BYTES, crc64, crc64_of_parts
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
_LARGEST_SMALL_BODY_BYTES = 2**18
_LARGEST_HEADER_VERSION = 3
#: Bodies beyond this are received where they stay, without a copy.
_BUFFER_BYTES = 2**18
#: A peer may have this many bytes checked in vain for each byte that it sends, then its bytes are thrown away. Headers
#: within headers would otherwise have every byte checked as often as there are headers.
_VAIN_CHECKS = 4
_MOST_CREDIT_BYTES = 2**28
_FIRST_CREDIT_BYTES = 2**22
#: A beginning that turns out to be none costs as much time as checking this many bytes.
_VAIN_LOOK_BYTES = 1024

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
_NOTHING = memoryview(b"")
_Part = bytes | memoryview
#: A message begins with 0, its header version and the first letter of its type.
_START_BYTES = 3
_IS_LETTER = np.array([chr(byte).isalpha() and byte < 128 for byte in range(256)])
_PLAUSIBLE_TYPE = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\x00*")
#: Short metadata come again and again and are read once.
_REMEMBERED_METADATA_BYTES = 256


class Decoder:
    """Bytes in, messages out. One per connection.

    Either `feed` it, or let a socket write into `space()` and say how much with `filled`, which spares a copy.

    Attributes:
        crc_errors: messages discarded for a wrong checksum.
        malformed: messages discarded because a body with a right checksum makes no sense.
        skipped_bytes: bytes that belonged to no message.
        last_problem: the latest of these in words, empty while all is well.
    """

    def __init__(self, largest_body_bytes: int = LARGEST_BODY_BYTES) -> None:
        self._largest_body_bytes = largest_body_bytes
        self._buffer = bytearray(_BUFFER_BYTES)
        self._start = self._end = 0
        # The body of a large message that is on its way, whose header has left the buffer.
        self._large: _Frame | None = None
        self._body = _NOTHING
        self._body_end = 0
        # Up to here reaches a damaged message; what comes next shows whether its size can be believed.
        self._doubtful_end: int | None = None
        self._credit_bytes = _FIRST_CREDIT_BYTES
        self.crc_errors = 0
        self.malformed = 0
        self.skipped_bytes = 0
        self.last_problem = ""

    @property
    def pending_bytes(self) -> int:
        """Bytes of a message that is not whole yet."""
        return self._end - self._start + (HEADER_BYTES + self._body_end if self._large else 0)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take bytes and return the messages that are now whole, in order."""
        messages: list[Message] = []
        rest = memoryview(data)
        while rest:
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            rest = rest[count:]
            messages += self.filled(count)
        return messages

    def space(self) -> memoryview:
        """Where to write the next bytes; to be used before any other call."""
        if self._large is not None:
            return self._body[self._body_end :]
        free = len(self._buffer) - self._end
        if self._start == self._end and len(self._buffer) == _BUFFER_BYTES:
            self._start = self._end = 0
        elif not free or (free < _BUFFER_BYTES // 4 and self._start) or len(self._buffer) > _BUFFER_BYTES:
            # Whoever still looks at the old buffer keeps it.
            rest = self._buffer[self._start : self._end]
            if self._doubtful_end is not None:
                self._doubtful_end -= self._start
            self._start, self._end = 0, len(rest)
            self._buffer = rest + bytes(_BUFFER_BYTES - len(rest) if len(rest) < _BUFFER_BYTES else _BUFFER_BYTES // 4)
        return memoryview(self._buffer)[self._end :]

    def filled(self, count: int) -> list[Message]:
        """`count` bytes were written into `space()`; the messages that are now whole, in order."""
        self._credit_bytes = min(self._credit_bytes + _VAIN_CHECKS * count, _MOST_CREDIT_BYTES)
        messages: list[Message] = []
        if self._large is None:
            self._end += count
        else:
            self._body_end += count
            if self._body_end < len(self._body):
                return messages
            self._finish_large(self._large, messages)
        self._drain(messages)
        return messages

    def resynchronize(self) -> list[Message]:
        """Give up on the unfinished message and look for the next one in what is already there.

        For a caller with a clock, when the rest of a message does not come: its size field may be damaged.
        """
        messages: list[Message] = []
        if self.pending_bytes:
            self._problem(f"gave up on an unfinished message after {self.pending_bytes} bytes")
            if self._large is not None:
                self._take_back(self._large)
            self._doubtful_end = None
            self._skip_to_plausible(self._start + 1)
            self._drain(messages)
        return messages

    def _drain(self, messages: list[Message]) -> None:
        """Take whole messages from the buffer until there is none, or a large one begins."""
        while self._end - self._start >= HEADER_BYTES and self._large is None:
            if self._credit_bytes < 0:
                self._throw_away()
                return
            if self._doubtful_end is not None and not self._leave_doubtful(self._doubtful_end):
                return
            frames = self._whole_frames()
            if frames:
                self._take(frames, messages)
            elif self._end - self._start < HEADER_BYTES:
                return
            elif (frame := self._frame(self._start)) is None:
                self._problem("bytes that are no OpenIGTLink message")
                self._credit_bytes -= _VAIN_LOOK_BYTES
                self._skip_to_plausible(self._start + 1)
            else:
                if frame.end - self._start > _BUFFER_BYTES:
                    self._begin_large(frame)
                return

    def _frame(self, start: int) -> _Frame | None:
        """The message that begins at `start` by its header, or None when that can be no header."""
        fields = _HEADER.unpack_from(self._buffer, start)
        type_name = _type_name(fields[1])
        if not 1 <= fields[0] <= _LARGEST_HEADER_VERSION or type_name is None:
            return None
        size = fields[5]
        if size > self._largest_body_bytes or (type_name in _SMALL_TYPES and size > _LARGEST_SMALL_BODY_BYTES):
            return None
        body = start + HEADER_BYTES
        if type_name == Image.TYPE and _contradicts(fields[0], size, memoryview(self._buffer)[body : self._end]):
            return None
        return _Frame(fields, type_name, body, body + size)

    def _whole_frames(self) -> list[_Frame]:
        """The messages that lie whole and end to end at the beginning of the buffer."""
        frames = []
        start, last = self._start, self._end - HEADER_BYTES
        while start <= last and (frame := self._frame(start)) is not None and frame.end <= self._end:
            frames.append(frame)
            start = frame.end
        return frames

    def _take(self, frames: list[_Frame], messages: list[Message]) -> None:
        """Check and decode messages that follow each other; stops at damage that may reach beyond a message."""
        with memoryview(self._buffer) as view:
            for frame, is_right in zip(frames, _checked(self._buffer, frames), strict=True):
                if is_right:
                    self._start = frame.end
                    # A copy, since the buffer goes on changing.
                    self._decode(frame, bytes(view[frame.body : frame.end]), messages)
                    continue
                self._blame(frame)
                self._doubtful_end = frame.end
                if not self._leave_doubtful(frame.end) or self._start != frame.end:
                    return

    def _leave_doubtful(self, end: int) -> bool:
        """Leave a damaged message: by its own size when a header follows there; False as long as that is not known."""
        if self._end - end < HEADER_BYTES:
            return False
        self._doubtful_end = None
        if self._frame(end) is not None:
            self.skipped_bytes += end - self._start
            self._start = end
        else:
            self._skip_to_plausible(self._start + 1)
        return True

    def _begin_large(self, frame: _Frame) -> None:
        self._large = frame
        # Unlike a bytearray, this takes memory only as the bytes come.
        self._body = np.empty(frame.end - frame.body, np.uint8).data
        self._body_end = self._end - frame.body
        self._body[: self._body_end] = self._buffer[frame.body : self._end]
        self._start = self._end = 0

    def _finish_large(self, frame: _Frame, messages: list[Message]) -> None:
        if crc64(self._body) == frame.fields[6]:
            body, self._large, self._body = self._body, None, _NOTHING
            self._decode(frame, body, messages)
            return
        self._blame(frame)
        self._take_back(frame)
        self._doubtful_end = self._end

    def _take_back(self, frame: _Frame) -> None:
        """Put what there is of a large message back into the buffer, to look for others within."""
        self._buffer = bytearray(_HEADER.pack(*frame.fields)) + self._body[: self._body_end]
        self._start, self._end = 0, len(self._buffer)
        self._large, self._body = None, _NOTHING

    def _decode(self, frame: _Frame, body: bytes | memoryview, messages: list[Message]) -> None:
        try:
            messages.append(_decode(frame.fields, frame.type_name, body))
        except (ValueError, struct.error, IndexError, KeyError, OverflowError) as error:
            self.malformed += 1
            self._problem(f"a message that makes no sense was discarded ({error})")

    def _blame(self, frame: _Frame) -> None:
        self.crc_errors += 1
        self._credit_bytes -= frame.end - frame.body + HEADER_BYTES
        self._problem("a message with a wrong checksum was discarded")

    def _throw_away(self) -> None:
        self._problem("too much damage: all that was received is thrown away")
        self.skipped_bytes += self._end - self._start
        self._start = self._end = self._credit_bytes = 0
        self._doubtful_end = None

    def _skip_to_plausible(self, start: int) -> None:
        found = _next_start(np.frombuffer(self._buffer, np.uint8), start, self._end)
        self.skipped_bytes += found - self._start
        self._start = found

    def _problem(self, text: str) -> None:
        self.last_problem = text


class _Frame(NamedTuple):
    """Where a message lies in the buffer: its header's fields, its type, beginning and end of its body."""

    fields: tuple[int, bytes, bytes, int, int, int, int]
    type_name: str
    body: int
    end: int


def _next_start(data: NDArray[np.uint8], start: int, end: int) -> int:
    """The first place from `start` on where a message may begin; the last bytes may be half of such a beginning."""
    window = 256
    while end - start >= _START_BYTES:
        part = data[start : min(start + window, end)]
        begins = (part[:-2] == 0) & (part[1:-1] - np.uint8(1) < _LARGEST_HEADER_VERSION) & _IS_LETTER[part[2:]]
        first = int(begins.argmax())
        if begins[first]:
            return start + first
        start += len(part) - _START_BYTES + 1
        window = min(2 * window, _BUFFER_BYTES)
    return start


def _checked(buffer: bytearray, frames: list[_Frame]) -> list[bool]:
    """Whether each message has the checksum that it announces."""
    sizes = [frame.end - frame.body for frame in frames]
    if len(frames) > 1 and min(sizes) > 0 and max(sizes) <= SHORT_BYTES:
        sums = crc64_of_parts(np.frombuffer(buffer, np.uint8), [edge for frame in frames for edge in frame[2:]])
    else:
        with memoryview(buffer) as view:
            sums = [crc64(view[frame.body : frame.end]) for frame in frames]
    return [frame.fields[6] == found for frame, found in zip(frames, sums, strict=True)]


@lru_cache(maxsize=256)
def _type_name(data: bytes) -> str | None:
    """The type of a message, or None for bytes that are no type's name."""
    return data.rstrip(b"\0").decode("ascii") if _PLAUSIBLE_TYPE.fullmatch(data) else None


def _contradicts(version: int, body_bytes: int, body: memoryview) -> bool:
    """Whether an image's own header, as far as it is there, announces other sizes than its message's header."""
    content_bytes, offset = body_bytes, 0
    if version > 1:
        if len(body) < _EXTENDED.size:
            return False
        offset, index_bytes, values_bytes, _ = _EXTENDED.unpack_from(body)
        content_bytes -= offset + index_bytes + values_bytes
    if len(body) < offset + _IMAGE.size:
        return False
    values = _IMAGE.unpack_from(body, offset)
    scalar = _SCALAR_TYPES.get(values[2])
    if scalar is None:  # Unknown, not damaged: discarded when it is whole.
        return False
    columns, rows, slices = values[23:26]
    return bool(content_bytes != _IMAGE.size + columns * rows * slices * values[1] * int(scalar[1]))


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
        packed = packer(message)
        content = packed if isinstance(packed, tuple) else (packed,)
        parts = _extend(message, content)
        size = sum(map(len, parts))
        name = _fixed(message.name, 20, "device name")
        type_name = _fixed(message.type_name, 12, "message type")
        seconds = int(message.timestamp_s)
        fraction = min(int((message.timestamp_s - seconds) * 2**32), 2**32 - 1)
        header = _HEADER.pack(message.header_version, type_name, name, seconds, fraction, size, crc64(*parts))
    except (struct.error, OverflowError, ValueError) as error:
        raise DeviceError(f"{message.type_name} {message.name!r} cannot be sent: {error}") from None
    return b"".join((header, *parts))


def _extend(message: Message, content: tuple[_Part, ...]) -> tuple[_Part, ...]:
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
    return (extended, *content, index + values)


def _decode(fields: tuple[int, bytes, bytes, int, int, int, int], type_name: str, body: bytes | memoryview) -> Message:
    version, _, name_bytes, seconds, fraction, _, _ = fields
    common: dict[str, Any] = {
        "name": _name_of(name_bytes),
        "timestamp_s": seconds + fraction / 2**32,
        "header_version": version,
    }
    content: bytes | memoryview = body
    if version > 1:
        extended_bytes, index_bytes, values_bytes, message_id = _EXTENDED.unpack_from(body)
        end = len(body) - index_bytes - values_bytes
        if extended_bytes < _EXTENDED.size or end < extended_bytes:
            raise ValueError("its metadata is larger than the message")
        content = memoryview(body)[extended_bytes:end]
        common["message_id"] = message_id
        if index_bytes:
            values_start = end + index_bytes
            read = _remembered_metadata if len(body) - end <= _REMEMBERED_METADATA_BYTES else _decode_metadata
            common["metadata"] = dict(read(bytes(body[end:values_start]), bytes(body[values_start:])))
    if type_name == Image.TYPE:
        return _unpack_image(common, memoryview(content))
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


_remembered_metadata = lru_cache(maxsize=256)(_decode_metadata)


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


@lru_cache(maxsize=1024)
def _name_of(data: bytes) -> str:
    """A name, which goes to screens and logs: without anything that would upset them."""
    name = _text_of(data)
    if not name.isprintable():
        raise ValueError(f"the name {name!r} holds control characters")
    return name


def _columns(matrix: FloatArray) -> list[float]:
    """The twelve numbers of a transform, column after column."""
    return np.asarray(matrix, float)[:3, :4].T.ravel().tolist()


def _matrix(values: tuple[float, ...]) -> FloatArray:
    a, b, c, d, e, f, g, h, i, j, k, l = values  # noqa: E741
    return np.array((a, d, g, j, b, e, h, k, c, f, i, l, 0.0, 0.0, 0.0, 1.0)).reshape(4, 4)


def _pack_transform(message: Transform) -> bytes:
    return _TRANSFORM.pack(*_columns(message.matrix))


def _unpack_transform(common: dict[str, Any], content: bytes) -> Transform:
    return Transform(matrix=_matrix(_TRANSFORM.unpack(content)), **common)


def _pack_image(message: Image) -> tuple[_Part, ...]:
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
    # Not joined yet: a picture is large enough for each copy to count.
    return head, little_endian.reshape(-1).view(np.uint8).data


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
    with np.errstate(invalid="ignore"):  # NaN is for whoever uses the matrix to refuse.
        IJKToWorld[:3, 3] = np.array(values[17:20]) - IJKToWorld[:3, :3] @ center
        IJKToRAS = IJKToWorld if world == 1 else LPSToRAS @ IJKToWorld
    voxels = np.frombuffer(pixels, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    voxels.flags.writeable = False
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
    return Status(code=code, subcode=subcode, error_name=_name_of(error_name), text=text, **common)


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
        NamedPoint(_name_of(v[0]), (v[6], v[7], v[8]), _name_of(v[1]), (v[2], v[3], v[4], v[5]), v[9], _name_of(v[10]))
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
    return number, _name_of(name), _decode_text(encoding, _exactly(content, _COMMAND.size, length))


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
    tools = tuple(TrackedTool(_name_of(v[0]), _matrix(v[3:]), v[1]) for v in _TOOL.iter_unpack(content))
    return TrackingData(tools=tools, **common)


def _pack_capability(message: Capability) -> bytes:
    return b"".join(_TYPE_NAME.pack(_fixed(name, 12, "message type")) for name in message.types)


def _unpack_capability(common: dict[str, Any], content: bytes) -> Capability:
    return Capability(types=tuple(_name_of(name) for (name,) in _TYPE_NAME.iter_unpack(content)), **common)


def _exactly(content: bytes, start: int, length: int) -> bytes:
    data = content[start : start + length]
    if len(data) != length:
        raise ValueError(f"{length} bytes of text were announced and {len(data)} came")
    return data


_PACKERS: dict[type[Message], Callable[[Any], _Part | tuple[_Part, ...]]] = {
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
