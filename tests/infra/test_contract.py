"""What infra/ says of the program, of Azure and of docs/: each held against what it says it of."""

import re
from pathlib import Path

import pytest

from rotators.events import REQUESTED
from rotators.settings import Settings, read_settings
from tests.infra.bicep import INFRA, Expression, Resource, as_object, at, files, made, objects, read, strings, text
from tests.unit.test_structure import NOT_OURS, SETTINGS, TRIGGERS

ROOT = INFRA.parent
MAIN = read(INFRA / "main.bicep")
APP = read(INFRA / "modules" / "app.bicep")
ACCESS = read(INFRA / "modules" / "vault-access.bicep")

# -- App settings -------------------------------------------------------------------------------------------------

# The host's and the worker library's; those of OpenTelemetry are explained in docs/telemetry.md.
HOST_SETTINGS = {
    "AzureWebJobsStorage__accountName",
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__clientId",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
}
TELEMETRY_SETTINGS = {
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY",
    "AzureFunctionsJobHost__telemetryMode",
    "OTEL_TRACES_SAMPLER",
}
# Static secrets, for each of which there is something better.
KEPT_OUT = {"AIRFLOW_PASSWORD", "AIRFLOW_TOKEN", "EVENT_GRID_TOPIC_KEY"}


def app_settings() -> Resource:
    (found,) = (r for r in APP.of_type("Microsoft.Web/sites/config") if r.body["name"] == "appsettings")
    return found


def handed_over() -> dict[str, object]:
    """Return the settings that main.bicep hands to the app's module."""
    (app,) = (module for module in MAIN.modules if module.symbol == "app")
    return dict(as_object(app.arguments["settings"]))


def test_every_app_setting_in_bicep_is_one_that_the_program_or_the_host_reads() -> None:
    """And the other way round: what settings.py reads can be set, but for static secrets."""
    own = {name for settings in objects(app_settings().body["properties"]) for name in settings}
    assert own >= HOST_SETTINGS | TELEMETRY_SETTINGS
    assert own.isdisjoint(handed_over())
    names = own | handed_over().keys()
    assert names - HOST_SETTINGS - TELEMETRY_SETTINGS == (SETTINGS | NOT_OURS) - KEPT_OUT - NOT_OURS


def test_telemetry_is_set_as_its_page_says() -> None:
    page = (ROOT / "docs" / "telemetry.md").read_text()
    (telemetry,) = (found for found in objects(app_settings().body["properties"]) if TELEMETRY_SETTINGS & found.keys())
    for name, value in telemetry.items():
        assert f"`{name}` | `{value}`" in page


def test_a_parameter_for_a_setting_is_called_like_it_and_says_which() -> None:
    """Who knows the README's table knows the parameters: `AIRFLOW_URL` is `airflowUrl`."""
    for name, value in handed_over().items():
        if name in {"KEY_VAULT_URL", "EVENT_GRID_TOPIC_ENDPOINT"}:
            continue
        first, *others = name.lower().split("_")
        assert isinstance(value, Expression)
        assert value.text == first + "".join(word.capitalize() for word in others)
        assert MAIN.parameters[value.text].description.startswith(f"{name}: ")


def test_values_that_bicep_allows_are_those_that_the_program_takes() -> None:
    """All of them but `token`, whose setting is kept out, and blank for the default."""
    base = {"KEY_VAULT_URL": "https://v", "AIRFLOW_URL": "https://a", "AIRFLOW_USERNAME": "u"}
    base |= {"AIRFLOW_PASSWORD_SECRET": "s", "AIRFLOW_ENTRA_SCOPE": "e"}
    for setting, parameter in (
        ("AIRFLOW_AUTH", "airflowAuth"),
        ("AIRFLOW_CONNECTIONS", "airflowConnections"),
        ("ROTATION_MIN_SSLMODE", "rotationMinSslmode"),
    ):
        allowed = MAIN.parameters[parameter].allowed
        assert len(allowed) > 2
        for value in allowed:
            assert isinstance(read_settings({**base, setting: value}), Settings)


