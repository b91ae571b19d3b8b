"""Names of entries: finds the part of a weights file that holds a model, under whatever prefix, and its linear head."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from backbones.weights.pretraining import is_second

COUNTER = "num_batches_tracked"
# Usual names of a classifier's last layer, the most usual first.
_HEADS = ("fc", "linear", "classifier", "head", "last_linear")


def aliases(key: str) -> Iterator[str]:
    """Yield the names that an entry of a wrapped model ("net.layer1...") may have in a file ("layer1...")."""
    for prefix in ("net.model.", "net."):
        if key.startswith(prefix):
            bare = key.removeprefix(prefix)
            yield bare
            # timm's feature extractors flatten sequences: stages.0 becomes stages_0.
            yield re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", bare)


def foreign_entries(own: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the weights of a file that lie within a part of a model that the model has, but are not in the model.

    They show that the file belongs to another network, such as one with gates or with more blocks. Parts that the model
    leaves out, such as its last stages, are whole in the file.

    Args:
        own: names of the model's entries.
        others: names of the entries that only the file has, without the file's prefix.
    """
    parts = {_part(alias) for key in own for alias in (key, *aliases(key))}
    return [key for key in others if key.endswith((".weight", ".bias")) and _part(key) in parts]


def _part(key: str) -> str:
    """Return the part of a model that an entry belongs to: "layer2" of layer2.0.conv1.weight, "features.2" of others.

    A layer at the top, such as conv1.weight, is a part of its own.
    """
    names = key.split(".")
    if re.fullmatch(r"layer\d+", names[0]):
        return names[0]
    return ".".join(names[:2]) if len(names) > 2 else key


def best_prefix(own: Container[str], keys: Iterable[str], present: Callable[[str], str] = str) -> str:
    """Return the dotted prefix of a file's keys under which most entries of a model are found.

    Of prefixes with equally many entries, that of the encoder that the authors of a method evaluate is used: DINO's
    "teacher." and not its "student.", MoCo's "encoder_q." and not its "encoder_k.". Then the shortest is used, and of
    equally long ones the first in the file.

    Args:
        own: names of the model's entries.
        keys: names of the file's entries.
        present: maps an old name of an entry to its present one.
    """
    found = _prefixes(own, keys, present)
    return max(found, key=lambda prefix: (found[prefix], not is_second(prefix), -len(prefix)), default="")


def other_prefixes(
    own: Container[str], keys: Iterable[str], prefix: str, present: Callable[[str], str] = str
) -> list[str]:
    """Return the prefixes under which a file has the model's entries once more, such as those of a second encoder.

    Args:
        own, keys, present: as in `best_prefix`.
        prefix: the prefix that `best_prefix` returned.
    """
    found = _prefixes(own, keys, present)
    return [other for other, number in found.items() if other != prefix and 2 * number > found[prefix]]


def _prefixes(own: Container[str], keys: Iterable[str], present: Callable[[str], str]) -> Counter[str]:
    """Return prefix -> number of the model's entries that a file has under it."""
    found: Counter[str] = Counter()
    for key in keys:
        for start in (0, *(match.end() for match in re.finditer(r"\.", key))):
            if present(key[start:]) in own:
                found[key[:start]] += 1
    return found


