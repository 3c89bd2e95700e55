//! Networks.

use crate::model::{
    Backend, DeviceOffload, Masquerade, Mtu, Network, NetworkSpec, Pool, Port, UdpBackend, Vni, VxlanBackend,
};
use crate::{InvalidValue, names, v1};

use super::time::{duration, duration_from, timestamp, timestamp_from};

impl TryFrom<v1::Pool> for Pool {
    type Error = InvalidValue;

    fn try_from(wire: v1::Pool) -> Result<Self, InvalidValue> {
        let cidr = wire
            .cidr
            .parse()
            .map_err(|_| InvalidValue::new(&wire.cidr, "must be a CIDR such as 10.244.0.0/16").at("cidr"))?;
        let slot_len = wire.node_prefix_len.map(|len| {
            u8::try_from(len).map_err(|_| InvalidValue::new(len, "is no prefix length").at("node_prefix_len"))
        });
        Self::new(cidr, slot_len.transpose()?)
    }
}

impl From<&Pool> for v1::Pool {
    fn from(pool: &Pool) -> Self {
        Self { cidr: pool.cidr().to_string(), node_prefix_len: Some(pool.slot_len().into()) }
    }
}

impl TryFrom<v1::network::Backend> for Backend {
    type Error = InvalidValue;

    fn try_from(wire: v1::network::Backend) -> Result<Self, InvalidValue> {
        match wire {
            v1::network::Backend::Alloc(v1::AllocBackend {}) => Ok(Self::Alloc),
            v1::network::Backend::Vxlan(vxlan) => {
                let port = vxlan.port.map(Port::try_from).transpose();
                Ok(Self::Vxlan(VxlanBackend {
                    port: port.map_err(|invalid| invalid.at("port").at("vxlan"))?.unwrap_or(Port::VXLAN),
                    learning: vxlan.learning,
                    gbp: vxlan.gbp,
                    direct_routing: vxlan.direct_routing,
                }))
            }
            v1::network::Backend::HostGw(v1::HostGwBackend {}) => Ok(Self::HostGw),
            v1::network::Backend::Udp(udp) => {
                udp.try_into().map(Self::Udp).map_err(|invalid: InvalidValue| invalid.at("udp"))
            }
        }
    }
}

impl TryFrom<v1::UdpBackend> for UdpBackend {
    type Error = InvalidValue;

    fn try_from(wire: v1::UdpBackend) -> Result<Self, InvalidValue> {
        let port = wire.port.map(Port::try_from).transpose();
        Ok(Self {
            port: port.map_err(|invalid| invalid.at("port"))?.unwrap_or(Port::UDP),
            device_offload: device_offload_from(wire.device_offload)?,
            single_sends: wire.single_sends,
            single_receives: wire.single_receives,
        })
    }
}

/// What a device hands out at most, in the field `device_offload`.
///
/// # Errors
/// It is none that is known.
pub fn device_offload_from(wire: i32) -> Result<DeviceOffload, InvalidValue> {
    match v1::DeviceOffload::try_from(wire) {
        Ok(v1::DeviceOffload::Unspecified | v1::DeviceOffload::Uso) => Ok(DeviceOffload::Uso),
        Ok(v1::DeviceOffload::Tso) => Ok(DeviceOffload::Tso),
        Ok(v1::DeviceOffload::Plain) => Ok(DeviceOffload::Plain),
        Err(_) => Err(InvalidValue::new(wire, "must be USO, TSO or PLAIN").at("device_offload")),
    }
}

impl From<Backend> for v1::network::Backend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Alloc => Self::Alloc(v1::AllocBackend {}),
            Backend::Vxlan(vxlan) => Self::Vxlan(v1::VxlanBackend {
                port: Some(vxlan.port.into()),
                learning: vxlan.learning,
                gbp: vxlan.gbp,
                direct_routing: vxlan.direct_routing,
            }),
            Backend::HostGw => Self::HostGw(v1::HostGwBackend {}),
            Backend::Udp(udp) => Self::Udp(v1::UdpBackend {
                port: Some(udp.port.into()),
                device_offload: v1::DeviceOffload::from(udp.device_offload).into(),
                single_sends: udp.single_sends,
                single_receives: udp.single_receives,
            }),
        }
    }
}

