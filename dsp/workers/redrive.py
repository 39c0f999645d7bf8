"""What an operator does with parked records: look at those not dealt with yet, bring them in again, or leave them.

How far they were dealt with is a position in their topic, which only moves on: what is parked anew is open again.
"""

from typing import NamedTuple

import msgspec

from dsp.events.dead_letter import DeadLetter, decode
from dsp.events.topics import Topic
from dsp.kernel.errors import InputError
from dsp.stream.port import Entry, EventLog, Position
from dsp.workers.dead_letters import KEY_CHARACTERS_MAX, VALUE_BYTES_MAX

GROUP = "operator"
#: Looked at together: a letter may be half a megabyte.
LETTERS_MAX = 200
_READ_RECORDS = 50


class Open(NamedTuple):
    """The oldest letters not dealt with, by where their records stood, and the position after them.

    `more` tells that there are others behind them.
    """

    letters: dict[str, DeadLetter]
    position: Position
    more: bool


async def find(log: EventLog, limit: int = LETTERS_MAX) -> Open:
    """Return the open letters, about `limit` at most; one that was parked several times is one.

    Raises:
        UnavailableError: the event log is away.
    """
    position = await log.committed(Topic.DEAD_LETTERS, GROUP)
    letters: dict[str, DeadLetter] = {}
    while True:
        batch = await log.read(Topic.DEAD_LETTERS, position, _READ_RECORDS)
        position = batch.position
        for record in batch.records:
            try:
                letter = decode(record.value)
            except msgspec.DecodeError:
                continue  # not ours; who wrote it can be seen with the log's own tools
            letters[letter.place] = letter
        if batch.end or not batch.records or len(letters) >= limit:
            return Open(letters, position, not batch.end)


async def replay(log: EventLog, letters: list[DeadLetter]) -> None:
    """Append the records to their topics once more, under their keys. All who read the topic bear records twice.

    Raises:
        InputError: one of them is of no topic, or was too large to be kept whole; none was appended.
        UnavailableError: the event log is away; to replay again is harmless.
    """
    for letter in letters:
        if letter.topic not in set(Topic) - {Topic.DEAD_LETTERS}:
            raise InputError(f"{letter.place}: there is no such topic")
        if len(letter.value) >= VALUE_BYTES_MAX or len(letter.key) >= KEY_CHARACTERS_MAX:
            raise InputError(f"{letter.place}: only its beginning was kept, so it cannot be brought in again")
    for letter in letters:
        await log.append(letter.topic, [Entry(letter.key, letter.value)])


async def leave(log: EventLog, found: Open) -> None:
    """Take these letters for dealt with."""
    await log.commit(Topic.DEAD_LETTERS, GROUP, found.position)
