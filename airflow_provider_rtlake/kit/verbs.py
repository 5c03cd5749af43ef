"""The kit's verbs: up, down, status, logs, restart, doctor, destroy, rotate, lock, fetch."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import (
    artifacts,
    backup,
    exclusive,
    health,
    order,
    playbook,
    preflight,
    remove,
    sbom,
    settings,
    supervise,
)
from airflow_provider_rtlake.kit import doctor as doctors
from airflow_provider_rtlake.kit import fetch as fetching
from airflow_provider_rtlake.kit import variables as roles
from airflow_provider_rtlake.kit.stack import Stack, default_home

_OFFSET = "rtlake_port_offset"
_COMPONENTS = "rtlake_components"
_MONITORING = "rtlake_monitoring"
_STORE = "rtlake_object_store"
_SUPERSET = "superset"  # Python packages of its own, no artifact


def project() -> Path:
    """The checkout that this package is part of."""
    return Path(__file__).resolve().parents[2]


def cache() -> Path:
    """RTLAKE_CACHE, or its default."""
    return Path(os.environ.get("RTLAKE_CACHE") or Path.home() / ".cache" / "rtlake")


def say(text: str) -> None:
    """A line of progress, on stderr, so that stdout stays for answers."""
    typer.echo(text, err=True)


def up(
    port_offset: Annotated[int | None, typer.Option(help="Added to every port; remembered.", min=0, max=45000)] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this component and what it needs; repeatable, remembered.")
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="All but this component; repeatable, remembered.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All components again.")] = False,
    supervisor: Annotated[
        str | None, typer.Option(help="systemd or supervisord; chosen by itself if not given.")
    ] = None,
    monitoring: Annotated[
        bool | None, typer.Option("--monitoring/--no-monitoring", help="Prometheus and all exporters; remembered.")
    ] = None,
    object_store: Annotated[
        str | None, typer.Option(help="s3proxy or minio; chosen before the first installation, remembered.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: a role's variable (docs/variables.md); repeatable, remembered."),
    ] = None,
    converge: Annotated[
        bool, typer.Option("--converge", help="Run the playbook even if nothing seems changed.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only tell what the playbook would change.")] = False,
) -> None:
    """Install what is missing, start everything, wait until all services answer."""
    started = time.monotonic()
    home = default_home()
    variables, kind = _choices(home, port_offset, _split(only), _split(without), everything, supervisor)
    if monitoring is not None:
        variables[_MONITORING] = monitoring
    if object_store is not None:
        if object_store not in ("s3proxy", "minio"):
            raise UserError(f"--object-store {object_store}: must be s3proxy or minio")
        variables[_STORE] = object_store
    variables |= roles.assigned(project(), assignments or ())
    variables = {name: value for name, value in variables.items() if value is not None}
    if check:
        changes = playbook.run(home, project(), _variables(variables), kind, say, check=True)
        say(f"{changes} changes to make; see {home / 'log' / 'ansible.log'}")
        return
    bring_up(home, variables, kind, converge=converge, remember=True)
    say(f"up after {time.monotonic() - started:.0f} s")


def bring_up(
    home: Path, variables: dict[str, Any], kind: str, *, converge: bool = False, remember: bool = False
) -> Stack:
    """Converge if needed, start, wait; the verb ``up`` for other rooms too.

    :param home: RTLAKE_HOME.
    :param variables: as :func:`settings.load` returns them.
    :param kind: ``supervisord`` or ``systemd``.
    :param converge: run the playbook in any case.
    :param remember: also where ``ansible-playbook`` installed, which then counts no more.
    :raises UserError: another command is at work, a restore was interrupted, or somebody else listens on a port of a
        service that does not run; nothing was started.
    """
    with exclusive.alone(home):
        return _bring_up(home, variables, kind, converge, remember)


def _bring_up(home: Path, variables: dict[str, Any], kind: str, converge: bool, remember: bool) -> Stack:
    backup.check_restored(home)
    previous = _installed(home)
    remember = remember or previous is None or settings.remembered(home)
    if converge or not playbook.converged(home, project(), _variables(variables), kind):
        if previous is not None:
            _retire(previous, variables)
        try:
            changes = playbook.run(home, project(), _variables(variables), kind, say)
        finally:  # a first installation that stops half way goes on with the same ports and components
            if previous is None and _installed(home) is not None:
                settings.save(home, {**variables, "supervisor": kind})
        if remember:
            settings.save(home, {**variables, "supervisor": kind})
        say(f"playbook done, changed={changes}")
    stack = Stack.load(home)
    if previous is not None:
        _stop_for_good(previous, unwatched(previous, stack))
    keeper = supervise.supervisor_of(home, kind)
    # The playbook looks at the ports, too, but it is left out where nothing changed
    taken = preflight.services_ports_taken(stack, [n for n in stack.services if not keeper.pid(n)])
    if taken:
        raise UserError("\n".join(taken))
    if isinstance(keeper, supervise.Supervisord):
        keeper.ensure()
    keeper.start([n for n in stack.services if not keeper.pid(n)])
    patience = float(variables.get("rtlake_ready_seconds") or roles.shared(project())["rtlake_ready_seconds"])
    seconds = health.wait_all(stack, patience, told=lambda n, s: say(f"  {n} answers ({s:.1f} s)"))
    say(f"{len(seconds)} services healthy")
    return stack


def _installed(home: Path) -> Stack | None:
    try:
        return Stack.load(home)
    except UserError:
        return None


def _retire(stack: Stack, variables: dict[str, Any]) -> None:
    """Stop what is not wanted any more."""
    wanted = variables.get(_COMPONENTS) or settings.all_components(project())
    # Of these only the playbook knows: an inventory may switch them.
    kept = (*settings.folders(wanted), *settings.SWITCHED)
    _stop_for_good(stack, [n for n, s in stack.services.items() if s.component not in kept])


def unwatched(previous: Stack, stack: Stack) -> list[str]:
    """Services of monitoring, or Superset, that the playbook left out this time.

    :param previous: what was installed.
    :param stack: what is installed now.
    """
    watching = [n for n, s in previous.services.items() if s.component in settings.SWITCHED]
    return [n for n in watching if n not in stack.services]


def _stop_for_good(stack: Stack, names: Sequence[str]) -> None:
    if names:
        say(f"stopping {', '.join(names)}")
        remove.remove_services(stack, names)


def _split(values: list[str] | None) -> list[str]:
    return [part for value in values or [] for part in value.split(",") if part]


def _choices(
    home: Path,
    port_offset: int | None,
    only: list[str],
    without: list[str],
    everything: bool,
    supervisor: str | None,
) -> tuple[dict[str, Any], str]:
    remembered = settings.load(home)
    kind = supervisor or remembered.pop("supervisor", None) or playbook.default_supervisor()
    remembered.pop("supervisor", None)
    if kind not in ("systemd", "supervisord"):
        raise UserError(f"--supervisor {kind}: must be systemd or supervisord")
    if port_offset is not None:
        remembered[_OFFSET] = port_offset
    known = settings.all_components(project())
    if everything:
        remembered.pop(_COMPONENTS, None)
    if only or without:
        remembered[_COMPONENTS] = settings.choose(known, only, without)
    return remembered, str(kind)


def _variables(chosen: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in chosen.items() if k != "supervisor"}


def down() -> None:
    """Stop everything gracefully, in the order of dependency. Data stays."""
    stack = Stack.load()
    started = time.monotonic()
    stop_all(stack)
    say(f"down after {time.monotonic() - started:.0f} s")


def stop_all(stack: Stack) -> None:
    """Stop every service, and supervisord."""
    stop_services(stack, list(stack.services))
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    if isinstance(keeper, supervise.Supervisord):
        keeper.shutdown()


def stop_services(stack: Stack, names: Sequence[str]) -> None:
    """Stop services side by side, each as soon as all that need it have ended."""
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    if isinstance(keeper, supervise.Supervisord) and not keeper.alive():
        return
    # systemd may be about to start one again that has no process at this moment
    running = [n for n in names if stack.supervisor == "systemd" or keeper.pid(n)]
    order.stop(running, lambda name: keeper.stop([name]), say)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Ask every service a real request. Exits 1 unless all are healthy."""
    stack = Stack.load()
    answers = health.check_all(stack)
    if as_json:
        services = {n: dataclasses.asdict(h) for n, h in answers.items()}
        typer.echo(json.dumps({"services": services}))
    else:
        Console().print(status_table(stack, answers))
    if not all(h.healthy for h in answers.values()):
        raise typer.Exit(1)


