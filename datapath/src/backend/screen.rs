//! What this host refuses to program, whatever the server says.
//!
//! Each peer claims its subnets, MAC addresses and underlay addresses. A claim
//! has one holder. **Who holds it keeps it**; a peer that wants it waits, named
//! and out of the tables, until the holder changes or leaves. Among those who
//! wait the first by name is next, and in a set that arrives at once peers are
//! taken in the order of their names: the same history gives the same answer.
//! A refused peer never delays another.
//!
//! A change costs what it touches: pools and slots make overlapping subnets
//! equal subnets, so every conflict is one look into a map.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use loden_proto::model::{Mac, Network, Peer, Pool, Subnets, check_underlay};
use loden_proto::names::NodeId;

use super::{Me, Reason};
use crate::tables::pack;

/// Peers, and which of them are fit to be programmed.
#[derive(Clone, Debug)]
pub struct Screen {
    rules: Rules,
    entries: BTreeMap<NodeId, Entry>,
    holders: BTreeMap<Claim, Arc<Peer>>,
    waiting: BTreeMap<Claim, BTreeSet<NodeId>>,
}

/// What a call changed for one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The node.
    pub node: NodeId,
    /// As which peer it was accepted before the call.
    pub before: Option<Arc<Peer>>,
}

/// Of ten thousand nodes next to all are accepted: what the others need is apart, so that it takes no room in
/// each entry.
#[derive(Clone, Debug)]
struct Entry {
    peer: Arc<Peer>,
    refused: Option<Box<Refusal>>,
}

#[derive(Clone, Debug)]
struct Refusal {
    reason: Reason,
    waits_for: Option<Claim>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Claim {
    Subnet(IpNet),
    Mac(Mac),
    Underlay(IpAddr),
}

#[derive(Clone, Debug)]
struct Rules {
    node: NodeId,
    pools: Vec<Pool>,
    subnets: Subnets,
    mac: Mac,
    addresses: Vec<IpAddr>,
    prefixes: Vec<IpNet>,
}

impl Screen {
    /// No peers yet.
    #[must_use]
    pub fn new(network: &Network, me: &Me) -> Self {
        let v4 = me.underlay.v4.map(IpAddr::V4);
        let v6 = me.underlay.v6.map(IpAddr::V6);
        let rules = Rules {
            node: me.node.clone(),
            pools: network.pools.clone(),
            subnets: me.subnets,
            mac: me.mac,
            addresses: v4.into_iter().chain(v6).collect(),
            prefixes: me.underlay.prefixes.clone(),
        };
        Self { rules, entries: BTreeMap::new(), holders: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// The accepted version of a peer.
    #[must_use]
    pub fn accepted(&self, node: &NodeId) -> Option<&Arc<Peer>> {
        self.entries.get(node).filter(|entry| entry.refused.is_none()).map(|entry| &entry.peer)
    }

    /// The accepted peer that has an underlay address.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.holders.get(&Claim::Underlay(address))
    }

    /// Whether an accepted peer has its underlay address in a prefix.
    #[must_use]
    pub fn has_address_in(&self, prefix: IpNet) -> bool {
        let within = Claim::Underlay(prefix.network())..=Claim::Underlay(prefix.broadcast());
        self.holders.range(within).next().is_some()
    }

    /// Why a peer is refused.
    #[must_use]
    pub fn refused(&self, node: &NodeId) -> Option<&Reason> {
        self.entries.get(node)?.refused.as_ref().map(|refusal| &refusal.reason)
    }

    /// The names of all peers, accepted or not.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.entries.keys()
    }

    /// Takes a new or changed peer. Answers the nodes whose acceptance or
    /// content may have changed: that peer, and others that waited for what it
    /// gave up. This host itself is no peer of its own and is left out.
    pub fn upsert(&mut self, peer: Arc<Peer>) -> Vec<Verdict> {
        if peer.node == self.rules.node {
            return Vec::new();
        }
        let node = peer.node.clone();
        let (before, given_up) = self.take_out(&node);
        self.enter(peer);
        let mut verdicts = vec![Verdict { node, before }];
        self.call_waiting(given_up, &mut verdicts);
        verdicts
    }

    /// Forgets a peer; as [`Self::upsert`].
    pub fn remove(&mut self, node: &NodeId) -> Vec<Verdict> {
        if !self.entries.contains_key(node) {
            return Vec::new();
        }
        let (before, given_up) = self.take_out(node);
        let mut verdicts = vec![Verdict { node: node.clone(), before }];
        self.call_waiting(given_up, &mut verdicts);
        verdicts
    }

    /// Gives back the room that many insertions have left.
    pub fn pack(&mut self) {
        pack(&mut self.entries);
        pack(&mut self.holders);
    }

