"""Checksum and codec of the device link on this machine, beside pyigtl in the same run.

Of a 1024 x 1024 picture and of a pose, alone and in a row of a thousand as after a pause. The way over a socket is
measured in link_comparison.py, link_soak.py and stop_latency.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import crcmod
import numpy as np
import pyigtl
from pyigtl.messages import MessageBase

from sacroplasty.devices.crc64 import crc64
from sacroplasty.devices.messages import Image, Transform
from sacroplasty.devices.wire import HEADER_BYTES, Decoder, encode

SEED = 1


def best_ms(action: Callable[[], object], repeats: int) -> float:
    """Best of some repetitions, processor time in ms."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def unpack(data: bytes) -> object:
    fields = MessageBase.parse_header(data[:HEADER_BYTES])
    message = MessageBase.create_message(fields["message_type"])
    message.unpack(fields, data[HEADER_BYTES:])
    return message


def codec_rows(pixels: np.ndarray, pose: np.ndarray) -> list[tuple[str, float, float]]:
    reference = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, rev=False, initCrc=0, xorOut=0)
    data = pixels.tobytes()
    image, transform = Image("Image_Detector", pixels), Transform("StylusToTracker", pose)
    their_image = pyigtl.ImageMessage(pixels, device_name="Image_Detector")
    their_transform = pyigtl.TransformMessage(pose, device_name="StylusToTracker")
    their_data = their_image.pack()
    image_data, transform_data = encode(image), encode(transform)
    many = transform_data * 1000
    decoder = Decoder()
    return [
        ("CRC-64 of 2 MiB", best_ms(lambda: crc64(data), 20), best_ms(lambda: reference(data), 20)),
        ("picture to bytes", best_ms(lambda: encode(image), 20), best_ms(their_image.pack, 20)),
        (
            "bytes to picture",
            best_ms(lambda: Decoder().feed(image_data), 20),
            best_ms(lambda: unpack(their_data), 20),
        ),
        ("pose to bytes", best_ms(lambda: encode(transform), 500), best_ms(their_transform.pack, 500)),
        (
            "bytes to pose",
            best_ms(lambda: decoder.feed(transform_data), 500),
            best_ms(lambda: unpack(transform_data), 500),
        ),
        (
            "bytes to a thousand poses",
            best_ms(lambda: Decoder().feed(many), 20),
            best_ms(lambda: [unpack(transform_data) for _ in range(1000)], 20),
        ),
    ]


def main() -> None:
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 65535, (1, 1024, 1024), dtype=np.uint16)
    pose = np.eye(4)
    print(f"{'best of several, ms':<28}{'this link':>12}{'pyigtl':>12}")
    for name, ours, theirs in codec_rows(pixels, pose):
        print(f"{name:<28}{ours:>12.3f}{theirs:>12.3f}")
    print("pyigtl does not check the sum of what it receives.")


if __name__ == "__main__":
    main()
