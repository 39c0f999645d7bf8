"""Writes docs/reference from the code: settings, metrics, reasons and API. `--check` only compares."""

import ast
import re
import sys
from pathlib import Path
from typing import get_type_hints

import msgspec
from prometheus_client.metrics import MetricWrapperBase

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "Written by `make docs` from the code; change it there."
REQUESTS = """
## Refused requests

`dsp_no_bids_total{reason}` has these too, each answered with 400, and those of HTTP: `head_too_large`, `body_slow`,
and for the exchange `unknown` `path`, `unknown_exchange`, `method` and `http_malformed`.

"""
NOTICES = """
## Refused notices

`dsp_notices_refused_total{reason}` has these, each answered with 400, and those of HTTP: `path`, `method`,
`head_too_large`, `body_too_large`, `body_slow`, `http_malformed`, and `prefetch`: a browser's look ahead at a click.
`dsp_admin_refused_total{reason}` has those of HTTP.

"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _comments(module_path: Path, struct: str) -> dict[str, str]:
    """Return the comment of each field of a struct: above it (`#:`) or beside it (`#`)."""
    found: dict[str, str] = {}
    inside, above = False, ""
    for line in module_path.read_text(encoding="utf-8").splitlines():
        if line.startswith("class "):
            inside = line.startswith(f"class {struct}(")
        elif inside and line.strip().startswith("#"):
            above = f"{above} {line.strip().lstrip('#:').strip()}".strip()
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            name, _, rest = line.strip().partition(":")
            beside = rest.partition("  # ")[2].strip()
            if name.isidentifier():
                found[name] = above or beside
            above = ""
    return found


def settings() -> str:
    """Return the page of settings, a table for each TOML table."""
    from bidder.config import BidderConfig
    from dsp.api.config import ApiConfig
    from dsp.kernel.config import Platform
    from dsp.openrtb.profile import Profile
    from dsp.supervise import UpConfig
    from dsp.workers.config import WorkersConfig
    from models.training.config import TrainingConfig

    tables = {
        "platform": Platform,
        "up": UpConfig,
        "bidder": BidderConfig,
        "api": ApiConfig,
        "workers": WorkersConfig,
        "training": TrainingConfig,
    }
    parts = [
        f"# Settings\n\n{NOTE}\n\nOne TOML file serves all processes (`--config FILE` or `DSP_CONFIG`); "
        "`DSP_<TABLE>_<SETTING>` in the environment overrides a setting. All faults are reported at once.\n"
    ]
    for name, struct in tables.items():
        parts.append(f"## [{name}]\n\n" + _fields(struct))
    parts.append(
        "## Exchange profiles\n\n`platform.exchanges_dir` holds one TOML file for each exchange, with these at its top "
        "level. [config/exchanges/openrtb.toml](../../config/exchanges/openrtb.toml) is one to copy.\n\n"
        + _fields(Profile)
    )
    return "\n".join(parts)


def _fields(struct: type[msgspec.Struct]) -> str:
    """Return the table of a struct's fields."""
    hints = get_type_hints(struct)
    comments = _comments(Path(sys.modules[struct.__module__].__file__ or ""), struct.__name__)
    rows = [
        [f"`{field.name}`", f"`{_type(hints[field.name])}`", f"`{_default(field)}`", comments.get(field.name, "")]
        for field in msgspec.structs.fields(struct)
    ]
    return _table(["setting", "type", "default", "meaning"], rows)


def _type(hint: object) -> str:
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    choices = re.compile(r"typing\.Literal\[([^\]]*)\]")
    return choices.sub(lambda found: found[1].replace(", ", " | "), text).replace("dsp.kernel.config.", "")


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "(required)"
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return repr(default)


def metrics() -> str:
    """Return the page of metrics."""
    from dsp.kernel import metrics as module

    rows = []
    for metric in vars(module).values():
        if isinstance(metric, MetricWrapperBase):
            suffix = {"counter": "_total", "info": "_info"}.get(metric._type, "")
            labels = ", ".join(metric._labelnames) or "-"
            rows.append([f"`{metric._name}{suffix}`", metric._type, labels, metric._documentation])
    return f"# Metrics\n\n{NOTE}\n\n" + _table(["metric", "type", "labels", "meaning"], rows)


def reasons() -> str:
    """Return the page of reasons for not bidding."""
    from dsp.catalog.reasons import Exclusion

    rows = [[f"`{each.value}`", str(each.nbr), each.sentence] for each in Exclusion]
    text = (
        "`dsp_no_bids_total{reason}` and `explain` use these labels; `nbr` is what an exchange that wants it is told."
    )
    page = f"# Reasons not to bid\n\n{NOTE} {text}\n\n" + _table(["label", "nbr", "meaning"], rows)
    page += REQUESTS + _refusals("dsp/openrtb/codec.py", "dsp/openrtb/lenient.py") + NOTICES
    return page + _refusals("dsp/kernel/ids.py", "bidder/notices.py", "bidder/prices.py", "dsp/openrtb/price.py")


def _refusals(*modules: str) -> str:
    """Return what the modules raise with a reason, and in which words."""
    words: dict[str, list[str]] = {}
    for module in modules:
        for call in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            match call:
                case ast.Call(
                    args=[message], keywords=[ast.keyword(arg="reason", value=ast.Constant(value=str(reason)))]
                ):
                    said = words.setdefault(reason, [])
                    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
                    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
                    if text not in (*said, "…"):
                        said.append(text)
    return _table(["label", "said"], [[f"`{reason}`", "; ".join(said)] for reason, said in sorted(words.items())])


def endpoints() -> str:
    """Return the page of the REST API's endpoints, from its OpenAPI document."""
    from dsp.api.app import create_app
    from dsp.api.config import ApiConfig
    from dsp.api.context import Services
    from dsp.cache.local import LocalBlobStore
    from dsp.kernel.clock import SystemClock
    from dsp.kernel.config import Platform
    from dsp.kernel.lifecycle import Lifecycle
    from dsp.store.database import create_engine
    from dsp.stream.local import LocalEventLog

    nowhere, clock = ROOT / "var" / "docs", SystemClock()  # nothing is opened, so nothing is written
    services = Services(
        create_engine(f"sqlite:///{nowhere}/dsp.db"),
        clock,
        Platform(),
        ApiConfig(),
        Lifecycle(),
        LocalEventLog(nowhere, clock),
        LocalBlobStore(nowhere),
    )
    rows = [
        [method.upper(), f"`{path}`", operation.get("summary", "")]
        for path, operations in create_app(services).openapi()["paths"].items()
        for method, operation in operations.items()
    ]
    text = "The full description, with schemas, is served at `/openapi.json` and `/docs`."
    return f"# REST API\n\n{NOTE} {text}\n\n" + _table(["method", "path", "summary"], rows)


PAGES = {"settings.md": settings, "metrics.md": metrics, "reasons.md": reasons, "api.md": endpoints}


def main() -> int:
    """Write the pages, or with `--check` name those that are out of date."""
    stale = []
    for name, page in PAGES.items():
        path = REFERENCE / name
        text = page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                REFERENCE.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
