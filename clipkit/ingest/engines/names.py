"""The engines by the names that the command line knows."""

from collections.abc import Mapping

from clipkit.errors import ConfigError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines.engine import Engine
from clipkit.ingest.engines.extras import expect_extra
from clipkit.ingest.engines.img2dataset import with_img2dataset
from clipkit.ingest.engines.local import local
from clipkit.ingest.engines.ray import on_ray
from clipkit.ingest.engines.spark import on_spark

ENGINES: Mapping[str, Engine] = {
    "local": local,
    "ray": on_ray,
    "spark": on_spark,
    "img2dataset": with_img2dataset,
}
"""What they need is imported when they are run."""

_EXTRAS = {"ray": "ray", "spark": "pyspark", "img2dataset": "img2dataset"}


def chosen(name: str, config: IngestConfig) -> Engine:
    """Return the engine `name`, before anything is begun with it.

    Raises ConfigError for settings that it cannot heed, EngineError if its package is not there.
    """
    if name == "img2dataset" and config.proxy:
        raise ConfigError(
            "--engine img2dataset: expected no --proxy, that tool takes its own from the environment; "
            "set http_proxy and https_proxy"
        )
    if name in _EXTRAS:
        expect_extra(_EXTRAS[name], name)
    return ENGINES[name]
