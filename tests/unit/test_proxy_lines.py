"""The lines for nginx and Caddy: the documents show what the files hold, which is what ``python -m tests.proxies`` runs."""

from __future__ import annotations

import pytest

from shared.settings import ROOT


@pytest.mark.parametrize("name", ["deploy/nginx/sightline.conf", "deploy/caddy/Caddyfile"])
def test_the_documents_show_the_configuration_that_is_tried(name: str) -> None:
    assert f"\n{(ROOT / name).read_text()}```" in (ROOT / "docs/operations.md").read_text()
