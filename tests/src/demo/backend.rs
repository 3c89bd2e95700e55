//! The backends that the demo can be told with.

use std::fmt::{self, Display};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;

/// How packets get from host to host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Backend {
    /// Kernel VXLAN.
    #[default]
    Vxlan,
    /// As they are, by next hop.
    HostGw,
    /// A tunnel of the agents' own.
    Udp,
}

impl Backend {
    /// All of them, in the order of comparison.
    pub const ALL: [Self; 3] = [Self::Vxlan, Self::HostGw, Self::Udp];

    /// What a lease says of where the node takes packets, in words.
    ///
    /// # Errors
    /// The lease has no such receiver.
    pub(super) fn receives(self, lease: &Value) -> anyhow::Result<String> {
        let kind = match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "routed",
            Self::Udp => "udp",
        };
        let receivers = lease["endpoint"]["receivers"].as_array().into_iter().flatten();
        let receiver = receivers.into_iter().find(|receiver| receiver["kind"] == kind);
        let receiver = receiver.with_context(|| format!("the lease has no {self} receiver: {lease}"))?;
        let words = match self {
            Self::Vxlan => receiver["mac"].as_str().map(|mac| format!("VTEP {mac}")),
            Self::HostGw => Some("as it is".to_owned()),
            Self::Udp => receiver["port"].as_u64().map(|port| format!("UDP {port}")),
        };
        words.with_context(|| format!("the receiver lacks something: {receiver}"))
    }

    /// How many echo requests or replies an agent can have in its hands when it is killed: those are lost.
    pub(super) const fn in_hand(self) -> usize {
        match self {
            Self::Vxlan | Self::HostGw => 0,
            // Its thread for each direction takes one from the kernel and gives it back.
            Self::Udp => 2,
        }
    }

    /// What is between the hosts, for a title.
    pub(super) fn between(self, port: Option<u16>) -> String {
        let port = port.map(|port| format!(" on UDP {port}")).unwrap_or_default();
        match self {
            Self::Vxlan => format!("VXLAN{port}"),
            Self::HostGw => "next hops".to_owned(),
            Self::Udp => format!("the agents' tunnel{port}"),
        }
    }
}

/// As `lodenctl network create --backend` takes it.
impl Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp => "udp",
        })
    }
}
