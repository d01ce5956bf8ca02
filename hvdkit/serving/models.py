"""The models of a folder: which version of each serves, and how another takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hvdkit.serving.figures import Figures, Serving
from hvdkit.serving.logs import Log
from hvdkit.serving.problems import Problem
from hvdkit.serving.process import COMMAND, LoadError
from hvdkit.serving.repository import Found, Looked, look
from hvdkit.serving.settings import Settings
from hvdkit.serving.version import Version

_LOADS_AT_ONCE = 2


@dataclass(eq=False)
class Model:
    """A model of the folder.

    Attributes:
        name: of its folder.
        current: the version that serves.
        failed: versions that could not be loaded, as they were, and why.
        change: takes another version into service.
        seen: what the last look found.
    """

    name: str
    current: Version | None = None
    failed: dict[int, tuple[Found, str]] = field(default_factory=dict)
    change: asyncio.Task[None] | None = None
    seen: Mapping[int, Found] = field(default_factory=dict)

    def wanted(self, found: Mapping[int, Found]) -> Found | None:
        """The version that is to serve: the highest that has not failed as it is."""
        for number in sorted(found, reverse=True):
            if number not in self.failed or self.failed[number][0] != found[number]:
                return found[number]
        return None


class Models:
    """The models, kept as the folder says.

    Args:
        settings: of the server.
        figures: to count in.
        log: to say what happens.
        command: that starts the process of a version.
    """

    def __init__(
        self, settings: Settings, figures: Figures, log: Log, command: Sequence[str] = COMMAND
    ) -> None:
        self._settings = settings
        self._figures = figures
        self._log = log
        self._command = command
        self._models: dict[str, Model] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._begun = False
        self._beginning: asyncio.Task[None] | None = None
        self._unreadable: Mapping[str, str] = {}
        self._stopping = False
        figures.watch(self.state)

    @property
    def ready(self) -> bool:
        """Whether all models that were there at the start are loaded or failed, and one serves."""
        able = any(model.current and model.current.ready for model in self._models.values())
        return self._begun and able and not self._stopping

    def state(self) -> list[Serving]:
        """What serves now."""
        return [
            Serving(
                name,
                model.current.number if model.current else 0,
                bool(model.current and model.current.ready),
                len(model.failed),
                len(model.current.queue) if model.current else 0,
            )
            for name, model in self._models.items()
        ]

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def failed(self, name: str) -> dict[str, str]:
        """Why versions of a model could not be loaded, by their numbers."""
        model = self._models.get(name)
        return {str(number): why for number, (_, why) in model.failed.items()} if model else {}

    def get(self, name: str, version: str | None) -> Version:
        """The version that serves.

        Args:
            name: of the model.
            version: the number that a client has asked for; None: whichever serves.

        Raises:
            Problem: there is no such model (404), no such version serves (404), or none (503).
        """
        model = self._models.get(name)
        if model is None:
            raise Problem(404, "no_model", "there is no such model.")
        failed = self.failed(name)
        if model.current is None or (version in failed and version != str(model.current.number)):
            why = "; ".join(f"version {number}: {why}" for number, why in sorted(failed.items()))
            message = f"it can't be loaded: {why}." if why else "it is being loaded."
            raise Problem(503, "not_ready", message, {"Retry-After": "1"})
        if version is not None and version != str(model.current.number):
            raise Problem(404, "no_version", f"version {model.current.number} serves, no other.")
        return model.current

    async def watch(self) -> None:
        """Look at the folder again and again, and do what it says."""
        failures, first = 0, True
        while True:
            try:
                found = await asyncio.to_thread(look, self._settings.folder)
            except OSError as error:  # what serves goes on
                failures += 1
                if failures == 2:  # once, a version may have gone at just that moment
                    self._log.error("folder_unreadable", why=error.strerror)
            else:
                failures = 0
                self._tell_unreadable(found.unreadable)
                self._follow(found, settled=first)
                if first:
                    self._beginning = asyncio.create_task(self._begin())
                first = False
            await asyncio.sleep(self._settings.running.watch)

    def leave(self) -> None:
        """Be ready no more: the server stops."""
        self._stopping = True

    async def stop(self) -> None:
        """End all processes."""
        self.leave()
        changes = [each.change for each in self._models.values() if each.change]
        tasks = [*changes, *self._leaving, *filter(None, [self._beginning])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        current = [each.current for each in self._models.values() if each.current]
        await asyncio.gather(*(version.stop() for version in current))

    async def _begin(self) -> None:
        changes = [each.change for each in self._models.values() if each.change]
        await asyncio.gather(*changes, return_exceptions=True)
        self._begun = True

    def _tell_unreadable(self, unreadable: Mapping[str, str]) -> None:
        """Say of each model once that its folder can't be read; what serves goes on."""
        for name, why in unreadable.items():
            if self._unreadable.get(name) != why:
                self._log.error("model_unreadable", model=name, why=why)
        self._unreadable = unreadable

    def _follow(self, looked: Looked, settled: bool) -> None:
        found = looked.models
        for name in (found.keys() | self._models.keys()) - looked.unreadable.keys():
            versions = found.get(name, {})
            if not versions and name not in self._models:
                continue
            model = self._models.setdefault(name, Model(name))
            # What still changes is being copied; at the start it is taken as it is.
            settled_now = settled or versions == model.seen
            model.seen = versions
            if not settled_now or (model.change and not model.change.done()):
                continue
            model.failed = {n: each for n, each in model.failed.items() if n in versions}
            wanted = model.wanted(versions)
            if not versions:
                self._remove(model)
            elif wanted is not None and (not model.current or wanted != model.current.found):
                model.change = asyncio.create_task(self._change(model, wanted))

    async def _change(self, model: Model, found: Found | None) -> None:
        """Take a version into service; where none serves and it fails, the one before it."""
        while found is not None:
            async with self._places:
                loaded = await self._loaded(model, found)
            if loaded is not None:
                self._switch(model, loaded)
                return
            found = None if model.current else model.wanted(model.seen)

    async def _loaded(self, model: Model, found: Found) -> Version | None:
        """A version that has answered its first request; None: it failed, and that was said."""
        serving = model.current.number if model.current else None
        about = {"model": model.name, "version": found.number}
        self._log.info("loading", serving=serving, **about)
        try:
            version = await Version.load(
                model.name, found, self._settings, self._command, self._figures, self._log
            )
        except (LoadError, OSError) as error:
            model.failed[found.number] = (found, str(error))
            self._figures.failed(model.name)
            self._log.error("load_failed", why=str(error), serving=serving, **about)
            return None
        model.failed.pop(found.number, None)
        self._log.info("loaded", batches=version.single is None, single=version.single, **about)
        return version

    def _switch(self, model: Model, version: Version) -> None:
        """From now on requests go to another version; those of the old one are finished by it."""
        old, model.current = model.current, version
        before = old.number if old else None
        self._log.info("serving", model=model.name, version=version.number, before=before)
        if old is not None:
            self._let_go(old)

    def _remove(self, model: Model) -> None:
        del self._models[model.name]
        self._log.info("removed", model=model.name)
        if model.current:
            self._let_go(model.current)

    def _let_go(self, version: Version) -> None:
        async def leave() -> None:
            try:
                await version.let_go()
            finally:
                await version.stop()
            self._log.info("let_go", model=version.model, version=version.number)

        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
