"""The service under requests that are made of its own OpenAPI, for some minutes.

python -m benchmarks.service_api WORKDIR [--minutes 10] [--schemathesis PATH]

schemathesis is in no extra: install it in an environment of its own. It runs with one
seed after another until the time is over. A status of 500 is a failure, and any that
OpenAPI does not name for the call; 503 and 507 are answers of a full service. Exits
with 1 where something failed.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import table
from tests.made_videos import write_video
from tests.service.server import Server

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    "response_schema_conformance",
)
CONFIG = """
max-time = {seconds}
request-timeout = 60
continue-on-failure = true
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503, 507]
"""
CASES = re.compile(r"(\d[\d,]*) generated")


def run(command: str, config: Path, address: str, seed: int, seconds: float) -> str:
    """What it says of one run of so many seconds, or fewer."""
    config.write_text(CONFIG.format(seconds=max(round(seconds), 1)))
    words = [command, f"--config-file={config}", "run", f"{address}/openapi.json"]
    words += [f"--seed={seed}", f"--checks={','.join(CHECKS)}", "--no-color"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 120)
    return done.stdout + done.stderr


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--schemathesis", default="schemathesis", metavar="PATH")
    table.add_option(parser)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        table.results(parser, options) as results,
        Server(
            Path(folder) / "data",
            *(f"--workdir={options.workdir}", "--keep_minutes=1", "--queue=20"),
            *("--uploads_per_minute=0", "--requests_per_minute=0"),
        ) as server,
    ):
        config = Path(folder) / "schemathesis.toml"
        server.until_ready()
        server.hand_in(write_video(Path(folder) / "a.mp4", 12))
        end = time.monotonic() + 60 * options.minutes
        cases, runs, failed = 0, 0, []
        while time.monotonic() < end:
            said = run(
                *(options.schemathesis, config, f"http://127.0.0.1:{server.port}"),
                *(runs, end - time.monotonic()),
            )
            found = CASES.search(said)
            assert found, said
            cases += int(found[1].replace(",", ""))
            runs += 1
            failed += [said] if "FAILURES" in said or "ERRORS" in said else []
        statuses = Counter[str]()
        for line in server.get("/metrics").body.decode().splitlines():
            if refused := re.match(
                r'fakedetect_refused_total\{why="(\w+)"\} (\S+)', line
            ):
                statuses[refused[1]] = int(float(refused[2]))
        results.say(
            f"{cases:,} requests in {runs} runs over {options.minutes:g} minutes; runs "
            f"with a failure: {len(failed)}."
        )
        results.say()
        said = ", ".join(f"{count:,} for {why}" for why, count in statuses.items())
        results.say(f"Refused by the service itself: {said or 'none'}.")
        for text in failed[:3]:
            print(text, file=sys.stderr)
        assert server.get("/healthz").status == 200
        assert "Traceback" not in server.log.read_text()
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
