//! Our own table as text, from what the networks of this host ask for.
//!
//! The first rule that fits a connection's first packet decides:
//!
//! ```text
//!  marked by kube-proxy ─────────────▶ stays: kube-proxy masquerades it
//!  to a pod of this node ────────────▶ stays: the answer passes this node
//!  from a pod to a pod ──────────────▶ stays
//!  from a pod, not to an exception ──▶ this node's address
//!  from outside to a pod elsewhere ──▶ this node's address: the answer has to come back here
//! ```
//!
//! Nothing is counted, so that a listing changes only when somebody changes the table.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use loden_proto::model::{Family, Masquerade};
use loden_proto::names::NetworkId;
use serde::{Deserialize, Serialize};

/// The name of our table, of nft's family `inet`.
pub const TABLE: &str = "loden";
/// Before the network's name, in the comment of a rule.
const NETWORK: &str = "network ";
/// Before the comment of a rule, which each of ours has.
const COMMENT: &str = "comment \"";
/// kube-proxy marks with this bit what it masquerades itself.
const KUBE_PROXY: &str = "0x00004000";

/// A network that this host is part of.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Member {
    /// The network.
    pub network: NetworkId,
    /// Its pools.
    pub pools: Vec<IpNet>,
    /// This node's part of them.
    pub subnets: Vec<IpNet>,
    /// How packets leave it; `None`: with the pods' addresses.
    pub masquerade: Option<Masquerade>,
}

/// The table; `None` when no network asks for anything.
#[must_use]
pub fn table(members: &[Member]) -> Option<String> {
    members.iter().find(|member| member.masquerade.is_some())?;
    let mut text = format!(
        "table inet {TABLE} {{\n\tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tmeta mark & {KUBE_PROXY} == {KUBE_PROXY} return comment \"kube-proxy masquerades it\"\n"
    );
    for family in [Family::V4, Family::V6] {
        rules(family, members, &mut text);
    }
    text.push_str("\t}\n}\n");
    Some(text)
}

fn rules(family: Family, members: &[Member], text: &mut String) {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let pools = merged(family, members.iter().flat_map(|member| &member.pools));
    if pools.is_empty() {
        return;
    }
    let all = set(&pools);
    let mut rule = |rule: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\t\t{rule}");
    };
    let own = merged(family, members.iter().flat_map(|member| &member.subnets));
    if !own.is_empty() {
        rule(format!("{ip} daddr {} return comment \"to pods of this node\"", set(&own)));
    }
    rule(format!("{ip} saddr {all} {ip} daddr {all} return comment \"between pods\""));
    for member in members {
        let Some(masquerade) = &member.masquerade else { continue };
        let pools = merged(family, &member.pools);
        if pools.is_empty() {
            continue;
        }
        let (pools, network) = (set(&pools), &member.network);
        let verdict = if masquerade.random_fully { "masquerade fully-random" } else { "masquerade" };
        let multicast = match family {
            Family::V4 => IpNet::V4(Ipv4Net::new_assert([224, 0, 0, 0].into(), 4)),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8)),
        };
        let spared = merged(family, masquerade.except.iter().chain([&multicast]));
        if spared.iter().all(|net| net.prefix_len() > 0) {
            let spared = set(&spared);
            rule(format!(
                "{ip} saddr {pools} {ip} daddr != {spared} {verdict} comment \"{NETWORK}{network}: from its pods\""
            ));
        }
        rule(format!(
            "{ip} saddr != {all} {ip} daddr {pools} {verdict} comment \"{NETWORK}{network}: to its pods elsewhere\""
        ));
    }
}

/// The prefixes of a family; none of them overlaps another one, which nft would refuse.
fn merged<'a>(family: Family, nets: impl IntoIterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let nets: Vec<IpNet> = nets.into_iter().filter(|net| Family::of_net(**net) == family).copied().collect();
    IpNet::aggregate(&nets)
}

fn set(nets: &[IpNet]) -> String {
    let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", nets.join(", "))
}

/// Whether a listing has as many rules as a table, each of which has a comment, and no other ones.
#[must_use]
pub fn is_whole(listing: Option<&str>, table: Option<&str>) -> bool {
    let rules = |text: &str| text.matches(COMMENT).count();
    let has_others = listing.is_some_and(|listing| listing.lines().any(is_foreign));
    listing.map(rules) == table.map(rules) && !has_others
}

/// Whether a line of a listing is somebody else's rule: it is neither one of ours nor what holds them.
fn is_foreign(line: &str) -> bool {
    let line = line.trim();
    let holds = line.is_empty() || line.ends_with('{') || line == "}" || line.starts_with("type ");
    !holds && !line.contains(COMMENT)
}

