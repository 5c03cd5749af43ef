"""Brings Superset's own database up to date, its administrator, and the provisioned dashboards.

Run by the start script, with Superset's Python: no password is an argument of a process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from flask_migrate import upgrade
from superset.app import create_app


def main(assets: Path, password: str) -> None:
    """Do all of it; a second time changes nothing.

    :param assets: folder with databases, datasets, charts and dashboards.
    :param password: of the user admin.
    """
    app = create_app()
    with app.app_context():
        # They exist only within an application.
        import superset
        from superset import appbuilder, security_manager
        from superset.commands.importers.v1.assets import ImportAssetsCommand
        from superset.utils.core import override_user

        upgrade(directory=str(Path(superset.__file__).parent / "migrations"))
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
