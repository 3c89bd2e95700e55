//! A host: a namespace with NICs on fabrics, that forwards, runs programs and has containers.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use ipnet::IpNet;

use super::{Container, Error, Fabric, Namespace, links, record::Record};

const MTU: u32 = 1500;

/// A host. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: Namespace,
}

impl Host {
    /// Gives the host one more NIC (a name of at most 4 characters) on a fabric, up, with an
    /// MTU in bytes.
    pub async fn plug(&self, fabric: &Fabric, nic: &str, mtu: u32) -> Result<(), Error> {
        fabric.plug(&self.namespace, nic, mtu).await
    }

    /// Has the host filter strictly by the reverse path (RFC 3704) on every interface that it has and will have;
    /// whoever wants an interface to be less strict says so for that one.
    pub fn filter_strictly(&self) -> Result<(), Error> {
        for interface in ["all", "default", "eth0"] {
            self.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "1")?;
        }
        Ok(())
    }

    /// Makes a bridge for containers, up, with the containers' gateway on it.
    pub async fn bridge(&self, name: &str, gateway: IpNet, mtu: u32) -> Result<(), Error> {
        self.namespace.add_bridge(name, mtu).await?;
        self.namespace.add_address(name, gateway).await
    }

    /// Makes a container on one of the host's bridges: `eth0` with `address` and the bridge's
    /// MTU, default route via `gateway`. `name` is unique in the lab: 1 to 10 of `a-z 0-9 -`.
    pub async fn container(
        &self,
        name: &str,
        bridge: &str,
        address: IpNet,
        gateway: IpAddr,
    ) -> Result<Container, Error> {
        Container::create(&self.namespace, name, bridge, address, gateway).await
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// A host to be made: `lab.host("a").on(&fabric).address(cidr("192.0.2.1/24")).build().await`.
#[derive(Debug)]
#[must_use = "nothing is made before build()"]
pub struct HostBuilder {
    record: Arc<Record>,
    name: String,
    fabric: Option<Fabric>,
    addresses: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    mtu: u32,
}

impl HostBuilder {
    pub(super) fn new(record: Arc<Record>, name: &str) -> Self {
        Self {
            record,
            name: name.to_owned(),
            fabric: None,
            addresses: Vec::new(),
            gateways: Vec::new(),
            mtu: MTU,
        }
    }

    /// Gives the host `eth0` on this fabric. Without it a host has only `lo`.
    pub fn on(mut self, fabric: &Fabric) -> Self {
        self.fabric = Some(fabric.clone());
        self
    }

    /// An address of `eth0`; call it again for more.
    pub fn address(mut self, address: IpNet) -> Self {
        self.addresses.push(address);
        self
    }

    /// A default route; one per family.
    pub fn gateway(mut self, gateway: IpAddr) -> Self {
        self.gateways.push(gateway);
        self
    }

    /// The MTU of `eth0`, in bytes; 1500 if not given.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Makes the host: forwarding on in both families, reverse path filter off.
    pub async fn build(self) -> Result<Host, Error> {
        let namespace = Namespace::create(&self.record, &self.name).await?;
        // A new namespace may inherit these from the machine, so all are set.
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        let host = Host { namespace };
        if let Some(fabric) = &self.fabric {
            host.plug(fabric, "eth0", self.mtu).await?;
        }
        for address in self.addresses {
            host.add_address("eth0", address).await?;
        }
        for gateway in self.gateways {
            host.add_route(links::everywhere(gateway), gateway).await?;
        }
        Ok(host)
    }
}
