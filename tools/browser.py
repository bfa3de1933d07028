"""JupyterLab in a real, headless browser: what the browser tests, the latency script and `make shots` share.

    with Lab(folder) as lab, lab.notebook("notebooks/00_start_here.ipynb") as page:
        page.run_all(); page.errors(); page.views(); page.press("wave"); page.picture("wave")

`Lab` serves `folder` on a free port of this machine with settings of its own, so a learner's Jupyter settings
neither matter nor change. Every address that a page asks for is kept in `lab.asked`.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

SETTINGS = {  # JupyterLab's own, by plugin
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is drawn, not only those in sight
    "docmanager-extension/plugin": {"autosave": False},
}
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
# Seconds until something is taken to hang. A machine that is busy with other things takes its time.
PATIENCE = float(os.environ.get("NL_COURSE_PATIENCE", "120"))
# Figures, and the views they stand in, as the page shows them: what was drawn, where the sliders and lists stand, what
# is said. A figure's model has the same id in the kernel.
SHOWN = """
() => [...document.querySelectorAll('.nl-plot')].map(plot => {
  const drawn = plot.firstChild, view = plot.closest('.nl-view');
  const all = (selector, read) => view ? [...view.querySelectorAll(selector)].map(read) : [];
  return {
    model: plot.dataset.model,
    revision: Number(drawn.dataset.revision ?? -1),
    traces: (drawn.data ?? []).map(trace => trace.type ?? 'scatter'),
    svgs: drawn.querySelectorAll('.main-svg').length,
    sliders: all('.noUi-target', slider => slider.noUiSlider.get(true)).flat(),
    lists: all('select', list => (list.selectedOptions[0]?.textContent ?? '').replaceAll('\\u00a0', ' ')),
    said: all('[role=status]', line => line.textContent).at(-1) ?? '',
  };
})
"""
# The same as the kernel has it.
TRUE = """
import gc as _gc, json as _json
import ipywidgets as _W
from nl_course.views.kit.plot import Plot as _Plot
from nl_course.views.kit.shell import View as _View
_all = [thing for thing in _gc.get_objects() if isinstance(thing, (_Plot, _View))]
_views = {view._plot.model_id: view for view in _all if isinstance(view, _View) and hasattr(view, "_plot")}
_true = {}
for _plot in _all:
    if not isinstance(_plot, _Plot) or _plot.comm is None:
        continue
    _about = {"revision": _plot.figure["revision"], "traces": [trace["type"] for trace in _plot.figure["data"]]}
    if _plot.model_id in _views:
        _view = _views[_plot.model_id]
        _sliders = (_W.IntSlider, _W.FloatSlider, _W.IntRangeSlider, _W.FloatRangeSlider)
        _about |= {"said": _view.readout, "sliders": [], "lists": [], "name": _view.name}
        for _control in _view.controls_by_name.values():
            if isinstance(_control, _sliders):
                _value = _control.value
                _about["sliders"] += [*_value] if isinstance(_value, tuple) else [_value]
            if isinstance(_control, _W.SelectionSlider):
                _about["sliders"].append(_control.index)
            if isinstance(_control, _W.Dropdown):
                _about["lists"].append(str(_control.label))
    _true[_plot.model_id] = _about
print(_json.dumps(_true))
"""
CLUTTER = "#jp-menu-panel, #jp-top-panel, #jp-bottom-panel, .jp-Toolbar, .jp-SideBar"
PLOT = """
view => [...view.querySelectorAll('.cartesianlayer :is(path, image, text), .shapelayer path, .infolayer text')]
  .map(mark => mark.getAttribute('d') || mark.getAttribute('href') || mark.getAttribute('xlink:href')
    || mark.textContent).join('|')
