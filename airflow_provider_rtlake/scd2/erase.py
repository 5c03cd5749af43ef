"""Erases keys from a history and its bronze for good: rows, older snapshots, files; then looks whether any remain.

Each step may be repeated: an erasure that was interrupted is run again. The suppression list is written first, so that
a merge meanwhile brings nothing back.
"""

# ruff: noqa: S608 (every name and text in a statement is quoted)

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.scd2.change import canonical_key, key_hash
from airflow_provider_rtlake.scd2.job import client_of, session
from airflow_provider_rtlake.scd2.lake import Lake, Table
from airflow_provider_rtlake.scd2.needles import Needles
from airflow_provider_rtlake.scd2.publish import PREFIX, REFUSED
from airflow_provider_rtlake.scd2.request import MergeRequest
from airflow_provider_rtlake.scd2.suppress import Suppression
from airflow_provider_rtlake.scd2.tables import quoted, source_columns

_LINK_HEADERS = "k NOT IN ('__debezium.newkey', '__debezium.oldkey')"
# Property of the checkpoint table: where tables lie that a rebuild gave up, until their files are deleted
GIVEN_UP = "rtlake.scd2.given-up"
_LARGEST = 512 * 2**20  # bytes of a file that is searched


class EraseRequest(BaseModel):
    """What to erase.

    :param merge: the table.
    :param keys: canonical JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    merge: MergeRequest
    keys: tuple[str, ...]


@dataclass
class Erased:
    """What an erasure did, and what remains.

    :param rows: table → rows that were removed.
    :param files: files of older snapshots that were deleted.
    :param offsets: topic → partition → offset behind the last message of the keys.
    :param message_keys: spellings of the keys in messages.
    :param values: texts that only rows of these keys had.
    :param searched: place → how many objects were looked into.
    :param remains: place → what was found there.
    """

    table: str
    keys: list[str]
    rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    offsets: dict[str, dict[int, int]] = field(default_factory=dict)
    message_keys: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    searched: dict[str, int] = field(default_factory=dict)
    remains: dict[str, str] = field(default_factory=dict)


def erase(spark: Any, request: EraseRequest) -> Erased:
    """Erase keys of one table from the lakehouse.

    :param spark: a session.
    :param request: what.
    :raises UserError: a key is current in its history.
    """
    merge = request.merge
    lake = Lake(spark, merge.catalog, merge.main)
    result = Erased(merge.history, list(request.keys))
    history, changes, bronze = (_existing(lake, name) for name in (merge.history, merge.changes, merge.bronze))
    _refuse_current(lake, history, request)
    delete_given_up(lake, merge)
    texts = _message_keys(lake, bronze, request.keys)
    result.message_keys = sorted(texts)
    result.values = sorted(_own_values(lake, history, request.keys))
    _suppress(lake, request)
    result.offsets = _offsets(lake, bronze, texts)
    links = _linked(lake, history, request.keys)
    tables = {history: history.files(), changes: changes.files(), bronze: bronze.files()}
    _rewrite(lake, bronze, texts, result)
    _rewrite_changes(lake, changes, request.keys, texts, result)
    _rewrite_history(lake, history, request.keys, links, result)
    drop_branches(spark, merge)
    for table, before in tables.items():
        result.files += table.forget(before)
    _search(spark, result, [table.name for table in tables], merge, Needles.of([*texts, *request.keys], result.values))
    return result


class ErasableTable:
    """A table of the lakehouse whose past can be dropped.

    :param lake: main.
    :param table: the table.
    """

    def __init__(self, lake: Lake, table: Table) -> None:
        self.lake, self.table, self.name = lake, table, table.name
        self.quoted = lake.quoted(table.name)

    def files(self) -> set[str]:
        """Every file that one of its snapshots refers to, and its metadata."""
        parts = (
            f"SELECT file_path AS path FROM {self.quoted}.all_files",
            f"SELECT path FROM {self.quoted}.all_manifests",
            f"SELECT manifest_list AS path FROM {self.quoted}.snapshots",
            f"SELECT file AS path FROM {self.quoted}.metadata_log_entries",
        )
        found = self.lake.spark.sql(" UNION ".join(f"({part})" for part in parts)).collect()
        return {str(row.path) for row in found}

    def rewrite(self, condition: str) -> None:
        """Write the files anew that may hold rows of a condition: what is deleted there leaves the disk."""
        options = "map('rewrite-all', 'true', 'delete-file-threshold', '1', 'partial-progress.enabled', 'false')"
        where = condition.replace("'", "''")
        self.lake.sql(
            f"CALL {self.lake.name}.system.rewrite_data_files(table => '{self.name}', where => '{where}', "
            f"options => {options})"
        )

    @staticmethod
    def _keep_flinks_place(java: Any) -> None:
        """Flink's sink looks into the newest snapshots for what it committed last: that has to outlive them."""
        snapshot = java.currentSnapshot()
        while snapshot is not None and "flink.job-id" not in dict(snapshot.summary()):
            parent = snapshot.parentId()
            snapshot = None if parent is None else java.snapshot(parent)
        if snapshot is not None:
            update = java.newAppend()
            for name, value in dict(snapshot.summary()).items():
                if name.startswith("flink."):
                    update = update.set(name, value)
            update.commit()

    def forget(self, before: Iterable[str]) -> int:
        """Drop every snapshot but the newest, and the files that only older ones referred to.

        :param before: files that there were; none that a writer is making just now is among them.
        :return: files deleted.
        """
        # Manifests tell of removed files too, with the bounds of their columns: new ones hold what is there.
        self.lake.sql(f"CALL {self.lake.name}.system.rewrite_manifests(table => '{self.name}', use_caching => false)")
        before = {*before, *self.files()}
        java = self.table.java
        java.refresh()
        self._keep_flinks_place(java)
        kept = dict(java.properties()).get("gc.enabled")
        java.updateProperties().set("gc.enabled", "true").commit()
        expire = java.expireSnapshots().expireOlderThan(int(time.time() * 1000) + 60_000).retainLast(1)
        expire.cleanExpiredFiles(False).commit()
        java.updateProperties().set("gc.enabled", kept or "false").commit()
        java.refresh()
        current = str(java.operations().current().metadataFileLocation())
        manifests = self.files()
        logged = {
            str(row.file)
            for row in self.lake.spark.sql(f"SELECT file FROM {self.quoted}.metadata_log_entries").collect()
        }
        gone = (set(before) | logged) - (manifests - logged) - {current}
        for path in gone:
            java.io().deleteFile(path)
        return len(gone)


