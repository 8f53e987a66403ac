# SPDX-License-Identifier: Apache-2.0
"""Preparing claims: boards are held, programmed and verified, then a container may be told of them.

A board that is held for one claim is refused to every other, but for claims that share its image: the scheduler would
not allocate it twice, but this is where it would have to be noticed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import aiohttp

from fpgahal import AccessError, DeviceBusyError, DeviceLostError, FpgaError
from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.dra import claims as claim_objects
from fpgahal.k8s.dra.cdi import ClaimFiles, qualified_name
from fpgahal.k8s.dra.checkpoint import COMPLETED, STARTED, Checkpoint, Claim, Prepared
from fpgahal.k8s.dra.devices import Device
from fpgahal.k8s.proto import dra_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["DRAPlugin"]
NOT_FOUND = 404
FAILURES = (FpgaError, aiohttp.ClientError, OSError, TimeoutError, ValueError)

T = TypeVar("T")

log = logging.getLogger(__name__)


class Program(Protocol):
    """Makes a board run an image, or raises."""

    def __call__(self, device: Device, namespace: str, timeout: float, *, program: bool) -> None:
        """`program` False: it must run already."""


class Driver:
    """Answers kubelet's calls about claims.

    Parameters
    ----------
    node : str
    api : Api
        Open.
    checkpoint : Checkpoint
    files : ClaimFiles
    scan : callable
        Gives the devices as they are now.
    program : Program
    program_seconds : float
        For one claim; kubelet waits 45 s.
    """

    def __init__(
        self,
        node: str,
        api: Api,
        checkpoint: Checkpoint,
        files: ClaimFiles,
        scan: Callable[[], Sequence[Device]],
        program: Program,
        program_seconds: float = 40.0,
    ) -> None:
        self._node, self._api = node, api
        self._checkpoint, self._files = checkpoint, files
        self._scan, self._program, self._program_seconds = scan, program, program_seconds
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by uid: kubelet repeats itself
        self._running: set[asyncio.Task[Any]] = set()

    # --- kubelet's service --------------------------------------------------------------------------------------

    async def NodePrepareResources(  # noqa: N802 - the service's name for it
        self, request: pb.NodePrepareResourcesRequest, context: Any
    ) -> pb.NodePrepareResourcesResponse:
        """Prepare each claim; the failure of one is told in its place, and does not keep the others."""
        answers = await asyncio.gather(*(self._answer(claim) for claim in request.claims))
        found = {claim.uid: answer for claim, answer in zip(request.claims, answers, strict=True)}
        return pb.NodePrepareResourcesResponse(claims=found)

    async def NodeUnprepareResources(  # noqa: N802
        self, request: pb.NodeUnprepareResourcesRequest, context: Any
    ) -> pb.NodeUnprepareResourcesResponse:
        """Let go of each claim's boards."""
        found = {}
        for claim in request.claims:
            try:
                await self.unprepare(claim.uid)
                found[claim.uid] = pb.NodeUnprepareResourceResponse()
            except FAILURES as error:
                log.error("A claim can't be let go: %s", _text(error), extra={"claim": claim.uid})
                found[claim.uid] = pb.NodeUnprepareResourceResponse(error=_text(error))
        return pb.NodeUnprepareResourcesResponse(claims=found)

    async def _answer(self, claim: pb.Claim) -> pb.NodePrepareResourceResponse:
        extra = {"claim": claim.uid, "namespace": claim.namespace, "claim_name": claim.name}
        try:
            prepared = await self.prepare(claim.namespace, claim.name, claim.uid)
        except FAILURES as error:
            log.error("A claim can't be prepared: %s", _text(error), extra=extra)
            return pb.NodePrepareResourceResponse(error=_text(error))
        log.info("Prepared", extra={**extra, "devices": [device.device for device in prepared]})
        return pb.NodePrepareResourceResponse(
            devices=[
                pb.Device(
                    request_names=[one.request],
                    pool_name=one.pool,
                    device_name=one.device,
                    cdi_device_ids=[qualified_name(claim.uid, one.device)],
                    share_id=one.share_id or None,
                )
                for one in prepared
            ]
        )

    # --- what it does -------------------------------------------------------------------------------------------

    async def prepare(self, namespace: str, name: str, uid: str) -> tuple[Prepared, ...]:
        """Make a claim's boards ready; once more is the same as once.

        Raises
        ------
        ClaimError
            The API server's claim is another one, or has nothing here.
        DeviceBusyError
            A board is held for another claim.
        DeviceLostError
            A device is not there any more.
        AccessError
            The namespace may not have an image.
        FpgaError, OSError
            What else keeps a board from running its image, or a file from being written.
        """
        return await self._to_the_end(uid, self._prepare(namespace, name, uid))

    async def unprepare(self, uid: str) -> None:
        """Let go of a claim's boards; one that is not known is let go already.  Raises CheckpointError and OSError."""
        await self._to_the_end(uid, asyncio.to_thread(self._let_go, uid))

    async def clean_up(self) -> None:
        """Let go of claims that are no more: kubelet may have forgotten them while no driver ran."""
        for claim in (await asyncio.to_thread(self._sweep)).values():
            if await self._is_gone(claim):
                log.info("Let go of a claim that is gone", extra={"claim": claim.uid, "namespace": claim.namespace})
                await self.unprepare(claim.uid)

    async def finish(self, seconds: float) -> None:
        """Wait for boards that are being programmed."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def _to_the_end(self, uid: str, work: Coroutine[Any, Any, T]) -> T:
        """Do one thing at a time for a claim, and all of it, whether kubelet waits or not: threads can't be stopped."""

        async def locked() -> T:
            async with self._locks.setdefault(uid, asyncio.Lock()):
                return await work

        task = asyncio.create_task(locked())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # kubelet will ask again
        return await asyncio.shield(task)

    async def _prepare(self, namespace: str, name: str, uid: str) -> tuple[Prepared, ...]:
        claim = await self._api.get(f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}")
        results = claim_objects.results(claim, uid, self._node)
        devices = {device.name: device for device in await asyncio.to_thread(self._scan)}
        wanted = Claim(uid, namespace, name, STARTED, tuple(_prepared(result, devices) for result in results))
        chosen = list({one.device: devices[one.device] for one in wanted.devices}.values())
        for device in chosen:
            if device.image is not None and not device.image.permitted(namespace):
                raise AccessError(f"Namespace {namespace} may not have the image {device.image.name}.")
        return await asyncio.to_thread(self._finish, wanted, chosen)

    def _finish(self, wanted: Claim, chosen: Sequence[Device]) -> tuple[Prepared, ...]:
        """Hold the boards, program them, and write down that they are ready; or let go of them again."""
        written = self._files.there(wanted.uid)
        with self._checkpoint.changing() as claims:
            if claims.get(wanted.uid) == replace(wanted, state=COMPLETED):
                if not written:
                    self._files.write(wanted.uid, chosen)
                return wanted.devices
            others = [claim for uid, claim in claims.items() if uid != wanted.uid]
            shared = {one.address for one in wanted.devices if _check_free(one, [*others, wanted])}
            claims[wanted.uid] = wanted
        end = time.monotonic() + self._program_seconds
        try:
            for device in chosen:
                if device.image is not None:
                    left = max(0.0, end - time.monotonic())
                    self._program(device, wanted.namespace, left, program=device.info.address not in shared)
            self._files.write(wanted.uid, chosen)
            with self._checkpoint.changing() as claims:
                claims[wanted.uid] = replace(wanted, state=COMPLETED)
        except BaseException:
            self._let_go(wanted.uid)
            raise
        return wanted.devices

    def _let_go(self, uid: str) -> None:
        self._files.remove(uid)
        with self._checkpoint.changing() as claims:
            claims.pop(uid, None)

    def _sweep(self) -> dict[str, Claim]:
        """Delete the files of claims that are not held; give those that are."""
        with self._checkpoint.changing() as claims:  # a claim's file is written only while it is held
            self._files.remove_others(claims)
            return dict(claims)

    async def _is_gone(self, claim: Claim) -> bool:
        try:
            found = await self._api.get(
                f"/apis/resource.k8s.io/v1/namespaces/{claim.namespace}/resourceclaims/{claim.name}"
            )
        except ApiError as error:
            if error.code == NOT_FOUND:
                return True
            raise
        return bool((found.get("metadata") or {}).get("uid") != claim.uid)


def _prepared(result: claim_objects.Result, devices: Mapping[str, Device]) -> Prepared:
    if result.device not in devices:
        raise DeviceLostError(
            f"The device {result.device} is not there, or not healthy, or its image is not in the catalogue any more.",
            hint=f"There are: {', '.join(devices) or 'none'}.",
        )
    address = devices[result.device].info.address
    return Prepared(result.request, result.pool, result.device, result.share_id, address)


def _check_free(wanted: Prepared, claims: Iterable[Claim]) -> bool:
    """Make sure that nobody holds a board otherwise; tell whether others have it programmed already."""
    shared = False
    for claim in claims:
        for held in claim.devices:
            if held.address == wanted.address and held is not wanted:
                if not (held.device == wanted.device and held.share_id and wanted.share_id):
                    raise DeviceBusyError(
                        f"{wanted.device}: the board {wanted.address} is held for the claim "
                        f"{claim.namespace}/{claim.name} ({claim.uid}), as {held.device}.",
                        hint="It is let go when the last pod of that claim has ended.",
                    )
                shared = shared or claim.state == COMPLETED
    return shared


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
