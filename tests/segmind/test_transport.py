"""Each request is sent once, ends in time, and what is said of its fate is true."""

import datetime
import errno
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.segmind import connections, transport
from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.client import SegmindClient, UploadFailed
from kontext_pipeline.segmind.outcomes import Cause, Charge, Outcome
from tests.descriptors import no_descriptors
from tests.segmind.conftest import BODY, KEY, picture
from tests.segmind.gateway import Gateway, Reply, Request, Tunnel, wait_for

V1 = "/v1/flux-kontext-max"
Connect = Callable[..., SegmindClient]


def result(answer: Answer) -> tuple[Outcome, str]:
    return answer.outcome, answer.cause


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(reset=True),
        Reply(raw=b""),
        Reply(raw=b"HTTP/1."),
        Reply(raw=b"HTTP/1.1 50"),
        Reply(raw=b"garbage\r\n\r\n"),
        Reply(raw=b"\x16\x03\x01\x00"),
        Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n"),
        Reply(raw=b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ],
)
def test_no_answer_to_a_post_may_be_charged_and_is_not_sent_again(
    gateway: Gateway, client: SegmindClient, spool: Path, reply: Reply
) -> None:
    gateway.routes[V1] = reply
    answer = client.generate(BODY, spool)
    assert result(answer) == (Outcome.LOST, "connection_lost")
    assert answer.charge is Charge.POSSIBLE
    assert answer.error
    assert " at 0x" not in answer.error
    time.sleep(0.05)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nx-cost: 0.1\r\n"]
)
def test_a_success_that_is_cut_within_its_headers_may_be_charged(
    gateway: Gateway, client: SegmindClient, spool: Path, head: bytes
) -> None:
    gateway.routes[V1] = Reply(raw=head)
    answer = client.generate(BODY, spool)
    assert result(answer) == (Outcome.UNUSABLE, "cut")
    assert answer.charge is (Charge.YES if b"cost" in head else Charge.POSSIBLE)
    assert len(gateway.requests) == 1


def test_a_kept_connection_that_breaks_under_a_post_is_not_tried_again(
    gateway: Gateway, client: SegmindClient, spool: Path
) -> None:
    gateway.routes[V1] = [Reply(body=picture()), Reply(reset=True), Reply(body=picture()), Reply(raw=b"")]
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
    assert result(client.generate(BODY, spool)) == (Outcome.LOST, "connection_lost")
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
    assert result(client.generate(BODY, spool)) == (Outcome.LOST, "connection_lost")
    assert [request.connection for request in gateway.requests] == [1, 1, 2, 2]