def status_table(stack: Stack, answers: dict[str, health.Health]) -> Table:
    """Services, their answers and their memory, for people."""
    table = Table("service", "", "where", "answer", "MB", title=None)
    for name, answer in answers.items():
        mark = "[green]ok[/]" if answer.healthy else "[red]no[/]"
        table.add_row(name, mark, stack.services[name].url, answer.detail, str(answer.rss_mb))
    table.add_section()
    table.add_row("all", "", "", "", str(sum(a.rss_mb for a in answers.values())))
    return table


def logs(
    service: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.", min=1)] = 100,
) -> None:
    """Show a service's log."""
    stack = Stack.load()
    log = stack.service(service).log
    if stack.supervisor == "systemd":
        command = [
            "journalctl",
            "-u",
            f"rtlake-{service}",
            "-n",
            str(lines),
            "--no-pager",
            *(["-f"] if follow else []),
        ]
    else:
        command = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def restart(service: str) -> None:
    """Restart a service and wait until it answers."""
    stack = Stack.load()
    backup.check_restored(stack.home)
    stack.service(service)
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    if isinstance(keeper, supervise.Supervisord):
        keeper.ensure()
    keeper.stop([service])
    keeper.start([service])
    seconds = health.wait_all(stack, 180, [service])
    say(f"{service} answers after {seconds[service]:.1f} s")


