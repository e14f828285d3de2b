"""The metrics that the server counts while it works, in a registry of their own."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

CALL_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
STAGE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds in seconds."""


class CallMetrics:
    """Seconds of the finished calls of one kind, and the number of those in progress."""

    def __init__(self, registry: CollectorRegistry, prefix: str, noun: str, *labels: str) -> None:
        """Make the metrics.

        prefix: of their names, without "_seconds".
        noun: "calls" or "requests", for their descriptions.
        labels: names of the labels for the method, and for the code of the answer.
        """
        self._seconds = Histogram(
            f"{prefix}_seconds",
            f"Duration of finished {noun}, by {labels[0]} and {labels[1]}.",
            labels,
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self.in_progress = Gauge(
            f"{prefix}s_in_progress", f"Open {noun}, by {labels[0]}.", labels[:1], registry=registry
        )

    def finished(self, method: str, code: str, seconds: float) -> None:
        """Count a finished call."""
        self._seconds.labels(method, code).observe(seconds)


class Metrics:
    """Counters and histograms of one server. All methods may be called from any thread.

    registry: also holds the CPU time, the memory and the open files of this process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.rpcs = CallMetrics(self.registry, "metanas_rpc", "calls", "method", "code")
        self.requests = CallMetrics(
            self.registry, "metanas_http_request", "requests of the studio", "route", "status"
        )
        self._refusals = Counter(
            "metanas_refusals",
            "Calls that ended with an error, by method and reason.",
            ("method", "reason"),
            registry=self.registry,
        )
        self._caller_refusals = Counter(
            "metanas_caller_refusals",
            "Calls that ended with an error, by name of the caller's token and reason.",
            ("caller", "reason"),
            registry=self.registry,
        )
        self._waits = Histogram(
            "metanas_queue_wait_seconds",
            "Time of an adaptation in the queue before its first attempt.",
            buckets=CALL_BUCKETS,
            registry=self.registry,
        )
        self._adaptations = Histogram(
            "metanas_adaptation_seconds",
            "Time from the acceptance of an adaptation to its end, by final state.",
            ("state",),
            buckets=CALL_BUCKETS,
            registry=self.registry,
        )
        self._failures = Counter(
            "metanas_adaptation_failures",
            "Adaptations that ended without a model, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._reused = Counter(
            "metanas_reused_adaptations",
            "Requests that an earlier adaptation with the same work has answered (`reuse`).",
            registry=self.registry,
        )
        self._stages = Histogram(
            "metanas_stage_seconds",
            "Time of a stage of an adaptation that made a model.",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._lag = Histogram(
            "metanas_event_loop_lag_seconds",
            "Delay of a timer of the event loop.",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )

    def refusal(self, method: str, reason: str, caller: str) -> None:
        """Count a call that ended with an error; `caller` is empty without a known token."""
        self._refusals.labels(method, reason).inc()
        self._caller_refusals.labels(caller, reason).inc()

    def wait(self, seconds: float) -> None:
        """Count the first attempt of an adaptation that has waited for so long."""
        self._waits.observe(seconds)

    def adaptation(self, state: str, reason: str, seconds: float) -> None:
        """Count an adaptation that has ended; `reason` is empty if it made a model."""
        self._adaptations.labels(state).observe(seconds)
        if reason:
            self._failures.labels(reason).inc()

    def reuse(self) -> None:
        """Count a request that an earlier adaptation with the same work answers."""
        self._reused.inc()

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Count the stages of an adaptation that made a model."""
        for stage, duration in seconds.items():
            self._stages.labels(stage).observe(duration)

    def lag(self, seconds: float) -> None:
        """Count a timer of the event loop that was late by so long."""
        self._lag.observe(seconds)
