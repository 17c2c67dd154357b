import importlib
import inspect

import pytest

from ray_jobs import cli
from usfm import __version__


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_main_and_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(cli.COMMANDS[command][0])
    assert list(inspect.signature(module.main).parameters) == ["argv"]
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: usfm {command} ")


def test_arguments_behind_the_command_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray_jobs.doctor

    seen = []
    monkeypatch.setattr(ray_jobs.doctor, "main", lambda argv: seen.append(argv) or 7)
    assert cli.main(["doctor", "a=1", "--x"]) == 7
    assert seen == [["a=1", "--x"]]


def test_an_unknown_command_exits_2_and_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrian"]) == 2
    captured = capsys.readouterr()
    assert "no command 'pretrian'" in captured.err
    assert all(f"  {name} " in captured.out for name in cli.COMMANDS)


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_the_overview_exits_0(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    captured = capsys.readouterr()
    assert all(purpose in captured.out for _, purpose in cli.COMMANDS.values())
    assert captured.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
