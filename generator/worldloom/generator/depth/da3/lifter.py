"""A window of frames with cameras -> Gaussians in the world, in metres (spec 1.3, 1.4, 2.8).

The network sees the window in the frame of its first camera, as it was trained; its own cameras,
brought home by one similarity, place the Gaussians. Only then they are turned into the level world.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldloom.generator.depth.da3.adapter import AdapterOptions, Gaussians, at_grid, to_gaussians
from worldloom.generator.depth.da3.align import Aligned, align
from worldloom.generator.depth.da3.nested import NestedNetwork, Network, metres, metric_scale
from worldloom.generator.depth.da3.network import Da3Network, Views
from worldloom.generator.depth.da3.preprocess import prepare
from worldloom.generator.depth.da3.sky import is_sky
from worldloom.generator.depth.model import WeightsRecord
from worldloom.generator.depth.resample import nearest
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid
from worldloom.scene.splats import Splats

BORDER = 8 / 256
"""Share of rows and columns that are left out at every side (spec 1.4)."""
LEAST_OPACITY = 1e-6
"""Opacities are held this far from 0 and 1, so that their logits stay finite (spec 1.4)."""


@dataclass(frozen=True)
class LiftOptions:
    """How windows are lifted; the defaults suit the released weights."""

    side: int | None = None
    """What the longer side of the frames is brought to [px]; None keeps it, as Lyra does."""
    down_ratio: int = 2
    """Pixels per Gaussian, each side."""
    pool_features: bool = True
    """See `GaussianHead`."""
    border: float = BORDER
    drop_sky: bool = True
    """Leave sky out, where the model knows it; the released code does not."""
    centres_only: bool = False
    """Align by camera centres alone, as released."""
    keep: torch.dtype = torch.bfloat16
    """Type of the maps that are kept between backbone and heads."""
    adapter: AdapterOptions = field(default_factory=AdapterOptions)


@dataclass(frozen=True)
class Lifted:
    """What became of a window of v frames."""

    splats: Splats
    """n Gaussians in the world [m]."""
    view: NDArray[np.int32]
    """Number of the frame in the window that each comes from [n]."""
    confidence: NDArray[np.float32]
    """The network's confidence of its depth, above 1 [n]."""
    c2w: NDArray[np.float64]
    """Predicted cameras in the world [v 4 4]; the Gaussians stand in these."""
    scale: float
    """Network units in a metre."""
    scale_source: str
    """`poses`, `overlap` or `network`."""
    kept_bytes: int
    """Memory of the maps that were kept between backbone and heads."""


