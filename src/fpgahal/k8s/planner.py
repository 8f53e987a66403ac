# SPDX-License-Identifier: Apache-2.0
"""From accelerators to boards: which images, on which node, serve what a pod asks for.  Pure functions.

A board holds one image; an image has so many replicas of each of its accelerators.  A request is served by boards
of one node, each with an image of its own choice.  Of all the ways to do that, `plan` finds the one that comes
first in this order, and the same one each time:

1. on a node that is there, before on one that the autoscaler would have to add;
2. with the fewest boards;
3. leaving the fewest boards of that node unused, so that big nodes stay whole and the smallest node is added;
4. with the fewest replicas too many;
5. by the node's name, then by the images' names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fpgahal import FpgaError

MAX_BOARDS = 16  # of one pod
MAX_ACCELERATORS = 512  # of one pod, all kinds together
MAX_TRIES = 50_000  # of the search: some tenths of a second; 16 accelerators on 8 boards need a few thousand

Request: TypeAlias = Mapping[str, int]  # accelerator -> how many


class PlanError(FpgaError, LookupError):
    """No boards serve the request; the message says why not."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a board can be programmed with.

    Attributes
    ----------
    name : str
        A DNS label of at most 40 characters.
    board : str
        The extended resource that such boards are offered as: ``"xilinx/u250"``.
    accelerators : mapping of str to int
        Replicas (compute units) by the accelerator's name.
    interface_id, afu_id : str
        Canonical hex, or empty: what the node is to load.  An xclbin's UUID is its AFU id.
    namespaces : tuple of str
        Who may have it; ``"*"`` is everybody, and none is nobody.
    node_selector : mapping of str to str
        Labels of the nodes whose boards it fits; the shell, usually.
    """

    name: str
    board: str
    accelerators: Mapping[str, int]
    interface_id: str = ""
    afu_id: str = ""
    namespaces: tuple[str, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)

    def permitted(self, namespace: str) -> bool:
        """Tell whether pods of a namespace may have it."""
        return "*" in self.namespaces or namespace in self.namespaces

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Tell whether it is for the boards of a node with these labels."""
        return all(labels.get(key) == value for key, value in self.node_selector.items())


