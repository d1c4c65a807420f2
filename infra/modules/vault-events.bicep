metadata description = 'What the vault tells: its events through a system topic, and who called it, to the workspace.'

@description('Makes names unique.')
param token string

@description('Tags of every resource.')
param tags object

@description('Name of the vault.')
param vaultName string

@description('Region of the vault: a system topic has to be there too.')
param vaultLocation string

@description('System topic that the vault has already. Blank: one is made.')
param existingSystemTopicName string

@description('Log Analytics workspace for the audit log.')
param workspaceId string

var create = empty(existingSystemTopicName)

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: vaultName
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'audit-${token}'
  scope: vault
  properties: {
    workspaceId: workspaceId
    // Resource-specific tables, the first of the two forms in docs/audit.md.
    logAnalyticsDestinationType: 'Dedicated'
    logs: [{ category: 'AuditEvent', enabled: true }]
  }
}

resource created 'Microsoft.EventGrid/systemTopics@2025-02-15' = if (create) {
  name: 'egst-${token}'
  location: vaultLocation
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: { source: vault.id, topicType: 'Microsoft.KeyVault.vaults' }
}

resource found 'Microsoft.EventGrid/systemTopics@2025-02-15' existing = if (!create) {
  name: existingSystemTopicName
}

resource failures 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (create) {
  name: 'failures-${token}'
  scope: created
  properties: {
    workspaceId: workspaceId
    logs: [{ category: 'DeliveryFailures', enabled: true }]
  }
}

@description('Resource id of the system topic.')
output topicId string = create ? created.id : found.id

@description('Name of the system topic.')
output topicName string = create ? created.name : found.name

@description('Object id of its identity, which writes dead letters.')
output topicPrincipalId string = create ? created!.identity.principalId : found!.identity.principalId
