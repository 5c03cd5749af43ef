"""A lost terminal or a stop ends the command line as an error does."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

ROOM = """
import sys, time
from airflow_provider_rtlake import cli

@cli.app.command()
def wait():
    try:
        print("at work", flush=True)
        time.sleep(30)
    finally:
        print("tidying", flush=True)
        time.sleep(0.5)
        print("tidied", flush=True)

sys.argv = ["rtlake", "wait"]
cli.main()
"""


def started(*before: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([*before, sys.executable, "-c", ROOM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_begun_is_tidied_up_and_a_second_signal_does_not_disturb_it(number: signal.Signals) -> None:
    with started("env", "--default-signal=HUP") as process:  # it may be ignored where the tests run
        process.send_signal(number)
        assert process.stdout is not None and process.stdout.readline() == "tidying\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.read() == "tidied\n"
        assert process.wait() == 128 + number


def test_what_nohup_ignores_stays_ignored() -> None:
    with started("nohup") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
