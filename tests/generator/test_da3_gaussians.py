"""Raw numbers -> Gaussians: the released oddities, the sane version, and harmonics."""

import numpy as np
import pytest
import torch

from worldloom.generator.depth.da3.adapter import (
    AdapterOptions,
    at_grid,
    grid_places,
    rotations,
    to_gaussians,
)
from worldloom.generator.depth.da3.gs_head import RawGaussians
from worldloom.generator.depth.da3.harmonics import rotate_bands
from worldloom.generator.depth.da3.lifter import to_splats
from worldloom.render.harmonics import colours
from worldloom.scene.frame import matrix_from_quat_wxyz, quat_wxyz_from_matrix, rigid
from worldloom.scene.harmonics_rotation import harmonics_basis

GRID, SIZE = (6, 8), (12, 16)
K = torch.tensor([[[20.0, 0, 7.0], [0, 24.0, 5.5], [0, 0, 1]]])


def raw(views=1, seed=0, **parts):
    """Raw Gaussians of zeros, with some numbers set."""
    values = torch.zeros(views, *GRID, 37)
    values[..., 8] = 1  # The unit quaternion, scalar last.
    if seed:
        values = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
    for place, number in parts.items():
        values[..., int(place[1:])] = number
    return RawGaussians(values, torch.full((views, *GRID), 0.25))


def turns(count, seed=2):
    quat = np.random.default_rng(seed).standard_normal((count, 4))
    return matrix_from_quat_wxyz(quat)


def released_by_steps(quat_xyzw, c2w):
    """The shipped sequence of spec 2.8, step by step with matrices."""
    q = quat_xyzw / (np.linalg.norm(quat_xyzw) + 1e-8)
    permuted = q[[3, 0, 1, 2]]
    # Read as scalar-last although the scalar is first now.
    read = matrix_from_quat_wxyz(permuted[[3, 0, 1, 2]])
    world = quat_wxyz_from_matrix(c2w @ read)
    stored = world[[1, 2, 3, 0]]
    return stored if stored[3] >= 0 else -stored


def test_the_released_rotation_is_the_shipped_sequence():
    c2w = turns(3)
    quat = np.random.default_rng(5).standard_normal((3, 2, 2, 4))
    found = rotations(torch.from_numpy(quat), torch.from_numpy(c2w), released=True).numpy()
    expected = [
        released_by_steps(quat[v, i, j], c2w[v])
        for v in range(3) for i in range(2) for j in range(2)
    ]  # fmt: skip
    signs = np.sign((found * np.stack(expected)).sum(1, keepdims=True))
    np.testing.assert_allclose(found * signs, expected, atol=1e-6)
    assert (found[:, 3] >= 0).all()


def test_the_released_rotation_by_its_formula():
    swap = np.array([[0.0, 0, 1], [0, -1, 0], [-1, 0, 0]])
    c2w = turns(1)
    quat = np.random.default_rng(7).standard_normal((1, 1, 1, 4))
    net = matrix_from_quat_wxyz(quat[0, 0, 0][[3, 0, 1, 2]])
    found = rotations(torch.from_numpy(quat), torch.from_numpy(c2w), released=True)
    np.testing.assert_allclose(
        matrix_from_quat_wxyz(found[0]), net @ swap @ c2w[0].T @ swap.T, atol=1e-6
    )
    identity = rotations(torch.from_numpy(quat), torch.eye(3)[None].double(), released=True)
    np.testing.assert_allclose(matrix_from_quat_wxyz(identity[0]), net, atol=1e-6)
    sane = rotations(torch.from_numpy(quat), torch.from_numpy(c2w), released=False)
    np.testing.assert_allclose(matrix_from_quat_wxyz(sane[0]), c2w[0] @ net, atol=1e-6)


@pytest.mark.parametrize("unit_rays", [True, False])
def test_a_wall_before_the_camera_becomes_a_plane_or_a_sphere(unit_rays):
    """Depth along z gives the plane; the trained convention takes it as a distance."""
    options = AdapterOptions(unit_rays=unit_rays)
    found = to_gaussians(raw(), torch.full((1, *SIZE), 3.0), torch.eye(4)[None], K, options=options)
    i, j = np.mgrid[:6, :8]
    rays = np.stack(
        [((j + 0.5) * 2 - 7.0) / 20, ((i + 0.5) * 2 - 5.5) / 24, np.ones(GRID)], -1
    ).reshape(-1, 3)
    if unit_rays:
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    np.testing.assert_allclose(found.means.numpy(), 3 * rays, atol=1e-5)
    # K of the grid: focal lengths 10 and 12; a raw scale of 0 is the middle of the range.
    scale = (1e-5 + (30 - 1e-5) / 2) * 3 * 0.1 * (1 / 10 + 1 / 12)
    np.testing.assert_allclose(found.scales.numpy(), scale, rtol=1e-5)
    np.testing.assert_allclose(found.quats_wxyz.numpy(), [[1, 0, 0, 0]] * 48, atol=1e-6)
    np.testing.assert_allclose(found.opacities.numpy(), 0.25)


