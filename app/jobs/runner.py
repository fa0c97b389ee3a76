"""Training jobs: queued, started as child processes in turn, watched, ended, and found again after a crash."""

import logging
import threading
from collections import Counter
from collections.abc import Callable

from app.errors import Conflict, NotFound, StorageError
from app.jobs.events import summary
from app.jobs.job import RESUMABLE, STATES, Asked, Job, Options, State, now
from app.jobs.outcome import fields_at_end
from app.jobs.process import Child
from app.jobs.quotas import Quotas, Sizes, Use, by_turns
from app.jobs.store import JobStore, size_of
from app.jobs.watch import Watch

log = logging.getLogger(__name__)
GRACE_S = 20.0  # for a checkpoint, between SIGTERM and SIGKILL


class Jobs:
    """Safe to use from any thread; every method takes milliseconds, unless it says that it blocks.

    ``command``: the command line of a job. ``shortage``: the reason why the device has no memory for a job now, or
    None. ``published``: called when a trainer reports that it published an adapter. ``quotas``: per tenant.
    """

    def __init__(
        self,
        store: JobStore,
        limit: int,
        *,
        command: Callable[[Job], list[str]],
        environment: dict[str, str],
        shortage: Callable[[], str | None],
        published: Callable[[], object],
        grace_s: float = GRACE_S,
        quotas: Quotas | None = None,
    ) -> None:
        self.store = store
        self._limit = limit
        self._command = command
        self._environment = environment
        self._shortage = shortage
        self._published = published
        self._grace_s = grace_s
        self.quotas = quotas or Quotas()
        self._sizes = Sizes()
        self._served: list[str | None] = []  # tenants, the one whose job was started last at the end
        self._jobs: dict[str, Job] = {}
        self._watches: dict[str, Watch] = {}  # of running jobs
        self._lock = threading.RLock()
        self.closing = False

    def open(self) -> None:
        """Read the folder, watch processes that still run, end jobs whose process has ended, start jobs that are due.

        Raises Conflict or StorageError as `JobStore.open` does.
        """
        with self._lock:
            self._jobs = {job.id: job for job in self.store.open()}
            for job in list(self._jobs.values()):
                if job.state == "running":
                    self._recover(job)
            self._start_due()

    def close(self) -> None:
        """End running children and mark their jobs interrupted; queued ones stay queued. Blocks for the grace time."""
        with self._lock:
            self.closing = True
            for identity in self._watches:
                self._stop(self._jobs[identity], "interrupted")
            watches = list(self._watches.values())
        for watch in watches:
            watch.join()
        self.store.close()

    def all(self) -> list[Job]:
        """Newest first."""
        with self._lock:
            jobs = sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)
        return [self._fresh(job) for job in jobs]

    def get(self, identity: str) -> Job:
        """A copy of a job as it stands now. Raises NotFound."""
        with self._lock:
            job = self._known(identity)
        return self._fresh(job)

    def counts(self) -> dict[State, int]:
        """Jobs in each state, zeros included."""
        with self._lock:
            found = Counter(job.state for job in self._jobs.values())
        return {state: found[state] for state in STATES}

    def position(self, identity: str) -> int | None:
        """Place in the queue, 1 is next; None when it does not wait."""
        with self._lock:
            waiting = [job.id for job in self._queue()]
        return waiting.index(identity) + 1 if identity in waiting else None

    def owners(self) -> list[str]:
        """Tenants that have jobs, in order."""
        with self._lock:
            return sorted({job.owner for job in self._jobs.values() if job.owner is not None})

    def use(self, owner: str | None) -> Use:
        """The resources of a tenant's jobs now; with None, of callers without a tenant. Reads their folders."""
        with self._lock:
            jobs = [job.model_copy() for job in self._jobs.values() if job.owner == owner]
        waiting = sum(job.state == "queued" for job in jobs)
        return Use(waiting, len(jobs), self._sizes.of(jobs, self.store.root))

    def check_quota(self, owner: str | None) -> None:
        """Raises QueueFull or Conflict when a tenant may not queue one more job."""
        use = self.use(owner)
        self.quotas.check_waiting(use.waiting)
        self.quotas.check_kept(owner, use.kept, use.disk)

    def check_memory(self) -> None:
        """Raises Conflict when the device has no memory for a job.

        While another job runs nothing is checked, since its memory will be free again; the start checks once more.
        """
        with self._lock:
            busy = bool(self._watches)
        reason = None if busy else self._shortage()
        if reason:
            raise Conflict(reason)

    def submit(
        self, identity: str, options: Options, dataset: str, owner: str | None = None, also: str | None = None
    ) -> Job:
        """Queue a job whose folder has been drafted; ``also``: see `Job`. Raises QueueFull or StorageError."""
        with self._lock:
            self.quotas.check_waiting(sum(job.owner == owner for job in self._queue()))
            job = Job(
                id=identity, options=options, dataset=dataset, also=also, owner=owner, created=now(), queued=now()
            )
            self.store.save(job)
            self._jobs[identity] = job
            self._start_due()
            return job.model_copy()

    def cancel(self, identity: str) -> Job:
        """End a running job, or take a queued one out of the queue. Raises NotFound, and Conflict when it is over."""
        with self._lock:
            job = self._known(identity)
            if job.over:
                raise Conflict(f"The job is over ({job.state}); `?purge=true` deletes its folder.")
            if job.state == "queued":
                self._change(job, state="cancelled", ended=now(), error="Cancelled before it began.")
            else:
                self._stop(job, "cancelled")
            return job.model_copy()

    def resume(self, identity: str) -> Job:
        """Queue a cancelled or interrupted job again; it goes on from its checkpoint.

        Raises NotFound, Conflict or QueueFull.
        """
        with self._lock:
            job = self._known(identity)
            if job.state not in RESUMABLE:
                raise Conflict(f"The job is {job.state}; only one that is cancelled or interrupted can be resumed.")
            self.quotas.check_waiting(sum(other.owner == job.owner for other in self._queue()))
            self._sizes.invalidate(identity)
            again = Job(
                id=job.id, options=job.options, dataset=job.dataset, owner=job.owner, created=job.created, queued=now()
            )
            again.read_from = size_of(self.store.events(identity))
            self.store.save(again)
            del self._jobs[identity]  # to the end of the line
            self._jobs[identity] = again
            self._start_due()
            return again.model_copy()

    def purge(self, identity: str) -> Job:
        """Delete the folder of a job that is over. Raises NotFound, Conflict or StorageError."""
        with self._lock:
            job = self._known(identity)
            if not job.over:
                raise Conflict(f"The job is {job.state}; cancel it first, then purge it.")
            del self._jobs[identity]
        self._sizes.invalidate(identity)
        self.store.delete(identity)  # may take long: outside the lock
        return job

    def _known(self, identity: str) -> Job:
        if identity not in self._jobs:
            raise NotFound(f"There is no training job {identity[:80]!r}; GET /training/jobs lists them.")
        return self._jobs[identity]

    def _fresh(self, job: Job) -> Job:
        """A copy that knows the newest events; those of a job that is over are kept in it."""
        if job.state != "running":
            return job.model_copy()
        return job.model_copy(update={"told": summary(self.store.events(job.id), job.read_from)})

    def _queue(self) -> list[Job]:
        """Waiting jobs in the order in which they start."""
        waiting = [job for job in self._jobs.values() if job.state == "queued"]
        return by_turns(waiting, [self._jobs[identity].owner for identity in self._watches], self._served)

    def _start_due(self) -> None:
        while not self.closing and len(self._watches) < self._limit and (waiting := self._queue()):
            self._start(waiting[0])

    def _start(self, job: Job) -> None:
        """Start a job's process, or end the job with the reason why not."""
        try:
            reason = self._shortage()
            if reason:
                self._change(job, state="refused", ended=now(), error=reason)
                return
            self._served = [owner for owner in self._served if owner != job.owner] + [job.owner]
            self._change(job, state="running", started=now())  # noted first: it may be found again if we die here
            child = Child.start(self._command(job), self.store.log(job.id), self._environment)
        except Exception as error:
            log.exception("the job %s could not be started", job.id)
            words = f"The trainer could not be started ({getattr(error, 'strerror', None) or type(error).__name__})."
            self._change(job, state="failed", ended=now(), error=words)
            return
        self._change(job, pid=child.pid)
        self._watch(job, child)

    def _recover(self, job: Job) -> None:
        """Watch on, or end, a job that ran when the service died."""
        word = str(self.store.events(job.id))  # on its command line, and on no other job's
        child = Child.search(word) if job.pid is None else Child.find(job.pid, word)
        if child is None:
            self._change(job, **self._end(job, None))
            return
        log.info("the job %s still runs: watching process %d on", job.id, child.pid)
        self._watch(job, child)
        if job.asked:
            child.stop(self._grace_s)

    def _watch(self, job: Job, child: Child) -> None:
        watch = Watch(
            job.id,
            child,
            self._seconds_left(job),
            ended=lambda code: self._end_run(job, code),
            late=lambda: self._end_late(job, child),
        )
        self._watches[job.id] = watch
        watch.start()

    def _seconds_left(self, job: Job) -> float:
        """Seconds left of the time that one run may take, also when another service has started it."""
        gone = (now() - job.started).total_seconds() if job.started else 0.0
        return min(max(0.0, self.quotas.hours * 3600 - gone), threading.TIMEOUT_MAX)

    def _end_late(self, job: Job, child: Child) -> None:
        """Stop a job whose time is over; runs on a timer's thread."""
        with self._lock:
            watch = self._watches.get(job.id)
            if watch is not None and watch.child is child:
                watch.is_late = True
                self._stop(job, "interrupted")

    def _end_run(self, job: Job, code: int | None) -> None:
        """Note the end of a job's process and start the next job; runs on the watch's thread."""
        fields = self._end(job, code)  # reads files, and the registry: outside the lock
        with self._lock:
            watch = self._watches.pop(job.id)
            watch.stop_timer()
            if watch.is_late and fields["state"] == "interrupted":
                hours = f"{self.quotas.hours:g} hours (OVERTONE_JOB_HOURS)"
                fields["error"] = f"The run took longer than {hours}; resume it from its last checkpoint."
            self._change(job, **fields)
            self._start_due()

    def _end(self, job: Job, code: int | None) -> dict[str, object]:
        """The fields of a job whose process has ended; the adapter of one that succeeded is served by then."""
        fields = fields_at_end(job, code, self.store)
        if fields["state"] == "succeeded":
            self._publish()
        return fields

    def _publish(self) -> None:
        try:
            self._published()
        except Exception:
            log.exception("the registry could not be read again; its watch reads it later")

    def _stop(self, job: Job, why: Asked) -> None:
        self._change(job, asked=job.asked or why)
        self._watches[job.id].child.stop(self._grace_s)

    def _change(self, job: Job, **fields: object) -> None:
        """Set fields and save the job; if the disk refuses, memory has them, and after a restart the events do."""
        for name, value in fields.items():
            setattr(job, name, value)
        try:
            self.store.save(job)
        except StorageError:
            log.exception("the state %s of job %s could not be written", job.state, job.id)
