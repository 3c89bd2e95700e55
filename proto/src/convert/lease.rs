//! Endpoints, subnets and peers.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::parse_underlay;
use crate::model::{
    Endpoint, Family, Key, Peer, Port, Receiver, RoutedReceiver, Subnets, UdpReceiver, Vni, VxlanReceiver,
};
use crate::{InvalidValue, v1};

/// Most receivers of one endpoint: a live change needs two per family.
const MAX_RECEIVERS: usize = 8;
/// Most prefixes that a node names as its underlay.
pub const MAX_PREFIXES: usize = 64;

impl TryFrom<v1::VxlanReceiver> for VxlanReceiver {
    type Error = InvalidValue;

    fn try_from(wire: v1::VxlanReceiver) -> Result<Self, InvalidValue> {
        Ok(Self {
            family: family_from(wire.family)?,
            vni: Vni::try_from(wire.vni).map_err(|invalid| invalid.at("vni"))?,
            port: Port::try_from(wire.port).map_err(|invalid| invalid.at("port"))?,
            mac: wire.mac.parse().map_err(|invalid: InvalidValue| invalid.at("mac"))?,
            mtu: device_mtu(wire.mtu)?,
            gbp: wire.gbp,
        })
    }
}

/// As a kernel may report it: not more than a packet can be long, and enough for any (RFC 791 §3.2).
impl TryFrom<v1::RoutedReceiver> for RoutedReceiver {
    type Error = InvalidValue;

    fn try_from(wire: v1::RoutedReceiver) -> Result<Self, InvalidValue> {
        let mtu = wire.mtu.map(device_mtu).transpose()?.unwrap_or_default();
        Ok(Self { family: family_from(wire.family)?, mtu })
    }
}

impl From<RoutedReceiver> for v1::RoutedReceiver {
    fn from(routed: RoutedReceiver) -> Self {
        Self { family: family(routed.family), mtu: Some(routed.mtu).filter(|mtu| *mtu != 0) }
    }
}

fn device_mtu(mtu: u32) -> Result<u32, InvalidValue> {
    if (68..=65_535).contains(&mtu) {
        Ok(mtu)
    } else {
        Err(InvalidValue::new(mtu, "must be 68 to 65535 bytes").at("mtu"))
    }
}

impl From<VxlanReceiver> for v1::VxlanReceiver {
    fn from(vtep: VxlanReceiver) -> Self {
        Self {
            family: family(vtep.family),
            vni: vtep.vni.into(),
            port: vtep.port.into(),
            mac: vtep.mac.to_string(),
            mtu: vtep.mtu,
            gbp: vtep.gbp,
        }
    }
}

impl TryFrom<v1::UdpReceiver> for UdpReceiver {
    type Error = InvalidValue;

    fn try_from(wire: v1::UdpReceiver) -> Result<Self, InvalidValue> {
        Ok(Self {
            family: family_from(wire.family)?,
            vni: Vni::try_from(wire.vni).map_err(|invalid| invalid.at("vni"))?,
            port: Port::try_from(wire.port).map_err(|invalid| invalid.at("port"))?,
            key: Key::try_from(wire.key).map_err(|invalid| invalid.at("key"))?,
            mtu: device_mtu(wire.mtu)?,
        })
    }
}

impl From<UdpReceiver> for v1::UdpReceiver {
    fn from(udp: UdpReceiver) -> Self {
        Self {
            family: family(udp.family),
            vni: udp.vni.into(),
            port: udp.port.into(),
            key: udp.key.get(),
            mtu: udp.mtu,
        }
    }
}

fn family_from(wire: i32) -> Result<Family, InvalidValue> {
    match v1::AddressFamily::try_from(wire) {
        Ok(v1::AddressFamily::Ipv4) => Ok(Family::V4),
        Ok(v1::AddressFamily::Ipv6) => Ok(Family::V6),
        Ok(v1::AddressFamily::Unspecified) | Err(_) => {
            Err(InvalidValue::new(wire, "must be IPv4 or IPv6").at("family"))
        }
    }
}

fn family(family: Family) -> i32 {
    let wire = match family {
        Family::V4 => v1::AddressFamily::Ipv4,
        Family::V6 => v1::AddressFamily::Ipv6,
    };
    wire.into()
}

impl TryFrom<v1::Receiver> for Receiver {
    type Error = InvalidValue;

