"""Depth maps are fused only where they are surfaces, not edge-on, and not contradicted."""

from dataclasses import dataclass

import numpy as np

from worldloom.generator.surface.depth_filter import filter_depth
from worldloom.scene.cameras import intrinsics
from worldloom.scene.frame import look_at

SIZE = (96, 64)
K_PIXELS = intrinsics(65.0, *SIZE)


@dataclass
class View:
    depth: np.ndarray
    c2w: np.ndarray
    K: np.ndarray


def wall(y=0.0, *, distance=3.0, patch=None):
    """A wall straight ahead; `patch` puts a square at another depth into the picture."""
    depth = np.full((SIZE[1], SIZE[0]), distance, np.float32)
    if patch is not None:
        depth[24:40, 40:56] = patch
    return View(depth, look_at([0.0, y, 1.0], [3.0, y, 1.0]), K_PIXELS)


def test_what_all_agree_on_is_kept_with_full_trust():
    out = filter_depth([wall(0.05 * i) for i in range(4)])
    assert all((f.depth[2:-2, 2:-2] > 0).all() for f in out)
    assert out[1].weight[32, 48] == 1


def test_a_ghost_that_the_others_look_through_is_dropped():
    ghost = wall(patch=1.5)
    out = filter_depth([ghost, *(wall(0.05 * i) for i in range(1, 4))])
    assert (out[0].depth[28:36, 44:52] == 0).all()
    assert (out[0].weight[out[0].depth == 0] == 0).all()
    assert (out[0].depth[4:20, 4:90] > 0).all()


def test_a_single_frame_and_one_witness_are_believed():
    alone = filter_depth([wall(patch=1.5)])[0]
    assert (alone.depth[28:36, 44:52] == 1.5).all()
    pair = filter_depth([wall(patch=1.5), wall(0.05)])[0]
    assert (pair.depth[28:36, 44:52] == 1.5).all()


def test_a_surface_hidden_from_the_others_is_no_contradiction():
    out = filter_depth([wall(0.05 * i, patch=1.5) for i in range(3)] + [wall(0.2)])
    assert (out[3].depth[4:20, 4:90] > 0).all()


def test_edges_and_bad_values_become_none():
    view = wall(patch=1.5)
    view.depth[0:4, 0:4] = np.nan
    view.depth[0:4, 8:12] = np.inf
    view.depth[0:4, 16:20] = -2
    out = filter_depth([view])[0]
    assert np.isfinite(out.depth).all()
    assert (out.depth[0:4, 0:4] == 0).all()
    assert (out.depth[24:40, 38:42] == 0).all()
    assert out.depth.min() == 0


def test_a_floor_at_a_grazing_angle_goes_and_a_steep_one_stays():
    v = (np.arange(SIZE[1]) + 0.5 - K_PIXELS[1, 2]) / K_PIXELS[1, 1]
    for height, kept in ((0.3, False), (1.5, True)):
        depth = np.where(v > 0.02, height / np.maximum(v, 1e-3), 0)[:, None].repeat(SIZE[0], 1)
        view = View(depth.astype(np.float32), look_at([0, 0, height], [1, 0, height]), K_PIXELS)
        out = filter_depth([view])[0].depth
        row = int(K_PIXELS[1, 2] + 0.1 * K_PIXELS[1, 1])
        assert (out[row, 48] > 0) == (0.1 / np.hypot(1, 0.1) > 0.17)
        assert out[-3, 48] > 0 or not kept
    assert filter_depth([]) == []


def test_frames_of_nothing_give_nothing():
    view = View(np.zeros((SIZE[1], SIZE[0]), np.float32), np.eye(4), K_PIXELS)
    out = filter_depth([view, wall()])
    assert (out[0].depth == 0).all()
