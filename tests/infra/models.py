"""What Azure's own clients say about a resource: which properties it has, of which type, and which it must have.

Their models are generated from the same specifications as Bicep's types. They come in two kinds: older ones with an
`_attribute_map`, newer ones with a descriptor for each property.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tests.infra.bicep import Expression, Resource, Value

MODELS = {
    "Microsoft.Authorization/roleAssignments": "authorization.v2022_04_01.models.RoleAssignmentCreateParameters",
    "Microsoft.Authorization/roleDefinitions": "authorization.v2022_04_01.models.RoleDefinition",
    "Microsoft.EventGrid/systemTopics": "eventgrid.models.SystemTopic",
    "Microsoft.EventGrid/systemTopics/eventSubscriptions": "eventgrid.models.EventSubscription",
    "Microsoft.EventGrid/topics": "eventgrid.models.Topic",
    "Microsoft.EventGrid/topics/eventSubscriptions": "eventgrid.models.EventSubscription",
    "Microsoft.Insights/actionGroups": "monitor.v2023_01_01.models.ActionGroupResource",
    "Microsoft.Insights/components": "applicationinsights.v2020_02_02.models.ApplicationInsightsComponent",
    "Microsoft.Insights/diagnosticSettings": "monitor.v2021_05_01_preview.models.DiagnosticSettingsResource",
    "Microsoft.Insights/metricAlerts": "monitor.v2018_03_01.models.MetricAlertResource",
    "Microsoft.Insights/scheduledQueryRules": "monitor.v2022_08_01_preview.models.ScheduledQueryRuleResource",
    "Microsoft.KeyVault/vaults": "keyvault.models.VaultCreateOrUpdateParameters",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "msi.v2024_11_30.models.Identity",
    "Microsoft.Network/privateDnsZones": "privatedns.models.PrivateZone",
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": "privatedns.models.VirtualNetworkLink",
    "Microsoft.Network/privateEndpoints": "network.models.PrivateEndpoint",
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "network.models.PrivateDnsZoneGroup",
    "Microsoft.Network/virtualNetworks": "network.models.VirtualNetwork",
    "Microsoft.OperationalInsights/workspaces": "loganalytics.models.Workspace",
    "Microsoft.Storage/storageAccounts": "storage.models.StorageAccountCreateParameters",
    "Microsoft.Storage/storageAccounts/blobServices": "storage.models.BlobServiceProperties",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "storage.models.BlobContainer",
    "Microsoft.Web/serverfarms": "web.models.AppServicePlan",
    "Microsoft.Web/sites": "web.models.Site",
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": "web.models.CsmPublishingCredentialsPoliciesEntity",
    "Microsoft.Web/sites/config": "web.models.SiteAuthSettingsV2",
}
WITHOUT_MODEL = {
    # Of a client of its own, for the sake of two properties.
    "Microsoft.Resources/resourceGroups",
}
# Bicep's own, not the resource's.
_BICEP = {"name", "parent", "scope", "dependsOn"}


@dataclass(frozen=True, slots=True)
class Property:
    """`type` is a model, an Enum, or None for what is not looked into; `of` says whether of one, a list or a map."""

    type: type[Any] | None
    of: str
    is_required: bool
    is_read_only: bool


type Shape = dict[str, Property | Shape]


def complaints(resource: Resource) -> list[str]:
    """Return what Azure's models say against a resource; nothing for a type that has none."""
    if resource.type in WITHOUT_MODEL or resource.body.get("name") == "appsettings":
        return []
    module, _, name = f"azure.mgmt.{MODELS[resource.type]}".rpartition(".")
    model = getattr(importlib.import_module(module), name)
    body = {key: value for key, value in resource.body.items() if key not in _BICEP}
    return list(_of_model(body, model, resource.type))


def _of_model(value: dict[str, Value], model: type[Any], path: str) -> Iterator[str]:
    yield from _of_shape(value, _shape(_chosen(value, model)), path)


