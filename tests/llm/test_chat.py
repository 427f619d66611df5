"""Teachers over HTTP: what an answer holds, what is tried again, what stops a run, and what is never sent or shown."""

import asyncio
import base64
import gzip
import io
import json
import zlib

import pytest
from chat_server import ChatServer, Reply, completion, text_of
from PIL import Image

from rivegs_mllm.llm.client import (
    ChatClient,
    OpenAIChat,
    RetryPolicy,
    Sampling,
    TeacherError,
    answer_key,
    question_digest,
)
from rivegs_mllm.types import UserError

QUICK = RetryPolicy(attempts=3, seconds=5, first_wait=0.01, last_wait=0.02)
HELLO = [{"role": "user", "content": "hello"}]


def ask(server: ChatServer, *questions, policy: RetryPolicy = QUICK, max_concurrency: int = 8, **settings):
    chat = OpenAIChat(model="made", base_url=server.url, **{"api_key_env": None, "timeout": 5.0, **settings})
    with ChatClient(chat, Sampling(max_tokens=32), max_concurrency, policy) as asker:
        return asker(questions or [HELLO])


def test_answer_and_request():
    with ChatServer(lambda request, _: completion("hi there", prompt_tokens=7, completion_tokens=2)) as server:
        answer = ask(server)[0]
    assert (answer.text, answer.finish_reason, answer.error) == ("hi there", "stop", "")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.model, answer.attempts) == (7, 2, "made-1", 1)
    assert answer.latency > 0
    sent = server.requests[0]
    assert sent["messages"] == HELLO
    assert {name: sent[name] for name in ("model", "temperature", "max_tokens", "seed")} == {
        "model": "made",
        "temperature": 0.0,
        "max_tokens": 32,
        "seed": 0,
    }


def test_answers_come_in_order_within_the_limit():
    questions = [[{"role": "user", "content": str(number)}] for number in range(40)]

    def reply(request, number):
        answer = completion(text_of(request))
        answer.delay = 0.02 if number % 3 else 0.05
        return answer

    with ChatServer(reply) as server:
        answers = ask(server, *questions, max_concurrency=7)
    assert [answer.text for answer in answers] == [str(number) for number in range(40)]
    assert server.most == 7


def test_picture_goes_as_a_data_url_upright_and_small_enough(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (400, 100), "red").save(tmp_path / "side.jpg", exif=exif)
    parts = [{"type": "image", "path": str(tmp_path / "side.jpg")}, {"type": "text", "text": "what?"}]
    with ChatServer(lambda *_: completion("red")) as server:
        ask(server, [{"role": "user", "content": parts}], max_side=200)
    sent = server.requests[0]["messages"][0]["content"]
    head, data = sent[0]["image_url"]["url"].split(",")
    assert (sent[0]["type"], head, sent[1]) == ("image_url", "data:image/jpeg;base64", parts[1])
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (50, 200)


def test_another_picture_under_the_same_name_is_sent(tmp_path):
    picture = tmp_path / "a.png"
    question = [{"role": "user", "content": [{"type": "image", "path": str(picture)}]}]
    with ChatServer(lambda *_: completion("seen")) as server:
        for side in (8, 9):
            Image.new("RGB", (side, side), "red").save(picture)
            ask(server, question)
    sent = [request["messages"][0]["content"][0]["image_url"]["url"].split(",")[1] for request in server.requests]
    assert [Image.open(io.BytesIO(base64.b64decode(data))).size for data in sent] == [(8, 8), (9, 9)]


def test_picture_that_is_missing_is_the_questions_own_error(tmp_path):
    parts = [{"type": "image", "path": str(tmp_path / "none.jpg")}, {"type": "text", "text": "what?"}]
    with ChatServer(lambda *_: completion("red")) as server:
        answer = ask(server, [{"role": "user", "content": parts}])[0]
    assert "none.jpg" in answer.error
    assert server.count == 0


