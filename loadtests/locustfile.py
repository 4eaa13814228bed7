"""Users of examples/todo.lua: they browse, create, change and delete, and check every answer. See README.md beside this file."""

from __future__ import annotations

from typing import Any

from locust import FastHttpUser, between, task


class TodoUser(FastHttpUser):
    """Keeps todos of its own, so that it knows what each of them must be."""

    wait_time = between(0.05, 0.2)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        self.mine: dict[int, dict[str, Any]] = {}
        self.made = 0

    def on_stop(self) -> None:
        for number in list(self.mine):
            self.delete(number)

    def ask(self, method: str, path: str, name: str, status: int, expected: Any = None, **options: Any) -> Any:
        """One request. A status other than ``status``, or JSON other than ``expected`` where that is given, is a failure."""
        with self.client.request(method, path, name=name, catch_response=True, **options) as response:
            document = None
            if response.status_code != status:
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
            else:
                response.success()  # else locust calls every 4xx a failure, those that are right included
            return document

    @task(3)
    def create(self) -> None:
        self.made += 1
        title = f"todo {self.made} of {id(self)}"
        todo = self.ask("POST", "/todos", "POST /todos", 201, json={"title": title})
        if todo is not None:
            self.mine[todo["id"]] = {"id": todo["id"], "title": title, "done": False}

    @task(10)
    def read(self) -> None:
        for number, todo in list(self.mine.items())[-3:]:
            self.ask("GET", f"/todos/{number}", "GET /todos/{id}", 200, todo)

    @task(2)
    def finish(self) -> None:
        for number, todo in self.mine.items():
            if not todo["done"]:
                todo["done"] = True
                self.ask("PATCH", f"/todos/{number}", "PATCH /todos/{id}", 200, todo, json={"done": True})
                return

    @task(2)
    def drop(self) -> None:
        if self.mine:
            number = next(iter(self.mine))
            self.delete(number)
            self.ask("GET", f"/todos/{number}", "GET /todos/{id} (gone)", 404)

    @task(1)
    def browse(self) -> None:
        open_todos = self.ask("GET", "/todos?done=false", "GET /todos", 200)
        if open_todos is None:
            return
        shown = {todo["id"] for todo in open_todos}
        missing = [number for number, todo in self.mine.items() if not todo["done"] and number not in shown]
        if missing:
            self.environment.events.request.fire(
                request_type="GET",
                name="GET /todos",
                response_time=0,
                response_length=0,
                exception=AssertionError(f"missing in the list: {missing}"),
            )

    @task(1)
    def be_wrong(self) -> None:
        self.ask("POST", "/todos", "POST /todos (invalid)", 422, json={"title": ""})
        self.ask("PUT", "/todos", "PUT /todos (405)", 405)

    def delete(self, number: int) -> None:
        del self.mine[number]
        self.ask("DELETE", f"/todos/{number}", "DELETE /todos/{id}", 204)
