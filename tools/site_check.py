"""Looks at a built site: `python tools/site_check.py build/site [build/pages]`.

Every link and anchor within it must lead somewhere, and no page may fetch anything from elsewhere: neither a script
nor a style, a font or a picture. With a second folder, Chromium takes pictures of some pages into it, wide and narrow,
light and dark, and none may be wider than its window; look at them.
"""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, as tag and attribute; `a` leads elsewhere only for who clicks.
FETCHED = {*((tag, "src") for tag in ("script", "img", "source", "iframe")), ("link", "href"), ("object", "data")}
IN_STYLES = re.compile(r"(?:@import\s+|url\(\s*)[\"']?(?:https?:)?//[^)\s;]+")
PAGES = {
    "start": "index.html", "reference": "api/fastbp.MLP.html", "gallery": "gallery/index.html",
    "example": "gallery/xor.html", "benchmarks": "benchmark.html", "chinese": "backpropagation.zh.html",
}  # fmt: skip
WIDTHS, THEMES = (1280, 390), ("light", "dark")


class Page(HTMLParser):
    """The ids of a page, its links as (tag, attribute, target), and its styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str, str]] = []
        self.styles: list[str] = []
        self.within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.within = tag
        for name, value in attributes:
            if value is None:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.ids.add(value)
            elif name == "style":
                self.styles.append(value)
            elif name in ("href", "src", "data"):
                self.links.append((tag, name, value))

    def handle_data(self, data: str) -> None:
        if self.within == "style":
            self.styles.append(data)


def faults(site: Path) -> Iterator[str]:
    """One line for each link that leads nowhere, and for each thing that is fetched from elsewhere."""
    texts = (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)  # the theme's own templates
    pages = {path.resolve(): Page(path.read_text()) for path in texts}
    if not pages:
        yield f"{site}: no page"
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        for tag, name, value in page.links:
            to = urlsplit(value)
            if to.scheme or to.netloc:
                if (tag, name) in FETCHED and to.scheme != "data":
                    yield f"{where}: <{tag}> fetches {value}"
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{where}: {value} leads nowhere"
            elif "=" in to.fragment:  # a place that the page itself finds, as learn/index.html does
                continue
            elif to.fragment and target in pages and unquote(to.fragment) not in pages[target].ids:
                yield f"{where}: no anchor {value}"
        for style in page.styles:
            for found in IN_STYLES.findall(style):
                yield f"{where}: its style fetches {found}"
    for path in sorted(site.rglob("*.css")):
        for found in IN_STYLES.findall(path.read_text()):
            yield f"{path.relative_to(site)}: fetches {found}"


# ------------------------------------------------------------------ pictures

# Chromium gives a window no less than 500 pixels: a narrow page is a frame in it. The frame looks for what is cut: what
# reaches beyond the window, within nothing of the article that scrolls by itself.
FRAME = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<iframe src="/{page}" width="{width}" height="1600"></iframe>
<script>
localStorage.setItem("mode", "{theme}"); localStorage.setItem("theme", "{theme}");
document.querySelector("iframe").onload = event => {{
  const inside = event.target.contentDocument;
  const scrolls = one => one.tagName != "ARTICLE" &&
    (/auto|scroll/.test(getComputedStyle(one).overflowX) || scrolls(one.parentElement));
  const wide = [...inside.querySelectorAll("article *")].filter(
    one => one.getBoundingClientRect().right > {width} + 1 && !scrolls(one.parentElement) && one.checkVisibility());
  const name = one => one.tagName + " " + one.textContent.trim().slice(0, 40);
  document.title = "wide: " + wide.slice(0, 3).map(name).join("; ");
}};
</script>"""


class Server(http.server.SimpleHTTPRequestHandler):
    """The site, and beside it the frames: /frame/<theme>/<width>/<page>."""

    def do_GET(self) -> None:
        if not self.path.startswith("/frame/"):
            return super().do_GET()
        _, _, theme, width, page = self.path.split("/", 4)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(FRAME.format(theme=theme, width=width, page=page).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def photograph(site: Path, folder: Path) -> Iterator[str]:
    """Pictures of PAGES; one line for each page that is wider than its window."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        yield "no pictures: Chromium is missing (on Debian `apt install chromium`)"
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, page in PAGES.items():
        for width in WIDTHS:
            for theme in THEMES:
                url = f"http://127.0.0.1:{server.server_address[1]}/frame/{theme}/{width}/{page}"
                picture = folder / f"{name}-{width}-{theme}.png"
                command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--incognito",
                           f"--window-size={max(width, 500)},1600", "--virtual-time-budget=5000"]  # fmt: skip
                shot = subprocess.run([*command, f"--screenshot={picture}", url], capture_output=True, timeout=120)
                told = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120)
                wide = re.search(r"<title>wide: (.*?)</title>", told.stdout, re.S)
                if shot.returncode or not picture.exists() or not wide:
                    yield f"{page}: Chromium gave no picture"
                elif wide[1]:
                    yield f"{page}: wider than a window of {width}: {wide[1]}"
    server.shutdown()


def main(site: str, folder: str | None = None) -> int:
    found = [*faults(Path(site)), *(photograph(Path(site), Path(folder)) if folder else ())]
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
