"""The same API in Flask, for gunicorn's gevent worker."""

from __future__ import annotations

from typing import Any

from flask import Flask, request
from gevent import sleep

app = Flask(__name__)
app.json.compact = True  # type: ignore[attr-defined]
app.json.sort_keys = False  # type: ignore[attr-defined]


def make(i: int) -> dict[str, Any]:
    return {"id": i, "name": f"object {i}", "price": i + 0.5, "tags": ["red", "round"], "stock": i % 7 > 0}


@app.get("/hello")
def hello() -> Any:
    return {"message": "Hello, world"}


@app.get("/users/<int:user>/posts/<int:post>")
def params(user: int, post: int) -> Any:
    return {"user": user, "post": post, "tag": request.args.get("tag"), "limit": request.args.get("limit")}


@app.get("/object")
def one() -> Any:
    return make(1)


@app.get("/objects")
def many() -> Any:
    return [make(i) for i in range(1, 101)]


@app.post("/todos")
def todos() -> Any:
    todo = request.get_json()
    title, priority, done = todo.get("title"), todo.get("priority"), todo.get("done")
    if not isinstance(title, str) or not 1 <= len(title) <= 200 or type(done) is not bool:
        return {"error": "title or done"}, 422
    if type(priority) is not int or not 1 <= priority <= 5:
        return {"error": "priority"}, 422
    return {"id": 1, "title": title, "priority": priority, "done": done}, 201


@app.get("/wait")
def wait() -> Any:
    sleep(0.01)
    return {"waited": True}


@app.get("/constant")
def constant() -> Any:
    return app.response_class(b'{"message":"Hello, world"}', mimetype="application/json")
