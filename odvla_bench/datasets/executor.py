"""Who runs the shards: this process, a pool of processes, or Ray. Same bytes either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

from odvla_bench.errors import MissingDependencyError
from odvla_bench.registry import suggest

EXECUTORS = ("local", "ray")

Task = TypeVar("Task")
Result = TypeVar("Result")


def check_executor(name: str) -> None:
    """Refuse an executor that does not exist, before anything is done.

    Raises:
        UnknownNameError: the message lists what exists.
    """
    if name not in EXECUTORS:
        raise suggest(name, list(EXECUTORS), kind="executor")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    executor: str = "local",
    workers: int = 1,
    gpus: float = 0,
) -> Iterator[Result]:
    """Yield `function(task)` for every task, in the order in which they finish.

    Args:
        function: a module-level function, so that other processes can import it.
        tasks: small picklable descriptions of work.
        executor: "local", or "ray" (a cluster where `RAY_ADDRESS` points to one).
        workers: processes at a time; 1 runs in this process. Ray decides by itself.
        gpus: GPUs that Ray keeps for each task.

    Raises:
        MissingDependencyError: "ray" without Ray.
        UnknownNameError: no such executor.
    """
    check_executor(executor)
    if executor == "ray":
        yield from _run_on_ray(function, tasks, gpus)
    elif workers <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
    else:
        yield from _run_in_pool(function, tasks, min(workers, len(tasks)))


def _run_in_pool(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _run_on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], gpus: float
) -> Iterator[Result]:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("ray", extra="ray", purpose="--executor ray") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        remote = ray.remote(num_gpus=gpus)(function)
        waiting = [remote.remote(task) for task in tasks]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        if ours:
            ray.shutdown()
