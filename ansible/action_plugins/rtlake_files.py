"""Renders a role's templates and hands folders, files and services' start files to one module run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader


class ActionModule(ActionBase):  # type: ignore[misc]
    """One module execution for all of a role's files, however many there are."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> Any:
        """Render, then run the module."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        role = arguments.pop("role")
        units = [{**arguments.get("unit_defaults", {}), **u} for u in arguments.pop("units", [])]
        arguments.pop("unit_defaults", None)
        self._vars = dict(task_vars or {})
        self._roles = Path(self._vars["playbook_dir"], "roles")
        files = [self._rendered(role, dict(f), {}) for f in arguments["files"]]
        plain = [f["path"] for f in files if f.get("state", "file") == "file"]
        for unit in units:
            files += self._unit_files(role, unit, plain)
        # Apart from what may be seen: the module hides them from logs and output, and nothing else.
        arguments["contents"] = {f["path"]: f.pop("content") for f in files if "content" in f}
        arguments["files"] = files
        result.update(self._execute_module(module_name="rtlake_files", module_args=arguments, task_vars=task_vars))
        return result

    def _rendered(self, role: str, entry: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        template = entry.pop("template", None)
        if template is None:
            return entry
        path = self._roles / role / "templates" / template
        if not path.exists():
            raise AnsibleActionFail(f"no template {path}")
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        values = {**self._vars, **extra, **entry.pop("vars", {})}
        entry["content"] = str(lookup.run([str(path)], variables=values)[0])
        return entry

    def _unit_files(self, role: str, unit: dict[str, Any], plain: list[str]) -> list[dict[str, Any]]:
        name = unit["name"]
        etc = Path(str(self._templar.template(self._vars["rtlake_etc"])))
        folder = etc / role
        start, env, reads = folder / f"{name}.sh", folder / f"{name}.env", folder / f"{name}.reads"
        has_env = bool(unit["environment"] or unit["secret_environment"])
        listed = [*(unit["files"] or plain), str(start), *([str(env)] if has_env else [])]
        listed += [f"{a}/.rtlake-lock" for a in unit["artifacts"]]
        extra = {"unit": unit, "reads_file": str(reads)}
        common: list[dict[str, Any]] = [
            {"path": str(reads), "content": "\n".join(listed) + "\n", "mode": "0640"},
            {"path": str(start), "template": "start.sh.j2", "mode": "0750"},
        ]
        if has_env:
            common.append({"path": str(env), "template": "service.env.j2", "mode": "0600"})
        if str(self._templar.template(self._vars["rtlake_supervisor"])) == "systemd":
            unit_path = f"/etc/systemd/system/rtlake-{name}.service"
            common[0]["content"] += f"{unit_path}\n"
            common.append(
                {
                    "path": unit_path,
                    "template": "unit.service.j2",
                    "mode": "0644",
                    "owner": "root",
                    "group": "root",
                }
            )
        else:
            path = etc / "supervisor" / "conf.d" / f"{name}.conf"
            common.append({"path": str(path), "template": "program.conf.j2", "mode": "0644", "owner": "", "group": ""})
        return [self._rendered("common", entry, extra) for entry in common]
