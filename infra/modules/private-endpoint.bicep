metadata description = 'A private endpoint for one service, and the DNS zone that leads there.'

@description('What the endpoint is for: a part of its name.')
param name string

@description('Makes names unique.')
param token string

@description('Region of the network.')
param location string

@description('Tags of every resource.')
param tags object

@description('Resource id of the service behind the endpoint.')
param serviceId string

@description('Sub-resource of the service, such as vault or blob.')
param serviceGroup string

@description('Subnet of the endpoint.')
param subnetId string

@description('Private DNS zone of the service.')
param dnsZone string

@description('Make the zone and link it to the network. False where a hub has it.')
param createDnsZone bool

resource endpoint 'Microsoft.Network/privateEndpoints@2024-05-01' = {
  name: 'pep-${name}-${token}'
  location: location
  tags: tags
  properties: {
    subnet: { id: subnetId }
    privateLinkServiceConnections: [
      { name: name, properties: { privateLinkServiceId: serviceId, groupIds: [serviceGroup] } }
    ]
  }

  resource addresses 'privateDnsZoneGroups' = if (createDnsZone) {
    name: 'default'
    properties: { privateDnsZoneConfigs: [{ name: name, properties: { privateDnsZoneId: zone.id } }] }
  }
}

resource zone 'Microsoft.Network/privateDnsZones@2024-06-01' = if (createDnsZone) {
  name: dnsZone
  // Zones belong to no region.
  #disable-next-line no-hardcoded-location
  location: 'global'
  tags: tags

  resource link 'virtualNetworkLinks' = {
    name: 'app'
    #disable-next-line no-hardcoded-location
    location: 'global'
    tags: tags
    properties: { registrationEnabled: false, virtualNetwork: { id: split(subnetId, '/subnets/')[0] } }
  }
}
