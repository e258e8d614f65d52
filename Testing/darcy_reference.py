"""A slow solution of Darcy's law with a moving front, to judge the spread model by. It shares no code with it.

One voxel fills in a step (or a 3000th of the volume), the pressure of every step is found directly (sparse LU), and
the front lies within its voxel, as far in as that is filled, where the model takes it in the middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve


def reference_fill(permeable: NDArray, permeability: NDArray, volume_voxels: float) -> NDArray:
    """Share of each voxel that is filled when so many voxels' volume has come out of the middle voxel."""
    shape = permeable.shape
    share = np.zeros(shape)
    middle = tuple(size // 2 for size in shape)
    share[middle] = 1.0
    given = 1.0
    number = np.full(shape, -1)
    while given < volume_voxels - 1e-9:
        wet = permeable & (share >= 1.0)
        number[:] = -1
        number[wet] = np.arange(np.count_nonzero(wet))
        rows, columns, values = [], [], []
        diagonal = np.zeros(np.count_nonzero(wet))
        faces = []
        for axis in range(3):
            for way in (0, 1):
                here = [slice(None)] * 3
                there = [slice(None)] * 3
                here[axis], there[axis] = (slice(0, -1), slice(1, None)) if way else (slice(1, None), slice(0, -1))
                a, b = tuple(here), tuple(there)
                both = wet[a] & wet[b]
                k = 2 * permeability[a] * permeability[b] / (permeability[a] + permeability[b])
                rows.append(number[a][both])
                columns.append(number[b][both])
                values.append(-k[both])
                np.add.at(diagonal, number[a][both], k[both])
                edge = wet[a] & permeable[b] & ~wet[b]
                # From the centre of the full voxel to the front: half a voxel, and what the next one holds.
                g = 1.0 / (0.5 / permeability[a] + share[b] / permeability[b])
                np.add.at(diagonal, number[a][edge], g[edge])
                index = np.argwhere(edge)
                index[:, axis] += 1 if way else 0
                faces.append((number[a][edge], index, g[edge]))
        count = len(diagonal)
        matrix = sparse.csc_matrix(
            (
                np.concatenate([*values, diagonal]),
                (np.concatenate([*rows, np.arange(count)]), np.concatenate([*columns, np.arange(count)])),
            ),
            (count, count),
        )
        source = np.zeros(count)
        source[number[middle]] = 1.0
        pressure = np.atleast_1d(spsolve(matrix, source))
        into = np.zeros(shape)
        for ids, index, g in faces:
            np.add.at(into, tuple(index.T), g * pressure[ids])
        room = np.where(into > 0, 1.0 - share, np.inf)
        # As much as fills the quickest voxel, but not less than a small share of the whole.
        step = max(float(np.min(np.where(into > 0, room / np.maximum(into, 1e-12), np.inf))), volume_voxels / 3000)
        step = min(step, volume_voxels - given)
        added = np.minimum(into * step, np.where(into > 0, 1.0 - share, 0.0))
        share = np.minimum(share + added, 1.0)
        share[share > 1 - 1e-9] = 1.0
        given += float(added.sum())
    return share
