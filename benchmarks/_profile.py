"""Where the time of a call goes, by torch's profiler: parts of the whole, not seconds.

Profiling slows small kernels down, so the parts are for comparison with each other only.
"""

from collections.abc import Callable, Mapping

from torch.profiler import ProfilerActivity, profile

KINDS: Mapping[str, tuple[str, ...]] = {
    "convolution": ("conv", "mkldnn"),
    "matrix product": ("mm", "dot", "linear"),
    "pooling": ("pool",),
    "norm": ("norm", "var_mean", "rsqrt", "var"),
    "copy": ("copy", "cat", "clone", "stack", "contiguous", "pad", "index", "select", "slice"),
}
"""A kind of kernel -> what the names of its kernels contain; the first that fits counts."""
OPTIMIZER, BACKWARD = "Optimizer.step", "autograd::engine::evaluate_function"
PARTS = ("forward", "backward", "optimizer", *KINDS, "other kernels")


def parts_of(call: Callable[[], object]) -> dict[str, float]:
    """Parts of the time: forward, backward and optimizer sum to 1, and so do the kinds of kernels.

    Forward is what is neither of the two others.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    events = profiler.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    kinds = dict.fromkeys((*KINDS, "other kernels"), 0.0)
    stages = {"backward": 0.0, "optimizer": 0.0}
    for event in events:
        kinds[_kind(event.key)] += event.self_cpu_time_total / whole
        for name, prefix in (("backward", BACKWARD), ("optimizer", OPTIMIZER)):
            if event.key.startswith(prefix):
                stages[name] += event.cpu_time_total / whole
    return {"forward": 1 - sum(stages.values()), **stages, **kinds}


def _kind(name: str) -> str:
    lower = name.lower()
    fits = (kind for kind, words in KINDS.items() if any(word in lower for word in words))
    return next(fits, "other kernels")
