"""Someone opens the page in a browser, and has pictures and videos described by the real model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from demo.scenes import clip, scene
from tests.browser import chromium, drop, visit

pytestmark = pytest.mark.timeout(300)

SEED = 790_000
CHINESE = "请用中文描述一下这张图片"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_a_dropped_picture_is_described(stack, browser):
    drawn = scene(SEED)
    with visit(browser, stack.url) as page:
        drop(page, ("猫.png", drawn.png(), "image/png"))
        page.get_by_label("prompt", exact=True).fill(CHINESE)
        page.keyboard.press("Control+Enter")

        expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=60_000)
        expect(page.locator("[data-part=text]")).to_have_text(drawn.caption("zh"))
        expect(page.locator(".earlier li")).to_have_count(1)


def test_a_clip_is_described(stack, browser):
    moving = clip(SEED + 1)
    with visit(browser, stack.url) as page:
        drop(page, ("clip.mp4", moving.mp4(), "video/mp4"))
        page.get_by_label("prompt", exact=True).fill("Describe this video.")
        page.get_by_role("button", name="Describe").click()
        expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=60_000)
        expect(page.locator("[data-part=text]")).to_have_text(moving.caption("en"))


def test_five_files_become_a_table_with_a_row_for_each(stack, browser):
    drawn = [scene(SEED + 10 + n) for n in range(5)]
    with visit(browser, stack.url) as page:
        drop(page, *((f"{n}.png", one.png(), "image/png") for n, one in enumerate(drawn)))
        page.get_by_label("prompt", exact=True).fill("Describe this image.")
        page.get_by_role("button", name="Describe 5 files").click()
        expect(page.locator(".told .number", has_text="5 of 5 done")).to_be_visible(timeout=60_000)
        for n, one in enumerate(drawn):
            row = page.get_by_role("row").filter(has_text=f"{n}.png")
            expect(row).to_contain_text(one.caption("en"))
        with page.expect_download() as saved:
            page.get_by_role("button", name="download CSV").click()
        lines = saved.value.path().read_text("utf-8-sig").splitlines()
        assert [line.split(",")[0] for line in lines] == ["file", *(f'"{n}.png"' for n in range(5))]


def test_the_demo_model_says_what_it_knows_and_its_samples_work_at_the_first_click(stack, browser):
    with visit(browser, stack.url, locale="zh-CN") as page:
        page.locator(".sample").first.click(timeout=10_000)
        page.get_by_role("button", name="描述").click()
        expect(page.locator("[data-part=text]")).to_have_text(scene(10).caption("zh"), timeout=60_000)


def test_the_code_that_is_copied_says_the_same_as_the_page(stack, browser, tmp_path):
    drawn = scene(SEED + 20)
    with visit(browser, stack.url) as page:
        drop(page, ('it\'s $HOME "猫".png', drawn.png(), "image/png"))
        page.get_by_label("prompt", exact=True).fill(CHINESE)
        page.get_by_text("sampling").click()
        page.get_by_label("repetition penalty").fill("1.05")
        page.get_by_label("most tokens").fill("200")
        page.get_by_role("button", name="Describe").click()
        expect(page.locator("[data-part=text]")).to_have_text(drawn.caption("zh"), timeout=60_000)
        codes = {}
        for way in ("curl", "Python", "openai", "LangChain"):
            page.get_by_role("button", name=way, exact=True).click()
            codes[way] = page.locator(".code code").inner_text()
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "PYTHONWARNINGS": "ignore"}
    for way, code in codes.items():
        command = ["bash", "-c", code] if way == "curl" else [sys.executable, "-c", code]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment, cwd=tmp_path)
        assert drawn.caption("zh") in told.stdout, way
