"""Loads reports full of hostile text in a headless browser: no script runs, and no request leaves the page."""

from __future__ import annotations

import html
import http.server
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from campaign.outcome import Outcome, Tally
from campaign.spiced_study import payloads, rotations, write_spiced

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def listening() -> Generator[tuple[int, list[str]]]:
    """A server that answers nothing and notes what it is asked for: its port, and the notes."""
    asked: list[str] = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()


def loaded(browser: str, page: Path, profile: Path) -> str:
    """The document as the browser has it after some seconds of its own clock."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=4000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=True).stdout


def naive_page(path: Path, port: int) -> Path:
    """The same texts taken for HTML, without a policy: what the browser must not be spared."""
    path.write_text("<html><body>" + "".join(payloads(port)[:1] + payloads(port)[7:8]) + "</body></html>")
    return path


def look(browser: str, page: Path, profile: Path, asked: list[str]) -> str:
    """What is wrong with a report in the browser."""
    from goodhart.report.page import _UNPRINTABLE

    asked.clear()
    seen = loaded(browser, page, profile)
    title = re.search(r"<title>(.*?)</title>", seen, re.DOTALL)
    faults = [f"it asked for {', '.join(sorted(set(asked)))}"] if asked else []
    if title is None or "a Goodhart study" not in html.unescape(title[1]) or title[1].strip() == "OWNED":
        faults.append(f"its title is {title[1] if title else 'gone'!r}")
    if re.search(r'<(script|iframe|object|form|base|img|embed)\b|<svg\b(?![^>]* class="drawing")', seen):
        faults.append("a hostile element is in the document")
    if seen.count("<section") < 13:
        faults.append(f"only {seen.count('<section')} sections are left")
    if _UNPRINTABLE.search(seen):
        faults.append("a character that HTML forbids is in it")
    return "; ".join(faults)


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    from goodhart.report.report import write_report

    began, tally, folder = time.monotonic(), Tally(), work / "browser"
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    tried = (
        "Reports of a made-up study in which every text that data, names, study files or machines decide was hostile "
        "(scripts, event handlers, styles, refreshes, frames, template and TeX syntax, forbidden characters) were "
        "loaded in headless Chromium beside a server that counts requests, and a page that takes the texts for HTML "
        "was loaded to see that the server would be asked."
    )
    if browser is None:
        tally.faults.append("NOT TRIED: there is no Chromium here (apt-get install chromium)")
        return Outcome("browser", tried, (), tuple(tally.faults), time.monotonic() - began, quick)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with listening() as (port, asked):
        loaded(browser, naive_page(folder / "naive.html", port), folder / "profile")
        fault = "" if {"/fetched", "/image.png"} <= set(asked) else "the server was not asked: the rest is void"
        tally.add("a page that takes the texts for HTML", "scripts run, requests leave it", fault)
        for number, texts in enumerate(rotations(port, 1 if quick else len(payloads(port)))):
            try:
                page = write_report(write_spiced(folder / f"study-{number}", texts), resolution=40)
                fault = look(browser, page, folder / "profile", asked)
            except Exception as error:
                fault = f"the report cannot be made: {type(error).__name__}: {error}"
            end = "no script, no request, all sections" if not fault else "not as it should be"
            tally.add("a report with hostile text everywhere", end, f"order {number}: {fault}" if fault else "")
    return Outcome("browser", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
