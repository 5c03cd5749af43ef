"""Nessie as it is: references, atomic merges, conflicts, and the operators on top."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_provider_rtlake.clients.nessie import Entry, NessieClient, ref_path
from airflow_provider_rtlake.exceptions import Conflict, NotFound, ReferenceConflict
from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.operators.nessie import NessieCreateBranchOperator, NessieMergeBranchOperator

pytestmark = pytest.mark.integration


class Lake:
    """A client, and names of references and tables that are of this test only and go away with it."""

    def __init__(self, client: NessieClient) -> None:
        self.client = client
        self.tag = uuid.uuid4().hex[:8]
        # A base of its own: the tests' commits never meet those of the lanes on main.
        self.base = client.create_branch(f"test_{self.tag}_base", client.get_reference("main")).name
        self._commit(self.base, "PUT", ("nessie_tests",), {"type": "NAMESPACE", "elements": ["nessie_tests"]})

    def name(self, part: str) -> str:
        return f"test_{self.tag}_{part}"

    def put(self, branch: str, table: str, location: str) -> None:
        key = ("nessie_tests", table)
        present = self.client.content(key, branch)
        content: dict[str, Any] = {
            "type": "ICEBERG_TABLE",
            "metadataLocation": location,
            "snapshotId": 1,
            "schemaId": 0,
            "specId": 0,
            "sortOrderId": 0,
        }
        if present is not None:
            content["id"] = present.content_id
        self._commit(branch, "PUT", key, content)

    def _commit(self, branch: str, kind: str, key: tuple[str, ...], content: dict[str, Any]) -> None:
        head = self.client.get_reference(branch).hash
        self.client.rest.post(
            f"/trees/{ref_path(branch, head)}/history/commit",
            json={
                "commitMeta": {"message": f"test {key}"},
                "operations": [{"type": kind, "key": {"elements": list(key)}, "content": content}],
            },
        )

    def table(self, table: str, ref: str) -> Entry | None:
        return self.client.content(("nessie_tests", table), ref)

    def close(self) -> None:
        for reference in self.client.references(f"ref.name.startsWith('test_{self.tag}_')"):
            self.client.delete_reference(reference.name)


@pytest.fixture
def lake(stack: Stack) -> Iterator[Lake]:
    with NessieClient(f"{stack.service('nessie').url}/api/v2") as client:
        found = Lake(client)
        yield found
        found.close()


def test_branch_merge_and_log(lake: Lake) -> None:
    branch = lake.client.create_branch(lake.name("b"), lake.base).name
    assert lake.client.create_branch(branch, lake.base).name == branch
    lake.put(branch, "a", "s3://1")
    lake.put(branch, "b", "s3://2")
    lake.put(lake.base, "c", "s3://3")
    assert {change.key[-1] for change in lake.client.diff(lake.base, branch)} == {"a", "b", "c"}

    dry = lake.client.merge(branch, into=lake.base, dry_run=True)
    assert not dry.applied
    assert lake.table("a", lake.base) is None

    merged = lake.client.merge(branch, into=lake.base, message="publish", properties={"who": "test"})
    assert merged.applied
    assert {key[-1] for key in merged.keys} == {"a", "b"}
    newest = lake.client.log(lake.base, limit=1, operations=True)[0]
    assert newest.hash == merged.target_hash
    assert newest.message == "publish"
    assert newest.properties == {"who": "test"}
    assert {key[-1] for key in newest.keys} == {"a", "b"}
    for name in "abc":
        assert lake.table(name, lake.base) is not None
    assert not lake.client.merge(branch, into=lake.base).applied


def test_a_conflict_applies_nothing_and_names_the_table(lake: Lake) -> None:
    lake.put(lake.base, "a", "s3://1")
    branch = lake.client.create_branch(lake.name("b"), lake.base).name
    lake.put(branch, "a", "s3://2")
    lake.put(branch, "b", "s3://2")
    lake.put(lake.base, "a", "s3://3")
    before = lake.client.get_reference(lake.base).hash
    with pytest.raises(ReferenceConflict) as caught:
        lake.client.merge(branch, into=lake.base)
    assert caught.value.keys == ("nessie_tests.a",)
    assert lake.client.get_reference(lake.base).hash == before


def test_names_with_slashes_and_dots(lake: Lake) -> None:
    branch = lake.client.create_branch(f"test_{lake.tag}_/default.x/000001-1", lake.base)
    lake.put(branch.name, "my.table", "s3://1")
    assert lake.table("my.table", branch.name) is not None
    assert "nessie_tests.my.table" in {entry.name for entry in lake.client.entries(branch.name)}
    assert lake.client.merge(branch.name, into=lake.base).applied
    assert lake.client.delete_reference(branch.name)
    assert lake.client.find_reference(branch.name) is None


def test_expected_hashes_are_honoured(lake: Lake) -> None:
    branch = lake.client.create_branch(lake.name("b"), lake.base)
    lake.put(branch.name, "a", "s3://1")
    with pytest.raises(Conflict):
        lake.client.delete_reference(branch.name, branch.hash)
    with pytest.raises(Conflict):
        lake.client.assign(branch.name, lake.base, expected_hash=branch.hash)
    lake.client.assign(branch.name, lake.base)
    assert lake.table("a", branch.name) is None
    with pytest.raises(NotFound):
        lake.client.content(("x",), "test_nowhere")


def test_every_page_of_a_listing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_rtlake.clients.nessie._PAGE", 2)
    for number in range(5):
        lake.put(lake.base, f"t{number}", "s3://1")
    found = lake.client.entries(lake.base, prefix=("nessie_tests",))
    assert {entry.key[-1] for entry in found} >= {f"t{number}" for number in range(5)}
    assert len(lake.client.log(lake.base, limit=5)) == 5


def test_operators_publish_once(lake: Lake, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    given = stack.connection("rtlake_nessie")
    connection = Connection(
        conn_id="rtlake_nessie", conn_type="nessie", host=given.host, port=given.port, schema="http"
    )
    monkeypatch.setattr(NessieHook, "get_connection", lambda *_: connection)
    assert NessieHook().test_connection()[0]
    context: Any = {"ti": SimpleNamespace(dag_id="d", run_id=lake.tag, task_id="t", map_index=-1)}
    branch = lake.name("wap")
    NessieCreateBranchOperator(task_id="b", branch=branch, from_ref=lake.base).execute(context)
    lake.put(branch, "a", "s3://1")
    publish = NessieMergeBranchOperator(task_id="p", branch=branch, into=lake.base, delete_branch=True)
    assert publish.execute(context)["changed"] is True
    assert lake.table("a", lake.base) is not None
    assert lake.client.find_reference(branch) is None
    assert publish.execute(context)["changed"] is False