BROKEN = {
    "429": Reply(429, b'{"error": {"message": "slow down"}}'),
    "500": Reply(500, b"oops"),
    "503 in HTML": Reply(503, b"<html><body>Bad gateway</body></html>", {"content-type": "text/html"}),
    "dropped": Reply(body=None),
    "cut off": Reply(body=completion("half of it").body, cut=True),
    "HTML": Reply(body=b"<html>captive portal</html>", headers={"content-type": "text/html"}),
    "garbage": Reply(body=b"\x00\xff\xfe{]"),
    "no choices": Reply(body=b'{"choices": []}'),
    "text is a list": Reply(body=b'{"choices": [{"message": {"content": [1]}}]}'),
    "not even an object": Reply(body=b"3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_tried_again_until_it_is_answered(name):
    with ChatServer(lambda _, number: BROKEN[name] if number < 3 else completion("at last")) as server:
        answer = ask(server)[0]
    assert (answer.text, answer.error, answer.attempts, server.count) == ("at last", "", 3, 3)


@pytest.mark.parametrize("name", BROKEN)
def test_given_up_with_its_reason(name):
    with ChatServer(lambda *_: BROKEN[name]) as server:
        answer = ask(server)[0]
    assert server.count == answer.attempts == 3
    assert answer.text == ""
    assert answer.error


def test_timeout_is_tried_again_even_where_the_answer_trickles():
    slow = completion("slow")
    slow.delay = 2.0
    with ChatServer(lambda _, number: slow if number == 1 else completion("quick")) as server:
        answer = ask(server, timeout=0.3)[0]
    assert (answer.text, answer.attempts) == ("quick", 2)


def test_asked_wait_is_kept_and_the_budget_too():
    later = Reply(429, b"{}", {"retry-after": "0.4"})
    with ChatServer(lambda _, number: later if number == 1 else completion("now")) as server:
        start = asyncio.new_event_loop().time()
        assert ask(server)[0].text == "now"
        assert asyncio.new_event_loop().time() - start >= 0.4
    much_later = Reply(429, b"{}", {"retry-after": "3600"})
    with ChatServer(lambda *_: much_later) as server:
        answer = ask(server)[0]
        assert (server.count, answer.retryable) == (1, True), "an hour is past the budget of 5 seconds"


def test_bad_request_is_not_tried_again():
    with ChatServer(lambda *_: Reply(400, b'{"error": {"message": "too long"}}')) as server:
        answer = ask(server)[0]
    assert server.count == 1
    assert "too long" in answer.error


def test_endless_answer_is_cut_off():
    endless = completion("x" * 10_000_000)
    with ChatServer(lambda *_: endless) as server:
        answer = ask(server)[0]
    assert server.count == 1
    assert "longer than" in answer.error
    assert len(answer.error) < 500


@pytest.mark.parametrize(
    ("reply", "cure"),
    [
        (Reply(401, b'{"error": {"message": "Incorrect API key provided: sekret-1234"}}'), "MADE_KEY"),
        (Reply(404, b'{"error": {"message": "The model made does not exist"}}'), "teacher.model"),
        (Reply(429, b'{"error": {"message": "pay", "code": "insufficient_quota"}}'), "no credit"),
    ],
)
def test_what_no_question_can_pass_stops_at_once(reply, cure, monkeypatch):
    monkeypatch.setenv("MADE_KEY", "sekret-1234")
    with ChatServer(lambda *_: reply) as server, pytest.raises(TeacherError, match=cure) as error:
        ask(server, api_key_env="MADE_KEY")
    assert server.count == 1
    assert "sekret-1234" not in str(error.value)
    assert server.headers[0]["authorization"] == "bearer sekret-1234"


def test_no_server_at_all():
    answer = ask(type("Nowhere", (), {"url": "http://127.0.0.1:9/v1"}))[0]
    assert answer.attempts == 3
    assert "connection failed" in answer.error


def test_no_key_and_no_password_of_netrc_is_sent(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password sekret")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with ChatServer(lambda *_: completion("hi")) as server:
        assert ask(server)[0].text == "hi"
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(("left_out", "through"), [("", 1), ("teacher.invalid", 0)])
def test_the_proxy_of_the_environment_is_taken(monkeypatch, left_out, through):
    with ChatServer(lambda *_: completion("by the proxy")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", left_out)
        nowhere = type("Nowhere", (), {"url": "http://teacher.invalid/v1"})
        answer = ask(nowhere, policy=RetryPolicy(attempts=1))[0]
    assert proxy.count == through
    assert (answer.text == "by the proxy") == bool(through)


def test_compressed_answers_are_read():
    body = completion("packed").body
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        reply = Reply(200, packed, {"content-encoding": encoding})
        with ChatServer(lambda *_, reply=reply: reply) as server:
            assert ask(server)[0].text == "packed"


def test_refusal_is_an_answer_with_its_own_reason():
    choice = {"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}
    with ChatServer(lambda *_: Reply(body=json.dumps({"choices": [choice]}).encode())) as server:
        answer = ask(server)[0]
    assert (answer.text, answer.finish_reason, answer.prompt_tokens) == ("I cannot", "refusal", None)


def test_key_comes_from_the_environment_alone(monkeypatch):
    monkeypatch.delenv("MADE_KEY", raising=False)
    with pytest.raises(UserError, match="MADE_KEY"):
        OpenAIChat(model="made", api_key_env="MADE_KEY").open(Sampling())
    for address in ("http://me:word@host/v1", "http://host/v1?key=1", "host:80", "ftp://host"):
        with pytest.raises(UserError, match="base_url"):
            OpenAIChat(model="made", base_url=address, api_key_env=None).open(Sampling())


def test_digest_is_of_contents_and_key_of_everything(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())

    def digest(name, text="what?"):
        parts = [{"type": "image", "path": str(tmp_path / name)}, {"type": "text", "text": text}]
        return question_digest([{"role": "user", "content": parts}])

    before = digest("a.png")
    assert before == digest("b.png") != digest("a.png", "what ?")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "a.png")
    assert digest("a.png") != before
    chats = [OpenAIChat("m"), OpenAIChat("m", revision="2"), OpenAIChat("n"), OpenAIChat("m", extra={"top_k": 1})]
    keys = {answer_key(chat.identity, Sampling(), before) for chat in chats}
    keys |= {
        answer_key(chats[0].identity, Sampling(temperature=1.0), before),
        answer_key(chats[0].identity, Sampling(), "x"),
    }
    assert len(keys) == 6
    elsewhere = OpenAIChat("m", base_url="http://elsewhere/v1", timeout=1)
    assert answer_key(elsewhere.identity, Sampling(), before) in keys, "where it is served does not matter"
