"""How far three clicks bring back bones of which a part of the ilium was taken for sacrum.

Run: python Testing/benchmarks/seed_correction.py [seeds ...]     (about a minute for each seed)
Synthetic patients of 1.5 mm; a ball of 15 mm of the ilium beside the joint, with the joint, is given to the sacrum.
The clicks are those of a person who sees it: in the wrong part, in the sacrum, in the soft tissue beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sacroplasty.anatomy.labels import BONE_LABEL
from sacroplasty.phantom.make import make_phantom
from sacroplasty.scene.host import HeadlessHost
from spoiled_bones import spoil_ilium

SPACING_MM = (1.5, 1.5, 1.5)
#: Noise changes with the seed, as three scanners would.
NOISES_HU = (10.0, 20.0, 40.0)


def main(seeds: list[int]) -> None:
    host = HeadlessHost()
    assert host.scene is not None
    from sacroplasty.scene.seeds import grow_from_seeds

    print("| seed | noise, HU | sacrum, Dice before | after | hip before | after | wrong voxels before | after |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for seed in seeds:
        noise_hu = NOISES_HU[seed % len(NOISES_HU)]
        phantom = make_phantom(seed, spacing_mm=SPACING_MM, noise_hu=noise_hu)
        side = ("left", "right")[seed % 2]
        spoiled = spoil_ilium(phantom.bones, side, seed)
        grown = grow_from_seeds(phantom.ct, {name: [point] for name, point in spoiled.clicks.items()}, spoiled.bones)
        columns = []
        for name in ("sacrum", f"hip_{side}"):
            true = phantom.bones.voxels == BONE_LABEL[name]
            for bones in (spoiled.bones, grown):
                found = bones.voxels == BONE_LABEL[name]
                columns.append(f"{2 * np.count_nonzero(found & true) / (found.sum() + true.sum()):.3f}")
        for bones in (spoiled.bones, grown):
            columns.append(str(np.count_nonzero(bones.voxels != phantom.bones.voxels)))
        print(f"| {seed} | {noise_hu:.0f} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(range(1, 9)))
