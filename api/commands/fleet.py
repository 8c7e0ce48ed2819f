"""``ttc fleet``: whether a fleet file fits, and its models on a cluster: up, status, scale, down."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from orchestrator.api.terminal.options import json_option
from orchestrator.config import Settings, read_settings
from orchestrator.errors import EngineFailed, InvalidRequest, JobConflict, TtcError
from orchestrator.fleet_file import LOCAL, FleetFile, Replicas, read_fleet

if TYPE_CHECKING:
    from orchestrator.api.fleets.findings import Finding
    from orchestrator.workers.ray.fleet_status import ModelStatus

_DEFAULT = "fleet.toml"
_WATCH_S = 2.0
_DOES_NOT_FIT = 2

_file = click.argument("file", default=_DEFAULT, metavar="[FILE]")


@click.group()
def fleet() -> None:
    """Run the models of a fleet file: on this machine, or as replicas on a Ray cluster.

    FILE (fleet.toml by default) lists models, their roles, how many replicas of each run on what, and prices. One file
    serves a laptop, a machine with accelerators and a cluster; without [cluster] in it nothing has to be brought up:
    ttc solve, serve, controller and mcp open its models by themselves.

    \b
    Start here:
      ttc fleet check fleet.toml
      ttc fleet up fleet.toml
      ttc solve "What is 17 * 23?" --fleet fleet.toml
      ttc fleet status fleet.toml
      ttc fleet down fleet.toml

    \b
    A file:
      [models.small]
      model = "qwen2.5-coder-0.5b"
      roles = ["small"]
      replicas = { min = 1, max = 4 }
      [cluster]
      ray = "local"          # or auto, HOST:PORT; leave [cluster] away for no cluster
    """  # noqa: D301  # click wants the character


@fleet.command()
@_file
@click.option("--no-connect", is_flag=True, help="Do not ask the cluster what it has; count with [cluster.nodes].")
@json_option("a JSON object")
def check(*, file: str, no_connect: bool, as_json: bool) -> int:
    """Say what of FILE will not fit, before anything starts.

    Looks at names, engines and their arguments, roles, vocabularies of draft and target, weights, memory of weights
    and KV caches, accelerators and cores of the nodes against replicas, versions of Ray. Exit code 2 says that there
    are errors.
    """
    described = read_fleet(file)
    findings = _findings(described, read_settings(), connects=not no_connect)
    return _tell(described, findings, as_json=as_json)


@fleet.command()
@_file
@click.option("--no-check", is_flag=True, help="Start even what `check` says will not fit.")
@json_option("a JSON object")
def up(*, file: str, no_check: bool, as_json: bool) -> int:
    """Bring the models of FILE up, and wait until each has answered a request.

    A second time it applies what has changed in FILE: replicas are added or taken away, models that changed are
    started anew (the new ones first), models that are gone from it are removed, and all others are left alone. With
    cluster.ray = "local" a Ray is started on this machine, reachable from this machine only.

    Ctrl-C stops the waiting; what was asked for goes on.
    """
    from orchestrator.api.fleets.cluster import await_ready, on_cluster
    from orchestrator.api.fleets.findings import has_errors
    from orchestrator.api.fleets.showing import change_line

    described, settings = read_fleet(file), read_settings()
    if described.has_cluster and not no_check:
        findings = _findings(described, settings, connects=described.cluster.ray != LOCAL)
        if has_errors(findings):
            return _tell(described, findings, as_json=as_json)
    _pull(described, settings, is_quiet=as_json)
    with on_cluster(described, starts=True) as deployed:
        before = {} if deployed.deployed() is None else {one.name: one for one in deployed.status()}
        changes = deployed.deploy(described)
        anew = {name for host in changes.changed for name in (host, *described.company_of(host))}
        say = _say_nothing if as_json else _say
        say(change_line(changes))
        progress = _Progress(say)
        old = {name: one for name, one in before.items() if name in anew}
        failures = await_ready(deployed, described, settings, before=old, watch=progress.show)
        statuses = deployed.status()
    if as_json:
        shown = [{"name": failure.name, "reason": failure.reason} for failure in failures]
        models = [status.to_json() for status in statuses]
        click.echo(json.dumps({"changes": changes._asdict(), "models": models, "failures": shown}, indent=2))
    if failures:
        listing = "; ".join(f"{failure.name}: {failure.reason}" for failure in failures)
        others = len(statuses) - len(failures)
        rest = f" ({others} of {len(statuses)} models are up)" if others else ""
        raise EngineFailed(f"not all models came up{rest}: {listing}", model=failures[0].name, is_retryable=False)
    if not as_json:
        click.echo(f"up: {', '.join(status.name for status in statuses)}")
    return 0


@fleet.command()
@_file
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@json_option("a JSON object, with --watch one per line")
def status(*, file: str, watch: bool, as_json: bool) -> int:
    """Show the models of FILE: replicas by state, requests, tokens per second, cache hits, replicas that ended lately.

    Counters are those of the replicas that run now, since each was started. Exit code 6 says that a model is not
    ready.
    """
    from orchestrator.api.fleets.cluster import on_cluster
    from orchestrator.workers.ray.fleet_status import READY

    described = read_fleet(file)
    with on_cluster(described) as deployed:
        statuses = deployed.status()
        _show_status(statuses, as_json=as_json, is_line=watch)
        with suppress(KeyboardInterrupt):
            while watch:
                time.sleep(_WATCH_S)
                statuses = deployed.status()
                if not as_json and sys.stdout.isatty():
                    click.clear()
                _show_status(statuses, as_json=as_json, is_line=True)
    return 0 if all(one.state == READY for one in statuses) else 6


@fleet.command()
@click.argument("wishes", metavar="NAME=N...", nargs=-1, required=True)
@click.option("--fleet", "file", default=_DEFAULT, show_default=True, metavar="FILE", help="The fleet file.")
@json_option("a JSON object")
def scale(*, wishes: tuple[str, ...], file: str, as_json: bool) -> int:
    """Set the replicas of models: NAME=4, or NAME=1..8 to let load decide.

    Replicas that stay go on with what they do; those that go finish it first. The file is not changed: the next
    `ttc fleet up` sets what it says.

    \b
    Examples:
      ttc fleet scale small=4
      ttc fleet scale small=1..8 large=2 --fleet fleet.toml
    """  # noqa: D301  # click wants the character
    from orchestrator.api.fleets.cluster import on_cluster

    wanted = dict(map(_wish, wishes))
    described = read_fleet(file)
    with on_cluster(described) as deployed:
        for name, replicas in wanted.items():
            deployed.scale(name, replicas)
        statuses = deployed.status()
    _show_status([one for one in statuses if one.name in wanted], as_json=as_json)
    return 0


@fleet.command()
@_file
@click.option("--yes", is_flag=True, help="Do not ask, even if requests are under way.")
@click.option("--grace", "grace_s", type=float, default=60.0, show_default=True, metavar="SECONDS")
@json_option("a JSON object")
def down(*, file: str, yes: bool, grace_s: float, as_json: bool) -> int:
    """Take the models of FILE down; requests that are under way end first, within --grace seconds.

    Jobs whose requests are cut off are not lost: their controllers try again, and go on when the fleet is up. With
    cluster.ray = "local" its Ray ends, too.
    """
    from orchestrator.api.fleets.cluster import on_cluster
    from orchestrator.workers.ray import local

    described = read_fleet(file)
    with on_cluster(described) as deployed:
        if not yes:
            _confirm(deployed.status() if deployed.deployed() is not None else [], as_json=as_json)
        removed = deployed.remove(drain_s=grace_s)
    ended = described.cluster.ray == LOCAL and local.stop(described.cluster.namespace)
    if as_json:
        click.echo(json.dumps({"removed": removed, "ray_ended": ended}))
    else:
        click.echo(
            f"down: {', '.join(removed) or 'nothing was up'}" + ("; this machine's Ray has ended" if ended else "")
        )
    return 0


def _findings(described: FleetFile, settings: Settings, *, connects: bool) -> list[Finding]:
    from orchestrator.api.fleets.checking import check as all_findings
    from orchestrator.api.fleets.cluster import look
    from orchestrator.api.fleets.findings import error, warning

    cluster, of_cluster = None, []
    if connects and described.has_cluster:
        try:
            cluster = look(described)
        except InvalidRequest as refused:
            of_cluster.append(error("cluster.ray", refused.message))
        except TtcError as unreached:
            of_cluster.append(warning("cluster.ray", unreached.message))
    return [*all_findings(described, settings, cluster=cluster), *of_cluster]


def _tell(described: FleetFile, findings: Sequence[Finding], *, as_json: bool) -> int:
    from orchestrator.api.fleets.findings import has_errors
    from orchestrator.api.fleets.showing import finding_lines, verdict

    fits = not has_errors(findings)
    if as_json:
        shown = [finding.to_json() for finding in findings]
        click.echo(json.dumps({"file": described.shown_path, "fits": fits, "findings": shown}, indent=2))
    else:
        for line in finding_lines(findings):
            click.echo(line)
        click.echo(f"{described.shown_path}: {verdict(findings)}")
    return 0 if fits else _DOES_NOT_FIT


def _pull(described: FleetFile, settings: Settings, *, is_quiet: bool) -> None:
    """The files that this machine's own replicas will need."""
    if described.cluster.ray == LOCAL and not settings.offline:
        from orchestrator.api.terminal.pulling import pull_missing

        pull_missing([entry.model for entry in described.models.values()], is_quiet=is_quiet)


