"""Where Ibis expressions over the training log run: DuckDB in this process, or Spark by a setting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis  # type: ignore[import-untyped]

from models.training.config import TrainingConfig


class Engine:
    """A connection, bounded in memory: what does not fit goes to `scratch`. Spark has bounds of its own."""

    def __init__(self, config: TrainingConfig, scratch: Path) -> None:
        self._spark: Any = None
        if config.engine == "spark":
            from pyspark.sql import SparkSession  # type: ignore[import-not-found]  # extra `spark`

            self._spark = SparkSession.builder.getOrCreate()
            self._connection: Any = ibis.pyspark.connect(self._spark)
        else:
            self._connection = ibis.duckdb.connect(
                memory_limit=f"{config.engine_memory_mb}MB",
                threads=config.threads,
                temp_directory=str(scratch),
                preserve_insertion_order=False,  # every result is sorted, and keeping the order takes memory
            )

    def read(self, paths: Sequence[Path]) -> Any:
        """Return Parquet files as one table; a column that a file lacks is null there."""
        names = [str(path) for path in paths]
        if self._spark is None:
            # The folders' names must not become columns.
            return self._connection.read_parquet(names, hive_partitioning=False, union_by_name=True)
        name = ibis.util.gen_name("log")
        self._spark.read.option("mergeSchema", "true").parquet(*names).createOrReplaceTempView(name)
        return self._connection.table(name)

    def close(self) -> None:
        """Let go of memory and files."""
        self._connection.disconnect()
