# SPDX-License-Identifier: Apache-2.0
"""Policy files, and the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from manager_daemon import running

import fpgahal
from fpgahal.manager.connection import Peer
from fpgahal.manager.policy import Grant, Policy

GOOD = """
[default]
requests = 8
memory = "512 MiB"

[[rule]]
users = ["root", 4711]
weight = 3.0
admin = true

[[rule]]
groups = [100, 200]
accelerators = ["xgboost.*", "vadd"]
rate = 0.5
burst = 2
memory = 0

[[rule]]
accelerators = []
"""


def test_the_first_rule_that_fits_counts(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    policy = Policy.load(path)
    nobody: frozenset[int] = frozenset()
    root = policy.grant(0, frozenset([100]))
    assert root == Grant(requests=8, memory=512 << 20, weight=3.0, admin=True) == policy.grant(4711, nobody)
    assert root.allows("anything")
    member = policy.grant(5, frozenset([7, 200]))
    assert [member.allows(name) for name in ("vadd", "vaddx", "xgboost.predict", "xgboost")] == [
        True,
        False,
        True,
        False,
    ]
    assert (member.share.rate, member.share.burst, member.share.requests, member.memory) == (0.5, 2, 8, 0)
    assert not policy.grant(5, nobody).allows("vadd")


def test_without_a_file_everything_is_allowed() -> None:
    assert Policy().grant(5, frozenset()) == Grant()
    assert Grant().allows("vadd")


def test_administrators() -> None:
    """By default root and the manager's own user, if their processes are not in another container."""
    nobody: frozenset[int] = frozenset()
    for uid, pid, default, expected in (
        (0, 7, None, True),
        (os.geteuid(), 7, None, True),
        (0, 0, None, False),  # SO_PEERCRED has 0 for a process that this one can't see
        (4711, 7, None, False),
        (4711, 7, True, True),
        (0, 7, False, False),
        (0, 0, True, True),
    ):
        peer, policy = Peer(pid, uid, nobody), Policy(default=Grant(admin=default))
        assert peer.administers(policy) is expected, (uid, pid, default)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "TOML"),
        ("[defaults]", "defaults"),
        ("[rule]\nusers = [1]", r"\[\[rule\]\]"),
        ("rule = 1", r"\[\[rule\]\]"),
        ("rule = [1]", "rule 1"),
        ("default = 1", "default"),
        ("[[rule]]\nuser = [1]", "rule 1: has 'user'"),
        ("[[rule]]\nusers = 1", "users = 1"),
        ("[[rule]]\nusers = [true]", "users"),
        ("[[rule]]\nusers = ['no such user here']", "no user"),
        ("[[rule]]\ngroups = ['no such group here']", "no group"),
        ("[default]\nweight = 0", "weight = 0"),
        ("[default]\nweight = nan", "weight = nan"),
        ("[default]\nrequests = -1", "requests"),
        ("[default]\nrequests = true", "requests"),
        ("[default]\nmemory = '5 parsecs'", "memory"),
        ("[default]\nmemory = -1", "memory"),
        ("[default]\nadmin = 1", "admin"),
        ("[default]\naccelerators = 'vadd'", "accelerators"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(fpgahal.ArgumentRangeError, match=message) as found:
        Policy.load(path)
    assert "policy.toml" in str(found.value)


def command(*options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "fpgahal.manager.app", *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("[")
    emulate = ("--emulate", "pac-a10", "--socket", str(tmp_path / "s"))
    for options, code, text in (
        (("--mode", "rw"), 2, "--mode"),
        (("--mode", "777"), 2, "--mode"),
        (("--timeout", "0"), 2, "--timeout"),
        (("--metrics", "9090"), 2, "127.0.0.1:9090"),
        (("--metrics", "localhost:66000"), 2, "127.0.0.1:9090"),
        ((*emulate, "--metrics", "192.0.2.1:9090"), 3, "can't listen"),
        ((*emulate, "ff:00.0"), 3, "ff:00.0"),
        ((*emulate, "--policy", str(file)), 3, "TOML"),
        (("--emulate", "pac-a10", "--socket", str(file)), 3, "no socket"),
        (("--emulate", "pac-a10", "--socket", str(tmp_path / "no" / "s")), 3, "can't listen"),
    ):
        found = command(*options)
        assert found.returncode == code, found
        assert text in found.stderr, found
        assert "Traceback" not in found.stderr
    assert file.read_text() == "["
    assert "--policy" in command("--help").stdout


def test_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.connect(patience=0.1):
        assert daemon.stop(signal.SIGINT) == 0
        assert not daemon.socket.exists()
