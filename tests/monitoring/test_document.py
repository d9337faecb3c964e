"""docs/operations.md's section on monitoring: its commands are run, its configuration is read."""

import re
import subprocess
from pathlib import Path

import yaml

from tests.monitoring.backed_up import back_up
from tests.monitoring.conftest import TOKEN
from tests.service import ROOT, Service, environment
from tests.test_docs import section

TEXT = section((ROOT / "docs" / "operations.md").read_text("utf-8"), "Monitoring")


def blocks(kind: str) -> list[str]:
    """The blocks of this kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run(command: str, tree: Path, service: Service) -> str:
    """Run a block word for word but for the port; what it prints."""
    assert command.count("http://127.0.0.1:8002") == 1
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace("http://127.0.0.1:8002", service.url)],
        cwd=tree,
        env=environment({**service.settings, "METRICS_TOKEN": TOKEN}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def test_the_commands_work(tree: Path, monitored: Service, backups: Path, backend: str) -> None:
    """Each as it stands there."""
    back_up(backups, backend)
    own, with_token, queue, monitor = blocks("bash")
    assert "clawd_database_up 1.0\n" in run(own, tree, monitored)
    assert run(with_token, tree, monitored).count("clawd_build_info") == 3
    assert '"running":0' in run(queue, tree, monitored)
    assert run(monitor, tree, monitored) == ""


def test_the_defaults_are_those_of_the_script(tree: Path) -> None:
    """The document shows them as such."""
    script = [str(tree / "scripts" / "monitor.sh"), "--help"]
    done = subprocess.run(script, env=environment({}), capture_output=True, text=True, check=True)
    shown = re.findall(r"(--[\w-]+) (\d+)", blocks("bash")[-1])
    assert len(shown) == 2
    for option, default in shown:
        assert re.search(rf"{option} .*?\({default}\)", done.stdout, re.DOTALL), option
    assert "/scripts/monitor.sh\n" in blocks("text")[0]


def test_the_configuration_can_be_read() -> None:
    """YAML that Prometheus' own names stand in."""
    here, elsewhere = (yaml.safe_load(block)["scrape_configs"][0] for block in blocks("yaml"))
    assert here["static_configs"] == [{"targets": ["127.0.0.1:8002"]}]
    assert elsewhere["authorization"]["credentials_file"]
    assert here["job_name"] == elsewhere["job_name"] == "clawd-backend"
    alerts = (ROOT / "deploy" / "alerts.yml").read_text("utf-8")
    assert 'job="clawd-backend"' in alerts
