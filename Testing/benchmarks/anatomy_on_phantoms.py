"""How near canal, foramina and frame come to the exact truth of synthetic patients.

Run: python Testing/benchmarks/anatomy_on_phantoms.py [seeds ...]     (about 30 s for each seed)
The bones are the phantom's own labels, so this measures what is derived from them, not the bone segmentation.
"""

from __future__ import annotations

import sys

import numpy as np

from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import angle_between_deg
from sacroplasty.phantom.make import make_phantom
from sacroplasty.planning.search import plan_trajectories

#: Labels of regions that are protected: canal and foramina.
_FIRST_UNPROTECTED = 31


def main(seeds: list[int]) -> None:
    print("seed  anterior mean/max  posterior mean/max  edge mean/max [mm]  canal Dice  missed %  frame deg  planned")
    for seed in seeds:
        phantom = make_phantom(seed)
        try:
            anatomy = segment_from_labels(phantom.ct, phantom.bones)
        except SacroplastyError as error:
            print(f"{seed:4}  refused: {error}")
            continue
        columns = []
        for attribute in ("anterior_center_ras", "posterior_center_ras", "lateral_edge_ras"):
            errors = [
                np.linalg.norm(getattr(anatomy.foramina[name], attribute) - getattr(truth, attribute))
                for name, truth in phantom.foramina.items()
            ]
            columns.append(f"{np.mean(errors):8.2f} /{np.max(errors):5.2f}   ")
        found, true = anatomy.region("sacral_canal"), phantom.regions.voxels == 1
        dice = 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))
        protected = (anatomy.regions.voxels > 0) & (anatomy.regions.voxels < _FIRST_UNPROTECTED)
        nerves = (phantom.regions.voxels > 0) & (phantom.regions.voxels < _FIRST_UNPROTECTED)
        missed = 100 * np.count_nonzero(nerves & ~protected) / np.count_nonzero(nerves)
        tilt = max(angle_between_deg(anatomy.SacrumToRAS[:3, i], phantom.SacrumToRAS[:3, i]) for i in range(3))
        plan = plan_trajectories(phantom.ct, anatomy)
        sides = [side for side in ("left", "right") if any(t.accepted and t.side == side for t in plan.trajectories)]
        print(
            f"{seed:4}  {''.join(columns)} {dice:9.3f} {missed:9.2f} {tilt:10.2f}  {'+'.join(sides) or 'none'}",
            flush=True,
        )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(range(1, 9)))
