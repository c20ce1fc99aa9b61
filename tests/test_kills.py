"""A run that is killed at any moment and started again ends with the bits of an uninterrupted one.

    python -m pytest -m long tests/test_kills.py --kills 100    # 100 at random moments, and one at every point

Points are before and after each os.fsync and os.replace of a run: of the file, of its name, of its folder. One
process imports the package once and forks for every start.
"""

import json
import os
import subprocess
import sys

import pytest
from small import TINY, bits

from bplcz_ref.training import runs

KILLS = 5  # at random moments in the normal run, and as many points

SERVER = """
import json, os, random, signal, sys, time
from bplcz_ref import systems
from bplcz_ref.training import train

folder, data, settings, kills, points = sys.argv[1:]
reader, writer = os.pipe()
settings = systems.Settings(**json.loads(settings))

def start(run, point=None, delay=None):
    # Train in a fork that is killed at a point or after a delay; whether it was.
    process = os.fork()
    if not process:
        reached = 0

        def dying(function):
            def call(*arguments):
                nonlocal reached
                for before in (True, False):
                    if reached == point:
                        os.kill(os.getpid(), signal.SIGKILL)
                    reached += 1
                    if before:
                        function(*arguments)
            return call

        os.fsync, os.replace = dying(os.fsync), dying(os.replace)
        train.train(run, data, "ebcnn-bplcz", settings, say=lambda line: None, checkpoint_seconds=0)
        os.write(writer, b"%d\\n" % reached)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL

began = time.perf_counter()
assert not start(f"{folder}/whole")
whole = time.perf_counter() - began
passed = int(os.read(reader, 10))  # points of a run
for point in range(0, passed, -(-passed // int(points or passed))):
    killed = start(f"{folder}/point-{point}", point=point)
    assert killed, f"there is no point {point}"
    assert not start(f"{folder}/point-{point}")
rng, done, run = random.Random(0), 0, 0
while done < int(kills):
    if start(f"{folder}/moment-{run}", delay=rng.uniform(0, whole)):
        done += 1
    else:
        run += 1
start(f"{folder}/moment-{run}")
assert not start(f"{folder}/whole", point=0)  # a complete run writes nothing
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork of POSIX")
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_bits(whole, small_file, tmp_path, request):
    asked = request.config.getoption("--kills")
    arguments = [
        str(tmp_path),
        str(small_file),
        json.dumps(TINY._asdict()),
        str(asked or KILLS),
        "" if asked else str(KILLS),
    ]
    command = [sys.executable, "-c", SERVER, *arguments]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "BPLCZ_THREADS": "1"}  # no threads, so it may fork
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, log, C = bits(whole), steady(whole), runs.read_confusion(whole)
    found = list(tmp_path.iterdir())
    assert len(found) > KILLS
    for run in found:
        assert bits(run) == expected, run
        assert steady(run) == log, run
        assert (runs.read_confusion(run) == C).all(), run
        assert runs.read_metrics(run)["overall_accuracy"] == runs.read_metrics(whole)["overall_accuracy"]
        assert not list(run.glob(".*.part")), run  # partial files left by killed processes


def steady(run):
    return [row | {"seconds": 0} for row in runs.read_log(run)]
