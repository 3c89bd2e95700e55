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
    Routed {
        family: &'static str,
        /// Where the node says it.
        #[serde(skip_serializing_if = "Option::is_none")]
        mtu: Option<u32>,
    },
    /// Without its key.
    Udp {
        family: &'static str,
        vni: u32,
        port: u32,
        mtu: u32,
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
            Self::Vxlan { family, vni, port, mac, gbp, .. } => {
                let gbp = if *gbp { " gbp" } else { "" };
                format!("vxlan{} {vni} {port} {mac}{gbp}", beside_v4(family))
            }
            Self::Routed { family, .. } => format!("routed{}", beside_v4(family)),
            Self::Udp { family, vni, port, .. } => format!("udp{} {vni} {port}", beside_v4(family)),
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
        match wire.kind {
            Some(v1::receiver::Kind::Vxlan(vtep)) => Self::Vxlan {
                family: family(vtep.family()),
                vni: vtep.vni,
                port: vtep.port,
                mac: vtep.mac,
                mtu: vtep.mtu,
                gbp: vtep.gbp,
            },
            Some(v1::receiver::Kind::Routed(routed)) => {
                Self::Routed { family: family(routed.family()), mtu: routed.mtu }
            }
            Some(v1::receiver::Kind::Udp(udp)) => {
                Self::Udp { family: family(udp.family()), vni: udp.vni, port: udp.port, mtu: udp.mtu }
            }
            None => Self::Unknown,
        }
    }
}

const fn family(wire: v1::AddressFamily) -> &'static str {
    match wire {
        v1::AddressFamily::Ipv4 => "ipv4",
        v1::AddressFamily::Ipv6 => "ipv6",
        v1::AddressFamily::Unspecified => "unknown",
    }
}

/// The family with a space before it, where it is not the one that goes without saying.
fn beside_v4(family: &str) -> String {
    if family == "ipv4" { String::new() } else { format!(" {family}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_receiver_is_named_with_its_family() {
        let routed = |family: v1::AddressFamily| {
            v1::receiver::Kind::Routed(v1::RoutedReceiver { family: family.into(), mtu: None })
        };
        let vtep = v1::VxlanReceiver {
            family: v1::AddressFamily::Ipv6.into(),
            vni: 1,
            port: 8472,
            mac: "02:00:5e:10:00:01".into(),
            mtu: 1430,
            gbp: false,
        };
        let udp = |family: v1::AddressFamily| {
            let (family, key) = (family.into(), 0x0123_4567);
            v1::receiver::Kind::Udp(v1::UdpReceiver { family, vni: 1, port: 8285, key, mtu: 1460 })
        };
        let kinds = [
            routed(v1::AddressFamily::Ipv4),
            routed(v1::AddressFamily::Ipv6),
            v1::receiver::Kind::Vxlan(vtep),
            udp(v1::AddressFamily::Ipv4),
            udp(v1::AddressFamily::Ipv6),
        ];
        let receivers = kinds.map(|kind| v1::Receiver { kind: Some(kind) }).into();
        let endpoint = v1::Endpoint { receivers, ..Default::default() };
        let view = EndpointView::from(endpoint);
        let words = "routed, routed ipv6, vxlan ipv6 1 8472 02:00:5e:10:00:01, udp 1 8285, udp ipv6 1 8285";
        assert_eq!(view.receivers(), words);
        let json = serde_json::to_value(view).unwrap();
        let udp = serde_json::json!({"kind": "udp", "family": "ipv4", "vni": 1, "port": 8285, "mtu": 1460});
        assert_eq!(json["receivers"][3], udp, "a key is nobody's business");
    }
}
