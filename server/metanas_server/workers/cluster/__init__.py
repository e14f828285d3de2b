"""Workers as actors of a Ray cluster: the launcher, the driver process and the actor.

```
front ──pipe──▶ driver process ──Ray──▶ actors, one a worker
```

The messages of `metanas_server.workers.protocol` pass through unchanged, except for files that the
host of an actor may not have. Only `driver` imports Ray, and an actor imports torch.
"""
