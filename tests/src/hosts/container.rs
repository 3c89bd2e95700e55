//! A container: a namespace behind a bridge of its host, as a CNI plugin would attach it.

use std::{net::IpAddr, ops::Deref};

use ipnet::IpNet;

use super::{Error, Namespace, error::Doing, links, record};

/// A container's namespace, with `eth0`; the host's end is called `c-NAME`. Clones are the
/// same container.
#[derive(Clone, Debug)]
pub struct Container {
    namespace: Namespace,
    host: Namespace,
    addresses: Vec<IpNet>,
}

impl Container {
    pub(super) async fn create(
        host: &Namespace,
        name: &str,
        bridge: &str,
        address: IpNet,
        gateway: IpAddr,
    ) -> Result<Self, Error> {
        let mtu = host.link_mtu(bridge).await?;
        let namespace = Namespace::create(&host.record, name).await?;
        let port = port(name);
        namespace.add_veth("eth0", host, &port, mtu).await?;
        host.set_bridge(&port, bridge).await?;
        host.carries(&port).await?;
        host.carries(bridge).await?;
        namespace.carries("eth0").await?;
        namespace.add_address("eth0", address).await?;
        namespace.add_route(links::everywhere(gateway), gateway).await?;
        Ok(Self { namespace, host: host.clone(), addresses: vec![address] })
    }

    /// Gives `eth0` one more address, and a default route of its family.
    pub async fn add(&mut self, address: IpNet, gateway: IpAddr) -> Result<(), Error> {
        self.namespace.add_address("eth0", address).await?;
        self.namespace.add_route(links::everywhere(gateway), gateway).await?;
        self.addresses.push(address);
        Ok(())
    }

    /// The address that `eth0` was made with.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.addresses[0].addr()
    }

    /// All addresses that `eth0` was given.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr)
    }

    /// Takes the container away: its link at once, its namespace with its last user.
    pub async fn remove(self) -> Result<(), Error> {
        self.host.delete_link(&port(self.namespace.name())).await?;
        record::remove_namespace(self.namespace.full_name())
            .doing(|| format!("remove namespace {}", self.namespace.full_name()))
    }
}

fn port(container: &str) -> String {
    format!("c-{container}")
}

impl Deref for Container {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
