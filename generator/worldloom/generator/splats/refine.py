"""Splats and the keyframes they were made of -> splats whose pictures are nearer to them.

Adam on colours, opacities, sizes and centres, one keyframe a step (spec reconstruction 8.9);
rotations are free only on request. A centre may move by a share of its own size: that alone is
worth a decibel, since splats of one depth hide each other in some order and so shift what they
show by a fraction of a pixel. Only splats in the picture are moved, each by its own count of
steps, so the number of splats out of view costs nothing. On the CPU the gradients are those of
`render.backward`; on request the steps are taken by gsplat (`refine_cuda`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.splats.build import usable
from worldloom.generator.splats.photometric import photometric_loss
from worldloom.generator.video.frame import ORIGIN_NONE, Frame
from worldloom.render.backward import backward, record
from worldloom.scene.errors import JobCancelled
from worldloom.scene.splats import SH_C0, Splats

OPACITY_RANGE = (0.005, 0.995)  # Where logits stay tame.
EPSILON = 1e-15  # Of Adam, as in 3DGS: gradients of single splats are tiny.
BETA = (0.9, 0.99)  # Each splat is seen a few dozen times: shorter memory than usual.
PULL = 1e-4  # Pull of log sizes and logits to where they began, of their rates and a step.
GROW_MAX = 1.1  # Largest change of a log size: a factor of 3.


@dataclass(frozen=True)
class Rates:
    """Step sizes of Adam; 0 holds a property fixed."""

    colour: float = 0.015
    """sRGB."""
    opacity: float = 0.05
    """Logit."""
    scale: float = 0.03
    """Natural logarithm of the size."""
    mean: float = 0.1
    """Of the splat's own largest size."""
    quat: float = 0.0
    """Quaternion components."""
    final: float = 0.1
    """The rates fall geometrically to this share."""


def refine_splats(
    splats: Splats,
    frames: Sequence[Frame],
    *,
    steps: int,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    rates: Rates = Rates(),
    backend: str = "numba",
) -> Splats:
    """Fit splats to keyframes; the same input and seed give the same splats.

    Args:
        splats: What to refine; the result has as many, in the same order.
        frames: Keyframes to fit; pixels of no origin do not count.
        steps: Steps of one keyframe each; ten times the number of keyframes is a good choice.
        seed: Seed of the order of the keyframes.
        on_step: Told (done, steps) after each step.
        cancelled: Asked before each step.
        rates: Step sizes.
        backend: `numba`, or `gsplat` on a CUDA device: faster, but not the same bytes every time.

    Raises:
        JobCancelled: `cancelled` became true.
        EngineFailed: `gsplat` is asked for without a CUDA device.
    """
    frames = [usable(frame) for frame in frames]
    frames = [frame for frame in frames if (frame.origin != ORIGIN_NONE).any()]
    if not frames or splats.n == 0 or steps <= 0:
        return splats
    order = _schedule(len(frames), steps, seed)
    if backend == "gsplat":
        from worldloom.generator.splats.refine_cuda import refine_with_gsplat

        return refine_with_gsplat(splats, frames, order.tolist(), rates, on_step, cancelled)
    state = _State.of(splats)
    for step, number in enumerate(order):
        if cancelled is not None and cancelled():
            raise JobCancelled(f"cancelled at step {step} of {steps} of the refinement")
        _one_step(state, frames[number], rates, rates.final ** (step / steps))
        if on_step is not None:
            on_step(step + 1, steps)
    return state.splats()


def _schedule(count: int, steps: int, seed: int) -> NDArray[np.int64]:
    """Keyframe of each step: a fresh random order in every round."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, count]))
    rounds = [rng.permutation(count) for _ in range(-(-steps // count))]
    return np.concatenate(rounds)[:steps]


@dataclass
class _State:
    """The free numbers: columns colour 3, logit 1, log size 3, mean 3, quaternion 4."""

    start_splats: Splats
    start: NDArray[np.float32]
    value: NDArray[np.float32]
    first: NDArray[np.float32]
    second: NDArray[np.float32]
    count: NDArray[np.int32]

    @staticmethod
    def of(splats: Splats) -> _State:
        opacity = np.clip(splats.opacities, *OPACITY_RANGE)
        value = np.concatenate(
            [
                0.5 + SH_C0 * splats.sh[:, 0],
                np.log(opacity / (1 - opacity))[:, None],
                np.log(splats.scales),
                splats.means,
                splats.quats_wxyz,
            ],
            1,
        ).astype(np.float32)
        zero = np.zeros_like(value)
        return _State(splats, value.copy(), value, zero, zero.copy(), np.zeros(splats.n, np.int32))

    def splats(self) -> Splats:
        value, sh = self.value, self.start_splats.sh.copy()
        sh[:, 0] = (value[:, :3] - 0.5) / SH_C0
        quats = value[:, 10:14] / np.linalg.norm(value[:, 10:14], axis=1, keepdims=True)
        arrays = (value[:, 7:10], np.exp(value[:, 4:7]), quats, 1 / (1 + np.exp(-value[:, 3])), sh)
        return Splats(*(np.ascontiguousarray(array, np.float32) for array in arrays))


def _one_step(state: _State, frame: Frame, rates: Rates, fall: float) -> float:
    """One step of Adam on one keyframe; returns its loss before the step."""
    height, width = frame.depth.shape
    splats = state.splats()
    tape = record(splats, frame.c2w, frame.K, (width, height))
    loss, slope = photometric_loss(tape.image, frame.rgb, frame.origin != ORIGIN_NONE)
    g = backward(tape, slope)
    o = splats.opacities.astype(np.float64)
    columns = (
        g.dc / SH_C0, (g.opacities * o * (1 - o))[:, None], g.scales * splats.scales,
        g.means, g.quats_wxyz,
    )  # fmt: skip
    rate = np.array(
        [rates.colour] * 3 + [rates.opacity] + [rates.scale] * 3 + [rates.mean] * 3
        + [rates.quat] * 4
    )  # fmt: skip
    _adam(
        state.value, state.start, np.concatenate(columns, 1), state.first, state.second,
        state.count, g.drawn, fall * rate, *BETA, EPSILON,
    )  # fmt: skip
    return loss


@nb.njit(parallel=True, cache=True)
def _adam(value, start, gradient, first, second, count, drawn, rate, b1, b2, epsilon):
    """Move the drawn splats; a centre's rate is in units of the splat's largest size."""
    for i in nb.prange(len(value)):
        if not drawn[i]:
            continue
        count[i] += 1
        left1, left2 = 1 - b1 ** count[i], 1 - b2 ** count[i]
        largest = np.exp(max(value[i, 4], value[i, 5], value[i, 6]))
        for c in range(value.shape[1]):
            if rate[c] == 0:
                continue
            g = gradient[i, c]
            first[i, c] = b1 * first[i, c] + (1 - b1) * g
            second[i, c] = b2 * second[i, c] + (1 - b2) * g * g
            step = rate[c] * (largest if 7 <= c < 10 else 1.0)
            step *= first[i, c] / left1 / (np.sqrt(second[i, c] / left2) + epsilon)
            moved = value[i, c] - step
            if 3 <= c < 7:
                moved -= PULL * (moved - start[i, c])
            if 4 <= c < 7:
                moved = min(max(moved, start[i, c] - GROW_MAX), start[i, c] + GROW_MAX)
            value[i, c] = moved
