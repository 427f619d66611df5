"""What reaches the console and what the log file, each command in a process of its own as users have it."""

import subprocess
import sys

LIBRARY = """
import logging, sys, warnings
from pathlib import Path
from rivegs_mllm.runtime.logs import log_to, quiet_unless_verbose, take_flags

rest, flags = take_flags(sys.argv[1:])
quiet_unless_verbose(flags)
logging.getLogger("library").warning("before the run")
deepspeed = logging.getLogger("DeepSpeed")
deepspeed.propagate = False
deepspeed.addHandler(logging.StreamHandler(sys.stdout))
with log_to(Path(rest[0])):
    logging.getLogger("library").warning("within the run")
    deepspeed.warning("has a handler of its own")
    warnings.warn("soon removed", FutureWarning)
print("the result")
"""

COMMAND = "import sys; from rivegs_mllm.cli import main; sys.exit(main())"


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", LIBRARY, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
    )


def test_only_the_result_is_on_the_console_and_the_rest_in_the_log(tmp_path):
    done = run(tmp_path / "log.txt")
    assert (done.stdout, done.stderr) == ("the result\n", "")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    for text in ("library: before the run", "library: within the run", "DeepSpeed: has a handler", "FutureWarning"):
        assert sum(text in line for line in lines) == 1, text


def test_verbose_shows_it_and_so_does_the_variable(tmp_path):
    for done in (run(tmp_path / "log.txt", "--verbose"), run(tmp_path / "log.txt", RIVEGS_LOG="debug")):
        for text in ("before the run", "within the run", "has a handler", "soon removed"):
            assert text in done.stdout + done.stderr
    assert not (tmp_path / "log.txt").exists()


def test_another_word_in_the_variable_is_refused(tmp_path):
    done = run(tmp_path / "log.txt", RIVEGS_LOG="quiet")
    assert "RIVEGS_LOG: 'quiet' is not known; set it to debug, or not at all" in done.stderr


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path):
    done = run(tmp_path / "gone" / "log.txt")
    assert (done.stdout, done.stderr, done.returncode) == ("the result\n", "", 0)


def test_debug_shows_the_trace_of_an_error(tmp_path):
    command = [sys.executable, "-c", COMMAND, "audit", str(tmp_path / "none")]
    plain = subprocess.run(command, capture_output=True, text=True)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert plain.returncode == debug.returncode == 2
    assert plain.stderr.startswith("error: ")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert debug.stderr.endswith(plain.stderr)
