"""The bidder's settings refuse what cannot work."""

import pytest

from bidder.config import BidderConfig
from dsp.kernel import config
from dsp.kernel.errors import ConfigError


def test_defaults_hold() -> None:
    assert BidderConfig().bid_port == 8080


def test_notices_are_sent_to_where_the_port_is_unless_told_otherwise() -> None:
    assert BidderConfig().notice_url == "http://127.0.0.1:8081"
    assert BidderConfig(host="2001:db8::1", notice_port=9001).notice_url == "http://[2001:db8::1]:9001"
    assert BidderConfig(host="::", notice_base_url="https://n.example").notice_url == "https://n.example"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DSP_BIDDER_BID_PORT", "70000"),
        ("DSP_BIDDER_BID_PORT", "8081"),  # the notice port's
        ("DSP_BIDDER_REQUEST_SAMPLE_RATE", "1.5"),
        ("DSP_BIDDER_CANDIDATES_MAX", "0"),
        ("DSP_BIDDER_OUTBOX_NOTICES_MAX", "-1"),
        ("DSP_BIDDER_NOTICE_BASE_URL", "ftp://elsewhere"),
        ("DSP_BIDDER_HOLDER", ""),
        ("DSP_BIDDER_USER_EXPOSURES_MAX", "999"),  # a cap may be higher
        ("DSP_BIDDER_EXPOSURES_MAX", "999"),
        ("DSP_BIDDER_USER_TIMEOUT_MS", "0"),
        ("DSP_BIDDER_LOOP_NICE", "1"),
        ("DSP_BIDDER_LOOP_NICE", "-21"),
        ("DSP_BIDDER_USER_ABSENT_POLICY", "perhaps"),
        ("DSP_BIDDER_USER_UNIDENTIFIED_POLICY", ""),
        ("DSP_BIDDER_PREDICT_PROVIDER", "tpu"),
        ("DSP_BIDDER_PREDICT_BATCHING", "often"),
        ("DSP_BIDDER_PREDICT_BATCH_WAIT_MS", "0"),
        ("DSP_BIDDER_PREDICT_BATCH_ROWS_MAX", "31"),  # a bundle's golden rows must fit
        ("DSP_BIDDER_PREDICT_QUEUE_ROWS_MAX", "1023"),  # less than one batch
        ("DSP_BIDDER_CANDIDATES_MAX", "1025"),  # more than one batch
        ("DSP_BIDDER_NO_SUCH_FIELD", "1"),
    ],
)
def test_refuses(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load({"bidder": BidderConfig}, None, {name: value})
    assert refused.value.faults


def test_ports_of_zero_may_repeat() -> None:
    BidderConfig(bid_port=0, notice_port=0, admin_port=0)
