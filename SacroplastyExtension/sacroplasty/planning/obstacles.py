"""Which structure is in the way where no path keeps its distances."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from .approaches import Candidates
from .model import Side
from .sacrum_view import STEP_MM
from .structures import Structures

#: Where along its way from target (0) to entry (1) a shaft is looked at, the most telling places first.
_LOOKS = ((0.0, 0.5, 1.0), (0.25, 0.75, 1.3, 1.7), (0.12, 0.37, 0.62, 0.87, 1.15))


def alone_in_the_way(
    structures: Structures,
    side: Side,
    candidates: Candidates,
    needed_mm: float,
    opened: Callable[[Candidates, str], bool],
) -> tuple[str, ...]:
    """Structures without which one of the paths would keep its distances from all others.

    Args:
        needed_mm: least distance of the axis.
        opened: whether one of the paths, or one beside them, keeps its distances when one structure does not count.
    """
    names = structures.names_on(side)
    too_near = _too_near(structures, names, needed_mm)
    last = np.array(too_near.shape) - 1
    near = np.zeros(len(candidates.entry), too_near.dtype)
    alive = np.arange(len(near))
    for shares in _LOOKS:
        for share in shares:
            place = candidates.target[alive] + share * (candidates.entry[alive] - candidates.target[alive])
            index = np.clip(np.rint((place - structures.view.origin_mm) / STEP_MM).astype(np.int32), 0, last)
            near[alive] |= too_near[index[:, 0], index[:, 1], index[:, 2]]
        # Two structures in the way of a path: neither is alone.
        alive = alive[near[alive] & (near[alive] - 1) == 0]
    parts = [candidates.part(alive[(near[alive] | (1 << number)) == (1 << number)]) for number in range(len(names))]
    with ThreadPoolExecutor() as pool:
        return tuple(name for name, open_now in zip(names, pool.map(opened, parts, names), strict=True) if open_now)


def _too_near(structures: Structures, names: list[str], needed_mm: float) -> NDArray[np.int64]:
    """A bit for each structure that is certainly too near to an axis somewhere within half a step of a grid point."""
    bits = np.zeros(structures.view.sacrum.shape, np.int64)
    for number, name in enumerate(names):
        bits |= (structures.outer_field(name).values < needed_mm - STEP_MM * np.sqrt(3) / 2).astype(np.int64) << number
    return bits
