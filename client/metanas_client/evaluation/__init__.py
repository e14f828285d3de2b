"""Evaluation of a server over episodes of a data set, with a journal that survives interruptions.

A folder or pack of labelled images enters; accuracies with confidence intervals leave.
"""
