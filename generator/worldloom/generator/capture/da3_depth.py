"""Depth Anything 3, conditioned on the cameras of a capture, as its source of depth.

The network answers in a world of its own; one similarity between its cameras and the given ones
brings the depth back into the unit of the poses (spec reconstruction 1.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldloom.generator.depth.da3.align import align
from worldloom.generator.depth.da3.depth_model import at_size
from worldloom.generator.depth.da3.nested import Network
from worldloom.generator.depth.da3.preprocess import prepare
from worldloom.generator.depth.da3.single import read_network
from worldloom.generator.weights import lookup, verify
from worldloom.generator.weights_network import noted
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid


@dataclass(frozen=True)
class Da3CaptureDepth:
    """A multi-view network as the depth of posed pictures."""

    name: str
    network: Network
    weights: tuple[dict[str, Any], ...] = ()

    def depth(
        self,
        rgb: Sequence[NDArray[np.float32]],
        c2w: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> list[NDArray[np.float32]]:
        """z-depth [h w] of pictures that show one place, in units of the poses; 0 in the sky.

        Args:
            rgb: sRGB 0..1, each [h w 3].
            c2w: Camera to world, OpenCV axes, [v 4 4].
            K: Intrinsics in pixels of the pictures, [v 3 3].

        Raises:
            EngineFailed: The cameras do not move, or the network says nothing of them.
        """
        w2c = invert_rigid(c2w)
        ready = prepare(np.stack(rgb), K)
        with torch.inference_mode():
            found = self.network(ready.images.to(self.network.device), w2c=w2c, K=ready.K)
        if found.w2c is None:
            raise EngineFailed(
                f"{self.name} gives no cameras, so the scale of its depth is unknown"
            )
        depth = at_size(found, rgb[0].shape[:2])
        metric = 1.0 if found.metric else None
        home = align(w2c, found.w2c.double().cpu().numpy(), depth, metric=metric)
        depth = np.where(np.isfinite(depth), depth / home.scale, 0.0)
        return list(depth.astype(np.float32))


def open_da3(name: str, folder: Path | None = None) -> Da3CaptureDepth:
    """The network of weights that are present, on a GPU where there is one.

    Raises:
        CorruptData: The weights are damaged.
    """
    entry, file = lookup(name), verify(name, folder)
    record = entry.record(noted(entry, file)["sha256"] if entry.kind else "")
    network = read_network(name, file)
    if torch.cuda.is_available():
        network = network.to("cuda")
    return Da3CaptureDepth(name, network, (record.to_json(),))
