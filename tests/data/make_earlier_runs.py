"""Write small run folders of all three tasks, as tests of later versions load, evaluate and resume them.

    python tests/data/make_earlier_runs.py OUTPUT

OUTPUT gets cls/, det/ and seg/ and `expected.json`: the predictions on one image. `earlier_runs/` holds what version
0.1.0 wrote before its files moved into sub-packages.
The commands run in a temporary folder with relative data names, so
no file holds a path of the machine. Each run ends in the middle of its epochs, because its patience was exhausted;
`--resume --patience 0` makes the remaining steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ("--output", "shapes", "--train", "8", "--val", "3", "--size", "64")
COMMON = "--threads 1 --workers 0 --seed 1 --precision fp32 --keep-checkpoints 1 --patience 2 --batch-size 4 --epochs 3"
NET = "--backbone timm/test_efficientnet"
DETECTOR = "--min-size 64 --max-size 64 --fpn-channels 8 --fpn-norm batch --head-channels 8 --proposals 20"
# Plain SGD has no state, and the frozen backbone of seg has none either: the checkpoints stay small.
RUNS = {
    "cls": f"train_cls --data pictures --recipe standard {NET} --weights none --crop-size 32 --resize-size 36 "
    f"--augment light --eval-steps 2 --optimizer momentum --momentum 0 --lr 1e-3 {COMMON}",
    "det": f"train_det --data shapes {NET} --weights none {DETECTOR} --rois-per-image 16 --anchor-scale 3.0 "
    f"--augment light --eval-steps 1 --optimizer momentum --momentum 0 --lr 1e-6 {COMMON}",
    "seg": f"train_seg --data shapes --recipe shapes {NET} --weights cls/model.safetensors --freeze 5 --head fcn8s "
    f"--crop-size 64 --max-stride 32 --eval-steps 1 --optimizer adamw --lr 1e-9 {COMMON}",
}


def make_data(folder: Path) -> None:
    """Write `pictures` (12 training and 6 validation PNGs of three classes) and `shapes`."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("apple", "pear", "plum"):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (36, 40, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / "pictures" / split / name / f"{number}.png"), pixels)
    command(folder, "shapes", *SHAPES)


def command(folder: Path, name: str, *words: str) -> None:
    """Run a command of tools/ in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "tools" / f"{name}.py", *words], cwd=folder, env=environment, check=True)


def image() -> np.ndarray:
    """Return the image of `expected.json`: RGB uint8 `[64, 64, 3]`, squares of 8 pixels in seeded colours."""
    return np.random.default_rng(7).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a weights file's tensors: name, type, shape and bytes of each, by name."""
    from safetensors.torch import load_file

    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def predictions(run: Path) -> dict[str, Any]:
    """Return what `load(run)(image())` predicts on the CPU in fp32, as plain lists."""
    import classification
    import detection
    import segmentation

    if run.name == "cls":
        classifier = classification.load(run, device="cpu", precision="fp32")
        classifier.top = 3
        found = classifier(image())
        return {
            "names": list(found.names),
            "labels": found.labels.tolist(),
            "probabilities": found.probabilities.tolist(),
        }
    if run.name == "det":
        boxes = detection.load(run, device="cpu", precision="fp32")(image())
        first = {name: getattr(boxes, name)[:10].tolist() for name in ("boxes", "scores", "labels")}
        return {"count": len(boxes), **first, "names": list(boxes.names[:10])}
    labels = segmentation.load(run, device="cpu", precision="fp32")(image()).labels
    return {"labels_every_8": labels[::8, ::8].tolist()}


def main() -> None:
    """Train the three runs, copy their folders, write `expected.json`."""
    output, facts = Path(sys.argv[1]).resolve(), {}
    with tempfile.TemporaryDirectory() as temporary:
        make_data(Path(temporary))
        for name, words in RUNS.items():
            command(Path(temporary), *words.split(), "--output", name)
            shutil.copytree(
                Path(temporary) / name,
                output / name,
                ignore=shutil.ignore_patterns("tensorboard", "best*", "*.png", ".lock"),
            )
            facts[name] = {"sha256": checksum(output / name / "model.safetensors"), **predictions(output / name)}
    (output / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
