"""What a GPU run found -> JSON and a Markdown table, written after every stage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

WARNING = "The weights are random: pictures mean nothing, only times and memory do."


@dataclass
class Stage:
    """One line of the result."""

    name: str
    seconds: float
    peak_gb: float | None
    """Largest device memory during the stage, weights included [1e9 bytes]."""
    tflop: float | None = None
    share: float | None = None
    """Time at the measured rates of this card over the time taken."""


@dataclass
class Report:
    """What a run found; written after every stage."""

    device: str
    torch: str
    size: tuple[int, int]
    tokens: int
    parameters: int
    matmul_tflops: float = 0.0
    attention_tflops: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=lambda: [WARNING])

    def write(self, folder: Path | None) -> None:
        """Write `gpu_chunk.json` and `gpu_chunk.md`."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "gpu_chunk.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
            (folder / "gpu_chunk.md").write_text(self.markdown())

    def markdown(self) -> str:
        """The result as a table."""
        lines = [
            f"{self.device}, torch {self.torch}; {self.size[0]} x {self.size[1]} px, "
            f"{self.tokens} tokens, {self.parameters:,} parameters; measured rates: matrix "
            f"product {self.matmul_tflops:.1f}, attention {self.attention_tflops:.1f} TFLOP/s",
            "",
            "| stage | s | TFLOP | TFLOP/s | share of measured rate | peak GB |",
            "|---|---|---|---|---|---|",
        ]
        for s in self.stages:
            rate = f"{s.tflop:.2f} | {s.tflop / s.seconds:.1f}" if s.tflop else " | "
            share = f"{s.share:.0%}" if s.share else ""
            peak = f"{s.peak_gb:.1f}" if s.peak_gb is not None else ""
            lines.append(f"| {s.name} | {s.seconds:.3f} | {rate} | {share} | {peak} |")
        return "\n".join([*lines, "", *self.notes, ""])
