metadata description = 'What the app may do in the vault: get, list, set and update secrets. No more: Secrets Officer could also delete, purge, back up and restore.'

@description('Name of the vault.')
param vaultName string

@description('Object id of the app\'s identity.')
param principalId string

@description('Secrets to rotate. Empty: every secret of the vault.')
param rotatedSecrets string[]

@description('Secrets that are only read; counts when rotatedSecrets names some.')
param readSecrets string[]

var perSecret = !empty(rotatedSecrets)
var assignableScope = resourceGroup().id
var keyVaultSecretsUser = '4633458b-17de-408a-b874-0445c86b69e6'

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: vaultName
}

resource rotator 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(vault.id, 'credential rotator')
  properties: {
    roleName: 'Credential rotator of ${vaultName}'
    description: 'Reads secrets, writes new versions, and changes tags, expiry and enabled. Deletes nothing.'
    type: 'CustomRole'
    assignableScopes: [assignableScope]
    permissions: [
      {
        actions: []
        notActions: []
        dataActions: [
          'Microsoft.KeyVault/vaults/secrets/getSecret/action'
          'Microsoft.KeyVault/vaults/secrets/setSecret/action'
          'Microsoft.KeyVault/vaults/secrets/readMetadata/action'
          'Microsoft.KeyVault/vaults/secrets/update/action'
        ]
        notDataActions: []
      }
    ]
  }
}

// The sweep and the dashboard list the vault, which no assignment on a secret allows. Names, tags and dates; no value.
resource lister 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (perSecret) {
  name: guid(vault.id, 'credential lister')
  properties: {
    roleName: 'Credential lister of ${vaultName}'
    description: 'Lists secrets with their tags and dates. Reads no value.'
    type: 'CustomRole'
    assignableScopes: [assignableScope]
    permissions: [
      {
        actions: []
        notActions: []
        dataActions: ['Microsoft.KeyVault/vaults/secrets/readMetadata/action']
        notDataActions: []
      }
    ]
  }
}

resource inVault 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, principalId, perSecret ? lister.id : rotator.id)
  scope: vault
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: perSecret ? lister.id : rotator.id
  }
}

module rotates 'secret-access.bicep' = [
  for name in rotatedSecrets: {
    params: { vaultName: vaultName, secretName: name, principalId: principalId, roleDefinitionId: rotator.id }
  }
]

module reads 'secret-access.bicep' = [
  for name in (perSecret ? readSecrets : []): {
    params: {
      vaultName: vaultName
      secretName: name
      principalId: principalId
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', keyVaultSecretsUser)
    }
  }
]
