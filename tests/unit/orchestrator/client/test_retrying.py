"""What is sent again, how often, and after how long."""

import httpx
import pytest

from orchestrator.client.retrying import Retrying
from orchestrator.errors import CallerError, InvalidRequest, RunFailure, ServiceFailed, TooManyRequests

REQUEST = httpx.Request("GET", "http://service")


def refusal(status: int, *, retry_after: str | None = None, body: object = None) -> httpx.HTTPStatusError:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    response = httpx.Response(status, headers=headers, json=body, request=REQUEST)
    return httpx.HTTPStatusError("refused", request=REQUEST, response=response)


def test_waits_double_up_to_a_limit_and_then_it_is_over():
    attempts = Retrying(max_retries=7, random=lambda: 1.0).attempts("http://service")
    waits = [attempts.wait_after(httpx.ReadError("gone")) for _ in range(7)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    with pytest.raises(ServiceFailed, match="http://service cannot be reached: gone") as caught:
        attempts.wait_after(httpx.ReadError("gone"))
    assert caught.value.is_retryable


def test_chance_takes_away_at_most_half_of_a_wait():
    attempts = Retrying(max_retries=1, random=lambda: 0.0).attempts("http://service")
    assert attempts.wait_after(httpx.ReadError("gone")) == 0.125


def test_success_starts_the_count_anew():
    attempts = Retrying(max_retries=1).attempts("http://service")
    for _ in range(5):
        attempts.wait_after(httpx.ReadError("gone"))
        attempts.succeeded()


def test_the_service_is_given_the_time_that_it_asks_for_and_a_little_more():
    attempts = Retrying(random=lambda: 1.0).attempts("http://service")
    assert attempts.wait_after(refusal(429, retry_after="3")) == pytest.approx(3.0625)
    assert attempts.wait_after(refusal(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")) == 0.5


def test_who_asks_for_too_much_patience_is_left_alone():
    body = {"error": {"code": "rate_limit_exceeded", "message": "the day's tokens are spent", "retry_after_s": 7200.0}}
    attempts = Retrying().attempts("http://service")
    with pytest.raises(TooManyRequests, match="spent") as caught:
        attempts.wait_after(refusal(429, retry_after="7200", body=body))
    assert caught.value.retry_after_s == 7200.0


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 500, 501])
def test_what_would_fail_again_is_not_sent_again(status: int):
    with pytest.raises(ServiceFailed) as caught:
        Retrying().attempts("http://service").wait_after(refusal(status))
    assert caught.value.status == status


@pytest.mark.parametrize("error", [httpx.ReadTimeout("late"), httpx.ReadError("gone"), refusal(502), refusal(504)])
def test_what_may_have_arrived_is_not_sent_again_if_twice_would_do_harm(error: httpx.HTTPError):
    assert Retrying().attempts("http://service").wait_after(error) > 0
    with pytest.raises(ServiceFailed):
        Retrying().attempts("http://service", is_repeatable=False).wait_after(error)


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), refusal(429), refusal(503)])
def test_what_was_not_taken_is_sent_again_whatever_it_is(error: httpx.HTTPError):
    assert Retrying().attempts("http://service", is_repeatable=False).wait_after(error) > 0


def test_a_redirect_is_an_error_that_says_where_it_leads():
    response = httpx.Response(307, headers={"location": "http://elsewhere/v1"}, request=REQUEST)
    with pytest.raises(InvalidRequest, match="'http://elsewhere/v1'") as caught:
        Retrying().attempts("http://service").wait_after(
            httpx.HTTPStatusError("moved", request=REQUEST, response=response)
        )
    assert caught.value.field == "base_url"


def test_what_the_service_says_becomes_the_error_it_was():
    body = {"error": {"code": "invalid_request", "message": "no", "type": "x", "param": "n", "field": "n", "value": 3}}
    with pytest.raises(InvalidRequest, match="no") as caught:
        Retrying().attempts("http://service").wait_after(refusal(400, body=body))
    assert caught.value.fields() == {"code": "invalid_request", "message": "no", "field": "n", "value": 3}


def test_fields_cannot_replace_what_every_error_has():
    body = {"error": {"code": "caller_error", "message": "no", "fields": 1, "__class__": 2, "args": 3, "with-dash": 4}}
    with pytest.raises(CallerError) as caught:
        Retrying().attempts("http://service").wait_after(refusal(400, body=body))
    assert caught.value.fields() == {"code": "caller_error", "message": "no"}


def test_a_page_of_a_proxy_is_quoted_in_short():
    response = httpx.Response(403, content=b"<h1>\n  no  way </h1>" + b"x" * 1000, request=REQUEST)
    with pytest.raises(ServiceFailed, match=r"status 403: <h1> no way </h1>x+$") as caught:
        Retrying().attempts("http://service").wait_after(
            httpx.HTTPStatusError("no", request=REQUEST, response=response)
        )
    assert len(str(caught.value)) < 300
    assert not caught.value.is_retryable


def test_an_unknown_code_is_the_callers_mistake_if_the_status_says_so():
    attempts = Retrying().attempts("http://service")
    for status, kind in ((404, CallerError), (500, RunFailure)):
        body = {"error": {"code": "from_the_future", "message": "what"}}
        with pytest.raises(kind, match="what"):
            attempts.wait_after(refusal(status, body=body))
