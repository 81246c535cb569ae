"""A pickled state dict -> safetensors under the same names: a script for a process of its own.

Pickles are read nowhere else in the metrics, and only with `weights_only=True`.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(source: Path, target: Path) -> int:
    """Write the tensors of `source` to `target`; 0, or 1 with the reason on stderr."""
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
        tensors = {str(key): value.contiguous().clone() for key, value in found.items()}
    except (pickle.UnpicklingError, RuntimeError, ValueError, AttributeError, EOFError) as error:
        first = (str(error).strip().splitlines() or ["empty"])[0]
        sys.stderr.write(f"{type(error).__name__} {first[:160]}")
        return 1
    save_file(tensors, str(target))
    return 0


if __name__ == "__main__":
    sys.exit(convert(Path(sys.argv[1]), Path(sys.argv[2])))