"""
# Legends that stand on the axes of their figure, and words that its edge cuts.
CROWDED = """
() => [...document.querySelectorAll('.nl-plot')].flatMap(plot => {
  const drawn = plot.firstChild, name = plot.getAttribute('aria-label');
  if (!drawn._fullLayout) return [];
  const box = part => part.getBoundingClientRect(), edge = box(drawn.querySelector('.main-svg'));
  const axes = Object.values(drawn._fullLayout._plots).map(({ xaxis: x, yaxis: y }) => ({
    left: edge.left + x._offset, right: edge.left + x._offset + x._length,
    top: edge.top + y._offset, bottom: edge.top + y._offset + y._length,
  }));
  const inside = (a, b) => a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
  const beyond = ({ left, right, top, bottom }) =>
    left < edge.left - 1 || right > edge.right + 1 || top < edge.top - 1 || bottom > edge.bottom + 1;
  const legends = [...drawn.querySelectorAll('.legend')].filter(legend => axes.some(axis => inside(box(legend), axis)));
  const cut = [...drawn.querySelectorAll('.main-svg text')].filter(text => box(text).width && beyond(box(text)));
  return [...legends.map(() => `${name}: the legend stands on the axes`),
    ...cut.map(text => `${name}: cut at the edge: ${text.textContent}`)];
})
"""
# Where a view's sliders and lists stand.
STANDS = """
view => [...view.querySelectorAll('.noUi-target, select')]
  .map(control => control.noUiSlider ? control.noUiSlider.get(true) : control.selectedIndex).join()