def without_prefix(
    own: Container[str], state: Mapping[str, Tensor], present: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """Return a file's entries with the prefix removed under which most entries of a model are found.

    Entries outside the prefix keep their names, unless they collide with an entry of the model.

    Args:
        own: names of the model's entries.
        present: maps an old name of an entry to its present one, which the result has.
    """
    prefix = best_prefix(own, state, present)
    bare = {present(key[len(prefix) :]): value for key, value in state.items() if key.startswith(prefix)}
    return {**{key: value for key, value in state.items() if not key.startswith(prefix)}, **bare}


def find_linear(state: Mapping[str, Tensor], prefix: str, shape: Sequence[int]) -> tuple[str, str] | None:
    """Return the names of weight and bias of the linear layer that follows a backbone in a file, or None.

    It is the only layer of a child of the backbone's wrapper, such as "fc", "head.1" or "3", at the nearest level that
    has one. If several children fit and none has a usual name, the result is None.

    Args:
        prefix: of the backbone's entries.
        shape: of the layer's weight, `[outputs, inputs]`.
    """
    for level in _wrappers(prefix):
        children: dict[str, list[str]] = {}
        for key in state:
            if key.startswith(level) and (level == prefix or not key.startswith(prefix)):
                children.setdefault(key[len(level) :].split(".")[0], []).append(key)
        fitting = {name: pair for name, keys in children.items() if (pair := _linear(state, keys, shape))}
        if chosen := next((name for name in _HEADS if name in fitting), None):
            return fitting[chosen]
        if fitting:
            return next(iter(fitting.values())) if len(fitting) == 1 else None
    return None


def name_children(own: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return a file's entries with the names of a model in place of the numbers that `nn.Sequential` gave its children.

    "0.4.0.conv1.weight" of fastai becomes "0.layer1.0.conv1.weight". Children match in order, and only if each has
    entries of the same names.

    Args:
        own: names of the model's entries, in order.

    Returns:
        None if the file has no such children.
    """
    children = _children(own)
    for prefix in dict.fromkeys(match[1] for key in state if (match := re.match(r"((?:\d+\.)*)\d+\.", key))):
        numbered = _children(key[len(prefix) :] for key in state if key.startswith(prefix))
        order = sorted((name for name in numbered if name.isdigit()), key=int)
        pairs = dict(zip(order, children, strict=False))
        if len(pairs) == len(children) and all(numbered[number] == children[name] for number, name in pairs.items()):
            return {_renamed(key, prefix, pairs): value for key, value in state.items()}
    return None


def torchvision_name(key: str) -> str:
    """Return torchvision's name of an entry that has detectron2's: "res2.0.conv1.norm.bias" is "layer1.0.bn1.bias".

    A prefix, such as "backbone.bottom_up.", is kept, and so is any other name.
    """
    key = re.sub(r"(^|\.)stem\.(?=conv1\.|fc\.)", r"\1", key)
    key = re.sub(r"(^|\.)res([2-5])(?=\.\d+\.(?:conv\d|shortcut)\.)", lambda m: f"{m[1]}layer{int(m[2]) - 1}", key)
    key = re.sub(r"(^|\.)conv(\d)\.norm\.(?=\w+$)", r"\1bn\2.", key)
    return re.sub(r"\.shortcut\.(norm\.)?(?=\w+$)", lambda m: f".downsample.{1 if m[1] else 0}.", key)


def _wrappers(prefix: str) -> Iterator[str]:
    """Yield a prefix and the prefixes around it: "net.encoder.", "net." and ""."""
    while prefix:
        yield prefix
        prefix = prefix[: prefix[:-1].rfind(".") + 1]
    yield ""


def _linear(state: Mapping[str, Tensor], keys: Sequence[str], shape: Sequence[int]) -> tuple[str, str] | None:
    """Return weight and bias if the keys are those of one linear layer of this shape."""
    if len(keys) != 2:
        return None
    bias, weight = sorted(keys)
    outputs = list(shape[:1])
    same_layer = weight.removesuffix("weight") == bias.removesuffix("bias") and weight.endswith(".weight")
    fits = list(state[weight].shape) == list(shape) and list(state[bias].shape) == outputs
    return (weight, bias) if same_layer and fits else None


def _children(keys: Iterable[str]) -> dict[str, set[str]]:
    """Return child -> names of its entries below it, without counters."""
    children: dict[str, set[str]] = {}
    for key in keys:
        child, _, rest = key.partition(".")
        if not key.endswith(COUNTER):
            children.setdefault(child, set()).add(rest)
    return children


def _renamed(key: str, prefix: str, names: Mapping[str, str]) -> str:
    number, dot, rest = key.removeprefix(prefix).partition(".")
    return f"{prefix}{names[number]}{dot}{rest}" if key.startswith(prefix) and number in names else key
