"""Reads XML files safely: without document types, and without deep nesting."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from backbones.errors import UserError

DEEPEST = 20  # limit of nested XML elements; VOC has five


def parse_xml(content: bytes, path: Path) -> Element:
    """Parse an XML file and return its root element.

    Raises:
        UserError: the file is not XML, nests too deeply, or declares a document type, which could define entities that
            expand to fill the memory.
    """
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise UserError(
                f"{path}: line {parser.CurrentLineNumber}: elements are nested more than {DEEPEST} levels "
                "deep; fix the file"
            )
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise UserError(
            f"{path}: declares a document type (<!DOCTYPE>), which is not safe to read; remove the declaration"
        )

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, doctype
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two for unknown encodings
        raise UserError(f"{path}: is not valid XML ({error}); fix the file") from None


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
