"""Evaluation of a server over the episodes of a data set, with a journal to resume from.

A folder or pack of labelled images enters; accuracies with confidence intervals leave.
"""
