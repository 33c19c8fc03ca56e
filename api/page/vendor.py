"""Copy the page's libraries out of node_modules: ``python -m api.page.vendor``, after ``npm ci`` in this folder.

A browser knows no bare imports, and an import map would have to stand inline, which the page's policy forbids. So each
``from "preact"`` becomes a relative one; nothing else is changed. SHA256SUMS and the licences lie beside the files.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
VENDOR = HERE / "static" / "vendor"
SUMS = VENDOR / "SHA256SUMS"
#: Each package's module, or sheet, and what it is called here.
FILES = {
    "preact/dist/preact.mjs": "preact.js",
    "preact/hooks/dist/hooks.mjs": "hooks.js",
    "@preact/signals-core/dist/signals-core.mjs": "signals-core.js",
    "@preact/signals/dist/signals.mjs": "signals.js",
    "htm/dist/htm.mjs": "htm.js",
    "uplot/dist/uPlot.esm.js": "uplot.js",
    "uplot/dist/uPlot.min.css": "uplot.css",
}
LICENCES = {package: f"{package.removeprefix('@').replace('/', '-')}.LICENSE" for package in ("preact", "@preact/signals")} | {
    "@preact/signals-core": "preact-signals-core.LICENSE",
    "htm": "htm.LICENSE",
    "uplot": "uplot.LICENSE",
}
MODULES = {"preact": "preact.js", "preact/hooks": "hooks.js", "@preact/signals-core": "signals-core.js"}
_FROM = re.compile(r'(\bfrom\s*)"([^"./\s][^"\s]*)"')
_MAP = re.compile(r"\n?//# sourceMappingURL=.*\n?$")


def relative(text: str) -> str:
    """Turn a module's bare imports into relative ones, and drop the address of a source map that is not here.

    Raises:
        KeyError: it imports a package that the page does not have.
    """
    return _FROM.sub(lambda found: f'{found[1]}"./{MODULES[found[2]]}"', _MAP.sub("\n", text))


def sums() -> str:
    """Write the hash of each vendored file, as ``sha256sum`` does."""
    files = sorted(path for path in VENDOR.iterdir() if path != SUMS and not path.name.endswith(".d.ts"))
    return "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def main() -> None:
    """Copy everything anew."""
    packages = HERE / "node_modules"
    for path, name in FILES.items():
        text = (packages / path).read_text()
        (VENDOR / name).write_text(relative(text) if name.endswith(".js") else text)
    for package, name in LICENCES.items():
        (VENDOR / name).write_bytes((packages / package / "LICENSE").read_bytes())
    SUMS.write_text(sums())


if __name__ == "__main__":
    main()
