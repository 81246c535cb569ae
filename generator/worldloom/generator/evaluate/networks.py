"""The metrics' networks of one evaluation, each loaded once, at its first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from worldloom.scene.errors import NotFound

if TYPE_CHECKING:
    from worldloom.generator.evaluate.backbones import Stack
    from worldloom.generator.evaluate.inception import FidInception
    from worldloom.generator.evaluate.lpips import Lpips, Variant

Network = TypeVar("Network")


@dataclass
class Networks:
    """Gives networks whose weights the user brought, and refuses the others."""

    folder: Path | None = None
    """Where the weights are; `checkpoints.metric_folder` by default."""
    device: str = "cpu"
    _made: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a folder that was named and is not there.

        Raises:
            NotFound: There is no such folder.
        """
        if self.folder is not None and not self.folder.is_dir():
            raise NotFound(f"there is no folder {self.folder} with weights for metrics")

    def lpips(self, variant: Variant) -> Lpips:
        """LPIPS of a variant.

        Raises:
            NotFound: Its weights are not there.
            CorruptData: They do not fit.
        """
        from worldloom.generator.evaluate.lpips import load_lpips

        return self._once(variant, lambda: load_lpips(variant, self.folder, device=self.device))

    def inception(self) -> FidInception:
        """The network of FID.

        Raises:
            NotFound: Its weights are not there.
            CorruptData: They do not fit.
        """
        from worldloom.generator.evaluate.fid import load_inception

        return self._once("fid", lambda: load_inception(self.folder, device=self.device))

    def vgg19(self) -> Stack:
        """The network of style consistency.

        Raises:
            NotFound: Its weights are not there.
            CorruptData: They do not fit.
        """
        from worldloom.generator.evaluate.style import load_vgg19

        return self._once("style", lambda: load_vgg19(self.folder, device=self.device))

    def _once(self, name: str, make: Callable[[], Network]) -> Network:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]
