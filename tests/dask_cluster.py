"""A Dask cluster of this machine, in a process of its own: prints its address, ends with its input.

python -m tests.dask_cluster WORKERS [CODE]

CODE is run in each worker before it starts.
"""

import logging
import sys

from distributed import LocalCluster


def main():
    """Each worker is a process of one thread."""
    with LocalCluster(
        n_workers=int(sys.argv[1]), threads_per_worker=1, processes=True, memory_limit=0,
        dashboard_address=None, worker_dashboard_address=None, host="127.0.0.1",
        preload=[f"{code}\n" for code in sys.argv[2:]], silence_logs=logging.ERROR,
    ) as cluster:  # fmt: skip
        pids = [nanny.pid for nanny in cluster.workers.values()]
        print(cluster.scheduler_address, *pids, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
