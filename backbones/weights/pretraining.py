"""Tells apart the parts of a checkpoint of self-supervised pretraining: encoders, heads, prototypes and queues."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Words for the encoder that the authors do not evaluate. The other of the two is used: DINO's teacher, MoCo's query
# encoder ("encoder_q", "base_encoder"), BYOL's online network.
_SECOND = {"student", "momentum", "target", "key", "k"}
# Words for what is trained beside an encoder and is not used after pretraining, and for heads in general.
_BESIDE = {"projector", "projection", "projetion", "predictor", "prediction", "prototypes", "queue", "bn"}
_BESIDE |= {"head", "heads", "neck", "fc", "linear", "classifier", "loss"}


def is_second(name: str) -> bool:
    """Return whether a name, such as "momentum_encoder.", is that of the encoder that is not evaluated."""
    return bool(_words(name) & _SECOND)


def is_head(name: str) -> bool:
    """Return whether a name, such as "projection_head" or "queue_ptr", is that of a part beside the encoders."""
    return bool(_words(name) & _BESIDE)


def first_encoder(names: Iterable[str]) -> str | None:
    """Return the only name that is that of neither a head nor a second encoder; None if there is not exactly one."""
    left = [name for name in names if not is_head(name) and not is_second(name)]
    return left[0] if len(left) == 1 else None


def left_out(keys: Iterable[str], prefix: str, others: Collection[str]) -> dict[str, str]:
    """Find the entries of a file that belong to another encoder or to a head, prototypes or a queue beside it.

    Args:
        keys: entries of the file that were not loaded.
        prefix: of the encoder that was loaded.
        others: prefixes of the file's other encoders.

    Returns:
        Entry -> the part that it belongs to, such as "module.encoder_k" or "module.queue".
    """
    found = {}
    for key in keys:
        level = _shared(key, prefix)
        child = level + key[len(level) :].split(".")[0]
        if encoder := next((other for other in others if other and key.startswith(other)), None):
            found[key] = encoder.rstrip(".")
        elif is_head(child[len(level) :]) or is_second(child[len(level) :]):
            found[key] = child
    return found


def _shared(key: str, prefix: str) -> str:
    """Return the longest beginning of dotted names that a key and a prefix have in common."""
    while prefix and not key.startswith(prefix):
        prefix = prefix[: prefix[:-1].rfind(".") + 1]
    return prefix


def _words(name: str) -> set[str]:
    return set(re.split(r"[._\d]+", name.lower()))
