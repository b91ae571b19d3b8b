"""Renders a report as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tools.reports.page import ReportPage

TEMPLATES = Path(__file__).with_name("templates")
GENERATOR = "resnet-transfer report"


def render(page: ReportPage) -> str:
    """Return a report as HTML. All texts are escaped, except our own SVG charts, styles and script."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("sort.js", "style.css"))
    # The policy lets this script alone run, in case a hostile name ever gets past the escaping.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    text = environment.get_template("page.html").render(
        page=page,
        policy=policy,
        script=Markup(script),
        style=Markup(style),
        trusted=Markup,
        generator=generator(page.subject),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # replace lone surrogates, which UTF-8 cannot encode


def generator(subject: str) -> str:
    """Return the HTML tag that marks a page as our report on `subject`. Pages without it are not overwritten."""
    return f"{GENERATOR} {hashlib.sha256(subject.encode('utf-8', 'replace')).hexdigest()[:16]}"
