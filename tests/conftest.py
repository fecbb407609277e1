"""What every test run has: an unknown id in `req` stops collection, and the report ends with the conformance counts.

The check is a collection error of the module that holds the mark, so it also stops a run under xdist,
where only the workers collect.
"""

from collections.abc import Generator, Iterator

import pytest

from tests.support import conformance
from tests.support.bouncycastle import bouncycastle
from tests.support.postgres import database_url, postgresql_server
from tests.support.softhsm import softhsm

# The peers that are made once for a whole process: a room that imported them anew would get its own.
__all__ = ["bouncycastle", "database_url", "postgresql_server", "softhsm"]

MATRIX = conformance.load()


def _complaints(item: pytest.Item) -> Iterator[str]:
    for mark in item.iter_markers("req"):
        if not mark.args:
            yield "`req` names no requirement"
        yield from (MATRIX.hint(str(id_)) for id_ in mark.args if id_ not in MATRIX.rows)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    items = [node for node in report.result or () if isinstance(node, pytest.Item)]
    wrong = {f"{item.nodeid}: {complaint}" for item in items for complaint in _complaints(item)}
    if wrong:
        report.outcome, report.result = "failed", []
        report.longrepr = "\n".join([*sorted(wrong), "the ids are those of docs/conformance.toml"])
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"conformance: {conformance.count_line(MATRIX.rows.values(), conformance.argued())}")
