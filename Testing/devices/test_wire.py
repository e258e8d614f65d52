"""OpenIGTLink bytes against two independent implementations, damage and fragmentation."""

from __future__ import annotations

import struct

import crcmod
import numpy as np
import pyigtl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyigtl.messages import MessageBase

from sacroplasty.devices.crc64 import crc64, crc64_of_parts
from sacroplasty.devices.messages import (
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
from sacroplasty.devices.wire import HEADER_BYTES, Decoder, encode
from sacroplasty.errors import DeviceError
from sacroplasty.geometry import rigid, rotation_about

REFERENCE_CRC = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, rev=False, initCrc=0, xorOut=0)
POSE = rigid(rotation_about([1, 2, 3], 40), [10.5, -20.25, 300.125])
SAMPLES: list[Message] = [
    Transform(
        "StylusToTracker", POSE, timestamp_s=1700000000.25, metadata={"TransformStatus": "OK", "Ort": "Würzburg"}
    ),
    Image("Image_Detector", np.arange(24, dtype=np.uint16).reshape(1, 4, 6), rigid(np.eye(3), [5, 6, 7])),
    Image("Color", np.arange(36, dtype=np.uint8).reshape(1, 3, 4, 3)),
    String("PumpState", '{"state": "größer"}'),
    Status("Pump", 3, subcode=-7, error_name="stall", text="the screw does not turn"),
    Point("Landmarks", (NamedPoint("promontory", (1.0, -2.0, 3.5), "sacrum", (1, 2, 3, 4), 2.5, "CT"),)),
    Command("Pump", command_id=7, command="run", text='{"rate_ml_s": 0.05}'),
    CommandReply("Pump", command_id=7, command="run", text="{}"),
    Sensor("PumpSensor", (1.25, -3.5, 1e-9), unit=5),
    TrackingData("Tools", (TrackedTool("Stylus", POSE), TrackedTool("Trocar", np.eye(4), kind=1))),
    Query("", "GET", "CAPABILITY"),
    Query("Image_Detector", "STT", "TDATA", b"\0\0\0\x32"),
    Capability("", ("TRANSFORM", "IMAGE")),
    Opaque("Future", "HOLOGRAM", b"whatever"),
]