/// The networks that a listing of the table has rules of.
#[must_use]
pub fn networks(listing: &str) -> BTreeSet<NetworkId> {
    let comments = listing.split(COMMENT).skip(1);
    comments.filter_map(|rest| rest.strip_prefix(NETWORK)?.split_once(':')?.0.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn member(network: &str, pools: &[&str], subnets: &[&str], masquerade: Option<Masquerade>) -> Member {
        let network = network.parse().unwrap();
        Member { network, pools: nets(pools), subnets: nets(subnets), masquerade }
    }

    fn sparing(except: &[&str], random_fully: bool) -> Option<Masquerade> {
        Some(Masquerade::new(nets(except), random_fully).unwrap())
    }

    #[test]
    fn the_rules_of_both_families_stand_in_this_order() {
        let pools = ["10.244.0.0/16", "fd00:244::/48"];
        let subnets = ["10.244.7.0/24", "fd00:244:0:7::/64"];
        let text = table(&[member("default", &pools, &subnets, sparing(&["192.168.0.0/16"], true))]).unwrap();
        let expected = "\
table inet loden {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return comment \"kube-proxy masquerades it\"
		ip daddr { 10.244.7.0/24 } return comment \"to pods of this node\"
		ip saddr { 10.244.0.0/16 } ip daddr { 10.244.0.0/16 } return comment \"between pods\"
		ip saddr { 10.244.0.0/16 } ip daddr != { 192.168.0.0/16, 224.0.0.0/4 } masquerade fully-random comment \"network default: from its pods\"
		ip saddr != { 10.244.0.0/16 } ip daddr { 10.244.0.0/16 } masquerade fully-random comment \"network default: to its pods elsewhere\"
		ip6 daddr { fd00:244:0:7::/64 } return comment \"to pods of this node\"
		ip6 saddr { fd00:244::/48 } ip6 daddr { fd00:244::/48 } return comment \"between pods\"
		ip6 saddr { fd00:244::/48 } ip6 daddr != { ff00::/8 } masquerade fully-random comment \"network default: from its pods\"
		ip6 saddr != { fd00:244::/48 } ip6 daddr { fd00:244::/48 } masquerade fully-random comment \"network default: to its pods elsewhere\"
	}
}
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_network_that_does_not_masquerade_is_spared_by_those_that_do() {
        let quiet = member("blue", &["10.8.0.0/16"], &["10.8.1.0/24"], None);
        assert_eq!(table(std::slice::from_ref(&quiet)), None);
        let loud = member("red", &["10.9.0.0/16"], &["10.9.1.0/24"], sparing(&[], false));
        let text = table(&[quiet, loud]).unwrap();
        let rules: Vec<&str> =
            text.lines().filter(|line| line.contains(" masquerade ")).map(str::trim).collect();
        assert_eq!(
            rules,
            [
                "ip saddr { 10.9.0.0/16 } ip daddr != { 224.0.0.0/4 } masquerade comment \"network red: from its pods\"",
                "ip saddr != { 10.8.0.0/15 } ip daddr { 10.9.0.0/16 } masquerade comment \"network red: to its pods elsewhere\"",
            ]
        );
        assert!(text.contains("ip daddr { 10.8.1.0/24, 10.9.1.0/24 } return"), "{text}");
        assert!(text.contains("ip saddr { 10.8.0.0/15 } ip daddr { 10.8.0.0/15 } return"), "{text}");
        assert!(!text.contains("ip6"), "{text}");
    }

    #[test]
    fn exceptions_may_overlap_and_one_for_everything_leaves_no_rule() {
        let except = sparing(&["10.0.0.0/8", "10.1.0.0/16", "::/0"], false);
        let text = table(&[member("default", &["10.244.0.0/16", "fd00::/48"], &[], except)]).unwrap();
        assert!(text.contains("ip daddr != { 10.0.0.0/8, 224.0.0.0/4 } masquerade"), "{text}");
        assert!(!text.contains("ip6 daddr !="), "{text}");
        assert!(text.contains("ip6 saddr != { fd00::/48 } ip6 daddr { fd00::/48 } masquerade"), "{text}");
    }

    #[test]
    fn a_listing_tells_whose_rules_it_has() {
        let members = ["blue", "red"].map(|name| member(name, &["10.8.0.0/16"], &[], sparing(&[], false)));
        let names: Vec<String> =
            networks(&table(&members).unwrap()).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["blue", "red"]);
        let (one, two) = (table(&members[..1]), table(&members));
        assert!(is_whole(two.as_deref(), two.as_deref()) && is_whole(None, None));
        assert!(!is_whole(one.as_deref(), two.as_deref()) && !is_whole(None, one.as_deref()));
        let slipped_in = two.clone().unwrap().replacen("accept;\n", "accept;\n\t\taccept\n", 1);
        assert!(!is_whole(Some(&slipped_in), two.as_deref()), "between putting it there and looking");
        assert!(networks("table inet loden { }").is_empty());
    }
}