def doctor() -> None:
    """Look for what is broken and say what to do. Exits 1 if anything is."""
    findings = doctors.examine(default_home(), project())
    for finding in findings:
        typer.echo(f"{'ok ' if finding.ok else 'BAD'} {finding.what}: {finding.detail}")
        if not finding.ok and finding.remedy:
            typer.echo(f"    -> {finding.remedy}")
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


def destroy(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    keep_data: Annotated[bool, typer.Option("--keep-data", help="Data and secrets stay.")] = False,
    keep_environment: Annotated[bool, typer.Option("--keep-environment", help="The Python environment stays.")] = False,
) -> None:
    """Stop everything and delete RTLAKE_HOME with all data. Downloads and the distribution's packages stay."""
    home = default_home()
    stack = _installed(home)
    if stack is None and not (home / "venv").exists():
        raise UserError(f"nothing of RTLake is in {home}")
    if not yes:
        typer.confirm(f"Delete {home}{'' if keep_data else ' with all data and secrets'}?", abort=True)
    if stack is not None:
        stop_all(stack)
    kept = remove.remove_everything(stack, home, data=not keep_data, environment=not keep_environment)
    for path in [*kept, f"{cache()} (downloads)", "packages of the distribution (Java, Maven, Python, PostgreSQL)"]:
        typer.echo(f"kept: {path}")
    say(f"RTLake is gone from {home}")


def lock(
    components: Annotated[list[str] | None, typer.Argument(help="Only these; the others keep their entries.")] = None,
) -> None:
    """Resolve ansible/artifacts/*.yml anew; write ansible/artifacts.lock.json and the SBOM beside it."""
    from airflow_provider_rtlake.kit import resolve

    folder = project() / "ansible"
    variables = yaml.safe_load((folder / "group_vars" / "all" / "versions.yml").read_text())
    path = folder / artifacts.LOCK_NAME
    wanted = {
        w["component"]: w
        for w in (resolve.load_wanted(f, variables) for f in sorted((folder / "artifacts").glob("*.yml")))
    }
    unknown = sorted(set(components or ()) - wanted.keys())
    if unknown:
        raise UserError(f"no component {', '.join(unknown)} under {folder / 'artifacts'}")
    found = artifacts.load_lock(path) if components and path.exists() else {}
    found = {n: c for n, c in found.items() if n in wanted}
    for name in components or wanted:
        found[name] = resolve.resolve(wanted[name], cache(), say)
    current = artifacts.load_lock(path) if components and path.exists() else {}  # others may have written meanwhile
    merged = {
        **{n: c for n, c in current.items() if n in wanted},
        **{n: found[n] for n in (components or wanted)},
    }
    path.write_text(artifacts.dump_lock(merged.values()))
    sbom.write(project())
    for component in merged.values():
        megabytes = sum(a.size for a in component.artifacts) / 1e6
        say(f"{component.name} {component.version}: {len(component.artifacts)} files, {megabytes:.0f} MB")


def fetch(
    components: Annotated[
        list[str] | None, typer.Argument(help="Only these; all but superset's packages if none is named.")
    ] = None,
) -> None:
    """Fill the download cache with every locked file, and verify what is there already."""
    locked = artifacts.load_lock(project() / "ansible" / artifacts.LOCK_NAME)
    unknown = sorted(set(components or ()) - locked.keys() - {_SUPERSET})
    if unknown:
        raise UserError(f"not in the lock: {', '.join(unknown)}; there are: {', '.join([*locked, _SUPERSET])}")
    wanted = [a for n, c in locked.items() if not components or n in components for a in c.artifacts]
    fetched = fetching.ensure(wanted, cache(), say)
    say(f"{len(wanted)} files verified, {len(fetched)} of them fetched now")
    if _SUPERSET in (components or ()):
        fetching.fill_uv_cache(project() / "requirements" / "superset.txt")
        say("superset: its packages are in the cache")
