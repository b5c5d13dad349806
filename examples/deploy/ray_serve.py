"""`descant serve` as replicas of Ray Serve, which starts more of them while requests wait.

    pip install "descant[ray,serve]" "ray[serve]"
    DESCANT_RUN=/models/run.yaml serve run --working-dir examples/deploy ray_serve:app

Every replica is a server of its own: its models, its batch, its queue. Fairness between clients,
limits and metrics are each replica's, and Ray sends a request to the replica with fewer of them.
The run file and what it names are read on each replica's node, once the replica starts there.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve

REPLICAS = {
    "min_replicas": int(os.environ.get("DESCANT_MIN_REPLICAS", "1")),
    "max_replicas": int(os.environ.get("DESCANT_MAX_REPLICAS", "8")),
    "target_ongoing_requests": 24,  # of a replica: fewer than its slots, which are 32
}
GPUS = float(os.environ.get("DESCANT_GPUS", "1"))  # of each replica


def replica() -> Any:
    """The ASGI application of one replica; its decode process runs when this returns."""
    from descant.inputs.runfile import read_run_file
    from descant.serve.frontend.server import Server
    from descant.serve.http.app import application
    from descant.serve.protocol.limits import Limits

    key = os.environ.get("DESCANT_API_KEY")
    server = Server(read_run_file(os.environ["DESCANT_RUN"]), Limits(), keys=[key] if key else [])
    server.start()
    routes = application(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await routes(scope, receive, send)
            return
        await receive()
        server.link.listen()  # in the event loop that the routes run in
        await send({"type": "lifespan.startup.complete"})
        await receive()
        server.stop()
        await send({"type": "lifespan.shutdown.complete"})

    return app


deployment = serve.deployment(
    name="descant",
    autoscaling_config=REPLICAS,
    max_ongoing_requests=128,  # what waits is in the replica's own fair queue
    graceful_shutdown_timeout_s=60,  # for running answers
    ray_actor_options={
        "num_gpus": GPUS,
        "runtime_env": {
            "env_vars": {k: v for k, v in os.environ.items() if k.startswith("DESCANT_")}
        },
    },
)(serve.ingress(replica)())
app = deployment.bind()
