#!/bin/sh
# Subscribes the function to the vault and the topic: azd's hook after each deployment, as Event Grid refuses a
# subscription whose function it cannot find. It looks EVENTS_ATTEMPTS times (60), EVENTS_WAIT_SECONDS (10) apart. May be
# run again at any time; its other variables are what main.bicep gives out:
#
#   eval "$(azd env get-values | sed 's/^/export /')" && ./infra/events.sh
set -eu

for name in AZURE_SUBSCRIPTION_ID AZURE_RESOURCE_GROUP FUNCTION_APP_NAME KEY_VAULT_RESOURCE_GROUP SYSTEM_TOPIC_NAME \
    OUTCOME_TOPIC_NAME STORAGE_ACCOUNT_NAME DEAD_LETTER_CONTAINER; do
    eval "value=\${$name:-}"
    if [ -z "$value" ]; then
        echo "events.sh: $name is not set; run 'azd provision', then 'azd deploy', which runs this script" >&2
        exit 1
    fi
done

if ! az account show --output none; then
    echo "events.sh: the Azure CLI is not signed in; run 'az login' (azd has a sign-in of its own), then 'azd deploy'" >&2
    exit 1
fi

shows_function() {
    az functionapp function show --subscription "$AZURE_SUBSCRIPTION_ID" --resource-group "$AZURE_RESOURCE_GROUP" \
        --name "$FUNCTION_APP_NAME" --function-name rotation_event --output none
}

attempts=${EVENTS_ATTEMPTS:-60}
until shows_function 2>/dev/null; do
    attempts=$((attempts - 1))
    if [ "$attempts" -le 0 ]; then
        shows_function && break
        echo "events.sh: $FUNCTION_APP_NAME shows no function rotation_event; look at its log stream for why it does" \
            "not start, then run 'azd deploy' again. Until then no event arrives; the sweep rotates all the same," \
            "if the app runs" >&2
        exit 1
    fi
    sleep "${EVENTS_WAIT_SECONDS:-10}"
done

az deployment group create --subscription "$AZURE_SUBSCRIPTION_ID" --resource-group "$AZURE_RESOURCE_GROUP" \
    --name rotation-events --template-file "$(dirname "$0")/events.bicep" --output none --parameters \
    functionAppName="$FUNCTION_APP_NAME" \
    systemTopicName="$SYSTEM_TOPIC_NAME" \
    systemTopicResourceGroup="$KEY_VAULT_RESOURCE_GROUP" \
    outcomeTopicName="$OUTCOME_TOPIC_NAME" \
    subjectBeginsWith="${SUBJECT_BEGINS_WITH-}" \
    storageAccountName="$STORAGE_ACCOUNT_NAME" \
    deadLetterContainer="$DEAD_LETTER_CONTAINER"
echo "rotation_event is subscribed to $SYSTEM_TOPIC_NAME and $OUTCOME_TOPIC_NAME"
