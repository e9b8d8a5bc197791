"""The engines by the names that the command line knows."""

from collections.abc import Mapping

from clipkit.ingest.engines.engine import Engine
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

ON_THIS_MACHINE = (local, with_img2dataset)
