"""One opened Overtone, for the HTTP API, the command line and the bench."""

from app.service.generation import GenerationInput
from app.service.service import Service

__all__ = ["GenerationInput", "Service"]
