"""The bill of materials lists everything that is locked, with its hash."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from airflow_provider_rtlake.kit import artifacts, sbom
from airflow_provider_rtlake.kit.artifacts import Artifact, Component

PROJECT = Path(__file__).parents[2]


def artifact(source: str, name: str, digest: str = "0" * 64) -> Artifact:
    return Artifact(source, name, "file", digest, 1)


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("maven", "org.x:lib:1.0", "pkg:maven/org.x/lib@1.0?type=jar"),
        ("maven", "org.x:lib:1.0:tar.gz", "pkg:maven/org.x/lib@1.0?type=tar.gz"),
        ("maven", "org.x:lib:1.0:jar:runner", "pkg:maven/org.x/lib@1.0?classifier=runner&type=jar"),
        ("pypi", "PySpark==3.5.9", "pkg:pypi/pyspark@3.5.9"),
        ("debian", "prometheus=2.42.0+ds-5+b5", "pkg:deb/debian/prometheus@2.42.0%2Bds-5%2Bb5?arch=amd64"),
    ],
)
def test_coordinates_become_package_urls(source: str, name: str, expected: str) -> None:
    assert sbom.purl(artifact(source, name)) == expected


def test_a_file_of_two_components_is_listed_once() -> None:
    shared = artifact("maven", "org.x:lib:1.0")
    lock = {n: Component(n, "1", (shared,)) for n in ("a", "b")}
    (entry,) = sbom.components(lock)
    assert [p["value"] for p in entry["properties"]] == ["a", "b"]
    assert entry["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]


def test_a_package_of_two_environments_is_listed_once_for_each_version() -> None:
    found = list(sbom.packages({"python": "Httpx==1 \\\n    --hash=x\nb[c]==2\n", "superset": "httpx==1\nb==3\n"}))
    assert [(p["purl"], [u["value"] for u in p["properties"]]) for p in found] == [
        ("pkg:pypi/b@2", ["python"]),
        ("pkg:pypi/b@3", ["superset"]),
        ("pkg:pypi/httpx@1", ["python", "superset"]),
    ]


def test_the_document_is_stable_and_follows_its_contents() -> None:
    lock = {"a": Component("a", "1", (artifact("maven", "org.x:lib:1.0"),))}
    first = sbom.render(lock, {"a": "httpx==1 --hash=sha256:00\n"})
    assert sbom.render(lock, {"a": "httpx==1 --hash=sha256:00\n"}) == first
    other = json.loads(sbom.render(lock, {"a": "httpx==2 --hash=sha256:00\n"}))
    assert other["serialNumber"] != json.loads(first)["serialNumber"]


def test_the_projects_document_is_current_and_complete() -> None:
    text = (PROJECT / "ansible" / sbom.NAME).read_text()
    assert text == sbom.current(PROJECT), "the locks changed: run './rtlake sbom'"
    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    digests = {h["content"] for c in document["components"] for h in c.get("hashes", [])}
    lock = artifacts.load_lock(PROJECT / "ansible" / artifacts.LOCK_NAME)
    assert {a.sha256 for c in lock.values() for a in c.artifacts} <= digests
    names = {c["name"].lower() for c in document["components"]}
    for file in ("lock.txt", "superset.txt"):
        pinned = re.findall(r"^([A-Za-z0-9._-]+)==", (PROJECT / "requirements" / file).read_text(), re.MULTILINE)
        assert pinned and {name.lower() for name in pinned} <= names
    references = [c["bom-ref"] for c in document["components"]]
    assert len(references) == len(set(references))
