# SPDX-License-Identifier: Apache-2.0
"""The server over real TLS on a socket: answers, certificates, health, metrics, signals."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from fake_api import FakeApi
from planner_cases import catalogue_file
from webhook_cases import AF_IF10_NLB0, af, container, patched, pod, review

from fpgahal.k8s.api import Api
from fpgahal.k8s.webhook.app import main
from fpgahal.k8s.webhook.certificate import Certificate, CertificateError
from fpgahal.k8s.webhook.server import Settings, serve

ASKED = pod(container({"nlb": 1}))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        fake.put(af("nlb"))
        yield fake


class Files:
    """The certificate's files, as a mounted Secret has them: links into a folder that is exchanged."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.folder, self._authority, self._number = folder, authority, 0
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.renew()
        self.cert.symlink_to("..data/tls.crt")
        self.key.symlink_to("..data/tls.key")

    def renew(self) -> int:
        """Put a new certificate there, and give its serial number."""
        issued = self._authority.issue_cert("localhost", "127.0.0.1")
        self._number += 1
        data = self.folder / f"..{self._number}"
        data.mkdir()
        issued.cert_chain_pems[0].write_to_path(str(data / "tls.crt"))
        issued.private_key_pem.write_to_path(str(data / "tls.key"))
        self._exchange(data)
        from cryptography import x509

        return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number

    def spoil(self) -> None:
        """Exchange the certificate, but not its key."""
        issued = self._authority.issue_cert("localhost")
        data = self.folder / "..bad"
        data.mkdir()
        issued.cert_chain_pems[0].write_to_path(str(data / "tls.crt"))
        (data / "tls.key").write_bytes(self.key.read_bytes())
        self._exchange(data)

    def _exchange(self, data: Path) -> None:
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        link.rename(self.folder / "..data")


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files(tmp_path, authority)


