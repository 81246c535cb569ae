"""Two sets of pictures -> FID: the Frechet distance between Gaussians fitted to their features.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs trained by a two time-scale update rule
converge to a local Nash equilibrium", NeurIPS 2017; for Gaussians |m1 - m2|^2 + tr(C1 + C2 - 2
(C1 C2)^(1/2)). With fewer pictures than features (2,048) both covariances are singular and the
value is biased upwards: compare only sets of one size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worldloom.generator.evaluate.checkpoints import load_strict, read_tensors
from worldloom.generator.evaluate.inception import FidInception
from worldloom.generator.evaluate.pixels import Picture, as_batch, as_unit
from worldloom.scene.errors import InvalidRequest

BATCH = 8  # Pictures in one pass of the network.
PICTURES_MIN = 2  # One picture has no covariance.


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of the features of a set."""

    mean: NDArray[np.float64]
    """[d]."""
    covariance: NDArray[np.float64]
    """Unbiased, [d d]."""
    count: int
    """Pictures behind it."""


def load_inception(folder: Path | None, *, device: str = "cpu") -> FidInception:
    """The network with the weights that lie in `folder`.

    Raises:
        NotFound: The file is missing; says which, and where it is published.
        CorruptData: The file is not the published one, or its tensors do not fit.
    """
    net = FidInception()
    load_strict(net, read_tensors("inception", folder), "inception")
    return net.to(device)


def features_of(net: FidInception, pictures: Iterable[Picture]) -> NDArray[np.float64]:
    """Features [n 2048] of pictures [h w 3], each of a size of its own."""
    device = net.fc.weight.device
    out: list[NDArray[np.float64]] = []
    batch: list[NDArray[np.float64]] = []

    def flush() -> None:
        if batch:
            images = torch.from_numpy(as_batch(batch)).to(device)
            out.append(net(images).double().cpu().numpy())
            batch.clear()

    for picture in pictures:
        unit = as_unit(picture)
        if batch and batch[0].shape != unit.shape:
            flush()
        batch.append(unit)
        if len(batch) == BATCH:
            flush()
    flush()
    return np.concatenate(out) if out else np.zeros((0, net.fc.in_features))


def fit(features: NDArray[np.floating]) -> Gaussian:
    """The Gaussian of features [n d].

    Raises:
        InvalidRequest: There are fewer than two, or some are not finite.
    """
    if len(features) < PICTURES_MIN or not np.isfinite(features).all():
        raise InvalidRequest(
            f"FID got the features of {len(features)} pictures, "
            f"{int((~np.isfinite(features)).any(-1).sum())} of them not finite; "
            f"it needs at least {PICTURES_MIN}, and thousands to be comparable"
        )
    values = np.asarray(features, np.float64)
    return Gaussian(values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)), len(values))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance between two Gaussians.

    The trace of (C1 C2)^(1/2) is that of (S C2 S)^(1/2) with S the root of C1, which is symmetric:
    its eigenvalues are real, whatever the rank.
    """
    root = _root(a.covariance)
    inner = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.maximum(inner, 0.0)).sum()
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(max(0.0, np.square(a.mean - b.mean).sum() + trace))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
