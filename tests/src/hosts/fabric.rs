//! The underlay: one broadcast segment that hosts are plugged into.

use std::{ops::Deref, sync::Arc};

use super::{Error, Namespace, record::Record};

/// Jumbo, so that the ports decide.
const BRIDGE_MTU: u32 = 9000;
const BRIDGE: &str = "lan";

/// A namespace with one bridge, `lan`; each host's NIC is a port of it, called `HOST-NIC`
/// (`a-eth0`). Clones are the same fabric.
#[derive(Clone, Debug)]
pub struct Fabric {
    namespace: Namespace,
}

impl Fabric {
    pub(super) async fn create(record: &Arc<Record>, name: &str) -> Result<Self, Error> {
        let namespace = Namespace::create(record, name).await?;
        // The segment is a wire: it has no addresses and joins in nobody's protocols.
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        namespace.add_bridge(BRIDGE, BRIDGE_MTU).await?;
        Ok(Self { namespace })
    }

    /// Plugs a NIC called `nic` (at most 4 characters) of `host` in, with an MTU in bytes.
    pub(super) async fn plug(&self, host: &Namespace, nic: &str, mtu: u32) -> Result<(), Error> {
        let port = port(host.name(), nic);
        host.add_veth(nic, &self.namespace, &port, mtu).await?;
        self.namespace.set_bridge(&port, BRIDGE).await?;
        self.namespace.carries(&port).await?;
        host.carries(nic).await
    }

    /// Pulls the cable of a host's NIC: the host sees its carrier go.
    pub async fn unplug(&self, host: &Namespace, nic: &str) -> Result<(), Error> {
        self.namespace.set_down(&port(host.name(), nic)).await
    }

    /// Puts the cable back and waits until it carries traffic.
    pub async fn replug(&self, host: &Namespace, nic: &str) -> Result<(), Error> {
        let port = port(host.name(), nic);
        self.namespace.set_up(&port).await?;
        self.namespace.carries(&port).await?;
        host.carries(nic).await
    }
}

fn port(host: &str, nic: &str) -> String {
    format!("{host}-{nic}")
}

impl Deref for Fabric {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
