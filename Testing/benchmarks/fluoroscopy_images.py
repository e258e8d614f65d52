"""How simulated fluoroscopy differs from real: nine images of a hip beside simulated ones of the sample patient.

Run: python Testing/benchmarks/fluoroscopy_images.py [--pictures FOLDER]

`fluoroscopy.png` shows real images over simulated ones, `x-ray-imaging-chain.png` (in docs/images) the latter alone.

Needs `../shared/data/fluoroscopy` beside the checkout (GE OEC 9 inch, stored as processed for the eye). The simulated
ones are of another body part and another patient, so only what the detector makes of a beam is compared: the circle,
noise, sharpness and the use of grey values, measured alike on both.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates, sobel, uniform_filter

from sacroplasty.image import Volume, read_ct
from sacroplasty.sample import fetch_sample
from sacroplasty.xray.detector import display_image, log_image
from sacroplasty.xray.images import read_xray
from sacroplasty.xray.imaging_chain import ImagingChain, expose_frame, field_mask
from sacroplasty.xray.objects import Tube, object_line_integrals
from sacroplasty.xray.presets import c_arms
from sacroplasty.xray.project import ProjectableVolume, attenuation_from_hu, line_integrals
from sacroplasty.xray.views import frame_without_anatomy

FLUOROSCOPY = Path(__file__).resolve().parents[3] / "shared" / "data" / "fluoroscopy"
SEED = 7
_PATCH = 32

#: What is switched on for the comparison: the simulated C-arm of the rehearsal as it is set by default
#: (`simulation/world.py`), then all effects. Light spread and penumbra of the latter follow from the real images: their
#: neighbouring pixels' correlation of noise, exp(-1 / 4 s^2) for a Gaussian of s pixels, and their edges.
CHAINS = {
    "as the simulated C-arm": ImagingChain(photons_per_pixel=2000, field_diameter_mm=229),
    "all effects": ImagingChain(
        photons_per_pixel=2000,
        scatter_fraction=0.4,
        penumbra_mm=0.24,
        blur_mm=0.14,
        field_diameter_mm=229,
        pincushion=0.03,
        s_distortion_deg=2,
    ),
}


@dataclass(frozen=True)
class Measures:
    """What is measured of an image of grey values 0 to 1.

    Attributes:
        field: diameter of the circle in share of the columns.
        noise: standard deviation of a pixel in the flattest tenth of patches, in % of the range of grey values.
        neighbours: correlation of that noise between a pixel and its neighbour; zero for white noise.
        fine: share of the noise's power above half of the highest frequency; about 0.8 for white noise.
        edge: standard deviation in pixels of the Gaussian that blurs the sharpest twentieth of edges.
        grey: 5th, 50th and 95th percentile of the grey values in the field.
        clipped: share of the field's pixels at the lowest or highest value.
    """

    field: float
    noise: float
    neighbours: float
    fine: float
    edge: float
    grey: tuple[float, float, float]
    clipped: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=Path, help="write the images side by side into this folder")
    pictures = parser.parse_args().pictures
    table = Table(title="real and simulated fluoroscopy")
    for heading in (
        *("image", "circle, % of width", "noise, %", "neighbours", "fine share", "edge, pixels"),
        *("grey 5 / 50 / 95 %", "clipped, %"),
    ):
        table.add_column(heading)
    shown = []
    real: list[Measures] = []
    files = sorted(FLUOROSCOPY.glob("*.dcm"))
    for file in files:
        image = read_xray(file).frames[0] / 65535.0
        real.append(measure(image, image > 0.004))
        table.add_row(file.stem, *_cells(real[-1]))
        shown.append(image)
    if files:
        middle = Measures(
            *(np.median([getattr(one, name) for one in real], axis=0) for name in Measures.__annotations__)
        )
        table.add_row("median of the real", *_cells(middle), style="bold")
    else:
        print(f"{FLUOROSCOPY} is absent: only the simulated images are measured")
    for name, chain in CHAINS.items():
        for view in ("ap", "lateral"):
            image, mask = simulated(view, chain)
            table.add_row(f"{name}, {view}", *_cells(measure(image, mask)))
            shown.append(image)
    Console(width=150).print(table)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        if files:
            _write([shown[1:5], shown[-4:]], pictures / "fluoroscopy.png")
        all_effects = CHAINS["all effects"]
        chains = (
            ImagingChain(field_diameter_mm=229),
            replace(all_effects, pincushion=0, s_distortion_deg=0),
            replace(all_effects, photons_per_pixel=150, pincushion=0.12, s_distortion_deg=12),
            replace(all_effects, blades_mm=(90, 60, 200, 70)),
        )
        _write([[simulated("ap", chain)[0] for chain in chains]], pictures / "x-ray-imaging-chain.png")


def simulated(view: str, chain: ImagingChain) -> tuple[np.ndarray, np.ndarray]:
    """Grey values 0 to 1 of the sample patient with a trocar, and the field."""
    ct = read_ct(fetch_sample().ct)
    patient = ProjectableVolume.of(Volume(attenuation_from_hu(ct.voxels, chain.energy_kev), ct.IJKToRAS))
    geometry = c_arms()["mobile-intensifier-9-inch"].view(view, frame_without_anatomy(ct))
    center = geometry.source_ras + 620 * geometry.view_direction_ras
    across = geometry.RASToDetector[0, :3] + 0.4 * geometry.RASToDetector[1, :3]
    trocar = Tube(center, center + 120 * across, 3.05)
    integrals = line_integrals(patient, geometry)
    integrals += object_line_integrals([trocar], geometry, chain.energy_kev)
    frame = expose_frame(integrals, geometry, chain, np.random.default_rng(SEED))
    mask = field_mask(geometry, chain.field_diameter_mm or 1e9)
    return display_image(log_image(frame.pixels, frame.air_level), field=mask) / 255.0, mask


def measure(image: np.ndarray, mask: np.ndarray) -> Measures:
    rows, columns = np.nonzero(mask)
    width = max(np.ptp(np.percentile(columns, [0.05, 99.95])), np.ptp(np.percentile(rows, [0.05, 99.95])))
    inner = binary_erosion(mask, iterations=_PATCH // 2)
    values = image[mask]
    noise, neighbours, fine = _noise(image, inner)
    low, middle, high = np.percentile(values, [5, 50, 95])
    return Measures(
        field=100 * width / image.shape[1],
        noise=100 * noise,
        neighbours=neighbours,
        fine=fine,
        edge=_edge_blur(image, inner),
        grey=(low, middle, high),
        clipped=100 * float(((values <= 0.004) | (values >= 0.996)).mean()),
    )


def _noise(image: np.ndarray, inner: np.ndarray) -> tuple[float, float, float]:
    """Standard deviation, correlation of neighbours and share of fine power in the flattest patches."""
    v, u = np.mgrid[0:_PATCH, 0:_PATCH] / _PATCH - 0.5
    plane = np.stack([np.ones_like(u), u, v, u * v, u * u, v * v], axis=-1).reshape(-1, 6)
    solver = np.linalg.pinv(plane)
    window = np.outer(np.hanning(_PATCH), np.hanning(_PATCH))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(_PATCH), np.fft.fftfreq(_PATCH)))
    patches = []
    for row in range(0, image.shape[0] - _PATCH, _PATCH):
        for column in range(0, image.shape[1] - _PATCH, _PATCH):
            part = (slice(row, row + _PATCH), slice(column, column + _PATCH))
            values = image[part]
            if not inner[part].all() or not 0.05 < values.mean() < 0.95 or (values > 0.99).any():
                continue
            rest = (values.ravel() - plane @ (solver @ values.ravel())).reshape(values.shape)
            power = np.abs(np.fft.fft2(rest * window)) ** 2
            pairs = np.mean(rest[:, 1:] * rest[:, :-1]) + np.mean(rest[1:] * rest[:-1])
            fine = power[frequency > 0.25].sum() / power[frequency > 1 / _PATCH].sum()
            patches.append((rest.std(), pairs / 2 / rest.var(), fine))
    found = np.array(sorted(patches))
    flattest = found[: max(len(found) // 10, 1)]
    return tuple(float(value) for value in np.median(flattest, axis=0))  # type: ignore[return-value]


def _edge_blur(image: np.ndarray, inner: np.ndarray) -> float:
    """Second moment of the gradient across the strongest edges, the sharpest twentieth of them."""
    smooth = gaussian_filter(image, 1.5)
    gradient_v, gradient_u = sobel(smooth, 0), sobel(smooth, 1)
    strength = np.where(inner, np.hypot(gradient_u, gradient_v), 0)
    rows, columns = np.unravel_index(np.argsort(strength.ravel())[-4000::7], image.shape)
    offsets = np.arange(-8, 8.01, 0.25)
    # Averaged along the edge, against noise.
    along = np.arange(-3, 4)
    blurs = []
    for row, column in zip(rows, columns, strict=True):
        across = np.array([gradient_v[row, column], gradient_u[row, column]]) / strength[row, column]
        line = np.array([-across[1], across[0]])
        points = np.array([row, column]) + offsets[:, None, None] * across + along[None, :, None] * line
        profile = map_coordinates(image, np.moveaxis(points, -1, 0), order=1).mean(axis=1)
        slope = np.maximum(np.diff(uniform_filter(profile, 3)), 0)
        middle = np.abs(offsets[:-1]) < 5
        total = slope[middle].sum()
        if total < 0.1:
            continue
        position = (slope * offsets[:-1])[middle].sum() / total
        blurs.append(np.sqrt((slope * (offsets[:-1] - position) ** 2)[middle].sum() / total))
    return float(np.percentile(blurs, 5)) if blurs else float("nan")


def _cells(found: Measures) -> list[str]:
    grey = " / ".join(f"{value:.2f}" for value in found.grey)
    figures = (f"{found.noise:.2f}", f"{found.neighbours:.2f}", f"{found.fine:.2f}", f"{found.edge:.2f}")
    return [f"{found.field:.1f}", *figures, grey, f"{found.clipped:.1f}"]


def _write(rows: list[list[np.ndarray]], path: Path) -> None:
    import SimpleITK as sitk

    picture = np.vstack([np.hstack([_small(image) for image in row]) for row in rows])
    sitk.WriteImage(sitk.GetImageFromArray((255 * picture).astype(np.uint8)), str(path))


def _small(image: np.ndarray) -> np.ndarray:
    return image[: image.shape[0] // 4 * 4, : image.shape[1] // 4 * 4].reshape(256, 4, 256, 4).mean(axis=(1, 3))


if __name__ == "__main__":
    main()
