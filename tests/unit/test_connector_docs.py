"""The example of the documentation is a right declaration and names every key there is."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.model import Connector, Database, History, Realtime, Table

DOCS = Path(__file__).parents[2] / "docs" / "connectors.md"


def example() -> str:
    match = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.S)
    assert match
    return match[1]


def test_the_example_loads(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(example())
    (connector,) = load_connectors(tmp_path)
    assert [stream.slug for stream in connector.streams] == ["orders", "order_lines", "audit_events"]


def test_the_example_shows_every_key() -> None:
    text = example()
    for model in (Connector, Database, Table, History, Realtime):
        for key in model.model_fields:
            assert re.search(rf"\b{key}:", text), f"{model.__name__}.{key} is not in docs/connectors.md"
