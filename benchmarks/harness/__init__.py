"""The shared parts of benchmarks: workloads, timing, facts of the machine, results and tables."""