def _show_status(statuses: Sequence[ModelStatus], *, as_json: bool, is_line: bool = False) -> None:
    if as_json:
        shown = {"models": [one.to_json() for one in statuses]}
        click.echo(json.dumps(shown, indent=None if is_line else 2))
        return
    from orchestrator.api.fleets.showing import problem_lines, status_table
    from orchestrator.api.terminal.console import result_console

    result_console().print(status_table(statuses))
    for line in problem_lines(statuses):
        click.echo(line)


def _wish(text: str) -> tuple[str, Replicas]:
    name, _, count = text.partition("=")
    found = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", count)
    if not name or found is None:
        raise InvalidRequest(f"cannot read {text!r}; write NAME=4, or NAME=1..8", field="NAME=N", value=text)
    least = int(found.group(1))
    most = int(found.group(2) or least)
    try:
        return name, Replicas(min=least, max=most)
    except ValueError:
        raise InvalidRequest(
            f"{text!r}: replicas are from 1 to 10000, and the most no fewer than the least", field="NAME=N", value=text
        ) from None


def _confirm(statuses: Sequence[ModelStatus], *, as_json: bool) -> None:
    """Asks before requests are cut off.

    Raises:
        JobConflict: There is nobody to ask.
        click.Abort: The answer is no.
    """
    ongoing = sum({one.name: one.ongoing for one in statuses}.values())
    if not ongoing:
        return
    if as_json or not sys.stdin.isatty():
        raise JobConflict(f"{ongoing} requests are under way; add --yes to take the fleet down all the same")
    click.confirm(f"{ongoing} requests are under way. Take the fleet down?", abort=True)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _say_nothing(_line: str) -> None:
    return


class _Progress:
    """Says of each model what has changed since it was said last."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: dict[str, str] = {}

    def show(self, statuses: Sequence[ModelStatus]) -> None:
        """One line for each model that is no longer as it was."""
        from orchestrator.api.fleets.showing import progress_line

        for status in statuses:
            line = progress_line(status)
            if self._said.get(status.name) != line:
                self._said[status.name] = line
                self._say(line)
