"""Clocks that jump by an hour: leases, deadlines and retention."""

from dataclasses import dataclass
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from metanas_protos.v1.adaptation_service_pb2 import ListAdaptationsRequest
from metanas_server.clock import Clock
from tests.server.calls import LONG, SUCCEEDED, Api, images, spec
from tests.server.preload import HostClock
from tests.server.processes import ENVIRONMENT, serving

HOUR = 3600 * 10**9


@dataclass
class Host:
    """The clocks of a host; both stand still until a test moves them."""

    wall: int = 10**18
    steady: int = 5

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.steady)

    def jump(self, by: int) -> None:
        self.wall += by

    def wait(self, time: int) -> None:
        self.wall += time
        self.steady += time


def test_a_clock_without_jumps_tells_the_time() -> None:
    host = Host()
    clock = host.clock()
    for _ in range(3):
        host.wait(HOUR)
        assert clock.earliest() == clock.latest() == host.wall


def test_no_jump_makes_a_use_look_older() -> None:
    for jumps in ((HOUR, -HOUR), (-HOUR, HOUR), (HOUR, HOUR, -HOUR), (-HOUR, -HOUR)):
        host = Host()
        clock = host.clock()
        noted = clock.latest()
        for jump in jumps:
            assert clock.earliest() - noted <= host.steady - 5
            host.jump(jump)
            assert clock.earliest() - noted <= host.steady - 5
            host.wait(7)
            assert clock.earliest() - noted <= host.steady - 5


def test_a_common_clock_replaces_that_of_the_host() -> None:
    host = Host()
    clock = host.clock()
    common = host.wall - HOUR
    clock.follow(common)
    assert (clock.earliest(), clock.latest()) == (common, common)
    host.jump(HOUR)
    host.wait(7)
    clock.follow(common + 7)
    assert (clock.earliest(), clock.latest()) == (common + 7, common + 7)
    clock.follow(common + 7 + HOUR)
    assert (clock.earliest(), clock.latest()) == (common + 7, common + 7 + HOUR)


def names(api: Api) -> list[str]:
    listed = api.adaptations.ListAdaptations(ListAdaptationsRequest()).adaptations
    return [each.name for each in listed]


def test_a_server_whose_clock_jumps(checkpoints: Path, tmp_path: Path) -> None:
    """The clock gains an hour while it runs, and loses two before the next start."""
    host = HostClock(tmp_path)
    environment = {**ENVIRONMENT, **host.environment}
    data, flags = tmp_path / "data", ("--max-stack=1", "--ttl=1800")
    deadline = Duration(seconds=600)
    with serving(checkpoints, data, *flags, environment=environment) as server:
        api = server.api
        done = api.end_of(api.create(spec(), images()).name)
        busy = api.create(spec(options=LONG), images()).name
        api.until_running(busy)
        before = api.create(spec(seed=1, deadline=deadline), images()).name
        host.set(3600)
        after = api.create(spec(seed=2, deadline=deadline), images()).name
        assert names(api) == [after, before, busy, done.name]
        api.cancel(busy)
        for name in (before, after):
            assert api.end_of(name).state == SUCCEEDED
        late = api.create(spec(options=LONG), images()).name
        api.until_running(late)
        server.kill()
    host.set(-3600)
    with serving(checkpoints, data, *flags, environment=environment) as server:
        api = server.api
        assert api.download(done.model)
        last = api.create(spec(seed=3), images()).name
        api.cancel(late)
        assert api.end_of(last).state == SUCCEEDED
        assert names(api) == [last, late, after, before, busy, done.name]
