"""Lua modules of an app's folder, for ``require``. Uses nothing."""

from __future__ import annotations

from pathlib import Path


def read_module(folder: Path | None, name: bytes) -> tuple[bytes | None, bytes]:
    """The source of a module under the app's folder and its name for messages, or None and why not."""
    assert folder is not None
    text = name.decode(errors="replace")
    parts = text.split(".")
    if parts[0] == "greenlua":
        return None, f"there is no module {text!r} in greenlua".encode()
    if not all(part.replace("_", "").replace("-", "").isalnum() for part in parts):
        return None, f"{text!r} is no module name: names of letters, digits, _ and - joined by dots".encode()
    tried = []
    for tail in (".lua", "/init.lua"):
        relative = "/".join(parts) + tail
        path = folder / relative
        tried.append(relative)
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(folder):
                return None, f"{relative} leads out of the app's folder".encode()
            return plain_source(real.read_bytes()), relative.encode()
        except (OSError, RuntimeError):  # RuntimeError: links that go round
            continue
    return None, f"there is no module {text!r}: no {' and no '.join(tried)} in the app's folder".encode()


def plain_source(source: bytes) -> bytes:
    """Without what Lua's own program skips too: a byte order mark, and a first line that names an interpreter."""
    source = source.removeprefix(b"\xef\xbb\xbf")
    return b"--" + source if source.startswith(b"#!") else source
