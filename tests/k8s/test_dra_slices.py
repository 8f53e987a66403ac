# SPDX-License-Identifier: Apache-2.0
"""What a node offers to claims, written as the API server takes it; and kept so with as few writes as possible."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from fake_cluster import FakeCluster, check_pool
from hypothesis import given
from hypothesis import strategies as st

import fpgahal
from fpgahal import DeviceInfo, Health, HealthStatus
from fpgahal.k8s.api import Api
from fpgahal.k8s.catalogue import MAX_ACCELERATORS
from fpgahal.k8s.dra.devices import Device, devices
from fpgahal.k8s.dra.publisher import Publisher
from fpgahal.k8s.dra.slices import capacity_name, slice_name, specs
from fpgahal.k8s.planner import Image

EXACT = "com.inaccel.xgboost.exact"
UUID = "0123456789abcdef0123456789abcde"  # and one more


def image(name: str, board: str, afu: str = "", **accelerators: int) -> Image:
    named = {key.replace("__", "."): count for key, count in accelerators.items()}
    return Image(name, board, named, "", afu or f"{UUID}{len(name) % 16:x}", ("*",))


THREE = [
    image("one", "xilinx/u250", com__inaccel__xgboost__exact=4),
    image("two", "fpgahal.dev/u250", vadd=1),
    image("three", "xilinx/u250", vadd=2, **{"my-odd name": 3}),
]


@contextmanager
def boards(spec: str) -> Iterator[list[DeviceInfo]]:
    with fpgahal.emu.rack(spec):
        yield fpgahal.devices()


def complete(found: list[Any], generation: int = 1) -> list[Any]:
    """Slices as the driver would send them."""
    for index, spec in enumerate(found):
        spec["pool"]["generation"] = generation
        found[index] = {"metadata": {"name": slice_name("n1", index)}, "spec": spec}
    return found


def test_L2_two_boards_three_images() -> None:
    with boards("u250:2") as infos:
        offered = devices(infos, THREE)
    slices = complete(specs("n1", offered))
    check_pool(slices)
    assert [sorted(set(document["spec"]) & {"devices", "sharedCounters"}) for document in slices] == [
        ["sharedCounters"],
        ["devices"],
    ]
    names = [device["name"] for device in slices[1]["spec"]["devices"]]
    first, second = (re.sub("[:./]", "-", info.address) for info in infos)
    assert names == [f"{board}{tail}" for board in (first, second) for tail in ("", "-one", "-three", "-two")]
    counters = slices[0]["spec"]["sharedCounters"]
    assert counters == [{"name": name, "counters": {"image": {"value": "1"}}} for name in (first, second)]
    assert all(
        device["consumesCounters"]
        == [{"counterSet": device["name"][: len(first)], "counters": {"image": {"value": "1"}}}]
        for device in slices[1]["spec"]["devices"]
    )


def test_L2_devices_say_what_they_are() -> None:
    with boards("u250") as infos:
        found = {device["name"]: device for device in specs("n1", devices(infos, THREE))[1]["devices"]}
    board, one, two, three = (found[f"0000-5e-00-1-0{tail}"] for tail in ("", "-one", "-two", "-three"))
    assert board["attributes"]["board"] == {"string": "u250"}
    assert board["attributes"]["kind"] == {"string": "board"}
    assert board["attributes"]["emulated"] == {"bool": True}
    assert board["attributes"]["resource.kubernetes.io/pciBusID"] == {"string": "0000:5e:00.1"}
    assert "capacity" not in board
    assert "allowMultipleAllocations" not in board
    assert (one["attributes"]["kind"], one["attributes"]["image"]) == ({"string": "image"}, {"string": "one"})
    assert one["allowMultipleAllocations"] is True
    four = {"value": "4", "requestPolicy": {"default": "1", "validRange": {"min": "1", "step": "1"}}}
    assert one["capacity"] == {"com.inaccel.xgboost/exact": four}
    assert two["capacity"]["vadd"]["requestPolicy"] == {"default": "1", "validRange": {"min": "1"}}
    assert {value["requestPolicy"]["default"] for value in three["capacity"].values()} == {"0"}


def test_L2_the_largest_image_of_a_catalogue() -> None:
    many = {f"com__example__k{n}": 256 for n in range(MAX_ACCELERATORS)}
    with boards("pac-a10") as infos:
        slices = complete(specs("n1", devices(infos, [image("i" * 40, "intel/pac_a10", **many)])))
    check_pool(slices)
    assert len(slices[1]["spec"]["devices"][1]["capacity"]) == MAX_ACCELERATORS


def test_L2_many_boards_are_many_slices() -> None:
    with boards("u250") as (info,):
        infos = [replace(info, bdf=f"0000:{bus:02x}:00.1") for bus in range(40)]
    slices = complete(specs("n1", devices(infos, THREE)))
    check_pool(slices)
    assert [len(document["spec"].get("sharedCounters", [])) for document in slices] == [8] * 5 + [0] * 3
    assert [len(document["spec"].get("devices", [])) for document in slices] == [0] * 5 + [64, 64, 32]


def test_no_boards_are_an_empty_slice() -> None:
    (document,) = complete(specs("n1", []))
    check_pool([document])
    assert not {"devices", "sharedCounters"} & set(document["spec"])


def test_boards_alone_where_images_could_not_exclude_each_other() -> None:
    with boards("u250:2") as infos:
        (document,) = complete(specs("n1", devices(infos, THREE), partitions=False))
    check_pool([document])
    assert [device["name"] for device in document["spec"]["devices"]] == ["0000-5e-00-1-0", "0000-5f-00-1-0"]
    assert "consumesCounters" not in str(document)


def test_images_are_for_the_boards_that_they_fit() -> None:
    def fitting(spec: str, *images: Image, labels: dict[str, str] | None = None) -> list[str]:
        with boards(spec) as infos:
            return [d.image.name for d in devices(infos, images, labels) if d.image is not None]

    shell = "9926ab6d6c925a68aabca7d84c545738"
    right = replace(image("x", "intel/pac_a10", a=1), interface_id=shell)
    assert fitting("pac-a10", right) == ["x"]
    assert fitting("pac-a10", replace(right, board="fpgahal.dev/pac-a10")) == ["x"]
    assert fitting("pac-a10", replace(right, board=f"fpga.intel.com/region-{shell}")) == ["x"]
    assert fitting("pac-a10", replace(right, interface_id="0" * 32)) == []
    assert fitting("d5005", right) == []
    assert fitting("u250", right) == []
    assert fitting("pac-a10", replace(right, afu_id="")) == []
    shelled = replace(image("x", "xilinx/u250", a=1), node_selector={"xilinx/u250": "gen3x16_xdma_shell_3.1"})
    assert fitting("u250", shelled) == ["x"]
    assert fitting("u250", replace(shelled, node_selector={"xilinx/u250": "other"})) == []
    assert fitting("u250", replace(shelled, node_selector={"zone": "a"})) == []
    assert fitting("u250", replace(shelled, node_selector={"zone": "a"}), labels={"zone": "a"}) == ["x"]


def test_unhealthy_boards_are_not_offered() -> None:
    with boards("u250") as (info,):
        pass
    failed = replace(info, health=Health(HealthStatus.FAILED, "link down"))
    assert devices([failed], THREE) == []
    assert devices([replace(info, device_nodes=())], THREE) == []


@given(st.text("abcXYZ019.-_ é/", min_size=1, max_size=70), st.text("abc019.-_", min_size=1, max_size=70))
def test_any_accelerator_has_a_name_of_its_own(one: str, other: str) -> None:
    domain, _, identifier = capacity_name(one).rpartition("/")
    assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,31}", identifier)
    assert len(domain) <= 63
    assert one == other or capacity_name(one) != capacity_name(other)


def test_names_of_capacities() -> None:
    assert capacity_name(EXACT) == "com.inaccel.xgboost/exact"
    assert capacity_name("vadd") == "vadd"
    assert re.fullmatch("_my_acc_[0-9a-f]{8}", capacity_name("my-acc"))
    assert len(slice_name("n" * 253, 10)) <= 253


# --- publishing -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def publishing(cluster: FakeCluster) -> Any:
    async with Api(cluster.url) as api:
        publisher = Publisher(api, "n1", wait_seconds=0.02)
        task = asyncio.create_task(publisher.run())
        try:
            yield publisher
        finally:
            assert not task.done(), task
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def scenario(run: Callable[[FakeCluster, Publisher], Awaitable[None]], setup: Any = None) -> None:
    async def main(cluster: FakeCluster) -> None:
        async with publishing(cluster) as publisher:
            await run(cluster, publisher)

    with FakeCluster() as cluster:
        if setup is not None:
            setup(cluster)
        asyncio.run(main(cluster))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def offered() -> list[Device]:
    with boards("u250:2") as infos:
        return devices(infos, THREE)


def names(cluster: FakeCluster) -> list[str]:
    return [device["name"] for item in cluster.pool() for device in item["spec"].get("devices", [])]


def test_L2_published_and_not_written_again(offered: list[Device]) -> None:
    async def run(cluster: FakeCluster, publisher: Publisher) -> None:
        publisher.offer(offered)
        await publisher.published.wait()
        check_pool(cluster.pool())
        assert names(cluster) == [device.name for device in offered]
        owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid", "controller": True}
        assert [item["metadata"]["ownerReferences"] for item in cluster.pool()] == [[owner], [owner]]
        writes = cluster.writes
        assert writes == 2
        for _ in range(3):
            publisher.offer(list(offered))
            assert await publisher.reconcile(offered) is False
        async with publishing(cluster) as second:  # another instance, after an update of the driver
            second.offer(offered)
            await second.published.wait()
        assert cluster.writes == writes

    scenario(run)


def test_L2_written_again_when_kubelet_deleted_them(offered: list[Device]) -> None:
    """As kubelet does at each start of its own."""

    async def run(cluster: FakeCluster, publisher: Publisher) -> None:
        publisher.offer(offered)
        await publisher.published.wait()
        before = cluster.pool()
        for item in before:
            cluster.delete_slice(item["metadata"]["name"])
        await until(lambda: len(cluster.slices) == 2)
        check_pool(cluster.pool())
        assert [item["metadata"]["name"] for item in cluster.pool()] == [item["metadata"]["name"] for item in before]
        cluster.delete_slice(before[0]["metadata"]["name"])  # half of a pool is no pool
        await until(lambda: len(cluster.slices) == 2 and cluster.pool()[1]["spec"]["pool"]["generation"] > 1)
        check_pool(cluster.pool())

    scenario(run)


def test_L2_a_change_raises_the_generation_of_all(offered: list[Device]) -> None:
    async def run(cluster: FakeCluster, publisher: Publisher) -> None:
        publisher.offer(offered)
        await publisher.published.wait()
        one = [device for device in offered if device.info == offered[0].info]
        publisher.offer(one)
        await until(lambda: names(cluster) == [device.name for device in one])
        await until(lambda: {item["spec"]["pool"]["generation"] for item in cluster.pool()} == {2})
        check_pool(cluster.pool())
        publisher.offer([])
        await until(lambda: len(cluster.slices) == 1)
        check_pool(cluster.pool())

    scenario(run)


def test_somebody_elses_changes_do_not_stay(offered: list[Device]) -> None:
    async def run(cluster: FakeCluster, publisher: Publisher) -> None:
        publisher.offer(offered)
        await publisher.published.wait()
        wanted = names(cluster)
        spoiled = cluster.pool()[1]
        spoiled["spec"]["devices"].pop()
        cluster.put_slice(spoiled["metadata"]["name"], spoiled)
        await until(lambda: names(cluster) == wanted)
        extra = cluster.pool()[1]
        extra["metadata"]["name"] = "n1-fpga.fpgahal.dev-9"
        cluster.put_slice("n1-fpga.fpgahal.dev-9", extra)
        await until(lambda: "n1-fpga.fpgahal.dev-9" not in cluster.slices)
        await until(lambda: len({item["spec"]["pool"]["generation"] for item in cluster.pool()}) == 1)
        check_pool(cluster.pool())

    scenario(run)


@pytest.mark.parametrize("how", ["drops", "rejects"])
def test_old_servers_get_boards_only(how: str, offered: list[Device], caplog: pytest.LogCaptureFixture) -> None:
    """A server without the gates leaves fields out, or refuses them; then two images of a board could both be given."""

    def setup(cluster: FakeCluster) -> None:
        fields = {"sharedCounters", "consumesCounters", "allowMultipleAllocations", "capacity"}
        getattr(cluster, how).update(fields)

    async def run(cluster: FakeCluster, publisher: Publisher) -> None:
        publisher.offer(offered)
        await until(lambda: publisher.published.is_set())
        assert names(cluster) == [device.name for device in offered if device.image is None]
        check_pool(cluster.pool())
        assert "only boards are offered" in caplog.text
        writes = cluster.writes
        assert await publisher.reconcile(offered) is False
        assert cluster.writes == writes

    with caplog.at_level(logging.WARNING):
        scenario(run, setup)


def test_a_field_that_is_dropped_does_not_cause_writes_for_ever(offered: list[Device]) -> None:
    """A server that knows counters, but no attribute of ours in some device, say."""

    async def run(cluster: FakeCluster, publisher: Publisher) -> None:
        publisher.offer(offered)
        await publisher.published.wait()
        assert names(cluster) == [device.name for device in offered]
        assert cluster.writes == 2
        assert await publisher.reconcile(offered) is False

    scenario(run, lambda cluster: cluster.drops.add("attributes"))


def test_a_server_that_fails_is_asked_again(offered: list[Device]) -> None:
    def setup(cluster: FakeCluster) -> None:
        cluster.refuse.update({"slices": 503, "WATCH": 500})

    async def run(cluster: FakeCluster, publisher: Publisher) -> None:
        publisher.offer(offered)
        await until(lambda: cluster.asked("GET", "resourceslices") > 3)
        cluster.refuse.clear()
        await publisher.published.wait()
        check_pool(cluster.pool())

    scenario(run, setup)
