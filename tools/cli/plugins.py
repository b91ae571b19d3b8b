"""The option `--plugin`, for every command that builds models by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from backbones.common import plugins
from tools.cli.arguments import REPEATABLE


@dataclass
class PluginOptions:
    """Plugins: your own Python code, which registers backbones, necks, heads, layouts or augmentations.

    Args:
        plugin: Python file (nets.py) or module (mine.nets) to import, which registers backbones, necks, segmentation
            heads, data layouts or augmentations; may be given several times.
    """

    plugin: list[str] = field(default_factory=list, metadata={**REPEATABLE, "resume": "free"})

    def load(self) -> None:
        """Import the plugins. This must happen before a registered name, such as a backbone's, is looked up.

        Raises:
            UserError: for a plugin that does not exist or raises an error.
        """
        plugins.load(self.plugin)