@dataclass
class Client:
    """Speaks to a running webhook as the API server does."""

    port: int
    status_port: int
    tls: ssl.SSLContext

    def post(self, body: bytes | Any, method: str = "POST", path: str = "/pods", kind: str = "application/json") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=self.tls)
        try:
            connection.request(method, path, data, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def serial(self, *, name: str | None = "localhost", version: ssl.TLSVersion | None = None) -> int:
        """Shake hands, and give the serial number of the certificate that is shown."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if version is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
            context.set_ciphers("ALL:@SECLEVEL=0")
        from cryptography import x509

        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname=name) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    def ready(self) -> None:
        end = time.monotonic() + 10
        while self.status("/readyz")[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.01)


def serving(files: Files, url: str, authority: trustme.CA, scenario: Callable[[Client], None], **more: Any) -> None:
    """Run the server in this thread's loop, and the scenario in another; then end it by a signal."""
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    settings = Settings(
        files.cert, files.key, "127.0.0.1", 0, 0, **{"reload_seconds": 0.02, "drain_seconds": 0, **more}
    )

    async def run() -> None:
        ports: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        server = asyncio.create_task(serve(settings, Api(url), lambda *two: ports.put_nowait(two)))
        try:
            client = Client(*await asyncio.wait_for(ports.get(), 10), tls)
            await asyncio.to_thread(scenario, client)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(server, 20)

    asyncio.run(run())


def test_F1_over_tls(files: Files, api: FakeApi, authority: trustme.CA) -> None:
    def scenario(client: Client) -> None:
        client.ready()
        status, body = client.post(review(ASKED))
        assert status == 200
        assert patched(ASKED, json.loads(body)) == pod(container({AF_IF10_NLB0: "1"}))

    serving(files, api.url, authority, scenario)


def test_K1_K2_over_tls(files: Files, api: FakeApi, authority: trustme.CA, tmp_path: Path) -> None:
    """The board on premises goes to the first pod; the second one, a moment later, makes the cloud grow."""
    asked = pod(container({"accel.fpgahal.dev/com.inaccel.xgboost.exact": 4}))
    api.lists["nodes"] = [{"metadata": {"name": "rack-1"}, "status": {"allocatable": {"xilinx/u250": "1"}}}]

    def scenario(client: Client) -> None:
        client.ready()
        for dry_run, boards in (
            (True, {"xilinx/u250": "1"}),
            (False, {"xilinx/u250": "1"}),
            (False, {"xilinx/aws-vu9p-f1": "2"}),
        ):
            answer = json.loads(client.post(review(asked, dryRun=dry_run))[1])
            assert patched(asked, answer) == pod(container(boards))

    serving(files, api.url, authority, scenario, catalogue=catalogue_file(tmp_path), look_seconds=1000)


def test_F19_http(files: Files, api: FakeApi, authority: trustme.CA) -> None:
    def scenario(client: Client) -> None:
        client.ready()
        assert client.post(b"")[0] == 400
        assert client.post(review(ASKED), kind="text/plain")[0] == 400
        assert client.post(review(ASKED), method="GET")[0] == 405
        assert client.post(review(ASKED), path="/other")[0] == 404
        assert client.post(b"[" + b" " * (9 << 20) + b"]")[0] == 413
        assert client.post(review(ASKED), kind="application/json; charset=utf-8")[0] == 200

    serving(files, api.url, authority, scenario)


def test_F18_corrupt_json_over_http(files: Files, api: FakeApi, authority: trustme.CA) -> None:
    def scenario(client: Client) -> None:
        client.ready()
        for body in (b"{", b"null", b"\xff\xfe"):
            status, answer = client.post(body)
            assert status == 200
            assert json.loads(answer)["response"]["allowed"] is False

    serving(files, api.url, authority, scenario)


@pytest.mark.parametrize("name", ["localhost", None])
def test_F25_renewed_certificate(
    files: Files, api: FakeApi, authority: trustme.CA, name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """With and without a server name in the handshake; a connection that is open goes on."""

    def scenario(client: Client) -> None:
        client.ready()
        first = client.serial(name=name)
        kept = http.client.HTTPSConnection("localhost", client.port, timeout=10, context=client.tls)
        kept.request("POST", "/pods", json.dumps(review(ASKED)), {"Content-Type": "application/json"})
        kept.getresponse().read()
        expected = files.renew()
        assert expected != first
        wait(lambda: client.serial(name=name) == expected)
        kept.request("POST", "/pods", json.dumps(review(ASKED)), {"Content-Type": "application/json"})
        assert kept.getresponse().status == 200
        kept.close()
        files.spoil()  # a certificate that does not belong to the key: the old one stays
        wait(lambda: "stays as it was" in caplog.text)
        assert client.serial(name=name) == expected
        assert client.post(review(ASKED))[0] == 200
        expected = files.renew()
        wait(lambda: client.serial(name=name) == expected)
        assert 'certificate_renewals_total{result="taken"} 2.0' in client.status("/metrics")[1]

    serving(files, api.url, authority, scenario)


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_F25_tls_versions(
    files: Files, api: FakeApi, authority: trustme.CA, version: ssl.TLSVersion, accepted: bool
) -> None:
    def scenario(client: Client) -> None:
        if accepted:
            assert client.serial(version=version)
            return
        with pytest.raises((ssl.SSLError, ConnectionError), match=r"(?i)version|protocol|reset"):
            client.serial(version=version)

    serving(files, api.url, authority, scenario)


def test_health_and_metrics(files: Files, api: FakeApi, authority: trustme.CA) -> None:
    api.refuse["GET"] = 500

    def scenario(client: Client) -> None:
        assert client.status("/healthz") == (200, "ok\n")
        assert client.status("/readyz")[0] == 503
        assert client.post(review(ASKED))[0] == 503  # a table that is not known must not decide
        assert "fpgahal_webhook_synced 0.0" in client.status("/metrics")[1]
        api.refuse.clear()
        api.put(af("broken", "x"))
        client.ready()
        client.post(review(ASKED))
        client.post(review(pod(container())))
        client.post(review(pod(container({"unknown": 1}))))
        text = client.status("/metrics")[1]
        for line in (
            'fpgahal_webhook_reviews_total{result="patched"} 1.0',
            'fpgahal_webhook_reviews_total{result="allowed"} 1.0',
            'fpgahal_webhook_reviews_total{result="denied"} 1.0',
            "fpgahal_webhook_review_seconds_count 3.0",
            "fpgahal_webhook_synced 1.0",
            "fpgahal_webhook_mappings 1.0",
            "fpgahal_webhook_broken 1.0",
        ):
            assert line in text

    serving(files, api.url, authority, scenario)


def test_unsound_certificates_are_refused_at_once(files: Files, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="There is no file"):
        Certificate(tmp_path / "absent", files.key)
    with pytest.raises(CertificateError, match="no certificate with its key"):
        Certificate(files.key, files.key)
    files.spoil()
    with pytest.raises(CertificateError, match="no certificate with its key"):
        Certificate(files.cert, files.key)


def wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


# --- the command ------------------------------------------------------------------------------------------------


def command(*args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fpgahal.k8s.webhook", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")},
    )


