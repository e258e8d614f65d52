"""Damaged bytes for the decoder: nothing may break it, hang it or fill the memory, and what comes next must be found.

    python wire_fuzz.py [MUTATIONS [SEED]]       1,000,000 and 1 unless told otherwise
    python wire_fuzz.py --coverage SECONDS       guided by coverage, when atheris is installed (it is not by itself)

A mutation takes one or two messages, changes, adds, removes or repeats bytes, in a third of the cases repairs the
checksum so that the nonsense gets inside, and feeds them in pieces of random size. Then come three alarms; at least one
must be found, at once or after giving up on an unfinished message, and from then on every message.
"""

from __future__ import annotations

import resource
import struct
import sys
import time
from random import Random

import numpy as np

from sacroplasty.devices.crc64 import crc64
from sacroplasty.devices.messages import (
    Capability,
    Command,
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

SEED = 1
MESSAGES: tuple[Message, ...] = (
    Transform("StylusToTracker", np.eye(4), metadata={"TransformStatus": "OK", "Ort": "Würzburg"}),
    Transform("StylusToTracker", np.eye(4), header_version=1),
    Image("Image_Detector", np.arange(600, dtype=np.uint16).reshape(1, 20, 30), metadata={"Geometry": "{}"}),
    Image("Color", np.arange(36, dtype=np.uint8).reshape(1, 3, 4, 3), header_version=1),
    String("PumpState", '{"state": "größer"}'),
    Status("Pump", 3, subcode=-7, error_name="stall", text="the screw does not turn"),
    Point("Landmarks", (NamedPoint("promontory", (1.0, -2.0, 3.5), "sacrum"),)),
    Command("Pump", command_id=7, command="run", text='{"rate_ml_s": 0.05}'),
    Sensor("PumpSensor", (1.25, -3.5, 1e-9), unit=5),
    TrackingData("Tools", (TrackedTool("Stylus", np.eye(4)), TrackedTool("Trocar", np.eye(4), kind=1))),
    Query("Image_Detector", "STT", "TDATA", b"\0\0\0\x32"),
    Capability("", ("TRANSFORM", "IMAGE")),
    Opaque("Surface", "POLYDATA", bytes(range(200))),
)
ALARM = encode(String("Alarm", "leak"))
_INTERESTING = (0, 1, 2, 3, 12, 58, 0x7F, 0x80, 0xFF)


def mutated(samples: list[bytes], random: Random) -> bytes:
    data = bytearray(b"".join(random.choices(samples, k=random.randint(1, 2))))
    for _ in range(random.randint(1, 6)):
        place = random.randrange(len(data))
        length = min(random.choice((1, 1, 2, 4, 8, 20, 58)), len(data) - place)
        what = random.randrange(8)
        if what < 3:
            data[place] = random.choice(_INTERESTING) if what else random.randrange(256)
        elif what == 3:
            data[place] ^= 1 << random.randrange(8)
        elif what == 4:
            data[place:place] = random.randbytes(length)
        elif what == 5 and len(data) > length + HEADER_BYTES:
            del data[place : place + length]
        elif what == 6:
            data[place:place] = data[place : place + length]
        else:
            data[42:50] = random.choice((0, 1, len(data), 2**16, 2**26, 2**26 + 1, 2**32, 2**64 - 1)).to_bytes(8, "big")
    if random.random() < 1 / 3:
        struct.pack_into(">Q", data, 50, crc64(data[HEADER_BYTES:]))
        if random.random() < 0.5:
            struct.pack_into(">Q", data, 42, len(data) - HEADER_BYTES)
    return bytes(data)


def is_alarm(message: Message) -> bool:
    return isinstance(message, String) and message.name == "Alarm" and message.text == "leak"


def survives(data: bytes, random: Random) -> bool:
    """Feed damaged bytes, then alarms; whether the alarms are found. Any exception goes through."""
    decoder = Decoder()
    while data:
        count = random.choice((1, 13, 58, 200, 4000))
        decoder.feed(data[:count])
        data = data[count:]
    found = [message for message in decoder.feed(ALARM * 3) if is_alarm(message)]
    attempts = 0
    while not found and decoder.pending_bytes and attempts < 10:
        attempts += 1
        found = [message for message in decoder.resynchronize() if is_alarm(message)]
    after = [message for message in decoder.feed(ALARM * 3) if is_alarm(message)]
    return bool(found) and len(after) == 3


def mutate(count: int, seed: int) -> bool:
    random = Random(seed)
    samples = [encode(message) for message in MESSAGES]
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest_s = 0.0
    failures = 0
    began_s = time.monotonic()
    for _ in range(count):
        data = mutated(samples, random)
        start_s = time.process_time()
        if not survives(data, random):
            failures += 1
            print(f"the alarms were not found after {data.hex()}")
        slowest_s = max(slowest_s, time.process_time() - start_s)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    print(f"{count} mutations in {time.monotonic() - began_s:.0f} s: no exception, {failures} times alarms not found")
    print(f"slowest {1000 * slowest_s:.1f} ms of processor time, memory grew by at most {grown_mb:.1f} MB")
    return not failures


def guided(seconds: int) -> None:
    """Let atheris change the bytes so that ever more of the decoder's branches are reached; exits by itself."""
    try:
        import atheris
    except ImportError:
        sys.exit("not done: atheris is not installed (pip install atheris)")
    import sacroplasty.devices.wire as wire

    for name in ("_decode", "_decode_metadata", "_contradicts", "_unpack_image", "_next_start", "_checked"):
        setattr(wire, name, atheris.instrument_func(getattr(wire, name)))
    for name in (
        "filled",
        "_drain",
        "_frame",
        "_take",
        "_leave_doubtful",
        "_finish_large",
        "_take_back",
        "resynchronize",
    ):
        setattr(Decoder, name, atheris.instrument_func(getattr(Decoder, name)))

    def one(data: bytes) -> None:
        if len(data) > 1 and data[0] & 1 and len(data) > HEADER_BYTES + 1:  # With a right checksum, else none gets by.
            repaired = bytearray(data[1:])
            struct.pack_into(">Q", repaired, 42, len(repaired) - HEADER_BYTES)
            struct.pack_into(">Q", repaired, 50, crc64(repaired[HEADER_BYTES:]))
            data = bytes(data[:1]) + bytes(repaired)
        assert survives(data[1:], Random(len(data))), "the alarms were not found"

    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        for index, message in enumerate(MESSAGES):
            Path(folder, str(index)).write_bytes(b"\1" + encode(message))
        limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=2048", "-max_len=4096", f"-seed={SEED}"]
        atheris.Setup([sys.argv[0], *limits, folder], one)
        atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--coverage"]:
        guided(int(sys.argv[2]))
    count, seed = [int(word) for word in sys.argv[1:3]] + [1_000_000, SEED][len(sys.argv[1:3]) :]
    return 0 if mutate(count, seed) else 1


if __name__ == "__main__":
    sys.exit(main())
