"""The models of a server by name and version, and how a new version takes the place of an old one."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from rlab.errors import RlabError, UsageError
from rlab.serving.batching import Batcher
from rlab.serving.limits import POLL_SECONDS
from rlab.serving.log import log
from rlab.serving.models import Place, ServedModel, open_models, place_of
from rlab.serving.web import AGAIN, Refused
from rlab.trust import Trust

LOADING = "the models are being loaded"


class Catalog:
    """What is served. Everything but `loaded` and `followed` happens in the event loop's thread.

    A request keeps the batcher that it found, so that a version that is replaced answers what it was asked before.
    """

    def __init__(
        self,
        sources: Sequence[str],
        batcher: Callable[[ServedModel], Batcher],
        *,
        find: Callable[[str], Place],
        member: int | None = None,
        trust: Trust = False,
    ) -> None:
        self.ready = False
        self._sources, self._batcher = tuple(sources), batcher
        self._find, self._member, self._trust = find, member, trust
        self._places: dict[str, Place] = {}  # source -> what it is served from
        self._versions: dict[str, dict[str, Batcher]] = {}
        self._told: dict[str, str] = {}  # source -> the last reason why it stays as it is
        self._failed: dict[str, Path] = {}  # source -> a version that could not be opened, and is not tried again

    async def load(self) -> None:
        """Open all models.

        Raises:
            UsageError, RlabError: as `place_of` and `open_models`.
        """
        places = await asyncio.to_thread(lambda: [self._find(source) for source in self._sources])
        opened = await asyncio.to_thread(open_models, places, self._member, self._trust)
        for source, place, model in zip(self._sources, places, opened, strict=True):
            self._put(source, place, model)
        self.ready = True

    async def follow(self) -> None:
        """Look for new versions of what is served by `NAME` or `NAME@ALIAS`, as long as the server runs."""
        while any(place.moves for place in self._places.values()):
            await asyncio.sleep(POLL_SECONDS)
            for source, served in list(self._places.items()):
                if served.moves:
                    await self._follow(source, served)

    async def _follow(self, source: str, served: Place) -> None:
        try:
            place = await asyncio.to_thread(self._find, source)
            if place.path in (served.path, self._failed.get(source)):
                return
            self._failed[source] = place.path
            (model,) = await asyncio.to_thread(open_models, [place], self._member, self._trust)
            self._put(source, place, model)
            del self._failed[source]
            self._told.pop(source, None)
        except RlabError as error:
            if self._told.get(source) != str(error):  # once, not at every look
                log("error", "a new version is not served", error=error, source=source, version=served.version)
            self._told[source] = str(error)

    def _put(self, source: str, place: Place, model: ServedModel) -> None:
        """Serve this version from now on, and no longer the one that the source was served from."""
        before = self._places.get(source)
        self._places[source] = place
        versions = self._versions.setdefault(place.name, {})
        if place.version not in versions:
            versions[place.version] = self._batcher(model)
        kept = {(other.name, other.version) for other in self._places.values()}
        if before is not None and (before.name, before.version) not in kept:
            del versions[before.version]
        how = {"platform": model.platform, "batches": model.batches_exactly, "thread": model.in_thread}
        log("info", "a model is ready", None, model=model.name, version=model.version, **how)

    def names(self) -> list[str]:
        """The names of the models that are there."""
        return sorted(self._versions)

    def all(self) -> list[ServedModel]:
        """Every version of every model that is there, by name; the one that answers by default first."""
        return [self.find(name, version).model for name in self.names() for version in self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """The versions of a model, the one that answers by default first."""
        first = self.find(name).model.version
        return [first, *(version for version in self._versions[name] if version != first)]

    def find(self, name: str, version: str | None = None) -> Batcher:
        """A version of a model; without `version` the one of the source that was named first.

        Raises:
            Refused: there is none of this name or version, or it is not loaded yet.
        """
        versions = self._versions.get(name)
        if versions is None:
            if not self.ready:
                raise Refused(503, LOADING, AGAIN)
            raise Refused(404, f"unknown model {name!r:.80}; the models are {', '.join(self.names())}")
        if version is None:
            return versions[next(place.version for place in self._places.values() if place.name == name)]
        if version not in versions:
            raise Refused(404, f"{name} has no version {version!r:.40} here; its versions are {', '.join(versions)}")
        return versions[version]


def check_sources(sources: Sequence[str], models: Path | None) -> None:
    """Look whether sources are there and have names of their own.

    Raises:
        UsageError: one is not, two are called the same, or there are none.
        RlabError: as `place_of`.
    """
    if not sources:
        raise UsageError("nothing to serve: name a run, a policy folder, an exported file or a model.")
    found: dict[tuple[str, str], str] = {}
    for source in sources:
        place = place_of(source, models)
        other = found.get((place.name, place.version))
        if other is not None:
            raise UsageError(
                f"{source} and {other} would both be version {place.version} of {place.name}. Give one of them another "
                f"name: OTHER={source}"
            )
        found[place.name, place.version] = source
