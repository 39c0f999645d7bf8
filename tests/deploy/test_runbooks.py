"""Commands in the runbooks that the rules' tests do not cover: SQL runs, and what is searched for can be found."""

import ast
import re

import sqlalchemy as sa

from dsp.events.topics import Topic
from dsp.store.tables import Base
from dsp.workers import ledger
from tests.deploy.files import ROOT, RUNBOOKS

#: Methods whose first argument is the event of a line.
LOGGING = {"info", "warning", "error", "exception", "_report_fault"}


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


def test_logs_are_searched_whole_and_for_what_is_logged() -> None:
    """With a selector kubectl shows the last ten lines of a pod, unless told otherwise."""
    calls = [
        node
        for package in ("bidder", "dsp", "models")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
    ]
    events = {
        call.args[0].value
        for call in calls
        if isinstance(call.args[0], ast.Constant) and call.func.attr in LOGGING  # type: ignore[attr-defined]
    }
    searches = [
        (page.name, line)
        for page in RUNBOOKS.glob("*.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("kubectl") and " logs " in line and "grep" in line
    ]
    assert len(searches) > 10
    for page, line in searches:
        assert "--tail=-1" in line or " -l " not in line, page
        for wanted in re.search(r"grep (?:-E )?'([^']+)'", line)[1].split("|"):  # type: ignore[index]
            assert any(wanted in str(event) for event in events), (page, wanted)
