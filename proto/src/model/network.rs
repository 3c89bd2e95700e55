//! Networks: what is asked for, and what exists.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Family, Mtu, Pool, Port, Vni};
use crate::InvalidValue;
use crate::names::NetworkId;

/// A network as it is asked for.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct NetworkSpec {
    /// Its name.
    pub id: NetworkId,
    /// At least one; they never overlap each other.
    pub pools: Vec<Pool>,
    /// `None`: the server allocates one.
    pub vni: Option<Vni>,
    /// MTU of the pods in bytes. `None`: each node's lower device decides.
    pub mtu: Option<Mtu>,
    /// How nodes reach each other's subnets.
    pub backend: Backend,
    /// How long a lease lives without renewal. `None`: the server's default.
    pub lease_ttl: Option<Duration>,
    /// Packets leave for the world outside with the node's address. `None`: with the pods'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Masquerade>,
}

/// A network as it exists.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Network {
    /// Its name.
    pub id: NetworkId,
    /// At least one; they never overlap each other.
    pub pools: Vec<Pool>,
    /// Unique in the cluster. An attribute, not the network's identity.
    pub vni: Vni,
    /// MTU of the pods in bytes. `None`: each node's lower device decides.
    pub mtu: Option<Mtu>,
    /// How nodes reach each other's subnets.
    pub backend: Backend,
    /// How long a lease lives without renewal. `None`: the server's default.
    pub lease_ttl: Option<Duration>,
    /// Packets leave for the world outside with the node's address. `None`: with the pods'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Masquerade>,
    /// When it was created.
    pub created: SystemTime,
    /// Higher after every change of the network.
    pub revision: u64,
}

/// How nodes reach each other's subnets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Leases only; nothing is programmed.
    Alloc,
    /// Kernel VXLAN.
    Vxlan(VxlanBackend),
    /// Routes by next hop, without encapsulation.
    HostGw,
    /// A tunnel of the agents' own.
    Udp(UdpBackend),
}

impl Backend {
    /// Whether packets may reach a node as they are, without encapsulation.
    #[must_use]
    pub const fn is_routed(&self) -> bool {
        match self {
            Self::Alloc | Self::Udp(_) => false,
            Self::Vxlan(vxlan) => vxlan.direct_routing,
            Self::HostGw => true,
        }
    }

    /// The UDP port of its tunnels.
    #[must_use]
    pub const fn port(&self) -> Option<Port> {
        match self {
            Self::Alloc | Self::HostGw => None,
            Self::Vxlan(vxlan) => Some(vxlan.port),
            Self::Udp(udp) => Some(udp.port),
        }
    }
}

/// As it is typed and shown.
impl Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alloc => "alloc",
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp(_) => "udp",
        })
    }
}

/// Kernel VXLAN (RFC 7348).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct VxlanBackend {
    /// UDP port.
    pub port: Port,
    /// Learn MAC addresses from received frames.
    pub learning: bool,
    /// Carry the group policy extension; a property of the port.
    pub gbp: bool,
    /// Send to neighbours by next hop, without encapsulation.
    #[serde(default)]
    pub direct_routing: bool,
}

impl Default for VxlanBackend {
    fn default() -> Self {
        Self { port: Port::VXLAN, learning: false, gbp: false, direct_routing: false }
    }
}

/// A tunnel of the agents' own over UDP, and what it leaves to the kernel at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct UdpBackend {
    /// UDP port; a node may receive on another.
    pub port: Port,
    /// What the device hands out at most.
    pub device_offload: DeviceOffload,
    /// Send each datagram by itself.
    pub single_sends: bool,
    /// Receive each datagram by itself.
    pub single_receives: bool,
}

impl Default for UdpBackend {
    fn default() -> Self {
        Self {
            port: Port::UDP,
            device_offload: DeviceOffload::default(),
            single_sends: false,
            single_receives: false,
        }
    }
}

/// What a tunnel's device hands out, from least to most: each includes what comes before it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceOffload {
    /// Packets as they go over the wire.
    Plain,
    /// TCP that is not cut into segments yet.
    Tso,
    /// UDP that is not cut into datagrams yet.
    #[default]
    Uso,
}

impl Display for DeviceOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Tso => "tso",
            Self::Uso => "uso",
        })
    }
}

/// How packets leave a network for the world outside.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Masquerade {
    /// Destinations for which the pods' addresses stay.
    pub except: Vec<IpNet>,
    /// Choose source ports at random.
    pub random_fully: bool,
}

impl Masquerade {
    /// Most exceptions of one network.
    pub const MOST_EXCEPTIONS: usize = 128;

    /// A policy.
    ///
    /// # Errors
    /// An exception has host bits set, or there are too many.
    pub fn new(except: Vec<IpNet>, random_fully: bool) -> Result<Self, InvalidValue> {
        if except.len() > Self::MOST_EXCEPTIONS {
            let rule = format!("must be at most {}", Self::MOST_EXCEPTIONS);
            return Err(InvalidValue::new(except.len(), rule).at("except"));
        }
        if let Some((index, cidr)) = except.iter().enumerate().find(|(_, cidr)| **cidr != cidr.trunc()) {
            let rule = format!("has host bits set; the network is {}", cidr.trunc());
            return Err(InvalidValue::new(cidr, rule).at(format!("except[{index}]")));
        }
        Ok(Self { except, random_fully })
    }
}

impl NetworkSpec {
    /// The shortest lease: below it a renewal every third would be noise.
    pub const MIN_LEASE_TTL: Duration = Duration::from_secs(10);
    /// The longest lease, a year.
    pub const MAX_LEASE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Checks the rules that span several fields.
    ///
    /// # Errors
    /// When there is no pool, pools overlap, the MTU is too small for IPv6, or
    /// the lease time is outside its range.
    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.pools.is_empty() {
            return Err(InvalidValue::new("", "at least one pool is required").at("pools"));
        }
        for (index, pool) in self.pools.iter().enumerate() {
            if let Some(other) = self.pools[..index].iter().find(|other| other.overlaps(pool.cidr())) {
                let rule = format!("overlaps the pool {}", other.cidr());
                return Err(InvalidValue::new(pool.cidr(), rule).at("cidr").at(format!("pools[{index}]")));
            }
        }
        let has_v6 = self.pools.iter().any(|pool| pool.family() == Family::V6);
        if let Some(mtu) = self.mtu.filter(|mtu| has_v6 && mtu.get() < Mtu::MIN_V6) {
            let rule = "must be at least 1280 bytes: a pool is IPv6";
            return Err(InvalidValue::new(mtu, rule).at("mtu"));
        }
        let allowed = Self::MIN_LEASE_TTL..=Self::MAX_LEASE_TTL;
        if let Some(ttl) = self.lease_ttl.filter(|ttl| !allowed.contains(ttl)) {
            let value = format!("{}s", ttl.as_secs_f64());
            return Err(InvalidValue::new(value, "must be 10 seconds to 365 days").at("lease_ttl"));
        }
        Ok(())
    }
}

impl Network {
    /// The pool that a slot belongs to, and its index there.
    #[must_use]
    pub fn slot(&self, slot: IpNet) -> Option<(&Pool, u32)> {
        self.pools.iter().find_map(|pool| pool.index(slot).map(|index| (pool, index)))
    }

    /// The families of the pools, IPv4 first.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let has = |family| self.pools.iter().any(|pool| pool.family() == family);
        [Family::V4, Family::V6].into_iter().filter(|family| has(*family)).collect()
    }
}
