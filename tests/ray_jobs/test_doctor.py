import shutil
import socket
from collections.abc import Iterator
from importlib import metadata
from types import SimpleNamespace

import pytest

from ray_jobs import doctor
from ray_jobs.doctor import CHECKS, Finding


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_answers_and_advises_where_it_complains(check) -> None:
    finding = check()
    assert isinstance(finding, Finding)
    assert finding.check
    assert finding.found
    assert bool(finding.advice) == (finding.level != "ok")


def test_the_probe_sees_a_taken_port(taken_port: int) -> None:
    assert doctor._answers("127.0.0.1", taken_port)


@pytest.mark.parametrize("port", [8000, 8265])
def test_a_taken_port_is_reported(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_answers", lambda host, asked: asked == port)
    finding = doctor.free_ports()
    assert finding.level == "note"
    assert finding.found == f"in use: {port}"
    assert "port=8001" in finding.advice


def test_an_address_that_does_not_answer_has_to_be_fixed(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken_port}")
    assert doctor.ray_address().level == "ok"
    monkeypatch.setattr(doctor, "_answers", lambda host, port: False)
    finding = doctor.ray_address()
    assert (finding.level, finding.found) == ("fix", f"nothing answers at 127.0.0.1:{taken_port}")
    assert "unset RAY_ADDRESS" in finding.advice


@pytest.mark.parametrize(("version", "level"), [("2.59.1", "fix"), ("2.60.0", "ok"), ("3.0.0", "ok")])
def test_an_old_ray_is_refused(version: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert doctor.ray_version().level == level


@pytest.mark.parametrize(("free", "level"), [(1, "fix"), (5, "note"), (50, "ok")])
def test_disk_levels(free: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * doctor.GIB))
    finding = doctor.disk()
    assert finding.level == level
    assert bool(finding.advice) == (level != "ok")


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("note", 0), ("fix", 1)])
def test_only_what_has_to_be_fixed_fails(
    level, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = (lambda: Finding("fine", "ok", "there"), lambda: Finding("thing", level, "here", "turn it off"))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert doctor.main([]) == status
    out = capsys.readouterr().out
    assert "thing: turn it off" in out
    assert ("FIX" in out) == (level == "fix")
