"""A history is given up for a new one: all at once, and only where bronze makes it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from airflow_provider_rtlake.commands import scd2 as commands
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2 import rebuild
from airflow_provider_rtlake.scd2.bronze import Range
from airflow_provider_rtlake.scd2.change import RawChange
from airflow_provider_rtlake.scd2.checkpoint import CHECKPOINT_KEY, Checkpoint
from airflow_provider_rtlake.scd2.job import merge_tables
from airflow_provider_rtlake.scd2.publish import Overtaken
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.submit import REBUILD
from airflow_provider_rtlake.scd2.suppress import Suppression
from airflow_provider_rtlake.scd2.tables import CHECKPOINT_COLUMNS, SchemaIncompatible
from airflow_provider_rtlake.scd2.values import ValueRefused
from tests.scd2_source import Source, column
from tests.unit.nessie_server import Nessie, serving
from tests.unit.test_scd2_bulk import bronze

NAMES = ("d.t_scd2_iceberg", "d.t_scd2_changes", "d.t_scd2_unread", "bronze.t", "d.t_scd2_checkpoint")
OWN = NAMES[:3]


def key(name: str) -> tuple[str, ...]:
    return tuple(name.split("."))


@dataclass
class Lakehouse:
    """Tables on a Nessie: what the rebuild asks of them, and what it did.

    :param lost: changes that bronze does not hold any more.
    :param files: in the object store.
    """

    nessie: Nessie
    raws: list[RawChange] = field(default_factory=list)
    lost: int = 0
    appended: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)
    reachable: bool = True  # the object store answers

    def table(self, name: str, ref: str) -> Any:
        if key(name) not in self.nessie.head(ref).contents:
            return None

        def append(files: Any, summary: dict[str, str]) -> None:
            self.appended = summary
            self.nessie.put(ref, key(name), "reset")

        def listed(prefix: str) -> Any:
            found = [path for path in self.files if path.startswith(prefix)]
            return SimpleNamespace(iterator=lambda: Listing(found))

        def delete(path: str) -> None:
            if not self.reachable:
                raise OSError("the object store is gone")
            self.files.remove(path)

        io = SimpleNamespace(listPrefix=listed, deleteFile=delete)
        update = SimpleNamespace(
            set=lambda name, value: self.properties.update({name: value}) or update,  # type: ignore[func-returns-value]
            remove=lambda name: (self.properties.pop(name), update)[1],
            commit=lambda: None,
        )
        fields = [
            {"id": number, "name": one, "type": {"bigint": "long"}.get(kind, kind), "required": False}
            for number, (one, kind) in enumerate(CHECKPOINT_COLUMNS)
        ]
        return SimpleNamespace(
            name=name,
            snapshot_id=1,
            properties=self.properties,
            java=SimpleNamespace(io=lambda: io, location=lambda: f"s3://lake/{name}", updateProperties=lambda: update),
            schema_json=json.dumps({"fields": fields}),
            write=lambda tables, traffic: [],
            append=append,
        )


@dataclass
class Listing:
    paths: list[str]

    def hasNext(self) -> bool:
        return bool(self.paths)

    def next(self) -> Any:
        path = self.paths.pop()
        return SimpleNamespace(location=lambda: path)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lakehouse]:
    with serving(Nessie()) as nessie:
        made = Lakehouse(nessie)
        for name in NAMES:
            nessie.put("main", key(name), "first")
            made.files.append(f"s3://lake/{name}/data/1.parquet")

        class Lake:
            def __init__(self, spark: Any, catalog: str, ref: str, ref_hash: str | None = None) -> None:
                self.ref = ref
                count = SimpleNamespace(collect=lambda: [SimpleNamespace(n=made.lost)])
                self.spark = SimpleNamespace(sql=lambda text: count)

            def quoted(self, name: str) -> str:
                return name

            def table(self, name: str) -> Any:
                return made.table(name, self.ref)

            def tables(self, names: list[str]) -> list[Any]:
                return list(map(self.table, names))

            def sql(self, statement: str) -> None:
                head = nessie.head(self.ref)
                contents = {one: value for one, value in head.contents.items() if one != key(statement.split()[-1])}
                nessie._commit(self.ref, [head.hash], {"message": statement}, contents)

        monkeypatch.setattr(rebuild, "Lake", Lake)
        monkeypatch.setattr(rebuild, "ranges", lambda *_: [Range(None, 1, len(made.raws))] if made.raws else [])
        monkeypatch.setattr(rebuild, "read_range", lambda *_: iter([bronze(made.raws)]))
        yield made


def request(house: Lakehouse, **fields: Any) -> MergeRequest:
    return MergeRequest(
        history=NAMES[0],
        base="d.t_scd2",
        bronze="bronze.t",
        collection="public.t",
        nessie_uri=house.nessie.url,
        **fields,
    )


def test_the_tables_go_and_the_position_falls_back_in_one_commit(house: Lakehouse) -> None:
    house.nessie.references["scd2-refused/d.t_scd2_iceberg/1/2"] = house.nessie.references["main"]
    before = house.nessie.references["main"][1]
    rebuild.give_up(None, request(house))
    main = house.nessie.head("main")
    assert main.parents[0] == before, "one commit"
    assert main.contents.keys() == {key(name) for name in NAMES[3:]}
    assert main.contents[key(NAMES[4])]["metadataLocation"] == "reset"
    assert Checkpoint.of_row(json.loads(house.appended[CHECKPOINT_KEY])) == Checkpoint(merge_id="rebuild")
    assert list(house.nessie.references) == ["main"], "branches of merges show the old state"
    assert not [path for path in house.files if any(f"/{name}/" in path for name in OWN)]
    assert len(house.files) == 2, "bronze and the list of erased keys stay"


def test_bronze_that_lacks_what_the_history_was_made_from_is_no_ground_for_it(house: Lakehouse) -> None:
    house.lost = 3
    with pytest.raises(UserError, match=r"3 changes .* not in bronze\.t any more"):
        rebuild.give_up(None, request(house))
    _untouched(house)


def test_another_reference_that_shows_the_history_is_not_left_without_its_files(house: Lakehouse) -> None:
    house.nessie.references["audit"] = ("TAG", house.nessie.references["main"][1])
    with pytest.raises(UserError, match="audit shows it too"):
        rebuild.give_up(None, request(house))
    _untouched(house)


def test_a_declaration_that_bronze_does_not_fit_is_told_while_the_history_is_there(house: Lakehouse) -> None:
    source = Source(columns=[column("id", "int64", type="INT8"), column("n", type="NUMERIC", length="9", scale="2")])
    house.raws = source.begin(1).insert(1, n="NAN").commit()
    with pytest.raises(ValueRefused, match="column n"):
        rebuild.give_up(None, request(house))
    source.columns[1] = column("n", "int32", type="INT4")
    house.raws = [house.raws[0]._replace(payload=house.raws[0].payload.replace("NAN", "1.00"))]
    house.raws += source.begin(2).update(1, n=5).commit()
    with pytest.raises(SchemaIncompatible, match="column n is decimal"):
        rebuild.give_up(None, request(house))
    _untouched(house)
    rebuild.give_up(None, request(house, text_columns=("n",)))
    assert not [name for name in OWN if key(name) in house.nessie.head("main").contents]


def test_erased_keys_stop_nothing(house: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(columns=[column("id", "int64", type="INT8"), column("n", type="NUMERIC", length="9", scale="2")])
    house.raws = source.begin(1).insert(1, n="NAN").commit()
    listed = Suppression("00" * 32).with_keys(['{"id":1}'], "9")
    monkeypatch.setattr(Suppression, "of", lambda properties: listed)
    rebuild.give_up(None, request(house))


def test_a_merge_that_was_published_meanwhile_wins(house: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def merged(*_: Any) -> None:
        house.nessie.put("main", key(NAMES[4]), "merged")

    monkeypatch.setattr(rebuild, "append_checkpoint", _then(rebuild.append_checkpoint, merged))
    with pytest.raises(Overtaken):
        rebuild.give_up(None, request(house))
    assert len(house.files) == len(NAMES)
    assert all(key(name) in house.nessie.head("main").contents for name in NAMES)


def test_what_an_interrupted_rebuild_left_is_deleted_by_the_next_one(house: Lakehouse) -> None:
    house.reachable = False
    with pytest.raises(OSError, match="gone"):
        rebuild.give_up(None, request(house))
    assert len(house.files) == len(NAMES)
    house.reachable = True
    with pytest.raises(UserError, match="no history to rebuild"):
        rebuild.give_up(None, request(house))
    assert len(house.files) == 2
    assert house.properties == {}


def test_without_a_history_there_is_nothing_to_rebuild(house: Lakehouse) -> None:
    house.nessie.references["main"] = ("BRANCH", "0" * 64)
    with pytest.raises(UserError, match="no history to rebuild"):
        rebuild.give_up(None, request(house))


def test_a_refused_rebuild_merges_nothing(house: Lakehouse) -> None:
    house.lost = 1
    (result,) = merge_tables(None, [request(house)], first=rebuild.give_up)
    assert result["error"] == "terminal"
    assert "any more" in result["message"]


def test_the_command_asks_first_and_runs_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.yaml").write_text("connector: shop\ntopic_prefix: shop\ntables:\n  public.orders: {}\n")
    asked: list[Any] = []

    def run(requests: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((requests[0].history, options["application"]))
        return [{"table": "t", "changed": True, "changes": 3, "position": "p", "waiting": 0, "seconds": 1.0}]

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(commands.Stack, "load", lambda home: SimpleNamespace(home=tmp_path))
    arguments = ["rebuild", "public.orders", "--connectors", str(tmp_path)]
    assert CliRunner().invoke(commands.app, arguments, input="n\n").exit_code == 1
    assert asked == []
    done = CliRunner().invoke(commands.app, [*arguments, "--yes"])
    assert done.exit_code == 0
    assert "3 changes up to p" in done.output
    assert asked == [("default.orders_scd2_iceberg", REBUILD)]


def _untouched(house: Lakehouse) -> None:
    assert len(house.files) == len(NAMES)
    contents = house.nessie.head("main").contents
    assert [contents[key(name)]["metadataLocation"] for name in NAMES] == ["first"] * len(NAMES)


def _then(work: Any, after: Any) -> Any:
    def both(*arguments: Any) -> None:
        work(*arguments)
        after()

    return both
