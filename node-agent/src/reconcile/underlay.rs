//! Which interface is sent over now, and what others are told of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use loden_datapath::backend::{Links, Underlay, Ways};
use loden_datapath::{Datapath, DeviceName, Host, HostFacts};
use loden_proto::convert::MAX_PREFIXES;
use loden_proto::model::{Backend, Endpoint, Family, Network, Pool, Receiver, check_underlay};
use loden_transport::{Dialled, explain};
use tokio::time::Instant;
use tracing::{info, warn};

use super::settings::pods;
use super::{Reconcile, families};
use crate::iface::{self, Choice, Known};
use crate::lease::Local;
use crate::state::Held;
use crate::upkeep::LONGEST_WAIT;

impl<D: Datapath + Host> Reconcile<D> {
    /// Chooses the interface again; true when that changes anything, or when there was none before. Without
    /// one the last choice stays: forwarding may still work.
    pub(super) async fn look(&mut self) -> bool {
        let chosen = match self.choose().await {
            Ok(chosen) => chosen,
            Err(why) => {
                if self.no_interface.as_ref() != Some(&why) {
                    warn!("{why}");
                }
                self.no_interface = Some(why);
                self.facts_due = Some(Instant::now() + LONGEST_WAIT);
                return false;
            }
        };
        // What could not be done without it need not wait for its next try.
        let is_back = self.no_interface.take().is_some();
        let (choice, facts) = chosen;
        // Nobody answers to an address that is gone: the channel need not wait for that.
        self.place.origins.retain(|local| local.is_loopback() || facts.interface_with(local).is_some());
        if self.choice.as_ref() != Some(&choice) {
            info!(device = %choice.device, v4 = ?choice.v4, v6 = ?choice.v6, reason = choice.reason, "underlay chosen");
        }
        let below = self.underlay();
        self.send_from(choice.addresses()).await;
        let before = self.choice.replace(choice);
        self.facts = facts;
        self.locate();
        is_back || self.choice != before || self.underlay() != below
    }

    /// Remembers what is sent from, over restarts too.
    async fn send_from(&mut self, addresses: Vec<IpAddr>) {
        if self.sends_from == addresses {
            return;
        }
        self.sends_from = addresses;
        // Without a lease there is nothing to come back to.
        if self.lease.is_some() {
            let kept = self.file.append_addresses(&self.sends_from);
            self.saved(kept).await;
        }
    }

    /// Why others cannot use this host as next hop as it is advertised, where they have to: also of one family of two,
    /// for whoever has that one alone is cut off.
    pub(super) fn unroutable(&self) -> Option<String> {
        let desired = self.program.desired()?;
        let choice = self.choice.as_ref()?;
        if desired.network().backend != Backend::HostGw {
            return None;
        }
        let v4 = choice.public_v4.filter(|public| choice.v4 != Some(*public)).map(IpAddr::V4);
        let v6 = choice.public_v6.filter(|public| choice.v6 != Some(*public)).map(IpAddr::V6);
        let advertised = v4.or(v6)?;
        Some(format!(
            "the address {advertised} is advertised and is not one of {}: the backend host-gw needs the interface's own",
            choice.device
        ))
    }

    /// What is below the network as far as it is known now.
    fn underlay(&self) -> Option<Underlay> {
        let (held, network) = self.lease.as_ref()?;
        Some(of(self.choice.as_ref()?, &self.facts, &self.place.dialled, network, held))
    }

    /// Why our own lease cannot be used on this host: its addresses would be
    /// taken from the underlay.
    pub(super) fn swallowing(&self) -> Option<String> {
        let (held, _) = self.lease.as_ref()?;
        let device = self.choice.as_ref()?.device;
        let connected = connected(device, &self.facts).find_map(|prefix| {
            let own = held.subnets.iter().find(|own| prefix.contains(own) || own.contains(&prefix))?;
            Some(format!("{own} overlaps {prefix}, which is connected to this host by {device}"))
        });
        let dialled = || {
            self.place.dialled.addresses().into_iter().find_map(|address| {
                let own = held.subnets.iter().find(|own| own.contains(&address))?;
                Some(format!("{own} contains {address}, where this host reaches the control plane"))
            })
        };
        let what = connected.or_else(dialled)?;
        Some(format!("OVERLAPS_UNDERLAY: its subnet {what}; nothing is programmed"))
    }

    /// What others are told of this host, and what the control plane is told
    /// of its surroundings.
    pub(super) fn local(&self) -> Option<Local> {
        let choice = self.choice.as_ref()?;
        let dialled = self.place.dialled.addresses().into_iter().map(IpNet::from);
        let mut prefixes: Vec<_> = dialled.chain(connected(choice.device, &self.facts)).collect();
        prefixes.truncate(MAX_PREFIXES);
        let all = self.facts.interfaces.iter().flat_map(|interface| &interface.addresses);
        let addresses = all.map(|address| address.net.addr()).filter(|ip| check_underlay(*ip).is_none());
        let held = self.lease.iter().map(|(held, _)| held);
        let pods = held.flat_map(|held| pods(&self.facts, held));
        let pods_mtu = pods.filter_map(|device| Some(self.facts.interface(device)?.mtu)).min();
        let endpoint = endpoint(choice, self.receivers(), pods_mtu);
        Some(Local { endpoint, prefixes, addresses: addresses.collect() })
    }

