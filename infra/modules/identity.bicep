metadata description = 'The one identity of the app. User-assigned: it outlives the app, and so do its roles in PostgreSQL.'

@description('Makes names unique.')
param token string

@description('Region.')
param location string

@description('Tags of every resource.')
param tags object

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-rotator-${token}'
  location: location
  tags: tags
}

@description('Resource id.')
output id string = identity.id

@description('Name: the login of entra admins in PostgreSQL.')
output name string = identity.name

@description('Client id.')
output clientId string = identity.properties.clientId

@description('Object id, to which roles are assigned.')
output principalId string = identity.properties.principalId
