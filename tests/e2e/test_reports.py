"""Reports from the core, through the record and the message of the server, to the client."""

import json
from dataclasses import replace

import pytest

from metanas_client.convert import model_info
from metanas_data.metrics import measure
from metanas_data.report import Confusion, LeaveOneOut, Report, SuspiciousImage
from metanas_server.api.answers import write_model
from metanas_server.resources import ModelRecord

ESTIMATE = LeaveOneOut(
    accuracy=0.5,
    low=0.2,
    high=0.8,
    classes=measure(["a", "b", "c"], [0, 1, 1], [0, 0, 1], [0.9, 0.8, 0.7]).classes,
    confusions=(Confusion(label="b", predicted="a", images=1),),
    suspicious=(
        SuspiciousImage(index=1, label="b", looks_like="a", probability=0.01, likely=True),
        SuspiciousImage(index=0, label="a", looks_like="b", probability=0.4, likely=False),
    ),
    weakest="b",
)


@pytest.mark.parametrize("estimate", [None, ESTIMATE, replace(ESTIMATE, weakest="")])
def test_the_client_has_the_report_of_the_core(estimate: LeaveOneOut | None) -> None:
    report = Report(
        checkpoint="tiny",
        checkpoint_digest="ab",
        prior={"tiny": 0.75, "other": 0.25},
        architecture={"tiny": 0.75, "other": 0.25},
        over_budget=0.125,
        support_digest="cd",
        seed=2**32 - 1,
        options={"steps": 4, "head": "ridge", "weight_lr": 0.1, "bilevel": True},
        ways=3,
        shots=(1, 2, 0),
        leave_one_out=estimate,
        temperature=0.8,
        steps=4,
        tuning_steps=2,
        steps_saved=1,
        seconds={"tune": 0.5, "adapt": 0.25},
        parameters=100,
        macs=2**40,
        onnx_bytes=5000,
        accuracy_soft=1.0,
        accuracy_pruned=0.75,
        accuracy=0.8,
        logit_gap=0.01,
        onnx_difference=1e-6,
        meta_genotype_distance=2,
        genotype={"normal": [[[0, "a"], [1, "b"]]], "reduce": []},
    )
    record = ModelRecord(
        id="m",
        checkpoint="tiny",
        sha256="00",
        size_bytes=5000,
        labels=("a", "b", "c"),
        genotype_json='{"normal": [[[0, "a"], [1, "b"]]], "reduce": []}',
        report_json=report.to_json(),
        create_time=0,
    )
    received = model_info(write_model(record)).report
    assert received == report
    assert list(received.seconds) == ["tune", "adapt"]
    if estimate is not None:  # older releases did not know the weakest class
        older = json.loads(record.report_json)
        del older["leave_one_out"]["weakest"]
        sent = write_model(replace(record, report_json=json.dumps(older)))
        received = model_info(sent).report
        assert received is not None
        assert received.leave_one_out == replace(estimate, weakest=None)
