import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sacroplasty.errors import GeometryError
from sacroplasty.planning.pose_uncertainty import PoseUncertainty


def test_the_covariance_along_the_shaft_is_that_of_drawn_poses():
    rng = np.random.default_rng(5)
    root = rng.normal(size=(6, 6)) * np.array([0.4, 0.4, 0.4, 0.005, 0.005, 0.005])[:, None]
    uncertainty = PoseUncertainty(np.array([10.0, -40.0, 5.0]), root @ root.T)
    points = np.array([[10.0, -40.0, 5.0], [60.0, -150.0, 20.0]])
    drawn = rng.multivariate_normal(np.zeros(6), uncertainty.covariance, size=40_000)
    for point, expected in zip(points, uncertainty.covariance_at(points), strict=True):
        moved = Rotation.from_rotvec(drawn[:, 3:]).apply(point - uncertainty.center_ras) + drawn[:, :3]
        assert np.allclose(np.cov(moved.T), expected, atol=0.03 * np.trace(expected))


def test_the_error_grows_with_the_lever_arm():
    uncertainty = PoseUncertainty.isotropic([0, 0, 0], 0.5, 1.0)
    near, far = uncertainty.rms_mm([[0.0, 0.0, 0.0], [0.0, 0.0, 100.0]])
    assert near == pytest.approx(0.5 * np.sqrt(3))
    # Two of the three rotations move a point 100 mm away, each by 1.745 mm.
    assert far == pytest.approx(np.sqrt(0.75 + 2 * 1.7453**2), rel=1e-4)


@pytest.mark.parametrize(
    "covariance", [np.full((6, 6), np.nan), -np.eye(6), np.eye(5), np.triu(np.ones((6, 6)))], ids=str
)
def test_what_is_no_covariance_is_refused(covariance):
    with pytest.raises(GeometryError):
        PoseUncertainty(np.zeros(3), covariance)
