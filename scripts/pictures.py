"""`make pictures`: take the pictures in docs/ again, from the report and the Prefect run of the profile's last build, and
the last artifacts about a lineage and a failure.

They are screenshots by a headless Chromium: the program of the environment variable CHROMIUM, or the first of its usual names.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import local_prefect as local
from command_line import INTERRUPTED, end_with_parent, log_line, read_overrides, read_port

from tasks.config import PROJECT_ROOT, load_config
from tasks.errors import UserError
from tasks.storage.versions import latest

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

DOCS = PROJECT_ROOT / "docs"
USUAL_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
REPORT_SIZE, PREFECT_SIZE = (1100, 1700), (1400, 900)
REPORT_PATIENCE_S = 5.0  # virtual time for the report to list its problems
PREFECT_PATIENCE_S = 15.0  # virtual time for the UI to load the run
LIMIT_S = 120.0
FLOW = "sure-math"
ARTIFACTS = ("lineage", "failure")
"""Keys of the artifacts whose last ones are shown, if there are any."""


def find_browser() -> str:
    """Return the path of Chromium; raises `UserError` if there is none."""
    wanted = os.environ.get("CHROMIUM")
    for name in (wanted,) if wanted else USUAL_NAMES:
        if path := shutil.which(name):
            return path
    if wanted:
        raise UserError(f"CHROMIUM is {wanted}, which is not a program: set it to the path of Chromium")
    raise UserError("Chromium was not found: install it, or set CHROMIUM to its path")


def screenshot(
    browser: str,
    address: str,
    picture: Path,
    size: tuple[int, int],
    patience_s: float = 0.0,
    login: str = "",
) -> None:
    """Write a PNG of the page at `address`, replacing an existing file; pages with scripts get `patience_s` of virtual time.
    `login` is the auth string that a page of Prefect asks for.

    Raises `UserError` with Chromium's last line if it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        taken = Path(scratch) / "picture.png"
        options = [
            "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={scratch}/profile",
            f"--window-size={size[0]},{size[1]}", f"--screenshot={taken}",
        ]  # fmt: skip
        if login:
            options.append(f"--load-extension={_login_extension(Path(scratch) / 'login', login)}")
        if patience_s:
            options.append(f"--virtual-time-budget={1000 * patience_s:.0f}")
            options.append(
                "--run-all-compositor-stages-before-draw"
            )  # else the UI's canvas may lack its last frame
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium refuses to start its sandbox as root
        _run([browser, *options, address])
        if not taken.exists():
            raise UserError(f"{browser} wrote no picture of {address}: try another version of Chromium")
        picture.write_bytes(taken.read_bytes())


def _login_extension(folder: Path, auth_string: str) -> Path:
    """Write an extension for Chromium that gives Prefect's pages the auth string, as their login form does; return its folder."""
    encoded = base64.b64encode(auth_string.encode()).decode("ascii")
    script = {"matches": ["http://127.0.0.1/*"], "js": ["login.js"], "run_at": "document_start"}
    manifest = {"manifest_version": 3, "name": "login", "version": "1", "content_scripts": [script]}
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="ascii")
    (folder / "login.js").write_text(
        f"localStorage.setItem('prefect-password', '{encoded}')", encoding="ascii"
    )
    return folder


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{command[0]} did not finish within {LIMIT_S:.0f} s: try another version of Chromium"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{command[0]} failed with exit status {done.returncode}: {last}")


def last_build(api: local.Api) -> FlowRun:
    """Return the last completed run of the build flow on the server; raises `UserError` if there is none."""
    with local.client_of(api) as client:
        from prefect.client.schemas import filters, sorting
        from prefect.client.schemas.objects import StateType

        completed = filters.FlowRunFilterStateType(any_=[StateType.COMPLETED])
        runs = client.read_flow_runs(
            flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=[FLOW])),
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=completed)),
            sort=sorting.FlowRunSort.END_TIME_DESC,
            limit=1,
        )
    if not runs:
        raise UserError(f"the Prefect server at {api.page} has no completed build: run `make build` first")
    return runs[0]


def last_artifact(api: local.Api, key: str) -> UUID | None:
    """Return the id of the last artifact with this key on the server, None if there is none."""
    with local.client_of(api) as client:
        from prefect.client.schemas import filters, sorting

        wanted = filters.ArtifactFilter(key=filters.ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=wanted, sort=sorting.ArtifactSort.CREATED_DESC, limit=1)
    return found[0].id if found else None


def take_pictures(output: Path, port: int | None) -> None:
    """Write `docs/report.png` and `docs/prefect.png`, and `docs/<key>.png` of the last artifacts of `ARTIFACTS`."""
    browser = find_browser()
    report = Path(latest(output)["report"])
    screenshot(browser, report.as_uri(), DOCS / "report.png", REPORT_SIZE, REPORT_PATIENCE_S)
    log_line(f"{DOCS / 'report.png'} shows {report}")
    with local.prefect_api(port) as api:
        run = last_build(api)
        address = f"{api.page}/runs/flow-run/{run.id}"
        login = local.auth_string() if api.own else ""
        screenshot(browser, address, DOCS / "prefect.png", PREFECT_SIZE, PREFECT_PATIENCE_S, login)
        log_line(f"{DOCS / 'prefect.png'} shows run {run.name}")
        for key in ARTIFACTS:
            if (artifact := last_artifact(api, key)) is None:
                log_line(f"the server has no artifact {key}: {key}.png is not taken")
                continue
            address = f"{api.page}/artifacts/artifact/{artifact}"
            screenshot(browser, address, DOCS / f"{key}.png", PREFECT_SIZE, PREFECT_PATIENCE_S, login)
            log_line(f"{DOCS / f'{key}.png'} shows the artifact {artifact}")


def main() -> int:
    """Return 0 if the pictures were taken. The settings come from PROFILE, OVERRIDES and PORT, as for `make build`."""
    end_with_parent()
    try:
        profile = os.environ.get("PROFILE") or "pocket"
        config = load_config(profile, read_overrides(os.environ.get("OVERRIDES", "")))
        take_pictures(PROJECT_ROOT / config.run.output, read_port(os.environ.get("PORT", "")))
        return 0
    except UserError as error:
        log_line(str(error))
        return 1
    except KeyboardInterrupt:
        log_line("interrupted; all started processes have ended")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