"""
OPPOSITE = {"ArrowRight": "ArrowLeft", "End": "Home"}


class NoBrowser(Exception):
    """No Chromium or Chrome was found; the message says what to do."""


@contextmanager
def chromium():
    """A headless Chromium or Chrome: the system's, else Playwright's own. Raises NoBrowser without one."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as missing:
        raise NoBrowser(f"playwright is not installed ({missing}); run `make test`, which installs it.") from None
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    found = next(filter(None, map(shutil.which, names)), str(mac) if mac.exists() else None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--force-color-profile=srgb"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, headless=True, args=flags)
        except Error as wrong:
            first = str(wrong).strip().splitlines()[0]
            raise NoBrowser(
                f"no browser to test with ({found or 'none on the PATH'}: {first}). Install Chromium or "
                "Chrome (Debian: apt-get install chromium), or run: python -m playwright install chromium"
            ) from None
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(address: str, alive, seconds: float = PATIENCE) -> bool:
    """Waits until a server answers; False if it does not in time, or is no longer `alive()`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and alive():
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


class Lab:
    """A JupyterLab that serves `folder`, run by this interpreter, and the browser to look at it."""

    def __init__(self, folder, browser):
        self.folder, self.browser = Path(folder), browser
        self.token, self.asked = secrets.token_hex(16), []
        self.received = []  # the length of each message that a page got over a websocket

    def __enter__(self) -> "Lab":
        self._private = tempfile.TemporaryDirectory(prefix="nl-lab-")
        private = Path(self._private.name)
        for plugin, values in SETTINGS.items():
            file = private / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        own = {
            "JUPYTER_CONFIG_DIR": private / "config",
            "JUPYTER_DATA_DIR": private / "data",
            "JUPYTER_RUNTIME_DIR": private / "runtime",
            "JUPYTERLAB_SETTINGS_DIR": private / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": private / "workspaces",
            "IPYTHONDIR": private / "ipython",
            "NL_COURSE_STRICT": "1",
        }
        flags = ["--no-browser", "--ip=127.0.0.1", f"--port={self.port}", "--ServerApp.port_retries=0"]
        flags += [f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.folder}"]
        flags += ["--LabApp.expose_app_in_browser=True", "--MappingKernelManager.default_kernel_name=python3"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--allow-root")
        self._log = open(private / "log", "w+")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *flags],
            env={**os.environ, **{name: str(value) for name, value in own.items()}},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
        )
        if not wait_for(f"{self.address}/api/status?token={self.token}", lambda: self._server.poll() is None):
            self._log.seek(0)
            log = self._log.read()
            self.__exit__()
            raise RuntimeError(f"JupyterLab did not come up at {self.address}:\n{log}")
        return self

    def __exit__(self, *_) -> None:
        self._server.terminate()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log.close()
        self._private.cleanup()

    @contextmanager
    def notebook(self, path: str, width: int = 1280, height: int = 900):
        """Opens a notebook (its path inside the folder) and yields a Page once the kernel is idle."""
        context = self.browser.new_context(viewport={"width": width, "height": height})
        context.on("request", lambda request: self.asked.append(request.url))
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("websocket", lambda socket: self._heard(socket))
        page.goto(f"{self.address}/lab/tree/{path}?token={self.token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE * 1000)
        page.wait_for_function(
            f"() => {KERNEL}?.status === 'idle'",
            timeout=PATIENCE * 1000,
        )
        try:
            yield Page(page)
        finally:
            page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
            context.close()

    def _heard(self, socket) -> None:
        self.asked.append(socket.url)
        socket.on("framereceived", lambda frame: self.received.append(len(frame)))

    def strangers(self) -> list[str]:
        """The addresses that pages asked for and that are not this Lab: nothing may leave the machine."""
        own = (f"127.0.0.1:{self.port}", "")
        return [url for url in self.asked if urlsplit(url).netloc not in own]


def _alike(shown, true) -> bool:
    """Whether a value on the page is the kernel's; a page rounds numbers."""
    if isinstance(true, list):
        return len(shown) == len(true) and all(map(_alike, shown, true))
    if isinstance(true, float):
        return abs(shown - true) <= 1e-6 + 1e-3 * abs(true)
    if isinstance(true, int) and isinstance(shown, float):
        return abs(shown - true) <= 1e-6  # a slider's 30 may be 29.999999999999996 on the page
    return shown == true


class Page:
    """One notebook in the browser; `page` is Playwright's page."""

    def __init__(self, page):
        from playwright.sync_api import TimeoutError

        self.page, self.timeout = page, TimeoutError

    def run_all(self, minutes: float = 30) -> None:
        """Runs every cell, and waits until the last has ended and every view has drawn its plot."""
        self.page.set_default_timeout(minutes * 60_000)
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_function(
            f"""() => {KERNEL}?.status === 'idle'
               && [...document.querySelectorAll('.nl-view')].every(view => view.querySelector('.main-svg'))"""
        )
        self.page.set_default_timeout(PATIENCE * 1000)

    def kernel(self, code: str) -> str:
        """What `code` prints in the notebook's kernel."""
        return self.page.evaluate(
            f"""async code => {{
              const asked = ({KERNEL}).requestExecute({{ code, store_history: false }});
              let said = "";
              asked.onIOPub = ({{ header, content }}) => {{
                if (header.msg_type === "stream" && content.name === "stdout") said += content.text;
                if (header.msg_type === "error") said += content.traceback.join("\\n");
              }};
              await asked.done;
              return said;
            }}""",
            code,
        )

    def throttle(self, factor: int) -> None:
        """Makes the page as slow as on a processor `factor` times slower; 1 is the machine's own speed."""
        self._devtools = getattr(self, "_devtools", None) or self.page.context.new_cdp_session(self.page)
        self._devtools.send("Emulation.setCPUThrottlingRate", {"rate": factor})

    def reload(self) -> None:
        """Saves the notebook, loads the page anew and waits for the notebook and its kernel, which lived on."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        address = self.page.url.replace("&reset", "").replace("?reset", "")
        self.page.goto(address)
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE * 1000)
        self.page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=PATIENCE * 1000)

    @contextmanager
    def second_view(self):
        """Opens the notebook a second time beside itself, on the same kernel, and closes it at the end."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:clone')")
        self.page.wait_for_function("() => document.querySelectorAll('.jp-NotebookPanel').length === 2")
        yield
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.close()")
        self.page.wait_for_function("() => document.querySelectorAll('.jp-NotebookPanel').length === 1")

    def errors(self) -> list[str]:
        """Error outputs of cells, widgets that could not be shown, and errors said inside views."""
        return self.page.evaluate(
            """() => {
              const cells = window.jupyterapp.shell.currentWidget.content.model.toJSON().cells;
              const failed = cells.flatMap(cell => cell.outputs || []).filter(o => o.output_type === 'error')
                .map(o => o.ename + ': ' + o.evalue);
              const alerts = '.nl-view [role=alert], .jupyter-widgets-error-widget';
              const shown = [...document.querySelectorAll(alerts)]
                .map(e => e.textContent.trim()).filter(text => text);
              const missing = [...document.querySelectorAll('.jp-OutputArea-output.jupyter-widgets')]
                .map(e => e.textContent.trim()).filter(text => text.startsWith('Error displaying widget'));
              return [...failed, ...shown, ...missing];
            }"""
        )

    def disagreements(self, shown_times: int = 1) -> list[str]:
        """What the page shows otherwise than the kernel has it: pictures, sliders, lists, sentences, by figure."""
        true, shown, wrong = json.loads(self.kernel(TRUE)), self.page.evaluate(SHOWN), []
        for model, wanted in true.items():
            name = wanted.pop("name", "chart")
            copies = [copy for copy in shown if copy["model"] == model]
            if name != "chart" and len(copies) != shown_times:
                wrong.append(f"{name} stands {len(copies)} times on the page, not {shown_times}")
            for copy in copies:
                if not copy["svgs"]:
                    wrong.append(f"{name} is not drawn")
                for key, value in wanted.items():
                    if not _alike(copy[key], value):
                        wrong.append(f"{name}: {key} on the page {copy[key]}, in the kernel {value}")
        known = [copy for copy in shown if copy["model"] in true]
        if len(known) < len(shown):
            wrong.append(f"{len(shown) - len(known)} figures of the page are not the kernel's")
        return wrong

    def agree(self, shown_times: int = 1, seconds: float = PATIENCE) -> None:
        """Waits until page and kernel agree on every figure; raises AssertionError saying where they do not."""
        until = time.monotonic() + seconds
        while wrong := self.disagreements(shown_times):
            if time.monotonic() > until:
                raise AssertionError("\n".join([*wrong, *self.errors()]))
            self.page.wait_for_timeout(500)

    def crowded(self) -> list[str]:
        """Figures whose legend stands on their axes, and words that a figure's edge cuts."""
        return self.page.evaluate(CROWDED)

    def broken_pictures(self) -> list[str]:
        """Addresses of pictures in the text that did not load."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('.jp-Notebook img')]
                 .filter(image => image.complete && !image.naturalWidth).map(image => image.src)"""
        )

    def stored_pictures(self) -> list[int]:
        """The widths of the pictures in outputs, as they loaded: stills that widgets take the place of."""
        return self.page.evaluate(
            "() => [...document.querySelectorAll('.jp-OutputArea-output img')].map(image => image.naturalWidth)"
        )

    def views(self) -> list[str]:
        """The names of the views on the page, in order."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('.nl-view')].map(view =>
                 [...view.classList].find(c => c.startsWith('nl-') && c !== 'nl-view').slice(3))"""
        )

    def view(self, name: str):
        """Playwright's locator of a view."""
        return self.page.locator(f".nl-{name}").first

    def picture(self, name: str) -> str:
        """What the view's plots show, as one string of path data (marks and shapes), heat-map images and texts."""
        return self.view(name).evaluate(PLOT)

    def focus(self, name: str) -> str:
        """Puts the keyboard on the first slider (else list) of a view; returns the key that moves it."""
        view = self.view(name)
        for selector, key in ((".noUi-handle:visible", "ArrowRight"), ("select:visible", "End")):
            if view.locator(selector).count():
                view.locator(selector).first.focus()
                return key
        raise AssertionError(f"the view {name!r} has no slider and no list to move by keyboard.")

    def press(self, name: str, key: str | None = None, seconds: float = PATIENCE) -> None:
        """Moves the view's first control by one key and waits until the picture differs.

        Presses again every few seconds, in the other direction: a slider may stand at the end of its range, and
        JupyterLab may still take the focus away just after a run.
        """
        before, until, back = self.picture(name), time.monotonic() + seconds, False
        while True:
            moved = self.focus(name)
            self.page.keyboard.press(key or (OPPOSITE[moved] if back else moved))
            back = not back
            try:
                return self.changed(name, before, seconds=min(5, seconds))
            except self.timeout:
                if time.monotonic() > until:
                    raise

    def move(self, name: str, seconds: float = PATIENCE) -> None:
        """Like `press`, and waits for the picture as long as it takes once the control has moved.

        Presses again, in the other direction, while the control stays where it is: a slider may stand at the end of its
        range, and JupyterLab may still take the focus away just after a run.
        """
        picture, until, back = self.picture(name), time.monotonic() + seconds, False
        while True:
            forward, before = self.focus(name), self.view(name).evaluate(STANDS)
            self.page.keyboard.press(OPPOSITE[forward] if back else forward)
            if self.view(name).evaluate(STANDS) != before:
                return self.changed(name, picture, seconds=max(1, until - time.monotonic()))
            if time.monotonic() > until:
                raise self.timeout(f"Timeout: no key moves a control of the view {name!r}.")
            back = not back
            self.page.wait_for_timeout(200)

    def latency(self, name: str, steps: int = 20) -> list[float]:
        """Milliseconds from a key press on the view's first control to the changed picture, step by step.

        It walks to the end of the control's range and back, so most settings are new and computed. The key
        and the watch both run in the page, so Playwright's own travel time is not counted.
        """
        script = f"""([name, key]) => new Promise(done => {{
          const view = document.querySelector('.nl-' + name), read = {PLOT.strip()}, before = read(view);
          const from = performance.now(), options = {{ key, code: key, bubbles: true, cancelable: true }};
          const look = () => read(view) !== before ? done(performance.now() - from)
            : performance.now() - from > 3000 ? done(-1) : setTimeout(look, 2);
          document.activeElement.dispatchEvent(new KeyboardEvent('keydown', options)); look();
        }})"""
        turned = {**OPPOSITE, **{back: key for key, back in OPPOSITE.items()}}
        key, taken, stuck = self.focus(name), [], 0
        while len(taken) < steps and stuck < 3:
            milliseconds = self.page.evaluate(script, [name, key])
            self.page.wait_for_timeout(150)  # the rest of the last step's messages
            if milliseconds < 0:  # at the end of its range: turn round
                key, stuck = turned.get(key, key), stuck + 1
            else:
                taken.append(milliseconds)
        return taken

    def changed(self, name: str, before: str, seconds: float = PATIENCE) -> None:
        """Waits until the view's picture differs from `before`."""
        script = f"([name, before]) => ({PLOT.strip()})(document.querySelector('.nl-' + name)) !== before"
        self.page.wait_for_function(script, arg=[name, before], timeout=seconds * 1000, polling=5)

    def uncover(self) -> None:
        """Shows all pictures that wait for a prediction, by their buttons."""
        self.page.evaluate("() => document.querySelectorAll('.nl-covered .nl-veil button').forEach(b => b.click())")
        self.page.wait_for_function("() => !document.querySelector('.nl-covered')")

    def readout(self, name: str) -> str:
        """The sentence under the view's picture."""
        return self.view(name).locator("[role=status]").last.text_content()

    def alone(self) -> None:
        """Leaves only the notebook on the screen: no side bars, menus or tool bars."""
        self.page.evaluate(
            """async () => {
              const { commands, shell } = window.jupyterapp;
              for (const area of ['left', 'right']) if (!shell[area + 'Collapsed'])
                await commands.execute('application:toggle-' + area + '-area');
              if (shell.mode !== 'single-document') await commands.execute('application:toggle-mode');
            }"""
        )
        self.page.add_style_tag(content=CLUTTER + " { visibility: hidden !important }")
        self.page.wait_for_timeout(500)

    def scroll(self):
        """Scrolls through the notebook a screen at a time, with a little overlap, yielding at each stop."""
        area = self.page.locator(".jp-WindowedPanel-outer").first
        ends = """area => { const last = [...area.querySelectorAll('.jp-Cell')].at(-1).getBoundingClientRect();
          return [last.bottom - area.getBoundingClientRect().top + area.scrollTop, area.clientHeight]; }"""
        top, height, shown = 0, *area.evaluate(ends)
        while True:
            area.evaluate("(area, top) => { area.scrollTop = top }", top)
            self.page.wait_for_timeout(150)
            yield top
            if top + shown >= height:
                return
            top = top + shown - 60
