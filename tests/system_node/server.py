"""What a user does on a server, and how a test looks at it."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from tests.system_node.node import Node

CACHE = "/var/cache/rtlake"
HOME = "/opt/rtlake"
PROJECT_IN_NODE = "/root/rtlake"
_RECAP = re.compile(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")
_SETTINGS = {"RTLAKE_HOME": HOME, "RTLAKE_CACHE": CACHE}


class Play:
    """What a run of a playbook said.

    :param text: its output.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        found = _RECAP.findall(text)
        assert found, text[-3000:]
        self.ok, self.changed, _, self.failed = (int(n) for n in found[-1])

    @property
    def changes(self) -> list[str]:
        """Names of the tasks that changed something."""
        found, task = [], ""
        for line in self.text.splitlines():
            if line.startswith(("TASK [", "RUNNING HANDLER [")):
                task = line.split("[", 1)[1].rsplit("]", 1)[0]
            elif line.startswith("changed:"):
                found.append(task)
        return found


class Server:
    """A node, as its administrator uses it.

    :param components: what it runs; everything, with monitoring and Superset, if empty.
    :param postgresql: major version of the distribution's PostgreSQL.
    """

    def __init__(self, node: Node, components: list[str], postgresql: int) -> None:
        self.node, self.components, self.postgresql = node, components, postgresql
        self.variables: dict[str, Any] = (
            {"rtlake_components": components} if components else {"rtlake_monitoring": True, "superset_enabled": True}
        )

    @property
    def whole(self) -> bool:
        """Whether the whole lakehouse runs on it."""
        return not self.components

    def prepare(self, packages: str) -> None:
        """What needs a network: the distribution's packages, Ansible, and the download cache."""
        self.run("update-ca-certificates >/dev/null 2>&1; apt-get update -qq")
        self.run(f"apt-get install -y -qq --no-install-recommends {packages} postgresql-common >/dev/null")
        # As the playbook's first task does, before the packages can start a cluster of their own.
        self.run("mkdir -p /etc/postgresql-common/createcluster.d")
        self.run("echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/rtlake.conf")
        self.run(f"apt-get install -y -qq --no-install-recommends postgresql-{self.postgresql} >/dev/null")
        self.run("rm -r /etc/postgresql-common/createcluster.d/rtlake.conf")
        self.run(
            f"grep '^ansible-core==' {PROJECT_IN_NODE}/requirements/lock.txt | tr -d '\\\\' >/root/ansible.txt"
            " && python3 -m venv /root/ansible && /root/ansible/bin/pip install -q -r /root/ansible.txt",
            limit=600,
        )
        self.run(f"cd {PROJECT_IN_NODE} && ./rtlake fetch", limit=1800)
        if self.whole:
            self.run(f"cd {PROJECT_IN_NODE} && ./rtlake fetch superset", limit=1800)
        self.run(f"rm -rf {HOME}")

    def run(self, script: str, **options: Any) -> str:
        """Run a script in the node; returns what it printed on stdout."""
        return self.node.run(script, env=_SETTINGS, **options).stdout

    def tried(self, script: str) -> tuple[int, str]:
        """Run a script that may fail; returns its exit code and all that it printed."""
        done = self.node.run(script, check=False, env=_SETTINGS)
        return done.returncode, done.stdout + done.stderr

    def play(self, playbook: str = "site.yml", *options: str, ok: bool = True, **variables: Any) -> Play:
        """Run a playbook as a user would.

        :param playbook: below ``ansible/``.
        :param options: further words of ``ansible-playbook``.
        :param ok: whether it must succeed.
        :param variables: given with ``-e`` beside those of the server.
        """
        given = json.dumps({**self.variables, **variables})
        words = " ".join(options)
        script = (
            f"cd {PROJECT_IN_NODE} && /root/ansible/bin/ansible-playbook -i ansible/inventories/single"
            f" ansible/{playbook} -e '{given}' {words}"
        )
        done = self.node.run(script, check=ok, env=_SETTINGS, limit=1800)
        return Play(done.stdout + done.stderr)

    def rtlake(self, words: str, **options: Any) -> str:
        """Run ``./rtlake``; returns what it printed on stdout."""
        return self.run(f"cd {PROJECT_IN_NODE} && ./rtlake {words}", **options)

    def python(self, script: str, **options: Any) -> str:
        """Run a script by the installation's own Python, with the project at hand; returns what it printed."""
        folder = f"cd {PROJECT_IN_NODE} && PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1"
        return self.run(f"{folder} {HOME}/venv/bin/python - <<'END'\n{script}\nEND", **options)

    def ask(self, url: str) -> Any:
        """The JSON that a service answers."""
        said = self.python(f"import httpx; print(httpx.get({url!r}, timeout=30).raise_for_status().text)")
        return json.loads(said)

    def hops(self) -> dict[str, int]:
        """Rows of every table at every hop, after a merge by Airflow; all of them agree."""
        said = self.python("from tests.system_node.hops import main; main()", limit=1500)
        tables = json.loads(said.splitlines()[-1])
        assert not [problem for one in tables.values() for problem in one["problems"]], tables
        return {f"{table}.{hop}": rows for table, one in tables.items() for hop, rows in one["rows"].items()}

    def units(self) -> list[str]:
        """Names of our services' units."""
        listed = self.run("systemctl list-unit-files --no-legend --no-pager 'rtlake-*.service' | cut -d' ' -f1")
        return listed.split()

    def exposure(self, unit: str) -> float:
        """What ``systemd-analyze security`` gives a unit: 0 (confined) to 10."""
        said = self.run(f"systemd-analyze security --no-pager {unit} | tail -1")
        return float(re.findall(r"([0-9.]+) [A-Z]", said)[-1])

    def healthy(self) -> dict[str, bool]:
        """Which services answered just now."""
        _, said = self.tried(f"cd {PROJECT_IN_NODE} && ./rtlake status --json")
        answer = json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("{")))
        return {name: bool(one["healthy"]) for name, one in answer["services"].items()}

    def recovers(self, limit: float) -> None:
        """Wait until every service answers.

        :param limit: seconds.
        :raises AssertionError: some do not; they are in the message.
        """
        end = time.monotonic() + limit
        while not all((answers := self.healthy()).values()):
            assert time.monotonic() < end, answers
            time.sleep(1)

    def sql(self, statement: str, database: str = "rtsales", role: str = "rtlake") -> str:
        """Ask PostgreSQL; one value a line."""
        script = (
            f"PGPASSWORD=$(cat {HOME}/secrets/{role}) /usr/bin/psql -h 127.0.0.1 -U {role} -d {database}"
            f' -Atqc "{statement}"'
        )
        return self.run(script).strip()