def test_a_kept_connection_that_was_closed_meanwhile_is_not_used(
    gateway: Gateway, client: SegmindClient, spool: Path
) -> None:
    gateway.routes[V1] = Reply(body=picture(), close=True)
    for _ in range(20):
        assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
        time.sleep(0.01)
    assert gateway.connections == len(gateway.requests) == 20


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_connection_waits_until_a_file_may_be_opened(
    gateway: Gateway, connect: Connect, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    gateway.routes["/v1/get-user-credits"] = Reply(body=b'{"credits": 5}')
    client = connect(base_url=f"http://{host}:{gateway.port}")
    with ExitStack() as full:
        monkeypatch.setattr("kontext_pipeline.files.time.sleep", lambda _seconds: full.close())
        full.enter_context(no_descriptors())
        assert client.credits().total == 5


def test_where_no_file_may_be_opened_for_long_nothing_is_sent_and_the_reason_is_said(
    gateway: Gateway, client: SegmindClient, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kontext_pipeline.files.DESCRIPTOR_WAIT_S", 0.0)
    with no_descriptors():
        answer = client.generate(BODY, spool)
    assert answer.outcome is Outcome.UNREACHABLE
    assert answer.charge is Charge.NO
    assert os.strerror(errno.EMFILE) in str(answer.error)
    assert gateway.requests == []


class Clock:
    """Stands for the module `time`; runs with it, and can be put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def test_a_connection_is_kept_but_not_for_long(
    gateway: Gateway, client: SegmindClient, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(connections, "time", clock)

    def take_long(_: Request) -> Reply:
        clock.ahead += 2 * connections.IDLE_LIMIT_S
        return Reply(body=picture())

    # A call that takes longer than the limit does not make its connection stale.
    gateway.routes[V1] = take_long
    client.generate(BODY, spool)
    client.generate(BODY, spool)
    gateway.routes[V1] = Reply(500, b"{}")
    client.generate(BODY, spool)
    clock.ahead += connections.IDLE_LIMIT_S
    client.generate(BODY, spool)
    assert [request.connection for request in gateway.requests] == [1, 1, 1, 2]


def test_a_refused_connection_sent_nothing(connect: Connect, spool: Path, closed_port: int) -> None:
    client = connect(base_url=f"http://127.0.0.1:{closed_port}")
    answer = client.generate(BODY, spool)
    assert result(answer) == (Outcome.UNREACHABLE, "connection_refused")
    assert answer.charge is Charge.NO
    assert client.submit(BODY).outcome is Outcome.UNREACHABLE
    assert client.credits().outcome is Outcome.UNREACHABLE


def test_a_name_that_is_none_sent_nothing(connect: Connect, spool: Path) -> None:
    answer = connect(base_url=f"http://{'x' * 64}.invalid").generate(BODY, spool)
    assert answer.outcome is Outcome.UNREACHABLE


def test_a_connection_that_is_not_taken_in_time_sent_nothing(connect: Connect, spool: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        time.sleep(0.05)
        client = connect(base_url=f"http://127.0.0.1:{address[1]}", connect_timeout_s=0.3)
        answer = client.generate(BODY, spool)
        for one in waiting:
            one.close()
    assert result(answer) == (Outcome.UNREACHABLE, "connect_timeout")


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(hang=True), Outcome.LOST),
        (Reply(body=picture(), trickle_head=0.01), Outcome.UNUSABLE),
        (Reply(body=picture(), trickle=0.05), Outcome.UNUSABLE),
        (Reply(body=picture(), trickle=0.05, chunked=True), Outcome.UNUSABLE),
        (Reply(body=picture(), trickle=0.05, no_length=True), Outcome.UNUSABLE),
    ],
)
def test_a_call_ends_at_its_deadline_however_it_is_dragged_out(
    gateway: Gateway, connect: Connect, spool: Path, reply: Reply, outcome: Outcome
) -> None:
    gateway.routes[V1] = reply
    answer = connect(answer_timeout_s=1.5).generate(BODY, spool)
    # The whole answer would take minutes.
    assert result(answer) == (outcome, "answer_timeout")
    assert answer.charge is Charge.POSSIBLE
    assert answer.latency_s >= 1.5


def test_a_poll_has_a_shorter_deadline(gateway: Gateway, connect: Connect) -> None:
    gateway.routes["/v2/requests/a/status"] = Reply(hang=True)
    answer = connect(poll_timeout_s=0.3).poll(Job("a", "", ""))
    # The deadline of other calls is 300 s.
    assert result(answer) == (Outcome.LOST, "answer_timeout")


def test_a_slow_answer_within_the_deadline_is_waited_for(gateway: Gateway, connect: Connect, spool: Path) -> None:
    gateway.routes[V1] = Reply(body=picture(), delay=0.5)
    client = connect(connect_timeout_s=0.2, answer_timeout_s=5)
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED


def test_sending_a_large_request_may_take_longer_than_connecting(
    gateway: Gateway, connect: Connect, spool: Path
) -> None:
    gateway.routes[V1] = Reply(body=picture())
    gateway.reads_after = 0.5
    client = connect(connect_timeout_s=0.2, answer_timeout_s=10)
    answer = client.generate({**BODY, "input_image": "x" * 30_000_000}, spool)
    assert answer.outcome is Outcome.SUCCEEDED


def test_an_early_refusal_of_a_large_request_is_heard(gateway: Gateway, connect: Connect) -> None:
    """A server that answers 413 and closes before it has read the body."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.3)
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        client = connect(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        answer = client.submit({**BODY, "input_image": "x" * 30_000_000})
        thread.join()
    assert result(answer) == (Outcome.REJECTED, "too_large")


def test_closing_ends_what_is_in_flight_and_refuses_the_rest(
    gateway: Gateway, client: SegmindClient, spool: Path
) -> None:
    gateway.routes[V1] = Reply(hang=True)
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(client.generate, BODY, spool) for _ in range(8)]
        wait_for(lambda: len(gateway.requests) == 8)
        client.close()
        # The server would not answer at all.
        answers = [call.result(timeout=60) for call in calls]
    assert {result(answer) for answer in answers} == {(Outcome.LOST, "aborted")}
    answer = client.generate(BODY, spool)
    assert result(answer) == (Outcome.UNREACHABLE, "client_closed")
    assert answer.charge is Charge.NO
    assert len(gateway.requests) == 8


def test_many_threads_share_one_client(
    gateway: Gateway, connect: Connect, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = picture(size=(200, 200))

    gateway.routes[V1] = Reply(body=content, delay=0.1)
    client = connect(pool_size=200)
    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(lambda _: client.generate(BODY, spool), range(600)))
    assert {answer.outcome for answer in answers} == {Outcome.SUCCEEDED}
    assert len({answer.picture.path for answer in answers if answer.picture}) == 600
    assert len(gateway.requests) == 600
    assert gateway.connections <= 200
    assert "pool is full" not in caplog.text


def test_threads_at_random_faults_send_each_request_once(gateway: Gateway, connect: Connect, spool: Path) -> None:
    content = picture()
    faults = [
        Reply(body=content),
        Reply(body=content, close=True, headers={"Connection": "close"}),
        Reply(reset=True),
        Reply(body=content, cut=900),
        Reply(500, b"{}"),
        Reply(body=content, chunked=True),
        Reply(raw=b""),
    ]

    def fault(request: Request) -> Reply:
        return faults[hash(request.body) % len(faults)]

    gateway.routes[V1] = fault
    client = connect(pool_size=16)
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda seed: client.generate({"seed": seed}, spool), range(400)))
    assert len(gateway.requests) == len({request.body for request in gateway.requests}) == 400
    told = {
        Outcome.SUCCEEDED: {0, 1, 5},
        Outcome.LOST: {2, 6},
        Outcome.UNUSABLE: {3},
        Outcome.SERVER_ERROR: {4},
    }
    for seed, answer in enumerate(answers):
        assert hash(b'{"seed":%d}' % seed) % len(faults) in told[answer.outcome], answer


