"""Observation: the metrics of a server, their HTTP endpoint, and the watchdog of its event loop.

Counts, durations and snapshots enter. The text that Prometheus reads leaves.
"""
