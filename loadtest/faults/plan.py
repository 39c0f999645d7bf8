"""What goes wrong in a seed, and when: drawn before the simulation begins, from the seed alone."""

from random import Random
from typing import NamedTuple

from loadtest.faults.market import DURATION_MS, START_MS

PROCESSES = 16
#: The balancer notices a process that does not answer after this long, and asks another.
BALANCER_MS = 2_000
#: A paused process is replaced by another of its name after this long, if it is taken for dead.
REPLACED_AFTER_MS = 12_000


class Span(NamedTuple):
    """Something is away from `at_ms` on, for so long."""

    at_ms: int
    for_ms: int
    slot: int = 0
    replaced: bool = False


class Step(NamedTuple):
    """A process's wall clock is set."""

    at_ms: int
    slot: int
    by_ms: int


class Chances(NamedTuple):
    """Probabilities of what happens to one message."""

    sync_lost: float = 0.0
    answer_lost: float = 0.0
    answer_slow: float = 0.0
    notice_lost: float = 0.0
    notice_late: float = 0.0
    notice_twice: float = 0.0
    loss_before_bill: float = 0.0


class Faults(NamedTuple):
    """One seed's faults; the default is none at all."""

    skews_ms: tuple[int, ...] = (0,) * PROCESSES
    ledger_skew_ms: int = 0
    kills: tuple[Span, ...] = ()
    pauses: tuple[Span, ...] = ()
    grantor: tuple[Span, ...] = ()
    ledger: tuple[Span, ...] = ()
    ledger_kills: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()
    chances: Chances = Chances()


def faults(seed: int, density: int = 1) -> Faults:
    """Return a seed's faults: every kind of them, every time; `density` times as many kills, pauses and clock steps."""
    chance = Random(f"faults {seed}")  # noqa: S311 - to be reproduced, not kept secret

    def at(last_ms: int = 0) -> int:
        return START_MS + chance.randrange(5_000, DURATION_MS - 5_000 - last_ms)

    def slot() -> int:
        return chance.randrange(PROCESSES)

    skews = [chance.randint(-2_000, 2_000) for _ in range(PROCESSES)]
    for off in chance.sample(range(PROCESSES), 4):
        skews[off] = chance.choice((-1, 1)) * chance.randint(60_000, 600_000)
    return Faults(
        skews_ms=tuple(skews),
        ledger_skew_ms=chance.randint(-2_000, 2_000),
        kills=tuple(Span(at(), chance.randint(1_000, 5_000), slot()) for _ in range(8 * density)),
        pauses=tuple(
            Span(at(), chance.choice((3_000, 10_000, 20_000, 45_000, 150_000)), slot(), chance.random() < 0.5)
            for _ in range(6 * density)
        ),
        grantor=(Span(at(60_000), 60_000), Span(at(8_000), 8_000)),
        ledger=(Span(at(20_000), 20_000),),
        ledger_kills=tuple(at() for _ in range(6 * density)),
        steps=tuple(
            Step(at(), slot(), chance.choice((-1, 1)) * chance.choice((700, 5_000, 60_000, 300_000)))
            for _ in range(6 * density)
        ),
        chances=Chances(0.01, 0.01, 0.02, 0.003, 0.01, 0.03, 0.003),
    )
