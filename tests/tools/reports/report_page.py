"""Reads the page of a report: tags, attributes, text and tables."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def table(self, caption: str) -> list[list[str]]:
        """Return the cells of a table by row, as text."""
        found = re.search(
            f"<caption>{re.escape(html.escape(caption))}</caption>.*?<tbody>(.*?)</tbody>", self.source, re.DOTALL
        )
        assert found, f"no table {caption}"
        rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        return [[html.unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in row] for row in cells]
