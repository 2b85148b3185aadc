"""The documentation site: it builds without warnings and loads nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import DOCS, ROOT

LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b[^>]*\bhref=[\"']?(?:https?:)?//"
    r'|class="mermaid"'
)
LOADED_BY_STYLE = re.compile(r"url\([\"']?(?:https?:)?//|@import")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site."""
    target = tmp_path_factory.mktemp("site")
    build = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", *build],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_page_is_built(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md")}
    assert Path("index") in pages
    built = {page.relative_to(site).with_suffix("") for page in site.rglob("*.html")}
    assert built == pages | {Path("404")}


def test_the_overview_links_every_page() -> None:
    linked = re.findall(r"\]\(([\w/-]+\.md)", (DOCS / "index.md").read_text())
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(linked) == pages - {"index.md"}


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not LOADED.findall(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not LOADED_BY_STYLE.findall(style.read_text()), style


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://example.com/a.js">',
        "<script async src=//example.com/a.js>",
        '<img alt="x" src="http://example.com/a.png">',
        '<link rel="stylesheet" href="https://fonts.example.com/css">',
        '<pre class="mermaid">',  # rendered by a script from another host
    ],
)
def test_loading_from_other_hosts_is_detected(html: str) -> None:
    assert LOADED.search(html)
