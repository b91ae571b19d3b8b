"""Write a share of the embedded dataset's images; `tools/shapes.py` starts several of these at once.

A process of its own, rather than a fork, is safe beside the threads of torch and needs no guard in the
caller's script; and when the caller dies, the next line written to the closed pipe ends it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # tools/ itself must not shadow other modules

QUALITY = 92  # of the JPEGs


def write_images(job: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Draw and write `job`'s images in turn; yields the annotations of each, still without ids.

    Args:
        job: `images` ([[split's number, index, path]...]), `size` (pixels), `seed`.

    Raises:
        OSError: if an image cannot be written.
    """
    import cv2
    import numpy as np

    from tools.synthetic.drawing import draw_scene

    cv2.setNumThreads(0)  # the images are small and the cores taken
    for split, index, path in job["images"]:
        scene = draw_scene(np.random.default_rng([job["seed"], split, index]), job["size"])
        _, data = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        Path(path).write_bytes(data.tobytes())
        yield [_annotation(thing) for thing in scene.things]


def _annotation(thing: Any) -> dict[str, Any]:
    from tools.synthetic.drawing import FINE
    from tools.synthetic.masks import crowd_fields, object_fields

    fields = crowd_fields if thing.crowd else object_fields
    return {"kind": thing.kind, **fields(thing.visible, FINE)}


def main() -> None:
    """Read the job from stdin, answer one line of JSON per image."""
    for things in write_images(json.load(sys.stdin)):
        print(json.dumps(things), flush=True)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the caller is gone
        sys.stderr.close()
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
