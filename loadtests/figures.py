"""For `greenlua run --extend loadtests.figures`: the app's statistics as JSON at /figures."""

from __future__ import annotations

import falcon

from greenlua import LuaApp


class Figures:
    def __init__(self, app: LuaApp) -> None:
        self._app = app

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = self._app.statistics()


def setup(app: LuaApp) -> None:
    app.falcon.add_route("/figures", Figures(app))
