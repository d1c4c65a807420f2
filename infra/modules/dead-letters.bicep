metadata description = 'Who may write dead letters: the identities of the topics, on that container alone.'

@description('Storage account.')
param storageAccountName string

@description('Container of the dead letters.')
param containerName string

@description('Object ids of the topics\' identities.')
param writerPrincipalIds string[]

var storageBlobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'

resource account 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: storageAccountName

  resource blobs 'blobServices' existing = {
    name: 'default'

    resource container 'containers' existing = { name: containerName }
  }
}

resource writes 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for principalId in writerPrincipalIds: {
    name: guid(account::blobs::container.id, principalId, storageBlobDataContributor)
    scope: account::blobs::container
    properties: {
      principalId: principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageBlobDataContributor)
    }
  }
]
