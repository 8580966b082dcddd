"""The command line's frame: exit codes, messages, progress, and a quick `--help`."""

import os
import pty
import re
import subprocess
import sys

import pytest
import typer

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts import main
from reinfuse.scripts._shell import ExitCode, NotTrusted, clock, guarded, progress

HEAVY = {"numpy", "scipy", "pandas", "xarray", "numba", "pymc", "pytensor", "arviz", "matplotlib", "nutpie"}


def reinfuse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "reinfuse.scripts.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        # a wide plain page, whatever the terminal of the person who runs the tests
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", **environment},
    )


def ending(action) -> int:
    return guarded(action)


def raising(error: BaseException):
    def action():
        raise error

    return action


class TestApplication:
    def test_help_lists_exactly_the_commands_that_exist(self):
        page = reinfuse("--help")
        listed = [line.split()[1] for line in page.stdout.splitlines() if re.match(r"^│ [a-z]+ ", line)]
        assert page.returncode == 0
        assert tuple(listed) == main.available()
        assert "models" in listed

    def test_help_of_every_command_has_the_notice(self):
        command = typer.main.get_command(main.build())
        for name in main.available():
            subcommand = command.commands[name]
            assert subcommand.help, f"{name} has no help text"
            assert subcommand.epilog == NOTICE
            assert re.search(rf"[Ee]xamples?:\s.*`reinfuse\s+{name}\b", subcommand.help, re.S), f"{name}: no example"

    @pytest.mark.parametrize(
        ("typed", "offered"), [(["re"], ["retreat", "report"]), (["fit", "--th"], ["--thin"]), (["fit", "--xy"], [])]
    )
    def test_the_shell_completes_commands_and_options(self, typed, offered):
        asked = {"COMP_WORDS": " ".join(["reinfuse", *typed]), "COMP_CWORD": str(len(typed))}
        answer = reinfuse(**asked, _REINFUSE_COMPLETE="complete_bash")
        assert answer.stdout.split() == offered, answer.stderr

    def test_the_script_for_the_shell_is_shown_and_installed(self, tmp_path):
        def typed(option):  # Typer asks which shell started it; `exit` keeps bash from stepping aside
            words = ["bash", "-c", f"'{sys.executable}' -m reinfuse.scripts.main {option}; exit $?"]
            environment = {**os.environ, "HOME": str(tmp_path)}
            return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout

        script = typed("--show-completion").strip()
        assert "_REINFUSE_COMPLETE=complete_bash" in script
        typed("--install-completion")
        [installed] = (tmp_path / ".bash_completions").iterdir()
        assert installed.read_text().strip() == script
        assert str(installed) in (tmp_path / ".bashrc").read_text()

    def test_help_imports_nothing_heavy(self):
        program = (
            "import sys; from reinfuse.scripts.main import build; build(); "
            "print(*{name.split('.')[0] for name in sys.modules})"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert HEAVY & set(done.stdout.split()) == set()

    def test_version_shows_the_notice(self):
        shown = reinfuse("--version")
        assert re.fullmatch(rf"reinfuse \d+\.\d+\.\d+\S*\n{re.escape(NOTICE)}\n", shown.stdout)
        assert shown.returncode == ExitCode.DONE

    @pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"], ["models", "surplus"]])
    def test_wrong_usage_ends_with_2_and_no_traceback(self, arguments):
        shown = reinfuse(*arguments)
        assert shown.returncode == ExitCode.BAD_INPUT
        assert arguments[-1] in shown.stderr
        assert "Traceback" not in shown.stderr


class TestEndings:
    def test_done(self):
        assert ending(lambda: None) == ExitCode.DONE

    def test_bad_input_is_one_message_without_traceback(self, capsys):
        assert ending(raising(ReinfuseError("dose must be > 0, got -1"))) == ExitCode.BAD_INPUT
        assert capsys.readouterr().err == "Error: dose must be > 0, got -1\n"

    def test_not_trusted(self, capsys):
        assert ending(raising(NotTrusted("R-hat 1.2: raise --tune"))) == ExitCode.NOT_TRUSTED
        assert "R-hat 1.2: raise --tune" in capsys.readouterr().err

    def test_our_fault_shows_the_traceback(self, capsys):
        assert ending(raising(KeyError("slot"))) == ExitCode.OUR_FAULT
        message = capsys.readouterr().err
        assert "Traceback" in message
        assert "This is a fault of reinfuse" in message

    def test_interrupted(self):
        assert ending(raising(KeyboardInterrupt())) == ExitCode.INTERRUPTED

    def test_interrupted_inside_a_command(self):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(raising(KeyboardInterrupt()))
        assert ending(lambda: typer.main.get_command(app).main(args=[])) == ExitCode.INTERRUPTED

    def test_a_path_of_the_users_is_bad_input(self, tmp_path, capsys):
        missing = tmp_path / "missing.csv"
        assert ending(missing.read_text) == ExitCode.BAD_INPUT
        assert str(missing) in capsys.readouterr().err

    def test_a_missing_file_of_ours_is_our_fault(self):
        def read_bundled_file():
            from pathlib import Path

            Path(main.__file__).with_name("missing.toml").read_text()

        assert ending(read_bundled_file) == ExitCode.OUR_FAULT

    @pytest.mark.parametrize(("code", "status"), [(None, 0), (3, 3), ("words", 1)])
    def test_exit_statuses_pass_through(self, code, status):
        assert ending(raising(SystemExit(code))) == status


class TestProgress:
    def test_plain_lines_come_at_every_tenth(self, capsys):
        with progress("Sampling", total=200) as tick:
            for _ in range(200):
                tick(1)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "Sampling: started"
        assert [re.search(r"(\d+)%", line)[1] for line in lines[1:]] == [str(10 * k) for k in range(1, 11)]
        assert all("elapsed" in line and "left" in line for line in lines[1:])

    def test_notes_are_shown_and_overshoot_stops_at_the_end(self, capsys):
        with progress("Sampling", total=0.3) as tick:
            tick.advance(0.1, note="2 divergences")
            tick.advance(5.0)
            tick.advance(5.0)
        lines = capsys.readouterr().err.splitlines()
        assert lines[1].endswith("2 divergences")
        assert [re.search(r"(\d+)%", line)[1] for line in lines[1:]] == ["33", "100"]

    @pytest.mark.parametrize("total", [0, -1, float("nan")])
    def test_no_work_is_refused(self, total):
        with pytest.raises(ValueError, match="total > 0"), progress("Sampling", total=total):
            pass

    def test_a_terminal_gets_a_bar(self):
        program = (
            "from reinfuse.scripts._shell import progress\n"
            "with progress('Sampling', total=4) as tick:\n"
            "    tick(1)\n"
            "    tick.advance(3, note='done')\n"
        )
        ours, theirs = pty.openpty()
        with subprocess.Popen([sys.executable, "-c", program], stderr=theirs, env={**os.environ, "TERM": "xterm"}):
            os.close(theirs)
            shown = b""
            # Linux reports the end of a pseudo-terminal as an error
            try:
                while block := os.read(ours, 4096):
                    shown += block
            except OSError:
                pass
        os.close(ours)
        assert b"Sampling" in shown
        assert b"100%" in shown
        assert b"left" in shown

    @pytest.mark.parametrize(("seconds", "shown"), [(0.2, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
    def test_clock(self, seconds, shown):
        assert clock(seconds) == shown