@dataclass(frozen=True, slots=True)
class Offer:
    """Boards that one node has to give.

    Attributes
    ----------
    name : str
        The node's, or that of the group which the autoscaler would take it from.
    boards : mapping of str to int
        Free boards by resource.
    labels : mapping of str to str
        The node's.
    new : bool
        Whether the node would have to be added first.
    """

    name: str
    boards: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    new: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Which boards serve a pod.

    Attributes
    ----------
    offer : Offer
        Where.
    containers : tuple of tuple of Image
        For each request, one image a board, sorted by name.
    first : tuple of tuple of Image
        The same for the init containers.
    """

    offer: Offer
    containers: tuple[tuple[Image, ...], ...]
    first: tuple[tuple[Image, ...], ...] = ()

    @property
    def boards(self) -> dict[str, int]:
        """Boards of the containers, by resource."""
        return boards_of(image for images in self.containers for image in images)


def boards_of(images: Iterable[Image]) -> dict[str, int]:
    """Count the boards that these images need, by resource."""
    return dict(sorted(Counter(image.board for image in images).items()))


def plan(
    requests: Sequence[Request], images: Sequence[Image], offers: Sequence[Offer], first: Sequence[Request] = ()
) -> Plan:
    """Choose boards for the containers of a pod, which run on one node.

    Parameters
    ----------
    requests : sequence of mapping
        What each container asks for.  Containers don't share boards.
    images : sequence of Image
        What may be used.
    offers : sequence of Offer
        Where there are boards; see `anywhere` if that is not known.
    first : sequence of mapping
        What each init container asks for: one after the other, before the containers, on the same node.

    Raises
    ------
    PlanError
        No image has an accelerator, no node has enough boards, or there are too many possibilities to look at.
    """
    for request in (*requests, *first):
        _check(request, images)
    total = sum(sum(request.values()) for request in requests)
    if max([total, *(sum(request.values()) for request in first)]) > MAX_ACCELERATORS:
        raise PlanError(f"More than {MAX_ACCELERATORS} accelerators are asked for at once.", hint="Use several pods.")
    best = _choose(requests, images, offers, first)
    if best is None:
        raise PlanError(_nowhere(requests, images, offers, first))
    return best


def anywhere(images: Iterable[Image]) -> list[Offer]:
    """Give one made-up node for each kind of board, where nothing is known of the real ones."""
    kinds = {(image.board, tuple(sorted(image.node_selector.items()))) for image in images}
    return [
        Offer(
            f"any node with {board}" + "".join(f", {key}={value}" for key, value in selector),
            {board: MAX_BOARDS},
            dict(selector),
        )
        for board, selector in sorted(kinds)
    ]


def _choose(
    requests: Sequence[Request], images: Sequence[Image], offers: Sequence[Offer], first: Sequence[Request]
) -> Plan | None:
    best: tuple[tuple[object, ...], Plan] | None = None
    seen = set()
    for offer in sorted(offers, key=lambda offer: (offer.new, offer.name)):
        if best is not None and offer.new and not best[1].offer.new:
            break
        alike = tuple(sorted(offer.boards.items())), tuple(image.fits(offer.labels) for image in images)
        if alike in seen:  # most nodes of a cluster are
            continue
        seen.add(alike)
        found = _on(offer, requests, images, first)
        if found is not None:
            excess, chosen = found
            used = sum(map(len, chosen.containers))
            names = [[image.name for image in part] for part in (*chosen.containers, *chosen.first)]
            cost = (used, sum(offer.boards.values()) - used, excess, offer.name, names)
            if best is None or cost < best[0]:
                best = cost, chosen
    return None if best is None else best[1]


def _on(
    offer: Offer, requests: Sequence[Request], images: Sequence[Image], first: Sequence[Request]
) -> tuple[int, Plan] | None:
    usable = [image for image in images if offer.boards.get(image.board, 0) > 0 and image.fits(offer.labels)]
    main = _Search(requests, usable, offer.boards).run()
    before = [_Search([request], usable, offer.boards).run() for request in first]
    if main is None or any(part is None for part in before):
        return None
    excess, containers = main
    return excess, Plan(offer, containers, tuple(part[1][0] for part in before if part is not None))


class _Search:
    """The exact search on one node.

    Containers don't share boards, so what container c needs of accelerator a is a need of its own, and each image
    is an option once for each container.  The search deepens by the number of boards.  At each step some need is
    unmet, and one of the boards to come must serve it: so it tries every option that does.  What is left to do
    depends on the needs, on the boards that are left and on how many more may be taken, and is kept by these.
    """

    def __init__(self, requests: Sequence[Request], images: Sequence[Image], boards: Mapping[str, int]) -> None:
        keys = [(c, name) for c, request in enumerate(requests) for name, count in sorted(request.items()) if count]
        kinds = sorted({image.board for image in images})
        self._needs = tuple(requests[c][name] for c, name in keys)
        self._left = tuple(min(boards[kind], MAX_BOARDS) for kind in kinds)
        self._size = len(requests)
        self._options: list[tuple[int, Image, int, tuple[int, ...]]] = []  # container, image, kind, replicas by need
        for c in range(len(requests)):
            for image in sorted(images, key=lambda image: image.name):
                gives = tuple(image.accelerators.get(name, 0) if of == c else 0 for of, name in keys)
                if any(gives):
                    self._options.append((c, image, kinds.index(image.board), gives))
        self._most = [max((gives[k] for *_, gives in self._options), default=0) for k in range(len(keys))]
        self._most_at_once = max(
            (sum(map(min, gives, self._needs)) for *_, gives in self._options), default=0
        )  # of what is needed, by one board
        self._by_need = [[i for i, (*_, gives) in enumerate(self._options) if gives[k]] for k in range(len(keys))]
        self._tries = 0
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...], int], tuple[int, tuple[int, ...]] | None] = {}

    def run(self) -> tuple[int, tuple[tuple[Image, ...], ...]] | None:
        """Give how many replicas are too many, and each container's images; None if there is no way."""
        if not all(self._most):
            return None
        for boards in range(min(MAX_BOARDS, sum(self._left)) + 1):
            found = self._best(self._needs, self._left, boards)
            if found is not None:
                excess, chosen = found
                parts: list[list[Image]] = [[] for _ in range(self._size)]
                for option in chosen:
                    container, image, *_ = self._options[option]
                    parts[container].append(image)
                return excess - sum(self._needs), tuple(map(tuple, parts))
        return None

    def _best(self, needs: tuple[int, ...], left: tuple[int, ...], boards: int) -> tuple[int, tuple[int, ...]] | None:
        """Give the least (replicas provided, options in order) with that many boards; the order is additive."""
        if not any(needs):
            return 0, ()
        if sum(needs) > boards * self._most_at_once or any(
            need > boards * most for need, most in zip(needs, self._most, strict=True)
        ):
            return None
        key = needs, left, boards
        if key in self._known:
            return self._known[key]
        best: tuple[int, tuple[int, ...]] | None = None
        need = min((k for k, count in enumerate(needs) if count), key=lambda k: len(self._by_need[k]))
        for option in self._by_need[need]:
            *_, kind, gives = self._options[option]
            if not left[kind]:
                continue
            self._tries += 1
            if self._tries > MAX_TRIES:
                raise PlanError(
                    "There are too many ways to serve so many different accelerators at once.",
                    hint="Use several pods.",
                )
            rest = self._best(
                tuple(max(0, count - given) for count, given in zip(needs, gives, strict=True)),
                (*left[:kind], left[kind] - 1, *left[kind + 1 :]),
                boards - 1,
            )
            if rest is not None:
                candidate = rest[0] + sum(gives), tuple(sorted((*rest[1], option)))
                best = candidate if best is None else min(best, candidate)
        self._known[key] = best
        return best


def _check(request: Request, images: Sequence[Image]) -> None:
    for name, count in sorted(request.items()):
        if count < 0:
            raise PlanError(f"{name}: {count} accelerators can't be asked for.")
        if not any(image.accelerators.get(name) for image in images):
            known = sorted({accelerator for image in images for accelerator in image.accelerators})
            raise PlanError(
                f"No image has the accelerator {name}.", hint=f"There are: {', '.join(known) or 'none at all'}."
            )


def _nowhere(
    requests: Sequence[Request], images: Sequence[Image], offers: Sequence[Offer], first: Sequence[Request]
) -> str:
    """Say what would do, and what there is."""
    wanted = ", ".join(
        f"{count} x {name}" for request in (*first, *requests) for name, count in sorted(request.items()) if count
    )
    example = _choose(requests, images, anywhere(images), first)
    if example is None:
        return f"{wanted}: no node could serve that with up to {MAX_BOARDS} boards of one kind."
    would_do = ", ".join(f"{count} x {board}" for board, count in example.boards.items()) or "a node for its labels"
    there = "; ".join(
        f"{offer.name}: {', '.join(f'{count} x {board}' for board, count in sorted(offer.boards.items())) or 'none'}"
        for offer in offers[:10]
    )
    return f"{wanted}: no node has free boards for that; {would_do} would do.  Free: {there or 'none anywhere'}."
