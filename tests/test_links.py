"""Every link of the pages leads somewhere: the file is there, the heading is there, addresses are well formed."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/notes/*.md",
        "docs/notebooks/*.md",
        "notebooks/*.md",
    )
    for path in ROOT.glob(pattern)
)

FENCE = re.compile(r"^(```+|~~~+|:::+).*?^\1\s*$", re.M | re.S)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"]*\")?\s*\)")
BARE = re.compile(r"<(https?:[^>\s]*)>|(?<![(<\w])(https?://[^\s)>\]\"']+)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$", re.M)
TARGET = re.compile(r"^\(([\w-]+)\)=\s*$", re.M)
INCLUDE = re.compile(r"^```\{include\} (\S+)\n.*?^```", re.M | re.S)
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.M | re.S)


def read(page: Path) -> str:
    """A page's text, with what it includes."""
    return INCLUDE.sub(lambda found: read(page.parent / found[1]), page.read_text(encoding="utf-8"))


def prose(text: str) -> str:
    """A page without its code, in which nothing is a link."""
    return CODE.sub("", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Names that a link into the page may have after its #: headings, as GitHub and MyST write them, and targets."""
    plain = re.sub(r"^(```+|~~~+).*?^\1\s*$", "", text, flags=re.M | re.S)
    found: dict[str, int] = {}
    for title in HEADING.findall(plain):
        kept = re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFKC", title.replace("`", "")).strip().lower())
        slug = kept.replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    again = {f"{slug}-{number}" for slug, count in found.items() for number in range(1, count)}
    return {*found, *again, *TARGET.findall(plain)}


def targets(page: Path) -> Iterator[str]:
    """Where a page's links, images and contents lead."""
    text = read(page)
    yield from LINK.findall(prose(text))
    yield from (first or second for first, second in BARE.findall(LINK.sub("", prose(text))))
    for block in TOCTREE.findall(text):
        lines = (line.strip() for line in block.splitlines())
        yield from (f"{line}.md" for line in lines if line and not line.startswith(":"))


def fault(page: Path, target: str) -> str:
    """What is wrong with a link; empty if nothing is."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        whole = parts.scheme == "https" and re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc)
        return "" if whole else f"{target}: write a whole https address"
    to = (page.parent / parts.path).resolve() if parts.path else page
    if not to.is_file():
        return f"{target}: there is no such file"
    if not to.is_relative_to(ROOT) and not to.is_relative_to(page.parent):
        return f"{target}: leads out of the repository"
    if parts.fragment and parts.fragment not in anchors(read(to)):
        return f"{target}: that page has no heading #{parts.fragment}"
    return ""


def faults(page: Path) -> list[str]:
    """What is wrong with a page's links."""
    return [found for target in targets(page) if (found := fault(page, target))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page):
    assert faults(page) == []


def test_links_are_found_at_all():
    assert sum(1 for page in PAGES for _ in targets(page)) > 60


PAGE = """# Here we are

```{toctree}
other
nowhere
```

[fine](other.md) [fine](other.md#a-heading-in-code) [own](#here-we-are) ![none](gone.png)
[no file](missing.md) [no heading](other.md#absent) [not here](#there) [old](http://example.org/)
[good](https://example.org/a?b=c#d) <https://broken> `[code](is-no-link.md)`

```sh
# not a heading
[code](is-no-link.md)
```
"""


def test_what_leads_nowhere_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# Other\n\n## A heading: `in code`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    assert sorted(found.split(":")[0] for found in faults(page) if not found.startswith("http")) == [
        "#there", "gone.png", "missing.md", "nowhere.md", "other.md#absent",
    ]  # fmt: skip
    assert [found.split(": ")[0] for found in faults(page) if found.startswith("http")] == [
        "http://example.org/", "https://broken",
    ]  # fmt: skip
    assert "not-a-heading" not in anchors(PAGE)
