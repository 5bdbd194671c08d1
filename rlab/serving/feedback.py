"""What actions led to, told to the server by those who asked for them: `POST /v2/models/{model}/feedback`."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from rlab.compression.export.graph import ACTION, OBS
from rlab.errors import DiskError
from rlab.experience.dataset import action_from_env, action_to_env, outside
from rlab.experience.recording_lines import Told
from rlab.serving import openapi
from rlab.serving.app import App, observed
from rlab.serving.inference import MOST_TEXT, decoded, numbers
from rlab.serving.models import ServedModel
from rlab.serving.ports import Port
from rlab.serving.recording import Recorder
from rlab.serving.web import AGAIN, Refused, Request, Response, Route, to_json

FLOAT32_MAX = float(np.finfo(np.float32).max)
PATH = "/v2/models/{model}/feedback"


class Became(msgspec.Struct, forbid_unknown_fields=True):
    """What became of one request: one value for its only observation, or lists with one for each."""

    id: str
    reward: float | list[float]
    terminated: bool | list[bool] = False
    truncated: bool | list[bool] = False
    next_obs: msgspec.Raw = msgspec.Raw()  # of the rows that ended, in order
    action: msgspec.Raw = msgspec.Raw()  # that was taken in place of the answer


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What became of several requests."""

    feedback: list[Became]


_body = msgspec.json.Decoder(Body)


def _or_list(kind: str) -> dict[str, Any]:
    """The schema of one value, or a list with one for each observation of a request."""
    return {"oneOf": [{"type": kind}, {"type": "array", "items": {"type": kind}, "minItems": 1}]}


SCHEMA = {
    "type": "object",
    "required": ["feedback"],
    "additionalProperties": False,
    "properties": {
        "feedback": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "reward"],
                "additionalProperties": False,
                "properties": {
                    "id": {"type": "string", "minLength": 1, "maxLength": MOST_TEXT, "description": "of the request"},
                    "reward": _or_list("number"),
                    "terminated": _or_list("boolean"),
                    "truncated": _or_list("boolean"),
                    "next_obs": {"description": "with an end: the observation after it; else left out"},
                    "action": {"description": "that was taken in place of the answer"},
                },
            },
        }
    },
}
RECORDED = {"type": "object", "required": ["recorded"], "properties": {"recorded": {"type": "integer"}}}
ABOUT = openapi.operation(
    "What the actions led to",
    RECORDED,
    404,
    requestBody={"required": True, "content": {"application/json": {"schema": SCHEMA}}},
)


def routes(app: App, recorder: Recorder | None) -> Sequence[Route]:
    """Where the server is told; None: it records nothing, and says so to who tells it."""
    if recorder is None:
        return [Route("POST", PATH, _refuse)]

    async def take(request: Request) -> Response:
        model = app.catalog.find(request.values["model"]).model
        told = parse(request.body, model, app.options.limits.max_rows, recorder.time())
        try:
            recorder.tell(model, told)
        except DiskError:
            raise Refused(503, "the server cannot write it down; its log says why", AGAIN) from None
        return Response(to_json({"recorded": len(told)}))

    return [Route("POST", PATH, take, ABOUT)]


async def _refuse(request: Request) -> Response:
    raise Refused(404, "this server records nothing; start it with --record FOLDER to tell it what actions led to")


def parse(body: bytes, model: ServedModel, most_rows: int, time: int) -> list[Told]:
    """What the body tells.

    Args:
        most_rows: observations of all requests together.
        time: when it came, in ns since 1970.

    Raises:
        Refused: with one line about the first thing that does not fit.
    """
    found = decoded(_body, body, "feedback")
    rows = sum(len(each.reward) if isinstance(each.reward, list) else 1 for each in found.feedback)
    if not 1 <= rows <= most_rows:
        raise Refused(400, f"the body tells of {rows} observations; 1 to {most_rows} are taken at once")
    return [_told(each, model, time) for each in found.feedback]


def _told(found: Became, model: ServedModel, time: int) -> Told:
    if not 1 <= len(found.id) <= MOST_TEXT:
        raise Refused(400, f"an id has 1 to {MOST_TEXT} characters, not {len(found.id)}")
    single = not isinstance(found.reward, list)
    reward = np.atleast_1d(np.array(found.reward, np.float64))
    if not len(reward):
        raise Refused(400, f"the feedback on {found.id!r:.80} has no reward")
    if (too_large := np.abs(reward) > FLOAT32_MAX).any():
        raise Refused(400, f"the reward {reward[too_large][0]:g} of {found.id!r:.80} is one that float32 does not hold")
    terminated, truncated = (
        _flags(found, name, getattr(found, name), len(reward)) for name in ("terminated", "truncated")
    )
    truncated &= ~terminated  # an ending outranks a time limit
    next_obs = _next_obs(found, model, int((terminated | truncated).sum()), single)
    action = _action(found, model, len(reward), single) if _given(found.action) else None
    return Told(time, found.id, reward.astype(np.float32), terminated, truncated, next_obs, action)


def _flags(found: Became, name: str, value: bool | list[bool], rows: int) -> np.ndarray:
    """One flag for each row, bool `[rows]`."""
    flags = np.array(value, bool)
    if isinstance(found.reward, list) and flags.ndim == 0 and not flags:  # left out
        return np.zeros(rows, bool)
    flags = np.atleast_1d(flags)
    if flags.shape != (rows,):
        raise Refused(400, f"{name} of {found.id!r:.80} has {len(flags)} values for {rows} rewards")
    return flags


def _next_obs(found: Became, model: ServedModel, ended: int, single: bool) -> np.ndarray:
    """What the rows that ended led to, `[ended, *obs]`."""
    space = model.runner.obs_space
    if bool(ended) != _given(found.next_obs):
        what = "needs next_obs, the observation after it" if ended else "takes no next_obs"
        end = "an end" if ended else "a step that ends nothing"
        raise Refused(400, f"{end} {what}: that of {found.id!r:.80}")
    if not ended:
        return np.zeros((0, *space.shape), space.dtype)
    return observed(model, _array("next_obs", found.next_obs, model.inputs[OBS], ended, single))


def _action(found: Became, model: ServedModel, rows: int, single: bool) -> np.ndarray:
    """The actions that were taken, `[rows, *action]`, as datasets store them."""
    space = model.runner.action_space
    array = _array("action", found.action, model.outputs[ACTION], rows, single)
    with np.errstate(invalid="ignore", over="ignore"):  # of numbers far outside, which are found below
        stored = action_from_env(space, array)
    kept = np.isfinite(stored) if stored.dtype.kind == "f" else action_to_env(space, stored) == array
    if not kept.all() or outside(space, stored).any():
        raise Refused(400, f"the action of {found.id!r:.80} is not one of {space}")
    return stored


def _array(name: str, raw: msgspec.Raw, port: Port, rows: int, single: bool) -> np.ndarray:
    data = bytes(raw)
    return numbers(name, b"[" + data + b"]" if single else data, port, rows)


def _given(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in (b"", b"null")
