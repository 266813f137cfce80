"""The prefix list of S3 is found by its exact name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SERVICE = "com.amazonaws.us-east-1.s3"
FILTER = {"Filters": [{"Name": "prefix-list-name", "Values": [SERVICE]}]}


@pytest.mark.parametrize("request_type", ["Create", "Update"])
def test_id_is_returned_from_a_later_page(
    request_type: str, load: Callable, stub: Callable, event: Callable
) -> None:
    ec2 = stub("ec2")
    ec2.expect("describe_managed_prefix_lists", {"PrefixLists": [], "NextToken": "more"}, **FILTER)
    found = {"PrefixLists": [{"PrefixListId": "pl-1", "PrefixListName": SERVICE}]}
    ec2.expect("describe_managed_prefix_lists", found, **FILTER, NextToken="more")
    answer = load("prefix_list").on_event(event(request_type, "pl-0", ServiceName=SERVICE), ec2.client)
    assert answer == ("pl-1", {"PrefixListId": "pl-1"})


def test_unknown_service_is_named(load: Callable, stub: Callable, event: Callable) -> None:
    module, ec2 = load("prefix_list"), stub("ec2")
    other = {"PrefixLists": [{"PrefixListId": "pl-2", "PrefixListName": SERVICE + "express"}]}
    ec2.expect("describe_managed_prefix_lists", other, **FILTER)
    with pytest.raises(module.UnknownPrefixList, match=SERVICE):
        module.on_event(event("Create", ServiceName=SERVICE), ec2.client)


def test_delete_asks_nothing(load: Callable, stub: Callable, event: Callable) -> None:
    assert load("prefix_list").on_event(event("Delete", "pl-1", ServiceName=SERVICE), stub("ec2").client) == (
        "pl-1",
        {},
    )
