"""Apps go before spaces, spaces before profiles; somebody else's are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

DOMAIN = {"DomainId": "d-1"}
LIST = {"DomainIdEquals": "d-1"}


def app(name: str, space: str = "", profile: str = "", status: str = "InService") -> dict[str, Any]:
    owner = {"SpaceName": space} if space else {"UserProfileName": profile}
    return {"DomainId": "d-1", "AppType": "JupyterLab", "AppName": name, "Status": status, **owner}


def space(name: str, owner: str) -> dict[str, Any]:
    return {"DomainId": "d-1", "SpaceName": name, "OwnershipSettingsSummary": {"OwnerUserProfileName": owner}}


@pytest.mark.parametrize(("profile", "identity"), [(None, "d-1/*"), ("ann", "d-1/ann")])
def test_create_and_update_only_note_what_is_guarded(
    profile: str | None, identity: str, load: Callable, stub: Callable, event: Callable
) -> None:
    properties = DOMAIN | ({"UserProfileName": profile} if profile else {})
    for request in ("Create", "Update"):
        assert load("studio_cleanup").on_event(
            event(request, "x", **properties), stub("sagemaker").client
        ) == (identity, {})


def test_profile_loses_its_apps_and_spaces_only(load: Callable, stub: Callable, event: Callable) -> None:
    sagemaker, slept = stub("sagemaker"), []
    sagemaker.expect("list_spaces", {"Spaces": [space("ann-lab", "ann"), space("bob-lab", "bob")]}, **LIST)
    apps = [
        app("a", space="ann-lab"),
        app("b", space="bob-lab"),
        app("old", profile="ann"),
        app("gone", "ann-lab", status="Deleted"),
    ]
    sagemaker.expect("list_apps", {"Apps": apps}, **LIST)
    sagemaker.expect("delete_app", None, **DOMAIN, AppType="JupyterLab", AppName="a", SpaceName="ann-lab")
    sagemaker.expect("delete_app", None, **DOMAIN, AppType="JupyterLab", AppName="old", UserProfileName="ann")
    sagemaker.expect("list_apps", {"Apps": [app("a", space="ann-lab", status="Deleting")]}, **LIST)
    sagemaker.expect("list_apps", {"Apps": [app("b", space="bob-lab")]}, **LIST)
    sagemaker.expect("delete_space", None, **DOMAIN, SpaceName="ann-lab")
    sagemaker.expect("list_spaces", {"Spaces": [space("ann-lab", "ann"), space("bob-lab", "bob")]}, **LIST)
    sagemaker.expect("list_spaces", {"Spaces": [space("bob-lab", "bob")]}, **LIST)
    answer = load("studio_cleanup").on_event(
        event("Delete", "d-1/ann", **DOMAIN, UserProfileName="ann"),
        sagemaker.client,
        lambda: 800,
        slept.append,
    )
    assert answer == ("d-1/ann", {})
    assert len(slept) == 2


def test_domain_loses_profiles_made_by_hand(load: Callable, stub: Callable, event: Callable) -> None:
    sagemaker = stub("sagemaker")
    profiles = {"UserProfiles": [{"UserProfileName": "byhand"}]}
    sagemaker.expect("list_user_profiles", profiles, **LIST)
    sagemaker.expect(
        "describe_user_profile", {"UserProfileArn": "arn:profile"}, **DOMAIN, UserProfileName="byhand"
    )
    sagemaker.expect("list_tags", {"Tags": [{"Key": "team", "Value": "x"}]}, ResourceArn="arn:profile")
    sagemaker.expect("list_spaces", {"Spaces": []}, **LIST)
    sagemaker.expect("list_apps", {"Apps": []}, **LIST)
    sagemaker.expect("list_apps", {"Apps": []}, **LIST)
    sagemaker.expect("list_spaces", {"Spaces": []}, **LIST)
    sagemaker.expect("list_user_profiles", profiles, **LIST)
    sagemaker.expect("delete_user_profile", None, **DOMAIN, UserProfileName="byhand")
    sagemaker.expect("list_user_profiles", {"UserProfiles": []}, **LIST)
    assert load("studio_cleanup").on_event(event("Delete", "d-1/*", **DOMAIN), sagemaker.client) == (
        "d-1/*",
        {},
    )


def test_domain_is_not_cleared_while_a_project_has_users(
    load: Callable, stub: Callable, event: Callable
) -> None:
    module, sagemaker = load("studio_cleanup"), stub("sagemaker")
    sagemaker.expect("list_user_profiles", {"UserProfiles": [{"UserProfileName": "ann"}]}, **LIST)
    sagemaker.expect(
        "describe_user_profile", {"UserProfileArn": "arn:profile"}, **DOMAIN, UserProfileName="ann"
    )
    sagemaker.expect(
        "list_tags", {"Tags": [{"Key": "sagemaker:project-id", "Value": "p-1"}]}, ResourceArn="arn:profile"
    )
    with pytest.raises(module.ProjectHasUsers, match="profile ann belongs to project p-1"):
        module.on_event(event("Delete", "d-1/*", **DOMAIN), sagemaker.client)


def test_time_runs_out_with_a_name(load: Callable, stub: Callable, event: Callable) -> None:
    module, sagemaker = load("studio_cleanup"), stub("sagemaker")
    sagemaker.expect("list_spaces", {"Spaces": []}, **LIST)
    deleting = {"Apps": [app("slow", profile="ann", status="Deleting")]}
    sagemaker.expect("list_apps", deleting, **LIST).expect("list_apps", deleting, **LIST)
    with pytest.raises(module.StillThere, match="apps slow are still being deleted"):
        module.on_event(event("Delete", "d-1/ann", **DOMAIN), sagemaker.client, lambda: 5, lambda _: None)


def test_unknown_domain_is_success(load: Callable, stub: Callable, event: Callable) -> None:
    sagemaker = stub("sagemaker").fail("list_user_profiles", "ResourceNotFound", "no domain", **LIST)
    assert load("studio_cleanup").on_event(event("Delete", "d-1/*", **DOMAIN), sagemaker.client) == (
        "d-1/*",
        {},
    )


def test_other_errors_are_raised(load: Callable, stub: Callable, event: Callable) -> None:
    sagemaker = stub("sagemaker").fail("list_user_profiles", "AccessDeniedException", "no", **LIST)
    with pytest.raises(sagemaker.client.exceptions.ClientError, match="AccessDenied"):
        load("studio_cleanup").on_event(event("Delete", "d-1/*", **DOMAIN), sagemaker.client)


def test_failed_create_is_deleted_without_a_call(load: Callable, stub: Callable, event: Callable) -> None:
    assert load("studio_cleanup").on_event(event("Delete", "r-1", **DOMAIN), stub("sagemaker").client) == (
        "r-1",
        {},
    )
