"""JupyterLab in Chromium, both real, on a temporary copy of everything. Skipped where one of them is missing."""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

HINT = "the browser tests need Chromium, Playwright and JupyterLab: run `make browser`"
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}
SOURCE = (
    "import json\n"
    "import numpy as np\n"
    "from fake_pipeline import FakePipeline\n"
    "from ldmseg_lib import MaskEditor\n"
    "plan = json.load(open('plan.json'))\n"
    "scene = np.load('scene.npz')\n"
    "cut = slice(None) if plan['square'] else slice(16, 112)\n"
    "enlarge = lambda a: np.repeat(np.repeat(a[cut], plan['scale'], 0), plan['scale'], 1)\n"
    "segments, categories = json.load(open('names.json'))\n"
    "if plan['pipeline']:\n"
    "    from ldmseg_lib import LDMSegPipeline\n"
    "    pipe = LDMSegPipeline.from_pretrained(plan['pipeline'])\n"
    "else:\n"
    "    pipe = FakePipeline(delay=plan['delay'])\n"
    "editor = MaskEditor(enlarge(scene['image']), enlarge(scene['ids']), pipe, segments=segments,\n"
    "                    categories=categories, run_dir='runs', name=plan['name'])"
)


# Seconds for anything that takes moments on an idle machine: a busy one must not fail a test.
PATIENCE = 180

PLAN = {"scale": 1, "delay": 0.0, "square": False, "pipeline": None}


def find_chromium() -> str | None:
    return next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


