"""Hooks of mkdocs: pages from other files, the reference, the gallery, and links between the repository's files."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
COPIED = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
# Page of the reference -> the modules and objects that it documents.
REFERENCE = {
    "backbones": ["backbones.registry", "backbones.base", "backbones.norm", "backbones.fold.Folds"],
    "classification": ["classification.model", "classification.trained.load", "classification.results"],
    "detection": [
        "detection.faster_rcnn",
        "detection.trained.load",
        "detection.results",
        "detection.predict.Predictor",
    ],
    "segmentation": ["segmentation.fcn", "segmentation.trained.load", "segmentation.results", "segmentation.predict"],
    "evaluation": ["tools.evaluation.evaluator.CocoEvaluator", "tools.evaluation.thresholds"],
    "tracking": ["tools.engine.tracking"],
}
TRAINED = "backbones.trained.TrainedModel"  # base class of what every `load` returns
LINK = re.compile(r"\]\(([^)#:\s]*)(#[^)\s]*)?\)")
FIGURES = {
    "demo": "True boxes and detections of the built-in shapes",
    "masks": "True and detected masks",
    "degradation": "The degradation problem on CIFAR-10",
    "imagenette": "Depth with and without shortcuts on Imagenette",
    "transfer-learning": "Learning curves of a transfer study",
    "transfer-differences": "Its differences with intervals",
    "responses": "Responses of the layers",
    "gradients": "Gradients of the layers",
    "benchmark-detect": "Speed of detectors",
    "benchmark-classify": "Speed of classifiers",
    "benchmark-evaluate": "Time of COCO's metrics",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files in docs/."""
    pages = {name: (ROOT / source).read_text(encoding="utf-8") for name, source in COPIED.items()}
    pages["gallery.md"] = "# Gallery\n\n" + "\n\n".join(
        f"![{text}](figures/{name}.png)\n\n{text}." for name, text in FIGURES.items()
    )
    for name, objects in REFERENCE.items():
        extra = [TRAINED] if any(each.endswith(".load") for each in objects) else []
        pages[f"reference/{name}.md"] = f"# {name}\n\n" + "\n\n".join(f"::: {each}" for each in [*objects, *extra])
    pages["assets/tables.css"] = Path(__file__).with_name("tables.css").read_text(encoding="utf-8")
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between the repository's files into links between pages; name files that are no pages."""
    at_root = page.file.src_uri in COPIED
    return LINK.sub(lambda match: _link(match[1], match[2] or "", at_root), markdown)


def _link(target: str, anchor: str, at_root: bool) -> str:
    inside = target.removeprefix("docs/") if at_root else target
    if target == "README.md":
        inside = "index.md"
    if target.startswith("../") or (
        at_root and target and not target.startswith("docs/") and target not in COPIED.values()
    ):
        return f"](index.md{anchor})" if target.endswith("README.md") else "](index.md)"
    return f"]({inside}{anchor})"