def test_headers_are_believed_only_while_sign_in_is_on() -> None:
    """Without App Service authentication anybody can send them (P6); so it is there before the setting is."""
    settings = app_settings()
    (own,) = (found for found in objects(settings.body["properties"]) if "ROTATION_TRUST_PRINCIPAL" in found)
    trust = own["ROTATION_TRUST_PRINCIPAL"]
    assert isinstance(trust, Expression)
    assert trust.text == "trustsSignIn ? 'true' : 'false'"
    assert "resource signIn 'config' = if (trustsSignIn)" in text(APP.root)
    assert [part.text for part in as_list(settings.body["dependsOn"])] == ["signIn"]


def as_list(value: object) -> list[Expression]:
    assert isinstance(value, list)
    return value


# -- Rights -------------------------------------------------------------------------------------------------------

ROLES = {
    "eventGridDataSender": "d5a91429-5739-47e2-a06b-3470a27159e7",
    "keyVaultSecretsUser": "4633458b-17de-408a-b874-0445c86b69e6",
    "monitoringMetricsPublisher": "3913510d-42f4-4e42-8a64-420c390055eb",
    "storageBlobDataContributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "storageBlobDataOwner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
}
SECRETS = "Microsoft.KeyVault/vaults/secrets"
ROTATOR = {f"{SECRETS}/{action}/action" for action in ("getSecret", "setSecret", "readMetadata", "update")}


def custom_roles() -> dict[str, Resource]:
    return {role.symbol: role for role in ACCESS.of_type("Microsoft.Authorization/roleDefinitions")}


def data_actions(role: Resource) -> set[str]:
    permission = at(role.body, "properties", "permissions", 0)
    assert as_object(permission)["actions"] == as_object(permission)["notActions"] == []
    return set(strings(as_object(permission)["dataActions"]))


def test_built_in_roles_have_their_ids_and_no_others_are_used() -> None:
    """A wrong id is another role, or a deployment that fails at its very end."""
    named = {name: value for file in files() for name, value in file.variables.items() if name in ROLES}
    assert named == ROLES
    for file in files():
        ids = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text(file.root))
        assert set(ids) <= set(ROLES.values()), file.path.name


def test_the_app_may_do_with_secrets_what_it_does_and_no_more() -> None:
    """`tests/rotation/test_vault_rights.py` holds the same four against the calls of real rotations."""
    roles = custom_roles()
    assert roles.keys() == {"rotator", "lister"}
    assert data_actions(roles["rotator"]) == ROTATOR
    assert data_actions(roles["lister"]) == {f"{SECRETS}/readMetadata/action"}


def test_per_secret_the_vault_as_a_whole_is_only_listed() -> None:
    (in_vault,) = ACCESS.of_type("Microsoft.Authorization/roleAssignments")
    role = at(in_vault.body, "properties", "roleDefinitionId")
    assert isinstance(role, Expression)
    assert role.text == "perSecret ? lister.id : rotator.id"
    per_secret = ACCESS.variables["perSecret"]
    assert isinstance(per_secret, Expression)
    assert per_secret.text == "!empty(rotatedSecrets)"


def test_a_role_is_assigned_as_low_as_it_goes() -> None:
    """On the resource itself, the secret or the container: never on a resource group or subscription."""
    scopes = {}
    for file in files():
        for assignment in file.of_type("Microsoft.Authorization/roleAssignments"):
            scope = assignment.body["scope"]
            assert isinstance(scope, Expression)
            scopes[f"{file.path.stem}.{assignment.symbol}"] = scope.text
            assert at(assignment.body, "properties", "principalType") == "ServicePrincipal"
    assert scopes == {
        "dead-letters.writes": "account::blobs::container",
        "monitoring.publishes": "component",
        "outcome-topic.sends": "topic",
        "secret-access.access": "vault::secret",
        "storage.hosts": "account",
        "vault-access.inVault": "vault",
    }


