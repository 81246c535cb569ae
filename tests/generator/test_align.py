"""Keyframes that disagree are made to agree; those that agree are left alone."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from worldloom.generator.align.align import align_frames
from worldloom.generator.align.belief import Belief
from worldloom.generator.align.field import FieldGrid
from worldloom.generator.align.match import Matches
from worldloom.generator.align.normal import _jacobian, residual
from worldloom.generator.align.points import find_patches, halved
from worldloom.generator.align.solve import Correction
from worldloom.generator.align.state import Placement, load_placement, save_placement
from worldloom.generator.placement import between_keyframes, move_chunks, place_keyframes, replay
from worldloom.generator.truth.noise import frame_noise
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import unproject
from worldloom.scene.frame import rigid, rotation_about
from worldloom.scene.manifest import FileEntry

SIZE = (312, 180)
NUMBERS = (0, 8, 16, 24, 32)


@cache
def exact() -> tuple[Frame, ...]:
    place = scene("room")
    cameras = walkthrough(place, 161, size=SIZE)
    out = []
    for i in NUMBERS:
        view = render_view(place, cameras.c2w[i], cameras.K[i], SIZE, supersample=2)
        origin = (view.depth > 0).astype(np.uint8)
        out.append(Frame(i, view.rgb, view.depth, origin, cameras.c2w[i], cameras.K[i]))
    return tuple(out)


def noisy(seed: int = 0) -> list[Frame]:
    out = []
    for frame in exact():
        error = frame_noise("noisy", seed, frame.frame_id, SIZE)
        c2w = error.pose(frame.c2w) if frame.frame_id else frame.c2w
        out.append(replace(frame, depth=error.depth(frame.depth), c2w=c2w))
    return out


def errors(frames: list[Frame]) -> tuple[float, float, float]:
    """Medians over the frames after the first: turn [degree], centre [m], relative depth."""
    turn, centre, depth = [], [], []
    for frame, truth in list(zip(frames, exact(), strict=True))[1:]:
        R = frame.c2w[:3, :3].T @ truth.c2w[:3, :3]
        turn.append(np.degrees(np.linalg.norm(Rotation.from_matrix(R).as_rotvec())))
        centre.append(np.linalg.norm(frame.c2w[:3, 3] - truth.c2w[:3, 3]))
        both = (frame.depth > 0) & (truth.depth > 0)
        depth.append(np.median(np.abs(frame.depth[both] / truth.depth[both] - 1)))
    return float(np.median(turn)), float(np.median(centre)), float(np.median(depth))


@pytest.mark.parametrize("seed", [0, 1])
def test_noisy_frames_agree_with_each_other_and_with_the_truth(seed: int) -> None:
    frames = noisy(seed)
    before = errors(frames)
    result = align_frames(frames)
    after = errors(result.frames)
    assert result.agreement.changed
    assert result.agreement.pixels_after < 0.35
    assert after[0] < 0.15
    assert after[0] < before[0] / 5
    # Five frames over a metre: their common scale is known no better than depth and centres are.
    assert after[1] < 0.02
    assert after[2] < 0.008
    assert after[2] < before[2] / 3


def test_frames_that_agree_are_left_alone() -> None:
    result = align_frames(exact())
    assert not result.agreement.changed
    for frame, truth in zip(result.frames, exact(), strict=True):
        assert (frame.c2w == truth.c2w).all()
        assert (frame.depth == truth.depth).all()


def test_the_first_camera_holds_the_world() -> None:
    frames = noisy()
    assert (align_frames(frames).frames[0].c2w == frames[0].c2w).all()


def test_a_growing_world_starts_from_what_it_knows() -> None:
    frames = noisy()
    first = align_frames(frames[:3])
    whole = align_frames(frames, start=first.correction, known=first.matches)
    assert len(whole.matches) > len(first.matches)
    assert errors(whole.frames)[0] < 0.2
    again = align_frames(frames, start=first.correction, known=first.matches)
    assert (again.correction.knots == whole.correction.knots).all()


def turned(frame: Frame, degrees: float) -> Frame:
    """The frame with its camera turned to the right; the picture stays."""
    turn = rigid(rotation_about([0, 1, 0], np.radians(degrees)), np.zeros(3))
    return replace(frame, c2w=frame.c2w @ turn)


def test_a_video_that_left_its_path_is_followed_along_the_track_that_was_seen() -> None:
    frames = noisy()
    first = align_frames(frames[:3])
    # The commanded cameras look 8 degrees past what the pictures show: no patch is found there.
    past = [turned(f, 8.0) for f in frames[3:]]
    went = [*frames[:3], *past]
    lost = align_frames(went, start=first.correction, known=first.matches)
    seen = {"seen": np.stack([frame.c2w for frame in frames[3:]])}
    found = align_frames(went, start=first.correction, known=first.matches, tracks=seen)
    assert found.agreement.track == "seen"
    assert errors(found.frames)[0] < 0.2
    assert errors(lost.frames)[0] > 1 or lost.agreement.pixels_after > 1


def test_a_track_that_is_wrong_is_not_taken() -> None:
    frames = noisy()
    first = align_frames(frames[:3])
    rng = np.random.default_rng(3)
    wild = np.stack([turned(f, 40 * rng.random()).c2w for f in frames[3:]])
    result = align_frames(
        frames, start=first.correction, known=first.matches, tracks={"seen": wild}
    )
    assert result.agreement.track in ("commanded", "carried")
    assert errors(result.frames)[0] < 0.2


def test_wrong_beliefs_still_help() -> None:
    frames = noisy()
    belief = Belief(turn_deg=3.0, centre=0.02, field=0.1)
    assert errors(align_frames(frames, belief=belief).frames)[0] < errors(frames)[0] / 3


def broken(kind: str) -> list[Frame]:
    frames = noisy()
    plain = np.full_like(frames[0].rgb, 0.5)
    none = np.zeros_like(frames[0].depth)
    holes = frames[0].depth.copy()
    holes[::7] = np.nan
    holes[::11] = np.inf
    change = {
        "plain colours": [replace(f, rgb=plain) for f in frames],
        "all sky": [replace(f, depth=none) for f in frames],
        "one frame": frames[:1],
        "broken depth": [replace(frames[0], depth=holes), *frames[1:]],
        "pure rotation": [replace(f, c2w=_turned(frames[0], i)) for i, f in enumerate(frames)],
        "5 cm": [_scaled(f, 0.01) for f in frames],
        "500 m": [_scaled(f, 100.0) for f in frames],
    }
    return change[kind]


def _turned(frame: Frame, i: int) -> np.ndarray:
    c2w = frame.c2w.copy()
    c2w[:3, :3] = c2w[:3, :3] @ Rotation.from_rotvec([0, np.radians(3 * i), 0]).as_matrix()
    return c2w


def _scaled(frame: Frame, factor: float) -> Frame:
    c2w = frame.c2w.copy()
    c2w[:3, 3] *= factor
    return replace(frame, depth=frame.depth * np.float32(factor), c2w=c2w)


@pytest.mark.parametrize(
    "kind",
    ["plain colours", "all sky", "one frame", "broken depth", "pure rotation", "5 cm", "500 m"],
)
def test_bad_frames_never_give_nonsense(kind: str) -> None:
    frames = broken(kind)
    result = align_frames(frames)
    assert len(result.frames) == len(frames)
    for frame in result.frames:
        assert np.isfinite(frame.c2w).all()
        assert np.linalg.det(frame.c2w[:3, :3]) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(result.correction.knots).all()
    assert np.abs(result.correction.knots).max() < 0.5


def test_scale_does_not_matter() -> None:
    small = align_frames(broken("5 cm"))
    frames = [_scaled(frame, 100.0) for frame in small.frames]
    assert errors(frames)[0] < 0.2


def test_the_jacobian_is_the_derivative() -> None:
    rng = np.random.default_rng(3)
    K = np.array([[250.0, 0, 150], [0, 250, 90], [0, 0, 1]])
    R_i, R_j = (Rotation.from_rotvec(0.2 * rng.standard_normal(3)).as_matrix() for _ in range(2))
    c_i, c_j = 0.3 * rng.standard_normal((2, 3))
    X, seen, point, out = np.array([0.4, -0.2, 3.0]), np.zeros(2), np.zeros(3), np.zeros((3, 13))

    def miss(d: np.ndarray) -> np.ndarray:
        turn_i, turn_j = (Rotation.from_rotvec(w).as_matrix() for w in (d[:3], d[6:9]))
        moved = np.zeros(3)
        _, du, dv = residual(
            R_i @ turn_i, c_i + R_i @ d[3:6], R_j @ turn_j, c_j + R_j @ d[9:12], K,
            X * np.exp(d[12]), 1.0, seen, moved,
        )  # fmt: skip
        return np.array([du, dv, np.log(moved[2])])

    residual(R_i, c_i, R_j, c_j, K, X, 1.0, seen, point)
    _jacobian(R_j.T @ R_i, X, point, K, out)
    step = 1e-6
    for k in range(13):
        d = np.zeros(13)
        d[k] = step
        assert (miss(d) - miss(-d)) / (2 * step) == pytest.approx(out[:, k], rel=1e-4, abs=1e-4)


def test_a_field_is_the_same_at_pixels_and_at_places() -> None:
    grid = FieldGrid(104, 60)
    values = np.random.default_rng(0).standard_normal(grid.knots)
    dense = grid.dense(values)
    index, weight = grid.weights([10.5, 103.5, 0.5], [20.5, 59.5, 0.5])
    assert np.sum(values[index] * weight, 1) == pytest.approx(dense[[20, 59, 0], [10, 103, 0]])
    assert grid.dense(np.ones(grid.knots)) == pytest.approx(1)
    assert np.abs(grid.roughness() @ np.ones(grid.knots)).max() == 0


def test_halved_frames_show_the_same_places() -> None:
    frame = exact()[0]
    small = halved(frame)
    assert small.depth.shape == (90, 156)
    assert small.K[0, 2] == frame.K[0, 2] / 2
    patches = find_patches(small)
    assert len(patches.z) > 50
    u, v = (2 * patches.uv).astype(int).T
    assert np.median(np.abs(frame.depth[v, u] / patches.z - 1)) < 0.01


def test_a_placement_survives_its_file(tmp_path) -> None:
    result = place_keyframes(noisy(), None, chunk=0, belief=Belief())
    save_placement(result.placement, tmp_path / "p.npz")
    back = load_placement(tmp_path / "p.npz")
    assert back is not None
    assert (back.now.c2w == result.placement.now.c2w).all()
    assert len(back.matches) == len(result.placement.matches)
    for a, b in zip(back.matches, result.placement.matches, strict=True):
        assert (a.host, a.target) == (b.host, b.target)
        assert (a.seen == b.seen).all()
    for a, b in zip(replay(noisy(), back), result.keyframes, strict=True):
        assert (a.depth == b.depth).all()
        assert (a.c2w == b.c2w).all()
    assert load_placement(tmp_path / "none.npz") is None


def test_a_chunk_follows_its_frames() -> None:
    frames = list(exact())
    knots = np.zeros((5, FieldGrid(*SIZE).knots))
    then = Correction(np.stack([f.c2w for f in frames]), knots)
    shift = np.eye(4)
    shift[:3, 3] = 0.1, -0.05, 0.02
    now = Correction(
        np.concatenate([then.c2w[:2], np.einsum("ij,njk->nik", shift, then.c2w[2:])]), knots
    )
    placement = Placement(now, then, np.array([0, 0, 1, 1, 1]), np.ones((5, 3)))
    files = [
        FileEntry("splats/a.usdc", "", 1, "splats", 0),
        FileEntry("splats/b.usdc", "", 1, "splats", 1),
        FileEntry("video/b.mp4", "", 1, "video", 1),
    ]
    moved = move_chunks(files, frames, placement)
    assert moved[0].move is None
    assert moved[2].move is None
    assert np.array(moved[1].move) == pytest.approx(shift, abs=1e-5)


def test_matches_of_halved_frames_are_in_whole_pixels() -> None:
    one = np.ones((1, 2))
    match = Matches(0, 1, one, np.ones(1), one, np.ones(1)).doubled()
    assert (match.uv == 2).all()
    assert (match.seen == 2).all()
    assert (match.z == 1).all()


def test_frames_between_keyframes_follow_their_neighbours() -> None:
    generated, keyframes = list(exact()[:2]), []
    for i, frame in enumerate(generated):
        c2w = frame.c2w.copy()
        c2w[:3, 3] += [0.2 * i, 0, 0.1]
        keyframes.append(replace(frame, c2w=c2w, depth=2 * frame.depth))
    middle = replace(generated[0], frame_id=4)
    first, half, late = between_keyframes(
        [generated[0], middle, replace(generated[1], frame_id=99)], generated, keyframes
    )
    assert (first.depth == keyframes[0].depth).all()
    assert half.c2w[:3, 3] - middle.c2w[:3, 3] == pytest.approx([0.1, 0, 0.1])
    assert half.c2w[:3, :3] == pytest.approx(middle.c2w[:3, :3])
    assert late.c2w[:3, 3] - generated[1].c2w[:3, 3] == pytest.approx([0.2, 0, 0.1])


def test_exposure_is_evened_out_and_what_is_coloured_keeps_its_gain() -> None:
    frames = [replace(f, rgb=np.clip(f.rgb * (1 - 0.03 * i), 0, 1)) for i, f in enumerate(exact())]
    first = place_keyframes(frames[:3], None, chunk=0, belief=Belief())
    whole = place_keyframes(frames, first.placement, chunk=1, belief=Belief())
    gains = whole.placement.gains
    assert (gains[:3] == first.placement.gains).all()
    assert gains[0] == pytest.approx(1)
    assert gains[4] == pytest.approx(1 / 0.88, abs=0.02)
    same = place_keyframes(list(exact()), None, chunk=0, belief=Belief())
    assert (same.placement.gains == 1).all()


def test_how_far_old_frames_moved_is_told() -> None:
    frames = noisy()
    first = place_keyframes(frames[:3], None, chunk=0, belief=Belief())
    assert first.moved == 0
    whole = place_keyframes(frames, first.placement, chunk=1, belief=Belief())
    apart = [
        np.median(
            np.linalg.norm(
                unproject(a.depth, a.K, a.c2w)[a.depth > 0]
                - unproject(b.depth, b.K, b.c2w)[b.depth > 0],
                axis=1,
            )
        )
        for a, b in zip(first.keyframes, whole.keyframes, strict=False)
    ]
    assert whole.moved == pytest.approx(max(apart), rel=0.2)
