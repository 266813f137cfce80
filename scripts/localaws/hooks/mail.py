"""SNS: e-mail subscriptions, their confirmation, and the outbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from localaws import clock

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "mail": (
        "ministack.services.sns:_fanout",
        "ministack.services.sns:_subscribe",
        "ministack.services.sns:_topics",
        "ministack.services.sns:_topic_by_arn_any_scope",
        "ministack.services.sns:_resolve_message_for_protocol",
    ),
    "topics": (
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
        "ministack.services.sns:_topics",
    ),
}


def keep_topics() -> None:
    """Give a stack's topic the key that encrypts it (ministack leaves it out: nobody would need the key)."""
    from ministack.services import sns
    from ministack.services.cloudformation import provisioners

    handler = provisioners._RESOURCE_HANDLERS["AWS::SNS::Topic"]
    create, update = handler["create"], handler["update"]

    def keyed(answer: tuple[str, dict], props: dict) -> tuple[str, dict]:
        attributes = sns._topics[answer[0]]["attributes"]
        attributes.pop("KmsMasterKeyId", None)
        if key := props.get("KmsMasterKeyId"):
            attributes["KmsMasterKeyId"] = key
        return answer

    handler["create"] = lambda logical_id, props, stack: keyed(create(logical_id, props, stack), props)
    handler["update"] = lambda physical_id, old, new, *rest, **named: keyed(
        update(physical_id, old, new, *rest, **named), new
    )


def keep_mail(cloud: Cloud) -> None:
    """Keep what SNS would send by e-mail in the cloud's outbox.

    As on AWS, an address first gets a mail that asks for confirmation, and nothing else before its link was
    followed.
    """
    from ministack.services import sns
    from ministack.services.cloudformation import provisioners

    fan_out, subscribe = sns._fanout, sns._subscribe

    def ask() -> None:
        for topic in list(sns._topics._data.values()):
            for one in topic["subscriptions"]:
                if one.get("protocol") in ("email", "email-json") and "asked" not in one:
                    one.update(asked=True, confirmed=False, token=cloud.new_id(length=32))
                    one.setdefault("attributes", {})["PendingConfirmation"] = "true"
                    query = {"Action": "ConfirmSubscription", "TopicArn": topic["arn"], "Token": one["token"]}
                    post(
                        topic["arn"],
                        one["endpoint"],
                        "AWS Notification - Subscription Confirmation",
                        f"You have chosen to subscribe to the topic:\n{topic['arn']}\n\nTo confirm this "
                        f"subscription, follow the link:\n{cloud.endpoint}/?{urlencode(query)}\n",
                    )

    def post(topic_arn: str, to: str, subject: str, body: str) -> None:
        cloud.outbox.append(
            {"to": to, "subject": subject, "body": body, "topic": topic_arn, "at": clock.now().isoformat()}
        )

    def fanout(topic_arn: str, msg_id: str, message: str, subject: str, *rest: Any, **named: Any) -> Any:
        ask()
        topic = sns._topic_by_arn_any_scope(topic_arn)
        structure = rest[0] if rest else named.get("message_structure", "")
        for one in (topic or {}).get("subscriptions", []):
            if one.get("protocol") in ("email", "email-json") and one.get("confirmed"):
                body = sns._resolve_message_for_protocol(message, structure, one["protocol"])
                post(topic_arn, one["endpoint"], subject or "AWS Notification Message", body)
        return fan_out(topic_arn, msg_id, message, subject, *rest, **named)

    def then_ask(function: Callable) -> Callable:
        def run(*arguments: Any, **named: Any) -> Any:
            answer = function(*arguments, **named)
            ask()
            return answer

        return run

    sns._fanout = fanout
    sns._subscribe = then_ask(subscribe)
    for name in ("AWS::SNS::Topic", "AWS::SNS::Subscription"):
        handler = provisioners._RESOURCE_HANDLERS[name]
        for step in ("create", "update"):
            if step in handler:
                handler[step] = then_ask(handler[step])