@pytest.mark.parametrize(
    ("resource_type", "path", "value"),
    [
        ("Microsoft.Storage/storageAccounts", ("properties", "allowSharedKeyAccess"), False),
        ("Microsoft.Storage/storageAccounts", ("properties", "allowBlobPublicAccess"), False),
        ("Microsoft.Storage/storageAccounts", ("properties", "minimumTlsVersion"), "TLS1_2"),
        ("Microsoft.EventGrid/topics", ("properties", "disableLocalAuth"), True),
        ("Microsoft.Insights/components", ("properties", "DisableLocalAuth"), True),
        ("Microsoft.OperationalInsights/workspaces", ("properties", "features", "disableLocalAuth"), True),
        ("Microsoft.KeyVault/vaults", ("properties", "enableRbacAuthorization"), True),
        ("Microsoft.KeyVault/vaults", ("properties", "enablePurgeProtection"), True),
        ("Microsoft.Web/sites", ("properties", "httpsOnly"), True),
        ("Microsoft.Web/sites/basicPublishingCredentialsPolicies", ("properties", "allow"), False),
    ],
)
def test_no_key_or_password_opens_anything(resource_type: str, path: tuple[str, ...], value: object) -> None:
    found = [resource for resource in made() if resource.type == resource_type]
    assert found
    assert all(at(resource.body, *path) == value for resource in found)


def test_nothing_is_given_out_that_is_a_secret() -> None:
    """Outputs stand in the history of deployments: none comes from a list of keys."""
    for file in files():
        assert not re.search(r"\blist\w*\(", text(file.root)), file.path.name


# -- Events -------------------------------------------------------------------------------------------------------

SUBSCRIPTIONS = {
    "vault-subscription.bicep": {
        "Microsoft.KeyVault.SecretNearExpiry",
        "Microsoft.KeyVault.SecretExpired",
        "Microsoft.KeyVault.SecretNewVersionCreated",
    },
    "topic-subscription.bicep": {REQUESTED},
}


