"""The prefix list of S3 is found by its exact name; the default security group is closed."""

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


GROUP = {"GroupIds": ["sg-1"]}
IN = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-1", "UserId": "123456789012"}]}]
OUT = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]


def closing(event: Callable, request_type: str = "Create") -> dict:
    return event(request_type, "sg-1", GroupId="sg-1") | {"ResourceType": "Custom::ClosedGroup"}


def test_every_rule_is_revoked(load: Callable, stub: Callable, event: Callable) -> None:
    ec2 = stub("ec2")
    found = {"SecurityGroups": [{"IpPermissions": IN, "IpPermissionsEgress": OUT}]}
    ec2.expect("describe_security_groups", found, **GROUP)
    ec2.expect("revoke_security_group_ingress", {}, GroupId="sg-1", IpPermissions=IN)
    ec2.expect("revoke_security_group_egress", {}, GroupId="sg-1", IpPermissions=OUT)
    assert load("prefix_list").on_event(closing(event), ec2.client) == ("sg-1", {})


def test_a_closed_group_stays_closed(load: Callable, stub: Callable, event: Callable) -> None:
    ec2 = stub("ec2")
    ec2.expect(
        "describe_security_groups",
        {"SecurityGroups": [{"IpPermissions": [], "IpPermissionsEgress": []}]},
        **GROUP,
    )
    assert load("prefix_list").on_event(closing(event, "Update"), ec2.client) == ("sg-1", {})


def test_a_permission_that_is_too_new_is_waited_for(load: Callable, stub: Callable, event: Callable) -> None:
    ec2, slept = stub("ec2"), []
    ec2.fail("describe_security_groups", "UnauthorizedOperation", **GROUP)
    found = {"SecurityGroups": [{"IpPermissions": [], "IpPermissionsEgress": OUT}]}
    ec2.expect("describe_security_groups", found, **GROUP)
    ec2.expect("revoke_security_group_egress", {}, GroupId="sg-1", IpPermissions=OUT)
    load("prefix_list").on_event(closing(event), ec2.client, slept.append)
    assert slept == [1]


def test_a_missing_permission_is_told(load: Callable, stub: Callable, event: Callable) -> None:
    module, ec2, slept = load("prefix_list"), stub("ec2"), []
    for _ in (*module.WAITS, None):
        ec2.fail("describe_security_groups", "UnauthorizedOperation", **GROUP)
    with pytest.raises(module.ClientError, match="UnauthorizedOperation"):
        module.on_event(closing(event), ec2.client, slept.append)
    assert sum(slept) < 20, "the function has 30 seconds"
