"""Where the sites of a program stand: plates side by side, what is drawn first above what depends on it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Layout", "arrange"]

MOST_ORDERS = 5040  # orders of the columns that are tried: all of seven


class Layout(NamedTuple):
    """Centres of the sites, boxes (plate, left, right, top, bottom), and the size, in units of one site."""

    places: Mapping[str, tuple[float, float]]
    boxes: tuple[tuple[str, float, float, float, float], ...]
    width: float
    height: float


def arrange(
    sites: Sequence[str], parents: Mapping[str, Sequence[str]], plates: Mapping[str, Sequence[str]]
) -> Layout:
    """Place the sites of a directed graph.

    Sites in the same plates share a column, so that the box of a plate holds its own sites and no other;
    the columns are ordered so that those of a plate are neighbours, and connected ones near. A site stands
    below all that it depends on.

    Parameters
    ----------
    sites : names, in the order of the program.
    parents : site → the sites that it depends on.
    plates : plate → its sites.
    """
    level = _levels(sites, parents)
    groups: dict[tuple[str, ...], list[str]] = {}
    for site in sites:
        groups.setdefault(tuple(plate for plate, held in plates.items() if site in held), []).append(site)
    order = _ordered(list(groups), groups, parents)
    places, columns, left = {}, {}, 0.0
    for key in order:
        rows: dict[int, list[str]] = {}
        for site in groups[key]:
            rows.setdefault(level[site], []).append(site)
        width = max(map(len, rows.values()))
        for depth, row in rows.items():
            for i, site in enumerate(row):
                places[site] = (left + (width - len(row)) / 2 + i + 0.5, float(depth) + 0.5)
        columns[key] = (left, left + width)
        left += width
    return Layout(
        places, tuple(_boxes(order, groups, columns, level, plates)), left, max(level.values()) + 1.0
    )


def _levels(sites: Sequence[str], parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Give each site its depth: one more than its deepest parent's."""
    level: dict[str, int] = {}
    for site in sites:  # in the order of the program, so that the parents are known
        known = [level[parent] for parent in parents.get(site, ()) if parent in level]
        level[site] = 1 + max(known, default=-1)
    return level


def _ordered(
    keys: list[tuple[str, ...]],
    groups: Mapping[tuple[str, ...], Sequence[str]],
    parents: Mapping[str, Sequence[str]],
) -> list[tuple[str, ...]]:
    """Order the columns: the plates unbroken first of all, then the arrows short."""
    home = {site: key for key, held in groups.items() for site in held}
    links = [(home[site], home[up]) for site in home for up in parents.get(site, ()) if up in home]
    names = {plate for key in keys for plate in key}

    def cost(order: Sequence[tuple[str, ...]]) -> tuple[int, int]:
        at = {key: i for i, key in enumerate(order)}
        held = [[at[key] for key in order if plate in key] for plate in names]
        broken = sum(max(found) - min(found) + 1 - len(found) for found in held)
        return broken, sum(abs(at[one] - at[other]) for one, other in links)

    orders = itertools.islice(itertools.permutations(sorted(keys, key=lambda key: key)), MOST_ORDERS)
    return list(min(orders, key=cost))


def _boxes(
    order: Sequence[tuple[str, ...]],
    groups: Mapping[tuple[str, ...], Sequence[str]],
    columns: Mapping[tuple[str, ...], tuple[float, float]],
    level: Mapping[str, int],
    plates: Mapping[str, Sequence[str]],
) -> list[tuple[str, float, float, float, float]]:
    """Draw a box around each unbroken run of a plate's columns, the outer ones first."""
    found = []
    for plate in plates:
        for inside, run in itertools.groupby(order, key=lambda key: plate in key):
            keys = list(run)
            if not inside:
                continue
            depths = [level[site] for key in keys for site in groups[key]]
            left, right = columns[keys[0]][0], columns[keys[-1]][1]
            found.append((plate, left, right, float(min(depths)), max(depths) + 1.0))
    return sorted(found, key=lambda box: -(box[2] - box[1]) * (box[4] - box[3]))