    /// Takes an entry out, with the claims that it held.
    fn take_out(&mut self, node: &NodeId) -> (Option<Arc<Peer>>, Vec<Claim>) {
        let Some(entry) = self.entries.remove(node) else { return (None, Vec::new()) };
        if let Some(refusal) = entry.refused {
            if let Some(claim) = refusal.waits_for
                && let Some(waiting) = self.waiting.get_mut(&claim)
            {
                waiting.remove(node);
                if waiting.is_empty() {
                    self.waiting.remove(&claim);
                }
            }
            return (None, Vec::new());
        }
        let held: Vec<Claim> = claims(&entry.peer).collect();
        for claim in &held {
            self.holders.remove(claim);
        }
        (Some(entry.peer), held)
    }

    fn enter(&mut self, peer: Arc<Peer>) {
        let node = peer.node.clone();
        let refused = self.refuse(&peer).map(Box::new);
        match &refused {
            Some(refusal) => {
                if let Some(claim) = refusal.waits_for {
                    self.waiting.entry(claim).or_default().insert(node.clone());
                }
            }
            None => self.holders.extend(claims(&peer).map(|claim| (claim, Arc::clone(&peer)))),
        }
        self.entries.insert(node, Entry { peer, refused });
    }

    /// Why a peer is not accepted.
    fn refuse(&self, peer: &Peer) -> Option<Refusal> {
        if let Some(reason) = self.rules.check(peer) {
            return Some(Refusal { reason, waits_for: None });
        }
        let (claim, holder) =
            claims(peer).find_map(|claim| Some((claim, self.holders.get(&claim)?.node.clone())))?;
        Some(Refusal { reason: claim.taken_by(holder), waits_for: Some(claim) })
    }

    /// Looks again at those who waited for claims that are free now. Nobody
    /// who waits holds anything, so this ends.
    fn call_waiting(&mut self, given_up: Vec<Claim>, verdicts: &mut Vec<Verdict>) {
        for claim in given_up {
            for node in self.waiting.get(&claim).cloned().unwrap_or_default() {
                if let Some(peer) = self.entries.get(&node).map(|entry| Arc::clone(&entry.peer)) {
                    self.take_out(&node);
                    self.enter(peer);
                    verdicts.push(Verdict { node, before: None });
                }
            }
        }
    }
}

impl Claim {
    const fn taken_by(self, holder: NodeId) -> Reason {
        match self {
            Self::Subnet(subnet) => Reason::SubnetTaken { subnet, holder },
            Self::Mac(mac) => Reason::MacTaken { mac, holder },
            Self::Underlay(address) => Reason::AddressTaken { address, holder },
        }
    }
}

/// What a peer claims; the MAC address of several VTEPs only once.
fn claims(peer: &Peer) -> impl Iterator<Item = Claim> {
    let subnets = peer.subnets.iter().map(Claim::Subnet);
    let macs: BTreeSet<Mac> = peer.endpoint.vteps().map(|receiver| receiver.mac).collect();
    let addresses = peer.endpoint.addresses().map(Claim::Underlay);
    subnets.chain(macs.into_iter().map(Claim::Mac)).chain(addresses)
}

impl Rules {
    /// The rule that a peer breaks by itself, without a look at the others.
    fn check(&self, peer: &Peer) -> Option<Reason> {
        let subnets = peer.subnets.iter().find_map(|subnet| self.check_subnet(subnet));
        let macs = || {
            let mut macs = peer.endpoint.vteps().map(|receiver| receiver.mac);
            macs.find(|mac| *mac == self.mac).map(Reason::OwnMac)
        };
        let addresses = || peer.endpoint.addresses().find_map(|address| self.check_address(address));
        subnets.or_else(macs).or_else(addresses)
    }

    fn check_subnet(&self, subnet: IpNet) -> Option<Reason> {
        if self.pools.iter().all(|pool| pool.index(subnet).is_none()) {
            return Some(Reason::OutsidePools(subnet));
        }
        let overlaps = |net: &IpNet| net.contains(&subnet) || subnet.contains(net);
        if self.subnets.iter().any(|own| overlaps(&own)) {
            return Some(Reason::OwnSubnet(subnet));
        }
        let prefix = self.prefixes.iter().find(|prefix| overlaps(prefix))?;
        Some(Reason::OverlapsUnderlay { subnet, prefix: *prefix })
    }

    fn check_address(&self, address: IpAddr) -> Option<Reason> {
        if let Some(rule) = check_underlay(address) {
            return Some(Reason::BadAddress { address, rule });
        }
        if self.addresses.contains(&address) {
            return Some(Reason::OwnAddress(address));
        }
        // Only hosts that themselves live on loopback have peers there.
        if address.is_loopback() && !self.addresses.iter().any(IpAddr::is_loopback) {
            return Some(Reason::BadAddress {
                address,
                rule: "is a loopback address; packets would not leave",
            });
        }
        let pool = self.pools.iter().find(|pool| pool.cidr().contains(&address))?;
        Some(Reason::AddressInPool { address, pool: pool.cidr() })
    }
}
