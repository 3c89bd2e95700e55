//! A network's backend: with whom it shares a UDP port, and what of it can be changed.

use std::fmt::Display;

use loden_proto::InvalidValue;
use loden_proto::model::{Backend, Network, NetworkSpec, Port};

use crate::ledger::Ledger;
use crate::ledger::command::{NetworkChange, OffloadChange};
use crate::ledger::refusal::Refusal;

impl Ledger {
    /// On a host a UDP port is for one kind of backend, and the group policy extension is a property of the port.
    pub(super) fn check_port(&self, spec: &NetworkSpec) -> Result<(), Refusal> {
        let Some(port) = spec.backend.port() else { return Ok(()) };
        let sharing = self.networks().filter(|network| network.backend.port() == Some(port));
        sharing.map(|other| may_share(port, spec, other)).find(Result::is_err).unwrap_or(Ok(()))
    }
}

/// Whether a network can have the port that another one has.
fn may_share(port: Port, spec: &NetworkSpec, other: &Network) -> Result<(), Refusal> {
    match (spec.backend, other.backend) {
        (Backend::Vxlan(asked), Backend::Vxlan(there)) if asked.gbp != there.gbp => {
            Err(Refusal::PortDisagrees {
                field: "network.vxlan.gbp".to_owned(),
                gbp: asked.gbp,
                port,
                network: other.id.clone(),
            })
        }
        // They tell each other's packets by the VNI.
        (Backend::Vxlan(_), Backend::Vxlan(_)) | (Backend::Udp(_), Backend::Udp(_)) => Ok(()),
        (asked, there) => Err(Refusal::PortTaken {
            field: format!("network.{asked}.port"),
            port,
            network: spec.id.clone(),
            backend: asked,
            other: other.id.clone(),
            others: there,
        }),
    }
}

/// The backend with what of it is to be changed. Its kind never changes, nor does anything for which nodes would have
/// to make their tunnels anew.
pub(super) fn changed(now: Backend, change: &NetworkChange) -> Result<Backend, InvalidValue> {
    let mut next = now;
    if let Some(direct_routing) = change.direct_routing {
        let Backend::Vxlan(vxlan) = &mut next else {
            return Err(foreign("vxlan", "direct_routing", direct_routing, now));
        };
        vxlan.direct_routing = direct_routing;
    }
    let OffloadChange { device, single_sends, single_receives } = change.offloads;
    if let Some(most) = device {
        let Backend::Udp(udp) = &mut next else { return Err(foreign("udp", "device_offload", most, now)) };
        udp.device_offload = most;
    }
    if let Some(single) = single_sends {
        let Backend::Udp(udp) = &mut next else { return Err(foreign("udp", "single_sends", single, now)) };
        udp.single_sends = single;
    }
    if let Some(single) = single_receives {
        let Backend::Udp(udp) = &mut next else { return Err(foreign("udp", "single_receives", single, now)) };
        udp.single_receives = single;
    }
    Ok(next)
}

/// A field of a backend that the network does not have.
fn foreign(of: &str, field: &str, value: impl Display, now: Backend) -> InvalidValue {
    let rule =
        format!("is for the backend {of} alone, and the backend of this network, {now}, never changes");
    InvalidValue::new(value, rule).at(format!("network.{of}.{field}"))
}

#[cfg(test)]
mod tests {
    use loden_proto::model::{DeviceOffload, UdpBackend, VxlanBackend};

    use super::*;

    fn offloads(offloads: OffloadChange) -> NetworkChange {
        NetworkChange { offloads, ..NetworkChange::default() }
    }

    #[test]
    fn each_limit_of_a_udp_tunnel_changes_alone() {
        let first = UdpBackend::default();
        let change = |now, change| match changed(Backend::Udp(now), &offloads(change)) {
            Ok(Backend::Udp(next)) => next,
            other => panic!("{other:?}"),
        };
        let none = OffloadChange::default();
        assert_eq!(change(first, none), first);
        let plain = change(first, OffloadChange { device: Some(DeviceOffload::Plain), ..none });
        assert_eq!(plain, UdpBackend { device_offload: DeviceOffload::Plain, ..first });
        let sends = change(plain, OffloadChange { single_sends: Some(true), ..none });
        assert_eq!(sends, UdpBackend { single_sends: true, ..plain });
        let receives = change(sends, OffloadChange { single_receives: Some(true), ..none });
        assert_eq!(receives, UdpBackend { single_receives: true, ..sends });
        let back = OffloadChange {
            device: Some(DeviceOffload::Uso),
            single_sends: Some(false),
            single_receives: Some(false),
        };
        assert_eq!(change(receives, back), first);
    }

    #[test]
    fn what_is_another_backends_is_refused_by_name() {
        let told = |now, change: NetworkChange| changed(now, &change).unwrap_err().to_string();
        let rest = "and the backend of this network,";
        let device = OffloadChange { device: Some(DeviceOffload::Tso), ..OffloadChange::default() };
        assert_eq!(
            told(Backend::Vxlan(VxlanBackend::default()), offloads(device)),
            format!(
                "network.udp.device_offload: \"tso\" is for the backend udp alone, {rest} vxlan, never changes"
            )
        );
        let sends = OffloadChange { single_sends: Some(true), ..OffloadChange::default() };
        assert!(told(Backend::HostGw, offloads(sends)).starts_with("network.udp.single_sends: \"true\" is"));
        let receives = OffloadChange { single_receives: Some(false), ..OffloadChange::default() };
        assert!(
            told(Backend::Alloc, offloads(receives)).starts_with("network.udp.single_receives: \"false\"")
        );
        let direct = NetworkChange { direct_routing: Some(true), ..NetworkChange::default() };
        assert_eq!(
            told(Backend::Udp(UdpBackend::default()), direct),
            format!(
                "network.vxlan.direct_routing: \"true\" is for the backend vxlan alone, {rest} udp, never changes"
            )
        );
    }
}