    /// What the kernel receives on; nothing while it is still programmed for another VNI than the network's.
    fn receivers(&self) -> &[Receiver] {
        let (programmed, leased) = (self.program.desired(), self.lease.as_ref());
        let is_present = programmed
            .zip(leased)
            .is_some_and(|(desired, (_, network))| desired.network().vni == network.vni);
        if is_present { self.program.receivers() } else { &[] }
    }

    async fn choose(&mut self) -> Result<(Choice, HostFacts), String> {
        let pods = self.pods();
        let host = &mut self.program.datapath;
        let facts = host.facts().await.map_err(|error| explain(&error))?;
        let selection = &self.place.selection;
        let route = match selection.can_reach {
            Some(address) => host.route_to(address).await.map_err(|error| explain(&error))?,
            None => None,
        };
        let known = Known { route: route.as_ref(), used: &self.sends_from, pods: &pods };
        let choice = iface::choose(selection, &facts, known).map_err(|error| error.to_string())?;
        Ok((choice, facts))
    }

    /// Where pods are, as far as it is known: whoever has such an address is their bridge.
    fn pods(&self) -> Vec<IpNet> {
        let mut nets = self.ends.siblings.known_pools();
        if let Some((held, network)) = &self.lease {
            nets.extend(network.pools.iter().map(Pool::cidr).chain(held.subnets.iter()));
        }
        nets
    }
}

/// The prefixes that are connected by a device.
fn connected(device: DeviceName, facts: &HostFacts) -> impl Iterator<Item = IpNet> {
    facts.connected.iter().filter(move |(name, _)| *name == device).map(|(_, prefix)| prefix.trunc())
}

/// What peers are told: the addresses to send to, and what receives there.
///
/// Pods that run have the MTU of when they were started: with less than the tunnel's (`pods_mtu`, of what they are
/// behind) they get no longer packets.
fn endpoint(choice: &Choice, receivers: &[Receiver], pods_mtu: Option<u32>) -> Endpoint {
    let mut endpoint = Endpoint { v4: choice.public_v4, v6: choice.public_v6, receivers: Vec::new() };
    let addressed = |receiver: &&Receiver| endpoint.address(receiver.family()).is_some();
    endpoint.receivers = receivers.iter().filter(addressed).copied().collect();
    for receiver in &mut endpoint.receivers {
        let mtu = match receiver {
            Receiver::Vxlan(vtep) => &mut vtep.mtu,
            Receiver::Udp(udp) => &mut udp.mtu,
            Receiver::Routed(routed) => &mut routed.mtu,
        };
        *mtu = pods_mtu.map_or(*mtu, |pods| pods.min(*mtu));
    }
    endpoint
}

/// What is below a network. Prefixes below our own subnets are our pods'
/// bridges: no peer is refused for them, and they come and go.
/// The addresses of the control plane are off limits like what is connected.
pub(super) fn of(
    choice: &Choice,
    facts: &HostFacts,
    dialled: &Dialled,
    network: &Network,
    held: &Held,
) -> Underlay {
    let ours = |prefix: &IpNet| !held.subnets.iter().any(|own| own.contains(prefix));
    let dialled = dialled.addresses().into_iter().map(IpNet::from);
    let connected = facts.connected.iter().map(|(_, prefix)| *prefix).chain(dialled);
    Underlay {
        lower: choice.device,
        mtu: choice.mtu,
        v4: choice.v4,
        v6: choice.v6,
        prefixes: connected.filter(ours).collect(),
        links: if network.backend.is_routed() { Links::of(facts, &held.subnets) } else { Links::default() },
        ways: Ways::of(facts, &held.subnets),
        unanswered: BTreeSet::new(),
        routed: routed(choice, facts, network),
        inner: families::inner(facts, choice, network, held),
    }
}

/// The families in which peers may use this host as next hop: those whose
/// advertised address is the host's own. Where a tunnel is the other way, a
/// strict reverse path filter would drop what comes over the link while the
/// way back leads into the tunnel.
fn routed(choice: &Choice, facts: &HostFacts, network: &Network) -> Vec<Family> {
    let strict = facts.interface(choice.device).is_some_and(|nic| nic.strict);
    let v4 = choice.v4.filter(|own| choice.public_v4 == Some(*own));
    let v6 = choice.v6.filter(|own| choice.public_v6 == Some(*own));
    if !network.backend.is_routed() || (strict && network.backend != Backend::HostGw) {
        return Vec::new();
    }
    v4.map(|_| Family::V4).into_iter().chain(v6.map(|_| Family::V6)).collect()
}
