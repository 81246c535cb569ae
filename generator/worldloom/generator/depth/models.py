"""The depth networks that may be there, best first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from worldloom.generator.depth.model import DepthModel, WeightsRecord
from worldloom.generator.weights import find_weights, lookup, verify
from worldloom.generator.weights_network import noted
from worldloom.scene.errors import CorruptData

if TYPE_CHECKING:
    from worldloom.generator.depth.da3.lifter import Da3Lifter, LiftOptions
    from worldloom.generator.depth.da3.single import Da3Metric

LOGGER = logging.getLogger(__name__)

RELATIVE = ("da3-base", "da3-small", "tcmonodepth-small")
"""Networks of relative depth, best first; all may be used commercially."""
METRIC = "da3-metric-large"
"""The network of metric depth; it fixes the scale where the user tells none."""

LIFTING = ("lyra2-recon", "da3-nested", "da3-giant")
"""Models with a Gaussian head, best first; none of them may be used commercially."""

Model = TypeVar("Model")


def choose_model(
    weights_dir: Path | None = None, *, notes: list[str] | None = None
) -> DepthModel | None:
    """The best depth model whose weights are present, or None for the layout estimate.

    Args:
        weights_dir: Where to look; `$WORLDLOOM_WEIGHTS` or the user's cache by default.
        notes: Receives a sentence when weights are there but damaged, since that is worth knowing.
    """
    for name in RELATIVE:
        reader = _tcmono if name == "tcmonodepth-small" else _da3(name)
        after = "The next best depth was used instead"
        model = _read(name, reader, weights_dir, notes, after)
        if model is not None:
            return model
    return None


def choose_metric(
    weights_dir: Path | None = None, *, notes: list[str] | None = None
) -> Da3Metric | None:
    """The metric depth model where its weights are present; arguments as `choose_model`."""

    def reader(file: Path, record: WeightsRecord) -> Da3Metric:
        from worldloom.generator.depth.da3.single import Da3Metric, read_network

        return Da3Metric(METRIC, read_network(METRIC, file), (record,))

    return _read(METRIC, reader, weights_dir, notes, "The scale comes from other evidence")


def choose_lifter(
    weights_dir: Path | None = None,
    *,
    notes: list[str] | None = None,
    options: LiftOptions | None = None,
) -> Da3Lifter | None:
    """The best splat lifter whose weights are present; it visits a GPU where there is one.

    Args:
        weights_dir: See `choose_model`.
        notes: See `choose_model`.
        options: How windows are lifted.
    """
    for name in LIFTING:
        reader = _lifter(name, options)
        lifter = _read(name, reader, weights_dir, notes, "The next best lifter was used instead")
        if lifter is not None:
            return lifter
    return None


def _lifter(name: str, options: LiftOptions | None) -> Callable[[Path, WeightsRecord], Da3Lifter]:
    def reader(file: Path, record: WeightsRecord) -> Da3Lifter:
        import torch

        from worldloom.generator.depth.da3.lifter import Da3Lifter
        from worldloom.generator.depth.da3.load import for_gpu
        from worldloom.generator.depth.da3.single import read_network

        network = read_network(name, file)
        if not torch.cuda.is_available():
            return Da3Lifter(network, options=options, weights=(record,))
        visits = torch.device("cuda")
        return Da3Lifter(for_gpu(network), options=options, weights=(record,), visits=visits)

    return reader


def _read(
    name: str,
    reader: Callable[[Path, WeightsRecord], Model],
    weights_dir: Path | None,
    notes: list[str] | None,
    after: str,
) -> Model | None:
    """The model of verified weights; None where they are missing or damaged."""
    if find_weights(name, weights_dir) is None:
        return None
    try:
        file = verify(name, weights_dir)
        entry = lookup(name)
        digest = noted(entry, file)["sha256"] if entry.kind else ""
        return reader(file, entry.record(digest))
    except CorruptData as error:
        LOGGER.warning("%s", error)
        if notes is not None:
            notes.append(f"{error}. {after}")
        return None


def _tcmono(file: Path, record: WeightsRecord) -> DepthModel:
    from worldloom.generator.depth.tcmono import TCMonoDepth

    return TCMonoDepth.load(file, (record,))


def _da3(name: str) -> Callable[[Path, WeightsRecord], DepthModel]:
    def reader(file: Path, record: WeightsRecord) -> DepthModel:
        from worldloom.generator.depth.da3.single import Da3Photo, read_network

        return Da3Photo(name, read_network(name, file), (record,))

    return reader