def _existing(lake: Lake, name: str) -> ErasableTable:
    table = lake.table(name)
    if table is None:
        raise UserError(f"{name}: there is no such table on main; merge first (rtlake scd2 merge)")
    return ErasableTable(lake, table)


def _listed(values: Iterable[str]) -> str:
    return ", ".join("'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in values)


def _refuse_current(lake: Lake, history: ErasableTable, request: EraseRequest) -> None:
    rows = lake.spark.sql(
        f"SELECT scd2_key FROM {history.quoted} WHERE is_current AND scd2_key IN ({_listed(request.keys)})"
    ).collect()
    if rows:
        raise UserError(
            f"{history.name}: key {', '.join(row.scd2_key for row in rows)} is current: delete the row at the source, "
            "merge, then erase"
        )


def _message_keys(lake: Lake, bronze: ErasableTable, keys: Sequence[str]) -> set[str]:
    """How messages spell the keys: the order of columns is the source's."""
    wanted = set(keys)
    spellings = {json.dumps(json.loads(key), separators=(",", ":"), ensure_ascii=False) for key in keys} | wanted
    if any(len(json.loads(key)) > 1 for key in keys):
        rows = lake.spark.sql(f"SELECT DISTINCT message_key FROM {bronze.quoted} WHERE message_key IS NOT NULL")
        spellings |= {row.message_key for row in rows.collect() if canonical_key(row.message_key) in wanted}
    return spellings


def _own_values(lake: Lake, history: ErasableTable, keys: Sequence[str]) -> set[str]:
    """Texts in rows of the keys that no row of another key has."""
    columns = source_columns(history.table.schema_json)
    texts = [name for name, kind in columns.items() if kind == "string"]
    found: set[str] = set()
    for name in texts:
        own = f"SELECT DISTINCT {quoted(name)} AS v FROM {history.quoted} WHERE scd2_key IN ({_listed(keys)})"
        other = (
            f"SELECT {quoted(name)} AS v FROM {history.quoted} WHERE scd2_key NOT IN ({_listed(keys)}) "
            f"AND {quoted(name)} IS NOT NULL"
        )
        rows = lake.spark.sql(f"SELECT v FROM ({own}) EXCEPT SELECT v FROM ({other})").collect()
        found |= {row.v for row in rows if row.v}
    return found


def _suppress(lake: Lake, request: EraseRequest) -> None:
    checkpoint = _existing(lake, request.merge.checkpoint)
    # Everything that the source has said until now; a row that is made under the key later is another one.
    rows = lake.spark.sql(f"SELECT max(position) AS position FROM {checkpoint.quoted}").collect()
    listed = Suppression.of(checkpoint.table.properties).with_keys(request.keys, rows[0].position or "")
    update = checkpoint.table.java.updateProperties()
    for name, value in listed.properties.items():
        update = update.set(name, value)
    update.commit()


def _offsets(lake: Lake, bronze: ErasableTable, texts: Iterable[str]) -> dict[str, dict[int, int]]:
    rows = lake.spark.sql(
        f"SELECT topic, topic_partition, max(topic_offset) + 1 AS behind FROM {bronze.quoted} "
        f"WHERE message_key IN ({_listed(texts)}) GROUP BY topic, topic_partition"
    ).collect()
    found: dict[str, dict[int, int]] = {}
    for row in rows:
        found.setdefault(row.topic, {})[int(row.topic_partition)] = int(row.behind)
    return found


def _linked(lake: Lake, history: ErasableTable, keys: Sequence[str]) -> list[str]:
    """Keys whose versions name one of the erased keys."""
    listed = _listed(keys)
    rows = lake.spark.sql(
        f"SELECT DISTINCT scd2_key FROM {history.quoted} WHERE (scd2_previous_key IN ({listed}) "
        f"OR scd2_next_key IN ({listed})) AND scd2_key NOT IN ({listed})"
    ).collect()
    return [row.scd2_key for row in rows]


def _count(lake: Lake, table: ErasableTable, condition: str) -> int:
    return int(lake.spark.sql(f"SELECT count(*) AS n FROM {table.quoted} WHERE {condition}").collect()[0].n)


def _delete(lake: Lake, table: ErasableTable, condition: str, result: Erased) -> None:
    count = _count(lake, table, condition)
    result.rows[table.name] = count
    if count:
        lake.sql(f"DELETE FROM {table.quoted} WHERE {condition}")


def _rewrite(lake: Lake, bronze: ErasableTable, texts: Iterable[str], result: Erased) -> None:
    listed = _listed(texts)
    _delete(lake, bronze, f"message_key IN ({listed})", result)
    headers = " OR ".join(
        f"coalesce(get_json_object(headers['{name}'], '$.payload'), headers['{name}']) IN ({listed})"
        for name in ("__debezium.newkey", "__debezium.oldkey")
    )
    if _count(lake, bronze, headers):
        lake.sql(f"UPDATE {bronze.quoted} SET headers = map_filter(headers, (k, v) -> {_LINK_HEADERS}) WHERE {headers}")


def _rewrite_changes(
    lake: Lake, changes: ErasableTable, keys: Sequence[str], texts: Iterable[str], result: Erased
) -> None:
    _delete(lake, changes, f"scd2_key IN ({_listed(keys)})", result)
    parsed = "from_json(headers, 'map<string,string>')"
    told = " OR ".join(
        f"coalesce(get_json_object({parsed}['{name}'], '$.payload'), {parsed}['{name}']) IN ({_listed(texts)})"
        for name in ("__debezium.newkey", "__debezium.oldkey")
    )
    hashes = {key_hash(key) for key in keys}
    partners = lake.spark.sql(f"SELECT DISTINCT scd2_key_hash FROM {changes.quoted} WHERE {told}").collect()
    if partners:
        cleaned = f"to_json(map_filter({parsed}, (k, v) -> {_LINK_HEADERS}))"
        lake.sql(f"UPDATE {changes.quoted} SET headers = {cleaned} WHERE {told}")
        hashes |= {int(row.scd2_key_hash) for row in partners}
    changes.rewrite(f"scd2_key_hash IN ({', '.join(map(str, sorted(hashes)))})")


def _rewrite_history(
    lake: Lake, history: ErasableTable, keys: Sequence[str], links: Sequence[str], result: Erased
) -> None:
    listed = _listed(keys)
    _delete(lake, history, f"scd2_key IN ({listed})", result)
    if links:
        lake.sql(
            f"UPDATE {history.quoted} SET "
            f"scd2_previous_key = CASE WHEN scd2_previous_key IN ({listed}) THEN NULL ELSE scd2_previous_key END, "
            f"scd2_next_key = CASE WHEN scd2_next_key IN ({listed}) THEN NULL ELSE scd2_next_key END "
            f"WHERE scd2_key IN ({_listed(links)})"
        )
    hashes = sorted({key_hash(key) for key in (*keys, *links)})
    history.rewrite(f"scd2_key_hash IN ({', '.join(map(str, hashes))})")


def drop_branches(spark: Any, merge: MergeRequest) -> None:
    """Remove what crashed and refused merges of a table left: it shows older states of its tables."""
    with client_of(spark, merge) as nessie:
        for prefix in (PREFIX, REFUSED):
            for reference in nessie.references(f"ref.name.startsWith('{prefix}/{merge.history}/')"):
                nessie.delete_reference(reference.name)


def delete_given_up(lake: Lake, merge: MergeRequest) -> None:
    """Delete the files of tables that a rebuild gave up; one that was interrupted left them.

    :param lake: main.
    :param merge: the table.
    """
    checkpoint = lake.table(merge.checkpoint)
    places = json.loads(checkpoint.properties.get(GIVEN_UP, "[]")) if checkpoint else []
    if checkpoint is None or not places:
        return
    present = lake.tables([merge.history, merge.changes, merge.unread])
    in_use = {str(table.java.location()) for table in present if table is not None}
    io = checkpoint.java.io()
    for place in set(places) - in_use:  # Nessie's catalogs give each table a place of its own; another might not
        listing = io.listPrefix(f"{place}/").iterator()
        while listing.hasNext():
            io.deleteFile(str(listing.next().location()))
    checkpoint.java.updateProperties().remove(GIVEN_UP).commit()


def _search(spark: Any, result: Erased, names: Sequence[str], merge: MergeRequest, needles: Needles) -> None:
    lake = Lake(spark, merge.catalog, merge.main)
    for name in (*names, merge.checkpoint, f"{merge.base}_unread"):
        table = lake.table(name)
        if table is not None:
            _search_table(table, result, needles)
    with client_of(spark, merge) as nessie:
        now = {name: nessie.content(tuple(name.split(".")), merge.main) for name in names}
        for reference in nessie.references():
            there = {name: nessie.content(tuple(name.split(".")), reference.name) for name in names}
            old = [name for name, entry in there.items() if entry is not None and entry != now[name]]
            if old:
                result.remains[f"reference {reference.name}"] = f"shows older states of {', '.join(old)}: drop it"


def _search_table(table: Table, result: Erased, needles: Needles) -> None:
    location = str(table.java.location())
    listing = table.java.io().listPrefix(location + "/").iterator()
    looked = 0
    while listing.hasNext():
        file = listing.next()
        path, size = str(file.location()), int(file.size())
        if size > _LARGEST:
            result.remains[path] = f"was not searched: {size} bytes"
            continue
        looked += 1
        with table.lake.store.open(path) as file_open:
            found = needles.in_file(path, file_open.read())
        if found:
            result.remains[path] = f"{found} of the texts"
    result.searched[f"files of {table.name}"] = looked


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point under spark-submit; the exit code.

    :param arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description="Erase keys from a history and its bronze.")
    parser.add_argument("--request", type=Path, required=True, help="an EraseRequest as JSON")
    parser.add_argument("--result", type=Path, required=True, help="where to write the outcome as JSON")
    options = parser.parse_args(arguments)
    request = EraseRequest.model_validate_json(options.request.read_text(encoding="utf-8"))
    spark = session("rtlake-scd2-erase")
    try:
        outcome: dict[str, Any] = asdict(erase(spark, request))
    except UserError as error:
        outcome = {"error": str(error)}
    finally:
        spark.stop()
    options.result.write_text(json.dumps(outcome), encoding="utf-8")
    return 1 if "error" in outcome else 0


if __name__ == "__main__":
    raise SystemExit(main())
