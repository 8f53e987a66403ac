# SPDX-License-Identifier: Apache-2.0
"""Before a container starts: its boards run what they should, or it does not start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from fpgahal import ImageStore
from fpgahal.k8s import wanted
from fpgahal.k8s.names import INTEL_DOMAIN
from fpgahal.k8s.plugin.pods import Owner, Pods, PodsError
from fpgahal.k8s.plugin.unit import Unit
from fpgahal.k8s.programming import Outcome, ensure
from fpgahal.k8s.wanted import Wish

REGION = f"{INTEL_DOMAIN}/region-"

log = logging.getLogger(__name__)


async def prepare(
    units: Sequence[Unit],
    *,
    store: ImageStore | None,
    pods: Pods | None,
    deadline: float,
    program: bool = True,
    hook: bool = True,
) -> list[Outcome]:
    """Verify, and where allowed program, the boards of one container; all of them at once.

    What a unit's name says (``unit.wanted``) is always seen to.  What the pod says is, if it can be known here; else
    that is left to the hook, which has the container's variables and refuses what does not fit.

    Parameters
    ----------
    units : sequence of Unit
        Of one resource, given to one container.
    store : ImageStore or None
        None: nothing is programmed, and there are no allow-lists.
    pods : Pods or None
        None: neither the namespace nor what the pod says is known.
    deadline : float
        Seconds on the clock of ``time.monotonic()``.
    program : bool
        Whether to load what does not run yet.
    hook : bool
        Whether the container has the hook.  Without it, nobody would see to what can't be known here.

    Raises
    ------
    FpgaError
        As `programming.ensure` has it.  The other boards are done with by then.
    PodsError
        There is no hook, and it is not known what the container wants.
    """
    owner, env = await _asked_for(units, pods, hook)
    todo = wishes(units, env)

    def one(wish: Wish) -> Outcome:
        left = max(0.0, deadline - time.monotonic())
        namespace = owner.namespace if owner is not None else None
        return ensure(wish.slot, wish.afu, store=store, namespace=namespace, timeout=left, program=program)

    done = await asyncio.gather(*(asyncio.to_thread(one, wish) for wish in todo), return_exceptions=True)
    outcomes = []
    for result in done:
        if isinstance(result, BaseException):
            raise result
        outcomes.append(result)
        if result.programmed:
            about = {"board": result.address, "afu_id": result.afu_id, "sha256": result.sha256}
            who = {"namespace": owner.namespace, "pod": owner.pod, "container": owner.container} if owner else {}
            log.info("Programmed", extra={**about, **who})
    return outcomes


def wishes(units: Sequence[Unit], env: Mapping[str, str] | None) -> list[Wish]:
    """Say which of the units' slots must run what.

    Parameters
    ----------
    units : sequence of Unit
    env : mapping of str to str, or None
        The container's variables; None: not known.

    Raises
    ------
    FpgaError
        The variables make no sense, or there are too few slots for them.
    """
    found = [Wish(slot, unit.wanted) for unit in units for slot in unit.slots if unit.wanted]
    if env is not None:
        open_slots = [slot for unit in units if unit.programmed_by_pod for slot in unit.slots]
        shells = {slot.interface_id.hex for slot in open_slots if slot.interface_id is not None}
        # Pairs of other shells are about other resources of the container, which kubelet brings in calls of their own.
        pairs = [pair for pair in wanted.pairs(env) if pair.region in shells] if open_slots else []
        found += wanted.assign(pairs, open_slots)
        if for_all := wanted.of_all(env):
            found += [Wish(slot, for_all) for unit in units for slot in unit.slots]
    return wanted.settled(found)


async def _asked_for(
    units: Sequence[Unit], pods: Pods | None, hook: bool
) -> tuple[Owner | None, Mapping[str, str] | None]:
    """Find the container, and its variables; either None if it is not known, and that is for the hook."""
    owner, env = None, None
    if pods is not None and units:
        try:
            owner = await pods.owner(units[0].resource, [unit.id for unit in units])
            env = await pods.env(owner) if owner is not None else None
        except PodsError as error:
            if not hook and any(unit.programmed_by_pod for unit in units):
                raise
            log.warning("The pod is not known: %s", error.message, extra={"resource": units[0].resource})
    if env is None and not hook and any(unit.programmed_by_pod and unit.resource.startswith(REGION) for unit in units):
        raise PodsError(
            f"What the container wants on {units[0].resource} is not known, and no hook will ask it.",
            hint="Give the plugin access to the API server, or its containers the hook (--hook).",
        )
    return owner, env
