"""How uncertain the place of a navigated trocar is: a small rigid error about a point, known by its covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GeometryError
from ..geometry import FloatArray


@dataclass(frozen=True)
class PoseUncertainty:
    """Error of a rigid pose in RAS, to first order: a point p is shown off by t + w x (p - center).

    Attributes:
        center_ras: (3,) the point about which the rotation w turns, mm.
        covariance: (6, 6) of (t, w): t in mm, w in radians.
    """

    center_ras: FloatArray
    covariance: FloatArray

    def __post_init__(self) -> None:
        covariance = np.asarray(self.covariance, float)
        if covariance.shape != (6, 6) or not np.isfinite(covariance).all() or not np.isfinite(self.center_ras).all():
            raise GeometryError("the uncertainty of a pose is a finite 6 x 6 covariance about a finite point")
        scale = max(float(np.abs(covariance).max()), 1e-12)
        if np.abs(covariance - covariance.T).max() > 1e-6 * scale or np.linalg.eigvalsh(covariance)[0] < -1e-6 * scale:
            raise GeometryError("the covariance of a pose must be symmetric and not negative")

    @staticmethod
    def isotropic(center_ras: ArrayLike, position_sd_mm: float, angle_sd_deg: float) -> PoseUncertainty:
        """The same in all directions: standard deviation of each coordinate of `center_ras`, and about each axis."""
        variances = [position_sd_mm**2] * 3 + [np.radians(angle_sd_deg) ** 2] * 3
        return PoseUncertainty(np.asarray(center_ras, float), np.diag(variances))

    def covariance_at(self, points_ras: ArrayLike) -> NDArray[np.float64]:
        """Covariance (..., 3, 3) in mm2 of the place of points (..., 3)."""
        jacobian = small_motion(points_ras, self.center_ras)
        return jacobian @ self.covariance @ np.swapaxes(jacobian, -1, -2)

    def rms_mm(self, points_ras: ArrayLike) -> NDArray[np.float64]:
        """Root mean square distance (...) by which points (..., 3) are off."""
        return np.sqrt(np.trace(self.covariance_at(points_ras), axis1=-2, axis2=-1))


def small_motion(points: ArrayLike, center: ArrayLike) -> NDArray[np.float64]:
    """Jacobian (..., 3, 6) of t + w x (p - center) by (t, w) at points (..., 3)."""
    x, y, z = np.moveaxis(np.asarray(points, float) - center, -1, 0)
    jacobian = np.zeros((*x.shape, 3, 6))
    jacobian[..., :, :3] = np.eye(3)
    jacobian[..., 0, 4], jacobian[..., 0, 5] = z, -y
    jacobian[..., 1, 3], jacobian[..., 1, 5] = -z, x
    jacobian[..., 2, 3], jacobian[..., 2, 4] = y, -x
    return jacobian
