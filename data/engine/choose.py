"""Which engine the environment asks for."""

from data.engine.local import LocalEngine
from data.engine.pool import PoolEngine
from data.environment import read_settings
from data.errors import EngineUnavailable


def open_engine(workers: int | None = None, threads: int | None = None) -> PoolEngine:
    """The engine that the environment asks for, with so many workers, of so many threads each."""
    said = read_settings()
    workers, patience = workers or said.workers, 60 * said.shard_minutes
    if said.engine == "local":
        return LocalEngine(workers, threads, patience)
    try:
        from data.engine.ray import RayEngine
    except ImportError:
        raise EngineUnavailable("the engine ray needs its package: pip install 'imagen[ray]'") from None
    return RayEngine(workers, threads, patience, said.worker_cpus, said.worker_gpus)
