//! Chains of others that drop what has to pass this host.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use ipnet::IpNet;
use loden_proto::model::Family;
use loden_proto::names::NetworkId;

use super::chains::{Chain, ChainId, End, Hook, Probe, Rule, run};
use super::insert::Accept;

/// The packets of a network that have to pass this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Traffic {
    /// The network.
    pub network: NetworkId,
    /// Its pools.
    pub pools: Vec<IpNet>,
    /// This node's part of them.
    pub subnets: Vec<IpNet>,
    /// Devices behind which pods are; none when there are no pods yet.
    pub pods: BTreeSet<String>,
    /// Devices that lead to peers, each to some.
    pub links: BTreeSet<String>,
    /// The device of the host that is sent over; none when it is not known.
    pub lower: BTreeSet<String>,
    /// UDP port of the tunnel, and the families of the underlay that it is received over.
    pub tunnel: Option<(u16, Vec<Family>)>,
}

/// Where packets pass that are sent on,
const SENT_ON: &[Hook] = &[Hook::Prerouting, Hook::Forward, Hook::Postrouting];
/// that are for this host,
const RECEIVED: &[Hook] = &[Hook::Prerouting, Hook::Input];
/// and that are its own.
const SENT: &[Hook] = &[Hook::Output, Hook::Postrouting];

impl Traffic {
    /// What has to pass: between pods here and pods elsewhere, from this host to pods, and the tunnel itself.
    fn probes(&self) -> Vec<(Packets, Probe<'_>)> {
        let (pods, lower) = (known(&self.pods), known(&self.lower));
        // What drops packets on one link cuts off the peers behind it, whatever is free elsewhere.
        let mut links: Vec<_> = self.links.iter().map(|link| Some(vec![link.as_str()])).collect();
        if links.is_empty() {
            links.push(None);
        }
        let mut probes = Vec::new();
        for own in &self.subnets {
            let of_family = |pool: &&IpNet| Family::of_net(**pool) == Family::of_net(*own);
            for pool in self.pools.iter().filter(of_family) {
                let between = Probe {
                    hooks: SENT_ON,
                    family: Family::of_net(*own),
                    incoming: pods.clone(),
                    outgoing: None,
                    source: Some(*own),
                    destination: Some(*pool),
                    udp: None,
                };
                for link in &links {
                    let out = Probe { outgoing: link.clone(), ..between.clone() };
                    let back = Probe {
                        incoming: link.clone(),
                        outgoing: pods.clone(),
                        source: Some(*pool),
                        destination: Some(*own),
                        ..between.clone()
                    };
                    let sent = Probe { hooks: SENT, incoming: None, source: None, ..out.clone() };
                    probes.extend([(Packets::Pods, out), (Packets::Pods, back), (Packets::Host, sent)]);
                }
                let here = Probe {
                    hooks: SENT,
                    incoming: None,
                    outgoing: pods.clone(),
                    source: None,
                    destination: Some(*own),
                    ..between
                };
                probes.push((Packets::Host, here));
            }
        }
        let tunnel = self.tunnel.iter().flat_map(|(port, families)| families.iter().map(|of| (*port, *of)));
        for (port, family) in tunnel {
            let received = Probe {
                hooks: RECEIVED,
                family,
                incoming: lower.clone(),
                outgoing: None,
                source: None,
                destination: None,
                udp: Some(port),
            };
            let sent = Probe { hooks: SENT, incoming: None, outgoing: lower.clone(), ..received.clone() };
            probes.extend([(Packets::Received { port }, received), (Packets::Sent { port }, sent)]);
        }
        probes
    }
}

/// None while there are none.
fn known(devices: &BTreeSet<String>) -> Option<Vec<&str>> {
    (!devices.is_empty()).then(|| devices.iter().map(String::as_str).collect())
}

/// A chain that drops what has to pass.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Obstacle {
    /// Whose packets.
    pub network: NetworkId,
    /// The base chain.
    pub chain: ChainId,
    /// Where it is passed.
    hook: Hook,
    /// Which packets.
    packets: Packets,
    /// What of the network's pools may enter the chain.
    pools: Vec<IpNet>,
    /// In which chain a rule drops them; `None`: the policy does.
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Packets {
    /// Between pods.
    Pods,
    /// From the host to pods.
    Host,
    /// The tunnel's, that come.
    Received { port: u16 },
    /// The tunnel's, that go.
    Sent { port: u16 },
}

impl Obstacle {
    /// What would have to be accepted.
    pub(super) fn accepts(&self) -> Vec<Accept> {
        let pools = self.pools.iter();
        match self.packets {
            Packets::Pods => pools.flat_map(|pool| [Accept::From(*pool), Accept::To(*pool)]).collect(),
            Packets::Host => pools.map(|pool| Accept::To(*pool)).collect(),
            Packets::Received { port } | Packets::Sent { port } => vec![Accept::Udp(port)],
        }
    }
}

impl Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.hook {
            Hook::Prerouting => " before it is routed",
            Hook::Postrouting => " after it was routed",
            Hook::Input | Hook::Forward | Hook::Output => "",
        };
        let what = match self.packets {
            Packets::Pods => "what pods send each other",
            Packets::Host => "what this host sends to pods",
            Packets::Received { .. } => "what other nodes send through the tunnel",
            Packets::Sent { .. } => "what this host sends through the tunnel",
        };
        write!(f, "{} drops {what}{place} (", self.chain)?;
        match &self.rule {
            None => f.write_str("its policy is drop)")?,
            Some(chain) if *chain == self.chain.name => f.write_str("by a rule)")?,
            Some(chain) => write!(f, "by a rule in {chain})")?,
        }
        match self.packets {
            Packets::Pods | Packets::Host => {
                let pools: Vec<_> = self.pools.iter().map(ToString::to_string).collect();
                write!(f, ": accept {} there", pools.join(", "))
            }
            Packets::Received { port } | Packets::Sent { port } => {
                write!(f, ": accept UDP port {port} there")
            }
        }
    }
}

/// The chains that drop something of the traffic: one obstacle for each network, chain and kind of
/// packets.
#[must_use]
pub fn obstacles(chains: &[Chain], traffic: &[Traffic]) -> Vec<Obstacle> {
    chains.iter().flat_map(|chain| in_chain(chains, chain, traffic, |_| false)).collect()
}

/// What a chain drops of the traffic when rules are left out.
pub(super) fn in_chain(
    chains: &[Chain],
    chain: &Chain,
    traffic: &[Traffic],
    skip: impl Fn(&Rule) -> bool + Copy,
) -> Vec<Obstacle> {
    let mut obstacles: Vec<Obstacle> = Vec::new();
    let Some(base) = &chain.base else { return obstacles };
    for of in traffic {
        for (packets, probe) in of.probes() {
            let rule = match run(chains, chain, &probe, skip) {
                End::Passes => continue,
                End::Policy => None,
                End::Rule(chain) => Some(chain),
            };
            let known = |other: &Obstacle| other.network == of.network && other.packets == packets;
            if obstacles.iter().any(known) {
                continue;
            }
            let enter = of.pools.iter().filter(|pool| chain.id.takes(Family::of_net(**pool)));
            obstacles.push(Obstacle {
                network: of.network.clone(),
                chain: chain.id.clone(),
                hook: base.hook,
                packets,
                pools: enter.copied().collect(),
                rule,
            });
        }
    }
    obstacles
}

#[cfg(test)]
mod tests;
