"""The stand-ins are there in processes that start anew and load fairchem first."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import submitit
import torch
from fairchem.core.common.utils import scatter_det
from fairchem.core.datasets.lmdb_dataset import data_list_collater
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.utils.data import DataLoader

from piwsl_ocp.ocp import self_check

VALUES, GROUPS = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 0, 1])
SUMS = [3.0, 5.0]


def test_a_submitted_job_uses_fairchem(tmp_path):
    executor = submitit.LocalExecutor(folder=str(tmp_path))
    executor.update_parameters(timeout_min=5)
    job = executor.submit(self_check.training_step, "painn")
    assert job.result() == "forward and backward, 9701 parameters"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_process_that_unpickles_fairchem_first(start_method):
    context = multiprocessing.get_context(start_method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(scatter_det, VALUES, GROUPS).result().tolist() == SUMS


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Put the handlers of signals back; torch's elastic launcher leaves its own behind."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_handlers")
def test_elastic_processes_that_unpickle_fairchem_first():
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="stand-ins",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    results = elastic_launch(settings, scatter_det)(VALUES, GROUPS)
    assert [sums.tolist() for sums in results.values()] == [SUMS, SUMS]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_loader_workers_that_unpickle_fairchem_first(start_method):
    loader = DataLoader(
        [self_check.ethanol()] * 4,
        batch_size=2,
        num_workers=1,
        multiprocessing_context=start_method,
        collate_fn=partial(data_list_collater, otf_graph=True),
    )
    assert [batch.natoms.tolist() for batch in loader] == [[9, 9], [9, 9]]


def test_a_loader_worker_reads_an_lmdb(tmp_path):
    assert self_check.loader_worker(tmp_path) == "2 batches through a worker"
