"""A recorded case -> the worst error of our values, as a share of what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ADAPTERS = {
    "dit": "dit", "framepack_metadata": "layout", "retrieval": "retrieval",
    "geometry": "geometry", "sampler": "sampler", "vae": "vae", "clip": "clip",
    "trajectories": "trajectories", "training": "training", "conditioning": "conditioning",
    "pipeline": "pipeline", "text_lora": "text_lora",
}  # fmt: skip
POINTS_TOLERANCE = 1e-4  # That of the geometry cases.
INT8_UNIT, UINT8_HALF = 64.0, 127.5  # Scales of packed values (README of the vectors).


@dataclass(frozen=True)
class Case:
    """One recorded case."""

    name: str
    component: str
    config: dict[str, Any]
    tolerance: dict[str, Any]
    data: Any
    inputs: dict[str, Tensor]
    weights: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """How one case ended."""

    name: str
    worst: float
    """Largest error as a share of the allowed one; at most 1 passes."""
    passed: bool
    note: str = ""


@dataclass
class Folder:
    """A folder of cases and which of its weight files have been used."""

    path: Path
    used: set[str] = field(default_factory=set)
    _files: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def entries(self) -> list[dict[str, Any]]:
        """All entries of `cases.json`."""
        return json.loads((self.path / "cases.json").read_text("utf-8"))["cases"]

    def case(self, entry: Mapping[str, Any]) -> Case:
        """Load the tensors of an entry."""
        own = load_file(self.path / entry["file"]) if entry.get("file") else {}
        shared = {}
        if entry.get("weights_file"):
            self.used.add(entry["weights_file"])
            shared = self._shared(entry["weights_file"])
        tensors = {**shared, **own}
        return Case(
            entry["name"], entry["component"], entry["config"], entry["tolerance"] or {},
            entry.get("data"), _part(tensors, "in."), _part(tensors, "sd.", decode=False),
            _part(own, "out."),
        )  # fmt: skip

    def _shared(self, name: str) -> dict[str, Tensor]:
        if name not in self._files:
            self._files = {name: load_file(self.path / name)}
        return self._files[name]


def _part(tensors: Mapping[str, Tensor], prefix: str, *, decode: bool = True) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if decode and name.endswith("_i8"):
            name, value = name.removesuffix("_i8"), value.float() / INT8_UNIT
        elif decode and name.endswith("_u8") and value.dtype == torch.uint8:
            name, value = name.removesuffix("_u8"), value.float() / UINT8_HALF - 1
        out[name] = value
    return out


def adapter(component: str) -> Callable[[Case], Mapping[str, Any]]:
    """The `run` function of a component's adapter.

    Raises:
        LookupError: No adapter serves the component.
    """
    if component not in ADAPTERS:
        raise LookupError(f"no adapter for component {component!r}")
    return import_module(f"tests.parity.{ADAPTERS[component]}").run


def judge(case: Case, have: Mapping[str, Any]) -> Verdict:
    """Compare every recorded output; one that the adapter did not return fails."""
    missing = sorted(set(case.outputs) - set(have))
    if missing:
        return Verdict(case.name, float("inf"), False, f"not returned: {', '.join(missing[:6])}")
    if case.data is not None:
        return _judge_data(case, have["data"])
    worst, which = 0.0, ""
    for key, want in case.outputs.items():
        share = _share(case, key, torch.as_tensor(have[key]), want)
        if share > worst:
            worst, which = share, key
    return Verdict(case.name, worst, worst <= 1, which)


def _judge_data(case: Case, have: Mapping[str, Any]) -> Verdict:
    wrong = [key for key, value in have.items() if case.data.get(key) != value]
    lacking = [key for key in case.data if key not in have and key not in ("doc", "docs", "note")]
    note = f"differ: {wrong[:4]}, not returned: {lacking[:4]}" if wrong or lacking else "data"
    passed = not wrong and not lacking
    return Verdict(case.name, 0.0 if passed else float("inf"), passed, note)


def _share(case: Case, key: str, have: Tensor, want: Tensor) -> float:
    """Error over allowance; where a fraction may miss, the missing fraction over that fraction."""
    tolerance = case.tolerance
    if tuple(have.shape) != tuple(want.shape):
        return float("inf")
    exact = tolerance.get("exact") or (not want.is_floating_point() and not _is_count(key))
    have, want = have.detach().double(), want.double()
    if want.numel() == 0:
        return 0.0
    # Cases whose tolerance speaks of ids alone carry points too; those compare like geometry.
    default = 0.0 if {"atol", "exact"} & set(tolerance) else POINTS_TOLERANCE
    allowed = tolerance.get("atol", default) + tolerance.get("rtol", default) * want.abs()
    if key.startswith("ext_"):
        allowed = torch.full_like(want, 2e-7)
    if "counts_atol" in tolerance and _is_count(key):
        allowed = torch.full_like(want, float(tolerance["counts_atol"]))
    if exact:
        allowed = torch.zeros_like(want)
    error = (have - want).abs()
    same = torch.isnan(have) & torch.isnan(want) | (have == want)
    error = torch.where(same, torch.zeros_like(error), error)
    bad = ~(error <= allowed)
    fraction = tolerance.get("max_bad_fraction", 0.0)
    if fraction:
        return float(bad.double().mean()) / fraction
    if exact:
        return float("inf") if bad.any() else 0.0
    return float((error / allowed.clamp_min(1e-30)).nan_to_num(float("inf")).max())


def _is_count(key: str) -> bool:
    return "count" in key or "score" in key


def run_folder(path: Path, only: str | None, report: Callable[[Verdict], None]) -> tuple[int, int]:
    """Run every case; returns how many passed and failed.

    An entry that only carries weights passes when a case has loaded its file.
    """
    folder = Folder(path)
    entries = folder.entries()
    weights = [e for e in entries if e["name"].endswith("_weights")]
    verdicts: list[Verdict] = []
    for entry in entries:
        if entry in weights or (only and only not in (entry["component"], entry["name"])):
            continue
        verdicts.append(_run(folder, entry))
        report(verdicts[-1])
    for entry in weights:
        if only and only not in (entry["component"], entry["name"]):
            continue
        used = entry["file"] in folder.used
        verdicts.append(Verdict(entry["name"], 0.0, used, "loaded" if used else "never loaded"))
        report(verdicts[-1])
    passed = sum(v.passed for v in verdicts)
    return passed, len(verdicts) - passed


def _run(folder: Folder, entry: Mapping[str, Any]) -> Verdict:
    """One case; any error of ours is a failure that is named, not the end of the run."""
    case = folder.case(entry)
    try:
        return judge(case, adapter(case.component)(case))
    except Exception as error:  # noqa: BLE001
        return Verdict(case.name, float("inf"), False, f"{type(error).__name__}: {error}"[:300])
