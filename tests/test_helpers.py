"""What the helpers of the tests promise."""

import shutil

import pytest

from tests.helpers.browser import find_browser


@pytest.fixture
def _no_browser(monkeypatch):
    monkeypatch.delenv("BROWSER_FOR_TESTS", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.usefixtures("_no_browser")
def test_without_a_browser_a_test_is_skipped_with_a_way_to_get_one(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="there is no browser"):
        find_browser()


@pytest.mark.usefixtures("_no_browser")
def test_in_continuous_integration_it_fails(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="there is no browser"):
        find_browser()


def test_a_browser_of_ones_choice(monkeypatch):
    monkeypatch.setenv("BROWSER_FOR_TESTS", "mine")
    assert find_browser() == "mine"
