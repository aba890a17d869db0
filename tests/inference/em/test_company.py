"""A killed process: its companions say so and leave, and all of them go on from the checkpoint."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Kills itself at its fourth pass, before or in the middle of it; `pause` keeps a pass from its sum.
WORKER = """
import json, os, signal, sys, time
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
folder, address, index, count, dies, pause, name = sys.argv[1:]
index, count = int(index), int(count)
if count > 1:
    bound = address if index == 0 else None
    jax.distributed.initialize(address, count, index, coordinator_bind_address=bound)
import triptych
from triptych.inference import rows as reading
from triptych.inference.em.streamed import StreamedProblem
reading.BLOCK_BYTES = 4000
answer, placed, passes = StreamedProblem.answer, StreamedProblem._on, [0, 0]

def watched(problem, stacked):
    passes[:] = passes[0] + 1, 0
    if passes[0] == 4 and dies == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if passes[0] == 4 and pause == "pause":
        time.sleep(60)
    return answer(problem, stacked)

def on(problem, block, mesh):
    passes[1] += 1
    if passes == [4, 3] and dies == "within":
        os.kill(os.getpid(), signal.SIGKILL)
    return placed(problem, block, mesh)

StreamedProblem.answer, StreamedProblem._on = watched, on
path = folder + "/x.npy"
em = triptych.EM(triptych.GaussianMixture(2), draws=0, tol=0, max_steps=9)
start = em.init(jax.random.key(0), np.load(path)[:300]).parameters
rows = triptych.rows(path, split=True)
fit = em.run(jax.random.key(0), rows, parameters=start, checkpoint=f"{folder}/{name}")
found = {site: value.tolist() for site, value in fit.parameters.items()}
print(json.dumps([fit.objective.tolist(), found, passes[0]]))
"""


class Runs:
    """Starts workers on one table."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        groups = random.normal(size=(700, 3)), random.normal(size=(503, 3)) * [1, 2, 0.5] + [3, 1, 0]
        np.save(folder / "x.npy", random.permutation(np.concatenate(groups)))
        self.folder = folder

    def start(self, name: str, *dies: str, pause: str = "") -> list[subprocess.Popen[str]]:
        """Start one process for each of `dies`: "", "before" or "within" its fourth pass."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        common = [sys.executable, "-c", WORKER, str(self.folder), address]
        return [
            subprocess.Popen(
                [*common, str(index), str(len(dies)), each, "" if each else pause, name],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
            )
            for index, each in enumerate(dies)
        ]

    def ended(self, *processes: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
        """Wait for processes: exit code, output, errors."""
        found = []
        for process in processes:
            output, errors = process.communicate(timeout=240)
            found.append((process.returncode, output, errors))
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dies", "pause", "words"),
    [
        # Told of by the sum that fails, in Python.
        (("", "before"), "", "Another process that shares the rows has ended, so process 0 of 2 ends too."),
        # The coordinator: JAX aborts the other in the middle of its pass.
        (("before", ""), "pause", "Process 1 of 2 was ended during its fit"),
    ],
)
def test_a_killed_process_ends_the_run_in_words_and_all_go_on(
    tmp_path: Path, dies: tuple[str, str], pause: str, words: str
) -> None:
    runs = Runs(tmp_path)
    ((code, output, _),) = runs.ended(*runs.start("undisturbed", ""))
    assert code == 0
    objective, parameters, passes = json.loads(output.splitlines()[-1])
    assert passes == 9

    ends = runs.ended(*runs.start("state", *dies, pause=pause))
    (survivor,) = (end for end, how in zip(ends, dies, strict=True) if not how)
    (victim,) = (end for end, how in zip(ends, dies, strict=True) if how)
    assert victim[0] == -signal.SIGKILL
    assert survivor[0] != 0
    assert words in survivor[2]
    assert f"Start all of them again: they go on from {tmp_path}/state." in survivor[2]
    assert (tmp_path / "state").is_file()

    for code, output, errors in runs.ended(*runs.start("state", "", "")):
        assert code == 0, errors
        again, found, passes = json.loads(output.splitlines()[-1])
        assert passes == 9 - 3
        np.testing.assert_allclose(again, objective, rtol=1e-12)
        for site, value in parameters.items():
            np.testing.assert_allclose(found[site], value, rtol=1e-10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_a_pass_begins_that_pass_again(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    (whole,), (killed,) = (
        runs.ended(*started) for started in (runs.start("whole", ""), runs.start("state", "within"))
    )
    assert killed[0] == -signal.SIGKILL
    ((code, output, errors),) = runs.ended(*runs.start("state", ""))
    assert code == 0, errors
    (objective, parameters, _), again = (json.loads(each.splitlines()[-1]) for each in (whole[1], output))
    assert again == [objective, parameters, 9 - 3]
