"""Run All Cells in JupyterLab in a real browser, as a student would, including widgets."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import CHROMIUM, FLAGS, free_port, served

ROOT = Path(__file__).resolve().parent.parent
WAIT = 600_000  # milliseconds for all cells of one notebook, on a slow machine

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one at a time
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)"),
]


def shorten(path: Path) -> None:
    """Make a notebook use few faces and one epoch, as what it shows does not depend on these."""
    text = path.read_text(encoding="utf-8")
    assert 'dataset = \\"sample\\"' in text
    text = text.replace('dataset = \\"sample\\"', 'dataset = \\"sample-10-600\\"')
    path.write_text(text.replace('"changes = {}  #', '"changes = {\\"epochs\\": 1}  #'), "utf-8")


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab with a copy of the notebooks and its own data and runs."""
    folder = tmp_path
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for path in (folder / "notebooks").glob("*.ipynb"):
        shorten(path)
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--allow-root"]
    command += ["--expose-app-in-browser", "--IdentityProvider.token=", f"--notebook-dir={folder}"]
    environment = os.environ | {"FER_HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder / "c")}
    address = f"http://127.0.0.1:{port}"
    with served(command, f"{address}/api", log, env=environment, cwd=folder):
        yield address


@pytest.fixture
def page():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


IDLE = (
    "() => window.jupyterapp.shell.currentWidget.sessionContext?.session?.kernel?.status == 'idle'"
)
CELLS = "window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type == 'code')"
DONE = f"() => {CELLS}.every(c => c.model.executionState == 'idle' && c.model.executionCount)"
OUTPUTS = f"() => {CELLS}.flatMap(c => c.model.outputs.toJSON())"


def run_all(page, address: str, name: str) -> list[dict]:
    """Open a notebook, choose Run All Cells from the menu, and return all outputs."""
    page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?reset")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content?.widgets?.length")
    page.wait_for_function(IDLE, timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(DONE, timeout=WAIT)
    return page.evaluate(OUTPUTS)


def errors(outputs: list[dict]) -> list[str]:
    return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]


def widgets(outputs: list[dict]) -> int:
    kind = "application/vnd.jupyter.widget-view+json"
    return sum(kind in output.get("data", {}) for output in outputs)


def test_run_all_works_in_notebooks_with_and_without_menus(lab, page):
    for name, menus in (("01_data", 1), ("03_cnn", 0)):
        outputs = run_all(page, lab, name)
        assert errors(outputs) == [], name
        assert any("image/png" in output.get("data", {}) for output in outputs), name
        assert widgets(outputs) >= menus, name
        if menus:
            choose_something_else(page)


def choose_something_else(page) -> None:
    """Change the first menu, and check that the output below it changes, but not to an error."""
    menu = page.locator(".jupyter-widgets select").first
    menu.scroll_into_view_if_needed()
    shown = page.locator(".widget-output").first
    before = shown.inner_html()
    chosen = menu.evaluate("select => select.selectedIndex")
    menu.select_option(index=(chosen + 1) % 7)
    page.wait_for_function(
        "before => { const now = document.querySelector('.widget-output').innerHTML;"
        " return now != before && /<img|no such image/.test(now); }",
        arg=before,
        timeout=60_000,
    )
    assert "Traceback" not in shown.inner_text()
