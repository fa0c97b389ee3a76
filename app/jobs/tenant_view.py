"""The training jobs of one caller, without those of other tenants."""

from app.access.caller import Caller
from app.errors import NotFound
from app.jobs.job import Job, Options
from app.jobs.quotas import Quotas, Use
from app.jobs.runner import Jobs
from app.jobs.store import JobStore
from app.registry.tenant_view import TenantRegistry


class TenantJobs:
    """As `Jobs`; every method that takes an id raises NotFound for one that the caller does not see."""

    def __init__(self, whole: Jobs, registry: TenantRegistry) -> None:
        self._whole = whole
        self._registry = registry

    @property
    def caller(self) -> Caller:
        return self._registry.caller

    @property
    def store(self) -> JobStore:
        return self._whole.store

    def all(self) -> list[Job]:
        """The caller's jobs, newest first."""
        return [job for job in self._whole.all() if self._sees(job)]

    def get(self, identity: str) -> Job:
        """A copy of a job as it stands now."""
        job = self._whole.get(identity)
        if not self._sees(job):
            raise NotFound(f"There is no training job {identity[:80]!r}; GET /training/jobs lists them.")
        return job

    def position(self, identity: str) -> int | None:
        """Place in the queue, which all tenants share."""
        return self._whole.position(identity)

    def check_memory(self) -> None:
        """See `Jobs.check_memory`."""
        self._whole.check_memory()

    @property
    def quotas(self) -> Quotas:
        return self._whole.quotas

    def use(self, tenant: str | None) -> Use:
        """See `Jobs.use`."""
        return self._whole.use(tenant)

    def check_quota(self) -> None:
        """See `Jobs.check_quota`."""
        self._whole.check_quota(self.caller.tenant)

    def bytes_left(self, most: int) -> int:
        """Bytes that a new data set of this caller may take, ``most`` at most."""
        tenant = self.caller.tenant
        return most if tenant is None else self._whole.quotas.bytes_left(tenant, self._whole.use(tenant).disk, most)

    def submit(self, identity: str, options: Options, dataset: str, also: str | None = None) -> Job:
        """Queue a job of this caller. Raises Conflict when the name belongs to another, QueueFull, StorageError."""
        self._registry.check_may_publish(options.name)
        return self._whole.submit(identity, options, dataset, self.caller.tenant, also)

    def cancel(self, identity: str) -> Job:
        """See `Jobs.cancel`."""
        return self._whole.cancel(self.get(identity).id)

    def resume(self, identity: str) -> Job:
        """See `Jobs.resume`."""
        return self._whole.resume(self.get(identity).id)

    def purge(self, identity: str) -> Job:
        """See `Jobs.purge`."""
        return self._whole.purge(self.get(identity).id)

    def _sees(self, job: Job) -> bool:
        caller = self.caller
        if caller.tenant is not None:
            return job.owner == caller.tenant
        return caller.sees(job.options.name, job.owner)
