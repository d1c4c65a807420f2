"""What Bicep's compiler would say of names and modules; there is none here."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest
from tree_sitter import Node

from tests.infra.bicep import ENTRIES, INFRA, BicepFile, Expression, files, made, parse, read, text, walk
from tests.infra.models import MODELS, WITHOUT_MODEL, complaints

FILES = {str(file.path.relative_to(INFRA)): file for file in files()}
MODULES = {name: file for name, file in FILES.items() if name not in ENTRIES}
FUNCTIONS = {
    *("cidrSubnet", "empty", "environment", "guid", "loadTextContent", "replace", "resourceGroup", "resourceId"),
    *("split", "subscription", "subscriptionResourceId", "tenant", "toLower", "union", "uniqueString"),
}
DECORATORS = {"description", "allowed", "minLength", "maxLength", "metadata"}
# Held against Azure/bicep-types-az when they were written, or taken from Microsoft's own templates.
VERSIONS = {
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.Authorization/roleDefinitions": "2022-04-01",
    "Microsoft.EventGrid/systemTopics": "2025-02-15",
    "Microsoft.EventGrid/topics": "2025-02-15",
    "Microsoft.Insights/actionGroups": "2023-01-01",
    "Microsoft.Insights/components": "2020-02-02",
    "Microsoft.Insights/diagnosticSettings": "2021-05-01-preview",
    "Microsoft.Insights/metricAlerts": "2018-03-01",
    "Microsoft.Insights/scheduledQueryRules": "2023-12-01",
    "Microsoft.KeyVault/vaults": "2024-11-01",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "2023-01-31",
    "Microsoft.Network/privateDnsZones": "2024-06-01",
    "Microsoft.Network/privateEndpoints": "2024-05-01",
    "Microsoft.Network/virtualNetworks": "2024-05-01",
    "Microsoft.OperationalInsights/workspaces": "2025-02-01",
    "Microsoft.Resources/resourceGroups": "2024-03-01",
    "Microsoft.Storage/storageAccounts": "2024-01-01",
    "Microsoft.Web/serverfarms": "2024-11-01",
    "Microsoft.Web/sites": "2024-11-01",
}
# Of the Cloud Adoption Framework.
ABBREVIATIONS = {
    "Microsoft.EventGrid/systemTopics": "egst-",
    "Microsoft.EventGrid/systemTopics/eventSubscriptions": "evgs-",
    "Microsoft.EventGrid/topics": "evgt-",
    "Microsoft.EventGrid/topics/eventSubscriptions": "evgs-",
    "Microsoft.Insights/actionGroups": "ag-",
    "Microsoft.Insights/components": "appi-",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "id-",
    "Microsoft.Network/privateEndpoints": "pep-",
    "Microsoft.Network/virtualNetworks": "vnet-",
    "Microsoft.OperationalInsights/workspaces": "log-",
    "Microsoft.Resources/resourceGroups": "rg-",
    "Microsoft.Storage/storageAccounts": "st",
    "Microsoft.Web/serverfarms": "asp-",
    "Microsoft.Web/sites": "func-",
}
BROKEN = (
    ("param a string = '", "no Bicep"),
    ("resource a 'B/c@2024-01-01' = {\n  name: 'd'", "no Bicep"),
    ("param a string\nvar b = [1, 2", "no Bicep"),
)


def declared(file: BicepFile) -> dict[str, str]:
    """Return every name that a file gives, and what it is; loops and functions of one line too."""
    names = dict.fromkeys(file.parameters, "parameter") | dict.fromkeys(file.variables, "variable")
    names |= dict.fromkeys((resource.symbol for resource in file.resources), "resource")
    names |= dict.fromkeys((module.symbol for module in file.modules), "module")
    for node in walk(file.root):
        if node.type in {"loop_variable", "loop_enumerator"}:
            names[text(node)] = "loop"
        elif node.type == "for_statement" and node.children[2].type == "identifier":
            names[text(node.children[2])] = "loop"
    return names


def used(file: BicepFile) -> Iterator[str]:
    """Yield the names that expressions mean."""
    for node in walk(file.root):
        if node.type == "identifier" and not is_a_name_given(node):
            yield text(node)


def is_a_name_given(node: Node) -> bool:
    """Whether this is no use: what a declaration, a member of an object, a loop or a `::` names, or a type."""
    parent = node.parent
    if parent is None:
        return True
    before = node.prev_sibling
    match parent.type:
        case "object_property":
            return before is None
        case "for_statement":
            return before is not None and before.type == "for"
        case "resource_expression":
            return before is not None
        case "call_expression":
            return before is None
        case kind:
            return kind.endswith("_declaration") and before is not None and before.type != "="


@pytest.mark.parametrize(("source", "complaint"), BROKEN)
def test_what_is_no_bicep_is_noticed(source: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(source, INFRA / "broken.bicep")


@pytest.mark.parametrize("name", FILES)
def test_every_name_is_declared_once_and_used(name: str) -> None:
    file = FILES[name]
    names, uses = declared(file), set(used(file))
    assert uses <= names.keys(), f"{name}: nobody declares {uses - names.keys()}"
    needless = {known for known, kind in names.items() if kind in {"parameter", "variable"}} - uses
    assert not needless, f"{name}: nobody uses {needless}"
    given = Counter([*file.parameters, *file.variables, *(r.symbol for r in file.resources)])
    given.update(module.symbol for module in file.modules)
    assert max(given.values()) == 1, f"{name}: {given.most_common(1)}"


@pytest.mark.parametrize("name", FILES)
def test_functions_and_decorators_are_ones_that_bicep_has(name: str) -> None:
    for node in walk(FILES[name].root):
        if node.type == "call_expression" and node.children[0].type == "identifier":
            allowed = DECORATORS if node.parent and node.parent.type == "decorator" else FUNCTIONS
            assert text(node.children[0]) in allowed, f"{name}: {text(node)[:60]}"


@pytest.mark.parametrize("name", FILES)
def test_a_module_gets_what_it_asks_for_and_nothing_else(name: str) -> None:
    for module in FILES[name].modules:
        asked = read(module.path.resolve()).parameters
        passed = module.arguments.keys()
        assert passed <= asked.keys(), f"{name}: {module.symbol} has no {passed - asked.keys()}"
        missing = {known for known, parameter in asked.items() if not parameter.default} - passed
        assert not missing, f"{name}: {module.symbol} lacks {missing}"


@pytest.mark.parametrize("name", FILES)
def test_outputs_that_are_asked_of_a_module_exist(name: str) -> None:
    file = FILES[name]
    modules = {module.symbol: module.path.resolve() for module in file.modules}
    asked = re.findall(r"\b(\w+)!?\.outputs\.(\w+)", text(file.root))
    for module, output in asked:
        assert output in read(modules[module]).outputs, f"{name}: {module} gives out no {output}"
    assert name != "main.bicep" or asked


def test_a_module_says_where_it_goes_if_that_is_not_where_its_caller_is() -> None:
    """In a subscription no module of ours can be."""
    for module in FILES["main.bicep"].modules:
        assert "scope" in module.body, module.symbol


def test_every_module_is_used() -> None:
    found = {module.path.resolve() for file in FILES.values() for module in file.modules}
    assert found == {file.path.resolve() for file in MODULES.values()}


def test_modules_are_small() -> None:
    for name, file in MODULES.items():
        assert file.path.read_text().count("\n") <= 160, name


@pytest.mark.parametrize("name", FILES)
def test_every_file_parameter_and_output_is_described(name: str) -> None:
    file = FILES[name]
    assert file.description, name
    for declaration in [*file.parameters.values(), *file.outputs.values()]:
        assert declaration.description.endswith("."), f"{name}: {declaration.name}"


def test_types_and_versions_are_known() -> None:
    """A version that does not exist is refused by Azure, and only there."""
    found = {(resource.type, resource.version) for file in FILES.values() for resource in file.resources}
    outer = {("/".join(kind.split("/")[:2]), version) for kind, version in found}
    assert outer == set(VERSIONS.items())
    made_types = {resource.type for resource in made()}
    assert made_types - {"Microsoft.Resources/resourceGroups"} == MODELS.keys()
    assert made_types & WITHOUT_MODEL == WITHOUT_MODEL


def test_properties_are_ones_that_azure_s_own_clients_know() -> None:
    """A misspelt property is ignored without a word, or refused in the middle of a deployment."""
    assert [complaint for resource in made() for complaint in complaints(resource)] == []


MISTAKES: Mapping[str, tuple[str, str, str]] = {
    "app.bicep": ("httpsOnly", "httpOnly", "properties.httpOnly does not exist"),
    "vault.bicep": ("'Deny' : 'Allow'", "'Deny' : 'All'", "defaultAction is 'All', not one of Allow, Deny"),
    "vault-subscription.bicep": ("maxEventsPerBatch", "maxEvents", "destination.properties.maxEvents does not exist"),
    "vault-events.bicep": ("{ source: vault.id,", "{ of: vault.id,", "properties.of does not exist"),
    "outcome-topic.bicep": ("location: location", "region: location", "location is missing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_property_is_noticed(name: str) -> None:
    """The models tell: unknown names, values that are none, and what is missing, in both kinds of client."""
    right, wrong, complaint = MISTAKES[name]
    source = (INFRA / "modules" / name).read_text()
    assert right in source
    broken = parse(source.replace(right, wrong), INFRA / "modules" / name)
    found = [line for resource in broken.resources if not resource.is_existing for line in complaints(resource)]
    assert any(complaint in line for line in found), found


def test_names_begin_with_azure_s_abbreviations() -> None:
    vault_name = FILES["main.bicep"].variables["vaultName"]
    assert isinstance(vault_name, Expression)
    assert "'kv-${token}'" in vault_name.text
    for resource in made():
        if resource.type in ABBREVIATIONS:
            name = resource.body["name"]
            assert isinstance(name, Expression), resource.symbol
            assert name.begins.startswith(ABBREVIATIONS[resource.type]), resource.symbol
    assert ABBREVIATIONS.keys() <= {resource.type for resource in made()}
