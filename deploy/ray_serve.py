"""Overtone on Ray Serve: `serve run deploy.ray_serve:app max_replicas=4`, or `serve deploy deploy/ray_serve.yaml`."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from app.errors import BadRequest
from app.settings import Settings
from deploy.ray_ingress import Ingress
from deploy.ray_replica import Replica


class Arguments(BaseModel):
    """Of the builder. Everything else is a setting of Overtone, here or as `OVERTONE_*` in the environment."""

    model_config = ConfigDict(extra="forbid")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    num_gpus: float = Field(1, ge=0, description="for each replica; 0: on the CPU")
    num_cpus: float = Field(1, ge=0, description="for each replica")
    ingress_cpus: float = Field(0.5, ge=0)
    target_ongoing_requests: float = Field(32, gt=0, description="for each replica; more of them add replicas")
    max_ongoing_requests: int = Field(
        64, ge=1, description="for each replica, as many as decode at a time; beyond it another replica takes over"
    )
    max_queued_requests: int = Field(1024, ge=1, description="waiting while all are full; beyond it 429")
    upscale_delay_s: float = Field(30, ge=0)
    downscale_delay_s: float = Field(600, ge=0)
    settings: dict[str, Any] = Field({}, description="settings by name: {'model': …, 'shared_adapters': …}")


def app(arguments: Arguments) -> Application:
    """The application; `serve run` and `serve deploy` call it. Raises BadRequest for what cannot work."""
    settings = Settings(**arguments.settings)
    if max(arguments.max_replicas, arguments.min_replicas) > 1 and not settings.shared_adapters:
        raise BadRequest("More than one replica needs a store that they share: set OVERTONE_SHARED_ADAPTERS.")
    most = max(arguments.max_replicas, arguments.min_replicas)
    replicas = serve.deployment(
        Replica,
        name="Overtone",
        ray_actor_options={"num_gpus": arguments.num_gpus, "num_cpus": arguments.num_cpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=most,
            target_ongoing_requests=arguments.target_ongoing_requests,
            upscale_delay_s=arguments.upscale_delay_s,
            downscale_delay_s=arguments.downscale_delay_s,
        ),
        request_router_config=RequestRouterConfig(request_router_class="deploy.ray_router:AdapterRouter"),
        max_ongoing_requests=arguments.max_ongoing_requests,
        max_queued_requests=arguments.max_queued_requests,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_seconds + 10,
    )
    door = serve.deployment(
        Ingress,
        name="Ingress",
        num_replicas=1,
        ray_actor_options={"num_cpus": arguments.ingress_cpus},
        max_ongoing_requests=most * arguments.max_ongoing_requests + arguments.max_queued_requests,
        graceful_shutdown_timeout_s=settings.drain_seconds + 10,
    )
    return door.bind(replicas.bind(arguments.settings), arguments.settings)
