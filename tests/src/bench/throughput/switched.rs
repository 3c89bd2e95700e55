//! What is switched under a flow, on both nodes: the packet filter, the tracking of connections, the route.
//!
//! ```text
//!  ours       the agent's table                     tracked     the agent's route
//!  by hand    its rules, on no hook, so on no way   tracked     a route, or a VXLAN device, by hand
//! ```
//!
//! Nobody puts back what is switched: the agents have been killed before. What they programmed stays.

use std::fmt::Write;

use super::super::by_hand::{TRACKING, Vtep};
use super::paths::Ours;
use crate::hosts::Host;

/// What every rule of the agent's table has.
const COMMENT: &str = " comment \"";

/// A state of both nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) rules: Rules,
    /// Whether connections are tracked even where no rule asks for it.
    pub(super) tracked: bool,
    /// Whether packets go by the way that was made by hand.
    pub(super) by_hand: bool,
}

/// How much of the agent's table packets meet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rules {
    /// All of it.
    All,
    /// All but the rule of this place.
    Without(usize),
    /// Its chain, empty.
    Chain,
    /// Nothing.
    Nothing,
}

impl State {
    /// As the agent has made it.
    pub(super) const OURS: Self = Self { rules: Rules::All, tracked: true, by_hand: false };
    /// The same pods by hand with connections tracked.
    pub(super) const BY_HAND: Self = Self { rules: Rules::Nothing, tracked: true, by_hand: true };
    /// Our way without our rules.
    pub(super) const BARE: Self = Self { rules: Rules::Nothing, tracked: true, by_hand: false };
    /// The same with nothing tracked.
    pub(super) const UNTRACKED: Self = Self { tracked: false, ..Self::BARE };
    /// Our way with a chain of ours that is empty.
    pub(super) const CHAIN: Self = Self { rules: Rules::Chain, ..Self::OURS };

    /// Our way without one rule.
    pub(super) const fn without(rule: usize) -> Self {
        Self { rules: Rules::Without(rule), ..Self::OURS }
    }
}

/// Two nodes whose states are switched.
pub(super) struct Switched {
    sides: [Side; 2],
}

/// One of them.
struct Side {
    host: Host,
    /// The agent's table, as nft lists it.
    table: String,
    /// To the other one's pods, by hand, as iproute2 is told of it.
    route: String,
}

impl Switched {
    /// Kills the agents and makes the way by hand, which nobody uses yet: a route by next hop, or a VXLAN device of
    /// its own.
    pub(super) async fn prepare(ours: &mut Ours, vtep: bool) -> anyhow::Result<Self> {
        for node in &mut ours.nodes {
            node.kill9().await?;
        }
        let [route_one, route_two] = match vtep {
            true => [over_vtep(ours, 0).await?, over_vtep(ours, 1).await?],
            false => [next_hop(ours, 0)?, next_hop(ours, 1)?],
        };
        let [table_one, table_two] = ours.rules.clone();
        let [one, two] = &ours.nodes;
        Ok(Self {
            sides: [
                Side { host: one.host.clone(), table: table_one, route: route_one },
                Side { host: two.host.clone(), table: table_two, route: route_two },
            ],
        })
    }

    /// The rules of the agent's tables, by what their comments say.
    pub(super) fn rules(&self) -> Vec<String> {
        rules(&self.sides[0].table).map(name).collect()
    }

    /// Makes a state on both nodes.
    pub(super) async fn make(&self, state: State) -> anyhow::Result<()> {
        let [one, two] = &self.sides;
        tokio::try_join!(one.make(state), two.make(state)).map(drop)
    }
}

impl Side {
    /// With as many requests whatever the state is.
    async fn make(&self, state: State) -> anyhow::Result<()> {
        let Self { host, table, route } = self;
        // Without a metric it comes before the agent's.
        host.iproute(&format!("ip route replace {route}")).await?;
        let verb = if state.by_hand { "replace" } else { "del" };
        host.iproute(&format!("ip route {verb} {route}")).await?;
        let (host, ruleset) = (host.clone(), ruleset(table, state));
        tokio::task::spawn_blocking(move || host.nft(&ruleset)).await??;
        Ok(())
    }
}

