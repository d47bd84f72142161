"""Nothing is told unless asked for, and then once."""

import logging
import subprocess
import sys

from rich.console import Console

from verse3d.core import logs


def test_nothing_is_logged_unless_asked_for():
    program = "from verse3d.core.logs import logger; logger('verse3d.x').error('heard')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_loggers_are_named_after_their_module():
    assert logs.logger("verse3d.training.fit").name == "verse3d.training.fit"


def test_a_log_file_gets_records_until_it_is_stopped(tmp_path):
    path, log = tmp_path / "log.txt", logs.logger("verse3d.somewhere")
    path.write_text("earlier\n", encoding="utf-8")
    handler = logs.log_to_file(path)
    log.info("größer als %d", 3)
    log.debug("too fine")
    logs.stop_logging(handler)
    log.error("too late")
    earlier, line = path.read_text(encoding="utf-8").splitlines()
    assert earlier == "earlier"
    assert line.endswith(" INFO größer als 3")
    assert handler not in logging.getLogger("verse3d").handlers


def test_the_terminal_shows_records_of_its_level_once(capsys):
    console = Console(stderr=True, width=80)
    logs.log_to_terminal(console, logging.DEBUG)
    logs.log_to_terminal(console, logging.WARNING)  # replaces the first
    logs.logger("verse3d.x").info("a detail")
    logs.logger("verse3d.x").warning("a [bold]warning[/bold]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("a [bold]warning[/bold]") == 1  # no markup: file names may hold brackets
    assert "a detail" not in err
