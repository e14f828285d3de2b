"""Take the snapshot of jobs and workers for the metrics."""

import time
from collections import Counter

from metanas_server.jobs.job_table import JobTable
from metanas_server.observation.snapshot import Snapshot, WorkerFigures
from metanas_server.resources import State
from metanas_server.workers.pool import WorkerPool


def snapshot(table: JobTable, pool: WorkerPool) -> Snapshot:
    """Return the jobs and workers of this moment."""
    jobs = [job for job in table.jobs.values() if not job.ended.is_set()]
    queued = [job.record for job in jobs if job.record.state is State.QUEUED]
    oldest = min((record.create_time for record in queued), default=time.time_ns())
    loads = Counter(job.worker for job in jobs)
    return Snapshot(
        adaptations={State.QUEUED: len(queued), State.RUNNING: len(jobs) - len(queued)},
        oldest_wait=max(0, time.time_ns() - oldest) / 1e9,
        workers=tuple(
            WorkerFigures(
                device=each.device, pid=each.pid, ready=each.ready, adaptations=loads[each]
            )
            for each in pool.workers
        ),
        restarts=pool.restarts,
    )