def test_the_command_serves_until_sigterm(files: Files, api: FakeApi, authority: trustme.CA) -> None:
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    options = ("--host", "127.0.0.1", "--port", "0", "--status-port", "0", "--drain", "0.5", "--api-server", api.url)
    with command("serve", "--json", "--cert", files.cert, "--key", files.key, *options) as process:
        assert process.stdout is not None
        text = "".join(iter(process.stdout.readline, "}\n")) + "}"
        ports = json.loads(text)
        client = Client(ports["port"], ports["status_port"], tls)
        client.ready()
        assert json.loads(client.post(review(pod(container({"unknown": 1}))))[1])["response"]["allowed"] is False
        process.send_signal(signal.SIGTERM)
        wait(lambda: client.status("/readyz")[0] == 503)
        assert client.post(review(ASKED))[0] == 200  # while the Service still sends requests
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    denied = [line for line in lines if line["message"].startswith("Denied")]
    assert denied[0]["namespace"] == "default"
    assert denied[0]["uid"]
    assert lines[-1]["message"] == "Stopping"
    assert out == ""


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command does to the root logger ends with the test."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ([], 2, "usage|required"),
        (["serve"], 2, "--cert"),
        (["serve", "--cert", "/absent", "--key", "/absent"], 3, "kubectl proxy"),
        (
            ["serve", "--cert", "/absent", "--key", "/absent", "--api-server", "http://127.0.0.1:9"],
            3,
            "no file /absent",
        ),
        (["serve", "--cert", "a", "--key", "b", "--api-server", "127.0.0.1"], 2, "no URL"),
        (["serve", "--cert", "a", "--key", "b", "--port", "70000"], 2, "no port"),
        (["serve", "--cert", "a", "--key", "b", "--look-seconds", "-1"], 2, "not between 0"),
    ],
)
def test_wrong_usage(args: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == code
    assert re.search(told, capsys.readouterr().err, re.IGNORECASE)
    assert main([*args, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize("missing", ["aiohttp", "prometheus_client"])
def test_without_the_extra(missing: str) -> None:
    """`crds` needs none of it; `serve` says what to install."""
    program = f"import sys; sys.modules[{missing!r}] = None; from fpgahal.k8s.webhook.app import main; sys.exit(main())"
    crds = subprocess.run([sys.executable, "-c", program, "crds"], capture_output=True, text=True, check=True)
    assert crds.stdout.count('kind: "CustomResourceDefinition"') == 2
    serve = [sys.executable, "-c", program, "serve", "--cert", "a", "--key", "b"]
    served = subprocess.run(serve, capture_output=True, text=True, check=False)
    assert served.returncode == 3
    assert missing in served.stderr
    assert "fpgahal[k8s]" in served.stderr


@pytest.mark.usefixtures("own_logging")
def test_a_catalogue_that_cannot_be_used(files: Files, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cert", str(files.cert), "--key", str(files.key), "--api-server", api.url]
    assert main(["serve", *options, "--catalogue", "/absent.toml"]) == 3
    assert "/absent.toml: can't be read" in capsys.readouterr().err


@pytest.mark.usefixtures("own_logging")
def test_a_port_that_is_taken(files: Files, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ["--cert", str(files.cert), "--key", str(files.key), "--host", "127.0.0.1", "--port", port]
        assert main(["serve", *options, "--api-server", api.url]) == 3
    assert port in capsys.readouterr().err
