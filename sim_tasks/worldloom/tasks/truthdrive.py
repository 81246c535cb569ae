"""A generated world and the true surface -> how well a robot that knows the world drives it.

Start and goal pairs are drawn on the truth and run in the world unfiltered: what the world cannot
reach, or would lead a robot astray to, is a failure of the world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import GateNotMet, InvalidRequest
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.episodes import Episode, Sampling, sample_episodes
from worldloom.tasks.geodesic import FloorGraph
from worldloom.tasks.navgrid import GridParams, NavGrid, build_navgrid
from worldloom.tasks.observed import Observer
from worldloom.tasks.policies import Policy, TaskInfo, load_policy
from worldloom.tasks.robots import RobotProfile, load_robot
from worldloom.tasks.run import observe
from worldloom.tasks.sim_collider import ColliderIndex
from worldloom.tasks.sim_kinematic import KinematicSim
from worldloom.tasks.world import NavWorld

ROBOT = "jetbot_body"
CELL_M, MIN_ISLAND_M2 = 0.045, 1.0
"""An odd cell: true walls stand at round numbers, and one on the very border of two cells would
fall into either by rounding, which made the truth larger by half a cell all around."""
GEODESIC_M, SUCCESS_RADIUS_M = (1.0, 30.0), 0.15
STRAIGHT_PAIRS = 50  # The straight line is only there for comparison, and slow: it gets stuck.
STAND_TICKS = 5  # Commands of zero in a row that end an episode: half a second.
TIME_FACTOR, TIME_MIN_S = 4.0, 20.0  # Time limit against the reference time, as in datasets.
STUCK_TICKS, STUCK_M = 100, 0.1
"""Ten seconds within 10 cm end an episode, as in datasets."""
SAME_FLOOR_M = 0.1  # Heights within this belong to one floor [m].


def score_driving(
    world: NavWorld, truth: TriMesh, name: str, *, pairs: int, seed: int = 0
) -> dict[str, float]:
    """Navigable areas, and success of the oracle and of the straight line.

    The truth's floor is walled by the same observed mask as the world's: what no camera saw
    belongs to neither. A street goes on beyond the piece that the truth describes, so areas are
    compared within that piece.

    Args:
        world: The generated world.
        truth: The true surface.
        name: Part of the randomness of the pairs; the scene's name.
        pairs: Start and goal pairs to draw.
        seed: Seed of the pairs.

    Raises:
        GateNotMet: The truth has no floor to drive on.
    """
    robot, params = load_robot(ROBOT), GridParams(CELL_M, MIN_ISLAND_M2)
    observer = Observer(world.keyframes)
    ideal = build_navgrid(truth, robot, params=params, observer=observer)
    sampling = Sampling(
        geodesic=GEODESIC_M, ratio_threshold=None, min_island_area=MIN_ISLAND_M2,
        success_radius=SUCCESS_RADIUS_M,
    )  # fmt: skip
    episodes, tally = sample_episodes(ideal, name, pairs, sampling=sampling, seed=seed)
    if not episodes:
        raise GateNotMet(f"no pairs can be drawn on the truth of {name}: {dict(tally.rejected)}")
    out = {"truth_area_m2": ideal.navigable_m2, "pairs": float(len(episodes))}
    try:
        grid = build_navgrid(world.collider, robot, params=params, observer=observer)
        inside = _within(world.collider, truth.extent())
        area = build_navgrid(inside, robot, params=params, observer=observer).navigable_m2
    except GateNotMet:
        # A world without any floor is the worst result, not a reason to stop the bench.
        return out | {"area_m2": 0.0, "area_ratio": 0.0, "oracle": 0.0, "straight_line": 0.0}
    out |= {"area_m2": area, "area_ratio": area / ideal.navigable_m2}
    index = ColliderIndex.build(world.collider)
    for policy, some in (("oracle", episodes), ("straight_line", episodes[:STRAIGHT_PAIRS])):
        drive = Drive(KinematicSim(index, robot), load_policy(policy), grid, robot)
        out[policy] = float(np.mean([drive.reaches(episode) for episode in some]))
    return out


def _within(mesh: TriMesh, extent: NDArray[np.floating]) -> TriMesh:
    """The part of a mesh above and below the ground plan of a box [2 3]."""
    from trimesh.intersections import slice_faces_plane

    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    for axis in range(2):
        for corner, sign in zip(extent.astype(np.float64), (1.0, -1.0), strict=True):
            vertices, faces, _ = slice_faces_plane(vertices, faces, sign * np.eye(3)[axis], corner)
    return TriMesh(vertices.astype(np.float32), faces.astype(np.int32))


class Drive:
    """One policy in one world."""

    def __init__(
        self, simulator: KinematicSim, policy: Policy, grid: NavGrid, robot: RobotProfile
    ) -> None:
        self._simulator, self._policy = simulator, policy
        self._grid, self._robot = grid, robot
        self._graphs = tuple(FloorGraph(grid, k) for k in range(len(grid.floors)))

    def reaches(self, episode: Episode) -> bool:
        """Whether the robot stops by itself within the radius of the goal, on its floor."""
        goal = episode.goals[0]
        place = self._drive(episode)
        if place is None:
            return False
        near = np.linalg.norm(place[:2] - goal.position[:2]) <= goal.radius
        return bool(near and abs(place[2] - goal.position[2]) <= SAME_FLOOR_M)

    def _drive(self, episode: Episode) -> Any:
        """Position [3] where the robot stopped; None when it never did, or could not start."""
        floor = self._floor(episode)
        if floor is None:
            return None
        episode = replace(episode, floor=floor)
        try:
            self._policy.reset(TaskInfo(episode, self._robot, self._graphs))
        except InvalidRequest:
            # Start or goal is off the world's floor, or no way joins them.
            return None
        state = self._simulator.reset(episode)
        limit = max(TIME_MIN_S, TIME_FACTOR * episode.reference_time)
        still, marks = 0, [state.pose_xyz_wxyz[:2]]
        while state.t < limit and still < STAND_TICKS:
            v, w = self._policy.act(observe(state, episode))
            state = self._simulator.step(v, w)
            still = still + 1 if v == 0 and w == 0 else 0
            marks.append(state.pose_xyz_wxyz[:2])
            recent = marks[-STUCK_TICKS:]
            if len(recent) == STUCK_TICKS and np.ptp(recent, axis=0).max() < STUCK_M:
                return None
        return state.pose_xyz_wxyz[:3] if still >= STAND_TICKS else None

    def _floor(self, episode: Episode) -> int | None:
        """The world's floor at the height of the start; None when nothing is there."""
        start = episode.start.position
        heights = [
            float(self._grid.lookup(floor.z, start[:2], outside=np.nan))
            for floor in self._grid.floors
        ]
        fits = [k for k, z in enumerate(heights) if abs(z - start[2]) <= SAME_FLOOR_M]
        standing = [
            k for k in fits
            if self._grid.lookup(self._grid.floors[k].walkable, start[:2], outside=False)
        ]  # fmt: skip
        return next(iter([*standing, *fits]), None)
