"""Opens the engine that an environment variable names."""

from data.engine.local import LocalEngine
from data.engine.pool import PoolEngine
from data.environment import read_settings
from data.errors import EngineUnavailable


def open_engine(workers: int | None = None, threads: int | None = None) -> PoolEngine:
    """Open the engine that IMAGEN_ENGINE names.

    Args:
        workers: Number of workers; by default IMAGEN_WORKERS.
        threads: Threads per worker; by default the cores divided by the workers.

    Raises:
        EngineUnavailable: Ray is not installed, or its cluster does not answer.
        SettingsError: An environment variable has an invalid value.
    """
    settings = read_settings()
    workers, stall_timeout = workers or settings.workers, 60 * settings.shard_minutes
    if settings.engine == "local":
        return LocalEngine(workers, threads, stall_timeout)
    try:
        from data.engine.ray import RayEngine
    except ImportError:
        raise EngineUnavailable("the engine ray needs its package: pip install 'imagen[ray]'") from None
    return RayEngine(workers, threads, stall_timeout, settings.worker_cpus, settings.worker_gpus)