class Da3Lifter:
    """Lifts windows with a model that has a Gaussian head."""

    def __init__(
        self,
        network: Network,
        *,
        options: LiftOptions | None = None,
        weights: tuple[WeightsRecord, ...] = (),
        visits: torch.device | None = None,
    ) -> None:
        """A lifter.

        Args:
            network: With a Gaussian head.
            options: How windows are lifted.
            weights: Of the network.
            visits: Where the network goes for every window and comes back from; None leaves it
                where it is.

        Raises:
            EngineFailed: The network has no Gaussian head.
        """
        if not network.config.splats:
            raise EngineFailed(
                "this Depth Anything 3 model has no Gaussian head; only giant, nested and Lyra's "
                "own have one. Convert lyra2-recon or da3-nested: worldloom weights list"
            )
        self.network = network
        self.options = options or LiftOptions()
        self.weights = weights
        self._visits = visits

    def lift(
        self,
        rgb: ArrayLike,
        c2w: ArrayLike,
        K: ArrayLike,
        *,
        depth: Mapping[int, ArrayLike] | None = None,
    ) -> Splats:
        """Gaussians of a window; arguments and errors as `lift_window`."""
        return self.lift_window(rgb, c2w, K, depth=depth).splats

    @torch.no_grad()
    def lift_window(
        self,
        rgb: ArrayLike,
        c2w: ArrayLike,
        K: ArrayLike,
        *,
        depth: Mapping[int, ArrayLike] | None = None,
    ) -> Lifted:
        """Gaussians of a window, and where they come from.

        Args:
            rgb: sRGB 0..1 [v h w 3], or of 8 bits.
            c2w: Commanded cameras, OpenCV axes, level world frame [m], [v 4 4].
            K: Their intrinsics in pixels of `rgb` [v 3 3].
            depth: z-depth in metres by number of the view, each [h w], 0 = none; tells the scale
                where the cameras hardly move.

        Raises:
            EngineFailed: Frames or cameras cannot be used, or nothing tells the scale.
        """
        with self._visiting():
            return self._lift(rgb, np.asarray(c2w, float), K, depth)

    @torch.no_grad()
    def track(
        self,
        rgb: ArrayLike,
        c2w: ArrayLike,
        K: ArrayLike,
        *,
        depth: Mapping[int, ArrayLike] | None = None,
    ) -> NDArray[np.float64]:
        """Cameras [v 4 4] that the network sees by itself, from the first given one on.

        Arguments and errors as `lift_window`; the given cameras tell the scale, no more.
        """
        given = np.asarray(c2w, float)
        with self._visiting():
            ready = prepare(rgb, K, side=self.options.side)
            images = ready.images.to(self.network.device)
            main = self._main()
            found = main.predict(main.features(images, keep=self.options.keep), images).views()
            metre, _ = self._metre(images, found)
        home = self._align(invert_rigid(given) @ given[0], found, depth, metre)
        return given[0] @ invert_rigid(home.c2w[0]) @ home.c2w

    @contextmanager
    def _visiting(self) -> Iterator[None]:
        """Within it the network is where it computes."""
        if self._visits is None:
            yield
            return
        home = self.network.device
        self.network.to(self._visits)
        try:
            yield
        finally:
            self.network.to(home)
            if self._visits.type == "cuda":
                torch.cuda.empty_cache()

    def _lift(
        self,
        rgb: ArrayLike,
        c2w: NDArray[np.float64],
        K: ArrayLike,
        depth: Mapping[int, ArrayLike] | None,
    ) -> Lifted:
        ready = prepare(rgb, K, side=self.options.side)
        images = ready.images.to(self.network.device)
        local = invert_rigid(c2w) @ c2w[0]
        main = self._main()
        kept = main.features(images, w2c=local, K=ready.K, splats=True, keep=self.options.keep)
        answer = main.predict(
            kept, images, down_ratio=self.options.down_ratio,
            pool_features=self.options.pool_features,
        )  # fmt: skip
        found, raw = answer.views(), answer.raw_gaussians()
        metre, sky = self._metre(images, found)
        home = self._align(local, found, depth, metre)
        made = to_gaussians(
            raw, found.depth, torch.from_numpy(home.c2w), torch.from_numpy(ready.K),
            scale=home.scale, options=self.options.adapter,
        )  # fmt: skip
        mask = self._mask(raw.opacity.shape, sky)
        return self._lifted(made, mask, found, home, c2w[0], kept.bytes)

    def _main(self) -> Da3Network:
        network = self.network
        return network.da3 if isinstance(network, NestedNetwork) else network

    def _metre(self, images: Tensor, found: Views) -> tuple[float | None, Tensor | None]:
        """Network units in a metre and sky scores, where there is a second network."""
        if not isinstance(self.network, NestedNetwork):
            return None, None
        depth, sky = self.network.second(images)
        scale = metric_scale(found.depth, found.confidence, metres(depth, found.K), sky)
        return (1 / scale.value if scale.known else None), sky

    def _align(
        self,
        local: NDArray[np.float64],
        found: Views,
        depth: Mapping[int, ArrayLike] | None,
        metre: float | None,
    ) -> Aligned:
        height, width = found.depth.shape[1:]
        known = {i: nearest(np.asarray(d), width, height) for i, d in (depth or {}).items()}
        return align(
            local, found.w2c.double().cpu().numpy(), found.depth.cpu().numpy(), known=known,
            metric=metre, centres_only=self.options.centres_only,
        )  # fmt: skip

    def _mask(self, shape: tuple[int, ...], sky: Tensor | None) -> NDArray[np.bool_]:
        """Gaussians that are kept [v hg wg]."""
        views, rows, columns = shape
        top, left = int(self.options.border * rows), int(self.options.border * columns)
        mask = np.zeros((views, rows, columns), bool)
        mask[:, top : rows - top, left : columns - left] = True
        if sky is not None and self.options.drop_sky:
            mask &= ~is_sky(at_grid(sky, (rows, columns))).cpu().numpy()
        return mask

    def _lifted(
        self,
        made: Gaussians,
        mask: NDArray[np.bool_],
        found: Views,
        home: Aligned,
        first: NDArray[np.float64],
        kept_bytes: int,
    ) -> Lifted:
        confidence = at_grid(found.confidence, mask.shape[1:]).cpu().numpy()
        view = np.broadcast_to(np.arange(len(mask), dtype=np.int32)[:, None, None], mask.shape)
        return Lifted(
            to_splats(made, first, mask.reshape(-1)), view[mask], confidence[mask],
            first @ home.c2w, home.scale, home.source, kept_bytes,
        )  # fmt: skip


def to_splats(made: Gaussians, transform: ArrayLike, mask: NDArray[np.bool_]) -> Splats:
    """Gaussians of a window's frame as splats of the world.

    Args:
        made: All Gaussians; n of them.
        transform: The window's frame to the world [4 4], rigid.
        mask: Those that are kept [n].
    """
    chosen = torch.from_numpy(mask)
    parts = (made.means, made.scales, made.quats_wxyz, made.opacities, made.sh)
    means, scales, quats, opacities, sh = (part.cpu()[chosen].numpy() for part in parts)
    opacities = np.clip(opacities, LEAST_OPACITY, 1 - LEAST_OPACITY)
    arrays = (means, scales, quats, opacities, sh)
    own = Splats(*(np.ascontiguousarray(array, np.float32) for array in arrays))
    return own.transformed(transform)
