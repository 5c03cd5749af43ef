"""The Nessie client: references, merges, paging, and what it does when things go wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_rtlake.clients.nessie import NessieClient, conflict_keys, error_code, key_path, ref_path
from airflow_provider_rtlake.exceptions import Conflict, NotFound, ReferenceConflict, ServiceUnavailable
from tests.unit.nessie_server import Nessie, serving

SALES, OTHER = ("default", "sales"), ("default", "other")


@pytest.fixture
def nessie() -> Iterator[Nessie]:
    with serving(Nessie()) as server:
        yield server


@pytest.fixture
def client(nessie: Nessie) -> Iterator[NessieClient]:
    with NessieClient(nessie.url, attempts=3) as found:
        yield found


@pytest.mark.parametrize(
    ("name", "hash_", "path"),
    [
        ("main", None, "main"),
        ("main", "ab12", "main@ab12"),
        ("scd2/default.x/1", None, "scd2%2Fdefault.x%2F1@"),
        ("scd2/x", "ab12", "scd2%2Fx@ab12"),
        ("a b", None, "a%20b"),
    ],
)
def test_a_reference_in_a_path(name: str, hash_: str | None, path: str) -> None:
    assert ref_path(name, hash_) == path


def test_a_dot_inside_a_name_is_not_a_separator() -> None:
    assert key_path(("default", "my.table")) == "default.my%1Dtable"


@pytest.mark.parametrize("body", ["", "no json", "[]", '{"errorDetails": null}', '{"errorDetails"'])
def test_an_error_without_details_names_no_keys(body: str) -> None:
    assert conflict_keys(body) == ()
    assert error_code(body) is None


def test_a_branch_is_made_once(client: NessieClient, nessie: Nessie) -> None:
    made = client.create_branch("b")
    assert made.hash == nessie.head("main").hash
    assert client.create_branch("b") == made
    nessie.put("main", SALES, "s3://1")
    with pytest.raises(Conflict):
        client.create_branch("b")


def test_deleting_what_is_gone_is_no_error(client: NessieClient) -> None:
    client.create_branch("b")
    assert client.delete_reference("b") is True
    assert client.delete_reference("b") is False


def test_a_reference_that_moved_is_not_deleted(client: NessieClient, nessie: Nessie) -> None:
    made = client.create_branch("b")
    nessie.put("b", SALES, "s3://1")
    with pytest.raises(Conflict):
        client.delete_reference("b", made.hash)
    assert client.find_reference("b") is not None


def test_a_branch_is_reset(client: NessieClient, nessie: Nessie) -> None:
    client.create_branch("b")
    nessie.put("b", SALES, "s3://1")
    assert client.assign("b", "main").hash == nessie.head("main").hash
    assert client.content(SALES, "b") is None


def test_a_merge_brings_everything_or_nothing(client: NessieClient, nessie: Nessie) -> None:
    client.create_branch("b")
    nessie.put("b", SALES, "s3://1")
    nessie.put("main", OTHER, "s3://2")
    dry = client.merge("b", dry_run=True)
    assert not dry.applied
    assert client.content(SALES) is None
    merged = client.merge("b", message="publish", properties={"who": "me"})
    assert merged.applied
    assert merged.keys == (SALES,)
    assert {entry.name for entry in client.entries()} == {"default.sales", "default.other"}
    assert not client.merge("b").applied


def test_a_conflict_names_the_tables(client: NessieClient, nessie: Nessie) -> None:
    client.create_branch("b")
    nessie.put("b", SALES, "s3://1")
    nessie.put("main", SALES, "s3://2")
    before = nessie.head("main").hash
    with pytest.raises(ReferenceConflict, match=r"default\.sales") as caught:
        client.merge("b")
    assert caught.value.keys == ("default.sales",)
    assert nessie.head("main").hash == before


def test_a_merge_is_sent_once_also_when_its_answer_is_lost(client: NessieClient, nessie: Nessie) -> None:
    client.create_branch("b")
    nessie.put("b", SALES, "s3://1")
    nessie.lose = ["/history/merge"]
    with pytest.raises(ServiceUnavailable):
        client.merge("b")
    assert sum(line.endswith("/merge") for line in nessie.requests) == 1
    assert client.content(SALES) is not None


def test_a_busy_server_is_asked_again(client: NessieClient, nessie: Nessie) -> None:
    nessie.busy = 2
    assert client.default_branch() == "main"
    nessie.busy = 3
    with pytest.raises(ServiceUnavailable):
        client.default_branch()


def test_listings_have_every_page(client: NessieClient, nessie: Nessie) -> None:
    for number in range(5):
        nessie.put("main", ("default", f"t{number}"), "s3://x")
        client.create_branch(f"b{number}")
    assert len(client.references()) == 6
    assert len(client.entries()) == 5
    assert len(client.log()) == 5
    assert len(client.log(limit=3)) == 3


def test_a_missing_reference_is_told_apart_from_a_missing_table(client: NessieClient) -> None:
    assert client.content(SALES) is None
    with pytest.raises(NotFound):
        client.content(SALES, "nowhere")
    assert client.find_reference("nowhere") is None