impl From<DeviceOffload> for v1::DeviceOffload {
    fn from(most: DeviceOffload) -> Self {
        match most {
            DeviceOffload::Plain => Self::Plain,
            DeviceOffload::Tso => Self::Tso,
            DeviceOffload::Uso => Self::Uso,
        }
    }
}

impl TryFrom<v1::Masquerade> for Masquerade {
    type Error = InvalidValue;

    fn try_from(wire: v1::Masquerade) -> Result<Self, InvalidValue> {
        let cidr = |(index, text): (usize, &String)| {
            let rule = "must be a CIDR such as 192.168.0.0/16";
            text.parse().map_err(|_| InvalidValue::new(text, rule).at(format!("except[{index}]")))
        };
        let except = wire.except.iter().enumerate().map(cidr).collect::<Result<_, _>>()?;
        Self::new(except, wire.random_fully)
    }
}

impl From<&Masquerade> for v1::Masquerade {
    fn from(masquerade: &Masquerade) -> Self {
        Self {
            except: masquerade.except.iter().map(ToString::to_string).collect(),
            random_fully: masquerade.random_fully,
        }
    }
}

impl TryFrom<v1::Network> for NetworkSpec {
    type Error = InvalidValue;

    fn try_from(wire: v1::Network) -> Result<Self, InvalidValue> {
        let id = names::parse_network(&wire.name).map_err(|invalid| invalid.at("name"))?;
        let mut pools = Vec::with_capacity(wire.pools.len());
        for (index, pool) in wire.pools.into_iter().enumerate() {
            pools.push(Pool::try_from(pool).map_err(|invalid| invalid.at(format!("pools[{index}]")))?);
        }
        let backend = wire.backend.ok_or_else(|| InvalidValue::missing("backend"))?;
        let spec = Self {
            id,
            pools,
            vni: wire.vni.map(Vni::try_from).transpose().map_err(|invalid| invalid.at("vni"))?,
            mtu: wire.mtu.map(Mtu::try_from).transpose().map_err(|invalid| invalid.at("mtu"))?,
            backend: backend.try_into()?,
            lease_ttl: wire
                .lease_ttl
                .map(duration_from)
                .transpose()
                .map_err(|invalid| invalid.at("lease_ttl"))?,
            masquerade: wire
                .masquerade
                .map(Masquerade::try_from)
                .transpose()
                .map_err(|invalid| invalid.at("masquerade"))?,
        };
        spec.check()?;
        Ok(spec)
    }
}

impl TryFrom<v1::Network> for Network {
    type Error = InvalidValue;

    fn try_from(wire: v1::Network) -> Result<Self, InvalidValue> {
        let revision = wire.revision;
        let created = wire.create_time.ok_or_else(|| InvalidValue::missing("create_time"))?;
        let created = timestamp_from(created).map_err(|invalid| invalid.at("create_time"))?;
        let spec = NetworkSpec::try_from(wire)?;
        Ok(Self {
            vni: spec.vni.ok_or_else(|| InvalidValue::missing("vni"))?,
            id: spec.id,
            pools: spec.pools,
            mtu: spec.mtu,
            backend: spec.backend,
            lease_ttl: spec.lease_ttl,
            masquerade: spec.masquerade,
            created,
            revision,
        })
    }
}

