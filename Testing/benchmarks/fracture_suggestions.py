"""How many fractures are suggested, and how many places without one, on synthetic patients and on the sample CT.

Run: python Testing/benchmarks/fracture_suggestions.py [first seed [patients of each pattern]]   (about 25 s a patient)
Each pattern (none, left, right, bilateral, h) goes through noise of 10, 20 and 40 HU, alae of -50 and 60 HU and voxels
of 1 to 3 mm, a new anatomy each time. The bones are the phantom's own labels. The limits of the method were chosen on
seeds 1 to 6; the published figures are of seeds 200 to 229, which were not looked at before.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import numpy as np

from sacroplasty.anatomy.fracture_model import FractureSuggestion
from sacroplasty.anatomy.fracture_suggestions import suggest_fractures
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.errors import SacroplastyError
from sacroplasty.image import read_ct, read_volume
from sacroplasty.phantom.make import make_phantom
from sacroplasty.phantom.patient import FRACTURES, Fracture
from sacroplasty.sample import fetch_sample

_NOISE_HU = (10.0, 20.0, 40.0)
_ALA_HU = (-50.0, 60.0)
_SPACINGS_MM = ((1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (1.5, 1.5, 1.5), (3.0, 3.0, 3.0), (1.0, 1.0, 2.0))
#: A suggestion means a fracture when its middle lies this near to the fracture's plane and its plane is turned less.
_NEAR_MM, _TURNED_DEG = 5.0, 25.0


def means(suggestion: FractureSuggestion, fracture: Fracture) -> bool:
    """Whether a suggestion lies in a fracture of the truth."""
    off_plane = abs(float((suggestion.center_ras - fracture.point_ras) @ fracture.normal_ras))
    turned = np.degrees(np.arccos(min(abs(float(suggestion.normal_ras @ fracture.normal_ras)), 1.0)))
    # Each fracture has its part of the bone; the plane alone would go on through the other side.
    beside = fracture.name == "transverse" or suggestion.side == fracture.name
    return off_plane <= _NEAR_MM and turned <= _TURNED_DEG and beside


def main(first_seed: int, repeats: int) -> None:
    print("pattern    seed  noise  ala  spacing        found     false  scores of the found / of the false")
    true, hit, steps_seen = Counter[str](), Counter[str](), 0
    false: dict[str, list[int]] = {pattern: [] for pattern in FRACTURES}
    by: dict[tuple[str, object], list[tuple[int, int, int]]] = {}
    seed = first_seed
    for order, pattern in enumerate(FRACTURES):
        for repeat in range(repeats):
            noise, ala = _NOISE_HU[repeat % 3], _ALA_HU[repeat // 3 % 2]
            spacing = _SPACINGS_MM[(repeat + order) % len(_SPACINGS_MM)]
            phantom = make_phantom(seed, spacing_mm=spacing, ala_hu=ala, noise_hu=noise, fracture=pattern)
            try:
                suggestions = suggest_fractures(phantom.ct, segment_from_labels(phantom.ct, phantom.bones))
            except SacroplastyError as error:
                print(f"{pattern:<10}{seed:5}  refused: {error}", flush=True)
                seed += 1
                continue
            found = {
                fracture.name: [one.score for one in suggestions if means(one, fracture)]
                for fracture in phantom.fractures
            }
            wrong = [one for one in suggestions if not any(means(one, fracture) for fracture in phantom.fractures)]
            # No phantom has a displaced fracture, so each step is false.
            steps_seen += sum(sign.kind == "cortical_step" for one in suggestions for sign in one.evidence)
            for name, scores in found.items():
                true[name] += 1
                hit[name] += bool(scores)
            false[pattern].append(len(wrong))
            entry = (len(found), sum(bool(scores) for scores in found.values()), len(wrong))
            for key in (("noise HU", noise), ("ala HU", ala), ("spacing mm", spacing)):
                by.setdefault(key, []).append(entry)
            shown = " ".join(f"{max(scores):.2f}" for scores in found.values() if scores)
            wrongs = " ".join(f"{one.score:.2f}" for one in wrong)
            print(
                f"{pattern:<10}{seed:5}{noise:7.0f}{ala:5.0f}  {'x'.join(f'{s:g}' for s in spacing):<12}"
                f"{entry[1]:3} of {entry[0]}{entry[2]:8}    {shown or '-'} / {wrongs or '-'}",
                flush=True,
            )
            seed += 1
    print("\nfound:", ", ".join(f"{name} {hit[name]} of {true[name]}" for name in true))
    everything = [count for counts in false.values() for count in counts]
    print(f"false suggestions per patient: {np.mean(everything):.2f}, at most {max(everything)}; by pattern:", end=" ")
    print(", ".join(f"{pattern} {np.mean(counts):.2f}" for pattern, counts in false.items() if counts))
    print(f"patients without a fracture and without any suggestion: {false['none'].count(0)} of {len(false['none'])}")
    print(f"cortical steps reported, none of them true: {steps_seen}")
    for (what, value), entries in sorted(by.items(), key=str):
        number, seen, wrong_ones = (sum(column) for column in zip(*entries, strict=True))
        print(f"  {what} {value}: found {seen} of {number}, false {wrong_ones / len(entries):.2f} per patient")
    _sample()


def _sample() -> None:
    """The sample CT has no known fracture, so what is suggested in it is most likely false."""
    sample = fetch_sample()
    ct = read_ct(sample.ct)
    anatomy = segment_from_labels(ct, read_volume(sample.labels))
    begun = time.perf_counter()
    suggestions = suggest_fractures(ct, anatomy)
    taken = time.perf_counter() - begun
    print(f"\nsample CT (3 mm, TotalSegmentator's labels): {len(suggestions)} suggestions, {taken:.1f} s")
    for one in suggestions:
        kinds = ", ".join(sign.kind for sign in one.evidence)
        print(f"  {one.score:.2f} {one.side} {one.direction}, Denis {one.denis_zone}: {kinds} {'; '.join(one.notes)}")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [200, 6][len(given) :]))
