"""Runs nanodrr on what `projector.py` hands over; started by it with the Python of another environment.

    python nanodrr_peer.py INPUT.npz OUTPUT.npz SAMPLES REPEATS

The input holds `volume` (k, j, i), `IJKToRAS`, `k_inv`, `rt_inv`, `sdd`, `shape` (rows, columns); the output `image`,
and `seconds` on the clock and `processor_seconds` of all repeats behind one that warms up.
"""

from __future__ import annotations

import sys
from time import perf_counter, process_time

import numpy as np
import torch
import torchio
from nanodrr.data import Subject
from nanodrr.drr import DRR


def main() -> None:
    source, target, samples, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    given = np.load(source)
    volume = torch.from_numpy(np.ascontiguousarray(given["volume"].transpose(2, 1, 0)))[None]
    image = torchio.ScalarImage(tensor=volume, affine=given["IJKToRAS"])
    subject = Subject.from_images(image, convert_to_mu=False)
    rows, columns = (int(count) for count in given["shape"])
    k_inv, rt_inv, sdd = (torch.from_numpy(given[name].astype(np.float32))[None] for name in ("k_inv", "rt_inv", "sdd"))
    renderer = DRR(k_inv, sdd, rows, columns)
    seconds, processor_seconds = [], []
    with torch.no_grad():
        for _ in range(repeats + 1):
            start, used = perf_counter(), process_time()
            result = renderer(subject, rt_inv, n_samples=samples)
            seconds.append(perf_counter() - start)
            processor_seconds.append(process_time() - used)
    np.savez(target, image=result[0, 0].numpy(), seconds=seconds[1:], processor_seconds=processor_seconds[1:])


if __name__ == "__main__":
    main()
