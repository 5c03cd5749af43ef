"""What Airflow needs to know of this provider: hooks, connection forms, links, triggers.

Airflow reads this through the entry point ``apache_airflow_provider`` of the distribution.
"""

from __future__ import annotations

from typing import Any

PACKAGE = "airflow_provider_rtlake"

# System → its documentation. One integration each, so that the UI and ``airflow providers`` can name it.
INTEGRATIONS = {
    "Apache Kafka": "https://kafka.apache.org/",
    "Kafka Connect": "https://kafka.apache.org/documentation/#connect",
    "Apache Flink": "https://flink.apache.org/",
    "Project Nessie": "https://projectnessie.org/",
    "Apache Pinot": "https://pinot.apache.org/",
    "Apache Iceberg": "https://iceberg.apache.org/",
    "Trino": "https://trino.io/",
    "dbt": "https://docs.getdbt.com/",
}

_TEXT = {"type": ["string", "null"]}
_VERIFY = {
    "label": "Verify",
    "description": "Path of a CA bundle for HTTPS; empty trusts the system's certificates.",
    "schema": _TEXT,
}


def _modules(kind: str, by_system: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {
            "integration-name": system,
            "python-modules": [f"{PACKAGE}.{kind}.{module}" for module in modules],
        }
        for system, modules in by_system.items()
    ]


def _form(
    *,
    hidden: list[str] | None = None,
    relabeling: dict[str, str] | None = None,
    placeholders: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "hidden-fields": hidden or [],
        "relabeling": {"schema": "Scheme (http or https)", **(relabeling or {})},
        "placeholders": {"schema": "http", "host": "127.0.0.1", **(placeholders or {})},
    }


def _connection_types() -> list[dict[str, Any]]:
    return [
        {
            "connection-type": "kafka_connect",
            "hook-class-name": f"{PACKAGE}.hooks.kafka_connect.KafkaConnectHook",
            "hook-name": "Kafka Connect",
            "ui-field-behaviour": _form(placeholders={"port": "8083"}),
            "conn-fields": {
                "bootstrap_servers": {
                    "label": "Kafka brokers",
                    "description": "Brokers as Kafka Connect reaches them, host:port separated by commas.",
                    "schema": _TEXT,
                },
                "secrets_dir": {
                    "label": "Secrets folder",
                    "description": "Folder, as Kafka Connect sees it, whose files hold one secret each.",
                    "schema": _TEXT,
                },
                "database_login": {
                    "label": "Replication user",
                    "description": "Database role that Debezium reads with.",
                    "schema": _TEXT,
                },
                "database_secret": {
                    "label": "Replication secret",
                    "description": "Name of the file in the secrets folder that holds the role's password.",
                    "schema": _TEXT,
                },
                "verify": _VERIFY,
            },
        },
        {
            "connection-type": "flink",
            "hook-class-name": f"{PACKAGE}.hooks.flink.FlinkHook",
            "hook-name": "Apache Flink",
            "ui-field-behaviour": _form(placeholders={"port": "8081"}),
            "conn-fields": {
                "gateway_url": {
                    "label": "SQL gateway",
                    "description": "Base URL of the SQL gateway, such as http://127.0.0.1:8083.",
                    "schema": _TEXT,
                },
                "web_url": {
                    "label": "Web interface",
                    "description": "Base URL of Flink's web interface, where it is not the REST server's.",
                    "schema": _TEXT,
                },
                "verify": _VERIFY,
            },
        },
        {
            "connection-type": "nessie",
            "hook-class-name": f"{PACKAGE}.hooks.nessie.NessieHook",
            "hook-name": "Nessie",
            "ui-field-behaviour": _form(
                hidden=["login"],
                relabeling={"password": "Bearer token"},
                placeholders={"port": "19120"},
            ),
            "conn-fields": {
                "api_path": {
                    "label": "API path",
                    "description": "Path of API version 2 on the server; /api/v2 where empty.",
                    "schema": _TEXT,
                },
                "branch": {
                    "label": "Branch",
                    "description": "The branch that readers look at; the server's default where empty.",
                    "schema": _TEXT,
                },
                "warehouse": {
                    "label": "Warehouse",
                    "description": "Where tables are stored, such as s3://lakehouse/warehouse.",
                    "schema": _TEXT,
                },
                "verify": _VERIFY,
            },
        },
        {
            "connection-type": "pinot_controller",
            "hook-class-name": f"{PACKAGE}.hooks.pinot.PinotControllerHook",
            "hook-name": "Pinot controller",
            "ui-field-behaviour": _form(placeholders={"port": "9000"}),
            "conn-fields": {
                "broker_url": {
                    "label": "Broker",
                    "description": "Base URL of a broker, such as http://127.0.0.1:8099.",
                    "schema": _TEXT,
                },
                "bootstrap_servers": {
                    "label": "Kafka brokers",
                    "description": "Brokers as the Pinot servers reach them, host:port separated by commas.",
                    "schema": _TEXT,
                },
                "verify": _VERIFY,
            },
        },
    ]


def get_provider_info() -> dict[str, Any]:
    """The provider's description, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-rtlake",
        "name": "RTLake",
        "description": "A real-time lakehouse: capture, stream, keep an exact history, serve and check.",
        "integrations": [
            {"integration-name": system, "external-doc-url": url, "tags": ["software"]}
            for system, url in INTEGRATIONS.items()
        ],
        "hooks": _modules("hooks", HOOKS),
        "operators": _modules("operators", OPERATORS),
        "sensors": _modules("sensors", SENSORS),
        "triggers": _modules("triggers", TRIGGERS),
        "connection-types": _connection_types(),
        "extra-links": [f"{PACKAGE}.links.{path}" for path in LINKS],
        "asset-uris": [
            {
                "schemes": ["rtlake"],
                "handler": f"{PACKAGE}.assets.sanitize_uri",
            }
        ],
    }


HOOKS = {
    "Kafka Connect": ["kafka_connect"],
    "Apache Flink": ["flink"],
    "Project Nessie": ["nessie"],
    "Apache Pinot": ["pinot"],
}
OPERATORS = {
    "Apache Kafka": ["kafka"],
    "Kafka Connect": ["kafka_connect"],
    "Apache Flink": ["flink"],
    "Project Nessie": ["nessie"],
    "Apache Pinot": ["pinot"],
    "Apache Iceberg": ["iceberg", "scd2", "scd2_erase"],
    "Trino": ["trino"],
    "dbt": ["benchmark", "benchmark_dbt", "dbt"],
}
SENSORS: dict[str, list[str]] = {
    "Kafka Connect": ["kafka_connect"],
    "Apache Flink": ["flink"],
    "Apache Pinot": ["pinot"],
    "Apache Iceberg": ["scd2"],
}
TRIGGERS: dict[str, list[str]] = {
    "Kafka Connect": ["kafka_connect"],
    "Apache Flink": ["flink"],
    "Project Nessie": ["nessie"],
    "Apache Pinot": ["pinot"],
    "Apache Iceberg": ["scd2"],
    "dbt": ["dbt"],
}
LINKS = ["kafka_connect.KafkaConnectStatusLink", "flink.FlinkJobLink", "pinot.PinotTableLink"]
