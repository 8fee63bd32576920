"""How fast the playground's image follows its slider: `python -m loadtest.bench.page`.

One user in a real Chromium on the same machine. Each move goes to a k that the page has not
decoded; a time is from the slider's event to the image on the canvas.
"""

import argparse
import random
import statistics
from pathlib import Path

from loadtest.harness.browser import chromium
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running

REPORT = Path("build/bench-page.json")
_MOVE = """k => new Promise(done => {
  const canvas = document.querySelector("#canvas-decoded"), slider = document.querySelector("#k");
  const started = performance.now();
  const watch = new MutationObserver(() => {
    if (canvas.dataset.k !== String(k)) return;
    watch.disconnect();
    done(performance.now() - started);
  });
  watch.observe(canvas, {attributeFilter: ["data-k"]});
  slider.value = k;
  slider.dispatchEvent(new Event("input", {bubbles: true}));
})"""
_KNOWN = {2**n for n in range(9)} | {3 * 2**n for n in range(8)}  # decoded beforehand


def main() -> None:
    """Print the quantiles of the moves in milliseconds, and write build/bench-page.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--pause", type=int, default=300, help="milliseconds between two moves")
    options = parser.parse_args()
    unknown = [k for k in range(1, 257) if k not in _KNOWN]
    moves = random.Random(0).sample(unknown, min(options.moves, len(unknown)))
    with running() as service, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{service.rest}/#image=cat&k=64")
        page.wait_for_selector('#canvas-decoded[data-k="64"]')
        page.wait_for_timeout(3000)
        times = []
        for k in moves:
            times.append(float(page.evaluate(_MOVE, k)))
            page.wait_for_timeout(options.pause)
        weight = page.evaluate(
            "performance.getEntries().filter(one => !one.name.includes('/v1/'))"
            ".reduce((sum, one) => sum + (one.transferSize || 0), 0)"
        )
    p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    print(
        f"{len(times)} moves: p50 {p50:.0f} ms, p95 {p95:.0f} ms, "
        f"largest {max(times):.0f} ms; the page took {weight:,} bytes"
    )
    figures = {"moves": len(times), "p50_ms": p50, "p95_ms": p95, "page_bytes": weight}
    write_report(REPORT, figures)


if __name__ == "__main__":
    main()
