"""How like real sacra are the synthetic ones? 30 phantoms (seeds 0-29) against 30 real sacra.

Real: the S1-S3 surfaces of the JHU pelvis atlas (Han 2019, doi 10.1088/1361-6560/ab1456), 5000 corresponding vertices
each. The average profile of the phantoms was read off the mean of these very sacra, so the means must agree; what
this shows is whether the spread and the single shapes are lifelike. Everything below S3 is not covered.

Run: python Testing/benchmarks/phantom_against_real_sacra.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sacroplasty.phantom.parameters import draw_parameters
from sacroplasty.phantom.sacrum import Sacrum

ATLAS = Path(__file__).resolve().parents[3] / "shared" / "data" / "surfaces" / "jhu_pelvis_atlas"
COUNT = 30
Points = NDArray[np.float64]


def read_surface(path: Path) -> tuple[Points, Points]:
    """Vertices and normals; x left, y posterior, z superior (the files' LPS)."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    reader = vtk.vtkXMLPolyDataReader()
    reader.SetFileName(str(path))
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(reader.GetOutputPort())
    normals.SplittingOff()
    normals.Update()
    data = normals.GetOutput()
    return (
        vtk_to_numpy(data.GetPoints().GetData()).astype(float),
        vtk_to_numpy(data.GetPointData().GetNormals()).astype(float),
    )


def real_sacra() -> list[Points]:
    """Vertices of each real sacrum in its own sacrum frame (left, posterior, normal of the S1 endplate)."""
    files = sorted(ATLAS.glob("*_sacrum.vtp"))
    surfaces = [read_surface(file) for file in files]
    hips = [
        [read_surface(Path(str(file).replace("_sacrum", f"_hip_{side}")))[0].mean(axis=0) for side in ("left", "right")]
        for file in files
    ]
    # Endplate vertices, found once on the first patient; the others correspond.
    points, normals = surfaces[0]
    middle = (hips[0][0] + hips[0][1]) / 2
    front = points[:, 1] < np.percentile(points[:, 1], 35)
    facing = normals @ np.array([0, -0.55, 0.83]) > 0.93
    endplate = facing & front & (np.abs(points[:, 0] - middle[0]) < 18)
    sacra = []
    for (points, _), (left, right) in zip(surfaces, hips, strict=True):
        plate = points[endplate]
        origin = plate.mean(axis=0)
        up = np.linalg.svd(plate - origin)[2][2]
        up *= np.sign(up[2])
        x = left - right
        x -= (x @ up) * up
        x /= np.linalg.norm(x)
        origin = origin - ((origin - (left + right) / 2) @ x) * x
        sacra.append((points - origin) @ np.array([x, np.cross(up, x), up]).T)
    return sacra


def phantom_sacrum(seed: int) -> tuple[Points, Sacrum]:
    """Surface points of a phantom's sacrum in the sacrum frame, from an iso-surface on a 1 mm grid."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    sacrum = Sacrum(draw_parameters(seed))
    low, size = np.array([-72.0, -48.0, -125.0]), (145, 130, 145)
    z, y, x = np.meshgrid(*(low[n] + np.arange(size[n]) for n in (2, 1, 0)), indexing="ij")
    x, y, z = (c.astype(np.float32) for c in (x, y, z))
    curved = sacrum.curved(y, z)
    canal = sacrum.canal(x, y, z, curved)
    channels = {name: sacrum.channel_field(name, x, y, z) for name in sacrum.channels}
    field = sacrum.bone(x, y, z, sacrum.envelope(x, y, z, curved), canal, channels)
    image = vtk.vtkImageData()
    image.SetDimensions(*size)
    image.SetOrigin(*low)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(field, np.float32).ravel(), deep=True))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.0)
    edges.Update()
    return vtk_to_numpy(edges.GetOutput().GetPoints().GetData()).astype(float), sacrum


def measures(points: Points) -> dict[str, float]:
    """Sizes of S1-S3 taken in the same way on real and synthetic surfaces, in mm and degrees."""
    upper = points[points[:, 2] > -60]
    midline = upper[np.abs(upper[:, 0]) < 6]

    def front(height: float) -> float:
        near = midline[np.abs(midline[:, 2] - height) < 4]
        return float(near[:, 1].min())

    def width(height: float) -> float:
        near = upper[np.abs(upper[:, 2] - height) < 2.5]
        return float(np.ptp(near[:, 0]))

    wings = upper[(np.abs(upper[:, 0]) > 30) & (np.abs(upper[:, 0]) < 48)]
    return {
        "greatest width": float(np.ptp(upper[:, 0])),
        "width 50 mm below S1": width(-50),
        "depth in the midline": float(np.ptp(midline[:, 1])),
        "body of S1, depth": float(
            max(midline[(midline[:, 2] > -6) & (midline[:, 1] < 20)][:, 1], default=0.0) - front(-4)
        ),
        "front of wing before endplate centre": -float(wings[:, 1].min()),
        "tilt of the front, S1-S2 (deg)": float(np.degrees(np.arctan2(front(-30) - front(-5), 25))),
        "tilt of the front, S2-S3 (deg)": float(np.degrees(np.arctan2(front(-55) - front(-30), 25))),
    }


def distance_after_alignment(source: Points, target_tree: cKDTree, rounds: int = 12) -> tuple[float, float]:
    """Mean and 95th percentile distance (mm) from source to target after ICP with rotation, shift and scale."""
    target = target_tree.data
    moved = source.copy()
    for _ in range(rounds):
        _, nearest = target_tree.query(moved)
        goal = target[nearest]
        a, b = moved - moved.mean(axis=0), goal - goal.mean(axis=0)
        u, singular, vt = np.linalg.svd(a.T @ b)
        sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
        scale = float((singular * sign).sum() / (a * a).sum())
        moved = scale * a @ ((u * sign) @ vt) + goal.mean(axis=0)
    distance, _ = target_tree.query(moved)
    # The scale must not make distances small: report them at the source's own size.
    factor = np.linalg.norm(source - source.mean(axis=0)) / np.linalg.norm(moved - moved.mean(axis=0))
    return float(distance.mean() * factor), float(np.percentile(distance, 95) * factor)


def main() -> None:
    """Print the comparison."""
    if not ATLAS.is_dir():
        sys.exit(f"the real sacra are not at {ATLAS}; see the data folder's description")
    real = real_sacra()
    made = [phantom_sacrum(seed) for seed in range(COUNT)]
    print(f"{len(real)} real sacra, {len(made)} phantoms (seeds 0-{COUNT - 1}); mean ± standard deviation")
    rows_real, rows_made = [measures(p) for p in real], [measures(p) for p, _ in made]
    for name in rows_real[0]:
        r, m = (np.array([row[name] for row in rows]) for rows in (rows_real, rows_made))
        print(f"  {name:<38} real {r.mean():6.1f} ± {r.std():4.1f}   phantom {m.mean():6.1f} ± {m.std():4.1f}")

    print("\nWhole phantom against published figures")
    heights, offsets, spacings, kyphosis = [], [], [], []
    for _, sacrum in made:
        apex = sacrum.straight(0, sacrum.end_mm, 0)
        heights.append(float(np.linalg.norm(apex - (0, -19, -1))))
        offsets += [abs(c.posterior[0]) for n, c in sacrum.channels.items() if "s1" in n]
        kyphosis.append(sacrum.patient.kyphosis_deg)
        for side in ("left", "right"):
            a, b = (sacrum.channels[f"foramen_{level}_{side}"].posterior for level in ("s1", "s2"))
            spacings.append(float(np.linalg.norm(a - b)))
    for name, values, published in (
        ("height, promontory to apex", heights, "106.7 ± 10.2 (30 dry bones)"),
        ("S1 posterior foramen to midline", offsets, "23.5 ± 2.8 (632 CTs, Korean J Pain 36(1):98)"),
        ("S1 to S2 posterior foramen", spacings, "none found"),
        ("turn of the axis, S1 to apex (deg)", kyphosis, "about 60-70"),
    ):
        print(f"  {name:<38} phantom {np.mean(values):6.1f} ± {np.std(values):4.1f}   published {published}")

    print("\nSurface distance after ICP with scale, from each real sacrum (600 vertices) to ... [mm]")
    rng = np.random.default_rng(0)
    sources = [points[rng.choice(len(points), 600, replace=False)] for points in real]
    trees = {"another real sacrum": [cKDTree(p) for p in real], "a phantom": [cKDTree(p) for p, _ in made]}
    for name, targets in trees.items():
        best, typical, tails = [], [], []
        for number, source in enumerate(sources):
            found = [
                distance_after_alignment(source, tree)
                for other, tree in enumerate(targets)
                if not (name == "another real sacrum" and other == number)
            ]
            means = [mean for mean, _ in found]
            best.append(min(means))
            typical.append(float(np.median(means)))
            tails.append(float(np.median([tail for _, tail in found])))
        print(
            f"  {name:<20} nearest: mean {np.mean(best):.2f}   any: mean {np.mean(typical):.2f}, "
            f"95th percentile {np.mean(tails):.2f}"
        )


if __name__ == "__main__":
    main()
