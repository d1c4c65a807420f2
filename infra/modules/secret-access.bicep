metadata description = 'A role on one secret, for all of its versions.'

@description('Name of the vault.')
param vaultName string

@description('Name of the secret.')
param secretName string

@description('Object id that gets the role.')
param principalId string

@description('Resource id of the role definition.')
param roleDefinitionId string

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: vaultName

  resource secret 'secrets' existing = { name: secretName }
}

resource access 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault::secret.id, principalId, roleDefinitionId)
  scope: vault::secret
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: roleDefinitionId
  }
}
