"""A Ray cluster on this machine that serves Overtone, until its standard input closes.

`python -m tests.cluster.server PORT '{builder arguments as JSON}'` prints `ready` once requests are answered.
"""

import json
import os
import shutil
import sys
import tempfile

import ray
from ray import serve

from deploy.ray_serve import Arguments, app


def main(port: int, arguments: dict[str, object]) -> None:
    folder = tempfile.mkdtemp(prefix="ray")
    ray.init(
        num_cpus=8,  # as many as are wanted, however few there are
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=150 << 20,
        log_to_driver=False,
        _temp_dir=folder,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(Arguments.model_validate(arguments)), name="overtone")
        print("ready", flush=True)  # noqa: T201
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
