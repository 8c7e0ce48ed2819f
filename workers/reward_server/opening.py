"""Opens a reward server: asks what it serves, and whether it really gives rewards."""

from __future__ import annotations

from orchestrator.clock import Clock, SystemClock
from orchestrator.config import Settings
from orchestrator.engine import Engine, ModelDescription
from orchestrator.errors import InvalidRequest
from orchestrator.workers.openai.dialect import DIALECTS
from orchestrator.workers.reward_server.engine import RewardServerEngine
from orchestrator.workers.reward_server.forms import Form
from orchestrator.workers.reward_server.json_form import JsonForm
from orchestrator.workers.reward_server.options import RewardServerOptions, checked_options, read_target
from orchestrator.workers.reward_server.pooling import PoolingForm
from orchestrator.workers.reward_server.server import Served, Server
from orchestrator.workers.reward_server.step_tag import StepTagForm

_MODELS = "v1/models"


async def open_engine(url: str, *, clock: Clock | None = None, **options: object) -> RewardServerEngine:
    """An engine for a process reward model behind HTTP.

        engine = await open_engine("http://127.0.0.1:8000", form="pooling")

    Args:
        url: The server's address; see `RewardServerOptions`.
        clock: Waits between attempts.
        options: See `RewardServerOptions`.

    Raises:
        InvalidRequest: An option is wrong, or the model must be named.
        EngineFailed: The server cannot be reached, refuses the key, or gives no rewards.
    """
    checked = checked_options({**options, "url": url})
    clock = clock or SystemClock()
    served = await _served(checked, clock)
    server, engine = _assembled(checked, served, clock)
    try:
        if checked.probe:
            await engine.probe()
    except BaseException:
        await server.aclose()
        raise
    return engine


async def open_reward(target: str, settings: Settings) -> Engine:
    """A process reward model behind HTTP: ``reward:[FORM@]URL[#NAME=VALUE&NAME=VALUE]``; it judges and does not write.

    The key of the openai engine's settings goes along if the address is the one in those settings, and nowhere else.
    """
    url, options = read_target(target)
    key, configured = settings.openai.api_key, settings.openai.base_url
    may_send_key = key is not None and configured is not None and _root(url) == _root(configured)
    return await open_engine(url, clock=None, api_key=key if may_send_key else None, **options)


def _root(address: str) -> str:
    return address.rstrip("/").removesuffix("/v1")


async def _served(options: RewardServerOptions, clock: Clock) -> Served:
    if options.form == "json":
        return Served(DIALECTS["generic"], {})
    name = options.name or options.model or "reward model"
    server = Server(options, name=name, context_length=options.context_length, clock=clock)
    try:
        return await server.served()
    finally:
        await server.aclose()


def _assembled(options: RewardServerOptions, served: Served, clock: Clock) -> tuple[Server, RewardServerEngine]:
    model = _chosen(served, options)
    length = options.context_length
    if "context_length" not in options.model_fields_set:
        length = served.models.get(model) or length
    description = ModelDescription(
        name=options.name or model,
        engine="reward",
        context_length=length,
        cost=options.model_cost,
        shares_prompt=False,
    )
    server = Server(options, name=description.name, context_length=length, clock=clock)
    form: Form
    match options.form:
        case "json":
            form = JsonForm(server, options)
        case "pooling":
            form = PoolingForm(server, options, model=model)
        case "step_tag":
            form = StepTagForm(server, options, model=model, dialect=served.dialect)
    path = form.path if isinstance(form, JsonForm) else _MODELS
    return server, RewardServerEngine(server, form, description=description, health_path=path)


def _chosen(served: Served, options: RewardServerOptions) -> str:
    host = options.connection().base_url.partition("://")[2].partition("/")[0]
    if options.model or options.form == "json":
        return options.model or host
    if len(served.models) == 1:
        return next(iter(served.models))
    listing = ", ".join(sorted(served.models)) or "nothing it tells of"
    raise InvalidRequest(f"name the model; the server at {host} has: {listing}", field="model")
