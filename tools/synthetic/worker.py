"""Process that draws a part of the images of the shapes data set; `parallel.py` starts several of them.

The process ends when its caller dies, because writing to the closed pipe fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the root, not this folder, for absolute imports

import cv2
import numpy as np

from backbones.common.encoding import encode_jpeg
from tools.synthetic.drawing import FINE, SceneObject, draw_scene
from tools.synthetic.masks import crowd_fields, object_fields
from tools.synthetic.records import DrawingJob, DrawnObject

QUALITY = 92  # of the JPEGs


def write_images(job: DrawingJob) -> Iterator[list[DrawnObject]]:
    """Draw and write the images of a job, one after another; yield the objects of each image.

    Raises:
        OSError: if an image cannot be written.
    """
    cv2.setNumThreads(0)  # the images are small, and other processes use the other cores
    for split, index, path in job["images"]:
        # Seed each image by its own indices: its pixels do not depend on the number of images or processes.
        scene = draw_scene(np.random.default_rng([job["seed"], split, index]), job["size"])
        Path(path).write_bytes(encode_jpeg(scene.image, QUALITY))
        yield [_drawn(each) for each in scene.objects]


def _drawn(scene_object: SceneObject) -> DrawnObject:
    fields = crowd_fields if scene_object.crowd else object_fields
    return {"kind": scene_object.kind, **fields(scene_object.visible, FINE)}


def main() -> None:
    """Read a job from stdin, draw its images, and print one line of JSON per image."""
    for objects in write_images(json.load(sys.stdin)):
        print(json.dumps(objects), flush=True)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the caller died
        sys.stderr.close()
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
