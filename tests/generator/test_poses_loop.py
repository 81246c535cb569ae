"""Loops are found where a walk comes back, and nowhere else."""

import numpy as np

from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.poses.loop import find_loops
from worldloom.generator.truth.measure import keyframes_of
from worldloom.generator.truth.render import depth_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough

SIZE = (104, 60)


def remembered(name):
    place, cache = scene(name), FrameCache()
    cameras = keyframes_of(walkthrough(place, size=SIZE))
    for i in range(cameras.n):
        depth = depth_view(place, cameras.c2w[i], cameras.K[i], SIZE)
        rgb, origin = np.zeros((*depth.shape, 3), np.float32), np.ones(depth.shape, np.uint8)
        cache.add(int(cameras.frame_id[i]), rgb, depth, origin, cameras.c2w[i], cameras.K[i])
    return cache


def test_a_ring_closes_at_its_start():
    loops = find_loops(remembered("loop"))
    assert loops
    assert max(loop.second - loop.first for loop in loops) > 100
    assert all(loop.second - loop.first >= 40 and loop.cover >= 0.3 for loop in loops)


def test_an_empty_memory_has_no_loops():
    assert find_loops(FrameCache()) == []