fn next_hop(ours: &Ours, from: usize) -> anyhow::Result<String> {
    let to = 1 - from;
    Ok(format!("{} via {}", ours.nodes[to].subnet_env()?.subnet.trunc(), ours.underlay[to]))
}

async fn over_vtep(ours: &Ours, from: usize) -> anyhow::Result<String> {
    let to = 1 - from;
    let subnet = ours.nodes[to].subnet_env()?.subnet.trunc();
    // The agent's device has another number, on flannel's port.
    let vtep = Vtep { id: 4000, port: 8473, number: from as u8, local: ours.underlay[from] };
    let host = &ours.nodes[from].host;
    vtep.create(host).await?;
    vtep.add_peer(host, to as u8, ours.underlay[to], subnet).await?;
    Ok(vtep.route(subnet))
}

/// What nft is told to make a state: one transaction that replaces our table and the one that tracks.
fn ruleset(table: &str, state: State) -> String {
    let mut text = String::new();
    for name in ["loden", "tracking"] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "table inet {name} {{ }}\ndelete table inet {name}");
    }
    if state.tracked {
        text += TRACKING;
        text.push('\n');
    }
    let mut rule = 0..;
    for line in table.lines() {
        let place = if line.contains(COMMENT) { rule.next() } else { None };
        let kept = match (state.rules, place) {
            (Rules::All | Rules::Without(_) | Rules::Chain, None) | (Rules::All, _) => true,
            (Rules::Without(left_out), Some(place)) => place != left_out,
            (Rules::Chain, Some(_)) => false,
            (Rules::Nothing, _) => !line.contains(" hook "),
        };
        if kept {
            // A rule that masquerades has connections tracked, wherever it is.
            let idle = state.rules == Rules::Nothing;
            text += &if idle { line.replace(" masquerade ", " return ") } else { line.to_owned() };
            text.push('\n');
        }
    }
    text
}

/// The rules of a listing.
fn rules(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter(|line| line.contains(COMMENT))
}

/// What a rule's comment says, as part of a metric's name; without the network's name.
fn name(rule: &str) -> String {
    let comment = rule.split(COMMENT).nth(1).unwrap_or_default();
    let words = comment.split_once(": ").map_or(comment, |(_network, words)| words);
    words.trim_end_matches('"').replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
table inet loden {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return comment \"kube-proxy masquerades it\"
		ip saddr 10.0.0.0/8 ip daddr != 224.0.0.0/4 masquerade comment \"network default: from its pods\"
	}
}
";

    #[test]
    fn our_state_is_the_agents_table_to_the_letter() {
        let text = ruleset(TABLE, State::OURS);
        assert!(text.ends_with(TABLE) && text.contains(TRACKING), "{text}");
        assert!(text.starts_with("table inet loden { }\ndelete table inet loden\n"), "{text}");
    }

    #[test]
    fn without_rules_nothing_is_on_a_hook_and_nothing_asks_for_tracking() {
        let text = ruleset(TABLE, State::UNTRACKED);
        assert!(
            !text.contains("hook") && !text.contains(" masquerade ") && !text.contains("ct state"),
            "{text}"
        );
        assert_eq!(rules(&text).count(), 2, "the transaction is as large");
        assert!(ruleset(TABLE, State::BY_HAND).contains("ct state"));
    }

    #[test]
    fn one_rule_is_left_out_or_all_of_them() {
        let text = ruleset(TABLE, State::without(1));
        assert!(text.contains("kube-proxy") && !text.contains("from its pods"), "{text}");
        let text = ruleset(TABLE, State::CHAIN);
        assert!(text.contains("hook") && rules(&text).count() == 0, "{text}");
    }

    #[test]
    fn a_rule_is_named_by_its_comment() {
        let names: Vec<String> = rules(TABLE).map(name).collect();
        assert_eq!(names, ["kube_proxy_masquerades_it", "from_its_pods"]);
    }
}
