"""Images of samples.png: spread over the split, with many objects, without images that cannot be read."""

from __future__ import annotations

import numpy as np

from tools.tasks.samples import read_samples, sample_stretches


def test_each_stretch_begins_with_its_image_of_most_objects():
    # 10 images in 4 stretches end at 10 k // 4 = 2, 5, 7, 10: images 0-1, 2-4, 5-6, 7-9.
    objects = np.array([0, 3, 1, 5, 5, 2, 2, 0, 0, 7])
    stretches = [stretch.tolist() for stretch in sample_stretches(objects, 4)]
    assert stretches == [[1, 0], [3, 4, 2], [5, 6], [9, 7, 8]]


def test_without_counts_the_images_have_equal_distances():
    assert [int(stretch[0]) for stretch in sample_stretches(np.zeros(24, int), 6)] == [0, 4, 8, 12, 16, 20]


def test_a_small_split_is_shown_whole():
    assert [stretch.tolist() for stretch in sample_stretches(np.array([1, 0, 2]), 8)] == [[0], [1], [2]]
    assert sample_stretches(np.zeros(0, int), 8) == []


def test_an_unreadable_image_is_replaced_by_another_of_its_stretch():
    images = ["a", None, "c", None, None, "f"]
    # Stretches 0-1, 2-3, 4-5. Image 1 has most objects but cannot be read; no more images than needed are read.
    assert read_samples(images, np.array([1, 4, 3, 0, 2, 0]), 3) == ["a", "c", "f"]
    assert read_samples([None, None, "c"], np.zeros(3, int), 3) == ["c"]
