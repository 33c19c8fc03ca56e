"""Jobs in the page: the live list, filters, keys, one job's life, and its deliveries."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from sightline.receiver import Receiver
from tests.media import picture
from tests.page.conftest import submit


def test_jobs_are_listed_filtered_and_found_by_words(page, stack, client):
    good = [submit(client, f"好的 {n}", metadata={"album": f"summer-{n}"}) for n in range(3)]
    bad = submit(client, "!long")
    for job_id in (*good, bad):
        client.job(job_id).wait()
    page.goto(f"{stack.url}/#/jobs")
    expect(page.locator(f"#job-{bad}")).to_be_visible()
    page.get_by_role("button", name="failed").click()
    expect(page.locator(f"#job-{bad}")).to_be_visible()
    expect(page.locator(f"#job-{good[0]}")).to_have_count(0)
    assert page.url.endswith("#/jobs?status=failed")
    page.get_by_role("button", name="all", exact=True).click()
    page.get_by_role("searchbox").fill("summer-1")
    expect(page.locator(f"#job-{good[1]}")).to_be_visible()
    expect(page.locator(".job-row")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("searchbox")).to_have_value("summer-1")
    expect(page.locator(".job-row")).to_have_count(1)


def test_the_list_is_live_and_stands_still_while_it_is_paused(page, stack, client):
    page.goto(f"{stack.url}/#/jobs")
    expect(page.get_by_role("button", name="live")).to_be_visible()
    first = submit(client, "一")
    expect(page.locator(f"#job-{first}")).to_contain_text("一", timeout=10_000)
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="paused")).to_be_visible()
    second = submit(client, "二")
    client.job(second).wait()
    page.wait_for_timeout(1500)
    expect(page.locator(f"#job-{second}")).to_have_count(0)
    page.keyboard.press("Space")
    expect(page.locator(f"#job-{second}")).to_contain_text("二", timeout=10_000)


def test_selected_jobs_are_cancelled_after_a_question(page, stack, client):
    slow = [submit(client, "!slow 60") for _ in range(3)]
    page.goto(f"{stack.url}/#/jobs")
    expect(page.locator(f"#job-{slow[2]}")).to_be_visible()
    for _ in range(2):  # with keys alone: the two newest
        page.keyboard.press("j")
        page.keyboard.press("x")
    page.keyboard.press("c")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("cancel 2 jobs")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert client.job(slow[2]).status in {"queued", "running"}
    page.keyboard.press("c")
    dialog.get_by_role("button", name="cancel").click()
    for job_id in slow[1:]:
        expect(page.get_by_role("row").filter(has=page.locator(f"#job-{job_id}"))).to_contain_text("cancelled", timeout=10_000)
    assert client.job(slow[0]).status == "running"
    client.job(slow[0]).cancel()


def test_a_job_shows_its_life_and_its_deliveries_which_are_sent_again(page, stack, client):
    with Receiver(stack.secret) as receiver:
        job_id = submit(client, "远处的海", webhook={"url": receiver.url})
        client.job(job_id).wait()
        page.goto(f"{stack.url}/#/jobs/{job_id}")
        expect(page.locator("[data-part=text]")).to_contain_text("远处的海")
        expect(page.locator(".lanes li")).to_have_count(1)
        delivery = page.locator(".delivery")
        expect(delivery).to_contain_text("delivered", timeout=10_000)
        expect(delivery).to_contain_text("1 attempt")
        page.get_by_role("button", name="redeliver").click()
        expect(delivery).to_contain_text("2 attempts", timeout=10_000)
        delivery.locator("summary").click()
        expect(delivery.locator(".attempts li")).to_have_count(2)
        expect(delivery.locator(".attempts")).to_contain_text("204")


def test_a_long_list_keeps_few_rows_in_the_document_and_every_job_in_reach(page, stack, client):
    ids = [submit(client, f"n{n}") for n in range(230)]
    client.job(ids[-1]).wait()
    page.goto(f"{stack.url}/#/jobs")
    expect(page.locator(f"#job-{ids[-1]}")).to_be_visible()
    with page.expect_response(re.compile("/v1/jobs.limit=100")):  # an unknown job has the page look at more than it shows
        ids.append(submit(client, "one more"))
    expect(page.locator(f"#job-{ids[-1]}")).to_be_visible()
    shown = [row.get_attribute("id") for row in page.locator(".job-row a.line").all()]
    assert shown == [f"job-{job_id}" for job_id in reversed(ids)][: len(shown)]
    table = page.locator(".rows")
    page.locator(".rows .body").hover()
    while page.locator(f"#job-{ids[0]}").count() == 0:
        page.mouse.wheel(0, 1500)
        page.wait_for_timeout(20)
    assert int(table.get_attribute("aria-rowcount") or 0) > len(ids)
    assert page.locator(".job-row").count() < 60
    held = submit(client, "while somebody reads")
    expect(page.get_by_role("button", name="new ↑")).to_be_visible(timeout=10_000)  # nothing moves under the pointer
    expect(page.locator(f"#job-{ids[0]}")).to_be_visible()
    page.get_by_role("button", name="new ↑").click()
    page.locator(".rows .body").evaluate("(body) => { body.scrollTop = 0; }")
    expect(page.locator(f"#job-{held}")).to_be_visible()


#: Lays out a life in which a worker was lost, and whose second attempt has a receipt.
_LANES = """async () => {
  const {lanes, exact} = await import('/page/jobs/timeline.js');
  const happened = (type, after_ms, more = {}) => ({id: '1', type, data: {after_ms, ...more}});
  const found = lanes([
    happened('job.queued', 0), happened('job.running', 10, {attempt: 1}), happened('job.stage', 900, {stage: 'generating'}),
    {id: '4', type: 'job.delta', data: {text: 'x'}}, happened('job.reset', 2000), happened('job.queued', 2000),
    happened('job.running', 2100, {attempt: 2}),
  ], 3000);
  const span = ({what, fromMs, untilMs}) => `${what} ${fromMs}-${untilMs}`;
  const told = (lane) => [lane.attempt, lane.lost, ...lane.spans.map(span)];
  return [found.map(told), exact(found, {fetch: 5, decode: 20, render: 3, generate: 800, total: 850}).map(told)];
}"""


def test_a_timeline_has_a_lane_for_each_attempt_and_the_receipt_s_own_times(page):
    first, precise = page.evaluate(_LANES)
    lost = [1, True, "queued 0-10", "starting 10-900", "generating 900-2000"]
    assert first == [lost, [2, False, "queued 2000-2100", "starting 2100-3000"]]
    stages = ["fetching 2100-2105", "decoding 2105-2125", "waiting 2125-2147", "rendering 2147-2150", "generating 2150-2950"]
    assert precise == [lost, [2, False, "queued 2000-2100", *stages]]


def test_a_group_is_counted_retried_and_cancelled_whole(page, stack, client):
    failed = [submit(client, "!long", group="夏天 1") for _ in range(3)]
    for job_id in failed:
        client.job(job_id).wait()
    other = submit(client, "!long")
    client.job(other).wait()
    page.goto(f"{stack.url}/#/jobs?group=%E5%A4%8F%E5%A4%A9+1")
    expect(page.locator(".job-row")).to_have_count(3)
    expect(page.get_by_role("button", name="failed 3")).to_be_visible()
    page.get_by_role("button", name="retry all that match").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("3 match")
    assert len(list(client.jobs(group="夏天 1"))) == 3  # counted, not yet done
    dialog.get_by_role("button", name="retry").click()
    expect(page.locator(".job-row")).to_have_count(6, timeout=10_000)
    assert client.job(other)["retried_as"] is None

    slow = [submit(client, "!slow 60", group="夏天 1") for _ in range(4)]
    page.reload()
    page.get_by_role("button", name="cancel all that match").click()
    expect(dialog).to_contain_text("4 match")
    dialog.get_by_role("button", name="cancel").click()
    expect(page.get_by_role("button", name="cancelled 4")).to_be_visible(timeout=10_000)
    assert {client.job(job_id).wait().status for job_id in slow} == {"cancelled"}


def test_a_job_that_was_sent_elsewhere_shows_what_was_asked(page, stack, client):
    file = client.upload(picture(), name="a.png")
    content = [{"type": "image", "image": file.id}, {"type": "text", "text": "<b>几只</b> 猫？"}]
    system = {"role": "system", "content": "Be brief."}
    job_id = client.submit({"messages": [system, {"role": "user", "content": content}], "sampling": {"max_tokens": 9}}).id
    client.job(job_id).wait()
    page.goto(f"{stack.url}/#/jobs/{job_id}")
    expect(page.locator(".asked")).to_contain_text("Be brief.")
    expect(page.locator(".asked")).to_contain_text("<b>几只</b> 猫？")
    expect(page.locator(".shown img")).to_be_visible()
    page.get_by_role("button", name="openai").click()
    expect(page.locator(".code code")).to_contain_text(file.id)
    expect(page.locator(".code code")).to_contain_text("max_tokens=9")


def test_a_job_that_has_ended_is_run_again(page, stack, client):
    job_id = submit(client, "!long")
    client.job(job_id).wait()
    page.goto(f"{stack.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="run again").click()
    expect(page).not_to_have_url(re.compile(job_id))
    expect(page.locator("main")).to_contain_text("prompt_too_long")
    assert page.url.rpartition("/")[2] == client.job(job_id)["retried_as"]


#: Many jobs come in: more than the list keeps, half of them while its reader has scrolled; events told of each.
_MANY = """async () => {
  const app = [...document.scripts].find((script) => script.src.endsWith('app.js'));
  const { JobList } = await import(new URL('jobs/store.js', app.src));
  const list = new JobList({});
  let n = 0;
  const made = () => ({ id: `job_${(n += 1)}`, status: 'queued', created_at: n });
  list.page = async () => ({ has_more: true, data: Array.from({ length: 1000 }, made) });
  const come = async () => {
    await list.readNewest();
    for (const id of list.jobs.keys()) list.heard.set(id, n % 2 ? 'running' : 'succeeded');
    list.refreshing = true;
    list.apply();
  };
  for (let round = 0; round < 8; round += 1) await come();
  list.holds.value = true;
  for (let round = 0; round < 8; round += 1) await come();
  const sizes = (ids) => [ids.length, list.jobs.size, list.stale.size];
  const held = sizes(list.held.value);
  list.release();
  const order = list.order.value;
  return { held, kept: sizes(order), newest: order.includes(`job_${n}`) };
}"""


def test_a_list_that_runs_for_days_keeps_so_many_rows_and_no_trace_of_others(page, stack):
    page.goto(f"{stack.url}/#/jobs")
    found = page.evaluate(_MANY)
    assert found == {"held": [20_000, 40_000, 40_000], "kept": [20_000, 20_000, 20_000], "newest": True}
