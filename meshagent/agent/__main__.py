"""The daemon itself: `python -m meshagent.agent FILE`, which `meshagent agent` turns into once it has read its command line.

A process of its own image: what the command line needed is not carried along for as long as the host runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from meshagent.agent import lean, run  # noqa: F401 - lean before all else
from meshagent.agent.configuration import load
from meshagent.errors import MeshagentError
from meshagent.telemetry import logs

_PAUSE_SECONDS = 5.0

# Until the agent runs and hears it, Ctrl-C just ends: whatever it is amid, the next start goes on from there.
signal.signal(signal.SIGINT, signal.SIG_DFL)


def main(path: Path) -> None:
    try:
        settings = load(path)
        logs.configure(settings.log_level)
        if run.join_first(settings):
            # Joining needs an HTTP client and TLS, once. They are left behind.
            os.execv(sys.executable, [sys.executable, "-P", "-m", "meshagent.agent", str(path)])  # noqa: S606
        run.main(settings)
    except MeshagentError as error:
        print(f"meshagent: {error}", file=sys.stderr, flush=True)
        if os.environ.get("NOTIFY_SOCKET"):
            # The service manager starts us again at once and for ever; what is somebody's to mend is not mended faster by that.
            time.sleep(_PAUSE_SECONDS)
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
