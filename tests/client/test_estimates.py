"""Estimates of a report in plain words."""

from dataclasses import replace

from metanas_client.estimates import estimate_rows
from metanas_data.metrics import measure
from metanas_data.report import LeaveOneOut, SuspiciousImage

LABELS = ["gravel", "sand", "a\x1bb"]
METRICS = measure(LABELS, [0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 2, 0], [0.9] * 7)
WRONG = SuspiciousImage(index=1, label="gravel", looks_like="sand", probability=0.01, likely=True)
ESTIMATE = LeaveOneOut(
    accuracy=0.61,
    low=0.3,
    high=0.86,
    classes=METRICS.classes,
    confusions=tuple(METRICS.mistakes()),
    suspicious=(WRONG, replace(WRONG, index=2, likely=False)),
    weakest="a\x1bb",
)


def test_a_report_in_plain_words() -> None:
    rows = dict(estimate_rows(ESTIMATE, ["0.png", "1.png", "2.png"]))
    assert rows == {
        "accuracy on new images": "61.0 % (probably 30 to 86 %; estimate)",
        "weakest classes": "gravel (1 of 3 recognised), a\\x1bb (1 of 2 recognised)",
        "confused": "gravel for sand (2×), a\\x1bb for gravel (1×)",
        "probably mislabelled": "1.png (in gravel, looks like sand)",
        "add images first to": "a\\x1bb",
    }
    assert "image 1 (in" in dict(estimate_rows(ESTIMATE))["probably mislabelled"]


def test_no_class_may_need_more_images_than_others() -> None:
    rows = dict(estimate_rows(replace(ESTIMATE, weakest="")))
    assert rows["add images first to"] == "no class in particular"


def test_the_weakest_class_of_an_older_release_is_unknown() -> None:
    rows = dict(estimate_rows(replace(ESTIMATE, weakest=None)))
    assert rows["add images first to"].startswith("unknown: an older release")


def test_one_image_a_class_gives_no_estimate() -> None:
    assert estimate_rows(None) == [
        ("accuracy on new images", "unknown: an estimate needs two images of a class")
    ]


def test_long_lists_are_cut() -> None:
    many = replace(ESTIMATE, suspicious=(WRONG,) * 5)
    shown = dict(estimate_rows(many))["probably mislabelled"]
    assert shown.count("looks like") == 3
    assert shown.endswith(" and 2 more")
