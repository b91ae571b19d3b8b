"""Warnings on scores and intervals of a ranking that say less than they seem to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backbones.errors import UserError, counted, first_names
from tools.ranking.samples import Estimate, Samples

TITLES = {"logme": "LogME", "probe": "linear probe", "knn": "k-NN"}


def require_classes(samples: Samples, classes: Sequence[str]) -> None:
    """Refuse samples that no score can tell apart.

    Args:
        classes: class names by label.

    Raises:
        UserError: the samples have fewer than two classes.
    """
    shown = [classes[label] for label in np.unique(samples.labels).tolist()]
    if len(shown) < 2:
        raise UserError(
            f"--data: the chosen images show {f'the class {shown[0]} alone' if shown else 'no labelled sample'}, and a "
            "ranking needs two classes; use more --images, or check the labels"
        )


def lone_class_warnings(samples: Samples, classes: Sequence[str]) -> list[str]:
    """Return a warning of the classes whose samples lie in a single image; [] if there are none.

    Args:
        classes: class names by label.
    """
    pairs = np.unique(np.stack([samples.labels, samples.images], 1), axis=0)
    labels, counts = np.unique(pairs[:, 0], return_counts=True)
    lone = [classes[label] for label in labels[counts == 1].tolist()]
    if not lone:
        return []
    return [
        f"WARNING: {counted(len(lone), 'class')} in a single image ({first_names(lone, 3)}): k-NN and linear probe "
        "cannot predict them from other images, and LogME knows one example; use more --images"
    ]


def width_warnings(name: str, estimates: Mapping[str, Estimate]) -> list[str]:
    """Return a warning of the scores of a candidate whose intervals have no width, or are not known.

    Args:
        name: name of the candidate.
    """
    warnings = []
    flat = [TITLES[key] for key, estimate in estimates.items() if estimate.low == estimate.high]
    unknown = [
        TITLES[key] for key, estimate in estimates.items() if not np.isfinite([estimate.low, estimate.high]).all()
    ]
    if flat:
        warnings.append(f"WARNING: {name}: the interval of {', '.join(flat)} has no width, because all images agree")
    if unknown:
        warnings.append(f"WARNING: {name}: no interval of {', '.join(unknown)}, because too few images have labels")
    return warnings
