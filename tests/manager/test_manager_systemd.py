# SPDX-License-Identifier: Apache-2.0
"""deploy/systemd: systemd takes the unit, the manager takes its command line, and the policy is one."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fpgahal.manager.app import build_parser
from fpgahal.manager.policy import Policy

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
UNIT = FOLDER / "fpgahal-manager.service"


def section(name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return dict(parser[name])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/usr/local/bin/fpgahal-manager", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, told) == (0, []), done.stderr
    unit.write_text(text.replace("Restart=always", "Restart=allways").replace("/usr/local/bin/fpgahal-manager", "/no"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "allways" in done.stderr, "the check can fail"


def test_the_manager_takes_its_command_line() -> None:
    service = section("Service")
    program, *options = shlex.split(service["ExecStart"])
    assert Path(program).name == "fpgahal-manager"
    args = build_parser().parse_args(options)
    assert args.metrics[0] == "127.0.0.1"
    assert str(args.policy) == "/etc/fpgahal/policy.toml"
    assert args.socket is None
    assert service["RuntimeDirectory"] == "fpgahal", "where the default socket is: /run/fpgahal"
    assert (service["Type"], service["Restart"]) == ("notify", "always")


def test_boards_can_be_reached() -> None:
    """What would hide device files, or the attributes of drivers, is not there."""
    service = section("Service")
    hiding = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "ProtectKernelTunables", "PrivateUsers"}
    assert not hiding & set(service)
    assert "/run/lock" in service["ReadWritePaths"].split()  # XRT's boards are locked there
    assert set(re.findall(r"AF_\w+", service["RestrictAddressFamilies"])) == {"AF_UNIX", "AF_INET", "AF_INET6"}


def test_the_policy_is_one() -> None:
    policy = Policy.load(FOLDER / "policy.toml")
    nobody: frozenset[int] = frozenset()
    assert policy.grant(0, nobody).weight == 4
    assert policy.grant(0, nobody).admin is None
    limited = policy.grant(1001, nobody)
    assert (limited.rate, limited.allows("xgboost.predict"), limited.allows("vadd")) == (0.5, True, False)
    assert policy.grant(5, nobody) == policy.default
    assert policy.default.memory == 2 << 30
