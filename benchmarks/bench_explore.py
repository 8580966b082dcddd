"""Time of a redraw of `reinfuse explore`: a slider is moved by the keyboard, and 200 draws are simulated and drawn.

``python benchmarks/bench_explore.py RUN`` prints processor milliseconds of the answer alone and, where
Debian's chromium and chromedriver are installed, milliseconds from the key to the new picture in a headless browser.
"""

import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from reinfuse.fits.explore.page import Page
from reinfuse.fits.explore.second_infusion import PATIENTS, Choice, Laboratory
from reinfuse.fits.explore.views import Views
from reinfuse.fits.run import RunFolder
from tests.scripts import browser

REPEATS = 30
#: Begins the clock with the next key, and stops it in the frame after the last picture was drawn anew.
CLOCK = """
window.took = null;
const graphs = [...document.querySelectorAll(".js-plotly-plot")];
document.addEventListener("keydown", () => {
  const begun = performance.now();
  let left = graphs.length;
  for (const graph of graphs) {
    const done = () => {
      graph.removeListener("plotly_afterplot", done);
      if (--left === 0) { requestAnimationFrame(() => { window.took = performance.now() - begun; }); }
    };
    graph.on("plotly_afterplot", done);
  }
}, {once: true, capture: true});
"""


def _said(name: str, milliseconds: list[float]) -> None:
    middle, late = np.quantile(milliseconds, [0.5, 0.9])
    print(f"{name}: median {middle:.0f} ms, 90th percentile {late:.0f} ms, {len(milliseconds)} times")


def main() -> None:
    """Run it."""
    if len(sys.argv) != 2:
        sys.exit("name the folder of a fit: python benchmarks/bench_explore.py RUN")
    run = RunFolder.open(Path(sys.argv[1]))
    laboratory = Laboratory(run)
    laboratory.answer(Choice())
    spent = []
    for day in range(30, 30 + REPEATS):
        begun = time.process_time()
        laboratory.answer(Choice(days=float(day)))
        spent.append(1e3 * (time.process_time() - begun))
    _said(f"answer of {PATIENTS} draws, processor time", spent)
    if browser.missing():
        print(f"no browser: {browser.missing()}")
        return
    port = browser.free_port()
    page = Page(views=Views(run), laboratory=laboratory, run=str(run.path))
    Thread(target=page.serve, args=("127.0.0.1", port), daemon=True).start()
    browser.wait_for(f"http://127.0.0.1:{port}/", 60)
    with browser.Browser() as window:
        window.open(f"http://127.0.0.1:{port}/retreatment")
        window.until("return document.getElementById('answer')?.textContent")
        time.sleep(2.0)
        window.run("document.getElementById('days').focus()")
        took = []
        for _ in range(REPEATS):
            window.run(CLOCK)
            window.press(browser.RIGHT)
            took.append(float(window.until("return window.took")))
    _said("from key to picture, in the browser", took)


if __name__ == "__main__":
    main()
