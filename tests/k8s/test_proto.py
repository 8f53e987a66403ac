# SPDX-License-Identifier: Apache-2.0
"""What is generated is what the .proto files say, and what they say is what kubelet says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fpgahal.k8s.proto import deviceplugin_pb2, podresources_pb2

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "src/fpgahal/k8s/proto"


def without_version(text: str) -> str:
    """Drop what says which protobuf it was generated with."""
    text = re.sub(r"# Protobuf Python Version: .*\n", "", text)
    return re.sub(r"(?s)_runtime_version\.ValidateProtobufRuntimeVersion\(.*?\n\)\n", "", text)


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    subprocess.run([sys.executable, ROOT / "scripts/protos", tmp_path], check=True)
    fresh = {path.name: without_version(path.read_text()) for path in (tmp_path / "fpgahal/k8s/proto").iterdir()}
    kept = {path.name: without_version(path.read_text()) for path in (ROOT / FOLDER).glob("*_pb2.py*")}
    assert fresh.keys() == kept.keys()
    assert [name for name in fresh if fresh[name] != kept[name]] == [], "run scripts/protos"


def test_service_paths_are_upstreams() -> None:
    def paths(module: object) -> set[str]:
        services = module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
        return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}

    assert paths(deviceplugin_pb2) == {
        "/v1beta1.Registration/Register",
        "/v1beta1.DevicePlugin/GetDevicePluginOptions",
        "/v1beta1.DevicePlugin/ListAndWatch",
        "/v1beta1.DevicePlugin/GetPreferredAllocation",
        "/v1beta1.DevicePlugin/Allocate",
        "/v1beta1.DevicePlugin/PreStartContainer",
    }
    assert paths(podresources_pb2) == {"/v1.PodResourcesLister/List"}


def test_field_numbers_are_upstreams() -> None:
    """Bytes as another implementation would send them, by hand: (field << 3 | 2), length, contents."""
    message = deviceplugin_pb2.RegisterRequest.FromString(
        b"\x0a\x07v1beta1\x12\x06x.sock\x1a\x03a/b\x22\x04\x08\x01\x10\x01"
    )
    assert (message.version, message.endpoint, message.resource_name) == ("v1beta1", "x.sock", "a/b")
    assert message.options.pre_start_required
    assert message.options.get_preferred_allocation_available
    answer = deviceplugin_pb2.ContainerAllocateResponse(
        envs={"K": "V"},
        mounts=[deviceplugin_pb2.Mount(container_path="c", host_path="h", read_only=True)],
        devices=[deviceplugin_pb2.DeviceSpec(container_path="c", host_path="h", permissions="rw")],
        annotations={"A": "B"},
        cdi_devices=[deviceplugin_pb2.CDIDevice(name="d")],
    )
    assert answer.SerializeToString(deterministic=True) == (
        b"\x0a\x06\x0a\x01K\x12\x01V"
        b"\x12\x08\x0a\x01c\x12\x01h\x18\x01"
        b"\x1a\x0a\x0a\x01c\x12\x01h\x1a\x02rw"
        b"\x22\x06\x0a\x01A\x12\x01B"
        b"\x2a\x03\x0a\x01d"
    )
    listed = deviceplugin_pb2.ListAndWatchResponse(
        devices=[
            deviceplugin_pb2.Device(
                ID="i",
                health="h",
                topology=deviceplugin_pb2.TopologyInfo(nodes=[deviceplugin_pb2.NUMANode(ID=1)]),
            )
        ]
    )
    assert listed.SerializeToString() == b"\x0a\x0c\x0a\x01i\x12\x01h\x1a\x04\x0a\x02\x08\x01"
    preferred = deviceplugin_pb2.ContainerPreferredAllocationRequest(
        available_deviceIDs=["a"], must_include_deviceIDs=["b"], allocation_size=3
    )
    assert preferred.SerializeToString() == b"\x0a\x01a\x12\x01b\x18\x03"