class Server:
    """JupyterLab as a process of its own, with every folder of its configuration under `root`."""

    def __init__(self, root: Path) -> None:
        self.work = root / "work"
        self.token = secrets.token_hex(16)
        self._log = open(root / "lab.log", "w")  # noqa: SIM115
        folders = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        environment = os.environ | {name: str(root / folder) for name, folder in folders.items()}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        self.runtime = root / "runtime"
        for plugin, values in SETTINGS.items():
            path = root / "settings" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "IdentityProvider.token": self.token,
            "ServerApp.root_dir": self.work,
            "ServerApp.allow_root": True,
            "ServerApp.shutdown_no_activity_timeout": 900,
            "MappingKernelManager.cull_idle_timeout": 600,
            "LabApp.expose_app_in_browser": True,
            "LabApp.extension_manager": "readonly",
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", *(f"--{k}={v}" for k, v in options.items())]
        self._process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        for _ in range(900):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                self.api("GET", "status")
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.2)
        self.stop()
        raise RuntimeError("JupyterLab did not start: " + (root / "lab.log").read_text()[-2000:])

    def api(self, method: str, path: str):
        request = urllib.request.Request(
            f"{self.url}/api/{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()


class Lab:
    """One notebook open in one page, and a client of its kernel that tells what Python holds."""

    def __init__(self, browser, server: Server, notebook: str) -> None:
        self.browser, self.server, self.notebook = browser, server, notebook
        self.context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.client = None
        self.context.set_default_timeout(1000 * PATIENCE)
        self.page = self.open_page()

    def open_page(self, *, reset: bool = True):
        page = self.context.new_page()
        page.on("console", lambda m: self.problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.problems.append(str(e)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((self.server.url, "data:", "blob:")) else self.outside.append(r.url),
        )
        page.goto(f"{self.server.url}/lab/tree/{self.notebook}?token={self.server.token}{'&reset' if reset else ''}")
        self.settle(page)
        return page

    def settle(self, page) -> None:
        """Wait until the notebook is open and its kernel idle."""
        page.wait_for_function("() => window.jupyterapp")
        page.evaluate("() => window.jupyterapp.restored")
        page.wait_for_function(
            """name => {
                const widget = window.jupyterapp.shell.currentWidget, context = widget?.context;
                const kernel = context?.sessionContext?.session?.kernel;
                return context?.path === name && context.isReady && kernel?.connectionStatus === 'connected'
                    && kernel.status === 'idle';
            }""",
            arg=self.notebook,
        )

    def run_all(self, **plan) -> None:
        """Write the plan for the notebook and run every cell of it."""
        path = self.server.work / "plan.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(PLAN | old | plan))
        self.run_cells()

    def run_cells(self) -> None:
        """Run every cell, and wait for the first editor."""
        # a view that is on its way out must not be taken for the new one
        self.page.evaluate("() => document.querySelectorAll('.mask-editor').forEach(e => delete e.dataset.ready)")
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.editor().wait_for()

    def editor(self, page=None, nth: int = 0):
        return (page or self.page).locator(".jp-OutputArea-output .mask-editor[data-ready]").nth(nth)

    def view(self, expression: str, *, page=None, argument=None):
        """The value of a JavaScript expression of the editor's view `v` and of `a`, the argument."""
        root = self.editor(page)
        return root.evaluate(f"(root, a) => {{ const v = root.maskEditor; return ({expression}); }}", argument)

    def settled(self, page=None) -> None:
        """Wait until Python has confirmed every edit of the view, and the view has drawn what came back."""
        handle = self.editor(page).element_handle()
        (page or self.page).wait_for_function(
            "root => Number(root.dataset.ack) >= Number(root.dataset.seq) && !root.maskEditor.showing", arg=handle
        )

    def tool(self, name: str) -> None:
        self.editor().locator(f"[data-tool={name}].me-icon").click()

    def press(self, name: str, page=None) -> None:
        """Click the button that does `name`."""
        self.editor(page).locator(f"[data-do={name}]").click()

    def message(self, text: str, page=None) -> None:
        """Wait until the editor says `text`."""
        self.editor(page).locator(".me-message", has_text=text).wait_for()

    def place(self, x: float, y: float, page=None) -> tuple[float, float]:
        """Where the image's point (x, y) is on the page, now."""
        box = self.editor(page).locator("canvas.me-canvas").bounding_box()
        left, top = self.view("v.picture.toScreen(...a)", page=page, argument=[x, y])
        return box["x"] + left, box["y"] + top

    def drag(self, *points: tuple[float, float], steps: int = 12) -> None:
        """Press the mouse at the first of the image's points, move through the others, and let go."""
        self.editor().locator("canvas.me-canvas").scroll_into_view_if_needed()
        places = [self.place(*point) for point in points]
        mouse = self.page.mouse
        mouse.move(*places[0])
        mouse.down()
        for x, y in places[1:]:
            mouse.move(x, y, steps=steps)
        mouse.up()

    def seen(self, name: str = "region", page=None) -> np.ndarray:
        """The view's own `region` or `ids`."""
        height, width = self.view("v.size", page=page)
        return np.array(self.view(f"Array.from(v.{name})", page=page)).reshape(height, width)

    def held(self, name: str = "region") -> np.ndarray:
        """Python's `region` or `ids`."""
        return np.array(self.python(f"editor.{name}.astype(int).tolist()"))

    def connect(self) -> None:
        """Connect to the notebook's kernel, whichever it is now."""
        from jupyter_client import BlockingKernelClient

        if self.client is not None:
            self.client.stop_channels()
        session = next(s for s in self.server.api("GET", "sessions") if s["path"] == self.notebook)
        connection = self.server.runtime / f"kernel-{session['kernel']['id']}.json"
        self.client = BlockingKernelClient(connection_file=str(connection))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def python(self, expression: str, *, statement: str = ""):
        """The value of `expression` in the kernel, through JSON."""
        if self.client is None:
            self.connect()
        printed, failed = [], []

        def collect(message) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])
            if message["msg_type"] == "error":
                failed.append("\n".join(message["content"]["traceback"]))

        code = f"{statement}\nimport json\nprint('\\x02' + json.dumps({expression}))"
        self.client.execute_interactive(code, store_history=False, output_hook=collect, timeout=PATIENCE)
        assert not failed, failed[0]
        return json.loads("".join(printed).split("\x02")[-1])

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Python is at work on something else meanwhile."""
        done = self.server.work / f"done-{secrets.token_hex(4)}"
        self.python("0")
        self.client.execute(
            f"import os, time\nwhile not os.path.exists({str(done)!r}): time.sleep(0.02)", store_history=False
        )
        status = "() => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.status"
        self.page.wait_for_function(f"({status})() === 'busy'")
        try:
            yield
        finally:
            done.touch()
            self.client.get_shell_msg(timeout=PATIENCE)

    def close(self) -> None:
        if self.client is not None:
            self.client.stop_channels()
        self.context.close()
        for session in self.server.api("GET", "sessions"):
            if session["path"] == self.notebook:
                self.server.api("DELETE", f"sessions/{session['id']}")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    chromium = find_chromium()
    if chromium is None or importlib.util.find_spec("jupyterlab") is None:
        pytest.skip(HINT)
    playwright = pytest.importorskip("playwright.sync_api", reason=HINT)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    arguments += ["--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as p:
        launched = p.chromium.launch(executable_path=chromium, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def server(browser, tmp_path_factory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("lab")
    work = root / "work"
    work.mkdir()
    shutil.copy(Path(__file__).parents[1] / "widgets" / "fake_pipeline.py", work)
    write_scene(work)
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for i, source in enumerate([SOURCE, "editor"])
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (work / "editor.ipynb").write_text(json.dumps(notebook))
    running = Server(root)
    yield running
    running.stop()


def write_scene(folder: Path) -> None:
    """An embedded scene of 128 x 128 pixels, ids 1, 2, 3, ...

    The notebook cuts it to 128 x 96: rows and columns must not be mixed up.
    """
    from ldmseg_lib.data.scenes.dataset import CATEGORIES, draw_scene

    scene = draw_scene(16, size=128, min_things=4, max_things=6)
    ids = np.searchsorted(np.unique(scene.ids), scene.ids) + 1
    number = dict(zip(np.unique(scene.ids).tolist(), range(1, 1000)))
    segments = [{"id": number[s["id"]], "category_id": s["category_id"]} for s in scene.segments if s["id"] in number]
    np.savez(folder / "scene.npz", image=scene.image, ids=ids.astype(np.int32))
    (folder / "names.json").write_text(json.dumps([segments, CATEGORIES]))


@pytest.fixture(scope="session")
def opened(browser, server) -> Iterator[Lab]:
    lab = Lab(browser, server, "editor.ipynb")
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def lab_of() -> type[Lab]:
    """The class, for other notebooks."""
    return Lab


@pytest.fixture
def lab(opened: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The notebook with a fresh editor; the page must neither log an error nor ask for anything outside."""
    opened.problems.clear()
    opened.run_all(**PLAN, name=f"{request.node.name.replace('[', '-').replace(']', '')}-{secrets.token_hex(3)}")
    yield opened
    assert opened.problems == []
    assert opened.outside == []
