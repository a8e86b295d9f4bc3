"""Pages in headless Chromium: whether they need nothing else, and whether they fit a phone's screen."""

import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "path", "circle", "br", "input"}


class Balance(HTMLParser):
    """Whether every element that is opened is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of SVG that closes itself."""

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def check_page(path: Path) -> str:
    """A page's text, once it is known to be whole, to load nothing, and to follow the screen's colours."""
    page = path.read_text(encoding="utf-8")
    assert not Balance(page).open
    assert not re.search(r"<(script|link|img|iframe)|src=\"|href=\"(?!data:text/csv)|@import|url\(", page), (
        "the page must need nothing else"
    )
    assert "prefers-color-scheme:dark" in page
    assert not list(path.parent.glob("*.partial"))
    return page


def check_width(page: Path, width: int, folder: Path) -> None:
    """Show a page in a window `width` pixels wide: nothing sticks out, no drawing collapses, no text is tiny.

    Args:
        folder: where the browser's files may go.
    """
    assert CHROMIUM is not None, "CI must install chromium"
    # A frame is as narrow as a phone even where the browser's own window cannot be.
    frame = folder / "frame.html"
    frame.write_text(
        f'<iframe id=f src="{page.as_uri()}" style="width:{width}px;height:800px;border:0"></iframe>'
        "<script>f.onload=()=>{const c=f.contentDocument,d=c.documentElement;"
        "c.querySelectorAll('details').forEach(e=>e.open=true);"
        "const tall=[...c.querySelectorAll('svg')].every(s=>s.getBoundingClientRect().height>15);"
        "const read=[...c.querySelectorAll('svg text')].every(t=>t.getBoundingClientRect().height>10);"
        "document.title=d.scrollWidth+' '+d.clientWidth+' '+tall+' '+read}</script>"
    )
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    shown = subprocess.run(
        [*command, "--virtual-time-budget=3000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    title = re.search(r"<title>(\d+) (\d+) (\w+) (\w+)</title>", shown)
    assert title is not None, shown[-500:]
    assert int(title[1]) <= int(title[2]) <= width
    assert (title[3], title[4]) == ("true", "true"), "a drawing or its text is too small to read"
    picture = folder / "page.png"
    subprocess.run(
        [*command, f"--screenshot={picture}", "--window-size=500,800", page.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    data = picture.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (500, 800)
    assert len(data) > 10_000, "an empty page compresses to less"
