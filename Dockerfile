# A small image that serves the Lua app in /app:
#
#   docker build -t greenlua .
#   docker run -p 8000:8000 -v ./examples:/app:ro greenlua greenlua run todo.lua --host 0.0.0.0
#
# Settings come from the environment: GREENLUA_REQUEST_TIMEOUT=10 and so on (docs/settings.md); WEB_CONCURRENCY is the number of
# processes.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY greenlua greenlua
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[gunicorn]'

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links=/wheels 'greenlua[gunicorn]' && rm -r /wheels \
    && useradd --system --no-create-home --shell /usr/sbin/nologin greenlua
COPY examples/hello.lua /app/app.lua
WORKDIR /app
USER greenlua
ENV WEB_CONCURRENCY=2 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=2); c.request('GET', '/healthz'); exit(c.getresponse().status != 200)"]
CMD ["greenlua", "run", "app.lua", "--host", "0.0.0.0", "--port", "8000"]
