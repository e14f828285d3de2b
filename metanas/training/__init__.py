"""Meta-training: configuration, meta-learners, inner loop, task batches, trainer and Ray.

A configuration and a data set enter; a checkpoint leaves. The number of worker processes, their
speed and their deaths change no bit of it.
"""
