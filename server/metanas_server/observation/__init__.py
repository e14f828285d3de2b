"""Observation: metrics of a server, its log, its traces, and the watchdog of its event loop.

Calls, durations and snapshots enter. The text that Prometheus reads, lines of the log, and spans
for a collector leave.
"""
