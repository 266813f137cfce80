"""CloudFormation resource types: the registry schema decides what is accepted and what replaces.

A type is a subclass of ``ResourceType`` (or of ``ApiResource``, for the many that are one create, update and
delete call). Registered here, it gets what CloudFormation gives each type: properties checked against the
schema of the registry (the copy that cfn-lint ships), an update in place or by replacement as the schema's
``createOnlyProperties`` say, stack tags, and a replacement refused when the custom name stays the same. Types
that the emulator itself provides are checked against their schemas too (hooks).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import jsonschema
import regex
from cfnlint.schema import ResourceNotFoundError
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from localaws.cloud import Cloud
from localaws.service import as_served

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """Where a resource is made: its stack, its logical id, and the cloud."""

    cloud: Cloud
    stack_name: str
    logical_id: str

    def name(self, limit: int = 64, lower: bool = False, separator: str = "-") -> str:
        """A name as CloudFormation makes one: stack, logical id, random suffix; at most ``limit`` long."""
        suffix = Cloud.new_id(length=12)
        stem = f"{self.stack_name}{separator}{self.logical_id}"
        stem = re.sub(r"[^A-Za-z0-9-]", separator, stem)[: limit - 13].rstrip("-")
        text = f"{stem}{separator}{suffix}"
        return text.lower() if lower else text

    def client(self, service: str) -> Any:
        """A boto3 client under which the stack works."""
        return self.cloud.client(service)


class ResourceType:
    """One CloudFormation type; ``Ref`` is the physical id that create returns, ``GetAtt`` its attributes."""

    type_name = ""
    #: tag property and shape, through which stack tags reach it: ("Tags", "list"), ("Tags", "map") or None
    tags: tuple[str, str] | None = ("Tags", "list")
    #: the property with the physical name, where a kept name forbids replacement
    name_property: str | None = None

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, Attributes]:
        """Make it. Raises any exception, whose text becomes the event's reason."""
        raise NotImplementedError

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> Attributes:
        """Change it in place (only properties that are not createOnly differ)."""
        raise NotImplementedError(f"{self.type_name} has no update in place")

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        """Remove it; what is gone already is success."""
        raise NotImplementedError


class ApiResource(ResourceType):
    """A type that is one API's create, update and delete.

    ``rename`` maps a property to the API's parameter where they differ; ``drop`` names properties that the
    calls do not take; ``attributes`` maps a GetAtt name to the member of the create answer (dotted), or is
    overridden as ``read``.
    """

    service = ""
    create_call = ""
    update_call = ""
    delete_call = ""
    #: parameter of update and delete that names the resource, and the property or "" for the physical id
    id_parameter = ""
    physical_id = ""  # dotted path in the create answer merged over the request
    rename: dict[str, str] = {}
    drop: tuple[str, ...] = ()
    lower_camel = False
    generated_name: str | None = None  # property that is given a generated name when absent
    name_limit = 63
    attributes: dict[str, str] = {}
    gone: tuple[str, ...] = ("ResourceNotFound", "ResourceNotFoundException", "ValidationException")

    def request(self, context: Context, props: dict[str, Any]) -> dict[str, Any]:
        """The create call's parameters."""
        out = {self.rename.get(k, k): v for k, v in props.items() if k not in self.drop}
        return {k[0].lower() + k[1:]: _lower_keys(v) for k, v in out.items()} if self.lower_camel else out

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, Attributes]:
        props = dict(props)
        if self.generated_name and not props.get(self.generated_name):
            props[self.generated_name] = context.name(self.name_limit)
        request = typed(self.service, self.create_call, self.request(context, props))
        answer = getattr(context.client(self.service), self.create_call)(**request)
        return str(dig({**request, **answer}, self.physical_id)), self.read(
            {**props, **request, **answer}, context
        )

    def read(self, answer: dict[str, Any], context: Context) -> Attributes:
        """GetAtt values from the create answer merged over request and properties."""
        return {
            name: dig(answer, path) for name, path in self.attributes.items() if dig(answer, path) is not None
        }

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> Attributes:
        if not self.update_call:
            raise NotImplementedError(f"{self.type_name} has no update in place")
        request = self.request(context, new)
        members = (
            context.client(self.service)
            .meta.service_model.operation_model(
                context.client(self.service).meta.method_to_api_mapping[self.update_call]
            )
            .input_shape.members
        )
        request = {k: v for k, v in request.items() if k in members}
        request[self.id_parameter] = physical_id
        getattr(context.client(self.service), self.update_call)(
            **typed(self.service, self.update_call, request)
        )
        return {}

    def delete(self, context: Context, physical_id: str, props: dict[str, Any]) -> None:
        client = context.client(self.service)
        try:
            getattr(client, self.delete_call)(**{self.id_parameter: physical_id})
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in self.gone:
                raise


