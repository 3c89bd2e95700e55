//! What is asked of a token that is to be made.

use std::time::Duration;

use crate::names::{self, NetworkId, NodeId};
use crate::{InvalidValue, convert, v1};

/// Most networks that a token is kept to.
pub const MAX_TOKEN_NETWORKS: usize = 64;
/// Most nodes that a token lets in.
const MAX_USES: u32 = 10_000;
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// A token that is to be made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenOrder {
    /// The only node that it lets in; none: any new one.
    pub node: Option<NodeId>,
    /// In which its nodes may have leases; none: in all.
    pub networks: Option<Vec<NetworkId>>,
    /// How many nodes it lets in.
    pub uses: u32,
    /// How long.
    pub ttl: Duration,
}

impl TryFrom<v1::CreateJoinTokenRequest> for TokenOrder {
    type Error = InvalidValue;

    fn try_from(wire: v1::CreateJoinTokenRequest) -> Result<Self, InvalidValue> {
        let v1::CreateJoinTokenRequest { node, networks, uses, ttl } = wire;
        let node = Some(node).filter(|node| !node.is_empty());
        let node =
            node.map(|node| names::parse_node(&node).map_err(|invalid| invalid.at("node"))).transpose()?;
        if networks.len() > MAX_TOKEN_NETWORKS {
            let rule = format!("must be at most {MAX_TOKEN_NETWORKS}");
            return Err(InvalidValue::new(networks.len(), rule).at("networks"));
        }
        let mut kept = networks
            .iter()
            .enumerate()
            .map(|(index, name)| {
                names::parse_network(name).map_err(|invalid| invalid.at(format!("networks[{index}]")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        kept.sort();
        kept.dedup();
        if uses > MAX_USES {
            return Err(InvalidValue::new(uses, format!("must be 1 to {MAX_USES}")).at("uses"));
        }
        if node.is_some() && uses > 1 {
            return Err(InvalidValue::new(uses, "must be 1 for one node").at("uses"));
        }
        let ttl = ttl.map_or(Ok(DEFAULT_TTL), convert::duration_from).map_err(|invalid| invalid.at("ttl"))?;
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            return Err(InvalidValue::new(format!("{ttl:?}"), "must be 1 s to 30 d").at("ttl"));
        }
        let networks = Some(kept).filter(|kept| !kept.is_empty());
        Ok(Self { node, networks, uses: uses.max(1), ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(change: impl FnOnce(&mut v1::CreateJoinTokenRequest)) -> Result<TokenOrder, String> {
        let mut wire = v1::CreateJoinTokenRequest::default();
        change(&mut wire);
        TokenOrder::try_from(wire).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_token_without_a_word_is_for_one_new_node_and_a_quarter_of_an_hour() {
        let usual = TokenOrder { node: None, networks: None, uses: 1, ttl: DEFAULT_TTL };
        assert_eq!(order(|_| {}), Ok(usual));
        let named =
            order(|wire| wire.networks = vec!["networks/b".into(), "networks/a".into(), "networks/b".into()]);
        let names = named.unwrap().networks.unwrap();
        assert_eq!(names, ["a".parse().unwrap(), "b".parse().unwrap()]);
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let told = |change: fn(&mut v1::CreateJoinTokenRequest)| order(change).unwrap_err();
        assert!(told(|wire| wire.node = "a".into()).starts_with("node: \"a\" must have the form nodes/"));
        assert_eq!(told(|wire| wire.uses = 10_001), "uses: \"10001\" must be 1 to 10000");
        let twice = told(|wire| (wire.node, wire.uses) = ("nodes/a".into(), 2));
        assert_eq!(twice, "uses: \"2\" must be 1 for one node");
        assert!(
            told(|wire| wire.networks = vec!["networks/A".into()]).starts_with("networks[0]: \"A\" must")
        );
        assert!(told(|wire| wire.networks = vec!["networks/a".into(); 65]).contains("at most 64"));
        let long = told(|wire| wire.ttl = Some(prost_types::Duration { seconds: 31 * 24 * 3600, nanos: 0 }));
        assert!(long.starts_with("ttl: ") && long.ends_with("must be 1 s to 30 d"), "{long}");
    }
}