    fn try_from(wire: v1::Receiver) -> Result<Self, InvalidValue> {
        match wire.kind {
            Some(v1::receiver::Kind::Vxlan(vtep)) => {
                vtep.try_into().map(Self::Vxlan).map_err(|invalid: InvalidValue| invalid.at("vxlan"))
            }
            Some(v1::receiver::Kind::Routed(routed)) => {
                routed.try_into().map(Self::Routed).map_err(|invalid: InvalidValue| invalid.at("routed"))
            }
            Some(v1::receiver::Kind::Udp(udp)) => {
                udp.try_into().map(Self::Udp).map_err(|invalid: InvalidValue| invalid.at("udp"))
            }
            None => Err(InvalidValue::missing("kind")),
        }
    }
}

impl From<Receiver> for v1::Receiver {
    fn from(receiver: Receiver) -> Self {
        let kind = match receiver {
            Receiver::Vxlan(vtep) => v1::receiver::Kind::Vxlan(vtep.into()),
            Receiver::Routed(routed) => v1::receiver::Kind::Routed(routed.into()),
            Receiver::Udp(udp) => v1::receiver::Kind::Udp(udp.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = InvalidValue;

    fn try_from(wire: v1::Endpoint) -> Result<Self, InvalidValue> {
        let given = |text: &str| !text.is_empty();
        let v4 = Some(wire.address_v4.as_str()).filter(|text| given(text));
        let v6 = Some(wire.address_v6.as_str()).filter(|text| given(text));
        let v4 = v4.map(|text| parse_underlay::<Ipv4Addr>(text, Family::V4)).transpose();
        let v6 = v6.map(|text| parse_underlay::<Ipv6Addr>(text, Family::V6)).transpose();
        if wire.receivers.len() > MAX_RECEIVERS {
            let rule = format!("must be at most {MAX_RECEIVERS}");
            return Err(InvalidValue::new(wire.receivers.len(), rule).at("receivers"));
        }
        let mut receivers = Vec::with_capacity(wire.receivers.len());
        for (index, receiver) in wire.receivers.into_iter().enumerate() {
            let receiver = Receiver::try_from(receiver);
            receivers.push(receiver.map_err(|invalid| invalid.at(format!("receivers[{index}]")))?);
        }
        let endpoint = Self {
            v4: v4.map_err(|invalid| invalid.at("address_v4"))?,
            v6: v6.map_err(|invalid| invalid.at("address_v6"))?,
            receivers,
        };
        if endpoint.addresses().next().is_none() {
            let rule = "an IPv4 or IPv6 underlay address is required";
            return Err(InvalidValue::new("", rule).at("address_v4"));
        }
        for (index, receiver) in endpoint.receivers.iter().enumerate() {
            let family = receiver.family();
            if endpoint.address(family).is_none() {
                let rule = format!("needs an {family} underlay address in the endpoint");
                let invalid = InvalidValue::new(family, rule).at("family").at(receiver.kind());
                return Err(invalid.at(format!("receivers[{index}]")));
            }
        }
        Ok(endpoint)
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            address_v4: endpoint.v4.map(|address| address.to_string()).unwrap_or_default(),
            address_v6: endpoint.v6.map(|address| address.to_string()).unwrap_or_default(),
            receivers: endpoint.receivers.iter().copied().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Peer> for Peer {
    type Error = InvalidValue;

    fn try_from(wire: v1::Peer) -> Result<Self, InvalidValue> {
        Ok(Self {
            node: wire.node.parse().map_err(|invalid: InvalidValue| invalid.at("node"))?,
            subnets: parse_subnets(&wire.subnets, "subnets")?,
            endpoint: endpoint_or_missing(wire.endpoint)?,
        })
    }
}

impl From<&Peer> for v1::Peer {
    fn from(peer: &Peer) -> Self {
        Self {
            node: peer.node.to_string(),
            subnets: peer.subnets.iter().map(|net| net.to_string()).collect(),
            endpoint: Some((&peer.endpoint).into()),
        }
    }
}

/// An endpoint that must be there, in the field `endpoint`.
///
/// # Errors
/// When it is missing or invalid.
pub fn endpoint_or_missing(wire: Option<v1::Endpoint>) -> Result<Endpoint, InvalidValue> {
    let wire = wire.ok_or_else(|| InvalidValue::missing("endpoint"))?;
    wire.try_into().map_err(|invalid: InvalidValue| invalid.at("endpoint"))
}

/// Prefixes of a field, without host bits.
///
/// # Errors
/// When one is no prefix, or there are more than 64.
pub fn parse_prefixes(wire: &[String], field: &str) -> Result<Vec<IpNet>, InvalidValue> {
    if wire.len() > MAX_PREFIXES {
        let rule = format!("must be at most {MAX_PREFIXES} prefixes");
        return Err(InvalidValue::new(wire.len(), rule).at(field));
    }
    let parse = |(index, text): (usize, &String)| {
        let net = text.parse().ok().filter(|net: &IpNet| net.trunc() == *net);
        let rule = "must be a prefix without host bits, such as 192.0.2.0/24";
        net.ok_or_else(|| InvalidValue::new(text, rule).at(format!("{field}[{index}]")))
    };
    wire.iter().enumerate().map(parse).collect()
}

/// Subnets of a field: one CIDR per family, at least one.
///
/// # Errors
/// When one is no CIDR, or they are not one per family.
pub fn parse_subnets(wire: &[String], field: &str) -> Result<Subnets, InvalidValue> {
    let mut nets = Vec::with_capacity(wire.len());
    for (index, text) in wire.iter().enumerate() {
        let net: IpNet = text.parse().map_err(|_| {
            InvalidValue::new(text, "must be a CIDR such as 10.244.1.0/24").at(format!("{field}[{index}]"))
        })?;
        nets.push(net);
    }
    Subnets::new(nets).map_err(|invalid| invalid.at(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Peer {
        let family = v1::AddressFamily::Ipv4.into();
        let mac = "02:00:00:00:00:01".into();
        let vtep = v1::VxlanReceiver { family, vni: 1, port: 8472, mac, mtu: 1450, gbp: false };
        let udp = v1::UdpReceiver { family, vni: 1, port: 8285, key: u64::MAX, mtu: 1460 };
        let kinds = [
            v1::receiver::Kind::Vxlan(vtep),
            v1::receiver::Kind::Routed(v1::RoutedReceiver { family, mtu: Some(1450) }),
            v1::receiver::Kind::Udp(udp),
        ];
        v1::Peer {
            node: "a".into(),
            subnets: vec!["10.244.1.0/24".into()],
            endpoint: Some(v1::Endpoint {
                address_v4: "192.0.2.1".into(),
                address_v6: String::new(),
                receivers: kinds.map(|kind| v1::Receiver { kind: Some(kind) }).into(),
            }),
        }
    }

    #[test]
    fn a_peer_round_trips() {
        let peer = Peer::try_from(wire()).unwrap();
        assert_eq!(v1::Peer::from(&peer), wire());
    }

    #[test]
    fn an_error_names_the_path() {
        let field = |change: fn(&mut v1::Endpoint)| {
            let mut peer = wire();
            change(peer.endpoint.as_mut().unwrap());
            Peer::try_from(peer).unwrap_err().field
        };
        assert_eq!(field(|endpoint| endpoint.address_v4 = "0.0.0.0".into()), "endpoint.address_v4");
        assert_eq!(field(|endpoint| endpoint.address_v6 = "fe80::1".into()), "endpoint.address_v6");
        assert_eq!(field(|endpoint| endpoint.receivers[0].kind = None), "endpoint.receivers[0].kind");
        assert_eq!(field(|endpoint| endpoint.receivers = vec![Default::default(); 9]), "endpoint.receivers");
        let mac = |endpoint: &mut v1::Endpoint| {
            if let Some(v1::receiver::Kind::Vxlan(vtep)) = endpoint.receivers[0].kind.as_mut() {
                vtep.mac = "01:00:5e:00:00:01".into();
            }
        };
        assert_eq!(field(mac), "endpoint.receivers[0].vxlan.mac");
        fn udp(endpoint: &mut v1::Endpoint) -> &mut v1::UdpReceiver {
            match endpoint.receivers[2].kind.as_mut() {
                Some(v1::receiver::Kind::Udp(udp)) => udp,
                other => unreachable!("{other:?}"),
            }
        }
        assert_eq!(field(|endpoint| udp(endpoint).family = 0), "endpoint.receivers[2].udp.family");
        assert_eq!(field(|endpoint| udp(endpoint).family = 2), "endpoint.receivers[2].udp.family");
        assert_eq!(field(|endpoint| udp(endpoint).vni = 0), "endpoint.receivers[2].udp.vni");
        assert_eq!(field(|endpoint| udp(endpoint).port = 0), "endpoint.receivers[2].udp.port");
        assert_eq!(field(|endpoint| udp(endpoint).key = 0), "endpoint.receivers[2].udp.key");
        assert_eq!(field(|endpoint| udp(endpoint).mtu = 67), "endpoint.receivers[2].udp.mtu");
        fn routed(endpoint: &mut v1::Endpoint, mtu: u32) {
            let family = v1::AddressFamily::Ipv4.into();
            let routed = v1::RoutedReceiver { family, mtu: Some(mtu) };
            endpoint.receivers[1].kind = Some(v1::receiver::Kind::Routed(routed));
        }
        assert_eq!(field(|endpoint| routed(endpoint, 0)), "endpoint.receivers[1].routed.mtu");
        assert_eq!(field(|endpoint| routed(endpoint, 65_536)), "endpoint.receivers[1].routed.mtu");
    }
}
