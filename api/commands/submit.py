"""``ttc submit``: a file of problems, solved on a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from orchestrator.api.terminal.asking import Asking
from orchestrator.api.terminal.cluster_job import run_job, usable_problems
from orchestrator.api.terminal.options import ModelChoice, json_option, problem_options
from orchestrator.api.terminal.submission import Batch
from orchestrator.api.terminal.submitting import Submitting
from orchestrator.config import read_settings
from orchestrator.errors import InvalidRequest
from orchestrator.workers.ray.jobs import DEFAULT_ADDRESS, RayJobs
from orchestrator.workers.ray.tokens import token_of

_MAX_CONCURRENCY = 1024


@click.command()
@click.argument("file", required=False)
@problem_options
@click.option("--concurrency", type=int, default=16, show_default=True, help="Problems under way at once.")
@click.option(
    "--store", metavar="STORE", help="Where the job keeps journals, seen from the cluster; by default nowhere."
)
@click.option("--address", metavar="URL", help="The cluster's dashboard; $RAY_API_SERVER_ADDRESS, else port 8265 here.")
@click.option("--out", metavar="FILE", help="Append results to FILE, here; problems it holds are skipped.")
@click.option("--in-place", is_flag=True, help="FILE is read on the cluster (shared storage) and not sent there.")
@click.option("--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="A variable for the job; repeatable.")
@click.option(
    "--cpus", type=float, default=0.0, metavar="N", help="Cores for the job's process; 0 runs it on the head."
)
@click.option("--gpus", type=float, default=0.0, metavar="N", help="GPUs for the job's process, if it holds the model.")
@click.option("--no-wait", is_flag=True, help="Start the job, print its id, and leave.")
@click.option("--follow", metavar="ID", help="Take the results of a job that runs or has ended.")
@click.option("--stop", metavar="ID", help="End a job; what it has found can still be taken.")
@json_option("a summary as a JSON object")
@click.option("--quiet", is_flag=True, help="Show neither progress nor what the job says.")
@click.option("--job", hidden=True, metavar="FILE", help="What runs on the cluster.")
def submit(
    *,
    file: str | None,
    policy: str | None,
    count: int | None,
    parameters: tuple[str, ...],
    budget: str | None,
    target_confidence: float | None,
    model: str | None,
    large: str | None,
    verifier_model: str | None,
    embedder: str | None,
    fleet: str | None,
    verifier: str | None,
    answer: str,
    max_sample_tokens: int | None,
    temperature: float | None,
    seed: int,
    concurrency: int,
    store: str | None,
    address: str | None,
    out: str | None,
    in_place: bool,
    variables: tuple[str, ...],
    cpus: float,
    gpus: float,
    no_wait: bool,
    follow: str | None,
    stop: str | None,
    as_json: bool,
    quiet: bool,
    job: str | None,
) -> int:
    """Solve FILE, JSON Lines with a problem each, on a Ray cluster, and bring the results back as they come.

    FILE has the form that ttc solve reads; - is stdin. Every line is checked before anything is sent. The job runs on
    the cluster, with the models of --fleet as they run there (ttc fleet up), or with --model opened in its own process.
    Nothing has to be shared: problems travel with the job, results come back through its log.

    Ctrl-C leaves the job running and says how to follow or stop it. With --out, the same command again goes on: it
    takes what the job has found meanwhile and runs only what is missing. Exit code 5 says that some have no answer.

    \b
    Examples:
      ttc submit gsm8k.jsonl --fleet fleet.toml --policy self_consistency --budget tokens=4000 --out results.jsonl
      ttc submit gsm8k.jsonl --fleet fleet.toml --budget usd=0.01 --address http://head:8265 --no-wait
      ttc submit --follow ttc-0123456789abcdef --out results.jsonl
      ttc submit --stop ttc-0123456789abcdef
      ttc submit /shared/problems.jsonl --in-place --fleet fleet.toml --budget tokens=4000 --out results.jsonl
    """  # noqa: D301  # click wants the character
    if job is not None:
        return run_job(job)
    _check_flags(
        file=file, follow=follow, stop=stop, no_wait=no_wait, as_json=as_json, out=out, concurrency=concurrency
    )
    jobs = RayJobs(address_of(address, os.environ), token=token_of(os.environ))
    submitting = Submitting(
        address=jobs.address,
        token=token_of(os.environ),
        out=None if out is None else Path(out),
        is_quiet=quiet,
        as_json=as_json,
    )
    if follow is not None:
        return submitting.follow(follow)
    if stop is not None:
        return submitting.stop(stop)
    assert file is not None
    if model is None and fleet is None:
        raise InvalidRequest("name the models: --fleet fleet.toml, or --model MODEL", field="model")
    settings = read_settings()
    asked: dict[str, Any] = {  # Any: options of different types
        "policy": policy or settings.policy,
        "count": count,
        "parameters": parameters,
        "budget": budget,
        "target_confidence": target_confidence,
        "verifier": verifier,
        "answer": answer,
        "temperature": temperature,
        "max_sample_tokens": max_sample_tokens,
        "seed": seed,
    }
    Asking.of_options(settings=settings, **asked)
    ModelChoice.of_options(model, large, verifier_model, embedder, fleet=fleet)
    order = {
        "asking": asked,
        "model": model,
        "large": large,
        "verifier_model": verifier_model,
        "embedder": embedder,
        "concurrency": concurrency,
        **({} if store is None else {"store": store}),
    }
    batch = Batch(
        file=file,
        problems=None if in_place else usable_problems(file),
        order=order,
        fleet=None if fleet is None else Path(fleet).read_text(encoding="utf-8"),
        env=_variables(variables, os.environ),
        cpus=cpus,
        gpus=gpus,
    )
    return submitting.submit(batch, waits=not no_wait)


def address_of(given: str | None, env: Mapping[str, str]) -> str:
    """The cluster's job server: as named, else as Ray's own commands find it, else on this machine."""
    if given is not None:
        return given
    if named := env.get("RAY_API_SERVER_ADDRESS"):
        return named
    other = env.get("RAY_ADDRESS", "")
    return other if urlsplit(other).scheme in {"http", "https"} else DEFAULT_ADDRESS


def _check_flags(
    *,
    file: str | None,
    follow: str | None,
    stop: str | None,
    no_wait: bool,
    as_json: bool,
    out: str | None,
    concurrency: int,
) -> None:
    """Refuses flags that contradict each other."""
    given = [name for name, value in (("FILE", file), ("--follow", follow), ("--stop", stop)) if value is not None]
    if len(given) != 1:
        what = f"{given[0]} and {given[1]} contradict each other" if given else "there is nothing to do"
        raise InvalidRequest(f"{what}; give a FILE of problems, --follow ID or --stop ID", field="file")
    if no_wait and file is None:
        raise InvalidRequest("--no-wait is for submitting a FILE", field="no_wait")
    if as_json and out is None and not (no_wait or stop):
        raise InvalidRequest(
            "without --out, results go to stdout, and so does the summary of --json; add --out FILE", field="json"
        )
    if not 1 <= concurrency <= _MAX_CONCURRENCY:
        raise InvalidRequest(
            f"--concurrency must be from 1 to {_MAX_CONCURRENCY}, not {concurrency}",
            field="concurrency",
            value=concurrency,
        )


def _variables(given: tuple[str, ...], env: Mapping[str, str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` for the value it has here."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not name.isidentifier() or (not sign and name not in env):
            reason = "is not set here" if name.isidentifier() else "is no name of a variable"
            raise InvalidRequest(f"--env {name!r} {reason}; write --env NAME=VALUE", field="env", value=name)
        found[name] = value if sign else env[name]
    return found
