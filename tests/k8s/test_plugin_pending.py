# SPDX-License-Identifier: Apache-2.0
"""A pod gets a board on which its function runs already, though kubelet does not say which pod it asks for."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from fake_nodes import FakeNodes
from images import IF10, IF12, NLB0, NLB3

from fpgahal import DeviceInfo
from fpgahal.k8s.api import Api
from fpgahal.k8s.plugin.boards import Boards
from fpgahal.k8s.plugin.cdi import CdiFolder
from fpgahal.k8s.plugin.pending import functions_of, wish
from fpgahal.k8s.plugin.unit import Unit
from fpgahal.k8s.schemes.settings import Settings

REGION = f"fpga.intel.com/region-{IF10}"
PAIR = {"FPGA_REGION_1": IF10, "FPGA_AFU_1": NLB3}


def pod(env: dict[str, str], resource: str = REGION, *, started: bool = False, init: bool = False) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in env.items()]
    container = {"name": "main", "env": variables, "resources": {"limits": {resource: "1"}}}
    statuses = {"containerStatuses": [{"name": "main"}]} if started else {}
    return {
        "spec": {"initContainers" if init else "containers": [container]},
        "status": {"phase": "Pending", **statuses},
    }


@pytest.mark.parametrize(
    ("found", "functions"),
    [
        (pod(PAIR), [NLB3]),
        (pod(PAIR, init=True), [NLB3]),
        (pod({**PAIR, "FPGA_REGION_2": IF10, "FPGA_AFU_2": NLB0}), [NLB3, NLB0]),
        (pod({**PAIR, "FPGA_REGION_2": IF12, "FPGA_AFU_2": NLB0}), [NLB3]),
        (pod({"FPGAHAL_AFU": str(uuid.UUID(NLB0))}), [NLB0]),
        (pod(PAIR, started=True), []),
        (pod(PAIR, "fpgahal.dev/u250"), []),
        (pod({}), []),
        (pod({"FPGA_REGION_1": IF10}), []),
        ({}, []),
    ],
)
def test_what_a_pod_wants(found: dict[str, Any], functions: list[str]) -> None:
    assert list(functions_of(found, REGION)) == functions


def test_a_name_without_a_shell_is_about_every_pair() -> None:
    assert list(functions_of(pod(PAIR, "fpgahal.dev/pac-a10"), "fpgahal.dev/pac-a10")) == [NLB3]


def asked(pods: list[dict[str, Any]], refuse: int = 0) -> str:
    async def main(url: str) -> str:
        async with Api(url) as api:
            return await wish(api, "n1", REGION)

    with FakeNodes() as api:
        api.pending, api.refuse = pods, refuse
        found = asyncio.run(main(api.url))
        assert api.asked == ["spec.nodeName=n1,status.phase=Pending"]
    return found


def test_one_wish_counts_and_two_do_not(caplog: pytest.LogCaptureFixture) -> None:
    assert asked([pod(PAIR), pod(PAIR), pod({})]) == NLB3
    assert asked([pod(PAIR), pod({"FPGAHAL_AFU": NLB0})]) == ""
    assert asked([]) == ""
    assert asked([pod(PAIR)], refuse=403) == ""


def test_no_api_server() -> None:
    async def main() -> str:
        async with Api("http://127.0.0.1:9") as api:
            return await wish(api, "n1", REGION)

    assert asyncio.run(main()) == ""


def test_a_board_that_runs_it_already_is_preferred() -> None:
    def unit(number: int, afu: str, *, open_choice: bool = True) -> Unit:
        info = DeviceInfo(f"0000:{number:02x}:00.0", afu_id=uuid.UUID(afu))
        return Unit(info.bdf, REGION, (info,), numa_nodes=(number,), programmed_by_pod=open_choice)

    calls = []

    async def wanted(resource: str) -> str:
        calls.append(resource)
        return NLB3

    boards = Boards(Settings(), CdiFolder(), wish=wanted)
    units = [unit(1, NLB0), unit(2, NLB0), unit(3, NLB3)]
    assert asyncio.run(boards.prefer(REGION, units, [], 1)) == ["0000:03:00.0"]
    assert calls == [REGION]
    asyncio.run(boards.prefer(REGION, units, [], 3))
    asyncio.run(boards.prefer(REGION, [unit(n, NLB0, open_choice=False) for n in (1, 2)], [], 1))
    assert calls == [REGION], "nobody is asked where there is no choice, or no programming"
