"""Training jobs in their order: queued, started as child processes, watched, ended, found again after a crash."""

import logging
import threading
from collections import Counter
from collections.abc import Callable

from app.errors import Conflict, NotFound, StorageError
from app.jobs.child import Child
from app.jobs.events import summary
from app.jobs.job import RESUMABLE, STATES, Asked, Job, Options, State, now
from app.jobs.outcome import outcome
from app.jobs.quotas import Quotas, Sizes, Use, by_turns
from app.jobs.store import JobStore, size_of

log = logging.getLogger(__name__)
GRACE_S = 20.0  # for a checkpoint, between SIGTERM and SIGKILL


class Jobs:
    """Safe to use from any thread; every method but the watching of children takes milliseconds.

    ``command``: the words that run a job. ``shortage``: why the device has no room for one now, or None.
    ``published``: called when a trainer says that an adapter is in the registry. ``quotas``: of each tenant.
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
        self._timers: dict[str, threading.Timer] = {}
        self._late: set[str] = set()  # told to end because their time is over
        self._jobs: dict[str, Job] = {}
        self._children: dict[str, Child] = {}
        self._watchers: dict[str, threading.Thread] = {}
        self._lock = threading.RLock()
        self.closing = False

    def open(self) -> None:
        """Read the folder, adopt what still runs, judge what has ended meanwhile, start what is due.

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
            for identity in self._children:
                self._stop(self._jobs[identity], "interrupted")
            watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher.join()
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
        """What a tenant's jobs take now; of callers without a tenant, with None. Reads their folders."""
        with self._lock:
            jobs = [job.model_copy() for job in self._jobs.values() if job.owner == owner]
        waiting = sum(job.state == "queued" for job in jobs)
        return Use(waiting, len(jobs), self._sizes.of(jobs, self.store.root))

    def check_quota(self, owner: str | None) -> None:
        """Whether a tenant may ask for one more job. Raises QueueFull or Conflict."""
        use = self.use(owner)
        self.quotas.check_waiting(use.waiting)
        self.quotas.check_kept(owner, use.kept, use.disk)

    def check_room(self) -> None:
        """Raises Conflict when the device has no room for a job.

        Not asked while another one runs, since its memory will be free again; it is asked once more at the start.
        """
        with self._lock:
            busy = bool(self._children)
        reason = None if busy else self._shortage()
        if reason:
            raise Conflict(reason)

    def submit(self, identity: str, options: Options, dataset: str, owner: str | None = None) -> Job:
        """Queue a job whose folder has been drafted. Raises QueueFull or StorageError."""
        with self._lock:
            self.quotas.check_waiting(sum(job.owner == owner for job in self._queue()))
            job = Job(id=identity, options=options, dataset=dataset, owner=owner, created=now(), queued=now())
            self.store.save(job)
            self._jobs[identity] = job
            self._start_due()
            return job.model_copy()

    def cancel(self, identity: str) -> Job:
        """End a running job, forget a queued one. Raises NotFound, and Conflict when it is over."""
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
            self._sizes.forget(identity)
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
        self._sizes.forget(identity)
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
        return by_turns(waiting, [self._jobs[identity].owner for identity in self._children], self._served)

    def _start_due(self) -> None:
        while not self.closing and len(self._children) < self._limit and (waiting := self._queue()):
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
        """A job that ran when the service died."""
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
        self._children[job.id] = child
        watcher = threading.Thread(target=self._until_over, args=(job, child), name=f"job-{job.id}", daemon=True)
        self._watchers[job.id] = watcher
        timer = self._timers[job.id] = threading.Timer(self._seconds_left(job), self._end_late, [job.id, child])
        timer.daemon = True
        timer.start()
        watcher.start()

    def _seconds_left(self, job: Job) -> float:
        """Of the time that one run may take, whoever started it."""
        gone = (now() - job.started).total_seconds() if job.started else 0.0
        return min(max(0.0, self.quotas.hours * 3600 - gone), threading.TIMEOUT_MAX)

    def _end_late(self, identity: str, child: Child) -> None:
        """Runs on a timer's thread: the job's time is over."""
        with self._lock:
            if self._children.get(identity) is child:
                self._late.add(identity)
                self._stop(self._jobs[identity], "interrupted")

    def _until_over(self, job: Job, child: Child) -> None:
        """Runs on the watcher's thread."""
        code = child.wait()
        fields = self._end(job, code)  # reads files, and the registry: outside the lock
        with self._lock:
            del self._children[job.id], self._watchers[job.id]
            self._timers.pop(job.id).cancel()
            if job.id in self._late and fields["state"] == "interrupted":
                hours = f"{self.quotas.hours:g} hours (OVERTONE_JOB_HOURS)"
                fields["error"] = f"The run took longer than {hours}; resume it from its last checkpoint."
            self._late.discard(job.id)
            self._change(job, **fields)
            self._start_due()

    def _end(self, job: Job, code: int | None) -> dict[str, object]:
        """What a job becomes whose process has ended."""
        gone: dict[str, object] = {"exit_code": code, "ended": now(), "pid": None}
        try:
            told = summary(self.store.events(job.id), job.read_from)
            state, error = outcome(code, job.asked, told, self.store.log(job.id))
        except OSError as problem:
            return gone | {"state": "failed", "error": f"The job's files cannot be read ({problem.strerror})."}
        if state == "succeeded":
            self._publish()
        return gone | {"state": state, "error": error, "told": told}

    def _publish(self) -> None:
        """Whoever sees the job succeeded finds its adapter served."""
        try:
            self._published()
        except Exception:
            log.exception("the registry could not be read again; its watch will")

    def _stop(self, job: Job, why: Asked) -> None:
        self._change(job, asked=job.asked or why)
        self._children[job.id].stop(self._grace_s)

    def _change(self, job: Job, **fields: object) -> None:
        """What is true stays true in memory, also when the disk refuses; the events tell it after a restart."""
        for name, value in fields.items():
            setattr(job, name, value)
        try:
            self.store.save(job)
        except StorageError:
            log.exception("the state %s of job %s could not be written", job.state, job.id)
