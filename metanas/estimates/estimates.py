"""All estimates of a report together."""

from metanas.estimates.accuracy import accuracy_of, interval_of, metrics_of
from metanas.estimates.left_out import LeftOut
from metanas.estimates.suspicious import suspicious_of
from metanas.estimates.weakest import weakest_of
from metanas_data.report import LeaveOneOut

MOST_CONFUSIONS = 20
"""Most pairs of confused classes in a report."""


def estimates_of(left: LeftOut) -> LeaveOneOut:
    """Return the estimates from images that are left out."""
    accuracy, metrics = accuracy_of(left), metrics_of(left)
    low, high = interval_of(left, accuracy)
    return LeaveOneOut(
        accuracy=accuracy,
        low=low,
        high=high,
        classes=metrics.classes,
        confusions=tuple(metrics.mistakes()[:MOST_CONFUSIONS]),
        suspicious=suspicious_of(left),
        weakest=weakest_of(left, metrics),
    )