def _of_shape(value: dict[str, Value], shape: Shape, path: str) -> Iterator[str]:
    for key, member in value.items():
        known = shape.get(key)
        match known:
            case None:
                like = [name for name in shape if name.lower() == key.lower()]
                yield f"{path}.{key} does not exist" + (f", it is {like[0]}" if like else "")
            case Property():
                if known.is_read_only:
                    yield f"{path}.{key} is for reading only"
                yield from _of_property(member, known, f"{path}.{key}")
            case dict():
                for part in _sides(member):
                    if isinstance(part, dict):
                        yield from _of_shape(part, known, f"{path}.{key}")
    for key, known in shape.items():
        if isinstance(known, Property) and known.is_required and not known.is_read_only and key not in value:
            yield f"{path}.{key} is missing"


def _of_property(value: Value, known: Property, path: str) -> Iterator[str]:
    for side in _sides(value):
        members: list[Value] = [side]
        if known.of == "list" and not isinstance(side, Expression):
            if not isinstance(side, list):
                yield f"{path} is a list"
                continue
            members = side
        elif known.of == "map" and isinstance(side, dict):
            members = list(side.values())
        for member in members:
            for part in _sides(member):
                yield from _of_type(part, known.type, path)


def _of_type(value: Value, kind: type[Any] | None, path: str) -> Iterator[str]:
    if kind is None or value is None or isinstance(value, Expression):
        return
    if issubclass(kind, Enum):
        values = [str(member.value) for member in kind]
        if isinstance(value, str) and value not in values:
            yield f"{path} is {value!r}, not one of {', '.join(values)}"
    elif isinstance(value, dict):
        yield from _of_model(value, kind, path)
    else:
        yield f"{path} is an object"


def _sides(value: Value) -> list[Value]:
    """Return both sides of a `? :`, or the value itself."""
    if isinstance(value, Expression) and re.match(r"[^?{]+\?[^?.]", value.text) and value.branches:
        return [part for branch in value.branches for part in _sides(branch)]
    return [value]


def _chosen(value: dict[str, Value], model: type[Any]) -> type[Any]:
    """Return the model that a discriminator such as `endpointType` chooses."""
    for attribute, kinds in vars(model).get("_subtype_map", {}).items():
        key = model._attribute_map[attribute]["key"].replace("\\.", ".")  # noqa: SLF001 (there is no other way)
        if (name := kinds.get(value.get(key))) is not None:
            return _chosen(value, getattr(importlib.import_module(model.__module__), name))
    return model


def _shape(model: type[Any]) -> Shape:
    return _older(model) if getattr(model, "_attribute_map", None) else _newer(model)


def _older(model: type[Any]) -> Shape:
    """Read a map of attributes, whose keys are flattened: `properties.destination`."""
    shape: Shape = {}
    module = importlib.import_module(model.__module__)
    validation: Mapping[str, Mapping[str, object]] = getattr(model, "_validation", {})
    for attribute, known in model._attribute_map.items():  # noqa: SLF001 (there is no other way)
        *outer, key = (part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", known["key"]))
        within = shape
        for name in outer:
            inner = within.setdefault(name, {})
            if not isinstance(inner, dict):
                raise TypeError(f"{model.__name__}.{name} is flattened and not")
            within = inner
        name = known["type"].strip("[]{}")
        within[key] = Property(
            type=getattr(module, name, None),
            of={"[": "list", "{": "map"}.get(known["type"][0], "one"),
            is_required=validation.get(attribute, {}).get("required") is True,
            is_read_only=validation.get(attribute, {}).get("readonly") is True,
        )
    return shape


def _newer(model: type[Any]) -> Shape:
    shape: Shape = {}
    for base in reversed(model.__mro__):
        for attribute, descriptor in vars(base).items():
            if type(descriptor).__name__ != "_RestField":
                continue
            annotation = str(base.__annotations__[attribute])
            found = re.search(r"_models\.(\w+)", annotation)
            models = importlib.import_module(base.__module__.rpartition(".")[0])
            visibility = descriptor._visibility or ()  # noqa: SLF001 (there is no other way)
            shape[descriptor._rest_name_input or attribute] = Property(  # noqa: SLF001 (the same)
                type=getattr(models, found[1], None) if found else None,
                of="list" if "list[" in annotation else "map" if "dict[" in annotation else "one",
                is_required="Optional" not in annotation and "None" not in annotation,
                is_read_only=list(visibility) == ["read"],
            )
    return shape
