"""The live page in a real browser, over the real server: what is typed streams in, what runs is drawn, nothing complains."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

KEY = "open-sesame"
SETTINGS = {"max_num_seqs": 8, "max_model_len": 512, "max_num_batched_tokens": 24, "default_max_tokens": 40}
WAIT = 15_000  # milliseconds; only a failure waits so long
COLOURS_OF = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
  return [...seen].map(c => "#" + c.toString(16).padStart(6, "0"));
}"""
POOR_CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.map(v => linear(v / 255)); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => e ? over(parse(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || e.disabled || e.closest("noscript")) continue;
    const paper = behind(e);
    const [a, b] = [light(over(parse(getComputedStyle(e).color), paper)), light(paper)].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(`${e.tagName}.${e.className} ${((a + .05) / (b + .05)).toFixed(2)}`);
  }
  return [poor, getComputedStyle(document.documentElement).backgroundColor];
}"""
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def double(serving) -> Iterator[Any]:
    """The real server over the fake executor, an iteration in 10 ms."""
    with serving(engine=SETTINGS, executor_delay=0.01) as running:
        yield running


@pytest.fixture
def visit(chromium) -> Iterator[Open]:
    """Opens the page as given; at the end, anything that its console, scripts or loading complained of fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(url: str, allowed: tuple[str, ...] = (), **settings: Any) -> Any:
        context = chromium.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        hosts: set[str] = set()
        page.on("console", lambda message: complain(f"{message.type}: {message.text}", allowed))
        page.on("pageerror", lambda error: complain(str(error), allowed))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(url)
        page.hosts = hosts
        return page

    def complain(text: str, allowed: tuple[str, ...]) -> None:
        if not any(part in text for part in allowed):
            complaints.append(text)

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def until(page: Any, condition: str) -> None:
    """Wait for a JavaScript expression to hold. Playwright's own way evaluates in the page, which its policy forbids."""
    for _ in range(WAIT // 30):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never came true: {condition}")


def live(page: Any) -> Any:
    page.wait_for_selector('[data-state="live"]')
    return page


def finished(page: Any) -> str:
    until(page, "document.getElementById('figures').textContent.includes('end:')")
    return page.inner_text("#figures")


@contextmanager
def load(running: Any, *requests: tuple[int, int]) -> Iterator[None]:
    """Requests of (prompt tokens, new tokens) in flight until the block is left."""
    with ExitStack() as stack:
        http = stack.enter_context(running.http())
        for prompt_len, max_tokens in requests:
            body = {
                "model": "fake",
                "prompt": [5] * prompt_len,
                "max_tokens": max_tokens,
                "ignore_eos": True,
                "stream": True,
            }
            stack.enter_context(http.stream("POST", "/v1/completions", json=body))
        yield


def test_a_prompt_streams_in_and_the_timeline_moves(visit, double):
    page = live(visit(double.address, allowed=("willReadFrequently",)))  # this test reads the picture
    with load(double, (40, 300), (3, 300)):
        drawn = f"({COLOURS_OF})(document.getElementById('timeline'))"
        until(page, f"['#d55e00', '#e69f00', '#0072b2'].every(colour => {drawn}.includes(colour))")
        page.fill("#prompt", "one two <b>three</b>")
        page.click("#send")
        page.wait_for_selector(".tok")
        growing = page.inner_text(".answer")
        until(page, f"document.querySelector('.answer').textContent.length > {len(growing) + 20}")
        before = page.screenshot(clip=page.locator("#timeline").bounding_box())
        page.wait_for_timeout(700)
        assert page.screenshot(clip=page.locator("#timeline").bounding_box()) != before, "the timeline moves"
        assert page.inner_text("#batch-now").endswith("of 8") and page.inner_text("#pages-now").endswith("of 1,024")
        assert "tokens" in finished(page)
    assert page.inner_text(".given") == "one two <b>three</b>", "what was typed is text, not markup"
    assert page.locator(".answer b").count() == 0
    assert page.hosts == {double.address.split("/")[2]}, "nothing is asked of another host"


def test_log_probabilities_are_on_the_tokens(visit, double):
    page = live(visit(double.address))
    page.click("#send")
    finished(page)
    assert page.locator(".tok").count() > 5
    classes = page.eval_on_selector_all(".tok", "all => all.map(t => t.className)")
    assert set(classes) == {"tok open"}, "the fake's tokens all have between 10 and 50 %"
    seen = []
    for number in range(5):  # where bytes of one character are told apart, their texts may be the same
        page.locator(".tok").nth(number).hover()
        assert page.locator("#token li.chosen").count() == 1
        seen.append(page.locator("#token li").count())
    assert 4 <= max(seen) <= 6, "the token and what was likely beside it"
    chosen = page.locator("#token li.chosen .share").inner_text()
    assert 20 < float(chosen.removesuffix(" %")) < 37, "e to the -1 and a little less"
    page.click(".sampling summary")
    page.uncheck("#logprobs")
    page.click("#send")
    until(page, "!document.querySelector('.tok')")
    finished(page)
    assert page.locator(".tok").count() == 0 and len(page.inner_text(".answer")) > 30


def test_a_chat_keeps_its_conversation(visit, double):
    page = live(visit(double.address))
    page.check('input[value="chat"]', force=True)
    sent: list[dict] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.post_data_json))
    for text in ("hello there", "and again"):
        page.fill("#prompt", text)
        page.click("#send")
        until(page, "document.querySelector('#send').disabled")
        until(page, "!document.querySelector('#send').disabled")
    assert [message["role"] for message in sent[1]["messages"]] == ["user", "assistant", "user"]
    assert sent[1]["top_logprobs"] == 5 and sent[1]["temperature"] == 0.7 and "top_p" not in sent[1]
    assert page.locator(".asked").all_inner_texts() == ["hello there", "and again"]
    page.click("#clear")
    assert page.inner_text("#answers") == ""


