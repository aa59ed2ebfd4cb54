"""The lineage picture: what is read on the left, who reads it to the right, in layers.

Each node is right of all that it reads. An edge that passes a layer has a bend there, with a place
of its own between the nodes, so that no edge runs behind a node.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

WIDTH, HEIGHT = 144, 28  # of a node
GAP_X, GAP_Y, BEND = 36, 12, 6
MARGIN = 4
N_LETTERS = 19
N_SWEEPS = 8

Place = tuple[str, ...]  # a node, or a bend of an edge: from, to, layer


class Named(NamedTuple):
    """What is to be drawn: a key of its own, its name, its kind, where it leads, what it reads."""

    key: str
    name: str
    kind: str
    href: str
    reads: Sequence[str]
    is_last: bool = False


class Node(NamedTuple):
    """A box at its upper left corner."""

    of: Named
    x: float
    y: float
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def label(self) -> str:
        """The name, as much of it as the box has room for."""
        name = self.of.name
        return name if len(name) <= N_LETTERS else f"{name[: N_LETTERS - 1]}…"


class Edge(NamedTuple):
    """A line from what is read to who reads it, as an SVG path."""

    start: str
    end: str
    path: str


class Lineage(NamedTuple):
    """The picture with its size."""

    width: float
    height: float
    nodes: list[Node]
    edges: list[Edge]


def lineage(named: Iterable[Named]) -> Lineage:
    """Lay out a graph without a circle; what is read but not drawn itself is left out."""
    nodes = {one.key: one for one in named}
    layers = _layers(nodes)
    chains = {
        (start, one.key): _chain(start, one.key, layers)
        for one in nodes.values()
        for start in one.reads
        if start in nodes
    }
    columns = _ordered(layers, chains.values())
    heights = [sum(map(_height, column)) + GAP_Y * (len(column) - 1) for column in columns]
    tallest = max(heights, default=0)
    middles = {
        place: middle + MARGIN
        for column, height in zip(columns, heights, strict=True)
        for place, middle in _middles(column, (tallest - height) / 2)
    }
    drawn = [
        Node(one, _left(layers[key]), middles[key,] - HEIGHT / 2) for key, one in nodes.items()
    ]
    edges = [Edge(*ends, _path(chain, layers, middles)) for ends, chain in chains.items()]
    width = len(columns) * (WIDTH + GAP_X) - GAP_X
    return Lineage(max(width, 0) + 2 * MARGIN, tallest + 2 * MARGIN, drawn, edges)


def _layers(nodes: Mapping[str, Named]) -> dict[str, int]:
    """Number each node's layer, one after the last of what it reads; what `is_last` shares one."""
    layers: dict[str, int] = {}

    def layer(key: str) -> int:
        if key not in layers:
            layers[key] = 1 + max(
                (layer(one) for one in nodes[key].reads if one in nodes), default=-1
            )
        return layers[key]

    deepest = 1 + max((layer(key) for key in nodes if not nodes[key].is_last), default=-1)
    return {key: deepest if nodes[key].is_last else layer(key) for key in nodes}


def _chain(start: str, end: str, layers: Mapping[str, int]) -> list[Place]:
    """The places by which an edge goes, one a layer."""
    between = range(layers[start] + 1, layers[end])
    return [(start,), *((start, end, str(layer)) for layer in between), (end,)]


def _ordered(layers: Mapping[str, int], chains: Iterable[list[Place]]) -> list[list[Place]]:
    """Order each layer by the mean place of its neighbours, back and forth, so few edges cross."""
    links = [link for chain in chains for link in pairwise(chain)]
    columns: list[list[Place]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for place in dict.fromkeys(
        [*((key,) for key in layers), *(one for link in links for one in link)]
    ):
        columns[layers[place[0]] if len(place) == 1 else int(place[2])].append(place)
    before: dict[Place, list[Place]] = {}
    after: dict[Place, list[Place]] = {}
    for start, end in links:
        after.setdefault(start, []).append(end)
        before.setdefault(end, []).append(start)
    for sweep in range(N_SWEEPS):
        near = after if sweep % 2 else before
        at = {
            place: (number + 0.5) / len(column)
            for column in columns
            for number, place in enumerate(column)
        }
        for column in reversed(columns) if sweep % 2 else columns:
            for place in column:
                found = [at[one] for one in near.get(place, ())]
                at[place] = sum(found) / len(found) if found else at[place]
            column.sort(key=at.__getitem__)
            at |= {place: (number + 0.5) / len(column) for number, place in enumerate(column)}
    return columns


def _height(place: Place) -> float:
    return HEIGHT if len(place) == 1 else BEND


def _middles(column: Sequence[Place], top: float) -> Iterable[tuple[Place, float]]:
    for place in column:
        yield place, top + _height(place) / 2
        top += _height(place) + GAP_Y


def _left(layer: int) -> float:
    return MARGIN + layer * (WIDTH + GAP_X)


def _path(chain: list[Place], layers: Mapping[str, int], middles: Mapping[Place, float]) -> str:
    """A line from the right of the first node, level through each bend, to the left of the last."""
    x = _left(layers[chain[0][0]]) + WIDTH
    path = f"M{x} {middles[chain[0]]:.1f}"
    for start, end in pairwise(chain):
        path += (
            f"C{x + GAP_X / 2} {middles[start]:.1f} {x + GAP_X / 2} {middles[end]:.1f} "
            f"{x + GAP_X} {middles[end]:.1f}"
        )
        x += GAP_X + WIDTH
        path += f"H{x}" if end != chain[-1] else ""
    return path
