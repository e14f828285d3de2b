"""Evaluation of exported models over episodes, with confidence intervals and paired comparisons.

A checkpoint and a data set enter; stored results leave. An interrupted evaluation resumes from its
journal.
"""