def comparable(message: Message) -> dict:
    """Fields of a message with arrays as lists, in the precision of the wire."""
    plain = {}
    for key, value in vars(message).items():
        if isinstance(value, np.ndarray):
            plain[key] = (value.dtype.kind, np.asarray(value, np.float32).tolist())
        elif key == "tools":
            plain[key] = [(tool.name, np.float32(tool.matrix).tolist(), tool.kind) for tool in value]
        else:
            plain[key] = value
    return plain


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1023, 1024, 1025, 5000, 65535, 65536, 65537, 131080, 1500001])
def test_the_checksum_is_that_of_crcmod(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc64(data) == REFERENCE_CRC(data)
    assert crc64(bytes(size // 2) + b"\x01" + bytes(size)) == REFERENCE_CRC(b"\x01" + bytes(size))


def test_many_checksums_at_once_are_those_of_each():
    rng = np.random.default_rng(3)
    data = rng.integers(0, 256, 20_000, dtype=np.uint8)
    bounds = np.cumsum(rng.integers(1, 1000, 24)).tolist()
    parts = [data[start:end].tobytes() for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    assert crc64_of_parts(data, bounds) == [REFERENCE_CRC(part) for part in parts]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: message.type_name)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_message_comes_back_as_it_was_in_every_header_version(message, version):
    record = dict(vars(message)) | {"header_version": version}
    if version == 1:
        record["metadata"] = {}
    (found,) = Decoder().feed(encode(type(message)(**record)))
    assert type(found) is type(message)
    assert comparable(found) == comparable(type(message)(**record))


def test_a_stream_cut_anywhere_gives_the_same_messages():
    stream = b"".join(encode(message) for message in SAMPLES)
    expected = [comparable(message) for message in Decoder().feed(stream)]
    assert len(expected) == len(SAMPLES)
    for cut in range(len(stream) + 1):
        decoder = Decoder()
        found = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:])
        assert [comparable(message) for message in found] == expected, cut
    decoder = Decoder()
    one_by_one = [message for byte in stream for message in decoder.feed(bytes([byte]))]
    assert [comparable(message) for message in one_by_one] == expected


def test_pyigtl_understands_what_is_sent():
    transform = Transform("StylusToTracker", POSE, timestamp_s=1700000000.25, metadata={"TransformStatus": "OK"})
    found = unpacked_by_pyigtl(encode(transform))
    np.testing.assert_allclose(found.matrix, POSE, atol=1e-5)
    assert found.metadata == {"TransformStatus": "OK"} and found.timestamp == pytest.approx(1700000000.25, abs=1e-6)
    pixels = np.arange(2 * 3 * 5, dtype=np.int16).reshape(2, 3, 5)
    IJKToRAS = POSE @ np.diag([0.5, 0.75, 2.0, 1])
    found = unpacked_by_pyigtl(encode(Image("CT", pixels, IJKToRAS)))
    np.testing.assert_array_equal(found.image, pixels)
    np.testing.assert_allclose(found.ijk_to_world_matrix, IJKToRAS, atol=1e-4)
    assert found.world_coordinate_system == "ras"
    assert unpacked_by_pyigtl(encode(String("Note", "plain"))).string == "plain"
    found = unpacked_by_pyigtl(encode(SAMPLES[5]))
    assert found.names == ["promontory"] and found.positions == [(1.0, -2.0, 3.5)]


def test_what_pyigtl_sends_is_understood():
    sent = pyigtl.TransformMessage(POSE, timestamp=1700000000.5, device_name="StylusToTracker")
    sent.header_version, sent.metadata = 2, {"TransformStatus": "OK"}
    (found,) = Decoder().feed(sent.pack())
    np.testing.assert_allclose(found.matrix, POSE, atol=1e-5)
    assert found.metadata == {"TransformStatus": "OK"} and found.timestamp_s == pytest.approx(1700000000.5)
    pixels = np.arange(2 * 3 * 5, dtype=np.int16).reshape(2, 3, 5)
    (found,) = Decoder().feed(pyigtl.ImageMessage(pixels, ijk_to_world_matrix=POSE, device_name="CT").pack())
    np.testing.assert_array_equal(found.voxels, pixels)
    np.testing.assert_allclose(found.IJKToRAS, np.diag([-1, -1, 1, 1]) @ POSE, atol=1e-4)  # pyigtl's default is LPS.
    (found,) = Decoder().feed(pyigtl.StringMessage("plain", device_name="Note").pack())
    assert found.text == "plain"


def test_a_flipped_bit_costs_that_message_and_no_other():
    first, second, third = (encode(String("Note", text)) for text in ("one", "two", "three"))
    for bit in range(HEADER_BYTES * 8, len(second) * 8):
        damaged = bytearray(second)
        damaged[bit // 8] ^= 1 << (bit % 8)
        decoder = Decoder()
        assert [message.text for message in decoder.feed(first + damaged + third)] == ["one", "three"]
        assert decoder.crc_errors == 1


def test_garbage_between_messages_is_skipped_and_counted():
    rng = np.random.default_rng(1)
    for _ in range(50):
        garbage = rng.bytes(int(rng.integers(1, 300))).replace(b"\0", b"\1")
        decoder = Decoder()
        found = decoder.feed(encode(String("Note", "one")) + garbage + encode(String("Note", "two")))
        assert [message.text for message in found] == ["one", "two"]
        assert decoder.skipped_bytes == len(garbage)


def test_a_damaged_size_of_a_large_type_is_given_up_on_when_told():
    other = bytearray(encode(Opaque("Surface", "POLYDATA", bytes(100))))
    struct.pack_into(">Q", other, 42, 30_000_000)
    decoder = Decoder()
    assert decoder.feed(bytes(other) + encode(String("Alarm", "leak"))) == []
    assert [message.text for message in decoder.resynchronize()] == ["leak"]


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_size_of_an_image_is_seen_in_its_own_header(version):
    image = bytearray(encode(Image("Image_Detector", np.zeros((1, 8, 8), np.uint8), header_version=version)))
    struct.pack_into(">Q", image, 42, 30_000_000)
    decoder = Decoder()
    assert [message.text for message in decoder.feed(bytes(image) + encode(String("Alarm", "leak")))] == ["leak"]


def test_a_message_inside_a_damaged_large_one_is_found():
    """A size field that grew swallows what comes next, and gives it back when the checksum tells."""
    swallowed = [encode(String("Note", str(number))) for number in range(20_000)]
    thief = bytearray(encode(Opaque("Surface", "POLYDATA", b"points")))
    struct.pack_into(">Q", thief, 42, 1_000_000)
    decoder = Decoder()
    found = decoder.feed(bytes(thief) + b"".join(swallowed))
    assert [message.text for message in found] == [str(number) for number in range(20_000)]
    assert decoder.crc_errors == 1


def test_bytes_written_in_place_give_what_fed_bytes_give():
    stream = b"".join(encode(message) for message in SAMPLES)
    stream += encode(Image("Image_Detector", np.arange(600_000, dtype=np.uint16).reshape(1, 600, 1000))) + stream
    expected = [comparable(message) for message in Decoder().feed(stream)]
    assert len(expected) == 2 * len(SAMPLES) + 1
    rng = np.random.default_rng(4)
    decoder, place, found = Decoder(), 0, []
    while place < len(stream):
        space = decoder.space()
        count = min(int(rng.choice([1, 57, 58, 1400, 10**6])), len(space), len(stream) - place)
        space[:count] = stream[place : place + count]
        place += count
        found += decoder.filled(count)
    assert [comparable(message) for message in found] == expected
    assert decoder.pending_bytes == 0


@pytest.mark.parametrize("message", [String("No\x1b[2Jte", "x"), TrackingData("T", (TrackedTool("a\nb", POSE),))])
def test_a_name_with_control_characters_is_refused(message):
    decoder = Decoder()
    assert decoder.feed(encode(message)) == []
    assert decoder.malformed == 1 and "control characters" in decoder.last_problem
    assert decoder.last_problem.isprintable()


def headers_within_headers() -> bytes:
    """Each header announces a body of a megabyte, most of which are further headers."""
    header = bytearray(encode(Opaque("x", "POLYDATA", b"", header_version=1)))
    struct.pack_into(">Q", header, 42, 2**20)
    return bytes(header) * (4 * 2**20 // len(header))


@pytest.mark.parametrize(
    "attack",
    [headers_within_headers(), b"\0\1A" * 2**20, bytes(2**22), encode(String("Note", "x"))[:-1] * 2**14],
    ids=["headers within headers", "beginnings without end", "zeros", "cut short"],
)
def test_the_work_grows_no_faster_than_the_bytes_of_an_attack(attack, monkeypatch):
    """Counted in bytes that are checked, since a time would depend on the machine."""
    checked = 0

    def counted(*parts):
        nonlocal checked
        checked += sum(map(len, parts))
        return crc64(*parts)

    monkeypatch.setattr("sacroplasty.devices.wire.crc64", counted)
    decoder = Decoder()
    decoder.feed(attack)
    assert checked < 2**23 + 6 * len(attack)
    assert decoder.pending_bytes < 2**21
    found = decoder.feed(encode(String("Alarm", "leak")) * 20_000) + decoder.resynchronize()
    assert sum(isinstance(m, String) and m.text == "leak" for m in found) > 10_000


def test_a_size_beyond_the_limit_is_no_message():
    image = bytearray(encode(Image("Image_Detector", np.zeros((1, 8, 8), np.uint8))))
    struct.pack_into(">Q", image, 42, 2**40)
    decoder = Decoder()
    assert [message.text for message in decoder.feed(bytes(image) + encode(String("Alarm", "leak")))] == ["leak"]
    decoder = Decoder(largest_body_bytes=1000)
    assert decoder.feed(encode(Image("Image_Detector", np.zeros((1, 64, 64), np.uint8)))) == []


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
)
def test_no_mutation_breaks_the_decoder_or_swallows_the_alarms_behind_it(message, changes, repair):
    data = bytearray(encode(message))
    for place, value in changes:
        data[place % len(data)] = value
    if repair:  # Right checksum, nonsense inside.
        struct.pack_into(">Q", data, 50, REFERENCE_CRC(bytes(data[HEADER_BYTES:])))
    decoder = Decoder()
    found = decoder.feed(bytes(data)) + decoder.feed(encode(String("Alarm", "leak")) * 3) + decoder.resynchronize()
    assert any(isinstance(m, String) and m.name == "Alarm" and m.text == "leak" for m in found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_break_the_decoder(data):
    decoder = Decoder()
    decoder.feed(data)
    decoder.resynchronize()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (String("A name that is much too long", "x"), "longer than 20 bytes"),
        (String("Note", "x" * 70000), "at most 65535 fit"),
        (Transform("T", np.eye(4), header_version=1, metadata={"a": "b"}), "metadata needs header version 2"),
        (Transform("T", np.eye(4), header_version=4), "no header version 4"),
        (Image("I", np.zeros((2, 2))), "shape"),
        (Image("I", np.zeros((1, 2, 2), np.complex64)), "no pixels of type"),
        (Command("Pump", command_id=-1, command="run", text=""), "cannot be sent"),
        (Sensor("S", (0.0,) * 300), "cannot be sent"),
    ],
)
def test_what_cannot_be_said_is_refused_in_words(message, words):
    with pytest.raises(DeviceError, match=words):
        encode(message)


def unpacked_by_pyigtl(data: bytes):
    fields = MessageBase.parse_header(data[:HEADER_BYTES])
    message = MessageBase.create_message(fields["message_type"])
    message.unpack(fields, data[HEADER_BYTES:])
    return message
