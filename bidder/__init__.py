"""The process that answers bid requests and notices."""

import os

# numpy's BLAS shares what takes it longer than some hundred microseconds among threads, one a core, which wait awake
# for each other: on a core that is busy, for milliseconds at a time. It reads this when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
