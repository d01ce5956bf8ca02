"""Programs that a command starts."""

import signal
import subprocess
import sys
import time

import psutil
import pytest
from launch import ROOT

RUNS = """
import os, sys
from hvdkit_cli.building.process import run_for
run_for([sys.executable, "-c", "import time; time.sleep(60)"],
        os.environ, 50)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_run_for_leaves_nothing_behind_whatever_ends_it(number):
    process = subprocess.Popen([sys.executable, "-c", RUNS], cwd=ROOT)
    family = psutil.Process(process.pid)
    deadline = time.monotonic() + 20
    while not (children := family.children()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(10)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