def dig(value: Any, path: str) -> Any:
    """The member at a dotted path, None when a part is missing."""
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _lower_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {k[0].lower() + k[1:]: _lower_keys(v) for k, v in value.items()}
    return [_lower_keys(v) for v in value] if isinstance(value, list) else value


def typed(service: str, call: str, request: dict[str, Any]) -> dict[str, Any]:
    """The request with template scalars ("5", "true") as the types that the API's model wants."""
    from botocore import xform_name

    from localaws.service import model

    names = {xform_name(n): n for n in model(service).operation_names}
    shape = model(service).operation_model(names[call]).input_shape
    return _typed(shape, request) if shape else request


def _typed(shape: Any, value: Any) -> Any:
    if shape.type_name == "structure" and isinstance(value, dict):
        return {k: _typed(shape.members[k], v) if k in shape.members else v for k, v in value.items()}
    if shape.type_name == "list" and isinstance(value, list):
        return [_typed(shape.member, v) for v in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {k: _typed(shape.value, v) for k, v in value.items()}
    if shape.type_name in ("integer", "long") and isinstance(value, str | float):
        return int(value)
    if shape.type_name in ("float", "double") and isinstance(value, str):
        return float(value)
    if shape.type_name == "boolean" and isinstance(value, str):
        return value.lower() == "true"
    if shape.type_name == "string" and isinstance(value, bool):
        return "true" if value else "false"
    if shape.type_name == "string" and isinstance(value, int | float):
        return str(value)
    return value


# -- the registry's schemas ------------------------------------------------------------------------------
@functools.cache
def schema(type_name: str, region: str = "us-east-1") -> dict[str, Any] | None:
    """The registry schema of a type, None for a type that the region does not have."""
    try:
        return PROVIDER_SCHEMA_MANAGER.get_resource_schema(region, type_name).schema
    except ResourceNotFoundError:
        return None


def without_system_tags(type_name: str, props: dict[str, Any]) -> dict[str, Any]:
    """Properties without the stack's ``aws:`` tags, for a type that CloudFormation does not give them to."""
    tagging = (schema(type_name) or {}).get("tagging") or {}
    member = tagging.get("tagProperty", "").removeprefix("/properties/")
    tags = props.get(member)
    if tagging.get("cloudFormationSystemTags", True) or not isinstance(tags, list):
        return props
    kept = [t for t in tags if not str(t.get("Key", "")).startswith("aws:")]
    return {**props, member: kept} if kept else {k: v for k, v in props.items() if k != member}


def create_only(type_name: str) -> list[list[str]]:
    """Paths of the properties whose change replaces the resource."""
    found = schema(type_name) or {}
    return [p.removeprefix("/properties/").split("/") for p in found.get("createOnlyProperties", [])]


def replaces(type_name: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The createOnly properties that differ."""
    changed = []
    for path in create_only(type_name):
        before, after = (_reach(props, path) for props in (old, new))
        if before != after:
            changed.append(".".join(path))
    return changed


def _reach(value: Any, path: list[str]) -> Any:
    for part in path:
        if part == "*":
            return value
        value = value.get(part) if isinstance(value, dict) else None
    return value


def findings(type_name: str, props: dict[str, Any]) -> list[str]:
    """Each way in which resolved properties break the type's schema, as CloudFormation words it."""
    found = schema(type_name)
    if found is None:
        return []
    settable = {
        *found.get("createOnlyProperties", []),
        *found.get("writeOnlyProperties", []),
    }  # a few schemas name one in both lists
    read_only = [
        p.removeprefix("/properties/") for p in found.get("readOnlyProperties", []) if p not in settable
    ]
    out = [
        f"#: extraneous key [{p}] is not permitted (read only)"
        for p in read_only
        if "/" not in p and p in props
    ]
    for error in _validator(type_name).iter_errors(props):
        path = "".join(f"/{p}" for p in error.absolute_path)
        out.append(f"#{path}: {_words(error)}")
    return out


def _words(error: jsonschema.ValidationError) -> str:
    if error.validator == "additionalProperties":
        extra = sorted(set(error.instance) - set(error.schema.get("properties", {})))
        return f"extraneous key [{', '.join(extra)}] is not permitted"
    if error.validator == "required":
        missing = [k for k in error.validator_value if k not in error.instance]
        return f"required key [{', '.join(missing)}] not found"
    return error.message if len(error.message) < 400 else error.message[:400] + "…"


@functools.cache
def _validator(type_name: str) -> Any:
    return _Lenient(_readable(schema(type_name)))


def _readable(value: Any) -> Any:
    """The schema with ``patternProperties`` keys that Python's ``re`` reads (it has no ``\\p`` classes)."""
    if isinstance(value, dict):
        out = {k: _readable(v) for k, v in value.items()}
        if isinstance(out.get("patternProperties"), dict):
            out["patternProperties"] = {_plain(k): v for k, v in out["patternProperties"].items()}
        return out
    return [_readable(v) for v in value] if isinstance(value, list) else value


def _plain(pattern: str) -> str:
    for class_name, plain in {
        "L": r"\w",
        "Z": r"\s",
        "N": r"\d",
        "P": r"!-/:-@",
        "S": r"$+<=>^`|~",
        "M": r"\w",
    }.items():
        pattern = pattern.replace(rf"\p{{{class_name}}}", plain)
    return pattern


def _pattern(validator: Any, wanted: str, instance: Any, found: dict) -> Any:
    if isinstance(instance, str):
        try:
            matched = regex.search(wanted, as_served(instance))
        except regex.error:  # a few registry patterns are written for Java
            return
        if not matched:
            yield jsonschema.ValidationError(
                f"failed validation constraint for keyword [pattern]: {instance!r} does not match {wanted}"
            )


def _is_integer(_: Any, value: Any) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        or isinstance(value, str)
        and value.lstrip("-").isdigit()
    )


def _is_number(_: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


#: CloudFormation reads scalars of templates by the type that is wanted: "5" is an integer, "true" a boolean
_TYPES = jsonschema.Draft7Validator.TYPE_CHECKER.redefine_many(
    {
        "integer": _is_integer,
        "number": _is_number,
        "boolean": lambda _, v: isinstance(v, bool) or v in ("true", "false", "True", "False"),
        "string": lambda _, v: isinstance(v, str | int | float | bool),
    }
)
_Base = jsonschema.validators.extend(
    jsonschema.Draft7Validator, {"pattern": _pattern, "format": lambda *_: ()}, type_checker=_TYPES
)


def _numeric(keyword: str) -> Any:
    original = jsonschema.Draft7Validator.VALIDATORS[keyword]

    def run(validator: Any, limit: Any, instance: Any, found: dict) -> Any:
        if _is_number(None, instance):
            yield from original(validator, limit, float(instance), found)

    return run


def _enum(validator: Any, allowed: list, instance: Any, found: dict) -> Any:
    texts = {str(a).lower() if isinstance(a, bool) else str(a) for a in allowed}
    if (str(instance).lower() if isinstance(instance, bool) else str(instance)) not in texts:
        yield jsonschema.ValidationError(
            f"{instance!r} is not a valid enum value; allowed: {', '.join(sorted(texts))}"
        )


_Lenient = jsonschema.validators.extend(
    _Base,
    {"minimum": _numeric("minimum"), "maximum": _numeric("maximum"), "enum": _enum},
    type_checker=_TYPES,
)
