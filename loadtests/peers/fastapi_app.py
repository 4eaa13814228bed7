"""The same API in FastAPI, for uvicorn."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Response
from pydantic import BaseModel, Field, StrictBool, StrictInt

app = FastAPI(openapi_url=None)


class Todo(BaseModel):
    title: Annotated[str, Field(min_length=1, max_length=200)]
    priority: Annotated[StrictInt, Field(ge=1, le=5)]
    done: StrictBool


class Created(Todo):
    id: int


def make(i: int) -> dict[str, Any]:
    return {"id": i, "name": f"object {i}", "price": i + 0.5, "tags": ["red", "round"], "stock": i % 7 > 0}


@app.get("/hello")
async def hello() -> dict[str, str]:
    return {"message": "Hello, world"}


@app.get("/users/{user}/posts/{post}")
async def params(user: int, post: int, tag: str, limit: str) -> dict[str, Any]:
    return {"user": user, "post": post, "tag": tag, "limit": limit}


@app.get("/object")
async def one() -> dict[str, Any]:
    return make(1)


@app.get("/objects")
async def many() -> list[dict[str, Any]]:
    return [make(i) for i in range(1, 101)]


@app.post("/todos", status_code=201)
async def todos(todo: Todo) -> Created:
    return Created(id=1, title=todo.title, priority=todo.priority, done=todo.done)


@app.get("/wait")
async def wait() -> dict[str, bool]:
    await asyncio.sleep(0.01)
    return {"waited": True}


@app.get("/constant")
async def constant() -> Response:
    return Response(b'{"message":"Hello, world"}', media_type="application/json")
