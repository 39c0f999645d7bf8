"""Commands in the runbooks that the rules' tests do not cover: SQL runs, and positions are asked for where they are."""

import re

import sqlalchemy as sa

from dsp.events.topics import Topic
from dsp.store.tables import Base
from dsp.workers import ledger
from tests.deploy.files import RUNBOOKS


def test_sql_runs_and_asks_for_the_ledger_s_own_rows() -> None:
    statements = {
        page.name: block
        for page in RUNBOOKS.glob("*.md")
        for block in re.findall(r"```sql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    }
    engine = sa.create_engine("sqlite://")
    with engine.begin() as sql:
        Base.metadata.create_all(sql)
        sql.execute(
            Base.metadata.tables["book_position"].insert(),
            {"topic": Topic.NOTICES, "consumer": ledger.GROUP, "partition": 3, "next_offset": 17, "watermark_ms": 5},
        )
        found = {name: sql.execute(sa.text(statement)).all() for name, statement in statements.items()}
    engine.dispose()
    assert found["consumer-lag.md"] == [(3, 17, 5)]


def test_nobody_is_told_to_ask_kafka_for_the_ledger_s_position() -> None:
    commands = [
        line
        for page in RUNBOOKS.glob("*.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("kafka-consumer-groups.sh")
    ]
    groups = {re.search(r"--group TOPIC\.(\w+)$", line)[1]: "--members" in line for line in commands}  # type: ignore[index]
    assert groups == {ledger.GROUP: True, "training_log": False}
