//! Chains of others that drop what has to pass this host.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use ipnet::IpNet;
use loden_proto::model::Family;
use loden_proto::names::NetworkId;

use super::chains::{Chain, ChainId, End, Hook, Probe, Rule, run};

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
    /// Devices that lead to the peers.
    pub links: BTreeSet<String>,
    /// UDP port of the tunnel, and the families of the underlay that it is received over.
    pub tunnel: Option<(u16, Vec<Family>)>,
}

impl Traffic {
    /// What has to pass: between pods here and pods elsewhere, and the tunnel itself.
    pub(super) fn probes(&self) -> Vec<Probe<'_>> {
        let known = |devices| Some(devices).filter(|devices: &&BTreeSet<String>| !devices.is_empty());
        let (pods, links) = (known(&self.pods), known(&self.links));
        let mut probes = Vec::new();
        for own in &self.subnets {
            for pool in self.pools.iter().filter(|pool| Family::of_net(**pool) == Family::of_net(*own)) {
                let out = Probe {
                    hook: Hook::Forward,
                    family: Family::of_net(*own),
                    incoming: pods,
                    outgoing: links,
                    source: Some(*own),
                    destination: Some(*pool),
                    udp: None,
                };
                let back = Probe {
                    incoming: links,
                    outgoing: pods,
                    source: Some(*pool),
                    destination: Some(*own),
                    ..out.clone()
                };
                probes.extend([out, back]);
            }
        }
        let tunnel = self.tunnel.iter().flat_map(|(port, families)| families.iter().map(|of| (*port, *of)));
        probes.extend(tunnel.map(|(port, family)| Probe {
            hook: Hook::Input,
            family,
            incoming: None,
            outgoing: None,
            source: None,
            destination: None,
            udp: Some(port),
        }));
        probes
    }
}

/// A chain that drops what has to pass.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Obstacle {
    /// Whose packets.
    pub network: NetworkId,
    /// The base chain.
    pub chain: ChainId,
    /// Which packets, and what they need.
    packets: Packets,
    /// In which chain a rule drops them; `None`: the policy does.
    rule: Option<String>,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Packets {
    Forwarded { pools: Vec<IpNet> },
    Tunnel { port: u16 },
}

impl Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.packets {
            Packets::Forwarded { .. } => "what pods send each other",
            Packets::Tunnel { .. } => "what other nodes send through the tunnel",
        };
        write!(f, "{} drops {what} (", self.chain)?;
        match &self.rule {
            None => f.write_str("its policy is drop)")?,
            Some(chain) if *chain == self.chain.name => f.write_str("by a rule)")?,
            Some(chain) => write!(f, "by a rule in {chain})")?,
        }
        match &self.packets {
            Packets::Forwarded { pools } => {
                let pools: Vec<_> = pools.iter().map(ToString::to_string).collect();
                write!(f, ": accept {} there", pools.join(", "))?;
            }
            Packets::Tunnel { port } => write!(f, ": accept UDP port {port} there")?,
        }
        Ok(())
    }
}

/// The chains that drop something of the traffic: one obstacle for each network, chain and kind of
/// packets.
#[must_use]
pub fn obstacles(chains: &[Chain], traffic: &[Traffic]) -> Vec<Obstacle> {
    let mut obstacles: Vec<Obstacle> = Vec::new();
    for base in chains.iter().filter(|chain| chain.base.is_some()) {
        for of in traffic {
            for probe in of.probes() {
                let rule = match run(chains, base, &probe, |_: &Rule| false) {
                    End::Passes => continue,
                    End::Policy => None,
                    End::Rule(chain) => Some(chain),
                };
                let packets = match probe.udp {
                    Some(port) => Packets::Tunnel { port },
                    None => Packets::Forwarded {
                        pools: of
                            .pools
                            .iter()
                            .filter(|pool| base.id.takes(Family::of_net(**pool)))
                            .copied()
                            .collect(),
                    },
                };
                let found = Obstacle { network: of.network.clone(), chain: base.id.clone(), packets, rule };
                let known = |other: &Obstacle| {
                    (&other.network, &other.chain, &other.packets)
                        == (&found.network, &found.chain, &found.packets)
                };
                if !obstacles.iter().any(known) {
                    obstacles.push(found);
                }
            }
        }
    }
    obstacles
}

/// Whether a base chain drops something of the traffic when rules are left out.
pub(super) fn is_obstacle(
    chains: &[Chain],
    base: &Chain,
    traffic: &[Traffic],
    skip: impl Fn(&Rule) -> bool + Copy,
) -> bool {
    let mut probes = traffic.iter().flat_map(Traffic::probes);
    probes.any(|probe| run(chains, base, &probe, skip) != End::Passes)
}

#[cfg(test)]
mod tests;