def test_offsets_are_counted_in_grid_pixels_and_depth_is_divided_by_the_scale():
    depth = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1)) + 1
    c2w = torch.from_numpy(rigid(turns(1), np.array([[1.0, 2, 3]]))).float()
    found = to_gaussians(raw(n0=0.5, n1=-0.25, n36=0.2), depth, c2w, K, scale=2.0)
    z = (depth[0, ::2, ::2].numpy() + 0.2) / 2
    i, j = np.mgrid[:6, :8]
    rays = np.stack([((j + 1.0) * 2 - 7.0) / 20, ((i + 0.25) * 2 - 5.5) / 24, np.ones(GRID)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    expected = (z[..., None] * rays) @ c2w[0, :3, :3].numpy().T + [1, 2, 3]
    np.testing.assert_allclose(found.means.numpy(), expected.reshape(-1, 3), atol=1e-5)


def test_depth_is_the_top_left_pixel_and_the_fix_casts_the_ray_through_it():
    depth = torch.arange(12.0 * 16).reshape(1, *SIZE)
    assert torch.equal(at_grid(depth, GRID), depth[:, ::2, ::2])
    places, fixed = grid_places(GRID, SIZE, False), grid_places(GRID, SIZE, True)
    np.testing.assert_allclose(places[2, 3], [3.5 / 8, 2.5 / 6])
    np.testing.assert_allclose(fixed[2, 3], [6.5 / 16, 4.5 / 12])
    np.testing.assert_allclose(grid_places(SIZE, SIZE, True), grid_places(SIZE, SIZE, False))


def test_depth_that_would_lie_behind_the_camera_is_held_before_it():
    found = to_gaussians(raw(n36=-5.0), torch.ones(1, *SIZE), torch.eye(4)[None], K)
    assert (found.means[:, 2] > 0).all()
    assert (found.scales > 0).all()


def test_views_rows_and_columns_come_in_order():
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, 0, 3] = 100
    found = to_gaussians(raw(2), torch.ones(2, *SIZE), c2w, K.repeat(2, 1, 1))
    x = found.means[:, 0].reshape(2, *GRID)
    assert (x[1] - x[0] == 100).all()
    assert (x[0].diff(dim=1) > 0).all()


def test_colours_are_colour_major_and_the_constant_term_is_kept():
    values = raw(seed=3)
    found = to_gaussians(values, torch.ones(1, *SIZE), torch.eye(4)[None], K)
    flat = values.raw.reshape(-1, 37)
    assert torch.equal(found.sh[:, 0], flat[:, [9, 18, 27]])
    whole = to_gaussians(
        values, torch.ones(1, *SIZE), torch.eye(4)[None], K, options=AdapterOptions(harmonics=True)
    )
    torch.testing.assert_close(whole.sh[:, 0], found.sh[:, 0])
    torch.testing.assert_close(whole.sh[:, 3, 1], 0.025 * flat[:, 9 + 9 + 3])
    torch.testing.assert_close(whole.sh[:, 8, 2], 0.00625 * flat[:, 9 + 18 + 8])


def test_turned_harmonics_answer_in_turned_directions():
    turn = turns(1)[0]
    sh = torch.randn(1, 5, 9, 3, dtype=torch.float64)
    found = rotate_bands(sh, torch.from_numpy(turn)[None])[0].numpy()
    directions = np.random.default_rng(3).standard_normal((17, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    there = np.einsum("dk,nkc->ndc", harmonics_basis(directions)[:, :8], found[:, 1:])
    here = np.einsum("dk,nkc->ndc", harmonics_basis(directions @ turn)[:, :8], sh[0, :, 1:].numpy())
    np.testing.assert_allclose(there, here, atol=1e-12)
    np.testing.assert_allclose(found[:, 0], sh[0, :, 0].numpy())


def test_splats_are_turned_into_the_world_after_they_exist():
    values = raw(seed=4)
    made = to_gaussians(
        values, torch.ones(1, *SIZE), torch.eye(4)[None], K, options=AdapterOptions(harmonics=True)
    )
    transform = rigid(turns(1, seed=11)[0], [3.0, -1, 2])
    mask = np.zeros(48, bool)
    mask[5:9] = True
    splats = to_splats(made, transform, mask)
    assert (splats.n, splats.degree) == (4, 2)
    plain = to_gaussians(values, torch.ones(1, *SIZE), torch.eye(4)[None], K)
    moved = to_splats(plain, np.eye(4), mask).transformed(transform)
    np.testing.assert_allclose(splats.means, moved.means, atol=1e-5)
    np.testing.assert_allclose(splats.scales, moved.scales, rtol=1e-6)
    np.testing.assert_allclose(np.abs((splats.quats_wxyz * moved.quats_wxyz).sum(1)), 1, atol=1e-5)
    # The colour seen along a world direction is that seen along the camera's own.
    eye = transform[:3, :3] @ np.array([0.3, -2.0, 5]) + transform[:3, 3]
    own = to_splats(made, np.eye(4), mask)
    np.testing.assert_allclose(
        colours(splats, eye), colours(own, np.array([0.3, -2.0, 5])), atol=1e-5
    )
    assert (splats.opacities > 0).all()
