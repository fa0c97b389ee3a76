"""Chooses a replica for a request by the adapter that it names.

Ray's own router for multiplexed models hands a chosen replica to whichever request waits longest, so that with many
clients a part of the requests goes elsewhere; this one gives each request the replica chosen for it.
"""

import random
import time
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

RECENT_S = 2.0  # longer than an announcement takes to come round


class AdapterRouter(RequestRouter):
    """Replicas with the adapter; else those with the fewest adapters; where those are full, any."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups to be tried in this order; of each, Ray takes the one with fewer requests."""
        adapter = ""
        if pending_request is not None:
            adapter = pending_request.metadata.multiplexed_model_id
            pending_request.routing_context.should_backoff = True
        if not adapter:
            return [_two(candidate_replicas)]
        held = {replica.replica_id: self._held(replica) for replica in candidate_replicas}
        least = min((len(adapters) for adapters in held.values()), default=0)
        home = [replica for replica in candidate_replicas if adapter in held[replica.replica_id]]
        emptiest = [replica for replica in candidate_replicas if len(held[replica.replica_id]) == least]
        if not home and emptiest:
            home = [random.choice(emptiest)]
            self._sent[adapter, home[0].replica_id] = time.monotonic()  # others that ask for it follow
        return [home, _two(emptiest), _two(candidate_replicas)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Remember where an adapter is about to be loaded, until the replica announces it."""
        if adapter := pending_request.metadata.multiplexed_model_id:
            self._sent[adapter, replica_id] = time.monotonic()

    def initialize_state(self, **_: Any) -> None:
        """Ray calls it once."""
        self._sent: dict[tuple[str, ReplicaID], float] = {}

    def _held(self, replica: RunningReplica) -> set[str]:
        """The adapters announced by a replica, and those that requests were sent there for just now."""
        since = time.monotonic() - RECENT_S
        self._sent = {key: sent for key, sent in self._sent.items() if sent > since}
        return set(replica.multiplexed_model_ids) | {name for name, where in self._sent if where == replica.replica_id}


def _two(replicas: list[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))
