"""A headless Chromium, driven through chromedriver by the WebDriver protocol: no package is needed."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

#: Keys of the protocol.
RIGHT, TAB = "\ue014", "\ue004"


def missing() -> str:
    """What is not installed, in words; empty if everything is there."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not installed (Debian: chromium, chromium-driver)" if lacking else ""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(
    address: str, seconds: float, *, server: subprocess.Popen[bytes] | None = None, said: Path | None = None
) -> None:
    """Wait until a server answers; one that ended instead is quoted."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if server is not None and server.poll() is not None:
                raise RuntimeError(f"the server ended: {said.read_text() if said else ''}") from None
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class Browser:
    """One window; a context manager."""

    def __init__(self) -> None:
        port = free_port()
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.base = f"http://127.0.0.1:{port}"
        wait_for(f"{self.base}/status", 30)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        wanted = {
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            "goog:chromeOptions": {"args": [*arguments, "--disable-background-networking"]},
        }
        made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{made['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(60)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, method=method, data=data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def command(self, name: str, **values: Any) -> Any:
        """One of Chromium's own (DevTools) commands."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": name, "params": values})

    def open(self, address: str, width: int = 1280) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.call("POST", "/url", {"url": address})

    def press(self, key: str) -> None:
        strokes = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def until(self, script: str, seconds: float = 30.0) -> Any:
        """What a script returns once it is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"still not true after {seconds:g} s: {script}")
            time.sleep(0.05)
        return found

    def errors(self) -> list[str]:
        """Messages of the console that are errors, since the last call."""
        return [e["message"] for e in self.call("POST", "/se/log", {"type": "browser"}) if e["level"] == "SEVERE"]

    def requested(self) -> list[str]:
        """Addresses that were asked for since the last call, `data:` and `blob:` left out."""
        found = []
        for entry in self.call("POST", "/se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                inside = message["params"]
                found.append(inside["url"] if "url" in inside else inside["request"]["url"])
        return [address for address in found if not address.startswith(("data:", "blob:"))]