def open_files() -> int:
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.exists() else 0


def test_nothing_is_left_open(gateway: Gateway, connect: Connect, spool: Path) -> None:
    client = connect()
    gateway.routes[V1] = [Reply(body=picture()), Reply(500), Reply(reset=True), Reply(body=picture(), cut=9)]
    before = open_files()
    for _ in range(50):
        client.generate(BODY, spool)
    client.close()
    wait_for(lambda: open_files() <= before + 5)


def test_the_key_is_in_no_log_and_no_exception(
    gateway: Gateway, connect: Connect, spool: Path, caplog: pytest.LogCaptureFixture, closed_port: int
) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect()
    gateway.routes[V1] = [Reply(body=picture()), Reply(500), Reply(reset=True), Reply(raw=b"?\r\n\r\n")]
    answers = [client.generate(BODY, spool) for _ in range(4)]
    gateway.routes["/upload-asset"] = Reply(reset=True)
    with pytest.raises(UploadFailed) as caught:
        client.upload(b"x", "image/png")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    answers.append(connect(base_url=f"http://127.0.0.1:{closed_port}").generate(BODY, spool))
    assert "127.0.0.1" in caplog.text
    assert KEY not in caplog.text + repr(answers) + repr(client) + repr(caught.value) + str(vars(caught.value))


def test_the_end_of_a_call_leaves_the_next_call_on_its_connection_alone(gateway: Gateway) -> None:
    gateway.routes["/"] = [Reply(body=b"first"), Reply(body=b"second", trickle=0.02)]
    sender = transport.Transport(connect_timeout_s=5, pool_size=1)
    with sender.send("POST", f"{gateway.url}/", {}, body=b"x", timeout_s=5) as first:
        # Its body is read, so its connection is back in the pool and the next call takes it.
        assert b"".join(first.chunks()) == b"first"
        with sender.send("POST", f"{gateway.url}/", {}, body=b"x", timeout_s=5) as second:
            with first.call.lock:
                first.call.end(Cause.ABORTED)
            assert b"".join(second.chunks()) == b"second"
    sender.close()
    assert [request.connection for request in gateway.requests] == [1, 1]


def test_a_request_that_can_not_be_put_into_http_is_not_sent(gateway: Gateway) -> None:
    sender = transport.Transport(connect_timeout_s=5, pool_size=1)
    for url, headers in ((gateway.url, {"x": "a\nb"}), (f"{gateway.url}:x/", {}), ("http:///", {})):
        with (
            pytest.raises(transport.DisconnectedError) as caught,
            sender.send("POST", url, headers, body=b"x", timeout_s=5),
        ):
            pass
        assert not caught.value.sent
    sender.close()
    assert gateway.requests == []


# Proxies


