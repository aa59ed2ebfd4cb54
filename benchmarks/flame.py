"""Draw where the time goes from source to features, as a flame graph.

    py-spy record --native --idle --subprocesses --format raw --output stacks.txt \\
        -- .venv/bin/python benchmarks/pipeline.py --rows 50_000
    .venv/bin/python benchmarks/flame.py stacks.txt docs/benchmarks/flame.svg

py-spy (`pip install py-spy`) draws one too, but of every frame and thread: a megabyte, most of it
imports. This one has the main threads of the stages, which wait where Polars' and DuckDB's threads
work for them, and the threads that compute batches, without the main thread's wait for these; and
frames that had at least one sample in two hundred. Each bar is a frame, as wide as its share of the
samples, above its caller: ours in orange, other Python in grey, native code in blue. Point at a bar
for its name and share.
"""

import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

LEAST_SHARE = 0.005
LINE_NUMBER = re.compile(r":[0-9]+\)$")
# what a thread makes of a batch, and where the main thread waits for it (`transforms.ahead`)
OF_BATCH = "_compute_batch (transforms/"
WAITING = "ahead (transforms/ahead.py);Future.result"
WIDTH, ROW, LETTER = 1200, 17, 6.6
OURS = ("transforms", "feature_repo", "flows", "features")
FILLS = {"ours": "#f2a65a", "native": "#9ec5e8", "python": "#d9d9d9"}


class Frame:
    """A frame of the tree: the samples in it, and the frames that it called."""

    def __init__(self) -> None:
        self.n_samples = 0
        self.called: dict[str, Frame] = {}


class Bar(NamedTuple):
    """A frame where it is drawn: its left edge and width as shares, and its depth."""

    name: str
    left: float
    width: float
    depth: int


def main(stacks: Path, picture: Path) -> None:
    root = read(stacks)
    bars = list(place(root, "all", 0.0, 0, root.n_samples))
    picture.write_text(draw(bars), "utf-8")


def read(stacks: Path) -> Frame:
    """Read lines of `outermost;...;innermost samples`, from stage or batch on, without imports."""
    root = Frame()
    for line in stacks.read_text("utf-8").splitlines():
        path, _, count = line.rpartition(" ")
        names = [LINE_NUMBER.sub(")", name) for name in path.split(";") if name[:2] != "0x"]
        begins = (at for at, name in enumerate(names) if name.startswith(("stage_", OF_BATCH)))
        start = next(begins, None)
        if start is None or "importlib" in path or WAITING in ";".join(names):
            continue
        frame = root
        frame.n_samples += int(count)
        for name in names[start:]:
            frame = frame.called.setdefault(name, Frame())
            frame.n_samples += int(count)
    return root


def is_ours(name: str) -> bool:
    """Whether a frame, as py-spy writes it, is a function of this project."""
    return name.startswith("stage_") or any(f"({package}/" in name for package in OURS)


def place(frame: Frame, name: str, left: float, depth: int, n_all: int) -> Iterator[Bar]:
    """Place a frame and what it called, the most frequent first, without the narrowest."""
    yield Bar(name, left, frame.n_samples / n_all, depth)
    for called, inner in sorted(frame.called.items(), key=lambda item: -item[1].n_samples):
        if inner.n_samples >= LEAST_SHARE * n_all:
            yield from place(inner, called, left, depth + 1, n_all)
            left += inner.n_samples / n_all


def draw(bars: list[Bar]) -> str:
    """Draw bars as SVG, callers below what they call."""
    height = (max(bar.depth for bar in bars) + 1) * ROW
    drawn = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="monospace" font-size="11">'
        )
    ]
    for bar in bars:
        x, y, width = bar.left * WIDTH, height - (bar.depth + 1) * ROW, bar.width * WIDTH
        kind = "ours" if is_ours(bar.name) else "python" if ".py)" in bar.name else "native"
        label = escape(bar.name.split(" (")[0][: max(0, int(width / LETTER) - 1)])
        drawn.append(
            f"<g><title>{escape(bar.name)}: {bar.width:.1%}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" rx="2" '
            f'fill="{FILLS[kind]}"/><text x="{x + 3:.1f}" y="{y + 12}">{label}</text></g>'
        )
    return "\n".join([*drawn, "</svg>\n"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
