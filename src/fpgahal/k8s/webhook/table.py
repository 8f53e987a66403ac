# SPDX-License-Identifier: Apache-2.0
"""What each namespace may ask for: computed from its own objects, whenever one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fpgahal.k8s.catalogue import Catalogue
from fpgahal.k8s.names import INTEL_DOMAIN, af_resource, region_resource
from fpgahal.k8s.planner import Image
from fpgahal.k8s.webhook.resources import AcceleratorFunction, Broken, FpgaRegion, Kind, Mode, Resource


@dataclass(frozen=True, slots=True)
class Target:
    """What a mapped name stands for.

    Attributes
    ----------
    resource : str
        The name that nodes offer, with its domain.
    mode : Mode
    interface_id : str
    afu_id : str
        Empty for a region.
    """

    resource: str
    mode: Mode
    interface_id: str
    afu_id: str = ""


@dataclass(frozen=True, slots=True)
class NamespaceTable:
    """The names of one namespace.  It never changes: a change makes a new one.

    Attributes
    ----------
    namespace : str
    targets : mapping of str to Target
        By the name that pods use, with its domain.
    broken : mapping of str to Broken
        Names that exist, but can't be used; same keys.
    images : tuple of Image, or None
        What the catalogue lets the namespace have; None where there is no catalogue.
    programmable : frozenset of (str, str)
        Interface id and AFU id of all that the nodes may program for the namespace.
    boards : mapping of (str, str) to str
        For those of them that the catalogue has: the resource of the boards.
    """

    namespace: str
    targets: Mapping[str, Target] = field(default_factory=dict)
    broken: Mapping[str, Broken] = field(default_factory=dict)
    images: tuple[Image, ...] | None = None
    programmable: frozenset[tuple[str, str]] = field(init=False)
    boards: Mapping[tuple[str, str], str] = field(init=False)
    _offered: frozenset[tuple[str, Mode]] = field(init=False)

    def __post_init__(self) -> None:
        targets = self.targets.values()
        pairs = frozenset((to.interface_id, to.afu_id) for to in targets if to.mode is Mode.ORCHESTRATED)
        boards = {(image.interface_id, image.afu_id): image.board for image in self.images or () if image.interface_id}
        offered = {(to.resource, to.mode) for to in targets} | {(board, Mode.ORCHESTRATED) for board in boards.values()}
        object.__setattr__(self, "programmable", pairs | boards.keys())
        object.__setattr__(self, "boards", boards)
        object.__setattr__(self, "_offered", frozenset(offered))

    def offers(self, resource: str, mode: Mode) -> bool:
        """Tell whether a name maps to this resource of the nodes in this mode, so that it may be used itself."""
        return (resource, mode) in self._offered


Naming: TypeAlias = Callable[[str, str], str]  # interface id, AFU id -> a programmed function's name


def namespace_table(
    namespace: str,
    resources: Iterable[Resource],
    naming: Naming = af_resource,
    images: tuple[Image, ...] | None = None,
) -> NamespaceTable:
    """Make the table of a namespace from its objects (those of other namespaces must not be among them)."""
    by_name: dict[str, list[Resource]] = {}
    for resource in resources:
        by_name.setdefault(f"{INTEL_DOMAIN}/{resource.name}", []).append(resource)
    targets: dict[str, Target] = {}
    broken: dict[str, Broken] = {}
    for name, named in sorted(by_name.items()):
        if len(named) > 1:
            broken[name] = ambiguous(named[0])
        elif isinstance(named[0], Broken):
            broken[name] = named[0]
        else:
            targets[name] = _target(named[0], naming)
    return NamespaceTable(namespace, targets, broken, images)


def ambiguous(resource: Resource) -> Broken:
    """Say that an AcceleratorFunction and an FpgaRegion share a name, so that it means neither."""
    message = f"An AcceleratorFunction and an FpgaRegion are both called {resource.name!r}: rename one of them."
    return Broken(kind_of(resource), resource.namespace, resource.name, "AmbiguousName", message)


def kind_of(resource: Resource) -> Kind:
    """Give the kind of a parsed object."""
    if isinstance(resource, Broken):
        return resource.kind
    return Kind.FUNCTION if isinstance(resource, AcceleratorFunction) else Kind.REGION


def _target(resource: AcceleratorFunction | FpgaRegion, naming: Naming) -> Target:
    region = f"{INTEL_DOMAIN}/{region_resource(resource.interface_id)}"
    if isinstance(resource, FpgaRegion):
        return Target(region, Mode.REGION, resource.interface_id)
    if resource.mode is Mode.ORCHESTRATED:
        return Target(region, Mode.ORCHESTRATED, resource.interface_id, resource.afu_id)
    function = f"{INTEL_DOMAIN}/{naming(resource.interface_id, resource.afu_id)}"
    return Target(function, Mode.PREPROGRAMMED, resource.interface_id, resource.afu_id)


class Table:
    """The objects of the cluster, and from them each namespace's names.

    Not for several threads: the watch changes it, and the server reads it, in one event loop.

    Parameters
    ----------
    naming : callable
        How the nodes' plugins name a programmed function.
    catalogue : Catalogue, optional
        Images for pods that ask for accelerators.
    """

    def __init__(self, naming: Naming = af_resource, catalogue: Catalogue | None = None) -> None:
        self._naming = naming
        self._catalogue = catalogue
        self._resources: dict[str, dict[tuple[Kind, str], Resource]] = {}
        self._tables: dict[str, NamespaceTable] = {}

    @property
    def catalogue(self) -> Catalogue | None:
        """The images; another catalogue makes all tables anew."""
        return self._catalogue

    @catalogue.setter
    def catalogue(self, catalogue: Catalogue | None) -> None:
        self._catalogue = catalogue
        self._tables.clear()

    def put(self, resource: Resource) -> None:
        """Add an object, or replace the one of this kind and name."""
        self._resources.setdefault(resource.namespace, {})[kind_of(resource), resource.name] = resource
        self._tables.pop(resource.namespace, None)

    def drop(self, kind: Kind, namespace: str, name: str) -> None:
        """Forget an object, if there is one."""
        held = self._resources.get(namespace, {})
        held.pop((kind, name), None)
        if not held:
            self._resources.pop(namespace, None)
        self._tables.pop(namespace, None)

    def replace(self, kind: Kind, resources: Iterable[Resource]) -> None:
        """Take these objects instead of all of this kind."""
        for namespace, held in list(self._resources.items()):
            for own, name in list(held):
                if own is kind:
                    self.drop(kind, namespace, name)
        for resource in resources:
            self.put(resource)

    def namespace(self, namespace: str) -> NamespaceTable:
        """Give the names of a namespace; none, if it has no objects."""
        images = None if self._catalogue is None else self._catalogue.permitted(namespace)
        if namespace not in self._resources:
            return NamespaceTable(namespace, images=images)  # not kept: anybody can ask for any namespace
        found = self._tables.get(namespace)
        if found is None:
            found = namespace_table(namespace, self._resources[namespace].values(), self._naming, images)
            self._tables[namespace] = found
        return found

    def namespaces(self) -> list[str]:
        """Give the namespaces that have objects."""
        return sorted(self._resources)

    def verdict(self, kind: Kind, namespace: str, name: str) -> Broken | None:
        """Say why an object can't be used; None if it can.  It must be in the table."""
        resource = self._resources[namespace][kind, name]
        if isinstance(resource, Broken):
            return resource
        shared = self.namespace(namespace).broken.get(f"{INTEL_DOMAIN}/{name}")
        return None if shared is None else ambiguous(resource)

    def programmable(self, namespace: str) -> frozenset[tuple[str, str]]:
        """Give the pairs (interface id, AFU id) that pods of a namespace may have programmed.

        The node asks this again: an image's own environment, for one, is not visible to an admission webhook.
        """
        return self.namespace(namespace).programmable
