metadata description = 'Rotates the database credentials that Airflow keeps in Key Vault. What follows the deployment of the code is in events.bicep.'

targetScope = 'subscription'

@description('Name of the azd environment: names the resource group and tags everything in it.')
@minLength(1)
@maxLength(64)
param environmentName string

@description('Region of everything but an existing vault and its system topic.')
@minLength(1)
@metadata({ azd: { type: 'location' } })
param location string

// -- The vault

@description('Vault that Airflow reads its connections from. Blank: a new one is made.')
param existingVaultName string = ''

@description('Resource group of the existing vault, in the same subscription. Blank: that of this deployment.')
param existingVaultResourceGroup string = ''

@description('System topic that the existing vault has already, in its resource group: a vault can have one. It needs a system-assigned identity. Blank: one is made.')
param existingSystemTopicName string = ''

@description('Names of the secrets to rotate, comma separated: the app may read and write these and no others. Blank: all of the vault.')
param rotatedSecrets string = ''

@description('Names of the secrets that the app may only read, comma separated: those of database admins and of its user in Airflow. Counts together with rotatedSecrets.')
param readSecrets string = ''

@description('Key Vault events are taken of secrets whose names begin so. Blank: of all. The sweep rotates without events; a version written by hand gets the tags of the one before, and is mended, by its event alone.')
param eventSubjectPrefix string = ''

// -- The network

@description('Reach vault and storage over private endpoints, and everything else over a virtual network. A new vault is closed to the Internet.')
param privateNetworking bool = false

@description('Subnet of an existing virtual network for the app, delegated to Microsoft.App/environments. Blank: a network is made.')
param appSubnetId string = ''

@description('Subnet of the same existing virtual network for the private endpoints.')
param endpointSubnetId string = ''

@description('Make the private DNS zones and link them to the network. False where a hub has them.')
param createPrivateDnsZones bool = true

// -- Who may call, who is told

@description('Client id of the app registration with which people and programs sign in to the HTTP API. Blank: function keys alone, which name nobody.')
param signInClientId string = ''

@description('Address that alerts are mailed to. Blank: they are only shown in the portal.')
param alertEmail string = ''

@description('Send OpenTelemetry traces and metrics too; needs requirements.txt with EXTRAS=telemetry (docs/telemetry.md).')
param openTelemetry bool = false

// -- App settings, by the names in docs/reference.md. Blank: the program's default.

@description('AIRFLOW_URL: the Airflow 3 API server. Blank: Airflow is not refreshed.')
param airflowUrl string = ''

@description('AIRFLOW_AUTH: password or entra. A static token is no setting here.')
@allowed(['', 'password', 'entra'])
param airflowAuth string = ''

@description('AIRFLOW_USERNAME: the user of password.')
param airflowUsername string = ''

@description('AIRFLOW_PASSWORD_SECRET: name of the secret with that user\'s password.')
param airflowPasswordSecret string = ''

@description('AIRFLOW_ENTRA_SCOPE: the scope of entra\'s token.')
param airflowEntraScope string = ''

@description('AIRFLOW_CONNECTIONS: what to do with copies in the metastore.')
@allowed(['', 'clear', 'update', 'keep'])
param airflowConnections string = ''

@description('AIRFLOW_LOOKBACK: how far back failed tasks are looked for.')
param airflowLookback string = ''

@description('AIRFLOW_MAX_EXAMINED: failed tasks examined in one refresh.')
param airflowMaxExamined string = ''

@description('AIRFLOW_CONNECTIONS_PREFIX: as in Airflow\'s secrets backend.')
param airflowConnectionsPrefix string = ''

@description('ROTATION_SWEEP_SCHEDULE: NCRONTAB, UTC. Slower than every 20 minutes, the alerts have to be changed (docs/alerts.md).')
param rotationSweepSchedule string = ''

@description('ROTATION_CONCURRENCY: secrets at a time in one sweep.')
param rotationConcurrency string = ''

@description('ROTATION_ALLOWED_HOSTS: servers beyond the admin secret\'s own to which a credential may be sent.')
param rotationAllowedHosts string = ''

@description('ROTATION_MIN_SSLMODE: the least that a connection to a database must have.')
@allowed(['', 'disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'])
param rotationMinSslmode string = ''

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var createVault = empty(existingVaultName)
var vaultName = createVault ? 'kv-${token}' : existingVaultName
var vaultResourceGroup = createVault || empty(existingVaultResourceGroup) ? group.name : existingVaultResourceGroup
var createNetwork = privateNetworking && empty(appSubnetId)
var appSubnet = createNetwork ? network!.outputs.appSubnetId : appSubnetId
var endpointSubnet = createNetwork ? network!.outputs.endpointSubnetId : endpointSubnetId

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  scope: group
  params: { token: token, location: location, tags: tags }
}

module monitoring 'modules/monitoring.bicep' = {
  scope: group
  params: { token: token, location: location, tags: tags, publisherPrincipalId: identity.outputs.principalId }
}

module storage 'modules/storage.bicep' = {
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    closed: privateNetworking
    appPrincipalId: identity.outputs.principalId
  }
}

module network 'modules/network.bicep' = if (createNetwork) {
  scope: group
  params: { token: token, location: location, tags: tags }
}

module vault 'modules/vault.bicep' = {
  scope: resourceGroup(vaultResourceGroup)
  params: { create: createVault, name: vaultName, location: location, tags: tags, closed: privateNetworking }
  dependsOn: [group]
}

