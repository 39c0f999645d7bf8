"""The batcher on a clock and with a device that do what a test says: whose rows, by when, how many, and what if not."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from dsp.kernel import metrics
from dsp.kernel.clock import ManualClock, SystemClock
from dsp.kernel.metrics import Fallback
from loadtest.day import loop as simulated
from models.serving.batcher import IN_FLIGHT_MAX, Batcher, ThreadWorker
from tests.waiting import until

ROWS_MAX, WAIT_MS, QUEUE_MAX = 10, 2.0, 30
ENDLESS_MS = 100_000


@dataclass
class Device:
    """Stands for the thread: what is put waits until the test lets it run, unless it takes `ms` each."""

    clock: ManualClock
    ms: int | None = None
    waiting: list[Callable[[], None]] = field(default_factory=list)
    running: bool = True

    def start(self) -> None: ...

    def stop(self) -> None:
        self.running = False

    def put(self, work: Callable[[], None]) -> None:
        self.waiting.append(work)
        if self.ms is not None and len(self.waiting) == 1:
            asyncio.get_running_loop().call_later(self.ms / 1_000, self._next)

    def let(self) -> None:
        """Run what has waited longest."""
        self.waiting.pop(0)()

    def _next(self) -> None:
        self.let()
        if self.waiting and self.ms is not None:
            asyncio.get_running_loop().call_later(self.ms / 1_000, self._next)


@dataclass(eq=False)
class Model:
    """Gives each item back with its own name, and notes the batches; may be broken or lose an item."""

    name: str = "m"
    batches: list[list[Any]] = field(default_factory=list)
    broken: bool = False
    lossy: bool = False

    def run(self, staged: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(staged))
        if self.broken:
            raise RuntimeError("no")
        return [(self.name, item) for item in staged][1 if self.lossy else 0 :]


@dataclass
class Bench:
    clock: ManualClock = field(default_factory=ManualClock)
    model: Model = field(default_factory=Model)

    def __post_init__(self) -> None:
        self.device = Device(self.clock)
        self.batcher = Batcher(ROWS_MAX, WAIT_MS, QUEUE_MAX, self.clock, self.device)

    def submit(
        self, item: Any, rows: int = 1, patience_ms: float = 50.0, model: Model | None = None
    ) -> asyncio.Future[Any]:
        return self.batcher.submit((model or self.model).run, item, rows, patience_ms)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        simulated.run(work, self.clock)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def turn() -> None:
    """Let callbacks run that are due now."""
    for _ in range(3):
        await asyncio.sleep(0)


def fallbacks(reason: Fallback) -> float:
    (found,) = [
        sample.value
        for family in metrics.PREDICT_FALLBACKS.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels == {"reason": reason.value}
    ] or [0.0]
    return found


def test_the_clock_starts_at_the_first_item_and_each_gets_its_own(bench: Bench) -> None:
    async def work() -> None:
        first = bench.submit("a")
        await asyncio.sleep(0.001)
        second = bench.submit("b")
        assert not bench.device.waiting
        await asyncio.sleep(0.001)
        bench.device.let()
        assert [await first, await second] == [("m", "a"), ("m", "b")]
        assert bench.model.batches == [["a", "b"]]

    bench.run(work())


def test_a_full_batch_leaves_at_once_and_takes_no_more_than_fit(bench: Bench) -> None:
    async def work() -> None:
        answers = [bench.submit(number, rows=4) for number in range(3)]
        assert len(bench.device.waiting) == 2  # the first two fill one; the third has waited for them and is due too
        bench.device.let()
        bench.device.let()
        assert [await answer for answer in answers] == [("m", number) for number in range(3)]
        assert bench.model.batches == [[0, 1], [2]]
        for number in range(2):
            bench.submit(number, rows=ROWS_MAX // 2)
        assert len(bench.device.waiting) == 1

    bench.run(work())


def test_the_clock_of_one_batch_does_not_send_the_next_one_off(bench: Bench) -> None:
    async def work() -> None:
        bench.submit("a")
        await asyncio.sleep(0.001)
        bench.submit("b")
        await asyncio.sleep(0.001)
        assert len(bench.device.waiting) == 1
        bench.submit("c")
        bench.batcher.report()
        assert REGISTRY.get_sample_value("dsp_batch_queue_rows") == 1
        await asyncio.sleep(0.001)  # as long as "b" could have waited, and not as long as "c"
        await turn()
        assert len(bench.device.waiting) == 1
        await asyncio.sleep(0.001)
        assert len(bench.device.waiting) == 2

    bench.run(work())


def test_while_batches_run_the_next_gathers_and_leaves_when_one_is_done(bench: Bench) -> None:
    async def work() -> None:
        answers = [bench.submit(number, rows=ROWS_MAX) for number in range(IN_FLIGHT_MAX)]
        answers += [bench.submit(f"late {number}") for number in range(3)]
        await asyncio.sleep(0.010)
        assert len(bench.device.waiting) == IN_FLIGHT_MAX
        bench.device.let()
        await turn()
        assert len(bench.device.waiting) == IN_FLIGHT_MAX
        bench.device.let()
        bench.device.let()
        await asyncio.gather(*answers)
        assert bench.model.batches == [[0], [1], ["late 0", "late 1", "late 2"]]

    bench.run(work())


def test_the_end_of_a_batch_does_not_stop_the_clock_of_the_next(bench: Bench) -> None:
    async def work() -> None:
        full = bench.submit("full", rows=ROWS_MAX)
        later = bench.submit("later")
        bench.device.let()
        assert await full == ("m", "full")
        await asyncio.sleep(0.002)
        bench.device.let()
        assert await later == ("m", "later")

    bench.run(work())


def test_an_item_whose_time_runs_out_is_given_up_while_others_wait_on(bench: Bench) -> None:
    async def work() -> None:
        before = fallbacks(Fallback.EXPIRED)
        short, long = bench.submit("short", patience_ms=5), bench.submit("long")
        assert await short is None
        assert bench.clock.now_ms() - began == 5
        bench.device.let()
        assert await long == ("m", "long")
        assert fallbacks(Fallback.EXPIRED) == before + 1

    began = bench.clock.now_ms()
    bench.run(work())


def test_each_item_is_given_up_when_its_own_time_runs_out_whichever_came_first(bench: Bench) -> None:
    async def work() -> None:
        patience_ms = [40.0, 10.0, 70.0, 20.0, 10.0]
        began_ms, expired = bench.clock.now_ms(), fallbacks(Fallback.EXPIRED)
        waiting = [bench.submit(number, patience_ms=ms) for number, ms in enumerate(patience_ms)]
        given_up_ms: dict[int, float] = {}
        for number, answer in enumerate(waiting):
            answer.add_done_callback(
                lambda _, number=number: given_up_ms.setdefault(number, bench.clock.now_ms() - began_ms)
            )
        assert await asyncio.gather(*waiting) == [None] * 5  # they ran for ever
        assert [given_up_ms[number] for number in range(5)] == patience_ms
        assert fallbacks(Fallback.EXPIRED) == expired + 5
        late = bench.submit("late", patience_ms=30.0)  # nothing waited when it came
        assert await late is None
        assert bench.clock.now_ms() - began_ms == 70 + 30

    bench.run(work())


def test_an_item_in_a_hurry_does_not_wait_for_company(bench: Bench) -> None:
    async def work() -> None:
        bench.submit("patient", patience_ms=5)
        assert not bench.device.waiting
        bench.submit("hasty", patience_ms=WAIT_MS - 1)
        assert len(bench.device.waiting) == 1

    bench.run(work())


def test_who_is_in_a_hurry_depends_on_how_long_a_run_takes(bench: Bench) -> None:
    def slow(staged: Sequence[Any]) -> Sequence[Any]:
        bench.clock.advance(20)
        return staged

    async def work() -> None:
        answer = bench.batcher.submit(slow, "a", ROWS_MAX, ENDLESS_MS)
        bench.device.let()
        assert await answer == "a"
        bench.submit("patient", patience_ms=WAIT_MS + 21)
        assert not bench.device.waiting
        bench.submit("hasty", patience_ms=WAIT_MS + 19)
        assert len(bench.device.waiting) == 1

    bench.run(work())


def test_what_nobody_waits_for_is_not_run(bench: Bench) -> None:
    async def work() -> None:
        async def client(name: str) -> Any:
            return await bench.submit(name)

        gone, here = asyncio.ensure_future(client("gone")), asyncio.ensure_future(client("here"))
        await turn()
        gone.cancel()
        await asyncio.sleep(0.002)
        bench.device.let()
        assert await here == ("m", "here")
        assert bench.model.batches == [["here"]]

    bench.run(work())


def test_a_client_that_goes_in_mid_run_disturbs_nobody(bench: Bench) -> None:
    async def work() -> None:
        gone, here = bench.submit("gone"), bench.submit("here")
        await asyncio.sleep(0.002)
        gone.cancel()
        bench.device.let()
        assert await here == ("m", "here")
        assert bench.model.batches == [["gone", "here"]]

    bench.run(work())


@pytest.mark.parametrize("fault", ["broken", "lossy"])
def test_a_batch_that_fails_is_given_up_and_the_next_one_runs(bench: Bench, fault: str) -> None:
    async def work() -> None:
        before = fallbacks(Fallback.FAILED)
        setattr(bench.model, fault, True)
        answers = [bench.submit(number) for number in range(3)]
        await asyncio.sleep(0.002)
        bench.device.let()
        assert await asyncio.gather(*answers) == [None] * 3
        assert fallbacks(Fallback.FAILED) == before + 3
        setattr(bench.model, fault, False)
        again = bench.submit("again")
        await asyncio.sleep(0.002)
        bench.device.let()
        assert await again == ("m", "again")

    bench.run(work())


def test_beyond_the_bound_the_prior_answers_at_once(bench: Bench) -> None:
    async def work() -> None:
        before = fallbacks(Fallback.QUEUE_FULL)
        for number in range(IN_FLIGHT_MAX):
            bench.submit(number, rows=ROWS_MAX)
        waiting = [bench.submit(number, rows=ROWS_MAX, patience_ms=20) for number in range(QUEUE_MAX // ROWS_MAX)]
        assert bench.batcher.rows == QUEUE_MAX
        refused = bench.submit("refused")
        assert refused.done()
        assert await refused is None
        assert fallbacks(Fallback.QUEUE_FULL) == before + 1
        await asyncio.gather(*waiting)  # a device that hangs: their time runs out, and makes room
        assert not bench.submit("taken").done()

    bench.run(work())


def test_models_swapped_in_mid_flight_answer_their_own_items(bench: Bench) -> None:
    async def work() -> None:
        old, new = Model("old"), Model("new")
        answers = [bench.submit(number, model=model) for number, model in enumerate([old, old, new, new, old])]
        await asyncio.sleep(0.002)
        while bench.device.waiting:
            bench.device.let()
            await turn()
        names = ["old", "old", "new", "new", "old"]
        assert await asyncio.gather(*answers) == [(name, number) for number, name in enumerate(names)]
        assert (old.batches, new.batches) == ([[0, 1], [4]], [[2, 3]])

    bench.run(work())


def test_it_drains_at_the_end_and_takes_no_more(bench: Bench) -> None:
    async def work() -> None:
        bench.device.ms = 1
        answers = [bench.submit(number, rows=6) for number in range(5)]
        await bench.batcher.stop(1.0)
        assert [await answer for answer in answers] == [("m", number) for number in range(5)]
        assert await bench.submit("late") is None
        assert not bench.device.running

    bench.run(work())


def test_a_device_that_hangs_holds_up_no_end(bench: Bench) -> None:
    async def work() -> None:
        answers = [bench.submit(number, rows=ROWS_MAX, patience_ms=2_000) for number in range(4)]
        await bench.batcher.stop(0.1)
        assert await answers[-1] is None
        assert bench.clock.now_ms() - began == 100
        for _ in range(IN_FLIGHT_MAX):  # it comes back after all
            bench.device.let()
        assert await answers[0] == ("m", 0)

    began = bench.clock.now_ms()
    bench.run(work())


REQUESTS = st.tuples(
    st.integers(0, 3),  # ms after the one before
    st.integers(1, ROWS_MAX),
    st.one_of(st.integers(1, 30), st.just(ENDLESS_MS)),  # patience
    st.sampled_from("ab"),
    st.one_of(st.none(), st.integers(0, 10)),  # the client leaves after so many ms
)


def test_ends_that_differ_by_rounding_are_one(bench: Bench) -> None:
    async def work() -> None:
        await asyncio.sleep(0.011)
        bench.submit("a", patience_ms=11.0)
        await asyncio.sleep(0.010)
        began = bench.clock.now_ms()
        assert await bench.submit("b", patience_ms=1.0) is None  # 0.021 + 0.001 is more than 0.011 + 0.011
        assert bench.clock.now_ms() - began == 1

    bench.run(work())


@settings(max_examples=200)
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=40), run_ms=st.integers(1, 12), broken=st.sampled_from(["", "a"])
)
def test_whatever_comes_everybody_is_answered_in_time_with_what_is_theirs(
    requests: list[tuple[int, int, int, str, int | None]], run_ms: int, broken: str
) -> None:
    bench = Bench()
    bench.device.ms = run_ms
    models = {name: Model(name, broken=name == broken) for name in "ab"}
    taken = {}

    async def client(number: int, rows: int, patience_ms: int, name: str, leaves_ms: int | None) -> None:
        answer = bench.submit((number, rows), rows, patience_ms, models[name])
        refused = answer.done()
        if not refused:
            taken[number] = name
        assert bench.batcher.rows <= QUEUE_MAX
        if leaves_ms is not None:
            asyncio.get_running_loop().call_later(leaves_ms / 1_000, answer.cancel)
        began = bench.clock.now_ms()
        try:
            found = await answer
        except asyncio.CancelledError:
            return
        assert bench.clock.now_ms() - began <= patience_ms
        assert found in (None, (name, (number, rows)))
        if name == broken or refused:
            assert found is None
        elif patience_ms == ENDLESS_MS:
            assert found is not None

    async def work() -> None:
        clients = []
        for number, (gap_ms, *request) in enumerate(requests):
            await asyncio.sleep(gap_ms / 1_000)
            clients.append(asyncio.ensure_future(client(number, *request)))
        await asyncio.gather(*clients)
        await bench.batcher.stop(10.0)
        assert bench.batcher.rows == 0

    bench.run(work())
    for name, model in models.items():
        for batch in model.batches:
            assert sum(rows for _, rows in batch) <= ROWS_MAX
            assert all(taken[number] == name for number, _ in batch)
        order = [number for batch in model.batches for number, _ in batch]
        assert all(before < after for before, after in pairwise(order))


async def test_a_thread_runs_batches_and_the_loop_hears_of_it() -> None:
    model, clock = Model(), SystemClock()
    batcher = Batcher(ROWS_MAX, WAIT_MS, 1_000, clock, ThreadWorker())
    await batcher.start()
    answers = [batcher.submit(model.run, number, 3, 5_000.0) for number in range(100)]
    assert await asyncio.gather(*answers) == [("m", number) for number in range(100)]
    await batcher.stop(5.0)
    await until(lambda: "batcher" not in [one.name for one in threading.enumerate()])
