"""Options that choose, merge and rename classes. This module imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import UserError, require

Merges = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class CategoryOptions:
    """Options that change the classes of a data set. Classes are merged first, then renamed, then chosen.

    Weights record these options, and an evaluation of the weights uses them.

    Args:
        classes: the classes to keep, such as "car,person". Objects of other classes are left out; their images stay.
        drop_classes: classes to leave out, such as "boat,kite".
        merge_classes: classes to unite, as NEW=OLD,OLD; several unions are separated by semicolons, such as
            "car=car,truck,bus; bike=bicycle,motorcycle". The new class has the id of the old class of its name, or else
            the smallest id.
        rename: new names of classes, such as "tvmonitor=tv,aeroplane=airplane".
        keep_unused: keep classes that no object of the training and validation images has. By default the classes
            without an object are dropped.
    """

    classes: str | None = None
    drop_classes: str | None = None
    merge_classes: str | None = None
    rename: str | None = None
    keep_unused: bool = False

    def __post_init__(self) -> None:
        if self.classes and self.drop_classes:
            raise UserError(f"--drop-classes {self.drop_classes}: cannot be combined with --classes; use one of them")
        self.merges()
        self.new_names()

    @property
    def changes_classes(self) -> bool:
        """Whether classes are merged, renamed, or left out by name."""
        return any((self.classes, self.drop_classes, self.merge_classes, self.rename))

    def require_images(self) -> None:
        """Refuse `keep_unused`, for data sets in which images themselves have classes.

        Raises:
            UserError: `keep_unused` is set.
        """
        rule = "is for boxes and label maps; an image classifier learns no class without images, so leave it out"
        require(not self.keep_unused, "keep_unused", "true", rule)

    def merges(self) -> Merges:
        """Return the old classes of each new class.

        Raises:
            UserError: the text of the option is malformed, or a class is in two unions.
        """
        found: Merges = {}
        for part in filter(str.strip, (self.merge_classes or "").split(";")):
            new, sign, old = (text.strip() for text in part.partition("="))
            members = listed(old)
            if not (new and sign and members) or new in found:
                raise UserError(f'--merge-classes {part.strip()}: expected NEW=OLD,OLD, such as "car=car,truck,bus"')
            found[new] = members
        every = [name for members in found.values() for name in members]
        twice = next((name for name in every if every.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"--merge-classes {self.merge_classes}: lists {twice} twice; name each class once")
        return found

    def new_names(self) -> dict[str, str]:
        """Return the new name of each class to rename.

        Raises:
            UserError: the text of the option is malformed.
        """
        pairs = [tuple(text.strip() for text in part.split("=")) for part in listed(self.rename)]
        wrong = next((pair for pair in pairs if len(pair) != 2 or not all(pair)), None)
        if wrong is not None:
            raise UserError(f'--rename {"=".join(wrong)}: expected OLD=NEW, such as "tvmonitor=tv,aeroplane=airplane"')
        return {pair[0]: pair[1] for pair in pairs}


def listed(text: str | None) -> tuple[str, ...]:
    """Return the names that commas separate in a text."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


EVERY_CATEGORY = CategoryOptions()  # changes nothing
