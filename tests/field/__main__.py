"""``python -m tests.field BASE_URL``: send every input of the table to a running service with the demo model, and judge it.

A row is right, wrong, or refused; a refusal counts as one only where nobody could serve the input, and the words say why. Exits
1 where a row is wrong or more than ten are refused. Addresses are served from the loopback, so the service is to be started
with ``SIGHTLINE_ALLOW_NETWORKS=127.0.0.0/8``. ``--only videos`` asks one family, ``--all`` prints the right ones, too.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator

import httpx

from tests.field import addresses, agents, chats, data_urls, pictures, shown, videos
from tests.field.table import Row, Service

#: One module for each family of inputs; ``rows()`` gives its rows.
FAMILIES = (pictures, data_urls, videos, shown, chats, agents, addresses)
MOST_REFUSED = 10


def main() -> int:
    """Ask about all rows; gives the exit code."""
    parser = argparse.ArgumentParser(prog="tests.field", description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("--key", default="", help="an API key")
    parser.add_argument("--only", default="", help="a family, or the start of a row's name")
    parser.add_argument("--all", action="store_true", help="print rows that are right, too")
    given = parser.parse_args()
    service, counts = Service(given.base_url, given.key), dict[str, Counter[str]]()
    for row in all_rows():
        if given.only and given.only != row.family and not row.name.startswith(given.only):
            continue
        outcome, why = ask(service, row)
        counts.setdefault(row.family, Counter())[outcome] += 1
        if outcome != "right" or given.all:
            print(f"{outcome:<8} {row.family:<10} {row.name:<44.44} {why[:160]}", flush=True)
    service.close()
    total = sum(counts.values(), Counter[str]())
    for family, of_family in counts.items():
        print(f"{family:<10} {of_family.total():>4} inputs: {_words(of_family)}")
    print(f"{'all':<10} {total.total():>4} inputs: {_words(total)}")
    return 0 if not total["wrong"] and total["refused"] <= MOST_REFUSED else 1


def all_rows() -> Iterator[Row]:
    """Give the rows of all families."""
    return (row for family in FAMILIES for row in family.rows())


def ask(service: Service, row: Row) -> tuple[str, str]:
    """Send one input; gives ``right``, ``wrong`` or ``refused``, and what came back."""
    try:
        answer = row.ask(service)
    except httpx.HTTPError as error:
        return "wrong", repr(error)
    if answer.refused:
        return ("refused" if row.refusal and row.refusal in answer.text else "wrong"), f"{answer.status} {answer.text}"
    wrong = row.judge(answer)
    return ("wrong" if wrong else "right"), f"{answer.text} {wrong}"


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in ("right", "wrong", "refused"))


if __name__ == "__main__":
    sys.exit(main())