@pytest.fixture
def no_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the environment keeps a host from being reached through a proxy."""
    for variable in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("no_exceptions")
def test_a_proxy_of_the_environment_is_used(
    gateway: Gateway, connect: Connect, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", gateway.url)
    gateway.routes[f"http://api.example.test{V1}"] = [Reply(body=picture()), Reply(reset=True)]
    client = connect(base_url="http://api.example.test")
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
    assert result(client.generate(BODY, spool)) == (Outcome.LOST, "connection_lost")


@pytest.mark.usefixtures("no_exceptions")
def test_a_socks_proxy_is_refused_as_nothing_could_be_known_of_what_it_was_sent(
    connect: Connect, spool: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("all_proxy", f"socks5h://127.0.0.1:{closed_port}")
    answer = connect(base_url="http://api.example.test").generate(BODY, spool)
    assert result(answer) == (Outcome.UNREACHABLE, "proxy")
    assert answer.error is not None
    assert "SOCKS" in answer.error


@pytest.mark.usefixtures("no_exceptions")
def test_a_proxy_that_refuses_never_saw_the_key(
    gateway: Gateway, connect: Connect, spool: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("https_proxy", gateway.url)
    gateway.routes["api.example.test:443"] = Reply(raw=b"HTTP/1.1 403 Forbidden\r\n\r\n")
    answer = connect(base_url="https://api.example.test").generate(BODY, spool)
    assert answer.outcome is Outcome.UNREACHABLE
    assert answer.error is not None
    assert "403" in answer.error
    assert [request.method for request in gateway.requests] == ["CONNECT"]
    assert KEY not in repr(gateway.requests)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port}")
    answer = connect(base_url="https://api.example.test").generate(BODY, spool)
    assert result(answer) == (Outcome.UNREACHABLE, "proxy")


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("api.example.test")]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Gateway]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Gateway(context)
    yield server
    server.stop()


def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    secure: Gateway, connect: Connect, spool: Path
) -> None:
    answer = connect(base_url=secure.url).generate(BODY, spool)
    assert result(answer) == (Outcome.UNREACHABLE, "tls")
    assert answer.error is not None
    assert "certificate" in answer.error
    assert secure.requests == []


def test_a_bundle_of_the_environment_is_trusted(
    secure: Gateway, connect: Connect, spool: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    client = connect(base_url=secure.url)
    wrong_name = connect(base_url=secure.url.replace("127.0.0.1", "localhost"))
    secure.routes[V1] = Reply(body=picture(size=(300, 300)))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.generate(BODY, spool), range(40)))
    assert {answer.outcome for answer in answers} == {Outcome.SUCCEEDED}
    assert secure.connections <= 8
    assert result(wrong_name.generate(BODY, spool)) == (Outcome.UNREACHABLE, "tls")
    secure.routes[V1] = [Reply(reset=True), Reply(hang=True), Reply(body=picture(), trickle=0.05)]
    hurried = connect(base_url=secure.url, answer_timeout_s=0.5)
    outcomes = [hurried.generate(BODY, spool).outcome for _ in range(3)]
    assert outcomes == [Outcome.LOST, Outcome.LOST, Outcome.UNUSABLE]


@pytest.mark.usefixtures("no_exceptions")
def test_what_a_tunnel_was_told_is_not_the_request(
    secure: Gateway, connect: Connect, spool: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = Tunnel(secure)
    monkeypatch.setenv("https_proxy", tunnel.url)
    url = f"https://api.example.test:{secure.port}"
    answer = connect(base_url=url).generate(BODY, spool)
    assert result(answer) == (Outcome.UNREACHABLE, "tls")
    assert (tunnel.connects, secure.requests) == (1, [])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    secure.routes[V1] = [Reply(body=picture()), Reply(reset=True), Reply(body=picture())]
    client = connect(base_url=url)
    outcomes = [client.generate(BODY, spool).outcome for _ in range(3)]
    assert outcomes == [Outcome.SUCCEEDED, Outcome.LOST, Outcome.SUCCEEDED]
    assert [request.connection for request in secure.requests] == [2, 2, 3]
    tunnel.stop()


def test_plain_text_where_tls_is_expected_sent_nothing(gateway: Gateway, connect: Connect, spool: Path) -> None:
    client = connect(base_url=gateway.url.replace("http:", "https:"), connect_timeout_s=1)
    assert client.generate(BODY, spool).outcome is Outcome.UNREACHABLE
    assert KEY not in repr(gateway.requests)


def test_the_shipped_bundle_is_trusted_unless_the_environment_names_one(
    secure: Gateway, connect: Connect, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    assert result(connect(base_url=secure.url).generate(BODY, spool)) == (Outcome.UNREACHABLE, "tls")


def test_a_bundle_that_cannot_be_read_is_said_at_once(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")
    with pytest.raises(SettingsError, match=r"/nowhere/bundle\.pem"):
        connect()
