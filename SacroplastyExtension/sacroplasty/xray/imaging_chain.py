"""What becomes of the beam behind the patient on its way to a frame, each effect with a switch of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ImageError
from ..geometry import FloatArray
from .detector import EXPOSURE_TARGET, WHITE, count_photons, middle
from .geometry import XrayGeometry
from .materials import DEFAULT_ENERGY_KEV

_Signal = NDArray[np.floating]

#: Enough for the cubic of the pincushion from any start within the detector.
_NEWTON_STEPS = 12


@dataclass(frozen=True)
class ImagingChain:
    """A detector and its beam. The defaults are an ideal one: exposed right, without noise, sharp, without a border.

    Attributes:
        energy_kev: of the beam, one energy; what `attenuation_from_hu` and objects in the beam are asked for.
        photons_per_pixel: mean number where the signal is `EXPOSURE_TARGET`; None for no quantum noise.
        scatter_fraction: share of scattered photons in the middle of the image, 0 to less than 1.
        scatter_width_mm: standard deviation of how far they spread, on the detector.
        penumbra_mm: standard deviation of the blur by focal spot and motion, on the detector; it spares the noise.
        blur_mm: standard deviation of the light's spread in the scintillator, on the detector; noise is blurred too.
        automatic_exposure: bring the middle of the image to `EXPOSURE_TARGET`; else `air_level` holds.
        air_level: signal of the unattenuated beam without automatic exposure.
        field_diameter_mm: of the circle an image intensifier shows, around the detector's middle; None for all.
        blades_mm: how far the collimator opens from the detector's middle to the left, right, top and bottom edge of
            the image; None for fully open.
        pincushion: how much further out a point at the field's edge is shown, as a share of its distance.
        s_distortion_deg: how far such a point is turned about the middle, clockwise; nothing in the middle.
        lag: share of the frame before in each frame, 0 to less than 1.
    """

    energy_kev: float = DEFAULT_ENERGY_KEV
    photons_per_pixel: float | None = None
    scatter_fraction: float = 0.0
    scatter_width_mm: float = 60.0
    penumbra_mm: float = 0.0
    blur_mm: float = 0.0
    automatic_exposure: bool = True
    air_level: float = EXPOSURE_TARGET
    field_diameter_mm: float | None = None
    blades_mm: tuple[float, float, float, float] | None = None
    pincushion: float = 0.0
    s_distortion_deg: float = 0.0
    lag: float = 0.0

    def check(self) -> ImagingChain:
        """This chain, if there can be one.

        Raises:
            ImageError: naming what is impossible.
        """
        for name in ("scatter_fraction", "lag"):
            if not 0 <= getattr(self, name) < 1:
                raise ImageError(f"{name} is {getattr(self, name)}; it must be from 0 to less than 1")
        positive = ["air_level", "scatter_width_mm"]
        positive += [name for name in ("photons_per_pixel", "field_diameter_mm") if getattr(self, name) is not None]
        for name in positive:
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ImageError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("penumbra_mm", "blur_mm"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ImageError(f"{name} is {getattr(self, name)}; it must be zero or more")
        # More would fold the corners of the detector over the image.
        if not (-0.15 <= self.pincushion <= 0.15 and -30 <= self.s_distortion_deg <= 30):
            raise ImageError(
                f"a pincushion of {self.pincushion} and an S distortion of {self.s_distortion_deg} degrees cannot be: "
                "at most 0.15 and 30 either way"
            )
        if self.blades_mm is not None and not min(self.blades_mm) >= 0:
            raise ImageError(f"blades_mm is {self.blades_mm}; no blade passes the middle of the detector")
        return self


@dataclass(frozen=True)
class ExposedFrame:
    """One frame.

    Attributes:
        pixels: (rows, columns), uint16.
        signal: the same before it was rounded and clipped, what lags into the next frame.
        air_level: signal that the unattenuated beam would have (see `log_image`).
    """

    pixels: NDArray[np.uint16]
    signal: _Signal
    air_level: float


def expose_frame(
    line_integrals: NDArray,
    geometry: XrayGeometry,
    chain: ImagingChain,
    rng: np.random.Generator,
    previous: ExposedFrame | None = None,
) -> ExposedFrame:
    """The frame that a chain makes of the line integrals at its energy.

    Order: collimator, penumbra, scatter, exposure, photon noise, light spread, distortion, field, lag, digitisation.
    There is no heel effect, no electronic noise, no beam hardening, no glare of the intensifier.

    Args:
        line_integrals: (rows, columns) of that geometry.
        previous: the frame before, for the lag; None for the first.

    Raises:
        ImageError: for line integrals that are no numbers or of another size, or an impossible chain.
    """
    chain.check()
    columns, rows = geometry.detector_pixels
    integrals = np.asarray(line_integrals, np.float32)
    if integrals.shape != (rows, columns):
        raise ImageError(f"line integrals of shape {integrals.shape} are not of this detector of {rows} x {columns}")
    if not np.isfinite(integrals).all():
        raise ImageError("the line integrals hold values that are no numbers (NaN); no frame can be exposed")
    beam: _Signal = np.exp(-integrals)
    if chain.blades_mm is not None:
        beam *= _between_blades(chain.blades_mm, geometry)
    beam = _blurred(beam, chain.penumbra_mm, geometry)
    if chain.scatter_fraction > 0:
        beam = beam + _scatter(beam, integrals, geometry, chain)
    mean = float(middle(beam).mean(dtype=float))
    if chain.automatic_exposure and not mean > 0:
        raise ImageError("no signal reaches the middle of the detector; open the collimator")
    air_level = EXPOSURE_TARGET / mean if chain.automatic_exposure else chain.air_level
    signal: _Signal = beam * np.float32(air_level)
    if chain.photons_per_pixel is not None:
        signal = count_photons(signal, chain.photons_per_pixel, rng)
    signal = np.minimum(signal, 4 * WHITE)
    signal = _blurred(signal, chain.blur_mm, geometry)
    if chain.pincushion or chain.s_distortion_deg:
        from scipy.ndimage import map_coordinates

        seen = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
        ideal = ideal_pixels(seen, geometry, chain)
        # Cubic: a linear interpolation would smooth the noise.
        signal = map_coordinates(signal, [ideal[..., 1], ideal[..., 0]], order=3, mode="constant")
    if chain.field_diameter_mm is not None:
        signal = np.where(field_mask(geometry, chain.field_diameter_mm), signal, 0)
    if previous is not None and chain.lag > 0:
        if previous.signal.shape != signal.shape:
            raise ImageError("the frame before is of another size; begin a new sequence")
        signal = chain.lag * previous.signal + (1 - chain.lag) * signal
    signal = signal.astype(np.float32)
    pixels = np.clip(np.rint(signal), 0, WHITE).astype(np.uint16)
    return ExposedFrame(pixels, signal, air_level)


def field_mask(geometry: XrayGeometry, diameter_mm: float) -> NDArray[np.bool_]:
    """Pixels (rows, columns) within the circle that an image intensifier shows."""
    offsets = _from_middle_mm(np.stack(_pixel_grid(geometry), axis=-1), geometry)
    return np.asarray(np.linalg.norm(offsets, axis=-1) <= diameter_mm / 2)


def ideal_pixels(seen_uv: ArrayLike, geometry: XrayGeometry, chain: ImagingChain) -> FloatArray:
    """Where pixels (..., 2) of a distorted image would be without distortion.

    With r the distance from the middle in radii of the field (of the detector's half width without one), a point is
    shown nearer by the pincushion's share times r squared, and turned back by the S distortion times r squared.
    """
    offset, radius = _distortion_frame(seen_uv, geometry, chain)
    squared = (offset**2).sum(axis=-1) / radius**2
    angle = -np.radians(chain.s_distortion_deg) * squared
    return _to_pixels(_turned(offset, angle) * (1 - chain.pincushion * squared)[..., None], geometry)


def seen_pixels(ideal_uv: ArrayLike, geometry: XrayGeometry, chain: ImagingChain) -> FloatArray:
    """Where pixels (..., 2) of an ideal image, as `XrayGeometry.project` gives them, are seen in a distorted one."""
    offset, radius = _distortion_frame(ideal_uv, geometry, chain)
    distance = np.linalg.norm(offset, axis=-1) / radius
    shown = distance
    for _ in range(_NEWTON_STEPS):
        shown = shown - (shown * (1 - chain.pincushion * shown**2) - distance) / (1 - 3 * chain.pincushion * shown**2)
    angle = np.radians(chain.s_distortion_deg) * shown**2
    scale = np.divide(shown, distance, out=np.ones_like(distance), where=distance > 0)
    return _to_pixels(_turned(offset, angle) * scale[..., None], geometry)


def _scatter(beam: _Signal, integrals: _Signal, geometry: XrayGeometry, chain: ImagingChain) -> _Signal:
    """Scattered photons: born where the beam loses some, so with beam times line integral, and spread widely."""
    spread = _widely_blurred(beam * np.maximum(integrals, 0), chain.scatter_width_mm, geometry)
    amount = float(middle(spread).mean(dtype=float))
    if not amount > 0:
        return np.zeros_like(beam)
    ratio = chain.scatter_fraction / (1 - chain.scatter_fraction)
    return spread * np.float32(ratio * float(middle(beam).mean(dtype=float)) / amount)


def _blurred(image: _Signal, deviation_mm: float, geometry: XrayGeometry) -> _Signal:
    if deviation_mm == 0:
        return image
    from scipy.ndimage import gaussian_filter

    u, v = geometry.pixel_spacing_mm
    blurred: _Signal = gaussian_filter(image, (deviation_mm / v, deviation_mm / u), mode="nearest")
    return blurred


def _widely_blurred(image: _Signal, deviation_mm: float, geometry: XrayGeometry) -> _Signal:
    """Blurred over much of the image, beyond which there is nothing: by Fourier transform, which costs the same for
    any width."""
    from scipy.fft import irfft2, next_fast_len, rfft2
    from scipy.ndimage import fourier_gaussian

    u, v = geometry.pixel_spacing_mm
    deviation = np.array([deviation_mm / v, deviation_mm / u])
    # So much nothing around that one edge does not reach the other.
    padded = [next_fast_len(int(size), real=True) for size in image.shape + 4 * deviation + 1]
    spectrum = fourier_gaussian(rfft2(image, padded), deviation, n=padded[1])
    # Rounding leaves less than nothing here and there.
    return np.maximum(irfft2(spectrum, padded)[: image.shape[0], : image.shape[1]], 0)


def _between_blades(blades_mm: tuple[float, float, float, float], geometry: XrayGeometry) -> NDArray[np.bool_]:
    left, right, top, bottom = blades_mm
    offsets = _from_middle_mm(np.stack(_pixel_grid(geometry), axis=-1), geometry)
    x, y = offsets[..., 0], offsets[..., 1]
    return (x >= -left) & (x <= right) & (y >= -top) & (y <= bottom)


def _turned(offsets: FloatArray, angle: FloatArray) -> FloatArray:
    """Offsets (..., 2) turned clockwise in the image, whose rows run downwards, by angles (...) in radians."""
    x, y = offsets[..., 0], offsets[..., 1]
    return np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=-1)


def _pixel_grid(geometry: XrayGeometry) -> tuple[NDArray, NDArray]:
    columns, rows = geometry.detector_pixels
    u, v = np.meshgrid(np.arange(columns), np.arange(rows))
    return u, v


def _middle_uv(geometry: XrayGeometry) -> FloatArray:
    return (np.array(geometry.detector_pixels, float) - 1) / 2


def _from_middle_mm(pixels_uv: ArrayLike, geometry: XrayGeometry) -> FloatArray:
    return (np.asarray(pixels_uv, float) - _middle_uv(geometry)) * geometry.pixel_spacing_mm


def _to_pixels(offsets_mm: FloatArray, geometry: XrayGeometry) -> FloatArray:
    return offsets_mm / geometry.pixel_spacing_mm + _middle_uv(geometry)


def _distortion_frame(pixels_uv: ArrayLike, geometry: XrayGeometry, chain: ImagingChain) -> tuple[FloatArray, float]:
    """Offsets in mm from the middle, and the radius at which the distortion has its full size."""
    width = geometry.detector_pixels[0] * geometry.pixel_spacing_mm[0]
    return _from_middle_mm(pixels_uv, geometry), (chain.field_diameter_mm or width) / 2