def test_errors_show_their_message_and_stop_stops(visit, double):
    page = live(visit(double.address, allowed=("400 (Bad Request)",)))
    page.click(".sampling summary")
    page.fill("#max_tokens", "5000")
    page.click("#send")
    page.wait_for_selector(".failure:not(:empty)")
    assert "maximum context length is 512 tokens" in page.inner_text("#failure")
    page.fill("#max_tokens", "300")
    page.click("#send")
    page.wait_for_selector(".tok")
    page.click("#stop-answer")
    until(page, "!document.querySelector('#send').disabled")
    assert page.inner_text("#figures").endswith("end: stopped") and page.inner_text("#failure") == ""
    until(page, "document.getElementById('batch-now').textContent.startsWith('0 ')")


def test_the_keyboard_alone_is_enough(visit, double):
    page = live(visit(double.address))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Control+A")
    page.keyboard.type("typed by hand")
    page.keyboard.press("Control+Enter")
    finished(page)
    for _ in range(12):
        if page.evaluate("document.activeElement.id") == "answers":
            break
        page.keyboard.press("Tab")
        focus = page.evaluate("(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle })()")
        assert focus == "solid", "whoever has the focus shows it"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "%" in page.inner_text("#token") and "else" in page.text_content("#token-said")
    until(page, "document.getElementById('batch-now').textContent.startsWith('0 ')")
    with load(double, (20, 200)):
        until(page, "document.getElementById('batch-now').textContent.startsWith('1 ')")
        page.wait_for_timeout(400)  # until it has been drawn
        page.focus("#timeline")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        said = page.text_content("#said")
        assert "state running" in said and "prompt 20 tokens" in said and "iteration" in said
        page.focus("#pause")
        page.keyboard.press("Space")
        assert page.get_attribute("#pause", "aria-pressed") == "true"
        page.wait_for_timeout(400)
        frozen = page.eval_on_selector("#timeline", "canvas => canvas.toDataURL()")
        page.wait_for_timeout(700)
        assert page.eval_on_selector("#timeline", "canvas => canvas.toDataURL()") == frozen


def test_the_table_tells_what_the_picture_shows(visit, double):
    with load(double, (7, 200)):
        page = live(visit(double.address))
        page.click("#table-box summary")
        page.wait_for_selector("#rows tr")
        cells = page.locator("#rows tr").first.locator("td").all_inner_texts()
        assert cells[1:3] == ["running", "7"] and cells[5].endswith("s")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(visit, double, scheme):
    """The contrast of all text to what is behind it: 4.5 to 1, as WCAG asks."""
    page = live(visit(double.address, color_scheme=scheme))
    page.click("#send")
    finished(page)
    poor, paper = page.evaluate(POOR_CONTRAST)
    assert poor == []
    assert (sum(map(int, paper.strip("rgb()").split(","))) < 200) == (scheme == "dark")


def test_a_phone_needs_no_scrolling_sideways(visit, double):
    with load(double, (40, 300), (9, 300)):
        page = live(visit(double.address, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True))
        page.click("#send")
        finished(page)
        page.locator("#timeline").tap(position={"x": 300, "y": 15})
        assert "state" in page.inner_text("#inspector")
        page.locator(".sampling summary").tap()
        page.locator("#table-box summary").tap()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        small = page.eval_on_selector_all("button", "all => all.filter(b => b.offsetHeight < 32).map(b => b.id)")
        assert [name for name in small if name] == []


def test_a_key_given_to_the_page_is_sent_with_every_request(visit, serving):
    """As where a proxy lets the page through, and nothing else."""
    with serving(engine=SETTINGS, executor_delay=0.01, api_key=KEY) as running:
        page = visit("about:blank", allowed=("401 (Unauthorized)",))
        key = {"authorization": f"Bearer {KEY}"}
        for path in ("/", "/page/*"):
            page.route(running.address + path, lambda route: route.continue_(headers={**route.request.headers, **key}))
        page.goto(running.address)
        page.wait_for_selector('[data-state="lost"]')
        assert page.inner_text("#state") == "the server wants an API key"
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        live(page)
        page.click("#send")
        finished(page)
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 1, ""]


def test_a_browser_that_was_asked_for_the_key_needs_no_other(visit, serving):
    with serving(engine=SETTINGS, executor_delay=0.01, api_key=KEY) as running:
        page = live(visit(running.address, http_credentials={"username": "any", "password": KEY}))
        assert not page.is_visible("#key-box")
        page.click("#send")
        finished(page)


def test_it_finds_the_server_again(visit, serving):
    gone = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
    with serving() as running:
        page = live(visit(running.address, allowed=gone))
    page.wait_for_selector('[data-state="lost"]')
    with serving(port=int(running.address.rsplit(":", 1)[1])):
        live(page)
