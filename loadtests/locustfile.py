"""Users of users.lua: they browse, make, read, change, watch and delete notes, do wrong things, and check every answer.

Run by load.py (`make load`), or by locust itself: see README.md beside this file.
"""

from __future__ import annotations

import json
from typing import Any

import gevent
from locust import FastHttpUser, between, task

REFUSED = "503: refused, there are too many"


class NoteUser(FastHttpUser):
    """Keeps notes of its own, so that it knows what each of them must be."""

    wait_time = between(0.05, 0.2)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        self.mine: dict[int, dict[str, Any]] = {}
        self.made = 0
        self.tag = f"user-{id(self):x}"

    def on_stop(self) -> None:
        """Locust may have killed a task in the middle of a request, so what a note is by now is not known."""
        for number in list(self.mine):
            with self.client.delete(f"/notes/{number}", name="DELETE /notes/{id}", catch_response=True) as response:
                if response.status_code in (204, 404):
                    response.success()
                elif response.status_code == 503:
                    response.failure(REFUSED)

    # ------------------------------------------------------------ answers

    def ask(self, method: str, path: str, name: str, status: int, expected: Any = None, **options: Any) -> Any:
        """One request; gives the JSON of its answer, None where there is none or it was wrong.

        A status other than ``status``, JSON other than ``expected`` where that is given, and a body that is no JSON are
        failures. So is a 503, but under a name of its own, so that shapes.py can tell an overload from a mistake.
        """
        with self.client.request(method, path, name=name, catch_response=True, **options) as response:
            document = None
            if response.status_code != status:
                if response.status_code == 503 and "Retry-After" in (response.headers or {}):
                    response.failure(REFUSED)
                else:
                    response.failure(f"status {response.status_code}, not {status}: {response.text}")
                return None
            if status != 204:
                try:
                    document = response.json()
                except ValueError:
                    response.failure(f"no JSON: {response.text}")
                    return None
            if expected is not None and document != expected:
                response.failure(f"{document}, not {expected}")
                return None
            response.success()  # else locust calls every 4xx a failure, those that are right included
            return document or {}

    def complain(self, name: str, what: str) -> None:
        """Something is wrong that no single answer shows."""
        self.environment.events.request.fire(
            request_type="CHECK", name=name, response_time=0, response_length=0, exception=AssertionError(what)
        )

    # ------------------------------------------------------------ what users do

    @task(3)
    def create(self) -> None:
        self.made += 1
        title = f"note {self.made} of {self.tag}"
        note = self.ask("POST", "/notes", "POST /notes", 201, json={"title": title, "tag": self.tag})
        if note is None:
            return
        if note != {"id": note.get("id"), "title": title, "tag": self.tag, "version": 1}:
            self.complain("POST /notes", f"made {note}, not {title}")
        self.mine[note["id"]] = note

    @task(10)
    def read(self) -> None:
        for number, note in list(self.mine.items())[-3:]:
            self.ask("GET", f"/notes/{number}", "GET /notes/{id}", 200, note)

    @task(4)
    def browse(self) -> None:
        found = self.ask("GET", f"/notes?tag={self.tag}", "GET /notes", 200)
        for note in found or []:
            if note != self.mine.get(note["id"]):
                self.complain("GET /notes", f"the list has {note}, not {self.mine.get(note['id'])}")

    @task(2)
    def update(self) -> None:
        if self.mine:
            self.change(next(iter(self.mine)))

    @task(2)
    def watch(self) -> None:
        """Somebody waits for a change while it is made."""
        if not self.mine:
            return
        number = next(iter(self.mine))
        watcher = gevent.spawn(self.wait_for_change, number, self.mine[number]["version"])
        try:
            changed = self.change(number)
            event = watcher.get()
        finally:
            watcher.kill()
        if changed is not None and event is not None and event != changed:
            self.complain("GET /notes/{id}/events", f"the event says {event}, not {changed}")

    @task(1)
    def wait_for_nothing(self) -> None:
        self.ask("GET", "/slow", "GET /slow", 200, {"waited": True})

    @task(2)
    def drop(self) -> None:
        if len(self.mine) > 3:
            number = next(iter(self.mine))
            if self.delete(number):
                self.ask("GET", f"/notes/{number}", "GET /notes/{id} (gone)", 404)

    @task(1)
    def be_wrong(self) -> None:
        self.ask("POST", "/notes", "POST /notes (invalid)", 422, json={"title": ""})
        kind = {"Content-Type": "application/json"}
        self.ask("POST", "/notes", "POST /notes (no JSON)", 400, data='{"title":', headers=kind)
        self.ask("PUT", "/notes", "PUT /notes (405)", 405)
        self.ask("GET", "/nowhere", "GET /nowhere", 404)
        self.ask("GET", "/broken", "GET /broken", 500)

    # ------------------------------------------------------------ their parts

    def change(self, number: int) -> dict[str, Any] | None:
        note = self.mine[number]
        new = note | {"title": f"{self.tag}, version {note['version'] + 1}", "version": note["version"] + 1}
        body = {"title": new["title"]}
        if self.ask("PATCH", f"/notes/{number}", "PATCH /notes/{id}", 200, new, json=body) is None:
            return None
        self.mine[number] = new
        return new

    def wait_for_change(self, number: int, version: int) -> Any:
        """The data of the event that says so."""
        name, path = "GET /notes/{id}/events", f"/notes/{number}/events?after={version}"
        with self.client.get(path, name=name, catch_response=True) as response:
            lines = (response.text or "").splitlines()
            data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
            if response.status_code == 503:
                response.failure(REFUSED)
            elif response.status_code != 200 or "event: change" not in lines or len(data) != 1:
                response.failure(f"status {response.status_code}, no event of one change: {response.text}")
            else:
                response.success()
                return json.loads(data[0])
        return None

    def delete(self, number: int) -> bool:
        if self.ask("DELETE", f"/notes/{number}", "DELETE /notes/{id}", 204) is None:
            return False
        del self.mine[number]
        return True