impl From<&Network> for v1::Network {
    fn from(network: &Network) -> Self {
        Self {
            name: names::network(&network.id),
            pools: network.pools.iter().map(Into::into).collect(),
            vni: Some(network.vni.into()),
            mtu: network.mtu.map(Into::into),
            create_time: Some(timestamp(network.created)),
            revision: network.revision,
            lease_ttl: network.lease_ttl.map(duration),
            masquerade: network.masquerade.as_ref().map(Into::into),
            backend: Some(network.backend.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Network {
        v1::Network {
            name: "networks/default".into(),
            pools: vec![v1::Pool { cidr: "10.244.0.0/16".into(), node_prefix_len: None }],
            backend: Some(v1::network::Backend::Vxlan(v1::VxlanBackend::default())),
            ..Default::default()
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let spec = NetworkSpec::try_from(wire()).unwrap();
        assert_eq!(spec.backend, Backend::Vxlan(VxlanBackend::default()));
        assert_eq!((spec.vni, spec.mtu, spec.lease_ttl, spec.masquerade), (None, None, None, None));
        let udp = Some(v1::network::Backend::Udp(v1::UdpBackend::default()));
        let spec = NetworkSpec::try_from(v1::Network { backend: udp, ..wire() }).unwrap();
        let port = Port::try_from(8285).unwrap();
        let (device_offload, single_sends, single_receives) = (DeviceOffload::Uso, false, false);
        assert_eq!(
            spec.backend,
            Backend::Udp(UdpBackend { port, device_offload, single_sends, single_receives })
        );
    }

    #[test]
    fn an_error_names_the_path() {
        let field = |change: fn(&mut v1::Network)| {
            let mut network = wire();
            change(&mut network);
            NetworkSpec::try_from(network).unwrap_err().field
        };
        assert_eq!(field(|network| network.name = "default".into()), "name");
        assert_eq!(field(|network| network.pools.clear()), "pools");
        assert_eq!(field(|network| network.pools[0].cidr = "10.0.0.1/8".into()), "pools[0].cidr");
        assert_eq!(field(|network| network.pools.push(network.pools[0].clone())), "pools[1].cidr");
        assert_eq!(field(|network| network.vni = Some(0)), "vni");
        assert_eq!(field(|network| network.mtu = Some(40)), "mtu");
        assert_eq!(field(|network| network.backend = None), "backend");
        let port = |network: &mut v1::Network| {
            let vxlan = v1::VxlanBackend { port: Some(65_536), ..Default::default() };
            network.backend = Some(v1::network::Backend::Vxlan(vxlan));
        };
        assert_eq!(field(port), "vxlan.port");
        let port = |network: &mut v1::Network| {
            let udp = v1::UdpBackend { port: Some(0), ..Default::default() };
            network.backend = Some(v1::network::Backend::Udp(udp));
        };
        assert_eq!(field(port), "udp.port");
        let offload = |network: &mut v1::Network| {
            let udp = v1::UdpBackend { device_offload: 4, ..Default::default() };
            network.backend = Some(v1::network::Backend::Udp(udp));
        };
        assert_eq!(field(offload), "udp.device_offload");
        let except = |cidrs: &[&str]| {
            let except = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
            let masquerade = Some(v1::Masquerade { except, random_fully: false });
            NetworkSpec::try_from(v1::Network { masquerade, ..wire() }).unwrap_err().to_string()
        };
        assert_eq!(
            except(&["192.168.0.0/16", "10.0.0.1/8"]),
            "masquerade.except[1]: \"10.0.0.1/8\" has host bits set; the network is 10.0.0.0/8"
        );
        assert_eq!(
            except(&["10.0.0.0"]),
            "masquerade.except[0]: \"10.0.0.0\" must be a CIDR such as 192.168.0.0/16"
        );
        assert_eq!(except(&["::/0"; 129]), "masquerade.except: \"129\" must be at most 128");
    }

    #[test]
    fn a_network_round_trips() {
        let udp = |device_offload, single_sends| {
            let port = Port::try_from(8286).unwrap();
            Backend::Udp(UdpBackend { port, device_offload, single_sends, single_receives: !single_sends })
        };
        let backends = [
            Backend::Alloc,
            Backend::HostGw,
            Backend::Vxlan(VxlanBackend { learning: true, direct_routing: true, ..VxlanBackend::default() }),
            udp(DeviceOffload::Uso, true),
            udp(DeviceOffload::Tso, false),
            udp(DeviceOffload::Plain, true),
        ];
        for backend in backends {
            let network = Network {
                id: "blue".parse().unwrap(),
                pools: vec![Pool::new("10.244.0.0/16".parse().unwrap(), Some(26)).unwrap()],
                vni: Vni::try_from(7).unwrap(),
                mtu: Some(Mtu::try_from(1400).unwrap()),
                backend,
                lease_ttl: Some(std::time::Duration::from_secs(60)),
                masquerade: Some(Masquerade::new(vec!["fd00::/8".parse().unwrap()], true).unwrap()),
                created: std::time::SystemTime::UNIX_EPOCH,
                revision: 3,
            };
            assert_eq!(Network::try_from(v1::Network::from(&network)), Ok(network));
        }
    }
}
