//! Rules of ours in chains of others that would drop what has to pass: only for those who ask for it.
//!
//! A rule is recognised by its comment, which says all that is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::chains::{Chain, ChainId, OURS, Rule};
use super::obstacle::{Obstacle, Traffic, in_chain};

/// A change of ours to a chain of somebody else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Edit {
    /// Puts a rule at its head.
    Insert(ChainId, Accept),
    /// Takes a rule of ours away, by its handle.
    Delete(ChainId, u64),
}

/// A rule that accepts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Accept {
    /// What comes from a pool.
    From(IpNet),
    /// What goes to a pool.
    To(IpNet),
    /// What is sent to a UDP port.
    Udp(u16),
}

impl Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(net) => write!(f, "from {net}"),
            Self::To(net) => write!(f, "to {net}"),
            Self::Udp(port) => write!(f, "udp port {port}"),
        }
    }
}

impl Accept {
    fn comment(self) -> String {
        format!("{OURS}{self}")
    }

    /// One match per rule and no set: iptables, which may own the chain, understands no more.
    fn statement(self) -> Value {
        let address = |field: &str, net: IpNet| {
            let protocol = if net.addr().is_ipv4() { "ip" } else { "ip6" };
            json!({"match": {
                "op": "==",
                "left": {"payload": {"protocol": protocol, "field": field}},
                "right": {"prefix": {"addr": net.network().to_string(), "len": net.prefix_len()}},
            }})
        };
        match self {
            Self::From(net) => address("saddr", net),
            Self::To(net) => address("daddr", net),
            Self::Udp(port) => json!({"match": {
                "op": "==",
                "left": {"payload": {"protocol": "udp", "field": "dport"}},
                "right": port,
            }}),
        }
    }
}

impl Edit {
    /// As a command for `nft -j`.
    pub(super) fn command(&self) -> Value {
        let rule = |chain: &ChainId, more: Value| {
            let mut rule = json!({"family": chain.family, "table": chain.table, "chain": chain.name});
            if let (Some(rule), Value::Object(more)) = (rule.as_object_mut(), more) {
                rule.extend(more);
            }
            rule
        };
        match self {
            Self::Insert(chain, accept) => {
                let expr = json!([accept.statement(), {"accept": null}]);
                json!({"insert": {"rule": rule(chain, json!({"expr": expr, "comment": accept.comment()}))}})
            }
            Self::Delete(chain, handle) => {
                json!({"delete": {"rule": rule(chain, json!({"handle": handle}))}})
            }
        }
    }
}

/// What brings the rules of ours in chains of others to where they should be: in every chain that would
/// drop something without them, if `wanted`, and nowhere else. Rules of ours that do not help any more,
/// since somebody put others before them, are put first again.
#[must_use]
pub fn insertions(chains: &[Chain], traffic: &[Traffic], wanted: bool) -> BTreeMap<ChainId, Vec<Edit>> {
    let mut edits = BTreeMap::new();
    for chain in chains {
        let present: Vec<&Rule> = chain.rules.iter().filter(|rule| rule.is_ours()).collect();
        let dropped = if wanted { in_chain(chains, chain, traffic, Rule::is_ours) } else { Vec::new() };
        let needed: BTreeSet<Accept> = dropped.iter().flat_map(Obstacle::accepts).collect();
        let comments: BTreeSet<String> = needed.iter().map(|accept| accept.comment()).collect();
        let there = |comment: &String| present.iter().any(|rule| rule.comment.as_ref() == Some(comment));
        let stale = comments.iter().all(there)
            && !needed.is_empty()
            && !in_chain(chains, chain, traffic, |_| false).is_empty();
        let goes = |rule: &&&Rule| stale || rule.comment.as_ref().is_none_or(|of| !comments.contains(of));
        let deleted = present.iter().filter(goes).map(|rule| Edit::Delete(chain.id.clone(), rule.handle));
        let missing = needed.iter().filter(|accept| stale || !there(&accept.comment()));
        let inserted = missing.map(|accept| Edit::Insert(chain.id.clone(), *accept));
        let all: Vec<Edit> = deleted.chain(inserted).collect();
        if !all.is_empty() {
            edits.insert(chain.id.clone(), all);
        }
    }
    edits
}
