"""Brings Superset's own database up to date, its keys and administrator, and the provisioned dashboards.

Run by the start script, with Superset's Python: no password is an argument of a process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from flask_migrate import upgrade
from sqlalchemy import Column, LargeBinary, MetaData, select, type_coerce
from sqlalchemy.engine import Connection, Engine
from superset.app import create_app


def encrypt_anew(engine: Engine, metadata: MetaData, config: dict[str, Any], former: Iterable[str]) -> int:
    """Encrypt with the present key whatever was encrypted with a former one; all of it or nothing.

    Superset's own command looks for encrypted columns where its models are not (6.1).

    :param metadata: of the models.
    :param config: the application's; its ``SECRET_KEY`` is what the columns are read and written with.
    :param former: keys.
    :returns: number of values.
    :raises ValueError: no key reads a value.
    """
    from superset.utils.encrypt import EncryptedType

    present, changed = config["SECRET_KEY"], 0
    columns = [c for t in metadata.tables.values() for c in t.columns if isinstance(c.type, EncryptedType)]

    def read(connection: Connection, column: Column, where: Any) -> tuple[str, Any]:
        stored = connection.execute(select(type_coerce(column, LargeBinary)).where(where)).scalar()
        for key in (present, *former):
            config["SECRET_KEY"] = key
            try:
                value = column.type.process_result_value(stored, engine.dialect)
                # Another key may give something by chance, too: the cipher proves nothing.
                if column.type.process_bind_param(value, engine.dialect) == stored:
                    return key, value
            except ValueError:
                continue
            finally:
                config["SECRET_KEY"] = present
        raise ValueError(f"no key reads {column}, {where}")

    with engine.begin() as connection:
        for column in columns:
            identity = column.table.c.id
            for row in connection.execute(select(identity).where(column.isnot(None))).scalars().all():
                key, value = read(connection, column, identity == row)
                if key != present:
                    connection.execute(column.table.update().where(identity == row).values({column: value}))
                    changed += 1
    return changed


def main(assets: Path, password: str) -> None:
    """Do all of it; a second time changes nothing.

    :param assets: folder with databases, datasets, charts and dashboards.
    :param password: of the user admin.
    """
    app = create_app()
    with app.app_context():
        # They exist only within an application.
        import superset
        from flask_appbuilder import Model
        from superset import appbuilder, db, security_manager
        from superset.commands.importers.v1.assets import ImportAssetsCommand
        from superset.utils.core import override_user

        upgrade(directory=str(Path(superset.__file__).parent / "migrations"))
        changed = encrypt_anew(db.engine, Model.metadata, app.config, app.config["FORMER_SECRET_KEYS"])
        print(f"superset: {changed} values encrypted anew")
        appbuilder.add_permissions(update_perms=True)
        security_manager.sync_role_definitions()
        user = security_manager.find_user("admin")
        if user is None:
            role = security_manager.find_role("Admin")
            user = security_manager.add_user("admin", "RTLake", "Admin", "admin@localhost", role, password=password)
        else:
            security_manager.reset_password(user.id, password)
        files = {str(path.relative_to(assets)): path.read_text() for path in sorted(assets.rglob("*.yaml"))}
        files["metadata.yaml"] = yaml.safe_dump({"version": "1.0.0", "type": "assets"})
        with override_user(user):
            ImportAssetsCommand(files).run()
    print(f"superset: {len(files) - 1} assets imported")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).read_text().strip())
