"""Files that the user brings -> tensors of a metric's network, strictly.

No network weights come with worldloom. A file is looked for under its public name, or as
safetensors with the same tensor names. Pickles are opened only in a child process (architecture
page 3.5), and only when they have the published hash.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from worldloom.generator.weights import sha256_of, weights_folder
from worldloom.scene.errors import CorruptData, NotFound

FOLDER = "evaluation"
"""Folder of these files in the weights folder, when no other is given."""
CONVERT_SECONDS = 300.0  # Longest time that reading a pickle takes [s]; VGG has 0.5 GB.
COUNTERS = ".num_batches_tracked"
"""Counters of training that older files lack; they play no part in evaluation."""


@dataclass(frozen=True)
class MetricFile:
    """One file that a metric needs."""

    file: str
    """Its public name."""
    sha256: str
    """Beginning of its hash, as its publisher states it or as it was found published."""
    url: str
    bytes: int
    purpose: str

    @property
    def converted(self) -> str:
        """Name of the same tensors as safetensors."""
        return str(Path(self.file).with_suffix(".safetensors"))


TORCH = "https://download.pytorch.org/models/"
HEADS = "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1"
FILES = {
    "alexnet": MetricFile(
        "alexnet-owt-7be5be79.pth", "7be5be79", f"{TORCH}alexnet-owt-7be5be79.pth", 244_408_911,
        "LPIPS with AlexNet",
    ),
    "vgg16": MetricFile(
        "vgg16-397923af.pth", "397923af", f"{TORCH}vgg16-397923af.pth", 553_433_881,
        "LPIPS with VGG-16",
    ),
    "vgg19": MetricFile(
        "vgg19-dcbb9e9d.pth", "dcbb9e9d", f"{TORCH}vgg19-dcbb9e9d.pth", 574_673_361,
        "style consistency",
    ),
    "lpips-alex": MetricFile(
        "alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        HEADS, 6_009, "LPIPS with AlexNet",
    ),
    "lpips-vgg": MetricFile(
        "vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        HEADS, 7_289, "LPIPS with VGG-16",
    ),
    "inception": MetricFile(
        "pt_inception-2015-12-05-6726825d.pth", "6726825d",
        "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights", 95_628_359, "FID",
    ),
}  # fmt: skip
"""Files by the name that the code calls them."""


def metric_folder(folder: Path | None) -> Path:
    """`folder`, else `evaluation` in the usual weights folder."""
    return weights_folder() / FOLDER if folder is None else folder


def find_file(name: str, folder: Path | None) -> Path | None:
    """The file called `name` in the folder: as safetensors, else as published; None when absent."""
    entry, place = FILES[name], metric_folder(folder)
    for candidate in (place / entry.converted, place / entry.file):
        if candidate.is_file():
            return candidate
    return None


def what_is_missing(names: tuple[str, ...], folder: Path | None) -> str:
    """Why a metric cannot run: the missing files and where they are published; empty if it can."""
    missing = [FILES[name] for name in names if find_file(name, folder) is None]
    if not missing:
        return ""
    files = " and ".join(f"{entry.file} ({entry.url})" for entry in missing)
    return f"needs {files} in {metric_folder(folder)}"


def require(names: tuple[str, ...], folder: Path | None) -> None:
    """Refuse when one of several files is not there.

    Raises:
        NotFound: Names every missing file, and where it is published.
    """
    missing = what_is_missing(names, folder)
    if missing:
        raise NotFound(
            f"{FILES[names[0]].purpose} {missing}; worldloom brings no weights for metrics. "
            "Put what is published there, or name its folder with --weights DIR"
        )


def read_tensors(name: str, folder: Path | None) -> dict[str, torch.Tensor]:
    """The tensors of a file under their public names.

    Raises:
        NotFound: The file is not there; says which, and where it is published.
        CorruptData: It is not the published file, or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require((name,), folder)
    file = find_file(name, folder) or Path()
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        _check_hash(file, FILES[name])
        with tempfile.TemporaryDirectory(prefix="worldloom-metric-") as scratch:
            made = Path(scratch) / "tensors.safetensors"
            _convert(file, made)
            return load_file(made)
    except (SafetensorError, OSError) as error:
        raise CorruptData(
            f"{file} cannot be read ({str(error)[:160]}); fetch it again from {FILES[name].url}"
        ) from error


def load_strict(
    module: nn.Module, tensors: dict[str, torch.Tensor], name: str, *, ignore: tuple[str, ...] = ()
) -> None:
    """Load tensors of exactly the names and shapes of `module`.

    Args:
        module: Receives them.
        tensors: By public name.
        name: What errors call them.
        ignore: Beginnings of names of parts that the file has and the metric does not use.

    Raises:
        CorruptData: A tensor is missing, left over, or has another shape.
    """
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith(COUNTERS)}
    found = {k: v for k, v in tensors.items() if not (k.startswith(ignore) or k.endswith(COUNTERS))}
    wrong = [f"lacks {key}" for key in wanted if key not in found]
    wrong += [f"has {key} besides" for key in found if key not in wanted]
    wrong += [
        f"has {key} as {list(found[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CorruptData(
            f"the weights {name} do not fit: the file {', '.join(wrong[:3])}{more}. "
            f"Bring {FILES[name].file} from {FILES[name].url}"
        )
    module.load_state_dict(found, strict=False)


def _check_hash(file: Path, entry: MetricFile) -> None:
    found = sha256_of(file)
    if not found.startswith(entry.sha256):
        raise CorruptData(
            f"{file} ({file.stat().st_size} bytes) has sha256 {found[:16]}..., the published "
            f"{entry.file} has {entry.sha256[:16]}...; fetch it again from {entry.url}"
        )


def _convert(source: Path, target: Path) -> None:
    """Unpickle in a process of its own, which writes the tensors to `target`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-m", "worldloom.generator.evaluate.checkpoint_child",
         str(source.resolve()), str(target)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=environment,
    )  # fmt: skip
    try:
        _, words = child.communicate(timeout=CONVERT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CorruptData(f"reading {source} took more than {CONVERT_SECONDS:g} s") from error
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode != 0:
        said = words.decode("utf-8", "replace").strip().splitlines()
        raise CorruptData(f"{source} is no checkpoint: {said[-1][:200] if said else 'no word'}")
