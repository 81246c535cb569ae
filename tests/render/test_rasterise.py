"""Splats are drawn where gsplat's conventions put them."""

import numpy as np
import pytest

from worldloom.render.harmonics import colours
from worldloom.render.rasterise import rasterise
from worldloom.scene.cameras import intrinsics, project
from worldloom.scene.frame import invert_rigid, look_at
from worldloom.scene.splats import Splats

SIZE = (96, 64)
K = intrinsics(70.0, *SIZE)
CAMERA = look_at([0.0, 0.0, 1.0], [2.0, 0.0, 1.0])
RED, GREEN, BLUE = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


def balls(centres, rgb, *, sigma=0.05, opacity=0.99):
    n = len(centres)
    quats = np.tile([1.0, 0, 0, 0], (n, 1))
    return Splats.from_rgb(centres, np.full((n, 3), sigma), quats, np.full(n, opacity), rgb)


def cloud(n, seed=0, degree=0):
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    k = (degree + 1) ** 2
    arrays = (
        rng.uniform([1.0, -1.5, 0.0], [5.0, 1.5, 2.0], (n, 3)),
        rng.uniform(0.01, 0.08, (n, 3)),
        quats,
        rng.uniform(0.1, 0.95, n),
        rng.normal(0, 0.3, (n, k, 3)),
    )
    return Splats(*(np.ascontiguousarray(a, np.float32) for a in arrays))


def test_left_is_left_and_up_is_up():
    # Facing +X with Z up, the left is +Y.
    splats = balls([[2, 0.6, 1.0], [2, -0.6, 1.0], [2, 0.0, 1.4]], [RED, GREEN, BLUE])
    rgb = rasterise(splats, CAMERA, K, SIZE).rgb
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    centre = [(np.average(columns, weights=rgb[..., c] ** 4 + 1e-12),
               np.average(rows, weights=rgb[..., c] ** 4 + 1e-12)) for c in range(3)]  # fmt: skip
    assert centre[0][0] < 40 < 56 < centre[1][0]
    assert centre[2][1] < 26 < centre[0][1]


def test_a_splat_lies_at_the_projection_of_its_centre_with_pixel_centres_at_a_half():
    point = np.array([[2.3, 0.41, 1.13]])
    expected, z = project(point, K, invert_rigid(CAMERA))
    view = rasterise(balls(point, [RED], sigma=0.03), CAMERA, K, SIZE)
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    found = [np.average(columns, weights=view.alpha), np.average(rows, weights=view.alpha)]
    assert np.allclose(found, expected[0], atol=0.03)
    assert np.isclose(view.depth[view.alpha > 0.5].mean(), z[0], atol=1e-3)


def test_the_nearer_splat_hides_the_farther_one_in_any_order():
    near, far = [2.0, 0.0, 1.0], [3.0, 0.0, 1.0]
    for centres, colour in (([near, far], [RED, GREEN]), ([far, near], [GREEN, RED])):
        view = rasterise(balls(centres, colour, sigma=0.2, opacity=1.0), CAMERA, K, SIZE)
        middle = view.rgb[SIZE[1] // 2, SIZE[0] // 2]
        assert middle[0] > 0.98
        assert middle[1] < 0.02
        assert view.depth[SIZE[1] // 2, SIZE[0] // 2] == pytest.approx(2.0, abs=0.01)


def test_alpha_is_the_opacity_at_the_centre_and_the_background_shows_through():
    splats = balls([[2.0, 0.0, 1.0]], [RED], sigma=0.5, opacity=0.6)
    view = rasterise(splats, CAMERA, K, SIZE, background=(0.0, 0.0, 1.0))
    middle = SIZE[1] // 2, SIZE[0] // 2
    assert view.alpha[middle] == pytest.approx(0.6, abs=0.01)
    assert np.allclose(view.rgb[middle], [0.6, 0.0, 0.4], atol=0.01)
    assert view.rgb[0, 0, 2] > 0.5


def test_nothing_is_drawn_of_splats_behind_the_camera_or_of_no_splats():
    behind = balls([[-2.0, 0.0, 1.0]], [RED])
    for splats in (behind, Splats.empty()):
        view = rasterise(splats, CAMERA, K, SIZE, background=(0.2, 0.3, 0.4))
        assert np.all(view.alpha == 0)
        assert np.all(view.depth == 0)
        assert np.allclose(view.rgb, [0.2, 0.3, 0.4])


def test_an_off_centre_principal_point_is_honoured():
    shifted = K.copy()
    shifted[0, 2] += 10
    splats = cloud(300)
    plain = rasterise(splats, CAMERA, K, SIZE).rgb
    moved = rasterise(splats, CAMERA, shifted, SIZE).rgb
    assert np.abs(moved[:, 20:] - plain[:, 10:-10]).max() < 0.02


def test_a_picture_is_the_same_on_one_thread_and_on_two():
    import numba

    splats = cloud(3000)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = rasterise(splats, CAMERA, K, SIZE)
    finally:
        numba.set_num_threads(before)
    two = rasterise(splats, CAMERA, K, SIZE)
    assert one.rgb.tobytes() == two.rgb.tobytes()
    assert one.depth.tobytes() == two.depth.tobytes()


def test_tiles_leave_no_seams():
    sheet = np.stack(np.meshgrid([3.0], np.arange(-3, 3, 0.03), np.arange(-1, 3, 0.03)), -1)
    sheet = sheet.reshape(-1, 3)
    view = rasterise(balls(sheet, np.full((len(sheet), 3), 0.5), sigma=0.03), CAMERA, K, SIZE)
    assert view.alpha.min() > 0.99
    assert np.abs(view.rgb - 0.5).max() < 0.02
    assert np.abs(view.depth - 3.0).max() < 1e-3


def test_harmonics_of_degree_three_agree_with_gsplat():
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl")
    torch = pytest.importorskip("torch")
    splats = cloud(200, degree=3)
    eye = np.array([0.3, -0.2, 1.1])
    directions = torch.as_tensor(splats.means - eye.astype(np.float32))
    value = gsplat._spherical_harmonics(3, directions, torch.as_tensor(splats.sh)) + 0.5
    assert np.allclose(colours(splats, eye), value.clamp_min(0).numpy(), atol=2e-5)


def test_projection_agrees_with_gsplat():
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl")
    torch = pytest.importorskip("torch")
    from worldloom.render.rasterise import _project

    splats = cloud(500)
    w2c = invert_rigid(CAMERA)
    mean, conic, radius, depth = _project(
        splats.means, splats.scales, splats.quats_wxyz, w2c, K, *SIZE
    )
    covariance, _ = gsplat._quat_scale_to_covar_preci(
        torch.as_tensor(splats.quats_wxyz), torch.as_tensor(splats.scales)
    )
    radii, means2d, depths, conics, _ = gsplat._fully_fused_projection(
        torch.as_tensor(splats.means), covariance, torch.as_tensor(w2c, dtype=torch.float32)[None],
        torch.as_tensor(K, dtype=torch.float32)[None], *SIZE,
    )  # fmt: skip
    both = (radius[:, 0] > 0) & (radii[0].float().numpy() > 0).reshape(len(radius), -1).all(1)
    assert both.sum() > 300
    assert np.allclose(mean[both], means2d[0].numpy()[both], atol=2e-3)
    assert np.allclose(depth[both], depths[0].numpy()[both], atol=1e-5)
    assert np.allclose(conic[both], conics[0].numpy()[both], rtol=5e-3, atol=1e-5)
