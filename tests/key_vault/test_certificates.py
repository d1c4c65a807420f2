"""The throw-away certificates and the clock, on which every stand-in rests."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sandbox.certificates import Certificates, certificates
from sandbox.clock import Clock


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1"])
def test_a_strict_client_accepts_the_server_under_each_of_its_names(tmp_path: Path, name: str) -> None:
    """Python 3.13 verifies chain, key usage and name, with the authority's file as all it trusts."""
    made = certificates(tmp_path)
    assert greet(made, ssl.create_default_context(cafile=str(made.ca)), name) == "fine"


def test_a_client_that_does_not_know_the_authority_refuses(tmp_path: Path) -> None:
    """Nothing but the authority's file makes the server trusted."""
    assert "CERTIFICATE_VERIFY_FAILED" in greet(certificates(tmp_path), ssl.create_default_context(), "localhost")


def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    """PostgreSQL refuses to start with a key that others can read."""
    made = certificates(tmp_path / "new")
    assert [path.stat().st_mode & 0o777 for path in (made.ca, made.server)] == [0o600, 0o600]


def test_certificates_are_made_once_and_again_before_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that start one after the other share an authority; one that ends within a day is replaced."""
    monkeypatch.setattr("sandbox.certificates.VALIDITY", timedelta(hours=23))
    ending = certificates(tmp_path).ca.read_bytes()
    monkeypatch.undo()
    lasting = certificates(tmp_path).ca.read_bytes()
    assert ending != lasting == certificates(tmp_path).ca.read_bytes()
    ends = x509.load_pem_x509_certificate(lasting).not_valid_after_utc
    assert timedelta(days=6) < ends - datetime.now(UTC) < timedelta(days=8)


def test_the_clock_runs_and_is_moved_forward_only() -> None:
    """It starts at the present, in UTC."""
    clock = Clock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    clock.advance(timedelta(days=60))
    assert clock.now() - datetime.now(UTC) > timedelta(days=59)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(timedelta(seconds=-1))


def greet(made: Certificates, client: ssl.SSLContext, name: str) -> str:
    """Shake hands without a network; return "fine" or why the client refuses."""
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with made.tls().wrap_socket(far, server_side=True) as connection:
                connection.recv(1)
        except OSError:
            far.close()

    server = threading.Thread(target=serve)
    server.start()
    try:
        with client.wrap_socket(near, server_hostname=name):
            return "fine"
    except ssl.SSLCertVerificationError as error:
        return str(error)
    finally:
        near.close()
        server.join()
