"""Estimates about a model on new images, from its support set alone.

Features of the support images enter. Heads that were fitted without an image classify it. The
accuracy with its interval, the metrics of each class, suspicious labels, the class that needs more
images and the temperature of the probabilities leave.
"""
