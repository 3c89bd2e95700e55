//! Endpoints as shown, of leases and peers.

use loden_proto::v1;
use serde::Serialize;

/// Where and how a node receives.
#[derive(Debug, Serialize)]
pub(crate) struct EndpointView {
    address_v4: Option<String>,
    address_v6: Option<String>,
    receivers: Vec<ReceiverView>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum ReceiverView {
    Vxlan {
        family: &'static str,
        vni: u32,
        port: u32,
        mac: String,
        mtu: u32,
        gbp: bool,
    },
    /// Of a newer control plane.
    Unknown,
}

impl EndpointView {
    /// The underlay addresses, for a table.
    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<_> =
            [&self.address_v4, &self.address_v6].into_iter().flatten().map(String::as_str).collect();
        addresses.join(" ")
    }

    /// What receives, for a table.
    pub(crate) fn receivers(&self) -> String {
        let receivers: Vec<_> = self.receivers.iter().map(ReceiverView::words).collect();
        receivers.join(", ")
    }
}

impl ReceiverView {
    fn words(&self) -> String {
        match self {
            Self::Vxlan { vni, port, mac, gbp, .. } => {
                let gbp = if *gbp { " gbp" } else { "" };
                format!("vxlan {vni} {port} {mac}{gbp}")
            }
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

impl From<v1::Endpoint> for EndpointView {
    fn from(wire: v1::Endpoint) -> Self {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            address_v4: given(wire.address_v4),
            address_v6: given(wire.address_v6),
            receivers: wire.receivers.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::Receiver> for ReceiverView {
    fn from(wire: v1::Receiver) -> Self {
        let Some(v1::receiver::Kind::Vxlan(vtep)) = wire.kind else { return Self::Unknown };
        let family = match vtep.family() {
            v1::AddressFamily::Ipv4 => "ipv4",
            v1::AddressFamily::Ipv6 => "ipv6",
            v1::AddressFamily::Unspecified => "unknown",
        };
        Self::Vxlan { family, vni: vtep.vni, port: vtep.port, mac: vtep.mac, mtu: vtep.mtu, gbp: vtep.gbp }
    }
}