module vaultEndpoint 'modules/private-endpoint.bicep' = if (privateNetworking) {
  scope: group
  params: {
    name: 'vault'
    token: token
    location: location
    tags: tags
    serviceId: vault.outputs.id
    serviceGroup: 'vault'
    subnetId: endpointSubnet
    // The public cloud's: environment() does not have this one.
    dnsZone: 'privatelink.vaultcore.azure.net'
    createDnsZone: createPrivateDnsZones
  }
}

module storageEndpoint 'modules/private-endpoint.bicep' = if (privateNetworking) {
  scope: group
  params: {
    name: 'storage'
    token: token
    location: location
    tags: tags
    serviceId: storage.outputs.id
    serviceGroup: 'blob'
    subnetId: endpointSubnet
    dnsZone: 'privatelink.blob.${environment().suffixes.storage}'
    createDnsZone: createPrivateDnsZones
  }
}

module vaultAccess 'modules/vault-access.bicep' = {
  scope: resourceGroup(vaultResourceGroup)
  params: {
    vaultName: vault.outputs.name
    principalId: identity.outputs.principalId
    rotatedSecrets: empty(rotatedSecrets) ? [] : split(replace(rotatedSecrets, ' ', ''), ',')
    readSecrets: empty(readSecrets) ? [] : split(replace(readSecrets, ' ', ''), ',')
  }
}

module vaultEvents 'modules/vault-events.bicep' = {
  scope: resourceGroup(vaultResourceGroup)
  params: {
    token: token
    tags: tags
    vaultName: vault.outputs.name
    vaultLocation: vault.outputs.location
    existingSystemTopicName: existingSystemTopicName
    workspaceId: monitoring.outputs.workspaceId
  }
}

module outcomeTopic 'modules/outcome-topic.bicep' = {
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    senderPrincipalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module deadLetters 'modules/dead-letters.bicep' = {
  scope: group
  params: {
    storageAccountName: storage.outputs.name
    containerName: storage.outputs.deadLetterContainer
    writerPrincipalIds: [vaultEvents.outputs.topicPrincipalId, outcomeTopic.outputs.principalId]
  }
}

module app 'modules/app.bicep' = {
  scope: group
  params: {
    token: token
    location: location
    tags: union(tags, { 'azd-service-name': 'rotator' })
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    storageAccountName: storage.outputs.name
    packageContainer: storage.outputs.packageContainer
    applicationInsightsName: monitoring.outputs.componentName
    subnetId: privateNetworking ? appSubnet : ''
    signInClientId: signInClientId
    openTelemetry: openTelemetry
    settings: {
      KEY_VAULT_URL: vault.outputs.url
      EVENT_GRID_TOPIC_ENDPOINT: outcomeTopic.outputs.endpoint
      AIRFLOW_URL: airflowUrl
      AIRFLOW_AUTH: airflowAuth
      AIRFLOW_USERNAME: airflowUsername
      AIRFLOW_PASSWORD_SECRET: airflowPasswordSecret
      AIRFLOW_ENTRA_SCOPE: airflowEntraScope
      AIRFLOW_CONNECTIONS: airflowConnections
      AIRFLOW_LOOKBACK: airflowLookback
      AIRFLOW_MAX_EXAMINED: airflowMaxExamined
      AIRFLOW_CONNECTIONS_PREFIX: airflowConnectionsPrefix
      ROTATION_SWEEP_SCHEDULE: rotationSweepSchedule
      ROTATION_CONCURRENCY: rotationConcurrency
      ROTATION_ALLOWED_HOSTS: rotationAllowedHosts
      ROTATION_MIN_SSLMODE: rotationMinSslmode
    }
  }
}

module alerts 'modules/alerts.bicep' = {
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
    topics: [
      { name: 'vault', id: vaultEvents.outputs.topicId, type: 'Microsoft.EventGrid/systemTopics' }
      { name: 'outcomes', id: outcomeTopic.outputs.id, type: 'Microsoft.EventGrid/topics' }
    ]
    email: alertEmail
  }
}

// None of these has the name of a variable in main.parameters.json: azd keeps both in one place, and a new vault
// would become an existing one at the next run.

@description('Resource group of the app.')
output AZURE_RESOURCE_GROUP string = group.name

@description('Name of the function app.')
output FUNCTION_APP_NAME string = app.outputs.name

@description('Where the HTTP API and the dashboard are.')
output FUNCTION_APP_URL string = app.outputs.url

@description('Name of the vault.')
output KEY_VAULT_NAME string = vault.outputs.name

@description('Resource group of the vault and its system topic.')
output KEY_VAULT_RESOURCE_GROUP string = vaultResourceGroup

@description('System topic of the vault.')
output SYSTEM_TOPIC_NAME string = vaultEvents.outputs.topicName

@description('Topic for outcomes.')
output OUTCOME_TOPIC_NAME string = outcomeTopic.outputs.name

@description('Storage account with the dead letters.')
output STORAGE_ACCOUNT_NAME string = storage.outputs.name

@description('Container with the dead letters.')
output DEAD_LETTER_CONTAINER string = storage.outputs.deadLetterContainer

@description('What the subject of an event begins with; blank takes all.')
output SUBJECT_BEGINS_WITH string = eventSubjectPrefix

@description('Name of the identity: the login of entra admins in PostgreSQL.')
output ROTATOR_IDENTITY_NAME string = identity.outputs.name