@pytest.mark.parametrize("name", SUBSCRIPTIONS)
def test_a_subscription_asks_for_the_events_that_the_function_takes(name: str) -> None:
    """Of our own topic only requests: were outcomes delivered too, each would be a warning in the log."""
    (subscription,) = (r for r in read(INFRA / "modules" / name).resources if r.symbol == "subscription")
    properties = as_object(subscription.body["properties"])
    assert set(strings(at(properties, "filter", "includedEventTypes"))) == SUBSCRIPTIONS[name]
    assert at(properties, "destination", "endpointType") == "AzureFunction"
    # A batch can only succeed or fail as a whole: then what went well would come again.
    assert at(properties, "destination", "properties", "maxEventsPerBatch") == 1
    assert properties["retryPolicy"] == {"maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440}
    assert at(properties, "deadLetterWithResourceIdentity", "deadLetterDestination", "endpointType") == "StorageBlob"


def test_events_are_taken_of_every_secret_unless_it_is_said_otherwise() -> None:
    """A prefix of its own follows no setting, and only the event of a new version lets it inherit the policy."""
    (subscription,) = (
        r for r in read(INFRA / "modules" / "vault-subscription.bicep").resources if r.symbol == "subscription"
    )
    prefix = at(subscription.body, "properties", "filter", "subjectBeginsWith")
    assert isinstance(prefix, Expression)
    assert prefix.text == "subjectBeginsWith"
    events = read(INFRA / "events.bicep")
    assert {p.default for p in (MAIN.parameters["eventSubjectPrefix"], events.parameters["subjectBeginsWith"])} == {
        "''"
    }
    assert MAIN.outputs["SUBJECT_BEGINS_WITH"].default == "eventSubjectPrefix"


def test_the_event_types_are_those_that_the_program_knows() -> None:
    """In the source of `events.py`, which takes them in any case."""
    source = (ROOT / "rotators" / "events.py").read_text()
    known = set(re.findall(r'"(microsoft\.keyvault\.\w+)"', source))
    assert {kind.lower() for kind in SUBSCRIPTIONS["vault-subscription.bicep"]} == known


def test_the_function_of_the_subscriptions_exists() -> None:
    function = read(INFRA / "events.bicep").variables["functionId"]
    assert isinstance(function, Expression)
    assert "'rotation_event'" in function.text
    assert "rotation_event" in TRIGGERS
    assert "--function-name rotation_event" in (INFRA / "events.sh").read_text()


def test_what_is_deployed_first_has_no_subscription() -> None:
    """Event Grid refuses one whose function it cannot find, and the code comes after the resources."""
    deployed: set[Path] = set()
    waiting = [MAIN.path]
    while waiting:
        path = waiting.pop().resolve()
        deployed.add(path)
        waiting += [module.path for module in read(path).modules]
    late = {INFRA / "events.bicep", *(INFRA / "modules" / name for name in SUBSCRIPTIONS)}
    assert deployed.isdisjoint(path.resolve() for path in late)
    assert deployed | {path.resolve() for path in late} == {file.path.resolve() for file in files()}


def test_both_topics_may_write_dead_letters() -> None:
    (module,) = (module for module in MAIN.modules if module.symbol == "deadLetters")
    writers = [part.text for part in as_list(module.arguments["writerPrincipalIds"])]
    assert writers == ["vaultEvents.outputs.topicPrincipalId", "outcomeTopic.outputs.principalId"]
    topics = [r for r in made() if r.type in {"Microsoft.EventGrid/systemTopics", "Microsoft.EventGrid/topics"}]
    assert [r.body["identity"] for r in topics] == [{"type": "SystemAssigned"}] * 2


def test_key_vault_s_own_audit_log_goes_where_the_page_on_auditing_looks() -> None:
    """`AZKVAuditLogs` is filled only by the destination `Dedicated`."""
    (audit,) = (r for r in made() if r.symbol == "audit")
    assert at(audit.body, "properties", "logs") == [{"category": "AuditEvent", "enabled": True}]
    assert at(audit.body, "properties", "logAnalyticsDestinationType") == "Dedicated"
    assert "AZKVAuditLogs" in (ROOT / "docs" / "audit.md").read_text()


# -- Alerts -------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "alerts.md").read_text()
ALERTS = read(INFRA / "modules" / "alerts.bicep")


def severities() -> dict[str, int]:
    """Return each alert of the page's table with its severity."""
    return {name: int(number) for name, number in re.findall(r"^\| \[([^\]]+)\].*\| (\d) \|", PAGE, re.MULTILINE)}


def rules() -> dict[str, dict[str, object]]:
    listed = ALERTS.variables["rules"]
    assert isinstance(listed, list)
    return {str(as_object(rule)["name"]): dict(as_object(rule)) for rule in listed}


def query_of(rule: dict[str, object]) -> str:
    loaded = rule["query"]
    assert isinstance(loaded, Expression)
    (path,) = loaded.branches
    return (ALERTS.path.parent / str(path)).read_text()


def test_alerts_are_those_of_the_page_with_severity_1_and_2() -> None:
    """Two are metrics of Event Grid's, and no queries."""
    urgent = {name: severity for name, severity in severities().items() if severity <= 2}
    for module in ALERTS.modules:
        name = as_text(module.arguments["name"]).strip("'").partition(",")[0]
        assert urgent.pop(name) == 2
        assert f"`{module.arguments['metric']}`" in PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert {name: rule["severity"] for name, rule in rules().items()} == urgent


def test_queries_are_the_page_s() -> None:
    """The page is what `tests/rotation/test_alerts.py` holds against the lines of real rotations."""
    for name, rule in rules().items():
        section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert f"```kusto\n{query_of(rule)}```" in section, name
    assert {path.name for path in (INFRA / "alerts").iterdir()} == {
        str(as_branch(rule["query"])).rpartition("/")[2] for rule in rules().values()
    }


def as_branch(value: object) -> object:
    assert isinstance(value, Expression)
    return value.branches[0]


def test_an_alert_that_names_a_secret_is_split_by_it() -> None:
    """Else the second broken secret is hidden behind the first."""
    for name, rule in rules().items():
        names_secret = re.search(r"by secret = |project .*\bsecret = ", query_of(rule)) is not None
        dimensions = rule["dimensions"]
        assert (isinstance(dimensions, Expression) and dimensions.text == "bySecret") is names_secret, name
        assert dimensions == [] or names_secret, name
    assert ALERTS.variables["bySecret"] == [{"name": "secret", "operator": "Include", "values": ["*"]}]


def test_names_of_alerts_have_no_character_that_azure_refuses() -> None:
    names = [*rules(), *(str(as_text(module.arguments["name"])) for module in ALERTS.modules)]
    assert len(names) == 8
    for name in names:
        assert not set(re.sub(r"[$][{].*?[}]", "", name)) & set("*#&+:<>?@%{}\\/"), name


def as_text(value: object) -> str:
    assert isinstance(value, Expression)
    return value.text
